//! What a daemon leaves to the one after it: a task keeps it on disk, the next daemon goes on from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use supervisor::{Before, Service, Standing};
use tokio::task::spawn_blocking;

use crate::api::dto::Change;
use crate::daemon::Control;
use crate::daemon::change::Served;
use crate::lower;
use crate::project::{Accepted, Credentials, Project, Record, StoredRecord as Stored};

/// What a daemon goes on from.
pub(super) struct Succession {
    pub(super) served: Served,
    pub(super) before: Before,
    /// What differs from what was served last.
    pub(super) changes: Vec<Change>,
}

/// Goes over from what a former daemon left to what the manifest is now.
pub(super) fn succeed(record: Record, present: Accepted, credentials: &Credentials) -> Succession {
    let Record { mut accepted, mut standing } = record;
    let mut changes = Vec::new();
    if let Some(last) = accepted.first() {
        let services = |plan| -> BTreeMap<String, Service> {
            lower::services(plan, credentials).into_iter().map(|service| (service.name.clone(), service)).collect()
        };
        let (old, new) = (services(&last.plan), services(&present.plan));
        let of_now = |(name, standing): (String, Standing)| {
            let is_same = old.get(&name) == new.get(&name);
            (name, if is_same { standing } else { standing.of_another() })
        };
        standing = standing.into_iter().map(of_now).collect();
        changes = lower::changes(&last.plan, &present.plan);
        if last.plan.fingerprint() == present.plan.fingerprint() {
            accepted.remove(0);
        }
    }
    let declared = accepted.iter().map(|accepted| lower::services(&accepted.plan, credentials)).collect();
    accepted.reverse();
    Succession { served: Served::new(present, accepted), before: Before { declared, standing }, changes }
}

/// Keeps the record, until everything has stopped or was left.
pub(super) async fn keep(control: Arc<Control>, project: Project) {
    let mut served = control.served.subscribe();
    let mut snapshots = control.supervisor.watch();
    let mut drained = control.drained.clone();
    let mut record: Option<Stored> = None;
    loop {
        let (is_over, is_new) = (*drained.borrow(), served.has_changed().unwrap_or(false) || record.is_none());
        let standing = snapshots.borrow_and_update().standing();
        let next: Stored = match record.clone() {
            Some(present) if !is_new => present.with(standing),
            _ => {
                let Served { present, retiring, .. } = served.borrow_and_update().clone();
                Record { accepted: std::iter::once(present).chain(retiring.into_iter().rev()).collect(), standing }
                    .to_stored()
            }
        };
        if record.as_ref() != Some(&next) {
            let (of, at) = (next.clone(), project.clone());
            match spawn_blocking(move || of.store(&at)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "what runs cannot be kept for the next daemon"),
                Err(_) => return,
            }
            record = Some(next);
        }
        if is_over {
            return;
        }
        tokio::select! {
            Ok(()) = served.changed() => {}
            Ok(()) = snapshots.changed() => {}
            _ = drained.wait_for(|drained| *drained) => {}
        }
    }
}
