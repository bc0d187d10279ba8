//! The head of a message, whatever version of HTTP brought it: what was read, as places in one buffer of bytes. Nothing
//! is copied and nothing allocated; a head is filled again and again. Who reads bytes (`http1::parse`) fills it, who
//! decides (`head`, `route`, `headers`) looks through a [`Head`]. Knows no rules.

use std::borrow::Cow;

use http::Method;

/// A place in the buffer of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// # Panics
    /// Beyond 4 GiB: buffers of heads are bounded far below.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let place = |at: usize| u32::try_from(at).expect("the buffer of a head is smaller than 4 GiB");
        Self { start: place(start), end: place(end) }
    }

    /// The place of a part of `whole`.
    pub(crate) fn within(whole: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        Self::new(start, start + part.len())
    }

    pub(crate) fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) fn end(self) -> usize {
        self.end as usize
    }

    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }

    /// The text; where the buffer holds no UTF-8, which no span of a checked target does, it is empty.
    pub(crate) fn text(self, bytes: &[u8]) -> &str {
        std::str::from_utf8(self.of(bytes)).unwrap_or_default()
    }
}

/// The protocol version of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    Http10,
    #[default]
    Http11,
}

/// The field names that the proxy itself cares for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Name {
    Other,
    AtollDeadline,
    AtollOther,
    Connection,
    ContentLength,
    ContentType,
    Date,
    Expect,
    Forwarded,
    ForwardedFor,
    ForwardedHost,
    ForwardedPort,
    ForwardedProto,
    Host,
    KeepAlive,
    ProxyConnection,
    RequestId,
    RetryAfter,
    Te,
    Traceparent,
    Tracestate,
    TransferEncoding,
    Upgrade,
    Via,
}

impl Name {
    /// Names are compared without regard to case (RFC 9110 §5.1).
    pub(crate) fn of(name: &[u8]) -> Self {
        let known: &[(&str, Self)] = match name.len() {
            2 => &[("te", Self::Te)],
            3 => &[("via", Self::Via)],
            4 => &[("host", Self::Host), ("date", Self::Date)],
            6 => &[("expect", Self::Expect)],
            7 => &[("upgrade", Self::Upgrade)],
            9 => &[("forwarded", Self::Forwarded)],
            10 => {
                &[("connection", Self::Connection), ("keep-alive", Self::KeepAlive), ("tracestate", Self::Tracestate)]
            }
            11 => &[("traceparent", Self::Traceparent), ("retry-after", Self::RetryAfter)],
            12 => &[("content-type", Self::ContentType), ("x-request-id", Self::RequestId)],
            14 => &[("content-length", Self::ContentLength), ("atoll-deadline", Self::AtollDeadline)],
            15 => &[("x-forwarded-for", Self::ForwardedFor)],
            16 => &[
                ("proxy-connection", Self::ProxyConnection),
                ("x-forwarded-host", Self::ForwardedHost),
                ("x-forwarded-port", Self::ForwardedPort),
            ],
            17 => &[("transfer-encoding", Self::TransferEncoding), ("x-forwarded-proto", Self::ForwardedProto)],
            _ => &[],
        };
        let found = known.iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
        match found {
            Some((_, known)) => *known,
            None if name.len() > 6 && name[..6].eq_ignore_ascii_case(b"atoll-") => Self::AtollOther,
            None => Self::Other,
        }
    }

    /// Always about one connection (RFC 9110 §7.6.1), whether `connection` names it or not.
    pub(crate) const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }

    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// One field line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) known: Name,
    pub(crate) name: Span,
    /// Without the white space around it.
    pub(crate) value: Span,
    /// Where the next line begins.
    pub(crate) end: u32,
}

/// The field lines of one message, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    pub(crate) lines: Vec<Field>,
    present: u32,
}

impl Fields {
    pub(crate) fn clear(&mut self) {
        self.lines.clear();
        self.present = 0;
    }

    pub(crate) fn push(&mut self, field: Field) {
        self.present |= field.known.bit();
        self.lines.push(field);
    }

    pub(crate) fn has(&self, name: Name) -> bool {
        self.present & name.bit() != 0
    }

    /// The values of every line of this name.
    pub(crate) fn all<'b>(&self, name: Name, bytes: &'b [u8]) -> impl Iterator<Item = &'b [u8]> + use<'b, '_> {
        let lines: &[Field] = if self.has(name) { &self.lines } else { &[] };
        lines.iter().filter(move |field| field.known == name).map(move |field| field.value.of(bytes))
    }

    /// The value of the only line of this name. `None` also when there are several.
    pub(crate) fn only<'b>(&self, name: Name, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let mut all = self.all(name, bytes);
        all.next().filter(|_| all.next().is_none())
    }

    /// The elements of the comma-separated lists in every line of this name, without empty ones.
    pub(crate) fn tokens<'b>(&self, name: Name, bytes: &'b [u8]) -> impl Iterator<Item = &'b [u8]> + use<'b, '_> {
        let elements = self.all(name, bytes).flat_map(|value| value.split(|byte| *byte == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }
}

/// A text of the head in its normal form: where the sender wrote it so, its place.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    Written(Span),
    Made(String),
}

impl Default for Text {
    fn default() -> Self {
        Self::Written(Span::default())
    }
}

impl Text {
    /// `span` is where `text` was written.
    pub(crate) fn of(text: Cow<'_, str>, bytes: &[u8]) -> Self {
        match text {
            Cow::Borrowed("") => Self::default(),
            Cow::Borrowed(text) if bytes.as_ptr_range().contains(&text.as_ptr()) => {
                Self::Written(Span::within(bytes, text.as_bytes()))
            }
            text => Self::Made(text.into_owned()),
        }
    }

    pub(crate) fn get<'b>(&'b self, bytes: &'b [u8]) -> &'b str {
        match self {
            Self::Written(span) => span.text(bytes),
            Self::Made(text) => text,
        }
    }
}

/// Where the content of a message ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Length {
    /// There is none.
    #[default]
    None,
    Exact(u64),
    Chunked,
    /// Responses only.
    UntilClose,
}

/// The head of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestHead {
    /// How many bytes it takes in the buffer.
    pub(crate) length: usize,
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) fields: Fields,
    /// As it was written.
    pub(crate) target: Span,
    /// From here on the target is as `head::check` read it. Lower case, without a port; empty when there is none.
    pub(crate) host: Text,
    pub(crate) port: Option<u16>,
    /// The authority as the client wrote it, with its port: in the target, else in `Host`.
    pub(crate) authority: Span,
    /// In normal form; `*` in a request for the server as a whole.
    pub(crate) path: Text,
    pub(crate) query: Option<Span>,
    pub(crate) content: Length,
    /// Whether the client wants to use the connection again.
    pub(crate) keeps_alive: bool,
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponseHead {
    pub(crate) length: usize,
    pub(crate) version: Version,
    pub(crate) status: u16,
    pub(crate) reason: Span,
    pub(crate) fields: Fields,
    pub(crate) content: Length,
    /// Whether the service will take another request on the connection.
    pub(crate) keeps_alive: bool,
}

/// A checked request, as everything that decides sees it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) request: &'a RequestHead,
}

impl<'a> Head<'a> {
    #[must_use]
    pub fn method(&self) -> &'a Method {
        &self.request.method
    }

    /// Lower case, without a port; empty when HTTP/1.0 sends none.
    #[must_use]
    pub fn host(&self) -> &'a str {
        self.request.host.get(self.bytes)
    }

    /// The port that the client wrote behind the host.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.request.port
    }

    /// In normal form; `*` in a request for the server as a whole.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.request.path.get(self.bytes)
    }

    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.request.query.map(|span| span.text(self.bytes))
    }

    /// The values of every field of this name, in lower case, as text; those that are not ASCII are empty.
    pub(crate) fn values(&self, name: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        let bytes = self.bytes;
        let lines = self.request.fields.lines.iter();
        let named = lines.filter(move |field| field.name.of(bytes).eq_ignore_ascii_case(name.as_bytes()));
        named.map(move |field| {
            let value = field.value.of(bytes);
            std::str::from_utf8(value).ok().filter(|text| text.is_ascii()).unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_known_in_any_case() {
        for (name, known) in [
            ("host", Name::Host),
            ("HOST", Name::Host),
            ("Content-Length", Name::ContentLength),
            ("transfer-encoding", Name::TransferEncoding),
            ("X-Forwarded-Proto", Name::ForwardedProto),
            ("atoll-deadline", Name::AtollDeadline),
            ("Atoll-X", Name::AtollOther),
            ("atoll-", Name::Other),
            ("accept", Name::Other),
            ("", Name::Other),
        ] {
            assert_eq!(Name::of(name.as_bytes()), known, "{name}");
        }
        assert!((Name::Via as u8) < 32, "every name has its bit");
    }
}
