//! The lints' own time, apart from that of reading the manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::compile::{declared, documents, listeners, routes, services, topics, wiring};
use crate::context::Context;
use crate::plan::Plan;
use crate::{Ports, Sources};

/// Fifty times what the slowest shape takes in a build without optimisation: only another order of growth gets here.
const TIME_MAX: Duration = Duration::from_secs(5);

/// What this thread has spent on a processor.
fn spent() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// What the lints spend on this text, and how much they find.
fn time(text: String) -> (Duration, usize) {
    let root = PathBuf::from("/app/atoll.toml");
    let ports = Ports { range: 1..=1, first: 1, ledger: BTreeMap::new(), busy: BTreeSet::new() };
    let files = BTreeMap::from([(root.clone(), Ok(text))]);
    let sources =
        Sources { root, files, globs: BTreeMap::new(), environment: BTreeMap::new(), ports, scale: BTreeMap::new() };
    let cx = Context::new(&sources);
    let documents = documents::load(&cx);
    let declared = declared::collect(&cx, &documents).unwrap();
    let wired = wiring::wire(&cx, &declared);
    let plan = plan(&cx, &declared, &wired);
    assert!(cx.is_sound());
    let start = spent();
    super::check(&cx, &declared, &wired, &plan);
    let time = spent() - start;
    (time, cx.into_diagnostics().len())
}

/// Without ports: more calls than there are ports may be looked at.
fn plan(cx: &Context<'_>, declared: &declared::Declared<'_>, wired: &wiring::Wired<'_>) -> Plan {
    let (ledger, databases, subscriptions) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let settled =
        services::Settled { ledger: &ledger, databases: &databases, subscriptions: &subscriptions, nats: None };
    let services = wired.iter().map(|(name, unit)| (name.clone(), services::compile(cx, unit, &settled))).collect();
    let (gateway, dashboard, broker) = listeners::listeners(cx, declared).settle(cx, &declared.root, &ledger);
    Plan {
        name: "dense".to_owned(),
        root: Path::new("/app").to_path_buf(),
        gateway,
        dashboard,
        broker,
        nats: None,
        routes: routes::compile(cx, declared),
        services,
        databases,
        topics: topics::compile(cx, declared, wired),
        subscriptions,
        ports: BTreeMap::new(),
    }
}

fn dense(policy: &str, upstreams: impl Fn(usize) -> Vec<usize>) -> String {
    let mut text = "name = \"dense\"\n".to_owned();
    for n in 0..500 {
        let route = format!("[[routes]]\nname = \"r{n}\"\nbackends = [{{ service = \"s{n}\" }}]\n");
        let names: Vec<String> = upstreams(n).iter().map(|upstream| format!("\"s{upstream}\"")).collect();
        text += &format!("{route}matches = [{{ path.prefix = \"/{}\" }}]\n", n % 50);
        text += &format!("[services.s{n}]\ncommand = \"a\"\nupstreams = [{}]\n{policy}\n", names.join(", "));
    }
    text
}

#[test]
fn five_hundred_dense_services_cost_no_more_than_their_edges() {
    let policy = "edges.\"*\" = { timeout = \"1s\", retry.attempts = 6 }";
    let ahead = |n: usize| (n + 1..(n + 101).min(500)).collect();
    let around = |n: usize| (1..=100).map(|step| (n + step) % 500).collect();
    for (shape, text) in
        [("defaults", dense("", ahead)), ("no circle", dense(policy, ahead)), ("all in circles", dense(policy, around))]
    {
        let (time, found) = time(text);
        assert!(found >= 200, "{shape}: {found} findings");
        assert!(time < TIME_MAX, "{shape}: {time:?}");
    }
}
