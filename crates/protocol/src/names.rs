//! What participants are called in messages to people.
//!
//! Invariant: names appear in texts only; nothing is decided by one.

use atoll_model::ParticipantId;
use std::fmt;
use std::sync::Arc;

/// Gives participants names. By default each is called by its number.
#[derive(Clone)]
pub struct Names(Arc<dyn Fn(ParticipantId) -> String + Send + Sync>);

impl Names {
    /// Names by a function, such as `site "hongkong"`.
    pub fn new(name: impl Fn(ParticipantId) -> String + Send + Sync + 'static) -> Self {
        Names(Arc::new(name))
    }

    pub(crate) fn of(&self, participant: ParticipantId) -> String {
        (self.0)(participant)
    }
}

impl Default for Names {
    fn default() -> Self {
        Names::new(|participant| format!("participant {participant}"))
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}
