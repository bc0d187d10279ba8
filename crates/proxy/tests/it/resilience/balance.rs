//! Who of the ready instances gets a request, by each rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use proxy::{Algorithm, Backend, Balance, Key, Route, Share, Snapshot, State};
use testkit::client::Client;
use testkit::server::{Answer, Server};

use super::{Held, all_to, answering, begun, ejecting_at, fine, statuses, under, with_service};
use crate::support::{Proxy, limits, nowhere, snapshot};

fn by(algorithm: Algorithm) -> Balance {
    Balance { algorithm, ..Balance::PLAIN }
}

/// So many callees that say their number.
async fn numbered(count: usize) -> Vec<Server> {
    let mut servers = Vec::new();
    for number in 0..count {
        servers.push(Server::http(move |_| Answer::ok(number.to_string())).await);
    }
    servers
}

fn addresses(servers: &[Server]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

#[tokio::test]
async fn round_robin_gives_each_the_same_over_all_cores() {
    let servers = numbered(3).await;
    let round = |policy: &mut proxy::Policy| policy.balance = by(Algorithm::RoundRobin);
    let proxy = Proxy::start(limits(), all_to(&addresses(&servers), round)).await;
    for _ in 0..10 {
        // Each over a connection of its own, on whichever core the kernel likes.
        statuses(&proxy, 9).await;
    }
    assert_eq!(servers.iter().map(Server::requests).collect::<Vec<_>>(), [30, 30, 30]);
    proxy.stop().await;
}

#[tokio::test]
async fn round_robin_gives_each_that_is_left_the_same_when_one_is_ejected() {
    let mut servers = numbered(3).await;
    servers.push(answering(500).await);
    let proxy = Proxy::start(
        limits(),
        all_to(&addresses(&servers), |policy| {
            policy.balance = by(Algorithm::RoundRobin);
            policy.ejection = Some(ejecting_at(1));
        }),
    )
    .await;
    let first = statuses(&proxy, 8).await;
    assert_eq!(first.iter().filter(|status| **status == 500).count(), 1, "{first:?}");
    let before: Vec<usize> = servers.iter().map(Server::requests).collect();
    assert_eq!(statuses(&proxy, 120).await, [200; 120]);
    let shares: Vec<usize> = servers.iter().zip(before).map(|(server, before)| server.requests() - before).collect();
    assert_eq!(shares, [40, 40, 40, 0]);
    proxy.stop().await;
}

/// Who answers each of the keys; the same each of three times.
async fn owners(proxy: &Proxy, field: &str, value: impl Fn(u32) -> String) -> BTreeMap<u32, String> {
    let mut owners = BTreeMap::new();
    for _ in 0..3 {
        let mut client = proxy.client().await;
        for key in 0..40 {
            let answer = client.request("GET", "/", &[(field, &value(key))], &[]).await.unwrap().text();
            let known = owners.entry(key).or_insert_with(|| answer.clone());
            assert_eq!(*known, answer, "{field} {key}");
        }
    }
    owners
}

#[tokio::test]
async fn the_ring_keeps_each_key_where_it_is_and_moves_only_those_of_an_instance_that_leaves() {
    let servers = numbered(4).await;
    type Value = fn(u32) -> String;
    let cases: [(Key, &str, Value); 2] = [
        (Key::Header("x-user".into()), "X-User", |key| format!("user {key}")),
        (Key::Cookie("sid".into()), "cookie", |key| format!("other=sid; sid={key}; last=1")),
    ];
    for (key, field, value) in cases {
        let all = |addresses: &[SocketAddr]| {
            all_to(addresses, |policy| policy.balance = by(Algorithm::RingHash(key.clone())))
        };
        let mut snapshot = all(&addresses(&servers));
        let proxy = Proxy::start(limits(), snapshot.clone()).await;
        let before = owners(&proxy, field, value).await;
        assert_eq!(before.values().collect::<BTreeSet<_>>().len(), 4, "each has some: {before:?}");
        snapshot.generation = 2;
        snapshot.services.get_mut("a").unwrap()[1].state = State::Draining;
        proxy.handle.apply(snapshot.clone()).unwrap();
        let without = owners(&proxy, field, value).await;
        for (key, owner) in &before {
            assert!(owner == &without[key] || owner == "1" && without[key] != "1", "{key}: {owner}");
        }
        snapshot.generation = 3;
        snapshot.services.get_mut("a").unwrap()[1].state = State::Ready;
        proxy.handle.apply(snapshot).unwrap();
        assert_eq!(owners(&proxy, field, value).await, before, "who comes back has its keys again");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn the_ring_by_address_knows_who_stands_behind_a_gateway_and_believes_nobody_before_it() {
    let servers = numbered(4).await;
    let ring = |policy: &mut proxy::Policy| policy.balance = by(Algorithm::RingHash(Key::Address));
    let mut all = all_to(&addresses(&servers), ring);
    let edge = all.listeners.get_mut("edge").unwrap();
    ring(&mut edge.routes[0].policy);
    let proxy = Proxy::start(limits(), all).await;
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    for (seen, address) in seen.iter_mut().zip([proxy.gateway, proxy.edge]) {
        for key in 0..40 {
            let origin = format!("10.0.0.{key}, 10.9.9.9");
            let mut client = Client::connect(address).await;
            let mut said = Vec::new();
            for _ in 0..2 {
                said.push(client.request("GET", "/", &[("x-forwarded-for", &origin)], &[]).await.unwrap().text());
            }
            let (first, second) = (said.remove(0), said.remove(0));
            assert_eq!(first, second);
            seen.insert(first);
        }
    }
    assert_eq!((seen[0].len(), seen[1].len()), (1, 4), "all of these come from one address; an edge is told another");
    proxy.stop().await;
}

#[tokio::test]
async fn a_slow_instance_of_three_gets_little() {
    for algorithm in [Algorithm::LeastRequests, Algorithm::PeakEwma] {
        let (slow, others) = (Held::new().await, [fine().await, fine().await]);
        let all = [slow.address(), others[0].address, others[1].address];
        let proxy = Proxy::start(limits(), all_to(&all, |policy| policy.balance = by(algorithm.clone()))).await;
        // One request waits there; whoever comes meanwhile goes elsewhere.
        let mut waiting = Vec::new();
        while slow.arrived() == 0 {
            let arrived = others[0].requests() + others[1].requests();
            waiting.push(begun(&proxy).await);
            let has_come = || slow.arrived() > 0 || others[0].requests() + others[1].requests() > arrived;
            super::until("the request to arrive", has_come).await;
        }
        assert_eq!(statuses(&proxy, 100).await, [200; 100], "{algorithm:?}");
        assert_eq!(slow.arrived(), 1, "{algorithm:?}");
        slow.let_go(1);
        for mut client in waiting {
            assert_eq!(client.response().await.unwrap().status(), 200);
        }
        if algorithm == Algorithm::PeakEwma {
            // It took longer than the others, and that is remembered though nothing is outstanding.
            assert_eq!(statuses(&proxy, 50).await, [200; 50]);
            assert_eq!(slow.arrived(), 1);
        }
        proxy.stop().await;
    }
}

#[tokio::test]
async fn who_has_just_become_ready_gets_less_than_its_share() {
    let slow_start = Duration::from_millis(300);
    for algorithm in [Algorithm::LeastRequests, Algorithm::RoundRobin, Algorithm::PeakEwma] {
        let servers = numbered(2).await;
        let all = addresses(&servers);
        let warmed = |generation, addresses: &[SocketAddr]| Snapshot {
            generation,
            ..all_to(addresses, |policy| policy.balance = Balance { slow_start, ..by(algorithm.clone()) })
        };
        let proxy = Proxy::start(limits(), warmed(1, &all[..1])).await;
        let began = std::time::Instant::now();
        super::until("the first to be warm", || began.elapsed() > slow_start).await;
        let mut client = proxy.client().await;
        for turn in 1..=60 {
            // The second goes and comes: each time it is new.
            proxy.handle.apply(warmed(turn * 2, &all[..1])).unwrap();
            proxy.handle.apply(warmed(turn * 2 + 1, &all)).unwrap();
            client.get("/").await.unwrap();
        }
        let counts: Vec<usize> = servers.iter().map(Server::requests).collect();
        assert!(counts[1] < 20, "{algorithm:?} {counts:?}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn when_too_many_are_ejected_all_are_asked() {
    // Three of four fail. With a threshold of a half that is a panic, with one of a fifth it is not.
    for (threshold, is_panic) in [(0.5, true), (0.2, false)] {
        let (good, bad) = (fine().await, [answering(500).await, answering(500).await, answering(500).await]);
        let all = [good.address, bad[0].address, bad[1].address, bad[2].address];
        let proxy = Proxy::start(
            limits(),
            all_to(&all, |policy| {
                let panic_threshold = Share::of(threshold);
                policy.balance = Balance { panic_threshold, ..by(Algorithm::RoundRobin) };
                policy.ejection = Some(ejecting_at(1));
            }),
        )
        .await;
        // A panic begins with the second that is ejected; then failures change nothing any more but for the third.
        statuses(&proxy, 40).await;
        assert_eq!(super::guard(&proxy).ejected.len(), 3);
        let failed = statuses(&proxy, 40).await.iter().filter(|status| **status == 500).count();
        assert_eq!(failed > 0, is_panic, "{threshold}: {failed} failed");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn weights_of_backends_hold_under_every_rule() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::PeakEwma, Algorithm::RingHash(Key::Address)] {
        let (many, few, none) = (numbered(2).await, numbered(1).await, numbered(1).await);
        let backend = |service: &str, weight| Backend { service: service.into(), weight };
        let weighted = Route {
            backends: vec![backend("a", 3), backend("b", 1), backend("c", 0)],
            ..under(|policy| policy.balance = by(algorithm.clone()))
        };
        let all = snapshot(1, vec![weighted], &addresses(&many));
        let all = with_service(with_service(all, "b", &addresses(&few)), "c", &addresses(&none));
        let proxy = Proxy::start(limits(), all).await;
        statuses(&proxy, 400).await;
        let count = few[0].requests();
        // A quarter is 100; beyond these is one run in a million.
        assert!((55..=145).contains(&count), "{algorithm:?}: {count}");
        assert_eq!((many[0].requests() + many[1].requests() + count, none[0].requests()), (400, 0));
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_key_whose_instance_refuses_goes_to_the_next_of_the_ring_and_stays_there() {
    let servers = numbered(3).await;
    let mut all = addresses(&servers);
    all.push(nowhere());
    let ring = |policy: &mut proxy::Policy| policy.balance = by(Algorithm::RingHash(Key::Header("x-user".into())));
    let proxy = Proxy::start(limits(), all_to(&all, ring)).await;
    let owners = owners(&proxy, "x-user", |key| key.to_string()).await;
    assert_eq!(owners.values().collect::<BTreeSet<_>>().len(), 3, "{owners:?}");
    proxy.stop().await;
}
