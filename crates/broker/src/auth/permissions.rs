//! What a user may publish and subscribe to, from one moment to the next: asked once for each subject, by whoever keeps the
//! answer until it may have become another. A subscription must be covered by one allowed pattern as a whole; what is
//! denied within it is held back at delivery.

use std::sync::{Arc, PoisonError, RwLock};

use crate::config;
use crate::subject::{self, Kind};

/// Permissions that can become others under those who have them. The default allows everything.
#[derive(Debug, Default)]
pub(crate) struct Permissions {
    present: RwLock<Arc<Compiled>>,
}

/// What is allowed at one moment.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    publish: Rules,
    subscribe: Rules,
}

#[derive(Debug, Default)]
struct Rules {
    allow: Option<Vec<Box<[u8]>>>,
    deny: Vec<Box<[u8]>>,
}

impl Compiled {
    /// `None` if a pattern is none.
    pub(super) fn compile(declared: &config::Permissions) -> Option<Self> {
        let compile = |rules: &config::Rules| {
            let allow = match &rules.allow {
                Some(allow) => Some(patterns(allow)?),
                None => None,
            };
            Some(Rules { allow, deny: patterns(&rules.deny)? })
        };
        Some(Self { publish: compile(&declared.publish)?, subscribe: compile(&declared.subscribe)? })
    }
}

impl Permissions {
    pub(super) fn new(compiled: Compiled) -> Self {
        Self { present: RwLock::new(Arc::new(compiled)) }
    }

    /// Becomes these. Whoever keeps answers has to be told.
    pub(super) fn replace(&self, compiled: Compiled) {
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(compiled);
    }

    fn present(&self) -> Arc<Compiled> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn may_publish(&self, subject: &[u8]) -> bool {
        self.present().publish.permits(subject)
    }

    pub(crate) fn may_subscribe(&self, pattern: &[u8]) -> bool {
        self.present().subscribe.permits(pattern)
    }

    /// Whether everything that a pattern matches may come to the user, also by another way than a subscription of its own.
    pub(crate) fn may_read(&self, pattern: &[u8]) -> bool {
        self.may_subscribe(pattern) && !self.denies_part_of(pattern)
    }

    /// Whether a subscription that is allowed matches something that is denied.
    pub(crate) fn denies_part_of(&self, pattern: &[u8]) -> bool {
        self.present().subscribe.deny.iter().any(|denied| subject::overlaps(denied, pattern))
    }

    /// Whether a message with this subject may come to the user by a subscription that [`Self::denies_part_of`].
    pub(crate) fn may_receive(&self, subject: &[u8]) -> bool {
        !self.present().subscribe.deny.iter().any(|denied| subject::covers(denied, subject))
    }
}

impl Rules {
    fn permits(&self, pattern: &[u8]) -> bool {
        let covers = |rules: &[Box<[u8]>]| rules.iter().any(|rule| subject::covers(rule, pattern));
        self.allow.as_deref().is_none_or(covers) && !covers(&self.deny)
    }
}

fn patterns(texts: &[String]) -> Option<Vec<Box<[u8]>>> {
    let compile = |text: &String| {
        let is_valid = subject::kind(text.as_bytes()) != Kind::Invalid && !text.contains(char::is_whitespace);
        is_valid.then(|| text.as_bytes().into())
    };
    texts.iter().map(compile).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(allow: Option<&[&str]>, deny: &[&str]) -> Permissions {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let rules = config::Rules { allow: allow.map(texts), deny: texts(deny) };
        Permissions::new(Compiled::compile(&config::Permissions { publish: rules.clone(), subscribe: rules }).unwrap())
    }

    #[test]
    fn a_subscription_is_allowed_as_a_whole_or_not() {
        let some = permissions(Some(&["a.*", "b.>"]), &["b.secret.>", "a.x"]);
        for allowed in ["a.y", "a.*", "b.c", "b.>", "b.secret"] {
            assert!(some.may_subscribe(allowed.as_bytes()), "{allowed}");
        }
        for refused in ["a.>", ">", "*", "a", "a.x", "b.secret.y", "b.secret.*", "c"] {
            assert!(!some.may_subscribe(refused.as_bytes()), "{refused}");
        }
        assert!(some.denies_part_of(b"b.>") && some.denies_part_of(b"a.*") && !some.denies_part_of(b"b.c"));
        assert!(!some.may_receive(b"b.secret.y") && some.may_receive(b"b.c"));
        assert!(!some.may_read(b"b.>") && !some.may_read(b"a.x") && some.may_read(b"b.c") && !some.may_read(b"c"));
    }

    #[test]
    fn nothing_said_is_everything_and_an_empty_list_is_nothing() {
        assert!(permissions(None, &[]).may_publish(b"a"));
        assert!(!permissions(Some(&[]), &[]).may_publish(b"a"));
        assert!(!permissions(None, &["a"]).may_publish(b"a") && permissions(None, &["a"]).may_publish(b"b"));
    }
}
