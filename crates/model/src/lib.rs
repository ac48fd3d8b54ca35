//! Atoll's nouns: ids, types, values, rows, the catalog as data, fragmentation, error codes.
//!
//! Invariant: nothing here does I/O, reads a clock or spawns; every type is plain data that a test can build by hand.
//! The vocabulary is that of Özsu & Valduriez, *Principles of Distributed Database Systems*.

mod catalog;
mod error;
mod fragmentation;
mod ids;
mod rounding;
pub mod text;
mod types;
mod value;

pub use catalog::*;
pub use error::{Error, ErrorKind, Outcome, Result};
pub use fragmentation::*;
pub use ids::*;
pub use rounding::{round_seconds, round_time, round_timestamp};
pub use types::{MAX_SECOND_DIGITS, SqlType, TYPE_METADATA_KEY, UNCONSTRAINED_SCALE};
pub use value::{Row, Value};
