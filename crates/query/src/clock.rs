//! The wall clock, in the unit of PostgreSQL's times.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970. A clock that is set before that says 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
