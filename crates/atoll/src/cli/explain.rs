//! `atoll explain`: what happened to a request, decision by decision, as the data plane remembers it.

use std::fmt::Write as _;

use clap::Args;
use jiff::tz::TimeZone;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::api::client::Client;
use crate::api::dto::Story;
use crate::cli::output::{self, Format};
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on};

/// Requests that are listed, if nobody says it.
const LISTED: usize = 20;

/// What is remembered: requests that failed, were refused, tried again or met a fault, and one in 64 of the rest; the
/// last few thousand, until the data plane ends. In a flood each core remembers 200 a second of those that are refused for
/// load, 200 of the other failures and 200 of the unusual; the metric `atoll_stories_skipped` counts the rest. A request has its id in the header x-request-id of its answer and in the
/// access log; what a service calls on behalf of it is found under the same id if the service passes that on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll explain\n  atoll explain 01998f6e-6d5c-7c21-b0a5-1f5f2f1f7a10\n  \
atoll explain -n 5 -o json")]
pub struct Explain {
    /// The id of a request; without one the newest requests are listed
    #[arg(value_name = "REQUEST-ID")]
    request_id: Option<String>,
    /// At most so many of the newest
    #[arg(short = 'n', long = "lines", value_name = "N")]
    lines: Option<usize>,
    #[command(flatten)]
    place: Place,
}

impl Explain {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let client = Client::new(&self.place.target(&[])?.project);
        let path = match self.request_id.as_deref().map(str::trim).filter(|id| !id.is_empty()) {
            None => format!("/v1/explain?max={}", self.lines.unwrap_or(LISTED)),
            Some(id) => {
                let max = self.lines.map(|max| format!("?max={max}")).unwrap_or_default();
                format!("/v1/explain/{}{max}", utf8_percent_encode(id, NON_ALPHANUMERIC))
            }
        };
        let stories: Vec<Story> = block_on(client.get(&path))?.map_err(Failure::from)?;
        match &self.request_id {
            Some(id) if stories.is_empty() => Err(unknown(id).into()),
            _ if context.format == Format::Json => output::json(&stories),
            Some(_) => stories.iter().try_for_each(|story| output::line(&told(story))),
            None => list(&stories),
        }
    }
}

fn unknown(id: &str) -> Failure {
    let id = output::printable(id);
    Failure::new(format!("nothing is remembered of a request `{id}`")).hint(
        "every request that failed, was refused or tried again is, and one in 64 of the rest: the last few thousand, until the \
         data plane ends; in a flood, 200 of a kind a second and core (the metric atoll_stories_skipped counts the others)\n`atoll explain` lists the newest; an id is in the header x-request-id of an answer, and in \
         .atoll/logs/access.jsonl"
            .to_owned(),
    )
}

fn list(stories: &[Story]) -> anyhow::Result<()> {
    let row = |story: &Story| {
        vec![
            story.began.to_zoned(TimeZone::system()).strftime("%T%.3f").to_string(),
            output::printable(&story.request_id),
            place(story),
            output::printable(&story.method),
            output::printable(&story.path),
            story.status.to_string(),
            story.reason.clone().unwrap_or_else(|| "-".to_owned()),
            story.attempts.to_string(),
            story.kept.clone(),
        ]
    };
    let headings = ["time", "request", "at", "method", "path", "status", "reason", "tries", "kept"];
    output::table(&headings, stories.iter().map(row))
}

/// Where it was: `gateway`, or `front → back`.
fn place(story: &Story) -> String {
    match (story.from.as_str(), &story.service) {
        ("gateway", _) | (_, None) => story.from.clone(),
        (from, Some(service)) => format!("{from} → {service}"),
    }
}

/// One request: a line of what it was, and a line for each thing that happened.
fn told(story: &Story) -> String {
    let began = story.began.to_zoned(TimeZone::system()).strftime("%F %T%.3f");
    let host = if story.host.is_empty() { String::new() } else { format!(" for {}", story.host) };
    let mut text = format!("{} {}{host} from {}, at {}, {began}", story.method, story.path, story.client, place(story));
    let times: Vec<String> = story.told.iter().map(|told| format!("{:.2} ms", told.after_ms)).collect();
    let width = times.iter().map(String::len).max().unwrap_or(0);
    for (told, time) in story.told.iter().zip(&times) {
        let _ = write!(text, "\n  {time:>width$}  {}", told.text);
    }
    let kept = match story.kept.as_str() {
        "failed" => "remembered because it failed or was refused",
        "unusual" => "remembered because something unusual happened to it",
        _ => "remembered as one in 64",
    };
    let _ = write!(text, "\n  {kept}");
    output::printable_lines(&text)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::api::dto::Told;

    #[test]
    fn a_story_is_a_headline_and_sentences_in_columns() {
        let tell = |after_ms, text: &str| Told { after_ms, kind: "x".into(), instance: None, text: text.into() };
        let story = Story {
            request_id: "r1".into(),
            trace_id: String::new(),
            began: jiff::Timestamp::UNIX_EPOCH,
            from: "front".into(),
            client: "127.0.0.1".into(),
            method: "GET".into(),
            host: "back".into(),
            path: "/a\u{1b}[2J".into(),
            route: None,
            service: Some("back".into()),
            status: 503,
            reason: None,
            fallback: None,
            attempts: 1,
            duration_ms: 100.0,
            kept: "failed".into(),
            told: vec![tell(0.0, "front calls back"), tell(100.04, "answered 503")],
        };
        let text = told(&story);
        let (headline, rest) = text.split_once('\n').expect("lines");
        assert!(headline.starts_with("GET /a\\u{1b}[2J for back from 127.0.0.1, at front → back, 19"), "{headline}");
        expect![[r#"
              0.00 ms  front calls back
            100.04 ms  answered 503
            remembered because it failed or was refused"#]]
        .assert_eq(&rest.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect::<Vec<_>>().join("\n"));
    }
}
