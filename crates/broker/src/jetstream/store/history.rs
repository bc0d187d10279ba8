//! What was written, whether it is still a message or not: for those who must know what has been, such as ids that count as
//! duplicates although their messages are gone. Read when a stream is opened.

use journal::{Journal, Sequence};

use super::{Result, Storage, Store, Stored, record};

impl Store {
    /// Shows everything that was written at `time` or later and is still in the journal `messages`, in order. Messages in
    /// memory have no history.
    ///
    /// # Errors
    /// [`super::Error::Journal`] where reading fails; what is damaged is passed over.
    pub(crate) async fn each_written_since(&mut self, time: i64, mut look: impl FnMut(Stored)) -> Result<()> {
        let Storage::Files(files) = &self.storage else { return Ok(()) };
        let (journal, last) = (&files.messages, files.messages.last(files.visible));
        let mut next = files.first_written_since(journal, time).await?;
        while next <= last {
            match journal.read_some(next, files.visible).await {
                Ok(records) if records.is_empty() => break,
                Ok(records) => {
                    for found in records {
                        next = found.sequence + 1;
                        if let Ok(stored) = record::stored(&found.payload, files.sequence_of(found.sequence)) {
                            look(stored);
                        }
                    }
                }
                Err(journal::Error::Damaged(damage)) => next = damage.until.max(next + 1),
                Err(journal::Error::Dropped { first, .. }) => next = first.max(next + 1),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl super::files::Files {
    /// The first record that may be as young as `time`: times never go back from one message to the next.
    async fn first_written_since(&self, journal: &Journal, time: i64) -> Result<Sequence> {
        let (mut low, mut high) = (journal.first(), journal.last(self.visible) + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            let written = match journal.get(middle, self.visible).await {
                Ok(found) => found.and_then(|found| record::decode(&found.payload).map(|message| message.time)),
                Err(journal::Error::Damaged(_) | journal::Error::Dropped { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            // What cannot be read may be young enough.
            if written.is_some_and(|written| written < time) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
