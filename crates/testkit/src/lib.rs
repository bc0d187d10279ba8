//! For tests only: bounded waits on state, tiny servers and a small HTTP client. No crate depends on it outside tests.

pub mod client;
pub mod message;
pub mod server;
pub mod wait;
