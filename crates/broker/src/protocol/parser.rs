//! Operations of clients, out of the beginning of a buffer: what is there in full is taken, what cannot become an
//! operation is refused as early as nats-server does. It keeps no state, so that it does not matter how bytes were split.

use memchr::memchr;

/// Limits of one operation.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of arguments.
    pub control_line_max: usize,
    /// Bytes of headers and payload together.
    pub payload_max: usize,
}

/// What a client asks for. It borrows the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// With its JSON.
    Connect(&'a [u8]),
    Ping,
    Pong,
    /// `+OK` and `INFO`, which mean nothing from a client.
    Ignored,
    /// The client says that something went wrong and is gone for us.
    Error,
    Publish(Publish<'a>),
    Subscribe {
        subject: &'a [u8],
        queue: Option<&'a [u8]>,
        sid: &'a [u8],
    },
    /// Without a number, or with one that is none, at once.
    Unsubscribe {
        sid: &'a [u8],
        max: Option<u64>,
    },
}

/// PUB or HPUB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub subject: &'a [u8],
    pub reply: Option<&'a [u8]>,
    /// How much of the content is headers; `None` for PUB.
    pub header_len: Option<usize>,
    /// Headers and payload.
    pub content: &'a [u8],
}

/// The state of the buffer's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// An operation and how many bytes it takes up.
    Complete { operation: Operation<'a>, len: usize },
    /// It may become one; not before the buffer has this many bytes.
    Incomplete { needed: usize },
}

/// Why the bytes are no operation. After each of them the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// No verb of a client, or a payload without its end.
    Unknown,
    /// Arguments that are too few, too many or no numbers.
    Malformed,
    ControlLine,
    Payload,
}

#[derive(Clone, Copy)]
enum Verb {
    Connect,
    Info,
    Ok,
    Error,
    Ping,
    Pong,
    Publish,
    PublishWithHeaders,
    Subscribe,
    Unsubscribe,
}

/// What must follow a verb.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// A space or a tab, then arguments.
    Space,
    /// Arguments, with or without a space.
    Arguments,
    /// Nothing that matters.
    Anything,
}

const VERBS: &[(&[u8], Verb, After)] = &[
    (b"PUB", Verb::Publish, After::Space),
    (b"HPUB", Verb::PublishWithHeaders, After::Space),
    (b"PING", Verb::Ping, After::Anything),
    (b"PONG", Verb::Pong, After::Anything),
    (b"SUB", Verb::Subscribe, After::Space),
    (b"UNSUB", Verb::Unsubscribe, After::Space),
    (b"CONNECT", Verb::Connect, After::Arguments),
    (b"INFO", Verb::Info, After::Space),
    (b"+OK", Verb::Ok, After::Anything),
    (b"-ERR", Verb::Error, After::Space),
];

/// Limit: digits of a size, as in nats-server.
const DIGITS_MAX: usize = 9;
/// SUB has three arguments, HPUB four.
const ARGUMENTS_MAX: usize = 4;
const END: &[u8] = b"\r\n";

/// Reads the operation at the beginning of `buffer`.
///
/// # Errors
/// A [`Violation`] as soon as the bytes that are there cannot become an operation within the bounds.
pub fn parse<'a>(buffer: &'a [u8], bounds: &Bounds) -> Result<Parsed<'a>, Violation> {
    let Some((verb, at)) = verb(buffer)? else {
        return Ok(Parsed::Incomplete { needed: buffer.len() + 1 });
    };
    let Some(line_len) = memchr(b'\n', &buffer[at..]) else {
        // The CR of an end that has not come in full is no argument.
        let held = buffer.len() - at - usize::from(buffer.ends_with(b"\r"));
        if held > bounds.control_line_max {
            return Err(Violation::ControlLine);
        }
        return Ok(Parsed::Incomplete { needed: buffer.len() + 1 });
    };
    let line = &buffer[at..at + line_len];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > bounds.control_line_max {
        return Err(Violation::ControlLine);
    }
    let len = at + line_len + 1;
    let operation = match verb {
        Verb::Ping => Operation::Ping,
        Verb::Pong => Operation::Pong,
        Verb::Ok | Verb::Info => Operation::Ignored,
        Verb::Error => Operation::Error,
        Verb::Connect => Operation::Connect(line),
        Verb::Subscribe => subscribe(line)?,
        Verb::Unsubscribe => unsubscribe(line)?,
        Verb::Publish => return publish(buffer, len, head(line)?, bounds),
        Verb::PublishWithHeaders => return publish(buffer, len, head_with_headers(line)?, bounds),
    };
    Ok(Parsed::Complete { operation, len })
}

/// The verb and where its arguments begin; `None` while it may still become one.
fn verb(buffer: &[u8]) -> Result<Option<(Verb, usize)>, Violation> {
    for &(name, verb, after) in VERBS {
        let common = name.len().min(buffer.len());
        if !buffer[..common].eq_ignore_ascii_case(&name[..common]) {
            continue;
        }
        let Some(next) = buffer.get(name.len()) else { return Ok(None) };
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        if after == After::Space && !is_space(next) {
            return Err(Violation::Unknown);
        }
        let spaces = buffer[name.len()..].iter().take_while(|byte| is_space(byte)).count();
        return Ok(Some((verb, name.len() + spaces)));
    }
    if buffer.is_empty() { Ok(None) } else { Err(Violation::Unknown) }
}

/// The arguments of a line; more than the most that any verb takes are malformed.
fn arguments(line: &[u8], is_separator: fn(&u8) -> bool) -> Result<([&[u8]; ARGUMENTS_MAX], usize), Violation> {
    let mut found: [&[u8]; ARGUMENTS_MAX] = [b""; ARGUMENTS_MAX];
    let mut count = 0;
    for argument in line.split(is_separator).filter(|argument| !argument.is_empty()) {
        *found.get_mut(count).ok_or(Violation::Malformed)? = argument;
        count += 1;
    }
    Ok((found, count))
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_space_or_return(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

fn subscribe(line: &[u8]) -> Result<Operation<'_>, Violation> {
    match arguments(line, is_space_or_return)? {
        ([subject, sid, ..], 2) => Ok(Operation::Subscribe { subject, queue: None, sid }),
        ([subject, queue, sid, _], 3) => Ok(Operation::Subscribe { subject, queue: Some(queue), sid }),
        _ => Err(Violation::Malformed),
    }
}

fn unsubscribe(line: &[u8]) -> Result<Operation<'_>, Violation> {
    match arguments(line, is_space_or_return)? {
        ([sid, ..], 1) => Ok(Operation::Unsubscribe { sid, max: None }),
        ([sid, max, ..], 2) => {
            let max = size(max).ok().filter(|max| *max > 0);
            Ok(Operation::Unsubscribe { sid, max: max.map(|max| max as u64) })
        }
        _ => Err(Violation::Malformed),
    }
}

/// PUB or HPUB before its content.
#[derive(Clone, Copy)]
struct Head<'a> {
    subject: &'a [u8],
    reply: Option<&'a [u8]>,
    header_len: Option<usize>,
    size: usize,
}

fn head(line: &[u8]) -> Result<Head<'_>, Violation> {
    let (subject, reply, length) = match arguments(line, is_space)? {
        ([subject, length, ..], 2) => (subject, None, length),
        ([subject, reply, length, _], 3) => (subject, Some(reply), length),
        _ => return Err(Violation::Malformed),
    };
    Ok(Head { subject, reply, header_len: None, size: size(length)? })
}

fn head_with_headers(line: &[u8]) -> Result<Head<'_>, Violation> {
    let (subject, reply, headers, length) = match arguments(line, is_space)? {
        ([subject, headers, length, _], 3) => (subject, None, headers, length),
        ([subject, reply, headers, length], 4) => (subject, Some(reply), headers, length),
        _ => return Err(Violation::Malformed),
    };
    let (header_len, size) = (size(headers)?, size(length)?);
    if header_len > size {
        return Err(Violation::Malformed);
    }
    Ok(Head { subject, reply, header_len: Some(header_len), size })
}

fn publish<'a>(buffer: &'a [u8], at: usize, head: Head<'a>, bounds: &Bounds) -> Result<Parsed<'a>, Violation> {
    if head.size > bounds.payload_max {
        return Err(Violation::Payload);
    }
    let end = at + head.size;
    let there = buffer.get(end..).unwrap_or_default();
    if !END.starts_with(&there[..there.len().min(END.len())]) {
        return Err(Violation::Unknown);
    }
    let len = end + END.len();
    if buffer.len() < len {
        return Ok(Parsed::Incomplete { needed: len });
    }
    let Head { subject, reply, header_len, .. } = head;
    let operation = Operation::Publish(Publish { subject, reply, header_len, content: &buffer[at..end] });
    Ok(Parsed::Complete { operation, len })
}

fn size(digits: &[u8]) -> Result<usize, Violation> {
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return Err(Violation::Malformed);
    }
    digits.iter().try_fold(0, |size, digit| match digit {
        b'0'..=b'9' => Ok(size * 10 + usize::from(digit - b'0')),
        _ => Err(Violation::Malformed),
    })
}

#[cfg(test)]
mod tests;
