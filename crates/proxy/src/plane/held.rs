//! The listening sockets by the names of their listeners, as daemon and process both hold them: who holds a socket keeps
//! its queue alive while the other is gone.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use crate::error::Error;
use crate::plane::wire::{self, Listening, Reader};
use crate::sockets::{self, Check};

/// Every listener. Cloned cheaply; the sockets are closed with the last clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    listeners: Arc<BTreeMap<String, Arc<Sockets>>>,
}

/// The sockets of one listener, one a core.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) address: SocketAddr,
    pub(crate) sockets: Vec<TcpListener>,
}

impl Held {
    /// Takes the sockets that came beside a message.
    pub(crate) fn receive(reader: &mut Reader, listening: Vec<Listening>) -> io::Result<Self> {
        let mut listeners = BTreeMap::new();
        for Listening { name, address, sockets } in listening {
            let sockets: Vec<TcpListener> = reader.sockets(sockets)?.into_iter().map(TcpListener::from).collect();
            for socket in &sockets {
                // What was given as a listener must be that one: whatever else came would make a core deaf.
                if socket.local_addr().ok() != Some(address) {
                    return Err(io::Error::other(format!("what came for `{name}` does not listen on {address}")));
                }
                socket.set_nonblocking(true)?;
            }
            listeners.insert(name, Arc::new(Sockets { address, sockets }));
        }
        Ok(Self { listeners: Arc::new(listeners) })
    }

    /// What goes into the message, in the order of [`Held::borrowed`].
    pub(crate) fn listening(&self) -> Vec<Listening> {
        let listening = |(name, held): (&String, &Arc<Sockets>)| Listening {
            name: name.clone(),
            address: held.address,
            sockets: held.sockets.len(),
        };
        self.listeners.iter().map(listening).collect()
    }

    /// What goes beside the message.
    pub(crate) fn borrowed(&self) -> Vec<std::os::fd::BorrowedFd<'_>> {
        wire::borrowed(self.listeners.values().flat_map(|held| &held.sockets))
    }

    pub(crate) fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        self.listeners.iter().map(|(name, held)| (name.clone(), held.address)).collect()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.listeners, &other.listeners)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Arc<Sockets>)> {
        self.listeners.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.listeners.contains_key(name)
    }

    /// Whether this name is at this address.
    pub(crate) fn has(&self, name: &str, address: SocketAddr) -> bool {
        self.listeners.get(name).is_some_and(|held| held.address == address)
    }

    /// What `wanted` names, with the sockets of `self` where it has them.
    pub(crate) fn merge(&self, wanted: &Self) -> Self {
        let known = |(name, new): (&String, &Arc<Sockets>)| {
            let present = self.listeners.get(name).filter(|present| present.address == new.address);
            (name.clone(), Arc::clone(present.unwrap_or(new)))
        };
        Self { listeners: Arc::new(wanted.listeners.iter().map(known).collect()) }
    }

    /// The sockets for what is wanted: those that are held already, by name or, where a listener was renamed, by
    /// address; and new ones for the rest. Nothing of `self` changes.
    ///
    /// # Errors
    /// [`Error::Listen`] for the first address that cannot be had, [`Error::DuplicateListener`].
    pub(crate) fn with(&self, wanted: &[(String, SocketAddr)], cores: usize) -> Result<Self, Error> {
        let mut listeners: BTreeMap<String, Arc<Sockets>> = BTreeMap::new();
        for (name, address) in wanted {
            let fits = |held: &&Arc<Sockets>| is_at(held.address, *address) && held.sockets.len() == cores;
            let is_free = |held: &&Arc<Sockets>| !listeners.values().any(|taken| Arc::ptr_eq(taken, held));
            // Port 0 fits whatever the name has, and no other listener.
            let renamed = || self.listeners.values().filter(|_| address.port() != 0).filter(fits).find(is_free);
            let held = self.listeners.get(name).filter(fits).filter(is_free).or_else(renamed);
            let held = match held {
                Some(held) => Arc::clone(held),
                None => Arc::new(self.open(name, *address, cores)?),
            };
            if listeners.insert(name.clone(), held).is_some() {
                return Err(Error::DuplicateListener { listener: name.clone() });
            }
        }
        Ok(Self { listeners: Arc::new(listeners) })
    }

    fn open(&self, name: &str, address: SocketAddr, cores: usize) -> Result<Sockets, Error> {
        let failed = |source| Error::Listen { listener: name.to_owned(), address, source };
        // From one address of this machine to all of them, say: the port is ours, and stays so until the change is made.
        let is_ours = self.listeners.values().any(|held| held.address.port() == address.port());
        let check = if is_ours { Check::Nobody } else { Check::Strangers };
        let sockets = sockets::open(address, cores, check).map_err(failed)?;
        let address = sockets[0].local_addr().map_err(failed)?;
        Ok(Sockets { address, sockets })
    }
}

fn is_at(held: SocketAddr, wanted: SocketAddr) -> bool {
    held.ip() == wanted.ip() && (wanted.port() == 0 || held.port() == wanted.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(listeners: &[(&str, SocketAddr)]) -> Vec<(String, SocketAddr)> {
        listeners.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect()
    }

    #[test]
    fn what_is_held_stays_also_under_another_name_and_the_rest_is_opened_or_closed() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = Held::default().with(&wanted(&[("a", any), ("b", any)]), 2).unwrap();
        let addresses = first.addresses();
        let same = first.with(&wanted(&[("a", any), ("b", addresses["b"])]), 2).unwrap();
        assert_eq!(same.addresses(), addresses);
        let second = first.with(&wanted(&[("c", addresses["b"]), ("d", any)]), 2).unwrap();
        assert_eq!(second.addresses()["c"], addresses["b"]);
        assert!(Arc::ptr_eq(&second.listeners["c"], &first.listeners["b"]));
        drop((first, same));
        assert!(std::net::TcpStream::connect(addresses["a"]).is_err(), "closed with the last who holds it");
        let everywhere = SocketAddr::from(([0, 0, 0, 0], addresses["b"].port()));
        let wider = second.with(&wanted(&[("c", everywhere)]), 2).unwrap();
        assert_eq!(wider.addresses()["c"], everywhere);
        assert!(matches!(Held::default().with(&wanted(&[("c", addresses["b"])]), 2), Err(Error::Listen { .. })));
        let twice = second.with(&wanted(&[("c", any), ("c", any)]), 2).unwrap_err();
        assert!(matches!(twice, Error::DuplicateListener { .. }));
    }
}
