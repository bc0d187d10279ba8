//! The supervisor with real processes: `sh` and `python3` stand for services in any language.

mod builds;
mod dependencies;
mod endings;
mod fixture;
mod lives;
mod output;
