//! What travels between the daemon and the data plane's process over their Unix socket: JSON behind its length, and
//! listening sockets beside it (SCM_RIGHTS). Both sides are bounded, and neither believes what it reads.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::config::Limits;
use crate::counters::Counters;
use crate::meters::{Readings, Subject};
use crate::plane::AccessLog;
use crate::snapshot::Snapshot;
use crate::story::Story;
use crate::switches::Switches;

/// Version of everything in this file. Only the first fields of [`Hello`] keep their form for ever.
pub(crate) const PROTOCOL: u32 = 3;

// Limit: one message. A snapshot of 5,000 routes is about 2 MiB.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

// Limit: sockets beside one piece of a message; the kernel takes 253 (SCM_MAX_FD).
const SOCKETS_A_PIECE: usize = 200;

// Limit: sockets that came and that no message has claimed yet.
const SOCKETS_MAX: usize = 65_536;

const READ_BYTES: usize = 64 * 1024;
const LENGTH_BYTES: usize = 4;

/// Who the process is: its first message on every connection, with its sockets beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) pid: u32,
    pub(crate) build: String,
    pub(crate) started_at: jiff::Timestamp,
    /// Of the snapshot that it serves; 0 for none.
    pub(crate) generation: u64,
    /// 0 until it was told.
    pub(crate) cores: usize,
    /// [`Limits`] as it was told them; null until then. Not parsed: those of another version have other fields.
    #[serde(default)]
    pub(crate) limits: serde_json::Value,
    pub(crate) is_retiring: bool,
    pub(crate) listeners: Vec<Listening>,
    /// Whether it knows [`Order::Ping`]: one of an older version would take it for nonsense.
    #[serde(default)]
    pub(crate) answers: bool,
    /// The same of [`Order::Read`].
    #[serde(default)]
    pub(crate) reads: bool,
}

/// What every version of [`Hello`] has.
#[derive(Debug, Deserialize)]
pub(crate) struct Version {
    pub(crate) protocol: u32,
}

/// Limits as [`Hello`] has them.
pub(crate) fn shown(limits: &Limits) -> serde_json::Value {
    serde_json::to_value(limits).expect("limits are numbers and durations")
}

/// One listener, and how many of the sockets beside the message are its own; they come in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listening {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) sockets: usize,
}

/// What the process is told once; it keeps what it was told first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) cores: usize,
    pub(crate) limits: Limits,
    pub(crate) access_log: Option<AccessLog>,
}

/// From the daemon to the process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first on every connection: from now on, this is the daemon.
    Take(Box<Start>),
    /// Every listener that is wanted, with its sockets.
    Listeners(Vec<Listening>),
    Snapshot(Arc<Snapshot>),
    /// Everything that is switched from now on.
    Switch(Arc<Switches>),
    ResetBreaker {
        subject: Subject,
    },
    Drained {
        id: u64,
        service: String,
        instance: u32,
        address: SocketAddr,
    },
    /// Say what was counted.
    Read {
        id: u64,
    },
    /// Say what is remembered of this request, or the newest of all where the id is empty.
    Stories {
        id: u64,
        request_id: String,
        max: usize,
    },
    /// Stop accepting. Connections end with their next answer, idle ones after `linger`, everything after `bound`.
    Retire {
        linger: Duration,
        bound: Duration,
    },
    Stop,
    /// To be answered by [`Report::Pong`].
    Ping,
}

/// From the process to the daemon, after [`Hello`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Accepts on what it was told, and nowhere else.
    Listening,
    Applied {
        generation: u64,
    },
    Refused {
        generation: u64,
        why: String,
    },
    Drained {
        id: u64,
    },
    Counters(Counters),
    Readings {
        /// Of the order; none in the last words of the process.
        id: Option<u64>,
        readings: Box<Readings>,
    },
    Stories {
        id: u64,
        stories: Vec<Story>,
    },
    /// A signal has told it to end.
    Retiring,
    /// Another daemon has taken over: do not come back.
    Superseded,
    Pong,
}

/// Writes one message with its sockets. Not cancel safe: a message that is half sent ends the connection.
pub(crate) async fn send<T: Serialize>(stream: &UnixStream, message: &T, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut frame = vec![0; LENGTH_BYTES];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - LENGTH_BYTES).ok().filter(|length| *length as usize <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("a message is too large for the data plane's socket"))?;
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    let mut rest = frame.as_slice();
    let mut pieces = sockets.chunks(SOCKETS_A_PIECE);
    while !rest.is_empty() {
        let piece = pieces.next().unwrap_or_default();
        // A message that names its sockets is longer than the number of its pieces.
        let bytes = if pieces.len() > 0 { &rest[..1] } else { rest };
        let sent = stream.async_io(Interest::WRITABLE, || send_piece(stream, bytes, piece)).await?;
        rest = &rest[sent..];
    }
    Ok(())
}

fn send_piece(stream: &UnixStream, bytes: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_A_PIECE))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("there is no room for the sockets beside a message"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?)
}

/// Reads messages. Cancel safe.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Arc<UnixStream>,
    /// The beginning of the next message.
    buffer: Vec<u8>,
    sockets: VecDeque<OwnedFd>,
}

impl Reader {
    pub(crate) fn new(stream: Arc<UnixStream>) -> Self {
        Self { stream, buffer: Vec::new(), sockets: VecDeque::new() }
    }

    /// The next message. An end of the connection is an error too, as is whatever is no message.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let frame = self.frame().await?;
        Ok(serde_json::from_slice(&frame)?)
    }

    /// The bytes of the next message.
    pub(crate) async fn frame(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some((length, rest)) = self.buffer.split_first_chunk::<LENGTH_BYTES>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > FRAME_BYTES_MAX {
                    return Err(io::Error::other("a message is too large"));
                }
                if rest.len() >= length {
                    let rest = rest[length..].to_vec();
                    let mut frame = std::mem::replace(&mut self.buffer, rest);
                    frame.truncate(LENGTH_BYTES + length);
                    frame.drain(..LENGTH_BYTES);
                    return Ok(frame);
                }
            }
            let Self { stream, buffer, sockets } = self;
            stream.async_io(Interest::READABLE, || receive(stream, buffer, sockets)).await?;
        }
    }

    /// The sockets of the message that was just read.
    pub(crate) fn sockets(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        match self.sockets.len() >= count {
            true => Ok(self.sockets.drain(..count).collect()),
            false => Err(io::Error::other("a message lacks its sockets")),
        }
    }
}

fn receive(stream: &UnixStream, buffer: &mut Vec<u8>, sockets: &mut VecDeque<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_A_PIECE))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let before = buffer.len();
    buffer.resize(before + READ_BYTES, 0);
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut buffer[before..])], &mut beside, RecvFlags::CMSG_CLOEXEC);
    buffer.truncate(before + received.as_ref().map_or(0, |received| received.bytes));
    let received = received?;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || sockets.len() > SOCKETS_MAX {
        return Err(io::Error::other("too many sockets came"));
    }
    if received.bytes == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// The sockets of many listeners as they are sent.
pub(crate) fn borrowed<'a>(sockets: impl Iterator<Item = &'a std::net::TcpListener>) -> Vec<BorrowedFd<'a>> {
    sockets.map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn pair() -> (UnixStream, Reader) {
        let (one, other) = UnixStream::pair().unwrap();
        (one, Reader::new(Arc::new(other)))
    }

    #[tokio::test]
    async fn messages_and_hundreds_of_sockets_arrive_in_order() {
        let (stream, mut reader) = pair();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let sockets: Vec<BorrowedFd<'_>> = (0..501).map(|_| socket.as_fd()).collect();
        let listening = |number| Listening { name: format!("listener-{number}"), address, sockets: 1 };
        let listeners: Vec<Listening> = (0..501).map(listening).collect();
        let sending = async {
            send(&stream, &Order::Listeners(listeners.clone()), &sockets).await.unwrap();
            send(&stream, &Order::Stop, &[]).await.unwrap();
        };
        let reading = async {
            let Order::Listeners(read) = reader.next().await.unwrap() else { panic!("another message") };
            assert_eq!(read, listeners);
            let taken = reader.sockets(501).unwrap();
            let last = TcpListener::from(taken.into_iter().next_back().unwrap());
            assert_eq!(last.local_addr().unwrap(), address);
            assert!(matches!(reader.next().await.unwrap(), Order::Stop));
            assert!(reader.sockets(1).is_err());
        };
        tokio::join!(sending, reading);
    }

    #[tokio::test]
    async fn a_message_split_at_every_byte_is_one_message_and_garbage_is_an_error() {
        let (mut stream, mut reader) = pair();
        let frame = [&[0, 0, 0, 6], b"\"Stop\"".as_slice()].concat();
        let sending = async {
            for byte in frame.repeat(3) {
                stream.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            stream
        };
        let reading = async {
            for _ in 0..3 {
                assert!(matches!(reader.next().await.unwrap(), Order::Stop));
            }
        };
        let (stream, ()) = tokio::join!(sending, reading);
        drop(stream);
        assert!(reader.next::<Order>().await.is_err(), "the end");
        for garbage in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0, 0, 0, 2, 0xff, 0xfe], &[0, 0, 0, 0], &[0, 0]] {
            let (mut stream, mut reader) = pair();
            stream.write_all(garbage).await.unwrap();
            drop(stream);
            assert!(reader.next::<Order>().await.is_err(), "{garbage:?}");
        }
    }

    #[tokio::test]
    async fn a_snapshot_of_five_thousand_routes_fits() {
        let (stream, mut reader) = pair();
        let route = |number: usize| crate::Route {
            name: format!("route-{number}"),
            hostnames: vec!["shop.example.org".to_owned()],
            matches: vec![crate::Match {
                path: crate::PathMatch::Prefix(format!("/some/longer/path/of/a/service/{number}")),
                methods: vec!["GET".to_owned(), "POST".to_owned()],
                headers: vec![],
                query: vec![],
            }],
            filters: vec![],
            policy: crate::policy::Policy::plain(Duration::from_millis(1500)),
            backends: vec![crate::Backend { service: "a".to_owned(), weight: 1 }],
        };
        let listener = crate::Listener {
            role: crate::Role::Gateway,
            routes: (0..5000).map(route).collect(),
            is_logged: true,
            tells_reason: false,
        };
        let snapshot = Snapshot {
            generation: 7,
            listeners: [("gateway".to_owned(), listener)].into(),
            services: std::collections::BTreeMap::new(),
        };
        let snapshot = Arc::new(snapshot);
        let order = Order::Snapshot(Arc::clone(&snapshot));
        let (sent, read) = tokio::join!(send(&stream, &order, &[]), reader.next::<Order>());
        sent.unwrap();
        let Order::Snapshot(read) = read.unwrap() else { panic!("another message") };
        assert_eq!(read, snapshot);
    }
}
