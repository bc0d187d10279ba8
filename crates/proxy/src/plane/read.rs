//! What all processes of the data plane have counted, put together by the loop of `bound`: it asks each of them, waits for
//! a bounded time, and answers everybody who has asked meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::meters::Readings;

/// How long a process may take to say what it has counted; then its last answer counts.
const ANSWER_MAX: Duration = Duration::from_secs(1);

// Limit: those who wait for one answer. One more is answered with what is known.
const WAITING_MAX: usize = 64;

/// Counts of processes that have ended, and of those that run as far as they were told.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    ended: Readings,
    told: BTreeMap<u64, Readings>,
    round: u64,
    /// The round that is under way.
    asking: Option<Asking>,
}

#[derive(Debug)]
struct Asking {
    until: Instant,
    /// The processes that have not answered yet.
    waiting: BTreeSet<u64>,
    replies: Vec<oneshot::Sender<Readings>>,
    /// Those who came when this round had begun: what happened before they asked may be missing in it.
    late: Vec<oneshot::Sender<Readings>>,
}

impl Collected {
    /// Takes somebody in who asks. Gives the number of a round that is to be begun, with [`Collected::begin`].
    pub(crate) fn ask(&mut self, reply: oneshot::Sender<Readings>) -> Option<u64> {
        if let Some(asking) = &mut self.asking {
            asking.late.retain(|reply| !reply.is_closed());
            if asking.late.len() < WAITING_MAX {
                asking.late.push(reply);
            } else {
                let _ = reply.send(self.sum());
            }
            return None;
        }
        Some(self.open(vec![reply]))
    }

    fn open(&mut self, replies: Vec<oneshot::Sender<Readings>>) -> u64 {
        self.round += 1;
        let until = Instant::now() + ANSWER_MAX;
        self.asking = Some(Asking { until, waiting: BTreeSet::new(), replies, late: Vec::new() });
        self.round
    }

    /// These processes were asked. Gives the next round as [`Collected::tell`] does, where there is nobody to wait for.
    pub(crate) fn begin(&mut self, lives: BTreeSet<u64>) -> Option<u64> {
        self.asking.as_mut()?.waiting = lives;
        self.settle()
    }

    /// A process has answered. Gives the number of the next round, if somebody waits for one.
    pub(crate) fn tell(&mut self, life: u64, round: Option<u64>, readings: Readings) -> Option<u64> {
        self.told.insert(life, readings);
        if round == Some(self.round) { self.no_more(life) } else { None }
    }

    /// A process has ended: what was open there is not any more.
    pub(crate) fn end(&mut self, life: u64) -> Option<u64> {
        if let Some(mut last) = self.told.remove(&life) {
            last.close();
            self.ended += &last;
            self.ended.bound();
        }
        self.no_more(life)
    }

    /// When to give up on those that have not answered.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.asking.as_ref().map(|asking| asking.until)
    }

    pub(crate) fn give_up(&mut self) -> Option<u64> {
        self.asking.as_mut()?.waiting.clear();
        self.settle()
    }

    fn no_more(&mut self, life: u64) -> Option<u64> {
        self.asking.as_mut()?.waiting.remove(&life);
        self.settle()
    }

    fn settle(&mut self) -> Option<u64> {
        let asking = self.asking.take_if(|asking| asking.waiting.is_empty())?;
        let sum = self.sum();
        for reply in asking.replies {
            let _ = reply.send(sum.clone());
        }
        if asking.late.is_empty() { None } else { Some(self.open(asking.late)) }
    }

    fn sum(&self) -> Readings {
        let mut sum = self.ended.clone();
        self.told.values().for_each(|readings| sum += readings);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meters::{Outcome, Reading, Series, Subject};

    fn readings(ended: u64, active: u64) -> Readings {
        let outcome = Outcome { method: "GET".into(), status: 200, reason: None, is_overflow: false };
        let mut series = Series::default();
        series.buckets[0] = ended;
        let reading = Reading { begun: ended + active, series: [(outcome, series)].into(), ..Reading::default() };
        Readings { meters: [(Subject::NoRoute, reading)].into(), ..Readings::default() }
    }

    fn seen(reply: &mut oneshot::Receiver<Readings>) -> Option<(u64, u64)> {
        let readings = reply.try_recv().ok()?;
        Some(readings.meters.get(&Subject::NoRoute).map_or((0, 0), |reading| (reading.ended(), reading.active())))
    }

    #[tokio::test]
    async fn a_process_that_has_ended_counts_on_and_one_that_is_silent_counts_as_it_did() {
        let mut collected = Collected::default();
        let ask = |collected: &mut Collected| {
            let (reply, replied) = oneshot::channel();
            (collected.ask(reply), replied)
        };
        let (round, mut first) = ask(&mut collected);
        assert_eq!(collected.begin([1, 2].into()), None);
        collected.tell(1, round, readings(5, 1));
        assert_eq!(seen(&mut first), None);
        // Who asks now gets what is counted from now on.
        let (none, mut second) = ask(&mut collected);
        assert_eq!(none, None);
        let next = collected.tell(2, round, readings(7, 0));
        assert_eq!(seen(&mut first), Some((12, 1)));
        assert!(next.is_some() && next != round);
        assert_eq!(collected.begin([1, 2].into()), None);
        // An answer to the round before is no answer to this one.
        collected.tell(1, round, readings(6, 1));
        collected.tell(1, next, readings(6, 2));
        assert_eq!(seen(&mut second), None);
        collected.end(2);
        assert_eq!(seen(&mut second), Some((13, 2)));
        let (_, mut third) = ask(&mut collected);
        collected.begin([1].into());
        assert!(collected.until().is_some());
        collected.give_up();
        assert_eq!(seen(&mut third), Some((13, 2)));
        collected.tell(1, None, readings(9, 3));
        collected.end(1);
        let (_, mut last) = ask(&mut collected);
        collected.begin(BTreeSet::new());
        assert_eq!((seen(&mut last), collected.until()), (Some((16, 0)), None));
    }
}
