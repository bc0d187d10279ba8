//! The client protocol of NATS as data: operations out of bytes, bytes out of messages, INFO and CONNECT.
//! Pure: no socket, no clock. <https://docs.nats.io/reference/reference-protocols/nats-protocol>

mod connect;
mod info;
mod parser;
mod writer;

pub(crate) use connect::Connect;
pub(crate) use info::{Info, VERSION};
pub use parser::{Bounds, Operation, Parsed, Publish, Violation, parse};
pub(crate) use writer::Message;
