//! The sockets that a broker listens on. They outlive it: another one can go on with the same, so that whoever connects in
//! between waits in the backlog, and more can be opened before any is closed. Made by whoever opens a broker.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use crate::error::Error;

/// Open sockets. A clone has the very same; one closes with the last that has it.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    address: Option<SocketAddr>,
    pub(crate) clients: Vec<Arc<Socket>>,
    pub(crate) monitor: Option<Arc<Socket>>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Socket {
    /// What was asked for, perhaps with port 0.
    asked: SocketAddr,
    /// With the port that the kernel chose.
    pub(crate) address: SocketAddr,
    listener: TcpListener,
}

impl Sockets {
    /// Opens them, but for those that are open already. The first address of the clients is the one that they are told.
    ///
    /// # Errors
    /// [`Error::Listen`]; nothing was opened or closed then.
    pub fn bind(clients: &[SocketAddr], monitor: Option<SocketAddr>, open: &Self) -> Result<Self, Error> {
        let mut bound = Self::default();
        clients.iter().try_for_each(|asked| bound.add(*asked, open))?;
        bound.address = bound.clients.first().map(|socket| socket.address);
        if let Some(asked) = monitor {
            let socket = open.monitor.clone().filter(|socket| socket.asked == asked);
            bound.monitor = Some(socket.map_or_else(|| Socket::bind(asked, "monitoring"), Ok)?);
        }
        Ok(bound)
    }

    /// Listens for clients at one more address.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn add(&mut self, asked: SocketAddr, open: &Self) -> Result<(), Error> {
        if !self.clients.iter().any(|socket| socket.asked == asked) {
            let known = open.clients.iter().find(|socket| socket.asked == asked).cloned();
            self.clients.push(known.map_or_else(|| Socket::bind(asked, "clients"), Ok)?);
        }
        Ok(())
    }

    /// Where clients are told to connect, if anywhere.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Gives them up and keeps what was told of them.
    pub(crate) fn give_up(&mut self) {
        self.clients.clear();
        self.monitor = None;
    }

    /// Where the monitoring is read, if anywhere.
    #[must_use]
    pub fn monitor_address(&self) -> Option<SocketAddr> {
        self.monitor.as_ref().map(|socket| socket.address)
    }
}

impl Socket {
    fn bind(asked: SocketAddr, purpose: &'static str) -> Result<Arc<Self>, Error> {
        let open = || {
            let listener = TcpListener::bind(asked)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            io::Result::Ok(Arc::new(Self { asked, address, listener }))
        };
        open().map_err(|source| Error::Listen { address: asked, purpose, source })
    }

    /// The same socket for a task to accept from.
    ///
    /// # Errors
    /// No descriptor is free, or there is no runtime.
    pub(crate) fn listener(&self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.listener.try_clone()?)
    }
}
