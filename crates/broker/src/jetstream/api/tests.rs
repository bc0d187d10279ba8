//! What nats-server 2.15.1 answered to a session of requests (`recorded.jsonl`; `strict: false`, what changes from run to run
//! taken out) is what a server made of nothing but these modules answers.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::*;

/// Streams, and the consumers of each by their names.
#[derive(Default)]
struct Server(BTreeMap<String, (StreamConfig, BTreeMap<String, ConsumerConfig>)>);

type Answer = Result<Value, ApiError>;

fn value(body: &impl Serialize) -> Value {
    serde_json::to_value(body).unwrap()
}

impl Server {
    fn answer(&mut self, subject: &str, body: &[u8]) -> (Kind, Answer) {
        let tokens: Vec<_> = subject.split('.').collect();
        match tokens[..] {
            ["STREAM", "NAMES"] => (Kind::StreamNames, self.names(body)),
            ["STREAM", "LIST"] => (Kind::StreamList, self.list(body)),
            ["STREAM", "CREATE", name] => (Kind::StreamCreate, self.create(name, body)),
            ["STREAM", "UPDATE", name] => (Kind::StreamUpdate, self.update(name, body)),
            ["STREAM", "INFO", name] => (Kind::StreamInfo, self.info(name, body)),
            ["STREAM", "DELETE", name] => (Kind::StreamDelete, self.delete(name, body)),
            ["STREAM", "PURGE", name] => (Kind::StreamPurge, self.purge(name, body)),
            ["STREAM", "MSG", "GET", name] => (Kind::MessageGet, self.message_get(name, body)),
            ["STREAM", "MSG", "DELETE", name] => (Kind::MessageDelete, self.message_delete(name, body)),
            ["CONSUMER", "CREATE" | "DURABLE", ..] => (Kind::ConsumerCreate, self.consumer(subject, body)),
            ["CONSUMER", "NAMES", stream] => (Kind::ConsumerNames, self.consumer_names(stream, body)),
            ["CONSUMER", "LIST", stream] => (Kind::ConsumerList, self.consumer_list(stream, body)),
            ["CONSUMER", "INFO", stream, name] => (Kind::ConsumerInfo, self.consumer_info(stream, name)),
            ["CONSUMER", "DELETE", stream, name] => (Kind::ConsumerDelete, self.consumer_delete(stream, name, body)),
            ["CONSUMER", "PAUSE", stream, name] => (Kind::ConsumerPause, self.pause(stream, name, body)),
            _ => (Kind::System, Err(ApiError::BAD_REQUEST)),
        }
    }

    fn json(&mut self, subject: &str, body: &[u8]) -> Value {
        let (kind, outcome) = self.answer(subject, body);
        serde_json::from_slice(&answer(kind, &outcome)).unwrap()
    }

    fn streams(&self) -> Vec<&StreamConfig> {
        self.0.values().map(|(config, _)| config).collect()
    }

    fn stream(&mut self, name: &str) -> Result<&mut (StreamConfig, BTreeMap<String, ConsumerConfig>), ApiError> {
        self.0.get_mut(name).ok_or(ApiError::STREAM_NOT_FOUND)
    }

    fn page(&self, body: &[u8], limit: usize) -> Result<(Page, Vec<&StreamConfig>), ApiError> {
        let request = decode_optional::<StreamsRequest>(body)?;
        let mut streams = self.streams();
        streams.retain(|stream| stream.is_about(&request.subject));
        let (page, range) = Page::of(streams.len(), request.offset, limit);
        Ok((page, streams[range].to_vec()))
    }

    fn names(&self, body: &[u8]) -> Answer {
        let (page, streams) = self.page(body, NAMES_PAGE)?;
        Ok(value(&StreamNames { page, streams: streams.iter().map(|stream| stream.name.clone()).collect() }))
    }

    fn list(&self, body: &[u8]) -> Answer {
        let (page, streams) = self.page(body, LIST_PAGE)?;
        let streams = streams.into_iter().cloned().map(describe).collect();
        Ok(value(&StreamList { page, streams }))
    }

    fn create(&mut self, name: &str, body: &[u8]) -> Answer {
        let request = decode::<StreamRequest>(body)?;
        let creation = check_stream_create(name, request, &self.streams(), &AccountLimits::default())?;
        if let StreamCreation::New(config) = creation {
            self.0.insert(name.into(), (*config, BTreeMap::new()));
        }
        Ok(value(&StreamCreated { info: describe(self.0[name].0.shown()), did_create: true }))
    }

    fn update(&mut self, name: &str, body: &[u8]) -> Answer {
        let request = decode::<StreamRequest>(body)?;
        let consumers = self.0.get(name).into_iter().flat_map(|(_, consumers)| consumers);
        let consumers = consumers.map(|(name, config)| (name.as_str(), config));
        let limits = AccountLimits::default();
        let config = check_stream_update(name, request, &self.streams(), consumers, &limits)?;
        self.stream(name)?.0 = config.clone();
        Ok(value(&describe(config.shown())))
    }

    fn info(&mut self, name: &str, body: &[u8]) -> Answer {
        decode_optional::<StreamInfoRequest>(body)?;
        let info = describe(self.stream(name)?.0.shown());
        Ok(value(&StreamDescription { page: Page::default(), info }))
    }

    fn delete(&mut self, name: &str, body: &[u8]) -> Answer {
        expect_empty(body)?;
        self.stream(name)?;
        self.0.remove(name);
        Ok(value(&Success::DONE))
    }

    fn purge(&mut self, name: &str, body: &[u8]) -> Answer {
        purge(body)?;
        self.stream(name)?.0.check_purge()?;
        Ok(value(&Purged::new(0)))
    }

    fn message_get(&mut self, name: &str, body: &[u8]) -> Answer {
        message_get(body)?;
        self.stream(name)?;
        Err(ApiError::NO_MESSAGE_FOUND)
    }

    fn message_delete(&mut self, name: &str, body: &[u8]) -> Answer {
        let request = message_delete(body)?;
        self.stream(name)?.0.check_message_delete()?;
        Err(ApiError::not_deletable(request.seq, 0, 0))
    }

    fn consumer(&mut self, subject: &str, body: &[u8]) -> Answer {
        let request = consumer_request(subject, body)?;
        let (stream, consumers) = self.stream(&request.stream_name.clone())?;
        let others: Vec<_> = consumers.values().collect();
        let limits = AccountLimits::default();
        let change = check_consumer(request, stream, &others, "XXXXXXXX", &limits, |_| false)?;
        let (ConsumerChange::Create(config) | ConsumerChange::Update(config)) = change;
        let answer = json!({"stream_name": stream.name, "name": config.name, "config": config.shown()});
        let count = consumers.len();
        let key = if config.name == "XXXXXXXX" { count.to_string() } else { config.name.clone() };
        consumers.insert(key, *config);
        Ok(answer)
    }

    fn consumer_names(&mut self, stream: &str, body: &[u8]) -> Answer {
        let request = decode_optional::<ConsumersRequest>(body)?;
        let (_, consumers) = self.stream(stream)?;
        let (page, _) = Page::of(consumers.len(), request.offset, NAMES_PAGE);
        Ok(value(&ConsumerNames { page, consumers: Vec::new() }))
    }

    fn consumer_list(&mut self, stream: &str, body: &[u8]) -> Answer {
        let request = decode_optional::<ConsumersRequest>(body)?;
        let (_, consumers) = self.stream(stream)?;
        let (page, _) = Page::of(consumers.len(), request.offset, LIST_PAGE);
        Ok(value(&ConsumerList { page, consumers: Vec::new() }))
    }

    fn consumer_info(&mut self, stream: &str, name: &str) -> Answer {
        let consumer = self.stream(stream)?.1.get(name).ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        Ok(value(&consumer.shown()))
    }

    fn consumer_delete(&mut self, stream: &str, name: &str, body: &[u8]) -> Answer {
        expect_empty(body)?;
        self.stream(stream)?.1.remove(name).ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        Ok(value(&Success::DONE))
    }

    fn pause(&mut self, stream: &str, name: &str, body: &[u8]) -> Answer {
        let pause_until = decode_optional::<PauseRequest>(body)?.pause_until;
        let consumer = self.stream(stream)?.1.get_mut(name).ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        *consumer = pause_consumer(consumer, pause_until);
        Ok(value(&Paused { paused: !pause_until.is_none(), pause_until, pause_remaining: 0 }))
    }
}

fn describe(config: StreamConfig) -> StreamInfo {
    StreamInfo { config, created: Time::none(), state: StreamState::default(), ts: Time::none() }
}

/// Takes out what the record does not have.
fn strip(answer: &mut Value) {
    let Value::Object(fields) = answer else { return };
    for volatile in ["created", "ts", "state"] {
        fields.remove(volatile);
    }
    if let Some(Value::Object(metadata)) = fields.get_mut("config").and_then(|config| config.get_mut("metadata")) {
        metadata.remove("_nats.ver");
        metadata.remove("_nats.level");
    }
    if let Some(Value::Array(streams)) = fields.get_mut("streams") {
        streams.iter_mut().for_each(strip);
    }
    // The reasons of Go's reader of JSON are its own.
    if let Some(error) = fields.get_mut("error").filter(|error| error["err_code"] == 10025) {
        error["description"] = "invalid JSON".into();
    }
}

/// The requests of the record.
fn recorded() -> impl Iterator<Item = Value> {
    include_str!("recorded.jsonl").lines().map(|line| serde_json::from_str(line).unwrap())
}

#[test]
fn a_request_that_is_cut_or_altered_is_answered() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut server = Server::default();
    for case in recorded() {
        let (subject, body) = (case["subject"].as_str().unwrap(), case["body"].as_str().unwrap().as_bytes());
        if body.len() > 400 {
            continue;
        }
        for end in 0..body.len() {
            server.json(subject, &body[..end]);
            let mut altered = body.to_vec();
            altered[end] = random.choice(*b"\"{}[],:0-9.eE\\nt\x00\xff ").unwrap();
            server.json(subject, &altered);
        }
        server.json(subject, body);
    }
}

#[test]
fn every_answer_is_that_of_nats_server() {
    let mut server = Server::default();
    let mut wrong = Vec::new();
    for case in recorded() {
        let (subject, body) = (case["subject"].as_str().unwrap(), case["body"].as_str().unwrap());
        let mut given = server.json(subject, body.as_bytes());
        strip(&mut given);
        if given != case["answer"] {
            wrong.push(format!("{subject} {body}\n  nats {}\n  ours {given}", case["answer"]));
        }
    }
    assert!(recorded().count() > 270 && wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn created(config: &Value) -> Result<StreamConfig, ApiError> {
    let request = decode::<StreamRequest>(config.to_string().as_bytes())?;
    match check_stream_create("S", request, &[], &AccountLimits::default())? {
        StreamCreation::New(config) => Ok(*config),
        StreamCreation::Same => unreachable!("there are no streams"),
    }
}

fn consumer_of(config: &Value, limits: &AccountLimits) -> Result<ConsumerConfig, ApiError> {
    let body = json!({"stream_name": "S", "config": config}).to_string();
    let request = consumer_request("CONSUMER.CREATE.S.c", body.as_bytes())?;
    let stream = created(&json!({"name": "S"}))?;
    let (ConsumerChange::Create(config) | ConsumerChange::Update(config)) =
        check_consumer(request, &stream, &[], "new", limits, |_| true)?;
    Ok(*config)
}

#[test]
fn what_is_not_served_is_refused_and_never_ignored() {
    let streams = [
        (json!({"mirror": {"name": "O"}}), 10052),
        (json!({"sources": [{"name": "O"}]}), 10052),
        (json!({"republish": {"src": "a", "dest": "b"}}), 10052),
        (json!({"subject_transform": {"src": "a", "dest": "b"}}), 10052),
        (json!({"allow_msg_counter": true}), 10185),
        (json!({"allow_atomic": true}), 10185),
        (json!({"allow_msg_schedules": true}), 10185),
        (json!({"allow_batched": true}), 10185),
        (json!({"persist_mode": "async"}), 10185),
    ];
    for (mut config, code) in streams {
        config["name"] = "S".into();
        assert_eq!(created(&config).unwrap_err().err_code, code, "{config}");
    }
    let limits = AccountLimits::default();
    let consumers = [
        (json!({"ack_policy": "flow_control"}), 10185),
        (json!({"sourcing": true}), 10185),
        (json!({"priority_policy": "overflow", "priority_groups": ["a"]}), 10012),
        (json!({"priority_policy": "pinned_client"}), 10012),
        (json!({"priority_groups": ["a"]}), 10012),
    ];
    for (config, code) in consumers {
        assert_eq!(consumer_of(&config, &limits).unwrap_err().err_code, code, "{config}");
    }
}

#[test]
fn limits_of_the_account_are_kept() {
    let stream = |name: &str, bytes: i64, storage: &str| {
        let config = json!({"name": name, "max_bytes": bytes, "storage": storage});
        decode::<StreamRequest>(config.to_string().as_bytes()).unwrap()
    };
    let limits = AccountLimits { max_storage: 100, max_memory: 10, max_streams: 2, ..AccountLimits::default() };
    let create = |request: StreamRequest, others: &[&StreamConfig]| {
        check_stream_create(&request.config.name.clone(), request, others, &limits).map_err(|error| error.err_code)
    };
    let first = stream("A", 60, "file").config;
    assert!(create(stream("B", 40, "file"), &[&first]).is_ok());
    assert_eq!(create(stream("B", 41, "file"), &[&first]), Err(10047));
    assert!(create(stream("B", 10, "memory"), &[&first]).is_ok());
    assert_eq!(create(stream("B", 11, "memory"), &[&first]), Err(10028));
    let second = stream("B", 1, "file").config;
    assert_eq!(create(stream("C", 1, "file"), &[&first, &second]), Err(10027));
    let full = stream("B", 40, "file").config;
    let grow = |bytes| {
        let request = stream("B", bytes, "file");
        check_stream_update("B", request, &[&first, &full], std::iter::empty(), &limits).map_err(|error| error.err_code)
    };
    assert!(grow(40).is_ok() && grow(1).is_ok());
    assert_eq!(grow(41), Err(10047));
    let limits = AccountLimits { max_ack_pending: 50, ..AccountLimits::default() };
    assert_eq!(consumer_of(&json!({"ack_policy": "explicit"}), &limits).unwrap().max_ack_pending, 50);
    let beyond = json!({"ack_policy": "explicit", "max_ack_pending": 51});
    assert_eq!(consumer_of(&beyond, &limits).unwrap_err().err_code, 10121);
}

#[test]
fn patterns_have_a_bound() {
    let patterns: Vec<_> = (0..1025).map(|number| format!("a.{number}.*")).collect();
    assert_eq!(created(&json!({"name": "S", "subjects": patterns})).unwrap_err().err_code, 10052);
    assert!(created(&json!({"name": "S", "subjects": patterns[1..]})).is_ok());
    let limits = AccountLimits::default();
    assert_eq!(consumer_of(&json!({"filter_subjects": patterns}), &limits).unwrap_err().err_code, 10052);
    assert!(consumer_of(&json!({"filter_subjects": patterns[1..]}), &limits).is_ok());
}

#[test]
fn filters_of_a_consumer_do_not_overlap() {
    let cases: [(&[&str], Option<u16>); 8] = [
        (&["a", "b", "c.*"], None),
        (&["a.*.c", "a.b.*"], None),
        (&["a", "b", "a"], Some(10138)),
        (&["a.*", "a.*"], Some(10138)),
        (&["a.b", "a.*"], Some(10138)),
        (&["a.*", "a.b"], Some(10138)),
        (&["a.*", "a.>"], Some(10138)),
        (&["a.*", "b..c"], Some(10052)),
    ];
    for (filters, expected) in cases {
        let checked = consumer_of(&json!({"filter_subjects": filters}), &AccountLimits::default());
        assert_eq!(checked.err().map(|error| error.err_code), expected, "{filters:?}");
    }
}

#[test]
fn metadata_has_a_bound() {
    let large = json!({"k": "v".repeat(128 * 1024)});
    assert_eq!(created(&json!({"name": "S", "metadata": large})).unwrap_err().err_code, 10052);
    let error = consumer_of(&json!({"metadata": large}), &AccountLimits::default()).unwrap_err();
    assert_eq!((error.err_code, &*error.description), (10135, "consumer metadata exceeds maximum size of 128KB"));
}

#[test]
fn names_are_safe_as_names_of_files() {
    for name in ["..", ".", "a\u{0}b", "a\nb", "a/b", "\u{1b}[2J", "", " "] {
        let request = decode::<StreamRequest>(json!({"name": name}).to_string().as_bytes()).unwrap();
        assert!(check_stream_create(name, request, &[], &AccountLimits::default()).is_err(), "{name:?}");
    }
}

#[test]
fn a_push_consumer_that_somebody_hears_keeps_its_subject() {
    let limits = AccountLimits::default();
    let old = consumer_of(&json!({"durable_name": "c", "deliver_subject": "x"}), &limits).unwrap();
    let stream = created(&json!({"name": "S"})).unwrap();
    let body = json!({"stream_name": "S", "config": {"durable_name": "c", "deliver_subject": "y"}}).to_string();
    let change = |is_heard: bool| {
        let request = consumer_request("CONSUMER.DURABLE.CREATE.S.c", body.as_bytes()).unwrap();
        check_consumer(request, &stream, &[&old], "", &limits, |subject| subject == "x" && is_heard)
    };
    assert_eq!(change(true).unwrap_err(), ApiError::CONSUMER_NAME_EXIST);
    assert!(matches!(change(false), Ok(ConsumerChange::Update(config)) if config.deliver_subject == "y"));
}

#[test]
fn a_stream_without_limits_fits_beside_what_is_full() {
    // It reserves one byte, as with nats-server; what it then stores is the store's matter.
    let limits = AccountLimits { max_storage: 1, ..AccountLimits::default() };
    let request = || decode::<StreamRequest>(b"{\"name\":\"S\"}").unwrap();
    assert!(check_stream_create("S", request(), &[], &limits).is_ok());
    let limits = AccountLimits { max_storage: 0, ..limits };
    assert!(check_stream_create("S", request(), &[], &limits).is_err());
}

#[test]
fn a_pull_request_is_nothing_a_number_or_an_object() {
    let one = NextRequest { batch: 1, ..NextRequest::default() };
    assert_eq!(next(b""), Ok(one));
    assert_eq!(next(b"  what"), Ok(one));
    assert_eq!(next(b"99999999999999999999"), Ok(one));
    assert_eq!(next(b" 5\n"), Ok(NextRequest { batch: 5, ..one }));
    let whole = br#"{"expires":9,"batch":3,"max_bytes":7,"no_wait":true,"idle_heartbeat":4,"group":"later"}"#;
    let request = NextRequest { expires: 9, batch: 3, max_bytes: 7, no_wait: true, idle_heartbeat: 4 };
    assert_eq!(next(whole), Ok(request));
    assert_eq!(next(br#"{"expires":9,"idle_heartbeat":5}"#).unwrap_err(), "heartbeat value too large");
    assert_eq!(
        next(br#"{"idle_heartbeat":9223372036854775807,"expires":1}"#).unwrap_err(),
        "heartbeat value too large"
    );
    assert_eq!(next(br#"{"min_pending":5}"#).unwrap_err(), "Not a Overflow Priority consumer");
    assert_eq!(next(br#"{"id":"x"}"#).unwrap_err(), "Not a Pinned Client Priority consumer");
    assert_eq!(next(br#"{"priority":10}"#).unwrap_err(), "Priority must be between 0 and 9");
    assert!(next(b"{\"batch\":\"x\"}").is_err() && next(b"{").is_err());
}

#[test]
fn a_direct_get_asks_in_one_way() {
    let status = |body: &str| direct_get(body.as_bytes()).err();
    // As nats-server answers.
    assert_eq!(status(""), Some("408 Empty Request"));
    assert_eq!(status("{}"), Some("408 Empty Request"));
    assert_eq!(status(r#"{"batch":3}"#), Some("408 Empty Request"));
    assert_eq!(status("x"), Some("408 Malformed Request"));
    assert_eq!(status("[]"), Some("408 Malformed Request"));
    assert_eq!(status(r#"{"seq":1,"start_time":"2026-01-01T00:00:00Z"}"#), Some("408 Bad Request"));
    assert_eq!(status(r#"{"seq":1,"last_by_subj":"a"}"#), Some("408 Bad Request"));
    assert_eq!(status(r#"{"last_by_subj":"a","batch":2}"#), Some("408 Bad Request"));
    assert_eq!(status(r#"{"last_by_subj":"a","next_by_subj":"a"}"#), Some("408 Bad Request"));
    assert_eq!(status(r#"{"multi_last":["a"],"next_by_subj":"x"}"#), Some("408 Bad Request"));
    assert_eq!(status(r#"{"up_to_seq":3,"up_to_time":"2026-01-01T00:00:00Z","seq":1}"#), Some("408 Bad Request"));
    assert_eq!(status(r#"{"multi_last":["p.>"],"seq":1}"#), None);
    assert_eq!(status(r#"{"next_by_subj":"a","seq":1,"batch":2}"#), None);
    assert_eq!(status(r#"{"next_by_subj":"a","start_time":"2026-01-01T00:00:00Z"}"#), None);
    assert_eq!(direct_get_last("p.z", br#"{"seq":1}"#), Err("408 Bad Request"));
    assert_eq!(direct_get_last("p.z", b"").map(|request| request.last_by_subj), Ok("p.z".into()));
}

#[test]
fn the_level_that_a_client_requires_is_compared() {
    assert!(check_level(None).is_ok() && check_level(Some(b"")).is_ok() && check_level(Some(b"1")).is_ok());
    for header in ["2", "99", "x", "-", "1.0", "99999999999999999999"] {
        assert_eq!(check_level(Some(header.as_bytes())), Err(ApiError::REQUIRED_API_LEVEL), "{header}");
    }
}

#[test]
fn times_are_written_as_nats_writes_them() {
    let json = |time: Time| serde_json::to_string(&time).unwrap();
    assert_eq!(json(Time::none()), "\"0001-01-01T00:00:00Z\"");
    assert_eq!(json(Time::from_nanoseconds(1_500_000_000)), "\"1970-01-01T00:00:01.5Z\"");
    assert_eq!(json(Time::from_nanoseconds(0)), "\"1970-01-01T00:00:00Z\"");
    let read = |text: &str| serde_json::from_str::<Time>(text);
    assert!(read("\"0001-01-01T00:00:00Z\"").unwrap().is_none());
    assert_eq!(read("\"2026-01-01T02:00:00+02:00\"").unwrap(), read("\"2026-01-01T00:00:00Z\"").unwrap());
    assert_eq!(read("\"9999-01-01T00:00:00Z\"").unwrap().nanoseconds(), i64::MAX);
    for wrong in ["5", "\"\"", "\"yesterday\"", "\"2026-13-01T00:00:00Z\"", "\"2026-01-01T00:00:00\""] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_message_is_shown_in_base64() {
    let shown = |data: &'static [u8]| {
        let message = StoredMessage {
            subject: "a".into(),
            seq: 1,
            hdrs: bytes::Bytes::new(),
            data: data.into(),
            time: Time::from_nanoseconds(0),
        };
        value(&message)["data"].as_str().unwrap_or_default().to_owned()
    };
    // RFC 4648 §10.
    let vectors =
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
    for (data, text) in vectors {
        assert_eq!(shown(data.as_bytes()), text);
    }
    assert_eq!(shown(b"\xff\xfe\xfb"), "//77");
}

#[test]
fn a_refused_publisher_is_told_the_stream() {
    let refused = publish_answer("P", Err(ApiError::STREAM_MESSAGE_EXCEEDS_MAXIMUM));
    let nats = r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"},"stream":"P","seq":0}"#;
    assert_eq!(String::from_utf8(refused).unwrap(), nats);
    let ack = PubAck { stream: "P".into(), seq: 4, duplicate: false };
    assert_eq!(publish_answer("P", Ok(ack)), br#"{"stream":"P","seq":4}"#);
}

#[test]
fn pages_begin_where_there_is_something() {
    assert_eq!(Page::of(10, -5, 4).1, 0..4);
    assert_eq!(Page::of(10, 8, 4).1, 8..10);
    assert_eq!(Page::of(10, i64::MAX, 4).1, 10..10);
    assert_eq!(Page::of(0, 0, 4).1, 0..0);
}

#[test]
fn hostile_json_is_an_error_and_nothing_else() {
    let deep = format!("{{\"mirror\":{}", "[".repeat(100_000));
    let nested = [
        r#"{"config":[]}"#,
        r#"{"config":[["d"]]}"#,
        &deep,
        "{\"name\":\"\u{0}",
        "{\"stream_name\":\"\\ud800\"}",
        "\u{feff}{}",
    ];
    for body in nested {
        let error = decode::<ConsumerRequest>(body.as_bytes()).unwrap_err();
        assert_eq!(error.err_code, 10025, "{body:.40}");
    }
    assert!(decode::<StreamRequest>(b"{\"name\":\"\xff\"}").is_err());
    assert_eq!(decode::<StreamRequest>(deep.as_bytes()).unwrap_err().err_code, 10025);
}

#[test]
fn async_nats_is_understood_and_understands() {
    use async_nats::jetstream::{account, consumer, stream};

    let wish = stream::Config {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        max_age: std::time::Duration::from_secs(60),
        max_messages_per_subject: 3,
        allow_message_ttl: true,
        ..stream::Config::default()
    };
    let mut server = Server::default();
    let created = server.json("STREAM.CREATE.S", &serde_json::to_vec(&wish).unwrap());
    let info: stream::Info = serde_json::from_value(created).unwrap();
    assert_eq!((info.config.max_age, info.config.max_messages_per_subject), (wish.max_age, 3));
    assert!(info.config.metadata.contains_key("_nats.level") && info.config.allow_message_ttl);

    let wish = consumer::pull::Config {
        durable_name: Some("d".into()),
        filter_subjects: vec!["s.a".into(), "s.b".into()],
        backoff: vec![std::time::Duration::from_secs(1)],
        inactive_threshold: std::time::Duration::from_secs(9),
        ..consumer::pull::Config::default()
    };
    let wish = json!({"stream_name": "S", "config": consumer::IntoConsumerConfig::into_consumer_config(wish)});
    let (_, outcome) = server.answer("CONSUMER.CREATE.S.d", wish.to_string().as_bytes());
    let config: ConsumerConfig = serde_json::from_value(outcome.unwrap()["config"].clone()).unwrap();
    let described = ConsumerInfo {
        stream_name: "S".into(),
        name: "d".into(),
        created: Time::from_nanoseconds(1),
        config,
        delivered: SequenceInfo { consumer_seq: 1, stream_seq: 2, last_active: Some(Time::from_nanoseconds(3)) },
        ack_floor: SequenceInfo::default(),
        num_ack_pending: 1,
        num_redelivered: 0,
        num_waiting: 1,
        num_pending: 7,
        push_bound: false,
        paused: true,
        pause_remaining: 5,
        ts: Time::from_nanoseconds(4),
    };
    let described = answer(Kind::ConsumerInfo, &Ok(described));
    let info: consumer::Info = serde_json::from_slice(&described).unwrap();
    assert_eq!((info.config.max_waiting, info.config.ack_wait.as_secs(), info.num_pending), (512, 1, 7));
    let account = answer(Kind::AccountInfo, &Ok(AccountInfo::default()));
    serde_json::from_slice::<account::Account>(&account).unwrap();
}
