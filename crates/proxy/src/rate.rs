//! stub
use std::time::Duration;
use crate::policy::RateLimit;
use crate::timers::Moment;
#[derive(Debug)] pub(crate) struct Buckets;
pub(crate) struct Admission { pub(crate) is_admitted: bool, pub(crate) left: u32, pub(crate) reset_after: Duration, pub(crate) retry_after: Duration }
impl Buckets { pub(crate) fn new(_: &RateLimit) -> Self { Self } pub(crate) fn take(&self, _: u64, _: Moment) -> Admission { Admission { is_admitted: true, left: 0, reset_after: Duration::ZERO, retry_after: Duration::ZERO } } }
