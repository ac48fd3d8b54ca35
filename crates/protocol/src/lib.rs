//! placeholder
mod attempt;
pub mod commit;
mod decision;
mod gid;
pub mod recovery;
pub mod snapshot;
mod time;
pub use decision::Decision;
pub use gid::{Foreign, Gid, Incarnation, TransactionId};
pub use time::{Backoff, Time};
