//! MySQL and MariaDB databases as sites: `CREATE SITE … ENGINE mysql OPTIONS (url '…')`.
//!
//! | module | what it knows |
//! |---|---|
//! | `options` | how the server is reached; passwords stay here |
//! | `connection`, `link` | connections, and transactions on them |
//! | `site`, `branch`, `beginning`, `seen` | the port: what a site is, what a transaction does there, and what a statement of it has read |
//! | `system` | Atoll's own tables at the site: the ledger of prepared transactions, value locks, the copies that are there |
//! | `layout`, `define`, `types`, `adopt`, `survey` | tables: their names, DDL, types; those that were there before |
//! | `scan`, `lock`, `write`, `clash` | reading, locking, writing, and which value came twice |
//! | `digest` | digests of copies |
//! | `query`, `answer` | parts of queries as statements, and their answers |
//! | `values` | values on the wire |
//! | `error` | what the server says, in Atoll's terms |
//!
//! What differs from a PostgreSQL site, because the server does:
//!
//! * A transaction that may write is an `XA` transaction from its beginning, named by a number of its own; when it is prepared, the
//!   coordinator's name goes into the ledger, as part of it.
//! * DDL takes effect at once and cannot be undone. So nothing that the committed definition needs is taken away before the commit;
//!   what an undone change has left over is told from what counts, and goes later (`define`).
//! * `Serializable` locks what it reads, and fails if that is not what its snapshot shows.
//! * A connection serves one answer at a time, so large scans are read in portions, each a statement that begins where the last ended, and
//!   what is left of an answer to a query is kept in memory when somebody else wants the connection.

mod adopt;
mod answer;
mod beginning;
mod branch;
mod clash;
mod connection;
mod define;
mod digest;
mod error;
mod layout;
mod link;
mod lock;
mod options;
mod query;
mod scan;
mod seen;
mod site;
mod survey;
mod system;
mod types;
mod values;
mod write;

pub use options::MysqlOptions;
pub use site::MysqlSite;
