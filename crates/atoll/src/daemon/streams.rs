//! Streams through the API of JetStream, as any client of the broker would ask: made and changed as the manifest wants
//! them, and listed. Called by `bus`. It deletes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use broker::{Handle, Outgoing};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::lower::{Stream, StreamSeen};

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Limit: pages of a list.
const PAGES_MAX: usize = 1_000;
/// "stream not found".
const NOT_FOUND: u64 = 10_059;
/// "subjects overlap with an existing stream".
const OVERLAP: u64 = 10_065;

#[derive(Debug, Error)]
pub enum Error {
    #[error("{description}")]
    Refused { err_code: u64, description: String },
    #[error("the broker does not answer for its streams")]
    Silent { source: broker::Error },
    #[error("the broker's answer cannot be read")]
    Answer { source: serde_json::Error },
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What has changed, in sentences.
    pub said: Vec<String>,
    /// Why streams are not as they are wanted.
    pub refused: BTreeMap<String, String>,
}

/// Has every stream as it is wanted.
pub async fn declare(handle: &Handle, wanted: &[Stream]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut silent = None;
    for stream in wanted {
        let had = match &silent {
            Some(why) => Err(String::clone(why)),
            None => match ensure(handle, stream, wanted).await {
                Err(error @ Error::Silent { .. }) => Err(silent.insert(kit::Chain(&error).to_string()).clone()),
                had => had.map_err(|error| kit::Chain(&error).to_string()),
            },
        };
        match had {
            Ok(said) => outcome.said.extend(said),
            Err(why) => drop(outcome.refused.insert(stream.name.clone(), why)),
        }
    }
    outcome
}

async fn ensure(handle: &Handle, stream: &Stream, all: &[Stream]) -> Result<Vec<String>, Error> {
    let name = &stream.name;
    let existing = match ask(handle, &format!("STREAM.INFO.{name}"), &json!({})).await {
        Ok(info) => info["config"].clone(),
        Err(Error::Refused { err_code: NOT_FOUND, .. }) => return make(handle, stream, all).await,
        Err(error) => return Err(error),
    };
    let next = merged(&existing, &stream.config);
    if next == existing {
        return Ok(Vec::new());
    }
    let updated = match ask(handle, &format!("STREAM.UPDATE.{name}"), &next).await {
        Err(Error::Refused { err_code: OVERLAP, .. }) => {
            let mut said = retire(handle, stream, all).await?;
            ask(handle, &format!("STREAM.UPDATE.{name}"), &next).await?;
            said.push(format!("the stream {name} is changed"));
            return Ok(said);
        }
        updated => updated?,
    };
    let is_same = updated["config"] == existing;
    Ok(if is_same { Vec::new() } else { vec![format!("the stream {name} is changed")] })
}

async fn make(handle: &Handle, stream: &Stream, all: &[Stream]) -> Result<Vec<String>, Error> {
    let (name, request) = (&stream.name, format!("STREAM.CREATE.{}", stream.name));
    let made = format!("the stream {name} is made for {}", stream.subject);
    match ask(handle, &request, &stream.config).await {
        Ok(_) => Ok(vec![made]),
        Err(Error::Refused { err_code: OVERLAP, .. }) => {
            let mut said = retire(handle, stream, all).await?;
            ask(handle, &request, &stream.config).await?;
            said.push(made);
            Ok(said)
        }
        Err(error) => Err(error),
    }
}

/// Streams that no topic declares any more give up the subjects that another one is to have: they keep their messages,
/// and get nothing new but what is published under their own name.
async fn retire(handle: &Handle, stream: &Stream, all: &[Stream]) -> Result<Vec<String>, Error> {
    let mut said = Vec::new();
    for found in list(handle).await? {
        let Some(name) = found.name().map(str::to_owned) else { continue };
        let overlaps = |of: &str| broker::subject::overlaps(of.as_bytes(), stream.subject.as_bytes());
        let is_wanted = all.iter().any(|wanted| wanted.name == name);
        if !is_wanted && found.subjects().any(overlaps) {
            let config = merged(&found.config, &json!({ "subjects": [name] }));
            ask(handle, &format!("STREAM.UPDATE.{name}"), &config).await?;
            said.push(format!(
                "the stream {name}, which no topic declares, gives its subjects to {} and keeps its messages",
                stream.name
            ));
        }
    }
    Ok(said)
}

/// A configuration as it is, but for what the manifest decides.
fn merged(existing: &Value, wanted: &Value) -> Value {
    let mut merged = existing.clone();
    for (key, value) in wanted.as_object().into_iter().flatten() {
        merged[key.as_str()] = value.clone();
    }
    if let (Some(merged), None, Some(_)) = (merged.as_object_mut(), wanted.get("description"), wanted.get("name")) {
        merged.remove("description");
    }
    merged
}

/// Every stream that there is, in the order of names.
pub async fn list(handle: &Handle) -> Result<Vec<StreamSeen>, Error> {
    #[derive(Deserialize)]
    struct Page {
        total: usize,
        streams: Option<Vec<StreamSeen>>,
    }
    let mut all: Vec<StreamSeen> = Vec::new();
    for _ in 0..PAGES_MAX {
        let answer = ask(handle, "STREAM.LIST", &json!({ "offset": all.len() })).await?;
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

async fn ask(handle: &Handle, what: &str, body: &Value) -> Result<Value, Error> {
    let (subject, payload) = (format!("$JS.API.{what}"), body.to_string());
    let question = Outgoing { subject: subject.as_bytes(), payload: payload.as_bytes(), ..Outgoing::default() };
    let answer = handle.request(&question, ANSWER_MAX).await.map_err(|source| Error::Silent { source })?;
    let answer: Value = serde_json::from_slice(&answer.payload()).map_err(|source| Error::Answer { source })?;
    let Some(error) = answer.get("error") else { return Ok(answer) };
    let description = error["description"].as_str().unwrap_or("it says no reason").to_owned();
    Err(Error::Refused { err_code: error["err_code"].as_u64().unwrap_or_default(), description })
}
