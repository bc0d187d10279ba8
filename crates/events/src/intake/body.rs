//! Bodies of requests: read as a whole within bounds of size, time and memory, or read away so that the answer arrives.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use super::{BODIES_BYTES_MAX, Share};

/// Limit: one body, from its first byte to its last.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit: what is read of a body that is not wanted, so that a client that only writes first gets to its answer.
const DISCARD_MAX: usize = 32 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    TooLarge {
        max: usize,
    },
    /// The bodies of others take all the memory there is for them.
    NoMemory,
    TimedOut,
    /// It has ended early, or is no HTTP.
    Broken,
}

/// Reads all of it.
pub(super) async fn read(body: &mut Incoming, max: usize, share: &mut Share<'_>) -> Result<Bytes, Unread> {
    if body.size_hint().lower() > max as u64 {
        return Err(Unread::TooLarge { max });
    }
    timeout(BODY_TIMEOUT, read_frames(body, max, share)).await.unwrap_or(Err(Unread::TimedOut))
}

async fn read_frames(body: &mut Incoming, max: usize, share: &mut Share<'_>) -> Result<Bytes, Unread> {
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if !share.take(frame.len(), BODIES_BYTES_MAX) {
            return Err(Unread::NoMemory);
        }
        if first.len() + all.len() + frame.len() > max {
            return Err(Unread::TooLarge { max });
        }
        // Most bodies are one frame: they are not copied.
        if first.is_empty() && all.is_empty() {
            first = frame;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&frame);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Reads on, for a while, and forgets it. A client that waits for `100 Continue` has sent nothing yet, and need not.
pub(super) async fn discard(body: &mut Incoming, headers: &HeaderMap) {
    if body.is_end_stream() || headers.contains_key(EXPECT) {
        return;
    }
    let all = async {
        let mut left = DISCARD_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Whether it was read to its end shows in the connection, which goes on or is closed.
    let _ = timeout(DISCARD_TIMEOUT, all).await;
}
