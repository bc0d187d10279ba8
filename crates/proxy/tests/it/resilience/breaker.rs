//! A breaker opens, asks carefully and closes; it can be forced; and who leaves takes nothing along.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proxy::{Breaker, BreakerReading, BreakerState, Forced, Policy, Share, Snapshot, Switches, Window};
use testkit::server::{Answer, Server};

use super::{
    BRIEF, Held, LONG, all_to, answering, begun, breaking, fine, guard, reason, statuses, subject, switchable,
    until_guard,
};
use crate::support::{Proxy, limits, nowhere};

/// Opens for good when half of four calls failed.
fn breaker() -> Breaker {
    Breaker {
        window: Window::Calls(4),
        minimum_calls: 4,
        failure_rate: Share::of(0.5),
        slow_call: None,
        slow_call_rate: Share::ALL,
        open_for: LONG,
        half_open_calls: 2,
    }
}

fn state(proxy: &Proxy) -> BreakerState {
    guard(proxy).breaker.unwrap().state
}

fn forced(how: Option<Forced>) -> Switches {
    Switches { breakers: how.into_iter().map(|how| (subject("all"), how)).collect(), ..Switches::default() }
}

#[tokio::test]
async fn a_breaker_opens_at_its_rate_and_not_before_its_minimum() {
    let of = |statuses: &'static [u16], breaker: Breaker| (statuses, breaker);
    for ((statuses, breaker), opens_after) in [
        (of(&[500, 500, 500, 500, 200], breaker()), Some(4)),
        (of(&[200, 200, 500, 500, 200], breaker()), Some(4)),
        (of(&[500, 200, 200, 200, 500, 500, 200], breaker()), Some(6)),
        (of(&[500, 200, 200, 200, 500, 200], breaker()), None),
        (of(&[404, 429, 400, 404], breaker()), None),
        (of(&[500, 200], Breaker { window: Window::Time(LONG), minimum_calls: 2, ..breaker() }), Some(2)),
        (of(&[500, 500, 500, 200], Breaker { window: Window::Time(LONG), minimum_calls: 8, ..breaker() }), None),
    ] {
        let origin = super::scripted(statuses).await;
        let proxy = Proxy::start(limits(), all_to(&[origin.address], |policy| policy.breaker = Some(breaker))).await;
        let seen = super::statuses(&proxy, 8).await;
        let expected = opens_after.unwrap_or(8);
        assert_eq!(origin.requests(), expected, "{statuses:?}: {seen:?}");
        assert!(seen[expected..].iter().all(|status| *status == 503), "{seen:?}");
        assert_eq!(state(&proxy) == BreakerState::Open, opens_after.is_some());
        proxy.stop().await;
    }
}

#[tokio::test]
async fn who_is_refused_is_told_why_and_when_to_come_again() {
    let origin = answering(500).await;
    let proxy = Proxy::start(limits(), all_to(&[origin.address], |policy| policy.breaker = Some(breaker()))).await;
    statuses(&proxy, 4).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!(reason(&answer), (503, "circuit_open".into()));
    let retry_after: u64 = answer.field("retry-after").unwrap().parse().unwrap();
    assert!(retry_after <= LONG.as_secs() && retry_after > LONG.as_secs() - 60, "{retry_after}");
    let lines = proxy.lines(5).await;
    let line = lines.iter().find(|line| line["reason"] == "circuit_open").unwrap();
    assert_eq!((line["status"].as_u64(), line["attempts"].as_u64()), (Some(503), Some(0)));
    let reading = guard(&proxy).breaker.unwrap();
    assert_eq!((reading.calls, reading.failures, reading.slow), (4, 4, 0));
    assert!(reading.open_left > Duration::ZERO);
    proxy.stop().await;
}

#[tokio::test]
async fn a_breaker_opens_for_slow_calls_broken_ones_and_timeouts() {
    let (broken, _) = breaking().await;
    let held = Held::new().await;
    // Every answer takes at least this long.
    let slow = Server::http(|_| {
        let began = Instant::now();
        testkit::wait::until_blocking("time to pass", LONG, || {
            (began.elapsed() > Duration::from_millis(20)).then_some(())
        });
        Answer::ok("late")
    })
    .await;
    let calls = Breaker { minimum_calls: 2, window: Window::Calls(2), ..breaker() };
    let by_slow = Breaker { slow_call: Some(Duration::from_millis(10)), failure_rate: Share::ALL, ..calls.clone() };
    for (address, breaker, slow) in
        [(broken.address, calls.clone(), 0), (held.address(), calls.clone(), 0), (slow.address, by_slow, 2)]
    {
        let all = all_to(&[address], |policy| {
            policy.breaker = Some(breaker);
            policy.timeout = Duration::from_millis(300);
        });
        let proxy = Proxy::start(limits(), all).await;
        statuses(&proxy, 2).await;
        let reading = guard(&proxy).breaker.unwrap();
        assert_eq!((reading.state, reading.slow), (BreakerState::Open, slow), "{address} {reading:?}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn half_open_it_lets_so_many_through_and_judges_them() {
    for (recovers, expected) in [(true, BreakerState::Closed), (false, BreakerState::Open)] {
        let (origin, status) = switchable(500).await;
        let open_for = BRIEF;
        let all = all_to(&[origin.address], |policy| policy.breaker = Some(Breaker { open_for, ..breaker() }));
        let proxy = Proxy::start(limits(), all).await;
        statuses(&proxy, 4).await;
        assert_eq!(state(&proxy), BreakerState::Open);
        until_guard(&proxy, "the time to be over", |guard| guard.breaker.unwrap().open_left.is_zero()).await;
        if recovers {
            status.store(200, Ordering::SeqCst);
        }
        assert_eq!(state(&proxy), BreakerState::Open, "nobody has asked yet");
        statuses(&proxy, 1).await;
        assert_eq!(state(&proxy), BreakerState::HalfOpen);
        statuses(&proxy, 1).await;
        assert_eq!((state(&proxy), origin.requests()), (expected, 6));
        proxy.stop().await;
    }
}

#[tokio::test]
async fn half_open_who_leaves_gives_its_permit_back_and_the_rest_is_refused() {
    let held = Held::new().await;
    let all = all_to(&[held.address()], |policy| {
        policy.timeout = BRIEF;
        policy.breaker = Some(Breaker { open_for: Duration::from_millis(1), ..breaker() });
    });
    let proxy = Proxy::start(limits(), all.clone()).await;
    statuses(&proxy, 4).await;
    assert_eq!(state(&proxy), BreakerState::Open);
    // From now on there is time; the breaker is the same.
    let patient = |policy: &mut Policy| {
        policy.breaker = Some(Breaker { open_for: Duration::from_millis(1), ..breaker() });
    };
    proxy.handle.apply(Snapshot { generation: 2, ..all_to(&[held.address()], patient) }).unwrap();
    let arrived = held.arrived();
    let leaving = begun(&proxy).await;
    held.has(arrived + 1).await;
    let staying = begun(&proxy).await;
    held.has(arrived + 2).await;
    let refused = proxy.client().await.get("/").await.unwrap();
    assert_eq!(reason(&refused), (503, "circuit_open".into()));
    // A reset is noticed at once.
    leaving.stream.get_ref().set_zero_linger().unwrap();
    drop(leaving);
    super::until("the leaving to be noticed", || proxy.handle.counters().requests_active == 1).await;
    assert_eq!(state(&proxy), BreakerState::HalfOpen);
    let mut next = begun(&proxy).await;
    held.has(arrived + 3).await;
    held.let_go(10);
    let mut staying = staying;
    assert_eq!(staying.response().await.unwrap().status(), 200);
    assert_eq!(next.response().await.unwrap().status(), 200);
    assert_eq!(state(&proxy), BreakerState::Closed);
    proxy.stop().await;
}

#[tokio::test]
async fn a_breaker_is_forced_open_and_closed_and_reset_while_requests_are_served() {
    let (origin, status) = switchable(200).await;
    let all = all_to(&[origin.address], |policy| policy.breaker = Some(breaker()));
    let proxy = Proxy::start(limits(), all.clone()).await;
    proxy.handle.switch(forced(Some(Forced::Open)));
    assert_eq!((statuses(&proxy, 3).await, origin.requests()), (vec![503; 3], 0));
    assert_eq!(state(&proxy), BreakerState::ForcedOpen);
    // It outlives snapshots, and a reset.
    proxy.handle.apply(Snapshot { generation: 2, ..all }).unwrap();
    assert!(proxy.handle.reset_breaker(&subject("all")));
    assert_eq!(statuses(&proxy, 1).await, [503]);
    // Another breaker is forced as well.
    let other = all_to(&[origin.address], |policy| policy.breaker = Some(Breaker { minimum_calls: 2, ..breaker() }));
    proxy.handle.apply(Snapshot { generation: 3, ..other }).unwrap();
    assert_eq!(statuses(&proxy, 1).await, [503]);
    proxy.handle.switch(forced(None));
    assert_eq!((state(&proxy), statuses(&proxy, 1).await), (BreakerState::Closed, vec![200]));
    status.store(500, Ordering::SeqCst);
    proxy.handle.switch(forced(Some(Forced::Closed)));
    assert_eq!(statuses(&proxy, 10).await, [500; 10]);
    assert_eq!(state(&proxy), BreakerState::ForcedClosed);
    // What was counted meanwhile counts: the next failure opens it.
    proxy.handle.switch(forced(None));
    assert_eq!(statuses(&proxy, 2).await, [500, 503]);
    assert_eq!(state(&proxy), BreakerState::Open);
    assert!(proxy.handle.reset_breaker(&subject("all")));
    assert_eq!(guard(&proxy).breaker.unwrap(), BreakerReading::default());
    assert_eq!(statuses(&proxy, 3).await, [500, 500, 503]);
    assert!(!proxy.handle.reset_breaker(&subject("none")), "there is no such route");
    proxy.stop().await;
}

#[tokio::test]
async fn an_instance_that_refuses_is_no_failed_call_while_another_answers() {
    let good = fine().await;
    let calls = Breaker { window: Window::Calls(100), minimum_calls: 1, failure_rate: Share::of(0.01), ..breaker() };
    let only = |policy: &mut Policy| policy.breaker = Some(calls.clone());
    let proxy = Proxy::start(limits(), all_to(&[nowhere(), nowhere(), good.address], only)).await;
    assert_eq!(statuses(&proxy, 20).await, [200; 20]);
    let reading = guard(&proxy).breaker.unwrap();
    assert_eq!((reading.state, reading.calls, reading.failures), (BreakerState::Closed, 20, 0));
    proxy.stop().await;
    let proxy = Proxy::start(limits(), all_to(&[nowhere(), nowhere()], only)).await;
    assert_eq!(statuses(&proxy, 2).await, [502, 503], "the second is refused by the breaker");
    let reading = guard(&proxy).breaker.unwrap();
    assert_eq!((reading.state, reading.calls, reading.failures), (BreakerState::Open, 1, 1));
    proxy.stop().await;
}

#[tokio::test]
async fn each_try_is_a_call_and_no_try_passes_an_open_breaker() {
    let origin = answering(503).await;
    let all = all_to(&[origin.address], |policy| {
        policy.retry = super::retrying(10);
        policy.breaker = Some(breaker());
    });
    let proxy = Proxy::start(limits(), all).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    // The answer of the service is passed on, and not the refusal of the fifth try.
    assert_eq!((answer.status(), answer.body.len(), origin.requests()), (503, 0, 4));
    assert_eq!(state(&proxy), BreakerState::Open);
    proxy.stop().await;
}
