//! Readiness as a value: an engine is handed a [`Token`]; dropped before [`Token::ready`] it means *failed*.

use tokio::sync::watch;

/// Where a start stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Starting,
    Ready,
    Failed,
}

/// Makes a token for the one who starts and a watch for the one who waits.
#[must_use]
pub fn channel() -> (Token, Watch) {
    let (sender, receiver) = watch::channel(State::Starting);
    (Token(sender), Watch(receiver))
}

/// The promise to become ready.
#[derive(Debug)]
pub struct Token(watch::Sender<State>);

impl Token {
    /// Keeps the promise.
    pub fn ready(self) {
        self.0.send_replace(State::Ready);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.send_if_modified(|state| {
            let broken = *state == State::Starting;
            if broken {
                *state = State::Failed;
            }
            broken
        });
    }
}

/// Waits for a promise to be kept or broken.
#[derive(Clone, Debug)]
pub struct Watch(watch::Receiver<State>);

impl Watch {
    /// Returns [`State::Ready`] or [`State::Failed`], never [`State::Starting`].
    pub async fn settled(&mut self) -> State {
        match self.0.wait_for(|state| *state != State::Starting).await {
            Ok(state) => *state,
            Err(_) => State::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kept_promise_is_ready_and_a_dropped_one_failed() {
        let (token, mut watch) = channel();
        token.ready();
        assert_eq!(watch.settled().await, State::Ready);

        let (token, mut watch) = channel();
        drop(token);
        assert_eq!(watch.settled().await, State::Failed);
    }
}
