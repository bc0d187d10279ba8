//! Bytes to heads, strictly: `httparse` finds the parts, and what it forgives is refused here (RFC 9112). Pure; fed with
//! hostile bytes by tests and fuzzers. What a head means is `head`'s to say, where its content ends `framing`'s.

use std::mem::MaybeUninit;

use http::Method;

use crate::config::Limits;
use crate::limit::Limit;
use crate::message::{Field, Fields, Name, RequestHead, ResponseHead, Span, Version};
use crate::reason::{Reason, Refusal};

// Limit: fields of one head, whatever `Limits::headers_max` says.
pub(crate) const FIELDS_MAX: usize = 256;

// Limit: fields of one trailer section. One more is malformed.
const TRAILERS_MAX: usize = 64;

// Limit: bytes of the empty lines before a request.
const EMPTY_BYTES_MAX: usize = 16;

type Lines<'b> = [MaybeUninit<httparse::Header<'b>>; FIELDS_MAX];

/// Whether a head is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Complete,
    /// More bytes are needed.
    Partial,
}

/// Why a response's head cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    Invalid,
    Beyond(Limit),
}

/// Reads the head of a request at the beginning of `bytes`. Its target is not looked at.
///
/// # Errors
/// What is to be told to the client. Its connection is then of no use any more.
pub(crate) fn request(bytes: &[u8], limits: &Limits, head: &mut RequestHead) -> Result<Parsed, Refusal> {
    head.fields.clear();
    if bytes.iter().take(EMPTY_BYTES_MAX + 1).all(|byte| matches!(byte, b'\r' | b'\n')) && bytes.len() > EMPTY_BYTES_MAX
    {
        return Err(bad("There are too many empty lines."));
    }
    let mut lines: Lines<'_> = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut lines) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return partial(bytes, limits),
        Err(error) => return Err(blame(bytes, error)),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(bad("The request line is malformed."));
    };
    let start = Span::within(bytes, method.as_bytes()).start();
    // RFC 9112 §2.2: empty lines before a request are ignored; here as everywhere a line ends with both of CR LF.
    let first = request.headers.first().map_or(length - 2, |field| place(bytes, field.name.as_bytes()));
    if bytes[..start].chunks(2).any(|line| line != b"\r\n") || !bytes[..first].ends_with(b"\r\n") {
        return Err(bad(BARE_LF));
    }
    check_size(target.len(), length, request.headers.len(), limits)?;
    head.length = length;
    head.method = Method::from_bytes(method.as_bytes()).map_err(|_| bad("The method is no token."))?;
    head.version = if version == 0 { Version::Http10 } else { Version::Http11 };
    head.target = Span::within(bytes, target.as_bytes());
    fill(bytes, length, request.headers, &mut head.fields).ok_or(bad(BARE_LF))?;
    Ok(Parsed::Complete)
}

/// Reads the head of a response at the beginning of `bytes`.
///
/// # Errors
/// Whatever is wrong, the connection is of no use any more.
pub(crate) fn response(bytes: &[u8], limits: &Limits, head: &mut ResponseHead) -> Result<Parsed, Unfit> {
    head.fields.clear();
    let mut lines: Lines<'_> = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    // Empty lines are forgiven before requests only.
    if bytes.first().is_some_and(|byte| *byte != b'H') {
        return Err(Unfit::Invalid);
    }
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut lines);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= limits.head_bytes_max => {
            return Err(Unfit::Beyond(Limit::RequestHead));
        }
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial),
        Err(httparse::Error::TooManyHeaders) => return Err(Unfit::Beyond(Limit::RequestHeaders)),
        Err(_) => return Err(Unfit::Invalid),
    };
    if length > limits.head_bytes_max {
        return Err(Unfit::Beyond(Limit::RequestHead));
    }
    if response.headers.len() > limits.headers_max {
        return Err(Unfit::Beyond(Limit::RequestHeaders));
    }
    let (Some(status), Some(version)) = (response.code, response.version) else { return Err(Unfit::Invalid) };
    let first = response.headers.first().map_or(length - 2, |field| place(bytes, field.name.as_bytes()));
    // RFC 9110 §15: a status is between 100 and 599; what is above is passed on as it is.
    if !(100..=999).contains(&status) || !bytes[..first].ends_with(b"\r\n") {
        return Err(Unfit::Invalid);
    }
    head.length = length;
    head.status = status;
    head.version = if version == 0 { Version::Http10 } else { Version::Http11 };
    head.reason = response
        .reason
        .filter(|reason| !reason.is_empty())
        .map_or(Span::default(), |reason| Span::within(bytes, reason.as_bytes()));
    fill(bytes, length, response.headers, &mut head.fields).ok_or(Unfit::Invalid)?;
    Ok(Parsed::Complete)
}

/// Reads the trailer section of a chunked body, with the empty line that ends it. Gives how long it is.
///
/// # Errors
/// When it is malformed.
pub(crate) fn trailers(bytes: &[u8], fields: &mut Fields) -> Result<Option<usize>, Unfit> {
    fields.clear();
    let mut lines = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    match httparse::parse_headers(bytes, &mut lines) {
        Ok(httparse::Status::Complete((length, lines))) => {
            let first = lines.first().map_or(length - 2.min(length), |field| place(bytes, field.name.as_bytes()));
            if first != 0 {
                return Err(Unfit::Invalid);
            }
            fill(bytes, length, lines, fields).ok_or(Unfit::Invalid)?;
            Ok(Some(length))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(Unfit::Invalid),
    }
}

fn place(bytes: &[u8], part: &[u8]) -> usize {
    Span::within(bytes, part).start()
}

/// Takes the lines over. `None` where one does not end with CR LF: a line feed alone is a line's end for some and none
/// for others (RFC 9112 §2.2).
fn fill(bytes: &[u8], length: usize, lines: &[httparse::Header<'_>], fields: &mut Fields) -> Option<()> {
    // The empty line at the end.
    let last = length.checked_sub(2)?;
    if &bytes[last..length] != b"\r\n" {
        return None;
    }
    for (index, line) in lines.iter().enumerate() {
        let name = Span::within(bytes, line.name.as_bytes());
        let value = match line.value {
            // The parser's empty value may lie anywhere.
            [] => Span::new(name.end() + 1, name.end() + 1),
            value => Span::within(bytes, value),
        };
        let end = lines.get(index + 1).map_or(last, |next| place(bytes, next.name.as_bytes()));
        if !bytes[..end].ends_with(b"\r\n") {
            return None;
        }
        fields.push(Field { known: Name::of(line.name.as_bytes()), name, value, end: end as u32 });
    }
    Some(())
}

const BARE_LF: &str = "A line does not end with CR LF.";

fn check_size(target: usize, length: usize, fields: usize, limits: &Limits) -> Result<(), Refusal> {
    if target > limits.uri_bytes_max {
        return Err(URI_TOO_LONG);
    }
    if length > limits.head_bytes_max {
        return Err(HEAD_TOO_LARGE);
    }
    if fields > limits.headers_max {
        return Err(TOO_MANY_FIELDS);
    }
    Ok(())
}

const URI_TOO_LONG: Refusal =
    Refusal::new(Reason::UriTooLong, "The request target is too long.").by(Limit::RequestTarget);
const HEAD_TOO_LARGE: Refusal =
    Refusal::new(Reason::HeadTooLarge, "The header fields are too large.").by(Limit::RequestHead);
const TOO_MANY_FIELDS: Refusal =
    Refusal::new(Reason::TooManyHeaders, "There are too many header fields.").by(Limit::RequestHeaders);

/// A head that has grown beyond the limits is refused before it ends.
fn partial(bytes: &[u8], limits: &Limits) -> Result<Parsed, Refusal> {
    let line = bytes.iter().take(limits.uri_bytes_max + LINE_REST_BYTES_MAX).position(|byte| *byte == b'\n');
    // Behind empty lines it is found out later, by the limit of the whole.
    if line.is_none() && bytes.len() >= limits.uri_bytes_max + LINE_REST_BYTES_MAX {
        return Err(URI_TOO_LONG);
    }
    if bytes.len() >= limits.head_bytes_max { Err(HEAD_TOO_LARGE) } else { Ok(Parsed::Partial) }
}

// Limit: what stands beside the target in a request line: method, spaces, version.
const LINE_REST_BYTES_MAX: usize = 64;

/// The first line of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

fn blame(bytes: &[u8], error: httparse::Error) -> Refusal {
    use httparse::Error;
    match error {
        Error::Version if bytes.starts_with(PREFACE) => {
            Refusal::new(Reason::HttpVersionNotSupported, "This listener speaks HTTP/1.1.")
        }
        Error::Version => bad("The version is neither HTTP/1.1 nor HTTP/1.0."),
        Error::HeaderName => bad("The name of a header field is malformed."),
        Error::HeaderValue => bad("A header field contains a control character, or is folded."),
        Error::NewLine => bad("A line does not end with CR LF."),
        Error::TooManyHeaders => TOO_MANY_FIELDS,
        Error::Status | Error::Token => bad("The request line is malformed."),
    }
}

const fn bad(detail: &'static str) -> Refusal {
    Refusal::new(Reason::BadRequest, detail)
}
