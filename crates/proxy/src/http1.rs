//! HTTP/1.1 and 1.0 on the wire (RFC 9112), for both sides: heads, framing, chunks, and content on its way. All but `pipe`
//! is pure.

pub(crate) mod chunk;
pub(crate) mod framing;
pub(crate) mod parse;
pub(crate) mod pipe;

#[cfg(test)]
mod tests;
