//! Subscriptions and the services that they lead to: deliveries that a stop cuts off, and pauses that never come.

use super::{Lint, Site};
use crate::Code;
use crate::compile::subscriptions;
use crate::diagnostic::Diagnostic;
use crate::plan::{Plan, Subscription};
use crate::reader::Table;
use crate::text::format_duration;

pub(super) fn check(lint: &Lint<'_, '_>) {
    for (at, table) in lint.declared.subscriptions.iter().enumerate() {
        let Some(subscription) = subscriptions::name(table).and_then(|name| lint.plan.subscriptions.get(&name)) else {
            continue;
        };
        let found = [outlasting(lint.plan, table, subscription), idle_backoff(table, subscription)];
        for diagnostic in found.into_iter().flatten() {
            lint.find(diagnostic, [Site::Subscription(at), Site::Service(lint.name_of(&subscription.service))]);
        }
    }
}

/// Only where the time is written: the default is far from what a delivery takes.
fn outlasting(plan: &Plan, table: &Table<'_>, subscription: &Subscription) -> Option<Diagnostic> {
    let grace = plan.services.get(&subscription.service)?.stop_grace_period;
    let ack_wait = subscription.ack_wait;
    if ack_wait <= grace || !table.has("ack_wait") {
        return None;
    }
    let (service, ack_wait, grace) = (&subscription.service, format_duration(ack_wait), format_duration(grace));
    let message = format!("a delivery may take {ack_wait}, and `{service}` is given {grace} to end when it is stopped");
    let diagnostic = Diagnostic::new(Code::DeliveryOutlasts, &table.place_of("ack_wait"), message);
    let hint = format!("write `stop_grace_period = \"{ack_wait}\"` in `[services.{service}]`, or a shorter `ack_wait`");
    Some(diagnostic.label("cut off by every update, and delivered again").hint(hint))
}

fn idle_backoff(table: &Table<'_>, subscription: &Subscription) -> Option<Diagnostic> {
    let (attempts, pauses) = (subscription.max_deliver, subscription.backoff.len());
    if !table.has("backoff") || u32::try_from(pauses).is_ok_and(|pauses| pauses < attempts) || pauses == 0 {
        return None;
    }
    let message = format!("`backoff` has {pauses} pauses, and between {attempts} attempts there are {}", attempts - 1);
    let diagnostic = Diagnostic::new(Code::PolicyIdle, &table.place_of("backoff"), message);
    Some(diagnostic.label("the last of them never come").hint("leave them out, or raise `max_deliver`"))
}
