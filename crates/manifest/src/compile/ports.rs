//! Who listens on which port. Ports of the ledger are kept; the rest come from the range, in the order of names.

use std::collections::{BTreeMap, BTreeSet};

use super::listeners::Listeners;
use super::wiring::Wired;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::EVENTS;
use crate::{Code, Ports};

/// The new ledger. Entries of what is gone are not in it.
pub(crate) fn assign(cx: &Context<'_>, listeners: &Listeners<'_>, wired: &Wired<'_>) -> BTreeMap<String, u16> {
    let mut keys: Vec<String> = Vec::new();
    let mut fixed = BTreeMap::new();
    for listener in listeners.all() {
        let key = listener.which.key().to_owned();
        match listener.address.port() {
            0 => keys.push(key),
            port => drop(fixed.insert(key, port)),
        }
    }
    for (name, unit) in wired {
        keys.extend((0..unit.replicas + unit.update.max_surge).map(|index| Ports::instance(name, index)));
        keys.extend(unit.upstreams.iter().map(|upstream| Ports::edge(name, &upstream.value)));
        keys.extend((!unit.publishes.is_empty()).then(|| Ports::edge(name, EVENTS)));
        keys.extend(unit.is_delivered_to.then(|| Ports::edge(EVENTS, name)));
    }
    let (mut ledger, missing) = allocate(&cx.sources.ports, &keys, &fixed.values().copied().collect());
    if missing > 0 {
        let range = &cx.sources.ports.range;
        let message = format!("the ports {} to {} are used up; {missing} more needed", range.start(), range.end());
        let place = wired.values().next().map_or(&listeners.gateway.place, |unit| &unit.name.place);
        cx.report(
            Diagnostic::new(Code::PortsExhausted, place, message)
                .hint("lower `replicas`, or give a wider range of ports"),
        );
    }
    for listener in listeners.all().filter(|listener| !listener.written) {
        ledger.extend(fixed.remove_entry(listener.which.key()));
    }
    ledger
}

/// Gives a port to each key, and says how many got none. One pass over the range: the first key takes the first free port.
fn allocate(ports: &Ports, keys: &[String], fixed: &BTreeSet<u16>) -> (BTreeMap<String, u16>, usize) {
    let mut used: BTreeSet<u16> = fixed.union(&ports.busy).copied().collect();
    let mut ledger = BTreeMap::new();
    for key in keys {
        if let Some(port) = ports.ledger.get(key).filter(|port| **port != 0 && used.insert(**port)) {
            ledger.insert(key.clone(), *port);
        }
    }
    let (start, end) = (*ports.range.start(), *ports.range.end());
    let first = ports.first.clamp(start.min(end), end);
    let usable = |port: &u16| *port != 0 && ports.range.contains(port) && !used.contains(port);
    // What is not wanted any more may still listen for a moment: its port is given away last.
    let leaving: BTreeSet<u16> = ports.ledger.values().copied().collect();
    let all = || (first..=end).chain(start..first).filter(usable);
    let mut free = all().filter(|port| !leaving.contains(port)).chain(all().filter(|port| leaving.contains(port)));
    let mut missing = 0;
    for key in keys {
        if !ledger.contains_key(key) {
            match free.next() {
                Some(port) => {
                    ledger.insert(key.clone(), port);
                }
                None => missing += 1,
            }
        }
    }
    (ledger, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(ledger: &[(&str, u16)], busy: &[u16]) -> Ports {
        let ledger = ledger.iter().map(|(key, port)| ((*key).to_owned(), *port)).collect();
        Ports { range: 10..=14, first: 13, ledger, busy: busy.iter().copied().collect() }
    }

    fn check(ports: &Ports, keys: &[&str], expected: &[(&str, u16)], missing: usize) {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let (ledger, left) = allocate(ports, &keys, &BTreeSet::from([14]));
        let ledger: Vec<(&str, u16)> = ledger.iter().map(|(key, port)| (key.as_str(), *port)).collect();
        assert_eq!((ledger.as_slice(), left), (expected, missing));
    }

    #[test]
    fn new_ports_begin_at_the_first_and_wrap_around() {
        check(&ports(&[], &[10]), &["a", "b", "c"], &[("a", 13), ("b", 11), ("c", 12)], 0);
        check(&ports(&[], &[10]), &["a", "b", "c", "d"], &[("a", 13), ("b", 11), ("c", 12)], 1);
    }

    #[test]
    fn the_ledger_is_kept_unless_busy_given_twice_or_gone() {
        check(&ports(&[("b", 13), ("gone", 10)], &[]), &["a", "b"], &[("a", 11), ("b", 13)], 0);
        check(&ports(&[("gone", 10)], &[11, 12]), &["a", "b"], &[("a", 13), ("b", 10)], 0);
        check(&ports(&[("a", 12), ("b", 12)], &[]), &["a", "b"], &[("a", 12), ("b", 13)], 0);
        check(&ports(&[("a", 12), ("b", 0)], &[12]), &["a", "b"], &[("a", 13), ("b", 10)], 0);
        check(&ports(&[("a", 14)], &[]), &["a"], &[("a", 13)], 0);
        check(&ports(&[("a", 900)], &[]), &["a"], &[("a", 900)], 0);
    }

    #[test]
    fn an_empty_range_gives_nothing() {
        let ports = Ports { range: RANGE_EMPTY, first: 0, ledger: BTreeMap::new(), busy: BTreeSet::new() };
        check(&ports, &["a"], &[], 1);
    }

    const RANGE_EMPTY: std::ops::RangeInclusive<u16> = std::ops::RangeInclusive::new(5, 4);
}
