//! Listening sockets: how they are opened and what accepted connections inherit from them. Who accepts is `cores`'
//! matter, who holds them across processes `plane`'s.

use std::ffi::c_int;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::ioctl::{Getter, Opcode, ioctl};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

// Limit: connections that the kernel holds for one socket until they are accepted; it may hold fewer (somaxconn).
pub(crate) const BACKLOG: i32 = 1024;

/// After how long without a byte the kernel asks whether the other side is still there, and how often from then on. It
/// gives up after nine questions (`tcp_keepalive_probes`): tunnels have no other bound.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How the kernel finds out that the host of a client or of an endpoint is gone.
pub(crate) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL)
}

/// Whether somebody else may have the port already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Strangers,
    /// The port is our own already, at another address of this machine.
    Nobody,
}

/// How many bytes that were written to a connection its other side has not acknowledged: SIOCOUTQ (tcp(7)), which is
/// TIOCOUTQ. 0 where the kernel does not say.
#[expect(unsafe_code, reason = "rustix has no function for this request")]
pub(crate) fn unacknowledged(stream: &TcpStream) -> i64 {
    // As in asm-generic/ioctls.h, which holds for x86-64 and aarch64.
    const TIOCOUTQ: Opcode = 0x5411;
    // Safety: the request writes one `int` and nothing else, and the stream is open as long as it is borrowed.
    let count = unsafe { ioctl(stream, Getter::<TIOCOUTQ, c_int>::new()) };
    count.map_or(0, i64::from)
}

/// One socket a core for the same address; the kernel spreads connections over them.
///
/// # Errors
/// Those of the kernel; `AddrInUse` also for a stranger who would share the port.
pub(crate) fn open(address: SocketAddr, cores: usize, check: Check) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 && check == Check::Strangers {
        // SO_REUSEPORT would let a second daemon of the same user take half of the connections, unnoticed. A socket
        // without it finds out whether somebody listens.
        new_socket(address)?.bind(&address.into())?;
    }
    let mut opened: Vec<TcpListener> = Vec::with_capacity(cores);
    for _ in 0..cores {
        let address = opened.first().map_or(Ok(address), TcpListener::local_addr)?;
        let socket = new_socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        opened.push(socket.into());
    }
    Ok(opened)
}

/// On Linux accepted sockets inherit these options.
fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Without it a restarted proxy waits for the last connections of the one before to be forgotten (TIME_WAIT).
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    Ok(socket)
}
