//! One life of one instance, from the start of its shim, or its adoption, until everything of it is gone. The only one
//! who talks to the shim; the loop sends it orders and gets reports.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kit::Chain;
use kit::tasks::Tasks;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use rustix::process::Signal;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::adopt;
use crate::cgroup::Asked;
use crate::config::{self, Probes, Shim};
use crate::event::{Events, Kind};
use crate::link::Link;
use crate::logs::{self, Limits, Line};
use crate::probe::check::Target;
use crate::probe::{self, Verdict};
use crate::process::Spec;
use crate::procfs;
use crate::shim::folder::Folder;
use crate::shim::wire::{self, Ended, Identity, Instructions, Readiness, Said, State};
use crate::status::Exit;

mod contact;

use contact::{Change, Contact, Turn};

/// Limit: orders on their way to a life. A stop gives two at most: to stop, and to be killed.
pub(crate) const ORDERS_MAX: usize = 4;

/// Limit: verdicts on their way from the probes.
const VERDICTS_MAX: usize = 4;

/// Limit: from SIGKILL until its shim has said that nothing is left. One that takes longer is killed itself.
const KILL_MAX: Duration = Duration::from_secs(5);

/// Why an instance is lost whose shim is there.
const SILENT: &str = "its shim does not answer";

/// Where the shims' own words go, which there should be none of.
const WORDS_FILE: &str = "shims.log";

/// What a life needs to know.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) identity: Identity,
    pub(crate) spec: Spec,
    pub(crate) probes: Probes,
    pub(crate) limits: config::Limits,
    pub(crate) run_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) log: Limits,
    pub(crate) shim: Shim,
    pub(crate) followers: broadcast::Sender<Arc<Line>>,
    pub(crate) events: Events,
    /// Cancelled when the instance shall go on without this.
    pub(crate) leave: CancellationToken,
    pub(crate) tasks: Tasks,
}

/// How a life comes here.
#[derive(Debug)]
pub(crate) enum Begin {
    Spawn,
    Adopt(Box<Link>),
}

/// What the loop may ask of a life.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Stop(Signal),
    Kill,
    /// From outside: what follows from it is no stop.
    Signal(Signal),
}

/// What a life says, in this order: `Failed`, or `Started` unless it was adopted, maybe `Unlimited`, any number
/// of `Probed`, `Silent` and `Answers`, and then `Exited` and `Gone`, or at any time `Lost`.
#[derive(Debug)]
pub(crate) enum News {
    /// It could not be started, and nothing is left of the attempt.
    Failed {
        reason: String,
    },
    Started {
        pid: u32,
        at: Timestamp,
    },
    /// Its limits do not hold, or not all of them.
    Unlimited {
        why: String,
    },
    Probed(Verdict),
    /// The leader's end, as soon as it is known.
    Exited {
        exit: Exit,
        seen_at: std::time::Instant,
    },
    /// Nothing of it runs any more and its output is read.
    Gone {
        last_lines: Vec<String>,
    },
    /// Its shim does not answer; it goes on.
    Silent {
        shim: u32,
    },
    /// Its shim answers again.
    Answers {
        shim: u32,
    },
    /// Nobody looked after it any more: it was killed, and nothing of it is left.
    Lost {
        why: String,
    },
}

/// Tells the loop, and which life it is: the loop ignores what an older one says.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    pub(crate) service: Arc<str>,
    pub(crate) instance: u32,
    pub(crate) life: u64,
    pub(crate) reports: mpsc::Sender<crate::engine::Report>,
}

impl Reporter {
    async fn send(&self, news: News) {
        let (service, instance, life) = (Arc::clone(&self.service), self.instance, self.life);
        // The loop lives until every life is gone; if it does not, nobody is left to tell.
        let _ = self.reports.send(crate::engine::Report::Life { service, instance, life, news }).await;
    }
}

/// Runs one life. Whatever happens to it, the loop hears of its end, unless the instance is left to go on.
pub(crate) async fn run(plan: Plan, begin: Begin, orders: mpsc::Receiver<Order>, reporter: Reporter) {
    let tasks = plan.tasks.clone();
    let folder = Folder::of(&plan.run_dir, &plan.identity.service, plan.identity.instance);
    // One that was cancelled ends with its runtime: the instance goes on for the next daemon.
    let ended = tasks.spawn(run_through(plan, begin, orders, reporter.clone())).await;
    if ended.is_err_and(|error| error.is_panic()) {
        // It panicked and the panic hook has said why; the instance goes on, which the loop does not know.
        if let Ok(link) = Link::find(folder).await {
            adopt::stop(link, Signal::KILL, Duration::ZERO).await;
        }
        reporter.send(News::Lost { why: "a defect in Atoll ended it".to_owned() }).await;
    }
}

async fn run_through(plan: Plan, begin: Begin, mut orders: mpsc::Receiver<Order>, reporter: Reporter) {
    let is_adopted = matches!(begin, Begin::Adopt(_));
    let mut link = match begin {
        Begin::Adopt(link) => *link,
        Begin::Spawn => match start(&plan).await {
            Ok(link) => link,
            Err(reason) => return reporter.send(News::Failed { reason }).await,
        },
    };
    if let State::Failed { reason } = &link.hello.state {
        let reason = reason.clone();
        link.finish().await;
        return reporter.send(News::Failed { reason }).await;
    }
    if let Some(started) = link.hello.state.started().filter(|_| !is_adopted) {
        reporter.send(News::Started { pid: started.process.pid.unsigned_abs(), at: started.at }).await;
    }
    if let Some(why) = link.hello.unlimited.clone() {
        reporter.send(News::Unlimited { why }).await;
    }
    match live(&plan, &mut link, &mut orders, &reporter).await {
        End::Left => {}
        End::Gone(last_lines) => {
            link.finish().await;
            reporter.send(News::Gone { last_lines }).await;
        }
        End::Lost(why) => {
            link.kill().await;
            reporter.send(News::Lost { why }).await;
        }
        End::Cleared => {
            link.kill().await;
            reporter.send(News::Gone { last_lines: Vec::new() }).await;
        }
    }
}

async fn start(plan: &Plan) -> Result<Link, String> {
    let identity = &plan.identity;
    check_port(identity.address)?;
    let folder = Folder::of(&plan.run_dir, &identity.service, identity.instance);
    let absolute = |path: &std::path::Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let log_file = absolute(&logs::file(&plan.log_dir, &identity.service, identity.instance));
    let path = folder.path().to_owned();
    let group = Asked::new(&plan.run_dir, (&identity.service, identity.instance), &identity.life, plan.limits);
    let instructions = Instructions::new(identity.clone(), &plan.spec, log_file, plan.log, path, Some(group));
    let words = plan.log_dir.join(WORDS_FILE);
    Link::spawn(&plan.shim, folder, &instructions, &words).await.map_err(|error| Chain(&error).to_string())
}

/// Says who has the port, while it is another process. Binds without listening, so that nobody can connect to us; a
/// connection of a former life in TIME_WAIT does not count (SO_REUSEADDR).
fn check_port(address: SocketAddr) -> Result<(), String> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let tried = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP)).and_then(|socket| {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)
    });
    match tried {
        Err(rustix::io::Errno::ADDRINUSE) => {
            let holder = procfs::holder(address).unwrap_or_else(|| "another process".to_owned());
            Err(format!("port {} is taken by {holder}", address.port()))
        }
        // Any other trouble is for the instance to meet and to say.
        _ => Ok(()),
    }
}

/// How the time with a shim ends.
enum End {
    /// The shim and its instance go on.
    Left,
    Gone(Vec<String>),
    Lost(String),
    /// The leader's end is told, and there is nobody to clear up after it.
    Cleared,
}

/// Returns when nothing of the instance is left, or when it is left alone.
async fn live(plan: &Plan, link: &mut Link, orders: &mut mpsc::Receiver<Order>, reporter: &Reporter) -> End {
    if let Some(last_lines) = catch_up(link, reporter).await {
        return End::Gone(last_lines);
    }
    let mut is_asked = !matches!(link.hello.state, State::Running { .. });
    let mut has_exited = is_asked;
    let mut patience = None;
    let mut contact = Contact::new(link);
    let (sender, mut verdicts) = mpsc::channel(VERDICTS_MAX);
    let target = Target { address: plan.identity.address, spec: plan.spec.clone() };
    // Probes end with a final verdict; what is decided from it comes as an order.
    let past = link.hello.ready;
    let probing = async {
        probe::run(&plan.probes, &target, past, &sender).await;
        std::future::pending::<()>().await;
    };
    let mut probing = std::pin::pin!(probing);
    loop {
        tokio::select! {
            // Order: what it writes comes last: a flood of lines must hold up nothing else.
            biased;
            () = plan.leave.cancelled() => return End::Left,
            Some(order) = orders.recv() => {
                is_asked |= !matches!(order, Order::Signal(_));
                if matches!(order, Order::Kill) {
                    patience = Some(Instant::now() + KILL_MAX);
                }
                contact.give(link, written(order));
            }
            () = until(patience) => return End::Lost(SILENT.to_owned()),
            turn = contact.turn() => match take_turn(turn, &mut contact, link, reporter).await {
                Then::GoOn => {}
                Then::Exited => (is_asked, has_exited) = (true, true),
                Then::ClearUp if has_exited => return End::Cleared,
                Then::ClearUp => return End::Lost(SILENT.to_owned()),
            },
            Some(verdict) = verdicts.recv(), if !is_asked => {
                match verdict {
                    Verdict::Ready => link.order(wire::Order::Readiness(Readiness::Ready)),
                    Verdict::Unready { .. } => link.order(wire::Order::Readiness(Readiness::Unready)),
                    Verdict::Failing { .. } | Verdict::Unhealthy { .. } => {}
                }
                reporter.send(News::Probed(verdict)).await;
            }
            () = &mut probing, if !is_asked => {}
            said = link.next(|| plan.followers.receiver_count() > 0) => match said {
                Ok(Said::Exited(ended)) => {
                    is_asked = true;
                    if !std::mem::replace(&mut has_exited, true) {
                        exited(reporter, ended).await;
                    }
                }
                Ok(Said::Pong { id }) => tell_change(contact.heard(id), link, reporter).await,
                Ok(Said::Gone { last_lines }) => return End::Gone(last_lines),
                Ok(Said::Replaced {}) => return End::Left,
                Ok(said) => tell(plan, said),
                Err(_) => {
                    // A runtime that ends breaks connections before it drops who waits here.
                    tokio::task::yield_now().await;
                    return End::Lost("its shim was killed".to_owned());
                }
            },
        }
    }
}

/// Tells what has happened while nobody was there; gives the last lines of one of which nothing is left.
async fn catch_up(link: &mut Link, reporter: &Reporter) -> Option<Vec<String>> {
    match &link.hello.state {
        State::Leaving { ended, .. } => {
            exited(reporter, *ended).await;
            // Whoever had asked it to stop is gone, and with it the one who would say that the time is over.
            link.order(wire::Order::Kill);
            None
        }
        State::Gone { ended, last_lines, .. } => {
            exited(reporter, *ended).await;
            Some(last_lines.clone())
        }
        State::Running { .. } | State::Failed { .. } => None,
    }
}

/// What follows from a turn.
enum Then {
    GoOn,
    /// The leader's end was told without the shim.
    Exited,
    /// What the shim should look after is over or is to be.
    ClearUp,
}

/// Does what is to be done about a shim that may not answer.
async fn take_turn(turn: Turn, contact: &mut Contact, link: &mut Link, reporter: &Reporter) -> Then {
    match turn {
        Turn::Ask { silent } => {
            let change = contact.tick(link, silent);
            tell_change(change, link, reporter).await;
            Then::GoOn
        }
        Turn::Act => {
            let (change, is_over) = contact.act();
            tell_change(change, link, reporter).await;
            if is_over { Then::ClearUp } else { Then::GoOn }
        }
        Turn::LeaderEnded => match contact.leader_ended(link) {
            Some(exit) => {
                reporter.send(News::Exited { exit, seen_at: std::time::Instant::now() }).await;
                Then::Exited
            }
            None => Then::GoOn,
        },
    }
}

async fn tell_change(change: Change, link: &Link, reporter: &Reporter) {
    let shim = link.hello.shim.pid.unsigned_abs();
    match change {
        Change::None => {}
        Change::FellSilent => reporter.send(News::Silent { shim }).await,
        Change::SpokeAgain => reporter.send(News::Answers { shim }).await,
    }
}

fn written(order: Order) -> wire::Order {
    match order {
        Order::Stop(signal) => wire::Order::Stop(signal.as_raw()),
        Order::Kill => wire::Order::Kill,
        Order::Signal(signal) => wire::Order::Signal(signal.as_raw()),
    }
}

async fn exited(reporter: &Reporter, ended: Ended) {
    reporter.send(News::Exited { exit: ended.exit(), seen_at: std::time::Instant::now() }).await;
}

/// Passes on what only listeners want to know.
fn tell(plan: &Plan, said: Said) {
    let Identity { service, instance, .. } = &plan.identity;
    let kind = match said {
        Said::Line(line) => {
            // Without a follower there is nobody to tell; a slow one loses the oldest lines and is told so.
            let _ = plan.followers.send(Arc::new(line));
            return;
        }
        Said::LinesSkipped { count } => Kind::LinesSkipped { lines: count },
        Said::LogLost { why } => Kind::LogsLost { why },
        Said::LogResumed { lines_lost } => Kind::LogsResumed { lines_lost },
        Said::Hello(_) | Said::Exited(_) | Said::Gone { .. } | Said::Replaced {} | Said::Pong { .. } => return,
    };
    tracing::warn!(service, instance, ?kind, "log lines");
    plan.events.emit(service, Some(*instance), kind);
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder_and_a_free_one_is_free() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let reason = check_port(address).unwrap_err();
        let expected = format!("port {} is taken by pid {} (", address.port(), std::process::id());
        assert!(reason.starts_with(&expected), "{reason}");
        drop(listener);
        assert_eq!(check_port(address), Ok(()));
    }
}
