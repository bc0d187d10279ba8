//! The proxy against real sockets: tiny origins behind it, raw clients before it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, in its helpers as in itself")]

mod access;
mod deadlines;
mod differential;
mod failures;
mod forwarding;
mod framing;
mod lifecycle;
mod limits;
mod meters;
mod plane;
mod reached;
mod resilience;
mod retries;
mod streams;
mod support;
