//! What is taken for a message and what is not, each case with the clause or the attack that it stands for; and that it
//! does not matter in which pieces the bytes arrive.

use http::Method;
use proptest::prelude::*;

use crate::config::Limits;
use crate::http1::chunk::{Decoded, decode_chunked};
use crate::http1::framing;
use crate::http1::parse::{self, Parsed, Unfit};
use crate::message::{Length, RequestHead, ResponseHead};
use crate::reason::Reason;

/// Gives how the content is framed and whether the connection is kept.
fn request(text: &[u8]) -> Result<(Length, bool), Reason> {
    let (limits, mut head) = (Limits::standard(), RequestHead::default());
    match parse::request(text, &limits, &mut head).map_err(|refusal| refusal.reason)? {
        Parsed::Complete => framing::check_request(&mut head, text, &limits).map_err(|refusal| refusal.reason)?,
        Parsed::Partial => panic!("partial: {}", text.escape_ascii()),
    }
    Ok((head.content, head.keeps_alive))
}

fn response(text: &[u8], method: &Method) -> Result<(Length, bool), Unfit> {
    let (limits, mut head) = (Limits::standard(), ResponseHead::default());
    match parse::response(text, &limits, &mut head)? {
        Parsed::Complete if framing::check_response(&mut head, text, method) => Ok((head.content, head.keeps_alive)),
        Parsed::Complete => Err(Unfit::Invalid),
        Parsed::Partial => panic!("partial: {}", text.escape_ascii()),
    }
}

#[test]
fn requests_whose_end_is_known_are_taken() {
    for (clause, text, expected) in [
        ("RFC 9112 §6.3: no length, no content", "GET / HTTP/1.1\r\n\r\n", (Length::None, true)),
        ("RFC 9112 §6.3", "GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", (Length::None, true)),
        ("RFC 9112 §6.2", "POST / HTTP/1.1\r\nContent-Length:12\r\n\r\n", (Length::Exact(12), true)),
        (
            "RFC 9110 §5.5: space around a value",
            "POST / HTTP/1.1\r\ncontent-length: \t1 \r\n\r\n",
            (Length::Exact(1), true),
        ),
        ("RFC 9110 §8.6: 1*DIGIT", "POST / HTTP/1.1\r\ncontent-length: 0007\r\n\r\n", (Length::Exact(7), true)),
        ("RFC 9112 §7.1", "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n", (Length::Chunked, true)),
        ("RFC 9112 §9.3", "GET / HTTP/1.1\r\nconnection: x, Close\r\n\r\n", (Length::None, false)),
        ("RFC 9112 §9.3", "GET / HTTP/1.0\r\n\r\n", (Length::None, false)),
        ("RFC 9112 §9.3", "GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", (Length::None, true)),
        ("RFC 9112 §2.2: empty lines before", "\r\n\r\nGET / HTTP/1.1\r\n\r\n", (Length::None, true)),
        ("RFC 9110 §5.5: obs-text", "GET / HTTP/1.1\r\nx: \u{e9}\r\n\r\n", (Length::None, true)),
        ("RFC 9110 §5.5: an empty value", "GET / HTTP/1.1\r\nx:\r\ny: \r\n\r\n", (Length::None, true)),
        ("RFC 9110 §9.1: any token is a method", "BREW|~!# / HTTP/1.1\r\n\r\n", (Length::None, true)),
    ] {
        assert_eq!(request(text.as_bytes()), Ok(expected), "{clause}: {}", text.escape_debug());
    }
}

#[test]
fn requests_with_two_readings_are_refused() {
    let bad = Reason::BadRequest;
    for (clause, text, reason) in [
        (
            "RFC 9112 §6.3: both lengths",
            "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            bad,
        ),
        ("RFC 9112 §6.3: differing lengths", "POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n", bad),
        ("RFC 9110 §8.6: the same twice", "POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n", bad),
        ("RFC 9110 §8.6: a list", "POST / HTTP/1.1\r\ncontent-length: 3, 3\r\n\r\n", bad),
        ("CVE-2018-7159: digits apart", "POST / HTTP/1.1\r\ncontent-length: 4 2\r\n\r\n", bad),
        ("CVE-2021-41136: a sign", "POST / HTTP/1.1\r\ncontent-length: +3\r\n\r\n", bad),
        ("RFC 9110 §8.6: a sign", "POST / HTTP/1.1\r\ncontent-length: -3\r\n\r\n", bad),
        ("RFC 9110 §8.6: nothing", "POST / HTTP/1.1\r\ncontent-length:\r\n\r\n", bad),
        ("RFC 9110 §8.6: hexadecimal", "POST / HTTP/1.1\r\ncontent-length: 0x3\r\n\r\n", bad),
        ("CVE-2021-33193: beyond 64 bits", "POST / HTTP/1.1\r\ncontent-length: 18446744073709551617\r\n\r\n", bad),
        ("RFC 9112 §6.1: in HTTP/1.0", "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", bad),
        ("RFC 9112 §6.3: chunked is not last", "POST / HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n\r\n", bad),
        ("RFC 9112 §6.3: not chunked", "POST / HTTP/1.1\r\ntransfer-encoding: identity\r\n\r\n", bad),
        ("CVE-2020-7238: not quite chunked", "POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n", bad),
        ("CVE-2019-16785: quoted", "POST / HTTP/1.1\r\ntransfer-encoding: \"chunked\"\r\n\r\n", bad),
        ("CVE-2019-18277: a vertical tab", "POST / HTTP/1.1\r\ntransfer-encoding:\x0bchunked\r\n\r\n", bad),
        ("RFC 9112 §7: twice", "POST / HTTP/1.1\r\ntransfer-encoding: chunked, chunked\r\n\r\n", bad),
        (
            "RFC 9112 §7: in two lines",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            bad,
        ),
        ("RFC 9110 §5.6.1: an empty element", "POST / HTTP/1.1\r\ntransfer-encoding: chunked,\r\n\r\n", bad),
        ("RFC 9112 §6.3: empty", "POST / HTTP/1.1\r\ntransfer-encoding:\r\n\r\n", bad),
        (
            "RFC 9112 §6.1: unknown",
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            Reason::NotImplemented,
        ),
        ("RFC 9112 §5.1: space before the colon", "GET / HTTP/1.1\r\nhost : a\r\n\r\n", bad),
        ("CVE-2019-16869: the same", "GET / HTTP/1.1\r\ntransfer-encoding : chunked\r\n\r\n", bad),
        ("RFC 9112 §2.2: space before the first field", "GET / HTTP/1.1\r\n host: a\r\n\r\n", bad),
        ("RFC 9112 §5.2: obs-fold", "GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n", bad),
        ("RFC 9112 §5.2: obs-fold with a tab", "GET / HTTP/1.1\r\nx: a\r\n\tb\r\n\r\n", bad),
        ("RFC 9112 §2.2: a bare LF", "GET / HTTP/1.1\nhost: a\r\n\r\n", bad),
        ("RFC 9112 §2.2: a bare LF after a field", "GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", bad),
        ("CVE-2023-30589: bare LFs at the end", "GET / HTTP/1.1\r\nhost: a\n\n", bad),
        ("RFC 9112 §2.2: half an empty line", "GET / HTTP/1.1\r\nhost: a\r\n\n", bad),
        ("RFC 9112 §2.2: a bare LF before", "\nGET / HTTP/1.1\r\n\r\n", bad),
        ("RFC 9112 §2.2: empty lines without end", "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", bad),
        ("RFC 9112 §2.2: a bare CR", "GET / HTTP/1.1\r\nx: a\rb\r\n\r\n", bad),
        ("CVE-2022-35256: CR before the colon", "GET / HTTP/1.1\r\nx\r: a\r\n\r\n", bad),
        ("RFC 9110 §5.5: NUL", "GET / HTTP/1.1\r\nx: \0\r\n\r\n", bad),
        ("RFC 9110 §5.1: a name that is no token", "GET / HTTP/1.1\r\nx(y): z\r\n\r\n", bad),
        ("RFC 9110 §5.1: no name", "GET / HTTP/1.1\r\n: z\r\n\r\n", bad),
        ("RFC 9112 §5: no colon", "GET / HTTP/1.1\r\nxyz\r\n\r\n", bad),
        ("RFC 9112 §3: no version", "GET /\r\n\r\n", bad),
        ("RFC 9112 §2.3: another version", "GET / HTTP/1.2\r\n\r\n", bad),
        ("RFC 9112 §2.3: lower case", "GET / http/1.1\r\n\r\n", bad),
        ("RFC 9112 §3: two spaces", "GET  / HTTP/1.1\r\n\r\n", bad),
        ("RFC 9112 §3: a tab", "GET\t/\tHTTP/1.1\r\n\r\n", bad),
        ("RFC 9112 §3: space at the end", "GET / HTTP/1.1 \r\n\r\n", bad),
        ("RFC 9110 §9.1: no token", "G(T / HTTP/1.1\r\n\r\n", bad),
        ("RFC 9113 §3.4", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Reason::HttpVersionNotSupported),
    ] {
        assert_eq!(request(text.as_bytes()), Err(reason), "{clause}: {}", text.escape_debug());
    }
}

#[test]
fn responses_are_held_to_the_same_rules() {
    let get = Method::GET;
    for (clause, text, expected) in [
        ("RFC 9112 §6.3", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", Some((Length::Exact(3), true))),
        ("RFC 9112 §6.3", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Some((Length::Chunked, true))),
        ("RFC 9112 §6.3: until it closes", "HTTP/1.1 200 OK\r\n\r\n", Some((Length::UntilClose, false))),
        ("RFC 9112 §4: no reason", "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", Some((Length::None, true))),
        ("RFC 9112 §6.3: 204 has none", "HTTP/1.1 204 No\r\ncontent-length: 3\r\n\r\n", Some((Length::None, true))),
        ("RFC 9112 §6.3: 304 has none", "HTTP/1.1 304 No\r\ncontent-length: 3\r\n\r\n", Some((Length::None, true))),
        ("RFC 9112 §9.3", "HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n", Some((Length::Exact(3), false))),
        ("RFC 9112 §6.3: both", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", None),
        ("RFC 9112 §6.3: two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n", None),
        ("RFC 9110 §8.6: a sign", "HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\n", None),
        ("RFC 9110 §8.6: of a 304, too", "HTTP/1.1 304 No\r\ncontent-length: x\r\n\r\n", None),
        ("RFC 9112 §6.1: in HTTP/1.0", "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", None),
        ("RFC 9112 §6.1: unknown", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", None),
        ("RFC 9112 §6.1: not chunked", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", None),
        ("RFC 9112 §2.2: a bare LF", "HTTP/1.1 200 OK\ncontent-length: 3\r\n\r\n", None),
        ("RFC 9112 §2.2: bare LFs at the end", "HTTP/1.1 200 OK\r\ncontent-length: 3\n\n", None),
        ("RFC 9112 §5.2: obs-fold", "HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n", None),
        ("RFC 9112 §5.1: space before the colon", "HTTP/1.1 200 OK\r\nx : a\r\n\r\n", None),
        ("RFC 9112 §4: a line before", "\r\nHTTP/1.1 200 OK\r\n\r\n", None),
        ("RFC 9110 §15: below 100", "HTTP/1.1 099 Low\r\n\r\n", None),
        ("RFC 9112 §4: four digits", "HTTP/1.1 2000 OK\r\n\r\n", None),
        ("RFC 9112 §2.3", "HTTP/2.0 200 OK\r\n\r\n", None),
        ("RFC 9112 §4", "ICY 200 OK\r\n\r\n", None),
    ] {
        assert_eq!(response(text.as_bytes(), &get).ok(), expected, "{clause}: {}", text.escape_debug());
    }
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(response(chunked, &Method::HEAD), Ok((Length::None, true)), "RFC 9112 §6.3: HEAD");
}

#[test]
fn heads_beyond_the_limits_are_refused_before_they_end() {
    let limits = Limits { uri_bytes_max: 100, head_bytes_max: 400, headers_max: 3, ..Limits::standard() };
    let fields = |count: usize| "a: b\r\n".repeat(count);
    for (text, expected) in [
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100)), Err(Reason::UriTooLong)),
        (format!("GET /{}", "x".repeat(200)), Err(Reason::UriTooLong)),
        (format!("GET / HTTP/1.1\r\n{}", "x".repeat(384)), Err(Reason::HeadTooLarge)),
        (format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(400)), Err(Reason::HeadTooLarge)),
        (format!("GET / HTTP/1.1\r\n{}\r\n", fields(4)), Err(Reason::TooManyHeaders)),
        (format!("GET / HTTP/1.1\r\n{}\r\n", fields(3)), Ok(Parsed::Complete)),
        (format!("GET / HTTP/1.1\r\n{}", fields(3)), Ok(Parsed::Partial)),
    ] {
        let seen = parse::request(text.as_bytes(), &limits, &mut RequestHead::default());
        assert_eq!(seen.map_err(|refusal| refusal.reason), expected, "{text}");
    }
    let standard = Limits { headers_max: 1000, ..Limits::standard() };
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", fields(300));
    assert!(parse::request(many.as_bytes(), &standard, &mut RequestHead::default()).is_err(), "256 is the end");
}

#[test]
fn chunks_are_read_and_what_follows_them_is_left() {
    for (clause, text, content, rest, trailers) in [
        ("RFC 9112 §7.1", "3\r\nabc\r\n0\r\n\r\n", "abc", "", ""),
        ("RFC 9112 §7.1", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET", "abcde", "GET", ""),
        (
            "RFC 9112 §7.1: either case",
            "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
            "01234567890123456789",
            "",
            "",
        ),
        ("RFC 9112 §7.1: zeros before", "0003\r\nabc\r\n000\r\n\r\n", "abc", "", ""),
        ("RFC 9112 §7.1.1: extensions", "3;a=b;c=\"d\"\r\nabc\r\n0;x\r\n\r\n", "abc", "", ""),
        ("RFC 9112 §7.1.2", "0\r\nX-Sum: 3\r\n\r\n", "", "", "X-Sum: 3\r\n"),
        (
            "RFC 9110 §6.5.1: what may not trail",
            "0\r\ncontent-length: 3\r\na: b\r\nHost: x\r\nx-forwarded-for: y\r\nauthorization: z\r\n\r\n",
            "",
            "",
            "a: b\r\n",
        ),
    ] {
        let expected = Ok(Some(Decoded { content: content.into(), rest: rest.into(), trailers: trailers.into() }));
        assert_eq!(decode_chunked(&[text.as_bytes()]), expected, "{clause}: {}", text.escape_debug());
        for split in 1..text.len() {
            let (first, second) = text.as_bytes().split_at(split);
            assert_eq!(decode_chunked(&[first, second]), expected, "{clause}: {} at {split}", text.escape_debug());
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(decode_chunked(&bytes), expected, "{clause}: {} byte by byte", text.escape_debug());
        for end in 0..text.len() - rest.len() {
            assert_eq!(
                decode_chunked(&[&text.as_bytes()[..end]]),
                Ok(None),
                "{clause}: {} until {end}",
                text.escape_debug()
            );
        }
    }
}

#[test]
fn chunks_that_break_the_rules_are_refused() {
    let (long, fields) = (format!("1;{}\r\nx", "e".repeat(300)), format!("0\r\na: {}", "b".repeat(10_000)));
    for (clause, text) in [
        ("RFC 9112 §7.1: no size", "\r\nabc"),
        ("RFC 9112 §7.1: no digit", "x\r\n"),
        ("RFC 9112 §7.1: a sign", "+3\r\nabc"),
        ("RFC 9112 §7.1: a sign", "-1\r\n"),
        ("CVE-2015-3183: 0x", "0x3\r\nabc"),
        ("CVE-2019-9516: space before", " 3\r\nabc"),
        ("RFC 9112 §7.1: space behind", "3 \r\nabc"),
        ("RFC 9112 §7.1: something behind", "1 x\r\na"),
        ("RFC 9112 §7.1: an underscore", "1_0\r\n"),
        ("CVE-2013-2028: beyond 64 bits", "f0000000000000003\r\nabc"),
        ("RFC 9112 §7.1: more digits than any size", "00000000000000000003\r\nabc"),
        ("RFC 9112 §7.1: a bare LF", "3\nabc"),
        ("CVE-2025-22871: a bare LF in an extension", "1;a\nb\r\nx\r\n"),
        ("RFC 9112 §7.1.1: a bare CR in an extension", "1;a\rb\r\nx\r\n"),
        ("RFC 9112 §7.1.1: NUL in an extension", "1;a\0\r\nx\r\n"),
        ("CVE-2023-39326: an extension without end", &long),
        ("CVE-2020-11078: no CR LF behind the data", "2\r\nabc\r\n"),
        ("RFC 9112 §7.1: a bare LF behind the data", "3\r\nabc\n0\r\n\r\n"),
        ("RFC 9112 §7.1.2: a folded trailer", "0\r\na: b\r\n c\r\n\r\n"),
        ("RFC 9112 §7.1.2: space before the colon", "0\r\na : b\r\n\r\n"),
        ("RFC 9112 §7.1.2: a bare LF", "0\r\na: b\n\r\n"),
        ("RFC 9112 §7.1.2: a bare LF at the end", "0\r\n\n"),
        ("RFC 9112 §7.1.2: without end", &fields),
    ] {
        assert!(decode_chunked(&[text.as_bytes()]).is_err(), "{clause}: {:.60}", text.escape_debug());
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert!(decode_chunked(&bytes).is_err(), "{clause}: {:.60} byte by byte", text.escape_debug());
    }
}

proptest! {
    #[test]
    fn any_content_survives_any_cut(
        content in proptest::collection::vec(any::<u8>(), 0..200),
        sizes in proptest::collection::vec(1..40usize, 1..20),
        cuts in proptest::collection::vec(1..30usize, 1..20),
    ) {
        let (mut text, mut left) = (Vec::new(), &content[..]);
        for size in sizes.iter().cycle() {
            let (chunk, rest) = left.split_at((*size).min(left.len()));
            text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            text.extend_from_slice(chunk);
            text.extend_from_slice(b"\r\n");
            left = rest;
            if chunk.is_empty() {
                break;
            }
        }
        let (mut pieces, mut left) = (Vec::new(), &text[..]);
        for cut in cuts.iter().cycle() {
            let (piece, rest) = left.split_at((*cut).min(left.len()));
            pieces.push(piece);
            left = rest;
            if left.is_empty() {
                break;
            }
        }
        prop_assert_eq!(decode_chunked(&pieces), Ok(Some(Decoded { content, trailers: Vec::new(), rest: Vec::new() })));
    }

    #[test]
    fn bytes_without_sense_are_refused_or_waited_for(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut head = RequestHead::default();
        if let Ok(Parsed::Complete) = parse::request(&bytes, &Limits::standard(), &mut head) {
            prop_assert!(head.length <= bytes.len());
        }
        let _ = parse::response(&bytes, &Limits::standard(), &mut ResponseHead::default());
        let _ = decode_chunked(&[&bytes]);
    }

    /// A head that is cut off anywhere is waited for, never misread.
    #[test]
    fn a_head_is_whole_or_partial(names in proptest::collection::vec("[a-z-]{1,10}", 0..6), value in "[ -~]{0,30}") {
        let fields: String = names.iter().map(|name| format!("{name}: {value}\r\n")).collect();
        let text = format!("GET /a?b=c HTTP/1.1\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        for end in 0..text.len() {
            let seen = parse::request(&text.as_bytes()[..end], &Limits::standard(), &mut head);
            prop_assert_eq!(seen, Ok(Parsed::Partial), "until {}", end);
        }
        prop_assert_eq!(parse::request(text.as_bytes(), &Limits::standard(), &mut head), Ok(Parsed::Complete));
        prop_assert_eq!((head.length, head.fields.lines.len()), (text.len(), names.len()));
    }
}
