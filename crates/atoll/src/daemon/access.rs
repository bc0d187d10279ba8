//! Writes the data plane's access records to `access.jsonl`, rotated. A full disk costs records, never requests.

use std::path::PathBuf;

use kit::rotate::Rotating;
use tokio::sync::mpsc;

/// One file of the access log.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Files in all.
const FILES_MAX: u32 = 4;

/// Runs until the data plane has ended.
pub(super) async fn run(folder: PathBuf, mut batches: mpsc::Receiver<Vec<u8>>) {
    let mut log = Rotating::new(folder.join("access.jsonl"), FILE_BYTES_MAX, FILES_MAX);
    let mut failing = false;
    while let Some(batch) = batches.recv().await {
        let write = tokio::task::spawn_blocking(move || {
            let written = log.append(&batch);
            (log, written)
        });
        let Ok((given_back, written)) = write.await else { return };
        log = given_back;
        match written {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "access records are lost");
            }
            Err(_) => {}
        }
    }
}
