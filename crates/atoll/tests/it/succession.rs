//! What one daemon knew, the next one knows: which release ran before a bad one, what was taken back, which jobs are done,
//! which ports belong to whom. And a wish for another number of instances is only that.

use rustix::process::Signal;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, FRONT_AND_BACK as APPLICATION, is_running, signal};
use crate::load::under_load;

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
            .is_ok_and(|text| text.contains("ended"))
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

/// A service of one instance that takes its time to start, as file `slow` says.
const SLOW: &str = r#"
[[routes]]
name = "web"
matches = [{ path = { prefix = "/" } }]
backends = [{ service = "web" }]

[services.web]
command = "python3 slow.py"
environment = { GREETING = "hello" }
"#;

fn slow(manifest: &str) -> Application {
    let app = Application::with_manifest(manifest);
    app.write("slow.py", "import os, time\nwhile os.path.exists('slow'): time.sleep(0.05)\nimport echo");
    app
}

#[test]
fn one_that_stands_in_alone_stays_under_the_next_daemon() {
    let app = slow(SLOW);
    app.up();
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("atoll.toml", &manifest.replace("hello", "good bye"));
    let (sent, failed) = under_load(&app, "/", |_| {
        let old = app.pid("web", 0);
        app.atoll(&["up", "-d"]).succeeded();
        until_blocking("the end of the old one", BOUND, || {
            // Its successor is held up as soon as there is the one that stands in.
            if app.instances().iter().any(|i| i["instance"] == 1 && i["ready"] == true) {
                app.write("slow", "");
            }
            app.pid_now("web", 0).filter(|pid| *pid != old)
        });
        app.kill_daemon();
        app.atoll(&["up", "-d"]).succeeded();
        std::fs::remove_file(app.path("slow")).unwrap();
        app.up();
    });
    assert!(failed.is_empty(), "{} of {sent}: {:?}", failed.len(), failed.first());
    until_blocking("the end of the rollout", BOUND, || (app.instances().len() == 1).then_some(()));
    assert!(app.get("/").1.contains("good bye"));
}

#[test]
fn a_bad_release_is_taken_back_when_nothing_of_the_former_one_is_left() {
    let app = slow(&format!("{SLOW}update = {{ strategy = \"recreate\" }}\n"));
    app.up();
    app.write("slow", "");
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("bad.py", "import os, time\nwhile os.path.exists('slow'): time.sleep(0.05)\nraise SystemExit(3)");
    app.write("atoll.toml", &manifest.replace("slow.py", "bad.py"));
    let old = app.pid("web", 0);
    app.atoll(&["up", "-d"]).succeeded();
    let bad = until_blocking("the bad one", BOUND, || app.pid_now("web", 0).filter(|pid| *pid != old));
    app.kill_daemon();
    assert!(is_running(bad));
    app.atoll(&["up", "-d"]).succeeded();
    std::fs::remove_file(app.path("slow")).unwrap();
    until_blocking("the former release", BOUND, || (app.get("/").0 == 200).then_some(()));
    assert_eq!(count(&app, "reverted"), 1);

    // Also when everything is lost at once, as with the session that it belongs to.
    app.kill_daemon();
    for name in ["shim web.0", "proxy", "slow.py"] {
        for pid in pids_of(&app, name) {
            signal(pid, Signal::KILL);
        }
    }
    app.atoll(&["up", "-d"]);
    until_blocking("the former release", BOUND, || (app.get("/").0 == 200).then_some(()));
    assert_eq!(count(&app, "reverted"), 1);
}

/// Processes of this application that have such a command line.
fn pids_of(app: &Application, words: &str) -> Vec<i32> {
    let folder = app.path("").display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_ours = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let place = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        line.contains(words) && (line.contains(&folder) || place.starts_with(app.path("")))
    };
    pids.filter(is_ours).collect()
}

#[test]
fn many_changes_leave_a_release_that_was_gone_back_to_its_edges() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    write_bad_release(&app);
    app.write("go", "");
    assert_eq!(app.atoll(&["up", "-d", "--wait"]).code(), 3);
    for number in 0..18 {
        app.atoll(&["scale", "--no-wait", &format!("back={}", 1 + number % 2)]).succeeded();
    }
    assert_eq!(app.get("/call/BACK_URL/").0, 200);
    app.kill_daemon();
    assert_eq!(app.atoll(&["up", "-d"]).code(), 3);
    assert_eq!((app.get("/call/BACK_URL/").0, count(&app, "reverted")), (200, 1));
}

#[test]
fn a_service_that_was_taken_out_while_no_daemon_was_there_finishes_what_it_does() {
    let app = Application::with_manifest(&APPLICATION.replacen("echo.py", "late.py", 1));
    // Calls its upstream once the daemon has gone over to a manifest without it.
    let late = "import http.server, os, signal, sys, time, urllib.request\n\
                class Late(http.server.BaseHTTPRequestHandler):\n\
                \x20   def do_GET(self):\n\
                \x20       open('began', 'w').close()\n\
                \x20       while not os.path.exists('go'): time.sleep(0.05)\n\
                \x20       urllib.request.urlopen(os.environ['BACK_URL'] + '/').read()\n\
                \x20       self.send_response(200); self.send_header('content-length', '4'); self.end_headers()\n\
                \x20       self.wfile.write(b'late')\n\
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n\
                http.server.ThreadingHTTPServer((os.environ['HOST'], int(os.environ['PORT'])), Late).serve_forever()\n";
    app.write("late.py", late);
    // Only what is ready gets a request: it is, when its port is open.
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("atoll.toml", &manifest.replacen("upstreams", "probes = { readiness = { tcp = true } }\nupstreams", 1));
    app.up();
    let answer = std::thread::scope(|scope| {
        let request = scope.spawn(|| app.get("/"));
        until_blocking("the request", BOUND, || app.path("began").exists().then_some(()));
        app.kill_daemon();
        let back = APPLICATION.split_once("[services.back]").unwrap().1;
        let head = manifest.split_once("[[routes]]").unwrap().0;
        app.write("atoll.toml", &format!("{head}[services.back]{back}"));
        app.atoll(&["up", "-d", "--wait"]).succeeded();
        app.write("go", "");
        request.join().unwrap()
    });
    assert_eq!(answer, (200, "late".to_owned()));
    until_blocking("its end", BOUND, || app.instances().iter().all(|i| i["service"] == "back").then_some(()));
}

#[test]
fn what_is_wanted_and_what_has_failed_is_so_under_the_next_daemon() {
    let app = Application::with_manifest(
        r#"
[services.web]
command = "python3 echo.py"

[services.crash]
command = "python3 -c 'raise SystemExit(4)'"

[services.job]
command = "python3 -c 'raise SystemExit(5)'"
restart = "no"
"#,
    );
    app.atoll(&["up", "-d"]);
    let state = |name: &str| {
        let instances = app.instances();
        let found = instances.iter().find(|i| i["service"] == name).unwrap();
        (found["state"].as_str().unwrap().to_owned(), found["reason"].as_str().unwrap_or_default().to_owned())
    };
    // Long pauses between its lives.
    until_blocking("a crash loop", BOUND, || (state("crash").0 == "crash_loop").then_some(()));
    until_blocking("the record", BOUND, || {
        let text = std::fs::read_to_string(app.path(".atoll/run/record.json")).unwrap_or_default();
        text.contains("\"ended\"").then_some(())
    });
    app.kill_daemon();
    app.atoll(&["up", "-d", "web"]);
    assert_eq!(state("job"), ("failed".to_owned(), "ended with status 5".to_owned()));
    until_blocking("it goes on", BOUND, || (state("crash").0 != "stopped").then_some(()));
}

#[test]
fn a_build_that_its_daemon_did_not_finish_is_made_by_the_next() {
    let app = Application::with_manifest(
        r#"
[services.web]
build = "python3 build.py"
command = "python3 built.py"
"#,
    );
    let build = "import os, shutil, time\nopen('began', 'w').close()\n\
                 while os.path.exists('slow'): time.sleep(0.05)\nshutil.copy('echo.py', 'built.py')";
    app.write("build.py", build);
    app.write("slow", "");
    let mut up = app.attached();
    until_blocking("the build", BOUND, || app.path("began").exists().then_some(()));
    until_blocking("the record", BOUND, || {
        let text = std::fs::read_to_string(app.path(".atoll/run/record.json")).unwrap_or_default();
        text.contains("\"is_wanted\": true").then_some(())
    });
    app.kill_daemon();
    up.wait().unwrap();
    std::fs::remove_file(app.path("slow")).unwrap();
    let _ = std::fs::remove_file(app.path("built.py"));
    app.up();
    assert!(app.path("built.py").exists());
}
