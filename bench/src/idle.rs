//! Many connections that have each made one request and are then kept. They come from many loopback addresses, so that
//! neither ports run out nor a proxy's limit for one client is met.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::client::{self, Connection};
use crate::work::IDLE_CONNECTIONS;

/// Open files that everything but the connections may need, here and in a proxy.
const FILES_RESERVED: usize = 1_024;
/// Open files that a proxy may hold for each connection: an upstream's too.
const FILES_PER_CONNECTION: usize = 2;
/// Addresses from which connections come.
const SOURCES: usize = 100;

/// Raises the limit of open files, which the peers inherit, as far as it may be, and tells how many idle connections it
/// is enough for.
pub(crate) fn raise_open_files() -> usize {
    let wanted = u64::try_from(IDLE_CONNECTIONS * FILES_PER_CONNECTION + FILES_RESERVED).unwrap_or(u64::MAX);
    let mut limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        let mut more = limit;
        (more.current, more.maximum) = (Some(wanted), Some(wanted));
        // Only a privileged process may; where it must not, fewer connections are made, and the report says how many.
        let _ = setrlimit(Resource::Nofile, more);
        limit = getrlimit(Resource::Nofile);
    }
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    connections(files.unwrap_or(usize::MAX))
}

fn connections(files: usize) -> usize {
    IDLE_CONNECTIONS.min(files.saturating_sub(FILES_RESERVED) / FILES_PER_CONNECTION)
}

/// Opens them one after the other, each with one request.
pub(crate) async fn open(address: SocketAddr, path: &str, count: usize) -> Result<Vec<Connection>> {
    let request = client::get(address, path);
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        let context = || format!("connection {number} of {count}");
        let mut connection = Connection::open(address, source(number)).await.with_context(context)?;
        let status = connection.exchange(&request).await.with_context(context)?.status;
        if status != 200 {
            bail!("connection {number} of {count} was answered {status}");
        }
        held.push(connection);
    }
    Ok(held)
}

fn source(number: usize) -> IpAddr {
    let last = u8::try_from(number % SOURCES).unwrap_or_default();
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, last + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_connections_as_files_allow() {
        assert_eq!(connections(usize::MAX), IDLE_CONNECTIONS);
        assert_eq!(connections(20_000), 9_488);
        assert_eq!(connections(10), 0);
    }

    #[test]
    fn connections_come_from_many_loopback_addresses() {
        assert_eq!(source(0).to_string(), "127.0.1.1");
        assert_eq!(source(299).to_string(), "127.0.1.100");
        assert!((0..300).all(|number| source(number).is_loopback()));
    }
}
