//! Streams through the API of JetStream, as any client of the broker would ask: made and changed as the manifest wants
//! them, and listed. Called by `bus`. It deletes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use broker::Outgoing;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::lower::{self, ConsumerSeen, Stream, StreamSeen};

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The same of somebody else's broker, which may not be there at all.
const ELSEWHERE_ANSWER_MAX: Duration = Duration::from_secs(5);
/// Limit: pages of a list.
const PAGES_MAX: usize = 1_000;
/// "subjects overlap with an existing stream".
const OVERLAP: u64 = 10_065;

#[derive(Debug, Error)]
pub enum Error {
    #[error("{description}")]
    Refused { err_code: u64, description: String },
    #[error("the stream {stream}, which is not of this application, has its name or subjects of it")]
    Taken { stream: String },
    #[error("the broker does not answer for its streams")]
    Silent { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the broker's answer cannot be read")]
    Answer { source: serde_json::Error },
}

/// Who answers for streams.
#[derive(Clone, Debug)]
pub enum Api {
    /// The broker in this process.
    Own(broker::Handle),
    /// Another, over its protocol.
    Elsewhere(async_nats::Client),
}

impl Api {
    async fn request(&self, subject: String, payload: String) -> Result<Vec<u8>, Error> {
        match self {
            Self::Own(handle) => {
                let question =
                    Outgoing { subject: subject.as_bytes(), payload: payload.as_bytes(), ..Outgoing::default() };
                let answer = handle.request(&question, ANSWER_MAX).await;
                answer.map(|answer| answer.payload().to_vec()).map_err(|error| Error::Silent { source: error.into() })
            }
            Self::Elsewhere(client) => {
                let answer = tokio::time::timeout(ELSEWHERE_ANSWER_MAX, client.request(subject, payload.into())).await;
                let answer = answer.map_err(|error| Error::Silent { source: error.into() })?;
                answer.map(|answer| answer.payload.to_vec()).map_err(|error| Error::Silent { source: error.into() })
            }
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What has changed, in sentences.
    pub said: Vec<String>,
    /// The same of what services lose sight of.
    pub retired: Vec<String>,
    /// Why streams are not as they are wanted.
    pub refused: BTreeMap<String, String>,
}

/// Has every stream as it is wanted. Room is made before it is taken: streams that shrink come first.
pub async fn declare(api: &Api, wanted: &[Stream]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut order: Vec<&Stream> = wanted.iter().collect();
    let found = match list(api).await {
        Ok(found) => found,
        Err(error) => {
            let why = kit::Chain(&error).to_string();
            outcome.refused = wanted.iter().map(|stream| (stream.name.clone(), why.clone())).collect();
            return outcome;
        }
    };
    let existing = |stream: &Stream| found.iter().find(|found| found.name() == Some(&stream.name));
    let grows = |stream: &Stream| match existing(stream) {
        Some(found) => found.config["max_bytes"].as_u64() < stream.config["max_bytes"].as_u64(),
        None => true,
    };
    order.sort_by_key(|stream| grows(stream));
    let mut silent = None;
    for stream in order {
        let had = match &silent {
            Some(why) => Err(String::clone(why)),
            None => match ensure(api, stream, existing(stream), wanted, &mut outcome).await {
                Err(error @ Error::Silent { .. }) => Err(silent.insert(kit::Chain(&error).to_string()).clone()),
                had => had.map_err(|error| kit::Chain(&error).to_string()),
            },
        };
        if let Err(why) = had {
            outcome.refused.insert(stream.name.clone(), why);
        }
    }
    outcome
}

async fn ensure(
    api: &Api,
    stream: &Stream,
    existing: Option<&StreamSeen>,
    all: &[Stream],
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let name = &stream.name;
    if let Some(foreign) = existing.filter(|existing| !lower::is_ours(&existing.config, &stream.application)) {
        return Err(Error::Taken { stream: foreign.name().unwrap_or_default().to_owned() });
    }
    let (request, config, done) = match existing {
        None => {
            let made = format!("the stream {name} is made for {}", stream.subject);
            (format!("STREAM.CREATE.{name}"), stream.config.clone(), made)
        }
        Some(existing) => {
            let next = merged(&existing.config, &stream.of_existing());
            if next == existing.config {
                return Ok(());
            }
            (format!("STREAM.UPDATE.{name}"), next, format!("the stream {name} is changed"))
        }
    };
    let answer = match ask(api, &request, &config).await {
        Err(Error::Refused { err_code: OVERLAP, .. }) => {
            let retired = retire(api, stream, all).await?;
            match ask(api, &request, &config).await {
                Ok(answer) => {
                    outcome.retired.extend(retired.into_iter().map(|(_, said)| said));
                    answer
                }
                Err(error) => {
                    give_back(api, &retired).await;
                    return Err(error);
                }
            }
        }
        answer => answer?,
    };
    if existing.is_none_or(|existing| answer["config"] != existing.config) {
        outcome.said.push(done);
    }
    Ok(())
}

/// Streams of topics that are declared no more give up what another one is to have: they keep their messages and what else
/// they get. Gives them as they were, and what is to be said of each. Streams that somebody else made are left alone.
async fn retire(api: &Api, stream: &Stream, all: &[Stream]) -> Result<Vec<(StreamSeen, String)>, Error> {
    let overlaps = |of: &&str| broker::subject::overlaps(of.as_bytes(), stream.subject.as_bytes());
    let mut rivals = list(api).await?;
    rivals.retain(|found| {
        found.name().is_some_and(|name| !all.iter().any(|wanted| wanted.name == name))
            && found.subjects().any(|of| overlaps(&of))
    });
    if let Some(foreign) = rivals.iter().find(|found| !lower::is_ours(&found.config, &stream.application)) {
        return Err(Error::Taken { stream: foreign.name().unwrap_or_default().to_owned() });
    }
    let mut retired = Vec::new();
    for found in rivals {
        let name = found.name().unwrap_or_default();
        let mut kept: Vec<&str> = found.subjects().filter(|of| !overlaps(of)).collect();
        if kept.is_empty() {
            // A stream has a subject: its own name, which no topic can be.
            kept.push(name);
        }
        let config = merged(&found.config, &json!({ "subjects": kept }));
        if let Err(error) = ask(api, &format!("STREAM.UPDATE.{name}"), &config).await {
            give_back(api, &retired).await;
            return Err(error);
        }
        let unread = unread(api, &found).await;
        let said = format!(
            "the stream {name}, which no topic declares, gives its subjects to {}; its {} messages stay in it{unread}",
            stream.name,
            found.messages()
        );
        retired.push((found, said));
    }
    Ok(retired)
}

/// What consumers of a stream have not got or acknowledged yet, in words.
async fn unread(api: &Api, stream: &StreamSeen) -> String {
    let name = stream.name().unwrap_or_default();
    if stream.consumers() == 0 {
        return String::new();
    }
    let mut words = String::new();
    for consumer in consumers(api, name).await.unwrap_or_default() {
        let left = consumer.num_pending + consumer.num_ack_pending;
        if left > 0 {
            words.push_str(&format!(", {left} of them not processed by the consumer {}", consumer.name));
        }
    }
    words
}

/// Lets retired streams have their subjects again.
async fn give_back(api: &Api, retired: &[(StreamSeen, String)]) {
    for (stream, _) in retired {
        let name = stream.name().unwrap_or_default();
        if let Err(error) = ask(api, &format!("STREAM.UPDATE.{name}"), &stream.config).await {
            tracing::warn!(stream = name, error = %kit::Chain(&error), "a stream does not get its subjects back");
        }
    }
}

/// A configuration as it is, but for what the manifest decides.
fn merged(existing: &Value, wanted: &Value) -> Value {
    let mut merged = existing.clone();
    for (key, value) in wanted.as_object().into_iter().flatten() {
        match (merged.get_mut(key), value) {
            // Other keys in it are the broker's.
            (Some(Value::Object(existing)), Value::Object(wanted)) => existing.extend(wanted.clone()),
            _ => merged[key.as_str()] = value.clone(),
        }
    }
    if let (Some(merged), None, Some(_)) = (merged.as_object_mut(), wanted.get("description"), wanted.get("name")) {
        merged.remove("description");
    }
    merged
}

/// Every stream that there is, in the order of names.
pub async fn list(api: &Api) -> Result<Vec<StreamSeen>, Error> {
    #[derive(Deserialize)]
    struct Page {
        total: usize,
        streams: Option<Vec<StreamSeen>>,
    }
    let mut all: Vec<StreamSeen> = Vec::new();
    for _ in 0..PAGES_MAX {
        let answer = ask(api, "STREAM.LIST", &json!({ "offset": all.len() })).await?;
        let page: Page = serde_json::from_value(answer).map_err(|source| Error::Answer { source })?;
        let streams = page.streams.unwrap_or_default();
        let is_last = streams.is_empty() || all.len() + streams.len() >= page.total;
        all.extend(streams);
        if is_last {
            break;
        }
    }
    all.sort_by(|a, b| a.name().cmp(&b.name()));
    Ok(all)
}

/// The first page of a stream's consumers.
pub async fn consumers(api: &Api, stream: &str) -> Result<Vec<ConsumerSeen>, Error> {
    let mut answer = ask(api, &format!("CONSUMER.LIST.{stream}"), &json!({})).await?;
    serde_json::from_value(answer["consumers"].take()).map_err(|source| Error::Answer { source })
}

async fn ask(api: &Api, what: &str, body: &Value) -> Result<Value, Error> {
    let answer = api.request(format!("$JS.API.{what}"), body.to_string()).await?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|source| Error::Answer { source })?;
    let Some(error) = answer.get("error") else { return Ok(answer) };
    let description = error["description"].as_str().unwrap_or("it says no reason").to_owned();
    Err(Error::Refused { err_code: error["err_code"].as_u64().unwrap_or_default(), description })
}
