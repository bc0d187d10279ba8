//! Which application a command speaks of, and which of its services.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use manifest::{Color, Plan, Severity};

use crate::cli::Failure;
use crate::project::{Loaded, MANIFEST, Project};

/// A project and the services that were named; none means all.
pub struct Target {
    pub project: Project,
    pub services: Vec<String>,
}

/// Words that name the application and some of its services; every command but `logs` takes them so.
#[derive(Debug, Args)]
pub struct Words {
    /// Folder of the application, then services; all if none is named
    #[arg(value_name = "SERVICE")]
    words: Vec<String>,
    #[command(flatten)]
    place: Place,
}

/// For commands about the application as a whole.
#[derive(Debug, Args)]
pub struct Folder {
    /// Folder of the application
    #[arg(value_name = "FOLDER")]
    folder: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// For commands whose words name something else.
#[derive(Debug, Args)]
pub struct Place {
    /// The manifest; without it the nearest atoll.toml upwards
    #[arg(short, long, env = "ATOLL_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Place {
    /// The application, and the services that `words` name of it; see [`Target::find`].
    pub fn target(&self, words: &[String]) -> Result<Target, Failure> {
        Target::find(self.file.as_deref(), words)
    }
}

impl Words {
    pub fn target(&self) -> Result<Target, Failure> {
        Target::find(self.place.file.as_deref(), &self.words)
    }
}

impl Folder {
    pub fn target(&self) -> Result<Target, Failure> {
        Target::find(self.place.file.as_deref(), self.folder.as_slice())
    }
}

impl Target {
    /// Splits the words after a command into the folder of an application and names of services.
    ///
    /// The first word is a folder if it holds a manifest or looks like a path; a service's name never does.
    pub fn find(file: Option<&Path>, words: &[String]) -> Result<Self, Failure> {
        let is_folder = |word: &&String| word.contains(['/', '.']) || Path::new(word).join(MANIFEST).is_file();
        let folder = words.first().filter(is_folder);
        let services = words[usize::from(folder.is_some())..].to_vec();
        let project = Project::find(file, folder.map(Path::new))?;
        Ok(Self { project, services })
    }

    /// Reads and compiles the manifest; prints every diagnostic, and fails if one is an error.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let loaded = self.project.load();
        print_diagnostics(&loaded);
        match loaded.plan {
            Some(plan) => {
                self.check_names(plan.services.keys())?;
                Ok(plan)
            }
            None => Err(refused(&loaded)),
        }
    }

    /// Refuses names that are not among the declared ones.
    pub fn check_names<'a>(&self, declared: impl Iterator<Item = &'a String> + Clone) -> Result<(), Failure> {
        match self.services.iter().find(|name| !declared.clone().any(|known| known == *name)) {
            None => Ok(()),
            Some(unknown) => {
                let known: Vec<&str> = declared.map(String::as_str).collect();
                let failure = Failure::new(format!("there is no service `{unknown}` in this application"));
                Err(failure.hint(format!("its services are {}", known.join(", "))))
            }
        }
    }
}

/// How a refused manifest ends a command, after its diagnostics were printed.
pub fn refused(loaded: &Loaded) -> Failure {
    let errors = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
    let noun = if errors == 1 { "error" } else { "errors" };
    Failure::new(format!("the manifest has {errors} {noun}; nothing was changed"))
}

/// Prints diagnostics to stderr, the manifest's own order kept.
pub fn print_diagnostics(loaded: &Loaded) {
    let mut stderr = anstream::stderr().lock();
    for diagnostic in &loaded.diagnostics {
        // The stream takes the colours out again where they are not wanted.
        let _ = writeln!(stderr, "{}\n", manifest::render(diagnostic, &loaded.sources, Color::Always).trim_end());
    }
}
