//! Advisories: what has happened to streams and consumers, told to whoever listens under `$JS.EVENT.ADVISORY.>`. Types and
//! fields are nats-server's. <https://docs.nats.io/running-a-nats-service/nats_admin/monitoring/monitoring_jetstream>

use serde::Serialize;
use serde_json::{Value, json};

use super::api::Time;
use super::consumer;
use super::shared::now;
use crate::publisher::{Outgoing, Publisher};

/// What has happened.
#[derive(Debug)]
pub(super) struct Advisory {
    subject: String,
    kind: &'static str,
    fields: Value,
}

/// What became of a stream or a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    Create,
    Modify,
    Delete,
}

impl Action {
    fn token(self) -> &'static str {
        match self {
            Self::Create => "CREATED",
            Self::Modify => "UPDATED",
            Self::Delete => "DELETED",
        }
    }
}

impl Advisory {
    fn new(kind: &'static str, subject: &str, fields: Value) -> Self {
        Self { subject: format!("$JS.EVENT.ADVISORY.{subject}"), kind, fields }
    }

    pub(super) fn stream(stream: &str, action: Action) -> Self {
        let subject = format!("STREAM.{}.{stream}", action.token());
        Self::new("stream_action", &subject, json!({ "stream": stream, "action": action }))
    }

    fn consumer(stream: &str, consumer: &str, action: Action) -> Self {
        let subject = format!("CONSUMER.{}.{stream}.{consumer}", action.token());
        Self::new("consumer_action", &subject, json!({ "stream": stream, "consumer": consumer, "action": action }))
    }

    pub(super) fn consumer_created(stream: &str, consumer: &str) -> Self {
        Self::consumer(stream, consumer, Action::Create)
    }

    pub(super) fn consumer_deleted(stream: &str, consumer: &str) -> Self {
        Self::consumer(stream, consumer, Action::Delete)
    }

    pub(super) fn consumer_paused(stream: &str, consumer: &str, until: Option<i64>) -> Self {
        let mut fields = json!({ "stream": stream, "consumer": consumer, "paused": until.is_some() });
        if let Some(until) = until {
            fields["pause_until"] = serde_json::to_value(Time::from_nanoseconds(until)).unwrap_or_default();
        }
        Self::new("consumer_pause", &format!("CONSUMER.PAUSE.{stream}.{consumer}"), fields)
    }

    /// What a consumer has to tell.
    pub(super) fn of_consumer(stream: &str, consumer: &str, happened: consumer::Advisory) -> Self {
        let subject = |event: &str| format!("CONSUMER.{event}.{stream}.{consumer}");
        match happened {
            consumer::Advisory::MaxDeliver { sequence, deliveries } => Self::new(
                "max_deliver",
                &subject("MAX_DELIVERIES"),
                json!({ "stream": stream, "consumer": consumer, "stream_seq": sequence, "deliveries": deliveries }),
            ),
            consumer::Advisory::Nak { sequence, consumer_sequence, deliveries } => Self::new(
                "nak",
                &subject("MSG_NAKED"),
                json!({
                    "stream": stream,
                    "consumer": consumer,
                    "consumer_seq": consumer_sequence,
                    "stream_seq": sequence,
                    "deliveries": deliveries,
                }),
            ),
            consumer::Advisory::Terminated { sequence, consumer_sequence, deliveries, reason } => {
                let mut fields = json!({
                    "stream": stream,
                    "consumer": consumer,
                    "consumer_seq": consumer_sequence,
                    "stream_seq": sequence,
                    "deliveries": deliveries,
                });
                if !reason.is_empty() {
                    fields["reason"] = reason.into();
                }
                Self::new("terminated", &subject("MSG_TERMINATED"), fields)
            }
        }
    }
}

/// Tells whoever listens.
pub(super) fn publish(publisher: &mut Publisher, advisory: &Advisory) {
    if !publisher.reaches(advisory.subject.as_bytes()) {
        return;
    }
    let mut event = json!({
        "type": format!("io.nats.jetstream.advisory.v1.{}", advisory.kind),
        "id": kit::ids::unique(),
        "timestamp": Time::from_nanoseconds(now()),
    });
    if let (Value::Object(event), Value::Object(fields)) = (&mut event, &advisory.fields) {
        event.extend(fields.clone());
    }
    let payload = event.to_string();
    let message = Outgoing { subject: advisory.subject.as_bytes(), payload: payload.as_bytes(), ..Outgoing::default() };
    publisher.publish(&message);
}
