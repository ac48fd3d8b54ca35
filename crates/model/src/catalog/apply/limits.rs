//! How large a catalog may grow. It is held in memory as a whole and copied (shallowly) by every DDL statement.

use crate::{Error, ErrorKind, Result};

/// Columns of a table, as in PostgreSQL.
pub(super) const COLUMNS: usize = 1600;
/// Columns of a key, index or foreign key, as in PostgreSQL.
pub(super) const KEY_COLUMNS: usize = 32;
/// Secondary indexes of a table.
pub(super) const INDEXES: usize = 256;
/// Constraints (CHECK, foreign keys) of a table.
pub(super) const CONSTRAINTS: usize = 1024;
/// Fragments of a table.
pub(super) const FRAGMENTS: usize = 4096;
/// Values of a list fragment.
pub(super) const LIST_VALUES: usize = 65_536;
/// Tables; likewise views, and sequences.
pub(super) const RELATIONS: usize = 65_536;
/// Sites.
pub(super) const SITES: usize = 1024;
/// Roles.
pub(super) const ROLES: usize = 65_536;
/// Entries of one access control list.
pub(super) const ACCESS_ENTRIES: usize = 65_536;

/// Refuses one more when there are `limit` already.
pub(super) fn check(what: &str, present: usize, limit: usize) -> Result<()> {
    if present < limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::ProgramLimit, format!("there can be at most {limit} {what}")))
}
