//! The broker against real sockets: raw bytes, the official clients of three languages, internal clients; the table of bytes
//! and what clients see also against nats-server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, in its helpers as in itself")]

mod crash;
mod damage;
mod foreign;
mod inboxes;
mod internal;
mod keys;
mod lifecycle;
mod monitoring;
mod official;
mod permissions;
mod pressure;
mod rights;
mod streams;
mod support;
mod table;
