//! Time on one core: a clock that is read once each time a task is woken, and deadlines that cost a store. A connection
//! has one deadline; it moves with every request, and nobody is told. Only when the time comes for which it was put in
//! order is it looked at: it fires, or is put in order anew.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

/// How late a deadline may be seen: the price of looking at many at once.
const GRAIN: Duration = Duration::from_millis(5);

/// Microseconds since the process began to count: the same on every core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) const fn of_micros(micros: u64) -> Self {
        Self(micros)
    }

    pub(crate) const fn micros(self) -> u64 {
        self.0
    }

    pub(crate) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; nothing if it is still to come.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// What time it is, for whom no core has looked.
pub(crate) fn now() -> Moment {
    Moment::default().after(base().elapsed())
}

/// When the process began to count. A second earlier than the first look, so that no moment is the beginning of time.
fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(|| Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or_else(Instant::now))
}

/// A moment that several cores know.
#[derive(Debug, Default)]
pub(crate) struct AtomicMoment(AtomicU64);

impl AtomicMoment {
    pub(crate) fn get(&self) -> Moment {
        Moment(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn set(&self, moment: Moment) {
        self.0.store(moment.0, Ordering::Relaxed);
    }
}

/// What time it is, as seen when the running task was woken.
#[derive(Debug)]
pub(crate) struct Clock {
    base: Instant,
    /// What time it was then, since the Unix epoch.
    unix: Cell<Duration>,
    now: Cell<Moment>,
}

impl Clock {
    fn new() -> Self {
        let clock = Self { base: base(), unix: Cell::default(), now: Cell::default() };
        clock.set_by_system();
        clock
    }

    /// Looks at the time.
    pub(crate) fn tick(&self) {
        self.now.set(Moment::default().after(self.base.elapsed()));
    }

    pub(crate) fn now(&self) -> Moment {
        self.now.get()
    }

    /// Since the Unix epoch.
    pub(crate) fn unix(&self) -> Duration {
        self.unix.get() + Duration::from_micros(self.now.get().0)
    }

    /// Follows the system's clock, which may be set.
    pub(crate) fn set_by_system(&self) {
        self.tick();
        let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.unix.set(unix.saturating_sub(Duration::from_micros(self.now.get().0)));
    }

    fn instant(&self, moment: Moment) -> Instant {
        self.base + Duration::from_micros(moment.0)
    }
}

/// The deadlines of one core.
#[derive(Debug)]
pub(crate) struct Timers {
    pub(crate) clock: Clock,
    entries: RefCell<Vec<Option<Rc<Entry>>>>,
    free: RefCell<Vec<u32>>,
    /// When each entry is to be looked at.
    order: RefCell<BTreeSet<(Moment, u32)>>,
    /// Rung when one is to be looked at before all others.
    bell: Notify,
}

#[derive(Debug)]
struct Entry {
    place: u32,
    deadline: Cell<Moment>,
    /// When it is looked at, never after the deadline; `NEVER` when it is not in order.
    scheduled: Cell<Moment>,
    waker: RefCell<Option<Waker>>,
}

impl Timers {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            clock: Clock::new(),
            entries: RefCell::default(),
            free: RefCell::default(),
            order: RefCell::default(),
            bell: Notify::new(),
        })
    }

    /// Makes a timer that wakes this task.
    pub(crate) fn timer(self: &Rc<Self>, waker: &Waker) -> Timer {
        let mut entries = self.entries.borrow_mut();
        let place = self.free.borrow_mut().pop().unwrap_or(entries.len() as u32);
        let entry = Rc::new(Entry {
            place,
            deadline: Cell::new(Moment::NEVER),
            scheduled: Cell::new(Moment::NEVER),
            waker: RefCell::new(Some(waker.clone())),
        });
        match entries.get_mut(place as usize) {
            Some(free) => *free = Some(Rc::clone(&entry)),
            None => entries.push(Some(Rc::clone(&entry))),
        }
        Timer { entry, timers: Rc::clone(self) }
    }

    /// Wakes everybody, to look at what has changed.
    pub(crate) fn wake_all(&self) {
        for entry in self.entries.borrow().iter().flatten() {
            entry.wake();
        }
    }

    /// Fires for as long as the core lives.
    pub(crate) async fn run(&self) -> Infallible {
        loop {
            let first = self.order.borrow().first().map(|(moment, _)| *moment);
            match first {
                None => self.bell.notified().await,
                Some(first) => {
                    let at = self.clock.instant(first).max(Instant::now() + GRAIN);
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = self.bell.notified() => {}
                    }
                }
            }
            self.clock.tick();
            self.fire(self.clock.now());
        }
    }

    fn fire(&self, now: Moment) {
        let mut order = self.order.borrow_mut();
        while let Some((moment, place)) = order.first().copied()
            && moment <= now
        {
            order.pop_first();
            let entries = self.entries.borrow();
            let Some(entry) = entries.get(place as usize).and_then(Option::as_ref) else { continue };
            let deadline = entry.deadline.get();
            entry.scheduled.set(Moment::NEVER);
            if deadline <= now {
                entry.wake();
            } else if deadline < Moment::NEVER {
                entry.scheduled.set(deadline);
                order.insert((deadline, place));
            }
        }
    }

    fn schedule(&self, entry: &Entry, deadline: Moment) {
        let mut order = self.order.borrow_mut();
        order.remove(&(entry.scheduled.get(), entry.place));
        entry.scheduled.set(deadline);
        let is_first = order.first().is_none_or(|(first, _)| deadline < *first);
        order.insert((deadline, entry.place));
        if is_first {
            self.bell.notify_one();
        }
    }
}

impl Entry {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// The deadline of one task.
#[derive(Debug)]
pub(crate) struct Timer {
    entry: Rc<Entry>,
    timers: Rc<Timers>,
}

impl Timer {
    /// The task is woken some time after this. To be said before each wait, also when it was said before.
    pub(crate) fn set(&self, deadline: Moment) {
        self.entry.deadline.set(deadline);
        if deadline < self.entry.scheduled.get() {
            self.timers.schedule(&self.entry, deadline);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Entry { place, scheduled, .. } = &*self.entry;
        self.timers.order.borrow_mut().remove(&(scheduled.get(), *place));
        self.timers.entries.borrow_mut()[*place as usize] = None;
        self.timers.free.borrow_mut().push(*place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_deadline_that_moves_is_looked_at_when_the_first_one_comes() {
        let (timers, count) = (Timers::new(), Arc::new(Count::default()));
        let woken = || count.0.load(Ordering::SeqCst);
        let timer = timers.timer(&Waker::from(Arc::clone(&count)));
        timer.set(Moment(10));
        for later in 11..1000 {
            timer.set(Moment(later));
        }
        assert_eq!(timers.order.borrow().len(), 1);
        timers.fire(Moment(10));
        assert_eq!((woken(), timers.order.borrow().first().copied()), (0, Some((Moment(999), 0))));
        timer.set(Moment(50));
        timers.fire(Moment(50));
        assert_eq!((woken(), timers.order.borrow().len()), (1, 0), "who was woken is not in order until it asks");
        timer.set(Moment(60));
        timer.set(Moment::NEVER);
        timers.fire(Moment(60));
        assert_eq!((woken(), timers.order.borrow().len()), (1, 0));
        timer.set(Moment(70));
        drop(timer);
        assert!(timers.order.borrow().is_empty());
        let again = timers.timer(&Waker::from(Arc::clone(&count)));
        assert_eq!((again.entry.place, timers.entries.borrow().len()), (0, 1), "places are used again");
        timers.wake_all();
        assert_eq!(woken(), 2);
    }
}
