//! How transactions begin at a MySQL site.

use super::branch::Inner;
use super::link::Kind;
use atoll_ports::site::Isolation;

/// The longest time that the server waits for a lock, in seconds: for ever.
const FOR_EVER: u64 = 100_000_000;

/// The longest time that it waits for a table's definition.
pub(super) const YEAR: u64 = 31_536_000;

/// How a transaction that only reads begins.
pub(super) const SNAPSHOT: &str =
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

impl Inner {
    /// How long to wait for a lock, in whole seconds, as the server counts.
    pub(super) fn patience(&self) -> u64 {
        let timeout = self.options.lock_timeout;
        let whole = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        // Zero is "for ever" here.
        if timeout.is_zero() { FOR_EVER } else { whole.clamp(1, FOR_EVER) }
    }

    /// How the transaction for everything begins.
    pub(super) fn beginning(&self) -> (Kind, String) {
        let seconds = self.patience();
        // The wait for definitions of tables ends in a year at most.
        let metadata = seconds.min(YEAR);
        let waiting =
            format!("SET SESSION innodb_lock_wait_timeout = {seconds}, SESSION lock_wait_timeout = {metadata}");
        if self.options.read_only {
            return (Kind::Reading, format!("{waiting}; {SNAPSHOT}"));
        }
        let xid = self.site.fresh_xid();
        let level = match self.options.isolation {
            Isolation::ReadCommitted => "READ COMMITTED",
            Isolation::RepeatableRead | Isolation::Serializable => "REPEATABLE READ",
        };
        let begin = format!("{waiting}; SET TRANSACTION ISOLATION LEVEL {level}; XA START '{xid}'");
        (Kind::Xa(xid), begin)
    }
}
