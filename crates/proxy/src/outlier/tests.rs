//! Scenarios of an endpoint that fails, and of its average.

use super::*;

fn policy() -> Ejection {
    Ejection {
        consecutive_failures: 3,
        failure_rate: None,
        window: Duration::from_secs(10),
        minimum_calls: 4,
        time: Duration::from_secs(10),
        time_max: Duration::from_secs(60),
        share_max: Share::of(0.5),
    }
}

fn at(ms: u64) -> Moment {
    Moment::of_micros(ms * 1000)
}

/// Each step: its second, outcomes (`.` well, `x` failed, `n` failed but may not be ejected), and for how many seconds it
/// is ejected at the end of each.
fn check(policy: &Ejection, steps: &[(u64, &str, &[u64])]) {
    let health = Health::default();
    for (second, outcomes, expected) in steps {
        let now = at(second * 1000);
        let mut ejected = Vec::new();
        for outcome in outcomes.chars() {
            let verdict = health.record(policy, outcome != '.', now, || outcome != 'n');
            if let Verdict::Ejected(time) = verdict {
                assert_eq!((health.is_ejected(now), health.ejected_for(now)), (true, time));
                assert!(
                    !health.is_ejected(now.after(time))
                        && health.is_ejected(Moment::of_micros(now.after(time).micros() - 1))
                );
                ejected.push(time.as_secs());
            }
        }
        assert_eq!(ejected, *expected, "at {second}: {outcomes}");
    }
}

#[test]
fn failures_in_a_row_eject_for_a_time_that_doubles_up_to_its_most() {
    check(
        &policy(),
        &[
            (0, "xx.xx.", &[]),
            (1, "xxx", &[10]),
            (10, "xxxxxx.", &[]),
            (11, "xx", &[]),
            (12, "x", &[20]),
            (32, "xxx", &[40]),
            (72, "xxx", &[60]),
            (132, "xxx", &[60]),
            (192, "xx.xx.xxx", &[60]),
        ],
    );
}

#[test]
fn each_full_longest_time_of_health_takes_one_doubling_back() {
    let twice: &[(u64, &str, &[u64])] = &[(0, "xxx", &[10]), (10, "xxx", &[20]), (30, "xxx", &[40])];
    for (second, expected) in [(70, 60), (129, 60), (130, 40), (190, 20), (250, 10), (100_000, 10)] {
        check(&policy(), &[twice, &[(second, "xxx", &[expected])]].concat());
    }
    check(&policy(), &[twice, &[(70, "xxx", &[60]), (190, "xxx", &[40]), (230, "xxx", &[60])]].concat());
}

#[test]
fn a_rate_is_judged_at_failures_once_there_are_enough_calls_in_the_window() {
    let policy = Ejection { consecutive_failures: 0, failure_rate: Some(Share::of(0.5)), ..policy() };
    check(
        &policy,
        &[
            (0, "xxx", &[]),
            (10, "...x", &[]),
            (11, "..xx", &[]),
            (12, "xx", &[10]),
            (20, "xxxx", &[]),
            (22, ".x.", &[]),
            (23, "x", &[20]),
            (43, "xxx", &[]),
            (44, "x", &[40]),
        ],
    );
    let short = Ejection { time: Duration::from_secs(1), ..policy.clone() };
    check(&short, &[(0, "xxxx", &[1]), (1, "xxx", &[]), (2, "x", &[2])]);
    check(&Ejection { failure_rate: None, ..policy.clone() }, &[(0, "xxxxxxxxxxxx", &[])]);
    check(&Ejection { consecutive_failures: 2, ..policy }, &[(0, "xx", &[10])]);
}

#[test]
fn who_may_not_be_ejected_is_with_the_next_failure_and_its_time_does_not_grow_by_that() {
    check(&policy(), &[(0, "nnnnnn", &[]), (1, "x", &[10]), (12, "xx.nnn.xx", &[]), (13, "x", &[20])]);
    let health = Health::default();
    for _ in 0..10 {
        health.record(&policy(), false, at(1), || panic!("nobody wants to know"));
    }
}

#[test]
fn times_of_zero_or_upside_down_break_nothing() {
    let upside = Ejection { time: Duration::from_secs(9), time_max: Duration::from_secs(3), ..policy() };
    check(&upside, &[(0, "xxx", &[3]), (3, "xxx", &[3])]);
    let none = Ejection { time: Duration::ZERO, time_max: Duration::ZERO, window: Duration::ZERO, ..policy() };
    let health = Health::default();
    for _ in 0..9 {
        health.record(&none, true, at(1), || true);
    }
    assert!(!health.is_ejected(at(1)));
    let long = Ejection { time: Duration::MAX, time_max: Duration::MAX, ..policy() };
    let ejected = (0..3).map(|_| health.record(&long, true, at(1), || true)).last();
    assert_eq!(ejected, Some(Verdict::Ejected(Duration::MAX)));
}

#[test]
fn a_share_of_the_ready_ones_is_ejected_and_always_one_of_two() {
    for (share, ready, most) in [
        (0.0, 0, 0),
        (0.0, 1, 0),
        (1.0, 1, 0),
        (0.0, 2, 1),
        (0.1, 2, 1),
        (0.1, 19, 1),
        (0.1, 20, 2),
        (0.3, 10, 3),
        (0.5, 2, 1),
        (0.5, 3, 1),
        (0.5, 4, 2),
        (0.7, 10, 7),
        (1.0, 2, 2),
        (1.0, 5, 5),
    ] {
        let policy = Ejection { share_max: Share::of(share), ..policy() };
        let count = (0..100).take_while(|ejected| may_eject(&policy, ready, *ejected)).count();
        assert_eq!(count, most, "{share} of {ready}");
    }
}

#[test]
fn cores_that_decide_at_once_eject_no_more_than_the_share() {
    for _ in 0..50 {
        let endpoints: [Health; 8] = Default::default();
        let ejected = || endpoints.iter().filter(|health| health.is_ejected(at(1))).count();
        std::thread::scope(|scope| {
            for health in &endpoints {
                scope.spawn(|| {
                    for _ in 0..5 {
                        health.record(&policy(), true, at(1), || {
                            let ejected = ejected();
                            std::thread::yield_now();
                            may_eject(&policy(), 8, ejected)
                        });
                    }
                });
            }
        });
        assert_eq!(ejected(), 4);
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn an_average_jumps_to_a_peak_and_comes_down_by_and_by() {
    let ewma = Ewma::default();
    assert_eq!((ewma.cost(0, at(0)), ewma.cost(2, at(0))), (0, 3 * UNKNOWN_MICROS));
    ewma.observe(ms(10), at(1));
    assert_eq!((ewma.cost(0, at(1)), ewma.cost(4, at(1))), (10_000, 50_000));
    ewma.observe(ms(500), at(1));
    assert_eq!(ewma.cost(0, at(1)), 500_000, "at once");
    ewma.observe(ms(10), at(1));
    assert_eq!(ewma.cost(0, at(1)), 500_000, "in no time nothing is forgotten");
    let near = |cost: u64, expected: f64| assert!((cost as f64 / expected - 1.0).abs() < 0.01, "{cost} {expected}");
    near(ewma.cost(0, at(10_001)), 500_000.0 / std::f64::consts::E);
    near(ewma.cost(1, at(20_001)), 1_000_000.0 * (-2.0_f64).exp());
    ewma.observe(ms(10), at(10_001));
    near(ewma.cost(0, at(10_001)), 10_000.0 + 490_000.0 / std::f64::consts::E);
    assert_eq!(ewma.cost(0, at(10_000_000)), 1, "known for ever, and cheap");
}

#[test]
fn an_average_does_not_depend_on_how_often_it_is_told_the_same() {
    // Microseconds from one answer to the next: more than a tick, less, and far less.
    for step in [5000, 70, 10, 1] {
        let ewma = Ewma::default();
        ewma.observe(ms(100), at(0));
        for moment in (0..2_000_000).step_by(step) {
            ewma.observe(ms(1), Moment::of_micros(moment));
        }
        let (cost, expected) = (ewma.cost(0, at(2000)) as f64, 1000.0 + 99_000.0 * (-0.2_f64).exp());
        assert!((cost / expected - 1.0).abs() < 0.01, "every {step} µs: {cost} {expected}");
    }
}

#[test]
fn an_average_takes_no_harm_from_clocks_that_lag_or_come_round() {
    let ewma = Ewma::default();
    ewma.observe(ms(100), at(5000));
    ewma.observe(ms(1), at(4990));
    ewma.observe(ms(200), at(4990));
    assert_eq!((ewma.cost(0, at(4990)), ewma.cost(0, at(5000))), (200_000, 200_000));
    let round = (1_u64 << 32) * TICK_MICROS / 1000;
    for idle in [round / 2, round / 2 + 1, round - 2000] {
        assert_eq!(ewma.cost(0, at(5000 + idle)), 1, "idle for {idle} ms");
    }
    ewma.observe(ms(100), at(5000 + round * 3 / 4));
    assert_eq!(ewma.cost(0, at(5000 + round * 3 / 4)), 100_000);
    ewma.observe(Duration::MAX, at(6000));
    ewma.observe(Duration::ZERO, at(6000));
    assert!(ewma.cost(u32::MAX, at(6000)) > 1 << 40);
}
