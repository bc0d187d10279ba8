//! Faults, breakers and explanations: switched by the command line, met by requests, and told of afterwards.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, curl, signal};

const FLAKY: &str = include_str!("flaky.py");

/// A gateway, a caller, and two instances behind an edge with a breaker.
const SHOP: &str = r#"
reason_header = true

[[routes]]
name = "shop"
matches = [{ path = { prefix = "/" } }]
backends = [{ service = "front" }]

[[routes]]
name = "plain"
matches = [{ path = { prefix = "/plain" } }]
backends = [{ service = "back" }]
retry = { attempts = 2, codes = [503], backoff = "1ms" }

[services.front]
command = "python3 echo.py"
upstreams = ["back"]

[services.front.edges.back]
circuit_breaker = { failure_rate = 0.5, window_calls = 4, minimum_calls = 4, open_for = "1s", half_open_calls = 2 }

[services.back]
command = "python3 flaky.py"
replicas = 2
"#;

struct Shop {
    app: Application,
    /// Where `front` finds `back`.
    edge: String,
}

impl Shop {
    fn up(manifest: &str) -> Self {
        let app = Application::with_manifest(manifest);
        app.write("flaky.py", FLAKY);
        app.up();
        let front = app.atoll(&["describe", "front", "-o", "json"]).json();
        let edge = front["upstreams"][0]["url"].as_str().unwrap().to_owned();
        Self { app, edge }
    }

    /// A request over the edge: status and head.
    fn call(&self, path: &str) -> (u16, String) {
        let (status, head, _) = curl(&[], &format!("{}{path}", self.edge));
        (status, head)
    }

    /// What `atoll edges` shows of the edge.
    fn row(&self) -> Value {
        let edges = self.app.atoll(&["edges", "-o", "json"]).succeeded().json();
        edges.as_array().unwrap().iter().find(|row| row["name"] == "front → back").unwrap().clone()
    }

    fn state(&self) -> String {
        let all = self.app.atoll(&["breaker", "ls", "-o", "json"]).succeeded().json();
        let all = all.as_array().unwrap();
        assert_eq!((all.len(), all[0]["name"].as_str()), (1, Some("front → back")));
        all[0]["state"].as_str().unwrap().to_owned()
    }

    /// What `atoll explain` says of the request of a head.
    fn explained(&self, head: &str) -> String {
        self.app.atoll(&["explain", header(head, "x-request-id")]).succeeded().stdout
    }
}

fn header<'h>(head: &'h str, name: &str) -> &'h str {
    let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name}: {head}"))
}

fn events(app: &Application, kind: &str) -> usize {
    let all = app.atoll(&["events", "-o", "json"]).succeeded().stdout;
    all.lines().filter(|line| line.contains(&format!("\"kind\":\"{kind}\""))).count()
}

#[test]
fn faults_meet_the_requests_that_they_are_set_for_until_they_are_over() {
    let shop = Shop::up(SHOP);
    let app = &shop.app;
    let set = |arguments: &[&str]| {
        let all: Vec<&str> = ["fault", "set", "-o", "json"].iter().chain(arguments).copied().collect();
        app.atoll(&all).succeeded().json().as_array().unwrap().clone()
    };
    // A request is told of, and answered with the status that was asked for.
    let abort = set(&["front->back", "--abort", "418"]);
    assert_eq!((abort[0]["effect"].as_str(), abort[0]["target"].as_str()), (Some("abort"), Some("front → back")));
    let (status, head) = shop.call("/");
    assert_eq!((status, header(&head, "atoll-reason")), (418, "fault_injected"));
    assert!(shop.explained(&head).contains("fault 1 answers 418 in place of the service"), "{}", shop.explained(&head));
    assert_eq!(app.get("/plain").0, 200, "another route");
    app.atoll(&["fault", "clear", "1"]).succeeded();
    assert_eq!(shop.call("/").0, 200);

    // Both of two effects; the gateway's route is not the edge.
    let began = Instant::now();
    assert_eq!(set(&["route", "plain", "--delay", "300ms", "--drop"]).len(), 2);
    assert_ne!(app.get("/plain").0, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(shop.call("/").0, 200);
    app.atoll(&["fault", "clear", "--all"]).succeeded();
    assert_eq!((app.get("/plain").0, app.atoll(&["fault", "ls", "-o", "json"]).json()), (200, serde_json::json!([])));

    // One instance of two, and a share of the requests.
    set(&["back.1", "--abort", "500"]);
    let statuses: Vec<u16> = (0..40).map(|_| app.get("/plain").0).collect();
    assert!(statuses.contains(&200) && statuses.contains(&500), "{statuses:?}");
    app.atoll(&["fault", "clear", "--all"]).succeeded();
    set(&["plain", "--abort", "500", "--share", "50%"]);
    let statuses: Vec<u16> = (0..40).map(|_| app.get("/plain").0).collect();
    assert!(statuses.contains(&200) && statuses.contains(&500), "{statuses:?}");
    app.atoll(&["fault", "clear", "--all"]).succeeded();

    // It is over by itself, and that is an event.
    set(&["plain", "--abort", "500", "--for", "1s"]);
    assert_eq!(app.get("/plain").0, 500);
    until_blocking("its end", BOUND, || (app.get("/plain").0 == 200).then_some(()));
    until_blocking("the event", BOUND, || (events(app, "fault_expired") == 1).then_some(()));
    assert_eq!((events(app, "fault_set"), events(app, "fault_cleared")), (6, 5));
}

#[test]
fn a_breaker_opens_tries_and_closes_and_each_request_can_be_explained() {
    let shop = Shop::up(SHOP);
    let app = &shop.app;
    app.write("status", "500");
    for _ in 0..4 {
        assert_eq!(shop.call("/").0, 500);
    }
    let (status, head) = shop.call("/");
    assert_eq!((status, header(&head, "atoll-reason")), (503, "circuit_open"));
    assert!((1..=1).contains(&header(&head, "retry-after").parse::<u64>().unwrap()), "{head}");
    let told = shop.explained(&head);
    assert!(told.contains("the breaker is open, as 4 of 4 calls failed: nothing is sent"), "{told}");
    assert!(told.contains("answered 503 after ") && told.contains(", without a try (circuit_open: "), "{told}");
    let row = shop.row();
    assert_eq!((row["breaker"]["state"].as_str(), row["breaker"]["calls"].as_u64()), (Some("open"), Some(4)), "{row}");
    let text = app.atoll(&["edges"]).succeeded().stdout;
    assert!(text.contains("BREAKER") && !text.contains("QUEUE"), "{text}");

    // When it tries, two calls fail and it is open again; the next one finds the service well.
    until_blocking("a trial", BOUND, || (shop.call("/").0 == 500).then_some(()));
    assert_eq!((shop.call("/").0, shop.state().as_str()), (500, "open"));
    app.write("status", "200");
    let head = until_blocking("a good trial", BOUND, || Some(shop.call("/")).filter(|(status, _)| *status == 200)).1;
    assert!(shop.explained(&head).contains("lets it through as a trial"), "{}", shop.explained(&head));
    assert_eq!(shop.row()["breaker"]["state"], "half_open");
    let told = shop.explained(&shop.call("/").1);
    assert!(told.contains("this closes the breaker, which was half open"), "{told}");
    assert_eq!((shop.state().as_str(), shop.row()["breaker"]["calls"].as_u64()), ("closed", Some(0)));

    // A request that was tried again, through the gateway.
    let (status, head, _) = app.request(&[], "/plain/once/a");
    assert_eq!(status, 200);
    let told = shop.explained(&head);
    assert!(told.contains("route `plain` takes it, for back") && told.contains("not route `shop` ("), "{told}");
    assert!(told.contains("answers 503 after") && told.contains("it is tried again in"), "{told}");
    assert!(told.contains(" and 2 tries"), "{told}");
    // One that failed for good.
    let (status, head, _) = app.request(&["-X", "POST"], "/plain/once/b");
    assert_eq!(status, 503);
    assert!(shop.explained(&head).contains("its method is not idempotent"), "{}", shop.explained(&head));

    let listed = app.atoll(&["explain"]).succeeded().stdout;
    assert!(
        listed.contains("circuit_open") && listed.contains("front → back") && listed.contains("unusual"),
        "{listed}"
    );
    let stories = app.atoll(&["explain", "-n", "2", "-o", "json"]).succeeded().json();
    assert_eq!(stories.as_array().unwrap().len(), 2);
    let unknown = app.atoll(&["explain", "no such / request?"]);
    assert_eq!(unknown.code(), 1);
    assert!(unknown.stderr.contains("x-request-id"), "{}", unknown.stderr);
}

#[test]
fn a_breaker_is_forced_until_it_is_reset_and_what_has_none_says_how_to_get_one() {
    let shop = Shop::up(SHOP);
    let app = &shop.app;
    app.atoll(&["breaker", "open", "front→back"]).succeeded();
    let (status, head) = shop.call("/");
    assert_eq!((status, header(&head, "atoll-reason")), (503, "circuit_open"));
    assert!(shop.explained(&head).contains("forced open"), "{}", shop.explained(&head));
    assert_eq!(shop.state(), "forced_open");
    // Closed by force, it lets every failure through.
    app.atoll(&["breaker", "close", "front -> back"]).succeeded();
    app.write("status", "500");
    assert!((0..8).all(|_| shop.call("/").0 == 500));
    assert_eq!(shop.state(), "forced_closed");
    app.atoll(&["breaker", "reset", "front->back"]).succeeded();
    let row = shop.row();
    assert_eq!(
        (row["breaker"]["state"].as_str(), row["breaker"]["calls"].as_u64()),
        (Some("closed"), Some(0)),
        "{row}"
    );
    assert_eq!((events(app, "breaker_forced"), events(app, "breaker_reset")), (2, 1));

    let refused = app.atoll(&["breaker", "open", "plain"]);
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stderr.contains("circuit_breaker = {") && refused.stderr.contains("name = \"plain\""),
        "{}",
        refused.stderr
    );
    let unknown = app.atoll(&["breaker", "open", "frnt->back"]);
    assert_eq!(
        (unknown.code(), unknown.stderr.contains("did you mean `front→back`?")),
        (1, true),
        "{}",
        unknown.stderr
    );
    for wrong in [
        &["fault", "set", "back"][..],
        &["fault", "set", "back", "--abort", "200"],
        &["fault", "set", "back", "--share", "0", "--drop"],
        &["fault", "clear"],
        &["breaker", "open"],
    ] {
        assert_eq!(app.atoll(wrong).code(), 2, "{wrong:?}");
    }
    let missing = app.atoll(&["fault", "set", "back.7", "--drop"]);
    assert_eq!((missing.code(), missing.stderr.contains("no instance `7`")), (1, true), "{}", missing.stderr);
    assert_eq!(app.atoll(&["fault", "clear", "99"]).code(), 1);
    assert_eq!(app.atoll(&["fault", "set", "back", "--drop", "--for", "25h"]).code(), 1);
}

#[test]
fn what_is_switched_outlives_the_daemon_and_the_data_plane_and_ends_with_the_application() {
    let shop = Shop::up(SHOP);
    let app = &shop.app;
    app.atoll(&["fault", "set", "plain", "--abort", "418"]).succeeded();
    app.atoll(&["breaker", "open", "front->back"]).succeeded();
    let is_switched = || app.get("/plain").0 == 418 && shop.call("/").0 == 503;
    assert!(is_switched());

    app.kill_daemon();
    assert!(is_switched(), "the data plane goes on");
    app.up();
    assert!(is_switched());
    let faults = app.atoll(&["fault", "ls", "-o", "json"]).succeeded().json();
    assert_eq!((faults[0]["id"].as_u64(), shop.state().as_str()), (Some(1), "forced_open"));

    let top = app.atoll(&["top", "--once", "-o", "json"]).json();
    let plane = top.as_array().unwrap().iter().find(|row| row["name"] == "atoll (data plane)").unwrap()["pid"].as_i64();
    signal(i32::try_from(plane.unwrap()).unwrap(), Signal::KILL);
    let status =
        until_blocking("the next data plane", BOUND, || Some(app.get("/plain").0).filter(|status| *status > 0));
    assert_eq!(status, 418, "no request passes a new data plane without its faults");
    assert_eq!(shop.call("/").0, 503);

    // A file that cannot be read costs the switches, and says so.
    app.kill_daemon();
    app.write(".atoll/run/switches.json", "{");
    app.up();
    until_blocking("the switches to be gone", BOUND, || (app.get("/plain").0 == 200).then_some(()));
    assert!(app.path(".atoll/run/switches.json.damaged").exists());

    app.atoll(&["breaker", "open", "front->back"]).succeeded();
    app.atoll(&["down"]).succeeded();
    app.up();
    assert_eq!((shop.call("/").0, shop.state().as_str()), (200, "closed"));
}
