//! The proxy against real sockets: tiny origins behind it, raw clients before it.

mod access;
mod failures;
mod forwarding;
mod lifecycle;
mod limits;
mod streams;
mod support;
