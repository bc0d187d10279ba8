//! Opens the journals of a stream and brings its index back: from summaries where there are some, from messages elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use journal::{Disk, Journal, Sync, Visible};
use kit::tasks::Tasks;

use super::cache::Cache;
use super::change::{Change, What};
use super::files::{Files, Folder, INDEX, KEPT, MESSAGES, Saved, overhead};
use super::index::{Arrival, Index};
use super::kept::{Found, Kept};
use super::replay::Replay;
use super::summary::{self, Notes, Rows, Summary};
use super::{Config, Error, Limits, Report, Result, record};

/// What `index` has that is still true.
#[derive(Default)]
struct Summaries {
    /// By the first message: the last one and the record.
    messages: BTreeMap<u64, (u64, Bytes)>,
    /// By the number of the commit.
    kept: BTreeMap<u64, Bytes>,
    saved: BTreeMap<u64, (Saved, u64)>,
}

impl Summaries {
    fn add(&mut self, number: u64, bytes: &Bytes) -> bool {
        let saved = match summary::decode(bytes) {
            Some(Summary::Messages { first, last, .. }) => {
                self.messages.insert(first, (last, bytes.clone()));
                Saved::Messages(last)
            }
            Some(Summary::Kept { number, .. }) => {
                self.kept.insert(number, bytes.clone());
                Saved::Kept(number)
            }
            None => return false,
        };
        self.saved.insert(number, (saved, bytes.len() as u64));
        true
    }

    /// Reads all of them; `None` if some cannot be read.
    async fn read(journal: &Journal, report: &mut Report) -> Result<Option<Self>> {
        let mut summaries = Self::default();
        let mut reader = journal.read(journal.first(), Visible::Appended);
        loop {
            match reader.next().await {
                Ok(None) => return Ok(Some(summaries)),
                Ok(Some(record)) if summaries.add(record.sequence, &record.payload) => {}
                Ok(Some(_)) => return Ok(None),
                Err(journal::Error::Damaged(damage)) => {
                    report.damage.push(damage);
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether none speaks of what the other journals do not have. One that does is of messages that were lost with the
    /// power: their numbers will be given again.
    fn fits(&self, last: u64, last_kept: u64) -> bool {
        self.messages.values().all(|(end, _)| *end <= last) && self.kept.keys().all(|number| *number <= last_kept)
    }
}

impl Folder {
    /// Opens `index`. What is wrong with it is reported, and costs time alone.
    async fn open_index(&self, last: u64, last_kept: u64, report: &mut Report) -> Result<(Option<Journal>, Summaries)> {
        let opened = match self.open_existing(INDEX, report).await {
            Err(Error::Journal(journal::Error::Damaged(damage))) => {
                report.damage.push(damage);
                self.remove(INDEX)?;
                None
            }
            opened => opened?,
        };
        let Some(journal) = opened else { return Ok((None, Summaries::default())) };
        let read = Summaries::read(&journal, report).await?;
        let is_whole = report.damage.iter().all(|damage| !damage.file.starts_with(self.path.join(INDEX)));
        let summaries = read.filter(|_| is_whole).unwrap_or_default();
        let is_empty = journal.last(Visible::Appended) < journal.first();
        if is_empty || (is_whole && !summaries.saved.is_empty() && summaries.fits(last, last_kept)) {
            return Ok((Some(journal), summaries));
        }
        // Before anything is appended elsewhere: what is true, and no more.
        journal.purge().await?;
        let mut rest = Summaries::default();
        let messages = summaries.messages.into_values().filter(|(end, _)| *end <= last).map(|(_, bytes)| bytes);
        let kept = summaries.kept.into_iter().filter(|(number, _)| *number <= last_kept).map(|(_, bytes)| bytes);
        for bytes in messages.chain(kept) {
            let number = journal.enqueue(&[&bytes]).await?.await?;
            rest.add(number, &bytes);
        }
        journal.sync().await?;
        Ok((Some(journal), rest))
    }
}

impl Files {
    pub(super) async fn open(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        config: &Config,
        limits: Limits,
        changes: Vec<Change>,
        tasks: &Tasks,
    ) -> Result<(Index, Self, Report)> {
        let mut report = Report::default();
        let folder = Folder { disk, path, config: config.clone(), tasks: tasks.clone() };
        let messages = folder.open(MESSAGES, &mut report).await?;
        let kept = folder.open_existing(KEPT, &mut report).await?;
        let offset = config.first_sequence.max(1) - 1;
        let last = messages.last(Visible::Appended) + offset;
        let last_kept = kept.as_ref().map_or(0, |kept| kept.last(Visible::Synced));
        let (index, summaries) = folder.open_index(last, last_kept, &mut report).await?;
        let visible = match config.sync {
            Sync::Always => Visible::Synced,
            Sync::Interval(_) => Visible::Appended,
        };
        let Summaries { messages: by_first, kept: commits, saved } = summaries;
        let is_ahead = changes.iter().any(|change| change.at > last);
        let mut replay = Replay::new(limits, changes, messages.first() + offset, last);
        let mut files = Self {
            folder,
            messages,
            offset,
            visible,
            kept: None,
            index,
            saved,
            notes: Notes::new(),
            unsaved: Default::default(),
            cache: Cache::new(config.cache_bytes),
            damage: Vec::new(),
            told: 0,
            work: None,
            is_broken: false,
            floor: 0,
            looked: (0, 0),
        };
        let found = match &kept {
            None => Found::default(),
            Some(kept) => Found::read(kept, &commits, files.messages.first() + offset, &mut replay.index).await?,
        };
        let from = found.until.max(files.messages.first() + offset);
        replay_kept(&mut replay, &found, from);
        files.replay(&mut replay, &by_first, from, last).await?;
        let index = replay.finish(last + 1);
        files.kept = kept.map(Kept::new);
        if let Some(kept) = &mut files.kept {
            kept.placed(&found.places(&index), &index);
            kept.last_commit = found.last_commit;
        }
        files.unsaved.extend(found.summaries.into_iter().map(|(number, bytes)| (Saved::Kept(number), bytes)));
        files.damage.extend(found.damage);
        for damage in &files.damage {
            if !report.damage.contains(damage) {
                report.damage.push(damage.clone());
            }
        }
        files.told = files.damage.len();
        report.change = is_ahead.then_some(Change { at: last, time: index.clock, what: What::Opened });
        Ok((index, files, report))
    }

    /// Brings back messages from this one on.
    async fn replay(
        &mut self,
        replay: &mut Replay,
        summaries: &BTreeMap<u64, (u64, Bytes)>,
        from: u64,
        last: u64,
    ) -> Result<()> {
        let mut next = from;
        for (first, (end, bytes)) in summaries {
            if *end < next {
                continue;
            }
            if *first > next {
                self.replay_messages(replay, next, *first).await?;
                self.close_notes();
            }
            if let Some(Summary::Messages { rows, .. }) = summary::decode(bytes) {
                replay_rows(replay, rows, next.max(*first));
            }
            next = end + 1;
        }
        self.replay_messages(replay, next, last + 1).await
    }

    /// Reads messages from `from` to below `until`.
    async fn replay_messages(&mut self, replay: &mut Replay, from: u64, until: u64) -> Result<()> {
        if from >= until {
            return Ok(());
        }
        let mut reader = self.messages.read(from - self.offset, Visible::Appended);
        loop {
            let read = match reader.next().await {
                Ok(None) => return Ok(()),
                Ok(Some(read)) => read,
                Err(journal::Error::Damaged(damage)) => {
                    reader = self.messages.read(damage.until, Visible::Appended);
                    self.damage.push(damage);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let sequence = read.sequence + self.offset;
            if sequence >= until {
                return Ok(());
            }
            if replay.reach(sequence) {
                let message = record::decode(&read.payload).ok_or(Error::Record { sequence })?;
                let content = message.subject.len() + message.headers.len() + message.payload.len();
                let size = (content + overhead(!message.headers.is_empty())) as u32;
                let subject = replay.index.hold(message.subject);
                let (time, ttl, rollup) = (message.time, message.ttl, message.rollup);
                let arrival = Arrival { subject, size, time, ttl, rollup };
                self.arrived(&mut replay.index, sequence, &arrival);
                replay.message(sequence, &arrival);
            }
        }
    }
}

/// Brings back what is in `kept`, before what is in `messages` from `from` on.
fn replay_kept(replay: &mut Replay, found: &Found, from: u64) {
    let first = found.messages.keys().next().copied();
    replay.begin(first.map_or(from, |first| first.min(from)), found.until);
    for (sequence, (_, arrival)) in &found.messages {
        if replay.reach(*sequence) {
            replay.message(*sequence, arrival);
        } else {
            replay.index.unhold(arrival.subject);
            replay.index.graves.push(*sequence);
        }
    }
}

fn replay_rows(replay: &mut Replay, rows: Rows<'_>, from: u64) {
    // Held to the end, so that their numbers stay theirs.
    let mut subjects = Vec::new();
    for row in rows {
        if let Some(name) = row.name {
            subjects.push(replay.index.hold(name));
        }
        if row.sequence >= from && replay.reach(row.sequence) {
            let subject = subjects[row.subject as usize];
            replay.index.hold_again(subject);
            replay.message(row.sequence, &row.arrival(subject));
        }
    }
    for subject in subjects {
        replay.index.unhold(subject);
    }
}
