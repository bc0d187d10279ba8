//! YAML as Compose uses it: a bounded tree of strings, lists and maps. Aliases share what they name instead of copying it,
//! so that a file cannot grow while it is read. Knows nothing of Compose.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle};
use thiserror::Error;

/// Limit: lists and maps within each other, what aliases name included.
const DEPTH_MAX: usize = 64;
/// Limit: values of a file, merged ones (`<<`) counted each time.
const VALUES_MAX: usize = 200_000;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    #[error("line {line}: {message}")]
    Syntax { line: usize, message: String },
    #[error("line {line}: `{key}` is written twice")]
    Twice { line: usize, key: String },
    #[error("line {line}: values are nested more than {DEPTH_MAX} deep")]
    Deep { line: usize },
    #[error("it has more than {VALUES_MAX} values")]
    Many,
}

/// One value. Numbers and booleans stay as they are written.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Text(String),
    List(Vec<Rc<Value>>),
    Map(Vec<(String, Rc<Value>)>),
}

impl Value {
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    /// The entries of a map; none for anything else.
    pub fn entries(&self) -> &[(String, Rc<Self>)] {
        if let Self::Map(entries) = self { entries } else { &[] }
    }

    /// The values of a list; none for anything else.
    pub fn items(&self) -> &[Rc<Self>] {
        if let Self::List(items) = self { items } else { &[] }
    }

    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// One text or a list of them, as Compose allows in many places.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => vec![text],
            _ => self.items().iter().filter_map(|item| item.text()).collect(),
        }
    }
}

/// A value and how many values lie within each other in it.
type Measured = (Rc<Value>, usize);

/// A list or map whose end is not read yet.
struct Open {
    anchor: usize,
    height: usize,
    content: Content,
}

enum Content {
    List(Vec<Rc<Value>>),
    Map { entries: Vec<(String, Rc<Value>)>, seen: HashSet<String>, merged: Vec<Rc<Value>>, key: Option<String> },
}

#[derive(Default)]
struct Loader {
    open: Vec<Open>,
    anchors: HashMap<usize, Measured>,
    values: usize,
    root: Option<Rc<Value>>,
}

/// Reads the first document of a file; an empty one is [`Value::Null`].
///
/// # Errors
/// When it is no YAML, a key is written twice, or a limit is exceeded.
pub fn parse(text: &str) -> Result<Rc<Value>, Error> {
    let mut loader = Loader::default();
    for event in Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let (event, span) = event.map_err(|error| Error::Syntax {
            line: error.marker().line(),
            message: error.info().chars().take(200).collect(),
        })?;
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Text(text.into_owned()) };
                loader.add(Rc::new(value), 1, anchor, line)?;
            }
            Event::SequenceStart(anchor, _) => loader.enter(anchor, Content::List(Vec::new()), line)?,
            Event::MappingStart(anchor, _) => {
                let (entries, seen, merged) = (Vec::new(), HashSet::new(), Vec::new());
                loader.enter(anchor, Content::Map { entries, seen, merged, key: None }, line)?;
            }
            Event::SequenceEnd | Event::MappingEnd => loader.leave(line)?,
            Event::Alias(anchor) => {
                let Some((value, height)) = loader.anchors.get(&anchor).cloned() else {
                    return Err(Error::Syntax { line, message: "an alias names what holds it".to_owned() });
                };
                loader.add(value, height, 0, line)?;
            }
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    Ok(loader.root.unwrap_or_else(|| Rc::new(Value::Null)))
}

impl Loader {
    fn count(&mut self, more: usize) -> Result<(), Error> {
        self.values += more;
        if self.values > VALUES_MAX { Err(Error::Many) } else { Ok(()) }
    }

    fn enter(&mut self, anchor: usize, content: Content, line: usize) -> Result<(), Error> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Error::Deep { line });
        }
        self.open.push(Open { anchor, height: 1, content });
        Ok(())
    }

    fn leave(&mut self, line: usize) -> Result<(), Error> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Map { mut entries, mut seen, merged, .. } => {
                for entry in merged.iter().flat_map(|map| map.entries()) {
                    self.count(1)?;
                    // What the map says itself wins, then what is merged first.
                    if seen.insert(entry.0.clone()) {
                        entries.push(entry.clone());
                    }
                }
                Value::Map(entries)
            }
        };
        self.add(Rc::new(value), open.height + 1, open.anchor, line)
    }

    /// Puts a whole value where the next one belongs.
    fn add(&mut self, value: Rc<Value>, height: usize, anchor: usize, line: usize) -> Result<(), Error> {
        self.count(1)?;
        if height > DEPTH_MAX {
            return Err(Error::Deep { line });
        }
        if anchor > 0 {
            self.anchors.insert(anchor, (Rc::clone(&value), height));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(value);
            return Ok(());
        };
        open.height = open.height.max(height);
        match &mut open.content {
            Content::List(items) => items.push(value),
            Content::Map { entries, seen, merged, key } => match key.take() {
                None => {
                    let name = match &*value {
                        Value::Null => String::new(),
                        Value::Text(text) => text.clone(),
                        _ => return Err(Error::Syntax { line, message: "a key is not a text".to_owned() }),
                    };
                    *key = Some(name);
                }
                Some(name) if name == "<<" => match &*value {
                    Value::List(maps) => merged.extend(maps.iter().cloned()),
                    _ => merged.push(value),
                },
                Some(name) if seen.insert(name.clone()) => entries.push((name, value)),
                Some(key) => return Err(Error::Twice { line, key: key.chars().take(100).collect() }),
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_merge_and_their_own_keys_win() {
        let value = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [~, '~', no]\n").expect("YAML");
        let b = value.get("b").expect("b");
        let texts = ["x", "y"].map(|key| b.get(key).and_then(Value::text));
        assert_eq!(texts, [Some("1"), Some("3")]);
        assert_eq!(value.get("c").expect("c").texts(), ["~", "no"]);
    }

    #[test]
    fn bombs_and_broken_files_are_refused() {
        let chain: String = (1..200).map(|i| format!("k{i}: &a{i} [*a{}]\n", i - 1)).collect();
        assert!(matches!(parse(&format!("k0: &a0 [x]\n{chain}")), Err(Error::Deep { .. })));
        let merges: String = (1..20).map(|i| format!("k{i}: &a{i} {{<<: [*a{0}, *a{0}]}}\n", i - 1)).collect();
        assert!(parse(&format!("k0: &a0 {{x: 1}}\n{merges}")).is_ok(), "keys do not multiply");
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(matches!(parse(&"- x\n".repeat(VALUES_MAX + 1)), Err(Error::Many)));
        assert!(matches!(parse("a: 1\na: 2"), Err(Error::Twice { line: 2, .. })));
        assert!(matches!(parse("a: &a [*a]"), Err(Error::Syntax { .. })));
        for broken in ["a: [", "\t- x: y\n\t\tz", "*nothing", "{a: b", "'", "? [a]\n: b", "%YAML 9.9\n"] {
            let _ = parse(broken);
        }
        assert_eq!(parse("").as_deref(), Ok(&Value::Null));
    }
}
