//! Atoll's own tables at a site, in the database where it makes its tables.
//!
//! * `atoll_branches`, the ledger: which XA transaction was prepared under which name. A row is written by the transaction itself, just before
//!   it is prepared, and read without regard to isolation, so it is there if and only if the transaction is. What is left of it after a
//!   commit is deleted some time later.
//! * `atoll_locks`: one row for each number by which values are locked ([`VALUES`]) or whole orders ([`ORDERS`]). Locks of rows
//!   last until the transaction ends, also when it is prepared, which `GET_LOCK` does not give. Values that share a number merely wait for
//!   each other.
//! * `atoll_parts`: which tables and indexes committed transactions have made, one row for each. As the server's DDL cannot be undone,
//!   a table or an index without a row here is left over from a transaction that was, and does not count.
//!
//! Invariant: these tables are complete before the first transaction that locks or writes.

use super::layout::quote;
use super::link::Link;
use atoll_model::{Error, ErrorKind, Result};
use std::time::Duration;

/// Numbers for values.
pub(super) const VALUES: u64 = 65_536;

/// Numbers for orders, after those for values.
pub(super) const ORDERS: u64 = 1024;

/// How often the making of the tables is tried again when another Atoll does the same.
const ATTEMPTS: u32 = 5;

/// The tables' names in statements.
#[derive(Debug)]
pub(super) struct System {
    schema: String,
    pub(super) branches: String,
    pub(super) locks: String,
    pub(super) parts: String,
}

impl System {
    pub(super) fn new(schema: &str) -> Self {
        let of = |name: &str| format!("{}.{}", quote(schema), quote(name));
        System {
            schema: quote(schema),
            branches: of("atoll_branches"),
            locks: of("atoll_locks"),
            parts: of("atoll_parts"),
        }
    }

    /// Makes what is not there.
    pub(super) async fn ensure(&self, link: &Link) -> Result<()> {
        for attempt in 0.. {
            let outcome = if self.is_complete(link).await? { Ok(()) } else { self.make(link).await };
            match outcome {
                Err(e) if attempt < ATTEMPTS && matches!(e.kind(), ErrorKind::Deadlock | ErrorKind::LockTimeout) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                outcome => return outcome,
            }
        }
        Ok(())
    }

    async fn is_complete(&self, link: &Link) -> Result<bool> {
        // `atoll_parts` is made last.
        let sql = format!("SELECT (SELECT COUNT(*) FROM {}), (SELECT COUNT(*) FROM {})", self.locks, self.parts);
        match link.text(&sql).await {
            Ok(rows) => Ok(rows.first().is_some_and(|row| super::values::number(row, 0) == VALUES + ORDERS)),
            Err(e) if matches!(e.kind(), ErrorKind::UndefinedTable | ErrorKind::InvalidCatalog) => Ok(false),
            Err(e) => Err(e),
        }
    }

    async fn make(&self, link: &Link) -> Result<()> {
        // Whoever may not create a database may use one that is there.
        match link.execute(&format!("CREATE DATABASE IF NOT EXISTS {}", self.schema)).await {
            Err(e) if e.kind() != ErrorKind::InsufficientPrivilege => return Err(e),
            _ => {}
        }
        let digits = (0..16).map(|d| format!("SELECT {d}{}", if d == 0 { " AS d" } else { "" }));
        let digits = digits.collect::<Vec<_>>().join(" UNION ALL ");
        let numbers = format!(
            "SELECT a.d + 16 * b.d + 256 * c.d + 4096 * e.d FROM ({digits}) a, ({digits}) b, ({digits}) c, ({digits}) e"
        );
        let orders =
            format!("SELECT {VALUES} + a.d + 16 * b.d + 256 * c.d FROM ({digits}) a, ({digits}) b, ({digits}) c");
        for command in [
            format!(
                "CREATE TABLE IF NOT EXISTS {} (name VARCHAR(200) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY, \
                 xid VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, session BIGINT NOT NULL, \
                 made DATETIME NOT NULL) ENGINE=InnoDB COMMENT='Atoll: prepared transactions'",
                self.branches
            ),
            format!(
                "CREATE TABLE IF NOT EXISTS {} (k INT UNSIGNED PRIMARY KEY) ENGINE=InnoDB \
                 COMMENT='Atoll: locks of values'",
                self.locks
            ),
            format!("INSERT IGNORE INTO {} (k) {numbers}", self.locks),
            format!("INSERT IGNORE INTO {} (k) {orders} WHERE c.d < {}", self.locks, ORDERS / 256),
            format!(
                "CREATE TABLE IF NOT EXISTS {} (fragment BIGINT UNSIGNED, \
                 part VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin, PRIMARY KEY (fragment, part)) ENGINE=InnoDB \
                 COMMENT='Atoll: tables and indexes that count'",
                self.parts
            ),
        ] {
            link.execute(&command).await?;
        }
        if self.is_complete(link).await? {
            return Ok(());
        }
        Err(Error::internal(format!("the table {} is not what it was made to be", self.locks)))
    }
}
