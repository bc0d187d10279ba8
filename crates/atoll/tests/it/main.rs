//! End to end: the real binary, real programs as services, real sockets. The only such tests of the workspace.

#![allow(unreachable_pub, reason = "in a test binary `pub` means: for the other modules")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod application;
mod broker;
mod cli;
mod commands;
mod drills;
mod eventing;
mod failures;
mod foreign;
mod lifecycle;
mod lint;
mod live;
mod load;
mod meters;
mod nats;
mod polyglot;
mod remains;
mod resilience;
mod scaffold;
mod store;
mod succession;
