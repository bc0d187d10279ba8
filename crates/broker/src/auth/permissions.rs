//! What a user may publish and subscribe to. Pure: asked once for each subject, by whoever keeps the answer.
//! A subscription must be covered by one allowed pattern as a whole; what is denied within it is held back at delivery.

use crate::config;
use crate::subject::{self, Kind};

/// Compiled permissions. The default allows everything.
#[derive(Debug, Default)]
pub(crate) struct Permissions {
    publish: Rules,
    subscribe: Rules,
}

#[derive(Debug, Default)]
struct Rules {
    allow: Option<Vec<Box<[u8]>>>,
    deny: Vec<Box<[u8]>>,
}

impl Permissions {
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

    pub(crate) fn may_publish(&self, subject: &[u8]) -> bool {
        self.publish.permits(subject)
    }

    pub(crate) fn may_subscribe(&self, pattern: &[u8]) -> bool {
        self.subscribe.permits(pattern)
    }

    /// Whether everything that a pattern matches may come to the user, also by another way than a subscription of its own.
    pub(crate) fn may_read(&self, pattern: &[u8]) -> bool {
        self.may_subscribe(pattern) && !self.denies_part_of(pattern)
    }

    /// Whether a subscription that is allowed matches something that is denied.
    pub(crate) fn denies_part_of(&self, pattern: &[u8]) -> bool {
        self.subscribe.deny.iter().any(|denied| subject::overlaps(denied, pattern))
    }

    /// Whether a message with this subject may come to the user by a subscription that [`Self::denies_part_of`].
    pub(crate) fn may_receive(&self, subject: &[u8]) -> bool {
        !self.subscribe.deny.iter().any(|denied| subject::covers(denied, subject))
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
        Permissions::compile(&config::Permissions { publish: rules.clone(), subscribe: rules }).unwrap()
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
