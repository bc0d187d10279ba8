//! `tests/golden/*.toml`, each with the plan and the diagnostics it compiles to beside it. `UPDATE_EXPECT=1` rewrites them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;

use crate::fixture::Compiled;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn every_fixture_compiles_to_what_stands_beside_it() {
    let mut fixtures: Vec<PathBuf> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    fixtures.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    assert!(fixtures.len() >= 5, "the fixtures are gone");
    for path in fixtures {
        let compiled = Compiled::of(&fs::read_to_string(&path).unwrap());
        check(&path.with_extension("plan"), &compiled.plan.as_ref().map_or_else(String::new, manifest::Plan::to_toml));
        check(&path.with_extension("diag"), &compiled.rendered());
    }
}

/// What is empty has no file.
fn check(path: &Path, actual: &str) {
    if actual.is_empty() && !path.exists() {
        return;
    }
    expect_file![path].assert_eq(actual);
}

#[test]
fn ten_mistakes_are_told_at_once() {
    let compiled = Compiled::of(&fs::read_to_string(folder().join("ten_mistakes.toml")).unwrap());
    let expected = ["E0110", "E0204", "E0101", "E0304", "E0104", "E0401", "E0203", "E0108", "E0208", "E0205"];
    let mut sorted = (compiled.codes(), expected.to_vec());
    sorted.0.sort_unstable();
    sorted.1.sort_unstable();
    assert_eq!(sorted.0, sorted.1);
    assert!(compiled.plan.is_none());
    for diagnostic in &compiled.diagnostics {
        assert!(diagnostic.hint.is_some(), "{diagnostic:?}");
        assert!(!diagnostic.span.is_empty(), "{diagnostic:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_hides_no_mistake() {
    let text = fs::read_to_string(folder().join("ten_mistakes.toml")).unwrap();
    let ten = Compiled::of(&text);
    let unread = "include = [\"cart/service.toml\", \"gone.toml\"]";
    let broken = "include = [\"cart/service.toml\", \"broken.toml\"]";
    for (include, more, code) in [
        (unread, "", "E0001"),
        (unread, "#- unreadable gone.toml: permission denied\n", "E0001"),
        (broken, "#- file broken.toml\n# here\n[services.broken\ncommand = \"broken\"\n", "E0002"),
        ("include = [\"cart/service.toml\", \"none/*.toml\"]", "", "E0005"),
        ("include = [\"cart/service.toml\", \"${NOWHERE}.toml\"]", "", "E0110"),
    ] {
        let text = format!("{}\n{more}", text.replace("include = [\"cart/service.toml\"]", include));
        let compiled = Compiled::of(&text);
        let told = |message: &str| compiled.diagnostics.iter().any(|diagnostic| diagnostic.message == message);
        for diagnostic in &ten.diagnostics {
            assert!(told(&diagnostic.message), "{diagnostic:?}\n{}", compiled.rendered());
        }
        assert_eq!(compiled.codes().iter().filter(|found| **found == code).count(), 1 + usize::from(code == "E0110"));
        let hints = compiled.diagnostics.iter().filter_map(|diagnostic| diagnostic.hint.as_deref());
        assert!(hints.filter(|hint| hint.contains("could not be read")).count() >= 2, "{}", compiled.rendered());
    }
}

#[test]
fn a_plan_survives_its_own_ledger() {
    let text = fs::read_to_string(folder().join("store.toml")).unwrap();
    let first = Compiled::of(&text).plan.expect("a plan");
    let ledger: String = first.ports.iter().map(|(key, port)| format!("#- ledger {key}={port}\n")).collect();
    let second = Compiled::of(&format!("{text}\n{ledger}#- ledger instance/gone/0=20500\n")).plan.expect("a plan");
    assert_eq!(first, second);
}

#[test]
fn no_secret_is_printed() {
    let text = r#"
name = "store"
[[routes]]
name = "all"
filters = [
    { request_headers = { set = { authorization = "Bearer ${TOKEN}" } } },
    { response_headers = { add = { x-token = "${TOKEN}" } } },
]
backends = [{ service = "hello" }]
[services.hello]
build = "make --key ${TOKEN}"
command = "${FOLDER:-bin}/hello --token=${TOKEN} --level ${LEVEL:-readable}"
probes.liveness.exec = "check ${TOKEN}"
env_file = ".env.hello"
environment = { TOKEN = "${TOKEN}", PLAIN = "seen" }
#- env TOKEN=from-outside
#- env FOLDER=/opt
#- file .env.hello
PASSWORD=hunter2
a broken line with hunter3
"#;
    let compiled = Compiled::of(text);
    assert!(!compiled.rendered().contains("hunter"), "{}", compiled.rendered());
    let compiled = Compiled::of(&text.replace("a broken line with hunter3\n", ""));
    let plan = compiled.plan.expect("a plan");
    let environment = &plan.services["hello"].environment;
    assert_eq!(
        (environment["PASSWORD"].value.as_str(), environment["TOKEN"].value.as_str()),
        ("hunter2", "from-outside")
    );
    let printed = format!("{}{plan:?}{}", plan.to_toml(), serde_json::to_string(&plan).unwrap());
    assert!(!printed.contains("hunter2") && !printed.contains("from-outside"), "{printed}");
    for readable in ["seen", "/opt/hello", "readable", "make", "--key", "check"] {
        assert!(printed.contains(readable), "{readable} is missing in {printed}");
    }
    let run: Vec<&str> = plan.services["hello"].command.iter().map(|word| word.value.as_str()).collect();
    // `${TOKEN}` is also a variable of the service's own, and waits for its start.
    assert_eq!(run, ["/opt/hello", "--token=${TOKEN}", "--level", "readable"]);
}

#[test]
fn a_password_of_other_servers_is_not_printed_and_tells_plans_apart() {
    let text = "name = \"store\"\n[broker]\nurl = \"nats://atoll:${PASSWORD}@nats.internal\"\n[services.a]\ncommand = \"a\"\n\
                publishes = [\"x\"]\n#- env PASSWORD=hunter2\n";
    let compiled = Compiled::of(text);
    let plan = compiled.plan.expect("a plan");
    let nats = plan.nats.as_ref().expect("servers");
    assert_eq!(nats.url, "nats://atoll:hunter2@nats.internal:4222");
    assert!(plan.broker.is_none() && !plan.ports.contains_key("broker"));
    let printed = format!("{}{plan:?}{}", plan.to_toml(), serde_json::to_string(&plan).unwrap());
    assert!(!printed.contains("hunter2"), "{printed}");
    assert_eq!(plan.services["a"].environment["NATS_URL"].value, "nats://nats.internal:4222");
    let other = Compiled::of(&text.replace("hunter2", "hunter3")).plan.expect("a plan");
    assert_eq!(other.to_toml(), plan.to_toml());
    assert_ne!(other.fingerprint(), plan.fingerprint());
    let wrong = Compiled::of(&text.replace("nats.internal", "nats internal"));
    assert!(wrong.plan.is_none() && !wrong.rendered().contains("hunter2"), "{}", wrong.rendered());
}

#[test]
fn a_schema_tells_plans_apart() {
    let text = "name = \"store\"\n[services.a]\ncommand = \"a\"\npublishes = [\"x\"]\n[topics.x]\nschema = \"x.json\"\n\
                #- file x.json\n{}\n";
    let plan = |text: &str| Compiled::of(text).plan.expect("a plan");
    let (first, other) = (plan(text), plan(&text.replace("{}", "true")));
    assert_eq!(first.topics["x"].schema.as_ref().map(|schema| schema.text.as_str()), Some("{}\n"));
    assert_eq!(first.to_toml(), other.to_toml());
    assert_ne!(first.fingerprint(), other.fingerprint());
}

#[test]
fn every_edge_of_a_plan_is_told_by_caller_and_upstream() {
    let text = std::fs::read_to_string(folder().join("events.toml")).unwrap();
    let plan = Compiled::of(&text).plan.expect("a plan");
    let edges: Vec<(&str, &str)> = plan.edges().map(|(caller, upstream, _)| (caller, upstream)).collect();
    assert_eq!(edges, [("ordering", "@events"), ("warehouse", "@events"), ("@events", "warehouse")]);
}

#[test]
fn a_fingerprint_changes_with_every_secret_and_with_nothing_else() {
    let text = r#"
name = "store"
[[routes]]
name = "all"
filters = [{ request_headers = { set = { authorization = "${HEADER}" } } }]
backends = [{ service = "hello" }]
[services.hello]
build = "make ${BUILD}"
command = "hello ${COMMAND}"
env_file = ".env.hello"
environment = { TOKEN = "${OUTSIDE}" }
#- env HEADER=secret-a
#- env BUILD=secret-b
#- env COMMAND=secret-c
#- env OUTSIDE=secret-d
#- file .env.hello
PASSWORD=secret-e
"#;
    let plan = |text: &str| Compiled::of(text).plan.expect("a plan");
    let first = plan(text);
    assert_eq!(first.fingerprint(), plan(&format!("# a comment\n{text}")).fingerprint());
    assert_eq!(first.fingerprint().len(), 64);
    assert!(!first.to_toml().contains("secret-"), "{}", first.to_toml());
    for secret in ["secret-a", "secret-b", "secret-c", "secret-d", "secret-e"] {
        let other = plan(&text.replace(secret, "other"));
        assert_eq!(other.to_toml(), first.to_toml(), "{secret}");
        assert_ne!(other.fingerprint(), first.fingerprint(), "{secret}");
    }
}

#[test]
fn a_fingerprint_changes_with_what_an_update_a_watch_and_limits_say() {
    let fingerprint = |more: &str| {
        let compiled =
            Compiled::of(&format!("name = \"store\"\n[services.a]\ncommand = \"a\"\nbuild = \"make\"\n{more}\n"));
        compiled.plan.unwrap_or_else(|| panic!("{more}: {:#?}", compiled.diagnostics)).fingerprint()
    };
    let written = "update = { strategy = \"rolling\", max_surge = 1, max_unavailable = 0, min_ready = \"0s\", auto_revert = true, progress_deadline = \"60s\" }";
    assert_eq!(fingerprint(""), fingerprint(written), "the defaults");
    assert_eq!(
        fingerprint("watch.paths = [\"b\"]"),
        fingerprint("watch = { paths = [\"./b\"], action = \"rebuild\" }")
    );
    let cpu = ["\"500m\"", "\"0.5\"", "0.5", "0.500"].map(|cpu| fingerprint(&format!("resources.limits.cpu = {cpu}")));
    assert!(cpu.iter().all(|fingerprint| *fingerprint == cpu[0]));
    let all = [
        "",
        "update.strategy = \"recreate\"",
        "update.max_surge = 2",
        "update.max_unavailable = 1",
        "update.min_ready = \"1s\"",
        "update.auto_revert = false",
        "update.progress_deadline = \"61s\"",
        "watch.paths = [\"b\"]",
        "watch.paths = [\"b\", \"c\"]",
        "watch = { paths = [\"b\"], action = \"restart\" }",
        "watch = { paths = [\"b\"], ignore = [\"c\"] }",
        "resources.limits.cpu = 1",
        "resources.limits.cpu = 0.001",
        "resources.limits.memory = \"1MiB\"",
        "resources.limits.pids = 1",
    ];
    let distinct: BTreeSet<String> = all.iter().map(|more| fingerprint(more)).collect();
    assert_eq!(distinct.len(), all.len());
}

#[test]
fn a_policy_has_every_default_and_an_own_key_wins_over_that_for_all() {
    let plan = |edges: &str| {
        let text = format!("name = \"s\"\n[services.a]\ncommand = \"a\"\nupstreams = [\"b\"]\n{edges}\n");
        let compiled = Compiled::of(&format!("{text}[services.b]\ncommand = \"b\"\n"));
        compiled.plan.unwrap_or_else(|| panic!("{edges}: {:#?}", compiled.diagnostics))
    };
    let policy = |edges: &str| plan(edges).services["a"].edges["b"].policy.clone();
    let all = "outlier_ejection = {}, circuit_breaker = {}, rate_limit = { requests = 7, per = \"1s\" }";
    assert_eq!(policy(&format!("edges.\"*\" = {{ {all} }}")), policy(&format!("edges.b = {{ {all} }}")));
    let both = policy(&format!("edges.b.circuit_breaker.open_for = \"9s\"\nedges.\"*\" = {{ {all} }}"));
    let (own, other) = (both.circuit_breaker.unwrap(), policy(&format!("edges.b = {{ {all} }}")));
    assert_eq!((own.open_for.as_secs(), own.minimum_calls), (9, 10));
    assert_eq!((both.outlier_ejection, both.rate_limit), (other.outlier_ejection, other.rate_limit));
    // What is written as it is anyway changes nothing.
    for (short, long) in [
        ("retry.attempts = 1", "retry = { attempts = 1, backoff = \"1s\", try_timeout = \"1s\" }"),
        ("retry.attempts = 2", "retry = { attempts = 2, codes = [504, 503, 502], backoff_max = \"10s\" }"),
        ("timeout = \"15s\"", "load_balancing = { policy = \"least_requests\", slow_start = \"0s\" }"),
        (
            "circuit_breaker = { window_calls = 4 }",
            "circuit_breaker = { window_calls = 4, minimum_calls = 4, failure_rate = 0.50, slow_call_rate = 1, slow_call = \"1s\" }",
        ),
        ("total_timeout = \"3s\"", "total_timeout = \"3s\", timeout = \"3s\""),
    ] {
        let (short, long) = (policy(&format!("edges.b = {{ {short} }}")), policy(&format!("edges.b = {{ {long} }}")));
        let without_slow = |mut policy: manifest::plan::Policy| {
            policy.circuit_breaker.iter_mut().for_each(|breaker| breaker.slow_call = None);
            policy
        };
        assert_eq!(short, without_slow(long));
    }
    assert_eq!(policy("edges.b.retry = { attempts = 2, backoff = \"30s\" }").retry.backoff_max.as_secs(), 30);
}

#[test]
fn a_fixed_answer_is_bounded() {
    let text = |length: usize| {
        let fallback = format!("fallback = {{ status = 503, body = \"{}\" }}", "x".repeat(length));
        format!(
            "name = \"s\"\n[[routes]]\nname = \"a\"\n{fallback}\nbackends = [{{ service = \"a\" }}]\n[services.a]\ncommand = \"a\"\n"
        )
    };
    assert_eq!(Compiled::of(&text(64 << 10)).codes(), [""; 0]);
    assert_eq!(Compiled::of(&text((64 << 10) + 1)).codes(), ["E0003"]);
}

#[test]
fn a_diagnostic_tells_programs_its_line_and_column() {
    let compiled =
        Compiled::of("name = \"store\"\n[services.hello]\ncommand = \"hello\"\nowner = \"ä\" # ö\nreplcas = 1\n");
    let json = compiled.diagnostics[0].to_json(&compiled.sources);
    expect_test::expect![[r#"
        {
          "code": "E0101",
          "severity": "error",
          "message": "a service has no key `replcas`",
          "file": "atoll.toml",
          "line": 5,
          "column": 1,
          "hint": "did you mean `replicas`?"
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&json).unwrap());
}
