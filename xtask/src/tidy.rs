//! The rules of the house that a machine can check: pure functions of the repository's text, run by `cargo xtask tidy`
//! and, over the real repository and over planted mistakes, by this package's tests.
//! What is wrong for now stands in `xtask/tidy-exceptions.txt`, which may only shrink.

mod arrows;
mod exceptions;
mod layout;
mod sizes;
mod source;
mod text;
mod words;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::phase::{command, output};
use source::Source;

const EXCEPTIONS: &str = "xtask/tidy-exceptions.txt";

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// What an exception names: a path, or `path::function`.
    subject: String,
    /// From 1; 0 for the whole file.
    line: usize,
    rule: &'static str,
    message: String,
}

/// The text of the repository: every file that git has or would add, by its path from the root.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let list = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let mut files = BTreeMap::new();
        for path in output(command(root, &list))?.split_terminator('\0') {
            // A file that is deleted but not yet committed as such is listed too; one that is not text has no lines.
            if let Ok(text) = std::fs::read_to_string(root.join(path)) {
                files.insert(path.to_owned(), text);
            }
        }
        if files.is_empty() {
            bail!("git lists no file in {}", root.display());
        }
        Ok(Self { files })
    }

    /// Whether a library has an example in its documentation that is compiled.
    pub(crate) fn has_doc_tests(&self) -> bool {
        self.files.iter().any(|(path, text)| path.ends_with(".rs") && path.contains("/src/") && has_example(text))
    }

    fn sources(&self) -> impl Iterator<Item = Source<'_>> {
        self.files.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(path, text)| Source::parse(path, text))
    }
}

/// Every second fence closes a block; the others say what is in it.
fn has_example(text: &str) -> bool {
    let docs = text.lines().filter_map(|line| line.trim_start().strip_prefix("///").or(line.strip_prefix("//!")));
    let fences = docs.filter_map(|line| line.trim().strip_prefix("```"));
    fences.step_by(2).any(|info| matches!(info, "" | "rust" | "no_run" | "should_panic" | "compile_fail"))
}

/// Prints what is wrong and fails if anything is.
pub(crate) fn run(root: &Path) -> Result<()> {
    let violations = check(&Tree::load(root)?).context("cannot check the repository")?;
    for violation in &violations {
        let Violation { subject, line, rule, message } = violation;
        let path = subject.split("::").next().unwrap_or(subject);
        eprintln!("{path}:{line}: {message} [{rule}]");
    }
    match violations.len() {
        0 => Ok(()),
        count => bail!("{count} broken rules"),
    }
}

/// Everything that is wrong and not excepted, and every exception that is not needed, in the order of the paths.
fn check(tree: &Tree) -> Result<Vec<Violation>> {
    let mut found = arrows::check(tree)?;
    found.extend(layout::check(tree));
    found.extend(text::check(tree));
    for source in tree.sources() {
        found.extend(sizes::check(&source));
        found.extend(words::check(&source));
    }
    let listed = tree.files.get(EXCEPTIONS).map_or("", String::as_str);
    let mut left = exceptions::apply(listed, found);
    left.sort();
    Ok(left)
}

#[cfg(test)]
impl Tree {
    /// A tree of planted files.
    fn of<const N: usize>(files: [(&str, &str); N]) -> Self {
        Self { files: files.map(|(path, text)| (path.to_owned(), text.to_owned())).into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let tree = Tree::load(crate::root()).expect("loaded");
        assert!(tree.files.contains_key("xtask/src/tidy.rs"));
        let violations = check(&tree).expect("checked");
        assert!(violations.is_empty(), "{violations:#?}");
    }

    #[test]
    fn only_blocks_of_rust_are_examples() {
        let has = |text: &str| Tree::of([("crates/kit/src/a.rs", text)]).has_doc_tests();
        assert!(has("//! Head.\n/// ```\n/// a();\n/// ```\n") && has("/// ```text\n/// ```\n    /// ```no_run\n"));
        assert!(!has("/// ```text\n/// x\n/// ```\nlet a = \"```\";\n"));
    }

    #[test]
    fn planted_violations_are_found_and_exceptions_lift_them() {
        let bad = "fn main() { todo!() }\n";
        let rules = |exceptions: &str| -> Vec<_> {
            let tree = Tree::of([("crates/kit/src/a.rs", bad), (EXCEPTIONS, exceptions)]);
            check(&tree).expect("checked").into_iter().map(|violation| (violation.subject, violation.rule)).collect()
        };
        let subject = "crates/kit/src/a.rs".to_owned();
        assert_eq!(rules(""), [(subject.clone(), "head"), (subject.clone(), "word")]);
        assert_eq!(rules("# why\nhead crates/kit/src/a.rs\n"), [(subject, "word")]);
    }
}
