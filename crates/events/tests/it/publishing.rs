//! Who may publish what, what is refused and how, what is counted.

use async_nats::jetstream::stream;
use events::{Config, Event, Limits, PublishError, Publisher};
use serde_json::json;

use crate::support::{Broker, Engine, config, count, json, raw, stored, topic};

const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");

#[tokio::test]
async fn a_published_event_is_in_its_stream() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let fields = [
        ("ce-specversion", "1.0"),
        ("ce-id", "17"),
        ("ce-source", "/services/cart"),
        ("ce-type", "order.placed"),
        ("ce-subject", "Euro%20%E2%82%AC"),
        ("content-type", "application/json"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let answer = engine.post("/cart/orders.placed", &fields, b"{\"total\": 1e400}").await;
    assert_eq!(answer.status(), 202, "{answer:?}");
    let expected = json!({ "events": [
        { "id": "17", "source": "/services/cart", "stream": "ORDERS", "sequence": 1, "duplicate": false }
    ] });
    assert_eq!(json(&answer), expected);
    let (headers, payload) = raw(&context, "ORDERS", 1).await;
    assert_eq!(payload, b"{\"total\": 1e400}");
    let of = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    assert_eq!(of("ce-id").as_deref(), Some("17"));
    assert_eq!(of("ce-subject").as_deref(), Some("Euro%20%E2%82%AC"));
    assert_eq!(of("content-type").as_deref(), Some("application/json"));
    assert_eq!(of("ce-traceparent").as_deref(), Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    assert!(of("ce-time").is_some());
    assert_eq!(of("Nats-Msg-Id").map(|id| id.len()), Some(32));
    engine.ended().await;
}

#[tokio::test]
async fn the_same_source_and_id_are_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let publish = async |id: &str, source: &str| {
        let fields = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", source), ("ce-type", "t")];
        let answer = json(&engine.post("/cart/orders.placed", &fields, b"").await);
        (answer["events"][0]["sequence"].as_u64().unwrap(), answer["events"][0]["duplicate"].as_bool().unwrap())
    };
    assert_eq!(publish("1", "/a").await, (1, false));
    assert_eq!(publish("1", "/a").await, (1, true));
    assert_eq!(publish("1", "/b").await, (2, false));
    assert_eq!(publish("2", "/a").await, (3, false));
    // Of plain bodies the key of the request is the id.
    let key = [("idempotency-key", "\"k 1\"")];
    for is_duplicate in [false, true] {
        let answer = json(&engine.post("/cart/orders.placed", &key, b"x").await);
        assert_eq!(answer["events"][0]["duplicate"], is_duplicate);
        assert_eq!(answer["events"][0]["id"], "orders.placed/k 1");
    }
    assert_eq!(count(&context, "ORDERS").await, 4);
    let reading = engine.handle.read().topics["orders.>"].clone();
    assert_eq!((reading.published, reading.duplicates, reading.refused, reading.failed), (4, 2, 0, 0));
}

#[tokio::test]
async fn a_body_that_claims_nothing_becomes_the_data_of_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let answer = engine.post("/cart/orders.placed", &[("content-type", "text/csv")], b"a,b\xff").await;
    assert_eq!(answer.status(), 202);
    let (headers, payload) = raw(&context, "ORDERS", 1).await;
    let of = |name: &str| headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
    assert_eq!(payload, b"a,b\xff");
    assert_eq!((of("ce-source").as_str(), of("ce-type").as_str()), ("/services/cart", "orders.placed"));
    assert_eq!((of("content-type").as_str(), of("ce-specversion").as_str()), ("text/csv", "1.0"));
    assert_eq!(of("ce-id").len(), 36);
}

#[tokio::test]
async fn only_declared_topics_of_known_services_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    for (target, expected, said) in [
        ("/cart/payments.captured", 403, "it declares orders.>"),
        ("/cart/orders", 403, "it declares orders.>"),
        ("/cart/orders.*", 403, "it declares orders.>"),
        ("/cart/orders.%3E", 403, "it declares orders.>"),
        ("/cart/orders..a", 403, "it declares orders.>"),
        ("/cart/orders.a%20b", 403, "it declares orders.>"),
        ("/cart/orders.%0d%0aPUB%20x", 403, "it declares orders.>"),
        ("/stranger/orders.placed", 404, "no service \\\"stranger\\\" publishes here"),
        ("/orders.placed", 404, "POST /<topic>"),
        ("/cart/orders/placed", 404, "POST /<topic>"),
        ("/", 404, "POST /<topic>"),
    ] {
        let answer = engine.post(target, &[], b"x").await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status() == expected && text.contains(said), "{target}: {} {text}", answer.status());
        assert_eq!(answer.field("content-type"), Some("application/problem+json"));
        assert_eq!(json(&answer)["status"], expected);
    }
    assert_eq!(count(&context, "ORDERS").await, 0);
}

#[tokio::test]
async fn what_claims_to_be_an_event_and_is_none_is_told_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let head = r#""specversion":"1.0","id":"1","source":"/a","type":"t""#;
    for (fields, body, expected, said) in [
        (vec![("ce-id", "1")], String::new(), 400, "attributes are missing: specversion, source, type"),
        (vec![STRUCTURED], "{}".to_owned(), 400, "attributes are missing: specversion, id, source, type"),
        (vec![STRUCTURED], "{".to_owned(), 400, "not JSON"),
        (vec![STRUCTURED], format!("[{{{head}}}]"), 400, "not JSON"),
        (vec![STRUCTURED], format!("{{{head},\"time\":\"now\"}}"), 400, "attribute time"),
        (vec![BATCH], format!("{{{head}}}"), 400, "an array of events"),
        (vec![BATCH], format!("[{{{head}}},{{}}]"), 400, "event 1 of the request"),
        (vec![BATCH], format!("[{{{head}}},[{{{head}}}]]"), 400, "event 1 of the request"),
        (vec![("content-type", "application/cloudevents+avro")], String::new(), 415, "no event format that is known"),
        (vec![("content-type", "a/b"), ("content-type", "a/b")], String::new(), 400, "given twice"),
        (vec![("content-encoding", "gzip")], "x".to_owned(), 415, "content-encoding"),
        (vec![("ce-id", "1"), ("ce-id", "1")], String::new(), 400, "attribute id is given twice"),
    ] {
        let answer = engine.post("/cart/orders.placed", &fields, body.as_bytes()).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status() == expected && text.contains(said), "{body}: {} {text}", answer.status());
    }
    assert_eq!(count(&context, "ORDERS").await, 0);
    // Of the batch whose second event is missing something, both.
    assert_eq!(engine.handle.read().topics["orders.>"].refused, 13);
}

#[tokio::test]
async fn a_batch_is_published_in_its_order_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let limits = Limits { batch_events_max: 500, ..config(String::new()).limits };
    let engine = Engine::connected(Config { limits, ..config(broker.url()) }).await;
    let batch = |count: usize| {
        let event =
            |at| json!({ "specversion": "1.0", "id": format!("{at}"), "source": "/a", "type": "t", "data": at });
        serde_json::to_vec(&(0..count).map(event).collect::<Vec<_>>()).unwrap()
    };
    let answer = engine.post("/cart/orders.placed", &[BATCH], b"[]").await;
    assert_eq!((answer.status(), json(&answer)), (202, json!({ "events": [] })));
    let answer = engine.post("/cart/orders.placed", &[BATCH], &batch(500)).await;
    assert_eq!(answer.status(), 202);
    let sequences: Vec<_> =
        json(&answer)["events"].as_array().unwrap().iter().map(|event| event["sequence"].clone()).collect();
    assert_eq!(sequences, (1..=500).collect::<Vec<_>>());
    assert_eq!(stored(&context, "ORDERS", 123).await.get("ce-id").unwrap().as_str(), "122");
    let answer = engine.post("/cart/orders.placed", &[BATCH], &batch(501)).await;
    assert_eq!(answer.status(), 413, "{answer:?}");
    assert_eq!(count(&context, "ORDERS").await, 500);
}

#[tokio::test]
async fn data_against_the_schema_of_the_topic_is_refused_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let schema = r#"{"type":"object","required":["id"],"properties":{"a b":{"items":{"type":"integer"}}}}"#;
    let mut config = config(broker.url());
    config.topics = vec![topic("orders.>", "ORDERS", None), topic("orders.placed", "ORDERS", Some(schema))];
    let engine = Engine::connected(config.clone()).await;
    assert_eq!(engine.post("/cart/orders.placed", &[], br#"{"id":1,"a b":[1]}"#).await.status(), 202);
    let answer = engine.post("/cart/orders.placed", &[], br#"{"id":1,"a b":[1,"x"]}"#).await;
    assert_eq!(answer.status(), 422);
    assert_eq!(json(&answer)["errors"][0]["pointer"], "#/a%20b/1");
    let batch = br#"[{"specversion":"1.0","id":"1","source":"/a","type":"t","data":{"id":1}},
                     {"specversion":"1.0","id":"2","source":"/a","type":"t","data":{}}]"#;
    let answer = engine.post("/cart/orders.placed", &[BATCH], batch).await;
    assert_eq!((answer.status(), &json(&answer)["event"]), (422, &json!(1)));
    // The family has none.
    assert_eq!(engine.post("/cart/orders.refused", &[], b"anything").await.status(), 202);
    assert_eq!(count(&context, "ORDERS").await, 2);

    config.topics = vec![topic("orders.>", "ORDERS", Some("false"))];
    engine.handle.apply(config.clone()).unwrap();
    assert_eq!(engine.post("/cart/orders.refused", &[], b"1").await.status(), 422);
    config.topics = vec![topic("orders.>", "ORDERS", Some("nonsense"))];
    assert!(engine.handle.apply(config).is_err());
    assert_eq!(engine.post("/cart/orders.refused", &[], b"1").await.status(), 422);
}

#[tokio::test]
async fn publishers_and_topics_are_replaced_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 202);
    let publishers = vec![Publisher { service: "checkout".to_owned(), publishes: vec!["orders.placed".to_owned()] }];
    engine.handle.apply(Config { publishers, ..config(broker.url()) }).unwrap();
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 404);
    assert_eq!(engine.post("/checkout/orders.placed", &[], b"1").await.status(), 202);
    // Counts go on.
    assert_eq!(engine.handle.read().topics["orders.>"].published, 2);
}

#[tokio::test]
async fn a_full_stream_is_told_with_a_retry_and_nothing_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.jetstream().await;
    let full = stream::Config {
        name: "ORDERS".into(),
        subjects: vec!["orders.>".into()],
        max_messages: 2,
        discard: stream::DiscardPolicy::New,
        ..Default::default()
    };
    context.create_stream(full).await.unwrap();
    let engine = Engine::connected(config(broker.url())).await;
    assert_eq!(engine.post("/cart/orders.placed", &[], b"1").await.status(), 202);
    let event = |id| json!({ "specversion": "1.0", "id": id, "source": "/a", "type": "t" });
    let batch = serde_json::to_vec(&[event("1"), event("2")]).unwrap();
    let answer = engine.post("/cart/orders.placed", &[BATCH], &batch).await;
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")), "{answer:?}");
    assert!(json(&answer)["detail"].as_str().unwrap().starts_with("event 1 of the request: "), "{answer:?}");
    let answer = engine.post("/cart/orders.placed", &[], b"1").await;
    assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")));
    assert_eq!(count(&context, "ORDERS").await, 2);
}

#[tokio::test]
async fn a_topic_without_a_stream_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let engine = Engine::connected(config(broker.url())).await;
    let answer = engine.post("/cart/orders.placed", &[], b"1").await;
    assert_eq!(answer.status(), 503);
    assert!(json(&answer)["detail"].as_str().unwrap().contains("no stream takes orders.placed"), "{answer:?}");
}

#[tokio::test]
async fn the_process_itself_publishes_by_the_same_rules() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.with_stream("ORDERS", "orders.>").await;
    let engine = Engine::connected(config(broker.url())).await;
    let attributes = [("specversion", "1.0"), ("id", "1"), ("source", "/outbox"), ("type", "t")];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let event = Event { attributes, content_type: None, data: "x".into() };
    for is_duplicate in [false, true] {
        let published = engine.handle.publish("cart", "orders.placed", event.clone()).await.unwrap();
        assert_eq!((published.sequence, published.is_duplicate), (1, is_duplicate));
    }
    let refused = engine.handle.publish("cart", "other", event.clone()).await.unwrap_err();
    assert!(matches!(refused, PublishError::Undeclared { .. }) && refused.is_refusal());
    let refused = engine.handle.publish("cart", "orders.placed", Event::default()).await.unwrap_err();
    assert!(matches!(refused, PublishError::Malformed { .. }) && refused.is_refusal());
    broker.ended().await;
    engine.is_connected(false).await;
    let failed = engine.handle.publish("cart", "orders.placed", event).await.unwrap_err();
    assert!(matches!(failed, PublishError::Unavailable { .. }) && !failed.is_refusal());
    drop(context);
}

#[tokio::test]
async fn what_is_larger_than_the_broker_or_the_stream_takes_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let context = broker.jetstream().await;
    let small = stream::Config {
        name: "ORDERS".into(),
        subjects: vec!["orders.>".into()],
        max_message_size: 2000,
        ..Default::default()
    };
    context.create_stream(small).await.unwrap();
    let limits = Limits { event_bytes_max: 4 << 20, ..Limits::standard() };
    let engine = Engine::connected(Config { limits, ..config(broker.url()) }).await;
    for (count, said) in [(3000, "than its stream takes"), (2 << 20, "than 1048576 bytes")] {
        let answer = engine.post("/cart/orders.placed", &[], &vec![b'x'; count]).await;
        assert_eq!(answer.status(), 413);
        assert!(json(&answer)["detail"].as_str().unwrap().contains(said), "{answer:?}");
    }
    assert_eq!(engine.post("/cart/orders.placed", &[], b"x").await.status(), 202);
    // It could be published, and no edge would take its head.
    let event = serde_json::json!({ "specversion": "1.0", "id": "é".repeat(7_500), "source": "/a", "type": "t" });
    let fields = [("content-type", "application/cloudevents+json")];
    let answer = engine.post("/cart/orders.placed", &fields, event.to_string().as_bytes()).await;
    assert_eq!(answer.status(), 413, "{answer:?}");
    assert!(json(&answer)["detail"].as_str().unwrap().contains("24576 bytes as headers"), "{answer:?}");
}
