//! What a daemon that was killed leaves, and what one that starts meets: it is cleared, told, and holds nobody up for ever.

use std::fs::File;
use std::process::Stdio;

use rustix::fs::{CWD, FlockOperation, Mode, flock, mkfifoat};
use rustix::process::Signal;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, is_running, signal, wait};
use crate::live::{data_plane, shim};

/// The value that a record must not keep longer than it is of use.
const SECRET: &str = "a-value-that-is-nobodys-business";

const APPLICATION: &str = r#"
[[routes]]
name = "front"
matches = [{ path = { prefix = "/" } }]
backends = [{ service = "front" }]

[services.front]
command = "python3 echo.py"
env_file = "front.env"
"#;

fn application() -> Application {
    let app = Application::with_manifest(APPLICATION);
    app.write("front.env", &format!("SECRET={SECRET}\n"));
    app
}

/// Kills the daemon and stops its data plane, once that is nobody's child any more: the kernel ends a stopped process
/// whose group loses its last parent in the session (SIGHUP, then SIGCONT).
fn kill_daemon_and_freeze(app: &Application, plane: i32) {
    let parent = || std::fs::read_to_string(format!("/proc/{plane}/status")).unwrap();
    let former = format!("PPid:\t{}\n", app.daemon_pid());
    app.kill_daemon();
    until_blocking("another parent", BOUND, || (!parent().contains(&former)).then_some(()));
    signal(plane, Signal::STOP);
}

#[test]
fn what_a_killed_daemon_left_is_gone_after_a_down() {
    let app = application();
    app.up();
    let (record, socket) = (app.path(".atoll/run/record.json"), app.path(".atoll/run/atoll.sock"));
    until_blocking("the record", BOUND, || std::fs::read_to_string(&record).ok()?.contains(SECRET).then_some(()));
    app.kill_daemon();
    assert!(record.exists() && socket.exists());
    app.atoll(&["down"]).succeeded();
    assert!(!record.exists() && !socket.exists());
    // Likewise where nothing else was left.
    app.write(".atoll/run/record.json", SECRET);
    app.atoll(&["down"]).succeeded();
    assert!(!record.exists());
}

#[test]
fn a_state_file_that_is_none_holds_no_daemon_up() {
    let app = application();
    app.up();
    let front = app.pid("front", 0);
    app.kill_daemon();
    for name in ["ports.json", "scale.json", "run/record.json"] {
        let path = app.path(&format!(".atoll/{name}"));
        let _ = std::fs::remove_file(&path);
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    }
    app.up();
    assert_eq!(app.pid("front", 0), front);
    let events = app.atoll(&["events"]).succeeded().stdout;
    assert_eq!(events.matches("it is not a file").count(), 3, "{events}");
}

#[test]
fn an_up_that_is_interrupted_while_its_daemon_starts_ends_with_it() {
    let app = application();
    app.up();
    let (former, front) = (app.daemon_pid(), app.pid("front", 0));
    let plane = until_blocking("the data plane", BOUND, || data_plane(&app));
    // Whoever is to adopt one that is frozen takes some seconds.
    kill_daemon_and_freeze(&app, plane);
    let mut up = app.command(&["up", "-d"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let starting = until_blocking("the next daemon", BOUND, || {
        let text = std::fs::read_to_string(app.path(".atoll/run/lock")).ok()?;
        text.trim().parse::<i32>().ok().filter(|pid| *pid != former)
    });
    signal(up.id().cast_signed(), Signal::TERM);
    let ended = wait(&mut up);
    assert_eq!(ended.code(), 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("interrupted before the daemon was up"), "{}", ended.stderr);
    assert!(!is_running(starting) && is_running(front));
    app.up();
    assert_eq!((app.pid("front", 0), app.get("/").0), (front, 200));
}

#[test]
fn a_daemon_that_neither_listens_nor_ends_is_named_by_its_pid() {
    let app = application();
    std::fs::create_dir_all(app.path(".atoll/run")).unwrap();
    app.write(".atoll/run/lock", &std::process::id().to_string());
    let lock = File::open(app.path(".atoll/run/lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();

    let mut up = app.command(&["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // That it starts daemons, of which none gets the lock, shows that it listens to signals.
    until_blocking("a daemon", BOUND, || app.path(".atoll/logs/daemon.log").exists().then_some(()));
    signal(up.id().cast_signed(), Signal::INT);
    assert_eq!(wait(&mut up).code(), 0);

    let down = app.atoll(&["down"]);
    let what = format!("the daemon, pid {}, does not answer", std::process::id());
    let hint = format!("`kill -9 {}` ends it", std::process::id());
    assert!(down.code() == 1 && down.stderr.contains(&what) && down.stderr.contains(&hint), "{}", down.stderr);
}

#[test]
fn what_a_daemon_finds_frozen_is_told() {
    let app = application();
    app.up();
    let (front, shim) = (app.pid("front", 0), shim(&app, "front.0"));
    let plane = until_blocking("the data plane", BOUND, || data_plane(&app));
    kill_daemon_and_freeze(&app, plane);
    signal(shim, Signal::STOP);
    app.up();
    assert_eq!((app.pid("front", 0), app.get("/").0), (front, 200));
    let events = app.atoll(&["events"]).succeeded().stdout;
    let log = std::fs::read_to_string(app.path(".atoll/logs/daemon.log")).unwrap();
    for (kind, pid, warning) in [
        ("data_plane_lost", plane, "a data plane that cannot be adopted is stopped"),
        ("shim_frozen", shim, "its shim did not answer and was told to go on"),
        ("shim_answers", shim, ""),
    ] {
        let is_it = |line: &&str| line.contains(kind) && line.contains(&format!("pid {pid}"));
        assert_eq!(events.lines().filter(is_it).count(), 1, "{kind}: {events}");
        assert!(log.contains(warning), "{warning}: {log}");
    }
}
