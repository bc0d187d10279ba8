//! Prepares the databases of a service when the supervisor is about to start it.

use std::sync::Arc;

use kit::Chain;
use supervisor::Prepare;
use tokio::sync::mpsc;

use crate::daemon::Control;
use crate::lower;

/// Runs until the supervisor has ended. Services are prepared in parallel; two that share a file wait for each other there.
pub(super) async fn run(control: Arc<Control>, mut prepares: mpsc::Receiver<Prepare>) {
    let tasks = kit::tasks::Tasks::default();
    while let Some(Prepare { service, reply }) = prepares.recv().await {
        let control = Arc::clone(&control);
        tasks.spawn(async move {
            let prepared = prepare(&control, &service).await;
            // A supervisor that no longer waits has stopped the service.
            let _ = reply.send(prepared);
        });
    }
    tasks.finished().await;
}

async fn prepare(control: &Control, service: &str) -> Result<(), String> {
    for database in lower::databases(&control.plan(), service) {
        match database::prepare(&database).await {
            Ok(report) => {
                for migration in report.applied {
                    tracing::info!(service, database = database.name, migration, "migrated");
                }
            }
            Err(error) => {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                return Err(format!("database {}: {}{hint}", database.name, Chain(&error)));
            }
        }
    }
    Ok(())
}
