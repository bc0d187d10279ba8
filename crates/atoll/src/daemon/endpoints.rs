//! Carries every change of the registry to the data plane, and says when an instance is in rotation and when it is out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use kit::Chain;
use registry::{Snapshot, State};

use crate::daemon::Control;

/// Runs until the registry is gone. The first snapshot is with the data plane already; another plan is another snapshot.
pub(super) async fn run(control: Arc<Control>, mut watcher: registry::Watcher) {
    let mut rotation = BTreeSet::new();
    let mut served = control.served.subscribe();
    loop {
        let endpoints = tokio::select! {
            endpoints = watcher.changed() => match endpoints {
                Some(endpoints) => endpoints,
                None => return,
            },
            Ok(()) = served.changed() => watcher.current(),
        };
        let begun = Instant::now();
        let snapshot = served.borrow_and_update().snapshot(&endpoints, control.eventing.address());
        match control.proxy.apply(snapshot) {
            Ok(()) => {
                let next = in_rotation(&endpoints);
                let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                for (service, instance) in rotation.difference(&next) {
                    tracing::info!(service, instance, generation = endpoints.generation, took_us, "out of rotation");
                }
                for (service, instance) in next.difference(&rotation) {
                    tracing::info!(service, instance, generation = endpoints.generation, took_us, "in rotation");
                }
                rotation = next;
            }
            // The same routes were compiled before; the data plane goes on with what it has.
            Err(error) => tracing::error!(error = %Chain(&error), "the data plane refused a snapshot"),
        }
    }
}

fn in_rotation(endpoints: &Snapshot) -> BTreeSet<(String, u32)> {
    let ready = endpoints.services.iter().flat_map(|(service, all)| {
        let ready = all.iter().filter(|endpoint| endpoint.state == State::Ready);
        ready.map(move |endpoint| (service.clone(), endpoint.instance))
    });
    ready.collect()
}
