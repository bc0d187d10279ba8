//! The loop of one outbox: looks into its table when woken, hands rows over, hears what came of them, deletes them.
//! The only owner of its window; what blocks is done off the runtime's threads.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kit::Chain;
use kit::backoff::Backoff;
use kit::drain;
use tokio::sync::mpsc;

use super::table::{Batch, Table};
use super::wake::Wake;
use super::window::{Answer, Window};
use super::{Limits, Outbox, Relay, Report};
use crate::Error;

/// How often a table is looked into besides what wakes it.
const POLL: Duration = Duration::from_secs(1);

/// Two looks have at least this between them: a service may write other tables all the time.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// After a wake that found nothing, it is looked again after this and twice as long each time, up to the bound. SQLite
/// writes its log, which is told of, then syncs it, and shows the commit only then, in shared memory, which nobody tells of.
const ECHO_FIRST: Duration = Duration::from_millis(2);
const ECHO_MAX: Duration = Duration::from_millis(500);

/// The pause after nobody took an event.
const TAKER_BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

/// The pause after the table could not be used: whoever makes or mends it does not tell.
const TABLE_BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };

#[derive(Debug)]
pub(super) struct Outlet {
    outbox: Outbox,
    limits: Limits,
    relays: mpsc::Sender<Relay>,
    report: Report,
    answers: mpsc::UnboundedReceiver<Answer>,
    window: Window,
    /// Read, and not handed over yet.
    queue: VecDeque<Relay>,
    /// Invariant: rows of the window are of this table. Where it is closed, the window is empty.
    table: Option<Table>,
    /// Whether there may be something to read.
    is_dirty: bool,
    look_at: Instant,
    poll_at: Instant,
    /// When to look again although nothing has told to, and how long to wait after that.
    echo_at: Option<Instant>,
    echo: Option<Duration>,
    /// After failures in a row: their number, and when it is tried again.
    failures: u32,
    retry_at: Option<Instant>,
    pause: Option<Pause>,
    drain_until: Option<Instant>,
}

/// Why nothing goes on. Only the same who failed can lift it.
#[derive(Debug, PartialEq, Eq)]
enum Pause {
    /// Nobody takes events.
    Taker(String),
    /// The table cannot be used.
    Table(String),
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Settle,
    Restart,
    Look,
    Wait { until: Instant },
    End,
}

impl Outlet {
    pub(super) fn new(outbox: Outbox, limits: &Limits, relays: mpsc::Sender<Relay>, report: Report) -> Self {
        let (window, answers) = Window::new(limits);
        let now = Instant::now();
        Self {
            outbox,
            limits: limits.clone(),
            relays,
            report,
            answers,
            window,
            queue: VecDeque::new(),
            table: None,
            is_dirty: true,
            look_at: now,
            poll_at: now + POLL,
            echo_at: None,
            echo: None,
            failures: 0,
            retry_at: None,
            pause: None,
            drain_until: None,
        }
    }

    pub(super) async fn run(mut self, drain: drain::Watch) {
        self.report.update(|_| {});
        let wake = Wake::new(&self.outbox.path);
        loop {
            match self.decide(Instant::now()) {
                Step::Settle => self.settle().await,
                Step::Restart => self.restart(Instant::now()),
                Step::Look => self.look().await,
                Step::Wait { until } => self.wait(until, &wake, &drain).await,
                Step::End => break,
            }
        }
        drop((self.queue, self.window));
        close(self.table).await;
    }

    fn decide(&self, now: Instant) -> Step {
        if self.drain_until.is_some_and(|until| now >= until || self.window.len() == 0) {
            return Step::End;
        }
        let pause = self.retry_at.filter(|at| now < *at);
        let settle_at = self.window.settle_at();
        if pause.is_none() && settle_at.is_some_and(|at| now >= at) {
            return Step::Settle;
        }
        if self.window.may_restart() {
            return Step::Restart;
        }
        let may_look = self.drain_until.is_none() && self.window.room().is_some();
        let look_at = if self.is_dirty { Some(self.look_at) } else { self.echo_at }.filter(|_| may_look);
        if pause.is_none() && look_at.is_some_and(|at| now >= at) {
            return Step::Look;
        }
        let due = [settle_at, look_at].into_iter().flatten().min();
        // What is due has to wait for the end of the pause.
        let due = due.map(|due| pause.map_or(due, |pause| pause.max(due)));
        let until = [due, self.drain_until].into_iter().flatten().fold(self.poll_at, Instant::min);
        Step::Wait { until }
    }

    async fn wait(&mut self, until: Instant, wake: &Wake, drain: &drain::Watch) {
        let (mut drain, relays) = (drain.clone(), self.relays.clone());
        let is_draining = self.drain_until.is_some();
        let has_queue = !self.queue.is_empty();
        tokio::select! {
            biased;
            () = drain.started(), if !is_draining => self.begin_drain(),
            Some(answer) = self.answers.recv() => self.hear(answer),
            permit = relays.reserve(), if has_queue => match (permit, self.queue.pop_front()) {
                (Ok(permit), Some(relay)) => permit.send(relay),
                // Nobody will ever take anything: their tickets say so.
                _ => self.queue.clear(),
            },
            () = wake.changed(), if !self.is_dirty => {
                self.is_dirty = true;
                self.echo = Some(ECHO_FIRST);
            }
            () = tokio::time::sleep_until(until.into()) => {
                let now = Instant::now();
                if now >= self.poll_at {
                    self.poll_at = now + POLL;
                    self.is_dirty = true;
                    wake.arm();
                }
            }
        }
    }

    /// What was not handed over yet stays in the table.
    fn begin_drain(&mut self) {
        self.drain_until = Some(Instant::now() + self.limits.drain_max);
        self.queue.clear();
    }

    fn hear(&mut self, answer: Answer) {
        if let Some(reason) = self.window.answer(answer, Instant::now()) {
            self.queue.clear();
            // The one that failed first is the reason; those behind it were not wanted any more.
            if self.pause.is_none() && self.drain_until.is_none() {
                self.pause(Pause::Taker(reason));
            }
        } else if matches!(self.pause, Some(Pause::Taker(_))) && !self.window.is_broken() {
            self.resume();
        }
    }

    /// Begins anew with the first row that was not taken.
    fn restart(&mut self, now: Instant) {
        self.window.restart();
        self.is_dirty = true;
        if self.drain_until.is_none() {
            self.back_off(TAKER_BACKOFF, now);
        }
        self.update_gauges();
    }

    async fn look(&mut self) {
        self.look_at = Instant::now() + LOOK_INTERVAL;
        let Some(room) = self.window.room() else { return };
        let (outbox, table) = (self.outbox.clone(), self.table.take());
        let (after, data_bytes_max) = (self.window.last(), self.limits.data_bytes_max);
        // Order: what is written from here on wakes again.
        (self.is_dirty, self.echo_at) = (false, None);
        let work = move || match table.map_or_else(|| Table::open(&outbox.path, &outbox.table), Ok) {
            Ok(mut table) => {
                let result = table.read(after, room, data_bytes_max);
                (Some(table), result)
            }
            Err(error) => (None, Err(error)),
        };
        let (table, result) = blocking(work).await;
        self.table = table;
        match result {
            Ok(batch) => self.take(batch),
            Err(error) => self.fail(&error).await,
        }
    }

    fn take(&mut self, batch: Batch) {
        self.lift_table_pause();
        let now = Instant::now();
        if batch.rows.is_empty() {
            self.echo_at = self.echo.map(|echo| now + echo);
            self.echo = self.echo.map(|echo| echo * 2).filter(|echo| *echo <= ECHO_MAX);
        } else {
            self.echo = Some(ECHO_FIRST);
        }
        for row in batch.rows {
            match row.event {
                Ok((topic, event)) => {
                    let ticket = self.window.push(row.id, row.bytes);
                    let (database, table) = (self.outbox.database.clone(), self.outbox.table.clone());
                    self.queue.push_back(Relay { database, table, topic, event, ticket });
                }
                Err(reason) => self.window.push_refused(row.id, row.bytes, reason, now),
            }
        }
        self.is_dirty |= batch.has_more;
        self.report.update(|reading| reading.backlog = batch.backlog);
        self.update_gauges();
    }

    async fn settle(&mut self) {
        let settled = self.window.settled();
        let Some(mut table) = self.table.take() else { return self.abandon() };
        let work = move || {
            let result = table.settle(&settled);
            (table, settled, result)
        };
        let (table, settled, result) = blocking(work).await;
        self.table = Some(table);
        if let Err(error) = result {
            return self.fail(&error).await;
        }
        self.lift_table_pause();
        self.window.forget(settled.len(), Instant::now());
        let refused: Vec<_> = settled.iter().filter_map(|row| Some((row.id, row.refused.as_ref()?))).collect();
        for (id, reason) in &refused {
            let Outbox { database, table, .. } = &self.outbox;
            tracing::warn!(database, table, row = id, reason, "a row of an outbox was refused and put aside");
        }
        self.report.update(|reading| {
            reading.relayed += (settled.len() - refused.len()) as u64;
            reading.refused += refused.len() as u64;
            reading.backlog = reading.backlog.saturating_sub(settled.len() as u64);
            if let Some((id, reason)) = refused.last() {
                reading.refused_last = Some(format!("row {id}: {reason}"));
            }
        });
        self.update_gauges();
    }

    async fn fail(&mut self, error: &Error) {
        // Whoever was only kept waiting goes on where he was. Otherwise the rows in flight come again.
        if !matches!(error, Error::Busy { .. } | Error::Full { .. }) {
            self.abandon();
            close(self.table.take()).await;
        }
        self.is_dirty = true;
        self.pause(Pause::Table(Chain(error).to_string()));
        self.back_off(TABLE_BACKOFF, Instant::now());
    }

    fn abandon(&mut self) {
        self.queue.clear();
        self.window.restart();
        self.update_gauges();
    }

    fn back_off(&mut self, backoff: Backoff, now: Instant) {
        self.retry_at = Some(now + backoff.delay(self.failures, fastrand::f64()));
        self.failures = self.failures.saturating_add(1);
    }

    /// Says why nothing goes on, in the log only when the reason is a new one.
    fn pause(&mut self, pause: Pause) {
        if self.pause.as_ref() == Some(&pause) {
            return;
        }
        let (Pause::Taker(reason) | Pause::Table(reason)) = &pause;
        let Outbox { database, table, .. } = &self.outbox;
        tracing::warn!(database, table, reason, "an outbox is paused");
        self.report.update(|reading| reading.paused = Some(reason.clone()));
        self.pause = Some(pause);
    }

    fn lift_table_pause(&mut self) {
        if matches!(self.pause, Some(Pause::Table(_))) {
            self.resume();
        }
    }

    fn resume(&mut self) {
        (self.failures, self.retry_at, self.pause) = (0, None, None);
        let Outbox { database, table, .. } = &self.outbox;
        tracing::info!(database, table, "an outbox goes on");
        self.report.update(|reading| reading.paused = None);
    }

    fn update_gauges(&self) {
        let in_flight = self.window.len() as u64;
        self.report.update(|reading| reading.in_flight = in_flight);
    }
}

async fn close(table: Option<Table>) {
    blocking(move || drop(table)).await;
}

/// Off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match kit::tasks::Tasks::default().spawn_blocking(work).await {
        Ok(done) => done,
        Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
        // The runtime is going away, and this task with it.
        Err(_) => std::future::pending().await,
    }
}
