//! What is large, odd or hostile in the formats, over the wire.

use testkit::client::Client;
use tokio::time::timeout;

use crate::support::{BOUND, Broker, Engine, config, raw};

#[tokio::test]
async fn large_attributes_arrive_as_they_were_sent() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let mut sequence = 0;
    for (kib, expected) in [(2, 202), (8, 202), (23, 202), (24, 413), (60, 413), (64, 400), (100, 400)] {
        let large = "a".repeat(kib << 10);
        let fields = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", &format!("/{kib}")),
            ("ce-type", "t"),
            ("ce-large", &large),
        ];
        let answer = engine.post("/cart/orders.placed", &fields, b"x").await;
        assert_eq!(answer.status(), expected, "{kib} KiB: {}", String::from_utf8_lossy(&answer.body));
        if expected == 202 {
            sequence += 1;
            let (headers, _) = raw(&context, "ORDERS", sequence).await;
            assert_eq!(headers.get("ce-large").unwrap().as_str(), large);
        }
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused_where_text_must_be() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let mut client = Client::connect(engine.address).await;
    for (field, expected) in [
        (&b"ce-subject: gr\xfcn"[..], 400),
        ("ce-subject: grün".as_bytes(), 202),
        (b"ce-subject: %C0%A0", 400),
        (b"ce-subject: %00", 400),
        (b"ce-subject: %0D%0AX-Evil: 1", 400),
        (b"ce-subject:", 400),
        (b"ce-a_b: 1", 400),
        (b"content-type: gr\xfcn/x", 400),
        (b"content-type: nothing", 400),
    ] {
        let head = b"POST /cart/orders.placed HTTP/1.1\r\nhost: x\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /a\r\nce-type: t\r\ncontent-length: 1\r\n";
        client.send([&head[..], field, b"\r\n\r\nx"].concat()).await.unwrap();
        let answer = timeout(BOUND, client.response()).await.expect("an answer").unwrap();
        assert_eq!(
            answer.status(),
            expected,
            "{:?} {}",
            String::from_utf8_lossy(field),
            String::from_utf8_lossy(&answer.body)
        );
    }
    let (headers, _) = raw(&context, "ORDERS", 1).await;
    assert_eq!(headers.get("ce-subject").unwrap().as_str(), "gr%C3%BCn");
}
