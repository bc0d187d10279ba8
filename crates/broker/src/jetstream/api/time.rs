//! Points in time as the API shows them: RFC 3339 in UTC. "No time" is Go's zero, the first second of year 1.

use std::fmt;

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time. The default is none, written `0001-01-01T00:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(Timestamp);

/// Seconds from the first one of year 1 to the epoch.
const YEAR_ONE: i64 = -62_135_596_800;

impl Time {
    pub(crate) fn none() -> Self {
        Self(Timestamp::constant(YEAR_ONE, 0))
    }

    /// From nanoseconds since the epoch.
    pub(crate) fn from_nanoseconds(nanoseconds: i64) -> Self {
        let time = Timestamp::from_nanosecond(i128::from(nanoseconds));
        Self(time.expect("what 64 bits of nanoseconds reach lies between the years 1677 and 2262"))
    }

    /// Nanoseconds since the epoch; what 64 bits cannot hold is their bound.
    pub(crate) fn nanoseconds(self) -> i64 {
        let bounded = self.0.as_nanosecond().clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        i64::try_from(bounded).expect("it was bounded")
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::none()
    }
}

impl Default for Time {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}
