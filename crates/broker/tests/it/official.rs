//! The official clients of three languages do the same to nats-server and to the broker, and must see the same. What a
//! scenario has seen on nats-server is what is right: no scenario can be wrong about NATS. The scenarios of JavaScript and
//! Python lie in `tests/clients`, those of Rust here; `refused` is what only the broker does.

mod buckets;
mod consumers;
mod messaging;
mod refused;
mod requests;
mod scenario;
pub(crate) mod servers;
mod streams;

use std::collections::BTreeMap;
use std::fmt::Write;

use scenario::{Observed, Scenario};
use servers::Servers;

#[derive(Clone, Copy)]
enum Language {
    JavaScript,
    Python,
}

/// Both at once: most of the time is waited.
async fn compare(script: Option<(Language, &str)>, scenarios: &'static [Scenario]) {
    let (theirs, ours) = (Servers::nats().await, Servers::ours());
    let run = async |servers: &Servers| match script {
        Some((language, area)) => scenario::run_script(language, area, servers).await,
        None => scenario::run(scenarios, servers).await,
    };
    let (theirs, ours) = tokio::join!(run(&theirs), run(&ours));
    let mut text = String::new();
    for (name, right) in &theirs {
        let seen = ours.get(name);
        if let Observed::Failed(why) = right {
            let _ = write!(text, "\n\n# {name}: failed beside nats-server\n{why}");
        } else if seen != Some(right) {
            let _ = write!(text, "\n\n# {name}\n{}", difference(right, seen));
        }
    }

    let count = theirs.len();
    assert!(count > 0 && text.is_empty(), "{} of {count} scenarios differ:{text}", text.matches("\n\n# ").count());
}

/// Where both agree does not matter.
fn difference(right: &Observed, seen: Option<&Observed>) -> String {
    let (Observed::Result(right), Some(Observed::Result(seen))) = (right, seen) else {
        return match seen {
            Some(Observed::Failed(why)) => format!("failed: {why}"),
            _ => "was not run".to_owned(),
        };
    };
    let mut text = String::new();
    scenario::put_differences("", right, seen, &mut text);
    text
}

async fn compare_script(language: Language, area: &str) {
    compare(Some((language, area)), &[]).await;
}

async fn compare_rust(scenarios: &'static [Scenario]) {
    let names: BTreeMap<&str, ()> = scenarios.iter().map(|(name, _)| (*name, ())).collect();
    assert_eq!(names.len(), scenarios.len(), "names are unique");
    compare(None, scenarios).await;
}

macro_rules! tests {
    ($($name:ident => $compare:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $compare.await;
        })*
    };
}

tests! {
    async_nats_sends_and_asks_alike => compare_rust(messaging::SCENARIOS);
    async_nats_manages_streams_alike => compare_rust(streams::SCENARIOS);
    async_nats_consumes_alike => compare_rust(consumers::SCENARIOS);
    async_nats_has_the_same_buckets => compare_rust(buckets::SCENARIOS);
    bare_requests_are_answered_alike => compare_rust(requests::SCENARIOS);
    nats_py_sends_and_asks_alike => compare_script(Language::Python, "messaging");
    nats_py_manages_streams_alike => compare_script(Language::Python, "streams");
    nats_py_consumes_alike => compare_script(Language::Python, "consumers");
    nats_py_has_the_same_buckets => compare_script(Language::Python, "kv");
    nats_js_sends_and_asks_alike => compare_script(Language::JavaScript, "messaging");
    nats_js_manages_streams_alike => compare_script(Language::JavaScript, "streams");
    nats_js_consumes_alike => compare_script(Language::JavaScript, "consumers");
    nats_js_has_the_same_buckets => compare_script(Language::JavaScript, "kv");
}
