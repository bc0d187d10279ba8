//! Kills under load: no request that may be repeated is lost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use rustix::process::Signal;
use serde_json::Value;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, signal};
use crate::load::{RATE, under_load};

const REPLICATED: &str = r#"
[[routes]]
name = "all"
matches = [{ path = { prefix = "/" } }]
backends = [{ service = "web" }]

[services.web]
command = "python3 echo.py"
replicas = 2
"#;

#[test]
fn killing_one_of_two_instances_fails_no_get() {
    let app = Application::with_manifest(REPLICATED);
    app.up();
    let (sent, failed) = under_load(&app, "/", |sent| {
        for round in 0..3u64 {
            let before = sent.load(Ordering::Relaxed);
            until_blocking("some load", BOUND, || (sent.load(Ordering::Relaxed) > before + RATE / 4).then_some(()));
            let victim = app.pid("web", round % 2);
            signal(victim, Signal::KILL);
            until_blocking("the restart", BOUND, || {
                let all = app.instances();
                let renewed = |i: &Value| i["ready"] == true && i["pid"] != victim;
                (all.len() == 2 && all.iter().all(renewed)).then_some(())
            });
        }
    });
    assert!(failed.is_empty(), "{} of {sent}: {:?}", failed.len(), failed.first());

    // Each kill took its instance out of rotation, and the next start put it back.
    let log = std::fs::read_to_string(app.path(".atoll/logs/daemon.log")).unwrap();
    let count = |message: &str| log.lines().filter(|line| line.contains(&format!("\"message\":\"{message}\""))).count();
    assert_eq!((count("in rotation"), count("out of rotation")), (2 + 3, 3), "{log}");
}

#[test]
fn a_restart_lets_a_download_in_flight_finish() {
    const BYTES: usize = 64 << 20;
    let app = Application::with_manifest(
        &REPLICATED.replace("python3 echo.py", "python3 -m http.server --directory files --bind ${HOST} ${PORT}"),
    );
    app.write("files/large", &"x".repeat(BYTES));
    app.up();
    let mut stream = TcpStream::connect(("127.0.0.1", app.gateway)).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = vec![0; 1];
    stream.read_exact(&mut answer).unwrap();

    // The server ends at once on SIGTERM, whatever it is doing: the signal must wait for the download.
    let mut restart = app.command(&["restart", "web"]).spawn().unwrap();
    let log = || std::fs::read_to_string(app.path(".atoll/logs/daemon.log")).unwrap();
    let stopping = "\"message\":\"stopping\"";
    until_blocking("an instance to stop", BOUND, || log().contains(stopping).then_some(()));
    stream.read_to_end(&mut answer).unwrap();
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(answer.len() - head, BYTES);
    assert!(restart.wait().unwrap().success());
    assert_eq!(log().matches(stopping).count(), 3, "both were replaced, and the one that stood in is gone");
}

#[test]
fn each_request_leaves_one_line_in_the_access_log() {
    let app = Application::with_manifest(REPLICATED);
    app.up();
    for number in 0..20 {
        assert_eq!(app.get(&format!("/page/{number}?token=secret")).0, 200);
    }
    let records = until_blocking("twenty records", BOUND, || {
        let text = std::fs::read_to_string(app.path(".atoll/logs/access.jsonl")).unwrap_or_default();
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (records.len() == 20).then_some(records)
    });
    for record in &records {
        assert_eq!((record["service"].as_str(), record["route"].as_str()), (Some("web"), Some("all")), "{record}");
        assert_eq!((record["status"].as_u64(), record["attempts"].as_u64()), (Some(200), Some(1)), "{record}");
        assert!(record["duration_ms"].is_number() && record["request_id"].is_string(), "{record}");
        assert!(!record.to_string().contains("secret"), "{record}");
    }
    let instances: std::collections::BTreeSet<u64> = records.iter().filter_map(|r| r["instance"].as_u64()).collect();
    assert_eq!(instances.len(), 2, "both instances took some");
}
