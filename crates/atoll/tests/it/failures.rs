//! What people see when something is wrong: what, where, why, what to do; and that nothing that runs is lost.

use std::net::TcpListener;

use rustix::process::Signal;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, is_running, signal};

/// A healthy service and one that a test breaks.
fn beside_a_healthy_one(broken: &str) -> Application {
    Application::with_manifest(&format!(
        "[[routes]]\nname = \"all\"\nmatches = [{{ path = {{ prefix = \"/\" }} }}]\nbackends = [{{ service = \"good\" }}]\n\
         [services.good]\ncommand = \"python3 echo.py\"\n{broken}"
    ))
}

/// Brings it up, expects that to fail, and that the healthy service runs all the same.
#[track_caller]
fn fails_with(app: &Application, expected: &[&str]) -> String {
    let up = app.atoll(&["up", "-d", "--wait", "--wait-timeout", "10"]);
    let shown = format!("{}{}", up.stdout, up.stderr);
    assert_eq!(up.code(), 3, "{shown}");
    for part in expected {
        assert!(shown.contains(part), "`{part}` is missing in: {shown}");
    }
    until_blocking("the healthy service", BOUND, || (app.get("/").0 == 200).then_some(()));
    shown
}

#[test]
fn ten_mistakes_are_all_reported_with_place_and_hint() {
    let app = Application::new(&[("atoll.toml", include_str!("ten_mistakes.toml"))]);
    let check = app.atoll(&["check"]);
    assert_eq!(check.code(), 1);
    let json = app.atoll(&["check", "-o", "json"]).json();
    let all = json.as_array().unwrap();
    for (line, part) in [
        (5, "lissten"),
        (9, "nowhere"),
        (10, "fast"),
        (14, "comand"),
        (18, "secrets"),
        (19, "ghost"),
        (20, "always-ish"),
        (25, "third"),
        (34, "regular expression"),
        (38, "not a host"),
    ] {
        assert!(check.stderr.contains(&format!("atoll.toml:{line}:")), "{line} in {}", check.stderr);
        let found = all.iter().find(|d| d["line"] == line && d["message"].as_str().unwrap().contains(part));
        let found = found.unwrap_or_else(|| panic!("line {line}, `{part}`, in {json:#}"));
        assert_eq!(found["severity"], "error");
        assert!(found["code"].is_string() && found["hint"].is_string(), "{found:#}");
    }
    assert_eq!(app.atoll(&["up"]).code(), 1);
    assert!(!app.path(".atoll/run/atoll.sock").exists(), "nothing was started");
}

#[test]
fn a_missing_manifest_says_where_was_looked() {
    let app = Application::new(&[]);
    let ps = app.atoll(&["ps"]);
    assert_eq!(ps.code(), 1);
    assert!(ps.stderr.contains("atoll.toml") && ps.stderr.contains("hint"), "{}", ps.stderr);
    assert_eq!(app.atoll(&["frobnicate"]).code(), 2);
}

#[test]
fn a_failing_build_shows_its_last_lines() {
    let app = beside_a_healthy_one(
        "[services.bad]\nbuild = \"sh build.sh\"\ncommand = \"true\"\n[services.also-bad]\nbuild = \"sh build.sh\"\ncommand = \"true\"\n",
    );
    app.write("build.sh", "echo built >> builds\necho compiling\necho 'error: no such crate' >&2\nexit 101\n");
    let shown = fails_with(&app, &["build failed", "no such crate", "101"]);
    assert!(shown.contains("sh build.sh"), "{shown}");
    assert_eq!(std::fs::read_to_string(app.path("builds")).unwrap().lines().count(), 1, "an equal build runs once");
}

#[test]
fn a_missing_build_program_is_named() {
    let app = beside_a_healthy_one("[services.bad]\nbuild = \"cargoo build\"\ncommand = \"true\"\n");
    fails_with(&app, &["cargoo", "not found"]);
}

#[test]
fn a_missing_executable_is_named_and_heals_when_it_appears() {
    let app = beside_a_healthy_one("[services.bad]\ncommand = \"./later.sh\"\n");
    fails_with(&app, &["later.sh"]);
    app.write("later.sh", "#!/bin/sh\nexec python3 echo.py\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(app.path("later.sh"), executable).unwrap();
    app.atoll(&["start", "bad"]).succeeded();
}

#[test]
fn a_crash_loop_shows_itself_with_the_last_lines() {
    let app = beside_a_healthy_one("[services.bad]\ncommand = \"sh -c 'echo the disk is on fire >&2; exit 7'\"\n");
    fails_with(&app, &["bad.0", "what keeps ending is tried again"]);
    let ps = app.atoll(&["ps"]);
    assert!(ps.stdout.contains("the disk is on fire") && ps.stdout.contains("status 7"), "{}", ps.stdout);
}

#[test]
fn a_service_that_never_gets_ready_says_why() {
    let app = beside_a_healthy_one(
        "[services.bad]\ncommand = \"python3 echo.py\"\nprobes = { readiness = { exec = \"false\" } }\n",
    );
    fails_with(&app, &["bad.0", "not ready"]);
}

#[test]
fn a_port_that_a_stranger_took_meanwhile_is_replaced_and_said() {
    let app = beside_a_healthy_one("");
    // Port 0 is one from the range that is kept: not written by anybody.
    app.write(
        "atoll.toml",
        &std::fs::read_to_string(app.path("atoll.toml")).unwrap().replace(&app.gateway.to_string(), "0"),
    );
    app.up();
    let gateway = |app: &Application| app.atoll(&["describe", "gateway", "-o", "json"]).json()["address"].clone();
    let (address, port) = (gateway(&app), app.instances()[0]["port"].clone());
    app.atoll(&["down"]).succeeded();
    let taken: u16 = address.as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let _strangers = [taken, u16::try_from(port.as_u64().unwrap()).unwrap()]
        .map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    app.up();
    assert_ne!(gateway(&app), address);
    assert_ne!(app.instances()[0]["port"], port);
}

#[test]
fn a_disk_that_is_full_costs_logs_and_nothing_else() {
    let app = beside_a_healthy_one("");
    std::fs::create_dir_all(app.path(".atoll/logs")).unwrap();
    for name in ["daemon.log", "access.jsonl", "good.0.jsonl"] {
        std::os::unix::fs::symlink("/dev/full", app.path(".atoll/logs").join(name)).unwrap();
    }
    app.up();
    for _ in 0..50 {
        assert_eq!(app.get("/").0, 200);
    }
    let before = app.pid("good", 0);
    signal(before, Signal::KILL);
    until_blocking("the restart", BOUND, || {
        let instance = &app.instances()[0];
        (instance["ready"] == true && instance["pid"] != before).then_some(())
    });
    app.atoll(&["restart", "good"]).succeeded();
    app.atoll(&["down"]).succeeded();
}

#[test]
fn a_stop_does_not_mind_another_services_failed_build() {
    let app = beside_a_healthy_one("[services.bad]\nbuild = \"false\"\ncommand = \"true\"\n");
    fails_with(&app, &["bad"]);
    app.atoll(&["stop", "good", "bad"]).succeeded();
    assert!(app.instances().iter().all(|instance| instance["pid"].is_null()));
}

#[test]
fn a_dependency_that_cannot_be_built_fails_the_start_at_once() {
    let app = beside_a_healthy_one(
        "[services.base]\nbuild = \"false\"\ncommand = \"true\"\n\
         [services.top]\ncommand = \"python3 echo.py\"\ndepends_on = { base = \"healthy\" }\n",
    );
    for arguments in [&["up", "-d", "top"][..], &["up", "-d", "--wait", "top"]] {
        let up = app.atoll(arguments);
        assert!(up.code() == 3 && up.stderr.contains("base"), "{}", up.stderr);
    }
}

#[test]
fn a_taken_written_port_names_its_holder() {
    let app = beside_a_healthy_one("");
    let _holder = TcpListener::bind(("127.0.0.1", app.gateway)).unwrap();
    let up = app.atoll(&["up", "-d"]);
    assert_eq!(up.code(), 1);
    let holder = format!("{}", std::process::id());
    assert!(up.stderr.contains(&app.gateway.to_string()) && up.stderr.contains(&holder), "{}", up.stderr);
    assert_eq!(app.atoll(&["ps"]).code(), 3, "no daemon stays behind");
}

#[test]
fn migrations_that_fail_or_change_stop_their_service_alone() {
    let app = beside_a_healthy_one(
        "[databases.ledger]\nmigrations = \"migrations\"\n[services.bank]\ncommand = \"python3 echo.py\"\ndatabases = [\"ledger\"]\n",
    );
    app.write("migrations/0001_accounts.sql", "CREATE TABLE account (id INTEGER PRIMARY KEY);\n");
    app.write("migrations/0002_broken.sql", "CREATE TABLE entry (id INTEGER);\nINSERT INTO nowhere VALUES (1);\n");
    fails_with(&app, &["0002_broken.sql", "nowhere"]);

    app.write("migrations/0002_broken.sql", "CREATE TABLE entry (id INTEGER);\n");
    app.atoll(&["start", "bank"]).succeeded();
    let database = rusqlite::Connection::open(app.path(".atoll/data/ledger.db")).unwrap();
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('account', 'entry')";
    assert_eq!(database.query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap(), 2);
    drop(database);

    app.atoll(&["down"]).succeeded();
    app.write("migrations/0001_accounts.sql", "CREATE TABLE account (id TEXT PRIMARY KEY);\n");
    fails_with(&app, &["0001_accounts.sql", "checksum"]);
    app.atoll(&["down", "-v"]).succeeded();
    assert!(!app.path(".atoll/data").exists());
    app.up();
}

#[test]
fn a_manifest_that_becomes_invalid_leaves_what_runs_alone() {
    let app = beside_a_healthy_one("");
    app.up();
    let pid = app.pid("good", 0);
    app.write("atoll.toml", "name = ");
    assert_eq!(app.atoll(&["up", "-d"]).code(), 1);
    assert!(is_running(pid));
    assert_eq!(app.get("/").0, 200);
    app.atoll(&["down"]).succeeded();
    app.write("atoll.toml", "name = \"test\"\n[services.good]\ncommand = \"python3 echo.py\"\n");
}

#[test]
fn state_of_a_newer_version_is_refused_and_damaged_state_is_survived() {
    let app = beside_a_healthy_one("");
    app.write(".atoll/format", "99\n");
    let up = app.atoll(&["up", "-d"]);
    assert_eq!(up.code(), 1);
    assert!(up.stderr.contains("newer version") && up.stderr.contains("99"), "{}", up.stderr);
    app.write(".atoll/format", "1\n");
    app.write(".atoll/ports.json", "{ not json");
    app.write(".atoll/scale.json", "[");
    app.write(".atoll/run/instances/good.0/state.json", "\u{0}\u{0}");
    app.write(".atoll/run/instances/good.0/exit.json", "{\"version\": 99}");
    app.up();
    assert_eq!(app.get("/").0, 200);
    let events = app.atoll(&["events"]).succeeded().stdout;
    assert!(events.contains("state_file_damaged") && events.contains("good.0"), "{events}");
}

#[test]
fn malformed_and_oversized_requests_are_refused_and_the_gateway_lives() {
    let app = beside_a_healthy_one("");
    app.up();
    let large = format!("x: {}", "y".repeat(70_000));
    for (arguments, path, expected) in [
        (&["-H", large.as_str()][..], "/", 431),
        (&["-H", "content-length: 99999999999999", "-X", "POST"], "/", 413),
        (&[], "/a/../b", 400),
        (&[], "/a/%2e%2e/b", 400),
        (&[], "/a%2fb", 400),
        (&["-H", "host: a b"], "/", 400),
    ] {
        let (status, head, _) = app.request(arguments, path);
        assert_eq!(status, expected, "{path} {head} {:.40}", arguments.join(" "));
    }
    let (status, head, body) = app.request(&[], "/a%2fb");
    assert!(head.contains("application/problem+json") && body.contains("\"reason\""), "{status} {head} {body}");
    assert_eq!(app.get("/").0, 200);
}

#[test]
fn a_dead_service_is_503_with_a_problem_that_names_it() {
    let app = beside_a_healthy_one("");
    app.up();
    app.atoll(&["stop", "good"]).succeeded();
    let (status, head, body) = app.request(&[], "/");
    assert_eq!(status, 503);
    assert!(head.contains("retry-after") && head.contains("application/problem+json"), "{head}");
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((problem["service"].as_str(), problem["reason"].as_str()), (Some("good"), Some("no_endpoint")));
    let daemon = app.daemon_pid();
    signal(daemon, Signal::TERM);
    until_blocking("the daemon's end", BOUND, || (!is_running(daemon)).then_some(()));
}
