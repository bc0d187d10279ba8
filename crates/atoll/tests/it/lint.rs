//! Mistakes of architecture, planted and found by the real binary; and none where there are none.

use std::path::Path;

use serde_json::Value;

use crate::application::{Application, command, ended};

#[test]
fn twelve_planted_mistakes_are_found() {
    let app = Application::new(&[("atoll.toml", include_str!("lint.toml"))]);
    let check = app.atoll(&["check"]).succeeded();
    let json = app.atoll(&["check", "-o", "json"]).succeeded().json();
    let found: Vec<(u64, &str)> = json.as_array().unwrap().iter().map(place).collect();
    let expected = [
        (9, "W0504"),
        (11, "W0511"),
        (15, "W0510"),
        (15, "W0509"),
        (20, "W0506"),
        (38, "W0508"),
        (43, "W0502"),
        (60, "W0505"),
        (65, "W0512"),
        (66, "W0507"),
        (80, "W0503"),
        (109, "W0501"),
    ];
    assert_eq!(found, expected, "{}", check.stderr);
    for (line, code) in expected {
        assert!(check.stderr.contains(&format!("warning[{code}]")), "{code} in {}", check.stderr);
        assert!(check.stderr.contains(&format!("atoll.toml:{line}:")), "{line} in {}", check.stderr);
        let page = app.atoll(&["check", "--explain", code]).succeeded().stdout;
        assert!(page.starts_with(&format!("# {code}: ")), "{page}");
    }
    for path in [
        "gateway → shop → order → payment → ledger → audit → notary",
        "gateway → order ×3 → payment ×3 → ledger ×2",
        "gateway → shop 2s, shop → order 5s",
        "p1 → p2 → p3 → p1",
    ] {
        assert!(check.stderr.contains(path), "`{path}` in {}", check.stderr);
    }
    assert!(app.atoll(&["plan"]).succeeded().stderr.contains("warning[W0503]"));
}

fn place(diagnostic: &Value) -> (u64, &str) {
    assert_eq!(diagnostic["severity"], "warning");
    assert!(diagnostic["hint"].is_string(), "{diagnostic:#}");
    (diagnostic["line"].as_u64().unwrap(), diagnostic["code"].as_str().unwrap())
}

#[test]
fn warnings_can_be_denied_and_lints_allowed() {
    let app = Application::new(&[("atoll.toml", include_str!("lint.toml"))]);
    let denied = app.atoll(&["check", "--deny-warnings"]);
    assert_eq!(denied.code(), 1);
    assert!(denied.stderr.contains("12 warnings") && denied.stderr.contains("hint"), "{}", denied.stderr);
    let json = app.atoll(&["check", "--deny-warnings", "-o", "json"]);
    assert_eq!((json.code(), json.json().as_array().unwrap().len()), (1, 12));
    let circle = |allow: &str| {
        Application::with_manifest(&format!(
            "[services.a]\ncommand = \"true\"\nupstreams = [\"b\"]\nallow = [\"{allow}\"]\n\
             [services.b]\ncommand = \"true\"\nupstreams = [\"a\"]\n"
        ))
    };
    let allowed = circle("W0503").atoll(&["check", "--deny-warnings"]).succeeded();
    assert!(allowed.stdout.contains("no mistakes"), "{}", allowed.stdout);
    let idle = circle("W0504").atoll(&["check", "--deny-warnings"]);
    assert_eq!(idle.code(), 1);
    assert!(idle.stderr.contains("warning[W0513]"), "{}", idle.stderr);
}

#[test]
fn the_store_has_no_mistake() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/store");
    let check = ended(command(&folder, &["check", "-o", "json"]).output().unwrap()).succeeded();
    // Its default port may be taken on this machine; that is no mistake of the store's.
    let all = check.json();
    let mistakes: Vec<&Value> = all.as_array().unwrap().iter().filter(|found| found["code"] != "W0303").collect();
    assert!(mistakes.is_empty(), "{mistakes:#?}");
}
