//! What requests need only while they run, kept for the next one: buffers and heads. A quiet connection holds nothing of
//! it. One stock a core.

use std::cell::RefCell;

use crate::http1::chunk::Bounds;
use crate::http1::pipe::Pipe;
use crate::message::{RequestHead, ResponseHead};
use crate::story::Told;
use crate::timers::Moment;

/// The size of a buffer: a head and 16 KiB of content come in with one read.
pub(crate) const BUFFER_BYTES: usize = 32 * 1024;

// Limit: buffers and slates that one core keeps though nobody uses them.
const KEPT_MAX: usize = 64;

/// All that one request reads and writes on.
#[derive(Debug, Default)]
pub(crate) struct Slate {
    /// From the client: the request's head, what is there of its content, and what follows.
    pub(crate) inbound: Vec<u8>,
    /// When the first bytes of a head were seen that is not complete.
    pub(crate) began: Option<Moment>,
    /// How much was there when it was last looked for a head.
    pub(crate) looked: usize,
    pub(crate) request: RequestHead,
    pub(crate) response: ResponseHead,
    /// What is decided about it.
    pub(crate) story: Vec<Told>,
    /// Lines of the proxy's own for the answer's head.
    pub(crate) marks: Vec<u8>,
    /// From the client to the service.
    pub(crate) upload: Pipe,
    /// From the service to the client.
    pub(crate) download: Pipe,
}

impl Slate {
    fn new(bounds: Bounds) -> Self {
        Self {
            inbound: Vec::with_capacity(BUFFER_BYTES),
            upload: Pipe::new(bounds),
            download: Pipe::new(bounds),
            ..Self::default()
        }
    }

    /// Forgets what may stand before a request and means nothing (RFC 9112 §2.2).
    pub(crate) fn skip_empty_lines(&mut self) {
        let empty = self.inbound.chunks_exact(2).take_while(|line| *line == b"\r\n").count() * 2;
        self.inbound.drain(..empty);
        self.looked = self.inbound.len();
    }

    /// Whether what has come since the last look may have completed or spoilt a head. Who sends one byte at a time is not
    /// read anew with each of them.
    pub(crate) fn is_worth_a_look(&self) -> bool {
        let news = &self.inbound[self.looked.min(self.inbound.len())..];
        self.inbound.len() >= self.looked * 2 || news.contains(&b'\n')
    }
}

/// The free ones.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    #[expect(clippy::vec_box, reason = "slates are handed around, and their heads are large")]
    slates: RefCell<Vec<Box<Slate>>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    bounds: Bounds,
}

impl Stock {
    /// `bounds` is for all content that is read on its slates.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    pub(crate) fn slate(&self) -> Box<Slate> {
        self.slates.borrow_mut().pop().unwrap_or_else(|| Box::new(Slate::new(self.bounds)))
    }

    pub(crate) fn give_slate(&self, mut slate: Box<Slate>) {
        let mut slates = self.slates.borrow_mut();
        if slates.len() < KEPT_MAX && slate.inbound.capacity() <= BUFFER_BYTES && slate.upload.is_small() {
            slate.inbound.clear();
            (slate.began, slate.looked) = (None, 0);
            slates.push(slate);
        }
    }

    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    /// Takes a buffer back, and leaves none.
    pub(crate) fn give_buffer(&self, buffer: &mut Vec<u8>) {
        let mut given = std::mem::take(buffer);
        let mut buffers = self.buffers.borrow_mut();
        if given.capacity() == BUFFER_BYTES && buffers.len() < KEPT_MAX {
            given.clear();
            buffers.push(given);
        }
    }
}
