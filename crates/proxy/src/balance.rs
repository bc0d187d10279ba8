//! Who of a service takes the next request: choice of two by outstanding requests. Owns what is known of an endpoint
//! for the whole process; it outlives snapshots, so that a new generation forgets nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::snapshot::{self, Snapshot, State};

/// One instance of one service at one address.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Never given twice in the life of the process.
    pub(crate) id: u64,
    pub(crate) instance: u32,
    pub(crate) address: SocketAddr,
    outstanding: AtomicU32,
    /// Whether the newest snapshot has it ready. Requests that hold an older snapshot must see it too.
    ready: AtomicBool,
}

impl Endpoint {
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Counts a request as outstanding until the guard is dropped.
    pub(crate) fn occupy(self: &Arc<Self>) -> Occupied {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        Occupied(Arc::clone(self))
    }
}

/// One outstanding request.
#[derive(Debug)]
pub(crate) struct Occupied(Arc<Endpoint>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The endpoints of one service in one snapshot that were ready when it was made.
#[derive(Debug)]
pub(crate) struct Service {
    endpoints: Vec<Arc<Endpoint>>,
}

impl Service {
    /// Picks two at random among those not `tried` and takes the one with fewer outstanding requests. `None` when all
    /// were tried or none is ready.
    pub(crate) fn choose(&self, tried: &[u64], mut random: impl FnMut(usize) -> usize) -> Option<&Arc<Endpoint>> {
        let fit = |endpoint: &&Arc<Endpoint>| endpoint.is_ready() && !tried.contains(&endpoint.id);
        let count = self.endpoints.iter().filter(fit).count();
        let nth = |position: usize| self.endpoints.iter().filter(fit).nth(position);
        if count < 2 {
            return nth(0);
        }
        let first = random(count);
        // Any other than the first, each as likely.
        let second = (first + 1 + random(count - 1)) % count;
        let (first, second) = (nth(first)?, nth(second)?);
        let outstanding = |endpoint: &Endpoint| endpoint.outstanding.load(Ordering::Relaxed);
        Some(if outstanding(second) < outstanding(first) { second } else { first })
    }
}

/// Every endpoint that the newest snapshot or a request still knows. One per process, touched only by `apply`.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    known: HashMap<(String, u32, SocketAddr), Arc<Endpoint>>,
    next_id: u64,
}

impl Endpoints {
    /// Takes the endpoints of a snapshot in and gives its services, and those endpoints that it has not ready. They are
    /// still taken for ready, so that a request with the snapshot before finds somebody, until they are retired.
    pub(crate) fn apply(&mut self, snapshot: &Snapshot) -> (HashMap<String, Arc<Service>>, Retired) {
        let mut seen = HashMap::with_capacity(self.known.len());
        let mut services = HashMap::with_capacity(snapshot.services.len());
        let mut retired = Vec::new();
        for (name, endpoints) in &snapshot.services {
            let mut ready = Vec::with_capacity(endpoints.len());
            for endpoint in endpoints {
                let key = (name.clone(), endpoint.instance, endpoint.address);
                let known = self.known.remove(&key).or_else(|| seen.get(&key).cloned());
                let known = known.unwrap_or_else(|| self.meet(endpoint));
                match endpoint.state {
                    State::Ready => {
                        known.ready.store(true, Ordering::Release);
                        ready.push(Arc::clone(&known));
                    }
                    State::Draining => retired.push(Arc::clone(&known)),
                }
                seen.insert(key, known);
            }
            services.insert(name.clone(), Arc::new(Service { endpoints: ready }));
        }
        // What is left was in the last snapshot and is not in this one.
        retired.extend(std::mem::replace(&mut self.known, seen).into_values());
        (services, Retired(retired))
    }

    fn meet(&mut self, endpoint: &snapshot::Endpoint) -> Arc<Endpoint> {
        self.next_id += 1;
        Arc::new(Endpoint {
            id: self.next_id,
            instance: endpoint.instance,
            address: endpoint.address,
            outstanding: AtomicU32::new(0),
            ready: AtomicBool::new(false),
        })
    }
}

/// Endpoints that the newest snapshot does not have ready.
#[must_use]
pub(crate) struct Retired(Vec<Arc<Endpoint>>);

impl Retired {
    /// Order: only once the snapshot is the one that is served. Who then finds nobody ready looks at it.
    pub(crate) fn retire(self) {
        for endpoint in self.0 {
            endpoint.ready.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn snapshot(endpoints: &[(u32, State)]) -> Snapshot {
        let endpoint = |(instance, state): &(u32, State)| snapshot::Endpoint {
            instance: *instance,
            address: SocketAddr::from(([127, 0, 0, 1], 9000 + *instance as u16)),
            state: *state,
        };
        let services = BTreeMap::from([("a".to_owned(), endpoints.iter().map(endpoint).collect())]);
        Snapshot { services, ..Snapshot::default() }
    }

    fn apply(endpoints: &mut Endpoints, snapshot: &Snapshot) -> Arc<Service> {
        let (services, retired) = endpoints.apply(snapshot);
        retired.retire();
        Arc::clone(&services["a"])
    }

    fn instances(service: &Service, tried: &[u64]) -> Vec<u32> {
        // Every pair of positions, so that each that can be chosen is.
        let pairs = (0..9).flat_map(|first| (0..9).map(move |second| [first, second]));
        let mut seen: Vec<u32> = pairs
            .filter_map(|pair| {
                let mut rolls = pair.into_iter();
                service.choose(tried, |count| rolls.next().unwrap() % count).map(|endpoint| endpoint.instance)
            })
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn only_ready_and_untried_endpoints_are_chosen() {
        let mut endpoints = Endpoints::default();
        let service = apply(&mut endpoints, &snapshot(&[(0, State::Ready), (1, State::Draining), (2, State::Ready)]));
        assert_eq!(instances(&service, &[]), [0, 2]);
        let first = service.choose(&[], |_| 0).unwrap().id;
        assert_eq!(instances(&service, &[first]).len(), 1);
        apply(&mut endpoints, &snapshot(&[(0, State::Draining)]));
        assert_eq!(instances(&service, &[]), [0u32; 0], "an older snapshot sees the new states");
    }

    #[test]
    fn the_less_busy_of_two_is_taken_and_counts_survive_snapshots() {
        let mut endpoints = Endpoints::default();
        let both = snapshot(&[(0, State::Ready), (1, State::Ready)]);
        let service = apply(&mut endpoints, &both);
        let busy = service.choose(&[], |_| 0).unwrap();
        let guard = busy.occupy();
        let service = apply(&mut endpoints, &both);
        assert_eq!(instances(&service, &[]), [1 - busy.instance]);
        drop(guard);
        assert_eq!(instances(&service, &[]), [0, 1]);
    }
}
