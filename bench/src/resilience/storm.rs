//! All instances are down, and every request may be repeated: how often are they asked?

use anyhow::{Context, Result};
use serde_json::{Map, json};

use super::stand::{By, Case, Load, Service, Target};
use super::{Bench, Section, Stand, float};
use crate::callee::Conduct;

const LOAD: Load = Load { rate: 1_000, seconds: 3, connections: 256 };

const fn service(id: &'static str, conduct: Conduct) -> Service {
    Service { id, conduct: Some(conduct), replicas: 3 }
}

const UNAVAILABLE: Service = service("unavailable", Conduct::Unavailable);
const REFUSING: Service = service("refusing", Conduct::Refusing);
const CLOSING: Service = service("closing", Conduct::Closing);

const RETRY: By = By::Atoll("retry = { attempts = 3 }");
const PLAIN: By = By::Atoll("");
const HAPROXY: By = By::Haproxy(
    "  balance roundrobin\n  retries 2\n  option redispatch 1\n  retry-on 503 conn-failure empty-response",
    "",
);

const fn case(id: &'static str, name: &'static str, service: Service, by: By) -> Case {
    Case { id, name, service, by }
}

const CASES: [Case; 9] = [
    case("503-retry", "answers 503: Atoll, attempts = 3", UNAVAILABLE, RETRY),
    case("503-plain", "answers 503: Atoll, no `retry`", UNAVAILABLE, PLAIN),
    case("503-haproxy", "answers 503: HAProxy, retries 2", UNAVAILABLE, HAPROXY),
    case("refuses-retry", "refuses: Atoll, attempts = 3", REFUSING, RETRY),
    case("refuses-plain", "refuses: Atoll, no `retry`", REFUSING, PLAIN),
    case("refuses-haproxy", "refuses: HAProxy, retries 2", REFUSING, HAPROXY),
    case("closes-retry", "accepts and closes: Atoll, attempts = 3", CLOSING, RETRY),
    case("closes-plain", "accepts and closes: Atoll, no `retry`", CLOSING, PLAIN),
    case("closes-haproxy", "accepts and closes: HAProxy, retries 2", CLOSING, HAPROXY),
];

pub(super) async fn measure(bench: &Bench) -> Result<Section> {
    let stand = Stand::open(bench, &CASES).await?;
    let (mut rows, mut json) = (Vec::new(), Map::new());
    for target in &stand.targets {
        let before = tries(target)?;
        let outcome = target.load(LOAD).await?;
        let tries = tries(target)? - before;
        let requests = outcome.requests + outcome.errors;
        let each = float(tries) / float(requests.max(1));
        let name = target.case.name;
        eprintln!("bench: storm: {name}: {requests} requests, {tries} tries, {each:.2} each");
        rows.push(vec![name.to_owned(), requests.to_string(), tries.to_string(), format!("{each:.2}")]);
        json.insert(
            target.case.id.to_owned(),
            json!({ "name": name, "requests": requests, "tries": tries, "tries_per_request": (each * 1_000.0).round() / 1_000.0 }),
        );
    }
    Ok(Section {
        id: "storm",
        title: format!("All three instances are down, {} requests/s", LOAD.rate),
        header: vec!["", "requests", "tries", "tries a request"],
        rows,
        json: json.into(),
    })
}

/// So far, as told by who was asked. Who does not listen does not know: there the kernel counts the connections that came
/// to nothing, those of other programs too.
fn tries(target: &Target) -> Result<u64> {
    if target.case.service != REFUSING {
        return Ok(target.counts().iter().sum());
    }
    let text = std::fs::read_to_string("/proc/net/snmp").context("cannot read the kernel's counters")?;
    attempt_fails(&text).context("the kernel does not count connections that failed")
}

/// A line of names, and a line of values.
fn attempt_fails(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "AttemptFails")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_count_is_found_by_its_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: MaxConn ActiveOpens AttemptFails X\nTcp: -1 900 42 7\n";
        assert_eq!(attempt_fails(text), Some(42));
        assert_eq!(attempt_fails("Tcp: MaxConn\nTcp: 1\n"), None);
        assert_eq!(attempt_fails(""), None);
    }
}
