//! The project's own chores: `cargo xtask tidy|setup|test|ci|bench`. Plain programs run in order; nothing of the product is
//! in here, and the product knows nothing of it.

mod bench;
mod ci;
mod phase;
mod setup;
mod suite;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask <COMMAND>

  tidy    check the rules of the house: arrows, sizes, names, words
  setup   install what the tests need and is missing
  test    setup, build, and run every test
  ci      fmt, clippy, tidy, cargo-deny, test
  bench   measure beside peers, which it installs: `bench --help`";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = root();
    let result = match arguments.as_slice() {
        ["tidy"] => tidy::run(root),
        ["setup"] => setup::run(root),
        ["test"] => suite::run(root),
        ["ci"] => ci::run(root),
        ["bench", arguments @ ..] if !arguments.is_empty() => bench::run(root, arguments),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository that this program was built from.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}
