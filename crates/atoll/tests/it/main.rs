//! End to end: the real binary, real programs as services, real sockets. The only such tests of the workspace.

mod application;
mod cli;
mod failures;
mod foreign;
mod lifecycle;
mod resilience;
mod store;
