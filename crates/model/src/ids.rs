//! Identifiers. Each is a newtype over an integer that the catalog hands out once and never again,
//! so an id found on disk or on the wire can only mean the object that it was made for.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A site: a place where rows live.
    SiteId(u32)
);
id!(
    /// A table, view or sequence ("relation"): they share one number space, as PostgreSQL's `pg_class.oid` does.
    RelationId(u32)
);
id!(
    /// One fragment of one table. Never reused, so dropping a fragment needs no coordination with readers of its key range.
    FragmentId(u32)
);
id!(
    /// An index of a table, unique within the table; 0 is the primary order of the rows themselves.
    IndexId(u16)
);
id!(
    /// A column's number within its table, unique for the life of the table and never reused after `DROP COLUMN`.
    ColumnId(u16)
);
id!(
    /// The version of a catalog; every applied command adds one.
    CatalogVersion(u64)
);
id!(
    /// A commit or snapshot timestamp. Unit: microseconds since 1970 where the clock allows it, but only the order has meaning.
    Timestamp(u64)
);
id!(
    /// What commits as one: all embedded sites of a process, or one database of another engine. The same over restarts, because
    /// decision records and prepared transactions are found again by it.
    ParticipantId(u32)
);
id!(
    /// An Atoll process with its data directory.
    NodeId(u16)
);
id!(
    /// Tells the transactions of different clusters apart at a server that both use. Drawn at random when a cluster is made.
    ClusterId(u64)
);
