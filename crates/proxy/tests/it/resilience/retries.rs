//! Which requests are sent again, when, and how many times in all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use proxy::{Policy, Retry};
use testkit::client::Client;
use testkit::server::{Answer, Server};
use tokio::io::BufReader;

use super::{BRIEF, Held, LONG, all_to, breaking, fine, guard, reason, retrying, scripted, statuses, story, told};
use crate::support::{Proxy, limits, nowhere};

fn retry(retry: Retry) -> impl FnOnce(&mut Policy) {
    move |policy| policy.retry = retry
}

#[tokio::test]
async fn a_key_makes_a_post_repeatable_and_an_empty_one_does_not() {
    let one = Retry { unsafe_methods: true, ..retrying(1) };
    for (method, key, retry_policy, tries) in [
        ("POST", Some("order-1"), retrying(3), 3),
        ("PATCH", Some("order-1"), retrying(3), 3),
        ("POST", Some(""), retrying(3), 1),
        ("POST", None, retrying(3), 1),
        ("PUT", None, retrying(3), 3),
        ("POST", None, Retry { unsafe_methods: true, ..retrying(3) }, 3),
        // With one attempt nothing else means anything.
        ("GET", None, one.clone(), 1),
        ("POST", None, one, 1),
    ] {
        let origin = scripted(&[503]).await;
        let proxy = Proxy::start(limits(), all_to(&[origin.address], retry(retry_policy))).await;
        let fields: Vec<_> = key.map(|key| ("Idempotency-Key", key)).into_iter().collect();
        let answer = proxy.client().await.request(method, "/", &fields, b"body").await.unwrap();
        assert_eq!((answer.status(), origin.requests()), (503, tries), "{method} {key:?}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn without_a_policy_what_broke_is_repeated_only_where_twice_is_as_good_as_once() {
    let one = Retry { unsafe_methods: true, try_timeout: Some(BRIEF), ..retrying(1) };
    for (method, key, retry_policy, tries) in [
        ("GET", None, Retry::NONE, 3),
        ("POST", Some("k"), Retry::NONE, 3),
        ("POST", None, Retry::NONE, 1),
        ("POST", None, one, 1),
    ] {
        let (origin, count) = breaking().await;
        // Who was asked is not asked again without a policy: it takes several.
        let proxy = Proxy::start(limits(), all_to(&[origin.address; 5], retry(retry_policy))).await;
        let fields: Vec<_> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
        let answer = proxy.client().await.request(method, "/", &fields, b"").await.unwrap();
        assert_eq!(reason(&answer), (502, "upstream_broken".into()));
        assert_eq!(count.load(Ordering::SeqCst), tries, "{method} {key:?}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_service_that_says_when_to_come_again_is_not_asked_before() {
    for is_date in [false, true] {
        // Whoever writes the date may take a while.
        let at = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() + 3;
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
        let value = if is_date { http_date(at) } else { "1".to_owned() };
        let not_before = if is_date { date } else { SystemTime::now() + Duration::from_secs(1) };
        let asked = AtomicUsize::new(0);
        let origin = Server::http(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::status(503).with("retry-after", &value),
            _ => Answer::ok("fine"),
        })
        .await;
        let proxy = Proxy::start(limits(), all_to(&[origin.address], retry(retrying(2)))).await;
        let answer = proxy.client().await.get("/").await.unwrap();
        assert_eq!((answer.status(), origin.requests()), (200, 2));
        // The proxy looks at the system's clock now and then.
        let now = SystemTime::now() + Duration::from_millis(100);
        assert!(now >= not_before, "{:?} too early", not_before.duration_since(now));
        assert!(told(&story(&proxy, &answer).await).contains("again, as told"));
        proxy.stop().await;
    }
}

/// A date as HTTP writes it (RFC 9110 §5.6.7), by another hand than ours.
fn http_date(unix: u64) -> String {
    let format = "import sys,email.utils;print(email.utils.formatdate(int(sys.argv[1]),usegmt=True))";
    let mut command = std::process::Command::new("/usr/bin/python3");
    let output = command.args(["-c", format, &unix.to_string()]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn an_answer_that_asks_for_too_much_patience_is_passed_on() {
    for value in ["3600".to_owned(), http_date(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() + 3600)] {
        let said = value.clone();
        let origin =
            Server::http(move |_| Answer { body: b"later".to_vec(), ..Answer::status(503) }.with("retry-after", &said));
        let origin = origin.await;
        let proxy = Proxy::start(limits(), all_to(&[origin.address], retry(retrying(5)))).await;
        let answer = proxy.client().await.get("/").await.unwrap();
        assert_eq!((answer.status(), answer.text().as_str(), origin.requests()), (503, "later", 1));
        assert_eq!(answer.field("retry-after"), Some(value.as_str()));
        assert!(told(&story(&proxy, &answer).await).contains("no more: ToldToWaitTooLong"));
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_for_another_where_that_is_safe() {
    for (method, expected, arrived) in [("GET", 200, 1), ("POST", 504, 1)] {
        let (hanging, good) = (Held::new().await, fine().await);
        let patient = Retry { try_timeout: Some(BRIEF), ..retrying(2) };
        // The first of the ring is the one that hangs: the key is chosen so.
        let all = all_to(&[hanging.address(), good.address], |policy| {
            policy.retry = patient;
            policy.balance.algorithm = proxy::Algorithm::RingHash(proxy::Key::Header("x-key".into()));
        });
        let proxy = Proxy::start(limits(), all).await;
        let key = (0..).map(|key| key.to_string());
        let mut answer = None;
        for key in key {
            answer = Some(proxy.client().await.request(method, "/", &[("x-key", &key)], b"").await.unwrap());
            if hanging.arrived() > 0 {
                break;
            }
        }
        let answer = answer.unwrap();
        assert_eq!((answer.status(), hanging.arrived()), (expected, arrived), "{method}");
        assert!(told(&story(&proxy, &answer).await).contains("tried 0: TimedOut"));
        proxy.stop().await;
    }
    // Alone, it is one attempt, and there is no time of one try.
    let hanging = Held::new().await;
    let alone = Retry { try_timeout: Some(Duration::from_millis(1)), ..retrying(1) };
    let proxy = Proxy::start(limits(), all_to(&[hanging.address()], retry(alone))).await;
    let mut client = super::begun(&proxy).await;
    hanging.has(1).await;
    let began = Instant::now();
    super::until("the time of a try to be over", || began.elapsed() > BRIEF).await;
    hanging.let_go(1);
    assert_eq!(client.response().await.unwrap().status(), 200);
    proxy.stop().await;
}

#[tokio::test]
async fn nothing_is_tried_again_once_the_answer_has_begun() {
    for said in ["content-length: 9\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "\r\nhalf"] {
        let count = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&count);
        let origin = Server::raw(move |stream| {
            let count = Arc::clone(&counting);
            async move {
                let mut client = Client { stream: BufReader::new(stream) };
                if client.head().await.is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = client.send(format!("HTTP/1.1 200 OK\r\n{said}")).await;
                    // A reset, so that an answer without a length is broken, too.
                    tokio::io::AsyncReadExt::read_u8(&mut client.stream).await.ok();
                }
            }
        })
        .await;
        let all = all_to(&[origin.address, origin.address], |policy| {
            policy.retry = Retry { codes: vec![200], ..retrying(1) };
            policy.idle_timeout = Some(BRIEF);
        });
        let proxy = Proxy::start(limits(), all).await;
        assert!(proxy.client().await.get("/").await.is_err(), "{said:?}");
        assert_eq!(count.load(Ordering::SeqCst), 1, "{said:?}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_dead_service_is_not_stormed() {
    // As the issue has it: with the service down, tries are at most 1.2 times the requests, and a few.
    for attempts in [1, 5] {
        let all = all_to(&[nowhere(), nowhere(), nowhere()], retry(retrying(attempts)));
        let proxy = Proxy::start(limits(), all).await;
        let (address, began) = (proxy.gateway, Instant::now());
        let all = super::together((0..8).map(|_| async move {
            let mut client = Client::connect(address).await;
            for _ in 0..100 {
                assert_eq!(client.get("/").await.unwrap().status(), 502);
            }
        }));
        all.await;
        let tries: u64 = proxy.lines(800).await.iter().map(|line| line["attempts"].as_u64().unwrap()).sum();
        // Each of three is looked at anew after a tenth of a second, two, four; by whoever comes at that moment.
        let looks = 3 * 8 * (1 + began.elapsed().as_millis() as u64 / 100).min(8);
        assert!(tries >= 800 && tries <= 960 + 10 + looks, "{tries} in {:?}", began.elapsed());
        proxy.stop().await;
    }
}

#[tokio::test]
async fn broken_exchanges_are_bounded_by_the_budget_with_and_without_a_policy() {
    for attempts in [1, 5] {
        let ((first, of_first), (second, of_second)) = (breaking().await, breaking().await);
        let all = all_to(&[first.address, second.address], retry(retrying(attempts)));
        let proxy = Proxy::start(limits(), all).await;
        let began = Instant::now();
        assert_eq!(statuses(&proxy, 100).await, [502; 100]);
        let tries = of_first.load(Ordering::SeqCst) + of_second.load(Ordering::SeqCst);
        let most = 120 + 20 * (began.elapsed().as_secs() as usize / 10);
        assert!(tries > 100 && tries <= most, "{tries}");
        let budget = guard(&proxy).budget;
        assert!(budget.retries <= budget.retries_max, "{budget:?}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_request_that_falls_back_counts_once_in_the_budget() {
    let (bad, good) = (scripted(&[500]).await, fine().await);
    let all = all_to(&[bad.address], |policy| policy.fallback = Some(proxy::Fallback::Service("b".into())));
    let proxy = Proxy::start(limits(), super::with_service(all, "b", &[good.address])).await;
    assert_eq!(statuses(&proxy, 50).await, [200; 50]);
    assert_eq!(guard(&proxy).budget.requests, 50);
    proxy.stop().await;
}

#[tokio::test]
async fn a_long_body_is_sent_once_and_a_client_that_leaves_in_a_pause_is_not_tried_for() {
    let origin = scripted(&[503]).await;
    let slow = Retry { backoff: LONG, backoff_max: LONG, ..retrying(5) };
    let all = all_to(&[origin.address], |policy| {
        policy.retry = slow;
        policy.timeout = LONG * 1000;
    });
    let proxy = Proxy::start(limits(), all).await;
    let long = vec![b'x'; 70_000];
    let answer = proxy.client().await.request("PUT", "/", &[], &long).await.unwrap();
    assert_eq!((answer.status(), origin.requests()), (503, 1));
    assert!(told(&story(&proxy, &answer).await).contains("no more: BodyNotKept"));
    let client = super::begun(&proxy).await;
    super::until("the first try", || origin.requests() == 2).await;
    client.stream.get_ref().set_zero_linger().unwrap();
    drop(client);
    super::until("the request to end", || proxy.handle.counters().requests_active == 0).await;
    assert_eq!(origin.requests(), 2);
    proxy.stop().await;
}
