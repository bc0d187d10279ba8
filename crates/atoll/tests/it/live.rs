//! Nothing that runs is lost: the daemon is killed, left and taken over from, the data plane dies, services are changed,
//! scaled and restarted, and whoever sends requests notices none of it.

use std::io::{BufRead, BufReader};

use rustix::process::Signal;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, FRONT_AND_BACK as APPLICATION, is_running, signal};
use crate::load::under_load;

#[test]
fn daemons_come_and_go_services_change_and_no_request_fails() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    let (sent, failed) = under_load(&app, "/call/BACK_URL/", |_| {
        let (front, back) = (app.pid("front", 0), app.pid("back", 0));
        app.kill_daemon();
        app.up();
        app.atoll(&["daemon", "stop", "--keep"]).succeeded();
        assert_eq!(app.atoll(&["ps"]).code(), 3, "the daemon is gone");
        app.up();
        assert_eq!((app.pid("front", 0), app.pid("back", 0)), (front, back), "nothing was started anew");

        app.atoll(&["restart", "back"]).succeeded();
        app.atoll(&["scale", "front=4"]).succeeded();
        assert_eq!(app.instances().iter().filter(|i| i["service"] == "front").count(), 4);
        app.atoll(&["scale", "front=1"]).succeeded();
        app.write("atoll.toml", &manifest.replace("hello", "good bye"));
        app.up();
        // Of the daemon, too, may die in the middle of all that.
        app.kill_daemon();
        app.write("atoll.toml", &manifest.replace("[[routes]]", "[[routes]]\ntimeout = \"9s\""));
        app.up();
    });
    assert!(failed.is_empty(), "{} of {sent}: {:?}", failed.len(), &failed[..failed.len().min(5)]);
}

#[test]
fn a_rollout_goes_on_under_the_next_daemon() {
    let update = "replicas = 3\nupdate = { min_ready = \"300ms\" }\nupstreams";
    let app = Application::with_manifest(&APPLICATION.replacen("upstreams", update, 1));
    app.up();
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("atoll.toml", &manifest.replace("hello", "good bye"));
    let (sent, failed) = under_load(&app, "/call/BACK_URL/", |_| {
        app.atoll(&["up", "-d"]).succeeded();
        until_blocking("the one that stands in", BOUND, || {
            app.instances().iter().any(|i| i["service"] == "front" && i["instance"] == 3).then_some(())
        });
        app.kill_daemon();
        app.up();
    });
    assert!(failed.is_empty(), "{} of {sent}: {:?}", failed.len(), failed.first());
    assert_eq!(app.instances().iter().filter(|i| i["service"] == "front").count(), 3);
    for _ in 0..10 {
        assert!(app.get("/").1.contains("good bye"));
    }
}

#[test]
fn a_release_that_is_taken_back_keeps_the_edges_that_it_wanted_to_drop() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("broken.py", "raise SystemExit('broken')");
    let broken =
        manifest.replacen("python3 echo.py", "python3 broken.py", 1).replacen("upstreams = [\"back\"]\n", "", 1);
    app.write("atoll.toml", &broken);
    assert_eq!(app.atoll(&["up", "-d", "--wait"]).code(), 3);
    // Whatever is closed after a change is closed by the time that the next one is through.
    app.atoll(&["scale", "back=2"]);
    assert_eq!(app.get("/call/BACK_URL/").0, 200);
}

#[test]
fn a_service_may_be_scaled_to_nothing_and_back() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    app.atoll(&["scale", "front=0"]).succeeded();
    until_blocking("its end", BOUND, || app.instances().iter().all(|i| i["service"] != "front").then_some(()));
    assert_eq!(app.get("/").0, 503);
    app.atoll(&["scale", "front=1"]).succeeded();
    assert_eq!(app.get("/").0, 200);
}

#[test]
fn routes_change_without_a_restart() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let (front, back) = (app.pid("front", 0), app.pid("back", 0));
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    let second = "[[routes]]\nname = \"old\"\nmatches = [{ path = { prefix = \"/old\" } }]\n\
                  filters = [{ request_redirect = { path = \"/new\" } }]\n\n[[routes]]\nname = \"front\"";
    app.write("atoll.toml", &manifest.replacen("[[routes]]\nname = \"front\"", second, 1));
    let changed = app.atoll(&["up", "-d", "--wait"]).succeeded();
    assert!(changed.stderr.contains("+ route old"), "{}", changed.stderr);
    assert_eq!(app.get("/old").0, 302);
    assert_eq!((app.pid("front", 0), app.pid("back", 0)), (front, back));
}

/// The process that has the gateway.
pub fn data_plane(app: &Application) -> Option<i32> {
    let out = std::process::Command::new("pgrep").args(["-f", &format!("proxy {}", app.path("").display())]).output();
    let text = String::from_utf8(out.unwrap().stdout).unwrap();
    text.lines().filter_map(|line| line.parse::<i32>().ok()).find(|pid| is_running(*pid))
}

#[test]
fn a_killed_data_plane_is_back_and_services_do_not_notice() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let front = app.pid("front", 0);
    let processes = app.atoll(&["top", "--once", "-o", "json"]).succeeded().stdout;
    assert!(processes.contains("data plane"), "{processes}");
    let before = until_blocking("the data plane", BOUND, || data_plane(&app));
    signal(before, Signal::KILL);
    // Whoever connects meanwhile waits in the queue of the socket, which the daemon holds too.
    assert_eq!(app.get("/").0, 200);
    let after = until_blocking("the next data plane", BOUND, || data_plane(&app));
    assert_ne!(after, before);
    assert_eq!(app.pid("front", 0), front);
}

#[test]
fn a_frozen_data_plane_is_replaced_and_told() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let front = app.pid("front", 0);
    let before = until_blocking("the data plane", BOUND, || data_plane(&app));
    signal(before, Signal::STOP);
    until_blocking("the next data plane", BOUND, || (data_plane(&app) != Some(before)).then_some(()));
    assert_eq!(app.get("/").0, 200);
    assert_eq!(app.pid("front", 0), front);
    let events = app.atoll(&["events"]).succeeded().stdout;
    assert!(events.contains("data_plane_lost") && events.contains(&before.to_string()), "{events}");
}

/// The shim beside an instance.
pub fn shim(app: &Application, instance: &str) -> i32 {
    let text = std::fs::read_to_string(app.path(&format!(".atoll/run/instances/{instance}/state.json"))).unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    i32::try_from(state["shim"]["pid"].as_i64().unwrap()).unwrap()
}

#[test]
fn a_frozen_shim_is_shown_and_costs_its_instance_nothing() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let (front, shim) = (app.pid("front", 0), shim(&app, "front.0"));
    signal(shim, Signal::STOP);
    let why = format!("its shim, pid {shim}, does not answer");
    until_blocking("the reason", BOUND, || app.atoll(&["ps"]).stdout.contains(&why).then_some(()));
    assert!(app.atoll(&["events"]).succeeded().stdout.contains("shim_frozen"));
    assert_eq!((app.get("/").0, app.pid("front", 0)), (200, front));
    app.atoll(&["restart", "front"]).succeeded();
    assert!(!is_running(front) && !is_running(shim) && app.get("/").0 == 200);
    assert!(!app.atoll(&["events"]).succeeded().stdout.contains("shim_lost"));
}

#[test]
fn a_killed_shim_is_told_as_that() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let front = app.pid("front", 0);
    signal(shim(&app, "front.0"), Signal::KILL);
    until_blocking("the restart", BOUND, || {
        let now = app.instances().into_iter().find(|i| i["service"] == "front")?;
        (now["ready"] == true && now["pid"] != front).then_some(())
    });
    let events = app.atoll(&["events"]).succeeded().stdout;
    assert!(events.contains("was killed, because its shim was killed"), "{events}");
    assert!(!events.contains("unhealthy") && !is_running(front), "{events}");
}

#[test]
fn a_frozen_daemon_is_named_by_its_pid_and_followed_by_the_next() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let (daemon, front) = (app.daemon_pid(), app.pid("front", 0));
    signal(daemon, Signal::STOP);
    // What only asks, and what waits for something to be done.
    for arguments in [&["ps"][..], &["restart", "front"]] {
        let silent = app.atoll(arguments);
        assert_eq!(silent.code(), 1, "{}", silent.stderr);
        let (what, hint) = (format!("the daemon, pid {daemon}, does not answer"), format!("`kill -9 {daemon}`"));
        assert!(silent.stderr.contains(&what) && silent.stderr.contains(&hint), "{}", silent.stderr);
    }
    assert_eq!(app.get("/").0, 200);
    app.kill_daemon();
    app.up();
    assert_eq!((app.get("/").0, app.pid("front", 0)), (200, front));
}

/// The control groups on this machine that are of a service.
fn groups(service: &str) -> Vec<std::path::PathBuf> {
    let (mut found, mut next) = (Vec::new(), vec![std::path::PathBuf::from("/sys/fs/cgroup")]);
    while let Some(folder) = next.pop() {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        next.extend(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("atoll.") && name.contains(&format!(".{service}.")) {
            found.push(folder);
        }
    }
    found
}

#[test]
fn what_escaped_from_an_instance_whose_shim_was_killed_is_found_by_its_control_group() {
    let name = format!("escapes-{}", std::process::id());
    let app = Application::with_manifest(&format!(
        "[services.{name}]\ncommand = \"python3 escape.py\"\nrestart = \"no\"\n\
         probes = {{ readiness = {{ exec = \"test -e escaped\" }} }}\n"
    ));
    // Two forks, a session of its own and an empty environment: nothing tells whose it was.
    app.write(
        "escape.py",
        "import os, time\n\
         if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        \
         os.execve('/bin/sh', ['sh', '-c', 'echo $$ > new; mv new escaped; exec sleep 1000'], {'PATH': '/bin:/usr/bin'})\n    \
         os._exit(0)\n\
         time.sleep(1000)\n",
    );
    let escaped =
        |app: &Application| -> i32 { std::fs::read_to_string(app.path("escaped")).unwrap().trim().parse().unwrap() };
    // A daemon that is there, and none: its successor, and a `down` without one.
    for round in ["watched", "adopted", "stopped"] {
        let _ = std::fs::remove_file(app.path("escaped"));
        app.up();
        app.atoll(&["start", &name]).succeeded();
        let (pid, instance) = (escaped(&app), format!("{name}.0"));
        if groups(&name).is_empty() {
            eprintln!("no control group can be made here");
            signal(pid, Signal::KILL);
            return;
        }
        let shim = shim(&app, &instance);
        if round != "watched" {
            app.kill_daemon();
        }
        signal(shim, Signal::KILL);
        match round {
            "watched" => {}
            "adopted" => drop(app.atoll(&["up", "-d"])),
            _ => drop(app.atoll(&["down"]).succeeded()),
        }
        until_blocking("its end", BOUND, || (!is_running(pid)).then_some(()));
        app.atoll(&["down"]).succeeded();
        assert_eq!(groups(&name), [""; 0].map(std::path::PathBuf::from), "{round}");
    }
}

#[test]
fn a_bad_release_is_taken_back_by_itself() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let front = app.pid("front", 0);
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("broken.py", "raise SystemExit('broken')");
    app.write("atoll.toml", &manifest.replacen("python3 echo.py", "python3 broken.py", 1));
    let (sent, failed) = under_load(&app, "/", |_| {
        let refused = app.atoll(&["up", "-d", "--wait"]);
        assert_eq!(refused.code(), 3, "{}", refused.stderr);
        assert!(refused.stderr.contains("reverted") && refused.stderr.contains("broken"), "{}", refused.stderr);
        assert!(refused.stderr.contains("`atoll up` tries the release again"), "{}", refused.stderr);
    });
    assert!(failed.is_empty(), "{} of {sent}: {:?}", failed.len(), failed.first());
    assert_eq!(app.pid("front", 0), front, "what ran goes on");
    // What runs is what is asked for again: nothing is wrong any more.
    app.write("atoll.toml", &manifest);
    app.up();
    assert_eq!(app.pid("front", 0), front);
    // A good one goes through after it.
    app.write("atoll.toml", &manifest.replace("hello", "again"));
    app.up();
    assert!(app.get("/").1.contains("again"));
}

#[test]
fn what_happened_while_no_daemon_was_there_is_told() {
    let app = Application::with_manifest(
        r#"
[services.job]
command = "sh -c 'while ! test -e finish; do sleep 0.05; done; echo last words; exit 7'"
restart = "no"
probes = { readiness = { exec = "true" } }
"#,
    );
    app.up();
    let job = app.pid("job", 0);
    app.kill_daemon();
    app.write("finish", "");
    until_blocking("the job's end", BOUND, || (!is_running(job)).then_some(()));
    app.atoll(&["up", "-d"]);
    let events = until_blocking("the event", BOUND, || {
        let events = app.atoll(&["events", "-o", "json"]).stdout;
        events.contains("while no daemon was there").then_some(events)
    });
    assert!(events.contains("status 7"), "{events}");
    let logs = app.atoll(&["logs", "job"]).succeeded().stdout;
    assert!(logs.contains("last words"), "{logs}");
}

#[test]
fn nothing_is_left_after_down_not_even_what_forked_twice() {
    let app = Application::with_manifest(
        r#"
[services.forks]
command = "python3 forks.py"
stop_grace_period = "1s"
probes = { readiness = { exec = "test -e ready" } }
"#,
    );
    app.write(
        "forks.py",
        "import os, time\n\
         if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        open('escaped', 'w').write(str(os.getpid()))\n        \
         time.sleep(1000)\n    os._exit(0)\n\
         while not os.path.exists('escaped') or not open('escaped').read(): time.sleep(0.01)\n\
         open('ready', 'w')\ntime.sleep(1000)\n",
    );
    app.up();
    let escaped: i32 = std::fs::read_to_string(app.path("escaped")).unwrap().trim().parse().unwrap();
    assert!(is_running(escaped));
    app.atoll(&["down"]).succeeded();
    assert!(!is_running(escaped));
    let left = std::process::Command::new("pgrep").args(["-f", &app.path("").display().to_string()]).output().unwrap();
    assert_eq!(String::from_utf8(left.stdout).unwrap(), "", "a process is left");
}

#[test]
fn a_folder_that_was_deleted_ends_its_daemon_and_all_that_it_runs() {
    let app = Application::with_manifest(APPLICATION);
    app.up();
    let (daemon, front) = (app.daemon_pid(), app.pid("front", 0));
    std::fs::remove_dir_all(app.path(".atoll")).unwrap();
    until_blocking("the end", BOUND, || (!is_running(daemon) && !is_running(front)).then_some(()));
}

#[test]
fn a_watched_file_restarts_its_service_alone() {
    let app =
        Application::with_manifest(&APPLICATION.replacen("command", "watch = { paths = [\"watched\"] }\ncommand", 1));
    app.write("watched/a.txt", "1");
    app.up();
    let (front, back) = (app.pid("front", 0), app.pid("back", 0));
    let mut up = app.command(&["up", "--watch"]);
    let mut up = up.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(up.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("watching the files of front")));
    let rest = std::thread::spawn(move || said.count());
    app.write("watched/a.txt", "2");
    until_blocking("the restart", BOUND, || {
        let now = app.instances().into_iter().find(|i| i["service"] == "front" && i["instance"] == 0)?;
        (now["ready"] == true && now["pid"] != front).then_some(())
    });
    assert_eq!(app.pid("back", 0), back);
    signal(i32::try_from(up.id()).unwrap(), Signal::INT);
    assert!(up.wait().unwrap().success());
    rest.join().unwrap();
}

#[test]
fn a_watched_folder_may_come_late_and_a_refused_restart_is_shown() {
    let watch = "watch = { paths = [\"later/deep\"] }\ncommand";
    let app = Application::with_manifest(&APPLICATION.replacen("command", watch, 1));
    app.up();
    let mut up = app.command(&["up", "--watch"]);
    let mut up = up.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(up.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("watching the files of front")));
    let (sender, lines) = std::sync::mpsc::channel();
    let rest = std::thread::spawn(move || said.for_each(|line| drop(sender.send(line))));
    let is_renewed = |step: &str, before: i32| {
        until_blocking(&format!("the restart after it {step}"), BOUND, || {
            let now = app.instances().into_iter().find(|i| i["service"] == "front" && i["instance"] == 0)?;
            (now["ready"] == true && now["pid"] != before).then_some(())
        });
        // Whatever it started beside it is gone.
        until_blocking("the end of the rollout", BOUND, || (app.instances().len() == 2).then_some(()));
        app.pid("front", 0)
    };
    let mut front = app.pid("front", 0);
    for (step, text) in [("comes", "1"), ("changes", "2"), ("goes and comes again", "3"), ("changes again", "4")] {
        if step.contains("goes") {
            std::fs::remove_dir_all(app.path("later")).unwrap();
            front = is_renewed(step, front);
        }
        app.write("later/deep/inner/a.txt", text);
        front = is_renewed(step, front);
    }
    // The service is not declared any more; this command does not know that.
    let text = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write(
        "atoll.toml",
        &format!(
            "{}[services.back]{}",
            text.split_once("[[routes]]").unwrap().0,
            text.split_once("[services.back]").unwrap().1
        ),
    );
    app.up();
    app.write("later/deep/inner/a.txt", "5");
    let why = lines.iter().find(|line| line.contains("does not run")).unwrap();
    assert!(why.contains("there is no service `front`"), "{why}");
    signal(i32::try_from(up.id()).unwrap(), Signal::INT);
    assert!(up.wait().unwrap().success());
    rest.join().unwrap();
}
