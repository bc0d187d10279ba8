//! Plan → the broker's configuration, its users with what each may do, and the streams that topics are kept in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use broker::{Config, Credential, JetStream, JetStreamLimits, LameDuck, Limits, Permissions, Rules, User};
use manifest::Plan;
use manifest::plan::{self, Discard, Storage, Topic};
use serde_json::{Value, json};

use crate::project::Credentials;

/// The user with every right, for the platform's own commands. No service can have this name.
pub const ADMIN: &str = "atoll";

/// What a service finds it by.
pub const VARIABLE: &str = "NATS_URL";

/// Limit: tokens in the subject of a subscription.
const SUBJECT_TOKENS_MAX: usize = 256;
/// As of nats-server.
const CONTROL_LINE_MAX: usize = 4096;
/// As of nats-server.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// As of nats-server.
const AUTH_TIMEOUT: Duration = Duration::from_secs(2);
/// As of nats-server.
const PING_INTERVAL: Duration = Duration::from_secs(120);
const PINGS_OUTSTANDING_MAX: u32 = 2;
/// Limit: ended connections that the monitoring remembers.
const CLOSED_CONNECTIONS_MAX: usize = 1_000;
/// Services have stopped before the broker does, or go on and come back: nobody needs to be sent away gently.
const LAME_DUCK: LameDuck = LameDuck { grace: Duration::ZERO, duration: Duration::from_secs(1) };
/// Size from which the next segment of a stream's files is begun.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Limit: bytes of one stream that wait for the disk.
const QUEUE_BYTES: usize = 16 << 20;
/// Limit: bytes of one stream's messages that are kept in memory for its readers.
const CACHE_BYTES: usize = 4 << 20;
/// Limit: message ids that one stream remembers.
const MESSAGE_IDS_MAX: usize = 8_000_000;

/// What the API of a stream is asked by those who read it, by what stands before and behind the stream's name.
const READING: [(&str, &str); 12] = [
    ("CONSUMER.CREATE.", ""),
    ("CONSUMER.CREATE.", ".>"),
    ("CONSUMER.DURABLE.CREATE.", ".*"),
    ("CONSUMER.DELETE.", ".*"),
    ("CONSUMER.INFO.", ".*"),
    ("CONSUMER.LIST.", ""),
    ("CONSUMER.NAMES.", ""),
    ("CONSUMER.PAUSE.", ".*"),
    ("CONSUMER.MSG.NEXT.", ".*"),
    ("DIRECT.GET.", ""),
    ("DIRECT.GET.", ".>"),
    ("STREAM.MSG.GET.", ""),
];

/// What the broker is told; `folder` is where it keeps streams.
pub fn broker(application: &str, broker: &plan::Broker, users: Vec<User>, folder: PathBuf) -> Config {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let limits = &broker.limits;
    Config {
        listen: broker.listen,
        monitor: broker.monitor,
        name: application.to_owned(),
        users,
        tls: None,
        jetstream: Some(JetStream {
            folder,
            sync: match broker.sync {
                plan::Sync::Always => broker::Sync::Always,
                plan::Sync::Interval(every) => broker::Sync::Interval(every),
            },
            limits: JetStreamLimits {
                streams_max: count(limits.streams),
                consumers_max: count(limits.consumers),
                store_bytes_max: broker.store.file,
                memory_bytes_max: broker.store.memory,
                segment_bytes: SEGMENT_BYTES,
                queue_bytes: QUEUE_BYTES,
                cache_bytes: CACHE_BYTES,
                message_ids_max: MESSAGE_IDS_MAX,
            },
        }),
        limits: Limits {
            connections_max: count(limits.connections),
            subscriptions_max: count(limits.subscriptions),
            subject_tokens_max: SUBJECT_TOKENS_MAX,
            control_line_max: CONTROL_LINE_MAX,
            payload_max: size(broker.max_payload),
            pending_max: size(limits.pending),
            write_deadline: WRITE_DEADLINE,
            auth_timeout: AUTH_TIMEOUT,
            tls_timeout: AUTH_TIMEOUT,
            ping_interval: PING_INTERVAL,
            pings_outstanding_max: PINGS_OUTSTANDING_MAX,
            closed_connections_max: CLOSED_CONNECTIONS_MAX,
        },
        lame_duck: LAME_DUCK,
    }
}

/// Whether a broker can become another while it runs: only its users and its addresses differ, or nothing at all.
pub fn is_same_engine(before: &plan::Broker, next: &plan::Broker) -> bool {
    let of = |broker: &plan::Broker| {
        let plan::Broker { listen: _, written: _, monitor: _, sync, max_payload, store, limits } = broker.clone();
        (sync, max_payload, store, limits)
    };
    of(before) == of(next)
}

/// Every user: the platform's own, and each service that publishes or subscribes. One that is unsettled may do what any
/// of the plans says: instances of it run by them.
pub fn users<'p>(
    present: &'p Plan,
    retiring: impl Iterator<Item = &'p Plan>,
    is_unsettled: impl Fn(&str) -> bool,
    credentials: &Credentials,
) -> Vec<User> {
    let mut services: BTreeMap<&str, Rights> = BTreeMap::new();
    let former = retiring.flat_map(|plan| plan.services.iter().map(move |(name, service)| (plan, name, service)));
    let former = former.filter(|(_, name, _)| is_unsettled(name));
    let all = present.services.iter().map(|(name, service)| (present, name, service)).chain(former);
    for (plan, name, service) in all.filter(|(_, _, service)| uses_broker(service)) {
        services.entry(name).or_default().add(plan, service);
    }
    let user = |name: &str, permissions| User {
        name: name.to_owned(),
        credential: Credential::Password(credentials.password(name)),
        permissions,
    };
    let services = services.into_iter().map(|(name, rights)| user(name, rights.permissions()));
    std::iter::once(user(ADMIN, Permissions::default())).chain(services).collect()
}

/// What a service may do.
#[derive(Default)]
struct Rights {
    publish: BTreeSet<String>,
    subscribe: BTreeSet<String>,
}

impl Rights {
    fn add(&mut self, plan: &Plan, service: &plan::Service) {
        self.publish.extend(service.publishes.iter().cloned());
        self.subscribe.extend(service.subscribes.iter().cloned());
        for (name, topic) in &plan.topics {
            let stream = &topic.stream;
            let is_of = |subject: &String| broker::subject::overlaps(subject.as_bytes(), name.as_bytes());
            let reads = service.subscribes.iter().any(is_of);
            if reads || service.publishes.iter().any(is_of) {
                self.publish.insert(format!("$JS.API.STREAM.INFO.{stream}"));
            }
            if reads {
                let asked = READING.iter().map(|(before, behind)| format!("$JS.API.{before}{stream}{behind}"));
                self.publish.extend(asked.chain([format!("$JS.ACK.{stream}.>"), format!("$JS.FC.{stream}.>")]));
            }
        }
    }

    /// With what everybody may: ask, answer, and find out which streams there are.
    fn permissions(self) -> Permissions {
        let Self { mut publish, mut subscribe } = self;
        publish.extend(["$JS.API.INFO", "$JS.API.STREAM.NAMES", "_INBOX.>"].map(str::to_owned));
        subscribe.insert("_INBOX.>".to_owned());
        let rules = |allowed: BTreeSet<String>| Rules { allow: Some(allowed.into_iter().collect()), deny: Vec::new() };
        Permissions { publish: rules(publish), subscribe: rules(subscribe) }
    }
}

/// A stream as the manifest wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    pub name: String,
    pub application: String,
    /// The topic.
    pub subject: String,
    /// What the API of JetStream is given. Only what the manifest decides is in it.
    pub config: Value,
    /// Whether the manifest has a table for it, not only a service that publishes.
    pub is_declared: bool,
}

/// What is kept and for how long: of a stream that exists, only a table of its topic changes these.
const BOUNDS: [&str; 6] = ["storage", "discard", "max_age", "max_bytes", "max_msgs", "duplicate_window"];
/// How many copies there are is for whoever runs the servers: it is said only where a stream is made.
const REPLICAS: &str = "num_replicas";

impl Stream {
    /// What the manifest decides of one that exists: a table that was taken out deletes no messages.
    pub fn of_existing(&self) -> Value {
        let mut config = self.config.clone();
        if let Some(config) = config.as_object_mut() {
            config.remove(REPLICAS);
            let bounds = BOUNDS.iter().filter(|_| !self.is_declared);
            bounds.for_each(|key| drop(config.remove(*key)));
        }
        config
    }
}

/// The keys of a stream's metadata that say that a topic has made it, and of which application: several may share a broker.
const MARK: &str = "atoll.topic";
const APPLICATION: &str = "atoll.application";

/// Whether a topic of this application has made the stream with this configuration. Those of an older version do not say
/// whose they are.
pub fn is_ours(config: &Value, application: &str) -> bool {
    let metadata = &config["metadata"];
    metadata.get(MARK).is_some() && metadata.get(APPLICATION).is_none_or(|of| of == application)
}

/// The stream of each topic.
pub fn streams(plan: &Plan) -> Vec<Stream> {
    plan.topics.iter().map(|(subject, topic)| stream(&plan.name, subject, topic)).collect()
}

fn stream(application: &str, subject: &str, topic: &Topic) -> Stream {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut config = json!({
        "name": topic.stream,
        "subjects": [subject],
        "retention": "limits",
        "storage": match topic.storage {
            Storage::File => "file",
            Storage::Memory => "memory",
        },
        "discard": match topic.discard {
            Discard::Old => "old",
            Discard::New => "new",
        },
        "max_age": nanos(topic.retention.age),
        "max_bytes": topic.retention.size,
        "max_msgs": topic.retention.messages.map_or(json!(-1), Value::from),
        "duplicate_window": nanos(topic.duplicate_window),
        "num_replicas": 1,
        "allow_direct": true,
        "metadata": { MARK: subject, APPLICATION: application },
    });
    if let Some(description) = &topic.description {
        config["description"] = json!(description);
    }
    Stream {
        name: topic.stream.clone(),
        application: application.to_owned(),
        subject: subject.to_owned(),
        config,
        is_declared: topic.is_declared,
    }
}

/// Whether instances of it are told of the broker.
pub fn uses_broker(service: &plan::Service) -> bool {
    !service.publishes.is_empty() || !service.subscribes.is_empty()
}

/// Where a user finds the broker, with its password.
pub fn nats_url(listen: SocketAddr, user: &str, credentials: &Credentials) -> String {
    format!("nats://{user}:{}@{}", credentials.password(user), reached(listen))
}

/// Where this machine reaches what listens there.
pub fn reached(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::tests::{CREDENTIALS, compiled};

    const MANIFEST: &str = "name = \"rights\"\n[topics.next]\n[topics.create]\n[topics.\"orders.>\"]\n\
        [services.a]\ncommand = \"a\"\npublishes = [\"orders.placed\"]\nsubscribes = [\"next\", \"create\"]\n\
        [services.b]\ncommand = \"b\"\npublishes = [\"next\", \"create\"]\nsubscribes = [\"orders.placed\"]\n";

    fn may_publish(user: &User, subject: &str) -> bool {
        let allowed = user.permissions.publish.allow.as_ref().expect("a list");
        allowed.iter().any(|pattern| broker::subject::matches(pattern.as_bytes(), subject.as_bytes()))
    }

    #[test]
    fn a_service_asks_for_its_own_streams_whatever_these_are_called() {
        let plan = compiled(MANIFEST);
        let users = users(&plan, std::iter::empty(), |_| true, &CREDENTIALS);
        let [admin, a, b] = users.as_slice() else { panic!("{users:?}") };
        assert_eq!((admin.name.as_str(), &admin.permissions), (ADMIN, &Permissions::default()));
        for subject in ["$JS.API.CONSUMER.MSG.NEXT.NEXT.c", "$JS.API.CONSUMER.CREATE.CREATE.c", "$JS.ACK.NEXT.c.1.2"] {
            assert!(may_publish(a, subject) && !may_publish(b, subject), "{subject}");
        }
        for subject in ["$JS.API.CONSUMER.MSG.NEXT.ORDERS.c", "$JS.API.CONSUMER.DURABLE.CREATE.ORDERS.c"] {
            assert!(!may_publish(a, subject) && may_publish(b, subject), "{subject}");
        }
        for subject in
            ["$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.DELETE.ORDERS", "$JS.API.STREAM.PURGE.ORDERS", "orders.other"]
        {
            assert!(!may_publish(a, subject) && !may_publish(b, subject), "{subject}");
        }
        assert!(may_publish(a, "orders.placed") && !may_publish(b, "orders.placed"));
    }

    #[test]
    fn what_an_older_plan_says_holds_while_it_is_served() {
        let (new, old) =
            (compiled("name = \"x\"\n[services.a]\ncommand = \"a\"\npublishes = [\"x\"]\n"), compiled(MANIFEST));
        for (is_unsettled, expected) in [(true, true), (false, false)] {
            let users = users(&new, std::iter::once(&old), |_| is_unsettled, &CREDENTIALS);
            let a = users.iter().find(|user| user.name == "a").expect("a user");
            assert!(may_publish(a, "x") && may_publish(a, "orders.placed") == expected);
            assert_eq!(users.iter().any(|user| user.name == "b"), expected, "it is gone from the manifest");
        }
    }

    #[test]
    fn an_address_for_everybody_is_reached_by_loopback() {
        for (listen, expected) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1"), ("[::1]:2", "[::1]:2")]
        {
            assert_eq!(reached(listen.parse().expect(listen)).to_string(), expected);
        }
    }
}
