//! The least of HTTP/1.1 that a service needs which must be able to answer wrongly: requests with a `content-length`, and
//! answers as bytes. Also the clock that all programs of one machine have in common.

use anyhow::{Context, Result, bail, ensure};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

// Limit: bytes of a request with its head.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// A connection that requests come from, one after the other.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    /// Of the request that is being answered.
    used: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// Method and target.
    pub(crate) what: &'a str,
    fields: &'a str,
    pub(crate) body: &'a [u8],
}

impl Request<'_> {
    /// The first field of this name, in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(self.fields, name)
    }
}

impl Incoming {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), used: 0 }
    }

    /// Nothing once the other side has closed it.
    pub(crate) async fn next(&mut self) -> Result<Option<Request<'_>>> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let (head, body) = loop {
            if let Some(lengths) = lengths(&self.buffer)? {
                break lengths;
            }
            ensure!(self.buffer.len() < REQUEST_BYTES_MAX, "a request of more than {REQUEST_BYTES_MAX} bytes");
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        };
        self.used = head + body;
        let text = std::str::from_utf8(&self.buffer[..head]).context("a head that is not UTF-8")?;
        let (first, fields) = text.split_once("\r\n").context("no request line")?;
        let what = first.strip_suffix(" HTTP/1.1").context("not HTTP/1.1")?;
        Ok(Some(Request { what, fields, body: &self.buffer[head..self.used] }))
    }

    /// Waits until the other side has closed it, or has sent something.
    pub(crate) async fn gone(&mut self) {
        // An error says the same.
        let _ = self.stream.read_buf(&mut self.buffer).await;
    }
}

/// An answer as it is sent.
pub(crate) fn answer(status: u16, more: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\n{more}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Nanoseconds since the machine began, the same for every program.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// Of head and body, once both are there.
fn lengths(buffer: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&buffer[..end]).context("a head that is not UTF-8")?;
    if field(text, "transfer-encoding").is_some() {
        bail!("a request without a content-length");
    }
    let body = match field(text, "content-length") {
        Some(length) => length.parse().context("not a content-length")?,
        None => 0,
    };
    Ok(Some((end + 4, body)).filter(|(head, body)| buffer.len() >= head + body))
}

fn field<'a>(fields: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = fields.split("\r\n").filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[test]
    fn a_request_is_there_once_its_body_is() {
        let text = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET";
        for end in 0..text.len() - 3 {
            assert_eq!(lengths(&text[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(lengths(text).unwrap(), Some((39, 3)));
        assert!(lengths(b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn requests_of_one_connection_come_one_after_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client
            .write_all(b"GET /a HTTP/1.1\r\nX-Y: z\r\n\r\nPOST /b HTTP/1.1\r\ncontent-length: 1\r\n\r\n!")
            .await
            .unwrap();
        drop(client);
        let mut incoming = Incoming::new(listener.accept().await.unwrap().0);
        let first = incoming.next().await.unwrap().unwrap();
        assert_eq!((first.what, first.field("x-y"), first.body), ("GET /a", Some("z"), b"".as_slice()));
        let second = incoming.next().await.unwrap().unwrap();
        assert_eq!((second.what, second.body), ("POST /b", b"!".as_slice()));
        assert_eq!(incoming.next().await.unwrap(), None);
    }
}
