//! Runs every test of the workspace, with what the end-to-end tests need installed and built first.

use std::path::Path;

use anyhow::{Context, Result};

use crate::phase::{self, command, succeeds, timed};
use crate::{setup, tidy};

/// Packages whose programs the end-to-end tests start.
const PROGRAMS: &[&str] = &["atoll", "catalog", "cart", "storefront"];

/// The runner comes last and says itself how long it took: its summary is what a reader, or a machine, looks for.
pub(crate) fn run(root: &Path) -> Result<()> {
    timed("setup", || setup::run(root))?;
    let mut build = vec!["cargo", "build", "--quiet", "--bins"];
    build.extend(PROGRAMS.iter().flat_map(|package| ["--package", *package]));
    timed("build", || phase::run(command(root, &build)))?;
    let nextest = succeeds(command(root, &["cargo", "nextest", "--version"]));
    if !nextest {
        timed("build tests", || phase::run(command(root, &["cargo", "test", "--workspace", "--no-run", "--quiet"])))?;
        return phase::run(command(root, &["cargo", "test", "--workspace", "--no-fail-fast"])).context("test failed");
    }
    // Building them is left out where there are none: each library would be linked anew.
    if tidy::Tree::load(root)?.has_doc_tests() {
        timed("doc tests", || phase::run(command(root, &["cargo", "test", "--workspace", "--doc", "--quiet"])))?;
    }
    let tests = ["cargo", "nextest", "run", "--workspace"];
    timed("build tests", || phase::run(command(root, &[&tests[..], &["--no-run", "--cargo-quiet"]].concat())))?;
    phase::run(command(root, &[&tests[..], &["--no-fail-fast", "--cargo-quiet"]].concat())).context("test failed")
}
