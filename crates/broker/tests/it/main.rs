//! The broker against real sockets: raw bytes, the official Rust client, internal clients; the table of bytes also against
//! nats-server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, in its helpers as in itself")]

mod foreign;
mod inboxes;
mod internal;
mod keys;
mod lifecycle;
mod monitoring;
mod permissions;
mod pressure;
mod streams;
mod support;
mod table;
