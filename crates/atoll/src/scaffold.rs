//! First files of an application: a manifest made from what already describes one (`atoll init`), and the folder of a
//! new service (`atoll new`). Reads a folder and makes texts; `cli::init` and `cli::new` write them. Runs nothing.

mod cargo;
mod compose;
pub mod draft;
pub mod folder;
mod node;
mod procfile;
mod python;
pub mod template;
#[cfg(test)]
mod tests;
mod words;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use manifest::{Diagnostic, Severity, Sources};
use thiserror::Error;

use draft::Draft;
use folder::Folder;

/// Limit: folders below the given one that are looked at when that one itself has nothing.
const FOLDERS_MAX: usize = 50;

#[derive(Debug, Error)]
pub enum Error {
    #[error("{} has nothing that says what to start", path.display())]
    Nothing { path: PathBuf },
    #[error("{file} has no service that Atoll could start")]
    NoService { file: String, notes: Vec<String> },
    #[error("cannot use {file}")]
    Yaml { file: String, source: yaml::Error },
    #[error("cannot use {file}: {why}")]
    Form { file: String, why: String },
    #[error(transparent)]
    Folder(#[from] folder::Error),
}

impl Error {
    /// One thing to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Nothing { .. } => Some(
                "init reads compose.yaml, Procfile, package.json, Cargo.toml and Python projects; \
                 without any, begin with `atoll new service hello --lang python`"
                    .to_owned(),
            ),
            Self::NoService { notes, .. } => {
                let first = notes.first().map(|note| format!("{note}; "));
                Some(format!("{}write `[services.NAME]` with a `command` by hand", first.unwrap_or_default()))
            }
            Self::Yaml { .. } | Self::Form { .. } => Some("correct that file, then run `atoll init` again".to_owned()),
            Self::Folder(_) => None,
        }
    }
}

/// Makes a first manifest from what is in a folder. Of Compose file and Procfile the first one found says all;
/// otherwise every kind of project in the folder, and if there is none, in the folders right below, gives services.
///
/// # Errors
/// When nothing is found, or what is found cannot be read or starts nothing.
pub fn draft(folder: &Folder) -> Result<Draft, Error> {
    let mut draft = match (compose::draft(folder)?, procfile::draft(folder)?) {
        (Some(mut draft), procfile) => {
            if procfile.is_some() {
                draft.note("Procfile was not read: the Compose file says more");
            }
            draft
        }
        (None, Some(draft)) => draft,
        (None, None) => projects(folder)?,
    };
    draft.finish(folder);
    if draft.services.iter().any(|service| service.command.is_some()) {
        return Ok(draft);
    }
    Err(Error::NoService { file: draft.sources.join(", "), notes: draft.all_notes() })
}

fn projects(folder: &Folder) -> Result<Draft, Error> {
    let mut draft = Draft::default();
    look(folder, "", &mut draft)?;
    if draft.sources.is_empty() {
        for below in folder.folders("*").into_iter().take(FOLDERS_MAX) {
            look(folder, &below, &mut draft)?;
        }
    }
    if draft.sources.is_empty() {
        return Err(Error::Nothing { path: folder.path().to_owned() });
    }
    Ok(draft)
}

/// Looks at one folder, `""` for the root itself.
fn look(root: &Folder, path: &str, draft: &mut Draft) -> Result<(), Error> {
    node::add(root, path, draft)?;
    cargo::add(root, path, draft)?;
    python::add(root, path, draft)
}

/// What one folder alone would be started with: for a service of which only the build context is known.
fn command_of(root: &Folder, path: &str) -> Option<draft::Service> {
    let mut draft = Draft::default();
    // A broken file is none: it is not what was asked for.
    look(root, path, &mut draft).ok()?;
    let mut services = draft.services.into_iter().filter(|service| service.command.is_some());
    services.next().filter(|_| services.next().is_none())
}

/// The mistakes that the compiler finds in a manifest and in the files that it names.
pub fn mistakes(text: &str, files: &[(&str, &str)]) -> Vec<Diagnostic> {
    let root = Path::new("/application/atoll.toml");
    let file = |(name, text): &(&str, &str)| (root.with_file_name(name), Ok((*text).to_owned()));
    let mut all: BTreeMap<PathBuf, Result<String, String>> = files.iter().map(file).collect();
    all.insert(root.to_owned(), Ok(text.to_owned()));
    let ports = manifest::Ports { range: 20_000..=29_999, first: 20_000, ledger: BTreeMap::new(), busy: [].into() };
    let sources = Sources {
        root: root.to_owned(),
        files: all,
        globs: BTreeMap::new(),
        environment: BTreeMap::new(),
        ports,
        scale: BTreeMap::new(),
    };
    let (_, mut diagnostics) = manifest::compile(&sources);
    diagnostics.retain(|diagnostic| diagnostic.severity == Severity::Error);
    diagnostics
}

/// What the compiler says against the name of a service, if anything.
pub fn refused_name(name: &str) -> Option<Diagnostic> {
    let text = format!("name = \"x\"\n[services.{}]\ncommand = \"x\"\n", draft::quoted(name));
    mistakes(&text, &[]).into_iter().next()
}
