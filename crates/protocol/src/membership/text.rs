//! Effects as people read them.

use super::Effect;
use std::fmt;

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Send(to, message) => write!(f, "to {to}: {message}"),
            Effect::Changed(run, state) => write!(f, "node {} (run {}) is {state}", run.node, run.epoch),
            Effect::Refuse(node, address, reason) => write!(f, "refuse node {node} at {address}: {reason}"),
            Effect::RefusedBy(node, address, reason) => write!(f, "refused by node {node} at {address}: {reason}"),
            Effect::Paused(late) => write!(f, "was paused for {late:?}"),
            Effect::Over => f.write_str("over"),
        }
    }
}
