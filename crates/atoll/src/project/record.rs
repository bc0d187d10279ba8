//! `run/record.json`: what a daemon runs by and how its services stand, for the daemon after it: the manifest may have
//! changed on disk by then, and instances of several manifests may run. It holds what their variables expanded from,
//! secrets included, and is removed with what it tells of.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use manifest::{Plan, Sources};
use serde::{Deserialize, Serialize};
use supervisor::Standing;

use crate::project::{Project, kept};

/// Limit: manifests before the present one that are kept. Instances of an older one go on; what only that declared does not.
pub const RETIRING_MAX: usize = 16;

/// A manifest that was taken over, and what it was compiled from.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub plan: Arc<Plan>,
    pub sources: Arc<Sources>,
}

/// What a daemon leaves to the next.
#[derive(Debug, Default)]
pub struct Record {
    /// What was served, the newest first: the present one, and those before it of which instances still ran.
    pub accepted: Vec<Accepted>,
    pub standing: BTreeMap<String, Standing>,
}

/// The same on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Jobs that are done, and what is wanted, are so until the machine is started anew.
    boot: String,
    accepted: Vec<Sources>,
    standing: BTreeMap<String, Standing>,
}

impl Record {
    /// Reads what a former daemon left. A manifest in it that this version refuses is left out.
    pub fn load(project: &Project) -> Self {
        let Some(Stored { boot: of, accepted, mut standing }) = kept::load(&project.record_file()).valid() else {
            return Self::default();
        };
        if of != boot() {
            standing = standing.into_iter().map(|(name, standing)| (name, standing.of_another_boot())).collect();
        }
        let compiled = accepted.into_iter().map(|sources| {
            let plan = manifest::compile(&sources).0?;
            Some(Accepted { plan: Arc::new(plan), sources: Arc::new(sources) })
        });
        let compiled: Vec<Option<Accepted>> = compiled.collect();
        if compiled.first().is_some_and(Option::is_none) {
            tracing::warn!("what was served last is refused by this version: how its services stood is not known");
            standing = standing.into_iter().map(|(name, standing)| (name, standing.of_another())).collect();
        }
        Self { accepted: compiled.into_iter().flatten().collect(), standing }
    }

    /// Its form on disk.
    pub fn to_stored(&self) -> Stored {
        Stored { boot: boot(), accepted: self.accepted.iter().map(settled).collect(), standing: self.standing.clone() }
    }
}

impl Project {
    /// Nothing of what the record tells is left.
    pub fn remove_record(&self) {
        // One that cannot be removed is not looked at while nothing runs.
        let _ = std::fs::remove_file(self.record_file());
    }
}

impl Stored {
    /// The same but for how the services stand.
    pub fn with(self, standing: BTreeMap<String, Standing>) -> Self {
        Self { standing, ..self }
    }

    /// Replaces the file, durably; blocking.
    pub fn store(&self, project: &Project) -> io::Result<()> {
        kept::store(&project.record_file(), self)
    }
}

/// Names this start of the machine (proc(5), random(4)).
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// The sources of a plan with the ports that it was given, and without the variables that no file names.
fn settled(accepted: &Accepted) -> Sources {
    let mut sources = Sources::clone(&accepted.sources);
    sources.ports.ledger.clone_from(&accepted.plan.ports);
    sources.ports.busy.clear();
    let texts: Vec<&String> = sources.files.values().flatten().collect();
    let is_named = |name: &String| texts.iter().any(|text| text.contains(name.as_str()));
    let named = sources.environment.iter().filter(|(name, _)| is_named(name));
    sources.environment = named.map(|(name, value)| (name.clone(), value.clone())).collect();
    sources
}
