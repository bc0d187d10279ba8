//! Beginning and end: what cannot be bound, TLS, lame duck.

use std::time::Duration;

use async_nats::rustls;
use broker::{Config, Error, LameDuck, Limits, Sockets, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{BOUND, Raw, config, limits, start, start_on};

#[tokio::test]
async fn clients_are_told_to_go_and_closed_one_by_one() {
    let lame_duck = LameDuck { grace: Duration::from_millis(100), duration: Duration::from_millis(200) };
    let running = start(&Config { lame_duck, ..config() });
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::open(running.address).await;
        raw.say("CONNECT {\"verbose\":false,\"protocol\":1}\r\n").await;
        raw.until("\"connect_info\":true").await;
        raw.line().await;
        clients.push(raw);
    }
    let mut old = Raw::connected(running.address).await;
    old.say("SUB a 1\r\n").await;
    running.drain();
    for raw in &mut clients {
        assert!(raw.line().await.contains("\"ldm\":true"));
    }
    // Until it is closed, a client is served.
    clients[0].say("PUB a 2\r\nok\r\n").await;
    assert_eq!(old.rest().await, "MSG a 1 2\r\nok\r\n");
    for raw in &mut clients {
        assert_eq!(raw.rest().await, "");
    }
    running.ended().await;
}

#[tokio::test]
async fn a_broker_without_clients_ends_at_once() {
    let lame_duck = LameDuck { grace: Duration::from_secs(600), duration: Duration::from_secs(600) };
    start(&Config { lame_duck, ..config() }).ended().await;
}

#[tokio::test]
async fn a_taken_address_is_an_error() {
    let running = start(&config());
    let taken = broker::bind(&Config { listen: running.address, ..config() });
    assert!(matches!(taken, Err(Error::Listen { .. })));
}

#[tokio::test]
async fn addresses_come_and_go_while_clients_stay_and_a_socket_outlives_its_broker() {
    let (any, other) = (([127, 0, 0, 1], 0).into(), ([127, 0, 0, 2], 0).into());
    let sockets = Sockets::bind(&[any], None, &Sockets::default()).unwrap();
    let first = sockets.address().unwrap();
    let running = start_on(&config(), &sockets);
    let mut old = Raw::connected(first).await;
    old.say("SUB a 1\r\n").await;
    assert!(matches!(Sockets::bind(&[other, first], None, &Sockets::default()), Err(Error::Listen { .. })));
    // Another address, and the one before as long as it is needed.
    let both = Sockets::bind(&[other, any], None, &sockets).unwrap();
    running.handle.listen(&both);
    let second = both.address().unwrap();
    let mut new = Raw::connected(second).await;
    assert!(new.info.contains(&format!("\"port\":{}", second.port())), "{}", new.info);
    assert_eq!(Raw::connected(first).await.say("PUB a 0\r\n\r\n").await, "");
    let alone = Sockets::bind(&[other], None, &both).unwrap();
    running.handle.listen(&alone);
    drop((sockets, both));
    let refused = || async move { tokio::net::TcpStream::connect(first).await.err() };
    testkit::wait::until("the first address is closed", BOUND, refused).await;
    assert_eq!(new.say("PUB a 0\r\n\r\n").await, "");
    assert_eq!(old.say("").await, "MSG a 1 0\r\n\r\nMSG a 1 0\r\n\r\n");
    running.ended().await;
    // Whoever comes between two brokers waits.
    let waiting = tokio::spawn(Raw::connected(second));
    let next = start_on(&config(), &alone);
    waiting.await.unwrap();
    drop(alone);
    next.ended().await;
    assert!(std::net::TcpStream::connect(second).is_err());
}

/// A certificate for `localhost`, in files, and a client that trusts it.
fn certificate(folder: &std::path::Path) -> (Tls, rustls::ClientConfig) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let tls = Tls { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&tls.certificate, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (tls, client.with_root_certificates(roots).with_no_client_auth())
}

#[tokio::test]
async fn behind_tls_everything_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, trusting) = certificate(folder.path());
    let running = start(&Config { tls: Some(tls), ..config() });
    let url = format!("tls://localhost:{}", running.address.port());
    let options = async_nats::ConnectOptions::new().tls_client_config(trusting).require_tls(true);
    let client = options.connect(url).await.unwrap();
    assert!(client.server_info().tls_required);
    let mut subscriber = client.subscribe("a").await.unwrap();
    let payload = vec![7; 900_000];
    for _ in 0..20 {
        client.publish("a", payload.clone().into()).await.unwrap();
    }
    for _ in 0..20 {
        let message = tokio::time::timeout(BOUND, futures_util::StreamExt::next(&mut subscriber)).await.unwrap();
        assert_eq!(message.unwrap().payload, payload);
    }
    drop(client);
    running.ended().await;
}

#[tokio::test]
async fn who_does_not_speak_tls_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, _) = certificate(folder.path());
    let limits = Limits { tls_timeout: Duration::from_millis(200), ..limits() };
    let running = start(&Config { tls: Some(tls.clone()), limits, ..config() });
    let mut plain = Raw::open(running.address).await;
    assert!(plain.info.contains("\"tls_required\":true"));
    plain.send("CONNECT {}\r\nPING\r\n").await;
    assert!(!plain.rest().await.contains("PONG"));
    let mut silent = Raw::open(running.address).await;
    assert_eq!(silent.rest().await, "");
    let lost = Tls { key: folder.path().join("none.pem"), ..tls };
    assert!(matches!(broker::bind(&Config { tls: Some(lost), ..config() }), Err(Error::Pem { .. })));
}

#[tokio::test]
async fn half_closed_and_broken_connections_leave_nothing() {
    let running = start(&config());
    let mut raw = Raw::connected(running.address).await;
    raw.say("SUB a 1\r\nSUB a.* q 2\r\nSUB > 3\r\n").await;
    assert_eq!(running.handle.counts().subscriptions, 3);
    raw.socket.shutdown().await.unwrap();
    let mut left = Vec::new();
    raw.socket.read_to_end(&mut left).await.unwrap();
    let gone = || async { (running.handle.counts().subscriptions == 0).then_some(()) };
    testkit::wait::until("the subscriptions to go", BOUND, gone).await;
}
