//! `atoll kill`: a signal for instances, sent by the daemon that knows which processes are theirs.

use std::io::Write;

use clap::Args;
use rustix::process::Signal;

use crate::api::client::Client;
use crate::api::dto::{self, Subject};
use crate::cli::output::{self, Format};
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on, subject};

/// The signals that a person may send, as signal(7) names them.
const SIGNALS: [(&str, Signal); 20] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ILL", Signal::ILL),
    ("TRAP", Signal::TRAP),
    ("ABRT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("SEGV", Signal::SEGV),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("WINCH", Signal::WINCH),
    ("URG", Signal::URG),
];

/// The restart policy then applies as after any other end; `atoll stop` is the polite way, and lasts.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll kill web.1\n  atoll kill --signal HUP web worker")]
pub struct Kill {
    /// Services, or single instances of them
    #[arg(value_name = "SERVICE[.INDEX]", required = true, value_parser = subject::parse)]
    subjects: Vec<Subject>,
    /// Which signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL", value_parser = signal)]
    signal: i32,
    #[command(flatten)]
    place: Place,
}

impl Kill {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let client = Client::new(&self.place.target(&[])?.project);
        let kill = dto::Kill { subjects: self.subjects, signal: self.signal };
        block_on(client.post("/v1/kill", &kill))?.map_err(Failure::from)?;
        match context.format {
            Format::Table => {
                let subjects: Vec<String> = kill.subjects.iter().map(Subject::to_string).collect();
                Ok(writeln!(anstream::stderr(), "sent {} to {}", name(kill.signal), subjects.join(", "))?)
            }
            Format::Json => output::json(&kill),
        }
    }
}

/// Reads `SIGTERM`, `term` or `15`.
fn signal(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = SIGNALS.iter().find(|(name, signal)| *name == plain || signal.as_raw().to_string() == plain);
    known.map(|(_, signal)| signal.as_raw()).ok_or_else(|| {
        let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
        format!("it is none of {}, nor the number of one", names.join(", "))
    })
}

fn name(number: i32) -> String {
    let known = SIGNALS.iter().find(|(_, signal)| signal.as_raw() == number);
    known.map_or_else(|| format!("signal {number}"), |(name, _)| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_name_and_a_number() {
        for text in ["SIGTERM", "sigterm", "TERM", "term", "15"] {
            assert_eq!(signal(text), Ok(15), "{text}");
        }
        assert!(signal("").is_err() && signal("SIGNOPE").is_err() && signal("0").is_err() && signal("-9").is_err());
        assert_eq!(name(9), "SIGKILL");
    }
}
