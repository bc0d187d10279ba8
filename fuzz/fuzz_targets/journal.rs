//! Any changes to the files of a journal: it is opened, read to its end and appended to. Nothing may panic, nothing that was
//! not written is served, and what is missing is said.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use journal::sim::SimDisk;
use journal::{Config, Disk, Error, Journal, Opened, Sync, Visible};
use kit::tasks::Tasks;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
});

const RECORDS: u64 = 300;

fuzz_target!(|changes: Vec<(u8, u16, Change)>| RUNTIME.block_on(run(&changes)));

/// What happens to a file at a place.
#[derive(Debug, Arbitrary)]
enum Change {
    Write(Vec<u8>),
    Zero(u16),
    Cut,
    Extend(Vec<u8>),
    Replace(Vec<u8>),
    Lose,
}

fn config() -> Config {
    Config {
        folder: PathBuf::from("/journal"),
        sync: Sync::Always,
        segment_bytes: 4 << 10,
        record_bytes: 1 << 10,
        queue_bytes: 64 << 10,
        queue_records: 1000,
        open_files: 2,
    }
}

/// What a record holds, by its number.
fn payload(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(1 + number as usize % 12)
}

async fn open(disk: &Arc<dyn Disk>) -> Result<Journal, Error> {
    let Opened { journal, .. } = Journal::open_on(Arc::clone(disk), config(), &Tasks::default()).await?;
    Ok(journal)
}

async fn run(changes: &[(u8, u16, Change)]) {
    let sim = Arc::new(SimDisk::new(1));
    let disk: Arc<dyn Disk> = Arc::clone(&sim) as Arc<dyn Disk>;
    let journal = open(&disk).await.expect("a new journal");
    let numbers: Vec<u64> = (1..=RECORDS).collect();
    for numbers in numbers.chunks(7) {
        let records: Vec<_> = numbers.iter().map(|number| payload(*number)).collect();
        journal.append_batch(&records).await.expect("appended");
    }
    journal.drop_before(20).await.expect("dropped");
    journal.close().await.expect("closed");
    sim.kill();
    for (file, at, change) in changes {
        let files = sim.files();
        let Some((path, _)) = files.get(usize::from(*file) % files.len().max(1)) else { return };
        let at = usize::from(*at);
        if matches!(change, Change::Lose) {
            sim.lose(path);
            continue;
        }
        sim.damage(path, |content| alter(content, at, change));
    }
    read(&disk).await;
}

fn alter(content: &mut Vec<u8>, at: usize, change: &Change) {
    let at = at.min(content.len());
    match change {
        Change::Write(bytes) => {
            let end = (at + bytes.len()).min(content.len());
            content[at..end].copy_from_slice(&bytes[..end - at]);
        }
        Change::Zero(count) => {
            let end = (at + usize::from(*count)).min(content.len());
            content[at..end].fill(0);
        }
        Change::Cut => content.truncate(at),
        Change::Extend(bytes) => content.extend_from_slice(bytes),
        Change::Replace(bytes) => content.clone_from(bytes),
        Change::Lose => {}
    }
}

async fn read(disk: &Arc<dyn Disk>) {
    let Ok(journal) = open(disk).await else { return };
    let (first, last) = (journal.first(), journal.last(Visible::Synced));
    let mut next = first;
    let mut reader = journal.read(first, Visible::Synced);
    loop {
        match reader.next().await {
            Ok(Some(record)) => {
                assert_eq!(record.sequence, next, "a silent gap");
                assert_eq!(record.payload, payload(record.sequence), "what was not written is served");
                next += 1;
            }
            Ok(None) => break,
            Err(Error::Damaged(damage)) => {
                assert!(damage.first <= next && next < damage.until, "damage is said where it is: {damage} at {next}");
                next = damage.until;
                reader = journal.read(next, Visible::Synced);
            }
            Err(_) => return,
        }
    }
    assert_eq!(next, last + 1, "all up to the end is served or said to be damaged");
    journal.verify().await.expect("verified");
    let more = journal.append(b"more").await.expect("it goes on");
    assert!(more > last);
    let record = journal.get(more, Visible::Synced).await.expect("read").expect("there");
    assert_eq!(&record.payload[..], b"more");
    journal.close().await.expect("closed");
}
