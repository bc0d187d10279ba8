//! `atoll events`: what happened, from the files of the past and the stream of the present.

use std::collections::VecDeque;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::api::client::{Client, Error};
use crate::api::dto::Event;
use crate::cli::logs::since;
use crate::cli::output::{self, Format};
use crate::cli::target::Target;
use crate::cli::{Context, Failure, block_on};
use crate::daemon::history::{self, Wanted};

/// Without `-n` so many of the last events are shown: they are held in memory.
const EVENTS_MAX: usize = 100_000;

/// Every start, stop, probe failure, restart and change, with its reason. The history outlives the daemon and is bounded
/// in size; the oldest goes first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll events --since 10m\n  atoll events -f web\n  atoll events -o json -n 20")]
pub struct Events {
    /// Folder of the application, then services; everything if none is named
    #[arg(value_name = "SERVICE")]
    words: Vec<String>,
    /// The manifest; without it the nearest atoll.toml upwards
    #[arg(long, env = "ATOLL_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// At most so many of the last events
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = EVENTS_MAX, hide_default_value = true)]
    lines: usize,
    /// Only what is younger: 90s, 10m, 2h, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "AGE|TIME", value_parser = since)]
    since: Option<Timestamp>,
}

impl Events {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let target = Target::find(self.file.as_deref(), &self.words)?;
        block_on(self.show(&target, context.format))?
    }

    async fn show(&self, target: &Target, format: Format) -> anyhow::Result<()> {
        let client = Client::new(&target.project);
        // Before the files are read: an event may then come twice, which is noticed, but never be missed.
        let live = match self.follow {
            true => Some(client.stream("/v1/history").await.map_err(Failure::from)?),
            false => None,
        };
        let wanted = Wanted { services: &target.services, since: self.since, last: self.lines.min(EVENTS_MAX) };
        let past = history::load(&target.project.logs(), &wanted);
        let past = past.map_err(|error| Failure::new("cannot read the history").because(error))?;
        if past.is_empty()
            && let Some(plan) = &target.project.load().plan
        {
            // A service that was taken out of the manifest has its history still.
            target.check_names(plan.services.keys())?;
        }
        let mut printer = Printer::new(format, &past)?;
        past.iter().try_for_each(|event| printer.print(event))?;
        let Some(mut live) = live else { return Ok(()) };
        loop {
            let event = match live.next::<Event>().await {
                Ok(Some(event)) => event,
                Ok(None) | Err(Error::Broken { .. }) => return Ok(()),
                Err(error) => return Err(Failure::from(error).into()),
            };
            let may_be_old = past.back().is_some_and(|newest| event.at <= newest.at);
            if wanted.takes(&event) && !(may_be_old && past.contains(&event)) {
                printer.print(&event)?;
            }
        }
    }
}

/// Prints events in columns that only grow, or as JSON lines.
struct Printer {
    format: Format,
    subject_width: usize,
    kind_width: usize,
}

impl Printer {
    fn new(format: Format, past: &VecDeque<Event>) -> anyhow::Result<Self> {
        let widest = |of: fn(&Event) -> usize, least: usize| past.iter().map(of).max().unwrap_or(0).max(least);
        let subject_width = widest(|event| subject(event).len(), "subject".len());
        let kind_width = widest(|event| event.kind.len(), "kind".len());
        let mut printer = Self { format, subject_width, kind_width };
        if format == Format::Table {
            printer.row("TIME", "SUBJECT", "KIND", "MESSAGE")?;
        }
        Ok(printer)
    }

    fn print(&mut self, event: &Event) -> anyhow::Result<()> {
        if self.format == Format::Json {
            return output::line(&serde_json::to_string(event)?);
        }
        let subject = subject(event);
        let time = event.at.to_zoned(TimeZone::system()).strftime("%F %T").to_string();
        // The sentence begins with the subject, which has a column of its own here.
        let message = event.message.strip_prefix(&format!("{subject}: ")).unwrap_or(&event.message);
        self.row(&time, &subject, &event.kind, &output::printable(message))?;
        event.lines.iter().try_for_each(|line| output::line(&format!("    {}", output::printable(line))))
    }

    fn row(&mut self, time: &str, subject: &str, kind: &str, message: &str) -> anyhow::Result<()> {
        self.subject_width = self.subject_width.max(subject.len());
        self.kind_width = self.kind_width.max(kind.len());
        let (subject_width, kind_width) = (self.subject_width, self.kind_width);
        output::line(&format!("{time:19}  {subject:subject_width$}  {kind:kind_width$}  {message}"))
    }
}

/// `web.0`, `web`, or `atoll` for what concerns everything.
fn subject(event: &Event) -> String {
    match (&event.service, event.instance) {
        (Some(service), Some(instance)) => format!("{service}.{instance}"),
        (Some(service), None) => service.clone(),
        (None, _) => "atoll".to_owned(),
    }
}
