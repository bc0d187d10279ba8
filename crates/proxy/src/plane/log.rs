//! Writes the access log of the data plane's process, rotated. A full disk costs records, never requests.

use kit::rotate::Rotating;
use tokio::sync::mpsc;

use crate::plane::AccessLog;

/// Runs until every core has ended.
pub(crate) async fn run(config: Option<AccessLog>, mut lines: mpsc::Receiver<Vec<u8>>) {
    let Some(AccessLog { path, file_bytes_max, files_max }) = config else { return };
    let mut log = Rotating::new(path, file_bytes_max, files_max);
    let mut failing = false;
    while let Some(batch) = lines.recv().await {
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
