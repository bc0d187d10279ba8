//! A very small HTTP/1.1 client: one connection, one request at a time, answers with a `content-length`. It asks whether
//! a proxy answers right, holds idle connections, and is what the open-loop load is made of.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

// Limit: bytes of an answer with its head.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) has_retry_after: bool,
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    /// Whether it says that the request may come again later.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.status, 429 | 503) && self.has_retry_after
    }
}

impl Connection {
    /// Connects from one of this machine's own addresses.
    pub(crate) async fn open(address: SocketAddr, from: IpAddr) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = socket.connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends a request as it is and waits for its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await.context("cannot send")?;
        self.buffer.clear();
        let head = loop {
            if self.stream.read_buf(&mut self.buffer).await.context("cannot receive")? == 0 {
                bail!("the connection was closed before the answer had ended");
            }
            if let Some(head) = parse(&self.buffer)? {
                let end = head.bytes + head.body_bytes;
                if end > ANSWER_BYTES_MAX || self.buffer.len() > end {
                    bail!("{} bytes came of an answer of {end}", self.buffer.len());
                }
                if self.buffer.len() == end {
                    break head;
                }
            }
        };
        let Head { status, has_retry_after, bytes, .. } = head;
        Ok(Answer { status, has_retry_after, body: &self.buffer[bytes..] })
    }
}

/// A request without a body.
pub(crate) fn get(host: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A request with a body.
pub(crate) fn with_body(method: &str, host: SocketAddr, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    has_retry_after: bool,
    bytes: usize,
    body_bytes: usize,
}

/// Nothing while the head has not ended.
fn parse(buffer: &[u8]) -> Result<Option<Head>> {
    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
        if buffer.len() > ANSWER_BYTES_MAX {
            bail!("a head of more than {ANSWER_BYTES_MAX} bytes");
        }
        return Ok(None);
    };
    let head = std::str::from_utf8(&buffer[..end]).context("a head that is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.with_context(|| format!("not a status line: {first}"))?;
    let field = |wanted: &str| {
        let mut fields = lines.clone().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    };
    let (length, has_retry_after) = (field("content-length"), field("retry-after").is_some());
    let length = length.and_then(|value| value.trim().parse().ok());
    let body_bytes = length.with_context(|| format!("an answer without a content-length: {head}"))?;
    Ok(Some(Head { status, has_retry_after, bytes: end + 4, body_bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, has_retry_after: bool, bytes: usize, body_bytes: usize) -> Head {
        Head { status, has_retry_after, bytes, body_bytes }
    }

    #[test]
    fn a_head_gives_status_and_length() {
        let text = b"HTTP/1.1 200 OK\r\nserver: x\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(parse(text).expect("read"), Some(head(200, false, 49, 3)));
        let refusal = b"HTTP/1.1 503 X\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(parse(refusal).expect("read"), Some(head(503, true, refusal.len(), 0)));
        for end in 0..49 {
            assert_eq!(parse(&text[..end]).expect("read"), None, "{end}");
        }
    }

    #[test]
    fn what_it_cannot_read_is_an_error() {
        for text in ["HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "x\r\n\r\n"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
