//! Holds deliveries against what was published and against what was done to the processes: what is acknowledged must be
//! delivered, those of one key one after the other and in their order. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::record::{Delivery, Outcome};

/// How much earlier than a deadline by the subscriber's clock an attempt may be given up: it began before it came there.
const DEADLINE_SLACK: u64 = 50_000_000;
const MILLISECOND: u64 = 1_000_000;

/// What was done to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deed {
    /// An instance of the subscriber was killed: this process.
    Instance(u32),
    /// An instance of the publisher.
    Publisher,
    Scale(u32),
    Daemon,
    DataPlane,
}

impl Deed {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Instance(_) => "instances killed",
            Self::Publisher => "publishers killed",
            Self::Scale(0) => "scaled to zero",
            Self::Scale(_) => "scaled",
            Self::Daemon => "daemons killed",
            Self::DataPlane => "data planes killed",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incident {
    pub(crate) deed: Deed,
    pub(crate) from: u64,
    /// When all was there again.
    pub(crate) until: u64,
}

/// A promise that was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Acknowledged, and never delivered with success.
    Lost,
    /// Began before the one before it in its key was delivered with success.
    Order,
    /// Came again after a later one of its key, and no daemon had died.
    Back,
    /// Came after the one before it was passed over in a run of repeats.
    Gap,
    /// Began while another of its key was in flight.
    Overlap,
    /// Was never published.
    Unknown,
    /// Said to be replayed, redriven or out of order, and was not; or without its attempt's number.
    Mark,
}

impl Fault {
    pub(crate) const ALL: [(Self, &'static str); 7] = [
        (Self::Lost, "lost"),
        (Self::Order, "out of order"),
        (Self::Back, "back without a reason"),
        (Self::Gap, "runs with gaps"),
        (Self::Overlap, "at the same time"),
        (Self::Unknown, "never published"),
        (Self::Mark, "marked wrongly"),
    ];
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) fault: Fault,
    pub(crate) key: u32,
    pub(crate) number: u32,
    /// Of the delivery, where there is one.
    pub(crate) at: u64,
}

/// What the comparison gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: u64,
    pub(crate) deliveries: u64,
    /// Deliveries that were answered with success, and how many of these were not the first of their event.
    pub(crate) successes: u64,
    pub(crate) duplicates: u64,
    /// Times that a key went back to an older event, and deliveries up to where it had been.
    pub(crate) runs: u64,
    pub(crate) repeats: u64,
    /// Deliveries that might still be in flight at somebody whom nobody waited for any more when the next of the key began.
    pub(crate) overtaken: u64,
    pub(crate) findings: Vec<Finding>,
}

impl Verdict {
    pub(crate) fn count(&self, fault: Fault) -> usize {
        self.findings.iter().filter(|finding| finding.fault == fault).count()
    }

    pub(crate) fn to_json(&self) -> Value {
        let faults: BTreeMap<&str, usize> =
            Fault::ALL.iter().map(|(fault, name)| (*name, self.count(*fault))).collect();
        let Self { acknowledged, deliveries, successes, duplicates, runs, repeats, overtaken, .. } = self;
        json!({
            "acknowledged": acknowledged, "deliveries": deliveries, "successes": successes, "duplicates": duplicates,
            "runs_of_repeats": runs, "repeats_in_runs": repeats, "overtaken": overtaken, "faults": faults,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, deliveries, successes, duplicates, runs, repeats, overtaken, .. } = self;
        writeln!(f, "{acknowledged} acknowledged, {deliveries} deliveries begun, {successes} of them with success")?;
        writeln!(
            f,
            "{duplicates} duplicates; {runs} runs of {repeats} repeats; {overtaken} were given up and overtaken"
        )?;
        let faults = Fault::ALL.map(|(fault, name)| format!("{name} {}", self.count(fault)));
        write!(f, "{}", faults.join(", "))
    }
}

/// `acknowledged` and `published` have the last number of each key; `deliveries` are in the order of their begins.
pub(crate) fn verify(
    acknowledged: &[u32],
    published: &[u32],
    deliveries: &[Delivery],
    incidents: &[Incident],
) -> Verdict {
    let mut keys: BTreeMap<u32, Vec<&Delivery>> = BTreeMap::new();
    for delivery in deliveries {
        keys.entry(delivery.key).or_default().push(delivery);
    }
    let mut verdict = Verdict {
        acknowledged: acknowledged.iter().map(|last| u64::from(*last)).sum(),
        deliveries: deliveries.len() as u64,
        ..Verdict::default()
    };
    for (key, last) in (0..).zip(acknowledged) {
        let of_key = keys.remove(&key).unwrap_or_default();
        let published = published.get(key as usize).copied().unwrap_or_default();
        Key { key, of_key: &of_key, incidents, verdict: &mut verdict }.verify(*last, published);
    }
    for (key, of_key) in keys {
        verdict.findings.extend(of_key.iter().map(|one| finding(Fault::Unknown, key, one)));
    }
    verdict
}

fn finding(fault: Fault, key: u32, delivery: &Delivery) -> Finding {
    Finding { fault, key, number: delivery.number, at: delivery.begin }
}

/// The deliveries of one key.
#[derive(Debug)]
struct Key<'a> {
    key: u32,
    of_key: &'a [&'a Delivery],
    incidents: &'a [Incident],
    verdict: &'a mut Verdict,
}

impl Key<'_> {
    fn verify(mut self, acknowledged: u32, published: u32) {
        let firsts = self.first_successes();
        for number in (1..=acknowledged).filter(|number| !firsts.contains_key(number)) {
            let at = 0;
            self.verdict.findings.push(Finding { fault: Fault::Lost, key: self.key, number, at });
        }
        let (mut highest, mut open) = (0, Vec::<&Delivery>::new());
        let mut before: Option<&Delivery> = None;
        for one in self.of_key.iter().copied() {
            if one.number == 0 || one.number > published {
                self.find(Fault::Unknown, one);
            }
            if one.is_marked || one.attempt == 0 {
                self.find(Fault::Mark, one);
            }
            if one.number > 1 && firsts.get(&(one.number - 1)).is_none_or(|success| *success > one.begin) {
                self.find(Fault::Order, one);
            }
            if let Some(before) = before {
                self.compare(before, one);
            }
            self.verdict.repeats += u64::from(one.number < highest);
            highest = highest.max(one.number);
            open.retain(|other| other.end.is_none_or(|(end, _)| end > one.begin));
            let before_it = open.len();
            open.retain(|other| !self.is_given_up(other, one.begin));
            self.verdict.overtaken += (before_it - open.len()) as u64;
            if !open.is_empty() {
                self.find(Fault::Overlap, one);
            }
            open.push(one);
            before = Some(one);
        }
    }

    /// By number, when.
    fn first_successes(&mut self) -> BTreeMap<u32, u64> {
        let mut firsts = BTreeMap::<u32, u64>::new();
        for one in self.of_key {
            if let Some((end, Outcome::Done)) = one.end {
                self.verdict.successes += 1;
                self.verdict.duplicates += u64::from(firsts.contains_key(&one.number));
                let first = firsts.entry(one.number).or_insert(end);
                *first = end.min(*first);
            }
        }
        firsts
    }

    /// One with the one before it.
    fn compare(&mut self, before: &Delivery, one: &Delivery) {
        if one.number < before.number {
            self.verdict.runs += 1;
            let has_reason = |incident: &&Incident| {
                incident.deed == Deed::Daemon && incident.from <= one.begin && incident.until >= before.begin
            };
            if self.incidents.iter().find(has_reason).is_none() {
                self.find(Fault::Back, one);
            }
        } else if one.number > before.number + 1 {
            self.find(Fault::Gap, one);
        }
    }

    /// Whether nobody waited any more for a delivery that had not ended.
    fn is_given_up(&self, other: &Delivery, at: u64) -> bool {
        let is_late = at + DEADLINE_SLACK >= other.begin + other.deadline_ms * MILLISECOND;
        let has_gone = |incident: &Incident| {
            let is_its = match incident.deed {
                Deed::Instance(process) => process == other.process,
                Deed::Daemon | Deed::DataPlane => incident.until >= other.begin,
                Deed::Publisher | Deed::Scale(_) => false,
            };
            is_its && incident.from <= at
        };
        is_late || self.incidents.iter().any(has_gone)
    }

    fn find(&mut self, fault: Fault, one: &Delivery) {
        self.verdict.findings.push(finding(fault, self.key, one));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number, begin, end; of key 0 in milliseconds.
    fn delivery((number, begin, end): (u32, u64, Option<(u64, Outcome)>)) -> Delivery {
        let end = end.map(|(end, outcome)| (end * MILLISECOND, outcome));
        let begin = begin * MILLISECOND;
        Delivery { key: 0, number, process: 1, begin, deadline_ms: 1_000, attempt: 1, is_marked: false, end }
    }

    /// Number, begin, and when and how it ended.
    type Sketch = (u32, u64, Option<(u64, Outcome)>);

    fn done(number: u32, begin: u64) -> Sketch {
        (number, begin, Some((begin + 5, Outcome::Done)))
    }

    fn verdict(deliveries: &[Sketch], deeds: &[(Deed, u64)]) -> Verdict {
        let deliveries: Vec<Delivery> = deliveries.iter().copied().map(delivery).collect();
        let last = deliveries.iter().map(|one| one.number).max().unwrap_or_default();
        let incident =
            |(deed, at): &(Deed, u64)| Incident { deed: *deed, from: at * MILLISECOND, until: at * MILLISECOND };
        let incidents: Vec<Incident> = deeds.iter().map(incident).collect();
        verify(&[last], &[last], &deliveries, &incidents)
    }

    fn faults(deliveries: &[Sketch], deeds: &[(Deed, u64)]) -> Vec<Fault> {
        verdict(deliveries, deeds).findings.iter().map(|finding| finding.fault).collect()
    }

    #[test]
    fn retries_and_runs_after_a_death_are_as_promised() {
        let failed = (2, 20, Some((25, Outcome::Failed)));
        let seen = verdict(
            &[done(1, 10), failed, done(2, 30), done(3, 40), done(2, 60), done(3, 70), done(4, 80)],
            &[(Deed::Daemon, 50)],
        );
        assert_eq!(seen.findings, []);
        assert_eq!((seen.successes, seen.duplicates, seen.runs, seen.repeats), (6, 2, 1, 1));
    }

    #[test]
    fn what_is_missing_is_lost_and_what_follows_out_of_order() {
        let failed = (2, 20, Some((25, Outcome::Failed)));
        assert_eq!(faults(&[done(1, 10), failed, done(3, 30)], &[]), [Fault::Lost, Fault::Order]);
        assert_eq!(faults(&[done(1, 10), done(3, 20), done(2, 30)], &[]), [Fault::Order, Fault::Gap, Fault::Back]);
        let unknown = verify(&[0], &[1], &[delivery(done(2, 10))], &[]);
        assert!(unknown.findings.iter().any(|finding| finding.fault == Fault::Unknown));
        assert_eq!(verify(&[], &[], &[delivery(done(1, 10))], &[]).findings[0].fault, Fault::Unknown);
    }

    #[test]
    fn nobody_goes_back_without_a_death_or_leaves_one_out() {
        assert_eq!(faults(&[done(1, 10), done(2, 20), done(1, 30)], &[(Deed::DataPlane, 25)]), [Fault::Back]);
        assert_eq!(faults(&[done(1, 10), done(2, 20), done(1, 30)], &[(Deed::Daemon, 15)]), [Fault::Back]);
        let run = [done(1, 10), done(2, 20), done(3, 30), done(1, 50), done(3, 60)];
        assert_eq!(faults(&run, &[(Deed::Daemon, 40)]), [Fault::Gap]);
    }

    #[test]
    fn two_at_a_time_are_found_unless_the_first_was_given_up() {
        let hangs = (1, 10, None);
        assert_eq!(faults(&[hangs, done(1, 500)], &[]), [Fault::Overlap]);
        assert_eq!(faults(&[(1, 10, Some((600, Outcome::Done))), done(1, 500)], &[]), [Fault::Overlap]);
        for given_up in [(Deed::Instance(1), 100), (Deed::Daemon, 100), (Deed::DataPlane, 100)] {
            let seen = verdict(&[hangs, done(1, 500)], &[given_up]);
            assert_eq!((seen.findings.as_slice(), seen.overtaken), ([].as_slice(), 1), "{given_up:?}");
        }
        assert_eq!(faults(&[hangs, done(1, 500)], &[(Deed::Instance(2), 100)]), [Fault::Overlap]);
        assert_eq!(faults(&[hangs, done(1, 500)], &[(Deed::Daemon, 5)]), [Fault::Overlap]);
        assert_eq!(faults(&[hangs, done(1, 1_005)], &[]), []);
    }

    #[test]
    fn marks_without_a_reason_are_found() {
        let marked = Delivery { is_marked: true, ..delivery(done(1, 10)) };
        assert_eq!(verify(&[1], &[1], &[marked], &[]).findings[0].fault, Fault::Mark);
    }
}
