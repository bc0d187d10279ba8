//! Routes and edges by the names that people use for them, as `atoll edges` prints them. Pure.

use manifest::{Plan, nearest, plan};
use proxy::{FaultTarget, Subject};

use crate::api::dto;
use crate::lower::GATEWAY;

// Limit: characters of an unknown name, and known names, that a message repeats.
const CHARS_SHOWN: usize = 80;
const NAMES_SHOWN: usize = 12;

/// A route or an edge of a plan.
pub struct Named<'p> {
    pub subject: Subject,
    /// `gateway`, or who calls.
    pub from: &'p str,
    pub to: Vec<String>,
    pub route: Option<&'p str>,
    pub policy: &'p plan::Policy,
}

impl Named<'_> {
    /// As in "front → back" and "gateway → catalog (route products)".
    pub fn name(&self) -> String {
        dto::edge_name(self.from, &self.to, self.route)
    }
}

/// Every route and edge, in the order of the manifest and then of names.
pub fn named(plan: &Plan) -> impl Iterator<Item = Named<'_>> {
    let routes = plan.routes.iter().map(|route| Named {
        subject: Subject::Route { listener: GATEWAY.to_owned(), route: route.name.clone() },
        from: GATEWAY,
        to: route.backends.iter().map(|backend| backend.service.clone()).collect(),
        route: Some(&route.name),
        policy: &route.policy,
    });
    let edges = plan.edges().map(|(caller, upstream, edge)| Named {
        subject: Subject::Edge { caller: caller.to_owned(), upstream: upstream.to_owned() },
        from: caller,
        to: vec![upstream.to_owned()],
        route: None,
        policy: &edge.policy,
    });
    routes.chain(edges)
}

/// Whether a plan has this route or edge.
pub fn is_declared(plan: &Plan, subject: &Subject) -> bool {
    named(plan).any(|named| named.subject == *subject)
}

/// The name of what a fault meets, also when the plan does not have it any more.
pub fn target_name(plan: &Plan, target: &FaultTarget) -> String {
    match target {
        FaultTarget::Subject(subject) => subject_name(plan, subject),
        FaultTarget::Service { service, instance: None } => service.clone(),
        FaultTarget::Service { service, instance: Some(instance) } => format!("{service}.{instance}"),
    }
}

pub fn subject_name(plan: &Plan, subject: &Subject) -> String {
    let known = named(plan).find(|named| named.subject == *subject);
    known.map_or_else(
        || match subject {
            Subject::Route { route, .. } => format!("route {route}"),
            Subject::Edge { caller, upstream } => dto::edge_name(caller, std::slice::from_ref(upstream), None),
            Subject::NoRoute | Subject::NoEdge => "(no route)".to_owned(),
        },
        |named| named.name(),
    )
}

/// How somebody has named something.
enum Word<'w> {
    Edge(&'w str, &'w str),
    Route(&'w str),
    Service(&'w str),
    Bare(&'w str),
}

fn read(word: &str) -> Word<'_> {
    let word = word.trim();
    if let Some((_, route)) = word.strip_suffix(')').and_then(|word| word.rsplit_once(" (route ")) {
        return Word::Route(route.trim());
    }
    match (word.split_once('→').or_else(|| word.split_once("->")), word.split_once(' ')) {
        (Some((caller, upstream)), _) => Word::Edge(caller.trim(), upstream.trim()),
        (None, Some(("route", name))) => Word::Route(name.trim()),
        (None, Some(("service", name))) => Word::Service(name.trim()),
        _ => Word::Bare(word),
    }
}

/// The route or edge that a word names: `caller→upstream`, `caller->upstream`, `route NAME`, or the name of a route alone.
pub fn find_subject<'p>(plan: &'p Plan, word: &str) -> Result<Named<'p>, dto::Problem> {
    match read(word) {
        Word::Edge(GATEWAY, upstream) => find_route_to(plan, upstream, word),
        Word::Edge(caller, upstream) => named(plan)
            .find(|named| named.route.is_none() && named.from == caller && named.to == [upstream])
            .ok_or_else(|| unknown(plan, word, &[])),
        Word::Route(name) | Word::Bare(name) => find_route(plan, name).ok_or_else(|| unknown(plan, word, &[])),
        Word::Service(_) => Err(unknown(plan, word, &[])),
    }
}

fn find_route<'p>(plan: &'p Plan, name: &str) -> Option<Named<'p>> {
    named(plan).find(|named| named.route == Some(name))
}

/// The one route of the gateway that leads to a service.
fn find_route_to<'p>(plan: &'p Plan, upstream: &str, word: &str) -> Result<Named<'p>, dto::Problem> {
    let mut all: Vec<Named<'p>> =
        named(plan).filter(|named| named.route.is_some() && named.to.iter().any(|to| to == upstream)).collect();
    if all.len() > 1 {
        let names = all.iter().filter_map(|named| Some(format!("`route {}`", named.route?))).take(NAMES_SHOWN);
        let names: Vec<String> = names.collect();
        return Err(dto::Problem {
            title: "ambiguous".into(),
            status: 409,
            detail: format!("{} routes of the gateway lead to `{}`", all.len(), shortened(upstream)),
            hint: Some(format!("write one of {}", names.join(", "))),
        });
    }
    all.pop().ok_or_else(|| unknown(plan, word, &[]))
}

/// What a word names as the target of a fault: a route, an edge, a service, or one of its instances as `web.1`. Only those
/// of `has_instance` exist.
pub fn find_target(
    plan: &Plan,
    has_instance: impl Fn(&str, u32) -> bool,
    word: &str,
) -> Result<FaultTarget, dto::Problem> {
    let is_service = |name: &str| plan.services.contains_key(name);
    let services: Vec<&str> = plan.services.keys().map(String::as_str).collect();
    let (name, is_bare) = match read(word) {
        Word::Bare(name) => (name, true),
        Word::Service(name) => (name, false),
        Word::Edge(..) | Word::Route(_) => return Ok(FaultTarget::Subject(find_subject(plan, word)?.subject)),
    };
    let route = find_route(plan, name).filter(|_| is_bare);
    if route.is_some() && is_service(name) {
        return Err(dto::Problem {
            title: "ambiguous".into(),
            status: 409,
            detail: format!("`{name}` is a route and a service"),
            hint: Some(format!(
                "write `route {name}` for requests of the route, `service {name}` for tries that go to the service"
            )),
        });
    }
    if let Some(route) = route {
        return Ok(FaultTarget::Subject(route.subject));
    }
    let (service, index) = name.split_once('.').map_or((name, None), |(service, index)| (service, Some(index)));
    if !is_service(service) {
        return Err(unknown(plan, word, &services));
    }
    let Some(index) = index else {
        return Ok(FaultTarget::Service { service: service.to_owned(), instance: None });
    };
    match index.parse().ok().filter(|index| has_instance(service, *index)) {
        Some(index) => Ok(FaultTarget::Service { service: service.to_owned(), instance: Some(index) }),
        None => Err(dto::Problem {
            title: "unknown".into(),
            status: 404,
            detail: format!("`{service}` has no instance `{}`", shortened(index)),
            hint: Some("`atoll ps` shows its instances".into()),
        }),
    }
}

fn unknown(plan: &Plan, word: &str, services: &[&str]) -> dto::Problem {
    let plain = |named: Named<'_>| match named.route {
        Some(route) => route.to_owned(),
        None => format!("{}→{}", named.from, named.to.join(",")),
    };
    let known: Vec<String> = named(plan).map(plain).chain(services.iter().map(|name| (*name).to_owned())).collect();
    let plainly: String = match read(word) {
        Word::Edge(caller, upstream) => format!("{caller}→{upstream}"),
        Word::Route(name) | Word::Service(name) | Word::Bare(name) => name.to_owned(),
    };
    let what = if services.is_empty() { "route or edge" } else { "route, edge or service" };
    let hint = match nearest(&plainly, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "this application has none: `[[routes]]` and `upstreams` declare them".to_owned(),
        None => {
            let rest = known.len().saturating_sub(NAMES_SHOWN);
            let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            format!("there are {}{more}", known[..known.len() - rest].join(", "))
        }
    };
    dto::Problem {
        title: "unknown".into(),
        status: 404,
        detail: format!("there is no {what} `{}` in this application", shortened(word)),
        hint: Some(hint),
    }
}

fn shortened(word: &str) -> String {
    let word = word.trim();
    let shown: String = word.chars().take(CHARS_SHOWN).filter(|c| !c.is_control()).collect();
    if shown.len() < word.len() { format!("{shown}…") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::tests::compiled;

    const SHOP: &str = r#"
name = "shop"
[[routes]]
name = "products"
matches = [{ path = { prefix = "/a" } }]
backends = [{ service = "catalog" }]
[[routes]]
name = "cart"
matches = [{ path = { prefix = "/b" } }]
backends = [{ service = "cart" }]
[services.catalog]
command = "x"
replicas = 2
[services.cart]
command = "x"
upstreams = ["catalog"]
publishes = ["cart.filled"]
[[subscriptions]]
topic = "cart.filled"
service = "catalog"
path = "/events"
"#;

    fn found(word: &str) -> Result<String, String> {
        let plan = compiled(SHOP);
        let has = |service: &str, index: u32| service == "catalog" && index < 2;
        let said = |problem: dto::Problem| format!("{}; {}", problem.detail, problem.hint.unwrap_or_default());
        find_target(&plan, has, word).map(|target| target_name(&plan, &target)).map_err(said)
    }

    #[test]
    fn what_is_printed_can_be_written() {
        let plan = compiled(SHOP);
        for named in named(&plan) {
            let again = find_subject(&plan, &named.name()).unwrap_or_else(|problem| panic!("{problem:?}"));
            assert_eq!(again.subject, named.subject);
        }
        for (word, name) in [
            ("cart->catalog", "cart → catalog"),
            ("cart→catalog", "cart → catalog"),
            ("cart->@events", "cart → @events"),
            ("@events → catalog", "@events → catalog"),
            (" cart -> catalog ", "cart → catalog"),
            ("products", "gateway → catalog (route products)"),
            ("route cart", "gateway → cart (route cart)"),
            ("gateway→cart", "gateway → cart (route cart)"),
            ("service cart", "cart"),
            ("catalog", "catalog"),
            ("catalog.1", "catalog.1"),
        ] {
            assert_eq!(found(word), Ok(name.to_owned()), "{word}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_what_it_may_have_meant() {
        for (word, said) in [
            (
                "cart->katalog",
                "there is no route or edge `cart->katalog` in this application; did you mean `cart→catalog`?",
            ),
            ("prodcts", "there is no route, edge or service `prodcts` in this application; did you mean `products`?"),
            ("catalog.2", "`catalog` has no instance `2`; `atoll ps` shows its instances"),
            ("catalog.x", "`catalog` has no instance `x`; `atoll ps` shows its instances"),
            (
                "cart",
                "`cart` is a route and a service; write `route cart` for requests of the route, `service cart` for tries \
                 that go to the service",
            ),
            (
                "",
                "there is no route, edge or service `` in this application; there are products, cart, cart→catalog, \
                 cart→@events, @events→catalog, cart, catalog",
            ),
        ] {
            assert_eq!(found(word), Err(said.to_owned()), "{word}");
        }
        for word in
            ["→", "->", "route", "route ", "a→b→c", "catalog.", ".1", "x (route )", &"ü".repeat(10_000), "\u{0}"]
        {
            let said = found(word).expect_err(word);
            assert!(said.len() < 1000, "{said}");
        }
    }
}
