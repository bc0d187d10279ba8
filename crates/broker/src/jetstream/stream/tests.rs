//! A stream without sockets and without its task: what one turn does, and what it costs.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use kit::tasks::Tasks;

use super::super::api::{AckPolicy, ConsumerConfig, Retention, Storage};
use super::super::store::Purge;
use super::*;
use crate::auth::User;
use crate::broker::Broker;
use crate::config::{self, Config, JetStreamLimits, LameDuck, Limits};
use crate::protocol;
use crate::sockets::Sockets;

/// A stream in memory and what reaches it.
struct World {
    stream: Box<Stream>,
    inbox: Inbox,
    user: Arc<User>,
}

impl World {
    async fn new(config: StreamConfig) -> Self {
        let jetstream = config::JetStream {
            folder: Path::new("unused").to_owned(),
            sync: config::Sync::Always,
            limits: JetStreamLimits {
                streams_max: 1,
                consumers_max: 100_000,
                store_bytes_max: 1 << 30,
                memory_bytes_max: 1 << 30,
                segment_bytes: 1 << 20,
                queue_bytes: 8 << 20,
                cache_bytes: 1 << 20,
                message_ids_max: 1024,
            },
        };
        let broker = Broker::new(&broker(), Sockets::default()).expect("no users");
        let shared = Arc::new(Shared::new(Arc::new(broker), jetstream, Tasks::default()));
        let user = Arc::clone(shared.broker.users().internal());
        let (_, commands) = mpsc::channel(1);
        let mut inbox = Inbox::new(&shared, commands);
        inbox.follow(&config).expect("its subjects are valid");
        let stream = create(&shared, config).await.expect("a stream in memory");
        Self { stream, inbox, user }
    }

    fn message(&self, subject: &str, reply: Option<&str>, content: &str) -> Message {
        let (subject, reply, content) = (subject.as_bytes(), reply.map(str::as_bytes), content.as_bytes());
        Message::new(&protocol::Message { subject, reply, header_len: 0, content }, &self.user)
    }

    /// Somebody listens there.
    fn listener(&self, subject: &str) -> Subscription {
        let mut subscription = Subscription::new(Arc::clone(&self.stream.shared.broker), 1 << 20);
        subscription.add(subject.as_bytes(), None).expect("a valid subject");
        subscription
    }

    async fn turn(&mut self, event: Event) {
        self.stream.turn(event, &mut self.inbox).await.expect("a turn");
    }

    async fn publish(&mut self, subject: &str) {
        let message = self.message(subject, None, "x");
        self.turn(Event::Publish(message)).await;
    }

    async fn word(&mut self, subject: &str, reply: Option<&str>, content: &str) {
        let message = self.message(subject, reply, content);
        self.turn(Event::Word(message)).await;
    }

    /// Makes a consumer of what a client would have had completed.
    async fn consumer(&mut self, config: ConsumerConfig) {
        let message = self.message("", None, "");
        self.stream.add_consumer(&config.name.clone(), config, &message).expect("a consumer");
        self.turn(Event::Time).await;
    }
}

fn broker() -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        monitor: None,
        name: "test".into(),
        users: Vec::new(),
        tls: None,
        jetstream: None,
        limits: Limits {
            connections_max: 1,
            subscriptions_max: 1,
            subject_tokens_max: 32,
            control_line_max: 4096,
            payload_max: 1 << 20,
            pending_max: 1 << 20,
            write_deadline: Duration::ZERO,
            auth_timeout: Duration::ZERO,
            tls_timeout: Duration::ZERO,
            ping_interval: Duration::ZERO,
            pings_outstanding_max: 1,
            closed_connections_max: 1,
        },
        lame_duck: LameDuck { grace: Duration::ZERO, duration: Duration::ZERO },
    }
}

fn stream(retention: Retention) -> StreamConfig {
    StreamConfig {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        max_msg_size: -1,
        storage: Storage::Memory,
        retention,
        ..StreamConfig::default()
    }
}

fn consumer(name: &str, filter: &str) -> ConsumerConfig {
    ConsumerConfig {
        name: name.into(),
        durable_name: name.into(),
        filter_subject: filter.into(),
        ack_policy: AckPolicy::Explicit,
        max_waiting: 512,
        ack_wait: 30_000_000_000,
        ..ConsumerConfig::default()
    }
}

#[tokio::test]
async fn a_turn_is_about_those_to_whom_something_happens() {
    let mut world = World::new(stream(Retention::Limits)).await;
    for at in 0..10_000 {
        let config = consumer(&format!("c{at}"), if at % 2 == 0 { "" } else { "s.other" });
        let message = world.message("", None, "");
        world.stream.add_consumer(&config.name.clone(), config, &message).expect("a consumer");
    }
    world.publish("s.first").await;
    world.stream.note_consumers();
    let start = Instant::now();
    for _ in 0..100 {
        world.publish("s.one").await;
        assert!(world.stream.wakes_in().is_none_or(|wait| !wait.is_zero()));
        assert!(world.stream.consumers.take_ready().is_empty() && world.stream.consumers.take_changed().is_empty());
    }
    println!("a turn beside 10,000 idle consumers: {:?}", start.elapsed() / 100);
    let mut inbox = world.listener("inbox");
    world.word("$JS.API.CONSUMER.MSG.NEXT.S.c3", Some("inbox"), r#"{"batch":2,"expires":60000000000}"#).await;
    world.publish("s.other").await;
    assert_eq!(inbox.try_next().map(|message| message.payload()), Some("x".into()));
    world.publish("s.one").await;
    assert!(inbox.try_next().is_none());
    world.publish("s.other").await;
    assert!(inbox.try_next().is_some() && inbox.try_next().is_none());
}

#[tokio::test]
async fn a_consumer_that_waits_for_an_acknowledgement_goes_on_when_the_message_is_gone() {
    let mut world = World::new(stream(Retention::Limits)).await;
    world.consumer(ConsumerConfig { max_ack_pending: 1, ..consumer("c", "") }).await;
    let mut inbox = world.listener("inbox");
    for subject in ["s.1", "s.2", "s.3"] {
        world.publish(subject).await;
    }
    world.word("$JS.API.CONSUMER.MSG.NEXT.S.c", Some("inbox"), r#"{"batch":3,"expires":60000000000}"#).await;
    assert!(inbox.try_next().is_some() && inbox.try_next().is_none());
    let _ = world.stream.store.remove(1, now());
    world.turn(Event::Time).await;
    assert!(world.stream.has_more);
    world.turn(Event::Time).await;
    assert!(inbox.try_next().is_some() && inbox.try_next().is_none());
}

#[tokio::test]
async fn what_is_pushed_waits_for_a_listener_and_goes_when_there_is_one() {
    let mut world = World::new(stream(Retention::Limits)).await;
    world.consumer(ConsumerConfig { deliver_subject: "to".into(), ..consumer("c", "") }).await;
    world.publish("s.1").await;
    let mut listener = world.listener("to");
    // The next message for it is reason enough to look.
    let _ = world.stream.store.purge(&Purge::default(), now());
    world.publish("s.2").await;
    assert!(listener.try_next().is_some());
    drop(listener);
    world.publish("s.3").await;
    let mut listener = world.listener("to");
    let start = Instant::now();
    while listener.try_next().is_none() {
        assert!(start.elapsed() < Duration::from_secs(10), "nobody has looked again");
        world.turn(Event::Time).await;
    }
}

#[tokio::test]
async fn nobody_who_was_late_once_is_remembered() {
    let mut world = World::new(stream(Retention::Limits)).await;
    let mut late = Subscription::new(Arc::clone(&world.stream.shared.broker), 512);
    late.add(b"late", None).expect("a valid subject");
    let publisher = &mut world.stream.publisher;
    let is_pressed = |publisher: &mut Publisher| {
        publisher.publish(&Outgoing { subject: b"late", payload: b"x", ..Outgoing::default() });
        publisher.is_pressed()
    };
    assert!((0..10).any(|_| is_pressed(publisher)));
    publisher.wake();
    assert!(!publisher.is_pressed());
}

#[tokio::test]
async fn what_no_consumer_wants_any_more_goes_when_a_filter_or_the_retention_changes() {
    let mut world = World::new(stream(Retention::Limits)).await;
    for subject in ["s.1", "s.2", "s.3"] {
        world.publish(subject).await;
    }
    world.stream.config.retention = Retention::Interest;
    world.stream.let_go_unwanted();
    // Without any consumer nobody has said what is wanted.
    assert_eq!(world.stream.store.index.sums().0, 3);
    world.consumer(consumer("c", "s.*")).await;
    world.stream.let_go_unwanted();
    assert_eq!(world.stream.store.index.sums().0, 3);
    world.stream.update_consumer(consumer("c", "s.2")).expect("an update");
    assert_eq!((world.stream.store.first(), world.stream.store.index.sums().0), (2, 1));
}

#[tokio::test]
async fn with_a_consumer_goes_what_it_alone_has_wanted_however_far_apart() {
    let mut world = World::new(stream(Retention::Interest)).await;
    world.consumer(consumer("a", "s.1")).await;
    world.consumer(consumer("b", "s.*")).await;
    for subject in ["s.1", "s.2", "s.1", "s.2"] {
        world.publish(subject).await;
    }
    world.stream.delete_consumer("b").expect("it is there");
    assert_eq!((world.stream.store.first(), world.stream.store.index.sums().0), (1, 2));
    world.stream.delete_consumer("a").expect("it is there");
    assert_eq!(world.stream.store.index.sums().0, 0);
}
