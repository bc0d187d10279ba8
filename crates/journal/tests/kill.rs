//! A process that appends is killed at random moments, on this machine's file system; whatever it said was acknowledged
//! must be there when its journal is opened again. The process is this test binary, told by its environment.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use journal::{Config, Journal, Opened, Sequence, Sync, Visible};
use kit::tasks::Tasks;

const FOLDER: &str = "JOURNAL_KILL_FOLDER";
const LIVES: u64 = 15;
const WRITERS: u64 = 8;

fn config(folder: PathBuf) -> Config {
    Config {
        folder,
        sync: Sync::Always,
        segment_bytes: 64 << 10,
        record_bytes: 64 << 10,
        queue_bytes: 1 << 20,
        queue_records: 1000,
        open_files: 4,
    }
}

/// What a record must be, from its sequence's own words.
fn is_whole(payload: &[u8]) -> bool {
    let Some((head, tail)) = std::str::from_utf8(payload).ok().and_then(|text| text.split_once(' ')) else {
        return false;
    };
    head.parse().is_ok_and(|length: usize| tail.len() == length && tail.bytes().all(|byte| byte == b'x'))
}

/// Does nothing unless it is the process to be killed: then it appends, and drops, until it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let tasks = Tasks::default();
    let Opened { journal, report } = Journal::open(config(folder.into()), &tasks).await.expect("opened");
    assert_eq!(report.damage, []);
    println!("ready {}", journal.first());
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        writers.spawn(append(journal.clone()));
    }
    panic!("killed before one of them ends: {:?}", writers.join_next().await);
}

async fn append(journal: Journal) {
    loop {
        let length = fastrand::usize(..2000);
        let sequence = journal.append(format!("{length} {}", "x".repeat(length))).await.expect("appended");
        // One write, so that a line is whole or absent.
        std::io::stdout().write_all(format!("acknowledged {sequence}\n").as_bytes()).expect("read by the parent");
        if fastrand::u8(..) == 0 {
            journal.drop_before(sequence.saturating_sub(300)).await.expect("dropped");
        }
    }
}

/// Lets a process append until it has acknowledged about this much, kills it, and gives the highest number it said.
fn live(folder: &Path, lines: u64) -> Sequence {
    let this = std::env::current_exe().expect("this program");
    let mut child = Command::new(this)
        .args(["--exact", "appends_until_killed", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let mut highest = 0;
    for (count, line) in (0..).zip(output.lines()) {
        let line = line.expect("text");
        if let Some(sequence) = line.strip_prefix("acknowledged ").and_then(|text| text.parse().ok()) {
            highest = highest.max(sequence);
        }
        if count == lines {
            // What it has written until then is still read.
            child.kill().expect("killed");
        }
    }
    child.wait().expect("ended");
    highest
}

#[tokio::test]
async fn what_a_killed_process_acknowledged_is_there() {
    if std::env::var_os(FOLDER).is_some() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut highest = 0;
    for life in 0..LIVES {
        let path = folder.path().to_owned();
        let lines = fastrand::u64(20..1500);
        let living = tokio::task::spawn_blocking(move || live(&path, lines));
        let said = tokio::time::timeout(Duration::from_secs(60), living).await.expect("in time").expect("lived");
        highest = highest.max(said);
        let tasks = Tasks::default();
        let Opened { journal, report } = Journal::open(config(folder.path().to_owned()), &tasks).await.expect("opened");
        assert_eq!(report.damage, [], "life {life}");
        assert!(journal.last(Visible::Synced) >= highest, "life {life}: {highest} was acknowledged: {report:?}");
        let mut expected = journal.first();
        let mut reader = journal.read(expected, Visible::Synced);
        while let Some(record) = reader.next().await.expect("read") {
            assert_eq!(record.sequence, expected);
            assert!(is_whole(&record.payload), "record {expected} was altered");
            expected += 1;
        }
        assert_eq!(expected, journal.last(Visible::Synced) + 1);
        journal.close().await.expect("closed");
    }
    assert!(highest > LIVES * 20);
}
