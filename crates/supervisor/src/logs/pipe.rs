//! Lines from the pipe of a child: of an instance or of a build.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::lines::{Piece, Splitter};

/// Limit: how long a pipe may stay open once the child's group is gone. A process that left the group, such as a
/// compiler's server, may hold it for ever.
const CLOSE_MAX: Duration = Duration::from_millis(500);

const READ_BYTES: usize = 16 << 10;

/// The lines of one pipe.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    pipe: Option<R>,
    splitter: Splitter,
    ready: VecDeque<Piece>,
    buffer: Vec<u8>,
    gone: CancellationToken,
    close_at: Option<Instant>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// `gone` is cancelled when the child's group has ended.
    pub(crate) fn new(pipe: R, line_bytes_max: usize, gone: CancellationToken) -> Self {
        let splitter = Splitter::new(line_bytes_max);
        Self { pipe: Some(pipe), splitter, ready: VecDeque::new(), buffer: vec![0; READ_BYTES], gone, close_at: None }
    }

    /// The next line; `None` at the end of the pipe. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            let pipe = self.pipe.as_mut()?;
            let closed = async {
                self.gone.cancelled().await;
                sleep_until(*self.close_at.get_or_insert_with(|| Instant::now() + CLOSE_MAX)).await;
            };
            let length = tokio::select! {
                read = pipe.read(&mut self.buffer) => read.unwrap_or(0),
                () = closed => 0,
            };
            if length == 0 {
                self.pipe = None;
                self.ready.extend(self.splitter.finish());
            } else {
                self.splitter.feed(&self.buffer[..length], |piece| self.ready.push_back(piece));
            }
        }
    }
}
