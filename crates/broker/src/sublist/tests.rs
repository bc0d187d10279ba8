//! The index against the naive way: every subscription asked with [`subject::matches`].

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::auth::Users;
use crate::internal::Queue;
use crate::subscription::Sink;

fn subscription(pattern: &str, queue: Option<&str>, sid: usize) -> Arc<Subscription> {
    let user = Arc::clone(Users::compile(&[]).unwrap().internal());
    let sink = Sink::Internal(Arc::new(Queue::new(0)));
    let sid = sid.to_string();
    Arc::new(Subscription::new(pattern.as_bytes(), queue.map(str::as_bytes), sid.as_bytes(), sink, user))
}

type Found = (BTreeSet<Vec<u8>>, BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>);

fn found<'a>(subscriptions: impl Iterator<Item = &'a Arc<Subscription>>) -> Found {
    let mut found = Found::default();
    for subscription in subscriptions {
        let sid = subscription.sid().to_vec();
        let is_new = match subscription.queue() {
            None => found.0.insert(sid),
            Some(queue) => found.1.entry(queue.to_vec()).or_default().insert(sid),
        };
        assert!(is_new, "nobody is found twice");
    }
    found
}

fn by_index(sublist: &Sublist, subject: &str) -> Found {
    let matches = sublist.matches(subject.as_bytes());
    for group in &matches.groups {
        assert!(group.iter().all(|member| member.queue() == group[0].queue()), "a group has one name");
    }
    let names: BTreeSet<_> = matches.groups.iter().map(|group| group[0].queue()).collect();
    assert_eq!(names.len(), matches.groups.len(), "a name has one group");
    found(matches.plain.iter().chain(matches.groups.iter().flatten()))
}

fn naively(subscriptions: &[Arc<Subscription>], subject: &str) -> Found {
    let is_matched = |found: &&Arc<Subscription>| subject::matches(found.subject(), subject.as_bytes());
    found(subscriptions.iter().filter(is_matched))
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop_oneof![3 => "[ab]", 1 => Just("*".to_owned()), 1 => Just("a*".to_owned())];
    (proptest::collection::vec(token, 1..5), 0..5_u8).prop_map(|(mut tokens, end)| {
        if end == 0 {
            *tokens.last_mut().unwrap() = ">".to_owned();
        }
        tokens.join(".")
    })
}

fn queue() -> impl Strategy<Value = Option<String>> {
    prop_oneof![2 => Just(None), 1 => "[xy]".prop_map(Some)]
}

fn subject() -> impl Strategy<Value = String> {
    let token = prop_oneof![8 => "[ab]", 1 => Just("a*".to_owned()), 1 => Just(String::new())];
    proptest::collection::vec(token, 1..5).prop_map(|tokens| tokens.join("."))
}

proptest! {
    #[test]
    fn the_index_finds_what_the_naive_way_finds(
        wanted in proptest::collection::vec((pattern(), queue()), 0..60),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 60),
        subjects in proptest::collection::vec(subject(), 1..10),
    ) {
        let sublist = Sublist::default();
        let mut present = Vec::new();
        for (sid, (pattern, queue)) in wanted.iter().enumerate() {
            present.push(subscription(pattern, queue.as_deref(), sid));
            sublist.insert(Arc::clone(present.last().unwrap()));
        }
        for at in order {
            for subject in &subjects {
                prop_assert_eq!(by_index(&sublist, subject), naively(&present, subject), "{}", subject);
            }
            if present.is_empty() {
                break;
            }
            let gone = present.swap_remove(at.index(present.len()));
            sublist.remove([&gone]);
        }
        if present.is_empty() {
            let index = sublist.index.read().unwrap();
            prop_assert!(index.literals.is_empty() && index.wildcards.is_empty() && index.len == 0);
        }
    }
}

#[test]
fn every_change_outdates_what_was_kept() {
    let sublist = Sublist::default();
    let one = subscription("a", None, 1);
    let before = sublist.generation();
    sublist.insert(Arc::clone(&one));
    let between = sublist.generation();
    sublist.remove([&one]);
    assert!(before < between && between < sublist.generation());
}

#[test]
fn many_leave_at_once_whatever_their_order() {
    let sublist = Sublist::default();
    let mut all: Vec<_> = (0..2000).map(|sid| subscription("a.b", (sid % 3 == 0).then_some("q"), sid)).collect();
    all.iter().for_each(|one| sublist.insert(Arc::clone(one)));
    fastrand::Rng::with_seed(7).shuffle(&mut all);
    sublist.remove(&all);
    assert!(sublist.matches(b"a.b").is_empty());
    assert_eq!(sublist.counts().subscriptions, 0);
}
