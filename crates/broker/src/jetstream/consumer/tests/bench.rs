//! That the hot path does not depend on how much is pending: a bound so wide that only a scan breaks it.

use std::time::{Duration, Instant};

use super::super::Start;
use super::world::World;

#[test]
fn a_hundred_thousand_pending_messages_cost_no_scans() {
    const COUNT: u64 = 100_000;
    let mut world = World::new(r#"{"max_ack_pending": -1}"#, Start::At(1));
    let now = world.now;
    let mut random = fastrand::Rng::with_seed(7);
    let begin = Instant::now();
    for sequence in 1..=COUNT {
        let due = world.consumer.schedule.arm(sequence, now + 30);
        world.consumer.state.deliver(sequence, Some(due));
    }
    let mut order: Vec<_> = (1..=COUNT).collect();
    random.shuffle(&mut order);
    for sequence in order {
        let subject = format!("$JS.ACK.S.c.1.{sequence}.{sequence}.0.0");
        let subject = super::super::ack::Subject::parse(subject.as_bytes()).unwrap();
        world.consumer.ack(&subject, b"", now);
        world.consumer.effects.settled.clear();
    }
    let took = begin.elapsed();
    println!("{:?} for a delivery and its acknowledgement", took / u32::try_from(COUNT).unwrap());
    assert_eq!(world.info(), format!("{COUNT}/{COUNT} floor={COUNT}/{COUNT}"));
    assert!(took < Duration::from_secs(10), "{took:?}");
}
