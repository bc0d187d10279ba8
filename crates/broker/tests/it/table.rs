//! What is answered to which bytes, by the broker and by nats-server alike.

use std::net::SocketAddr;

use crate::official::servers::NatsServer;
use crate::support::{Raw, config, start};

/// How a conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With the answer to a PING.
    Open,
    Closed,
}
use End::{Closed, Open};

const QUIET: &str =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"echo\":true}\r\n";
const LOUD: &str = "CONNECT {\"verbose\":true,\"pedantic\":false,\"headers\":true}\r\n";
const PEDANTIC: &str = "CONNECT {\"verbose\":false,\"pedantic\":true,\"headers\":true}\r\n";

/// Sent (after a CONNECT), expected before the PONG or the close.
const TABLE: &[(&str, &str, &str, End)] = &[
    // Before CONNECT, everything is verbose and pedantic.
    ("", "", "", Open),
    ("", "SUB foo 1\r\n", "+OK\r\n", Open),
    ("", "PUB a..b 0\r\n\r\n", "-ERR 'Invalid Publish Subject'\r\n+OK\r\n", Open),
    ("", "HPUB h 12 14\r\nNATS/1.0\r\n\r\nok\r\n", "", Closed),
    // CONNECT.
    ("", "CONNECT {}\r\n", "+OK\r\n", Open),
    ("", "connect{}\n", "+OK\r\n", Open),
    ("", "CONNECT null\r\n", "+OK\r\n", Open),
    ("", "CONNECT {\"VERBOSE\":true}\r\n", "+OK\r\n", Open),
    ("", "CONNECT\r\n", "", Closed),
    ("", "CONNECT {bad}\r\n", "", Closed),
    ("", "CONNECT []\r\n", "", Closed),
    ("", "CONNECT {\"verbose\":\"x\"}\r\n", "", Closed),
    ("", "CONNECT {\"verbose\":true}{}\r\n", "", Closed),
    ("", "CONNECT {\"protocol\":2}\r\n", "-ERR 'invalid client protocol'\r\n", Closed),
    ("", "CONNECT {\"no_responders\":true}\r\n", "-ERR 'no responders requires headers support'\r\n", Closed),
    ("", "CONNECT {\"account\":\"x\"}\r\n", "-ERR 'Authorization Violation'\r\n", Closed),
    (LOUD, "CONNECT {}\r\n", "+OK\r\n", Open),
    // What is no operation.
    (QUIET, "FOO\r\n", "-ERR 'Unknown Protocol Operation'\r\n", Closed),
    (QUIET, "\r\n", "-ERR 'Unknown Protocol Operation'\r\n", Closed),
    (QUIET, "PI NG\r\n", "-ERR 'Unknown Protocol Operation'\r\n", Closed),
    (QUIET, "SUBX foo 1\r\n", "-ERR 'Unknown Protocol Operation'\r\n", Closed),
    (QUIET, "PUBfoo 0\r\n\r\n", "-ERR 'Unknown Protocol Operation'\r\n", Closed),
    (QUIET, "PUB\r\n", "-ERR 'Unknown Protocol Operation'\r\n", Closed),
    (QUIET, "MSG foo 1 0\r\n\r\n", "-ERR 'Unknown Protocol Operation'\r\n", Closed),
    (QUIET, "PUB foo 2\r\nokPING\r\n", "-ERR 'Unknown Protocol Operation'\r\n", Closed),
    (QUIET, "-ERR 'x'\r\n", "", Closed),
    (QUIET, "INFO {}\r\n+OK\r\nPONG\r\n", "", Open),
    // Arguments that cannot be read.
    (QUIET, "PUB foo\r\n", "", Closed),
    (QUIET, "PUB foo x\r\n", "", Closed),
    (QUIET, "PUB foo -1\r\n", "", Closed),
    (QUIET, "PUB foo 9999999999\r\n", "", Closed),
    (QUIET, "PUB foo 1048577\r\n", "-ERR 'Maximum Payload Violation'\r\n", Closed),
    (QUIET, "HPUB h 12 1048577\r\n", "-ERR 'Maximum Payload Violation'\r\n", Closed),
    (QUIET, "HPUB h 8 6\r\nXXXXok\r\n", "", Closed),
    (QUIET, "HPUB h 3\r\n", "", Closed),
    (QUIET, "SUB foo\r\n", "", Closed),
    (QUIET, "SUB a b c d\r\n", "", Closed),
    (QUIET, "UNSUB 1 2 3\r\n", "", Closed),
    // Subjects.
    (QUIET, "SUB foo. 1\r\n", "-ERR 'Invalid Subject'\r\n", Open),
    (QUIET, "SUB foo.>.bar 1\r\n", "-ERR 'Invalid Subject'\r\n", Open),
    (LOUD, "SUB foo..bar 1\r\n", "-ERR 'Invalid Subject'\r\n", Open),
    (QUIET, "SUB foo* 1\r\nPUB foo* 0\r\n\r\nPUB foox 0\r\n\r\n", "MSG foo* 1 0\r\n\r\n", Open),
    (QUIET, "SUB foo.* 1\r\nPUB foo. 0\r\n\r\nPUB foo 0\r\n\r\nPUB foo.a.b 0\r\n\r\n", "", Open),
    (QUIET, "SUB foo.* 1\r\nPUB foo.* 0\r\n\r\n", "MSG foo.* 1 0\r\n\r\n", Open),
    (QUIET, "SUB foo.> 1\r\nPUB foo 0\r\n\r\nPUB foo.a.b 0\r\n\r\n", "MSG foo.a.b 1 0\r\n\r\n", Open),
    (PEDANTIC, "PUB foo.* 0\r\n\r\n", "-ERR 'Invalid Publish Subject'\r\n", Open),
    (PEDANTIC, "SUB foo.*.> 1\r\n", "", Open),
    // Publishing.
    (QUIET, "SUB foo 1\r\nPUB foo 2\r\nok\r\n", "MSG foo 1 2\r\nok\r\n", Open),
    (QUIET, "sub foo 1\npub foo 2\nok\r\n", "MSG foo 1 2\r\nok\r\n", Open),
    (QUIET, "SUB  foo \t 1 \r\nPUB  foo  bar\t 0 \r\n\r\n", "MSG foo 1 bar 0\r\n\r\n", Open),
    (QUIET, "SUB foo q 1\r\nPUB foo 0\r\n\r\n", "MSG foo 1 0\r\n\r\n", Open),
    (QUIET, "SUB foo.* q 1\r\nSUB foo.> q 1\r\nPUB foo.a 0\r\n\r\n", "MSG foo.a 1 0\r\n\r\n", Open),
    (QUIET, "SUB foo 1\r\nSUB bar 1\r\nPUB bar 0\r\n\r\nPUB foo 0\r\n\r\n", "MSG foo 1 0\r\n\r\n", Open),
    (QUIET, "SUB ü.* 1\r\nPUB ü.ß 0\r\n\r\n", "MSG ü.ß 1 0\r\n\r\n", Open),
    (
        LOUD,
        "SUB foo 1\r\nPUB foo 0\r\n\r\nUNSUB 1\r\nUNSUB 9\r\n",
        "+OK\r\n+OK\r\nMSG foo 1 0\r\n\r\n+OK\r\n+OK\r\n",
        Open,
    ),
    // Headers are carried and not read.
    (QUIET, "SUB h 1\r\nHPUB h 12 14\r\nNATS/1.0\r\n\r\nok\r\n", "HMSG h 1 12 14\r\nNATS/1.0\r\n\r\nok\r\n", Open),
    (QUIET, "SUB h 1\r\nHPUB h r 4 6\r\nXXXXok\r\n", "HMSG h 1 r 4 6\r\nXXXXok\r\n", Open),
    (QUIET, "SUB h 1\r\nHPUB h 0 2\r\nok\r\n", "MSG h 1 2\r\nok\r\n", Open),
    // Ends of subscriptions.
    (QUIET, "SUB foo 1\r\nUNSUB 1\r\nPUB foo 0\r\n\r\n", "", Open),
    (QUIET, "SUB foo 1\r\nUNSUB 1 0\r\nPUB foo 0\r\n\r\n", "", Open),
    (QUIET, "SUB foo 1\r\nUNSUB 1 x\r\nPUB foo 0\r\n\r\n", "", Open),
    (QUIET, "SUB f 1\r\nUNSUB 1 1\r\nPUB f 0\r\n\r\nPUB f 0\r\n\r\n", "MSG f 1 0\r\n\r\n", Open),
    (QUIET, "SUB f 1\r\nPUB f 0\r\n\r\nUNSUB 1 1\r\nPUB f 0\r\n\r\n", "MSG f 1 0\r\n\r\n", Open),
    (
        QUIET,
        "SUB f 1\r\nUNSUB 1 1\r\nPUB f 0\r\n\r\nSUB f 1\r\nPUB f 0\r\n\r\n",
        "MSG f 1 0\r\n\r\nMSG f 1 0\r\n\r\n",
        Open,
    ),
    // Nobody answers.
    (
        QUIET,
        "SUB i.* 1\r\nPUB no i.3 0\r\n\r\n",
        "HMSG i.3 1 34 34\r\nNATS/1.0 503\r\nNats-Subject: no\r\n\r\n\r\n",
        Open,
    ),
    (QUIET, "PUB no i.3 0\r\n\r\n", "", Open),
    (QUIET, "SUB no 2\r\nSUB i 1\r\nPUB no i 0\r\n\r\n", "MSG no 2 i 0\r\n\r\n", Open),
    (LOUD, "SUB i 1\r\nPUB no i 0\r\n\r\n", "+OK\r\n+OK\r\n", Open),
    // No echo.
    ("CONNECT {\"verbose\":false,\"echo\":false}\r\n", "SUB foo 1\r\nPUB foo 0\r\n\r\n", "", Open),
];

#[tokio::test]
async fn the_broker_answers_as_the_table_says() {
    let running = start(&config());
    check(running.address).await;
}

#[tokio::test]
async fn nats_server_answers_as_the_table_says() {
    let server = NatsServer::start("").await;
    check(server.address).await;
}

async fn check(address: SocketAddr) {
    for (connect, sent, expected, end) in TABLE {
        let mut raw = Raw::open(address).await;
        // `+OK` to a verbose CONNECT is no part of the row, nor is the INFO after the first PONG.
        let greeting = if *connect == LOUD { "+OK\r\n" } else { "" };
        let (said, rest) = match end {
            Open => (raw.say(format!("{connect}{sent}")).await, String::new()),
            Closed => {
                raw.send(format!("{connect}{sent}")).await;
                (String::new(), raw.rest().await)
            }
        };
        let told = said + &rest;
        let told = told.strip_prefix(greeting).unwrap_or(&told);
        assert_eq!(told, *expected, "{connect:?} {sent:?}");
    }
}

#[tokio::test]
async fn lines_have_a_bound_with_and_without_an_end() {
    let running = start(&config());
    let long = "x".repeat(5000);
    for sent in [format!("PUB {long}"), format!("SUB {long} 1\r\n"), format!("CONNECT {{\"name\":\"{long}\"}}\r\n")] {
        let mut raw = Raw::open(running.address).await;
        raw.send(&sent).await;
        assert_eq!(raw.rest().await, "-ERR 'maximum control line exceeded'\r\n", "{}", &sent[..8]);
    }
    let mut raw = Raw::connected(running.address).await;
    assert_eq!(raw.say(format!("PUB {} 0\r\n\r\n", &long[..4000])).await, "");
}
