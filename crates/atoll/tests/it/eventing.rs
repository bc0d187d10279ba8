//! Events between services that know HTTP alone, through the real binary: published with curl and with an outbox, delivered,
//! failed, redriven, replayed; over the death of the daemon, and on another NATS as well.

use serde_json::{Value, json};
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND};
use crate::nats::Nats;

const SUBSCRIBER: &str = include_str!("subscriber.py");

const MANIFEST: &str = r#"
[broker]
{BROKER}

[[routes]]
name = "shop"
matches = [{ path = { prefix = "/shop" } }]
filters = [{ url_rewrite = { prefix = "/" } }]
backends = [{ service = "shop" }]

[[routes]]
name = "warehouse"
matches = [{ path = { prefix = "/warehouse" } }]
filters = [{ url_rewrite = { prefix = "/" } }]
backends = [{ service = "warehouse" }]

[services.shop]
command = "python3 subscriber.py"
publishes = ["orders.placed", "orders.>"]
databases = ["shop"]

[services.warehouse]
command = "python3 subscriber.py"

[databases.shop]
engine = "sqlite"
migrations = "migrations"
outbox = "outbox"

[topics."orders.>"]
schema = "order.json"

[[subscriptions]]
name = "placed"
topic = "orders.placed"
service = "warehouse"
path = "/events/placed"
key = "order_id"
filter = "data.order_id != 'ignored'"
max_deliver = 3
backoff = ["50ms"]
ack_wait = "2s"
"#;

const MIGRATION: &str =
    "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, data TEXT NOT NULL);";
const SCHEMA: &str =
    r#"{ "type": "object", "required": ["order_id"], "properties": { "order_id": { "type": "string" } } }"#;

fn application(broker: &str) -> Application {
    application_of(&MANIFEST.replace("{BROKER}", broker))
}

fn application_of(manifest: &str) -> Application {
    let app = Application::with_manifest(manifest);
    app.write("subscriber.py", SUBSCRIBER);
    app.write("migrations/0001_outbox.sql", MIGRATION);
    app.write("order.json", SCHEMA);
    app
}

const OWN: &str = "listen = \"127.0.0.1:0\"";

impl Application {
    /// Has the shop publish: status and answer.
    fn publish_event(&self, topic: &str, headers: &[&str], data: &Value) -> (u16, Value) {
        let data = data.to_string();
        let mut arguments = vec!["-X", "POST", "-d", &data, "-H", "content-type: application/json"];
        headers.iter().for_each(|header| arguments.extend(["-H", header]));
        let (status, _, body) = self.request(&arguments, &format!("/shop/publish/{topic}"));
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {status} {body}")))
    }

    #[track_caller]
    fn place(&self, data: &Value) {
        let (status, answer) = self.publish_event("orders.placed", &[], data);
        assert_eq!(status, 202, "{answer}");
    }

    /// What the warehouse was delivered.
    fn seen(&self) -> Vec<Value> {
        let (status, body) = self.get("/warehouse/");
        if status != 200 {
            return Vec::new();
        }
        serde_json::from_str::<Value>(&body).unwrap()["seen"].as_array().unwrap().clone()
    }

    /// Waits until so many were delivered.
    fn seen_all(&self, count: usize) -> Vec<Value> {
        let what = format!("{count} deliveries");
        until_blocking(&what, BOUND, || Some(self.seen()).filter(|seen| seen.len() >= count))
    }

    fn subscription(&self, name: &str) -> Value {
        let topics = self.atoll(&["topics", "-o", "json"]).succeeded().json();
        let all = topics.as_array().unwrap().iter().flat_map(|topic| topic["subscriptions"].as_array().unwrap());
        all.into_iter().find(|subscription| subscription["name"] == name).unwrap().clone()
    }

    fn dead_letters(&self) -> Vec<Value> {
        self.atoll(&["dead-letter", "ls", "-o", "json"]).succeeded().json().as_array().unwrap().clone()
    }
}

/// What an application does on whichever broker.
fn tour(app: &Application) {
    app.up();
    publishing(app);
    order_of_keys(app);
    dead_letters(app);
    outbox_and_replay(app);
}

fn publishing(app: &Application) {
    // Published with a POST, delivered with a POST.
    let headers = ["ce-specversion: 1.0", "ce-id: 7", "ce-source: /here", "ce-type: placed", "ce-subject: caf%C3%A9"];
    let data = json!({ "order_id": "a", "n": 1 });
    let (status, answer) = app.publish_event("orders.placed", &headers, &data);
    assert_eq!((status, &answer["events"][0]["duplicate"]), (202, &json!(false)), "{answer}");
    let (status, answer) = app.publish_event("orders.placed", &headers, &data);
    assert_eq!((status, &answer["events"][0]["duplicate"]), (202, &json!(true)), "{answer}");
    let seen = app.seen_all(1);
    let (first, of) = (&seen[0], &seen[0]["headers"]);
    assert_eq!((&first["path"], &first["data"]), (&json!("/events/placed"), &data));
    assert_eq!((&of["ce-id"], &of["ce-source"], &of["ce-type"]), (&json!("7"), &json!("/here"), &json!("placed")));
    assert_eq!((&of["ce-subject"], &of["ce-specversion"]), (&json!("caf%C3%A9"), &json!("1.0")), "{of}");
    for name in ["ce-time", "traceparent", "x-request-id", "atoll-deadline", "atoll-subscription", "atoll-attempt"] {
        assert!(of[name].is_string(), "{name}: {of}");
    }
    // Not what is not declared, and not what is against the schema.
    let (status, answer) = app.publish_event("payments.captured", &[], &data);
    assert!(status == 403 && answer["problem"].as_str().unwrap().contains("orders.placed"), "{status} {answer}");
    let (status, answer) = app.publish_event("orders.placed", &[], &json!({ "order_id": 1 }));
    assert!(status == 422 && answer["problem"].as_str().unwrap().contains("/order_id"), "{status} {answer}");
    // The filter passes over.
    app.place(&json!({ "order_id": "ignored" }));
}

/// One key waits for its own, another does not.
fn order_of_keys(app: &Application) {
    app.place(&json!({ "order_id": "b", "n": 1, "fail": 2 }));
    (2..5).for_each(|n| app.place(&json!({ "order_id": "b", "n": n })));
    app.place(&json!({ "order_id": "c", "n": 1 }));
    let seen = app.seen_all(1 + 2 + 4 + 1);
    let done = |key: &str| -> Vec<u64> {
        let of_key = seen.iter().filter(|one| one["data"]["order_id"] == key && one["status"] == 204);
        of_key.map(|one| one["data"]["n"].as_u64().unwrap()).collect()
    };
    assert_eq!((done("b"), done("c")), (vec![1, 2, 3, 4], vec![1]), "{seen:#?}");
}

fn dead_letters(app: &Application) {
    // A poisoned one: given up, changed, delivered.
    app.place(&json!({ "order_id": "d", "fail": 100 }));
    let dead = until_blocking("a dead letter", BOUND, || app.dead_letters().pop());
    assert_eq!(
        (&dead["attempts_count"], &dead["subscription"], &dead["key"]),
        (&json!(3), &json!("placed"), &json!("d"))
    );
    let id = dead["id"].to_string();
    let shown = app.atoll(&["dead-letter", "show", &id]).succeeded().stdout;
    assert!(shown.contains("attempt 3") && shown.contains("told so") && shown.contains("500"), "{shown}");
    let edited = r#"{"order_id":"d","edited":true}"#;
    app.atoll(&["dead-letter", "redrive", &id, "--data", edited]).succeeded();
    let last =
        until_blocking("the redriven one", BOUND, || app.seen().into_iter().find(|one| one["data"]["edited"] == true));
    assert_eq!(last["headers"]["atoll-redriven"], "true", "{last}");
    assert_eq!(last["headers"]["atoll-out-of-order"], Value::Null, "{last}");
    assert_eq!(app.dead_letters(), Vec::<Value>::new());

    // Refused for good: a dead letter at once.
    app.place(&json!({ "order_id": "e", "fail": 9, "status": 400 }));
    let dead = until_blocking("a dead letter", BOUND, || app.dead_letters().pop());
    assert_eq!(dead["attempts_count"], 1, "{dead}");
    app.atoll(&["dead-letter", "drop", &dead["id"].to_string()]).succeeded();
    assert_eq!(app.dead_letters(), Vec::<Value>::new());
    let unknown = app.atoll(&["dead-letter", "show", "99999"]);
    assert!(unknown.code() == 1 && unknown.stderr.contains("99999"), "{}", unknown.stderr);
}

fn outbox_and_replay(app: &Application) {
    // What a transaction has written is published in its order, without a request.
    let before = app.seen().len();
    let rows: Vec<Value> =
        (0..20).map(|n| json!({ "topic": "orders.placed", "data": { "order_id": "outbox", "n": n } })).collect();
    let rows = Value::from(rows).to_string();
    let (status, _, body) = app.request(&["-X", "POST", "-d", &rows], "/shop/write");
    assert_eq!(status, 200, "{body}");
    let seen = app.seen_all(before + 20);
    let order: Vec<u64> = seen[before..].iter().map(|one| one["data"]["n"].as_u64().unwrap()).collect();
    assert_eq!(order, (0..20).collect::<Vec<_>>());
    assert!(seen[before]["headers"]["ce-source"] == "/services/shop", "{}", seen[before]);

    // Once more, from the beginning.
    let total = app.seen().len();
    let begun = app.atoll(&["replay", "--since", "first", "--subscription", "placed", "-o", "json"]).succeeded().json();
    assert!(begun["left"].as_u64().unwrap() > 20, "{begun}");
    let again = until_blocking("the replay", BOUND, || {
        Some(app.seen())
            .filter(|seen| seen[total..].iter().filter(|one| one["data"]["order_id"] == "outbox").count() == 20)
    });
    assert!(again[total..].iter().all(|one| one["headers"]["atoll-replayed"] == "true"), "{:#?}", &again[total..]);
    let unknown = app.atoll(&["replay", "--since", "first", "--subscription", "nobody"]);
    assert!(unknown.code() == 1 && unknown.stderr.contains("placed"), "{}", unknown.stderr);
    let subscription = until_blocking("nothing left", BOUND, || {
        Some(app.subscription("placed")).filter(|of| of["lag"] == 0 && of["in_flight"] == 0)
    });
    assert!(subscription["filtered"].as_u64().unwrap() >= 1 && subscription["paused"].is_null(), "{subscription}");

    let tail = ["topics", "tail", "orders.placed", "--from", "first", "--count", "1", "-o", "json"];
    let line = app.atoll(&tail).succeeded().json();
    assert_eq!((&line["id"], &line["source"], &line["data"]["n"]), (&json!("7"), &json!("/here"), &json!(1)), "{line}");
    let table = app.atoll(&["topics"]).succeeded().stdout;
    for word in ["orders.>", "shop", "outbox of shop", "warehouse", "placed", "order.json"] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn services_that_know_http_alone_publish_and_receive() {
    tour(&application(OWN));
}

#[test]
fn what_the_engine_cannot_use_is_found_by_check() {
    let app = application(OWN);
    app.atoll(&["check"]).succeeded();
    app.write("order.json", r#"{ "type": 5 }"#);
    let refused = app.atoll(&["check"]);
    assert!(refused.code() == 1 && refused.stderr.contains("/type: "), "{}", refused.stderr);
    let manifest = MANIFEST.replace("{BROKER}", OWN).replace("data.order_id !=", "lower(data.order_id) !=");
    let app = application_of(&manifest);
    let refused = app.atoll(&["check"]);
    assert!(refused.code() == 1 && refused.stderr.contains("no function `lower`"), "{}", refused.stderr);
}

#[test]
fn another_nats_serves_as_well_with_one_changed_line() {
    let nats = Nats::start();
    tour(&application(&format!("url = \"{}\"", nats.url)));
}

#[test]
fn what_was_accepted_is_delivered_in_order_over_the_death_of_the_daemon_and_a_service_that_is_away() {
    let app = application(OWN);
    app.up();
    app.atoll(&["scale", "warehouse=0"]).succeeded();
    (0..50).for_each(|n| app.place(&json!({ "order_id": format!("k{}", n % 5), "n": n })));
    until_blocking("a pause", BOUND, || app.subscription("placed")["paused"].as_str().map(str::to_owned));
    app.kill_daemon();
    let (status, _, _) = app.request(&["-X", "POST", "-d", "{}"], "/shop/publish/orders.placed");
    assert!(status >= 500, "nobody acknowledges while nobody is there: {status}");
    app.up();
    (50..60).for_each(|n| app.place(&json!({ "order_id": format!("k{}", n % 5), "n": n })));
    assert_eq!(app.dead_letters(), Vec::<Value>::new(), "a service that is away fails nothing");
    app.atoll(&["scale", "warehouse=1"]).succeeded();
    let seen = app.seen_all(60);
    for key in 0..5 {
        let of_key = seen.iter().filter(|one| one["data"]["order_id"] == format!("k{key}"));
        let order: Vec<u64> = of_key.map(|one| one["data"]["n"].as_u64().unwrap()).collect();
        assert_eq!(order, (0..60).filter(|n| n % 5 == key).collect::<Vec<_>>());
    }
}
