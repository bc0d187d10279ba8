//! Bodies larger than any buffer, in both directions, and tunnels.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use testkit::client::Client;
use testkit::message::{Framing, Message, read_body};
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

use crate::support::{BOUND, Proxy, all_to, limits, route, snapshot};

/// Larger than all the socket buffers on the way together.
const LARGE: usize = 64 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

/// Waits until a count has stood still for a while and gives it.
async fn standstill(count: &AtomicUsize) -> usize {
    let mut seen = (0, 0);
    let look = || {
        let now = count.load(Ordering::SeqCst);
        seen = if now == seen.0 { (now, seen.1 + 1) } else { (now, 0) };
        let stands = (now > 0 && seen.1 > 40).then_some(now);
        async move { stands }
    };
    wait::until("a standstill", BOUND, look).await
}

#[tokio::test]
async fn a_slow_reader_stalls_the_service_and_loses_nothing() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let origin = Server::raw(move |stream| {
        let count = Arc::clone(&count);
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            client.head().await.unwrap();
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await.unwrap();
            while count.load(Ordering::SeqCst) < LARGE {
                client.send(vec![b'x'; PIECE]).await.unwrap();
                count.fetch_add(PIECE, Ordering::SeqCst);
            }
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), 200);
    let stalled = standstill(&written).await;
    assert!(stalled < LARGE / 2, "{stalled} bytes were taken from the service before anybody read them");
    let mut body = vec![0; LARGE];
    client.stream.read_exact(&mut body).await.unwrap();
    assert!(body.iter().all(|byte| *byte == b'x'));
    assert_eq!(proxy.lines(1).await[0]["bytes_out"], LARGE);
    proxy.stop().await;
}

#[tokio::test]
async fn a_slow_service_stalls_the_client_and_gets_everything() {
    let (go, going) = tokio::sync::watch::channel(false);
    let origin = Server::raw(move |stream| {
        let mut going = going.clone();
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            client.head().await.unwrap();
            going.wait_for(|go| *go).await.unwrap();
            let mut body = vec![0; LARGE];
            client.stream.read_exact(&mut body).await.unwrap();
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let mut client = proxy.client().await;
    let upload = tokio::spawn(async move {
        client.send(format!("PUT / HTTP/1.1\r\nhost: t\r\ncontent-length: {LARGE}\r\n\r\n")).await.unwrap();
        while count.load(Ordering::SeqCst) < LARGE {
            client.send(vec![b'x'; PIECE]).await.unwrap();
            count.fetch_add(PIECE, Ordering::SeqCst);
        }
        client.response().await.unwrap()
    });
    let stalled = standstill(&written).await;
    assert!(stalled < LARGE / 2, "{stalled} bytes were taken from the client before the service read them");
    go.send(true).unwrap();
    assert_eq!(upload.await.unwrap().text(), "ok");
    assert_eq!(proxy.lines(1).await[0]["bytes_in"], LARGE);
    proxy.stop().await;
}

#[tokio::test]
async fn an_event_arrives_before_the_next_is_sent() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        client.head().await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        client.send(head).await.unwrap();
        // Each event waits for the one who holds the last one: nothing may be held back on the way.
        for _ in 0..3 {
            client.send("8\r\ndata: x\n\r\n").await.unwrap();
            client.stream.read_u8().await.ok();
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), 200);
    for _ in 0..3 {
        let mut event = [0; 13];
        client.stream.read_exact(&mut event).await.unwrap();
        assert_eq!(&event, b"8\r\ndata: x\n\r\n");
        client.send("g").await.unwrap();
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_work_of_the_service() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        client.head().await.unwrap();
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        while client.send("1\r\nx\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    client.head().await.unwrap();
    drop(client);
    wait::until("the service to be left alone", BOUND, || async { (origin.open() == 0).then_some(()) }).await;
    let line = &proxy.lines(1).await[0];
    assert_eq!(line["reason"], "client_closed");
    assert_eq!(proxy.handle.counters().requests_active, 0);
    proxy.stop().await;
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel_of_bytes() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        let request = client.head().await.unwrap();
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert_eq!(request.field("connection"), Some("upgrade"));
        assert_eq!(request.field("sec-websocket-key"), Some("k"));
        let answer = "HTTP/1.1 101 Switching\r\nconnection: Upgrade\r\nupgrade: websocket\r\nx: y\r\n\r\nhello";
        client.send(answer).await.unwrap();
        let mut word = [0; 4];
        while client.stream.read_exact(&mut word).await.is_ok() {
            client.send(word).await.unwrap();
        }
        client.send("bye").await.unwrap();
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    let fields = "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n";
    client.send(format!("GET /chat HTTP/1.1\r\nhost: t\r\n{fields}\r\n")).await.unwrap();
    let answer = client.head().await.unwrap();
    assert_eq!((answer.status(), answer.field("upgrade"), answer.field("x")), (101, Some("websocket"), Some("y")));
    let mut seen = [0; 5];
    client.stream.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"hello");
    for word in [*b"ping", *b"\x00\xff\r\n"] {
        client.send(word).await.unwrap();
        let mut seen = [0; 4];
        client.stream.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, word);
    }
    client.stream.get_mut().shutdown().await.unwrap();
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"bye", "one direction may end before the other");
    let line = &proxy.lines(1).await[0];
    assert_eq!((line["status"].as_u64(), line["bytes_in"].as_u64()), (Some(101), Some(8)));
    assert_eq!((line["bytes_out"].as_u64(), line["reason"].is_null()), (Some(16), true));
    proxy.stop().await;
}

#[tokio::test]
async fn a_service_that_ends_its_half_of_a_tunnel_still_gets_all_of_the_clients() {
    let (go, going) = tokio::sync::watch::channel(false);
    let (told, mut hears) = tokio::sync::mpsc::channel(1);
    let origin = Server::raw(move |stream| {
        let (told, mut going) = (told.clone(), going.clone());
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            client.head().await.unwrap();
            client.send("HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await.unwrap();
            client.stream.read_u8().await.unwrap();
            client.stream.get_mut().shutdown().await.unwrap();
            going.wait_for(|go| *go).await.unwrap();
            let mut rest = Vec::new();
            client.stream.read_to_end(&mut rest).await.unwrap();
            told.send(rest.len()).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), 101);
    client.send("x").await.unwrap();
    assert_eq!(client.stream.read(&mut [0; 8]).await.unwrap(), 0, "the service has ended its half");
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let upload = tokio::spawn(async move {
        while count.load(Ordering::SeqCst) < LARGE {
            client.send(vec![b'x'; PIECE]).await.unwrap();
            count.fetch_add(PIECE, Ordering::SeqCst);
        }
        client.stream.get_mut().shutdown().await.unwrap();
        client
    });
    let stalled = standstill(&written).await;
    assert!(stalled < LARGE / 2, "{stalled} bytes were taken from the client before the service read them");
    go.send(true).unwrap();
    assert_eq!(tokio::time::timeout(BOUND, hears.recv()).await.expect("the tunnel ends"), Some(LARGE));
    drop(upload.await.unwrap());
    proxy.stop().await;
}

#[tokio::test]
async fn an_upgrade_that_is_declined_or_not_allowed_is_an_ordinary_request() {
    let origin = Server::http(|request| Answer::ok(request.field("upgrade").unwrap_or("none"))).await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for (protocol, seen) in [("websocket", "websocket"), ("h2c", "none")] {
        let fields = [("connection", "upgrade"), ("upgrade", protocol)];
        let answer = client.request("GET", "/", &fields, &[]).await.unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (200, seen));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_has_said_all_gets_its_answer() {
    let origin = Server::http(|request| Answer::ok(request.body.clone())).await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let length = "content-length: 4\r\n\r\nbody";
    let chunks = "transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    for (method, rest, body) in [("GET", "\r\n", ""), ("POST", length, "body"), ("POST", chunks, "body")] {
        for _ in 0..20 {
            let mut client = proxy.client().await;
            client.send(format!("{method} / HTTP/1.1\r\nhost: t\r\n{rest}")).await.unwrap();
            client.stream.get_mut().shutdown().await.unwrap();
            let answer = client.response().await.unwrap();
            assert_eq!((answer.status(), answer.text().as_str()), (200, body));
            assert_eq!(client.stream.read(&mut [0; 8]).await.unwrap(), 0, "then the connection ends");
        }
    }
    assert!(proxy.lines(60).await.iter().all(|line| line["reason"].is_null()));
    proxy.stop().await;
}

/// An origin that takes a request and says `head`, then nothing more.
async fn silent_after(head: &'static str) -> (Server, tokio::sync::mpsc::Receiver<()>) {
    let (told, asked) = tokio::sync::mpsc::channel(1);
    let origin = Server::raw(move |stream| {
        let told = told.clone();
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            client.head().await.unwrap();
            client.send(head).await.unwrap();
            told.send(()).await.unwrap();
            let _ = client.head().await;
        }
    })
    .await;
    (origin, asked)
}

#[tokio::test]
async fn a_client_that_resets_while_it_waits_ends_the_work_of_the_service() {
    let (origin, mut asked) = silent_after("").await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    for request in ["GET / HTTP/1.1\r\nhost: t\r\n\r\n", "PUT / HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\nx"] {
        let mut client = proxy.client().await;
        client.send(request).await.unwrap();
        asked.recv().await.unwrap();
        client.stream.get_ref().set_zero_linger().unwrap();
        drop(client);
        wait::until("the service to be left alone", BOUND, || async { (origin.open() == 0).then_some(()) }).await;
    }
    assert!(proxy.lines(2).await.iter().all(|line| line["reason"] == "client_closed"));
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_a_quiet_answer_without_a_known_length_is_noticed() {
    let events = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let records = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    for (head, behind) in [(events, ""), (records, ""), (events, "\r\n")] {
        let (origin, mut asked) = silent_after(head).await;
        let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
        let mut client = proxy.client().await;
        client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
        client.head().await.unwrap();
        asked.recv().await.unwrap();
        client.send(behind).await.unwrap();
        drop(client);
        wait::until("the service to be left alone", BOUND, || async { (origin.open() == 0).then_some(()) }).await;
        assert_eq!(proxy.lines(1).await[0]["reason"], "client_closed");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn who_ends_its_half_before_the_answer_holds_no_drain_and_gets_an_answer_with_pauses() {
    let (go, going) = tokio::sync::watch::channel(0);
    let (told, mut asked) = tokio::sync::mpsc::channel(2);
    let origin = Server::raw(move |stream| {
        let (mut going, told) = (going.clone(), told.clone());
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            let target = client.head().await.unwrap().second().to_owned();
            told.send(()).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            if target == "/quiet" {
                client.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await.unwrap();
                return drop(client.head().await);
            }
            for (step, words) in [head, "3\r\nfin\r\n", "2\r\ne!\r\n0\r\n\r\n"].into_iter().enumerate() {
                going.wait_for(|step_allowed| *step_allowed > step).await.unwrap();
                client.send(words).await.unwrap();
            }
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut quiet = proxy.client().await;
    quiet.send("GET /quiet HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    quiet.head().await.unwrap();
    asked.recv().await.unwrap();
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    asked.recv().await.unwrap();
    client.stream.get_mut().shutdown().await.unwrap();
    proxy.handle.apply(snapshot(2, vec![route("all", "/", "a")], &[])).unwrap();
    let drained = proxy.handle.drained("a", 0, origin.address);
    tokio::time::timeout(BOUND, drained).await.expect("nobody waits for who may be gone");
    go.send(1).unwrap();
    assert_eq!(client.head().await.unwrap().status(), 200);
    // When the silence behind this one's leaving is over, so is the one behind the head of the other's answer.
    drop(quiet);
    proxy.lines(1).await;
    for step in [2, 3] {
        go.send(step).unwrap();
    }
    let mut answer = Message::default();
    read_body(&mut client.stream, &mut answer, Framing::Chunked).await.unwrap();
    assert_eq!(answer.text(), "fine!");
    assert!(proxy.lines(2).await[1]["reason"].is_null());
    proxy.stop().await;
}

#[tokio::test]
async fn what_a_client_says_while_it_waits_is_its_next_request() {
    let (go, going) = tokio::sync::watch::channel(0);
    let (told, mut asked) = tokio::sync::mpsc::channel(1);
    let origin = Server::raw(move |stream| {
        let (mut going, told) = (going.clone(), told.clone());
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            while let Ok(request) = client.head().await {
                told.send(()).await.unwrap();
                let number: usize = request.second()[1..].parse().unwrap();
                going.wait_for(|allowed| *allowed > number).await.unwrap();
                client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}")).await.unwrap();
            }
        }
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("GET /0 HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    asked.recv().await.unwrap();
    let field = "y".repeat(10_000);
    for number in 1..4 {
        // Split, and more than is read ahead.
        for piece in [&format!("GET /{number} HTTP/1.1\r\nhost: t\r\n"), "x: ", field.as_str(), "\r\n\r\n"] {
            client.send(piece).await.unwrap();
        }
    }
    client.stream.get_mut().shutdown().await.unwrap();
    for number in 0..4 {
        go.send(number + 1).unwrap();
        assert_eq!(client.response().await.unwrap().text(), number.to_string());
        if number < 3 {
            asked.recv().await.unwrap();
        }
    }
    assert_eq!(client.stream.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(proxy.lines(4).await.iter().all(|line| line["reason"].is_null()));
    proxy.stop().await;
}

#[tokio::test]
async fn a_tunnel_whose_service_has_gone_ends_with_the_clients_next_words() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        client.head().await.unwrap();
        client.send("HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await.unwrap();
    })
    .await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.unwrap().status(), 101);
    assert_eq!(client.stream.read(&mut [0; 8]).await.unwrap(), 0, "the service has closed");
    // The first words meet a closed socket, which resets; the next ones are told.
    let ended = || {
        let _ = client.stream.get_ref().try_write(b"x");
        let is_over = proxy.handle.counters().requests_active == 0;
        async move { is_over.then_some(()) }
    };
    wait::until("the tunnel to end", BOUND, ended).await;
    let line = &proxy.lines(1).await[0];
    assert_eq!((line["status"].as_u64(), line["reason"].is_null()), (Some(101), true));
    let closed = || async { (proxy.handle.counters().connections_active == 0).then_some(()) };
    wait::until("the connection to close", BOUND, closed).await;
    proxy.stop().await;
}
