//! What was counted, read as strangers read it: `/metrics` with curl, `atoll edges` with a program.

use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, curl, free_port, signal};

const SHOP: &str = "[[routes]]\nname = \"front\"\nbackends = [{ service = \"front\" }]\n\
    [[routes]]\nname = \"gone\"\nmatches = [{ path = { prefix = \"/gone\" } }]\nbackends = [{ service = \"gone\" }]\n\
    [services.front]\ncommand = \"python3 echo.py\"\nupstreams = [\"back\"]\n\
    [services.back]\ncommand = \"python3 echo.py\"\nreplicas = 2\n\
    [services.gone]\ncommand = \"python3 echo.py\"\n";

/// Where the dashboard is.
fn dashboard(app: &Application) -> String {
    app.atoll(&["daemon", "status", "-o", "json"]).json()["dashboard"].as_str().unwrap().to_owned()
}

fn metrics(app: &Application) -> String {
    let (status, head, body) = curl(&[], &format!("{}/metrics", dashboard(app)));
    assert!(status == 200 && head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    body
}

/// The sum of all samples of this name that have all of these labels.
fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let of =
        |line: &&str| line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label));
    let values = text.lines().filter(of).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    values.sum()
}

fn reaches(app: &Application, name: &str, labels: &[&str], wanted: f64) -> String {
    until_blocking("the counts", BOUND, || {
        let text = metrics(app);
        let found = sum(&text, name, labels);
        assert!(found <= wanted, "{name} {labels:?}: {found} of {wanted}");
        (found >= wanted).then_some(text)
    })
}

#[test]
fn every_request_is_counted_once_at_its_route_and_at_its_edge_across_processes_and_daemons() {
    let app = Application::with_manifest(SHOP);
    app.up();
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", app.gateway);
    let ask = |path: &str, count: usize| {
        let targets = format!("{}?[1-{count}]", url(path));
        assert!(Command::new("curl").args(["-s", "-o", "/dev/null", "-m", "60", &targets]).status().unwrap().success());
    };
    // Readers while requests flow see no more than there were.
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(|| ask("/call/BACK_URL/x", 50))).collect();
        while !loads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let text = metrics(&app);
            let seen = sum(&text, "http_server_request_duration_seconds_count", &["http_route=\"front\""]);
            assert!(seen <= 200.0, "{seen}");
        }
    });
    let front = ["http_route=\"front\"", "http_request_method=\"GET\"", "http_response_status_code=\"200\""];
    let text = reaches(&app, "http_server_request_duration_seconds_count", &front, 200.0);
    let edge = ["service_name=\"front\"", "peer_service=\"back\""];
    assert_eq!(sum(&text, "http_client_request_duration_seconds_count", &edge), 200.0);
    assert_eq!(sum(&text, "http_client_request_duration_seconds_bucket", &[edge[0], edge[1], "le=\"+Inf\""]), 200.0);
    assert_eq!(sum(&text, "http_server_active_requests", &[]), 0.0);
    assert_eq!(sum(&text, "atoll_instance_ready", &[]), 4.0);
    assert!(sum(&text, "process_resident_memory_bytes", &["process=\"data-plane\""]) > 1e6, "{text}");

    app.atoll(&["stop", "gone"]).succeeded();
    assert_eq!(app.get("/gone").0, 503);
    assert_eq!(app.get("/%2f").0, 400);
    let text = reaches(&app, "atoll_requests_refused_total", &[], 2.0);
    assert_eq!(sum(&text, "atoll_requests_refused_total", &["reason=\"no_endpoint\""]), 1.0);
    assert_eq!(sum(&text, "atoll_requests_refused_total", &["reason=\"bad_path\""]), 1.0);
    let gone = ["http_route=\"gone\"", "http_response_status_code=\"503\"", "error_type=\"no_endpoint\""];
    assert_eq!(sum(&text, "http_server_request_duration_seconds_count", &gone), 1.0);

    // A daemon that is killed has counted nothing: the data plane has.
    app.kill_daemon();
    ask("/", 5);
    app.up();
    reaches(&app, "http_server_request_duration_seconds_count", &front, 205.0);
    // A data plane that is killed takes with it what nobody has read.
    let top = app.atoll(&["top", "--once", "-o", "json"]).json();
    let plane = top.as_array().unwrap().iter().find(|row| row["name"] == "atoll (data plane)").unwrap()["pid"].as_i64();
    let planes = i32::try_from(plane.unwrap()).unwrap();
    signal(planes, rustix::process::Signal::KILL);
    until_blocking("the next data plane", BOUND, || (app.get("/").0 == 200).then_some(()));
    let after = sum(&metrics(&app), "http_server_request_duration_seconds_count", &front);
    assert!(after >= 205.0, "{after}");
}

#[test]
fn both_formats_are_what_their_readers_take() {
    let app = Application::with_manifest(SHOP);
    app.up();
    assert_eq!(app.get("/call/BACK_URL/").0, 200);
    let url = format!("{}/metrics", dashboard(&app));
    let open = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let (status, head, body) = curl(&["-H", open], &url);
    assert!(status == 200 && head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(
        body.ends_with("# EOF\n") && body.contains("# UNIT http_server_request_duration_seconds seconds\n"),
        "{body}"
    );
    // The parsers of Prometheus' own Python client. Debian's packages are known to Debian's Python alone.
    for (module, text) in [("openmetrics.parser", &body), ("parser", &metrics(&app))] {
        let script = format!(
            "import sys\nfrom prometheus_client.{module} import text_string_to_metric_families as read\n\
             print(len(list(read(open(sys.argv[1]).read()))))\n"
        );
        app.write("scraped.txt", text);
        let output =
            Command::new("/usr/bin/python3").arg("-c").arg(script).arg(app.path("scraped.txt")).output().unwrap();
        assert!(output.status.success(), "{module}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_dashboard_answers_its_own_names_and_says_who_is_not_ready() {
    let app = Application::with_manifest(
        "[services.web]\ncommand = \"python3 echo.py\"\n\
         [services.late]\ncommand = \"python3 echo.py\"\nprobes = { readiness = { http = \"/readyz\", interval = \"50ms\" } }\n",
    );
    app.atoll(&["up", "-d"]).succeeded();
    let url = |path: &str| format!("{}{path}", dashboard(&app));
    let unready = until_blocking("one to be ready alone", BOUND, || {
        let (status, _, body) = curl(&[], &url("/readyz"));
        assert_eq!(status, 503, "{body}");
        (!body.contains("web")).then_some(body)
    });
    assert!(unready.starts_with("late.0 is starting"), "{unready}");
    assert_eq!(curl(&[], &url("/livez")).0, 200);
    app.atoll(&["stop", "late"]).succeeded();
    assert_eq!(curl(&[], &url("/readyz")).0, 200, "what is not wanted is not missed");
    for (arguments, path, expected) in [
        (&["-H", "Host: localhost:8070"][..], "/metrics", 200),
        (&["-I"], "/metrics", 200),
        (&["-H", "Host: rebound.example.org"], "/metrics", 421),
        (&["-H", "Host: rebound.example.org"], "/livez", 421),
        (&["-H", "Host:"], "/metrics", 400),
        (&["-X", "POST"], "/metrics", 405),
        (&[], "/", 404),
        (&[], "/metrics/", 404),
    ] {
        assert_eq!(curl(arguments, &url(path)).0, expected, "{arguments:?} {path}");
    }
}

#[test]
fn edges_tells_rate_durations_and_errors_of_each() {
    let app = Application::with_manifest(SHOP);
    assert_eq!(app.atoll(&["edges"]).code(), 3);
    app.up();
    app.atoll(&["stop", "gone"]).succeeded();
    let row = |rows: &Value, name: &str| rows.as_array().unwrap().iter().find(|row| row["name"] == name).cloned();
    let rows = until_blocking("requests in the second that is measured", BOUND, || {
        let mut edges = app.command(&["edges", "-o", "json"]);
        let edges = edges.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        for _ in 0..10 {
            assert_eq!((app.get("/call/BACK_URL/").0, app.get("/gone").0), (200, 503));
        }
        let output = edges.wait_with_output().unwrap();
        let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
        let busy = row(&rows, "front → back").unwrap()["requests_per_second"].as_f64().unwrap() > 0.0;
        let failed = row(&rows, "gateway → gone (route gone)").unwrap()["error_share"].as_f64();
        (busy && failed.is_some()).then_some(rows)
    });
    let front = row(&rows, "gateway → front (route front)").unwrap();
    assert!(front["p50_ms"].as_f64().unwrap() > 0.0 && front["p99_ms"].as_f64() >= front["p50_ms"].as_f64(), "{front}");
    assert_eq!((front["error_share"].as_f64(), front["tries_per_request"].as_f64()), (Some(0.0), Some(1.0)));
    assert_eq!(row(&rows, "gateway → gone (route gone)").unwrap()["error_share"].as_f64(), Some(1.0));
    let only = app.atoll(&["edges", "back", "-o", "json"]).succeeded().json();
    assert_eq!(only.as_array().unwrap().len(), 1);
    let table = app.atoll(&["edges"]).succeeded().stdout;
    assert!(table.starts_with("EDGE") && table.contains("front → back") && table.contains("P99"), "{table}");
    assert_eq!(app.atoll(&["edges", "nobody"]).code(), 1);
}

#[test]
fn limits_of_the_manifest_hold_and_change_without_a_lost_request() {
    let manifest = |limits: &str| {
        format!(
            "limits = {{ {limits} }}\n[[routes]]\nname = \"web\"\nbackends = [{{ service = \"web\" }}]\n[services.web]\ncommand = \"python3 echo.py\"\n"
        )
    };
    let app = Application::with_manifest(&manifest("request_body = \"10B\""));
    app.up();
    let post = |bytes: usize| app.request(&["-d", &"x".repeat(bytes)], "/").0;
    assert_eq!((post(10), post(11)), (200, 413));
    let text = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("atoll.toml", &text.replace("10B", "20B"));
    let changed = app.atoll(&["up", "-d", "--wait"]).succeeded().stderr;
    assert!(changed.contains("~ gateway gateway: limits"), "{changed}");
    until_blocking("the new limit", BOUND, || {
        let status = post(20);
        assert!(matches!(status, 200 | 413), "{status}");
        (status == 200).then_some(())
    });
    assert_eq!(post(21), 413);
    assert!(sum(&metrics(&app), "atoll_requests_refused_total", &["reason=\"body_too_large\""]) >= 2.0);
}

#[test]
fn the_access_log_is_switched_off_and_on_while_requests_are_counted() {
    let rest = "[[routes]]\nname = \"web\"\nbackends = [{ service = \"web\" }]\n[services.web]\ncommand = \"python3 echo.py\"\n";
    let app = Application::with_manifest(&format!("access_log = false\n{rest}"));
    app.up();
    let is_logged = |path: &str| {
        let log = std::fs::read_to_string(app.path(".atoll/logs/access.jsonl")).unwrap_or_default();
        log.contains(&format!("\"path\":\"{path}\""))
    };
    assert_eq!(app.request(&[], "/unseen").0, 200);
    let table = app.atoll(&["top", "--once", "-o", "json"]).succeeded().json();
    let web = table.as_array().unwrap().iter().find(|row| row["name"] == "web.0").unwrap();
    assert!(web["requests_per_second"].is_null(), "{web}");
    assert!(sum(&metrics(&app), "http_server_request_duration_seconds_count", &[]) >= 1.0);

    let text = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("atoll.toml", &text.replace("access_log = false\n", ""));
    let changed = app.atoll(&["up", "-d", "--wait"]).succeeded().stderr;
    assert!(changed.contains("~ gateway gateway: access_log"), "{changed}");
    until_blocking("a line", BOUND, || {
        assert_eq!(app.request(&[], "/seen").0, 200);
        is_logged("/seen").then_some(())
    });
    assert!(!is_logged("/unseen"));
}

#[test]
fn the_dashboard_moves_with_the_manifest_and_a_taken_port_names_its_holder() {
    let ((first, _one), (second, _other)) = (free_port(), free_port());
    let manifest = |port: u16| {
        format!(
            "name = \"test\"\n[gateway]\nlisten = \"127.0.0.1:{{GATEWAY}}\"\n[dashboard]\nlisten = \"127.0.0.1:{port}\"\n\
             [services.web]\ncommand = \"python3 echo.py\"\n"
        )
    };
    let app = Application::new(&[("atoll.toml", &manifest(first))]);
    let live = |port: u16| curl(&[], &format!("http://127.0.0.1:{port}/livez")).0;
    let holder = TcpListener::bind(("127.0.0.1", first)).unwrap();
    let refused = app.atoll(&["up", "-d"]);
    let pid = std::process::id().to_string();
    assert!(
        refused.code() == 1 && refused.stderr.contains(&pid) && refused.stderr.contains("[dashboard]"),
        "{}",
        refused.stderr
    );
    drop(holder);
    app.up();
    assert_eq!((live(first), live(second)), (200, 0));
    let holder = TcpListener::bind(("127.0.0.1", second)).unwrap();
    app.write("atoll.toml", &manifest(second));
    let refused = app.atoll(&["up", "-d"]);
    assert!(refused.code() == 1 && refused.stderr.contains(&pid), "{}", refused.stderr);
    assert_eq!(live(first), 200, "what was there is left as it is");
    drop(holder);
    app.atoll(&["up", "-d", "--wait"]).succeeded();
    until_blocking("the move", BOUND, || ((live(first), live(second)) == (0, 200)).then_some(()));
}
