//! Our reading of a request's head beside hyper's, and of chunks beside h11's: whatever we take, they take as well, and read
//! the same. Heads and bodies are changed at random from ones that are nearly right, where parsers differ.

use std::cell::RefCell;
use std::convert::Infallible;
use std::process::Stdio;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

/// Method, target and the number of fields, as hyper reads them. `None` if it refuses.
fn hypers(bytes: &[u8]) -> Option<(String, String, usize)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let seen = RefCell::new(None);
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
            seen.borrow_mut().get_or_insert((request.method().to_string(), target, request.headers().len()));
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service).await;
    });
    seen.into_inner()
}

const SEEDS: [&str; 6] = [
    "GET /a?b=c HTTP/1.1\r\nhost: a.test:80\r\naccept: */*\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "OPTIONS /x%20y HTTP/1.1\r\nhost: [::1]\r\nx: \u{e9}\r\ny:\r\n\r\n",
    "\r\nPUT / HTTP/1.1\r\nhost: a\r\nconnection: close, x\r\nx: y\r\n\r\n",
];

const WORDS: [&str; 24] = [
    "\r",
    "\n",
    "\r\n",
    " ",
    "\t",
    ":",
    ",",
    "\0",
    "\u{b}",
    "\u{7f}",
    "/",
    "?",
    "#",
    "%",
    "\"",
    "0",
    "+",
    "-",
    "chunked",
    "content-length: 1\r\n",
    "transfer-encoding: chunked\r\n",
    "host: b\r\n",
    "HTTP/1.1",
    ";",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_we_take_hyper_takes_and_reads_the_same(
        seed in 0..SEEDS.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0..WORDS.len(), 0..3u8), 0..4),
    ) {
        let mut bytes = SEEDS[seed].as_bytes().to_vec();
        for (at, word, how) in changes {
            let at = at.index(bytes.len());
            let until = if how == 0 { at } else { (at + usize::from(how)).min(bytes.len()) };
            bytes.splice(at..until, WORDS[word].bytes());
        }
        let ours = proxy::with_head(&bytes, |head| {
            // It refuses these in a query. They have one reading, and clients send them.
            let is_quoted = head.query().is_some_and(|query| query.contains('"'));
            (!is_quoted).then(|| (head.method().to_string(), head.path().to_owned()))
        });
        if let Ok(Some((method, path))) = ours {
            let theirs = hypers(&bytes);
            prop_assert!(theirs.is_some(), "we take what hyper refuses: {}", bytes.escape_ascii());
            let (their_method, target, _) = theirs.unwrap_or_default();
            prop_assert_eq!(method, their_method);
            // The path is in its normal form here.
            let plain = target.split('?').next().unwrap_or_default();
            if !plain.contains('%') && !plain.contains("//") && plain.is_ascii() {
                prop_assert_eq!(path, plain);
            }
        }
    }
}

/// Bodies to start from: sizes in every form, extensions, trailers, something behind the end.
const BODIES: [&str; 5] = [
    "3\r\nabc\r\n0\r\n\r\n",
    "A;name=value\r\n0123456789\r\n000\r\nx: y\r\n\r\n",
    "1 ;a\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
    "2;q=\"a;b\"\r\n\r\n\r\n1\r\n0\r\n0;e\r\n\r\n",
    "ffffffffffffffff\r\n",
];

/// Reads one body a line, as hexadecimal digits, and says `refused`, or its content with what is behind it, or nothing
/// while it has not ended.
const H11: &str = "
import h11, sys
head = b'POST / HTTP/1.1\\r\\nhost: a\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n'
for line in sys.stdin:
    connection, content, said = h11.Connection(h11.SERVER), b'', ''
    try:
        connection.receive_data(head + bytes.fromhex(line))
        while said == '':
            event = connection.next_event()
            if isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                said = 'taken ' + content.hex() + ' ' + connection.trailing_data[0].hex()
            elif event is h11.NEED_DATA:
                said = 'partial'
    except h11.RemoteProtocolError:
        said = 'refused'
    print(said)
";

/// Changes one body at a few random places, where parsers differ.
fn changed(body: &str, random: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    const WORDS: [&str; 16] =
        ["\r", "\n", "\r\n", " ", "\t", ";", "0", "1", "f", "G", "+", "-", "0x", "\0", "_", "t: u\r\n"];
    let mut bytes = body.as_bytes().to_vec();
    for _ in 0..random(4) {
        let at = random(bytes.len());
        let until = (at + random(3)).min(bytes.len());
        bytes.splice(at..until, WORDS[random(WORDS.len())].bytes());
    }
    bytes
}

#[test]
fn whatever_chunks_we_take_h11_takes_and_reads_the_same() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // xorshift64 (Marsaglia 2003): the same bodies in every run.
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let bodies: Vec<Vec<u8>> = (0..20_000).map(|turn| changed(BODIES[turn % BODIES.len()], &mut random)).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let asked: String = bodies.iter().map(|body| hex(body) + "\n").collect();
    let mut command = std::process::Command::new("/usr/bin/python3");
    command.args(["-c", H11]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut input, asked.as_bytes()));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    writing.join().unwrap().unwrap();
    let verdicts = String::from_utf8(output.stdout).unwrap();
    assert_eq!(verdicts.lines().count(), bodies.len());
    let mut taken = 0;
    for (body, verdict) in bodies.iter().zip(verdicts.lines()) {
        if let Ok(Some(ours)) = proxy::decode_chunked(&[body]) {
            let ours = format!("taken {} {}", hex(&ours.content), hex(&ours.rest));
            assert_eq!(verdict, ours, "{}", body.escape_ascii());
            taken += 1;
        }
    }
    assert!(taken > bodies.len() / 20, "only {taken} of {} were taken", bodies.len());
}
