//! What is answered instead of a failure, and what never is.

use proxy::{Concurrency, Fallback, Policy, RateLimit};
use testkit::server::{Answer, Server};

use super::{
    BRIEF, Held, LONG, all_to, answering, begun, breaking, reason, statuses, story, subject, switchable, told,
    with_service,
};
use crate::support::{Proxy, limits, nowhere};

fn fixed() -> Fallback {
    Fallback::Static { status: 203, content_type: "text/x-kept".into(), body: "kept".into() }
}

fn by_b() -> Fallback {
    Fallback::Service("b".into())
}

/// Says who it is, and what it was sent.
async fn echo() -> Server {
    Server::http(|request| Answer::ok(format!("b {} {} {}", request.method(), request.second(), request.text()))).await
}

#[tokio::test]
async fn whatever_the_service_lacks_is_answered_instead() {
    let (failing, missing, hanging) = (answering(500).await, answering(404).await, Held::new().await);
    let (broken, _) = breaking().await;
    let nonsense = Server::raw(|stream| async move {
        let mut client = testkit::client::Client { stream: tokio::io::BufReader::new(stream) };
        let _ = client.head().await;
        let _ = client.send("no http\r\n\r\n").await;
    })
    .await;
    let b = echo().await;
    for (what, addresses, why) in [
        ("refuses", vec![nowhere()], Some("connect_failed")),
        ("is not there", vec![], Some("no_endpoint")),
        ("answers 500", vec![failing.address], Some("upstream_failed")),
        ("answers 404", vec![missing.address], None),
        ("breaks", vec![broken.address], Some("upstream_broken")),
        ("hangs", vec![hanging.address()], Some("upstream_timeout")),
        ("talks nonsense", vec![nonsense.address], Some("upstream_invalid")),
    ] {
        for (fallback, mark, body) in [(fixed(), "static", "kept"), (by_b(), "b", "b GET /some?x=1 ")] {
            let all = all_to(&addresses, |policy| {
                policy.timeout = BRIEF;
                policy.fallback = Some(fallback);
            });
            let mut all = with_service(all, "b", &[b.address]);
            all.listeners.get_mut("gateway").unwrap().tells_reason = true;
            let proxy = Proxy::start(limits(), all).await;
            let answer = proxy.client().await.get("/some?x=1").await.unwrap();
            let line = proxy.lines(1).await.remove(0);
            let told = (line["reason"].as_str(), line["fallback"].as_str());
            let Some(why) = why else {
                assert_eq!((answer.status(), answer.field("atoll-fallback"), told), (404, None, (None, None)));
                proxy.stop().await;
                continue;
            };
            assert_eq!((answer.text().as_str(), answer.field("atoll-fallback")), (body, Some(mark)), "{what} {mark}");
            assert_eq!(told, (Some(why), Some(mark)), "{what}");
            assert_eq!(answer.field("atoll-reason"), Some(why), "{what}");
            if mark == "static" {
                assert_eq!((answer.status(), answer.field("content-type")), (203, Some("text/x-kept")));
            }
            let story = story(&proxy, &answer).await;
            let service = if addresses.is_empty() && mark == "static" { Some("a") } else { story.service.as_deref() };
            assert_eq!((story.fallback.as_deref(), service), (Some(mark), Some("a")), "{what}");
            let reading = proxy.handle.read().meters.remove(&subject("all")).unwrap();
            assert_eq!(
                (reading.ended(), reading.failed()),
                (1, 1),
                "{what}: it is a failure of the service all the same"
            );
            proxy.stop().await;
        }
    }
}

#[tokio::test]
async fn a_full_queue_and_an_open_breaker_are_answered_instead_and_a_rate_limit_is_not() {
    for fallback in [fixed(), by_b()] {
        let (held, b) = (Held::new().await, echo().await);
        let limit = Concurrency { max: 1, queue: 0, wait: LONG };
        let all = all_to(&[held.address()], |policy| {
            policy.concurrency = Some(limit);
            policy.fallback = Some(fallback.clone());
        });
        let proxy = Proxy::start(limits(), with_service(all, "b", &[b.address])).await;
        let mut running = begun(&proxy).await;
        held.has(1).await;
        for method in ["GET", "POST"] {
            let answer = proxy.client().await.request(method, "/", &[], b"").await.unwrap();
            assert!(answer.field("atoll-fallback").is_some(), "{method} {fallback:?}: {}", answer.text());
            assert_eq!(story(&proxy, &answer).await.reason.as_deref(), Some("concurrency_limited"));
        }
        held.let_go(1);
        assert_eq!(running.response().await.unwrap().text(), "fine");
        proxy.stop().await;

        let (bad, _) = switchable(500).await;
        let all = all_to(&[bad.address], |policy| {
            policy.fallback = Some(fallback.clone());
            policy.breaker = Some(proxy::Breaker {
                window: proxy::Window::Calls(2),
                minimum_calls: 2,
                failure_rate: proxy::Share::ALL,
                slow_call: None,
                slow_call_rate: proxy::Share::ALL,
                open_for: LONG,
                half_open_calls: 1,
            });
        });
        let proxy = Proxy::start(limits(), with_service(all, "b", &[b.address])).await;
        statuses(&proxy, 2).await;
        let answer = proxy.client().await.request("POST", "/", &[], b"order").await.unwrap();
        assert!(answer.field("atoll-fallback").is_some(), "{fallback:?}");
        assert_eq!(story(&proxy, &answer).await.reason.as_deref(), Some("circuit_open"));
        assert_eq!(bad.requests(), 2);
        proxy.stop().await;

        let limit = RateLimit { requests: 1, per: LONG, burst: 1, key: proxy::Key::Route };
        let all = all_to(&[b.address], |policy| {
            policy.rate_limit = Some(limit);
            policy.fallback = Some(fallback);
        });
        let proxy = Proxy::start(limits(), with_service(all, "b", &[b.address])).await;
        assert_eq!(statuses(&proxy, 2).await, [200, 429], "who asks too much is no failure of the service");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn what_may_have_had_an_effect_is_never_done_again_elsewhere() {
    let (broken, _) = breaking().await;
    let (failing, hanging) = (answering(503).await, Held::new().await);
    for (address, expected) in [(broken.address, 502), (failing.address, 503), (hanging.address(), 504)] {
        let b = echo().await;
        let instead = |policy: &mut Policy| {
            policy.timeout = BRIEF;
            policy.fallback = Some(by_b());
        };
        let proxy = Proxy::start(limits(), with_service(all_to(&[address], instead), "b", &[b.address])).await;
        let mut client = proxy.client().await;
        for body in [&b""[..], b"order"] {
            let answer = client.request("POST", "/", &[], body).await.unwrap();
            assert_eq!((answer.status(), answer.field("atoll-fallback")), (expected, None));
            assert_eq!(b.requests(), 0);
        }
        // With a key the client says that it may be.
        let answer = client.request("POST", "/", &[("idempotency-key", "1")], b"order").await.unwrap();
        assert_eq!((answer.text().as_str(), b.requests()), ("b POST / order", 1));
        proxy.stop().await;
        // A static answer does nothing twice.
        let fixed = |policy: &mut Policy| {
            policy.timeout = BRIEF;
            policy.fallback = Some(fixed());
        };
        let proxy = Proxy::start(limits(), all_to(&[address], fixed)).await;
        let answer = proxy.client().await.request("POST", "/", &[], b"order").await.unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (203, "kept"));
        proxy.stop().await;
    }
    // What reached nobody had no effect: also a long body is sent elsewhere, whole.
    let b = echo().await;
    let instead = |policy: &mut Policy| policy.fallback = Some(by_b());
    let all = with_service(all_to(&[nowhere(), nowhere()], instead), "b", &[b.address]);
    let proxy = Proxy::start(limits(), all).await;
    for length in [5, 200_000] {
        let answer = proxy.client().await.request("POST", "/", &[], &vec![b'x'; length]).await.unwrap();
        assert_eq!(answer.text(), format!("b POST / {}", "x".repeat(length)));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn when_what_is_asked_instead_fails_too_the_first_failure_is_told() {
    let failing = answering(500).await;
    let instead = |policy: &mut Policy| policy.fallback = Some(by_b());
    for (addresses, told_reason) in [(vec![nowhere()], "connect_failed"), (vec![failing.address], "upstream_failed")] {
        for others in [vec![], vec![nowhere()]] {
            if others.is_empty() && told_reason == "upstream_failed" {
                // Its answer is there, and is passed on.
                continue;
            }
            let all = with_service(all_to(&addresses, instead), "b", &others);
            let proxy = Proxy::start(limits(), all).await;
            let answer = proxy.client().await.get("/").await.unwrap();
            assert_eq!(reason(&answer), (502, told_reason.into()));
            assert!(answer.text().contains("\"service\":\"a\""), "{}", answer.text());
            assert_eq!(answer.field("atoll-fallback"), None);
            let line = proxy.lines(1).await.remove(0);
            assert_eq!((line["service"].as_str(), line["fallback"].as_str()), (Some("a"), None), "{line}");
            proxy.stop().await;
        }
    }
    // Its own bad answer is passed on and marked.
    let other = answering(507).await;
    let all = with_service(all_to(&[failing.address], instead), "b", &[other.address]);
    let proxy = Proxy::start(limits(), all).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!((answer.status(), answer.field("atoll-fallback")), (507, Some("b")));
    let text = told(&story(&proxy, &answer).await);
    assert!(text.ends_with("= 507 upstream_failed b tries 2 Failed"), "{text}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_static_answer_to_head_has_no_body_and_its_connection_serves_on() {
    let proxy = Proxy::start(limits(), all_to(&[nowhere()], |policy| policy.fallback = Some(fixed()))).await;
    let mut client = proxy.client().await;
    for method in ["HEAD", "GET", "HEAD", "POST", "GET"] {
        let answer = client.request(method, "/", &[], b"body").await.unwrap();
        assert_eq!((answer.status(), answer.field("content-length")), (203, Some("4")), "{method}");
        assert_eq!(answer.text(), if method == "HEAD" { "" } else { "kept" });
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_fallback_that_breaks_before_anything_was_said_leaves_no_mark() {
    let failing = answering(500).await;
    // Its head is good, and what follows it is no chunk.
    let broken = Server::raw(|stream| async move {
        let mut client = testkit::client::Client { stream: tokio::io::BufReader::new(stream) };
        let _ = client.head().await;
        let _ = client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nno chunk\r\n").await;
    })
    .await;
    let all = all_to(&[failing.address], |policy| policy.fallback = Some(by_b()));
    let mut all = with_service(all, "b", &[broken.address]);
    all.listeners.get_mut("gateway").unwrap().tells_reason = true;
    let proxy = Proxy::start(limits(), all).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!(reason(&answer), (502, "upstream_invalid".into()));
    assert_eq!((answer.all("atoll-fallback"), answer.all("atoll-reason")), (vec![], vec!["upstream_invalid"]));
    let line = proxy.lines(1).await.remove(0);
    assert_eq!((line["fallback"].as_str(), line["reason"].as_str()), (None, Some("upstream_invalid")), "{line}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_failure_is_passed_on_when_nobody_is_there_to_answer_instead() {
    let failing = Server::http(|_| Answer { status: 507, ..Answer::ok("full") }).await;
    let all = all_to(&[failing.address], |policy| policy.fallback = Some(by_b()));
    let proxy = Proxy::start(limits(), with_service(all, "b", &[])).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!((answer.status(), answer.text().as_str(), answer.field("atoll-fallback")), (507, "full", None));
    proxy.stop().await;
}

#[tokio::test]
async fn a_static_answer_has_the_header_fields_of_its_route() {
    let set = [("access-control-allow-origin", "*"), ("Content-Type", "text/own")];
    let edits = proxy::HeaderEdits {
        set: set.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..proxy::HeaderEdits::default()
    };
    let mut all = all_to(&[nowhere()], |policy| policy.fallback = Some(fixed()));
    all.listeners.get_mut("gateway").unwrap().routes[0].filters = vec![proxy::Filter::ResponseHeaders(edits)];
    let proxy = Proxy::start(limits(), all).await;
    let answer = proxy.client().await.get("/").await.unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (203, "kept"));
    assert_eq!((answer.all("access-control-allow-origin"), answer.all("content-type")), (vec!["*"], vec!["text/own"]));
    proxy.stop().await;
}
