//! Applying a command to a catalog.

use super::{Catalog, CatalogCommand};
use crate::Result;

impl Catalog {
    /// The catalog after `command`, or why it cannot be.
    ///
    /// # Errors
    /// The SQLSTATEs that PostgreSQL gives for the same DDL; the catalog is unchanged.
    pub fn apply(&self, command: &CatalogCommand) -> Result<Catalog> {
        let _ = command;
        Err(crate::Error::unsupported("not written yet"))
    }
}
