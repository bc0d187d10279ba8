//! The services of the store that are not written in Rust: their own tests, in the runners of their languages, and the
//! shop on a machine that lacks these languages.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::wait::until_blocking;

use crate::application::{BOUND, ended};
use crate::store::store;

/// Runs a service's own tests in its folder.
#[track_caller]
fn passes(service: &str, program: &str, arguments: &[&str]) {
    let folder = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/store/{}"), service);
    ended(Command::new(program).args(arguments).current_dir(folder).output().unwrap()).succeeded();
}

#[test]
fn recommendation_passes_its_tests() {
    passes("recommendation", "python3", &["-B", "-m", "unittest", "discover", "-s", "tests"]);
}

#[test]
fn notification_passes_its_tests() {
    passes("notification", "node", &["--test"]);
}

/// Fills a folder with links to every program on the path but those of Node.js and Python.
fn link_programs(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for program in std::env::split_paths(&path).filter_map(|folder| folder.read_dir().ok()).flatten().flatten() {
        let name = program.file_name();
        let is_left_out = ["node", "python"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix));
        let link = folder.join(&name);
        if !is_left_out && link.symlink_metadata().is_err() {
            symlink(program.path(), link).unwrap();
        }
    }
}

#[test]
fn without_node_and_python_the_rest_of_the_shop_runs_and_says_what_is_missing() {
    let app = store();
    let programs = app.path("programs");
    link_programs(&programs);
    let mut up = app.command(&["up", "-d"]);
    // It may say at once that two services do not come up, or leave that to `ps`.
    let up = ended(up.env("PATH", &programs).output().unwrap());
    assert!(up.code() == 0 || up.stderr.contains("2 services do not come up"), "{}", up.stderr);
    let lacks = |service: &str| service == "notification" || service == "recommendation";
    let instances = until_blocking("the rest of the shop to be ready", BOUND, || {
        let instances = app.instances();
        let is_ready = |one: &Value| one["ready"] == true || lacks(one["service"].as_str().unwrap());
        (!instances.is_empty() && instances.iter().all(is_ready)).then_some(instances)
    });
    for instance in instances.iter().filter(|instance| lacks(instance["service"].as_str().unwrap())) {
        assert_eq!(instance["ready"], false, "{instance}");
    }
    let (status, home) = app.get("/");
    assert!(status == 200 && home.contains("/product/"), "{home}");
    assert_eq!(app.get("/mail").0, 503);
    let shown = app.atoll(&["ps"]).succeeded().stdout;
    for program in ["node", "python3"] {
        assert!(shown.contains(&format!("cannot run `{program}`: not found in PATH")), "{shown}");
    }
}
