//! Consumers that push: who listens, heartbeats, flow control, pace.

use bytes::Bytes;

use super::super::{Interest, Start};
use super::world::{SECOND, World};

#[test]
fn messages_are_pushed_to_who_listens() {
    let mut world = World::new(r#"{"deliver_subject": "d", "inactive_threshold": 5000000000}"#, Start::At(1));
    world.publish(2, 1);
    assert_eq!(world.seen(), "");
    world.interest(Interest::Present);
    assert_eq!(world.seen(), "d<1#1.1 d<2#2.0");
    world.wait(20 * SECOND);
    assert!(!world.is_inactive());
    world.ack(1, "");
    world.deaf.borrow_mut().insert("d".into());
    world.wait(10 * SECOND);
    assert_eq!(world.seen(), "ok(1)");
    world.publish(1, 1);
    assert_eq!((world.seen().as_str(), world.info().as_str()), ("", "2/2 floor=1/1 ack=1 new=1"));
    world.wait(4 * SECOND);
    assert!(!world.is_inactive());
    world.deaf.borrow_mut().clear();
    world.interest(Interest::Present);
    assert_eq!(world.seen(), "d<2#3x2.1 d<3#4.0");
    world.deaf.borrow_mut().insert("d".into());
    world.interest(Interest::Absent);
    world.wait(5 * SECOND);
    assert!(world.is_inactive());
}

#[test]
fn heartbeats_fill_the_silence() {
    let json = r#"{"deliver_subject": "d", "idle_heartbeat": 1000000000, "ack_policy": "none"}"#;
    let mut world = World::new(json, Start::At(1));
    world.wait(5 * SECOND);
    assert_eq!(world.seen(), "");
    world.interest(Interest::Present);
    world.wait(SECOND);
    assert_eq!(world.seen(), "d<[100 Idle Heartbeat|Nats-Last-Consumer: 0|Nats-Last-Stream: 0]");
    world.wait(SECOND / 2);
    world.publish(1, 1);
    world.wait(SECOND * 9 / 10);
    assert_eq!(world.seen(), "d<1#1.0 ok(1)");
    world.wait(SECOND / 10);
    assert_eq!(world.seen(), "d<[100 Idle Heartbeat|Nats-Last-Consumer: 1|Nats-Last-Stream: 1]");
}

#[test]
fn a_listener_that_does_not_answer_stops_the_flow() {
    let json = r#"{"deliver_subject": "d", "idle_heartbeat": 1000000000, "flow_control": true, "ack_policy": "none"}"#;
    let mut world = World::new(json, Start::At(1));
    world.interest(Interest::Present);
    let mib = 1 << 20;
    world.publish(1, mib);
    assert_eq!(world.seen(), "d<1#1.0 ok(1) d<[100 FlowControl Request?$JS.FC.S.c.1]");
    world.publish(9, mib);
    assert_eq!(world.seen(), "d<2#2.8 ok(2)");
    world.wait(SECOND);
    let stalled =
        "d<[100 Idle Heartbeat|Nats-Last-Consumer: 2|Nats-Last-Stream: 2|Nats-Consumer-Stalled: $JS.FC.S.c.1]";
    assert_eq!(world.seen(), stalled);
    world.consumer.flow_control(b"$JS.FC.S.c.9");
    world.serve();
    assert_eq!(world.seen(), "");
    world.consumer.flow_control(b"$JS.FC.S.c.1");
    world.serve();
    // The window is twice as large now, and half of it is asked about.
    let seen = world.seen();
    assert!(seen.contains("d<5#5") && !seen.contains("d<7#7") && seen.contains("?$JS.FC.S.c.2]"), "{seen}");
    world.interest(Interest::Absent);
    world.interest(Interest::Present);
    assert!(world.seen().contains("#"), "a new listener begins anew");
}

#[test]
fn a_replay_keeps_the_gaps_of_the_original() {
    for json in [r#"{"deliver_subject": "d", "replay_policy": "original"}"#, r#"{"replay_policy": "original"}"#] {
        let mut world = World::new(json, Start::At(1));
        for _ in 0..3 {
            world.publish(1, 1);
            world.now += 2 * SECOND;
        }
        world.interest(Interest::Present);
        world.pull("d", "9");
        world.out.retain(|out| matches!(out, super::world::Out::Message { .. }));
        assert_eq!(world.seen(), "d<1#1.2");
        world.wait(SECOND * 19 / 10);
        assert_eq!(world.seen(), "");
        world.wait(SECOND / 10);
        assert_eq!(world.seen(), "d<2#2.1");
        world.wait(2 * SECOND);
        assert_eq!(world.seen(), "d<3#3.0");
        world.now += 100 * SECOND;
        world.ack(3, "");
        world.publish(1, 1);
        world.seen();
        world.publish(1, 1);
        assert_eq!(world.seen(), "d<5#".to_owned() + world.info().split('/').next().unwrap() + ".0");
    }
}

#[test]
fn no_more_bytes_go_than_the_rate_says() {
    let json = r#"{"deliver_subject": "d", "rate_limit_bps": 8388608, "ack_policy": "none"}"#;
    let mut world = World::new(json, Start::At(1));
    world.interest(Interest::Present);
    world.publish(100, 1 << 18);
    let count = |world: &mut World| world.seen().split(' ').filter(|word| word.starts_with("d<")).count();
    assert!((4..=5).contains(&count(&mut world)), "a burst of one MiB");
    world.wait(10 * SECOND);
    let after = count(&mut world);
    assert!((38..=41).contains(&after), "one MiB a second: {after}");
}

#[test]
fn another_deliver_subject_gets_what_is_pending() {
    let mut world = World::new(r#"{"deliver_subject": "d"}"#, Start::At(1));
    world.publish(2, 1);
    world.interest(Interest::Present);
    world.seen();
    let config = super::world::config(r#"{"deliver_subject": "e"}"#);
    world.consumer.update(super::super::Config::new(&config, "S", "c"), world.now);
    world.serve();
    world.interest(Interest::Present);
    assert_eq!(world.seen(), "e<1#3x2.0 e<2#4x2.0");
    assert!(world.out.is_empty() && world.deaf.borrow().get(&Bytes::from("e")).is_none());
}
