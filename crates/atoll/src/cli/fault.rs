//! `atoll fault`: things that go wrong on purpose, while the application runs, to see what it does then.

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;

use crate::api::client::Client;
use crate::api::dto::{Fault as Set, FaultWish};
use crate::cli::output::{self, Format};
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on};
use crate::lower;

#[derive(Debug, Subcommand)]
pub enum Fault {
    /// Have requests delayed, answered with an error, dropped or slowed down
    Set(SetArguments),
    /// Show the faults that are set
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Clear faults
    Clear(Clear),
}

/// Each effect is a fault of its own. A target is an edge (cart->catalog), a route (products, or `route products`), a
/// service (catalog), whoever calls it, or one instance of it (catalog.1). A request that meets a delay and an abort is
/// answered when the delay is over.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  atoll fault set 'cart->catalog' --delay 300ms --share 50% --for 10m
  atoll fault set catalog.1 --abort 503
  atoll fault set route products --drop --share 0.1
  atoll fault set catalog --bandwidth 10KiB")]
#[group(id = "effect", required = true, multiple = true, args = ["delay", "abort", "drop", "bandwidth"])]
pub struct SetArguments {
    /// Edge, route, service or instance
    #[arg(value_name = "TARGET", required = true)]
    target: Vec<String>,
    /// Wait for so long first
    #[arg(long, value_name = "TIME", value_parser = time)]
    delay: Option<Duration>,
    /// Answer with this status, 400 to 599, and do not ask the service
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(400..=599))]
    abort: Option<u16>,
    /// Break the connection to the instance without an answer: what may be sent again goes elsewhere, the rest is 502
    #[arg(long, conflicts_with = "abort")]
    drop: bool,
    /// Let so much of the answer through a second
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bandwidth: Option<u64>,
    /// Of the tries that it could meet: 0.5, or 50%
    #[arg(long, value_name = "SHARE", default_value = "100%", value_parser = share)]
    share: f64,
    /// How long the fault lasts, at most 24h
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = time)]
    lasting: Duration,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub struct Ls {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll fault clear 3\n  atoll fault clear --all")]
pub struct Clear {
    /// Numbers of faults, as `atoll fault ls` shows them
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<u64>,
    /// All of them
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    place: Place,
}

impl Fault {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Set(set) => set.run(context),
            Self::Ls(ls) => {
                let client = Client::new(&ls.place.target(&[])?.project);
                let faults: Vec<Set> = block_on(client.get("/v1/faults"))?.map_err(Failure::from)?;
                show(&faults, context.format)
            }
            Self::Clear(clear) => clear.run(context),
        }
    }
}

impl SetArguments {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let client = Client::new(&self.place.target(&[])?.project);
        let wish = FaultWish {
            target: self.target.join(" "),
            delay_ms: self.delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            bytes_per_second: self.bandwidth,
            abort: self.abort,
            drop: self.drop,
            share: Some(self.share),
            seconds: Some(self.lasting.as_secs_f64()),
        };
        let set: Vec<Set> = block_on(client.ask("/v1/faults", &wish))?.map_err(Failure::from)?;
        show(&set, context.format)
    }
}

impl Clear {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        let client = Client::new(&self.place.target(&[])?.project);
        let clear = async {
            if self.all {
                return client.delete("/v1/faults").await;
            }
            let mut cleared: Vec<Set> = Vec::new();
            for id in &self.ids {
                cleared.extend(client.delete::<Vec<Set>>(&format!("/v1/faults/{id}")).await?);
            }
            Ok(cleared)
        };
        let cleared = block_on(clear)?.map_err(Failure::from)?;
        match (context.format, cleared.len()) {
            (Format::Json, _) => output::json(&cleared),
            (Format::Table, 1) => Ok(writeln!(anstream::stderr(), "cleared 1 fault")?),
            (Format::Table, count) => Ok(writeln!(anstream::stderr(), "cleared {count} faults")?),
        }
    }
}

fn show(faults: &[Set], format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        return output::json(&faults);
    }
    let row = |fault: &Set| {
        let until = fault.until.to_zoned(TimeZone::system()).strftime("%T").to_string();
        let left = output::age(fault.seconds_left);
        vec![fault.id.to_string(), lower::words(fault), format!("{until} ({left} left)")]
    };
    output::table(&["id", "fault", "until"], faults.iter().map(row))
}

fn time(text: &str) -> Result<Duration, String> {
    let time = manifest::parse_duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| "it is no time, as in 300ms, 5s, 10m or 1h30m".to_owned())
}

/// A size, with or without `/s`.
fn size(text: &str) -> Result<u64, String> {
    let size = manifest::parse_size(text.strip_suffix("/s").unwrap_or(text)).filter(|size| *size > 0);
    size.ok_or_else(|| "it is no size, as in 10KiB or 1MiB".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    let share = share.ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "it is no share, as in 0.5 or 50%: more than nothing, and at most all".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sizes_and_shares_are_read_or_refused() {
        assert_eq!((time("300ms"), time("1h30m")), (Ok(Duration::from_millis(300)), Ok(Duration::from_secs(5400))));
        assert_eq!((size("10KiB"), size("10KiB/s"), size("1B")), (Ok(10_240), Ok(10_240), Ok(1)));
        assert_eq!((share("0.5"), share("50%"), share("50 %"), share("1")), (Ok(0.5), Ok(0.5), Ok(0.5), Ok(1.0)));
        for text in ["", "0", "0s", "-1s", "5", "x", "inf"] {
            assert!(time(text).is_err(), "{text}");
        }
        for text in ["", "0B", "10", "-1KiB", "99999999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        for text in ["", "0", "0%", "101%", "1.5", "NaN", "inf", "-0.1", "%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
