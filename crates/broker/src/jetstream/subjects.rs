//! The subjects of JetStream: what clients call, what the hub and what each stream listens to, and how an acknowledgement
//! names its message. Pure. <https://docs.nats.io/reference/reference-protocols/nats_api_reference>

use super::api::Kind;

pub(super) const API: &[u8] = b"$JS.API.";
const NEXT: &str = "$JS.API.CONSUMER.MSG.NEXT";
const DIRECT: &str = "$JS.API.DIRECT.GET";
const ACK: &str = "$JS.ACK";
const FLOW: &str = "$JS.FC";

/// What the hub listens to.
pub(super) const HUB: [&str; 20] = [
    "$JS.API.INFO",
    "$JS.API.STREAM.CREATE.*",
    "$JS.API.STREAM.UPDATE.*",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.DELETE.*",
    "$JS.API.STREAM.PURGE.*",
    "$JS.API.STREAM.MSG.DELETE.*",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.STREAM.SNAPSHOT.*",
    "$JS.API.STREAM.RESTORE.*",
    "$JS.API.CONSUMER.CREATE.*",
    "$JS.API.CONSUMER.CREATE.*.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.*.*",
    "$JS.API.CONSUMER.NAMES.*",
    "$JS.API.CONSUMER.LIST.*",
    "$JS.API.CONSUMER.INFO.*.*",
    "$JS.API.CONSUMER.DELETE.*.*",
    "$JS.API.CONSUMER.PAUSE.*.*",
];

/// What a client asks the hub for. Names are as they were written and not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call<'a> {
    Info,
    StreamCreate(&'a str),
    StreamUpdate(&'a str),
    StreamNames,
    StreamList,
    StreamDelete(&'a str),
    /// For the stream itself.
    OfStream(&'a str, StreamCall<'a>),
    /// Not supported, as is the next.
    Snapshot,
    Restore,
}

/// What a client asks a stream for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamCall<'a> {
    Info,
    Purge,
    MessageGet,
    MessageDelete,
    /// What it is about is read further by `api::consumer_request`.
    ConsumerCreate,
    ConsumerNames,
    ConsumerList,
    ConsumerInfo(&'a str),
    ConsumerDelete(&'a str),
    ConsumerPause(&'a str),
}

impl Call<'_> {
    /// How its answer is called.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Info => Kind::AccountInfo,
            Self::StreamCreate(_) => Kind::StreamCreate,
            Self::StreamUpdate(_) => Kind::StreamUpdate,
            Self::StreamNames => Kind::StreamNames,
            Self::StreamList => Kind::StreamList,
            Self::StreamDelete(_) => Kind::StreamDelete,
            Self::OfStream(_, call) => call.kind(),
            Self::Snapshot => Kind::StreamSnapshot,
            Self::Restore => Kind::StreamRestore,
        }
    }
}

impl StreamCall<'_> {
    /// How its answer is called.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Info => Kind::StreamInfo,
            Self::Purge => Kind::StreamPurge,
            Self::MessageGet => Kind::MessageGet,
            Self::MessageDelete => Kind::MessageDelete,
            Self::ConsumerCreate => Kind::ConsumerCreate,
            Self::ConsumerNames => Kind::ConsumerNames,
            Self::ConsumerList => Kind::ConsumerList,
            Self::ConsumerInfo(_) => Kind::ConsumerInfo,
            Self::ConsumerDelete(_) => Kind::ConsumerDelete,
            Self::ConsumerPause(_) => Kind::ConsumerPause,
        }
    }
}

/// Reads the subject of a call; `None` for what the hub does not listen to.
pub(super) fn call(subject: &[u8]) -> Option<Call<'_>> {
    let rest = std::str::from_utf8(subject.strip_prefix(API)?).ok()?;
    let mut tokens = rest.split('.');
    let mut next = || tokens.next();
    Some(match (next()?, next(), next(), next()) {
        ("INFO", None, ..) => Call::Info,
        ("STREAM", Some("NAMES"), None, _) => Call::StreamNames,
        ("STREAM", Some("LIST"), None, _) => Call::StreamList,
        ("STREAM", Some("CREATE"), Some(stream), None) => Call::StreamCreate(stream),
        ("STREAM", Some("UPDATE"), Some(stream), None) => Call::StreamUpdate(stream),
        ("STREAM", Some("DELETE"), Some(stream), None) => Call::StreamDelete(stream),
        ("STREAM", Some("INFO"), Some(stream), None) => Call::OfStream(stream, StreamCall::Info),
        ("STREAM", Some("PURGE"), Some(stream), None) => Call::OfStream(stream, StreamCall::Purge),
        ("STREAM", Some("MSG"), Some("GET"), Some(stream)) => Call::OfStream(stream, StreamCall::MessageGet),
        ("STREAM", Some("MSG"), Some("DELETE"), Some(stream)) => Call::OfStream(stream, StreamCall::MessageDelete),
        ("STREAM", Some("SNAPSHOT"), Some(_), None) => Call::Snapshot,
        ("STREAM", Some("RESTORE"), Some(_), None) => Call::Restore,
        ("CONSUMER", Some("NAMES"), Some(stream), None) => Call::OfStream(stream, StreamCall::ConsumerNames),
        ("CONSUMER", Some("LIST"), Some(stream), None) => Call::OfStream(stream, StreamCall::ConsumerList),
        ("CONSUMER", Some("CREATE"), Some(stream), _) | ("CONSUMER", Some("DURABLE"), Some("CREATE"), Some(stream)) => {
            Call::OfStream(stream, StreamCall::ConsumerCreate)
        }
        ("CONSUMER", Some("INFO"), Some(stream), Some(name)) => Call::OfStream(stream, StreamCall::ConsumerInfo(name)),
        ("CONSUMER", Some("DELETE"), Some(stream), Some(name)) => {
            Call::OfStream(stream, StreamCall::ConsumerDelete(name))
        }
        ("CONSUMER", Some("PAUSE"), Some(stream), Some(name)) => {
            Call::OfStream(stream, StreamCall::ConsumerPause(name))
        }
        _ => return None,
    })
}

/// What a stream listens to beside its own subjects.
pub(super) fn of_stream(stream: &str, direct: Direct) -> Vec<String> {
    let mut patterns = vec![format!("{NEXT}.{stream}.*"), format!("{ACK}.{stream}.>"), format!("{FLOW}.{stream}.>")];
    if direct == Direct::Allowed {
        patterns.extend([format!("{DIRECT}.{stream}"), format!("{DIRECT}.{stream}.>")]);
    }
    patterns
}

/// Whether messages of a stream may be read without its leader, which here is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direct {
    Allowed,
    Denied,
}

/// What comes to a stream beside the messages that it stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word<'a> {
    /// A request for messages.
    Next { consumer: &'a str },
    /// An acknowledgement, which is read further by `consumer::ack`.
    Ack,
    /// A push consumer may go on.
    Flow { consumer: &'a str },
    /// A message is to be read, the last one of a subject where that is given.
    Direct { subject: Option<&'a str> },
}

/// Reads the subject of something that came to a stream.
pub(super) fn word(subject: &[u8]) -> Option<Word<'_>> {
    let text = std::str::from_utf8(subject).ok()?;
    let after = |prefix: &str| text.strip_prefix(prefix)?.strip_prefix('.');
    if after(ACK).is_some() {
        return Some(Word::Ack);
    }
    if let Some(rest) = after(NEXT) {
        return Some(Word::Next { consumer: rest.split('.').nth(1)? });
    }
    if let Some(rest) = after(FLOW) {
        return Some(Word::Flow { consumer: rest.split('.').nth(1)? });
    }
    let rest = after(DIRECT)?;
    Some(Word::Direct { subject: rest.split_once('.').map(|(_, subject)| subject) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_from_their_subjects() {
        let create = Some(Call::OfStream("S", StreamCall::ConsumerCreate));
        let cases = [
            ("INFO", Some(Call::Info)),
            ("STREAM.CREATE.S", Some(Call::StreamCreate("S"))),
            ("STREAM.MSG.GET.S", Some(Call::OfStream("S", StreamCall::MessageGet))),
            ("STREAM.RESTORE.S", Some(Call::Restore)),
            ("CONSUMER.CREATE.S", create),
            ("CONSUMER.CREATE.S.c", create),
            ("CONSUMER.CREATE.S.c.a.b.>", create),
            ("CONSUMER.DURABLE.CREATE.S.c", create),
            ("CONSUMER.PAUSE.S.c", Some(Call::OfStream("S", StreamCall::ConsumerPause("c")))),
            ("STREAM.PEER.REMOVE.S", None),
        ];
        for (rest, expected) in cases {
            assert_eq!(call(format!("$JS.API.{rest}").as_bytes()), expected, "{rest}");
        }
        assert_eq!(call(b"$JS.API"), None);
        let listened = |subject: &[u8]| HUB.iter().any(|pattern| crate::subject::matches(pattern.as_bytes(), subject));
        assert!(cases[..9].iter().all(|(rest, _)| listened(format!("$JS.API.{rest}").as_bytes())));
    }

    #[test]
    fn words_are_told_apart() {
        assert_eq!(word(b"$JS.ACK.S.c.2.30.4.5.6"), Some(Word::Ack));
        assert_eq!(word(b"$JS.API.CONSUMER.MSG.NEXT.S.c"), Some(Word::Next { consumer: "c" }));
        assert_eq!(word(b"$JS.FC.S.c.1"), Some(Word::Flow { consumer: "c" }));
        assert_eq!(word(b"$JS.API.DIRECT.GET.S"), Some(Word::Direct { subject: None }));
        assert_eq!(word(b"$JS.API.DIRECT.GET.S.a.b"), Some(Word::Direct { subject: Some("a.b") }));
    }
}
