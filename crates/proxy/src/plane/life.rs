//! One process seen from the daemon, until it has ended: tells it what is wanted, passes on what it says, connects anew
//! when the connection breaks. What follows from that is decided in `bound`.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kit::Chain;
use kit::pulse::{Beat, Pulse};
use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;

use crate::plane::held::Held;
use crate::plane::process::{Link, Process};
use crate::plane::wire::{self, Hello, Order, Reader, Report, Start};
use crate::snapshot::Snapshot;
use crate::switches::Switches;

/// How long a process may take to say who it is: a new one has to be loaded first.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Between two tries to connect to a process that has broken the connection.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(50);
/// How often a process is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// Limit: so many of these intervals without a word end a process: three seconds for one that is stopped, and ten for one
/// that a busy machine may be keeping from an answer.
const SILENT_STOPPED_MAX: u32 = 6;
const SILENT_MAX: u32 = 20;

/// What every process is to have: the newest of each, without what came between.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) held: Held,
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) switches: Arc<Switches>,
}

/// What one process did.
#[derive(Debug)]
pub(crate) enum Deed {
    /// It hears: what was asked of it before is to be asked again.
    Connected,
    Said(Report),
    /// It takes nothing and says nothing: it serves nobody.
    Silent,
    /// How it ended.
    Ended(String),
}

/// What the task of one process needs.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) process: Process,
    /// The connection over which it was found.
    pub(crate) link: Option<Link>,
    pub(crate) talk: Talk,
}

/// What goes back and forth.
#[derive(Debug)]
pub(crate) struct Talk {
    /// Its number in the loop.
    pub(crate) life: u64,
    pub(crate) start: Arc<Start>,
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) deeds: mpsc::Sender<(u64, Deed)>,
}

impl Life {
    /// Runs until the process has ended. Dropped, it leaves the process alone.
    pub(crate) async fn attend(self) {
        let Self { mut process, link, mut talk } = self;
        let (life, deeds) = (talk.life, talk.deeds.clone());
        tokio::select! {
            // Order: its last words are read before its end is seen.
            biased;
            never = talk.go_on(&process, link) => match never {},
            () = process.ended() => {}
        }
        let _ = deeds.send((life, Deed::Ended(process.bury()))).await;
    }
}

impl Talk {
    async fn go_on(&mut self, process: &Process, mut found: Option<Link>) -> Infallible {
        let pid = process.pid.as_raw_nonzero().get();
        loop {
            let link = match found.take() {
                Some(link) => link,
                None => match process.connect(ANSWER_MAX).await {
                    Ok(link) => link,
                    Err(why) => {
                        tracing::error!(pid, why = %Chain(&why), "the data plane cannot be talked to and is killed");
                        process.signal(Signal::KILL);
                        return pending().await;
                    }
                },
            };
            let (pulse, beat) = Pulse::new(PING_INTERVAL);
            let (due, is_asked) = (Notify::new(), link.hello.answers);
            let conversed = tokio::select! {
                // Order: what it has said is heard before it is called silent.
                biased;
                conversed = self.converse(link, &beat, &due) => conversed,
                () = silence(process, pulse, &due), if is_asked => {
                    let _ = self.deeds.send((self.life, Deed::Silent)).await;
                    return pending().await;
                }
            };
            let error = match conversed {
                Ok(()) => return pending().await,
                Err(error) => error,
            };
            // The process has most likely ended: its pidfd says so before this pause is over.
            sleep(RECONNECT_INTERVAL).await;
            tracing::warn!(pid, %error, "the connection to the data plane broke; connecting anew");
        }
    }

    /// Returns without an error when the process follows another daemon. Asks it to answer whenever that is `due`.
    async fn converse(&mut self, link: Link, beat: &Beat, due: &Notify) -> io::Result<()> {
        let Link { stream, mut reader, hello, held } = link;
        drop(held);
        wire::send(&stream, &Order::Take(Box::new((*self.start).clone())), &[]).await?;
        let mut told: Option<Wanted> = None;
        loop {
            let newest = self.wanted.borrow_and_update().clone();
            // Order: what is switched before routes, so that no request passes a new process without it.
            if told.as_ref().is_none_or(|told| !Arc::ptr_eq(&told.switches, &newest.switches)) {
                wire::send(&stream, &Order::Switch(Arc::clone(&newest.switches)), &[]).await?;
            }
            // Order: routes before listeners, so that who is accepted finds them.
            if let Some(snapshot) = &newest.snapshot
                && told.as_ref().and_then(|told| told.snapshot.as_ref()).is_none_or(|told| !Arc::ptr_eq(told, snapshot))
            {
                wire::send(&stream, &Order::Snapshot(Arc::clone(snapshot)), &[]).await?;
            }
            if told.as_ref().is_none_or(|told| !told.held.is_same(&newest.held)) {
                let listeners = Order::Listeners(newest.held.listening());
                wire::send(&stream, &listeners, &newest.held.borrowed()).await?;
            }
            if told.replace(newest).is_none() {
                let _ = self.deeds.send((self.life, Deed::Connected)).await;
            }
            match self.follow((&stream, &mut reader, &hello), beat, due).await? {
                Next::Tell => {}
                Next::Superseded => return Ok(()),
            }
        }
    }

    /// Goes on until there is something to be told.
    async fn follow(
        &mut self,
        (stream, reader, hello): (&UnixStream, &mut Reader, &Hello),
        beat: &Beat,
        due: &Notify,
    ) -> io::Result<Next> {
        loop {
            tokio::select! {
                // Order: what was wanted before something was asked is told before it.
                biased;
                changed = self.wanted.changed() => match changed {
                    Ok(()) => return Ok(Next::Tell),
                    Err(_) => return pending().await,
                },
                Some(order) = self.orders.recv() => match order {
                    // It has counted nothing that could be read.
                    Order::Read { id } if !hello.reads => {
                        let nothing = Report::Readings { id: Some(id), readings: Box::default() };
                        let _ = self.deeds.send((self.life, Deed::Said(nothing))).await;
                    }
                    order => wire::send(stream, &order, &[]).await?,
                },
                () = due.notified() => wire::send(stream, &Order::Ping, &[]).await?,
                report = reader.next() => {
                    let report: Report = report?;
                    beat.beat();
                    let is_last = matches!(report, Report::Superseded);
                    let _ = self.deeds.send((self.life, Deed::Said(report))).await;
                    if is_last {
                        return Ok(Next::Superseded);
                    }
                }
            }
        }
    }
}

/// What comes after a word or an order.
enum Next {
    Tell,
    Superseded,
}

/// Has the process asked regularly; returns when it has said nothing for too long.
async fn silence(process: &Process, mut pulse: Pulse, due: &Notify) {
    loop {
        let silent = pulse.tick().await;
        if silent >= SILENT_MAX || (silent >= SILENT_STOPPED_MAX && process.is_stopped()) {
            return;
        }
        due.notify_one();
    }
}
