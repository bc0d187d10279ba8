//! One writer for all events: those that wait together are written in one transaction, so that a replay of many costs one
//! sync for some hundred. Each is answered when it is on disk.

use rusqlite::Transaction;
use store_kit::{Pool, Problem};
use tokio::sync::{mpsc, oneshot};

use crate::event::Change;
use crate::index;

/// Changes of one transaction, and those that may wait for the next.
const GROUP_MAX: usize = 256;

#[derive(Debug)]
struct Order {
    change: Change,
    done: oneshot::Sender<Result<(), Problem>>,
}

/// The way to the writer, which ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Writer(mpsc::Sender<Order>);

impl Writer {
    pub(crate) fn new(pool: Pool) -> Self {
        let (sender, orders) = mpsc::channel(GROUP_MAX);
        tokio::spawn(write(pool, orders));
        Self(sender)
    }

    /// Returns when the change is on disk.
    ///
    /// # Errors
    /// When the database cannot be written to; then it was not.
    pub(crate) async fn write(&self, change: Change) -> Result<(), Problem> {
        let (done, written) = oneshot::channel();
        let away = || Problem::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "nothing is written any more");
        self.0.send(Order { change, done }).await.map_err(|_| away())?;
        written.await.unwrap_or_else(|_| Err(away()))
    }
}

async fn write(pool: Pool, mut orders: mpsc::Receiver<Order>) {
    let mut group = Vec::with_capacity(GROUP_MAX);
    while orders.recv_many(&mut group, GROUP_MAX).await > 0 {
        let (changes, waiting): (Vec<_>, Vec<_>) = group.drain(..).map(|order| (order.change, order.done)).unzip();
        let work = move |transaction: &Transaction<'_>| index::apply(transaction, &changes);
        let result = pool.write(work).await.map_err(Problem::from);
        for done in waiting {
            // Whoever asked may be gone.
            let _ = done.send(result.clone());
        }
    }
}
