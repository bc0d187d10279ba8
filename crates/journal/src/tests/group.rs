//! Many callers at once: acknowledgement, order, limits and failure.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kit::tasks::Tasks;

use super::model::config;
use crate::disk::{Access, Disk, File};
use crate::segment::lock;
use crate::sim::{Fault, SimDisk};
use crate::{Config, Error, Journal, Opened, Sequence, Sync, Visible};

/// A disk whose syncs wait while a test holds its gate.
#[derive(Clone, Debug)]
struct Gated {
    disk: SimDisk,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    is_held: Mutex<bool>,
    opened: Condvar,
}

/// Holds the gate until it is dropped.
struct Held(Arc<Gate>);

impl Drop for Held {
    fn drop(&mut self) {
        *lock(&self.0.is_held) = false;
        self.0.opened.notify_all();
    }
}

#[derive(Debug)]
struct GatedFile(Box<dyn File>, Arc<Gate>);

impl Gated {
    fn new() -> Self {
        Self { disk: SimDisk::new(7), gate: Arc::default() }
    }

    fn hold(&self) -> Held {
        *lock(&self.gate.is_held) = true;
        Held(Arc::clone(&self.gate))
    }
}

impl Disk for Gated {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.create_folder(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        Ok(Box::new(GatedFile(self.disk.open(path, access)?, Arc::clone(&self.gate))))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.disk.sync_folder(folder)
    }
}

impl File for GatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        drop(self.1.opened.wait_while(lock(&self.1.is_held), |is_held| *is_held));
        self.0.sync()
    }
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }
}

async fn open(disk: impl Disk, config: Config) -> Journal {
    let opened = Journal::open_on(Arc::new(disk), config, &Tasks::default()).await.expect("opened");
    assert_eq!(opened.report, crate::Report::default());
    opened.journal
}

async fn all(journal: &Journal, from: Sequence) -> Vec<(Sequence, String)> {
    let mut reader = journal.read(from, Visible::Synced);
    let mut found = Vec::new();
    while let Some(record) = reader.next().await.expect("read") {
        found.push((record.sequence, String::from_utf8(record.payload.to_vec()).expect("text")));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_syncs_and_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config { folder: folder.path().join("a/journal"), segment_bytes: 64 << 10, ..config() };
    let tasks = Tasks::default();
    let Opened { journal, .. } = Journal::open(config.clone(), &tasks).await.expect("opened");
    let writers = (0..64).map(|writer| {
        let journal = journal.clone();
        tokio::spawn(async move {
            let mut given = Vec::new();
            for turn in 0..20 {
                let text = format!("{writer}/{turn}/{}", "x".repeat(100));
                given.push((journal.append(&text).await.expect("appended"), text));
            }
            assert!(given.is_sorted(), "one writer's records are in its order");
            given
        })
    });
    let mut given = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        given.extend(writer.await.expect("ended"));
    }
    given.sort();
    assert!(given.iter().map(|(sequence, _)| *sequence).eq(1..=64 * 20));
    assert!(all(&journal, 1).await == given);
    assert!(matches!(Journal::open(config.clone(), &tasks).await, Err(Error::Locked { .. })));
    journal.close().await.expect("closed");
    let opened = Journal::open(config, &tasks).await.expect("opened");
    assert_eq!(opened.report, crate::Report::default());
    assert!(all(&opened.journal, 1).await == given);
    assert_eq!(opened.journal.verify().await.expect("verified"), []);
    for (sequence, text) in given.iter().step_by(97) {
        let record = opened.journal.get(*sequence, Visible::Synced).await.expect("read").expect("there");
        assert!(record.payload == text.as_bytes());
    }
    tasks.finished().await;
}

#[tokio::test]
async fn what_comes_during_a_sync_shares_the_next_one() {
    let disk = Gated::new();
    let journal = open(disk.clone(), config()).await;
    let held = disk.hold();
    let first = journal.try_enqueue(&["first"]).expect("room");
    let rest: Vec<_> = (0..50).map(|_| journal.try_enqueue(&["one", "two"]).expect("room")).collect();
    assert_eq!((rest[49].first(), rest[49].last()), (100, 101));
    let before = disk.disk.operations();
    drop(held);
    assert_eq!(first.await.expect("acknowledged"), 1);
    for pending in rest {
        let last = pending.last();
        assert_eq!(pending.await.expect("acknowledged"), last);
    }
    // Two groups at most, each a write, a sync, and the mark; some segments.
    assert!(disk.disk.operations() - before < 20, "{}", disk.disk.operations() - before);
    assert_eq!(all(&journal, 1).await.len(), 101);
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_more_until_it_is_opened_anew() {
    let gated = Gated::new();
    let disk = gated.disk.clone();
    let journal = open(gated.clone(), config()).await;
    journal.append("kept").await.expect("appended");
    journal.sync().await.expect("synced");
    let held = gated.hold();
    disk.fault_at(disk.operations() + 2, Fault::Io);
    let many: Vec<_> = (0..5).map(|_| journal.try_enqueue(&["lost"]).expect("room")).collect();
    drop(held);
    for pending in many {
        let error = pending.await.expect_err("the sync fails");
        let text = kit::Chain(&error).to_string();
        assert!(text.contains("sync /journal/00000000000000000001.log") && text.contains("os error 5"), "{text}");
    }
    assert!(matches!(journal.append("after").await, Err(Error::Failed { .. })));
    assert!(matches!(journal.try_enqueue(&["after"]), Err(Error::Failed { .. })));
    assert!(matches!(journal.sync().await, Err(Error::Failed { .. })));
    assert!(matches!(journal.close().await, Err(Error::Failed { .. })));
    assert_eq!(all(&journal, 1).await, [(1, "kept".to_owned())]);
    assert_eq!(journal.last(Visible::Appended), 1);
    // What was not acknowledged may be there or not; once it is served, a power cut does not take it.
    let opened = Journal::open_on(Arc::new(disk.clone()), config(), &Tasks::default()).await.expect("opened");
    let served = all(&opened.journal, 1).await;
    let added = opened.journal.append("more").await.expect("appended");
    drop(opened);
    disk.power_cut();
    let again = Journal::open_on(Arc::new(disk), config(), &Tasks::default()).await.expect("opened").journal;
    assert_eq!(all(&again, 1).await, [served, vec![(added, "more".to_owned())]].concat());
}

#[tokio::test]
async fn who_appends_faster_than_the_disk_waits() {
    let disk = Gated::new();
    let limits = Config { queue_records: 3, record_bytes: 1000, queue_bytes: 1500, ..config() };
    let journal = open(disk.clone(), limits).await;
    let held = disk.hold();
    let taken: Vec<_> = (0..3).map(|_| journal.try_enqueue(&["a"]).expect("room")).collect();
    assert!(matches!(journal.try_enqueue(&["b"]), Err(Error::Full { .. })));
    let waiting = tokio::spawn({
        let journal = journal.clone();
        async move { journal.append("c").await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(held);
    for pending in taken {
        pending.await.expect("acknowledged");
    }
    assert_eq!(waiting.await.expect("ended").expect("appended"), 4);
    let held = disk.hold();
    let _taken = journal.try_enqueue(&[[0; 1000]]).expect("room");
    assert!(matches!(journal.try_enqueue(&[[0; 900]]), Err(Error::Full { .. })));
    drop(held);
    assert!(matches!(journal.append([0; 1001]).await, Err(Error::TooLarge { bytes: 1001, max: 1000, .. })));
    assert!(matches!(journal.append_batch(&[[0; 800], [0; 800]]).await, Err(Error::TooLarge { .. })));
    assert!(matches!(journal.append_batch(&["a", "b", "c", "d"]).await, Err(Error::TooLarge { .. })));
    assert!(matches!(journal.append_batch::<&str>(&[]).await, Err(Error::Empty { .. })));
}

#[tokio::test]
async fn an_interval_acknowledges_what_is_written_and_syncs_it_in_time() {
    let disk = Gated::new();
    let journal = open(disk.clone(), Config { sync: Sync::Interval(Duration::from_millis(20)), ..config() }).await;
    let held = disk.hold();
    assert_eq!(journal.append("written").await.expect("acknowledged"), 1);
    assert_eq!(journal.last(Visible::Appended), 1);
    assert_eq!(journal.last(Visible::Synced), 0);
    assert!(journal.get(1, Visible::Synced).await.expect("read").is_none());
    assert!(journal.get(1, Visible::Appended).await.expect("read").is_some());
    drop(held);
    let mut synced = journal.watch();
    let waited = tokio::time::timeout(Duration::from_secs(10), synced.wait_for(|synced| *synced == 1));
    waited.await.expect("in time").expect("told");
    assert_eq!(all(&journal, 1).await.len(), 1);
    disk.disk.power_cut();
    let found = open(disk.disk.clone(), config()).await;
    assert_eq!(all(&found, 1).await.len(), 1);
}

#[tokio::test]
async fn a_reader_follows_the_writer_and_is_told_when_retention_overtakes_it() {
    let journal = open(SimDisk::new(5), config()).await;
    let mut reader = journal.read(1, Visible::Synced);
    assert!(reader.next().await.expect("nothing yet").is_none());
    let line = "x".repeat(1000);
    for sequence in 1..=20 {
        assert_eq!(journal.append(&line).await.expect("appended"), sequence);
        assert_eq!(reader.next().await.expect("read").expect("one").sequence, sequence);
        assert!(reader.next().await.expect("read").is_none());
    }
    let mut slow = journal.read(2, Visible::Synced);
    let before = journal.bytes();
    journal.drop_before(15).await.expect("dropped");
    let first = journal.first();
    assert!(first > 5 && first <= 15 && journal.bytes() < before);
    assert!(matches!(slow.next().await, Err(Error::Dropped { sequence: 2, .. })));
    assert!(matches!(journal.get(1, Visible::Synced).await, Err(Error::Dropped { .. })));
    assert_eq!(all(&journal, first).await.len() as u64, 21 - first);
    journal.purge().await.expect("purged");
    assert_eq!((journal.first(), journal.last(Visible::Synced)), (21, 20));
    assert_eq!(journal.append("after").await.expect("appended"), 21);
    assert_eq!(reader.next().await.expect("read").expect("one").sequence, 21);
    assert_eq!(all(&journal, 21).await, [(21, "after".to_owned())]);
}

#[tokio::test]
async fn a_closed_journal_can_be_read_and_its_files_are_free() {
    let disk = SimDisk::new(6);
    let journal = open(disk.clone(), config()).await;
    let pending = journal.try_enqueue(&["last"]).expect("room");
    journal.close().await.expect("closed");
    pending.await.expect("acknowledged before it closed");
    assert!(matches!(journal.append("late").await, Err(Error::Closed { .. })));
    assert!(matches!(journal.drop_before(1).await, Err(Error::Closed { .. })));
    assert_eq!(all(&journal, 1).await.len(), 1);
    assert_eq!(all(&open(disk, config()).await, 1).await.len(), 1);
}

#[test]
fn a_runtime_that_ends_ends_the_journal() {
    let disk = Gated::new();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let journal = runtime.block_on(open(disk.clone(), config()));
    runtime.shutdown_background();
    let other = tokio::runtime::Runtime::new().expect("a runtime");
    // It works on whatever runtime its callers are in.
    assert_eq!(other.block_on(journal.append("here")).expect("appended"), 1);
}

#[test]
fn an_append_while_the_runtime_ends_is_refused_and_does_not_hang() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let (disk, tasks) = (Arc::new(SimDisk::new(1)), Tasks::default());
    let journal = runtime.block_on(Journal::open_on(disk, config(), &tasks)).unwrap().journal;
    let handle = runtime.handle().clone();
    runtime.shutdown_background();
    let _entered = handle.enter();
    let pending = journal.try_enqueue(&[b"late"]).unwrap();
    let ended = handle.block_on(pending);
    assert!(matches!(ended, Err(Error::Closed { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_purge_spares_what_is_appended_behind_it() {
    let disk = Gated::new();
    let tasks = Tasks::default();
    let opened = Journal::open_on(Arc::new(disk.clone()), config(), &tasks).await;
    let Opened { journal, .. } = opened.expect("opened");
    journal.append(b"old").await.expect("acknowledged");
    let held = disk.hold();
    let written = journal.enqueue(&[b"written"]).await.expect("room");
    let older = journal.enqueue(&[b"older"]).await.expect("room");
    let purging = tokio::spawn({
        let journal = journal.clone();
        async move { journal.purge().await }
    });
    // It is asked for before the next one is appended: this runtime has one thread.
    tokio::task::yield_now().await;
    let newer = journal.enqueue(&[&b"newer"[..], b"newest"]).await.expect("room");
    drop(held);
    for pending in [written, older, newer] {
        pending.await.expect("acknowledged");
    }
    purging.await.expect("no panic").expect("purged");
    assert_eq!((journal.first(), journal.last(Visible::Synced)), (4, 5));
    assert_eq!(journal.segments().len(), 1);
    let read = journal.read_some(4, Visible::Synced).await.expect("readable");
    let payloads: Vec<&[u8]> = read.iter().map(|record| &record.payload[..]).collect();
    assert_eq!(payloads, [&b"newer"[..], b"newest"]);
    assert!(matches!(journal.read_some(3, Visible::Synced).await, Err(Error::Dropped { .. })));
    assert!(journal.read_some(6, Visible::Synced).await.expect("readable").is_empty());
}

#[tokio::test]
async fn what_replaces_dropped_segments_is_on_disk_before_they_go_whatever_the_policy() {
    let (disk, tasks) = (SimDisk::new(7), Tasks::default());
    let lazy = || Config { sync: Sync::Interval(Duration::from_secs(3600)), ..config() };
    let opened = Journal::open_on(Arc::new(disk.clone()), lazy(), &tasks).await.expect("opened");
    for _ in 0..20 {
        opened.journal.append([7; 1000]).await.expect("acknowledged");
    }
    let snapshot = opened.journal.append(b"all that counts").await.expect("acknowledged");
    opened.journal.drop_before(snapshot).await.expect("dropped");
    disk.power_cut();
    drop(opened);
    let opened = Journal::open_on(Arc::new(disk.clone()), lazy(), &tasks).await.expect("opened");
    let found = opened.journal.get(snapshot, Visible::Appended).await.expect("readable").expect("there");
    assert_eq!(&found.payload[..], b"all that counts");
}
