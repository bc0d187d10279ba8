//! Reading for async callers: a cursor that reads ahead on a thread for blocking work and gives records one by one.

use std::collections::VecDeque;

use kit::tasks::Tasks;
use tokio::task::JoinHandle;

use crate::Record;
use crate::cursor::Cursor;
use crate::error::{Error, Result};

/// Reads a journal in order, beside its writer.
#[derive(Debug)]
pub struct Reader {
    state: State,
    records: VecDeque<Record>,
    tasks: Tasks,
    folder: std::path::PathBuf,
}

#[derive(Debug)]
enum State {
    Idle(Box<Cursor>),
    /// A read that is under way outlives the call that began it, so that such a call can be dropped.
    Reading(JoinHandle<(Box<Cursor>, Result<Vec<Record>>)>),
    /// The runtime ended in the middle of a read.
    Gone,
}

impl Reader {
    pub(crate) fn new(cursor: Cursor, tasks: Tasks, folder: std::path::PathBuf) -> Self {
        Self { state: State::Idle(Box::new(cursor)), records: VecDeque::new(), tasks, folder }
    }

    /// Gives the next record; `None` when all that is visible now was given, and later more if more has come
    /// ([`crate::Journal::watch`] tells when). Dropping this future loses nothing.
    ///
    /// # Errors
    /// [`Error::Damaged`] with what cannot be given, each time: who wants to go on begins a new reader at its `until`.
    /// [`Error::Dropped`] when retention has overtaken this reader. [`Error::Io`] when reading fails.
    pub async fn next(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Ok(Some(record));
            }
            match &mut self.state {
                State::Idle(cursor) if cursor.is_at_end() => return Ok(None),
                State::Idle(_) => self.begin(),
                State::Reading(reading) => {
                    let ended = reading.await;
                    self.state = State::Gone;
                    let (cursor, records) = ended.map_err(|_| self.closed())?;
                    self.state = State::Idle(cursor);
                    self.records.extend(records?);
                }
                State::Gone => return Err(self.closed()),
            }
        }
    }

    fn begin(&mut self) {
        if let State::Idle(mut cursor) = std::mem::replace(&mut self.state, State::Gone) {
            self.state = State::Reading(self.tasks.spawn_blocking(move || {
                let records = cursor.fill();
                (cursor, records)
            }));
        }
    }

    fn closed(&self) -> Error {
        Error::Closed { folder: self.folder.clone() }
    }
}
