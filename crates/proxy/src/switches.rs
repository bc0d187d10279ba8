//! What is switched while requests are served, for drills and in an emergency: faults and forced breakers. Plain data,
//! given to the data plane as a whole ([`crate::Handle::switch`]); what it does is `faults`' and `breaker`'s matter.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::meters::Subject;
use crate::policy::Share;

/// Everything that is switched at one moment. What names nothing that is served waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switches {
    pub faults: Vec<Fault>,
    pub breakers: Vec<(Subject, Forced)>,
}

/// How a breaker stands, whatever it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forced {
    Open,
    Closed,
}

/// One thing that goes wrong on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Stands in explanations.
    pub id: u64,
    pub target: FaultTarget,
    pub effect: Effect,
    /// Of the tries that it could meet.
    pub share: Share,
    /// Then it is over, whether anybody clears it or not.
    pub until: jiff::Timestamp,
}

impl Fault {
    /// Whether its time is over; `unix` is now, since the epoch.
    pub(crate) fn is_over(&self, unix: Duration) -> bool {
        is_over(self.until, unix)
    }
}

fn is_over(until: jiff::Timestamp, unix: Duration) -> bool {
    Duration::try_from(until.as_duration()).is_ok_and(|until| until <= unix)
}

/// What a fault does to an answer on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throttle {
    /// Bytes a second.
    pub(crate) rate: u64,
    id: u64,
    until: jiff::Timestamp,
}

impl Throttle {
    pub(crate) const fn of(fault: &Fault, rate: u64) -> Self {
        Self { rate, id: fault.id, until: fault.until }
    }

    /// Whether the fault still is; a fault that was cleared is not among `switches` any more.
    pub(crate) fn is_on(&self, switches: &Switches, unix: Duration) -> bool {
        !is_over(self.until, unix) && switches.faults.iter().any(|fault| fault.id == self.id)
    }
}

/// Which tries a fault meets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultTarget {
    /// Tries of a route or an edge; not those that go to a service that answers instead.
    Subject(Subject),
    /// Tries that go to a service, or to one instance of it.
    Service { service: String, instance: Option<u32> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// It waits before it goes on.
    Delay(Duration),
    /// It is answered with this status instead.
    Abort(u16),
    /// The connection to the instance breaks without an answer: what may be sent again goes to another one, the rest is 502.
    Drop,
    /// The answer comes with so many bytes a second.
    Bandwidth(u64),
}
