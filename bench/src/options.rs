//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::broker::Work as BrokerWork;
use crate::callee::Conduct;
use crate::events::Part;
use crate::peers::Kind;
use crate::resilience::Scenario;
use crate::work::{Logs, Work};

/// Rounds from which on medians are taken seriously, and results are written without being asked for.
pub(crate) const ROUNDS: usize = 7;

/// A whole run of `events`.
const EVENTS: u64 = 100_000;
const KEYS: u32 = 500;
const OUTBOX_KILLS: u64 = 100;
const AHEAD: u64 = 300_000;
const REPLAYED: u64 = 1_000_000;

/// A whole run of `crash`.
const KILLS: u64 = 200;
const CUTS: u64 = 100;
const DAMAGES: u64 = 1_000;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Side-by-side measurements against peers")]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// CPU and memory of the proxy beside nginx, HAProxy, Envoy and Caddy
    Proxy(Proxy),
    /// Minutes of load at Atoll while its instances are killed: nothing may fail or grow
    Soak(Soak),
    /// What becomes of requests when services are slow, down or asked for more than they can do
    Resilience(Resilience),
    /// CPU, rates and latencies of the broker beside nats-server
    Broker(Broker),
    /// Kills, power cuts and damages of the broker's files: nothing that it acknowledged may be lost
    Crash(Crash),
    /// Events between services under kills: none lost, in order, as often and as fast as is promised
    Events(Events),
    /// A service that publishes what it is told to; listens on $PORT
    #[command(hide = true)]
    EventPublisher(EventPublisher),
    /// A service that is delivered events; listens on $PORT
    #[command(hide = true)]
    EventSubscriber(EventSubscriber),
    /// A service that changes its database and tells of it through an outbox
    #[command(hide = true)]
    EventLedger(EventLedger),
    /// A service in trouble; listens on $PORT, or does not
    #[command(hide = true)]
    Callee(Callee),
    /// The service behind all proxies; listens on $PORT
    #[command(hide = true)]
    Upstream,
    /// Requests at a fixed rate; prints latencies as JSON
    #[command(hide = true)]
    Rate(Rate),
}

/// What whoever starts a measurement has prepared for it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Given {
    /// The program to measure
    #[arg(long, hide = true)]
    pub(crate) atoll: PathBuf,
    /// A Python environment with the peers that Debian lacks
    #[arg(long, hide = true)]
    pub(crate) tools: PathBuf,
    /// Where results are kept
    #[arg(long, hide = true)]
    pub(crate) results: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Proxy {
    #[command(flatten)]
    pub(crate) given: Given,
    /// Times that each peer is measured, in turn with the others
    #[arg(long, default_value_t = ROUNDS, value_parser = at_least_one)]
    pub(crate) rounds: usize,
    /// Seconds that each of them takes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Only these
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Kind>,
    /// What is measured
    #[arg(long, value_delimiter = ',')]
    pub(crate) work: Vec<Work>,
    /// With access logs off, on, or first off and then on
    #[arg(long, value_delimiter = ',')]
    pub(crate) logs: Vec<Logs>,
    /// Writes proxy.json and proxy.svg there, also when the run is a short or a partial one
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

impl Proxy {
    pub(crate) fn has_peer(&self, kind: Kind) -> bool {
        self.only.is_empty() || self.only.contains(&kind)
    }

    pub(crate) fn has_work(&self, work: Work) -> bool {
        self.work.is_empty() || self.work.contains(&work)
    }

    /// Off before on, however they were written.
    pub(crate) fn logs(&self) -> Vec<Logs> {
        Logs::value_variants().iter().copied().filter(|logs| self.logs.is_empty() || self.logs.contains(logs)).collect()
    }

    /// The folder for the results, if this run is to be remembered.
    pub(crate) fn destination(&self) -> Option<PathBuf> {
        let is_whole = self.only.is_empty() && self.work.is_empty() && self.logs.is_empty() && self.rounds >= ROUNDS;
        self.out.clone().or_else(|| is_whole.then(|| self.given.results.clone()))
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Rate {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// Requests a second
    #[arg(long)]
    pub(crate) rate: u32,
    #[arg(long)]
    pub(crate) seconds: u64,
    #[arg(long)]
    pub(crate) connections: usize,
    /// PUT this much instead of a GET
    #[arg(long, default_value_t = 0)]
    pub(crate) put_bytes: usize,
    /// An answer that comes later counts as failed, and what is due for longer is not sent; 0 is for ever
    #[arg(long, default_value_t = 0)]
    pub(crate) patience_ms: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Soak {
    #[command(flatten)]
    pub(crate) given: Given,
    /// How long it is loaded
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Requests a second, half of them GETs, half PUTs of 16 KiB
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub(crate) rate: u32,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Resilience {
    #[command(flatten)]
    pub(crate) given: Given,
    /// Times that each case is measured, in turn with the others; of an overload three at most
    #[arg(long, default_value_t = ROUNDS, value_parser = at_least_one)]
    pub(crate) rounds: usize,
    /// Seconds that each of them takes; an overload ten times as long, and each half of a pair of costs one
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Only these
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Scenario>,
    /// Writes resilience.json and resilience.svg there, also when the run is a short or a partial one
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

impl Resilience {
    pub(crate) fn has(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.contains(&scenario)
    }

    /// The folder for the results, if this run is to be remembered.
    pub(crate) fn destination(&self) -> Option<PathBuf> {
        let is_whole = self.only.is_empty() && self.rounds >= ROUNDS;
        self.out.clone().or_else(|| is_whole.then(|| self.given.results.clone()))
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Broker {
    /// The broker as a program
    #[arg(long, hide = true)]
    pub(crate) broker: PathBuf,
    #[arg(long, hide = true)]
    pub(crate) nats_server: PathBuf,
    /// Where results are kept
    #[arg(long, hide = true)]
    pub(crate) results: PathBuf,
    /// Times that each server is measured, in turn with the others
    #[arg(long, default_value_t = ROUNDS, value_parser = at_least_one)]
    pub(crate) rounds: usize,
    /// Seconds that each of them takes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Only these
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<BrokerWork>,
    /// Also a restart with 10 GB of messages, for which the disk needs twice that room
    #[arg(long)]
    pub(crate) big: bool,
    /// Where the streams of what is measured are kept for the time being, if not among temporary files
    #[arg(long)]
    pub(crate) disk: Option<PathBuf>,
    /// Writes broker.json and broker.svg there, also when the run is a short or a partial one
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

impl Broker {
    pub(crate) fn has(&self, work: BrokerWork) -> bool {
        if self.only.is_empty() { work != BrokerWork::Restart || self.big } else { self.only.contains(&work) }
    }

    /// The folder for the results, if this run is to be remembered.
    pub(crate) fn destination(&self) -> Option<PathBuf> {
        let is_whole = self.only.is_empty() && self.rounds >= ROUNDS;
        self.out.clone().or_else(|| is_whole.then(|| self.results.clone()))
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Crash {
    /// The broker as a program
    #[arg(long, hide = true)]
    pub(crate) broker: PathBuf,
    /// One whose power is cut, too, a tenth as often
    #[arg(long, hide = true)]
    pub(crate) nats_server: PathBuf,
    /// Where results are kept
    #[arg(long, hide = true)]
    pub(crate) results: PathBuf,
    /// Times that the broker is killed
    #[arg(long, default_value_t = KILLS)]
    pub(crate) kills: u64,
    /// Times that its disk's power is cut, half of them with a cache that is then lost; needs root and loop devices
    #[arg(long, default_value_t = CUTS)]
    pub(crate) cuts: u64,
    /// Damages to its files
    #[arg(long, default_value_t = DAMAGES)]
    pub(crate) damages: u64,
    /// Of everything that is random, but for moments
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Writes crash.json there, also when the run is a short or a partial one
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

impl Crash {
    /// The folder for the results, if this run is to be remembered.
    pub(crate) fn destination(&self) -> Option<PathBuf> {
        let is_whole = self.kills >= KILLS && self.cuts >= CUTS && self.damages >= DAMAGES;
        self.out.clone().or_else(|| is_whole.then(|| self.results.clone()))
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Events {
    #[command(flatten)]
    pub(crate) given: Given,
    /// Another broker for `outbox`
    #[arg(long, hide = true)]
    pub(crate) nats_server: PathBuf,
    /// Only these
    #[arg(long, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// Events of `check`
    #[arg(long, default_value_t = EVENTS, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) events: u64,
    /// Different keys of `check` and `deliver`
    #[arg(long, default_value_t = KEYS, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) keys: u32,
    /// Events a second of `check`
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// Kills of `outbox`, on each broker
    #[arg(long, default_value_t = OUTBOX_KILLS)]
    pub(crate) kills: u64,
    /// Events of `deliver` that are there before anything is delivered
    #[arg(long, default_value_t = AHEAD, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub(crate) ahead: u64,
    /// Events of `replay`
    #[arg(long, default_value_t = REPLAYED, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub(crate) replayed: u64,
    /// Of everything that is random, but for moments
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Keeps the folder of `check` and `outbox`, with all records
    #[arg(long)]
    pub(crate) keep: Option<PathBuf>,
    /// Writes events.json there, also when the run is a short or a partial one
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

impl Events {
    pub(crate) fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// The folder for the results, if this run is to be remembered.
    pub(crate) fn destination(&self) -> Option<PathBuf> {
        let is_whole = self.only.is_empty()
            && self.events >= EVENTS
            && self.keys >= KEYS
            && self.kills >= OUTBOX_KILLS
            && self.ahead >= AHEAD
            && self.replayed >= REPLAYED;
        self.out.clone().or_else(|| is_whole.then(|| self.given.results.clone()))
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EventPublisher {
    /// A folder where it writes down what was acknowledged
    pub(crate) folder: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EventSubscriber {
    /// A folder where it writes down what it was delivered, if it does
    pub(crate) folder: PathBuf,
    /// Misbehaves at random, and writes everything down
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long an attempt may take
    #[arg(long, default_value_t = 1_000)]
    pub(crate) ack_wait_ms: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EventLedger {
    /// Of the application, so that its processes are known
    pub(crate) folder: PathBuf,
    /// Different keys
    pub(crate) keys: u32,
    /// Milliseconds between two changes, at most
    pub(crate) pause_ms: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Callee {
    pub(crate) conduct: Conduct,
    /// A folder where it says what it was asked
    pub(crate) counts: PathBuf,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "must be 1 or more".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(arguments: &[&str]) -> Proxy {
        let words = ["bench", "proxy", "--atoll", "a", "--tools", "t", "--results", "r"];
        match Options::try_parse_from(words.iter().chain(arguments)).expect("parsed").command {
            Command::Proxy(proxy) => proxy,
            _ => unreachable!("the command is `proxy`"),
        }
    }

    #[test]
    fn only_a_whole_run_is_remembered_unasked() {
        assert_eq!(proxy(&[]).destination(), Some("r".into()));
        for partial in [&["--rounds", "3"], &["--only", "nginx,atoll"], &["--work", "big"], &["--logs", "on"]] {
            assert_eq!(proxy(partial).destination(), None, "{partial:?}");
            assert_eq!(proxy(&[partial, ["--out", "o"].as_slice()].concat()).destination(), Some("o".into()));
        }
    }

    #[test]
    fn a_part_of_the_scenarios_is_not_remembered_unasked() {
        let resilience = |arguments: &[&str]| {
            let words = ["bench", "resilience", "--atoll", "a", "--tools", "t", "--results", "r"];
            match Options::try_parse_from(words.iter().chain(arguments)).expect("parsed").command {
                Command::Resilience(resilience) => resilience,
                _ => unreachable!("the command is `resilience`"),
            }
        };
        assert_eq!(resilience(&[]).destination(), Some("r".into()));
        assert_eq!(resilience(&["--rounds", "3"]).destination(), None);
        let named = resilience(&["--only", "storm,cost"]);
        assert_eq!(named.destination(), None);
        assert!(named.has(Scenario::Storm) && !named.has(Scenario::Slow));
    }

    #[test]
    fn what_is_named_is_measured_and_nothing_else() {
        let named = proxy(&["--only", "haproxy-2.8,atoll", "--work", "small,idle", "--logs", "on,off"]);
        assert!(named.has_peer(Kind::Haproxy28) && named.has_peer(Kind::Atoll) && !named.has_peer(Kind::Haproxy));
        assert!(named.has_work(Work::Idle) && !named.has_work(Work::Rate));
        assert_eq!(named.logs(), [Logs::Off, Logs::On]);
        assert!(Kind::value_variants().iter().all(|kind| proxy(&[]).has_peer(*kind)));
    }
}
