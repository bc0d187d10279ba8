//! Reads one pipe of an instance: to the followers, to the store, and into a short memory of the last lines.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::AsyncRead;
use tokio::sync::{broadcast, mpsc};

use super::lines::Piece;
use super::pipe::Lines;
use super::{Line, Stream};

/// Limit: lines kept to be shown when an instance ends.
pub(crate) const LAST_LINES_MAX: usize = 20;

/// Limit: a line of those is cut to this many characters.
const LAST_LINE_CHARS_MAX: usize = 400;

/// Limit: how long a full store may hold an instance back, once. After that lines are dropped until there is room.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    pub(crate) store: mpsc::Sender<super::store::Entry>,
    pub(crate) followers: broadcast::Sender<Arc<Line>>,
}

/// Whose lines they are.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) service: Arc<str>,
    pub(crate) instance: u32,
    pub(crate) stream: Stream,
}

/// The last lines of one stream, oldest first.
pub(crate) type Tail = VecDeque<(Timestamp, String)>;

/// Keeps a line as one of the last.
pub(crate) fn remember(tail: &mut Tail, ts: Timestamp, text: &str) {
    if tail.len() == LAST_LINES_MAX {
        tail.pop_front();
    }
    tail.push_back((ts, text.chars().take(LAST_LINE_CHARS_MAX).collect()));
}

/// Merges the last lines of both streams, oldest first.
pub(crate) fn merge(stdout: Tail, stderr: Tail) -> Vec<String> {
    let mut all: Vec<_> = stdout.into_iter().chain(stderr).collect();
    all.sort_by_key(|(ts, _)| *ts);
    let surplus = all.len().saturating_sub(LAST_LINES_MAX);
    all.split_off(surplus).into_iter().map(|(_, text)| text).collect()
}

/// Reads until the end of the pipe.
pub(crate) async fn run(mut lines: Lines<impl AsyncRead + Unpin>, origin: Origin, sink: Sink) -> Tail {
    let mut tail = Tail::new();
    let mut dropped = 0;
    while let Some(piece) = lines.next().await {
        deliver(piece, &origin, &sink, &mut tail, &mut dropped).await;
    }
    tail
}

async fn deliver(piece: Piece, origin: &Origin, sink: &Sink, tail: &mut Tail, dropped: &mut u64) {
    let ts = Timestamp::now();
    remember(tail, ts, &piece.text);
    let Origin { service, instance, stream } = origin;
    let (service, instance, stream) = (Arc::clone(service), *instance, *stream);
    let line = Arc::new(Line { ts, service, instance, stream, text: piece.text, split: piece.split });
    // Without a follower there is nobody to tell; a slow one loses the oldest lines and is told so.
    let _ = sink.followers.send(Arc::clone(&line));
    let entry = super::store::Entry { line, dropped_before: *dropped };
    let sent = match *dropped {
        0 => sink.store.send_timeout(entry, PATIENCE).await.is_ok(),
        _ => sink.store.try_send(entry).is_ok(),
    };
    *dropped = if sent { 0 } else { *dropped + 1 };
}
