//! `atoll new service`: the folder of a service that runs, and its line in the manifest above it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::output::{self, Format};
use crate::cli::{Context, Failure};
use crate::project::{MANIFEST, Project};
use crate::scaffold::refused_name;
use crate::scaffold::template::{self, Inclusion, Language};

#[derive(Debug, Subcommand)]
pub enum New {
    /// Write the folder of a new service, with its tests
    Service(Service),
}

#[derive(Debug, Args)]
pub struct Service {
    /// The service's name, and that of its folder
    name: String,
    /// What it is written in
    #[arg(short, long, value_enum)]
    lang: Language,
    /// Where its folder is made
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    into: PathBuf,
}

impl New {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let Self::Service(service) = self;
        service.run(context)
    }
}

impl Service {
    fn run(self, context: &Context) -> anyhow::Result<()> {
        if let Some(mistake) = refused_name(&self.name) {
            return Err(Failure::new(mistake.message).hint(mistake.hint).into());
        }
        let into = fs::canonicalize(&self.into)
            .map_err(|error| Failure::new(format!("cannot use {}", self.into.display())).because(error))?;
        let root = into.ancestors().map(|folder| folder.join(MANIFEST)).find(|path| path.is_file());
        let folder = into.join(&self.name);
        refuse_declared(root.as_deref(), &self.name)?;
        let files = template::files(self.lang, &self.name);
        create(&folder, &files)?;
        let included = root.as_deref().map(|root| include(root, &folder)).transpose()?;
        match context.format {
            Format::Json => {
                let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
                let included = matches!(included, Some(Outcome::Included));
                output::json(&json!({ "folder": folder, "files": names, "manifest": root, "included": included }))
            }
            Format::Table => self.tell(&folder, &files, root.as_deref(), included),
        }
    }

    fn tell(
        &self,
        folder: &Path,
        files: &[(&str, String)],
        root: Option<&Path>,
        included: Option<Outcome>,
    ) -> anyhow::Result<()> {
        output::line(&format!("{} written", folder.display()))?;
        for (name, _) in files {
            output::line(&format!("  {name}"))?;
        }
        match (root, included) {
            (Some(root), Some(Outcome::Included)) => output::line(&format!("{} includes it", root.display()))?,
            (Some(root), Some(Outcome::ByHand(line))) => {
                output::line(&format!("Add to {}: {line}", root.display()))?;
            }
            _ => output::line(&format!(
                "No {MANIFEST} above it: write one with `name = \"…\"` and `include = [\"{}/service.toml\"]`",
                self.name
            ))?,
        }
        output::line(&format!("Next: `{}` in that folder, then `atoll up`", self.lang.test_command()))
    }
}

/// A name that the application has already would make its manifest invalid.
fn refuse_declared(root: Option<&Path>, name: &str) -> Result<(), Failure> {
    let Some(root) = root else { return Ok(()) };
    let plan = Project::find(Some(root), None)?.load().plan;
    match plan.is_some_and(|plan| plan.services.contains_key(name)) {
        false => Ok(()),
        true => {
            let hint = "choose another name; `atoll plan` shows those that are there".to_owned();
            Err(Failure::new(format!("the application has a service `{name}` already")).hint(hint))
        }
    }
}

fn create(folder: &Path, files: &[(&str, String)]) -> Result<(), Failure> {
    fs::create_dir(folder).map_err(|error| {
        let failure = Failure::new(format!("cannot create {}", folder.display()));
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                failure.because(error).hint("choose another name, or another folder with `--into`".to_owned())
            }
            _ => failure.because(error),
        }
    })?;
    for (name, text) in files {
        let path = folder.join(name);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        made.map_err(|error| Failure::new(format!("cannot write {}", path.display())).because(error))?;
    }
    Ok(())
}

/// What became of the line in the root manifest.
enum Outcome {
    Included,
    /// The line to add.
    ByHand(String),
}

/// Brings the new file into the root manifest, unless a pattern of it does so already.
fn include(root: &Path, folder: &Path) -> Result<Outcome, Failure> {
    let file = folder.join(template::MANIFEST);
    let project = Project::find(Some(root), None)?;
    if project.load().sources.files.contains_key(&file) {
        return Ok(Outcome::Included);
    }
    let cannot = |error| Failure::new(format!("cannot change {}", root.display())).because(error);
    let path = file.strip_prefix(project.root()).unwrap_or(&file).to_string_lossy();
    let escaped = path.replace('[', "[[]").replace('*', "[*]").replace('?', "[?]");
    let text = fs::read_to_string(&project.manifest).map_err(cannot)?;
    match template::include(&text, &escaped) {
        Inclusion::Changed(text) => {
            store(&project.manifest, &text).map_err(cannot)?;
            Ok(Outcome::Included)
        }
        Inclusion::ByHand(line) => Ok(Outcome::ByHand(line)),
    }
}

/// Replaces the file as a whole, its permissions kept.
fn store(path: &Path, text: &str) -> std::io::Result<()> {
    let permissions = fs::metadata(path)?.permissions();
    let beside = path.with_file_name(format!(".{MANIFEST}.{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&beside)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let stored =
        written.and_then(|()| fs::set_permissions(&beside, permissions)).and_then(|()| fs::rename(&beside, path));
    stored.inspect_err(|_| {
        // What is left half written is of no use; the error says what went wrong.
        let _ = fs::remove_file(&beside);
    })
}
