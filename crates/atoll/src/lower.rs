//! Turns a plan into each engine's configuration, and engine states into what the API shows. Pure: no files, no
//! sockets, no clock. The only place besides `daemon` that knows more than one engine.

mod broker;
mod changes;
mod drills;
mod edges;
mod eventing;
mod events;
mod metrics;
mod names;
mod program;
mod story;
mod streams;
mod traffic;
mod units;
mod view;

pub use broker::{ADMIN, Stream, broker, is_ours, is_same_engine, nats_url, reached, streams, users, uses_broker};
pub use changes::changes;
pub use drills::{breakers, effects, fault, forced, no_breaker, words};
pub use edges::edges;
pub use eventing::{Owners, cloud_event, dead_letter, outbox_event, outbox_owners, topics};
pub use events::{events, events_amid, outboxes};
pub use metrics::{BrokerReading, Format as MetricsFormat, Usage, families, write as write_metrics};
pub use names::{find_subject, find_target, is_declared};
pub use program::program;
pub use story::story;
pub use streams::{
    BrokerSeen, ConsumerSeen, NATS_SYNC, StreamSeen, broker_view, is_engines_own, missing_stream, nats_view,
    stream_view, weakness,
};
pub use traffic::{GATEWAY, ledger, limits, listeners, snapshot};
pub use units::{databases, services};
pub use view::{description, endpoint, event, given_up, hopeless, instances, line, services as service_views, skipped};

#[cfg(test)]
pub mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use expect_test::expect_file;
    use manifest::{Plan, Ports, Sources};

    use super::*;
    use crate::project::Credentials;

    pub const CREDENTIALS: Credentials = Credentials::NOBODYS;

    fn sources(root: PathBuf, text: &str) -> Sources {
        Sources {
            files: BTreeMap::from([
                (root.clone(), Ok(text.to_owned())),
                ("/app/stock.json".into(), Ok("{ \"type\": \"object\" }".to_owned())),
            ]),
            root,
            globs: BTreeMap::from([("/app/migrations/".into(), vec!["/app/migrations".into()])]),
            environment: BTreeMap::new(),
            ports: Ports { range: 20_000..=20_999, first: 20_000, ledger: BTreeMap::new(), busy: BTreeSet::new() },
            scale: BTreeMap::new(),
        }
    }

    /// The plan of `lower/golden.toml`, as if it stood in `/app`.
    pub fn plan() -> Plan {
        let sources = sources(PathBuf::from("/app/atoll.toml"), include_str!("lower/golden.toml"));
        assert_eq!(manifest::wanted(&sources), []);
        let (plan, diagnostics) = manifest::compile(&sources);
        plan.unwrap_or_else(|| panic!("{diagnostics:#?}"))
    }

    /// The plan of a manifest in `/app`.
    pub fn compiled(text: &str) -> Plan {
        let (plan, diagnostics) = manifest::compile(&sources(PathBuf::from("/app/atoll.toml"), text));
        plan.unwrap_or_else(|| panic!("{diagnostics:#?}"))
    }

    #[test]
    fn a_plan_becomes_what_each_engine_is_told() {
        let plan = plan();
        expect_file!["lower/golden/services.txt"].assert_debug_eq(&services(&plan, &CREDENTIALS));
        expect_file!["lower/golden/databases.txt"].assert_debug_eq(&databases(&plan, "orders"));
        let users = users(&plan, std::iter::empty(), |_| true, &CREDENTIALS);
        let config = broker(&plan.name, plan.broker.as_ref().expect("a broker"), users, PathBuf::from("/data/broker"));
        expect_file!["lower/golden/broker.txt"].assert_debug_eq(&config);
        expect_file!["lower/golden/streams.txt"].assert_debug_eq(&streams(&plan));
        expect_file!["lower/golden/limits.txt"].assert_debug_eq(&limits(&plan));
        expect_file!["lower/golden/listeners.txt"].assert_debug_eq(&listeners(&plan));
        let registry = registry::Handle::default();
        for (instance, state) in
            [(0, registry::State::Ready), (1, registry::State::Draining), (2, registry::State::Unready)]
        {
            let address = SocketAddr::from(([127, 0, 0, 1], 20_000));
            registry.set("orders", registry::Endpoint { instance, address, state });
        }
        expect_file!["lower/golden/snapshot.txt"].assert_debug_eq(&snapshot(&plan, [], &registry.snapshot()));
    }

    #[test]
    fn each_key_of_the_limits_has_a_counter() {
        let limits = serde_json::to_value(plan().gateway.limits).unwrap();
        let keys: BTreeSet<&str> = limits.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, proxy::Limit::ALL.into_iter().map(proxy::Limit::code).collect());
    }

    #[test]
    fn compiler_and_data_plane_agree_about_paths() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a.b/c~d",
            "/a%20b",
            "/caf%C3%A9",
            "/a//b",
            "//a",
            "/a/../b",
            "/a/./b",
            "/%2e%2e/x",
            "/a%2fb",
            "/a%5Cb",
            "/a\\\\b",
            "/50%",
            "/a%zz",
            "/%c0",
            "/a?b",
            "/a#b",
            "/a b",
            "/a%7eb",
            "/a%41",
            "a",
            "",
            "/ü",
            "/a%00",
            "/a;b=c",
            "/a:b@c",
            "/a%2Eb",
            "/..a",
            "/a..",
            "/%25",
        ] {
            let root = PathBuf::from("/app/atoll.toml");
            let text = format!(
                "name = \"paths\"\n[[routes]]\nname = \"one\"\nmatches = [{{ path = {{ exact = \"{path}\" }} }}]\n\
                 backends = [{{ service = \"web\" }}]\n[services.web]\ncommand = \"web\"\n"
            );
            let (plan, diagnostics) = manifest::compile(&sources(root, &text));
            // The text writes a backslash as TOML does.
            let checked = proxy::check_pattern(&path.replace("\\\\", "\\"));
            assert_eq!(plan.is_some(), checked.is_ok(), "{path}: {checked:?} {diagnostics:#?}");
        }
    }

    #[test]
    fn a_manifest_without_limits_has_those_that_the_data_plane_recommends() {
        let text = "name = \"plain\"\n[services.web]\ncommand = \"web\"\n";
        let (plan, _) = manifest::compile(&sources(PathBuf::from("/app/atoll.toml"), text));
        assert_eq!(limits(&plan.expect("a plan")), proxy::Limits::standard());
    }

    #[test]
    fn a_plan_that_lowers_is_one_that_the_engines_take() {
        let plan = plan();
        proxy::Tables::compile(&snapshot(&plan, [], &registry::Snapshot::default())).expect("the data plane takes it");
        assert_eq!(databases(&plan, "no such service"), []);
    }
}
