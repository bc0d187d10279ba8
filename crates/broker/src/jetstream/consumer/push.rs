//! What is particular to a consumer that pushes: whether anybody listens, heartbeats, and flow control, by which the
//! listener says that it keeps up. Windows and thresholds are those of nats-server.

use bytes::Bytes;

use super::status::Reply;

/// What may be on its way when all is well, in bytes. It begins with a sixteenth.
const WINDOW_MAX: u64 = 32 << 20;
const WINDOW_MIN: u64 = WINDOW_MAX / 16;

/// Whether the deliver subject has a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Present,
    Absent,
}

/// The listener of a push consumer.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) interest: Interest,
    /// When the next heartbeat is due. A delivery puts it off.
    pub(super) beat_at: Option<i64>,
    window: u64,
    /// Bytes on their way.
    unanswered: u64,
    /// The question that is open, and how many bytes its answer covers.
    question: Option<(Bytes, u64)>,
    questions: u64,
}

impl Listener {
    pub(super) fn new(beat_at: Option<i64>) -> Self {
        let interest = Interest::Absent;
        Self { interest, beat_at, window: WINDOW_MIN, unanswered: 0, question: None, questions: 0 }
    }

    /// Whether a message may be pushed now.
    pub(super) fn is_ready(&self) -> bool {
        self.interest == Interest::Present && self.unanswered <= self.window
    }

    /// Nothing is on its way to the listener that is there from now on.
    pub(super) fn restart(&mut self) {
        (self.window, self.unanswered, self.question) = (WINDOW_MIN, 0, None);
    }

    /// The question that is open, for heartbeats to repeat.
    pub(super) fn stalled(&self) -> Option<&Bytes> {
        self.question.as_ref().map(|(subject, _)| subject)
    }

    /// Counts a message of `size` bytes; perhaps it is time to ask whether they arrive.
    pub(super) fn pushed(&mut self, size: u64, to: &Bytes, prefix: &[u8]) -> Option<Reply> {
        self.unanswered += size;
        if let Some((_, covered)) = &mut self.question {
            if self.unanswered - *covered >= self.window {
                *covered += size;
            }
            return None;
        }
        if self.unanswered <= self.window / 2 {
            return None;
        }
        self.questions += 1;
        let subject = Bytes::from([prefix, self.questions.to_string().as_bytes()].concat());
        self.question = Some((subject.clone(), self.unanswered));
        Some(Reply::flow_control(to.clone(), subject))
    }

    /// The listener keeps up, if this answers the open question.
    pub(super) fn answered(&mut self, subject: &[u8]) {
        let Some((_, covered)) = self.question.take_if(|(question, _)| question == subject) else { return };
        self.window = (self.window * 2).min(WINDOW_MAX);
        self.unanswered = self.unanswered.saturating_sub(covered);
    }
}
