//! A request that is repeated until it is answered: who waits for the answer, and when to ask again.
//!
//! Invariant: at any moment one request is under way or one pause is running, never both, so a site that is down gets one
//! request per pause and not a growing heap of them.

use crate::time::{Backoff, Time};
use std::time::Duration;

/// The state of such a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Attempt {
    failures: u32,
    next: Next,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// It is under way; without an answer by then it counts as lost.
    Answer { by: Time },
    /// It failed; ask again then.
    Retry { at: Time },
}

impl Attempt {
    /// The request has just been sent for the first time.
    pub(crate) fn sent(now: Time, timeout: Duration) -> Self {
        Attempt { failures: 0, next: Next::Answer { by: now + timeout } }
    }

    /// No answer will come to the request under way.
    pub(crate) fn lost(&mut self, now: Time, retry: Backoff) {
        if let Next::Answer { .. } = self.next {
            self.failures = self.failures.saturating_add(1);
            self.next = Next::Retry { at: now + retry.after(self.failures) };
        }
    }

    /// Whether the request is to be sent again now; then it counts as sent.
    pub(crate) fn poll(&mut self, now: Time, timeout: Duration, retry: Backoff) -> bool {
        match self.next {
            Next::Answer { by } if by <= now => {
                self.lost(now, retry);
                false
            }
            Next::Retry { at } if at <= now => {
                self.next = Next::Answer { by: now + timeout };
                true
            }
            _ => false,
        }
    }

    /// When to poll next.
    pub(crate) fn wake_at(&self) -> Time {
        match self.next {
            Next::Answer { by } => by,
            Next::Retry { at } => at,
        }
    }

    /// Whether no earlier request can have had an effect unseen.
    pub(crate) fn is_first(&self) -> bool {
        self.failures == 0
    }
}
