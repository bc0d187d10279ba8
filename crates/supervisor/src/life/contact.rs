//! Whether the shim of a life still answers, and what is done in its place while it does not: its instance goes on, and is
//! not to suffer for it. Only `live` uses this; what is decided about the instance is decided elsewhere.

use std::time::Duration;

use kit::pulse::{Beat, Pulse};
use rustix::process::Pid;
use tokio::time::{Instant, sleep_until};

use crate::link::Link;
use crate::process::Watched;
use crate::procfs;
use crate::shim::wire::{Order, ProcessId};
use crate::status::Exit;

/// How often a shim is asked whether it is still there.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// Limit: so many intervals without an answer are told. Nothing is lost by a shim that was only slow.
const SILENT_MAX: u32 = 2;

/// Limit: how long a shim may take to hear an order before the daemon sees to it.
const HEAR_MAX: Duration = Duration::from_secs(3);

/// Limit: orders that it has not heard yet; signals beyond that are dropped.
const OWED_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Contact {
    pulse: Pulse,
    beat: Beat,
    /// The number of the last question.
    asked: u64,
    leader: Option<ProcessId>,
    /// Watched while the shim does not say how its leader is.
    watched: Option<Watched>,
    is_silent: bool,
    /// What it was told and has not heard, by the question that followed.
    owed: Vec<Order>,
    /// When the daemon acts in its place.
    deadline: Option<Instant>,
}

/// What there is to do.
#[derive(Debug)]
pub(super) enum Turn {
    Ask {
        silent: u32,
    },
    /// The shim has had its time.
    Act,
    /// The leader has ended, and the shim does not say so.
    LeaderEnded,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    FellSilent,
    SpokeAgain,
}

impl Contact {
    pub(super) fn new(link: &Link) -> Self {
        let (pulse, beat) = Pulse::new(ASK_INTERVAL);
        let leader = link.hello.state.started().map(|started| started.process);
        Self { pulse, beat, asked: 0, leader, watched: None, is_silent: false, owed: Vec::new(), deadline: None }
    }

    /// Waits for what is to be done next. Cancel safe.
    pub(super) async fn turn(&mut self) -> Turn {
        let Self { pulse, watched, deadline, .. } = self;
        let act = async {
            match deadline {
                Some(at) => sleep_until(*at).await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            match watched {
                Some(leader) => leader.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ended => Turn::LeaderEnded,
            () = act => Turn::Act,
            silent = pulse.tick() => Turn::Ask { silent },
        }
    }

    /// Gives an order that is to be carried out, with or without the shim. One that somebody has stopped goes on.
    pub(super) fn give(&mut self, link: &mut Link, order: Order) {
        link.order(order);
        if link.hello.answers {
            if self.owed.len() < OWED_MAX {
                self.owed.push(order);
            }
            self.wake(link);
        }
    }

    /// Has it go on, and expects an answer in time.
    fn wake(&mut self, link: &mut Link) {
        link.wake();
        self.ask(link);
        self.deadline.get_or_insert_with(|| Instant::now() + HEAR_MAX);
    }

    fn ask(&mut self, link: &mut Link) {
        self.asked += 1;
        link.order(Order::Ping(self.asked));
    }

    /// Asks again; while the last question is open only now and then, for one that found no room in the socket.
    pub(super) fn tick(&mut self, link: &mut Link, silent: u32) -> Change {
        if !link.hello.answers {
            return Change::None;
        }
        if silent.is_multiple_of(SILENT_MAX) {
            self.ask(link);
        }
        if silent >= SILENT_MAX { self.fall_silent() } else { Change::None }
    }

    /// Takes an answer.
    pub(super) fn heard(&mut self, id: u64) -> Change {
        self.beat.beat();
        if id == self.asked {
            self.owed.clear();
            self.deadline = None;
        }
        self.watched = None;
        match std::mem::take(&mut self.is_silent) {
            true => Change::SpokeAgain,
            false => Change::None,
        }
    }

    fn fall_silent(&mut self) -> Change {
        if std::mem::replace(&mut self.is_silent, true) {
            return Change::None;
        }
        // It may have ended already: nobody else would say so.
        let there = self.leader.filter(|leader| ProcessId::of(leader.pid) == Some(*leader));
        self.watched = there.and_then(|leader| Watched::new(Pid::from_raw(leader.pid)?).ok());
        Change::FellSilent
    }

    /// Does what the shim has not done. Gives what has changed, and whether nothing is left to do but to clear up.
    pub(super) fn act(&mut self) -> (Change, bool) {
        self.deadline = None;
        let change = self.fall_silent();
        for order in std::mem::take(&mut self.owed) {
            match order {
                Order::Stop(number) | Order::Signal(number) => {
                    if let Some(leader) = self.leader {
                        leader.signal_group(number);
                    }
                }
                Order::Kill => return (change, true),
                Order::Readiness(_) | Order::Ping(_) => {}
            }
        }
        // Order: an end that is watched for is told first, with its exit.
        (change, self.watched.is_none() && self.leader.is_none_or(|leader| !leader.is_running()))
    }

    /// How the leader has ended, if the kernel still says so; then the shim, too, has its time to say it.
    pub(super) fn leader_ended(&mut self, link: &mut Link) -> Option<Exit> {
        self.watched = None;
        self.wake(link);
        procfs::exit(self.leader?)
    }
}
