//! What the commands about messages have in common: a connection to the broker with every right, whose address the daemon
//! tells, and questions to JetStream's API. They speak NATS, so that they are the same on any NATS.

use std::time::Duration;

use async_nats::{Client, Event, HeaderMap, RequestErrorKind};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::api;
use crate::api::dto::BrokerUrl;
use crate::cli::Failure;
use crate::nats;
use crate::project::Project;

/// How long the broker may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How often a connection that broke is tried again, and how long after the last try: a broker whose settings change is
/// away for a moment.
const RECONNECTS_MAX: usize = 20;
const RECONNECT_DELAY: Duration = Duration::from_millis(250);
/// Limit: pages of a list.
const PAGES_MAX: usize = 10_000;

/// A connection to the broker.
pub struct Bus {
    pub client: Client,
    closed: watch::Receiver<bool>,
}

impl Bus {
    /// Asks the daemon where the broker is, and connects.
    pub async fn connect(project: &Project) -> Result<Self, Failure> {
        let BrokerUrl { url } = api::client::Client::new(project).get("/v1/broker/url").await.map_err(Failure::from)?;
        let (servers, options) =
            nats::servers(&url).map_err(|error| Failure::new("the broker's address cannot be read").because(error))?;
        let (sender, closed) = watch::channel(false);
        let options = options
            .connection_timeout(ANSWER_MAX)
            .request_timeout(Some(ANSWER_MAX))
            .max_reconnects(RECONNECTS_MAX)
            .reconnect_delay_callback(|_| RECONNECT_DELAY)
            .event_callback(move |event| {
                let is_over = matches!(event, Event::Closed);
                let sender = sender.clone();
                async move {
                    if is_over {
                        sender.send_replace(true);
                    }
                }
            });
        // Shown without its password.
        let shown: Vec<String> =
            servers.iter().map(|address| format!("{}:{}", address.host(), address.port())).collect();
        let shown = shown.join(", ");
        match options.connect(servers).await {
            Ok(client) => Ok(Self { client, closed }),
            Err(error) => Err(Failure::new(format!("cannot connect to the broker at {shown}")).because(error)),
        }
    }

    /// Returns when the broker is gone and does not come back.
    pub async fn lost(&self) -> Failure {
        let mut closed = self.closed.clone();
        // Without its sender the client is gone, too.
        let _ = closed.wait_for(|closed| *closed).await;
        Failure::not_reached("the broker is gone")
    }

    /// Asks JetStream's API; its refusals are failures in its own words.
    pub async fn ask(&self, what: &str, body: &Value) -> Result<Value, Failure> {
        let answer = self.client.request(format!("$JS.API.{what}"), body.to_string().into()).await;
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => Failure::new("the broker keeps no streams"),
            RequestErrorKind::TimedOut => Failure::not_reached(format!("no answer within {} s", ANSWER_MAX.as_secs())),
            _ => Failure::new("the broker cannot be asked").because(error),
        })?;
        let answer: Value = serde_json::from_slice(&answer.payload)
            .map_err(|error| Failure::new("the broker's answer cannot be read").because(error))?;
        match answer.get("error") {
            None => Ok(answer),
            Some(error) => Err(refusal(error)),
        }
    }

    /// All pages of a list; `key` has the elements of each.
    pub async fn list(&self, what: &str, key: &str) -> Result<Vec<Value>, Failure> {
        let mut all: Vec<Value> = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut page = self.ask(what, &json!({ "offset": all.len() })).await?;
            let total = page["total"].as_u64().unwrap_or_default();
            let Value::Array(items) = page[key].take() else { break };
            let is_empty = items.is_empty();
            all.extend(items);
            if is_empty || u64::try_from(all.len()).is_ok_and(|count| count >= total) {
                break;
            }
        }
        Ok(all)
    }

    /// The streams that keep something of a subject. None where the broker keeps no streams at all.
    pub async fn streams_of(&self, subject: &str) -> Result<Vec<String>, Failure> {
        let question = json!({ "subject": subject }).to_string();
        match self.client.request("$JS.API.STREAM.NAMES", question.into()).await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(Vec::new()),
            _ => {
                let answer = self.ask("STREAM.NAMES", &json!({ "subject": subject })).await?;
                let names = answer["streams"].as_array().into_iter().flatten();
                Ok(names.filter_map(|name| name.as_str().map(str::to_owned)).collect())
            }
        }
    }
}

fn refusal(error: &Value) -> Failure {
    /// "stream not found" and "consumer not found".
    const NOT_FOUND: [u64; 2] = [10_059, 10_014];
    let description = error["description"].as_str().unwrap_or("refused without a reason");
    let hint = error["err_code"].as_u64().and_then(|code| match code {
        code if code == NOT_FOUND[0] => Some("`atoll stream ls` lists the streams".to_owned()),
        code if code == NOT_FOUND[1] => Some("`atoll consumer ls STREAM` lists those of a stream".to_owned()),
        _ => None,
    });
    Failure::new(description).hint(hint)
}

/// A subject that a message may have.
pub fn subject(text: &str) -> Result<String, String> {
    match broker::subject::is_publishable(text.as_bytes()) {
        true => Ok(text.to_owned()),
        false => {
            Err("a subject is words with dots between them, without blanks and wildcards, as in orders.placed".into())
        }
    }
}

/// A subject, or a pattern of subjects.
pub fn pattern(text: &str) -> Result<String, String> {
    match broker::subject::kind(text.as_bytes()) {
        broker::subject::Kind::Invalid => {
            Err("a pattern is words with dots between them, as in orders.placed, orders.* or orders.>".into())
        }
        _ => Ok(text.to_owned()),
    }
}

/// A name of a stream or a consumer, which is a token of subjects.
pub fn name(text: &str) -> Result<String, String> {
    match broker::subject::is_publishable(text.as_bytes()) && !text.contains(['.', '/', '\\']) {
        true => Ok(text.to_owned()),
        false => Err("a name has no dots, blanks, slashes and wildcards, as in ORDERS_PLACED".into()),
    }
}

/// Headers as JSON has them: several values of one name are possible.
pub fn headers(headers: Option<&HeaderMap>) -> Value {
    let mut all = serde_json::Map::new();
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        let values: Vec<&str> = values.iter().map(async_nats::HeaderValue::as_str).collect();
        all.insert(name.to_string(), json!(values));
    }
    Value::Object(all)
}

/// A time as the API has it, for people: without its date where that is today's.
pub fn time(text: &Value) -> String {
    let Some(at) = text.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else { return "-".to_owned() };
    // What never was is the first year.
    if at.as_second() < 0 { "-".to_owned() } else { shown(at) }
}

/// A time of day, in this machine's zone.
pub fn shown(at: Timestamp) -> String {
    let zone = jiff::tz::TimeZone::system();
    let (at, now) = (at.to_zoned(zone.clone()), Timestamp::now().to_zoned(zone));
    let format = if at.date() == now.date() { "%T%.3f" } else { "%F %T%.3f" };
    at.strftime(format).to_string()
}

/// A number as the API has it.
pub fn number(value: &Value) -> String {
    value.as_u64().unwrap_or_default().to_string()
}

/// Text as the API has it.
pub fn word(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

/// Words that stand in a list.
pub fn words(value: &Value) -> String {
    let words: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// Nanoseconds as the API has them; none where that is no limit.
pub fn nanoseconds(value: &Value) -> Option<String> {
    let nanos = value.as_u64().filter(|nanos| *nanos > 0)?;
    Some(manifest::format_duration(Duration::from_nanos(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_patterns_and_names_are_told_apart() {
        assert!(subject("a.b").is_ok() && pattern("a.*").is_ok() && pattern("a.>").is_ok() && name("A_B").is_ok());
        for text in ["", "a..b", "a b", "a.*"] {
            assert!(subject(text).is_err(), "{text}");
        }
        assert!(pattern("a..b").is_err() && name("a.b").is_err() && name(">").is_err());
    }
}
