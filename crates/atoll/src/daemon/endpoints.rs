//! Carries every change of the registry to the data plane.

use std::sync::Arc;

use kit::Chain;

use crate::daemon::Control;
use crate::lower;

/// Runs until the registry is gone.
pub(super) async fn run(control: Arc<Control>, mut watcher: registry::Watcher) {
    let mut endpoints = watcher.current();
    loop {
        if let Err(error) = control.proxy.apply(lower::snapshot(&control.plan, &endpoints)) {
            // The compiler lets no such plan pass; the data plane goes on with what it has.
            tracing::error!(error = %Chain(&error), "the data plane refused a snapshot");
        }
        match watcher.changed().await {
            Some(next) => endpoints = next,
            None => return,
        }
    }
}
