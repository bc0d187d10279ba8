//! The printed form of a plan: TOML, complete, and without secrets. It is also what golden tests compare. What tells two
//! plans apart, secrets included, is the fingerprint.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::Path;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::plan::{Origin, Plan, Text, Variable};

/// Stands for a value that may be a secret.
const HIDDEN: &str = "<hidden>";

impl Plan {
    /// Prints the plan as TOML. Values from an `env_file` and from Atoll's environment are replaced by a mark.
    ///
    /// Laid out as a manifest is: a header for each named thing and a line for each of its keys. What is empty is left out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let sections = match Table::try_from(self) {
            Ok(sections) => sections,
            Err(error) => return format!("# the plan cannot be printed: {error}\n"),
        };
        let mut out = String::new();
        for (name, value) in &sections {
            match value {
                Value::Array(items) => items.iter().for_each(|item| section(&mut out, &format!("[[{name}]]"), item)),
                Value::Table(entries)
                    if matches!(name.as_str(), "services" | "databases" | "topics" | "subscriptions") =>
                {
                    entries.iter().for_each(|(key, item)| section(&mut out, &format!("[{name}.{}]", bare(key)), item));
                }
                Value::Table(_) => section(&mut out, &format!("[{name}]"), value),
                _ => line(&mut out, name, value),
            }
        }
        out
    }

    /// The SHA-256 of everything in the plan, in hex: equal for equal plans, and another one after any change, also of
    /// what [`Plan::to_toml`] hides. For programs of one version; it is not for show, because a guessed secret could be
    /// tried against it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut content = Content(Sha256::new());
        self.hash(&mut content);
        content.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Takes in what `#[derive(Hash)]` gives of every field. Its own `finish` is never asked for.
struct Content(Sha256);

impl Hasher for Content {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

fn section(out: &mut String, header: &str, value: &Value) {
    out.push_str(&format!("\n{header}\n"));
    let Value::Table(entries) = value else { return };
    for (name, value) in entries {
        match value {
            Value::Table(entries) => {
                entries.iter().for_each(|(key, value)| line(out, &format!("{name}.{}", bare(key)), value));
            }
            Value::Array(items) if items.len() > 1 && items.iter().all(Value::is_table) => {
                out.push_str(&format!("{} = [\n", bare(name)));
                items.iter().for_each(|item| out.push_str(&format!("    {},\n", full(item))));
                out.push_str("]\n");
            }
            _ => line(out, &bare(name), value),
        }
    }
}

fn line(out: &mut String, key: &str, value: &Value) {
    let empty = match value {
        Value::Array(items) => items.is_empty(),
        Value::Table(entries) => entries.is_empty(),
        _ => false,
    };
    if !empty {
        out.push_str(&format!("{key} = {}\n", full(value)));
    }
}

/// On one line, without what is empty.
fn full(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(full).collect::<Vec<_>>().join(", ")),
        Value::Table(entries) => {
            let is_empty = |value: &Value| {
                value.as_array().is_some_and(Vec::is_empty) || value.as_table().is_some_and(Table::is_empty)
            };
            let entries = entries.iter().filter(|(_, value)| !is_empty(value));
            let entries: Vec<String> = entries.map(|(key, value)| format!("{} = {}", bare(key), full(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// A key, in quotes where it needs them.
fn bare(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if plain { key.to_owned() } else { Value::from(key).to_string() }
}

impl Text {
    /// The value, or a mark in its place where it may be a secret.
    #[must_use]
    pub fn shown(&self) -> &str {
        if self.expanded { HIDDEN } else { &self.value }
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.shown(), f)
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

/// The same for many.
pub(crate) fn paths<S: Serializer>(paths: &[std::path::PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

/// The same for one that may be missing.
pub(crate) fn path_optional<S: Serializer>(
    path: &Option<std::path::PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.serialize_some(&path.to_string_lossy()),
        None => serializer.serialize_none(),
    }
}
