//! How many connections there are: in all, on each listener, from each client address. Asked when one is accepted, told
//! when one ends; requests do not come by here.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cores::Core;
use crate::limit::Limit;

// Limit: connections above a limit that are told so (503). Those above even that are closed without a word.
const REFUSALS_MAX: usize = 64;

/// Whether a connection found room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Served,
    /// Above a limit: told so once, then closed.
    Refused,
}

/// The counts of the whole process.
#[derive(Debug, Default)]
pub(crate) struct Rooms(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    listeners: HashMap<Arc<str>, usize>,
    clients: HashMap<IpAddr, usize>,
}

/// One connection's place, kept through a tunnel.
#[derive(Debug)]
pub(crate) struct Room {
    core: Rc<Core>,
    rooms: Arc<Rooms>,
    listener: Arc<str>,
    client: IpAddr,
}

impl Room {
    /// `None` when not even a refusal finds room. One that is not served is counted for the first limit that it met.
    pub(crate) fn take(
        core: &Rc<Core>,
        rooms: &Arc<Rooms>,
        listener: &Arc<str>,
        client: IpAddr,
    ) -> Option<(Self, Admission)> {
        core.counts.connections.add(1);
        // An address that came in through a socket of IPv6 is the same one.
        let client = client.to_canonical();
        let mut taken = rooms.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = &core.limits;
        taken.all += 1;
        let counts = [
            (taken.all - 1, limits.connections_max, Limit::Connections),
            (
                enter(&mut taken.listeners, Arc::clone(listener)),
                limits.connections_listener_max,
                Limit::ConnectionsPerListener,
            ),
            (enter(&mut taken.clients, client), limits.connections_client_max, Limit::ConnectionsPerAddress),
        ];
        drop(taken);
        let met = counts.iter().find(|(count, max, _)| count >= max).map(|(.., limit)| *limit);
        core.counts.reach(met);
        let room = Self { core: Rc::clone(core), rooms: Arc::clone(rooms), listener: Arc::clone(listener), client };
        let is_told = counts.iter().all(|(count, max, _)| *count < max.saturating_add(REFUSALS_MAX));
        match met {
            None => Some((room, Admission::Served)),
            Some(_) => is_told.then_some((room, Admission::Refused)),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.rooms.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        leave(&mut taken.listeners, &self.listener);
        leave(&mut taken.clients, &self.client);
        self.core.counts.connections_closed.add(1);
    }
}

/// Gives how many there were before.
fn enter<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) -> usize {
    let count = counts.entry(key).or_default();
    *count += 1;
    *count - 1
}

fn leave<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
