//! Our reading of a request's head beside hyper's: whatever we take, it takes as well, and reads the same. Heads are
//! changed at random from ones that are nearly right, where parsers differ.

use std::cell::RefCell;
use std::convert::Infallible;

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
