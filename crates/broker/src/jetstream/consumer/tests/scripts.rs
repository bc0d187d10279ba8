//! What pulling clients see, as tables: what is done, and what comes out. A message is `to<sequence#consumer sequence`,
//! `x` deliveries from the second on, `.` how many are still new; a status stands in brackets, `|` for a line's end.

use super::super::config::{PENDING_MAX, WAIT_MIN, WAITING_MAX};
use super::super::{Closing, Start};
use super::world::{SECOND, World};

/// Each step is a command and what it brings.
fn check(name: &str, json: &str, steps: &[(&str, &str)]) {
    check_from(name, json, Start::At(1), steps);
}

fn check_from(name: &str, json: &str, start: Start, steps: &[(&str, &str)]) {
    let mut world = World::new(json, start);
    for (at, (command, expected)) in steps.iter().enumerate() {
        let answer = perform(&mut world, command);
        let seen = world.seen();
        let seen = [answer.as_str(), seen.as_str()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
        assert_eq!(seen.join(" "), *expected, "{name}, step {at}: {command}");
    }
}

fn perform(world: &mut World, command: &str) -> String {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    let (first, more) = rest.split_once(' ').unwrap_or((rest, ""));
    let number = first.parse::<u64>();
    match verb {
        "pub" => world.publish(number.unwrap(), more.parse().unwrap_or(10)),
        "pull" => world.pull(first, more),
        "ack" => return world.ack(number.unwrap(), more).into(),
        "wait" => world.wait((rest.parse::<f64>().unwrap() * 1e9) as i64),
        "rm" => world.remove(number.unwrap()),
        "purge" => world.purge(number.unwrap()),
        "deaf" => _ = world.deaf.borrow_mut().insert(first.to_owned().into()),
        "hears" => _ = world.deaf.borrow_mut().remove(first.as_bytes()),
        "pause" => {
            let until = world.now + number.unwrap().cast_signed() * SECOND;
            world.consumer.pause(Some(until), world.now);
        }
        "restart" => world.restart(),
        "close" if first == "deleted" => world.consumer.close(Closing::Deleted),
        "close" => world.consumer.close(Closing::Shutdown),
        "inactive" => return world.is_inactive().to_string(),
        "needs" => return world.consumer.needs(number.unwrap()).to_string(),
        "info" => return world.info(),
        "config" => {
            let config = super::world::config(rest);
            world.consumer.update(super::super::Config::new(&config, "S", "c"), world.now);
            world.config = config;
            world.serve();
        }
        _ => panic!("unknown command {command}"),
    }
    if matches!(verb, "close" | "deaf" | "hears" | "pause" | "restart") {
        world.serve();
    }
    String::new()
}

#[test]
fn requests_are_served_in_turn() {
    check(
        "turns",
        "{}",
        &[
            ("pull a 3", ""),
            ("pull b 1", ""),
            ("pull c 2", ""),
            ("info", "0/0 floor=0/0 waiting=3"),
            ("pub 8", "a<1#1.7 b<2#2.6 c<3#3.5 a<4#4.4 c<5#5.3 a<6#6.2"),
            ("info", "6/6 floor=0/0 ack=6 new=2"),
            ("pull a", "a<7#7.1"),
            ("pull a {}", "a<8#8.0"),
            ("pull a nonsense", ""),
            ("pub 2", "a<9#9.1"),
        ],
    );
}

#[test]
fn a_request_ends_as_in_nats() {
    check(
        "expires",
        "{}",
        &[
            (r#"pull a {"expires": 1000000000, "batch": 2}"#, ""),
            ("pub 1", "a<1#1.0"),
            ("wait 1", "a<[408 Request Timeout|1|0]"),
            (r#"pull a {"expires": 1000000000, "batch": 2, "max_bytes": 500}"#, ""),
            ("wait 1", "a<[408 Request Timeout|2|500]"),
            ("info", "1/1 floor=0/0 ack=1"),
        ],
    );
    check(
        "no wait",
        "{}",
        &[
            (r#"pull a {"no_wait": true, "batch": 5}"#, "a<[404 No Messages]"),
            ("pub 2", ""),
            (r#"pull a {"no_wait": true, "batch": 5}"#, "a<1#1.1 a<2#2.0 a<[404 No Messages]"),
            (r#"pull a {"no_wait": true, "batch": 5, "expires": 1000000000}"#, ""),
            ("pub 1", "a<3#3.0 a<[404 No Messages]"),
            (r#"pull a {"no_wait": true, "batch": 5, "expires": 1000000000}"#, ""),
            ("wait 1", "a<[408 Request Timeout|5|0]"),
        ],
    );
    check(
        "no wait behind others",
        r#"{"max_ack_pending": 1}"#,
        &[
            ("pub 2", ""),
            ("pull a 5", "a<1#1.1"),
            (r#"pull b {"no_wait": true}"#, "b<[408 Requests Pending]"),
            ("ack 1", "+ ok(1) a<2#2.0"),
        ],
    );
    check(
        "gone",
        "{}",
        &[
            ("pull a 5", ""),
            ("pull b 5", ""),
            ("close deleted", "a<[409 Consumer Deleted] b<[409 Consumer Deleted]"),
            ("pull a 5", ""),
            ("close shutdown", "a<[409 Server Shutdown|5|0]"),
            ("info", "0/0 floor=0/0"),
        ],
    );
}

#[test]
fn bytes_are_counted_as_in_nats() {
    // Subject 1, reply `$JS.ACK.S.c.` and 5 numbers with 4 dots: 12 + 4 + 19 + 4, content 100.
    let size = 1 + 12 + 4 + 19 + 4 + 100;
    assert_eq!(size, 140);
    check(
        "max bytes",
        "{}",
        &[
            (r#"pull a {"batch": 5, "max_bytes": 280}"#, ""),
            ("pub 3 100", "a<1#1.2 a<2#2.1"),
            (r#"pull a {"batch": 5, "max_bytes": 139}"#, "a<[409 Message Size Exceeds MaxBytes|5|139]"),
            (r#"pull a {"batch": 1, "max_bytes": 140}"#, "a<3#3.0"),
            (r#"pull a {"batch": 1, "max_bytes": 200}"#, ""),
            ("pull b 1", ""),
            ("pub 1 100", "a<4#4.0 a<[409 Batch Completed|0|60]"),
            ("pub 1 100", "b<5#5.0"),
        ],
    );
    check(
        "too large for one, not for another",
        "{}",
        &[
            (r#"pull a {"batch": 2, "max_bytes": 10}"#, ""),
            ("pull b 1", ""),
            ("pub 1 100", "b<1#1.0 a<[409 Message Size Exceeds MaxBytes|2|10]"),
        ],
    );
}

#[test]
fn requests_beyond_the_bounds_are_refused() {
    check(
        "bounds",
        r#"{"max_waiting": 2, "max_batch": 10, "max_expires": 90000000000, "max_bytes": 1000}"#,
        &[
            ("pull a 11", "a<[409 Exceeded MaxRequestBatch of 10]"),
            (r#"pull a {"batch": 1, "expires": 91000000000}"#, "a<[409 Exceeded MaxRequestExpires of 1m30s]"),
            (r#"pull a {"batch": 1, "max_bytes": 1001}"#, "a<[409 Exceeded MaxRequestMaxBytes of 1000]"),
            (
                r#"pull a {"batch": 1, "expires": 10, "idle_heartbeat": 6}"#,
                "a<[400 Bad Request - heartbeat value too large]",
            ),
            ("pull a 1", ""),
            ("pull b 1", ""),
            ("pull c 1", "c<[409 Exceeded MaxWaiting]"),
            (r#"pull c {"batch": 1, "expires": 60000000000, "idle_heartbeat": 1000000000}"#, ""),
            ("info", "0/0 floor=0/0 waiting=2"),
            ("deaf a", ""),
            ("pull c 1", "c<[409 Exceeded MaxWaiting]"),
            ("wait 1", ""),
            ("pull c 1", ""),
            ("pub 3", "b<1#1.2 c<2#2.1"),
        ],
    );
    check("push", r#"{"deliver_subject": "d"}"#, &[("pull a 1", "a<[409 Consumer is push based]")]);
}

#[test]
fn nobody_gets_what_nobody_hears() {
    check(
        "deaf",
        "{}",
        &[
            ("pull a 2", ""),
            ("pull b 2", ""),
            ("deaf a", ""),
            ("pub 1", "b<1#1.0"),
            ("deaf b", ""),
            ("pub 1", ""),
            ("info", "1/1 floor=0/0 ack=1 new=1"),
            ("pull c 1", "c<2#2.0"),
        ],
    );
}

#[test]
fn pulls_get_heartbeats() {
    check(
        "heartbeats",
        "{}",
        &[
            (r#"pull a {"batch": 9, "expires": 5000000000, "idle_heartbeat": 1000000000}"#, ""),
            ("wait 1", "a<[100 Idle Heartbeat|Nats-Last-Consumer: 0|Nats-Last-Stream: 0]"),
            ("wait 0.5", ""),
            ("pub 1", "a<1#1.0"),
            ("wait 0.9", ""),
            ("wait 0.1", "a<[100 Idle Heartbeat|Nats-Last-Consumer: 1|Nats-Last-Stream: 1]"),
            (
                "wait 2.5",
                "a<[100 Idle Heartbeat|Nats-Last-Consumer: 1|Nats-Last-Stream: 1] \
                 a<[100 Idle Heartbeat|Nats-Last-Consumer: 1|Nats-Last-Stream: 1] a<[408 Request Timeout|8|0]",
            ),
            ("wait 9", ""),
        ],
    );
}

#[test]
fn what_is_not_acknowledged_comes_again() {
    check(
        "ack wait",
        "{}",
        &[
            ("pub 3", ""),
            ("pull a 9", "a<1#1.2 a<2#2.1 a<3#3.0"),
            ("wait 10", ""),
            ("ack 1 +WPI", "+"),
            ("ack 2", "+ ok(2)"),
            ("info", "3/3 floor=0/0 ack=2 waiting=1"),
            ("wait 20", "a<3#4x2.0"),
            ("wait 10", "a<1#5x2.0"),
            ("info", "5/3 floor=0/0 ack=2 again=2 waiting=1"),
            ("ack 1", "+ ok(1)"),
            ("info", "5/3 floor=2/2 ack=1 again=1 waiting=1"),
            ("ack 1", "+"),
            ("ack 3", "+ ok(3)"),
            ("info", "5/3 floor=5/3 waiting=1"),
            ("ack 4", "-"),
            ("ack 4 +TERM", "-"),
            ("ack 4 -NAK", "+"),
            ("ack 0", "+"),
            ("ack 0 -NAK", "-"),
        ],
    );
    check(
        "naks",
        "{}",
        &[
            ("pub 3", ""),
            ("pull a 3", "a<1#1.2 a<2#2.1 a<3#3.0"),
            ("ack 3 -NAK", "+ nak(3#3x1)"),
            ("ack 1 -NAK", "+ nak(1#1x1)"),
            ("ack 1 -NAK", "+ nak(1#1x1)"),
            (r#"ack 2 -NAK {"delay": 5000000000}"#, "+ nak(2#2x1)"),
            ("pull a 9", "a<3#4x2.0 a<1#5x2.0"),
            ("wait 4.9", ""),
            ("wait 0.1", "a<2#6x2.0"),
            ("ack 2 -NAK 40s", "+ nak(2#6x2)"),
            ("ack 1", "+ ok(1)"),
            ("ack 3", "+ ok(3)"),
            ("wait 39.9", ""),
            ("wait 0.1", "a<2#7x3.0"),
            ("ack 2 +NXT 1", "ok(2)"),
            ("pub 9", "a<4#8.8 next<5#9.7 a<6#10.6 a<7#11.5 a<8#12.4 a<9#13.3"),
        ],
    );
    check(
        "term",
        "{}",
        &[
            ("pub 2", ""),
            ("pull a 9", "a<1#1.1 a<2#2.0"),
            ("ack 1 +TERM no good", "+ ok(1) term(1#1x1 no good)"),
            ("ack 1 +TERM no good", "+"),
            ("wait 30", "a<2#3x2.0"),
            ("info", "3/2 floor=1/1 ack=1 again=1 waiting=1"),
        ],
    );
}

#[test]
fn a_message_is_given_up_after_its_last_delivery() {
    check(
        "max deliver",
        r#"{"max_deliver": 2, "max_ack_pending": 1}"#,
        &[
            ("pub 2", ""),
            ("pull a 9", "a<1#1.1"),
            ("wait 30", "a<1#2x2.1"),
            ("wait 30", "max(1x2) a<2#3.0"),
            ("info", "3/2 floor=0/0 ack=1 again=1 waiting=1"),
            ("needs 1", "true"),
            ("ack 2 -NAK", "+ nak(2#3x1) a<2#4x2.0"),
            ("ack 2 -NAK", "+ nak(2#4x2) max(2x2)"),
            ("info", "4/2 floor=0/0 again=2 waiting=1"),
            ("ack 1", "+ ok(1)"),
            ("rm 2", ""),
            ("info", "4/2 floor=0/0 waiting=1"),
            ("pub 1", "a<3#5.0"),
            ("ack 3", "+ ok(3)"),
            ("info", "5/3 floor=5/3 waiting=1"),
        ],
    );
    check(
        "once",
        r#"{"max_deliver": 1}"#,
        &[("pub 1", ""), ("pull a 9", "a<1#1.0"), ("wait 30", "max(1x1)"), ("info", "1/1 floor=0/0 waiting=1")],
    );
    check(
        "backoff",
        r#"{"backoff": [1000000000, 3000000000], "ack_wait": 1000000000, "max_deliver": 4}"#,
        &[
            ("pub 1", ""),
            ("pull a 9", "a<1#1.0"),
            ("wait 0.9", ""),
            ("wait 0.1", "a<1#2x2.0"),
            ("wait 2.9", ""),
            ("wait 0.1", "a<1#3x3.0"),
            ("wait 3", "a<1#4x4.0"),
            ("wait 2.9", ""),
            ("wait 0.1", "max(1x4)"),
        ],
    );
}

#[test]
fn acknowledging_all_settles_what_came_before() {
    check(
        "ack all",
        r#"{"ack_policy": "all", "max_ack_pending": 4}"#,
        &[
            ("pub 6", ""),
            ("pull a 9", "a<1#1.5 a<2#2.4 a<3#3.3 a<4#4.2"),
            ("ack 3", "+ ok(1) ok(2) ok(3) a<5#5.1 a<6#6.0"),
            ("info", "6/6 floor=3/3 ack=3 waiting=1"),
            ("ack 2", "+"),
            ("ack 7", "-"),
            ("ack 6", "+ ok(4) ok(5) ok(6)"),
            ("info", "6/6 floor=6/6 waiting=1"),
        ],
    );
    check(
        "ack none",
        r#"{"ack_policy": "none", "max_ack_pending": 0}"#,
        &[
            ("pub 2", ""),
            ("needs 1", "true"),
            ("pull a 9", "a<1#1.1 ok(1) a<2#2.0 ok(2)"),
            ("needs 1", "false"),
            ("info", "2/2 floor=2/2 waiting=1"),
            ("ack 1", "-"),
            ("wait 99", ""),
        ],
    );
}

#[test]
fn no_more_is_pending_than_may_be() {
    check(
        "max ack pending",
        r#"{"max_ack_pending": 2}"#,
        &[
            ("pub 4", ""),
            ("pull a 9", "a<1#1.3 a<2#2.2"),
            (r#"pull b {"no_wait": true, "batch": 1}"#, "b<[408 Requests Pending]"),
            ("ack 1 -NAK", "+ nak(1#1x1) a<1#3x2.2"),
            ("ack 2", "+ ok(2) a<3#4.1"),
            ("info", "4/3 floor=0/0 ack=2 again=1 waiting=1 new=1"),
            ("ack 1 +TERM", "+ ok(1) term(1#3x2 ) a<4#5.0"),
            ("info", "5/4 floor=3/2 ack=2 waiting=1"),
        ],
    );
}

#[test]
fn a_stream_that_changes_takes_along_what_was_pending() {
    check(
        "removals",
        "{}",
        &[
            ("pub 6", ""),
            ("pull a 3", "a<1#1.5 a<2#2.4 a<3#3.3"),
            ("rm 1", "term(1#1x1 Unacknowledged message was deleted)"),
            ("rm 5", ""),
            ("info", "3/3 floor=1/1 ack=2 new=2"),
            ("pull a 1", "a<4#4.1"),
            ("purge 4", ""),
            ("info", "4/4 floor=3/3 ack=1 new=1"),
            ("pub 1", ""),
            ("purge 8", ""),
            ("info", "4/7 floor=4/7"),
            ("pub 1", ""),
            ("pull a 1", "a<8#5.0"),
        ],
    );
}

#[test]
fn the_floor_stays_until_its_message_is_settled() {
    check_from(
        "filtered",
        "{}",
        Start::At(1),
        &[
            ("pub 30", ""),
            ("rm 1", ""),
            ("rm 2", ""),
            ("rm 4", ""),
            ("pull a 3", "a<3#1.26 a<5#2.25 a<6#3.24"),
            ("info", "3/6 floor=0/0 ack=3 new=24"),
            ("ack 6", "+ ok(6)"),
            ("info", "3/6 floor=0/0 ack=2 new=24"),
            ("ack 3", "+ ok(3)"),
            ("info", "3/6 floor=1/4 ack=1 new=24"),
            ("ack 5", "+ ok(5)"),
            ("info", "3/6 floor=3/6 new=24"),
        ],
    );
}

#[test]
fn a_consumer_begins_where_it_is_told() {
    check_from(
        "at a sequence",
        "{}",
        Start::At(3),
        &[
            ("pub 4", ""),
            ("info", "0/2 floor=0/2 new=2"),
            ("needs 2", "false"),
            ("needs 3", "true"),
            ("pull a 9", "a<3#1.1 a<4#2.0"),
        ],
    );
    let start = Start::Listed { sequences: vec![2, 4, 5, 7], resume: 8 };
    check_from(
        "with a list",
        "{}",
        start,
        &[
            ("pub 9", ""),
            ("info", "0/1 floor=0/1 new=6"),
            ("needs 3", "false"),
            ("needs 4", "true"),
            ("needs 8", "true"),
            ("rm 5", ""),
            ("info", "0/1 floor=0/1 new=5"),
            ("pull a 1", "a<2#1.4"),
            ("restart", ""),
            ("info", "1/2 floor=0/1 ack=1 new=4"),
            ("pull a 1", "a<4#2.3"),
            ("ack 4", "+ ok(4)"),
            ("rm 7", ""),
            ("info", "2/4 floor=0/1 ack=1 new=2"),
            ("pull a 9", "a<8#3.1 a<9#4.0"),
            ("needs 7", "false"),
            ("ack 2", "+ ok(2)"),
            ("info", "4/9 floor=2/7 ack=2 waiting=1"),
        ],
    );
}

#[test]
fn after_a_restart_nothing_is_forgotten() {
    check(
        "restart",
        r#"{"max_deliver": 3}"#,
        &[
            ("pub 4", ""),
            ("pull a 9", "a<1#1.3 a<2#2.2 a<3#3.1 a<4#4.0"),
            ("ack 2", "+ ok(2)"),
            ("ack 1 -NAK 50s", "+ nak(1#1x1)"),
            ("ack 3 -NAK", "+ nak(3#3x1) a<3#5x2.0"),
            ("restart", ""),
            ("info", "5/4 floor=0/0 ack=3 again=1"),
            ("pull a 9", ""),
            ("wait 29.9", ""),
            ("wait 0.1", "a<3#6x3.0 a<4#7x2.0"),
            ("wait 20", "a<1#8x2.0"),
            ("restart", ""),
            ("wait 30", "max(3x3)"),
            ("restart", ""),
            ("info", "8/4 floor=0/0 ack=2 again=3"),
            ("pull a 9", ""),
            ("wait 30", "a<1#9x3.0 a<4#10x3.0"),
        ],
    );
}

#[test]
fn a_paused_consumer_delivers_nothing() {
    check(
        "pause",
        "{}",
        &[
            ("pull a 9", ""),
            ("pause 10", ""),
            ("pub 2", ""),
            (r#"pull b {"no_wait": true}"#, "b<[408 Requests Pending]"),
            ("wait 9.9", ""),
            ("wait 0.1", "a<1#1.1 a<2#2.0"),
        ],
    );
}

#[test]
fn an_unused_consumer_is_to_go() {
    check(
        "inactive",
        r#"{"inactive_threshold": 5000000000, "ack_wait": 10000000000}"#,
        &[
            ("wait 4.9", ""),
            ("inactive", "false"),
            ("pull a 9", ""),
            ("wait 20", ""),
            ("inactive", "false"),
            ("deaf a", ""),
            ("wait 4", ""),
            ("inactive", "false"),
            ("wait 5", ""),
            ("inactive", "true"),
            ("pub 1", ""),
            ("pull b", "b<1#1.0"),
            ("wait 14.9", ""),
            ("inactive", "false"),
            ("wait 0.1", ""),
            ("inactive", "true"),
        ],
    );
}

#[test]
fn new_rules_count_at_once() {
    check(
        "update",
        r#"{"max_ack_pending": 1}"#,
        &[
            ("pub 3", ""),
            ("pull a 9", "a<1#1.2"),
            ("wait 1", ""),
            (r#"config {"max_ack_pending": 2, "ack_wait": 5000000000}"#, "a<2#2.1"),
            ("wait 4", "a<1#3x2.1"),
            (r#"config {"max_deliver": 1}"#, "a<3#4.0"),
            ("wait 25.9", ""),
            ("wait 0.1", "max(2x1)"),
        ],
    );
}

#[test]
fn what_a_client_asks_for_without_measure_is_bounded() {
    let json = r#"{"max_waiting": 9000000000000000000, "max_ack_pending": -1, "ack_wait": 1, "backoff": [0, 5000000]}"#;
    let config = super::super::Config::new(&super::world::config(json), "S", "c");
    assert_eq!((config.wait(1), config.wait(2), config.max_ack_pending), (WAIT_MIN, 5_000_000, PENDING_MAX));
    let mut world = World::new(json, Start::At(1));
    (0..WAITING_MAX).for_each(|_| world.pull("a", r#"{"expires": 31536000000000000}"#));
    assert_eq!(world.seen(), "");
    world.pull("b", "1");
    assert_eq!(world.seen(), "b<[409 Exceeded MaxWaiting]");
}

#[test]
fn heartbeats_of_a_request_keep_a_distance() {
    check(
        "heartbeats",
        "{}",
        &[
            (r#"pull a {"expires": 25000000, "idle_heartbeat": 1}"#, ""),
            (
                "wait 0.1",
                "a<[100 Idle Heartbeat|Nats-Last-Consumer: 0|Nats-Last-Stream: 0] \
                 a<[100 Idle Heartbeat|Nats-Last-Consumer: 0|Nats-Last-Stream: 0] \
                 a<[408 Request Timeout|1|0]",
            ),
        ],
    );
}
