//! Drain as a value: whoever holds a [`Watch`] still works; the [`Trigger`] asks all of them to finish and waits.

use tokio::sync::watch;

/// Makes a trigger and the first of its watches; further watches are clones.
#[must_use]
pub fn channel() -> (Trigger, Watch) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Watch(receiver))
}

/// Starts a drain and waits until every [`Watch`] is dropped.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Trigger {
    /// Tells every watch that the drain has begun, and does not wait.
    pub fn start(&self) {
        self.0.send_replace(true);
    }

    /// Starts the drain and returns when the last [`Watch`] is gone. Unbounded: callers add their own limit.
    pub async fn finish(&self) {
        self.start();
        self.0.closed().await;
    }
}

/// Held by whatever must finish before the process may end. A trigger that is dropped counts as a drain.
#[derive(Clone, Debug)]
pub struct Watch(watch::Receiver<bool>);

impl Watch {
    /// Returns once the drain has begun; at once when it already has. Cancel safe.
    pub async fn started(&mut self) {
        // A closed channel means that the owner of the trigger is gone: nobody is left to work for.
        let _ = self.0.wait_for(|started| *started).await;
    }

    /// Says whether the drain has begun.
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_the_last_watch() {
        let (trigger, mut first) = channel();
        let second = first.clone();
        assert!(!first.is_started());
        let finished = tokio::spawn(async move { trigger.finish().await });
        first.started().await;
        assert!(second.is_started());
        drop(first);
        assert!(!finished.is_finished());
        drop(second);
        finished.await.expect("the drain ends");
    }

    #[tokio::test]
    async fn a_lost_trigger_is_a_drain() {
        let (trigger, mut watch) = channel();
        drop(trigger);
        watch.started().await;
        assert!(watch.is_started());
    }
}
