//! Token buckets: what they let through, how they tell, whom they tell apart.

use std::time::Duration;

use proxy::{Key, RateLimit, Snapshot};
use testkit::client::Client;
use testkit::message::Message;

use super::{LONG, all_to, fine, reason, statuses};
use crate::support::{Proxy, limits};

fn limit(requests: u32, burst: u32, per: Duration, key: Key) -> RateLimit {
    RateLimit { requests, per, burst, key }
}

/// The value of a parameter of a structured field with one member.
fn parameter(answer: &Message, field: &str, name: &str) -> u64 {
    let all = answer.all(field);
    assert_eq!(all.len(), 1, "{field}: {all:?}");
    let (member, parameters) = all[0].split_once(';').unwrap();
    assert_eq!(member, "\"default\"");
    let value = parameters.split(';').find_map(|one| one.trim().strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{name} in {field}: {all:?}")).parse().unwrap()
}

#[tokio::test]
async fn a_burst_passes_and_the_rest_is_told_when_to_come_again() {
    let origin = fine().await;
    // One token a minute.
    let rate = limit(10, 5, LONG, Key::Route);
    let proxy = Proxy::start(limits(), all_to(&[origin.address], |policy| policy.rate_limit = Some(rate))).await;
    let mut client = proxy.client().await;
    for left in (0..5).rev() {
        let answer = client.get("/").await.unwrap();
        assert_eq!((answer.status(), parameter(&answer, "ratelimit", "r")), (200, left));
        assert_eq!(parameter(&answer, "ratelimit-policy", "q"), 10);
        assert_eq!(parameter(&answer, "ratelimit-policy", "w"), LONG.as_secs());
        let reset = parameter(&answer, "ratelimit", "t");
        assert!(reset > 60 * (4 - left) && reset <= 60 * (5 - left), "{reset} with {left} left");
        assert_eq!(answer.field("retry-after"), None);
    }
    for _ in 0..3 {
        let answer = client.get("/").await.unwrap();
        assert_eq!(reason(&answer), (429, "rate_limited".into()));
        assert_eq!((parameter(&answer, "ratelimit", "r"), parameter(&answer, "ratelimit-policy", "q")), (0, 10));
        let retry_after: u64 = answer.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&retry_after), "{retry_after}");
    }
    assert_eq!(origin.requests(), 5);
    let line = proxy.lines(8).await.remove(7);
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(429), Some("rate_limited")));
    proxy.stop().await;
}

#[tokio::test]
async fn tokens_come_back_one_by_one_and_a_snapshot_brings_none() {
    let origin = fine().await;
    let rate = limit(1, 2, Duration::from_millis(400), Key::Route);
    let limited = |generation, rate: &RateLimit| Snapshot {
        generation,
        ..all_to(&[origin.address], |policy| policy.rate_limit = Some(rate.clone()))
    };
    let proxy = Proxy::start(limits(), limited(1, &rate)).await;
    let began = std::time::Instant::now();
    let mut passed = 0;
    let mut generation = 1;
    let mut client = proxy.client().await;
    while passed < 4 {
        passed += usize::from(client.get("/").await.unwrap().status() == 200);
        generation += 1;
        proxy.handle.apply(limited(generation, &rate)).unwrap();
        // Two at once, then one in each such time.
        let most = 2 + began.elapsed().as_millis() / 400;
        assert!(passed as u128 <= most, "{passed} in {:?}", began.elapsed());
    }
    // Agreed anew, all are there at once.
    proxy.handle.apply(limited(generation + 1, &limit(1, 3, LONG, Key::Route))).unwrap();
    assert_eq!(statuses(&proxy, 4).await, [200, 200, 200, 429]);
    proxy.stop().await;
}

#[tokio::test]
async fn each_key_has_its_own_tokens() {
    let origin = fine().await;
    type Fields = &'static [(&'static str, &'static str)];
    let one: Fields = &[("x-user", "one"), ("x-forwarded-for", "10.0.0.1"), ("cookie", "a=b; sid=1")];
    let two: Fields = &[("x-user", "two"), ("x-forwarded-for", "10.0.0.2, 10.0.0.1"), ("cookie", "sid=2; a=b")];
    // Of the third, everybody is alike who has no key.
    for (key, on_gateway, on_edge) in [
        (Key::Route, [200, 429, 429, 429, 429], [200, 429, 429, 429, 429]),
        (Key::Header("x-user".into()), [200, 429, 200, 200, 429], [200, 429, 200, 200, 429]),
        (Key::Cookie("sid".into()), [200, 429, 200, 200, 429], [200, 429, 200, 200, 429]),
        // Before a gateway, nobody is believed whom it stands for; behind one, it is the gateway that says so.
        (Key::Address, [200, 429, 429, 429, 429], [200, 429, 200, 200, 429]),
    ] {
        let rate = limit(1, 1, LONG, key.clone());
        let mut all = all_to(&[origin.address], |policy| policy.rate_limit = Some(rate.clone()));
        all.listeners.get_mut("edge").unwrap().routes[0].policy.rate_limit = Some(rate);
        let proxy = Proxy::start(limits(), all).await;
        for (address, expected) in [(proxy.gateway, on_gateway), (proxy.edge, on_edge)] {
            let mut seen = Vec::new();
            for fields in [one, one, two, &[], &[]] {
                let mut client = Client::connect(address).await;
                seen.push(client.request("GET", "/", fields, &[]).await.unwrap().status());
            }
            assert_eq!(seen, expected, "{key:?}");
        }
        proxy.stop().await;
    }
}

#[tokio::test]
async fn all_cores_together_let_as_many_through_as_was_agreed() {
    let origin = fine().await;
    for cores in [1, 2, 4] {
        let rate = limit(1, 25, LONG, Key::Route);
        let all = all_to(&[origin.address], |policy| policy.rate_limit = Some(rate));
        let proxy = Proxy::start_on(cores, limits(), all).await;
        let address = proxy.gateway;
        let all = super::together((0..40).map(|_| async move {
            let mut client = Client::connect(address).await;
            let (first, second) = (client.get("/").await.unwrap(), client.get("/").await.unwrap());
            usize::from(first.status() == 200) + usize::from(second.status() == 200)
        }));
        assert_eq!(all.await.into_iter().sum::<usize>(), 25, "{cores} cores");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn all_addresses_of_one_network_are_one_client() {
    let origin = fine().await;
    let mut all = all_to(&[origin.address], |_| {});
    all.listeners.get_mut("edge").unwrap().routes[0].policy.rate_limit = Some(limit(1, 1, LONG, Key::Address));
    let proxy = Proxy::start(limits(), all).await;
    let mut client = Client::connect(proxy.edge).await;
    for (address, expected) in [
        ("2001:db8:1:2::1", 200),
        ("2001:db8:1:2:ffff:1:2:3", 429),
        ("2001:db8:1:3::1", 200),
        ("10.0.0.1", 200),
        ("::ffff:10.0.0.1", 429),
        ("10.0.0.2", 200),
    ] {
        let answer = client.request("GET", "/", &[("x-forwarded-for", address)], &[]).await.unwrap();
        assert_eq!(answer.status(), expected, "{address}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn the_limit_of_the_route_is_told_and_that_of_the_service_where_there_is_none() {
    let says = |answer: testkit::server::Answer| {
        answer.with("RateLimit", "\"own\";r=9").with("ratelimit-policy", "\"own\";q=9")
    };
    let origin = testkit::server::Server::http(move |_| {
        says(testkit::server::Answer::ok(""))
            .with("Atoll-Fallback", "static")
            .with("atoll-deadline", "7")
            .with("x-own", "1")
    });
    let origin = origin.await;
    let rate = limit(10, 10, LONG, Key::Route);
    for (rate, expected) in [(None, "\"own\";r=9"), (Some(rate), "\"default\";r=9;t=60")] {
        let all = all_to(&[origin.address], |policy| policy.rate_limit = rate);
        let proxy = Proxy::start(limits(), all).await;
        let answer = proxy.client().await.get("/").await.unwrap();
        assert_eq!((answer.all("ratelimit"), answer.all("ratelimit-policy").len()), (vec![expected], 1));
        // What only the proxy says, no service says in its place.
        assert_eq!((answer.field("atoll-fallback"), answer.field("atoll-deadline")), (None, None));
        assert_eq!(answer.field("x-own"), Some("1"));
        proxy.stop().await;
    }
}
