//! The runtime toolkit under every engine: drain, readiness, tasks, back-off, ids, trace context, error chains,
//! durable files, socket paths, who still answers. It knows no domain noun; if a word like "service" appears here, it is
//! in the wrong crate.

pub mod backoff;
pub mod drain;
pub mod error;
pub mod file;
pub mod ids;
pub mod pulse;
pub mod readiness;
pub mod rotate;
pub mod socket;
pub mod tasks;
pub mod trace;

pub use error::Chain;
