//! Everything that must hold before a change lands, cheapest first.

use std::path::Path;

use anyhow::Result;

use crate::phase::{self, command, succeeds, timed};

/// Stops at the first failure.
pub(crate) fn run(root: &Path) -> Result<()> {
    timed("fmt", || phase::run(command(root, &["cargo", "fmt", "--all", "--check"])))?;
    timed("tidy", || crate::tidy::run(root))?;
    timed("clippy", || {
        phase::run(command(
            root,
            &["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
        ))
    })?;
    if succeeds(command(root, &["cargo", "deny", "--version"])) {
        // Advisories need a download: they are for a person to look at, not for a run that must be repeatable.
        let words = ["cargo", "deny", "--log-level", "error", "--offline", "check", "bans", "licenses", "sources"];
        timed("deny", || phase::run(command(root, &words)))?;
    } else {
        eprintln!("xtask: deny skipped: cargo-deny is not installed");
    }
    crate::suite::run(root)
}
