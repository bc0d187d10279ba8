//! Instances that fail are passed over for a time, by the route that saw it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proxy::{Algorithm, Balance, Ejection, Endpoint, Policy, Route, Share, Snapshot, State};
use testkit::client::Client;
use testkit::server::{Answer, Server};

use super::{
    BRIEF, LONG, all_to, answering, breaking, ejecting_at, fine, guard, statuses, switchable, under, until_guard,
};
use crate::support::{Proxy, limits, nowhere, route, snapshot};

fn in_turn(policy: &mut Policy, ejection: Ejection) {
    policy.balance = Balance { algorithm: Algorithm::RoundRobin, ..Balance::PLAIN };
    policy.ejection = Some(ejection);
}

fn failures(statuses: &[u16]) -> usize {
    statuses.iter().filter(|status| **status >= 500).count()
}

#[tokio::test]
async fn failures_in_a_row_or_a_rate_of_them_put_an_instance_aside() {
    let rate = |failure_rate, minimum_calls| Ejection {
        failure_rate: Some(Share::of(failure_rate)),
        minimum_calls,
        ..ejecting_at(0)
    };
    // Of two, one fails as this says; so many failures are seen in forty requests.
    type Fails = fn(usize) -> bool;
    let cases: [(&str, Fails, Ejection, usize); 6] = [
        ("always", |_| true, ejecting_at(1), 1),
        ("always", |_| true, ejecting_at(4), 4),
        ("every other", |nth| nth % 2 == 0, ejecting_at(2), 10),
        ("always", |_| true, rate(0.5, 5), 5),
        ("every other, that is a half by the sixth", |nth| nth % 2 == 1, rate(0.5, 6), 3),
        ("every fourth", |nth| nth % 4 == 3, rate(0.5, 4), 5),
    ];
    for (what, fails, ejection, expected) in cases {
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let bad =
            Server::http(move |_| Answer::status(if fails(asked.fetch_add(1, Ordering::SeqCst)) { 500 } else { 200 }));
        let (bad, good) = (bad.await, fine().await);
        let all = all_to(&[bad.address, good.address], |policy| in_turn(policy, ejection.clone()));
        let proxy = Proxy::start(limits(), all).await;
        assert_eq!(failures(&statuses(&proxy, 40).await), expected, "{what} {ejection:?}");
        let ejected = guard(&proxy).ejected;
        let is_out = bad.requests() < 20;
        assert_eq!(ejected.len(), usize::from(is_out), "{what}");
        assert!(ejected.iter().all(|one| one.instance == 0 && one.service == "a" && one.left <= LONG));
        proxy.stop().await;
    }
}

#[tokio::test]
async fn broken_connections_and_timeouts_are_failures_and_answers_below_500_are_none() {
    let (broken, _) = breaking().await;
    let hanging = super::Held::new().await;
    let not_found = answering(404).await;
    for (bad, is_out) in [(broken.address, true), (hanging.address(), true), (not_found.address, false)] {
        let good = fine().await;
        let all = all_to(&[bad, good.address], |policy| {
            in_turn(policy, ejecting_at(1));
            policy.timeout = BRIEF;
        });
        let proxy = Proxy::start(limits(), all).await;
        statuses(&proxy, 4).await;
        assert_eq!(!guard(&proxy).ejected.is_empty(), is_out, "{bad}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn an_instance_comes_back_after_its_time_and_stays_away_longer_the_next() {
    let ((bad, status), good) = (switchable(500).await, fine().await);
    let (time, time_max) = (Duration::from_millis(200), Duration::from_secs(60));
    let all = all_to(&[bad.address, good.address], |policy| {
        in_turn(policy, Ejection { time, time_max, ..ejecting_at(1) });
    });
    let proxy = Proxy::start(limits(), all).await;
    for doubling in 0..3 {
        let expected = time * (1 << doubling);
        let (before, began) = (bad.requests(), Instant::now());
        // One request in two is its.
        assert_eq!(failures(&statuses(&proxy, 2).await), 1);
        let left = guard(&proxy).ejected.first().map(|one| one.left).unwrap_or_default();
        assert!(left <= expected && left + began.elapsed() >= expected, "{left:?} of {expected:?}");
        assert_eq!(bad.requests(), before + 1);
        until_guard(&proxy, "its return", |guard| guard.ejected.is_empty()).await;
        assert!(began.elapsed() >= expected);
    }
    status.store(200, Ordering::SeqCst);
    let before = bad.requests();
    assert_eq!(failures(&statuses(&proxy, 20).await), 0);
    assert_eq!(bad.requests() - before, 10);
    proxy.stop().await;
}

#[tokio::test]
async fn no_more_than_a_share_is_put_aside_but_always_one_of_two() {
    for (bad, good, share_max, expected) in
        [(3, 1, 0.5, 2), (3, 1, 1.0, 3), (2, 2, 0.25, 1), (2, 0, 0.1, 1), (1, 0, 1.0, 0), (1, 1, 0.0, 1)]
    {
        let mut servers = Vec::new();
        for number in 0..bad + good {
            servers.push(answering(if number < bad { 500 } else { 200 }).await);
        }
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        let share_max = Share::of(share_max);
        let all = all_to(&addresses, |policy| in_turn(policy, Ejection { share_max, ..ejecting_at(1) }));
        let proxy = Proxy::start(limits(), all).await;
        statuses(&proxy, 40).await;
        assert_eq!(guard(&proxy).ejected.len(), expected, "{bad} bad, {good} good, {share_max:?}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn what_one_route_sees_is_nothing_to_another() {
    let bad = Server::http(|request| Answer::status(if request.second().starts_with("/one") { 500 } else { 200 }));
    let (bad, good) = (bad.await, fine().await);
    let of = |name: &str| {
        let mut route = route(name, &format!("/{name}"), "a");
        in_turn(&mut route.policy, ejecting_at(1));
        route
    };
    let plain = Route { name: "plain".into(), ..route("plain", "/plain", "a") };
    let all = snapshot(1, vec![of("one"), of("two"), plain], &[bad.address, good.address]);
    let proxy = Proxy::start(limits(), all).await;
    let mut client = proxy.client().await;
    for _ in 0..4 {
        client.get("/one").await.unwrap();
    }
    let before = bad.requests();
    for _ in 0..10 {
        assert_eq!(client.get("/one").await.unwrap().status(), 200);
    }
    assert_eq!(bad.requests(), before);
    for _ in 0..10 {
        assert_eq!(client.get("/two").await.unwrap().status(), 200);
    }
    assert_eq!(bad.requests(), before + 5);
    for _ in 0..40 {
        assert_eq!(client.get("/plain").await.unwrap().status(), 200);
    }
    assert!(bad.requests() > before + 5, "a route without a policy asks whoever is there");
    for _ in 0..10 {
        assert_eq!(Client::connect(proxy.edge).await.get("/two").await.unwrap().status(), 200);
    }
    let guards = proxy.handle.read().guards;
    let out: Vec<usize> = ["one", "two"].map(|name| guards[&super::subject(name)].ejected.len()).into();
    assert_eq!(out, [1, 0]);
    proxy.stop().await;
}

#[tokio::test]
async fn an_ejection_outlives_snapshots_as_long_as_it_is_agreed_on() {
    let (bad, good, third) = (answering(500).await, fine().await, fine().await);
    let ejecting = |policy: &mut Policy| in_turn(policy, ejecting_at(1));
    let all = [bad.address, good.address];
    let proxy = Proxy::start(limits(), all_to(&all, ejecting)).await;
    statuses(&proxy, 4).await;
    let out = || guard(&proxy).ejected.iter().map(|one| one.instance).collect::<Vec<_>>();
    assert_eq!(out(), [0]);
    // Another instance comes; another timeout; another route.
    let more = [bad.address, good.address, third.address];
    proxy.handle.apply(Snapshot { generation: 2, ..all_to(&more, ejecting) }).unwrap();
    assert_eq!(out(), [0]);
    let patient = under(|policy| {
        ejecting(policy);
        policy.timeout = Duration::from_secs(9);
    });
    let routes = vec![patient.clone(), route("new", "/new", "a")];
    proxy.handle.apply(snapshot(3, routes, &more)).unwrap();
    assert_eq!(out(), [0]);
    let before = bad.requests();
    assert_eq!(statuses(&proxy, 12).await, [200; 12]);
    assert_eq!(bad.requests(), before);
    // Agreed anew, it begins anew.
    let other = |policy: &mut Policy| in_turn(policy, ejecting_at(2));
    proxy.handle.apply(Snapshot { generation: 4, ..all_to(&more, other) }).unwrap();
    assert_eq!(out(), [0u32; 0]);
    assert_eq!(failures(&statuses(&proxy, 12).await), 2);
    assert_eq!(out(), [0]);
    // An instance of the same number elsewhere is another one.
    let mut moved = Snapshot { generation: 5, ..all_to(&more, other) };
    moved.services.get_mut("a").unwrap()[0] =
        Endpoint { instance: 0, address: fine().await.address, state: State::Ready };
    proxy.handle.apply(moved).unwrap();
    assert_eq!(out(), [0u32; 0]);
    proxy.stop().await;
}

#[tokio::test]
async fn refused_connections_count_as_failures_and_cost_no_request() {
    let good = fine().await;
    let all = all_to(&[nowhere(), good.address], |policy| in_turn(policy, ejecting_at(1)));
    let proxy = Proxy::start(limits(), all).await;
    assert_eq!(statuses(&proxy, 10).await, [200; 10]);
    assert_eq!(guard(&proxy).ejected.len(), 1);
    proxy.stop().await;
}
