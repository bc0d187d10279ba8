//! A configuration that was looked at: schemas compiled, filters and keys parsed, publishers found by name. Pure; made in
//! one go or not at all, and replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::{Config, Publisher, Topic};
use crate::error::Error;
use crate::publishing::Counts;
use crate::schema::Schema;
use crate::{link, subscription};

/// What the engine goes by.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) config: Config,
    publishers: HashMap<String, Publisher>,
    /// In the order of the configuration.
    pub(crate) topics: Vec<Arc<CompiledTopic>>,
    /// By name.
    pub(crate) subscriptions: BTreeMap<String, Arc<subscription::Compiled>>,
}

/// A topic, and what was counted of it.
#[derive(Debug)]
pub(crate) struct CompiledTopic {
    pub(crate) config: Topic,
    pub(crate) schema: Option<Schema>,
    /// Shared with the one of the same subject in the configuration before.
    pub(crate) counts: Arc<Counts>,
}

impl Compiled {
    /// Looks at a configuration. Counts go on from those of the one before.
    ///
    /// # Errors
    /// [`Error::Server`], [`Error::Schema`], [`Error::Subscription`].
    pub(crate) fn new(config: Config, before: Option<&Self>) -> Result<Self, Error> {
        config.server.iter().try_for_each(|server| link::parse_servers(&server.url).map(drop))?;
        let topics = config.topics.iter().map(|topic| compile_topic(topic, before).map(Arc::new));
        let topics = topics.collect::<Result<_, _>>()?;
        let subscriptions = config.subscriptions.iter().map(|one| {
            let compiled = subscription::Compiled::new(one)?;
            Ok((one.name.clone(), Arc::new(compiled)))
        });
        let subscriptions = subscriptions.collect::<Result<_, Error>>()?;
        let publishers = config.publishers.iter().map(|one| (one.service.clone(), one.clone())).collect();
        Ok(Self { config, publishers, topics, subscriptions })
    }

    pub(crate) fn publisher(&self, service: &str) -> Option<&Publisher> {
        self.publishers.get(service)
    }

    /// The declared topic that a subject belongs to: the one that names it, else the longest family.
    pub(crate) fn topic(&self, subject: &str) -> Option<&Arc<CompiledTopic>> {
        let matching = self.topics.iter().filter(|topic| matches(&topic.config.subject, subject));
        matching.max_by_key(|topic| (topic.config.subject == subject, topic.config.subject.len()))
    }
}

fn compile_topic(topic: &Topic, before: Option<&Compiled>) -> Result<CompiledTopic, Error> {
    let schema = topic.schema.as_ref().map(|schema| {
        let failed = |source| Error::Schema { topic: topic.subject.clone(), path: schema.path.clone(), source };
        Schema::compile(&schema.text).map_err(failed)
    });
    let same = before.and_then(|before| before.topics.iter().find(|one| one.config.subject == topic.subject));
    let counts = same.map(|same| Arc::clone(&same.counts)).unwrap_or_default();
    Ok(CompiledTopic { config: topic.clone(), schema: schema.transpose()?, counts })
}

/// Whether a subject is one of a pattern (`*` is one token, a last `>` one or more).
pub(crate) fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
}

/// Whether a text can be published to: tokens that are not empty, without wildcards, spaces and control characters.
pub(crate) fn is_subject(text: &str) -> bool {
    text.len() <= SUBJECT_BYTES_MAX
        && text.split('.').all(|token| !token.is_empty() && token != "*" && token != ">")
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Limit: a longer subject is no topic. Servers stop at 4 KiB for a whole line.
const SUBJECT_BYTES_MAX: usize = 1024;
