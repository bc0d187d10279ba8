//! The lints: what is told of a whole manifest, where, and above all of what nothing is said.

use crate::fixture::Compiled;

/// Compiles what follows a name. It must be a valid manifest, and what is found must have these codes.
#[track_caller]
fn finds(text: &str, codes: &[&str]) -> Compiled {
    let compiled = Compiled::of(&format!("name = \"store\"\n{text}"));
    assert!(compiled.plan.is_some(), "{}", compiled.rendered());
    assert_eq!(compiled.codes(), codes, "{text}\n{}", compiled.rendered());
    compiled
}

/// Services by name, with what else their tables say.
fn services(all: &[(&str, &str)]) -> String {
    all.iter().map(|(name, more)| format!("[services.{name}]\ncommand = \"{name}\"\n{more}\n")).collect()
}

/// Services by name, with whom they call.
fn calls(all: &[(&str, &str)]) -> String {
    all.iter().map(|(name, calls)| services(&[(name, &format!("upstreams = [{calls}]"))])).collect()
}

/// Routes to services, with what else they say.
fn routes(all: &[(&str, &str)]) -> String {
    let route = |(at, (service, more)): (usize, &(&str, &str))| {
        format!("[[routes]]\nname = \"r{at}\"\nbackends = [{{ service = \"{service}\" }}]\n{more}\n")
    };
    all.iter().enumerate().map(route).collect()
}

fn messages(compiled: &Compiled) -> Vec<&str> {
    compiled.diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect()
}

#[test]
fn each_circle_is_shown_once_whatever_its_length() {
    let found = finds(&calls(&[("a", "'b'"), ("b", "'c'"), ("c", "'a'"), ("d", "'a'"), ("e", "")]), &["W0503"]);
    assert_eq!(messages(&found), ["services call each other in a circle: a → b → c → a"]);
    // Two that share a call, and one apart.
    let knot = [("a", "'b', 'c'"), ("b", "'d'"), ("c", "'d'"), ("d", "'a'"), ("x", "'y'"), ("y", "'x'")];
    let found = finds(&calls(&knot), &["W0503"; 3]);
    let mut shown = messages(&found);
    shown.sort_unstable();
    assert!(shown[0].ends_with(": a → b → d → a") && shown[1].ends_with(": a → c → d → a"), "{shown:?}");
    assert!(shown[2].ends_with(": x → y → x"), "{shown:?}");
    finds(&calls(&[("a", "'b', 'c'"), ("b", "'d'"), ("c", "'d'"), ("d", "")]), &[]);
    let ring: String =
        (10..40).map(|n| calls(&[(&format!("s{n}"), &format!("'s{}'", if n == 39 { 10 } else { n + 1 }))])).collect();
    let found = finds(&ring, &["W0503"]);
    assert!(messages(&found)[0].ends_with("s18 → … 20 more … → s39 → s10"), "{:?}", messages(&found));
}

#[test]
fn a_caller_must_wait_longer_than_what_it_calls() {
    let path = |route: &str, edge: &str, behind: &str| {
        let of = |key: &str, timeout: &str| match timeout {
            "" => String::new(),
            timeout => format!("{key} = \"{timeout}\""),
        };
        routes(&[("a", &of("timeout", route))])
            + &services(&[
                ("a", &format!("upstreams = ['b']\n{}", of("edges.b.timeout", edge))),
                ("b", &format!("upstreams = ['c']\n{}", of("edges.c.timeout", behind))),
                ("c", ""),
            ])
    };
    finds(&path("", "", ""), &[]);
    finds(&path("3s", "2s", "1s"), &[]);
    finds(&path("16s", "", "14s"), &[]);
    let found = finds(&path("2s", "2s", "1s"), &["W0504"]);
    assert_eq!(messages(&found), ["the call behind may outlast its caller: gateway → a 2s, a → b 2s"]);
    finds(&path("14s", "", "1s"), &["W0504"]);
    let found = finds(&path("20s", "", "16s"), &["W0504"]);
    assert_eq!(found.diagnostics[0].to_json(&found.sources)["line"], 13, "{}", found.rendered());
    finds(&path("", "15s", "1s"), &["W0504"]);
    finds(&path("1s", "2s", "3s"), &["W0504"; 2]);
    // What is written once for many calls is one mistake, and around a circle there is no right order.
    let many = "upstreams = ['b', 'c']\nedges.'*'.timeout = '1s'";
    finds(&services(&[("a", many), ("b", "upstreams = ['d']"), ("c", "upstreams = ['d']"), ("d", "")]), &["W0504"]);
    let back = "upstreams = ['a']\nallow = ['W0503']";
    finds(&services(&[("a", "upstreams = ['b']\nedges.b.timeout = '1s'"), ("b", back)]), &[]);
}

#[test]
fn a_worker_is_not_called_unused() {
    let beside = |more: &str| {
        let databases = "[databases.d]\nallow = ['W0501']\n#- file .env\nA=b\n";
        routes(&[("shop", "")]) + &services(&[("shop", ""), ("other", more)]) + databases
    };
    let told = finds(&beside(""), &["W0505"]);
    assert!(messages(&told)[0].contains("`other`"), "{}", told.rendered());
    finds(&beside("probes.readiness.http = '/readyz'"), &["W0505"]);
    for worker in [
        "upstreams = ['shop']",
        "depends_on = ['shop']",
        "environment = { QUEUE = 'amqp://example.org' }",
        "env_file = '.env'",
        "probes.readiness.exec = 'true'",
        "restart = 'on-failure'",
        "replicas = 0",
        "allow = ['W0505']",
    ] {
        finds(&beside(worker), &[]);
    }
    finds(&services(&[("shop", ""), ("other", "")]), &[]);
    finds(&(routes(&[("shop", "")]) + &services(&[("shop", "depends_on = ['other']"), ("other", "")])), &[]);
}

#[test]
fn a_route_that_others_shadow_is_told() {
    let api = "{ path = { prefix = '/api' } }";
    for (first, second) in [
        (api, "{ path = { prefix = '/api/' } }"),
        (api, api),
        ("{ path = { regex = '/.*' } }", api),
        ("{ path = { regex = '/api.*' } }", "{ path = { prefix = '/api/x' }, methods = ['GET'] }"),
        ("{ path = { regex = '/[0-9]+' } }", "{ path = { regex = '/[0-9]+' } }"),
        ("{ path = { exact = '/a' }, methods = ['GET', 'POST'] }", "{ path = { exact = '/a' }, methods = ['GET'] }"),
        ("{ methods = ['GET'] }, { methods = ['POST'] }", "{ methods = ['GET', 'POST'] }"),
        (
            "{ headers = [{ name = 'X-A', exact = '1' }, { name = 'b', regex = '.' }] }",
            "{ headers = [{ name = 'b', regex = '.' }, { name = 'x-a', exact = '1' }] }",
        ),
        ("{ query = [{ name = 'q', exact = '1' }] }", "{ query = [{ name = 'q', exact = '1' }] }"),
    ] {
        let found = finds(&both(first, second), &["W0506"]);
        assert!(messages(&found)[0].starts_with("the route `r1` never"), "{}", found.rendered());
    }
    // Here the second one goes first and takes everything.
    let found = finds(&both(api, "{ path = { regex = '.*' } }"), &["W0506"]);
    assert!(messages(&found)[0].starts_with("the route `r0` never"), "{}", found.rendered());
    finds(&for_hosts("'A.example.org', 'b.example.org'", "'a.example.org'"), &["W0506"]);
}

#[test]
fn a_route_that_may_get_a_request_is_not_called_shadowed() {
    let api = "{ path = { prefix = '/api' } }";
    for (first, second) in [
        ("{}", api),
        (api, "{}"),
        ("{ methods = ['GET'] }", "{}"),
        ("{}", "{ methods = ['GET'] }"),
        ("{ methods = ['GET'] }", "{ methods = ['GET', 'POST'] }"),
        (api, "{ path = { prefix = '/api' } }, { path = { prefix = '/b' } }"),
        ("{ path = { exact = '/api' } }", api),
        (api, "{ path = { exact = '/api' } }"),
        ("{ path = { regex = '/ap.' } }", api),
        ("{ path = { regex = '/api/.*' } }", api),
        ("{ path = { regex = '/.*' } }", "{ path = { exact = '/x' } }"),
        ("{ headers = [{ name = 'a', exact = '1' }] }", "{ headers = [{ name = 'a', exact = '2' }] }"),
        ("{ headers = [{ name = 'a', exact = '1' }] }", "{ headers = [{ name = 'a', regex = '1' }] }"),
        ("{ query = [{ name = 'q', exact = '1' }] }", "{ query = [{ name = 'Q', exact = '1' }] }"),
    ] {
        finds(&both(first, second), &[]);
    }
    finds(&for_hosts("'*.example.org'", "'a.example.org'"), &[]);
    finds(&for_hosts("'a.example.org'", "'*.example.org'"), &[]);
    finds(&for_hosts("'a.example.org'", "'a.example.org', 'b.example.org'"), &[]);
}

/// Two routes, one after the other, with their matches.
fn both(first: &str, second: &str) -> String {
    let matches = [first, second].map(|matches| format!("matches = [{matches}]"));
    routes(&[("a", &matches[0]), ("a", &matches[1])]) + &services(&[("a", "")])
}

fn for_hosts(first: &str, second: &str) -> String {
    let hosts = [first, second].map(|hosts| format!("hostnames = [{hosts}]"));
    routes(&[("a", &hosts[0]), ("a", &hosts[1])]) + &services(&[("a", "")])
}

#[test]
fn a_probe_that_asks_another_service_is_told() {
    let with = |probe: &str| {
        let shop = format!("upstreams = ['user', 'user-data']\nprobes.{probe}\n");
        format!("gateway.listen = '127.0.0.1:8080'\n{}", services(&[("shop", &shop), ("user", ""), ("user-data", "")]))
    };
    for probe in [
        "readiness.exec = 'curl -sf ${USER_URL}/readyz'",
        "readiness.exec = 'curl ${USER_DATA_URL}'",
        "readiness.exec = \"sh -c 'curl -s $USER_URL'\"",
        "liveness.exec = 'curl localhost:8080/shop'",
        "readiness.exec = 'curl http://127.0.0.1:8080'",
    ] {
        let found = finds(&with(probe), &["W0507"]);
        assert_eq!(messages(&found)[0].contains("gateway"), probe.contains("8080"), "{}", found.rendered());
    }
    for probe in [
        "readiness.exec = 'curl -sf http://${HOST}:${PORT}/readyz'",
        "readiness.exec = 'curl http://localhost:80801'",
        "readiness.exec = \"sh -c 'echo $USER_URLS'\"",
        "readiness.http = '/user'",
        "startup.exec = 'curl ${USER_URL}'",
    ] {
        finds(&with(probe), &[]);
    }
    // A variable of its own says something else.
    let own = "upstreams = ['user']\nenvironment = { USER_URL = 'x' }\nprobes.readiness.exec = 'echo ${USER_URL}'";
    finds(&services(&[("shop", own), ("user", "")]), &[]);
}

#[test]
fn an_update_that_takes_every_instance_is_an_outage() {
    let with = |more: &str| routes(&[("shop", "")]) + &services(&[("shop", more)]);
    finds(&with("update.max_unavailable = 1"), &["W0508"]);
    finds(&with("update.strategy = 'recreate'"), &["W0508"]);
    finds(&with("replicas = 2\nupdate.strategy = 'recreate'"), &["W0508"]);
    finds(&with("replicas = 2\nupdate = { max_surge = 0, max_unavailable = 2 }"), &["W0508"]);
    finds(&with("replicas = 2\nupdate = { max_surge = 0, max_unavailable = 1 }"), &[]);
    finds(&with("replicas = 0\nupdate.strategy = 'recreate'"), &[]);
    finds(&services(&[("shop", "update.max_unavailable = 1")]), &[]);
}

#[test]
fn a_retry_is_told_where_it_may_do_something_twice() {
    let route = |more: &str| routes(&[("a", more)]) + &services(&[("a", "")]);
    let again = "retry = { attempts = 2, unsafe_methods = true }";
    finds(&route(again), &["W0509"]);
    let some = "matches = [{ methods = ['GET'] }, { methods = ['PUT', 'PATCH'] }]";
    finds(&route(&format!("{again}\n{some}")), &["W0509"]);
    finds(&route(&format!("{again}\nmatches = [{{ methods = ['GET', 'PUT', 'DELETE'] }}]")), &[]);
    finds(&route("retry = { attempts = 6 }"), &[]);
    finds(&route("retry = { attempts = 1, unsafe_methods = true }"), &[]);
    for name in ["b", "'*'"] {
        let caller = format!("upstreams = ['b', 'c']\nedges.{name}.{again}");
        finds(&services(&[("a", &caller), ("b", ""), ("c", "")]), &["W0509"]);
    }
}

#[test]
fn tries_multiply_along_the_worst_path() {
    let path = |route: u32, first: u32, second: u32| {
        let edge = |name: &str, attempts: u32, timeout: &str| {
            let policy = format!("{{ timeout = '{timeout}', retry.attempts = {attempts} }}");
            format!("upstreams = ['{name}', 'z']\nedges.{name} = {policy}\nedges.z.timeout = '1s'")
        };
        routes(&[("a", &format!("retry.attempts = {route}")), ("a", "matches = [{ path.prefix = '/b' }]")])
            + &services(&[("a", &edge("b", first, "9s")), ("b", &edge("c", second, "5s")), ("c", ""), ("z", "")])
    };
    finds(&path(2, 2, 2), &[]);
    let found = finds(&path(3, 3, 1), &["W0510"]);
    assert_eq!(messages(&found), ["one request may become 9 tries: gateway → a ×3 → b ×3"]);
    let found = finds(&path(1, 3, 4), &["W0510"]);
    assert_eq!(messages(&found), ["one request may become 12 tries: gateway → a → b ×3 → c ×4"]);
    assert_eq!(found.diagnostics[0].to_json(&found.sources)["line"], 13, "{}", found.rendered());
    // A worker begins a path too.
    let found = finds(&path(1, 3, 4).replace("service = \"a\"", "service = \"z\""), &["W0510"]);
    assert_eq!(messages(&found), ["one request may become 12 tries: a → b ×3 → c ×4"]);
}

#[test]
fn a_part_of_a_policy_that_never_acts_is_told() {
    let route = |more: &str| routes(&[("a", more)]) + &services(&[("a", "depends_on = ['b']"), ("b", "")]);
    for (idle, acting) in [
        ("circuit_breaker.slow_call = '15s'", "circuit_breaker.slow_call = '14s'"),
        ("timeout = '2s'\ncircuit_breaker.slow_call = '2s'", "timeout = '2s'\ncircuit_breaker.slow_call = '1s'"),
        (
            "retry = { attempts = 2, try_timeout = '1s' }\ncircuit_breaker.slow_call = '1s'",
            "retry = { attempts = 1, try_timeout = '1s' }\ncircuit_breaker.slow_call = '1s'",
        ),
        ("retry = { attempts = 2, try_timeout = '15s' }", "retry = { attempts = 2, try_timeout = '14s' }"),
        ("timeout = '1s'\nconnect_timeout = '1s'", "timeout = '1s'\nconnect_timeout = '999ms'"),
        ("timeout = '5s'\ntotal_timeout = '4s'", "timeout = '5s'\ntotal_timeout = '5s'"),
        ("total_timeout = '5s'\nidle_timeout = '5s'", "total_timeout = '5s'\nidle_timeout = '4s'"),
        (
            "timeout = '1s'\nconcurrency_limit = { max = 1, queue = 1, wait = '1s' }",
            "timeout = '1s'\nconcurrency_limit = { max = 1, queue = 0, wait = '1s' }",
        ),
        ("fallback.service = 'a'", "fallback.service = 'b'"),
    ] {
        finds(&route(idle), &["W0514"]);
        finds(&route(acting), &[]);
        finds(&route(&format!("{idle}\nallow = ['W0514']")), &[]);
    }
    // More time to the head than for all of it is nobody's wish where it is not written.
    finds(&route("total_timeout = '5s'"), &[]);
}

#[test]
fn what_is_written_for_many_edges_is_idle_only_where_it_is_so_on_all() {
    let with = |edges: &str| services(&[("a", &format!("upstreams = ['b', 'c']\n{edges}")), ("b", ""), ("c", "")]);
    finds(&with("edges.'*' = { timeout = '1s', circuit_breaker.slow_call = '1s' }"), &["W0514"]);
    finds(&with("edges.'*' = { circuit_breaker.slow_call = '1s' }\nedges.b.timeout = '1s'"), &[]);
    finds(&with("edges.b = { circuit_breaker.slow_call = '1s' }\nedges.'*'.timeout = '1s'"), &["W0514"]);
    // A fallback for all is none for the one that it leads to.
    finds(&with("edges.b.fallback.service = 'b'"), &["W0514"]);
    let plan = finds(&with("edges.'*'.fallback.service = 'b'"), &[]).plan.unwrap();
    let edges = &plan.services["a"].edges;
    assert!(edges["b"].policy.fallback.is_none() && edges["c"].policy.fallback.is_some());
}

#[test]
fn a_fallback_that_tells_a_writer_that_all_is_well_is_told() {
    let route = |more: &str| routes(&[("a", more)]) + &services(&[("a", "")]);
    let fallback = "fallback = { status = 200, body = '[]' }";
    finds(&route(fallback), &["W0515"]);
    finds(&route(&format!("{fallback}\nmatches = [{{ methods = ['GET'] }}, {{ methods = ['DELETE'] }}]")), &["W0515"]);
    finds(&route(&format!("{fallback}\nmatches = [{{ methods = ['GET', 'HEAD', 'OPTIONS'] }}]")), &[]);
    finds(&route("fallback = { status = 503, body = 'closed', content_type = 'text/plain' }"), &[]);
    finds(&services(&[("a", &format!("upstreams = ['b']\nedges.b.{fallback}")), ("b", "")]), &[]);
}

#[test]
fn a_service_that_others_fall_back_to_is_used_and_waited_for() {
    let more = "timeout = '1s'\nfallback.service = 'b'";
    let behind = "upstreams = ['c']\nedges.c.timeout = '2s'";
    finds(&(routes(&[("a", more)]) + &services(&[("a", ""), ("b", "")])), &[]);
    finds(&(routes(&[("a", more)]) + &services(&[("a", ""), ("b", behind), ("c", "")])), &["W0504"]);
    // The shorter of two timeouts is what a caller waits.
    let total = more.replace("timeout", "total_timeout");
    finds(&(routes(&[("a", &total)]) + &services(&[("a", ""), ("b", behind), ("c", "")])), &["W0504"]);
}

#[test]
fn a_deep_chain_is_found_behind_a_circle_too() {
    let chain = |last: &str, more: &str| {
        routes(&[("a", ""), ("b", "matches = [{ path.prefix = '/b' }]")])
            + &calls(&[("a", "'b', 'd'"), ("b", &format!("'c'{more}")), ("c", "'d'"), ("d", last), ("e", "")])
    };
    finds(&chain("", ", 'e'"), &[]);
    let found = finds(&chain("'e'", ""), &["W0511"]);
    assert_eq!(messages(&found), ["a request may wait for 5 calls behind each other: gateway → a → b → c → d → e"]);
    finds(&chain("'e'", ", 'a'"), &["W0511", "W0503"]);
}

#[test]
fn allow_silences_at_its_place_and_is_told_where_it_does_not() {
    let circle = |a: &str, b: &str| {
        services(&[("a", &format!("upstreams = ['b']\n{a}")), ("b", &format!("upstreams = ['a']\n{b}"))])
    };
    finds(&circle("", ""), &["W0503"]);
    finds(&circle("allow = ['W0503']", ""), &[]);
    finds(&circle("", "edges.a.allow = ['W0503']"), &[]);
    finds(&circle("", "edges.'*'.allow = ['W0503']"), &[]);
    for (allow, what) in [
        ("W0504", "is not found here"),
        ("W0599", "there is no lint"),
        ("w0503", "there is no lint"),
        ("E0101", "is no lint"),
        ("W0513", "is no lint"),
        ("W0406", "is no lint"),
    ] {
        let found = finds(&circle(&format!("allow = ['W0503', '{allow}']"), ""), &["W0513"]);
        assert!(messages(&found)[0].contains(what), "{}", found.rendered());
    }
    finds(&circle("allow = ['W0503', 'W0503']", ""), &["W0513"]);
}

#[test]
fn lints_wait_until_nothing_else_is_wrong() {
    let text = services(&[("a", "upstreams = ['b']\nallow = ['W0501']"), ("b", "upstreams = ['a']\nreplcas = 1")]);
    assert_eq!(Compiled::of(&format!("name = \"store\"\n{text}")).codes(), ["E0101"]);
}
