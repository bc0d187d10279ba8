//! The one binary: command line, daemon and the glue between the engines.

#![allow(unreachable_pub, reason = "in a binary `pub` means: for the other modules")]

mod api;
mod cli;
mod daemon;
mod lower;
mod project;

use std::process::ExitCode;

/// `EX_SOFTWARE` of sysexits.h: the fault is ours.
const EXIT_BUG: u8 = 70;

fn main() -> ExitCode {
    match std::panic::catch_unwind(cli::main) {
        Ok(code) => code,
        Err(_) => {
            eprintln!("This is a bug in atoll. The lines above say where it happened.");
            ExitCode::from(EXIT_BUG)
        }
    }
}
