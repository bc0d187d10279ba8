//! The compilation, from top to bottom: files, declarations, wiring, ports, services, routes. Every step reports what is
//! wrong and goes on with the rest, so that one run tells everything.

mod databases;
mod declared;
mod documents;
mod edges;
mod environment;
mod filters;
mod folders;
mod graph;
mod lint;
mod listeners;
mod matches;
mod nats;
mod paths;
mod policies;
mod ports;
mod probes;
mod routes;
mod schemas;
mod services;
mod subscriptions;
mod topics;
mod update;
mod wiring;

use std::path::Path;

use crate::context::Context;
use crate::plan::Plan;

/// Makes a plan as far as that is possible. It may be incomplete when an error was reported.
pub(crate) fn compile(cx: &Context<'_>) -> Option<Plan> {
    let documents = documents::load(cx);
    let declared = declared::collect(cx, &documents)?;
    let name = declared::application(cx, &declared);
    let root = cx.sources.root.parent().unwrap_or(Path::new("/")).to_path_buf();

    let wired = wiring::wire(cx, &declared);
    graph::check_cycles(cx, &wired);
    let listeners = listeners::listeners(cx, &declared);
    let ports = ports::assign(cx, &listeners, &wired);

    let databases = databases::compile(cx, &declared, &wired, &root);
    let nats = nats::compile(cx, &declared);
    let topics = topics::compile(cx, &declared, &wired);
    let subscriptions = subscriptions::compile(cx, &declared, &topics);
    let settled =
        services::Settled { ledger: &ports, databases: &databases, subscriptions: &subscriptions, nats: nats.as_ref() };
    let services = wired.values().map(|unit| (unit.name.value.clone(), services::compile(cx, unit, &settled)));
    let services = services.collect();
    folders::check(cx, &declared, &wired, &services, &databases);
    let routes = routes::compile(cx, &declared);
    let (gateway, dashboard, broker) = listeners.settle(cx, &declared.root, &ports);
    topics::check_store(cx, &declared.root, broker.as_ref(), &topics, &subscriptions);
    let plan = Plan {
        name: name?,
        root,
        gateway,
        dashboard,
        broker,
        nats,
        routes,
        services,
        databases,
        topics,
        subscriptions,
        ports,
    };
    lint::check(cx, &declared, &wired, &plan);
    Some(plan)
}
