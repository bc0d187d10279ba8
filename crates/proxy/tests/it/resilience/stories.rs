//! What is remembered of a request: every decision in its order.

use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use proxy::{
    Algorithm, Balance, Breaker, Concurrency, Effect, Fallback, Fault, FaultTarget, Forced, Kept, Key, Limits, Match,
    PathMatch, Policy, RateLimit, Retry, Route, Share, Snapshot, Switches, Window,
};
use testkit::client::Client;
use testkit::server::{Answer, Server};

use super::{
    Held, LONG, all_to, answering, begun, ejecting_at, fine, guard, retrying, scripted, statuses, story, subject, told,
    under, with_service,
};
use crate::support::{Proxy, limits, nowhere, route, snapshot};

fn breaker() -> Breaker {
    Breaker {
        window: Window::Calls(2),
        minimum_calls: 2,
        failure_rate: Share::of(0.5),
        slow_call: None,
        slow_call_rate: Share::ALL,
        open_for: Duration::from_millis(1),
        half_open_calls: 1,
    }
}

/// The story of the last of so many GETs is this one.
async fn check(snapshot: Snapshot, switches: Switches, count: usize, expected: Expect) {
    let proxy = Proxy::start(limits(), snapshot).await;
    proxy.handle.switch(switches);
    statuses(&proxy, count - 1).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    expected.assert_eq(&told(&story(&proxy, &answer).await));
    proxy.stop().await;
}

fn in_turn(policy: &mut Policy) {
    policy.balance = Balance { algorithm: Algorithm::RoundRobin, ..Balance::PLAIN };
}

#[tokio::test]
async fn tries_are_told_one_after_the_other() {
    let (twice_bad, bad, good) = (scripted(&[503, 503, 200]).await, answering(503).await, fine().await);
    let none = Switches::default;
    let all = all_to(&[twice_bad.address], |policy| policy.retry = retrying(3));
    let expected = expect![[r#"
        chosen 0 of 1-0 Only
        tried 0: 503
        again
        chosen 0 of 1-0 Only
        tried 0: 503
        again
        chosen 0 of 1-0 Only
        tried 0: 200
        = 200 - - tries 3 Unusual"#]];
    check(all, none(), 1, expected).await;
    let all = all_to(&[bad.address], |policy| policy.retry = retrying(2));
    let expected = expect![[r#"
        chosen 0 of 1-0 Only
        tried 0: 503
        again
        chosen 0 of 1-0 Only
        tried 0: 503
        no more: AttemptsUsed
        = 503 - - tries 2 Failed"#]];
    check(all, none(), 1, expected).await;
    let all = all_to(&[bad.address, good.address], |policy| {
        in_turn(policy);
        policy.retry = retrying(2);
        policy.ejection = Some(ejecting_at(1));
    });
    let expected = expect![[r#"
        chosen 0 of 2-0 Turn
        tried 0: 503
        ejected 0
        again
        chosen 1 of 2-0 Turn
        tried 1: 200
        = 200 - - tries 2 Unusual"#]];
    check(all, none(), 1, expected).await;
    let all = all_to(&[nowhere(), good.address], in_turn);
    let expected = expect![[r#"
        chosen 0 of 2-0 Turn
        tried 0: ConnectRefused
        again
        chosen 1 of 2-0 Turn
        tried 1: 200
        = 200 - - tries 2 Unusual"#]];
    check(all, none(), 1, expected).await;
}

#[tokio::test]
async fn refusals_and_what_is_answered_instead_are_told() {
    let (bad, good) = (answering(500).await, fine().await);
    let none = Switches::default;
    let rate = |policy: &mut Policy| {
        policy.rate_limit = Some(RateLimit { requests: 1, per: LONG, burst: 1, key: Key::Route });
    };
    let expected = expect![[r#"
        rate false 0 of 1
        = 429 rate_limited - tries 0 Failed"#]];
    check(all_to(&[good.address], rate), none(), 2, expected).await;
    let expected = expect![[r#"
        nobody left of 0, 0 tried
        = 503 no_endpoint - tries 0 Failed"#]];
    check(all_to(&[], |_| {}), none(), 1, expected).await;
    let fixed = |policy: &mut Policy| {
        let (content_type, body) = ("text/plain".into(), "kept".into());
        policy.fallback = Some(Fallback::Static { status: 200, content_type, body });
    };
    let expected = expect![[r#"
        chosen 0 of 1-0 Only
        tried 0: 500
        fallback
        = 200 upstream_failed static tries 1 Failed"#]];
    check(all_to(&[bad.address], fixed), none(), 1, expected).await;
    let by_b = |policy: &mut Policy| policy.fallback = Some(Fallback::Service("b".into()));
    let expected = expect![[r#"
        chosen 0 of 1-0 Only
        tried 0: ConnectRefused
        again
        nobody left of 1, 1 tried
        fallback
        chosen 0 of 1-0 Only
        tried 0: 200
        = 200 connect_failed b tries 2 Failed"#]];
    check(with_service(all_to(&[nowhere()], by_b), "b", &[good.address]), none(), 1, expected).await;
    let target = FaultTarget::Subject(subject("all"));
    let until = jiff::Timestamp::MAX;
    let fault = Fault { id: 3, target, effect: Effect::Abort(500), share: Share::ALL, until };
    let expected = expect![[r#"
        chosen 0 of 1-0 Only
        fault 3: Abort(500)
        tried 0: 500
        = 500 fault_injected - tries 1 Failed"#]];
    check(all_to(&[good.address], |_| {}), Switches { faults: vec![fault], ..none() }, 1, expected).await;
}

#[tokio::test]
async fn a_breaker_tells_each_of_its_turns() {
    let origin = scripted(&[500, 500, 200]).await;
    let all = all_to(&[origin.address], |policy| policy.breaker = Some(breaker()));
    let proxy = Proxy::start(limits(), all).await;
    let mut tale = Vec::new();
    for turn in 0..3 {
        let answer = proxy.client().await.get("/").await.unwrap();
        tale.push(told(&story(&proxy, &answer).await));
        if turn == 1 {
            proxy.handle.switch(Switches { breakers: vec![(subject("all"), Forced::Open)], ..Switches::default() });
            let answer = proxy.client().await.get("/").await.unwrap();
            tale.push(told(&story(&proxy, &answer).await));
            proxy.handle.switch(Switches::default());
        }
    }
    expect![[r#"
        chosen 0 of 1-0 Only
        tried 0: 500
        = 500 - - tries 1 Failed
        chosen 0 of 1-0 Only
        tried 0: 500
        breaker Closed to Open
        = 500 - - tries 1 Failed
        chosen 0 of 1-0 Only
        breaker ForcedOpen false 2+0 of 2
        = 503 circuit_open - tries 0 Failed
        chosen 0 of 1-0 Only
        tried 0: 200
        = 200 - - tries 1 Sampled"#]]
    .assert_eq(&tale.join("\n"));
    proxy.stop().await;
    let origin = scripted(&[500, 500, 200]).await;
    let all = all_to(&[origin.address], |policy| policy.breaker = Some(breaker()));
    let proxy = Proxy::start(limits(), all).await;
    statuses(&proxy, 2).await;
    super::until_guard(&proxy, "its time", |guard| guard.breaker.unwrap().open_left.is_zero()).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    expect![[r#"
        chosen 0 of 1-0 Only
        breaker Open to HalfOpen
        breaker HalfOpen true 0+0 of 0
        tried 0: 200
        breaker HalfOpen to Closed
        = 200 - - tries 1 Unusual"#]]
    .assert_eq(&told(&story(&proxy, &answer).await));
    proxy.stop().await;
}

#[tokio::test]
async fn a_queue_is_told_of() {
    let held = Held::new().await;
    let limit = Concurrency { max: 1, queue: 1, wait: LONG };
    let proxy = Proxy::start(limits(), all_to(&[held.address()], |policy| policy.concurrency = Some(limit))).await;
    let mut first = begun(&proxy).await;
    held.has(1).await;
    let mut second = begun(&proxy).await;
    super::until("the second to wait", || guard(&proxy).gate.unwrap().waiting == 1).await;
    let third = proxy.client().await.get("/").await.unwrap();
    held.let_go(2);
    first.response().await.unwrap();
    let second = second.response().await.unwrap();
    expect![[r#"
        queued behind 1 and 0
        dequeued
        chosen 0 of 1-0 Only
        tried 0: 200
        = 200 - - tries 1 Unusual
        crowded 1 and 1
        = 503 concurrency_limited - tries 0 Failed"#]]
    .assert_eq(&[told(&story(&proxy, &second).await), told(&story(&proxy, &third).await)].join("\n"));
    proxy.stop().await;
}

#[tokio::test]
async fn of_what_went_well_one_in_many_is_kept_and_rules_that_did_not_answer_are_told() {
    let origin = fine().await;
    let of = |name: &str, prefix: &str, methods: &[&str]| {
        let path = PathMatch::Prefix(prefix.into());
        let methods = methods.iter().map(|method| (*method).to_owned()).collect();
        Route { matches: vec![Match { path, methods, headers: vec![], query: vec![] }], ..route(name, prefix, "a") }
    };
    let mut all = of("all", "/", &[]);
    // Nothing of this is worth a story.
    all.policy.rate_limit = Some(RateLimit { requests: 1_000_000, per: LONG, burst: 1_000_000, key: Key::Address });
    all.policy.concurrency = Some(Concurrency { max: 100, queue: 1, wait: LONG });
    all.policy.breaker = Some(breaker());
    all.policy.ejection = Some(ejecting_at(3));
    all.policy.retry = retrying(3);
    let routes = vec![all, of("orders", "/orders", &["POST"]), of("other", "/other", &[])];
    let proxy = Proxy::start_on(1, limits(), snapshot(1, routes, &[origin.address])).await;
    let forced = Switches { breakers: vec![(subject("all"), Forced::Closed)], ..Switches::default() };
    for switches in [Switches::default(), forced] {
        proxy.handle.switch(switches);
        assert_eq!(statuses(&proxy, 320).await, [200; 320]);
    }
    super::until("requests to end", || proxy.handle.counters().requests_active == 0).await;
    let kept = proxy.handle.stories("", 10_000);
    assert!(kept.iter().all(|story| story.kept == Kept::Sampled));
    assert_eq!(kept.len(), 10, "one in 64");
    // An id from outside is not believed at a gateway, but by an edge.
    let mut client = Client::connect(proxy.edge).await;
    let fields = [("x-request-id", "r-77"), ("atoll-deadline", "0")];
    client.request("GET", "/x?secret=1", &fields, &[]).await.unwrap();
    let look = || async { proxy.handle.stories("r-77", 9).pop() };
    let kept = testkit::wait::until("the story", crate::support::BOUND, look).await;
    assert_eq!((kept.path.as_str(), kept.role.as_str(), kept.listener.as_str()), ("/x", "cart", "edge"));
    assert_eq!((kept.method.as_str(), kept.host.as_str(), kept.route.as_deref()), ("GET", "test", Some("cart→a")));
    let (target, until) = (FaultTarget::Subject(subject("all")), jiff::Timestamp::MAX);
    let fault = Fault { id: 3, target, effect: Effect::Abort(500), share: Share::ALL, until };
    proxy.handle.switch(Switches { faults: vec![fault], ..Switches::default() });
    let answer = proxy.client().await.get("/orders/1").await.unwrap();
    let kept = story(&proxy, &answer).await;
    assert_eq!((kept.route.as_deref(), kept.service.as_deref()), (Some("all"), Some("a")));
    let considered: Vec<&str> = kept.considered.iter().map(|one| one.route.as_str()).collect();
    assert!(considered.contains(&"orders"), "{:?}", kept.considered);
    let why = &kept.considered.iter().find(|one| one.route == "orders").unwrap().why;
    assert_eq!(why, "the method is another");
    proxy.stop().await;
}

#[tokio::test]
async fn a_long_story_is_cut_and_a_flood_of_them_is_counted() {
    let bad = Server::http(|request| Answer::status(if request.second() == "/fine" { 200 } else { 503 })).await;
    let all = all_to(&[bad.address], |policy| {
        policy.retry = Retry { codes: vec![503], backoff: Duration::ZERO, ..retrying(60) };
    });
    let proxy = Proxy::start(Limits { connections_max: 64, ..limits() }, all).await;
    // Enough requests for a budget of many retries.
    let mut client = proxy.client().await;
    for _ in 0..300 {
        assert_eq!(client.get("/fine").await.unwrap().status(), 200);
    }
    let answer = client.get("/").await.unwrap();
    let kept = story(&proxy, &answer).await;
    assert!(kept.attempts > 25, "{}", kept.attempts);
    assert_eq!(kept.events.len(), 64);
    assert_eq!(kept.events_dropped, kept.attempts * 3 - 64);
    let began = Instant::now();
    // None is tried again that is not idempotent.
    for _ in 0..2000 {
        client.request("POST", "/", &[], &[]).await.unwrap();
    }
    super::until("requests to end", || proxy.handle.counters().requests_active == 0).await;
    let counters = proxy.handle.counters();
    let failed = proxy.handle.stories("", usize::MAX).iter().filter(|story| story.kept == Kept::Failed).count();
    assert_eq!(failed as u64 + counters.stories_skipped, 2001);
    assert!(counters.stories_skipped >= 2000_u64.saturating_sub((began.elapsed().as_secs() + 2) * 200), "{counters:?}");
    let newest = proxy.handle.stories("", 3);
    assert_eq!(newest.len(), 3);
    assert!(newest.is_sorted_by_key(|story| story.began));
    proxy.stop().await;
}

#[tokio::test]
async fn what_clients_send_is_kept_in_short_and_not_repeated() {
    let origin = fine().await;
    let routes = (0..20).map(|number| {
        let mut route = route(&format!("r{number}"), "/", "a");
        route.matches[0].headers = vec![proxy::NamedMatch {
            name: "x-some".into(),
            value: proxy::ValueMatch::Exact(format!("{number} {}", "é".repeat(2000))),
        }];
        route
    });
    let proxy = Proxy::start(limits(), snapshot(1, routes.collect(), &[origin.address])).await;
    let path = format!("/{}", "x".repeat(8000));
    let answer = proxy.client().await.request("GET", &path, &[], &[]).await.unwrap();
    assert_eq!(answer.status(), 404);
    let kept = story(&proxy, &answer).await;
    assert_eq!(kept.path, format!("{}…", &path[..256]));
    assert_eq!(kept.considered.len(), 8);
    assert!(kept.considered.iter().all(|one| one.rule.len() < 300 && one.why.len() < 300), "{:?}", kept.considered);
    assert!(serde_json::to_vec(&kept).unwrap().len() < 8 * 1024);
    // Whoever is refused for what others do would have been so by any route.
    let mut all = under(|policy| {
        policy.rate_limit = Some(RateLimit { requests: 1, per: LONG, burst: 1, key: Key::Route });
    });
    all.matches[0].path = PathMatch::Prefix("/".into());
    let other = route("other", "/other", "a");
    proxy.handle.apply(snapshot(2, vec![all, other], &[origin.address])).unwrap();
    statuses(&proxy, 1).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    let kept = story(&proxy, &answer).await;
    assert_eq!((kept.reason.as_deref(), kept.considered), (Some("rate_limited"), vec![]));
    proxy.stop().await;
}
