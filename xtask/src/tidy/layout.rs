//! What files are called and how they begin, and that ARCHITECTURE.md knows every crate.

use super::{Tree, Violation};

/// Limit: lines of a file's head. What takes longer belongs in ARCHITECTURE.md.
const HEAD_LINES_MAX: usize = 8;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["common", "core", "helpers", "misc", "types", "utils"];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let rust = tree.files.iter().filter(|(path, _)| path.ends_with(".rs"));
    let mut found: Vec<Violation> = rust.flat_map(|(path, text)| check_file(path, text)).collect();
    let architecture = tree.files.get("ARCHITECTURE.md").map_or("", String::as_str);
    for name in tree.files.keys().filter_map(|path| crate_name(path)) {
        if !is_named(architecture, name) {
            found.push(Violation {
                subject: "ARCHITECTURE.md".to_owned(),
                line: 0,
                rule: "architecture",
                message: format!("does not name `crates/{name}`"),
            });
        }
    }
    found
}

/// The crate whose manifest this is.
pub(super) fn crate_name(path: &str) -> Option<&str> {
    let name = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
    (!name.contains('/')).then_some(name)
}

fn check_file(path: &str, text: &str) -> Vec<Violation> {
    let violation = |rule, message: String| Violation { subject: path.to_owned(), line: 0, rule, message };
    let mut found = Vec::new();
    let head = text.lines().take_while(|line| line.starts_with("//!")).count();
    if head == 0 {
        found.push(violation("head", "does not begin with a `//!` that says what it owns".to_owned()));
    } else if head > HEAD_LINES_MAX {
        found.push(violation("head", format!("its `//!` has {head} lines, {HEAD_LINES_MAX} are allowed")));
    }
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    if stem == "mod" {
        found.push(violation("name", "`foo/mod.rs` is called `foo.rs` here".to_owned()));
    }
    if EMPTY_NAMES.contains(&stem) {
        found.push(violation("name", format!("`{stem}` says nothing about what is inside")));
    }
    found
}

/// Whether a crate stands there as a crate, rather than as a word of a sentence.
fn is_named(architecture: &str, name: &str) -> bool {
    let forms = [format!("`{name}`"), format!("crates/{name}"), format!(" {name}/")];
    forms.iter().any(|form| architecture.contains(form.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(tree: &Tree) -> Vec<(String, &'static str)> {
        check(tree).into_iter().map(|violation| (violation.subject, violation.rule)).collect()
    }

    #[test]
    fn a_file_begins_with_its_purpose() {
        let long = "//! More.\n".repeat(9);
        for (text, bad) in [("//! Head.\n", false), ("fn a() {}\n//! Late.\n", true), ("", true), (long.as_str(), true)]
        {
            let expected: &[_] = if bad { &[("src/a.rs".to_owned(), "head")] } else { &[] };
            assert_eq!(rules(&Tree::of([("src/a.rs", text)])), expected, "{text}");
        }
    }

    #[test]
    fn empty_names_and_mod_files_are_refused() {
        for path in ["crates/kit/src/a/mod.rs", "crates/kit/src/utils.rs"] {
            assert_eq!(rules(&Tree::of([(path, "//! Head.\n")])), [(path.to_owned(), "name")]);
        }
    }

    #[test]
    fn every_crate_stands_in_the_architecture() {
        let named = |text| {
            let tree =
                Tree::of([("crates/kit/Cargo.toml", ""), ("crates/kit/x/Cargo.toml", ""), ("ARCHITECTURE.md", text)]);
            rules(&tree).is_empty()
        };
        assert!(named("- `kit`: the toolkit") && named("```\ncrates/\n  kit/   L0\n```"));
        assert!(!named("") && !named("a kit of parts"));
    }
}
