//! Times for sites whose servers have no timestamps of commits to give.

use atoll_model::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A clock near wall time.
#[derive(Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    /// A time that no earlier call has got.
    pub(super) fn now(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let last = self.0.fetch_max(now, Ordering::Relaxed);
        if last < now { Timestamp(now) } else { Timestamp(self.0.fetch_add(1, Ordering::Relaxed) + 1) }
    }
}
