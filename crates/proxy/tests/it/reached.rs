//! Each limit is met once, does what it says, and is counted under its own name and no other's; and how fast a client must
//! take its answer.

use std::net::SocketAddr;
use std::time::Duration;

use proxy::{Limit, Limits};
use socket2::{Domain, SockRef, Socket, Type};
use testkit::client::Client;
use testkit::server::{Answer, Server};
use testkit::wait;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::TcpSocket;
use tokio::time::{Instant, interval};

use crate::support::{BOUND, Proxy, all_to, limits};

const BRIEF: Duration = Duration::from_millis(200);

/// More than all buffers on the way hold.
const LARGE: usize = 32 << 20;

const GET: &str = "GET / HTTP/1.1\r\nhost: t\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n";

/// Says `words` to a client of a proxy with these limits, and waits until this limit, and no other, was met once. Gives the
/// status of the answer, if there was one.
async fn meets(limit: Limit, limits: Limits, addresses: &[SocketAddr], words: &str) -> Option<u16> {
    let proxy = Proxy::start(limits, all_to(addresses)).await;
    let mut client = proxy.client().await;
    client.send(words).await.unwrap();
    let answer = client.response().await;
    let look = || async {
        let met: Vec<(String, u64)> = proxy.handle.read().limits.into_iter().filter(|(_, count)| *count > 0).collect();
        assert!(met.iter().all(|(code, count)| (code.as_str(), *count) == (limit.code(), 1)), "{limit:?}: {met:?}");
        (!met.is_empty()).then_some(())
    };
    wait::until(limit.code(), BOUND, look).await;
    drop(client);
    proxy.stop().await;
    answer.ok().map(|answer| answer.status())
}

/// What a client says that meets a limit, and the status of the answer, if there is one.
fn by_clients() -> Vec<(Limit, Limits, String, Option<u16>)> {
    use Limit::*;
    let long = "x".repeat(300);
    let short = Limits { upstream_idle_timeout: BOUND * 10, ..limits() };
    let with = |change: fn(&mut Limits)| {
        let mut limits = short.clone();
        change(&mut limits);
        limits
    };
    vec![
        (RequestHead, with(|all| all.head_bytes_max = 200), format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), Some(431)),
        (
            RequestHeaders,
            with(|all| all.headers_max = 1),
            "GET / HTTP/1.1\r\nhost: t\r\na: b\r\n\r\n".into(),
            Some(431),
        ),
        (RequestTarget, with(|all| all.uri_bytes_max = 100), format!("GET /{long} HTTP/1.1\r\n\r\n"), Some(414)),
        (RequestBody, with(|all| all.body_bytes_max = 2), format!("{CHUNKED}3\r\nabc\r\n0\r\n\r\n"), Some(413)),
        (RequestHeadTimeout, with(|all| all.head_timeout = BRIEF), "GET / HT".into(), Some(408)),
        (RequestBodyTimeout, with(|all| all.body_timeout = BRIEF), CHUNKED.into(), Some(408)),
        (IdleTimeout, with(|all| all.idle_timeout = BRIEF), format!("{CHUNKED}3\r\na"), Some(408)),
        (Connections, with(|all| all.connections_max = 0), GET.into(), Some(503)),
        (ConnectionsPerListener, with(|all| all.connections_listener_max = 0), GET.into(), Some(503)),
        (ConnectionsPerAddress, with(|all| all.connections_client_max = 0), GET.into(), Some(503)),
        (Requests, with(|all| all.requests_max = 0), GET.into(), Some(503)),
        (UpstreamIdleConnections, with(|all| all.upstream_idle_max = 0), GET.into(), Some(200)),
        (UpstreamIdleTimeout, with(|all| all.upstream_idle_timeout = BRIEF), GET.into(), Some(200)),
        (UpstreamMaxAge, with(|all| all.upstream_age_max = Duration::ZERO), GET.into(), Some(200)),
        (Trailers, with(|all| all.trailer_bytes_max = 20), format!("{CHUNKED}0\r\na: {long}\r\n\r\n"), Some(400)),
        (Trailers, with(|all| all.trailer_bytes_max = 0), format!("{CHUNKED}0\r\na: b\r\n\r\n"), Some(400)),
        (ChunkExtensions, with(|all| all.chunk_extension_bytes_max = 2), format!("{CHUNKED}1;abc\r\na\r\n"), Some(400)),
    ]
}

/// What a service says to a GET that meets a limit, and the status of the answer, if there is one.
fn by_services() -> Vec<(Limit, Limits, String, Option<u16>)> {
    use Limit::*;
    let long = "x".repeat(300);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3);
    vec![
        (
            RequestHead,
            Limits { head_bytes_max: 250, ..limits() },
            format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n"),
            Some(502),
        ),
        (
            RequestHeaders,
            Limits { headers_max: 1, ..limits() },
            "HTTP/1.1 200 OK\r\na: b\r\na: b\r\n\r\n".into(),
            Some(502),
        ),
        (ResponseIdleTimeout, Limits { upstream_body_timeout: BRIEF, ..limits() }, chunked.to_owned(), None),
        (Trailers, Limits { trailer_bytes_max: 20, ..limits() }, format!("{chunked}0\r\na: {long}\r\n\r\n"), None),
        (
            ChunkExtensions,
            Limits { chunk_extension_bytes_max: 2, ..limits() },
            format!("{chunked}1;abc\r\na\r\n"),
            Some(502),
        ),
        (InterimResponses, Limits { interim_responses_max: 2, ..limits() }, hints, None),
    ]
}

#[tokio::test]
async fn each_limit_that_is_met_is_counted_under_its_own_name() {
    let origin = Server::http(|_| Answer::ok("12345")).await;
    let mut met = Vec::new();
    for (limit, limits, words, status) in by_clients() {
        assert_eq!(meets(limit, limits, &[origin.address], &words).await, status, "{limit:?}");
        met.push(limit);
    }
    for (limit, limits, words, status) in by_services() {
        let origin = Server::raw(move |stream| {
            let words = words.clone();
            async move {
                let mut client = Client { stream: BufReader::new(stream) };
                client.head().await.unwrap();
                client.send(words).await.unwrap();
                let _ = client.stream.read_u8().await;
            }
        })
        .await;
        let seen = meets(limit, limits, &[origin.address], GET).await;
        assert!(status.is_none() || seen == status, "{limit:?}: {seen:?}");
        met.push(limit);
    }
    let elsewhere = [Limit::ConnectTimeout, Limit::ResponseRateMin];
    assert!(Limit::ALL.iter().all(|limit| met.contains(limit) || elsewhere.contains(limit)));
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_in_time_is_counted_though_another_instance_answers() {
    let origin = Server::http(|_| Answer::ok("x")).await;
    // With its queue full the kernel drops what asks for more, without a word.
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    deaf.listen(0).unwrap();
    let address = deaf.local_addr().unwrap().as_socket().unwrap();
    let waiting: Vec<Socket> = (0..4)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let limits = Limits { connect_timeout: BRIEF, ..limits() };
    let proxy = Proxy::start(limits, all_to(&[address, origin.address])).await;
    // Sooner or later the deaf one is asked first.
    let look = || async {
        assert_eq!(proxy.client().await.get("/").await.unwrap().status(), 200);
        (proxy.handle.read().limits["connect_timeout"] > 0).then_some(())
    };
    wait::until("the limit to be met", BOUND, look).await;
    drop(waiting);
    proxy.stop().await;
}

/// A client that has asked for a large answer. It takes a few kilobytes at most without reading.
async fn asking(proxy: &Proxy) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = Client { stream: BufReader::new(socket.connect(proxy.gateway).await.unwrap()) };
    client.send(GET).await.unwrap();
    client
}

#[tokio::test]
async fn who_reads_nothing_is_cut_and_who_reads_too_slowly_as_well() {
    let origin = Server::http(|_| Answer::ok(vec![b'x'; LARGE])).await;
    for (limit, response_rate_min) in [(Limit::IdleTimeout, 0), (Limit::ResponseRateMin, 1 << 30)] {
        let limits = Limits { idle_timeout: BRIEF, response_rate_min, ..limits() };
        let proxy = Proxy::start(limits, all_to(&[origin.address])).await;
        let mut client = asking(&proxy).await;
        let mut tick = interval(Duration::from_millis(5));
        let met = || async { (proxy.handle.read().limits[limit.code()] == 1).then_some(()) };
        let reading = async {
            while slow_read(&mut client, limit).await {
                tick.tick().await;
            }
        };
        tokio::join!(reading, wait::until(limit.code(), BOUND, met));
        let readings = proxy.handle.read();
        assert_eq!((readings.limits.values().sum::<u64>(), readings.counters.requests_active), (1, 0));
        let line = &proxy.lines(1).await[0];
        assert_eq!((line["reason"].as_str(), line["status"].as_u64()), (Some("client_closed"), Some(200)));
        proxy.stop().await;
    }
}

/// Whether it reads on. One that is to meet `idle_timeout` reads nothing.
async fn slow_read(client: &mut Client, limit: Limit) -> bool {
    limit == Limit::ResponseRateMin && client.stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0)
}

#[tokio::test]
async fn who_reads_slowly_but_fast_enough_is_waited_for_as_long_as_it_takes() {
    let origin = Server::http(|_| Answer::ok(vec![b'x'; LARGE])).await;
    for response_rate_min in [0, 240] {
        let limits = Limits { idle_timeout: BRIEF, response_rate_min, ..limits() };
        let proxy = Proxy::start(limits, all_to(&[origin.address])).await;
        let mut slow = asking(&proxy).await;
        let (began, mut tick) = (Instant::now(), interval(Duration::from_millis(5)));
        // In all this time the kernel's buffer never has so much room that it would ask for more.
        while began.elapsed() < BRIEF * 5 {
            tick.tick().await;
            slow.stream.read_exact(&mut [0; 2048]).await.unwrap();
        }
        let readings = proxy.handle.read();
        assert_eq!((readings.counters.requests_active, readings.limits.values().sum::<u64>()), (1, 0));
        SockRef::from(slow.stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
        drop(slow);
        proxy.stop().await;
    }
}

#[tokio::test]
async fn the_silence_of_a_service_is_not_its_clients_slowness() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        client.head().await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        client.send(head).await.unwrap();
        let mut tick = interval(BRIEF);
        for _ in 0..4 {
            tick.tick().await;
            client.send("9\r\ndata: x\n\n\r\n").await.unwrap();
        }
        client.send("0\r\n\r\n").await.unwrap();
    })
    .await;
    let limits = Limits { idle_timeout: BRIEF / 2, response_rate_min: 1 << 30, ..limits() };
    let proxy = Proxy::start(limits, all_to(&[origin.address])).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!(answer.text(), "data: x\n\n".repeat(4));
    proxy.stop().await;
}
