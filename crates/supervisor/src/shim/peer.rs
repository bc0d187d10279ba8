//! The daemon's end of the conversation as a shim sees it: a socket that never blocks, and what waits to be sent.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::wire::{self, ORDER_BYTES_MAX, Order, Said};

/// Limit: bytes of lines that wait for a slow daemon; more lines are skipped, and are in the file only.
const LINES_BYTES_MAX: usize = 256 << 10;

/// How often skipped lines are said.
const SKIPPED_INTERVAL: Duration = Duration::from_secs(1);

/// Somebody who is connected.
#[derive(Debug)]
pub(super) struct Peer {
    stream: UnixStream,
    /// What is said and not sent, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    orders: Vec<u8>,
    skipped: u64,
    skipped_said: Option<Instant>,
}

impl Peer {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, out: Vec::new(), sent: 0, orders: Vec::new(), skipped: 0, skipped_said: None })
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Says something that must not be lost. Limit: a handful for each life.
    pub(super) fn say(&mut self, said: &Said) {
        self.out.extend_from_slice(&wire::line(said));
    }

    /// Says a line that is JSON already, with its end, unless too many wait.
    pub(super) fn say_line(&mut self, line: &[u8], now: Instant) {
        let waiting = self.out.len() - self.sent;
        if waiting > 0 && waiting + line.len() > LINES_BYTES_MAX {
            self.skipped += 1;
            return;
        }
        self.say_skipped(now);
        // What a serialised `Said::Line` looks like, without a second serialisation.
        self.out.extend_from_slice(b"{\"line\":");
        self.out.extend_from_slice(&line[..line.len() - 1]);
        self.out.extend_from_slice(b"}\n");
    }

    fn say_skipped(&mut self, now: Instant) {
        let is_due = self.skipped_said.is_none_or(|at| now.saturating_duration_since(at) >= SKIPPED_INTERVAL);
        if self.skipped > 0 && is_due {
            self.skipped_said = Some(now);
            let count = std::mem::take(&mut self.skipped);
            self.say(&Said::LinesSkipped { count });
        }
    }

    /// Whether everything said is sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.sent == self.out.len()
    }

    /// Sends what can be sent now.
    ///
    /// # Errors
    /// Nobody is there any more.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.out.len() {
            match (&self.stream).write(&self.out[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The part that is sent must not grow for ever either.
                    self.out.drain(..self.sent);
                    self.sent = 0;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.out.shrink_to(LINES_BYTES_MAX);
        self.sent = 0;
        Ok(())
    }

    /// Takes in what can be read now and gives the orders in it.
    ///
    /// # Errors
    /// Nobody is there any more, or somebody who says what no daemon says.
    pub(super) fn orders(&mut self) -> io::Result<Vec<Order>> {
        let mut bytes = [0; ORDER_BYTES_MAX];
        let mut orders = Vec::new();
        match (&self.stream).read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.orders.extend_from_slice(&bytes[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        while let Some(end) = self.orders.iter().position(|byte| *byte == b'\n') {
            orders.push(serde_json::from_slice(&self.orders[..end])?);
            self.orders.drain(..=end);
        }
        match self.orders.len() {
            0..ORDER_BYTES_MAX => Ok(orders),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;

    use super::*;

    #[test]
    fn a_slow_daemon_misses_lines_and_is_told_how_many() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(ours).unwrap();
        let line = [[b'1'; 1000].as_slice(), b"\n"].concat();
        let now = Instant::now();
        for _ in 0..5000 {
            peer.say_line(&line, now);
            peer.flush().unwrap();
            assert!(peer.out.len() - peer.sent <= LINES_BYTES_MAX + 2000);
        }
        peer.say(&Said::Gone { last_lines: Vec::new() });
        let reader = std::thread::spawn(move || {
            let lines = io::BufReader::new(theirs).lines().map_while(Result::ok);
            lines.fold((0, 0), |(lines, skipped), text| match serde_json::from_str(&text) {
                Ok(Said::LinesSkipped { count }) => (lines, skipped + count),
                Ok(Said::Gone { .. }) => (lines, skipped),
                // A number is no line of a log.
                _ => (lines + 1, skipped),
            })
        });
        while !peer.is_flushed() {
            peer.flush().unwrap();
        }
        peer.say_line(&line, now);
        peer.flush().unwrap();
        drop(peer);
        let (lines, skipped) = reader.join().unwrap();
        assert_eq!(lines + skipped, 5001);
        assert!(skipped > 1000, "{skipped}");
    }

    #[test]
    fn orders_arrive_in_any_pieces_and_nonsense_ends_the_connection() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(ours).unwrap();
        let mut seen = Vec::new();
        for byte in [wire::line(&Order::Signal(15)), wire::line(&Order::Kill)].concat() {
            theirs.write_all(&[byte]).unwrap();
            seen.extend(peer.orders().unwrap());
        }
        assert_eq!(seen, [Order::Signal(15), Order::Kill]);
        assert!(peer.orders().unwrap().is_empty());
        theirs.write_all(b"{\"dance\":1}\n").unwrap();
        assert!(peer.orders().is_err());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(ours).unwrap();
        theirs.write_all(&[b'x'; 2 * ORDER_BYTES_MAX]).unwrap();
        assert!((0..2).any(|_| peer.orders().is_err()));
        drop(theirs);
        assert!(peer.orders().is_err());
    }
}
