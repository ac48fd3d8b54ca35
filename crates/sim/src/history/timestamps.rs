//! The promises of a timestamp service: no timestamp twice, and real-time order.
//!
//! If one request has been answered before another one was made, its timestamp is the lower one. For this it is enough to remember the highest
//! answer so far when a request is made: its own has to be higher. A request that was never answered, because its node died, promises nothing.

use atoll_model::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// All requests and answers of one world, in the order of its time.
#[derive(Debug, Default)]
pub struct Timestamps {
    /// By request: the highest timestamp that had been given when it was made.
    open: BTreeMap<u64, Timestamp>,
    given: BTreeSet<Timestamp>,
}

/// What must not be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// An answer out of real-time order.
    #[error("request {request} was answered {timestamp}, but {earlier} had been given before it was made")]
    Order {
        /// Whose answer.
        request: u64,
        /// The answer.
        timestamp: Timestamp,
        /// Another one's, complete before.
        earlier: Timestamp,
    },
    /// The same answer to two requests.
    #[error("request {request} was answered {timestamp}, which had been given already")]
    Duplicate {
        /// The second of them.
        request: u64,
        /// The answer to both.
        timestamp: Timestamp,
    },
    /// An answer to nobody.
    #[error("request {request} was answered, but was not open")]
    Unasked {
        /// What was answered.
        request: u64,
    },
}

impl Timestamps {
    /// A request is made.
    pub fn asked(&mut self, request: u64) {
        let highest = self.given.last().copied().unwrap_or(Timestamp(0));
        self.open.insert(request, highest);
    }

    /// It is answered.
    ///
    /// # Errors
    /// The answer breaks a promise.
    pub fn answered(&mut self, request: u64, timestamp: Timestamp) -> Result<(), Violation> {
        let Some(earlier) = self.open.remove(&request) else { return Err(Violation::Unasked { request }) };
        if !self.given.insert(timestamp) {
            return Err(Violation::Duplicate { request, timestamp });
        }
        if timestamp <= earlier {
            return Err(Violation::Order { request, timestamp, earlier });
        }
        Ok(())
    }

    /// It has failed, or nobody is there any more to hear the answer.
    ///
    /// # Errors
    /// It was not open.
    pub fn failed(&mut self, request: u64) -> Result<(), Violation> {
        self.open.remove(&request).map(|_| ()).ok_or(Violation::Unasked { request })
    }

    /// Requests that have no answer.
    pub fn open(&self) -> impl Iterator<Item = u64> {
        self.open.keys().copied()
    }

    /// How many timestamps were given.
    pub fn given(&self) -> usize {
        self.given.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_at_the_same_time_may_be_answered_in_any_order() {
        let mut history = Timestamps::default();
        history.asked(1);
        history.asked(2);
        assert_eq!(history.answered(2, Timestamp(9)), Ok(()));
        assert_eq!(history.answered(1, Timestamp(5)), Ok(()));
        history.asked(3);
        assert_eq!(history.answered(3, Timestamp(10)), Ok(()));
        assert_eq!(history.given(), 3);
    }

    #[test]
    fn what_was_asked_after_an_answer_is_above_it() {
        let mut history = Timestamps::default();
        history.asked(1);
        assert_eq!(history.answered(1, Timestamp(9)), Ok(()));
        history.asked(2);
        let order = Violation::Order { request: 2, timestamp: Timestamp(8), earlier: Timestamp(9) };
        assert_eq!(history.answered(2, Timestamp(8)), Err(order));
    }

    #[test]
    fn no_timestamp_is_given_twice_and_none_to_nobody() {
        let mut history = Timestamps::default();
        history.asked(1);
        history.asked(2);
        history.asked(3);
        assert_eq!(history.answered(1, Timestamp(9)), Ok(()));
        let duplicate = Violation::Duplicate { request: 2, timestamp: Timestamp(9) };
        assert_eq!(history.answered(2, Timestamp(9)), Err(duplicate));
        assert_eq!(history.answered(1, Timestamp(10)), Err(Violation::Unasked { request: 1 }));
        assert_eq!(history.open().collect::<Vec<_>>(), [3]);
        assert_eq!(history.failed(3), Ok(()));
        assert_eq!(history.failed(3), Err(Violation::Unasked { request: 3 }));
    }
}
