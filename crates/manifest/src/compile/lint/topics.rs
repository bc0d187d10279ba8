//! Subscriptions to what nobody publishes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Lint, Site};
use crate::Code;
use crate::compile::topics::kept_by;
use crate::diagnostic::Diagnostic;
use crate::plan::Plan;
use crate::reader::Text;
use crate::text::{nearest, subject};

/// Limit: subjects published to one topic that are looked at. With more of them nothing is said of its subscriptions.
const PUBLISHED_MAX: usize = 1_000;

/// What is published to each topic.
type Published<'l> = BTreeMap<&'l str, BTreeSet<&'l str>>;

pub(super) fn check(lint: &Lint<'_, '_>) {
    let published = published(lint.plan);
    for unit in &lint.units {
        let name = unit.name.value.as_str();
        for wanted in &unit.subscribes {
            check_one(lint, &published, (name, wanted), Site::Service(name));
        }
    }
    for (at, table) in lint.declared.subscriptions.iter().enumerate() {
        if let (Some(service), Some(wanted)) = (table.text("service"), table.text("topic")) {
            check_one(lint, &published, (&service.value, &wanted), Site::Subscription(at));
        }
    }
}

/// By services, and by subscriptions, whose dead letters go there.
fn published(plan: &Plan) -> Published<'_> {
    let by_services = plan.services.values().flat_map(|service| &service.publishes);
    let dead_letters = plan.subscriptions.values().filter_map(|subscription| subscription.dead_letter_topic.as_ref());
    let mut published = Published::new();
    for subject in by_services.chain(dead_letters) {
        if let Some((topic, _)) = kept_by(&plan.topics, subject).next() {
            published.entry(topic).or_default().insert(subject);
        }
    }
    published
}

fn check_one<'l>(lint: &Lint<'l, '_>, published: &Published<'_>, (service, wanted): (&str, &Text<'_>), site: Site<'l>) {
    let subjects: Vec<&BTreeSet<&str>> =
        kept_by(&lint.plan.topics, &wanted.value).filter_map(|(topic, _)| published.get(topic)).collect();
    let comes = |subject: &&str| subject::overlap(subject, &wanted.value);
    if subjects.iter().any(|subjects| subjects.len() > PUBLISHED_MAX || subjects.iter().any(comes)) {
        return;
    }
    let hint = match nearest(&wanted.value, subjects.into_iter().flatten().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let (subject, allow) = (&wanted.value, Code::SubscriptionSilent.as_str());
            format!(
                "write `publishes = [\"{subject}\"]` in the service that does; where it comes from outside, `allow = [\"{allow}\"]`"
            )
        }
    };
    let message = format!("`{service}` subscribes to `{}`, which no service publishes", wanted.value);
    let diagnostic = Diagnostic::new(Code::SubscriptionSilent, &wanted.place, message);
    lint.find(diagnostic.label("nothing comes").hint(hint), [site]);
}
