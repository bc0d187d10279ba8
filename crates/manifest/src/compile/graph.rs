//! Services that wait for each other: every cycle of `depends_on` is shown once, as a path.

use std::collections::{BTreeMap, BTreeSet};

use super::wiring::Wired;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;

/// Reports the cycles that a depth-first walk closes. Iterative: the depth is the manifest's to choose.
pub(crate) fn check_cycles(cx: &Context<'_>, wired: &Wired<'_>) {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in wired.keys() {
        // The path from the start, each with the number of its dependencies that were followed, and where each stands.
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        let mut on_path: BTreeMap<&str, usize> = BTreeMap::from([(start.as_str(), 0)]);
        while let Some((name, followed)) = path.last_mut() {
            let next = wired.get(*name).and_then(|unit| unit.depends_on.get(*followed));
            *followed += 1;
            let Some((next, _)) = next else {
                done.insert(name);
                on_path.remove(name);
                path.pop();
                continue;
            };
            if let Some(at) = on_path.get(next.value.as_str()) {
                let names: Vec<&str> = path[*at..].iter().map(|(name, _)| *name).chain([next.value.as_str()]).collect();
                let message = format!("services wait for each other: {}", names.join(" → "));
                let diagnostic = Diagnostic::new(Code::Cycle, &next.place, message).label("closes the circle");
                cx.report(diagnostic.hint("take one of them out of `depends_on`; calls need only `upstreams`"));
            } else if !done.contains(next.value.as_str()) {
                on_path.insert(&next.value, path.len());
                path.push((&next.value, 0));
            }
        }
    }
}
