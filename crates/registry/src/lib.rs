//! Which instances of which service may take requests, as versioned snapshots with watchers.
//! The supervisor writes, the daemon and the data plane read. It starts nothing and decides nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

/// Whether an instance may take requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Runs, but has not said that it is ready, or says that it is not.
    Unready,
    /// Takes new requests.
    Ready,
    /// Finishes what it has and takes nothing new.
    Draining,
}

/// The address of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Number of the instance within its service, from 0.
    pub instance: u32,
    pub address: SocketAddr,
    pub state: State,
}

/// All endpoints at one moment. Never changed once it is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows by one with every change.
    pub generation: u64,
    /// Endpoints by service, ordered by instance.
    pub services: BTreeMap<String, Vec<Endpoint>>,
}

/// The way in, for writers and for new watchers. Clones are handles to the same registry.
#[derive(Clone, Debug)]
pub struct Handle {
    current: watch::Sender<Arc<Snapshot>>,
}

impl Default for Handle {
    fn default() -> Self {
        Self { current: watch::Sender::new(Arc::default()) }
    }
}

impl Handle {
    /// Puts an endpoint in, or changes the one of the same service and instance. Watchers are woken only by a change.
    pub fn set(&self, service: &str, endpoint: Endpoint) {
        self.change(service, |endpoints| match endpoints.binary_search_by_key(&endpoint.instance, |e| e.instance) {
            Ok(at) if endpoints[at] == endpoint => false,
            Ok(at) => {
                endpoints[at] = endpoint;
                true
            }
            Err(at) => {
                endpoints.insert(at, endpoint);
                true
            }
        });
    }

    /// Takes an endpoint out, as soon as its process has ended.
    pub fn remove(&self, service: &str, instance: u32) {
        self.change(service, |endpoints| {
            let before = endpoints.len();
            endpoints.retain(|endpoint| endpoint.instance != instance);
            endpoints.len() != before
        });
    }

    /// The state of all things now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    /// Subscribes to what comes after the present snapshot.
    #[must_use]
    pub fn watch(&self) -> Watcher {
        Watcher { current: self.current.subscribe() }
    }

    fn change(&self, service: &str, edit: impl FnOnce(&mut Vec<Endpoint>) -> bool) {
        self.current.send_if_modified(|current| {
            let mut next = Snapshot::clone(current);
            let endpoints = next.services.entry(service.to_owned()).or_default();
            let changed = edit(endpoints);
            if endpoints.is_empty() {
                next.services.remove(service);
            }
            if changed {
                next.generation += 1;
                *current = Arc::new(next);
            }
            changed
        });
    }
}

/// Sees the newest snapshot; intermediate ones may be skipped, the last never is.
#[derive(Clone, Debug)]
pub struct Watcher {
    current: watch::Receiver<Arc<Snapshot>>,
}

impl Watcher {
    /// The newest snapshot, marked as seen.
    pub fn current(&mut self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow_and_update())
    }

    /// Waits for a snapshot that was not seen yet; `None` once every [`Handle`] is gone. Cancel safe.
    pub async fn changed(&mut self) -> Option<Arc<Snapshot>> {
        self.current.changed().await.ok()?;
        Some(self.current())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(instance: u32, state: State) -> Endpoint {
        Endpoint { instance, address: SocketAddr::from(([127, 0, 0, 1], 9000 + instance as u16)), state }
    }

    #[test]
    fn a_change_makes_a_generation_and_a_repetition_does_not() {
        let registry = Handle::default();
        registry.set("catalog", endpoint(1, State::Unready));
        registry.set("catalog", endpoint(0, State::Ready));
        registry.set("catalog", endpoint(0, State::Ready));
        let snapshot = registry.snapshot();
        assert_eq!(snapshot.generation, 2);
        let order: Vec<u32> = snapshot.services["catalog"].iter().map(|e| e.instance).collect();
        assert_eq!(order, [0, 1]);
    }

    #[test]
    fn removing_an_unknown_endpoint_changes_nothing() {
        let registry = Handle::default();
        registry.remove("catalog", 0);
        assert_eq!(*registry.snapshot(), Snapshot::default());
        registry.set("catalog", endpoint(0, State::Ready));
        registry.remove("catalog", 0);
        assert!(registry.snapshot().services.is_empty());
        assert_eq!(registry.snapshot().generation, 2);
    }

    #[tokio::test]
    async fn a_watcher_sees_the_last_change_and_the_end() {
        let registry = Handle::default();
        let mut watcher = registry.watch();
        registry.set("cart", endpoint(0, State::Ready));
        registry.set("cart", endpoint(0, State::Draining));
        let seen = watcher.changed().await.expect("a change");
        assert_eq!(seen.services["cart"][0].state, State::Draining);
        drop(registry);
        assert_eq!(watcher.changed().await, None);
    }
}
