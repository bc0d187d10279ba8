//! The one binary: command line, daemon and the glue between the engines.

#![allow(unreachable_pub, reason = "in a binary `pub` means: for the other modules")]

mod api;
mod cli;
mod daemon;
mod lower;
mod nats;
mod processes;
mod project;
mod scaffold;

use std::process::ExitCode;

/// The system's takes 27 % more CPU time a delivery: what one thread allocates, others free.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_SOFTWARE` of sysexits.h: the fault is ours.
const EXIT_BUG: u8 = 70;

fn main() -> ExitCode {
    // Before anything else: a shim is to stay small, and nothing of the rest is for it.
    if supervisor::shim::is_asked() {
        return supervisor::shim::main();
    }
    let mut arguments = std::env::args_os().skip(1);
    let entered = match arguments.next() {
        Some(command) if command == daemon::plane::COMMAND => {
            std::panic::catch_unwind(move || daemon::plane::main(arguments.next()))
        }
        _ => std::panic::catch_unwind(cli::main),
    };
    match entered {
        Ok(code) => code,
        Err(_) => {
            eprintln!("This is a bug in atoll. The lines above say where it happened.");
            ExitCode::from(EXIT_BUG)
        }
    }
}
