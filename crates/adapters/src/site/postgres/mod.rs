//! PostgreSQL databases as sites: `CREATE SITE … ENGINE postgres OPTIONS (url '…')`.
//!
//! | module | what it knows |
//! |---|---|
//! | `options`, `tls` | how the server is reached; passwords stay here |
//! | `pool`, `connection` | connections, and transactions on them |
//! | `site`, `branch` | the port: what a site is, and what a transaction does there |
//! | `layout`, `define`, `types` | tables: their names, DDL, types |
//! | `adopt`, `survey` | tables that were there before, and whether a table is what its definition says |
//! | `digest` | digests of copies |
//! | `scan`, `reads`, `predicate`, `lock`, `write`, `snapshot` | reading, locking, writing |
//! | `values`, `numeric`, `columns` | values on the wire, as values and as Arrow columns |
//! | `error` | what the server says, in Atoll's terms |
//!
//! What a PostgreSQL site gives and an embedded one does not promise otherwise: isolation is the server's, so `Serializable` holds within
//! one site; deadlocks that lead through several sites end by `lock_timeout`. In `ReadCommitted`, a transaction that has
//! locked or written at the site reads with one snapshot per scan from then on, not one per statement.

mod adopt;
mod branch;
mod columns;
mod connection;
mod define;
mod digest;
mod error;
mod layout;
mod lock;
mod numeric;
mod options;
mod pool;
mod predicate;
mod query;
mod reads;
mod scan;
mod site;
mod snapshot;
mod survey;
mod tls;
mod types;
mod values;
mod write;

pub use options::PostgresOptions;
pub use site::PostgresSite;
