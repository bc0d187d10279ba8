//! Every task of the process is spawned here, under a name, and awaited at drain.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// A set of tasks with one owner. Clones are handles to the same set.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    /// Spawns on the current runtime. A panic ends this task alone and reaches the log through the panic hook.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(future)
    }

    /// Spawns on the current thread's runtime, for futures that stay on their core.
    pub fn spawn_local<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.tracker.spawn_local(future)
    }

    /// Spawns a blocking closure on the runtime's pool for such work.
    pub fn spawn_blocking<F, T>(&self, work: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.tracker.spawn_blocking(work)
    }

    /// How many have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether all have ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Returns when every task has ended. Unbounded: callers add their own limit.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finished_waits_for_all_and_survives_a_panic() {
        let tasks = Tasks::default();
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(receiver);
        let panicked = tasks.spawn(async { panic!("seen by the hook") });
        assert!(panicked.await.is_err());
        assert_eq!(tasks.len(), 1);
        sender.send(()).expect("the task waits");
        tasks.finished().await;
        assert!(tasks.is_empty());
    }
}
