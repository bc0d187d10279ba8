//! What is set to go wrong does, to whom it was set for, as long as it was set for; and what follows is what would follow
//! if it were real.

use std::time::{Duration, Instant, SystemTime};

use proxy::{Breaker, BreakerState, Effect, Event, Fallback, Fault, FaultTarget, Share, Subject, Switches, Window};
use testkit::client::Client;
use testkit::server::{Answer, Server};
use tokio::io::AsyncReadExt;

use super::{LONG, all_to, ejecting_at, fine, guard, reason, retrying, statuses, story, subject, told, with_service};
use crate::support::{BOUND, Proxy, limits, route, snapshot};

/// A moment so far from now.
fn until(ahead: Duration) -> jiff::Timestamp {
    jiff::Timestamp::try_from(SystemTime::now() + ahead).unwrap()
}

fn fault(target: FaultTarget, effect: Effect) -> Fault {
    Fault { id: 7, target, effect, share: Share::ALL, until: until(LONG) }
}

fn on_route() -> FaultTarget {
    FaultTarget::Subject(subject("all"))
}

fn on_service(instance: Option<u32>) -> FaultTarget {
    FaultTarget::Service { service: "a".into(), instance }
}

fn set(proxy: &Proxy, faults: Vec<Fault>) {
    proxy.handle.switch(Switches { faults, ..Switches::default() });
}

#[tokio::test]
async fn each_fault_does_what_it_says_and_reaches_nobody() {
    let origin = fine().await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address], |_| {})).await;
    for (effect, expected) in [
        (Effect::Abort(503), (503, "fault_injected")),
        (Effect::Abort(418), (418, "fault_injected")),
        (Effect::Drop, (502, "upstream_broken")),
    ] {
        for target in [on_route(), on_service(None), on_service(Some(0))] {
            set(&proxy, vec![fault(target.clone(), effect)]);
            let answer = proxy.client().await.request("POST", "/", &[], b"order").await.unwrap();
            assert_eq!(reason(&answer), (expected.0, expected.1.into()), "{effect:?} {target:?}");
            assert!(told(&story(&proxy, &answer).await).contains(&format!("fault 7: {effect:?}")));
        }
    }
    assert_eq!(origin.connections(), 0);
    let others = [
        FaultTarget::Subject(subject("other")),
        FaultTarget::Subject(Subject::Edge { caller: "cart".into(), upstream: "a".into() }),
        FaultTarget::Service { service: "b".into(), instance: None },
        on_service(Some(1)),
    ];
    set(&proxy, others.map(|target| fault(target, Effect::Drop)).into());
    assert_eq!(statuses(&proxy, 3).await, [200; 3]);
    set(&proxy, vec![]);
    assert_eq!(statuses(&proxy, 3).await, [200; 3]);
    proxy.stop().await;
}

#[tokio::test]
async fn a_delay_lasts_as_long_as_it_says_and_no_longer_than_the_request_has() {
    let origin = fine().await;
    let delay = Duration::from_millis(200);
    let proxy = Proxy::start(limits(), all_to(&[origin.address], |_| {})).await;
    set(&proxy, vec![fault(on_route(), Effect::Delay(delay))]);
    let began = Instant::now();
    assert_eq!(statuses(&proxy, 1).await, [200]);
    assert!(began.elapsed() >= delay);
    // Others are not held up by one that waits.
    set(&proxy, vec![fault(on_route(), Effect::Delay(LONG))]);
    let waiting = super::begun(&proxy).await;
    super::until("the delayed one", || proxy.handle.counters().requests_active == 1).await;
    set(&proxy, vec![]);
    assert_eq!(statuses(&proxy, 1).await, [200]);
    waiting.stream.get_ref().set_zero_linger().unwrap();
    drop(waiting);
    super::until("its leaving", || proxy.handle.counters().requests_active == 0).await;
    proxy.stop().await;
    for (tries, expected) in [(1, 504), (2, 504)] {
        let all = all_to(&[origin.address], |policy| {
            policy.timeout = super::BRIEF * 3;
            policy.retry = proxy::Retry { try_timeout: Some(super::BRIEF), ..retrying(tries) };
        });
        let proxy = Proxy::start(limits(), all).await;
        set(&proxy, vec![fault(on_service(None), Effect::Delay(LONG))]);
        let answer = proxy.client().await.get("/").await.unwrap();
        assert_eq!(answer.status(), expected);
        let delays = story(&proxy, &answer).await.events;
        let delays = delays.iter().filter(|told| matches!(told.event, Event::Fault { .. })).count();
        assert_eq!(delays, tries as usize, "a fault is met by each try");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_bandwidth_bounds_the_answer_of_the_instance_that_it_is_set_for() {
    let large = Server::http(|_| Answer::ok(vec![b'x'; 60_000])).await;
    let proxy = Proxy::start(limits(), all_to(&[large.address, large.address], |_| {})).await;
    set(&proxy, vec![fault(on_service(Some(1)), Effect::Bandwidth(100_000))]);
    let mut slow = 0;
    for _ in 0..10 {
        let (mut client, began) = (proxy.client().await, Instant::now());
        let answer = client.get("/").await.unwrap();
        assert_eq!(answer.body.len(), 60_000);
        let is_slow = proxy_instance(&proxy, &answer).await == 1;
        assert!(!is_slow || began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
        slow += usize::from(is_slow);
        if slow == 2 {
            break;
        }
    }
    assert!(slow > 0);
    proxy.stop().await;
}

/// Which instance has answered.
async fn proxy_instance(proxy: &Proxy, answer: &testkit::message::Message) -> u64 {
    let id = answer.field("x-request-id").unwrap();
    let look = || async {
        let lines = proxy.lines(1).await;
        lines.iter().find(|line| line["request_id"] == id).map(|line| line["instance"].as_u64().unwrap())
    };
    testkit::wait::until("the line", BOUND, look).await
}

#[tokio::test]
async fn a_share_of_the_requests_is_a_share_and_an_end_is_an_end() {
    let origin = fine().await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address], |_| {})).await;
    for (share, least, most) in [(0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)] {
        set(&proxy, vec![Fault { share: Share::of(share), ..fault(on_route(), Effect::Abort(500)) }]);
        let met = statuses(&proxy, 200).await.into_iter().filter(|status| *status == 500).count();
        assert!((least..=most).contains(&met), "{met} of 200 with {share}");
    }
    let over = Fault { until: until(Duration::ZERO), ..fault(on_route(), Effect::Abort(500)) };
    set(&proxy, vec![over]);
    assert_eq!(statuses(&proxy, 3).await, [200; 3]);
    let soon = Duration::from_millis(700);
    let began = Instant::now();
    set(&proxy, vec![Fault { until: until(soon), ..fault(on_route(), Effect::Abort(500)) }]);
    let first = statuses(&proxy, 1).await;
    assert!(first == [500] || began.elapsed() > soon, "{first:?}");
    let mut client = proxy.client().await;
    while client.get("/").await.unwrap().status() != 200 {
        assert!(began.elapsed() < BOUND);
    }
    assert!(began.elapsed() + Duration::from_millis(100) >= soon);
    proxy.stop().await;
}

#[tokio::test]
async fn faults_feed_retries_breakers_ejections_and_fallbacks_as_real_failures_do() {
    let (origin, b) = (fine().await, fine().await);
    let addresses = [origin.address, origin.address];
    // One of two instances fails: the other answers.
    let proxy = Proxy::start(limits(), all_to(&addresses, |policy| policy.retry = retrying(2))).await;
    for effect in [Effect::Abort(503), Effect::Drop] {
        set(&proxy, vec![fault(on_service(Some(0)), effect)]);
        assert_eq!(statuses(&proxy, 5).await, [200; 5], "{effect:?}");
    }
    set(&proxy, vec![fault(on_route(), Effect::Abort(503))]);
    assert_eq!(statuses(&proxy, 1).await, [503], "a whole route has no other instance");
    proxy.stop().await;
    let all = all_to(&addresses, |policy| {
        policy.ejection = Some(ejecting_at(1));
        policy.balance.algorithm = proxy::Algorithm::RoundRobin;
        policy.breaker = Some(Breaker {
            window: Window::Calls(4),
            minimum_calls: 4,
            failure_rate: Share::of(0.75),
            slow_call: None,
            slow_call_rate: Share::ALL,
            open_for: LONG,
            half_open_calls: 1,
        });
    });
    let proxy = Proxy::start(limits(), all).await;
    set(&proxy, vec![fault(on_service(Some(0)), Effect::Abort(500))]);
    statuses(&proxy, 4).await;
    assert_eq!(guard(&proxy).ejected.iter().map(|one| one.instance).collect::<Vec<_>>(), [0]);
    assert_eq!(guard(&proxy).breaker.unwrap().state, BreakerState::Closed);
    set(&proxy, vec![fault(on_route(), Effect::Drop)]);
    statuses(&proxy, 4).await;
    assert_eq!(guard(&proxy).breaker.unwrap().state, BreakerState::Open);
    proxy.stop().await;
    // An aborted GET is answered by the other service, which the fault is not set for; 404 is no failure.
    let all = all_to(&addresses, |policy| policy.fallback = Some(Fallback::Service("b".into())));
    let proxy = Proxy::start(limits(), with_service(all, "b", &[b.address])).await;
    for target in [on_route(), on_service(None)] {
        for (effect, expected) in [(Effect::Abort(500), 200), (Effect::Drop, 200), (Effect::Abort(404), 404)] {
            set(&proxy, vec![fault(target.clone(), effect)]);
            let answer = proxy.client().await.get("/").await.unwrap();
            let mark = (expected == 200).then_some("b");
            assert_eq!((answer.status(), answer.field("atoll-fallback")), (expected, mark), "{target:?} {effect:?}");
        }
    }
    set(&proxy, vec![fault(FaultTarget::Service { service: "b".into(), instance: None }, Effect::Drop)]);
    assert_eq!(statuses(&proxy, 2).await, [200; 2]);
    proxy.stop().await;
}

#[tokio::test]
async fn a_fault_of_one_edge_is_nothing_to_the_gateway_and_survives_snapshots() {
    let origin = fine().await;
    let all = |generation| snapshot(generation, vec![route("all", "/", "a")], &[origin.address]);
    let proxy = Proxy::start(limits(), all(1)).await;
    let edge = Subject::Edge { caller: "cart".into(), upstream: "a".into() };
    set(&proxy, vec![fault(FaultTarget::Subject(edge), Effect::Abort(599))]);
    for generation in 2..4 {
        assert_eq!(statuses(&proxy, 2).await, [200; 2]);
        assert_eq!(Client::connect(proxy.edge).await.get("/").await.unwrap().status(), 599);
        proxy.handle.apply(all(generation)).unwrap();
    }
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_that_runs_is_let_go_when_its_fault_is_over() {
    let large = Server::http(|_| Answer::ok(vec![b'x'; 60_000])).await;
    let proxy = Proxy::start(limits(), all_to(&[large.address], |_| {})).await;
    // It would take ten minutes.
    let slow = || fault(on_service(None), Effect::Bandwidth(100));
    for is_cleared in [true, false] {
        let lasting = if is_cleared { LONG } else { Duration::from_millis(300) };
        set(&proxy, vec![Fault { until: until(lasting), ..slow() }]);
        let mut client = super::begun(&proxy).await;
        assert_eq!(client.head().await.unwrap().status(), 200);
        if is_cleared {
            let other = Fault { id: 8, ..fault(on_service(Some(1)), Effect::Drop) };
            set(&proxy, vec![other]);
        }
        let mut body = vec![0; 60_000];
        tokio::time::timeout(BOUND, client.stream.read_exact(&mut body)).await.expect("the rest comes").unwrap();
    }
    proxy.stop().await;
}
