//! So many requests at a time on one route or edge, and a queue for those that come meanwhile, first come, first served.
//! Shared by all cores; who waits is woken on its own. Knows no time: how long somebody waits is the caller's matter.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use serde::{Deserialize, Serialize};

use crate::policy::Concurrency;

#[cfg(test)]
mod tests;

/// One that waits, in the upper half of `Gate::load`; the lower half counts those that run.
const WAITING: u64 = 1 << 32;

/// The places of one route or edge.
// Invariant: somebody waits only while all places are taken. Without anybody waiting, places are taken and left by one
// step on `load`; its upper half changes only under the lock of the queue and says how many are in it. So whoever leaves
// either sees that nobody waits, in the same step, or passes the place on under the lock.
#[derive(Debug)]
pub(crate) struct Gate {
    max: u64,
    queue_max: u64,
    load: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order of their numbers. Who is not among them any more was given a place.
    waiters: VecDeque<Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    waker: Option<Waker>,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Entered {
    Place(Place),
    /// It has to wait, behind so many others.
    Wait {
        ticket: Ticket,
        running: u32,
        ahead: u32,
    },
    /// And there is no room to wait in, either.
    Full {
        running: u32,
        waiting: u32,
    },
}

/// How a gate stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReading {
    pub running: u32,
    pub waiting: u32,
    pub max: u32,
}

impl Gate {
    /// Empty. There is one place at least.
    pub(crate) fn new(policy: &Concurrency) -> Self {
        let (max, queue_max) = (policy.max.max(1).into(), policy.queue.into());
        Self { max, queue_max, load: AtomicU64::new(0), queue: Mutex::default() }
    }

    /// Takes a place, or one in the queue. Nobody passes those that wait.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Entered {
        if self.step(|load| (load < self.max).then_some(load + 1)).is_ok() {
            return Entered::Place(Place { gate: Arc::clone(self) });
        }
        let mut queue = self.queue();
        // Somebody may have left since. Else it waits, if it may: all in one step.
        let step = |load: u64| match load {
            load if load < self.max => Some(load + 1),
            load if load / WAITING < self.queue_max => Some(load + WAITING),
            _ => None,
        };
        match self.step(step) {
            Ok(load) if load < self.max => Entered::Place(Place { gate: Arc::clone(self) }),
            Ok(load) => {
                let number = queue.next;
                queue.next += 1;
                queue.waiters.push_back(Waiter { number, waker: None });
                let ticket = Ticket { gate: Arc::clone(self), number, is_over: false };
                Entered::Wait { ticket, running: running(load), ahead: waiting(load) }
            }
            Err(load) => Entered::Full { running: running(load), waiting: waiting(load) },
        }
    }

    pub(crate) fn reading(&self) -> GateReading {
        let load = self.load.load(Ordering::Relaxed);
        GateReading { running: running(load), waiting: waiting(load), max: self.max as u32 }
    }

    /// One step on `load`, or none; gives what it was.
    fn step(&self, step: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64> {
        self.load.fetch_update(Ordering::AcqRel, Ordering::Acquire, step)
    }

    /// A place is free: it goes to who has waited longest, if anybody does.
    fn leave(&self) {
        if self.step(|load| (load < WAITING).then(|| load - 1)).is_ok() {
            return;
        }
        let mut queue = self.queue();
        let first = queue.waiters.pop_front();
        // Whoever waited may have gone before the lock was there; nobody can have come since.
        self.load.fetch_sub(if first.is_some() { WAITING } else { 1 }, Ordering::AcqRel);
        drop(queue);
        if let Some(waker) = first.and_then(|waiter| waiter.waker) {
            waker.wake();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn running(load: u64) -> u32 {
    (load % WAITING) as u32
}

const fn waiting(load: u64) -> u32 {
    (load / WAITING) as u32
}

impl Queue {
    fn place_of(&self, number: u64) -> Option<usize> {
        self.waiters.binary_search_by_key(&number, |waiter| waiter.number).ok()
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.leave();
    }
}

/// A place in the queue, until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    gate: Arc<Gate>,
    number: u64,
    /// Its place was handed out.
    is_over: bool,
}

impl Ticket {
    /// Gives the place once it is there, and nothing ever after. Wakes who asked last.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Place> {
        if self.is_over {
            return Poll::Pending;
        }
        let mut queue = self.gate.queue();
        if let Some(place) = queue.place_of(self.number) {
            let waker = &mut queue.waiters[place].waker;
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        self.is_over = true;
        drop(queue);
        Poll::Ready(Place { gate: Arc::clone(&self.gate) })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut queue = self.gate.queue();
        if let Some(place) = queue.place_of(self.number) {
            queue.waiters.remove(place);
            self.gate.load.fetch_sub(WAITING, Ordering::AcqRel);
        } else {
            // It was given a place that nobody has taken.
            drop(queue);
            self.gate.leave();
        }
    }
}
