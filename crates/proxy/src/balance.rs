//! Who of a service takes the next request: the ready instances as one route or edge sees them, and the rule by which one
//! of them is picked. Pure but for the counts that it reads; randomness and time are given.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::endpoint::{Endpoint, Occupied};
use crate::guard::{Condition, Ejected, GuardReading};
use crate::policy::{Algorithm, Balance, Share};
use crate::ring::Ring;
use crate::story::How;
use crate::timers::Moment;

/// What an instance that has just become ready gets at least, in percent of its share.
const SLOW_START_MIN: u32 = 10;

/// The endpoints of one service in one snapshot that were ready when it was made, as one route or edge sees them.
#[derive(Debug)]
pub(crate) struct Service {
    members: Vec<Member>,
    rule: Rule,
    slow_start: Duration,
    panic_threshold: Share,
}

/// One instance, and what this route or edge knows of it, where its policy asks for that.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) condition: Option<Arc<Condition>>,
}

#[derive(Debug)]
enum Rule {
    LeastRequests,
    RoundRobin(Turns),
    PeakEwma,
    RingHash(Ring),
}

/// Whose turn it is. The turns of those that are passed over are dealt out among the others on their own: were they taken
/// from the same count, some of these would never come by.
#[derive(Debug, Default)]
struct Turns {
    all: AtomicUsize,
    some: AtomicUsize,
}

/// One request that looks for an instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) now: Moment,
    /// Endpoints that are not to be chosen again.
    pub(crate) tried: &'a [u64],
    /// Of the request's key, where the rule asks for one.
    pub(crate) hash: u64,
}

/// Who was chosen, and why.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) occupied: Occupied,
    pub(crate) condition: Option<Arc<Condition>>,
    pub(crate) how: How,
    /// Whether it was passed over and is asked only because there is nobody better.
    pub(crate) is_last_resort: bool,
    pub(crate) is_panic: bool,
    /// Ready instances, and those of them that were ejected or set aside.
    pub(crate) ready: u32,
    pub(crate) passed_over: u32,
}

/// How all of them are at one moment.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    ready: u32,
    /// Ejected or set aside.
    passed_over: u32,
    /// So many are ejected that they cannot all be bad. Who refuses connections is no part of it.
    is_panic: bool,
}

/// A pick among some of the members: the place of the winner, and why.
type Pick = (usize, How);

impl Service {
    pub(crate) fn new(members: Vec<Member>, balance: &Balance) -> Self {
        let instances = || members.iter().map(|member| member.endpoint.instance).collect::<Vec<_>>();
        let rule = match &balance.algorithm {
            Algorithm::LeastRequests => Rule::LeastRequests,
            Algorithm::RoundRobin => Rule::RoundRobin(Turns::default()),
            Algorithm::PeakEwma => Rule::PeakEwma,
            Algorithm::RingHash(_) => Rule::RingHash(Ring::new(&instances())),
        };
        let Balance { slow_start, panic_threshold, .. } = *balance;
        Self { members, rule, slow_start, panic_threshold }
    }

    /// What is known here of an endpoint.
    pub(crate) fn condition(&self, endpoint: u64) -> Option<&Arc<Condition>> {
        self.members.iter().find(|member| member.endpoint.id == endpoint)?.condition.as_ref()
    }

    /// How many are ready, and how many of them are ejected.
    pub(crate) fn ejected(&self, now: Moment) -> (usize, usize) {
        let ready = self.members.iter().filter(|member| member.endpoint.is_ready());
        ready.fold((0, 0), |(ready, ejected), member| (ready + 1, ejected + usize::from(member.is_ejected(now))))
    }

    /// Adds what is to be seen of a route's or edge's instances.
    pub(crate) fn read(&self, name: &str, now: Moment, reading: &mut GuardReading) {
        reading.ready += self.ejected(now).0 as u32;
        let left = |member: &Member| Some(member.condition.as_ref()?.health.ejected_for(now));
        reading.ejected.extend(self.members.iter().filter_map(|member| {
            let left = left(member).filter(|left| !left.is_zero() && member.endpoint.is_ready())?;
            Some(Ejected { service: name.to_owned(), instance: member.endpoint.instance, left })
        }));
    }

    /// Picks by the rule among those not `tried`. Those that are ejected or refused connections lately are asked only
    /// when nobody else is left, or when so many are that they cannot all be bad. `None` when all were tried or none is
    /// ready.
    pub(crate) fn choose(&self, ask: &Ask<'_>, mut random: impl FnMut(usize) -> usize) -> Option<Choice> {
        loop {
            let fits = |place: usize| self.members[place].fits(ask);
            let is_best = |place: usize| fits(place) && !self.members[place].is_passed_over(ask.now);
            if let Some((place, how)) = self.pick_at_once(is_best, ask, &mut random)
                && let Some(occupied) = self.members[place].endpoint.occupy()
            {
                return Some(Choice {
                    occupied,
                    condition: self.members[place].condition.clone(),
                    how,
                    is_last_resort: false,
                    is_panic: false,
                    ready: self.members.len() as u32,
                    passed_over: 0,
                });
            }
            let crowd = self.crowd(ask.now);
            let is_good = |place: &usize| {
                let member = &self.members[*place];
                !member.endpoint.is_aside(ask.now) && (crowd.is_panic || !member.is_ejected(ask.now))
            };
            let mut some: Vec<usize> = (0..self.members.len()).filter(|place| fits(*place)).collect();
            let has_good = some.iter().any(is_good);
            if has_good {
                some.retain(is_good);
            }
            let (place, how) = self.pick(&some, ask, &mut random)?;
            // It may have been retired between the look and the step; then it is not picked again.
            if let Some(occupied) = self.members[place].endpoint.occupy() {
                return Some(Choice {
                    occupied,
                    condition: self.members[place].condition.clone(),
                    how,
                    is_last_resort: !has_good,
                    is_panic: crowd.is_panic,
                    ready: crowd.ready,
                    passed_over: crowd.passed_over,
                });
            }
        }
    }

    fn crowd(&self, now: Moment) -> Crowd {
        let count = |is: &dyn Fn(&Member) -> bool| {
            self.members.iter().filter(|member| member.endpoint.is_ready() && is(member)).count() as u32
        };
        let (ready, ejected) = (count(&|_| true), count(&|member| member.is_ejected(now)));
        let is_reached = self.panic_threshold.is_reached(u64::from(ready - ejected), u64::from(ready));
        Crowd { ready, passed_over: count(&|member| member.is_passed_over(now)), is_panic: ejected > 0 && !is_reached }
    }

    /// By a look at those alone that the rule picks: the ordinary case, however many there are. `None` if one does not
    /// fit.
    fn pick_at_once(
        &self,
        fits: impl Fn(usize) -> bool,
        ask: &Ask<'_>,
        random: &mut impl FnMut(usize) -> usize,
    ) -> Option<Pick> {
        let count = self.members.len();
        match &self.rule {
            _ if count < 2 => (count == 1 && fits(0)).then_some((0, How::Only)),
            Rule::LeastRequests | Rule::PeakEwma => {
                let first = random(count);
                let second = (first + 1 + random(count - 1)) % count;
                (fits(first) && fits(second)).then(|| self.better(first, second, ask, random))
            }
            Rule::RoundRobin(turns) => {
                let place = turns.all.fetch_add(1, Ordering::Relaxed) % count;
                (fits(place) && self.has_share(place, ask.now, random)).then_some((place, How::Turn))
            }
            Rule::RingHash(ring) => {
                let place = ring.walk(ask.hash).next()?;
                fits(place).then_some((place, How::Hash { skipped: 0 }))
            }
        }
    }

    /// Among these places.
    fn pick(&self, some: &[usize], ask: &Ask<'_>, random: &mut impl FnMut(usize) -> usize) -> Option<Pick> {
        if let [] | [_] = some {
            return some.first().map(|place| (*place, How::Only));
        }
        match &self.rule {
            Rule::LeastRequests | Rule::PeakEwma => {
                let first = random(some.len());
                // Any other than the first, each as likely.
                let second = (first + 1 + random(some.len() - 1)) % some.len();
                Some(self.better(some[first], some[second], ask, random))
            }
            Rule::RoundRobin(turns) => {
                // Who is new passes its turn on, as often as there are others.
                let turns = (0..some.len()).map(|_| some[turns.some.fetch_add(1, Ordering::Relaxed) % some.len()]);
                let mut last = some[0];
                for place in turns {
                    last = place;
                    if self.has_share(place, ask.now, random) {
                        break;
                    }
                }
                Some((last, How::Turn))
            }
            Rule::RingHash(ring) => {
                let (skipped, place) = ring.walk(ask.hash).enumerate().find(|(_, place)| some.contains(place))?;
                Some((place, How::Hash { skipped: skipped as u32 }))
            }
        }
    }

    /// The one with less to do. One that is new loses a part of what it wins.
    fn better(&self, first: usize, second: usize, ask: &Ask<'_>, random: &mut impl FnMut(usize) -> usize) -> Pick {
        let of = |place: usize| &self.members[place];
        let cost = |place: usize| match &self.rule {
            Rule::PeakEwma => of(place).cost(ask.now),
            _ => u64::from(of(place).endpoint.outstanding()),
        };
        let (of_first, of_second) = (cost(first), cost(second));
        // Of two with as many outstanding requests, one that is known to be slow is not the better one.
        let is_tie_lost = || of(first).endpoint.is_slower(&of(second).endpoint, ask.now);
        let is_first = of_first < of_second || of_first == of_second && !is_tie_lost();
        let winner = if is_first { first } else { second };
        let is_first = is_first == self.has_share(winner, ask.now, random);
        let (winner, loser) = if is_first { (first, second) } else { (second, first) };
        let (cost, other_cost) = if is_first { (of_first, of_second) } else { (of_second, of_first) };
        let other = of(loser).endpoint.instance;
        let fit = |cost: u64| u32::try_from(cost).unwrap_or(u32::MAX);
        let how = match &self.rule {
            Rule::PeakEwma => How::LowerCost { cost: fit(cost), other, other_cost: fit(other_cost) },
            _ => How::FewerOutstanding { other, other_outstanding: fit(other_cost) },
        };
        (winner, how)
    }

    /// Whether an instance takes this one: always, but for one that has not been ready for long.
    fn has_share(&self, place: usize, now: Moment, random: &mut impl FnMut(usize) -> usize) -> bool {
        if self.slow_start.is_zero() {
            return true;
        }
        let ready_for = self.members[place].endpoint.ready_for(now);
        if ready_for >= self.slow_start {
            return true;
        }
        let part = ready_for.as_secs_f64() / self.slow_start.as_secs_f64();
        random(100) < ((part * 100.0) as usize).max(SLOW_START_MIN as usize)
    }
}

impl Member {
    fn fits(&self, ask: &Ask<'_>) -> bool {
        self.endpoint.is_ready() && !ask.tried.contains(&self.endpoint.id)
    }

    fn is_ejected(&self, now: Moment) -> bool {
        self.condition.as_ref().is_some_and(|condition| condition.health.is_ejected(now))
    }

    /// Whether others are asked first.
    fn is_passed_over(&self, now: Moment) -> bool {
        self.endpoint.is_aside(now) || self.is_ejected(now)
    }

    fn cost(&self, now: Moment) -> u64 {
        let outstanding = self.endpoint.outstanding();
        self.condition.as_ref().map_or(u64::from(outstanding), |condition| condition.ewma.cost(outstanding, now))
    }
}
