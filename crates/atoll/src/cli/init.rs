//! `atoll init`: a first manifest from what already describes the application. Never writes over one.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::output::{self, Format};
use crate::cli::{Context, Failure};
use crate::project::MANIFEST;
use crate::scaffold::draft::Draft;
use crate::scaffold::folder::Folder;
use crate::scaffold::{self, Error};

#[derive(Debug, Args)]
pub struct Init {
    /// Folder of the application
    #[arg(value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Print the manifest instead of writing it
    #[arg(long)]
    print: bool,
}

impl Init {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let path = std::fs::canonicalize(&self.folder)
            .map_err(|error| Failure::new(format!("cannot read {}", self.folder.display())).because(error))?;
        let file = path.join(MANIFEST);
        if !self.print && file.symlink_metadata().is_ok() {
            return Err(exists(&file).into());
        }
        let draft = scaffold::draft(&Folder::new(path)).map_err(Failure::from)?;
        let text = draft.to_toml();
        if self.print {
            return match context.format {
                Format::Table => output::bytes(text.as_bytes()),
                Format::Json => output::json(&report(&draft, &Value::Null, Some(&text))),
            };
        }
        write(&file, &text)?;
        match context.format {
            Format::Json => output::json(&report(&draft, &json!(file), None)),
            Format::Table => tell(&draft, &file),
        }
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let cannot = |error| Failure::new(format!("cannot write {}", file.display())).because(error);
    // Only a new file: what appeared meanwhile is somebody's work.
    let mut open = OpenOptions::new().write(true).create_new(true).open(file).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(file),
        _ => cannot(error),
    })?;
    open.write_all(text.as_bytes()).map_err(cannot)
}

fn exists(file: &Path) -> Failure {
    let hint = "`atoll init --print` prints what it would be; `atoll check` judges the one that is there";
    Failure::new(format!("{} exists already", file.display())).hint(hint.to_owned())
}

fn report(draft: &Draft, file: &Value, text: Option<&str>) -> Value {
    let services: Vec<Value> = draft
        .services
        .iter()
        .filter(|service| service.command.is_some())
        .map(|service| json!({ "name": service.name, "command": service.command, "upstreams": service.upstreams }))
        .collect();
    let mut report =
        json!({ "file": file, "sources": draft.sources, "services": services, "notes": draft.all_notes() });
    if let Some(text) = text {
        report["text"] = json!(text);
    }
    report
}

fn tell(draft: &Draft, file: &Path) -> anyhow::Result<()> {
    output::line(&format!("{} written, from {}", file.display(), draft.sources.join(", ")))?;
    for service in &draft.services {
        if let Some(command) = &service.command {
            output::line(&format!("  {}: {}", service.name, output::printable(command)))?;
        }
    }
    let notes = draft.all_notes();
    if !notes.is_empty() {
        output::line("To look at:")?;
    }
    for note in notes {
        output::line(&format!("  {note}"))?;
    }
    output::line("Next: `atoll check`, then `atoll up`")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::new(error.to_string()).hint(error.hint());
        match std::error::Error::source(&error) {
            Some(source) => failure.because(source.to_string()),
            None => failure,
        }
    }
}
