//! What one daemon knew, the next one knows: which release ran before a bad one, what was taken back, which jobs are done,
//! which ports belong to whom. And a wish for another number of instances is only that.

use rustix::process::Signal;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, signal};

const APPLICATION: &str = r#"
[[routes]]
name = "front"
matches = [{ path = { prefix = "/" } }]
backends = [{ service = "front" }]

[services.front]
command = "python3 echo.py"
upstreams = ["back"]
environment = { GREETING = "hello" }

[services.back]
command = "python3 echo.py"
"#;

/// Writes a manifest whose front ends as soon as there is a file `go`, and has dropped its edge.
fn write_bad_release(app: &Application) {
    app.write(
        "broken.py",
        "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)\nraise SystemExit('broken')",
    );
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    let broken =
        manifest.replacen("python3 echo.py", "python3 broken.py", 1).replacen("upstreams = [\"back\"]\n", "", 1);
    app.write("atoll.toml", &broken);
}

fn count(app: &Application, kind: &str) -> usize {
    let events = app.atoll(&["events", "-o", "json"]).succeeded().stdout;
    events.lines().filter(|line| line.contains(&format!("\"kind\":\"{kind}\""))).count()
}

#[test]
fn a_bad_release_is_taken_back_by_the_daemon_after_the_one_that_began_it() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let front = app.pid("front", 0);
    write_bad_release(&app);
    app.atoll(&["up", "-d"]).succeeded();
    until_blocking("the bad one", BOUND, || app.pid_now("front", 1));
    app.kill_daemon();
    // Nothing but the former release serves; it is lost while nobody looks.
    signal(front, Signal::KILL);
    app.atoll(&["up", "-d"]).succeeded();
    app.write("go", "");
    until_blocking("the former release", BOUND, || (app.get("/call/BACK_URL/").0 == 200).then_some(()));
    assert_eq!(count(&app, "reverted"), 1);

    // What was taken back stays so, whoever asks for something else, and whatever becomes of the daemon.
    let front = app.pid("front", 0);
    app.kill_daemon();
    let up = app.atoll(&["up", "-d"]);
    assert!(up.code() == 3 && up.stderr.contains("reverted"), "{}", up.stderr);
    app.atoll(&["scale", "front=2"]).succeeded();
    until_blocking("the second one", BOUND, || {
        app.instances()
            .iter()
            .any(|i| i["service"] == "front" && i["instance"] == 1 && i["ready"] == true)
            .then_some(())
    });
    assert_eq!((app.pid("front", 0), count(&app, "reverted")), (front, 1));
    assert_eq!(app.get("/call/BACK_URL/").0, 200, "the edge that the bad release dropped is still there");
    // To ask for it once more is to try it once more.
    assert_eq!(app.atoll(&["up", "-d", "--wait"]).code(), 3);
    assert_eq!((app.pid("front", 0), count(&app, "reverted")), (front, 2));
}

#[test]
fn another_number_of_instances_takes_over_nothing_else_of_the_manifest() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let front = app.pid("front", 0);
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("atoll.toml", &manifest.replace("hello", "good bye"));
    app.atoll(&["scale", "back=2"]).succeeded();
    assert_eq!(app.pid("front", 0), front);
    assert!(app.get("/").1.contains("hello"));
    app.write("atoll.toml", "this is no manifest");
    app.atoll(&["scale", "back=3"]).succeeded();
    assert_eq!(app.instances().iter().filter(|i| i["service"] == "back").count(), 3);
    app.write("atoll.toml", &manifest.replace("hello", "good bye"));
    app.up();
    assert!(app.get("/").1.contains("good bye"));
    assert_eq!(app.instances().iter().filter(|i| i["service"] == "back").count(), 3);
}

#[test]
fn a_change_that_the_next_daemon_finds_is_shown_and_made() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let back = app.pid("back", 0);
    app.kill_daemon();
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("atoll.toml", &manifest.replace("hello", "good bye"));
    let up = app.atoll(&["up", "-d", "--wait"]).succeeded();
    assert!(up.stderr.contains("~ service front"), "{}", up.stderr);
    until_blocking("the new one", BOUND, || app.get("/").1.contains("good bye").then_some(()));
    assert_eq!(app.pid("back", 0), back);
}

#[test]
fn a_job_that_is_done_is_not_done_again_by_the_next_daemon() {
    let app = Application::with_manifest(
        r#"
[services.web]
command = "python3 echo.py"
depends_on = { job = "completed" }

[services.job]
command = "python3 job.py"
restart = "no"
"#,
    );
    app.write("job.py", "open('done', 'a').write('x')");
    let times = || std::fs::read_to_string(app.path("done")).unwrap().len();
    app.up();
    app.up();
    assert_eq!(times(), 1);
    let web = app.pid("web", 0);
    until_blocking("the record", BOUND, || {
        std::fs::read_to_string(app.path(".atoll/run/record.json"))
            .is_ok_and(|text| text.contains("finished"))
            .then_some(())
    });
    app.kill_daemon();
    app.up();
    assert_eq!((times(), app.pid("web", 0)), (1, web));
    // Another one is done once.
    app.kill_daemon();
    app.write("job.py", "open('done', 'a').write('y')");
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("atoll.toml", &manifest.replace("python3 job.py", "python3 ./job.py"));
    app.up();
    assert_eq!(times(), 2);
    app.atoll(&["down"]).succeeded();
    assert!(!app.path(".atoll/run/record.json").exists(), "nothing is left to be known");
    app.up();
    assert_eq!(times(), 3);
}

#[test]
fn what_runs_keeps_its_ports_without_a_ledger() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let pids = (app.pid("front", 0), app.pid("back", 0));
    app.kill_daemon();
    for name in ["ports.json", "scale.json", "run/record.json"] {
        app.write(&format!(".atoll/{name}"), "{\"version\": 7}");
    }
    app.up();
    assert_eq!((app.pid("front", 0), app.pid("back", 0)), pids);
    assert_eq!(app.get("/call/BACK_URL/").0, 200);
    assert_eq!(count(&app, "state_file_damaged"), 3);
    assert!(app.path(".atoll/ports.json.damaged").exists());
}
