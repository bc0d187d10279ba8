//! Which rule answers a request: a pure function of a compiled table and a head, and the same walk told in words.

use percent_encoding::percent_decode_str;

use crate::message::Head;
use crate::story::{Rejected, cut};
use crate::table::{Compiled, NamedRule, PathRule, Rule, Table, ValueRule};

/// What is to be done with a request.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'t> {
    /// This route answers: by its redirect if it has one, else by one of its backends.
    Serve {
        route: &'t std::sync::Arc<Compiled>,
        /// Its rule's place in the table.
        position: usize,
        /// How many bytes of the path the match covers: what a prefix rewrite replaces.
        matched: usize,
    },
    /// No rule matches: 404.
    NoRoute,
    /// Every rule names its hosts, and none of them is the one that was asked: 421 (RFC 9110 §15.5.20).
    Misdirected,
}

/// Gives the first rule that matches in order of precedence: the most specific host, then as in the Gateway API.
/// A host whose own rules do not match falls through to less specific ones.
#[must_use]
pub fn route<'t>(table: &'t Table, head: &Head<'_>) -> Decision<'t> {
    let (host, path) = (head.host(), head.path());
    match table.candidates(host, path).find(|(_, rule)| reject(rule, path, head).is_none()) {
        Some((position, rule)) => Decision::Serve { route: &rule.route, position, matched: matched(rule, path) },
        None if !host.is_empty() && !table.serves(host) => Decision::Misdirected,
        None => Decision::NoRoute,
    }
}

/// One rule, as `explain` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    pub route: String,
    /// The rule's conditions in short.
    pub rule: String,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Chosen,
    /// Would match too, but one before it did.
    Shadowed,
    /// Does not match; says why.
    Rejected(String),
}

/// Tells about every rule of the table, in order of precedence, what [`route`] makes of it.
#[must_use]
pub fn explain(table: &Table, head: &Head<'_>) -> Vec<Considered> {
    let mut chosen = false;
    let mut consider = |rule: &Rule| {
        let rejection =
            if rule.host.fits(head.host()) { reject(rule, head.path(), head) } else { Some(Rejection::Host) };
        let verdict = match rejection {
            Some(rejection) => Verdict::Rejected(rejection.in_words(head)),
            None if chosen => Verdict::Shadowed,
            None => {
                chosen = true;
                Verdict::Chosen
            }
        };
        Considered { route: rule.route.name().to_owned(), rule: rule.to_string(), verdict }
    };
    table.rules.iter().map(&mut consider).collect()
}

// Limit: rules that are told of beside the one that answered.
const TOLD_MAX: usize = 8;

/// The rules whose place could have been that of the one at `chosen`, and why they did not answer. Where there is none,
/// the first of the table. Nothing of the request is repeated: what is kept of many must not grow with what clients send.
pub(crate) fn rejected(table: &Table, head: &Head<'_>, chosen: Option<usize>) -> Vec<Rejected> {
    let near: Vec<usize> = table.candidates(head.host(), head.path()).map(|(position, _)| position).collect();
    let all = if near.is_empty() && chosen.is_none() { (0..table.rules.len()).take(TOLD_MAX).collect() } else { near };
    let others = all.into_iter().filter(|position| Some(*position) != chosen).take(TOLD_MAX);
    let tell = |position: usize| {
        let rule = &table.rules[position];
        let rejection =
            if rule.host.fits(head.host()) { reject(rule, head.path(), head) } else { Some(Rejection::Host) };
        let why = rejection.map_or_else(|| "another rule is more specific".to_owned(), |why| why.in_short());
        Rejected { route: rule.route.name().to_owned(), rule: cut(&rule.to_string()), why: cut(&why) }
    };
    others.map(tell).collect()
}

enum Rejection<'t> {
    Host,
    Path,
    Method,
    Header(&'t NamedRule),
    Query(&'t NamedRule),
}

impl Rejection<'_> {
    fn in_words(&self, head: &Head<'_>) -> String {
        match self {
            Self::Host => format!("the host is `{}`", head.host()),
            Self::Path => format!("the path is `{}`", head.path()),
            Self::Method => format!("the method is {}", head.method()),
            Self::Header(rule) => format!("no header {rule}"),
            Self::Query(rule) => format!("no query parameter {rule}"),
        }
    }

    /// Without the request's own words.
    fn in_short(&self) -> String {
        match self {
            Self::Host => "the host is another".to_owned(),
            Self::Path => "the path is another".to_owned(),
            Self::Method => "the method is another".to_owned(),
            Self::Header(rule) => format!("no header {rule}"),
            Self::Query(rule) => format!("no query parameter {rule}"),
        }
    }
}

/// The first condition beside the host that does not hold, the cheapest to check first.
fn reject<'t>(rule: &'t Rule, path: &str, head: &Head<'_>) -> Option<Rejection<'t>> {
    let fits_path = match &rule.path {
        PathRule::Exact(exact) => *exact == path,
        PathRule::Regex(regex) => regex.is_match(path),
        PathRule::Prefix(prefix) => {
            path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    };
    if !fits_path {
        return Some(Rejection::Path);
    }
    if !rule.methods.is_empty() && !rule.methods.iter().any(|method| method == head.method().as_str()) {
        return Some(Rejection::Method);
    }
    if let Some(missed) = rule.headers.iter().find(|rule| !fits_header(rule, head)) {
        return Some(Rejection::Header(missed));
    }
    rule.query.iter().find(|rule| !fits_query(rule, head.query().unwrap_or_default())).map(Rejection::Query)
}

/// Several fields of one name are one list (RFC 9110 §5.3).
fn fits_header(rule: &NamedRule, head: &Head<'_>) -> bool {
    let mut values = head.values(&rule.name);
    let Some(first) = values.next() else { return false };
    match values.next() {
        None => fits_value(&rule.value, first),
        Some(second) => {
            let list: Vec<&str> = [first, second].into_iter().chain(values).collect();
            fits_value(&rule.value, &list.join(", "))
        }
    }
}

/// Of several parameters of one name the first counts, as the Gateway API recommends.
fn fits_query(rule: &NamedRule, query: &str) -> bool {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs.filter(|(name, _)| decode(name) == rule.name).map(|(_, value)| decode(value)).next();
    value.is_some_and(|value| fits_value(&rule.value, &value))
}

fn fits_value(rule: &ValueRule, value: &str) -> bool {
    match rule {
        ValueRule::Exact(expected) => expected == value,
        ValueRule::Regex(regex) => regex.is_match(value),
    }
}

fn matched(rule: &Rule, path: &str) -> usize {
    match &rule.path {
        PathRule::Prefix(prefix) => prefix.len(),
        PathRule::Exact(_) | PathRule::Regex(_) => path.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::time::Duration;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::snapshot::{Backend, Listener, Match, NamedMatch, PathMatch, Role, Route, ValueMatch};

    /// `name | hosts | path | methods | headers | query`; a path is `=exact`, `~regex` or a prefix.
    fn table(lines: &str) -> Table {
        let routes = lines.trim().lines().map(|line| {
            let columns: Vec<&str> = line.split('|').map(str::trim).collect();
            let path = match columns[2].split_at(1) {
                ("=", path) => PathMatch::Exact(path.to_owned()),
                ("~", regex) => PathMatch::Regex(regex.to_owned()),
                _ => PathMatch::Prefix(columns[2].to_owned()),
            };
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
            let (methods, headers, query) = (words(columns[3]), named(columns[4]), named(columns[5]));
            route_of(columns[0], words(columns[1]), Match { path, methods, headers, query })
        });
        Table::compile(&Listener {
            role: Role::Gateway,
            routes: routes.collect(),
            is_logged: true,
            tells_reason: false,
        })
        .unwrap()
    }

    fn named(text: &str) -> Vec<NamedMatch> {
        let pair = |pair: &str| match pair.split_once('~') {
            Some((name, regex)) => NamedMatch { name: name.to_owned(), value: ValueMatch::Regex(regex.to_owned()) },
            None => {
                let (name, value) = pair.split_once('=').unwrap();
                NamedMatch { name: name.to_owned(), value: ValueMatch::Exact(value.to_owned()) }
            }
        };
        text.split_whitespace().map(pair).collect()
    }

    fn route_of(name: &str, hostnames: Vec<String>, condition: Match) -> Route {
        Route {
            name: name.to_owned(),
            hostnames,
            matches: vec![condition],
            filters: vec![],
            policy: crate::policy::Policy::plain(Duration::from_secs(1)),
            backends: vec![Backend { service: "s".to_owned(), weight: 1 }],
        }
    }

    fn look<T>(request: &str, look: impl FnOnce(&Head<'_>) -> T) -> T {
        let (request, fields) = request.split_once(" + ").unwrap_or((request, ""));
        let fields: String = fields.split_whitespace().map(|pair| pair.replace('=', ": ") + "\r\n").collect();
        let text = format!("{request} HTTP/1.1\r\nhost: any\r\n{fields}\r\n");
        crate::head::with_head(text.as_bytes(), look).unwrap()
    }

    fn check(table: &Table, requests: &[&str], expect: &Expect) {
        let mut seen = String::new();
        for request in requests {
            let chosen = look(request, |head| match route(table, head) {
                Decision::Serve { route, matched, .. } => format!("{} ({})", route.name(), &head.path()[..matched]),
                Decision::Misdirected => "misdirected".to_owned(),
                Decision::NoRoute => "-".to_owned(),
            });
            writeln!(seen, "{request:40} {chosen}").unwrap();
        }
        expect.assert_eq(&seen);
    }

    #[test]
    fn the_most_specific_path_wins_whatever_the_order() {
        let table = table(
            "all    || /          |||
             api    || /api/      |||
             orders || /api/orders|||
             number || ~/api/orders/[0-9]+ |||
             one    || =/api/orders/1 |||
             e      || /café      |||",
        );
        check(
            &table,
            &[
                "GET /",
                "GET /apix",
                "GET /api",
                "GET /api/",
                "GET /%61pi/x",
                "GET /api/orders",
                "GET /api/orders/x",
                "GET /api/orders/12",
                "GET /api/orders/12/x",
                "GET /api/orders/1",
                "GET /api/orders/1?q=1",
                "GET /caf%c3%a9/x",
            ],
            &expect![[r#"
                GET /                                    all ()
                GET /apix                                all ()
                GET /api                                 api (/api)
                GET /api/                                api (/api)
                GET /%61pi/x                             api (/api)
                GET /api/orders                          orders (/api/orders)
                GET /api/orders/x                        orders (/api/orders)
                GET /api/orders/12                       number (/api/orders/12)
                GET /api/orders/12/x                     orders (/api/orders)
                GET /api/orders/1                        one (/api/orders/1)
                GET /api/orders/1?q=1                    one (/api/orders/1)
                GET /caf%c3%a9/x                         e (/caf%C3%A9)
            "#]],
        );
    }

    #[test]
    fn hosts_go_before_paths_and_fall_through() {
        let table = table(
            "any     |                      | =/only-any |||
             star    | *.example.org        | /          |||
             longer  | *.shop.example.org   | /          |||
             exact   | www.shop.example.org | /api       |||
             several | a.test B.test        | /          |||",
        );
        check(
            &table,
            &[
                "GET http://www.shop.example.org/api",
                "GET http://WWW.Shop.Example.org./api",
                "GET http://www.shop.example.org/other",
                "GET http://x.y.example.org/only-any",
                "GET http://example.org/only-any",
                "GET http://example.org/",
                "GET http://b.test:8080/x",
                "GET http://evilexample.org/",
            ],
            &expect![[r#"
                GET http://www.shop.example.org/api      exact (/api)
                GET http://WWW.Shop.Example.org./api     exact (/api)
                GET http://www.shop.example.org/other    longer ()
                GET http://x.y.example.org/only-any      star ()
                GET http://example.org/only-any          any (/only-any)
                GET http://example.org/                  -
                GET http://b.test:8080/x                 several ()
                GET http://evilexample.org/              -
            "#]],
        );
    }

    #[test]
    fn conditions_break_ties_then_order_does() {
        let table = table(
            "first   || /x |          |                  |
             second  || /x |          |                  |
             method  || /x | GET HEAD |                  |
             header  || /x |          | x-a=1            |
             headers || /x |          | X-A=1 x-b~[0-9]+ |
             query   || /x |          |                  | page~[0-9]+
             both    || /x |          | x-a=1            | page=1
             list    || /y |          | x-a~1,.2         |",
        );
        check(
            &table,
            &[
                "POST /x",
                "GET /x",
                "HEAD /x + x-a=1",
                "POST /x + x-a=1",
                "POST /x + x-a=1 x-b=22",
                "POST /x + x-a=1 x-b=2b",
                "POST /x?page=7",
                "POST /x?page=a&page=7",
                "POST /x?p%61ge=7",
                "POST /x?page=1 + x-a=1",
                "GET /y + x-a=1 x-a=2",
                "GET /y + x-a=1",
            ],
            &expect![[r#"
                POST /x                                  first (/x)
                GET /x                                   method (/x)
                HEAD /x + x-a=1                          method (/x)
                POST /x + x-a=1                          header (/x)
                POST /x + x-a=1 x-b=22                   headers (/x)
                POST /x + x-a=1 x-b=2b                   header (/x)
                POST /x?page=7                           query (/x)
                POST /x?page=a&page=7                    first (/x)
                POST /x?p%61ge=7                         query (/x)
                POST /x?page=1 + x-a=1                   both (/x)
                GET /y + x-a=1 x-a=2                     list (/y)
                GET /y + x-a=1                           -
            "#]],
        );
    }

    #[test]
    fn explain_tells_every_verdict() {
        let table = table(
            "other ||           =/y |     |       |
             shop  | shop.test | /  |     |       |
             read  ||           /x  | GET |       |
             admin ||           /x  |     | k=1   |
             debug ||           /x  |     |       | d=1
             rest  ||           /   |     |       |
             last  ||           /   |     |       |",
        );
        let told = look("POST http://else.test/x", |head| explain(&table, head));
        let mut seen = String::new();
        for Considered { route, rule, verdict } in told {
            writeln!(seen, "{route:6} {rule:24} {verdict:?}").unwrap();
        }
        expect![[r#"
            shop   host shop.test, path /*  Rejected("the host is `else.test`")
            other  path = /y                Rejected("the path is `/x`")
            read   path /x/*, GET           Rejected("the method is POST")
            admin  path /x/*, header k = 1  Rejected("no header k = 1")
            debug  path /x/*, query d = 1   Rejected("no query parameter d = 1")
            rest   path /*                  Chosen
            last   path /*                  Shadowed
        "#]]
        .assert_eq(&seen);
    }

    #[test]
    fn what_cannot_be_compiled_is_refused() {
        let refused = |path: PathMatch| {
            let condition = Match { path, methods: vec![], headers: vec![], query: vec![] };
            let listener = Listener {
                role: Role::Gateway,
                routes: vec![route_of("bad", vec![], condition)],
                is_logged: true,
                tells_reason: false,
            };
            Table::compile(&listener).unwrap_err().to_string()
        };
        let regex = "route `bad` has an invalid regular expression";
        assert_eq!(refused(PathMatch::Regex("(".to_owned())), regex);
        assert_eq!(refused(PathMatch::Regex("(a{9999}){9999}".to_owned())), regex);
        let path = "route `bad` matches a path that no request can have";
        assert_eq!(refused(PathMatch::Prefix("/a/../b".to_owned())), path);
    }
}
