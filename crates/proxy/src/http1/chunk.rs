//! The chunked transfer coding (RFC 9112 §7.1), read in place: what stays of the bytes is the content, moved together.
//! Strict: nothing but hexadecimal digits is a size, lines end with CR LF, extensions are short. Pure.

use crate::config::Limits;
use crate::http1::parse;
use crate::limit::Limit;
use crate::message::Fields;

// Limit: digits of one chunk's size; 16 already go up to 2^64.
const SIZE_DIGITS_MAX: u32 = 16;

/// How much a body may say beside its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Of one chunk. Extensions mean nothing to us and are not passed on; without a bound they are a way to keep a reader
    /// busy without content (CVE-2023-39326).
    extension_bytes_max: u32,
    trailer_bytes_max: usize,
}

impl Bounds {
    pub(crate) fn of(limits: &Limits) -> Self {
        Self { extension_bytes_max: limits.chunk_extension_bytes_max, trailer_bytes_max: limits.trailer_bytes_max }
    }
}

/// The bytes break the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the chunks are malformed")]
    Syntax,
    #[error("the chunks are beyond `{}`", .0.code())]
    Beyond(Limit),
}

impl Malformed {
    pub(crate) const fn limit(self) -> Option<Limit> {
        match self {
            Self::Syntax => None,
            Self::Beyond(limit) => Some(limit),
        }
    }
}

/// How far one look at the bytes has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Where what was not read yet begins.
    pub(crate) raw: usize,
    /// Where the content ends that begins where it was asked to.
    pub(crate) content: usize,
}

/// What comes next.
///
/// ```text
/// Size ─┬─► Extension ─► SizeLf ─┬─► Data ─► DataCr ─► DataLf ─► Size
///       └────────────────────────┴─► (size 0) Trailers ─► Done
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// Reads one body, in as many pieces as it comes in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoder {
    state: State,
    /// The size of the chunk, or what is left of it.
    left: u64,
    /// Digits of the size, or bytes of the extension.
    count: u32,
    bounds: Bounds,
}

impl Decoder {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { state: State::Size, left: 0, count: 0, bounds }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads `bytes` from `raw` on and moves the content to `content`, which is not behind `raw`. A trailer section is
    /// read as a whole: until all of it is there, it stays unread. Its lines go to `trailers`.
    ///
    /// # Errors
    /// When the rules are broken. The decoder is then of no use any more.
    pub(crate) fn decode(
        &mut self,
        bytes: &mut [u8],
        Progress { mut raw, mut content }: Progress,
        trailers: &mut Trailers,
    ) -> Result<Progress, Malformed> {
        while raw < bytes.len() {
            match self.state {
                State::Data => {
                    let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - raw);
                    if raw != content {
                        bytes.copy_within(raw..raw + count, content);
                    }
                    raw += count;
                    content += count;
                    self.left -= count as u64;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                }
                State::Trailers => match trailers.read(&bytes[raw..], self.bounds.trailer_bytes_max)? {
                    Some(count) => {
                        raw += count;
                        self.state = State::Done;
                    }
                    None => break,
                },
                State::Done => break,
                _ => {
                    self.step(bytes[raw])?;
                    raw += 1;
                }
            }
        }
        Ok(Progress { raw, content })
    }

    /// One byte of what is around the content.
    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.state = match (self.state, byte) {
            (State::Size, b'\r') if self.count > 0 => State::SizeLf,
            (State::Size, b';') if self.count > 0 => {
                self.count = 0;
                State::Extension
            }
            (State::Size, digit) => {
                let digit = char::from(digit).to_digit(16).ok_or(Malformed::Syntax)?;
                self.count += 1;
                if self.count > SIZE_DIGITS_MAX {
                    return Err(Malformed::Syntax);
                }
                self.left = self.left << 4 | u64::from(digit);
                State::Size
            }
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count += 1;
                if self.count > self.bounds.extension_bytes_max {
                    return Err(Malformed::Beyond(Limit::ChunkExtensions));
                }
                State::Extension
            }
            (State::SizeLf, b'\n') => {
                self.count = 0;
                if self.left == 0 { State::Trailers } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            _ => return Err(Malformed::Syntax),
        };
        Ok(())
    }
}

/// A chunked body that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub content: Vec<u8>,
    /// The trailer lines that may be passed on.
    pub trailers: Vec<u8>,
    /// What follows the body.
    pub rest: Vec<u8>,
}

/// Reads a chunked body that arrives in these pieces, as a connection would, within the standard limits. `None` when it has
/// not ended. For whoever compares this reading with another.
///
/// # Errors
/// When the rules are broken.
pub fn decode_chunked(pieces: &[&[u8]]) -> Result<Option<Decoded>, Malformed> {
    let (mut decoder, mut trailers) = (Decoder::new(Bounds::of(&Limits::standard())), Trailers::default());
    let (mut buffer, mut at) = (Vec::new(), Progress { raw: 0, content: 0 });
    for piece in pieces {
        buffer.extend_from_slice(piece);
        at = decoder.decode(&mut buffer, at, &mut trailers)?;
    }
    let rest = buffer[at.raw..].to_vec();
    buffer.truncate(at.content);
    Ok(decoder.is_done().then_some(Decoded { content: buffer, trailers: trailers.lines, rest }))
}

/// The trailer section of one body: the lines that may be passed on, as they were written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trailers {
    pub(crate) lines: Vec<u8>,
}

impl Trailers {
    fn read(&mut self, bytes: &[u8], bytes_max: usize) -> Result<Option<usize>, Malformed> {
        // The end of a body without trailers is none of them.
        match bytes {
            [b'\r', b'\n', ..] => return Ok(Some(2)),
            b"\r" => return Ok(None),
            _ => {}
        }
        let mut fields = Fields::default();
        let bounded = &bytes[..bytes.len().min(bytes_max)];
        let Some(length) = parse::trailers(bounded, &mut fields).map_err(|_| Malformed::Syntax)? else {
            return if bytes.len() >= bytes_max { Err(Malformed::Beyond(Limit::Trailers)) } else { Ok(None) };
        };
        for field in &fields.lines {
            if crate::headers::may_trail(field.known, field.name.of(bytes)) {
                self.lines.extend_from_slice(&bytes[field.name.start()..field.end as usize]);
            }
        }
        Ok(Some(length))
    }
}
