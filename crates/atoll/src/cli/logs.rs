//! `atoll logs`: what the services wrote, from the files of the past and the stream of the present.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use regex::Regex;

use crate::api::client::{Client, Error};
use crate::api::dto::Line;
use crate::cli::output::{self, Format};
use crate::cli::target::Target;
use crate::cli::{Context, Failure, block_on};
use crate::lower;

/// Without `-n` so many of the last lines are shown: they are held in memory to be put in order.
const LINES_MAX: usize = 100_000;

#[derive(Debug, Args)]
pub struct Logs {
    /// Folder of the application, then services; all if none is named
    #[arg(value_name = "SERVICE")]
    words: Vec<String>,
    /// The manifest; without it the nearest atoll.toml upwards
    #[arg(long, env = "ATOLL_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// At most so many of the last lines
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = LINES_MAX, hide_default_value = true)]
    lines: usize,
    /// Only what is younger: 90s, 10m, 2h, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "AGE|TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Only lines that match this regular expression
    #[arg(long, value_name = "REGEX")]
    grep: Option<Regex>,
}

impl Logs {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let target = Target::find(self.file.as_deref(), &self.words)?;
        if let Some(plan) = &target.project.load().plan {
            target.check_names(plan.services.keys())?;
        }
        block_on(self.show(&target, context.format))?
    }

    async fn show(&self, target: &Target, format: Format) -> anyhow::Result<()> {
        let client = Client::new(&target.project);
        // Before the files are read: a line may then be seen twice, which shows, but never be missed.
        let live = match self.follow {
            true => Some(client.stream("/v1/logs").await.map_err(Failure::from)?),
            false => None,
        };
        let mut printer = Printer::new(format);
        let mut newest: HashMap<(String, u32), Timestamp> = HashMap::new();
        for line in self.history(target)? {
            newest.insert((line.service.clone(), line.instance), line.at);
            printer.print(&line)?;
        }
        let Some(mut live) = live else { return Ok(()) };
        loop {
            let line = match live.next::<Line>().await {
                Ok(Some(line)) => line,
                Ok(None) | Err(Error::Broken { .. }) => return Ok(()),
                Err(error) => return Err(Failure::from(error).into()),
            };
            let seen = newest.get(&(line.service.clone(), line.instance)).is_some_and(|newest| line.at <= *newest);
            let chosen = target.services.is_empty() || target.services.contains(&line.service);
            if chosen && !seen && self.grep.as_ref().is_none_or(|grep| grep.is_match(&line.text)) {
                printer.print(&line)?;
            }
        }
    }

    fn history(&self, target: &Target) -> Result<Vec<Line>, Failure> {
        let folder = target.project.logs();
        let keep = |line: &supervisor::logs::Line| self.grep.as_ref().is_none_or(|grep| grep.is_match(&line.text));
        let wanted = supervisor::logs::Filter {
            services: &target.services,
            since: self.since,
            last: Some(self.lines.min(LINES_MAX)),
            keep: Some(&keep),
        };
        let lines = supervisor::logs::load(&folder, &wanted);
        let lines = lines.map_err(|error| Failure::new("cannot read the logs").because(error))?;
        Ok(lines.into_iter().map(lower::line).collect())
    }
}

/// Prints lines behind the name of who wrote them, in a colour of its own; or as JSON.
pub struct Printer {
    format: Format,
    width: usize,
    stdout: anstream::AutoStream<std::io::Stdout>,
}

impl Printer {
    pub fn new(format: Format) -> Self {
        Self { format, width: 0, stdout: anstream::stdout() }
    }

    pub fn print(&mut self, line: &Line) -> anyhow::Result<()> {
        if self.format == Format::Json {
            return output::line(&serde_json::to_string(line)?);
        }
        let name = format!("{}.{}", line.service, line.instance);
        self.width = self.width.max(name.len());
        let (style, width) = (colour(&line.service), self.width);
        let text = output::printable(&line.text);
        // The reset ends a colour that the service's line leaves open.
        writeln!(self.stdout, "{style}{name:width$} |{style:#} {text}{}", anstyle::Reset)?;
        Ok(())
    }
}

fn colour(service: &str) -> Style {
    const COLOURS: [AnsiColor; 10] = [
        AnsiColor::Cyan,
        AnsiColor::Yellow,
        AnsiColor::Green,
        AnsiColor::Magenta,
        AnsiColor::Blue,
        AnsiColor::BrightCyan,
        AnsiColor::BrightYellow,
        AnsiColor::BrightGreen,
        AnsiColor::BrightMagenta,
        AnsiColor::BrightBlue,
    ];
    // FNV-1a: the same service has the same colour in every run.
    let hash = service
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    COLOURS[(hash % COLOURS.len() as u64) as usize].on_default()
}

/// Reads `90s`, `10m`, `2h`, `3d` or a timestamp of RFC 3339.
pub fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let refused = || format!("`{text}` is neither an age such as 90s, 10m, 2h nor a time such as 2026-01-31T12:00:00Z");
    let age: SignedDuration = match text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok()) {
        Some(days) => SignedDuration::from_secs(days.checked_mul(24 * 60 * 60).ok_or_else(refused)?),
        None => text.parse().map_err(|_| refused())?,
    };
    Timestamp::now().checked_sub(age).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_or_a_time_is_understood() {
        let minute_ago = Timestamp::now() - SignedDuration::from_secs(60);
        let parsed = since("60s").expect("an age");
        assert!(parsed.duration_since(minute_ago).as_secs().abs() < 5);
        assert_eq!(since("2026-01-31T12:00:00Z").expect("a time").as_second(), 1_769_860_800);
        let days_ago = since("3d").expect("days").duration_since(Timestamp::now() - SignedDuration::from_hours(72));
        assert!(days_ago.as_secs().abs() < 5);
        assert!(since("yesterday").is_err() && since("99999999999999999d").is_err());
    }
}
