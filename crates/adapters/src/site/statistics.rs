//! Sizes of copies at a server, asked for in the background.
//!
//! Invariant: nobody waits for statistics; whoever wants some gets the last ones known, and has newer ones asked for when they are old.

use atoll_model::FragmentId;
use atoll_ports::site::FragmentStatistics;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How old statistics may be.
const AGE: Duration = Duration::from_secs(30);

/// Statistics, and when they were asked for; one for each copy at the site.
#[derive(Default)]
pub(super) struct Statistics(Mutex<HashMap<FragmentId, Known>>);

#[derive(Clone, Copy)]
struct Known {
    statistics: FragmentStatistics,
    asked: Instant,
}

impl Statistics {
    /// What is known of a copy; `ask` is called when that is old.
    pub(super) fn of(&self, fragment: FragmentId, ask: impl FnOnce(tokio::runtime::Handle)) -> FragmentStatistics {
        let now = Instant::now();
        let mut all = self.0.lock();
        let known = all
            .entry(fragment)
            .or_insert(Known { statistics: FragmentStatistics::default(), asked: now.checked_sub(AGE).unwrap_or(now) });
        if now.duration_since(known.asked) >= AGE
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            known.asked = now;
            ask(runtime);
        }
        known.statistics
    }

    /// What the server has answered.
    pub(super) fn learn(&self, fragment: FragmentId, rows: u64, bytes: u64) {
        if let Some(known) = self.0.lock().get_mut(&fragment) {
            known.statistics = FragmentStatistics { rows, bytes, modifications: 0 };
        }
    }

    /// The copy is gone.
    pub(super) fn forget(&self, fragment: FragmentId) {
        self.0.lock().remove(&fragment);
    }
}
