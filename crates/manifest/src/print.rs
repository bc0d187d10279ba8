//! The printed form of a plan: TOML, complete, and without secrets. It is also what golden tests compare.

use std::fmt;
use std::path::Path;

use serde::{Serialize, Serializer};

use crate::plan::{Origin, Plan, Variable};

/// Stands for a value that may be a secret.
const HIDDEN: &str = "<hidden>";

impl Plan {
    /// Prints the plan as TOML. Values from an `env_file` and from Atoll's environment are replaced by a mark.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# the plan cannot be printed: {error}\n"))
    }
}

impl Variable {
    /// The value, or a mark in its place where it may be a secret.
    #[must_use]
    pub fn shown(&self) -> &str {
        match self.origin {
            Origin::Given | Origin::Manifest => &self.value,
            Origin::EnvFile => HIDDEN,
        }
    }
}

impl Serialize for Variable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variable").field("value", &self.shown()).field("origin", &self.origin).finish()
    }
}

/// For `serialize_with`: a path that is not UTF-8 prints with replacement characters rather than not at all.
pub(crate) fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// The same for one that may be missing.
pub(crate) fn path_optional<S: Serializer>(path: &Option<std::path::PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.serialize_some(&path.to_string_lossy()),
        None => serializer.serialize_none(),
    }
}
