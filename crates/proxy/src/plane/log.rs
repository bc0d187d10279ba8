//! Writes the access log of the data plane's process, rotated, and passes each batch on. A full disk costs records,
//! never requests; nobody waits for who listens.

use kit::rotate::Rotating;
use tokio::sync::mpsc;

use crate::plane::AccessLog;

/// Lines that were written.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) lines: Vec<u8>,
    /// Batches before it that the loop of the process was too slow for.
    pub(crate) lost: u64,
}

/// Runs until every core has ended.
pub(crate) async fn run(config: Option<AccessLog>, mut lines: mpsc::Receiver<Vec<u8>>, passed_on: mpsc::Sender<Batch>) {
    let Some(AccessLog { path, file_bytes_max, files_max }) = config else { return };
    let mut log = Rotating::new(path, file_bytes_max, files_max);
    let (mut failing, mut lost) = (false, 0);
    while let Some(batch) = lines.recv().await {
        let write = tokio::task::spawn_blocking(move || {
            let written = log.append(&batch);
            (log, written, batch)
        });
        let Ok((given_back, written, lines)) = write.await else { return };
        log = given_back;
        match written {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "access records are lost");
            }
            Err(_) => {}
        }
        match passed_on.try_send(Batch { lines, lost }) {
            Ok(()) => lost = 0,
            Err(_) => lost += 1,
        }
    }
}
