//! `run/switches.json`: the faults that are set and the breakers that are forced, so that the next daemon goes on with them.
//! It is removed with what it is about, when everything is stopped.

use std::io;

use proxy::{Fault, Switches};
use serde::{Deserialize, Serialize};

use crate::project::{Project, kept};

/// What is switched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Switched {
    /// The last fault that was set; none has its number again.
    pub last_id: u64,
    pub switches: Switches,
}

impl Switched {
    /// Reads what a former daemon left. A file that is missing or damaged costs the switches and nothing else.
    pub fn load(project: &Project) -> Self {
        kept::load(&project.switches_file()).valid().unwrap_or_default()
    }

    /// Keeps it, durably; blocking.
    pub fn store(&self, project: &Project) -> io::Result<()> {
        kept::store(&project.switches_file(), self)
    }

    /// The fault of this number.
    pub fn fault(&self, id: u64) -> Option<&Fault> {
        self.switches.faults.iter().find(|fault| fault.id == id)
    }
}

impl Project {
    /// Nothing that could be switched is left.
    pub fn remove_switches(&self) {
        // One that cannot be removed is overwritten by the next change.
        let _ = std::fs::remove_file(self.switches_file());
    }
}
