//! Clients inside the process: what JetStream will stand on.

use std::time::Duration;

use broker::{Config, Error, Outgoing, Permissions};
use tokio::time::timeout;

use crate::support::{BOUND, Raw, config, start, user};

fn outgoing<'a>(subject: &'a str, payload: &'a str) -> Outgoing<'a> {
    Outgoing { subject: subject.as_bytes(), payload: payload.as_bytes(), ..Outgoing::default() }
}

#[tokio::test]
async fn messages_come_in_with_who_published_them_and_go_out_with_headers() {
    let running = start(&Config { users: vec![user("orders", Permissions::default())], ..config() });
    let mut inside = running.handle.subscribe("orders.>", None, 1 << 20).unwrap();
    let mut outside = Raw::connected_as(running.address, "orders").await;
    outside.say("SUB _INBOX.r 1\r\nHPUB orders.placed _INBOX.r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n").await;
    let message = timeout(BOUND, inside.next()).await.unwrap();
    assert_eq!((message.subject(), message.publisher()), (b"orders.placed".as_slice(), "orders"));
    assert_eq!((&message.headers()[..], &message.payload()[..]), (b"NATS/1.0\r\n\r\n".as_slice(), b"hi".as_slice()));
    let reply =
        Outgoing { subject: message.reply().unwrap(), reply: None, headers: b"NATS/1.0 200\r\n\r\n", payload: b"+" };
    assert_eq!(running.handle.publish(&reply), 1);
    assert_eq!(outside.say("").await, "HMSG _INBOX.r 1 16 17\r\nNATS/1.0 200\r\n\r\n+\r\n");
    assert_eq!(running.handle.inbox_of("orders", b"_INBOX.r"), b"_INBOX.@orders.r");
    drop(inside);
    assert_eq!(running.handle.counts().subscriptions, 1);
}

#[tokio::test]
async fn the_process_asks_clients_and_clients_ask_it() {
    let running = start(&config());
    let mut outside = Raw::connected(running.address).await;
    outside.say("SUB ask 1\r\n").await;
    let handle = running.handle.clone();
    let asked = tokio::spawn(async move { handle.request(&outgoing("ask", "?"), BOUND).await });
    let line = outside.until("?\r\n").await;
    let reply = line.split(' ').nth(3).unwrap().to_owned();
    outside.say(format!("PUB {reply} 1\r\n!\r\n")).await;
    assert_eq!(&asked.await.unwrap().unwrap().payload()[..], b"!");
    let nobody = running.handle.request(&outgoing("nobody", ""), BOUND).await;
    assert!(matches!(nobody, Err(Error::NoResponders { .. })), "{nobody:?}");
    let silent = running.handle.request(&outgoing("ask", ""), Duration::from_millis(20)).await;
    assert!(matches!(silent, Err(Error::Timeout { .. })), "{silent:?}");
    assert!(matches!(running.handle.subscribe("a..b", None, 1), Err(Error::Subject { .. })));
}

#[tokio::test]
async fn a_reader_that_is_late_makes_publishers_wait_and_one_that_never_comes_misses() {
    let running = start(&config());
    let mut late = running.handle.subscribe("a", None, 64 * 1024).unwrap();
    let mut outside = Raw::connected(running.address).await;
    let count = 2_000;
    let load = "PUB a 100\r\n".to_owned() + &"x".repeat(100) + "\r\n";
    outside.send(load.repeat(count)).await;
    let mut seen = 0;
    while seen < count {
        timeout(BOUND, late.next()).await.unwrap();
        seen += 1;
    }
    assert_eq!(late.missed(), 0);
    let publisher_alone = (0..2_000).filter(|_| running.handle.publish(&outgoing("a", &load)) == 1).count();
    assert!(publisher_alone < 2_000 && late.missed() == 2_000 - publisher_alone as u64);
}

#[tokio::test]
async fn internal_members_of_a_queue_group_share_with_clients() {
    let running = start(&config());
    let mut inside = running.handle.subscribe("work", Some("crew"), 1 << 20).unwrap();
    let mut outside = Raw::connected(running.address).await;
    outside.say("SUB work crew 1\r\n").await;
    let mut publisher = running.handle.publisher();
    for _ in 0..100 {
        assert_eq!(publisher.publish(&outgoing("work", "")), 1);
    }
    publisher.flush().await;
    let got_outside = outside.say("").await.matches("MSG work 1 0").count();
    let got_inside = std::iter::from_fn(|| inside.try_next()).count();
    assert!(got_outside > 10 && got_inside > 10 && got_outside + got_inside == 100, "{got_outside} {got_inside}");
}
