//! Where the content of a message ends (RFC 9112 §6) and whether its connection serves on (§9.3). Pure. Whatever could be
//! read in two ways is refused: two programs that disagree here are how requests are smuggled.

use http::Method;

use crate::config::Limits;
use crate::limit::Limit;
use crate::message::{Fields, Length, Name, RequestHead, ResponseHead, Version};
use crate::reason::{Reason, Refusal};

/// Decides for a request.
///
/// # Errors
/// What is to be told to the client, whose connection is of no use any more.
pub(crate) fn check_request(head: &mut RequestHead, bytes: &[u8], limits: &Limits) -> Result<(), Refusal> {
    head.keeps_alive = keeps_alive(&head.fields, head.version, bytes);
    head.content = match coding(&head.fields, bytes) {
        Coding::None => match length(&head.fields, bytes) {
            Ok(None | Some(0)) => Length::None,
            Ok(Some(length)) if length > limits.body_bytes_max => {
                return Err(TOO_LARGE);
            }
            Ok(Some(length)) => Length::Exact(length),
            Err(detail) => return Err(bad(detail)),
        },
        // RFC 9112 §6.3: both at once is how requests are smuggled.
        _ if head.fields.has(Name::ContentLength) => {
            return Err(bad("Both Content-Length and Transfer-Encoding are given."));
        }
        // RFC 9112 §6.1: such a message is taken for one whose framing is faulty.
        _ if head.version == Version::Http10 => return Err(bad("HTTP/1.0 knows no Transfer-Encoding.")),
        Coding::Chunked => Length::Chunked,
        Coding::Unknown => {
            return Err(Refusal::new(Reason::NotImplemented, "The only transfer coding understood is `chunked`."));
        }
        Coding::Endless => return Err(bad("The last transfer coding is not `chunked`.")),
    };
    Ok(())
}

/// Decides for the response to a request of this method. `false` when its framing breaks the rules.
pub(crate) fn check_response(head: &mut ResponseHead, bytes: &[u8], method: &Method) -> bool {
    head.keeps_alive = keeps_alive(&head.fields, head.version, bytes);
    let (coding, length) = (coding(&head.fields, bytes), length(&head.fields, bytes));
    let is_bare = method == Method::HEAD || matches!(head.status, 100..=199 | 204 | 304);
    head.content = match (coding, length) {
        (_, Err(_)) | (Coding::Unknown | Coding::Endless, _) | (Coding::Chunked, Ok(Some(_))) => return false,
        (Coding::Chunked, _) if head.version == Version::Http10 => return false,
        _ if is_bare => Length::None,
        (Coding::Chunked, _) => Length::Chunked,
        (Coding::None, Ok(Some(0))) => Length::None,
        (Coding::None, Ok(Some(length))) => Length::Exact(length),
        (Coding::None, Ok(None)) => Length::UntilClose,
    };
    head.keeps_alive &= head.content != Length::UntilClose;
    true
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    None,
    /// `chunked`, once and alone.
    Chunked,
    /// Something else below a last `chunked`.
    Unknown,
    /// The last one is not `chunked`, or it was applied twice: nobody knows where the content ends.
    Endless,
}

fn coding(fields: &Fields, bytes: &[u8]) -> Coding {
    if !fields.has(Name::TransferEncoding) {
        return Coding::None;
    }
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let (mut count, mut chunked, mut ends) = (0, 0, false);
    for coding in fields.tokens(Name::TransferEncoding, bytes) {
        ends = is_chunked(coding);
        count += 1;
        chunked += usize::from(ends);
    }
    // A list with empty elements, or in two lines, has two readings as well (RFC 9112 §6.1).
    let is_plain = fields.only(Name::TransferEncoding, bytes).is_some_and(is_chunked);
    match (ends, count, chunked) {
        (true, 1, _) if is_plain => Coding::Chunked,
        (true, 2.., 1) => Coding::Unknown,
        _ => Coding::Endless,
    }
}

/// RFC 9112 §6.3: one field, one number, digits alone.
fn length(fields: &Fields, bytes: &[u8]) -> Result<Option<u64>, &'static str> {
    if !fields.has(Name::ContentLength) {
        return Ok(None);
    }
    let value = fields.only(Name::ContentLength, bytes).ok_or("There is more than one Content-Length.")?;
    number(value).map(Some).ok_or("Content-Length is not a number.")
}

fn number(digits: &[u8]) -> Option<u64> {
    let add = |number: u64, digit: &u8| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// RFC 9112 §9.3.
fn keeps_alive(fields: &Fields, version: Version, bytes: &[u8]) -> bool {
    let mut keeps_alive = version == Version::Http11;
    for option in fields.tokens(Name::Connection, bytes) {
        if option.eq_ignore_ascii_case(b"close") {
            return false;
        }
        keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    keeps_alive
}

pub(crate) const TOO_LARGE: Refusal =
    Refusal::new(Reason::BodyTooLarge, "The body is larger than this listener takes.").by(Limit::RequestBody);

const fn bad(detail: &'static str) -> Refusal {
    Refusal::new(Reason::BadRequest, detail)
}
