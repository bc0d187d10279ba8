//! Tells the supervisor when the data plane has nothing in flight to an instance any more, so that its stop signal cuts
//! no request.

use std::sync::Arc;

use supervisor::Drain;
use tokio::sync::mpsc;

use crate::daemon::Control;

/// Runs until the supervisor has ended. Each drain waits by itself: the supervisor says when it waits no longer.
pub(super) async fn run(control: Arc<Control>, mut drains: mpsc::Receiver<Drain>) {
    let tasks = kit::tasks::Tasks::default();
    while let Some(Drain { service, instance, address, mut reply }) = drains.recv().await {
        let drained = control.proxy.drained(&service, instance, address);
        tasks.spawn(async move {
            tokio::select! {
                () = drained => {
                    // A supervisor that no longer waits has signalled already.
                    let _ = reply.send(());
                }
                () = reply.closed() => {}
            }
        });
    }
    tasks.finished().await;
}
