//! Files of streams that were changed while no broker ran: what can be served is served as it was, what cannot is logged
//! with its file. `cargo xtask bench crash` does a thousand of these.

use std::path::{Path, PathBuf};

use async_nats::jetstream::{self, stream};

use crate::crash::Apart;

const MESSAGES: u64 = 400;
const HARMS: u64 = 12;

fn payload(sequence: u64) -> String {
    format!("{sequence} ").repeat(1 + sequence as usize % 60)
}

fn copy(from: &Path, to: &Path, files: &mut Vec<PathBuf>) {
    std::fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = std::fs::read_dir(from).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to, files);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
            files.push(to);
        }
    }
}

/// Changes something in a file: that which counts, so behind a header and not in the room between the slots of a mark.
fn harm(path: &Path, random: &mut fastrand::Rng) {
    let mut content = std::fs::read(path).unwrap();
    let at = random.usize(16..content.len().min(if path.ends_with("mark") { 60 } else { usize::MAX }));
    match random.u8(..3) {
        0 => content[at] ^= 1 << random.u8(..8),
        1 => content[at..].iter_mut().take(4096).for_each(|byte| *byte = !*byte),
        _ => content.truncate(at),
    }
    std::fs::write(path, content).unwrap();
}

async fn fill(store: &Path, log: &Path) {
    let broker = Apart::start(store, log);
    let context = jetstream::new(broker.client().await);
    let config =
        stream::Config { name: "LOG".into(), subjects: vec!["log".into()], allow_direct: true, ..Default::default() };
    context.create_stream(config).await.unwrap();
    for sequence in 1..=MESSAGES {
        let ack = context.publish("log", payload(sequence).into()).await.unwrap();
        // All but a few are on disk together with their neighbours.
        if sequence % 50 == 0 {
            assert_eq!(ack.await.unwrap().sequence, sequence);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_said_with_its_file_and_nothing_is_served_that_was_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, log) = (folder.path().join("whole"), folder.path().join("log"));
    fill(&whole, &log).await;
    let mut random = fastrand::Rng::with_seed(6);
    for number in 0..HARMS {
        let (store, mut files) = (folder.path().join(number.to_string()), Vec::new());
        copy(&whole, &store, &mut files);
        files.retain(|path| std::fs::metadata(path).unwrap().len() > 64);
        let path = &files[random.usize(..files.len())];
        harm(path, &mut random);
        let broker = Apart::start(&store, &log);
        let context = jetstream::new(broker.client().await);
        let mut missing = 0;
        // A stream whose ledger is damaged is there, and says so.
        if let Ok(stream) = context.get_stream_no_info("LOG").await {
            for sequence in 1..=MESSAGES {
                match stream.direct_get(sequence).await {
                    Ok(message) => assert_eq!(message.payload, payload(sequence), "{number}: {path:?}"),
                    Err(_) => missing += 1,
                }
            }
        }
        drop(broker);
        let said = std::fs::read_to_string(&log).unwrap();
        let file = path.strip_prefix(&store).unwrap().to_str().unwrap();
        assert!(said.contains(file), "{number}: {missing} are missing, and nothing is said of {file}: {said}");
    }
}
