//! Letting messages go: those that every consumer has had (interest), that one has acknowledged (work queue), that nobody
//! wants, whose time is over. What cannot be found out again from the messages themselves is noted in the ledger.

use std::ops::RangeInclusive;
use std::time::Instant;

use super::super::api::Retention;
use super::super::ledger::Entry;
use super::super::shared::now;
use super::super::store::Change;
use super::Stream;
use super::consuming::{Member, Place};

/// Limit: messages of one range that consumers are told of one by one; of more they hear as a whole.
const TOLD_MAX: u64 = 1024;

/// Limit: ids in one record of the ledger.
const IDS_MAX: usize = 1024;

impl Stream {
    /// Notes what has become of the store.
    pub(super) fn note_change(&mut self, change: Option<Change>) {
        self.is_touched |= change.is_some();
        if let Some(change) = change.filter(|_| self.ledger.is_durable()) {
            self.ledger.note(&Entry::Change(change.encode()));
            self.unnoted.get_or_insert_with(Instant::now);
        }
    }

    /// Messages that a consumer is done with.
    pub(super) fn let_go(&mut self, name: &str, settled: Vec<u64>) {
        let gone: Vec<u64> = match self.config.retention {
            Retention::Limits => return,
            Retention::WorkQueue => settled,
            Retention::Interest => {
                settled.into_iter().filter(|sequence| !self.is_needed(*sequence, Some(name))).collect()
            }
        };
        self.remove(gone);
    }

    /// Messages that only this consumer was still to have. It is no longer among the others.
    pub(super) fn let_go_of_all(&mut self, member: &Member) {
        if self.config.retention != Retention::Interest {
            return;
        }
        let index = &self.store.index;
        let gone = index.live(|sequence| self.is_wanted(member, sequence) && !self.is_needed(sequence, None));
        self.remove(gone);
    }

    /// Messages that no consumer is still to have, where it may not have been noted, or where that has changed otherwise
    /// than by what consumers do. Without any consumer all stay, as in nats-server: nobody has said what is wanted.
    pub(super) fn let_go_unwanted(&mut self) {
        if self.config.retention == Retention::Interest && self.consumers.len() > 0 {
            let gone = self.store.index.live(|sequence| !self.is_needed(sequence, None));
            self.remove(gone);
        }
    }

    /// New messages that no consumer wants, where only those are kept that somebody does.
    pub(super) fn skip_unwanted(&mut self, sequences: RangeInclusive<u64>) {
        if self.config.retention == Retention::Interest {
            let gone = sequences.filter(|sequence| !self.is_needed(*sequence, None)).collect();
            self.remove(gone);
        }
    }

    /// Whether a consumer other than `except` is still to have a message.
    fn is_needed(&self, sequence: u64, except: Option<&str>) -> bool {
        let others = self.consumers.iter().filter(|(name, _)| Some(*name) != except);
        others.into_iter().any(|(_, member)| member.machine.needs(sequence) && self.is_wanted(member, sequence))
    }

    /// Removes messages; `sequences` need not be in order.
    fn remove(&mut self, mut sequences: Vec<u64>) {
        if sequences.is_empty() {
            return;
        }
        sequences.sort_unstable();
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        for sequence in sequences {
            match ranges.last_mut() {
                Some(last) if *last.end() + 1 >= sequence => *last = *last.start()..=sequence,
                _ => ranges.push(sequence..=sequence),
            }
        }
        let change = self.store.remove_ranges(&ranges, now());
        self.note_change(change);
    }

    /// What time does to messages and to their ids.
    pub(super) fn expire(&mut self, now: i64) {
        if self.store.next_expiry().is_some_and(|at| at <= now) {
            self.store.remove_expired(now);
            self.is_touched = true;
        }
        let since = self.duplicates.clock().saturating_sub(self.config.duplicate_window);
        self.duplicates.forget_before(since);
    }

    /// When the oldest id is to be forgotten.
    pub(super) fn ids_expire_at(&self) -> Option<i64> {
        let oldest = self.duplicates.oldest()?;
        let age = self.duplicates.clock().saturating_sub(oldest);
        Some(now().saturating_add(self.config.duplicate_window.saturating_sub(age)))
    }

    /// Tells consumers that a client has removed messages: they have come past them, too.
    pub(super) fn tell_purged(&mut self) {
        let first = self.store.first();
        for (_, member) in self.consumers.iter_mut() {
            let source = Place { store: &mut self.store, cursor: member.cursor };
            member.machine.purged(first, &source);
        }
    }

    /// Notes the ids of messages that are gone and whose publishers may send them again.
    fn note_ids(&mut self, gone: &RangeInclusive<u64>) {
        if !self.ledger.is_durable() {
            return;
        }
        let mut ids = self.duplicates.within(gone).cloned().peekable();
        while ids.peek().is_some() {
            self.ledger.note(&Entry::Ids(ids.by_ref().take(IDS_MAX).collect()));
            self.unnoted.get_or_insert_with(Instant::now);
        }
    }

    /// The ids of messages that are gone, for the ledger.
    pub(super) fn ids_of_gone(&self) -> Vec<Entry> {
        let gone = self.duplicates.within(&(0..=u64::MAX)).filter(|known| !self.store.index.is_live(known.sequence));
        let gone: Vec<_> = gone.cloned().collect();
        gone.chunks(IDS_MAX).map(|ids| Entry::Ids(ids.to_vec())).collect()
    }

    /// Tells consumers what has left the stream, and whether that lets some of them go on.
    pub(super) fn tell_removed(&mut self) -> bool {
        for range in self.store.take_removed() {
            self.note_ids(&range);
            for name in self.consumers.concerned_by(&range) {
                let Some(member) = self.consumers.get_mut(&name) else { continue };
                if range.end() - range.start() < TOLD_MAX {
                    range.clone().for_each(|sequence| member.machine.removed(sequence));
                } else {
                    let source = Place { store: &mut self.store, cursor: member.cursor };
                    member.machine.forget_gone(&source);
                }
            }
        }
        self.consumers.has_ready()
    }
}
