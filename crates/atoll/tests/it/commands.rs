//! What one does with an application that runs, or does not: its history, its cost, its environment, its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::Signal;
use serde_json::Value;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, is_running, signal};

const SHOP: &str = r#"
[[routes]]
name = "front"
matches = [{ path = { prefix = "/" } }]
backends = [{ service = "front" }]

[services.front]
command = "python3 echo.py"
upstreams = ["back"]
env_file = "keys.env"
environment = { GREETING = "hello" }
databases = ["ledger"]

[services.back]
command = "python3 echo.py"
replicas = 2

[databases.ledger]
migrations = "migrations"
"#;

fn shop() -> Application {
    let app = Application::with_manifest(SHOP);
    app.write("keys.env", "API_KEY=first-secret\n");
    app.write("migrations/0001_entry.sql", "CREATE TABLE entry (id INTEGER PRIMARY KEY);\n");
    app
}

/// The lines of a child's stdout as they come.
fn follow(child: &mut Child) -> Receiver<String> {
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = channel();
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn events(app: &Application, arguments: &[&str]) -> Vec<Value> {
    let all = [&["events", "-o", "json"], arguments].concat();
    let text = app.atoll(&all).succeeded().stdout;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

/// Head and body of an answer of the daemon on its socket.
fn ask(app: &Application, target: &str) -> (String, String) {
    let mut stream = UnixStream::connect(app.path(".atoll/run/atoll.sock")).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nhost: atoll\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn the_history_outlives_the_daemon_and_says_why() {
    let app = shop();
    assert!(events(&app, &[]).is_empty(), "nothing has happened yet");
    app.up();
    let before = app.pid("back", 1);
    signal(before, Signal::KILL);
    until_blocking("the restart", BOUND, || (app.pid_now("back", 1).is_some_and(|pid| pid != before)).then_some(()));
    app.atoll(&["down"]).succeeded();
    app.up();
    app.atoll(&["down"]).succeeded();

    let all = events(&app, &[]);
    let kinds_all = kinds(&all);
    for kind in ["daemon_started", "started", "ready", "exited", "restarting", "stopped", "daemon_stopping"] {
        assert!(kinds_all.contains(&kind), "{kind} in {kinds_all:?}");
    }
    assert_eq!(kinds_all.iter().filter(|kind| **kind == "daemon_started").count(), 2, "both daemons");
    assert_eq!(kinds_all.last(), Some(&"daemon_stopped"));
    assert!(!kinds_all.contains(&"build_output"));
    let exited = all.iter().find(|event| event["kind"] == "exited").unwrap();
    assert!(exited["message"].as_str().unwrap().contains("SIGKILL"), "{exited}");

    let back = events(&app, &["back"]);
    assert!(!back.is_empty() && back.iter().all(|event| event["service"] == "back"));
    assert_eq!(events(&app, &["-n", "3"]).len(), 3);
    assert!(events(&app, &["--since", "1ns"]).is_empty());
    assert_eq!(app.atoll(&["events", "nobody"]).code(), 1);
    let table = app.atoll(&["events"]).succeeded().stdout;
    assert!(table.starts_with("TIME") && table.contains("back.1"), "{table}");
    assert_eq!(app.atoll(&["events", "-f"]).code(), 3, "there is nobody to follow");
}

#[test]
fn followed_events_come_once_and_end_with_the_daemon() {
    let app = shop();
    app.up();
    let mut child = app.command(&["events", "-f", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = follow(&mut child);
    let mut seen: Vec<String> = Vec::new();
    let mut until = |kind: &str| {
        let found = |line: &String| line.contains(&format!("\"kind\":\"{kind}\""));
        while !seen.iter().any(found) {
            seen.push(lines.recv_timeout(BOUND).unwrap());
        }
    };
    until("daemon_started");
    app.atoll(&["stop", "back"]).succeeded();
    until("stopped");
    app.atoll(&["down"]).succeeded();
    until("daemon_stopped");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let written = std::fs::read_to_string(app.path(".atoll/logs/events.jsonl")).unwrap();
    assert_eq!(seen, written.lines().collect::<Vec<_>>(), "all of it, in order, nothing twice");
}

#[test]
fn a_noisy_build_hides_no_event() {
    let app = Application::with_manifest(
        "[services.web]\nbuild = \"sh -c 'seq 200000; echo done'\"\ncommand = \"python3 echo.py\"\n",
    );
    app.up();
    let all = until_blocking("the event of readiness", BOUND, || {
        let all = events(&app, &["web"]);
        kinds(&all).contains(&"ready").then_some(all)
    });
    assert_eq!(kinds(&all), ["build_started", "build_finished", "started", "ready"]);
}

#[test]
fn top_measures_instances_and_requests() {
    let app = shop();
    assert_eq!(app.atoll(&["top", "--once"]).code(), 3);
    app.up();
    let mut top = app.command(&["top", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = follow(&mut top);
    let row = |rows: &Value, name: &str| rows.as_array().unwrap().iter().find(|row| row["name"] == name).cloned();
    let busy = until_blocking("requests to be counted", BOUND, || {
        assert_eq!(app.get("/call/BACK_URL/").0, 200);
        let rows: Value = serde_json::from_str(&lines.try_recv().ok()?).unwrap();
        let rate = row(&rows, "front.0").unwrap()["requests_per_second"].as_f64().unwrap();
        (rate > 0.0).then_some(rows)
    });
    end(top);
    let front = row(&busy, "front.0").unwrap();
    assert_eq!((front["service"].as_str(), front["instance"].as_u64()), (Some("front"), Some(0)));
    assert!(front["memory_bytes"].as_u64().unwrap() > 1 << 20, "{front}");
    assert!(front["cpu_percent"].is_number() && front["processes"] == 1 && front["errors_per_second"] == 0.0);
    let daemon = row(&busy, "atoll (daemon)").unwrap();
    assert_eq!(daemon["pid"].as_i64(), Some(i64::from(app.daemon_pid())));

    let only = app.atoll(&["top", "--once", "back", "-o", "json"]).succeeded().json();
    assert!(row(&only, "back.1").is_some() && row(&only, "front.0").is_none());
    let table = app.atoll(&["top"]).succeeded().stdout;
    assert!(table.starts_with("NAME") && table.contains("front.0") && table.contains("atoll (daemon)"), "{table}");
    assert_eq!(app.atoll(&["top", "nobody"]).code(), 1);
}

#[test]
fn top_gives_the_terminal_back() {
    let app = shop();
    app.up();
    let inner = format!("{} top; echo left with $?; stty -a", env!("CARGO_BIN_EXE_atoll"));
    let mut script = Command::new("script");
    script.args(["-qec", &inner, "/dev/null"]).current_dir(app.path("")).env("SHELL", "/bin/sh");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (sender, bytes) = channel();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = stdout.read(&mut chunk) {
            sender.send(chunk[..count].to_vec()).unwrap();
        }
    });
    let mut shown = Vec::new();
    until_blocking("the screen", BOUND, || {
        shown.extend(bytes.try_iter().flatten());
        String::from_utf8_lossy(&shown).contains("front.0").then_some(())
    });
    child.stdin.take().unwrap().write_all(b"xq").unwrap();
    until_blocking("the end of the script", BOUND, || child.try_wait().unwrap());
    reader.join().unwrap();
    shown.extend(bytes.try_iter().flatten());
    let shown = String::from_utf8_lossy(&shown);
    let (screen, after) = shown.split_once("left with 0").unwrap_or_else(|| panic!("{shown}"));
    assert!(screen.contains("\x1b[?1049h") && screen.contains("\x1b[?1049l") && screen.contains("\x1b[?25h"));
    assert!(after.contains(" icanon") && after.contains(" echo ") && !after.contains("-icanon"), "{after}");
}

#[test]
fn exec_gives_a_command_the_environment_of_an_instance() {
    let app = shop();
    let print = "printf '%s|' \"$PORT\" \"$ATOLL_INSTANCE\" \"$API_KEY\" \"$BACK_URL\" \"$DATABASE_URL\" \"$PWD\"";
    let cold = app.atoll(&["exec", "front", "--", "sh", "-c", print]).succeeded();
    assert!(cold.stderr.contains("not running"), "{}", cold.stderr);
    assert!(!cold.stderr.contains("first-secret"));
    app.up();
    app.write("keys.env", "API_KEY=second-secret\n");
    let warm = app.atoll(&["exec", "front", "--", "sh", "-c", print]).succeeded();
    assert_eq!(warm.stdout, cold.stdout, "the daemon says what runs, not what the file says now");
    assert_eq!(warm.stderr, "");
    let port = app.instances().iter().find(|i| i["service"] == "front").unwrap()["port"].to_string();
    assert!(warm.stdout.starts_with(&format!("{port}|front.0|first-secret|http://127.0.0.1:")), "{}", warm.stdout);

    let second = app.atoll(&["exec", "back.1", "sh", "-c", "echo $ATOLL_INSTANCE; env"]).succeeded().stdout;
    assert!(second.starts_with("back.1\n") && !second.contains("first-secret") && !second.contains("ATOLL_RUN"));
    let mut shell = app.command(&["exec", "front", "--", "sh", "-c", "read line; echo \"got $line\"; exit 42"]);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(b"input\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(42), &b"got input\n"[..]));

    for (arguments, part) in [
        (&["exec", "nobody", "true"][..], "nobody"),
        (&["exec", "back.7", "true"], "it has 0, 1"),
        (&["exec", "front", "no-such-program"], "not found in PATH"),
    ] {
        let ended = app.atoll(arguments);
        assert_eq!(ended.code(), 1);
        assert!(ended.stderr.contains(part) && !ended.stderr.contains("secret"), "{}", ended.stderr);
    }
    assert_eq!(app.atoll(&["exec", "front"]).code(), 2);
}

#[test]
fn run_adds_a_copy_out_of_rotation_that_ends_with_ctrl_c() {
    let app = shop();
    let table = app.atoll(&[
        "run",
        "front",
        "--",
        "python3",
        "-c",
        concat!(
            "import os, sqlite3; path = os.environ['DATABASE_URL'].removeprefix('sqlite://');",
            "print(sqlite3.connect(path).execute('select count(*) from entry').fetchone())"
        ),
    ]);
    assert_eq!(table.succeeded().stdout, "(0,)\n", "its databases are prepared before anything ever ran");
    app.up();
    let before = app.instances();
    let mut copy = app.command(&["run", "front"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = follow(&mut copy);
    let first = lines.recv_timeout(BOUND).unwrap();
    let port: u16 = first.strip_prefix("listening on ").unwrap().parse().unwrap();
    assert!(before.iter().all(|instance| instance["port"] != port));
    let (status, _, body) = crate::application::curl(&[], &format!("http://127.0.0.1:{port}/direct"));
    assert!(
        status == 200 && body.contains("first-secret") && body.contains(&format!("front.one-off-{port}")),
        "{body}"
    );
    for _ in 0..20 {
        assert!(app.get("/").1.contains("\"front.0\""), "the gateway knows only the instances");
    }
    assert_eq!(app.instances(), before);
    signal(i32::try_from(copy.id()).unwrap(), Signal::TERM);
    assert_eq!(copy.wait().unwrap().code(), Some(0), "the program itself had the signal");
    assert_eq!(app.atoll(&["run", "front", "sh", "-c", "exit 7"]).code(), 7);
    assert_eq!(app.atoll(&["run", "front.0"]).code(), 1);
}

#[test]
fn wait_says_when_a_state_is_reached_and_when_it_cannot_be() {
    let app = Application::with_manifest(
        r#"
[services.web]
command = "python3 echo.py"
[services.seed]
command = "sh -c 'exit 0'"
restart = "no"
[services.bad]
command = "sh -c 'echo the disk is on fire; exit 7'"
restart = "no"
[services.late]
command = "python3 echo.py"
probes = { readiness = { exec = "test -e open" } }
"#,
    );
    assert_eq!(app.atoll(&["wait", "web"]).code(), 3);
    app.atoll(&["wait", "--for=stopped", "web"]).succeeded();
    app.atoll(&["up", "-d", "web", "seed", "late"]).succeeded();
    let ready = app.atoll(&["wait", "web", "seed", "-o", "json"]).succeeded().json();
    assert_eq!(ready.as_array().unwrap().len(), 2);
    app.atoll(&["wait", "--for=exited", "seed"]).succeeded();

    let bad = app.atoll(&["wait", "bad"]);
    assert!(bad.code() == 3 && bad.stderr.contains("was not started"), "{}", bad.stderr);
    assert_eq!(app.atoll(&["start", "bad"]).code(), 3);
    let bad = app.atoll(&["wait", "bad"]);
    assert!(bad.code() == 3 && bad.stderr.contains("status 7") && bad.stderr.contains("on fire"), "{}", bad.stderr);
    let late = app.atoll(&["wait", "--timeout", "1", "late"]);
    assert!(late.code() == 3 && late.stderr.contains("after 1 s: late.0"), "{}", late.stderr);
    let mut waiting = app.command(&["wait", "late"]).spawn().unwrap();
    app.write("open", "");
    assert_eq!(waiting.wait().unwrap().code(), Some(0));

    let mut stopped = app.command(&["wait", "--for", "stopped", "web"]).spawn().unwrap();
    assert!(stopped.try_wait().unwrap().is_none());
    app.atoll(&["down"]).succeeded();
    assert_eq!(stopped.wait().unwrap().code(), Some(0));
    assert_eq!(app.atoll(&["wait", "--for=stopped", "nobody"]).code(), 1);
    assert_eq!(app.atoll(&["wait", "--for=perfect"]).code(), 2);
}

#[test]
fn the_daemon_tells_of_itself_and_stops() {
    let app = shop();
    let status = app.atoll(&["daemon", "status", "-o", "json"]);
    assert_eq!((status.code(), status.stdout.as_str()), (3, ""));
    app.up();
    let status = app.atoll(&["daemon", "status", "-o", "json"]).succeeded().json();
    assert_eq!(status["pid"].as_i64(), Some(i64::from(app.daemon_pid())));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["uptime"].as_f64().unwrap() > 0.0 && status["memory_bytes"].as_u64().unwrap() > 1 << 20);
    let shown = app.atoll(&["daemon", "status"]).succeeded().stdout;
    assert!(shown.contains("uptime") && shown.contains("MiB") && shown.contains("atoll.toml"), "{shown}");
    let front = app.pid("front", 0);
    app.atoll(&["daemon", "stop"]).succeeded();
    assert!(!is_running(front));
    assert_eq!(app.atoll(&["daemon", "status"]).code(), 3);
    assert!(app.atoll(&["daemon", "stop", "--keep"]).succeeded().stderr.contains("was not running"));
}

#[test]
fn a_killed_instance_is_started_again_and_others_are_left_alone() {
    let app = shop();
    app.up();
    let (first, second) = (app.pid("back", 0), app.pid("back", 1));
    app.atoll(&["kill", "back.1"]).succeeded();
    until_blocking("the restart", BOUND, || app.pid_now("back", 1).filter(|pid| *pid != second));
    assert!(is_running(first) && !is_running(second));
    let exited = until_blocking("the event", BOUND, || {
        events(&app, &["back"]).into_iter().find(|event| event["kind"] == "exited")
    });
    assert!(exited["instance"] == 1 && exited["message"].as_str().unwrap().contains("SIGKILL"));

    for arguments in [&["kill", "nobody"][..], &["kill", "back.0", "nobody"], &["kill", "back.7"]] {
        assert_ne!(app.atoll(arguments).code(), 0, "{arguments:?}");
    }
    assert!(is_running(first), "nothing is sent when one of the names is wrong");
    // What is not there is refused by every command alike; what is there and does not run is another matter.
    for arguments in [&["kill", "back.7"][..], &["exec", "back.7", "true"]] {
        let refused = app.atoll(arguments);
        assert_eq!(refused.code(), 1, "{}", refused.stderr);
        assert!(refused.stderr.contains("no such instance") && refused.stderr.contains("0, 1"), "{}", refused.stderr);
    }
    app.atoll(&["stop", "back"]).succeeded();
    assert_eq!((app.atoll(&["kill", "back"]).code(), app.atoll(&["kill", "back.1"]).code()), (3, 3));
    for arguments in [&["kill"][..], &["kill", "back", "--signal", "NOPE"], &["kill", "back.x"]] {
        assert_eq!(app.atoll(arguments).code(), 2, "{arguments:?}");
    }
}

#[test]
fn endpoints_are_told_once_and_as_a_stream() {
    let app = shop();
    app.up();
    let (head, body) = ask(&app, "/v1/services/back/endpoints");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let all: Value = serde_json::from_str(&body).unwrap();
    let ports: Vec<String> = app.instances()[..2].iter().map(|i| format!("127.0.0.1:{}", i["port"])).collect();
    for (index, port) in ports.iter().enumerate() {
        let expected = serde_json::json!({ "instance": index, "address": port, "ready": true, "state": "ready" });
        assert_eq!(all[index], expected);
    }
    let (head, body) = ask(&app, "/v1/services/nobody/endpoints?watch");
    assert!(head.starts_with("HTTP/1.1 404") && head.contains("application/problem+json"), "{head}");
    assert!(body.contains("nobody") && body.contains("back, front"), "{body}");

    let socket = app.path(".atoll/run/atoll.sock");
    let mut curl = Command::new("curl");
    curl.args(["-siN", "--unix-socket"]).arg(socket).arg("http://atoll/v1/services/back/endpoints?watch");
    let mut curl = curl.stdout(Stdio::piped()).spawn().unwrap();
    let lines = follow(&mut curl);
    let mut id = 0;
    let mut next = || {
        let mut data = Value::Null;
        loop {
            let line = lines.recv_timeout(BOUND).unwrap();
            match line.split_once(": ") {
                Some(("content-type", kind)) => assert_eq!(kind, "text/event-stream"),
                Some(("event", name)) => assert_eq!(name, "endpoints"),
                Some(("id", text)) => {
                    let generation = text.parse::<u64>().unwrap();
                    assert!(generation > id, "{generation} after {id}");
                    id = generation;
                }
                Some(("data", text)) => data = serde_json::from_str(text).unwrap(),
                _ if line.is_empty() && !data.is_null() => return data,
                _ => {}
            }
        }
    };
    assert_eq!(next(), all, "the whole state comes first");
    app.atoll(&["restart", "front"]).succeeded();
    app.atoll(&["stop", "back"]).succeeded();
    let mut last = next();
    assert_ne!(last, all, "a change of another service is no news");
    while last != serde_json::json!([]) {
        last = next();
    }
    app.atoll(&["down"]).succeeded();
    assert_eq!(curl.wait().unwrap().code(), Some(0), "the stream ends as a stream does");
}

#[test]
fn every_command_helps() {
    let app = shop();
    for words in
        [&["events"][..], &["top"], &["exec"], &["run"], &["wait"], &["kill"], &["daemon"], &["daemon", "stop"]]
    {
        let help = app.atoll(&[words, &["--help"]].concat()).succeeded().stdout;
        assert!(help.contains("Usage: atoll"), "{help}");
    }
    assert!(!app.atoll(&["daemon", "--help"]).stdout.contains("manifest"), "how `up` starts it is our own affair");
}
