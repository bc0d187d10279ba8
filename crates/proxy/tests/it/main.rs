//! The proxy against real sockets: tiny origins behind it, raw clients before it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, in its helpers as in itself")]

mod access;
mod deadlines;
mod failures;
mod forwarding;
mod lifecycle;
mod limits;
mod plane;
mod retries;
mod streams;
mod support;
