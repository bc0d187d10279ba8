//! HTTP/1.1 messages as tests see them: a first line, fields as written, a body. Lenient, small, and unlike anything
//! that the product uses, so that no mistake is made on both sides.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// A request or a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The request line or the status line, without its end.
    pub start: String,
    /// Names in lower case, values trimmed, in the order of the wire.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Vec<(String, String)>,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

impl Message {
    /// The first value of a field; `name` in lower case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a field.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The second word of the first line: a response's status as text, a request's target.
    #[must_use]
    pub fn second(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// A response's status; 0 if there is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.second().parse().unwrap_or_default()
    }

    /// A request's method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// How the body of this message is framed, as its fields say.
    #[must_use]
    pub fn framing(&self) -> Framing {
        let coding = self.field("transfer-encoding").unwrap_or_default();
        let is_response = self.start.starts_with("HTTP/");
        let length = self.field("content-length").and_then(|text| text.parse().ok());
        match (coding.ends_with("chunked"), length) {
            _ if is_response && matches!(self.status(), 100..=199 | 204 | 304) => Framing::None,
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) if is_response => Framing::UntilClose,
            (false, None) => Framing::None,
        }
    }
}

/// Reads a head, without its body. `None` at a clean end.
///
/// # Errors
/// Those of the connection, and an end in the middle.
pub async fn read_head(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Message>> {
    let start = read_line(reader).await?;
    if start.is_empty() {
        return Ok(None);
    }
    Ok(Some(Message { start, fields: read_fields(reader).await?, ..Message::default() }))
}

/// Reads the body that the head announces.
///
/// # Errors
/// Those of the connection, and an end in the middle.
pub async fn read_body(
    reader: &mut (impl AsyncBufRead + Unpin),
    message: &mut Message,
    framing: Framing,
) -> io::Result<()> {
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            message.body.resize(length, 0);
            reader.read_exact(&mut message.body).await?;
        }
        Framing::UntilClose => {
            reader.read_to_end(&mut message.body).await?;
        }
        Framing::Chunked => {
            while let chunk @ 1.. = read_chunk_size(reader).await? {
                let at = message.body.len();
                message.body.resize(at + chunk, 0);
                reader.read_exact(&mut message.body[at..]).await?;
                read_line(reader).await?;
            }
            message.trailers = read_fields(reader).await?;
        }
    }
    Ok(())
}

async fn read_chunk_size(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<usize> {
    let line = read_line(reader).await?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    usize::from_str_radix(digits, 16).map_err(|_| io::Error::other(format!("no chunk size: `{line}`")))
}

async fn read_fields(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(reader).await?;
        let Some((name, value)) = line.split_once(':') else {
            return Ok(fields);
        };
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
    let count = reader.read_until(b'\n', &mut line).await?;
    if count > 0 && !line.ends_with(b"\n") {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
