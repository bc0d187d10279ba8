//! What a manifest may contain, as data. The reader, the JSON Schema and the reference are all made from [`ROOT`],
//! so they cannot disagree. Read by `shape::check` and `reader`; it holds no rule about how keys act together.

use std::time::Duration;

pub(crate) mod check;
mod databases;
mod keys;
mod messaging;
mod policy;
#[cfg(test)]
mod tests;

pub(crate) use keys::{EDGE, ROOT};
pub(crate) use messaging::TOPIC;

/// A table with known keys.
#[derive(Debug)]
pub(crate) struct Table {
    /// Unique; names it in the reference and in the schema.
    pub name: &'static str,
    pub doc: &'static str,
    pub keys: &'static [Key],
    /// Keys of the design that this version does not have.
    pub later: &'static [&'static str],
    pub one_of: OneOf,
}

/// Keys of a table that exclude each other.
#[derive(Debug)]
pub(crate) enum OneOf {
    Nothing,
    Exactly(&'static [&'static str]),
    AtMost(&'static [&'static str]),
}

impl OneOf {
    pub(crate) const fn keys(&self) -> &'static [&'static str] {
        match self {
            Self::Nothing => &[],
            Self::Exactly(keys) | Self::AtMost(keys) => keys,
        }
    }
}

/// One key of a table.
#[derive(Debug)]
pub(crate) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub need: Need,
    pub doc: &'static str,
}

/// What stands for a key that is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    Optional,
    /// The value, as it would be written, without quotes.
    Default(&'static str),
}

/// A table whose keys are chosen by the user.
#[derive(Debug)]
pub(crate) struct Map {
    /// What a key is, such as "service".
    pub key: &'static str,
    pub value: Kind,
    pub max: usize,
}

/// What a value may be.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Any string. `${…}` expands in it.
    Text,
    /// A string that `${…}` may stay in until an instance starts.
    Command,
    Duration {
        min: Duration,
        max: Duration,
    },
    Choice {
        known: &'static [&'static str],
        later: &'static [&'static str],
    },
    Integer {
        min: i64,
        max: i64,
    },
    /// One of a few integers.
    Number(&'static [i64]),
    /// Only `true`.
    True,
    Boolean,
    /// Bytes, with a unit.
    Size {
        min: u64,
        max: u64,
    },
    /// Thousandths of a core, as a string or a number.
    Cpu {
        min: u32,
        max: u32,
    },
    /// A part of a whole: an integer or a float.
    Share {
        min: f64,
        max: f64,
    },
    /// What of a request tells it from others: a word, or the name of something behind one of the prefixes and a dot.
    Key {
        words: &'static [&'static str],
        prefixes: &'static [&'static str],
        /// Prefixes of the design that this version does not have.
        later: &'static [&'static str],
    },
    List(&'static Kind, usize),
    Table(&'static Table),
    Map(&'static Map),
    Either(&'static Kind, &'static Kind),
}

impl Table {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The default of a key, as it would be written.
    pub(crate) fn default_of(&self, name: &str) -> Option<&'static str> {
        match self.key(name)?.need {
            Need::Default(text) => Some(text),
            _ => None,
        }
    }
}

impl Kind {
    /// As messages name it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Text | Self::Command => "a string".to_owned(),
            Self::Duration { .. } => "a duration in quotes, such as \"500ms\"".to_owned(),
            Self::Choice { known: [only], .. } => format!("`\"{only}\"`"),
            Self::Choice { known, .. } => format!("one of {}", crate::text::quoted_list(known)),
            Self::Integer { .. } | Self::Number(_) => "an integer".to_owned(),
            Self::True => "`true`".to_owned(),
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::Size { .. } => "a size in quotes, such as \"128MiB\"".to_owned(),
            Self::Cpu { .. } => "an amount of CPU, such as \"500m\" or 0.5".to_owned(),
            Self::Share { min, max } => format!("a number from {min} to {max}"),
            Self::Key { .. } => format!("one of {}", crate::text::quoted_list(&self.forms())),
            Self::List(Self::Table(_), _) => "a list of tables".to_owned(),
            Self::List(Self::Integer { .. }, _) => "a list of integers".to_owned(),
            Self::List(Self::Duration { .. }, _) => "a list of durations in quotes, such as \"500ms\"".to_owned(),
            Self::List(..) => "a list of strings".to_owned(),
            Self::Table(_) | Self::Map(_) => "a table".to_owned(),
            Self::Either(one, other) => format!("{} or {}", one.name(), other.name()),
        }
    }
    /// What a [`Kind::Key`] may look like.
    pub(crate) fn forms(&self) -> Vec<String> {
        let Self::Key { words, prefixes, .. } = self else { return Vec::new() };
        let named = prefixes.iter().map(|prefix| format!("{prefix}.<name>"));
        words.iter().map(|word| (*word).to_owned()).chain(named).collect()
    }
}
