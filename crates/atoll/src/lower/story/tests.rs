//! Stories as they are told, every event among them.

use std::time::Duration;

use expect_test::{Expect, expect};
use jiff::Timestamp;
use proxy::{BreakerState, Effect, Event, How, Kept, NoMore, Rejected, Story, Told, Tried};

use super::{story, time};

fn plain() -> Story {
    Story {
        request_id: "r1".into(),
        trace_id: "0".repeat(32),
        began: Timestamp::UNIX_EPOCH,
        listener: "gateway".into(),
        role: "gateway".into(),
        client: "127.0.0.1".into(),
        method: "GET".into(),
        host: "shop".into(),
        path: "/orders".into(),
        route: Some("orders".into()),
        service: Some("ordering".into()),
        considered: Vec::new(),
        events: Vec::new(),
        events_dropped: 0,
        status: 200,
        reason: None,
        fallback: None,
        attempts: 1,
        state: None,
        duration: Duration::from_micros(31_400),
        kept: Kept::Sampled,
    }
}

fn told(events: &[Event]) -> Vec<Told> {
    let at =
        |(number, event): (usize, &Event)| Told { after: Duration::from_micros(100 * number as u64), event: *event };
    events.iter().enumerate().map(at).collect()
}

fn check(of: &Story, expected: &Expect) {
    let lines: Vec<String> =
        story(of).told.iter().map(|told| format!("{} {}: {}", told.after_ms, told.kind, told.text)).collect();
    expected.assert_eq(&lines.join("\n"));
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_request_that_was_tried_again_is_told_in_order() {
    let events = [
        Event::Rate { is_admitted: true, limit: 100, left: 12 },
        Event::Queued { running: 8, ahead: 2 },
        Event::Dequeued { waited: 3 * MS },
        Event::BreakerTurned { from: BreakerState::Open, to: BreakerState::HalfOpen },
        Event::Breaker { state: BreakerState::HalfOpen, is_admitted: true, failures: 0, slow: 0, calls: 0 },
        Event::Chosen {
            instance: 1,
            outstanding: 0,
            ready: 3,
            passed_over: 1,
            is_panic: false,
            how: How::FewerOutstanding { other: 0, other_outstanding: 3 },
        },
        Event::Fault { id: 3, effect: Effect::Delay(300 * MS) },
        Event::Tried { instance: 1, outcome: Tried::Answered(503), took: 3 * MS },
        Event::BreakerTurned { from: BreakerState::HalfOpen, to: BreakerState::Open },
        Event::Ejected { instance: 1, time: Duration::from_secs(30) },
        Event::Again { pause: 25 * MS, is_told: false },
        Event::Chosen { instance: 0, outstanding: 3, ready: 3, passed_over: 0, is_panic: true, how: How::Turn },
        Event::Tried { instance: 0, outcome: Tried::Answered(200), took: MS },
        Event::BreakerTurned { from: BreakerState::HalfOpen, to: BreakerState::Closed },
    ];
    let considered = vec![Rejected {
        route: "all".into(),
        rule: "path prefix /".into(),
        why: "another rule is more specific".into(),
    }];
    check(
        &Story { events: told(&events), considered, attempts: 2, kept: Kept::Unusual, ..plain() },
        &expect![[r#"
            0 route: route `orders` takes it, for ordering
            0 rejected: not route `all` (path prefix /): another rule is more specific
            0 rate_limit: the rate limit lets it through: 12 of 100 are left
            0.1 queued: all places are taken: 8 requests run; it waits behind 2
            0.2 dequeued: it has a place after 3 ms
            0.3 breaker_turned: the breaker was open for long enough: it is half open
            0.4 breaker: the breaker is half open and lets it through as a trial
            0.5 chosen: ordering.1 of 3 ready is chosen: it has 0 outstanding, ordering.0 has 3; 1 passed over
            0.6 fault: fault 3 delays it by 300 ms
            0.7 tried: ordering.1 answers 503 after 3 ms
            0.8 breaker_turned: this opens the breaker, which was half open
            0.9 ejected: ordering.1 is ejected: it is passed over for 30 s
            1 again: it is tried again in 25 ms
            1.1 chosen: ordering.0 of 3 ready is chosen: it is its turn; so many are ejected that all are asked
            1.2 tried: ordering.0 answers 200 after 1 ms
            1.3 breaker_turned: this closes the breaker, which was half open
            31.4 end: answered 200 after 31.4 ms and 2 tries"#]],
    );
}

#[test]
fn every_way_to_fail_has_its_sentence() {
    let tried = |outcome| Event::Tried { instance: 0, outcome, took: 1500 * MS };
    let no_more = |why| Event::NoMore { why };
    let chosen = |how| Event::Chosen { instance: 0, outstanding: 0, ready: 1, passed_over: 0, is_panic: false, how };
    let breaker = |state, is_admitted, slow| Event::Breaker { state, is_admitted, failures: 6, slow, calls: 10 };
    let events = [
        Event::Rate { is_admitted: false, limit: 100, left: 0 },
        Event::Crowded { running: 8, waiting: 4, waited: Duration::ZERO },
        Event::Crowded { running: 8, waiting: 4, waited: 100 * MS },
        Event::Shed { active: 9000, limit: 8192 },
        breaker(BreakerState::Open, false, 0),
        breaker(BreakerState::Open, false, 2),
        breaker(BreakerState::HalfOpen, false, 0),
        breaker(BreakerState::ForcedOpen, false, 0),
        breaker(BreakerState::ForcedClosed, true, 0),
        breaker(BreakerState::Closed, true, 0),
        Event::BreakerTurned { from: BreakerState::Closed, to: BreakerState::Open },
        Event::BreakerTurned { from: BreakerState::Closed, to: BreakerState::ForcedOpen },
        chosen(How::Only),
        chosen(How::LowerCost { cost: 120, other: 1, other_cost: 4000 }),
        chosen(How::Hash { skipped: 0 }),
        chosen(How::Hash { skipped: 2 }),
        chosen(How::SameAgain),
        Event::NobodyLeft { ready: 0, tried: 0 },
        Event::NobodyLeft { ready: 2, tried: 2 },
        tried(Tried::ConnectRefused),
        tried(Tried::ConnectTimeout),
        tried(Tried::ConnectFailed),
        tried(Tried::Broken { is_reused: true }),
        tried(Tried::Broken { is_reused: false }),
        tried(Tried::Invalid),
        tried(Tried::HeadTooLarge),
        tried(Tried::TimedOut),
        Event::Again { pause: Duration::ZERO, is_told: false },
        Event::Again { pause: Duration::from_secs(2), is_told: true },
        no_more(NoMore::NotRepeatable),
        no_more(NoMore::BodyNotKept),
        no_more(NoMore::AttemptsUsed),
        Event::Budget { retries: 12, max: 12 },
        no_more(NoMore::BudgetSpent),
        no_more(NoMore::NoTime),
        no_more(NoMore::ToldToWaitTooLong),
        no_more(NoMore::Final),
        Event::Fault { id: 1, effect: Effect::Abort(503) },
        Event::Fault { id: 2, effect: Effect::Drop },
        Event::Fault { id: 3, effect: Effect::Bandwidth(10_240) },
    ];
    let failed = Story {
        events: told(&events),
        events_dropped: 7,
        status: 503,
        reason: Some("circuit_open".into()),
        attempts: 0,
        kept: Kept::Failed,
        ..plain()
    };
    check(
        &failed,
        &expect![[r#"
            0 route: route `orders` takes it, for ordering
            0 rate_limit: the rate limit of 100 is used up
            0.1 crowded: all places are taken: 8 requests run, 4 wait; it is refused
            0.2 crowded: it has no place after 100 ms: 8 requests run, 4 wait; it is refused
            0.3 shed: the data plane has 9000 requests and takes 8192: it is refused
            0.4 breaker: the breaker is open, as 6 of 10 calls failed: nothing is sent
            0.5 breaker: the breaker is open, as 6 of 10 calls failed, 2 were slow: nothing is sent
            0.6 breaker: the breaker is half open and has its trials: nothing is sent
            0.7 breaker: the breaker is forced open, until `atoll breaker reset`: nothing is sent
            0.8 breaker: the breaker is forced closed
            0.9 breaker: the breaker is closed
            1 breaker_turned: this opens the breaker, which was closed
            1.1 breaker_turned: the breaker was closed and is forced open
            1.2 chosen: ordering.0 of 1 ready is chosen: nobody else can be
            1.3 chosen: ordering.0 of 1 ready is chosen: its load costs 120, that of ordering.1 4000
            1.4 chosen: ordering.0 of 1 ready is chosen: its key belongs there
            1.5 chosen: ordering.0 of 1 ready is chosen: 2 before it on the ring cannot be
            1.6 chosen: ordering.0 of 1 ready is chosen: a connection that had been idle broke, and a new one is tried
            1.7 nobody_left: no instance of ordering is ready
            1.8 nobody_left: no other instance of ordering can be asked: 2 ready, 2 tried
            1.9 tried: ordering.0 refuses the connection
            2 tried: ordering.0 does not take the connection within 1.5 s
            2.1 tried: ordering.0 cannot be connected to
            2.2 tried: ordering.0 breaks a connection that it had kept open, after 1.5 s
            2.3 tried: ordering.0 breaks the connection without an answer, after 1.5 s
            2.4 tried: ordering.0 answers what is no HTTP, after 1.5 s
            2.5 tried: ordering.0 answers with too large a head, after 1.5 s
            2.6 tried: ordering.0 does not answer within 1.5 s
            2.7 again: it is tried again at once
            2.8 again: it is tried again in 2 s, as `retry-after` asks
            2.9 no_more: it is not tried again: its method is not idempotent, and it has no `idempotency-key`
            3 no_more: it is not tried again: its body is too large to be kept
            3.1 no_more: it is not tried again: it has had all its tries
            3.2 budget: there were 12 retries in the last 10 s, and its requests allow 12
            3.3 no_more: it is not tried again: the retry budget is spent
            3.4 no_more: it is not tried again: its time would be over
            3.5 no_more: it is not tried again: `retry-after` is later than its time allows
            3.6 no_more: it is not tried again: such an answer is final
            3.7 fault: fault 1 answers 503 in place of the service
            3.8 fault: fault 2 drops the connection
            3.9 fault: fault 3 lets its answer through at 10KiB a second
            31.4 dropped: 7 more decisions are not kept
            31.4 end: answered 503 after 31.4 ms, without a try (circuit_open: the circuit breaker lets nothing through)"#]],
    );
}

#[test]
fn a_fallback_changes_who_is_asked() {
    let events = [
        Event::Tried { instance: 2, outcome: Tried::Answered(500), took: MS },
        Event::Fallback,
        Event::Tried { instance: 0, outcome: Tried::Answered(200), took: MS },
    ];
    let told_of = |fallback: Option<&str>, events: &[Event]| Story {
        events: told(events),
        reason: Some("upstream_failed".into()),
        fallback: fallback.map(str::to_owned),
        role: "cart".into(),
        route: Some("cart→ordering".into()),
        ..plain()
    };
    check(
        &told_of(Some("archive"), &events),
        &expect![[r#"
        0 route: cart calls ordering
        0 tried: ordering.2 answers 500 after 1 ms
        0.1 fallback: archive is asked instead, as the fallback
        0.2 tried: archive.0 answers 200 after 1 ms
        31.4 end: answered 200 by archive as the fallback after 31.4 ms and 1 try (upstream_failed: the service failed)"#]],
    );
    check(
        &told_of(Some("static"), &events[..2]),
        &expect![[r#"
        0 route: cart calls ordering
        0 tried: ordering.2 answers 500 after 1 ms
        0.1 fallback: the fixed fallback is answered instead
        31.4 end: answered 200 by the fixed fallback after 31.4 ms and 1 try (upstream_failed: the service failed)"#]],
    );
    check(
        &told_of(None, &events),
        &expect![[r#"
        0 route: cart calls ordering
        0 tried: ordering.2 answers 500 after 1 ms
        0.1 fallback: the fallback is asked instead, and fails, too
        0.2 tried: fallback.0 answers 200 after 1 ms
        31.4 end: answered 200 after 31.4 ms and 1 try (upstream_failed: the service failed)"#]],
    );
}

#[test]
fn who_is_no_route_and_who_is_gone_is_told() {
    let nowhere =
        Story { route: None, service: None, status: 404, reason: Some("no_route".into()), attempts: 0, ..plain() };
    check(
        &nowhere,
        &expect![[r#"
        0 route: no route takes it
        31.4 end: answered 404 after 31.4 ms, without a try (no_route: no route matches)"#]],
    );
    check(
        &Story { status: 499, reason: Some("client_closed".into()), ..plain() },
        &expect![[r#"
        0 route: route `orders` takes it, for ordering
        31.4 end: the client went away after 31.4 ms and 1 try"#]],
    );
}

#[test]
fn how_the_route_stood_in_the_end_is_told() {
    let breaker = proxy::BreakerReading { failures: 2, calls: 20, ..proxy::BreakerReading::default() };
    let gate = proxy::GateReading { running: 3, waiting: 1, max: 8 };
    let budget = proxy::BudgetReading { requests: 200, retries: 4, retries_max: 40 };
    let all =
        proxy::GuardReading { breaker: Some(breaker), gate: Some(gate), budget, ..proxy::GuardReading::default() };
    check(
        &Story { state: Some(all), ..plain() },
        &expect![[r#"
        0 route: route `orders` takes it, for ordering
        31.4 end: answered 200 after 31.4 ms and 1 try
        31.4 state: by then the breaker was closed, 2 of 20 calls had failed; 3 of 8 places were taken; 4 of 40 retries were used"#]],
    );
    let quiet = proxy::GuardReading::default();
    check(
        &Story { state: Some(quiet), ..plain() },
        &expect![[r#"
        0 route: route `orders` takes it, for ordering
        31.4 end: answered 200 after 31.4 ms and 1 try"#]],
    );
}

#[test]
fn a_time_has_the_digits_that_count() {
    let micros =
        [0, 310, 999, 3_140, 30_000, 99_900, 310_000, 1_000_000, 1_540_000, 30_000_000, 60_000_000, 125_000_000];
    let shown: Vec<String> = micros.into_iter().map(|micros| time(Duration::from_micros(micros))).collect();
    expect!["0 ms, 0.31 ms, 1 ms, 3.1 ms, 30 ms, 100 ms, 310 ms, 1 s, 1.5 s, 30 s, 1 min, 2 min 5 s"]
        .assert_eq(&shown.join(", "));
}
