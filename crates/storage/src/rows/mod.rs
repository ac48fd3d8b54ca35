//! Rows and indexes over the key-value layer.
//!
//! Layout of a site's key space: `[fragment: 4 bytes, big endian][index: 2 bytes, big endian][key]`. Index 0 is the rows
//! themselves, ordered by the table's key; the others hold entries that lead to a row's key. One fragment is thus one contiguous
//! range, dropped by purging its prefix.

mod batch;
mod cache;
mod codec;
mod column;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod key;
mod read;
mod row;
mod write;

pub use cache::{ColumnBatches, ColumnCache};
pub use codec::TableCodec;
pub use key::{encode_value, key_prefix};
pub use read::{Batches, RowBatches, ScanPlan};
pub use row::{Cell, RowEncoder, RowReader, encode_row};
pub use write::{At, Change, Locked};
