//! Which crate may depend on which. An engine that needs another one gets a sender, a receiver or an address instead.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::layout::crate_name;
use super::{Tree, Violation};

/// What a crate may depend on.
#[derive(Clone, Copy, Debug)]
enum Arrows {
    /// Every crate.
    All,
    /// Only these.
    To(&'static [&'static str]),
}

const ARROWS: &[(&str, Arrows)] = &[
    ("kit", Arrows::To(&[])),
    ("manifest", Arrows::To(&[])),
    ("dashboard", Arrows::To(&[])),
    ("testkit", Arrows::To(&[])),
    ("registry", Arrows::To(&["kit"])),
    ("journal", Arrows::To(&["kit"])),
    ("supervisor", Arrows::To(&["kit", "registry"])),
    ("proxy", Arrows::To(&["kit", "registry"])),
    ("broker", Arrows::To(&["kit", "journal"])),
    ("saga", Arrows::To(&["kit", "journal"])),
    ("idempotency", Arrows::To(&["kit", "journal"])),
    ("events", Arrows::To(&["kit"])),
    ("cache", Arrows::To(&["kit"])),
    ("database", Arrows::To(&["kit"])),
    ("telemetry", Arrows::To(&["kit"])),
    ("atoll", Arrows::All),
];

/// The package of the fuzz targets.
const FUZZ: &str = "fuzz/Cargo.toml";
/// A crate for tests: everyone's, but only there.
const FOR_TESTS: &str = "testkit";
/// Beside what they speak to over the network, in their tests only.
const PEERS_IN_TESTS: &[(&str, &str)] = &[("events", "broker")];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Tests,
}

pub(super) fn check(tree: &Tree) -> Result<Vec<Violation>> {
    let crates: BTreeSet<&str> = tree.files.keys().filter_map(|path| crate_name(path)).collect();
    let root = load(tree, "Cargo.toml")?;
    let mut found = Vec::new();
    for path in tree.files.keys().filter(|path| path.ends_with("/Cargo.toml")) {
        let mut report = |message| {
            found.push(Violation { subject: path.clone(), line: 0, rule: "arrow", message });
        };
        let name = crate_name(path);
        let row = ARROWS.iter().find(|(row, _)| Some(*row) == name);
        if name.is_some() && row.is_none() {
            report("has no row in xtask/src/tidy/arrows.rs".to_owned());
            continue;
        }
        for (kind, dependency) in dependencies(&root, &load(tree, path)?) {
            // Fuzz targets are a package of their own, outside the workspace, that calls whatever reads hostile input.
            let allowed = path == FUZZ || row.is_some_and(|(_, arrows)| is_allowed(arrows, kind, &dependency));
            let is_peer = PEERS_IN_TESTS.iter().any(|(from, to)| name == Some(*from) && dependency == *to);
            let allowed = allowed || is_peer && kind == Kind::Tests;
            if allowed || !crates.contains(dependency.as_str()) {
                continue;
            }
            report(match (kind, name) {
                (Kind::Normal, _) if dependency == FOR_TESTS => format!("`{FOR_TESTS}` is for tests only"),
                (_, Some(name)) => format!("`{name}` must not depend on `{dependency}`"),
                (_, None) => format!("nothing outside `crates` may depend on `{dependency}`"),
            });
        }
    }
    Ok(found)
}

fn is_allowed(arrows: &Arrows, kind: Kind, dependency: &str) -> bool {
    match arrows {
        _ if dependency == FOR_TESTS => kind == Kind::Tests,
        Arrows::All => true,
        Arrows::To(allowed) => allowed.contains(&dependency),
    }
}

fn load(tree: &Tree, path: &str) -> Result<Table> {
    let text = tree.files.get(path).map_or("", String::as_str);
    text.parse().with_context(|| format!("cannot read {path}"))
}

/// All dependencies with their real names, those of single targets included.
fn dependencies(root: &Table, manifest: &Table) -> Vec<(Kind, String)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let per_target = targets.into_iter().flat_map(|targets| targets.values().filter_map(Value::as_table));
    let mut found = Vec::new();
    for place in std::iter::once(manifest).chain(per_target) {
        let kinds =
            [(Kind::Normal, "dependencies"), (Kind::Normal, "build-dependencies"), (Kind::Tests, "dev-dependencies")];
        for (kind, key) in kinds {
            let table = place.get(key).and_then(Value::as_table);
            let entries = table.into_iter().flatten();
            found.extend(entries.map(|(key, value)| (kind, real_name(root, key, value))));
        }
    }
    found
}

/// The package behind a key that may rename it, here or at the root.
fn real_name(root: &Table, key: &str, value: &Value) -> String {
    let inherited = value.get("workspace").and_then(Value::as_bool) == Some(true);
    let shared = || root.get("workspace")?.get("dependencies")?.get(key);
    let declared = if inherited { shared() } else { Some(value) };
    let renamed = declared.and_then(|value| value.get("package")).and_then(Value::as_str);
    renamed.unwrap_or(key).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str =
        "[workspace.dependencies]\nkit = { path = 'crates/kit' }\ngate = { package = 'proxy', path = 'x' }\n";

    fn messages(path: &str, manifest: &str) -> Vec<String> {
        let tree = Tree::of([
            ("Cargo.toml", ROOT),
            ("crates/atoll/Cargo.toml", ""),
            ("crates/kit/Cargo.toml", ""),
            ("crates/proxy/Cargo.toml", ""),
            ("crates/testkit/Cargo.toml", ""),
            (path, manifest),
        ]);
        check(&tree).expect("checked").into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn arrows_that_are_drawn_are_allowed() {
        let manifest =
            "[dependencies]\nkit.workspace = true\nserde = '1'\n[dev-dependencies]\ntestkit = { path = 'x' }\n";
        assert!(messages("crates/database/Cargo.toml", manifest).is_empty());
        assert!(messages("crates/atoll/Cargo.toml", "[dependencies]\nproxy = '1'\nkit = '1'\n").is_empty());
        assert!(messages("fuzz/Cargo.toml", "[dependencies]\nproxy = '1'\n").is_empty());
        assert!(messages("examples/store/cart/Cargo.toml", "[dependencies]\nstore-kit = '1'\n").is_empty());
    }

    #[test]
    fn every_other_arrow_is_found() {
        let cases = [
            ("crates/kit/Cargo.toml", "[dependencies]\nproxy = '1'", "`kit` must not depend on `proxy`"),
            (
                "crates/database/Cargo.toml",
                "[build-dependencies]\nproxy = '1'",
                "`database` must not depend on `proxy`",
            ),
            ("crates/database/Cargo.toml", "[dev-dependencies]\nproxy = '1'", "`database` must not depend on `proxy`"),
            (
                "crates/database/Cargo.toml",
                "[target.'cfg(unix)'.dependencies]\nproxy = '1'",
                "`database` must not depend on `proxy`",
            ),
            (
                "crates/database/Cargo.toml",
                "[dependencies]\ngate.workspace = true",
                "`database` must not depend on `proxy`",
            ),
            (
                "crates/database/Cargo.toml",
                "[dependencies]\nx = { package = 'proxy' }",
                "`database` must not depend on `proxy`",
            ),
            ("crates/atoll/Cargo.toml", "[dependencies]\ntestkit = '1'", "`testkit` is for tests only"),
            ("crates/novel/Cargo.toml", "", "has no row in xtask/src/tidy/arrows.rs"),
            (
                "examples/store/cart/Cargo.toml",
                "[dependencies]\nkit = '1'",
                "nothing outside `crates` may depend on `kit`",
            ),
            (
                "examples/store/cart/Cargo.toml",
                "[dev-dependencies]\ntestkit = '1'",
                "nothing outside `crates` may depend on `testkit`",
            ),
        ];
        for (path, manifest, message) in cases {
            assert_eq!(messages(path, manifest), [message], "{manifest}");
        }
    }
}
