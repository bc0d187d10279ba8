//! What came of lanes in sequences of happenings that are easily overlooked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::subscription::progress::Record;

fn lanes(on_dead_letter: OnDeadLetter) -> Lanes {
    let rules = Rules { concurrency: 4, max_deliver: 3, backoff: Vec::new(), on_dead_letter, batch: None };
    Lanes::new(rules, Window::new(&Record::after(0)), 1)
}

/// Does what is asked for, and all is at once on disk.
fn act(lanes: &mut Lanes, now: Instant) {
    loop {
        let actions = lanes.take_actions();
        lanes.was_recorded(lanes.changes(), now);
        if actions.is_empty() {
            return;
        }
        for action in actions {
            match action {
                Action::Park(ticket) => lanes.was_parked(ticket, now),
                Action::Forget(ticket) => lanes.was_forgotten(ticket, now),
                Action::Bury(ticket) => lanes.was_buried(ticket, 7, now),
            }
        }
    }
}

fn sent(lanes: &mut Lanes, now: Instant) -> Vec<u64> {
    let request = lanes.next(now).into_iter().flat_map(|request| request.tickets);
    request.map(|ticket| ticket.sequence).collect()
}

#[test]
fn what_is_being_redriven_is_not_sent_before() {
    let (mut lanes, key, now) = (lanes(OnDeadLetter::Continue), Arc::from("k"), Instant::now());
    lanes.arrive(1, Some(&key), now);
    let first = lanes.next(now).unwrap();
    lanes.finished(&first.tickets, Outcome::Failed { retry_after: None }, now);
    act(&mut lanes, now);
    lanes.detain(1, now);
    assert_eq!(sent(&mut lanes, now), [0; 0]);
    assert!(!lanes.is_resting(1) && !lanes.is_quiet(), "somebody else has to wait");
    lanes.let_go(1, now);
    assert_eq!(sent(&mut lanes, now), [1]);
}

#[test]
fn a_key_that_was_reserved_goes_on_when_it_is_released() {
    let (mut lanes, key, now) = (lanes(OnDeadLetter::Continue), Arc::from("k"), Instant::now());
    lanes.reserve(&key, 1, now);
    lanes.arrive(2, Some(&key), now);
    assert_eq!(sent(&mut lanes, now), [0; 0]);
    lanes.release(&key, now);
    assert_eq!(sent(&mut lanes, now), [2]);
}

#[test]
fn those_behind_a_key_that_comes_to_be_held_go_aside_all_of_them() {
    let (mut lanes, key, now) = (lanes(OnDeadLetter::HoldKey), Arc::from("k"), Instant::now());
    (1..=3).for_each(|sequence| {
        lanes.arrive(sequence, Some(&key), now);
    });
    let first = lanes.next(now).unwrap();
    lanes.finished(&first.tickets, Outcome::Refused, now);
    act(&mut lanes, now);
    assert_eq!((lanes.parked(), lanes.window.open()), ((3, 1, 1), 0));
    assert!(!lanes.is_burying(1) && lanes.held_by(1) == Some(7));
}

#[test]
fn a_cut_keeps_the_order_of_a_key_that_is_partly_aside() {
    let (mut lanes, key, mut now) = (lanes(OnDeadLetter::Continue), Arc::from("k"), Instant::now());
    lanes.arrive(1, Some(&key), now);
    let first = lanes.next(now).unwrap();
    now += Duration::from_secs(2);
    lanes.tick(now);
    (2..=30).for_each(|sequence| {
        lanes.arrive(sequence, Some(&key), now);
    });
    act(&mut lanes, now);
    lanes.finished(&first.tickets, Outcome::Unreachable, now);
    assert!(lanes.parked().0 > 0, "they have made room behind what was slow");
    assert_eq!(lanes.last_known(), 30);
    lanes.hold();
    lanes.gather(now);
    act(&mut lanes, now);
    assert_eq!((lanes.parked().0, lanes.is_quiet()), (30, true));
    lanes.cut(25, now);
    act(&mut lanes, now);
    now += Duration::from_secs(20);
    assert_eq!(sent(&mut lanes, now), [1]);
}

#[test]
fn what_waits_for_the_cursor_says_so() {
    let (mut lanes, key, now) = (lanes(OnDeadLetter::Continue), Arc::from("k"), Instant::now());
    lanes.restore(5, Some(&key), Parked::found(now, 1), now);
    assert!(lanes.is_gated());
    assert_eq!(sent(&mut lanes, now), [0; 0]);
    lanes.pass(5, now);
    assert!(!lanes.is_gated());
    assert_eq!(sent(&mut lanes, now), [5]);
}

#[test]
fn a_request_that_hangs_does_not_keep_from_asking_whether_anybody_is_there() {
    let mut lanes = lanes(OnDeadLetter::Continue);
    let mut now = Instant::now();
    (1..=4).for_each(|sequence| {
        lanes.arrive(sequence, None, now);
    });
    let _hangs = lanes.next(now).unwrap();
    let others = [lanes.next(now).unwrap(), lanes.next(now).unwrap()];
    lanes.finished(&others[0].tickets, Outcome::Unreachable, now);
    now = lanes.wake_at().unwrap().max(now + Duration::from_millis(100));
    let probe = lanes.next(now).unwrap();
    assert_eq!(lanes.next(now), None, "one at a time");
    lanes.finished(&others[1].tickets, Outcome::Unreachable, now);
    assert_eq!(lanes.next(now + Duration::from_secs(60)), None, "the probe is still under way");
    lanes.finished(&probe.tickets, Outcome::Done, now);
    assert!(lanes.next(now).is_some() && !lanes.is_paused());
}

#[test]
fn nothing_of_a_key_begins_while_it_is_found_out_what_was_delivered_of_it() {
    let mut lanes = lanes(OnDeadLetter::Continue);
    let (now, key) = (Instant::now(), Arc::from("k"));
    lanes.pass(1, now);
    lanes.arrive(2, Some(&key), now);
    lanes.arrive(3, Some(&key), now);
    let first = lanes.next(now).unwrap();
    assert!(lanes.reserve(&key, 1, now), "a later one is in flight");
    lanes.finished(&first.tickets, Outcome::Done, now);
    assert_eq!(lanes.next(now), None);
    assert!(!lanes.reserve(&key, 1, now));
    lanes.redrive(1, Some(&key), now);
    lanes.release(&key, now);
    assert_eq!(lanes.next(now), None);
    lanes.release(&key, now);
    assert_eq!(lanes.next(now).unwrap().tickets[0].sequence, 1);
}
