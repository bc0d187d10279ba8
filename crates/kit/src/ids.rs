//! Identifiers: sortable, unique without coordination.

use std::time::Duration;

use uuid::Uuid;

/// Makes a UUID of version 7 (RFC 9562 §5.7) in its usual form of 36 characters.
#[must_use]
pub fn unique() -> String {
    Uuid::now_v7().to_string()
}

/// The same for who knows what time it is and cannot wait for the system: `now` is since the Unix epoch, what is random
/// is so only for uniqueness.
#[must_use]
pub fn unique_at(now: Duration) -> [u8; 36] {
    let millis = u64::try_from(now.as_millis()).unwrap_or_default();
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let mut text = [0; 36];
    uuid::Builder::from_unix_timestamp_millis(millis, &random).as_uuid().as_hyphenated().encode_lower(&mut text);
    text
}
