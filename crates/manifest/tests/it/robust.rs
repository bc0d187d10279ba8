//! No input makes the compiler panic, every diagnostic points into its file, and there is a plan exactly when there is
//! no error.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use manifest::{Color, Severity, Sources, compile, render};
use proptest::prelude::*;

use crate::fixture::{Compiled, Fixture};

/// Checks what holds for every input.
fn check(compiled: &Compiled) {
    let errors = compiled.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
    assert_eq!(errors == 0, compiled.plan.is_some());
    for diagnostic in &compiled.diagnostics {
        let related = diagnostic.related.iter().map(|related| (&related.file, &related.span));
        for (file, span) in related.chain([(&diagnostic.file, &diagnostic.span)]) {
            let text = match compiled.sources.files.get(file) {
                Some(Ok(text)) => text.as_str(),
                _ => "",
            };
            assert!(text.get(span.clone()).is_some(), "{span:?} of {}: {diagnostic:?}", text.len());
        }
        assert!(!diagnostic.message.contains('\n'), "{diagnostic:?}");
        assert!(diagnostic.hint.is_some(), "{diagnostic:?}");
        assert!(!render(diagnostic, &compiled.sources, Color::Always).is_empty());
        assert!(diagnostic.to_json(&compiled.sources)["line"].is_number());
    }
    if let Some(plan) = &compiled.plan {
        let printed = plan.to_toml();
        assert!(printed.parse::<toml::Table>().is_ok(), "{printed}");
    }
}

fn fixtures() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let paths = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let fixtures = paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    fixtures.map(|path| fs::read_to_string(path).expect("readable")).collect()
}

/// The root manifest alone, without the files around it.
fn alone(text: &str) -> Compiled {
    let mut sources = Fixture::parse("").sources();
    let root = sources.root.clone();
    sources.files = BTreeMap::from([(root, Ok(text.to_owned()))]);
    let (plan, diagnostics) = compile(&sources);
    Compiled { sources, plan, diagnostics }
}

/// The parts that begin with a table, or with what stands before the first one.
fn sections(text: &str) -> impl Iterator<Item = &str> {
    let begins = text.match_indices("\n[").map(|(at, _)| at + 1);
    let places: Vec<usize> = [0].into_iter().chain(begins).chain([text.len()]).collect();
    (1..places.len()).map(move |next| &text[places[next - 1]..places[next]])
}

/// A fixture as a whole is cut at places that drift over its lines. What has every key is cut at every byte, one section at
/// a time: within a line the sections before it make no difference but to the time.
#[test]
fn every_fixture_may_be_cut_at_every_byte() {
    let fixtures = fixtures();
    let drifting = |text: &String| (0..text.len()).step_by(13).collect::<Vec<_>>();
    let wholes = fixtures.iter().map(|text| (text.as_str(), drifting(text)));
    let every = fixtures.iter().find(|text| text.contains("Every key")).expect("the fixture with every key");
    let parts = sections(every).map(|section| (section, (0..=section.len()).collect()));
    let cuts: Vec<(&str, Vec<usize>)> = wholes.chain(parts).collect();
    std::thread::scope(|scope| {
        for half in 0..2 {
            let cuts = &cuts;
            scope.spawn(move || {
                let all = cuts.iter().flat_map(|(text, places)| places.iter().filter_map(|at| text.get(..*at)));
                all.skip(half).step_by(2).for_each(|text| check(&alone(text)));
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_compiles_to_something(text in "\\PC{0,200}") {
        check(&alone(&text));
    }

    #[test]
    fn any_mixture_of_tokens_compiles_to_something(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..60)) {
        check(&alone(&tokens.concat()));
    }

    #[test]
    fn a_mutated_fixture_compiles_to_something(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..12usize, prop::sample::select(TOKENS)), 1..6),
    ) {
        let fixtures = fixtures();
        let mut characters: Vec<char> = which.get(&fixtures).chars().collect();
        for (at, removed, inserted) in edits {
            let at = at.index(characters.len() + 1);
            let end = (at + removed).min(characters.len());
            characters.splice(at..end, inserted.chars());
        }
        check(&alone(&characters.into_iter().collect::<String>()));
    }
}

const TOKENS: &[&str] = &[
    "\n",
    " ",
    "=",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    ",",
    ".",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "#",
    "\\",
    "\r\n",
    "\t",
    "\0",
    "é",
    "\u{feff}",
    "\u{202e}",
    "0",
    "-1",
    "9223372036854775808",
    "0x7f",
    "1e400",
    "nan",
    "true",
    "1979-05-27",
    "\"\\u0000\"",
    "name = \"x\"\n",
    "include = [\"*.toml\"]\n",
    "[gateway]\n",
    "listen = \"[::1]:0\"\n",
    "[[routes]]\n",
    "name = \"r\"\n",
    "matches = [{}]\n",
    "path = { prefix = \"/a\" }",
    "filters = []\n",
    "url_rewrite",
    "request_redirect",
    "backends = [{ service = \"a\" }]\n",
    "[services.a]\n",
    "[services.b]\n",
    "command = \"a ${PORT}\"\n",
    "replicas = 2\n",
    "upstreams = [\"b\"]\n",
    "edges.\"*\".timeout = \"1s\"\n",
    "depends_on = [\"b\"]\n",
    "environment.A = \"${A:-${B}\"\n",
    "env_file = \".env\"\n",
    "probes.liveness.tcp = true\n",
    "timeout = \"0s\"\n",
    "databases = [\"d\"]\n",
    "build = \"a && $(b) 'c\"\n",
    "working_dir = \"w\"\n",
    "migrations = \"m\"\n",
    "update.strategy = \"recreate\"\n",
    "update.max_surge = 0\n",
    "update.auto_revert = false\n",
    "watch = { paths = [\"a\"] }\n",
    "watch.ignore = [\"[\"]\n",
    "resources.limits = { cpu = 0.5 }\n",
    "resources.limits.memory = \"1MiB\"\n",
    "retry = { attempts = 6, codes = [503], unsafe_methods = true }\n",
    "upstreams = [\"a\"]\n",
    "total_timeout = \"1s\"\n",
    "load_balancing = { policy = \"ring_hash\", hash_on = \"header.a\", panic_threshold = 0.5 }\n",
    "outlier_ejection = { consecutive_failures = 0, failure_rate = nan }\n",
    "circuit_breaker = { window_calls = 5, minimum_calls = 9, slow_call = \"1s\" }\n",
    "concurrency_limit = { max = 1, queue = 1 }\n",
    "rate_limit = { requests = 1, per = \"1s\", key = \"jwt.sub\" }\n",
    "fallback = { status = 204, body = \"a\" }\n",
    "edges.\"*\".fallback.service = \"b\"\n",
    "edges.\"*\".retry.attempts = 6\n",
    "allow = [\"W0503\", \"W0510\"]\n",
    "[databases.d]\n",
    "engine = \"postgres\"\n",
    "${",
    "$$",
    "services",
    "*",
    "\"",
    "]\n",
];

#[test]
fn nesting_of_any_kind_is_refused_before_it_is_dangerous() {
    let dots = vec!["a"; 79].join(".");
    let tables = format!("{dots}={{").repeat(79);
    for text in [
        "x=".to_owned() + &"[".repeat(500_000),
        "x=".to_owned() + &"{a=".repeat(300_000),
        vec!["a"; 500_000].join(".") + "=1",
        format!("[{}]", vec!["a"; 500_000].join(".")),
        format!("x={tables}1{}", "}".repeat(79)),
        format!("\"\"\"\n{tables}"),
        format!("a='\n{tables}1{}", "}".repeat(79)),
        format!("a=\"\"\"\n{tables}1{}", "}".repeat(79)),
        format!("a=\"\\\"\n{tables}1{}", "}".repeat(79)),
        "[[[".repeat(300_000),
        "[a]\n".repeat(200_000),
        "a=1\n".repeat(200_000),
        "=\n".repeat(400_000),
        "\"".repeat(1_000_000),
    ] {
        let compiled = alone(&text);
        check(&compiled);
        assert!(compiled.plan.is_none());
        assert!(compiled.diagnostics.len() <= 201);
    }
}

#[test]
fn dots_and_brackets_in_strings_and_comments_do_not_count() {
    let noise = format!("{}{}", "[".repeat(50), ".".repeat(50));
    let text = format!(
        "# {noise}\nname = \"store\" # {noise}\n[services.a]\ncommand = 'a {noise}'\ndescription = \"\"\"\nit's\n\"{noise}\"\n\"\"\"\nowner = '''\n\"{noise}\n'''\n"
    );
    let compiled = alone(&text);
    assert!(compiled.plan.is_some(), "{}", compiled.rendered());
}

#[test]
fn a_hostile_manifest_of_the_largest_size_is_answered_in_time() {
    let services: String = (0..1_200)
        .map(|n| format!("[services.s{n}]\ncommand = \"a\"\nreplicas = 100\ndepends_on = [\"s{}\"]\n", n + 1))
        .collect();
    check(&alone(&format!("name = \"x\"\n{services}")));
    let routes: String = (0..1_200)
        .map(|n| format!("[[routes]]\nname = \"r{n}\"\nmatches = [{{ path = {{ regex = \"(a{{99}}){{9}}\" }} }}]\n"))
        .collect();
    check(&alone(&format!("name = \"x\"\n{routes}")));
    let filter = "1+".repeat(495);
    let subscriptions: String = (0..900)
        .map(|n| format!("[[subscriptions]]\ntopic = \"t\"\nservice = \"s\"\npath = \"/\"\nfilter = \"{filter}{n}\"\n"))
        .collect();
    check(&alone(&format!("name = \"x\"\n{subscriptions}")));
    check(&alone(&format!("name = \"{}\"", "x".repeat(1_000_000))));
    check(&alone(&"x".repeat(2_000_000)));
}

#[test]
fn a_missing_root_is_a_diagnostic() {
    let mut sources = Fixture::parse("").sources();
    sources.files = BTreeMap::from([(sources.root.clone(), Err("permission denied".to_owned()))]);
    let (plan, diagnostics) = compile(&sources);
    check(&Compiled { sources, plan, diagnostics });
}

#[test]
fn paths_outside_and_odd_roots_do_no_harm() {
    for root in ["/atoll.toml", "atoll.toml", "", "/", "/a b/[x]/atoll.toml"] {
        let mut sources: Sources = Fixture::parse("").sources();
        sources.root = PathBuf::from(root);
        let text = "include = [\"../../*.toml\", \"..\", \"/etc/x.toml\", \"./../y.toml\"]\n[services.a]\ncommand = \"../../a\"\nenv_file = \"../e\"\nworking_dir = \"../[w]\"\nwatch.paths = [\"../..\"]\n[databases.d]\nmigrations = \"/\"";
        for _ in 0..4 {
            for want in manifest::wanted(&sources) {
                match want {
                    manifest::Want::File(path) => sources.files.insert(path, Ok(text.to_owned())).map(drop),
                    manifest::Want::Glob(pattern) => sources.globs.insert(pattern, vec!["/x.toml".into()]).map(drop),
                };
            }
        }
        assert_eq!(manifest::wanted(&sources), [], "{root}");
        let (plan, diagnostics) = compile(&sources);
        check(&Compiled { sources, plan, diagnostics });
    }
}

#[test]
fn text_of_a_manifest_does_not_steer_the_terminal() {
    let compiled = alone(
        "name = \"x\"\n[services.\"\\u001b[31mred\\u0007\"]\ncommand = \"\u{9b}31m\"\nrestart = \"\\u001b]0;x\\u0007\"\n",
    );
    check(&compiled);
    let rendered = compiled.rendered();
    assert!(!rendered.contains(|c: char| c.is_control() && c != '\n'), "{rendered:?}");
}
