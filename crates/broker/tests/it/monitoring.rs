//! What the monitoring port answers.

use broker::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Raw, Running, config, start};

async fn get(running: &Running, request: &str) -> (String, String) {
    let mut socket = TcpStream::connect(running.monitor.unwrap()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

async fn json(running: &Running, target: &str) -> serde_json::Value {
    let (status, body) = get(running, &format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn connections_and_subscriptions_can_be_read() {
    let running = start(&Config { monitor: Some(([127, 0, 0, 1], 0).into()), ..config() });
    let mut raw = Raw::open(running.address).await;
    raw.say("CONNECT {\"verbose\":false,\"name\":\"shop\",\"lang\":\"rust\"}\r\nSUB a.* q 7\r\nPUB a.b 2\r\nok\r\n")
        .await;
    assert_eq!(json(&running, "/healthz").await["status"], "ok");
    let varz = json(&running, "/varz").await;
    for (name, value) in [("connections", 1), ("in_msgs", 1), ("out_bytes", 2), ("subscriptions", 1)] {
        assert_eq!(varz[name], value, "{name}");
    }
    let connz = json(&running, "/connz?subs=1").await;
    let connection = &connz["connections"][0];
    assert_eq!((&connection["name"], &connection["subscriptions_list"][0]), (&"shop".into(), &"a.*".into()));
    let subsz = json(&running, "/subsz?subs=1").await;
    let subscription = &subsz["subscriptions_list"][0];
    assert_eq!(
        (&subscription["qgroup"], &subscription["sid"], &subscription["msgs"]),
        (&"q".into(), &"7".into(), &1.into())
    );
    assert_eq!(json(&running, "/connz?limit=0").await["total"], 1);
    assert_eq!(json(&running, "/connz?cid=99").await["total"], 0);
}

#[tokio::test]
async fn what_is_not_asked_for_is_not_answered() {
    let running = start(&Config { monitor: Some(([127, 0, 0, 1], 0).into()), ..config() });
    assert_eq!(get(&running, "GET /nope HTTP/1.1\r\n\r\n").await.0, "HTTP/1.1 404 Not Found");
    assert_eq!(get(&running, "POST /varz HTTP/1.1\r\n\r\n").await.0, "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(get(&running, "x\r\n\r\n").await.0, "HTTP/1.1 400 Bad Request");
    assert!(start(&config()).monitor.is_none());
}
