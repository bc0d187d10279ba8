//! Scenarios of a breaker as scripts, and what must hold whatever happens.

use expect_test::{Expect, expect};

use super::*;
use crate::policy::Share;

fn policy() -> policy::Breaker {
    policy::Breaker {
        window: Window::Calls(4),
        minimum_calls: 2,
        failure_rate: Share::of(0.5),
        slow_call: Some(Duration::from_millis(100)),
        slow_call_rate: Share::of(0.75),
        open_for: Duration::from_secs(5),
        half_open_calls: 2,
    }
}

fn at(ms: u64) -> Moment {
    Moment::of_micros(ms * 1000)
}

fn outcome(word: &str) -> Outcome {
    let took = Duration::from_millis(if word.starts_with("slow") { 101 } else { 100 });
    Outcome { is_failure: word.ends_with("fail"), took }
}

/// Runs a script, one line a moment: its milliseconds, then what happens. `ok`, `fail`, `slow`, `slowfail` are whole calls;
/// `a?` asks for a call, `a:ok` ends it, `a:gone` ends it without an outcome; the rest are switches.
fn check(policy: &policy::Breaker, script: &str, expected: &Expect) {
    let breaker = Breaker::new(policy);
    let mut permits = std::collections::HashMap::new();
    let mut told = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (ms, events) = line.split_once(' ').unwrap();
        let now = at(ms.parse().unwrap());
        told += ms;
        for event in events.split_whitespace() {
            told += &format!(" {event}");
            let turn = match event {
                "force-open" => breaker.force(Some(Forced::Open), now),
                "force-closed" => breaker.force(Some(Forced::Closed), now),
                "unforce" => breaker.force(None, now),
                "reset" => breaker.reset(),
                "look" => None,
                _ => match event.split_once(':') {
                    Some((name, "gone")) => {
                        breaker.release(permits[name]);
                        None
                    }
                    Some((name, word)) => breaker.record(permits[name], outcome(word), now),
                    None => match breaker.try_acquire(now) {
                        Err(refused) => {
                            told += &format!("!{:?}", refused.retry_after);
                            None
                        }
                        Ok(permit) if event.ends_with('?') => {
                            permits.insert(event.trim_end_matches('?'), permit);
                            permit.turned
                        }
                        Ok(permit) => breaker.record(permit, outcome(event), now).or(permit.turned),
                    },
                },
            };
            if let Some((from, to)) = turn {
                told += &format!(" [{from:?}→{to:?}]");
            }
        }
        let reading = breaker.reading(now);
        let BreakerReading { state, failures, slow, calls, open_left } = reading;
        told += &format!(" = {state:?} {failures}f {slow}s of {calls}");
        told += &if open_left.is_zero() { "\n".to_owned() } else { format!(", {open_left:?} left\n") };
    }
    expected.assert_eq(&told);
}

#[test]
fn it_opens_by_the_rate_of_the_window_of_calls_once_there_are_enough() {
    check(
        &policy(),
        "0 fail\n1 ok\n9 look",
        &expect![[r#"
        0 fail = Closed 1f 0s of 1
        1 ok [Closed→Open] = Open 1f 0s of 2, 5s left
        9 look = Open 1f 0s of 2, 4.992s left
    "#]],
    );
    check(
        &policy(),
        "0 ok\n1 ok\n2 ok\n3 fail\n4 ok\n5 ok\n6 ok\n7 fail\n8 fail",
        &expect![[r#"
        0 ok = Closed 0f 0s of 1
        1 ok = Closed 0f 0s of 2
        2 ok = Closed 0f 0s of 3
        3 fail = Closed 1f 0s of 4
        4 ok = Closed 1f 0s of 4
        5 ok = Closed 1f 0s of 4
        6 ok = Closed 1f 0s of 4
        7 fail = Closed 1f 0s of 4
        8 fail [Closed→Open] = Open 2f 0s of 4, 5s left
    "#]],
    );
}

#[test]
fn a_minimum_beyond_the_window_is_the_window() {
    check(
        &policy::Breaker { minimum_calls: 100, ..policy() },
        "0 fail fail fail\n1 fail",
        &expect![[r#"
        0 fail fail fail = Closed 3f 0s of 3
        1 fail [Closed→Open] = Open 4f 0s of 4, 5s left
    "#]],
    );
}

#[test]
fn slow_calls_count_whatever_they_answer_and_only_where_they_are_asked_for() {
    check(
        &policy(),
        "0 slow slow\n1 ok ok\n2 slow slow slow",
        &expect![[r#"
        0 slow slow [Closed→Open] = Open 0f 2s of 2, 5s left
        1 ok!4.999s ok!4.999s = Open 0f 2s of 2, 4.999s left
        2 slow!4.998s slow!4.998s slow!4.998s = Open 0f 2s of 2, 4.998s left
    "#]],
    );
    check(
        &policy(),
        "0 ok slow slow slowfail",
        &expect![[r#"
        0 ok slow slow slowfail [Closed→Open] = Open 1f 3s of 4, 5s left
    "#]],
    );
    check(
        &policy::Breaker { slow_call: None, ..policy() },
        "0 slow slow slow slow",
        &expect![[r#"
        0 slow slow slow slow = Closed 0f 0s of 4
    "#]],
    );
}

#[test]
fn a_window_of_time_forgets_in_tenths() {
    let window = Window::Time(Duration::from_secs(10));
    let policy = policy::Breaker { window, minimum_calls: 4, ..policy() };
    check(
        &policy,
        "0 fail fail\n9999 ok look\n10000 look\n10500 fail\n10999 fail fail",
        &expect![[r#"
        0 fail fail = Closed 2f 0s of 2
        9999 ok look = Closed 2f 0s of 3
        10000 look = Closed 0f 0s of 1
        10500 fail = Closed 1f 0s of 2
        10999 fail fail [Closed→Open] = Open 3f 0s of 4, 5s left
    "#]],
    );
}

#[test]
fn it_is_half_open_at_the_first_call_after_its_time_and_judged_when_all_have_ended() {
    let open = "0 fail fail\n4999 ok\n5000 look\n";
    check(
        &policy(),
        &format!("{open}5001 a? b? c?\n5002 a:ok\n5003 c?\n5004 b:ok\n5005 ok"),
        &expect![[r#"
            0 fail fail [Closed→Open] = Open 2f 0s of 2, 5s left
            4999 ok!1ms = Open 2f 0s of 2, 1ms left
            5000 look = Open 2f 0s of 2
            5001 a? [Open→HalfOpen] b? c?!0ns = HalfOpen 0f 0s of 0
            5002 a:ok = HalfOpen 0f 0s of 1
            5003 c?!0ns = HalfOpen 0f 0s of 1
            5004 b:ok [HalfOpen→Closed] = Closed 0f 0s of 0
            5005 ok = Closed 0f 0s of 1
        "#]],
    );
    check(
        &policy(),
        &format!("{open}6000 a? b?\n6001 a:fail b:ok\n10999 ok\n11001 ok ok"),
        &expect![[r#"
        0 fail fail [Closed→Open] = Open 2f 0s of 2, 5s left
        4999 ok!1ms = Open 2f 0s of 2, 1ms left
        5000 look = Open 2f 0s of 2
        6000 a? [Open→HalfOpen] b? = HalfOpen 0f 0s of 0
        6001 a:fail b:ok [HalfOpen→Open] = Open 1f 0s of 2, 5s left
        10999 ok!2ms = Open 1f 0s of 2, 2ms left
        11001 ok [Open→HalfOpen] ok [HalfOpen→Closed] = Closed 0f 0s of 0
    "#]],
    );
    check(
        &policy(),
        &format!("{open}6000 slow slow"),
        &expect![[r#"
        0 fail fail [Closed→Open] = Open 2f 0s of 2, 5s left
        4999 ok!1ms = Open 2f 0s of 2, 1ms left
        5000 look = Open 2f 0s of 2
        6000 slow [Open→HalfOpen] slow [HalfOpen→Open] = Open 0f 2s of 2, 5s left
    "#]],
    );
}

#[test]
fn who_goes_away_gives_a_half_open_call_back() {
    check(
        &policy(),
        "0 fail fail\n6000 a? b? c?\n6001 a:gone b:gone\n6002 a:gone c? d? e?\n6003 c:ok e? c:gone c:gone e? f?\n6004 d:ok",
        &expect![[r#"
            0 fail fail [Closed→Open] = Open 2f 0s of 2, 5s left
            6000 a? [Open→HalfOpen] b? c?!0ns = HalfOpen 0f 0s of 0
            6001 a:gone b:gone = HalfOpen 0f 0s of 0
            6002 a:gone c? d? e?!0ns = HalfOpen 0f 0s of 0
            6003 c:ok e?!0ns c:gone c:gone e? f?!0ns = HalfOpen 0f 0s of 1
            6004 d:ok [HalfOpen→Closed] = Closed 0f 0s of 0
        "#]],
    );
}

#[test]
fn outcomes_of_an_earlier_epoch_count_nothing() {
    check(
        &policy(),
        "0 a? b? c? fail fail\n1 a:fail\n5000 d? b:fail b:gone\n5001 e? c:ok\n5002 d:ok e:ok\n5003 a:fail d:fail",
        &expect![[r#"
            0 a? b? c? fail fail [Closed→Open] = Open 2f 0s of 2, 5s left
            1 a:fail = Open 2f 0s of 2, 4.999s left
            5000 d? [Open→HalfOpen] b:fail b:gone = HalfOpen 0f 0s of 0
            5001 e? c:ok = HalfOpen 0f 0s of 0
            5002 d:ok e:ok [HalfOpen→Closed] = Closed 0f 0s of 0
            5003 a:fail d:fail = Closed 0f 0s of 0
        "#]],
    );
}

#[test]
fn what_is_forced_holds_until_it_is_taken_back() {
    check(
        &policy(),
        "0 ok force-open force-open ok\n99999 ok\n100000 unforce unforce ok\n100001 force-closed fail fail fail ok\n\
         100002 force-closed unforce\n100003 ok\n100004 force-closed ok unforce\n100005 fail fail\n100006 unforce\n100007 force-open reset\n100008 unforce",
        &expect![[r#"
            0 ok force-open [Closed→ForcedOpen] force-open ok!0ns = ForcedOpen 0f 0s of 1
            99999 ok!0ns = ForcedOpen 0f 0s of 1
            100000 unforce [ForcedOpen→Closed] unforce ok = Closed 0f 0s of 1
            100001 force-closed [Closed→ForcedClosed] fail fail fail ok = ForcedClosed 3f 0s of 4
            100002 force-closed unforce [ForcedClosed→Closed] = Closed 3f 0s of 4
            100003 ok [Closed→Open] = Open 2f 0s of 4, 5s left
            100004 force-closed [Open→ForcedClosed] ok unforce [ForcedClosed→Closed] = Closed 0f 0s of 1
            100005 fail [Closed→Open] fail!5s = Open 1f 0s of 2, 5s left
            100006 unforce = Open 1f 0s of 2, 4.999s left
            100007 force-open [Open→ForcedOpen] reset = ForcedOpen 0f 0s of 0
            100008 unforce [ForcedOpen→Closed] = Closed 0f 0s of 0
        "#]],
    );
}

#[test]
fn a_reset_closes_and_forgets_and_leaves_what_is_forced() {
    check(
        &policy(),
        "0 fail a? fail\n1 reset a:fail\n2 fail reset\n3 fail\n4 force-closed fail reset",
        &expect![[r#"
        0 fail a? fail [Closed→Open] = Open 2f 0s of 2, 5s left
        1 reset [Open→Closed] a:fail = Closed 0f 0s of 0
        2 fail reset = Closed 0f 0s of 0
        3 fail = Closed 1f 0s of 1
        4 force-closed [Closed→ForcedClosed] fail reset = ForcedClosed 0f 0s of 0
    "#]],
    );
}

#[test]
fn an_outcome_too_many_or_a_half_open_of_no_calls_breaks_nothing() {
    let policy = policy::Breaker { half_open_calls: 0, minimum_calls: 0, window: Window::Calls(0), ..policy() };
    check(
        &policy,
        "0 fail\n5000 a? b?\n5001 a:ok a:ok a:gone\n5002 ok",
        &expect![[r#"
            0 fail [Closed→Open] = Open 1f 0s of 1, 5s left
            5000 a? [Open→HalfOpen] b?!0ns = HalfOpen 0f 0s of 0
            5001 a:ok [HalfOpen→Closed] a:ok a:gone = Closed 0f 0s of 0
            5002 ok = Closed 0f 0s of 1
        "#]],
    );
}

/// Any policy, as far as it can be well again.
fn random_policy(random: &mut fastrand::Rng) -> policy::Breaker {
    let time = Duration::from_millis(random.u64(1..3000));
    policy::Breaker {
        window: if random.bool() { Window::Calls(random.u32(1..8)) } else { Window::Time(time) },
        minimum_calls: random.u32(1..8),
        failure_rate: Share::of(random.f64().max(0.01)),
        half_open_calls: random.u32(1..5),
        ..policy()
    }
}

/// Whether what it says of itself agrees with what is out.
fn assert_is_sound(breaker: &Breaker, permits: &[Permit]) {
    let inner = breaker.lock();
    if let State::HalfOpen { given, ended, .. } = inner.state {
        let out = permits.iter().filter(|permit| permit.epoch == inner.epoch).count() as u32;
        assert_eq!(given, out + ended.calls);
        assert!(given <= breaker.policy.half_open_calls && ended.calls < breaker.policy.half_open_calls);
    }
}

fn assert_recovers(breaker: &Breaker, mut now: u64) {
    breaker.force(None, at(now));
    for _ in 0..3 {
        now += 5000;
        for _ in 0..8 {
            if let Ok(permit) = breaker.try_acquire(at(now)) {
                breaker.record(permit, outcome("ok"), at(now));
            }
        }
    }
    assert_eq!(breaker.reading(at(now)).state, BreakerState::Closed, "it is well again");
}

#[test]
fn whatever_happens_it_admits_no_more_half_open_than_it_may_and_never_sticks() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..300 {
        let breaker = Breaker::new(&random_policy(&mut random));
        let (mut now, mut permits) = (0, Vec::<Permit>::new());
        for _ in 0..300 {
            now += random.u64(0..400);
            match random.u32(0..100) {
                0 => _ = breaker.force(Some(Forced::Open), at(now)),
                1 => _ = breaker.force(Some(Forced::Closed), at(now)),
                2..8 => _ = breaker.force(None, at(now)),
                8 => _ = breaker.reset(),
                9..55 => match breaker.try_acquire(at(now)) {
                    Ok(permit) => {
                        assert!(!matches!(permit.state, BreakerState::Open | BreakerState::ForcedOpen));
                        permits.push(permit);
                    }
                    Err(refused) => {
                        assert!(!matches!(refused.state, BreakerState::Closed | BreakerState::ForcedClosed));
                        assert!(refused.retry_after <= breaker.policy.open_for);
                    }
                },
                _ if permits.is_empty() => {}
                55..60 => breaker.release(permits.swap_remove(random.usize(..permits.len()))),
                kind => {
                    let permit = permits.swap_remove(random.usize(..permits.len()));
                    let turn = breaker.record(permit, outcome(if kind % 2 > 0 { "fail" } else { "ok" }), at(now));
                    assert!(turn.is_none() || permit.epoch + 1 == breaker.lock().epoch, "it ends its own epoch");
                }
            }
            assert_is_sound(&breaker, &permits);
        }
        for permit in permits.drain(..) {
            breaker.release(permit);
        }
        assert_recovers(&breaker, now);
    }
}

#[test]
fn cores_together_get_the_half_open_calls_and_open_it_once() {
    let policy = policy::Breaker { half_open_calls: 7, ..policy() };
    for _ in 0..50 {
        let breaker = Breaker::new(&policy);
        let (threads, failed) = (4, outcome("fail"));
        let turns = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for _ in 0..50 {
                        if let Ok(permit) = breaker.try_acquire(at(0)) {
                            turns.fetch_add(breaker.record(permit, failed, at(0)).is_some().into(), Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        let half_open = std::thread::scope(|scope| {
            let acquire = || (0..10).filter(|_| breaker.try_acquire(at(6000)).is_ok()).count();
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(acquire)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!((turns.into_inner(), half_open), (1, 7));
    }
}

#[test]
fn half_open_calls_that_do_not_end_are_given_up_and_others_are_made() {
    check(
        &policy(),
        "0 fail fail\n5000 a? b? c?\n6000 b:ok d?\n64999 e?\n65000 f? g? h?\n65001 a:fail f:ok g:ok",
        &expect![[r#"
            0 fail fail [Closed→Open] = Open 2f 0s of 2, 5s left
            5000 a? [Open→HalfOpen] b? c?!0ns = HalfOpen 0f 0s of 0
            6000 b:ok d?!0ns = HalfOpen 0f 0s of 1
            64999 e?!0ns = HalfOpen 0f 0s of 1
            65000 f? g? h?!0ns = HalfOpen 0f 0s of 0
            65001 a:fail f:ok g:ok [HalfOpen→Closed] = Closed 0f 0s of 0
        "#]],
    );
}
