//! The daemon's API: HTTP/1.1 with JSON on the Unix socket of one application.
//! `dto` holds what travels, `server` answers for the daemon, `client` asks for the command line.

pub mod client;
pub mod dto;
pub mod server;
