//! The streams that the engine keeps for itself: progress, what waits aside, dead letters. Their names, and how they are
//! made. They are never deleted here.

use async_nats::jetstream::context::{Context, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};

use crate::config::Limits;
use crate::error::Error;

/// What the engine's own streams and subjects are called. Several applications may share one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) progress: String,
    pub(crate) aside: String,
    pub(crate) dead: String,
    /// `atoll.<application>`
    prefix: String,
}

impl Names {
    /// Those of an application; what cannot stand in a name becomes `_`.
    pub(crate) fn of(application: &str) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let upper: String = application.chars().map(|c| plain(c).to_ascii_uppercase()).collect();
        let token: String = application.chars().map(|c| if c == '-' { c } else { plain(c) }).collect();
        Self {
            progress: format!("ATOLL_{upper}_PROGRESS"),
            aside: format!("ATOLL_{upper}_ASIDE"),
            dead: format!("ATOLL_{upper}_DEAD"),
            prefix: format!("atoll.{token}"),
        }
    }

    /// Where the progress of a subscription is written; the last message counts.
    pub(crate) fn progress_subject(&self, subscription: &str) -> String {
        format!("{}.progress.{subscription}", self.prefix)
    }

    /// What begins the subjects of everything of one subscription that is aside; something follows it, after a dot.
    pub(crate) fn aside_subject(&self, subscription: &str) -> String {
        format!("{}.aside.{subscription}", self.prefix)
    }

    /// Where dead letters of a subscription are kept.
    pub(crate) fn dead_subject(&self, subscription: &str) -> String {
        format!("{}.dead.{subscription}", self.prefix)
    }

    fn configs(&self, limits: &Limits) -> [Config; 3] {
        let stream = |name: &str, subjects: String| Config {
            name: name.to_owned(),
            subjects: vec![subjects],
            storage: StorageType::File,
            allow_direct: true,
            ..Config::default()
        };
        let one_a_subject = |config| Config { max_messages_per_subject: 1, ..config };
        let bounded = |config, bytes: u64| Config {
            max_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            discard: DiscardPolicy::New,
            ..config
        };
        let aside = one_a_subject(stream(&self.aside, format!("{}.aside.>", self.prefix)));
        [
            one_a_subject(stream(&self.progress, format!("{}.progress.*", self.prefix))),
            bounded(aside, limits.parked_bytes_max),
            bounded(stream(&self.dead, format!("{}.dead.*", self.prefix)), limits.dead_letters_bytes_max),
        ]
    }
}

/// Makes those that are not there, and changes those that are otherwise.
pub(crate) async fn make(context: &Context, names: &Names, limits: &Limits) -> Result<(), Error> {
    for wanted in names.configs(limits) {
        match context.get_stream(&wanted.name).await {
            Ok(stream) => {
                let there = &stream.cached_info().config;
                let is_so = there.max_bytes == wanted.max_bytes
                    && there.subjects == wanted.subjects
                    && there.discard == wanted.discard
                    && there.max_messages_per_subject == wanted.max_messages_per_subject
                    && there.allow_direct == wanted.allow_direct;
                if !is_so {
                    let changed = Config {
                        max_bytes: wanted.max_bytes,
                        subjects: wanted.subjects,
                        discard: wanted.discard,
                        max_messages_per_subject: wanted.max_messages_per_subject,
                        allow_direct: wanted.allow_direct,
                        ..there.clone()
                    };
                    context.update_stream(changed).await.map_err(|error| failed("change a stream", error))?;
                }
            }
            Err(error) if is_missing(error.kind()) => {
                context.create_stream(wanted).await.map_err(|error| failed("make a stream", error))?;
            }
            Err(error) => return Err(failed("look at a stream", error)),
        }
    }
    Ok(())
}

fn is_missing(kind: GetStreamErrorKind) -> bool {
    use async_nats::jetstream::ErrorCode;
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn failed(operation: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Broker { operation, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_what_nats_allows() {
        let names = Names::of("my-shop.eu");
        assert_eq!(names.progress, "ATOLL_MY_SHOP_EU_PROGRESS");
        assert_eq!(names.aside_subject("warehouse-orders"), "atoll.my-shop_eu.aside.warehouse-orders");
    }
}
