//! The consumers of one stream, and which of them a turn is about: those to whom something has happened, for whom a message
//! has come, or whose time it is. One that is idle costs a turn nothing. Whoever changes a consumer gets it from here, so
//! that it is looked at again; what it decides is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::super::store::CursorId;
use super::consuming::Member;

/// How often all who push are asked whether somebody listens, while subscriptions come and go. One for which a message
/// has come is asked at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

type Names = BTreeSet<Arc<str>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_name: BTreeMap<Arc<str>, Slot>,
    by_cursor: HashMap<CursorId, Arc<str>>,
    /// Those that may have something to send or to say.
    ready: Names,
    /// Those that may have something to note.
    changed: Names,
    /// Those for which what follows may have changed.
    moved: Names,
    /// When time does something to whom.
    due: BTreeSet<(i64, Arc<str>)>,
    pushing: Names,
    /// Those that care whether a message leaves the stream.
    holding: Names,
    /// The generation of subscriptions for which all who push were asked, and when.
    looked: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct Slot {
    name: Arc<str>,
    member: Member,
    /// As it stands in the sets.
    wakes_at: Option<i64>,
    cursor: CursorId,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.by_name.keys().map(|name| String::from(&**name)).collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Member> {
        self.by_name.get(name).map(|slot| &slot.member)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.by_name.iter().map(|(name, slot)| (&**name, &slot.member))
    }

    /// All, each of which is then looked at again.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Member)> {
        for set in [&mut self.ready, &mut self.changed, &mut self.moved] {
            set.extend(self.by_name.keys().cloned());
        }
        self.by_name.iter_mut().map(|(name, slot)| (&**name, &mut slot.member))
    }

    /// One that something happens to.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Member> {
        let slot = self.by_name.get_mut(name)?;
        for set in [&mut self.ready, &mut self.changed, &mut self.moved] {
            put(set, &slot.name);
        }
        Some(&mut slot.member)
    }

    /// One that is looked at, because it was ready: it is so again only if something else happens.
    pub(super) fn serve(&mut self, name: &str) -> Option<&mut Member> {
        let slot = self.by_name.get_mut(name)?;
        for set in [&mut self.changed, &mut self.moved] {
            put(set, &slot.name);
        }
        Some(&mut slot.member)
    }

    /// One whose words or records are taken out, which changes nothing else.
    pub(super) fn take_from(&mut self, name: &str) -> Option<&mut Member> {
        self.by_name.get_mut(name).map(|slot| &mut slot.member)
    }

    /// All, as in [`Members::take_from`].
    pub(super) fn take_from_all(&mut self) -> impl Iterator<Item = (&str, &mut Member)> {
        self.by_name.iter_mut().map(|(name, slot)| (&**name, &mut slot.member))
    }

    pub(super) fn insert(&mut self, name: &str, member: Member) {
        self.remove(name);
        let name: Arc<str> = name.into();
        let cursor = member.cursor;
        self.by_cursor.insert(cursor, Arc::clone(&name));
        for set in [&mut self.ready, &mut self.changed, &mut self.moved] {
            set.insert(Arc::clone(&name));
        }
        let slot = Slot { name: Arc::clone(&name), member, wakes_at: None, cursor };
        self.by_name.insert(name, slot);
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Member> {
        let Slot { name, member, wakes_at, cursor } = self.by_name.remove(name)?;
        for set in [&mut self.ready, &mut self.changed, &mut self.moved, &mut self.pushing, &mut self.holding] {
            set.remove(&name);
        }
        self.forget_cursor(cursor, &name);
        if let Some(at) = wakes_at {
            self.due.remove(&(at, name));
        }
        Some(member)
    }

    /// Cursors are numbered anew: another one may have this one's number by now.
    fn forget_cursor(&mut self, cursor: CursorId, name: &str) {
        if self.by_cursor.get(&cursor).is_some_and(|of| **of == *name) {
            self.by_cursor.remove(&cursor);
        }
    }

    /// A message has come for whoever reads here.
    pub(super) fn woken(&mut self, cursor: CursorId) {
        if let Some(name) = self.by_cursor.get(&cursor) {
            put(&mut self.ready, name);
        }
    }

    /// One has more to send.
    pub(super) fn again(&mut self, name: Arc<str>) {
        self.ready.insert(name);
    }

    /// Whether somebody is to be looked at again.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Those that may have something to send or to say, since the last call.
    pub(super) fn take_ready(&mut self) -> Names {
        std::mem::take(&mut self.ready)
    }

    /// Those that may have something to note, since the last call.
    pub(super) fn take_changed(&mut self) -> Names {
        std::mem::take(&mut self.changed)
    }

    /// Those whose time has come. They are armed again when they were looked at.
    pub(super) fn take_due(&mut self, now: i64) -> Vec<Arc<str>> {
        self.arm();
        let mut due = Vec::new();
        while self.due.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, name)) = self.due.pop_first()
        {
            if let Some(slot) = self.by_name.get_mut(&name) {
                slot.wakes_at = None;
                put(&mut self.moved, &name);
            }
            due.push(name);
        }
        due
    }

    /// Those that push and are to be asked whether somebody listens: all, when that may have changed, or else those that
    /// are ready.
    pub(super) fn take_pushing(&mut self, generation: u64) -> Vec<Arc<str>> {
        self.arm();
        let is_old = |(seen, at): (u64, Instant)| seen != generation && at.elapsed() >= LOOK_INTERVAL;
        if self.looked.is_none_or(is_old) {
            self.looked = Some((generation, Instant::now()));
            return self.pushing.iter().cloned().collect();
        }
        if self.pushing.is_empty() {
            return Vec::new();
        }
        self.ready.intersection(&self.pushing).cloned().collect()
    }

    /// Those for which one of these messages matters.
    pub(super) fn concerned_by(&mut self, range: &RangeInclusive<u64>) -> Vec<Arc<str>> {
        self.arm();
        let holds = |name: &&Arc<str>| self.get(name).is_some_and(|member| member.machine.holds_any(range));
        self.holding.iter().filter(holds).cloned().collect()
    }

    /// When time does something to somebody.
    pub(super) fn wakes_at(&self) -> Option<i64> {
        // Who was not looked at is looked at now.
        if self.moved.is_empty() { self.due.first().map(|(at, _)| *at) } else { Some(i64::MIN) }
    }

    /// Whether only messages, time and clients' words do something to them: not a subscription that nobody tells of.
    pub(super) fn is_calm(&self) -> bool {
        self.pushing.is_empty()
    }

    /// Takes down how those stand to whom something has happened.
    pub(super) fn arm(&mut self) {
        for name in std::mem::take(&mut self.moved) {
            let Some(slot) = self.by_name.get_mut(&name) else { continue };
            let (wakes_at, cursor) = (slot.member.machine.wake_at(), slot.member.cursor);
            let before = std::mem::replace(&mut slot.wakes_at, wakes_at);
            let cursor_before = std::mem::replace(&mut slot.cursor, cursor);
            let (is_push, is_holding) = (slot.member.config.is_push(), slot.member.machine.is_holding());
            for (set, is_in) in [(&mut self.pushing, is_push), (&mut self.holding, is_holding)] {
                if is_in {
                    put(set, &name);
                } else {
                    set.remove(&name);
                }
            }
            if before != wakes_at {
                before.map(|at| self.due.remove(&(at, Arc::clone(&name))));
                self.due.extend(wakes_at.map(|at| (at, Arc::clone(&name))));
            }
            if cursor_before != cursor {
                self.forget_cursor(cursor_before, &name);
                self.by_cursor.insert(cursor, name);
            }
        }
    }
}

fn put(set: &mut Names, name: &Arc<str>) {
    if !set.contains(name) {
        set.insert(Arc::clone(name));
    }
}
