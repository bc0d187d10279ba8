//! Tables about replacing instances: who stops, who starts as what, when a rollout has failed and when it is over.

use super::*;

#[test]
fn a_surge_instance_stands_in_while_others_are_replaced() {
    for (instances, decided) in [
        ("live ready | live ready | surge idle", "start a/2 as 1"),
        ("live ready | live ready | surge live starting generation 1", ""),
        // Ready is not yet available.
        ("live ready | live ready | surge live ready 99001 generation 1", ""),
        ("live ready | live ready | surge live ready 99000 generation 1", "stop a/0 replaced"),
        ("stopping 99000 again | live ready | surge live ready generation 1", ""),
        ("idle again | live ready | surge live ready generation 1", "start a/0 as 1"),
        ("live starting again generation 1 | live ready | surge live ready generation 1", ""),
        ("live ready generation 1 | live ready | surge live ready generation 1", "stop a/1 replaced"),
        ("live ready generation 1 | live starting generation 1 | surge live ready generation 1", ""),
        ("live ready generation 1 | live ready 99500 generation 1 | surge live ready generation 1", ""),
        ("live ready generation 1 | live ready generation 1 | surge live ready generation 1", "settle a"),
        // Those that serve nobody go at once.
        ("live starting | live unready | surge idle", "stop a/0 replaced at once\nstop a/1 replaced"),
        // One that ended by itself comes back as what takes its place.
        ("backoff 200000 again | live ready | surge idle", "start a/0 as 1\nstart a/2 as 1"),
        ("ended 1 again | live ready | surge idle", "start a/0 as 1\nstart a/2 as 1"),
    ] {
        let world = format!("a: running, generation 1 | {instances}");
        assert_eq!(World::parse(&world).describe(), decided, "{instances}");
    }
    // What is left of a rollout stops only when it is not needed.
    check("a: running | live ready | live ready | surge live ready", expect!["stop a/2 surplus"]);
    check("a: running | live ready | live starting again | surge live ready", expect![""]);
    check("a: running | live ready | live starting | surge live ready", expect!["stop a/2 surplus"]);
}

#[test]
fn as_many_may_be_missing_as_is_said_and_one_where_nobody_stands_in() {
    let three = "live ready | live ready | live ready";
    check(&format!("a: running, generation 1 | {three}"), expect!["stop a/0 replaced"]);
    check(
        &format!("a: running, generation 1, unavailable 2 | {three}"),
        expect![[r#"
        stop a/0 replaced
        stop a/1 replaced"#]],
    );
    check(
        &format!("a: running, generation 1, unavailable 1 | {three} | surge idle"),
        expect![[r#"
        stop a/0 replaced
        start a/3 as 1"#]],
    );
    check(
        "a: running, generation 1, unavailable 9 | live ready | surge idle",
        expect![[r#"
        stop a/0 replaced
        start a/1 as 1"#]],
    );
}

#[test]
fn before_a_service_was_ready_a_change_is_no_rollout() {
    check(
        "a: running, never ready, generation 1 | live starting | backoff 200000 | surge idle",
        expect![[r#"
        stop a/0 replaced at once
        start a/1 as 1"#]],
    );
    check(
        "a: running, never ready, generation 1 | live ready | live ready",
        expect![[r#"
        stop a/0 replaced
        stop a/1 replaced"#]],
    );
    // Without a former generation to come back as it is what it was, until its successor is made.
    check("a: running, never ready, generation 1, build x running | backoff 100000", expect!["start a/0"]);
}

#[test]
fn recreating_stops_every_old_one_before_a_new_one_starts() {
    let decide =
        |instances: &str| World::parse(&format!("a: running, recreate, generation 1 | {instances}")).describe();
    assert_eq!(decide("live ready | live ready | surge idle"), "stop a/0 replaced\nstop a/1 replaced");
    assert_eq!(decide("idle again | stopping 99000 again"), "");
    assert_eq!(decide("idle again | idle again"), "start a/0 as 1\nstart a/1 as 1");
    assert_eq!(decide("live ready generation 1 | idle again"), "start a/1 as 1");
    assert_eq!(decide("idle again | extra live ready"), "stop a/1 surplus");
    check("a: running, recreate, back | live starting generation 1 | idle again", expect!["stop a/0 replaced at once"]);
    check(
        "a: running, recreate, back | idle again generation 1 | idle again",
        expect![[r#"
        start a/0
        start a/1"#]],
    );
}

#[test]
fn a_rollout_that_fails_is_taken_back_or_halted() {
    for (world, why) in [
        ("build x failed | live ready", "None: its build failed: no"),
        ("prepare failed | live ready", "None: its preparation failed: no"),
        ("always | live ready | surge ended 1 generation 1", "Some(1): ended with status 1"),
        ("always | live ready | surge ended 0 generation 1", "Some(1): ended with status 0"),
        ("no | live ready | surge ended 1 generation 1", "Some(1): ended with status 1"),
        ("always | live ready | surge ended unhealthy generation 1", "Some(1): no"),
        ("always | live ready | surge ended not-started generation 1", "Some(1): no"),
        ("deadline 50 | live ready | surge live starting generation 1", "Some(1): not available after 50 s"),
        ("deadline 50 | live ready | surge live ready 99001 generation 1", "Some(1): not available after 50 s"),
    ] {
        let decide = |more: &str| World::parse(&format!("a: running, generation 1{more}, {world}")).describe();
        assert_eq!(decide(""), format!("revert a for {why}"), "{world}");
        assert_eq!(decide(", no-revert"), format!("halt a for {why}"), "{world}");
    }
    for fine in [
        "deadline 51 | live ready | surge live starting generation 1",
        // Old ones take their time.
        "deadline 50 | stopping 99000 again | surge live ready generation 1",
        // How it ended is known when it is gone; meanwhile nobody is given up.
        "always | live ready | live ready | live ready generation 1 | surge leaving 1 generation 1 | surge live ready generation 1",
        "halted, always | live ready | surge live starting generation 1",
    ] {
        assert_eq!(World::parse(&format!("a: running, generation 1, {fine}")).describe(), "", "{fine}");
    }
}

#[test]
fn the_way_back_keeps_what_runs_and_replaces_what_is_new() {
    for (instances, decided) in [
        ("live ready | surge ended 1 generation 1", "settle a"),
        ("live ready | surge live starting generation 1", "stop a/1 surplus at once"),
        ("live starting generation 1 | live ready | surge idle", "stop a/0 replaced at once"),
        ("idle again generation 1 | live ready | surge live ready generation 1", "start a/0"),
        ("live starting again | live ready | surge live ready generation 1", ""),
        ("live ready | live ready | surge live ready generation 1", "stop a/2 surplus"),
        // Those of the new generation that serve stand in meanwhile.
        ("live ready generation 1 | ended 1 again generation 1 | surge idle", "start a/1\nstart a/2"),
    ] {
        assert_eq!(World::parse(&format!("a: running, back | {instances}")).describe(), decided, "{instances}");
    }
    // It does not wait for what it had already.
    check(
        "a: running, back, after b healthy | idle again generation 1\n b: running | live starting",
        expect![[r#"
            start a/0
            (a waits for `b` to be healthy)"#]],
    );
}

#[test]
fn a_halted_rollout_leaves_everything_as_it_is() {
    for (instances, decided) in [
        ("live ready | surge live ready generation 1", ""),
        ("idle again | surge live ready generation 1", "start a/0"),
        ("ended 1 again | surge ended 1 generation 1", "backoff a/0 attempt 0\nbackoff a/1 attempt 0"),
        ("backoff 100000 | surge backoff 100000 generation 1", "start a/0\nstart a/1 as 1"),
    ] {
        assert_eq!(World::parse(&format!("a: running, halted, generation 1 | {instances}")).describe(), decided);
    }
}

#[test]
fn what_is_scaled_away_stops_and_leaves_enough_to_serve() {
    check(
        "a: running | live ready | extra live ready | extra live ready",
        expect![[r#"
        stop a/1 surplus
        stop a/2 surplus"#]],
    );
    check(
        "a: running, unavailable 0 | surge idle | backoff 200000 again | extra live ready | extra live ready",
        expect!["stop a/3 surplus"],
    );
    check("a: running | backoff 200000 | extra live ready", expect!["stop a/1 surplus"]);
    check("a: running | live ready | extra ended 1 | extra backoff 1 | extra idle", expect![""]);
}

#[test]
fn who_needs_a_service_does_not_care_which_of_its_instances_serve() {
    let starts = |instances: &str| {
        let world = format!("api: running, after db healthy | idle\n db: running, generation 1 | {instances}");
        World::parse(&world).describe().contains("start api/0")
    };
    assert!(starts("stopping 99000 again | live ready | surge live ready generation 1"));
    assert!(!starts("stopping 99000 again | live ready | surge live starting generation 1"));
    check(
        "api: running, after db healthy | live ready\n db: running, generation 1 | idle again | surge idle",
        expect!["start db/0 as 1"],
    );
}

#[test]
fn a_deadline_that_is_past_wakes_nobody() {
    let world = World::parse("a: stopped | backoff 1 | stopping 1");
    let now = world.start + Duration::from_millis(NOW);
    assert_eq!(next_deadline(&world.desired, &world.observed, now), None);
    let world = World::parse("a: running, generation 1 | live ready 99500 generation 1 | live ready");
    let deadline = next_deadline(&world.desired, &world.observed, now.min(world.start + Duration::from_millis(NOW)));
    assert_eq!(deadline.map(|at| at - world.start), Some(Duration::from_millis(100_500)));
}
