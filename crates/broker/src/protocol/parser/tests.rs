//! Tables of operations, and the same bytes truncated, split at every byte and mutated under printed seeds.

use super::*;

const BOUNDS: Bounds = Bounds { control_line_max: 64, payload_max: 32 };

fn publish(
    subject: &'static str,
    reply: Option<&'static str>,
    headers: Option<usize>,
    content: &'static str,
) -> String {
    let (subject, content, reply) = (subject.as_bytes(), content.as_bytes(), reply.map(str::as_bytes));
    format!("{:?}", Operation::Publish(Publish { subject, reply, header_len: headers, content }))
}

fn one(text: &[u8]) -> String {
    match parse(text, &BOUNDS) {
        Ok(Parsed::Complete { operation, len }) if len == text.len() => format!("{operation:?}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn operations_are_read_as_nats_server_reads_them() {
    assert_eq!(one(b"PUB a 2\r\nok\r\n"), publish("a", None, None, "ok"));
    assert_eq!(one(b"pub  a\tb  0 \r\n\r\n"), publish("a", Some("b"), None, ""));
    assert_eq!(one(b"PUB a 2\nok\r\n"), publish("a", None, None, "ok"));
    assert_eq!(one(b"HPUB a 12 14\r\nNATS/1.0\r\n\r\nok\r\n"), publish("a", None, Some(12), "NATS/1.0\r\n\r\nok"));
    assert_eq!(one(b"HPUB a b 0 2\r\nok\r\n"), publish("a", Some("b"), Some(0), "ok"));
    for ping in ["PING\r\n", "ping\n", "PING x\r\n", "PINGX\r\n"] {
        assert_eq!(one(ping.as_bytes()), "Ping");
    }
    assert_eq!(one(b"PONG\r\n"), "Pong");
    assert_eq!(one(b"+OK\r\n"), "Ignored");
    assert_eq!(one(b"INFO {}\r\n"), "Ignored");
    assert_eq!(one(b"-ERR 'x'\r\n"), "Error");
    for connect in ["CONNECT {}\r\n", "connect{}\n"] {
        assert_eq!(one(connect.as_bytes()), format!("{:?}", Operation::Connect(b"{}")));
    }
    let sub = |queue| Operation::Subscribe { subject: b"a", queue, sid: b"1" };
    assert_eq!(one(b"SUB a 1\r\n"), format!("{:?}", sub(None)));
    assert_eq!(one(b"sub a  q 1 \r\n"), format!("{:?}", sub(Some(b"q"))));
    let unsub = |max| format!("{:?}", Operation::Unsubscribe { sid: b"1", max });
    assert_eq!(one(b"UNSUB 1\r\n"), unsub(None));
    assert_eq!(one(b"UNSUB 1 5\r\n"), unsub(Some(5)));
    assert_eq!(one(b"UNSUB 1 x\r\n"), unsub(None));
    assert_eq!(one(b"UNSUB 1 0\r\n"), unsub(None));
}

#[test]
fn what_cannot_become_an_operation_is_refused_at_once() {
    let long = [b"PUB ".as_slice(), &[b'x'; 65]].concat();
    let cases: &[(&[u8], Violation)] = &[
        (b"F", Violation::Unknown),
        (b"\r\n", Violation::Unknown),
        (b"PU ", Violation::Unknown),
        (b"PUB\r\n", Violation::Unknown),
        (b"SUBX", Violation::Unknown),
        (b"MSG a 1 0\r\n\r\n", Violation::Unknown),
        (b"PUB a 2\r\nokX", Violation::Unknown),
        (b"PUB a 2\r\nok\rX", Violation::Unknown),
        (b"PUB a 2\r\nok\n", Violation::Unknown),
        (b"PUB a\r\n", Violation::Malformed),
        (b"PUB a x\r\n", Violation::Malformed),
        (b"PUB a -1\r\n", Violation::Malformed),
        (b"PUB a +1\r\n", Violation::Malformed),
        (b"PUB a b c 1\r\n", Violation::Malformed),
        (b"PUB a b c d e 1\r\n", Violation::Malformed),
        (b"PUB a 9999999999\r\n", Violation::Malformed),
        (b"HPUB a 3\r\n", Violation::Malformed),
        (b"HPUB a 8 6\r\n", Violation::Malformed),
        (b"SUB a\r\n", Violation::Malformed),
        (b"UNSUB 1 2 3\r\n", Violation::Malformed),
        (b"PUB a 33\r\n", Violation::Payload),
        (b"HPUB a 1 33\r\n", Violation::Payload),
        (&long, Violation::ControlLine),
    ];
    for (text, violation) in cases {
        assert_eq!(parse(text, &BOUNDS), Err(*violation), "{}", text.escape_ascii());
    }
}

/// What a client says that sends these bytes in these pieces.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let mut buffer = Vec::new();
    let mut said = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parse(&buffer, &BOUNDS) {
                Ok(Parsed::Complete { operation, len }) => {
                    said.push(format!("{operation:?}"));
                    buffer.drain(..len);
                }
                Ok(Parsed::Incomplete { needed }) => {
                    assert!(needed > buffer.len());
                    assert!(needed <= 4 + 3 * BOUNDS.control_line_max + BOUNDS.payload_max);
                    break;
                }
                Err(violation) => {
                    said.push(format!("{violation:?}"));
                    return said;
                }
            }
        }
    }
    said
}

const SESSION: &[u8] =
    b"CONNECT {\"verbose\":false}\r\nPING\r\nSUB a.* q 1\r\nHPUB a r 12 14\r\nNATS/1.0\r\n\r\nok\r\n\
    PUB a 4\r\n\r\n\r\n\r\nUNSUB 1 3\r\nPONG\r\nSUB > 2\r\nPUB a.b 0\r\n\r\n+OK\r\n";

#[test]
fn it_does_not_matter_how_bytes_are_split() {
    let whole = read([SESSION]);
    assert_eq!(whole.len(), 10);
    for at in 0..=SESSION.len() {
        let (first, second) = SESSION.split_at(at);
        assert_eq!(read([first, second]), whole, "split at {at}");
    }
    assert_eq!(read(SESSION.chunks(1)), whole);
}

#[test]
fn mutated_and_truncated_bytes_are_read_alike_in_all_pieces() {
    let seed = 0x6e61_7473;
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..20_000 {
        let mut bytes = SESSION.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, *random.choice(b" \r\n\t0919PSUC{").expect("not empty")),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(b'P');
            }
        }
        let at = random.usize(..=bytes.len());
        let (first, second) = bytes.split_at(at);
        let whole = read([bytes.as_slice()]);
        assert_eq!(read([first, second]), whole, "seed {seed:#x} round {round}");
        assert_eq!(read(bytes.chunks(1)), whole, "seed {seed:#x} round {round}");
    }
}
