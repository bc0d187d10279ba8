//! So many at a time, so many who wait, and so long; and the limit of the whole process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proxy::{Concurrency, Event, GateReading, Limit, Limits};
use testkit::client::Client;
use testkit::server::Server;
use tokio::io::BufReader;
use tokio::sync::Semaphore;

use super::{BRIEF, Held, LONG, all_to, begun, guard, reason, statuses, story, until_guard};
use crate::support::{BOUND, Proxy, limits};

fn places(proxy: &Proxy) -> (u32, u32) {
    let GateReading { running, waiting, .. } = guard(proxy).gate.unwrap();
    (running, waiting)
}

async fn until_places(proxy: &Proxy, expected: (u32, u32)) {
    let is = |gate: GateReading| (gate.running, gate.waiting) == expected;
    until_guard(proxy, "places", |guard| is(guard.gate.unwrap())).await;
}

async fn limited(held: &Held, max: u32, queue: u32, wait: Duration) -> Proxy {
    let limit = Concurrency { max, queue, wait };
    Proxy::start(limits(), all_to(&[held.address()], |policy| policy.concurrency = Some(limit))).await
}

#[tokio::test]
async fn who_finds_no_place_and_no_queue_is_refused_at_once() {
    let held = Held::new().await;
    let proxy = limited(&held, 2, 1, LONG).await;
    let mut running = vec![begun(&proxy).await, begun(&proxy).await];
    held.has(2).await;
    running.push(begun(&proxy).await);
    until_places(&proxy, (2, 1)).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!(reason(&answer), (503, "concurrency_limited".into()));
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert_eq!(held.arrived(), 2);
    held.let_go(3);
    for mut client in running {
        assert_eq!(client.response().await.unwrap().status(), 200);
    }
    until_places(&proxy, (0, 0)).await;
    proxy.stop().await;
}

#[tokio::test]
async fn those_who_wait_come_in_the_order_in_which_they_came() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let (gate, seen) = (Arc::new(Semaphore::new(0)), Arc::clone(&order));
    let permits = Arc::clone(&gate);
    let origin = Server::raw(move |stream| {
        let (gate, seen) = (Arc::clone(&permits), Arc::clone(&seen));
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            while let Ok(head) = client.head().await {
                seen.lock().unwrap().push(head.second().to_owned());
                gate.acquire().await.unwrap().forget();
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    let limit = Concurrency { max: 1, queue: 9, wait: LONG };
    let proxy = Proxy::start(limits(), all_to(&[origin.address], |policy| policy.concurrency = Some(limit))).await;
    let mut clients = Vec::new();
    for number in 0..9 {
        let mut client = proxy.client().await;
        client.send(format!("GET /{number} HTTP/1.1\r\nhost: t\r\n\r\n")).await.unwrap();
        clients.push(client);
        until_places(&proxy, (1, number)).await;
    }
    gate.add_permits(9);
    for mut client in clients {
        assert_eq!(client.response().await.unwrap().status(), 200);
    }
    let expected: Vec<String> = (0..9).map(|number| format!("/{number}")).collect();
    assert_eq!(*order.lock().unwrap(), expected);
    proxy.stop().await;
}

#[tokio::test]
async fn who_has_waited_long_enough_is_refused_and_leaves_no_place_taken() {
    let held = Held::new().await;
    let proxy = limited(&held, 1, 5, BRIEF).await;
    let mut first = begun(&proxy).await;
    held.has(1).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!(reason(&answer), (503, "concurrency_limited".into()));
    let events = story(&proxy, &answer).await.events;
    let waited = events.iter().find_map(|told| match told.event {
        Event::Crowded { waited, .. } => Some(waited),
        _ => None,
    });
    assert!(waited.unwrap() >= BRIEF, "{events:?}");
    assert_eq!(places(&proxy), (1, 0));
    held.let_go(1);
    assert_eq!(first.response().await.unwrap().status(), 200);
    until_places(&proxy, (0, 0)).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_or_its_place_leaves_it_to_the_next() {
    let held = Held::new().await;
    let proxy = limited(&held, 1, 5, LONG).await;
    let running = begun(&proxy).await;
    held.has(1).await;
    let leaving = begun(&proxy).await;
    until_places(&proxy, (1, 1)).await;
    let mut staying = begun(&proxy).await;
    until_places(&proxy, (1, 2)).await;
    for (client, expected) in [(leaving, (1, 1)), (running, (1, 0))] {
        client.stream.get_ref().set_zero_linger().unwrap();
        drop(client);
        until_places(&proxy, expected).await;
    }
    // The one that stayed is the second to reach the service; what waits there for the first is never answered.
    held.has(2).await;
    held.let_go(2);
    assert_eq!(staying.response().await.unwrap().status(), 200);
    until_places(&proxy, (0, 0)).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_place_is_kept_to_the_end_of_an_answer_and_given_back_however_it_ends() {
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let origin = Server::raw(move |stream| {
        let gate = Arc::clone(&gate);
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            let Ok(head) = client.head().await else { return };
            let said = match head.second() {
                "/tunnel" => "HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
                "/stream" => "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n",
                "/nonsense" => "nonsense\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal",
            };
            client.send(said).await.unwrap();
            gate.acquire().await.unwrap().forget();
            if head.second() == "/whole" {
                client.send("f an hour").await.unwrap();
            }
        }
    })
    .await;
    let limit = Concurrency { max: 1, queue: 0, wait: LONG };
    let proxy = Proxy::start(limits(), all_to(&[origin.address], |policy| policy.concurrency = Some(limit))).await;
    for path in ["/whole", "/broken", "/tunnel", "/stream"] {
        let mut client = proxy.client().await;
        let upgrade = if path == "/tunnel" { "connection: upgrade\r\nupgrade: x\r\n" } else { "" };
        client.send(format!("GET {path} HTTP/1.1\r\nhost: t\r\n{upgrade}\r\n")).await.unwrap();
        assert!(matches!(client.head().await.unwrap().status(), 200 | 101), "{path}");
        assert_eq!((places(&proxy), statuses(&proxy, 1).await), ((1, 0), vec![503]), "{path}");
        go.add_permits(1);
        // A tunnel has ended when both sides have.
        let open = Some(client).filter(|_| path != "/tunnel");
        until_places(&proxy, (0, 0)).await;
        drop(open);
    }
    go.add_permits(1);
    assert_eq!(proxy.client().await.get("/nonsense").await.unwrap().status(), 502);
    until_places(&proxy, (0, 0)).await;
    proxy.stop().await;
}

#[tokio::test]
async fn the_wait_in_the_queue_ends_with_the_time_of_the_request() {
    let held = Held::new().await;
    let limit = Concurrency { max: 1, queue: 5, wait: LONG };
    let mut all = all_to(&[held.address()], |_| {});
    all.listeners.get_mut("edge").unwrap().routes[0].policy.concurrency = Some(limit);
    let proxy = Proxy::start(limits(), all).await;
    let mut first = Client::connect(proxy.edge).await;
    first.send("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    held.has(1).await;
    let mut second = Client::connect(proxy.edge).await;
    let answer = second.request("GET", "/", &[("atoll-deadline", "50")], &[]).await.unwrap();
    assert_eq!(answer.status(), 504, "{}", answer.text());
    assert_eq!(held.arrived(), 1);
    held.let_go(1);
    assert_eq!(first.response().await.unwrap().status(), 200);
    proxy.stop().await;
}

#[tokio::test]
async fn no_more_requests_are_answered_at_a_time_than_the_process_takes() {
    let held = Held::new().await;
    let few = Limits { requests_max: 4, ..limits() };
    let proxy = Proxy::start(few, all_to(&[held.address()], |_| {})).await;
    let mut running = Vec::new();
    for count in 1..=4 {
        running.push(begun(&proxy).await);
        held.has(count).await;
    }
    // A core looks at its own first: it may exceed the whole by its share, which is two.
    let mut refused = 0;
    while refused < 6 {
        let mut client = begun(&proxy).await;
        let arrived = || held.arrived() > running.len();
        let answer = tokio::select! {
            answer = client.response() => Some(answer.unwrap()),
            () = super::until("an answer", arrived) => None,
        };
        let Some(answer) = answer else {
            running.push(client);
            continue;
        };
        assert_eq!(reason(&answer), (503, "overloaded".into()));
        assert_eq!(answer.field("retry-after"), Some("1"));
        let events = story(&proxy, &answer).await.events;
        assert!(matches!(events[0].event, Event::Shed { active: 4.., limit: 4 }), "{events:?}");
        refused += 1;
    }
    assert!(running.len() <= 6, "{}", running.len());
    let readings = proxy.handle.read();
    assert_eq!((readings.limits[Limit::Requests.code()], readings.refused["overloaded"]), (6, 6));
    held.let_go(running.len());
    for mut client in running {
        assert_eq!(client.response().await.unwrap().status(), 200);
    }
    held.let_go(1);
    assert_eq!(statuses(&proxy, 1).await, [200]);
    proxy.stop().await;
}

#[tokio::test]
async fn a_crowd_is_never_more_than_was_agreed() {
    let (running, most) = (Arc::new(Mutex::new((0_usize, 0_usize))), 3);
    let inside = Arc::clone(&running);
    let origin = Server::raw(move |stream| {
        let inside = Arc::clone(&inside);
        async move {
            let mut client = Client { stream: BufReader::new(stream) };
            while client.head().await.is_ok_and(|head| !head.start.is_empty()) {
                let now = {
                    let mut inside = inside.lock().unwrap();
                    inside.0 += 1;
                    inside.1 = inside.1.max(inside.0);
                    inside.0
                };
                assert!(now > 0);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                inside.lock().unwrap().0 -= 1;
                if client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let limit = Concurrency { max: most, queue: 100, wait: BOUND };
    let proxy = Proxy::start(limits(), all_to(&[origin.address], |policy| policy.concurrency = Some(limit))).await;
    let address = proxy.gateway;
    let all = super::together((0..20).map(|_| async move {
        let mut client = Client::connect(address).await;
        let mut answered = 0;
        for _ in 0..10 {
            answered += usize::from(client.get("/").await.unwrap().status() == 200);
        }
        answered
    }));
    assert_eq!(all.await, [10; 20]);
    let most_seen = running.lock().unwrap().1;
    assert_eq!(most_seen, most as usize);
    until_places(&proxy, (0, 0)).await;
    proxy.stop().await;
}

#[tokio::test]
async fn tunnels_and_event_streams_take_no_room_of_the_requests() {
    let origin = Server::raw(|stream| async move {
        let mut client = Client { stream: BufReader::new(stream) };
        while let Ok(head) = client.head().await {
            let answer = match head.second() {
                "/tunnel" => "HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n",
                "/events" => "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n",
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine",
            };
            client.send(answer).await.unwrap();
        }
    })
    .await;
    let one = Limits { requests_max: 1, ..limits() };
    let proxy = Proxy::start_on(1, one, all_to(&[origin.address], |_| {})).await;
    let mut endless = Vec::new();
    for request in [
        "GET /tunnel HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n",
        "GET /events HTTP/1.1\r\nhost: t\r\n\r\n",
    ]
    .repeat(2)
    {
        let mut client = proxy.client().await;
        client.send(request).await.unwrap();
        assert!(client.head().await.unwrap().status() < 300);
        endless.push(client);
        assert_eq!(statuses(&proxy, 3).await, [200; 3]);
    }
    super::until("the others' end", || proxy.handle.counters().requests_active == 4).await;
    drop(endless);
    super::until("their end", || proxy.handle.counters().requests_active == 0).await;
    // What ended gives back no more than it had.
    let held = Held::new().await;
    let mut newer = all_to(&[held.address()], |_| {});
    newer.generation = 2;
    proxy.handle.apply(newer).unwrap();
    let mut running = begun(&proxy).await;
    held.has(1).await;
    // Its own core may have its share beside the limit, which on one core is all of it.
    assert_eq!(statuses(&proxy, 1).await, [503]);
    held.let_go(1);
    assert_eq!(running.response().await.unwrap().status(), 200);
    proxy.stop().await;
}
