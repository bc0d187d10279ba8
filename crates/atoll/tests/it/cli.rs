//! Commands that need no daemon, and the forms in which all of them answer.

use serde_json::Value;

use testkit::wait::until_blocking;

use crate::application::{Application, BOUND};

const ROUTES: &str = r#"
[[routes]]
name = "rest"
matches = [{ path = { prefix = "/" } }]
backends = [{ service = "web" }]

[[routes]]
name = "api"
matches = [{ path = { prefix = "/api" }, methods = ["GET"] }]
backends = [{ service = "web" }]

[services.web]
command = "python3 echo.py"
"#;

#[test]
fn plan_check_and_schema_speak_json() {
    let app = Application::with_manifest(ROUTES);
    let plan = app.atoll(&["plan", "-o", "json"]).succeeded().json();
    assert_eq!(plan["services"]["web"]["instances"][0]["index"], 0);
    assert!(app.atoll(&["plan"]).succeeded().stdout.contains("[services.web]"));
    assert_eq!(app.atoll(&["check", "-o", "json"]).succeeded().json(), Value::Array(vec![]));
    assert!(app.atoll(&["check"]).succeeded().stdout.contains("no mistakes"));
    assert!(app.atoll(&["config", "schema"]).succeeded().json()["properties"]["services"].is_object());
    assert_eq!(app.atoll(&["version", "-o", "json"]).succeeded().json()["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn planning_changes_nothing() {
    let app = Application::with_manifest(ROUTES);
    // Another program of this machine may take or give back a port between two looks.
    until_blocking("the same plan twice", BOUND, || {
        let first = app.atoll(&["plan"]).succeeded().stdout;
        (app.atoll(&["plan"]).succeeded().stdout == first).then_some(())
    });
    assert!(!app.path(".atoll").exists());
}

#[test]
fn routes_are_shown_by_precedence_and_explained() {
    let app = Application::with_manifest(ROUTES);
    let table = app.atoll(&["routes"]).succeeded().stdout;
    assert!(table.find("api").unwrap() < table.find("rest").unwrap(), "{table}");
    let explained = app.atoll(&["routes", "--explain", "http://shop.example/api/x", "-o", "json"]).succeeded().json();
    assert_eq!((explained[0]["route"].as_str(), explained[0]["verdict"].as_str()), (Some("api"), Some("chosen")));
    assert_eq!(explained[1]["verdict"], "shadowed");
    let post = app.atoll(&["routes", "--explain", "/api/x", "-X", "POST", "-o", "json"]).succeeded().json();
    assert!(post[0]["verdict"].as_str().unwrap().contains("POST"));
    assert_eq!(app.atoll(&["routes", "--explain", "/a/../b"]).code(), 3);
}

#[test]
fn a_manifest_is_found_upwards_by_folder_and_by_file() {
    let app = Application::with_manifest(ROUTES);
    std::fs::create_dir_all(app.path("deep/er")).unwrap();
    for (folder, arguments) in [
        ("deep/er", vec!["check"]),
        ("deep", vec!["check", ".."]),
        ("deep", vec!["check", "-f", "../atoll.toml"]),
        ("deep", vec!["check", "--file", ".."]),
    ] {
        let ended = crate::application::command(&app.path(folder), &arguments).output().unwrap();
        assert!(ended.status.success(), "{folder} {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

#[test]
fn doctor_judges_machine_and_application() {
    let app = Application::with_manifest(ROUTES);
    let findings = app.atoll(&["doctor", "-o", "json"]).succeeded().json();
    assert!(findings.as_array().unwrap().iter().all(|finding| finding["verdict"] != "bad"), "{findings:#}");
    let app = Application::with_manifest("[services.web]\ncommand = \"no-such-program-here\"\n");
    let doctor = app.atoll(&["doctor"]);
    assert_eq!(doctor.code(), 1);
    assert!(doctor.stdout.contains("no-such-program-here"), "{}", doctor.stdout);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let manifest = format!("name = \"test\"\n[dashboard]\nlisten = \"{listen}\"\n[services.web]\ncommand = \"true\"\n");
    app.write("atoll.toml", &manifest);
    let doctor = app.atoll(&["doctor"]);
    assert_eq!(doctor.code(), 1);
    assert!(doctor.stdout.contains("the dashboard cannot listen on 127.0.0.1:"), "{}", doctor.stdout);
}

#[test]
fn describe_tells_all_about_a_service_and_the_gateway() {
    let app = Application::with_manifest(ROUTES);
    assert_eq!(app.atoll(&["describe", "web"]).code(), 3, "it does not run");
    app.up();
    let web = app.atoll(&["describe", "web", "-o", "json"]).succeeded().json();
    assert_eq!(web["routes"], serde_json::json!(["rest", "api"]));
    assert_eq!(web["instances"][0]["ready"], true);
    assert!(app.atoll(&["describe", "web"]).succeeded().stdout.contains("python3 echo.py"));
    app.get("/");
    let gateway = until_blocking("the count", BOUND, || {
        let gateway = app.atoll(&["describe", "gateway", "-o", "json"]).succeeded().json();
        (gateway["requests"].as_u64().unwrap() >= 1).then_some(gateway)
    });
    assert_eq!(gateway["address"], format!("http://127.0.0.1:{}", app.gateway));
    assert_eq!(app.atoll(&["describe", "nothing"]).code(), 1);
}

#[test]
fn completion_scripts_are_printed() {
    let app = Application::with_manifest(ROUTES);
    for shell in ["bash", "zsh", "fish"] {
        assert!(app.atoll(&["completion", shell]).succeeded().stdout.contains("atoll"), "{shell}");
    }
}
