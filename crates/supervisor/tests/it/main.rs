//! The supervisor with real processes: `sh` and `python3` stand for services in any language.

mod adoption;
mod builds;
mod dependencies;
mod endings;
mod fixture;
mod limits;
mod lives;
mod output;
mod rollouts;
mod shims;
