//! Who may do what: proofs, refusals in NATS's words, what is held back at delivery, users that change.

use std::time::Duration;

use broker::{Config, Credential, Permissions, User};

use crate::support::{CONNECT, Raw, config, limits, rules, start, user};

fn shop() -> Config {
    let orders = Permissions {
        publish: rules(Some(&["orders.>", "_INBOX.>"]), &["orders.internal.>"]),
        subscribe: rules(Some(&["payments.*", "_INBOX.>"]), &[]),
    };
    let audit =
        Permissions { publish: rules(Some(&[]), &[]), subscribe: rules(None, &["payments.secret", "salaries.>"]) };
    let users = vec![user("orders", orders), user("audit", audit), user("root", Permissions::default())];
    Config { users, ..config() }
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_in_natss_words_and_the_connection_stays() {
    let running = start(&shop());
    let mut orders = Raw::connected_as(running.address, "orders").await;
    let cases = [
        ("PUB orders.placed 0\r\n\r\n", ""),
        ("PUB _INBOX.x 0\r\n\r\n", ""),
        ("PUB payments.x 0\r\n\r\n", "-ERR 'Permissions Violation for Publish to \"payments.x\"'\r\n"),
        ("PUB orders.internal.x 0\r\n\r\n", "-ERR 'Permissions Violation for Publish to \"orders.internal.x\"'\r\n"),
        ("SUB payments.captured 1\r\n", ""),
        ("SUB payments.* 2\r\n", ""),
        ("SUB payments.> 3\r\n", "-ERR 'Permissions Violation for Subscription to \"payments.>\"'\r\n"),
        ("SUB > 4\r\n", "-ERR 'Permissions Violation for Subscription to \">\"'\r\n"),
        ("SUB x q 5\r\n", "-ERR 'Permissions Violation for Subscription to \"x\" using queue \"q\"'\r\n"),
    ];
    for (sent, expected) in cases {
        assert_eq!(orders.say(sent).await, expected, "{sent:?}");
    }
    assert_eq!(running.handle.counts().subscriptions, 2);
}

#[tokio::test]
async fn what_is_denied_within_a_subscription_is_held_back() {
    let running = start(&shop());
    let mut audit = Raw::connected_as(running.address, "audit").await;
    let refused = "-ERR 'Permissions Violation for Subscription to \"salaries.may\"'\r\n";
    assert_eq!(audit.say("SUB salaries.may 1\r\n").await, refused);
    assert_eq!(audit.say("SUB payments.* 1\r\nSUB > q 2\r\n").await, "");
    let mut root = Raw::connected_as(running.address, "root").await;
    root.say("PUB payments.secret 0\r\n\r\nPUB salaries.may 0\r\n\r\nPUB payments.open 0\r\n\r\n").await;
    assert_eq!(audit.say("").await, "MSG payments.open 1 0\r\n\r\nMSG payments.open 2 0\r\n\r\n");
}

#[tokio::test]
async fn whoever_does_not_prove_who_it_is_is_sent_away() {
    let running = start(&shop());
    for sent in ["PING\r\n", "SUB a 1\r\n", "CONNECT {}\r\n", "CONNECT {\"user\":\"orders\",\"pass\":\"x\"}\r\n"] {
        let mut raw = Raw::open(running.address).await;
        assert!(raw.info.contains("\"auth_required\":true"));
        raw.send(sent).await;
        assert_eq!(raw.rest().await, "-ERR 'Authorization Violation'\r\n", "{sent}");
    }
    let waiting = Config { limits: broker::Limits { auth_timeout: Duration::from_millis(50), ..limits() }, ..shop() };
    let running = start(&waiting);
    let mut raw = Raw::open(running.address).await;
    assert_eq!(raw.rest().await, "-ERR 'Authentication Timeout'\r\n");
    let mut raw = Raw::connected_as(running.address, "root").await;
    assert_eq!(raw.say("").await, "");
}

#[tokio::test]
async fn another_user_on_the_same_connection_has_nothing_of_the_first() {
    let running = start(&shop());
    let mut raw = Raw::connected_as(running.address, "orders").await;
    raw.say("SUB payments.x 1\r\n").await;
    let rest = CONNECT.strip_prefix("CONNECT {").unwrap();
    raw.say(format!("CONNECT {{\"user\":\"audit\",\"pass\":\"audit\",{rest}")).await;
    assert_eq!(running.handle.counts().subscriptions, 0);
}

#[tokio::test]
async fn users_who_are_gone_or_prove_themselves_otherwise_are_cut_and_the_others_are_not() {
    let running = start(&shop());
    let mut orders = Raw::connected_as(running.address, "orders").await;
    let mut audit = Raw::connected_as(running.address, "audit").await;
    let mut root = Raw::connected_as(running.address, "root").await;
    orders.say("SUB payments.x 1\r\n").await;
    root.say("SUB a 1\r\n").await;
    let fresh = user("fresh", Permissions::default());
    let another = User { credential: Credential::Password("new".to_owned()), ..user("audit", Permissions::default()) };
    running.handle.set_users(&[user("root", Permissions::default()), another, fresh]).unwrap();
    assert_eq!(orders.rest().await, "-ERR 'Authorization Violation'\r\n");
    assert_eq!(audit.rest().await, "-ERR 'Authorization Violation'\r\n");
    assert_eq!(root.say("PUB a 0\r\n\r\n").await, "MSG a 1 0\r\n\r\n");
    let mut fresh = Raw::connected_as(running.address, "fresh").await;
    assert_eq!(fresh.say("").await, "");
    let wrong = User {
        name: "a.b".to_owned(),
        credential: Credential::Token("x".to_owned()),
        ..user("x", Permissions::default())
    };
    assert!(running.handle.set_users(&[wrong]).is_err());
    assert_eq!(fresh.say("").await, "");
}

#[tokio::test]
async fn a_connection_lives_through_other_permissions_with_what_it_may_still_have() {
    let running = start(&shop());
    let mut orders = Raw::connected_as(running.address, "orders").await;
    let mut root = Raw::connected_as(running.address, "root").await;
    root.say("SUB orders.> 1\r\n").await;
    assert_eq!(orders.say("SUB payments.x 1\r\nSUB payments.y q 2\r\nSUB _INBOX.me.* 3\r\n").await, "");
    assert_eq!(orders.say("PUB orders.placed 0\r\n\r\n").await, "");
    assert_eq!(root.say("").await, "MSG orders.placed 1 0\r\n\r\n");
    let become_one_that = |publish: &[&str], subscribe: &[&str], deny: &[&str]| {
        let permissions = Permissions {
            publish: rules(Some(publish), &[]),
            subscribe: rules(Some(&[subscribe, &["_INBOX.>"]].concat()), deny),
        };
        running.handle.set_users(&[user("orders", permissions), user("root", Permissions::default())]).unwrap();
    };
    // Less: what was published through the same connection a moment ago is refused, and one subscription ends.
    become_one_that(&["carts.*"], &["payments.x"], &[]);
    let ended = "-ERR 'Permissions Violation for Subscription to \"payments.y\" (sid \"2\")'\r\n";
    assert_eq!(orders.say("").await, ended);
    let refused = "-ERR 'Permissions Violation for Publish to \"orders.placed\"'\r\n";
    assert_eq!(orders.say("PUB orders.placed 0\r\n\r\nPUB carts.a 0\r\n\r\n").await, refused);
    assert_eq!(root.say("PUB payments.x 0\r\n\r\nPUB payments.y 0\r\n\r\n").await, "");
    assert_eq!(orders.say("").await, "MSG payments.x 1 0\r\n\r\n");
    assert_eq!(running.handle.counts().subscriptions, 3);
    // More again, and less within what it has: nothing ends, and part of it is held back.
    become_one_that(&["orders.>"], &["payments.>"], &["payments.z"]);
    assert_eq!(orders.say("SUB payments.* 4\r\nPUB orders.placed 0\r\n\r\n").await, "");
    assert_eq!(root.say("").await, "MSG orders.placed 1 0\r\n\r\n");
    become_one_that(&["orders.>"], &["payments.>"], &["payments.x.secret", "payments.y"]);
    assert_eq!(root.say("PUB payments.y 0\r\n\r\nPUB payments.z 0\r\n\r\n").await, "");
    assert_eq!(orders.say("").await, "MSG payments.z 4 0\r\n\r\n");
    assert_eq!(running.handle.counts().slow_consumers, 0);
}

/// A foreign client that publishes all the time while its rights change: none of its connections ends.
#[tokio::test]
async fn a_foreign_client_goes_on_publishing_through_every_change_of_its_rights() {
    let running = start(&shop());
    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let options = async_nats::ConnectOptions::with_user_and_password("orders".to_owned(), "orders".to_owned());
    let options = options.event_callback(move |event| {
        let _ = told.send(event);
        async {}
    });
    let client = options.connect(running.address.to_string()).await.unwrap();
    let mut all = running.handle.subscribe("orders.>", None, 1 << 20).unwrap();
    for round in 0..50 {
        let also = format!("carts.{round}");
        let permissions = Permissions {
            publish: rules(Some(&["orders.>", &also]), &[]),
            subscribe: rules(Some(&["payments.*", "_INBOX.>"]), &[]),
        };
        running.handle.set_users(&[user("orders", permissions)]).unwrap();
        client.publish("orders.placed", "x".into()).await.unwrap();
        client.flush().await.unwrap();
        let arrived = tokio::time::timeout(Duration::from_secs(5), all.next()).await.unwrap();
        assert_eq!(arrived.subject(), b"orders.placed");
    }
    assert_eq!(running.handle.counts().connections_total, 1);
    while let Ok(event) = events.try_recv() {
        assert!(matches!(event, async_nats::Event::Connected), "{event}");
    }
}
