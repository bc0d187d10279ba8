//! Inboxes are their owner's. Official clients all use `_INBOX.>`, so the names cannot keep users apart; the broker does.
//! A reply `_INBOX.x` is passed on as `_INBOX.@user.x`: whoever answers there answers that user, and only its subscriptions
//! get it, with the subject that they know. An inbox that was named in some other way (in a payload) is reached as it is,
//! by the publisher's own subscriptions and by those that name it: a wildcard in place of its name gets nothing of others.
//! Pure. Where no users are declared there is one user, and names pass as they are.

use std::sync::Arc;

use crate::auth::{User, Users};
use crate::subject;
use crate::subscription::Subscription;

const PREFIX: &[u8] = b"_INBOX.";
/// Before the name of an owner.
const OWNER: u8 = b'@';

/// Who may get a message.
#[derive(Debug)]
pub(crate) enum Audience {
    Everybody,
    /// An inbox of this user, with the subject as the user knows it.
    Owner(Arc<User>, Box<[u8]>),
    /// An inbox that was named without its owner, by this user.
    Named(Arc<User>),
}

impl Audience {
    /// Reads it from the subject that `publisher` has written.
    pub(crate) fn of(users: &Users, publisher: &Arc<User>, subject: &[u8]) -> Self {
        let Some(rest) = subject.strip_prefix(PREFIX).filter(|_| users.is_closed()) else {
            return Self::Everybody;
        };
        match owner(users, rest) {
            Some((owner, name)) => Self::Owner(Arc::clone(owner), [PREFIX, name].concat().into()),
            None => Self::Named(Arc::clone(publisher)),
        }
    }

    /// Whether a subscription that matches is among it.
    pub(crate) fn has(&self, subscription: &Subscription) -> bool {
        let is_of = |user: &Arc<User>| Arc::ptr_eq(&subscription.user, user);
        match self {
            Self::Everybody => true,
            Self::Owner(owner, _) => is_of(owner),
            Self::Named(publisher) => is_of(publisher) || is_named(subscription.subject()),
        }
    }
}

/// Whether a subject is an inbox of the official clients.
pub(crate) fn is_inbox(subject: &[u8]) -> bool {
    subject.starts_with(PREFIX)
}

/// Whether a pattern names an inbox, instead of leaving it open.
fn is_named(pattern: &[u8]) -> bool {
    let name = pattern.strip_prefix(PREFIX).and_then(|rest| subject::tokens(rest).next());
    name.is_some_and(|name| !matches!(name, b"*" | b">"))
}

/// The owner that is written in a subject behind the prefix, and the inbox's name.
fn owner<'a, 'b>(users: &'a Users, rest: &'b [u8]) -> Option<(&'a Arc<User>, &'b [u8])> {
    let (first, at) = (rest.first()?, memchr::memchr(subject::SEPARATOR, rest)?);
    let user = if *first == OWNER { users.find(&rest[1..at])? } else { return None };
    Some((user, &rest[at + 1..]))
}

/// The reply that is passed on, where it is another than the one that `publisher` has written.
pub(crate) fn owned_reply(users: &Users, publisher: &User, reply: &[u8]) -> Option<Vec<u8>> {
    let rest = reply.strip_prefix(PREFIX)?;
    if publisher.name.is_empty() || owner(users, rest).is_some() {
        return None;
    }
    Some([PREFIX, &[OWNER], publisher.name.as_bytes(), b".", rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Credential};

    fn users(names: &[&str]) -> Users {
        let user = |name: &&str| config::User {
            name: (*name).to_owned(),
            credential: Credential::Password("x".to_owned()),
            permissions: config::Permissions::default(),
        };
        Users::compile(&names.iter().map(user).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn replies_carry_their_owner_once() {
        let users = users(&["a", "b"]);
        let a = users.find(b"a").unwrap();
        let owned = |reply: &str| owned_reply(&users, a, reply.as_bytes()).map(|name| String::from_utf8(name).unwrap());
        assert_eq!(owned("_INBOX.x.1").as_deref(), Some("_INBOX.@a.x.1"));
        assert_eq!(owned("_INBOX.@b.x"), None);
        assert_eq!(owned("_INBOX.@unknown.x").as_deref(), Some("_INBOX.@a.@unknown.x"));
        assert_eq!(owned("reply"), None);
        assert_eq!(owned_reply(&users, users.internal(), b"_INBOX.x"), None);
    }

    #[test]
    fn subjects_tell_their_audience() {
        let users = users(&["a", "b"]);
        let b = users.find(b"b").unwrap();
        let Audience::Owner(owner, subject) = Audience::of(&users, b, b"_INBOX.@a.x.1") else { panic!("not owned") };
        assert_eq!((owner.name.as_str(), &*subject), ("a", b"_INBOX.x.1".as_slice()));
        assert!(matches!(Audience::of(&users, b, b"_INBOX.x"), Audience::Named(user) if Arc::ptr_eq(&user, b)));
        assert!(matches!(Audience::of(&users, b, b"_INBOXES.x"), Audience::Everybody));
        assert!(is_named(b"_INBOX.x.*") && !is_named(b"_INBOX.*") && !is_named(b"_INBOX.>") && !is_named(b">"));
    }
}
