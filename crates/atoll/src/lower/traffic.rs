//! Plan and registry → the data plane's listeners, routes and endpoints.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use manifest::Plan;
use manifest::plan;

mod policy;

use policy::policy;

/// Name of the north–south listener.
pub const GATEWAY: &str = "gateway";

/// Name and address of every listener that the plan asks for: the gateway and one an edge.
pub fn listeners(plan: &Plan) -> Vec<(String, SocketAddr)> {
    let edges = plan.edges();
    let edges = edges.map(|(caller, upstream, edge)| (edge_name(caller, upstream), edge_address(edge)));
    std::iter::once((GATEWAY.to_owned(), plan.gateway.listen)).chain(edges).collect()
}

/// Where an edge is reached.
pub(super) fn edge_address(edge: &plan::Edge) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, edge.port))
}

/// What the data plane is told of `[gateway.limits]`. A limit that is new on either side does not compile before it is here.
pub fn limits(plan: &Plan) -> proxy::Limits {
    let plan::Limits {
        request_head,
        request_headers,
        request_target,
        request_body,
        request_head_timeout,
        request_body_timeout,
        idle_timeout,
        connections,
        connections_per_listener,
        connections_per_address,
        requests,
        connect_timeout,
        upstream_idle_connections,
        upstream_idle_timeout,
        upstream_max_age,
        response_idle_timeout,
        response_rate_min,
        trailers,
        chunk_extensions,
        interim_responses,
    } = plan.gateway.limits.clone();
    let bytes = |size| usize::try_from(size).unwrap_or(usize::MAX);
    let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
    proxy::Limits {
        head_bytes_max: bytes(request_head),
        headers_max: count(request_headers),
        uri_bytes_max: bytes(request_target),
        body_bytes_max: request_body,
        head_timeout: request_head_timeout,
        body_timeout: request_body_timeout,
        idle_timeout,
        connections_max: count(connections),
        connections_listener_max: count(connections_per_listener),
        connections_client_max: count(connections_per_address),
        requests_max: u64::from(requests),
        connect_timeout,
        upstream_idle_max: count(upstream_idle_connections),
        upstream_idle_timeout,
        upstream_age_max: upstream_max_age,
        upstream_body_timeout: response_idle_timeout,
        response_rate_min,
        trailer_bytes_max: bytes(trailers),
        chunk_extension_bytes_max: u32::try_from(chunk_extensions).unwrap_or(u32::MAX),
        interim_responses_max: interim_responses,
    }
}

/// What the data plane serves: the plan's rules over the endpoints of this moment. Edges that only `retiring` plans have, oldest
/// first, are those of instances that are still to be replaced.
pub fn snapshot<'p>(
    plan: &'p Plan,
    retiring: impl IntoIterator<Item = &'p Plan>,
    endpoints: &registry::Snapshot,
) -> proxy::Snapshot {
    let is_logged = plan.gateway.access_log;
    let gateway = proxy::Listener {
        role: proxy::Role::Gateway,
        routes: plan.routes.iter().map(route).collect(),
        is_logged,
        tells_reason: plan.gateway.reason_header,
    };
    let all = retiring.into_iter().flat_map(edges).chain(edges(plan));
    proxy::Snapshot {
        // The data plane chooses its own.
        generation: 0,
        listeners: all
            .map(|(name, edge)| (name, proxy::Listener { is_logged, ..edge }))
            .chain([(GATEWAY.to_owned(), gateway)])
            .collect(),
        services: endpoints.services.iter().map(|(name, all)| (name.clone(), ready(all))).collect(),
    }
}

fn edges(of: &Plan) -> impl Iterator<Item = (String, proxy::Listener)> + '_ {
    of.edges().map(|(caller, upstream, edge)| (edge_name(caller, upstream), edge_listener(caller, upstream, edge)))
}

fn edge_name(caller: &str, upstream: &str) -> String {
    format!("{caller}→{upstream}")
}

/// The ports by which instances and listeners are known, as a plan's ledger has them.
pub fn ledger(
    instances: &[(String, u32, SocketAddr)],
    listeners: &BTreeMap<String, SocketAddr>,
) -> BTreeMap<String, u16> {
    let of_instance = |(service, index, address): &(String, u32, SocketAddr)| {
        (manifest::Ports::instance(service, *index), address.port())
    };
    let of_listener = |(name, address): (&String, &SocketAddr)| {
        let key = match name.split_once('→') {
            Some((caller, upstream)) => manifest::Ports::edge(caller, upstream),
            None => manifest::Ports::GATEWAY.to_owned(),
        };
        (key, address.port())
    };
    instances.iter().map(of_instance).chain(listeners.iter().map(of_listener)).collect()
}

/// An edge is a listener with one route that takes everything. The engine of events is told who calls by the path.
fn edge_listener(caller: &str, upstream: &str, edge: &plan::Edge) -> proxy::Listener {
    let everything = proxy::Match {
        path: proxy::PathMatch::Prefix("/".into()),
        methods: Vec::new(),
        headers: Vec::new(),
        query: Vec::new(),
    };
    let filters = match upstream {
        plan::EVENTS => {
            let path = Some(proxy::PathRewrite::Prefix(format!("/{caller}/")));
            vec![proxy::Filter::UrlRewrite { hostname: None, path }]
        }
        _ => Vec::new(),
    };
    // A daemon that is away is followed by the next, and who publishes again publishes nothing twice.
    let absence = match upstream {
        plan::EVENTS => proxy::Absence::Passing,
        _ => proxy::Absence::Failure,
    };
    let route = proxy::Route {
        name: edge_name(caller, upstream),
        hostnames: Vec::new(),
        matches: vec![everything],
        filters,
        policy: proxy::Policy { absence, ..policy(&edge.policy) },
        backends: vec![proxy::Backend { service: upstream.to_owned(), weight: 1 }],
    };
    let role = proxy::Role::Edge { caller: caller.to_owned(), upstream: upstream.to_owned() };
    proxy::Listener { role, routes: vec![route], is_logged: true, tells_reason: true }
}

fn ready(endpoints: &[registry::Endpoint]) -> Vec<proxy::Endpoint> {
    let serving = endpoints.iter().filter_map(|endpoint| {
        let state = match endpoint.state {
            registry::State::Unready => return None,
            registry::State::Ready => proxy::State::Ready,
            registry::State::Draining => proxy::State::Draining,
        };
        Some(proxy::Endpoint { instance: endpoint.instance, address: endpoint.address, state })
    });
    serving.collect()
}

fn route(route: &plan::Route) -> proxy::Route {
    proxy::Route {
        name: route.name.clone(),
        hostnames: route.hostnames.clone(),
        matches: route.matches.iter().map(condition).collect(),
        filters: route.filters.iter().map(filter).collect(),
        policy: policy(&route.policy),
        backends: route.backends.iter().map(backend).collect(),
    }
}

fn condition(from: &plan::Match) -> proxy::Match {
    proxy::Match {
        path: match &from.path {
            plan::PathMatch::Exact(path) => proxy::PathMatch::Exact(path.clone()),
            plan::PathMatch::Prefix(path) => proxy::PathMatch::Prefix(path.clone()),
            plan::PathMatch::Regex(path) => proxy::PathMatch::Regex(path.clone()),
        },
        methods: from.methods.clone(),
        headers: from.headers.iter().map(named).collect(),
        query: from.query.iter().map(named).collect(),
    }
}

fn named(from: &plan::NamedMatch) -> proxy::NamedMatch {
    let value = match &from.value {
        plan::ValueMatch::Exact(value) => proxy::ValueMatch::Exact(value.clone()),
        plan::ValueMatch::Regex(value) => proxy::ValueMatch::Regex(value.clone()),
    };
    proxy::NamedMatch { name: from.name.clone(), value }
}

fn filter(from: &plan::Filter) -> proxy::Filter {
    match from.clone() {
        plan::Filter::UrlRewrite { hostname, path } => {
            proxy::Filter::UrlRewrite { hostname, path: path.map(path_rewrite) }
        }
        plan::Filter::RequestRedirect { scheme, hostname, port, path, status } => {
            proxy::Filter::RequestRedirect { scheme, hostname, port, path: path.map(path_rewrite), status }
        }
        plan::Filter::RequestHeaders(edits) => proxy::Filter::RequestHeaders(header_edits(edits)),
        plan::Filter::ResponseHeaders(edits) => proxy::Filter::ResponseHeaders(header_edits(edits)),
    }
}

fn path_rewrite(from: plan::PathRewrite) -> proxy::PathRewrite {
    match from {
        plan::PathRewrite::Full(path) => proxy::PathRewrite::Full(path),
        plan::PathRewrite::Prefix(path) => proxy::PathRewrite::Prefix(path),
    }
}

fn header_edits(from: plan::HeaderEdits) -> proxy::HeaderEdits {
    let plan::HeaderEdits { set, add, remove } = from;
    let values =
        |edits: BTreeMap<String, plan::Text>| edits.into_iter().map(|(name, text)| (name, text.value)).collect();
    proxy::HeaderEdits { set: values(set), add: values(add), remove }
}

fn backend(from: &plan::Backend) -> proxy::Backend {
    proxy::Backend { service: from.service.clone(), weight: from.weight }
}
