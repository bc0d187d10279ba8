//! Making a stream: new, or from what is on disk. The ledger says what it is and what was removed, the journals have its
//! messages, and what only lives in memory is found out again.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use journal::RealDisk;

use super::super::api::{Discard, Storage, StreamConfig};
use super::super::consumer::{Consumer, State};
use super::super::duplicates::{self, Duplicates, Known};
use super::super::failure::Failure;
use super::super::ledger::{Entry, Ledger};
use super::super::shared::{Share, Shared, now};
use super::super::store::{self, Change, Limits, Place, Store, Stored};
use super::super::wishes;
use super::Stream;
use super::consuming::{self, About, Member};
use super::members::Members;
use super::storing::Ids;
use crate::publisher::Publisher;

const LEDGER: &str = "ledger";
const STREAMS: &str = "streams";
/// In front of the name of a folder that is being removed. No stream is named so.
const REMOVED: &str = ".removed-";
/// Bytes that a record takes beside subject, headers and payload.
const RECORD_OVERHEAD: usize = 64;

/// Where the files of all streams lie.
pub(in super::super) fn root(shared: &Shared) -> PathBuf {
    shared.config.folder.join(STREAMS)
}

/// Where those of one lie.
pub(super) fn folder(shared: &Shared, name: &str) -> PathBuf {
    root(shared).join(name)
}

/// The names of the streams that are on disk. What a crash has left half removed is removed.
///
/// # Errors
/// [`Failure::Io`].
pub(in super::super) fn names(shared: &Shared) -> Result<Vec<String>, Failure> {
    let root = root(shared);
    std::fs::create_dir_all(&root).map_err(Failure::io("make", &root))?;
    let (mut names, failed) = (Vec::new(), |source| Failure::io("list", &root)(source));
    for entry in std::fs::read_dir(&root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(REMOVED) {
            let path = entry.path();
            std::fs::remove_dir_all(&path).map_err(Failure::io("remove", path))?;
        } else if entry.path().is_dir() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Takes a stream's folder away: at once as a whole, whatever happens while its files are removed.
///
/// # Errors
/// [`Failure::Io`].
pub(in super::super) fn remove_folder(folder: &Path) -> Result<(), Failure> {
    let Some(root) = folder.parent() else { return Ok(()) };
    let removed = root.join(format!("{REMOVED}{}", kit::ids::unique()));
    match std::fs::rename(folder, &removed) {
        Ok(()) => {}
        // A stream in memory has none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io("rename", folder)(error)),
    }
    let sync = |path: &Path| std::fs::File::open(path)?.sync_all();
    sync(root).map_err(Failure::io("sync", root))?;
    std::fs::remove_dir_all(&removed).map_err(Failure::io("remove", removed))
}

/// Makes a new stream.
///
/// # Errors
/// [`Failure`].
pub(in super::super) async fn create(shared: &Arc<Shared>, config: StreamConfig) -> Result<Box<Stream>, Failure> {
    let found = Found {
        config,
        created: now(),
        changes: Vec::new(),
        ids: Vec::new(),
        uses_ids: Ids::None,
        consumers: BTreeMap::new(),
        limits: None,
    };
    let folder = folder(shared, &found.config.name);
    if found.config.storage == Storage::Memory {
        return found.build(shared, Ledger::in_memory()).await;
    }
    // What lies there belongs to no stream: one that failed while it was made.
    remove_folder(&folder)?;
    let made = found.make(shared).await;
    if made.is_err() {
        remove_folder(&folder)?;
    }
    made
}

/// Whether a folder has messages, whatever its ledger says.
pub(in super::super) fn has_messages(folder: &Path) -> bool {
    folder.join(store::MESSAGES).exists()
}

/// Opens a stream that is on disk.
///
/// # Errors
/// [`Failure`]; [`Failure::Nameless`] for one that a crash has left half made.
pub(in super::super) async fn open(shared: &Arc<Shared>, name: &str) -> Result<Box<Stream>, Failure> {
    let (ledger, entries) = open_ledger(shared, name).await?;
    let folder = folder(shared, name);
    let found = match Found::read(entries, &folder) {
        Ok(found) => found,
        Err(failure) => {
            ledger.close().await?;
            return Err(failure);
        }
    };
    found.build(shared, ledger).await
}

async fn open_ledger(shared: &Arc<Shared>, name: &str) -> Result<(Ledger, Vec<Entry>), Failure> {
    Ledger::open(&folder(shared, name).join(LEDGER), shared.config.sync, &shared.tasks).await
}

/// What the ledger says.
struct Found {
    config: StreamConfig,
    created: i64,
    /// The limits at the beginning of the changes.
    limits: Option<Limits>,
    changes: Vec<Change>,
    ids: Vec<Known>,
    uses_ids: Ids,
    consumers: BTreeMap<u64, (About, State)>,
}

impl Found {
    fn read(entries: Vec<Entry>, folder: &Path) -> Result<Self, Failure> {
        let unreadable = || Failure::Record { folder: folder.join(LEDGER), sequence: 0 };
        let (mut stream, mut limits, mut changes, mut consumers) = (None, None, Vec::new(), BTreeMap::new());
        let (mut ids, mut uses_ids) = (Vec::new(), Ids::None);
        for entry in entries {
            match entry {
                Entry::Snapshot => {}
                Entry::Stream { about, created } => {
                    let config: StreamConfig = serde_json::from_slice(&about).map_err(|_| unreadable())?;
                    limits.get_or_insert_with(|| limits_of(&config));
                    stream = Some((config, created));
                }
                Entry::Change(change) => changes.push(Change::decode(&change).ok_or_else(unreadable)?),
                Entry::IdsUsed => uses_ids = Ids::Used,
                Entry::Ids(known) => ids.extend(known),
                Entry::Consumer { id, about } => {
                    let about: About = serde_json::from_slice(&about).map_err(|_| unreadable())?;
                    consumers.entry(id).or_insert_with(|| (About::default(), State::default())).0 = about;
                }
                Entry::Changed { id, changes } => {
                    let (_, state) = consumers.get_mut(&id).ok_or_else(unreadable)?;
                    state.replay(&changes).map_err(|_| unreadable())?;
                }
                Entry::ConsumerDeleted { id } => drop(consumers.remove(&id)),
            }
        }
        let (config, created) = stream.ok_or_else(|| Failure::Nameless { folder: folder.to_owned() })?;
        Ok(Self { config, created, limits, changes, ids, uses_ids, consumers })
    }

    /// A new stream: what it is goes to the disk before anything else of it.
    async fn make(self, shared: &Arc<Shared>) -> Result<Box<Stream>, Failure> {
        let (mut ledger, _) = open_ledger(shared, &self.config.name).await?;
        let about = serde_json::to_vec(&self.config).expect("a configuration is a struct of plain fields");
        ledger.note(&Entry::Stream { about, created: self.created });
        ledger.flush().await?;
        ledger.sync().await?;
        self.build(shared, ledger).await
    }

    async fn build(self, shared: &Arc<Shared>, ledger: Ledger) -> Result<Box<Stream>, Failure> {
        let Self { config, created, limits, changes, ids, uses_ids, consumers } = self;
        let limits = limits.unwrap_or_else(|| limits_of(&config));
        let opened = Store::open(store_config(shared, &config), limits, changes, &shared.tasks).await;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                ledger.close().await?;
                return Err(error.into());
            }
        };
        if !opened.report.torn.is_empty() || !opened.report.damage.is_empty() {
            tracing::warn!(stream = config.name, report = ?opened.report, "a stream was found damaged or cut");
            shared.damaged.fetch_add(opened.report.damage.len() as u64, Ordering::Relaxed);
        }
        let user = Arc::clone(shared.broker.users().internal());
        let mut stream = Box::new(Stream {
            quoted_name: serde_json::Value::from(config.name.as_str()).to_string(),
            config,
            created,
            store: opened.store,
            ledger,
            consumers: Members::default(),
            consumer_next: consumers.keys().last().map_or(1, |last| last + 1),
            duplicates: Duplicates::default(),
            ids: uses_ids,
            last_id: None,
            time: 0,
            acknowledgement: Vec::new(),
            publisher: Publisher::new(Arc::clone(&shared.broker), user, None),
            storing: VecDeque::new(),
            storing_bytes: 0,
            noting: VecDeque::new(),
            answers: Vec::new(),
            unnoted: None,
            share: Share::default(),
            cared: Instant::now(),
            has_more: false,
            postponed: Vec::new(),
            is_touched: true,
            shared: Arc::clone(shared),
        });
        stream.note_change(opened.report.change);
        stream.time = stream.store.index.state().last_time.unwrap_or_default();
        stream.recall_ids(ids).await?;
        for (id, (about, state)) in consumers {
            stream.add_recovered(id, about, state);
        }
        stream.let_go_unwanted();
        // Order: what a power cut has taken from consumers, too, is noted before sequences are given again.
        stream.note_consumers();
        stream.ledger.flush().await?;
        stream.ledger.sync().await?;
        stream.report_share();
        Ok(stream)
    }
}

impl Stream {
    /// Finds the ids within the duplicate window, and that of the last message. `gone` are those of messages that may not
    /// be on disk any more.
    async fn recall_ids(&mut self, gone: Vec<Known>) -> Result<(), Failure> {
        let (last, now, max) = (self.store.visible(), now(), self.shared.config.limits.message_ids_max);
        if self.ids == Ids::None {
            return Ok(());
        }
        let since = now.saturating_sub(self.config.duplicate_window);
        let mut ids: BTreeMap<u64, Known> = gone.into_iter().map(|known| (known.sequence, known)).collect();
        let mut oldest = last + 1;
        self.store
            .each_written_since(since, |stored| {
                oldest = oldest.min(stored.sequence);
                ids.extend(known(&stored).map(|known| (stored.sequence, known)));
                if ids.len() > max {
                    ids.pop_first();
                }
            })
            .await?;
        // What has survived the segments that it was written to.
        let first = self.store.index.first_after(since).unwrap_or(oldest);
        for sequence in first..oldest {
            let stored = self.load(sequence).await?;
            ids.extend(stored.as_ref().and_then(known).map(|known| (sequence, known)));
        }
        if let Some(stored) = self.load(last).await? {
            self.last_id = id_of(&stored).map(Into::into);
        }
        // What a power cut has taken, its sequence is given again.
        drop(ids.split_off(&(last + 1)));
        let many = ids.len().saturating_sub(max);
        for known in ids.into_values().skip(many).filter(|known| known.time >= since) {
            if self.duplicates.find(&known.id).is_none() {
                // One from the future, by a clock that was wrong, came now.
                let age = now.saturating_sub(known.time).max(0);
                let at = self.duplicates.clock().saturating_sub(age);
                self.duplicates.add(&known.id, known.sequence, known.time, at);
            }
        }
        Ok(())
    }

    fn add_recovered(&mut self, id: u64, about: About, state: State) {
        let About { name, config, created, owner } = about;
        let machine_config = self.machine_config(&config, &name, &owner);
        let mut machine = Consumer::recovered(machine_config, state, self.store.visible(), now());
        let cursor = self.open_cursor(&config, machine.rewind());
        machine.forget_gone(&consuming::Place { store: &mut self.store, cursor });
        let member = Member { config, created, owner, id, machine, cursor };
        self.consumers.insert(&name, member);
    }
}

/// The id of a message, if it has one.
fn id_of(stored: &Stored) -> Option<&[u8]> {
    wishes::value(&stored.headers, b"Nats-Msg-Id").filter(|id| !id.is_empty())
}

fn known(stored: &Stored) -> Option<Known> {
    let id = duplicates::short(id_of(stored)?).into();
    Some(Known { id, sequence: stored.sequence, time: stored.time })
}

fn store_config(shared: &Shared, config: &StreamConfig) -> store::Config {
    let limits = &shared.config.limits;
    let record_bytes = shared.broker.limits.payload_max + shared.broker.limits.control_line_max + RECORD_OVERHEAD;
    store::Config {
        place: match config.storage {
            Storage::Memory => Place::Memory,
            Storage::File => Place::On(Arc::new(RealDisk), folder(shared, &config.name)),
        },
        first_sequence: config.first_seq,
        cache_bytes: limits.cache_bytes,
        segment_bytes: limits.segment_bytes,
        queue_bytes: limits.queue_bytes.max(2 * record_bytes),
        record_bytes,
        sync: shared.config.sync,
    }
}

/// The limits that the store keeps by itself.
pub(super) fn limits_of(config: &StreamConfig) -> Limits {
    let positive = |limit: i64| u64::try_from(limit).ok().filter(|limit| *limit > 0);
    Limits {
        max_msgs: positive(config.max_msgs),
        max_bytes: positive(config.max_bytes),
        max_age: positive(config.max_age).map(Duration::from_nanos),
        max_msgs_per_subject: positive(config.max_msgs_per_subject),
        discard: match config.discard {
            Discard::Old => store::Discard::Old,
            Discard::New if config.discard_new_per_subject => store::Discard::NewPerSubject,
            Discard::New => store::Discard::New,
        },
    }
}
