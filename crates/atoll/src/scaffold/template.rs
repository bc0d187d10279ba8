//! Services to begin with, one a language: plain programs that speak HTTP and read their environment, with tests of their
//! own. Also the line that brings one into a root manifest. Pure; `cli::new` writes.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::draft::quoted;

/// The part of the manifest in a service's own folder.
pub const MANIFEST: &str = "service.toml";
/// Stands for the service's name in a template; with `_` for `-` in [`CRATE`].
const NAME: &str = "hello-service";
const CRATE: &str = "hello_service";

/// What a service can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    Rust,
    Python,
    Node,
}

impl Language {
    pub fn test_command(self) -> &'static str {
        match self {
            Self::Rust => "cargo test",
            Self::Python => "python3 -m unittest",
            Self::Node => "node --test",
        }
    }

    fn templates(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Rust => &[
                ("service.toml", include_str!("template/rust/service.toml")),
                ("Cargo.toml", include_str!("template/rust/cargo.toml")),
                ("src/main.rs", include_str!("template/rust/src/main.rs")),
                ("src/lib.rs", include_str!("template/rust/src/lib.rs")),
                ("src/upstream.rs", include_str!("template/rust/src/upstream.rs")),
                ("tests/service.rs", include_str!("template/rust/tests/service.rs")),
            ],
            Self::Python => &[
                ("service.toml", include_str!("template/python/service.toml")),
                ("main.py", include_str!("template/python/main.py")),
                ("test_main.py", include_str!("template/python/test_main.py")),
            ],
            Self::Node => &[
                ("service.toml", include_str!("template/node/service.toml")),
                ("package.json", include_str!("template/node/package.json")),
                ("server.js", include_str!("template/node/server.js")),
                ("server.test.js", include_str!("template/node/server.test.js")),
            ],
        }
    }
}

/// The files of a new service: path in its folder, and text.
pub fn files(language: Language, name: &str) -> Vec<(&'static str, String)> {
    let identifier = name.replace('-', "_");
    let fill = |text: &str| text.replace(NAME, name).replace(CRATE, &identifier);
    language.templates().iter().map(|(path, text)| (*path, fill(text))).collect()
}

/// What becomes of a root manifest that shall include one more file.
#[derive(Debug, PartialEq, Eq)]
pub enum Inclusion {
    Changed(String),
    /// It cannot be changed with certainty: this line must be added by hand.
    ByHand(String),
}

/// Adds a path to `include`, or `include` itself; everything else stays as it is, comments too.
pub fn include(text: &str, path: &str) -> Inclusion {
    changed(text, path)
        .filter(|changed| included(changed).is_some_and(|all| all.last().is_some_and(|last| last == path)))
        .map_or_else(|| Inclusion::ByHand(format!("include = [{}]", quoted(path))), Inclusion::Changed)
}

fn changed(text: &str, path: &str) -> Option<String> {
    let tree = DeTable::parse(text).ok()?;
    let tree = tree.get_ref();
    let insert = |at: usize, new: &str| Some(format!("{}{new}{}", text.get(..at)?, text.get(at..)?));
    let path = quoted(path);
    let Some(list) = tree.get("include") else {
        // Before the first table a key belongs to the root: right after `name`.
        let name: Range<usize> = tree.get("name")?.span();
        let line_end = text[name.end..].find('\n').map_or(text.len(), |newline| name.end + newline);
        return insert(line_end, &format!("\ninclude = [{path}]"));
    };
    let DeValue::Array(entries) = list.get_ref() else { return None };
    match entries.iter().next_back() {
        // After the last entry: what follows, a comma or a comment, stays behind the new one or before it.
        Some(last) => insert(last.span().end, &format!(", {path}")),
        None => insert(list.span().start + 1, &path),
    }
}

fn included(text: &str) -> Option<Vec<String>> {
    let table: toml::Table = text.parse().ok()?;
    let list = table.get("include")?.as_array()?;
    list.iter().map(|entry| entry.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_included_and_comments_stay() {
        for (before, after) in [
            ("name = \"a\" # app\n[gateway]\n", "name = \"a\" # app\ninclude = [\"x/s.toml\"]\n[gateway]\n"),
            ("name = \"a\"", "name = \"a\"\ninclude = [\"x/s.toml\"]"),
            ("include = []\nname = \"a\"\n", "include = [\"x/s.toml\"]\nname = \"a\"\n"),
            ("include = [\n  \"b\", # b\n]\n", "include = [\n  \"b\", \"x/s.toml\", # b\n]\n"),
            ("include = [\"]#\"]\n", "include = [\"]#\", \"x/s.toml\"]\n"),
        ] {
            assert_eq!(include(before, "x/s.toml"), Inclusion::Changed(after.to_owned()), "{before}");
        }
        for hopeless in ["include = 1\n", "[services.a]\n", "name = [", "name = \"\"\"a\n\"\"\" = 3"] {
            assert!(matches!(include(hopeless, "x"), Inclusion::ByHand(_)), "{hopeless}");
        }
    }

    #[test]
    fn every_template_carries_the_name() {
        for language in [Language::Rust, Language::Python, Language::Node] {
            let files = files(language, "price-list");
            let all: String = files.iter().map(|(_, text)| text.as_str()).collect();
            assert!(all.contains("price-list") && !all.contains(NAME) && !all.contains(CRATE), "{language:?}");
            assert!(files.iter().any(|(path, text)| *path == MANIFEST && text.contains("[services.price-list]")));
        }
    }
}
