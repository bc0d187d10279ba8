//! Records: what they say is read back, and nothing else is taken.

use super::super::record::Malformed;
use super::super::{Start, State};
use super::world::World;

/// A consumer in whose state there is some of everything.
fn rich() -> World {
    let start = Start::Listed { sequences: (1..40).step_by(2).chain([50_000]).collect(), resume: 60 };
    let mut world = World::new(r#"{"max_deliver": 2}"#, start);
    world.publish(100, 1);
    world.pull("a", "15");
    for sequence in [1, 3, 9] {
        world.ack(sequence, "");
    }
    world.ack(11, "-NAK 60s");
    world.ack(13, "-NAK");
    world.ack(15, "-NAK");
    world.pull("a", "2");
    world.ack(15, "-NAK");
    assert_eq!((world.replayed.redelivered, world.replayed.exhausted.len()), (1, 1));
    world
}

fn replay(records: &[Vec<u8>]) -> Result<State, Malformed> {
    let mut state = State::default();
    records.iter().try_for_each(|record| state.replay(record))?;
    Ok(state)
}

#[test]
fn a_record_that_is_not_exact_is_refused() {
    let world = rich();
    let [record] = world.consumer.snapshot().try_into().unwrap();
    assert_eq!(replay(std::slice::from_ref(&record)).unwrap(), world.replayed);
    for len in 0..record.len() {
        // Cut between two operations it is a shorter record; that is the journal's to see.
        let short = replay(&[record[..len].to_vec()]);
        assert!(short.is_err() || short.is_ok_and(|state| state != world.replayed), "{len}");
    }
    for (at, bit) in (0..record.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut flipped = record.clone();
        if at == 1 {
            // It begins with nothing anyway.
            continue;
        }
        flipped[at] ^= 1 << bit;
        assert!(replay(&[flipped]).map_or(true, |state| state != world.replayed), "byte {at}, bit {bit}");
    }
    let cases: [(&[u8], &str); 14] = [
        (&[], "it ends too early"),
        (&[1], "it ends too early"),
        (&[1, 2, 0, 0, 0, 0], "its kind is not known"),
        (&[1, 1, 0, 0, 1, 0], "its floor lies below zero"),
        (&[1, 1, 0x80, 0, 0, 0, 0], "a number is cut, too large or not in its shortest form"),
        (&[1, 1, 0x80], "a number is cut, too large or not in its shortest form"),
        (&[1, 1, 0, 0, 0, 0, 9], "an operation is not known"),
        (&[1, 1, 1, 1, 0, 0, 1, 0, 1], "a sequence does not ascend, or lies beyond the last"),
        (&[1, 1, 1, 1, 0, 0, 1, 2, 1], "a sequence does not ascend, or lies beyond the last"),
        (&[1, 1, 1, 1, 0, 0, 1, 1, 0], "a range is empty, or lies beyond the last"),
        (&[1, 1, 1, 1, 0, 0, 3, 1, 1, 2, 1], "something was delivered never, or beyond the last delivery"),
        (&[1, 1, 1, 1, 0, 0, 3, 1, 1, 1, 0], "something was delivered never, or beyond the last delivery"),
        (&[1, 1, 1, 1, 0, 0, 4, 1, 1], "it delays what is not pending"),
        (&[1, 1, 0, 0, 0, 0, 5, 1, 0xff, 0xff, 0xff, 0x7f], "it holds too much"),
    ];
    for (record, expected) in cases {
        assert_eq!(replay(&[record.to_vec()]), Err(Malformed::Content(expected)), "{record:?}");
    }
    assert_eq!(replay(&[vec![2, 1, 0, 0, 0, 0]]), Err(Malformed::Version(2)));
    let backwards = [vec![1, 1, 5, 5, 0, 0], vec![1, 0, 4, 5, 0, 0]];
    assert_eq!(replay(&backwards), Err(Malformed::Content("it goes backwards")));
}

#[test]
fn garbage_is_read_without_harm() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let snapshot = rich().consumer.snapshot().concat();
    for _ in 0..20_000 {
        let mut record = snapshot.clone();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(2..record.len());
            record[at] = random.u8(..);
        }
        record.truncate(random.usize(2..=record.len()));
        let _ = replay(&[record]);
    }
}

#[test]
fn a_large_state_is_many_records_and_a_run_is_a_small_one() {
    let mut world = World::new(r#"{"max_ack_pending": -1, "max_deliver": 3}"#, Start::At(1));
    world.stream.add(100_000, 1, world.now);
    world.pull("a", "100000");
    let snapshot = world.consumer.snapshot();
    assert!(snapshot.len() > 1 && snapshot.concat().len() < 400, "{}", snapshot.concat().len());
    // Half of them acknowledged without looking after each.
    for sequence in (2..=100_000_u64).step_by(2) {
        let subject = world.replies[&sequence].clone();
        let subject = super::super::ack::Subject::parse(&subject).unwrap();
        world.consumer.ack(&subject, b"", world.now);
    }
    let records = world.consumer.changes();
    assert!(records.iter().all(|record| record.len() < 1 << 17));
    let mut state = replay(&snapshot).unwrap();
    records.iter().for_each(|record| state.replay(record).unwrap());
    assert_eq!(state, world.consumer.state);
    assert_eq!(replay(&world.consumer.snapshot()).unwrap(), state);
}

#[test]
fn changes_that_nobody_takes_are_bounded() {
    let mut state = State::new(Start::At(1));
    state.changes();
    for sequence in 1..200_000 {
        state.deliver(sequence, Some(super::super::schedule::Due::Unknown));
        state.settle(sequence);
    }
    let records = state.changes();
    assert!(records.len() == 1 && records[0].len() < 32);
    assert_eq!(replay(&records).unwrap(), state);
}

#[test]
fn a_consumer_ahead_of_its_stream_steps_back() {
    let mut world = World::new("{}", Start::At(1));
    world.publish(9, 1);
    world.pull("a", "9");
    world.ack(2, "");
    world.ack(9, "-NAK");
    world.pull("a", "1");
    world.stream.live.split_off(&6);
    world.stream.last = 5;
    world.restart();
    assert_eq!(world.info(), "10/5 floor=0/0 ack=4");
    world.seen();
    world.publish(1, 1);
    world.pull("a", "1");
    assert_eq!(world.seen(), "a<6#11.0");
}

#[test]
fn a_start_that_is_still_to_come_is_kept() {
    let mut world = World::new(r#"{"deliver_policy": "by_start_sequence", "opt_start_seq": 1000}"#, Start::At(1000));
    world.publish(10, 1);
    world.restart();
    world.publish(989, 1);
    world.pull("a", "3");
    assert_eq!(world.seen(), "");
    world.publish(2, 1);
    assert_eq!(world.seen(), "a<1000#1.1 a<1001#2.0");
    // A power cut takes more than it was delivered.
    world.stream.live.retain(|sequence, _| *sequence <= 990);
    world.stream.last = 990;
    world.restart();
    world.pull("b", "1");
    world.publish(10, 1);
    assert_eq!(world.seen(), "b<1000#3.0");
}

#[test]
fn sequences_that_are_given_again_are_delivered_again_whatever_happens_first() {
    let mut world = World::new("{}", Start::At(1));
    world.publish(10, 1);
    world.pull("a", "10");
    (1..=10).for_each(|sequence| _ = world.ack(sequence, ""));
    world.stream.live.retain(|sequence, _| *sequence <= 5);
    world.stream.last = 5;
    // What it comes to is recorded at once: nothing else has to happen before the next crash.
    world.restart();
    world.stream.add(5, 1, world.now);
    world.restart();
    world.out.clear();
    world.pull("a", "10");
    assert_eq!(world.seen(), "a<6#11.4 a<7#12.3 a<8#13.2 a<9#14.1 a<10#15.0");
}
