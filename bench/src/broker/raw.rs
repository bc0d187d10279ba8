//! A client of NATS's protocol that costs next to nothing: it writes bytes that were made before, and counts the messages in
//! what it reads. What a message holds is looked at only where it is asked for.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

// Limit: bytes that are read at once; a message is never longer here.
const READ_BYTES: usize = 256 * 1024;

const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n";

#[derive(Debug)]
pub(super) struct Client {
    pub(super) reader: Reader,
    pub(super) writer: OwnedWriteHalf,
}

#[derive(Debug)]
pub(super) struct Reader {
    socket: OwnedReadHalf,
    buffer: Vec<u8>,
}

/// Something that the server has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Message {
        /// Where its answer goes.
        reply: Option<&'a [u8]>,
        payload: &'a [u8],
    },
    Pong,
    /// PING, INFO, +OK.
    Other,
}

impl Client {
    /// Connects, and subscribes to patterns with the ids 1, 2, …; the server has heard of them when this returns.
    pub(super) async fn open(address: SocketAddr, patterns: &[&str]) -> Result<Self> {
        let socket = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        socket.set_nodelay(true)?;
        let (reader, writer) = socket.into_split();
        let mut client = Self { reader: Reader { socket: reader, buffer: Vec::with_capacity(READ_BYTES) }, writer };
        let mut hello = CONNECT.to_vec();
        for (at, pattern) in patterns.iter().enumerate() {
            hello.extend_from_slice(format!("SUB {pattern} {}\r\n", at + 1).as_bytes());
        }
        client.writer.write_all(&hello).await?;
        client.round_trip().await?;
        Ok(client)
    }

    /// Returns when the server has seen everything that was sent. Messages that come meanwhile are lost.
    pub(super) async fn round_trip(&mut self) -> Result<()> {
        self.writer.write_all(b"PING\r\n").await?;
        let mut is_seen = false;
        while !is_seen {
            self.reader.read(|frame: Frame<'_>| is_seen |= frame == Frame::Pong).await?;
        }
        Ok(())
    }

    /// One request, one answer.
    pub(super) async fn request(&mut self, subject: &str, inbox: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.writer.write_all(&publish(subject, Some(inbox), body)).await?;
        let mut answer = None;
        while answer.is_none() {
            let take = |frame: Frame<'_>| {
                if let Frame::Message { payload, .. } = frame {
                    answer = Some(payload.to_vec());
                }
            };
            self.reader.read(take).await?;
        }
        answer.context("no answer")
    }
}

impl Reader {
    /// Reads once and gives every frame that is complete. A PING is not answered: nothing here lasts that long.
    pub(super) async fn read(&mut self, mut take: impl FnMut(Frame<'_>)) -> Result<()> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 2 {
            self.buffer.reserve(READ_BYTES);
        }
        ensure!(self.socket.read_buf(&mut self.buffer).await? > 0, "the server has closed the connection");
        let mut at = 0;
        while let Some((frame, length)) = parse(&self.buffer[at..])? {
            take(frame);
            at += length;
        }
        self.buffer.drain(..at);
        Ok(())
    }

    /// Reads once; how many messages were there.
    pub(super) async fn count(&mut self) -> Result<u64> {
        let mut count = 0;
        self.read(|frame: Frame<'_>| count += u64::from(matches!(frame, Frame::Message { .. }))).await?;
        Ok(count)
    }
}

/// A publish as bytes.
pub(super) fn publish(subject: &str, reply: Option<&str>, payload: &[u8]) -> Vec<u8> {
    let reply = reply.map(|reply| format!(" {reply}")).unwrap_or_default();
    let mut bytes = format!("PUB {subject}{reply} {}\r\n", payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The first frame and its length, if all of it is there.
fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>> {
    let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(None) };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    if line.starts_with(b"-ERR") {
        bail!("the server said {}", String::from_utf8_lossy(line));
    }
    // MSG subject id [reply] bytes; HMSG subject id [reply] header-bytes bytes.
    let plain = match line.split(|byte| *byte == b' ').next() {
        Some(b"MSG") => 4,
        Some(b"HMSG") => 5,
        Some(b"PONG") => return Ok(Some((Frame::Pong, end + 1))),
        _ => return Ok(Some((Frame::Other, end + 1))),
    };
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let length = words.last().and_then(|word| std::str::from_utf8(word).ok()?.parse::<usize>().ok());
    let length = length.context("a message has no length")?;
    let start = end + 1;
    let Some(payload) = bytes.get(start..start + length) else { return Ok(None) };
    if bytes.len() < start + length + 2 {
        return Ok(None);
    }
    let reply = (words.len() > plain).then(|| words[3]);
    Ok(Some((Frame::Message { reply, payload }, start + length + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_when_they_are_complete() {
        let bytes = b"PING\r\nMSG a 1 r.1 2\r\nok\r\nMSG a 1 0\r\n\r\nHMSG a 1 12 14\r\nNATS/1.0\r\n\r\nok\r\nPONG\r\n";
        let (mut at, mut seen) = (0, Vec::new());
        while let Some((frame, length)) = parse(&bytes[at..]).expect("frames") {
            seen.push(frame);
            at += length;
        }
        let message = |reply: Option<&'static str>, payload: &'static str| Frame::Message {
            reply: reply.map(str::as_bytes),
            payload: payload.as_bytes(),
        };
        let headers = message(None, "NATS/1.0\r\n\r\nok");
        assert_eq!(seen, [Frame::Other, message(Some("r.1"), "ok"), message(None, ""), headers, Frame::Pong]);
        assert_eq!(at, bytes.len());
        for end in 6..bytes.len() {
            assert!(parse(&bytes[..end]).is_ok());
        }
        assert_eq!(parse(&bytes[6..24]).expect("no frame yet"), None);
        assert!(parse(b"-ERR 'no'\r\n").is_err());
        assert_eq!(publish("a", Some("b"), b"xy"), b"PUB a b 2\r\nxy\r\n");
    }
}
