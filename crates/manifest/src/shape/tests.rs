//! The shape is held to itself, to the fixture that has every key, and to the reference in the manual.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use toml::de::{DeTable, DeValue};

use super::{Kind, Need, OneOf, ROOT, Table};
use crate::text::{format_cpu, format_size, parse_duration, parse_size};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The tables within a value.
fn tables_of(kind: &'static Kind) -> Vec<&'static Table> {
    match kind {
        Kind::Table(table) => vec![*table],
        Kind::List(kind, _) => tables_of(kind),
        Kind::Map(map) => tables_of(&map.value),
        Kind::Either(one, other) => tables_of(one).into_iter().chain(tables_of(other)).collect(),
        _ => Vec::new(),
    }
}

/// Every table once, in the order in which they appear.
fn all() -> Vec<&'static Table> {
    let mut found: Vec<&'static Table> = vec![&ROOT];
    let mut at = 0;
    while let Some(table) = found.get(at) {
        for inner in table.keys.iter().flat_map(|key| tables_of(&key.kind)) {
            if !found.iter().any(|known| known.name == inner.name) {
                found.push(inner);
            }
        }
        at += 1;
    }
    found
}

#[test]
fn defaults_and_exclusions_fit_their_tables() {
    for table in all() {
        let names: BTreeSet<&str> = table.keys.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), table.keys.len(), "{}", table.name);
        assert!(table.later.iter().all(|later| !names.contains(later)), "{}", table.name);
        assert!(table.one_of.keys().iter().all(|key| names.contains(key)), "{}", table.name);
        for key in table.keys {
            let Need::Default(text) = key.need else { continue };
            let fits = match &key.kind {
                Kind::Duration { min, max } => parse_duration(text).is_some_and(|d| d >= *min && d <= *max),
                Kind::Choice { known, .. } => known.contains(&text),
                Kind::Integer { min, max } => text.parse().is_ok_and(|n: i64| n >= *min && n <= *max),
                Kind::Number(known) => text.parse().is_ok_and(|n| known.contains(&n)),
                Kind::Size { min, max } => parse_size(text).is_some_and(|size| size >= *min && size <= *max),
                Kind::Boolean => text.parse::<bool>().is_ok(),
                Kind::Share { min, max } => text.parse().is_ok_and(|part: f64| part >= *min && part <= *max),
                Kind::Key { words, .. } => words.contains(&text),
                Kind::Text => true,
                _ => false,
            };
            assert!(fits, "{}.{} = {text}", table.name, key.name);
        }
    }
}

#[test]
fn one_fixture_has_every_key() {
    let text = std::fs::read_to_string(folder().join("tests/golden/every_key.toml")).unwrap();
    let text = text.split("#- file").next().unwrap();
    let mut used = BTreeSet::new();
    collect(&ROOT, &DeTable::parse(text).unwrap().into_inner(), &mut used);
    let known = all().into_iter().flat_map(|table| table.keys.iter().map(|key| (table.name, key.name)));
    let missing: Vec<_> = known.filter(|key| !used.contains(key)).collect();
    assert_eq!(
        missing,
        [("broker", "url"), ("probe", "tcp"), ("readiness probe", "http"), ("readiness probe", "exec")],
        "in every_key.toml"
    );
}

fn collect(shape: &'static Table, entries: &DeTable<'_>, used: &mut BTreeSet<(&str, &str)>) {
    for (name, value) in entries {
        let key = shape.key(name.get_ref()).unwrap_or_else(|| panic!("{} is no key", name.get_ref()));
        used.insert((shape.name, key.name));
        descend(&key.kind, value.get_ref(), used);
    }
}

fn descend(kind: &'static Kind, value: &DeValue<'_>, used: &mut BTreeSet<(&str, &str)>) {
    match (kind, value) {
        (Kind::Table(shape), DeValue::Table(entries)) => collect(shape, entries, used),
        (Kind::Map(map), DeValue::Table(entries)) => {
            entries.values().for_each(|v| descend(&map.value, v.get_ref(), used));
        }
        (Kind::List(kind, _), DeValue::Array(items)) => items.iter().for_each(|v| descend(kind, v.get_ref(), used)),
        _ => {}
    }
}

/// What stands before it is written by hand.
const GENERATED: &str =
    "<!-- From here on made from the compiler's own table of keys: UPDATE_EXPECT=1 cargo test -p manifest -->\n";

#[test]
fn the_reference_lists_every_key() {
    let path: PathBuf = folder().join("../../docs/manifest.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let by_hand = page.split(GENERATED).next().unwrap();
    expect_file![path].assert_eq(&format!("{by_hand}{GENERATED}{}", reference()));
}

fn reference() -> String {
    let mut page = String::new();
    for table in all() {
        let _ = write!(page, "\n## {}\n\n{}\n\n", table.name, table.doc);
        page.push_str("| key | value | not written | meaning |\n|---|---|---|---|\n");
        for key in table.keys {
            let default = match key.need {
                Need::Required => "an error".to_owned(),
                Need::Optional => String::new(),
                Need::Default(text) => format!("`{text}`"),
            };
            let _ = writeln!(page, "| `{}` | {} | {default} | {} |", key.name, describe(&key.kind), key.doc);
        }
        let keys: Vec<String> = table.one_of.keys().iter().map(|key| format!("`{key}`")).collect();
        let _ = match table.one_of {
            OneOf::Nothing => Ok(()),
            OneOf::Exactly(_) => writeln!(page, "\nExactly one of {} is written.", keys.join(", ")),
            OneOf::AtMost(_) => writeln!(page, "\nAt most one of {} is written.", keys.join(", ")),
        };
        if !table.later.is_empty() {
            let later: Vec<String> = table.later.iter().map(|key| format!("`{key}`")).collect();
            let _ = writeln!(page, "\nKnown, and not supported by this version: {}.", later.join(", "));
        }
    }
    page
}

fn describe(kind: &'static Kind) -> String {
    let text = crate::text::format_duration;
    match kind {
        Kind::Text => "string".to_owned(),
        Kind::Command => "command".to_owned(),
        Kind::Duration { min, max } => format!("duration, {} to {}", text(*min), text(*max)),
        Kind::Choice { known, .. } => known.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", "),
        Kind::Integer { min, max } => format!("integer, {min} to {max}"),
        Kind::Number(known) => known.iter().map(i64::to_string).collect::<Vec<_>>().join(", "),
        Kind::True => "`true`".to_owned(),
        Kind::Boolean => "`true` or `false`".to_owned(),
        Kind::Size { min, max } => format!("size, {} to {}", format_size(*min), format_size(*max)),
        Kind::Cpu { min, max } => format!("CPU, {} to {}", format_cpu(*min), format_cpu(*max)),
        Kind::Share { min, max } => format!("number, {min} to {max}"),
        Kind::Key { .. } => kind.forms().iter().map(|form| format!("`\"{form}\"`")).collect::<Vec<_>>().join(", "),
        Kind::List(kind, max) => format!("list of at most {max}: {}", describe(kind)),
        Kind::Table(table) => format!("[{}](#{})", table.name, table.name.replace(' ', "-")),
        Kind::Map(map) => format!("table by {}: {}", map.key, describe(&map.value)),
        Kind::Either(one, other) => format!("{}; or {}", describe(one), describe(other)),
    }
}
