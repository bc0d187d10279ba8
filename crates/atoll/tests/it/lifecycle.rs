//! From `up` to `down`: what runs, what is shown, and what is left behind.

use std::io::BufRead;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, is_running, signal, wait};

const TWO_SERVICES: &str = r#"
[[routes]]
name = "front"
matches = [{ path = { prefix = "/" } }]
backends = [{ service = "front" }]

[services.front]
command = "python3 echo.py"
upstreams = ["back"]
depends_on = { back = "healthy" }
environment = { GREETING = "hello" }

[services.back]
command = "python3 echo.py"
replicas = 2
"#;

#[test]
fn an_application_comes_up_is_seen_and_goes_down() {
    let app = Application::with_manifest(TWO_SERVICES);
    assert_eq!(app.atoll(&["ps"]).code(), 3, "nothing runs yet");
    app.up();

    let instances = app.instances();
    let names: Vec<String> =
        instances.iter().map(|i| format!("{}.{}", i["service"].as_str().unwrap(), i["instance"])).collect();
    assert_eq!(names, ["back.0", "back.1", "front.0"]);
    for instance in &instances {
        assert_eq!((instance["state"].as_str(), instance["ready"].as_bool()), (Some("running"), Some(true)));
        for key in ["pid", "port", "restarts", "started_at"] {
            assert!(!instance[key].is_null(), "{key} of {instance}");
        }
    }

    let (status, body) = app.get("/call/BACK_URL/deep?x=1");
    assert_eq!(status, 200, "{body}");
    let seen: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(seen["answer"]["path"], "/deep?x=1");
    assert!(seen["answer"]["headers"]["traceparent"].is_string());
    let environment = seen["environment"].as_object().unwrap();
    assert_eq!(environment["GREETING"], "hello");
    assert_eq!(environment["ATOLL_SERVICE"], "front");
    assert_eq!(environment["HOST"], "127.0.0.1");
    assert!(!environment.contains_key("FRONT_URL"), "what is not declared has no address");
    assert!(!environment.contains_key("CARGO_BIN_EXE_atoll") && !environment.contains_key("NO_COLOR"));

    let pids: Vec<i32> = ["front", "back"].iter().map(|service| app.pid(service, 0)).collect();
    app.atoll(&["down"]).succeeded();
    assert!(pids.into_iter().all(|pid| !is_running(pid)));
    assert_eq!(app.atoll(&["ps", "-o", "json"]).stdout.trim(), "[]");
    assert!(std::net::TcpStream::connect(("127.0.0.1", app.gateway)).is_err());
}

#[test]
fn a_service_is_stopped_started_and_restarted_alone() {
    let app = Application::with_manifest(TWO_SERVICES);
    app.up();
    let (front, back) = (app.pid("front", 0), app.pid("back", 1));

    app.atoll(&["stop", "back"]).succeeded();
    assert!(!is_running(back) && is_running(front));
    let (status, head, body) = app.request(&[], "/call/BACK_URL/");
    assert!(status >= 500, "{head}{body}");

    app.atoll(&["start", "back"]).succeeded();
    assert_eq!(app.get("/call/BACK_URL/").0, 200);

    let before = app.pid("back", 0);
    app.atoll(&["restart", "back"]).succeeded();
    assert_ne!(app.pid("back", 0), before);
    assert_eq!(app.pid("front", 0), front);
    assert_eq!(app.atoll(&["stop", "bakc"]).code(), 1);
}

#[test]
fn only_the_named_services_and_what_they_need_are_started() {
    let app = Application::with_manifest(&format!("{TWO_SERVICES}[services.alone]\ncommand = \"python3 echo.py\"\n"));
    app.atoll(&["up", "-d", "--wait", "front"]).succeeded();
    let running = |service: &str| app.instances().iter().any(|i| i["service"] == service && i["ready"] == true);
    assert!(running("front") && running("back") && !running("alone"));
}

#[test]
fn ports_are_found_again_after_a_restart() {
    let app = Application::with_manifest(TWO_SERVICES);
    app.up();
    let ports = |app: &Application| app.instances().iter().map(|i| i["port"].as_u64().unwrap()).collect::<Vec<_>>();
    let before = ports(&app);
    app.atoll(&["down"]).succeeded();
    app.up();
    assert_eq!(ports(&app), before);
}

#[test]
fn ctrl_c_drains_an_attached_up() {
    let app = Application::with_manifest(TWO_SERVICES);
    let mut up = app.attached();
    until_blocking("all to be ready", BOUND, || {
        let instances = app.atoll(&["ps", "-o", "json"]).json();
        let instances = instances.as_array().unwrap();
        (instances.len() == 3 && instances.iter().all(|i| i["ready"] == true)).then_some(())
    });
    let front = app.pid("front", 0);
    signal(i32::try_from(up.id()).unwrap(), Signal::INT);
    let ended = wait(&mut up);
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    assert!(ended.stdout.contains("front.0") && ended.stdout.contains("listening on"), "{}", ended.stdout);
    assert!(!is_running(front));
    assert_eq!(app.atoll(&["ps"]).code(), 3);
}

#[test]
fn ctrl_c_leaves_an_application_alone_that_ran_before() {
    let app = Application::with_manifest(TWO_SERVICES);
    app.up();
    let front = app.pid("front", 0);
    let mut up = app.attached();
    let stdout = std::io::BufReader::new(up.stdout.take().unwrap());
    let (sender, lines) = std::sync::mpsc::channel();
    let reader =
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    until_blocking("the second up to follow", BOUND, || {
        app.get("/seen");
        lines.try_iter().any(|line| line.contains("/seen")).then_some(())
    });
    signal(i32::try_from(up.id()).unwrap(), Signal::INT);
    assert_eq!(up.wait().unwrap().code(), Some(0));
    drop(lines);
    let _ = reader.join();
    assert!(is_running(front));
    assert_eq!(app.get("/").0, 200);
}

#[test]
fn two_ups_at_once_are_one_application() {
    let app = Application::with_manifest(TWO_SERVICES);
    let ups: Vec<_> = (0..4)
        .map(|_| app.command(&["up", "-d", "--wait"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for mut up in ups {
        let ended = wait(&mut up);
        assert_eq!(ended.code(), 0, "{}", ended.stderr);
    }
    assert_eq!(app.instances().len(), 3);
}

#[test]
fn down_waits_for_a_daemon_that_is_just_starting() {
    let app = Application::with_manifest(TWO_SERVICES);
    for _ in 0..5 {
        let mut up = app.command(&["up", "-d"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until_blocking("the daemon's lock", BOUND, || app.path(".atoll/run/lock").exists().then_some(()));
        app.atoll(&["down"]).succeeded();
        // Stopped before or after it had started its services; either way nothing is left once it has returned.
        let _ = up.wait().unwrap();
        app.atoll(&["down"]).succeeded();
        assert_eq!(app.atoll(&["ps"]).code(), 3);
        std::fs::remove_file(app.path(".atoll/run/lock")).unwrap();
    }
}

#[test]
fn a_service_that_completes_lets_those_that_wait_for_it_start() {
    let app = Application::with_manifest(
        r#"
[services.seed]
command = "sh -c 'echo seeded > seed'"
restart = "no"

[services.web]
command = "python3 echo.py"
depends_on = { seed = "completed" }
"#,
    );
    for arguments in [&["up", "-d"][..], &["up", "-d", "--wait"]] {
        app.atoll(arguments).succeeded();
    }
    let states: Vec<_> = app.instances().iter().map(|i| i["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["exited", "running"]);
    assert!(app.path("seed").exists());
}

#[test]
fn a_changed_secret_is_noticed_and_not_shown() {
    let app = Application::with_manifest(
        &TWO_SERVICES.replace("environment = {", "env_file = \"keys.env\"\nenvironment = {"),
    );
    app.write("keys.env", "KEY=first-secret\n");
    app.up();
    assert!(app.get("/").1.contains("first-secret"), "the service has it");
    for arguments in [&["plan"][..], &["plan", "-o", "json"], &["describe", "front", "-o", "json"]] {
        assert!(!app.atoll(arguments).succeeded().stdout.contains("first-secret"), "{arguments:?}");
    }
    app.write("keys.env", "KEY=second-secret\n");
    let changed = app.atoll(&["up", "-d", "--wait"]).succeeded().stderr;
    assert!(changed.contains("environment.KEY") && !changed.contains("second-secret"), "{changed}");
    assert!(app.get("/").1.contains("second-secret"));
}

#[test]
fn answers_to_programs_are_json() {
    let app = Application::with_manifest(TWO_SERVICES);
    let up = app.atoll(&["up", "-d", "--wait", "-o", "json"]).succeeded().json();
    assert_eq!(up.as_array().unwrap().len(), 3);
    let restarted = app.atoll(&["restart", "front", "-o", "json"]).succeeded().json();
    assert_eq!((restarted[0]["service"].as_str(), restarted[0]["ready"].as_bool()), (Some("front"), Some(true)));
    assert_eq!(app.atoll(&["down", "-o", "json"]).succeeded().json()["result"], "stopped");
}

#[test]
fn logs_are_kept_filtered_and_readable_without_a_daemon() {
    let app = Application::with_manifest(TWO_SERVICES);
    app.up();
    for number in 0..5 {
        assert_eq!(app.get(&format!("/item/{number}")).0, 200);
    }
    let found = until_blocking("the lines", BOUND, || {
        let lines = app.atoll(&["logs", "front", "--grep", "/item/[0-9]"]).succeeded().stdout;
        (lines.lines().count() == 5).then_some(lines)
    });
    assert!(found.contains("front.0") && found.contains("GET /item/4"));
    app.atoll(&["down"]).succeeded();
    let last = app.atoll(&["logs", "-n", "1", "--grep", "item", "-o", "json"]).succeeded();
    assert!(last.json()["text"].as_str().unwrap().contains("/item/4"));
    assert_eq!(app.atoll(&["logs", "--since", "1ns"]).succeeded().stdout, "");
}

#[test]
fn what_a_killed_daemon_left_goes_on_with_the_next_and_down_stops_it_without_one() {
    let app = Application::with_manifest(TWO_SERVICES);
    app.up();
    let shown = |app: &Application| {
        let seen = |i: &Value| ["pid", "port", "restarts", "started_at"].map(|key| i[key].clone());
        app.instances().iter().map(seen).collect::<Vec<_>>()
    };
    let kill_daemon = || {
        let daemon = app.daemon_pid();
        signal(daemon, Signal::KILL);
        until_blocking("the daemon's end", BOUND, || (!is_running(daemon)).then_some(()));
    };
    let before = shown(&app);
    kill_daemon();
    app.up();
    assert_eq!(shown(&app), before);
    assert_eq!(app.get("/call/BACK_URL/").0, 200);

    let front = app.pid("front", 0);
    kill_daemon();
    app.atoll(&["down"]).succeeded();
    assert!(!is_running(front), "down cleans up as well");
}

#[test]
fn a_second_up_finds_the_first_and_a_changed_manifest_is_said() {
    let app = Application::with_manifest(TWO_SERVICES);
    app.up();
    let front = app.pid("front", 0);
    app.up();
    assert_eq!(app.pid("front", 0), front);
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("atoll.toml", &manifest.replace("hello", "good bye"));
    let back = app.pid("back", 0);
    let changed = app.atoll(&["up", "-d", "--wait"]).succeeded();
    assert!(changed.stderr.contains("~ service front: environment.GREETING"), "{}", changed.stderr);
    assert!(!is_running(front) && app.pid("back", 0) == back, "only what has changed is replaced");
    let events = app.atoll(&["events", "-o", "json"]).succeeded().stdout;
    assert_eq!(events.lines().filter(|line| line.contains("\"kind\":\"changed\"")).count(), 1, "{events}");
    assert!(app.get("/").1.contains("good bye"));

    app.write("atoll.toml", &manifest.replace("upstreams", "upstraems"));
    let (front, refused) = (app.pid("front", 0), app.atoll(&["up", "-d"]));
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("nothing was changed") && is_running(front), "{}", refused.stderr);
}

#[test]
fn grandchildren_and_deaf_children_do_not_outlive_down() {
    let app = Application::with_manifest(
        r#"
[services.stubborn]
command = "sh stubborn.sh"
stop_grace_period = "300ms"
probes = { readiness = { exec = "test -e ready" } }
"#,
    );
    app.write(
        "stubborn.sh",
        "trap '' TERM\nsleep 1000 & echo $! > grandchild\ntouch ready\nwhile :; do sleep 1000; done\n",
    );
    app.up();
    let grandchild: i32 = std::fs::read_to_string(app.path("grandchild")).unwrap().trim().parse().unwrap();
    let child = app.pid("stubborn", 0);
    assert!(is_running(grandchild) && is_running(child));
    app.atoll(&["down"]).succeeded();
    assert!(!is_running(grandchild) && !is_running(child));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let app = Application::with_manifest(TWO_SERVICES);
    let mut plan = app.command(&["plan"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(plan.stdout.take());
    let status = plan.wait().unwrap();
    assert_eq!(status.code(), Some(0));
}
