//! Subscriptions to what nobody publishes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Lint, Site};
use crate::Code;
use crate::compile::topics::kept_by;
use crate::diagnostic::Diagnostic;
use crate::text::{nearest, subject};

/// Limit: subjects published to one topic that are looked at. With more of them nothing is said of its subscriptions.
const PUBLISHED_MAX: usize = 1_000;

pub(super) fn check(lint: &Lint<'_, '_>) {
    let mut published: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for subject in lint.plan.services.values().flat_map(|service| &service.publishes) {
        if let Some((topic, _)) = kept_by(&lint.plan.topics, subject).next() {
            published.entry(topic).or_default().insert(subject);
        }
    }
    for unit in &lint.units {
        for wanted in &unit.subscribes {
            let subjects: Vec<&BTreeSet<&str>> =
                kept_by(&lint.plan.topics, &wanted.value).filter_map(|(topic, _)| published.get(topic)).collect();
            let comes = |subject: &&str| subject::overlap(subject, &wanted.value);
            if subjects.iter().any(|subjects| subjects.len() > PUBLISHED_MAX || subjects.iter().any(comes)) {
                continue;
            }
            let name = unit.name.value.as_str();
            let hint = match nearest(&wanted.value, subjects.into_iter().flatten().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    let (subject, allow) = (&wanted.value, Code::SubscriptionSilent.as_str());
                    format!(
                        "write `publishes = [\"{subject}\"]` in the service that does; where it comes from outside, `allow = [\"{allow}\"]`"
                    )
                }
            };
            let message = format!("`{name}` subscribes to `{}`, which no service publishes", wanted.value);
            let diagnostic = Diagnostic::new(Code::SubscriptionSilent, &wanted.place, message);
            lint.find(diagnostic.label("nothing comes").hint(hint), [Site::Service(name)]);
        }
    }
}
