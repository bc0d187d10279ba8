//! Identifiers: sortable, unique without coordination.

use uuid::Uuid;

/// Makes a UUID of version 7 (RFC 9562 §5.7) in its usual form of 36 characters.
#[must_use]
pub fn unique() -> String {
    Uuid::now_v7().to_string()
}
