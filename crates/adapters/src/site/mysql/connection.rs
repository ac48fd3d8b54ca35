//! Connections to a MySQL or MariaDB server, for the pool.
//!
//! Invariant: every connection has the same session: texts in UTF-8, compared by their bytes without padding, strict values, backslashes
//! that are nothing but backslashes, UTC. What the server's configuration says otherwise does not matter.

use super::error::number;
use super::options::{Encryption, MysqlOptions};
use crate::site::name::SiteName;
use crate::site::pool;
use atoll_model::{Error, Result};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, DriverError};
use std::sync::Arc;

/// Connections of a site.
pub(super) type Pool = pool::Pool<Connector>;

/// A connection on loan. Dropping it gives it back.
pub(super) type Lease = pool::Lease<Connector>;

/// A pool of so many connections at most; none is made yet.
pub(super) fn pool(options: &MysqlOptions, site: &SiteName, size: usize) -> Arc<Pool> {
    let connector = Connector { options: options.clone(), site: site.clone() };
    Pool::new(connector, options.limits, site.clone(), size)
}

/// Whose server it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flavor {
    MariaDb,
    MySql,
}

impl Flavor {
    /// The collation of texts: by code points, which is the order of UTF-8's bytes, and without padding.
    pub(super) fn collation(self) -> &'static str {
        match self {
            Flavor::MariaDb => "utf8mb4_nopad_bin",
            Flavor::MySql => "utf8mb4_0900_bin",
        }
    }

    /// The clause that locks rows against changes.
    pub(super) fn shared(self) -> &'static str {
        match self {
            Flavor::MariaDb => "LOCK IN SHARE MODE",
            Flavor::MySql => "FOR SHARE",
        }
    }
}

/// A connection.
pub(super) struct Connection {
    pub(super) conn: Conn,
    pub(super) flavor: Flavor,
    /// A lock time-out ends the whole transaction here, not just the statement.
    pub(super) timeout_ends_all: bool,
    /// Bytes of a statement at most, with its parameters.
    pub(super) max_packet: usize,
    /// It is not to be used again.
    pub(super) broken: bool,
}

/// Makes connections.
pub(super) struct Connector {
    options: MysqlOptions,
    site: SiteName,
}

impl Connector {
    async fn open(&self) -> Result<Conn> {
        let encryption = self.options.encryption;
        if encryption != Encryption::Never {
            // The driver takes the process's provider. Somebody may have chosen one before; it serves as well.
            let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
            match Conn::new(self.options.driver(true)).await {
                Err(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer))
                    if encryption == Encryption::IfPossible => {}
                outcome => return outcome.map_err(|e| self.refused(e)),
            }
        }
        Conn::new(self.options.driver(false)).await.map_err(|e| self.refused(e))
    }

    fn refused(&self, error: mysql_async::Error) -> Error {
        let hint = match &error {
            mysql_async::Error::Server(e) if e.code == number::NO_SUCH_DATABASE => Some("Create the database first."),
            _ => None,
        };
        let refused = self.site.mysql_refused(error);
        match hint {
            Some(hint) => refused.hint(hint),
            None => refused,
        }
    }
}

/// The oldest versions with all that is needed: `SKIP LOCKED`, and XA that survives a disconnect.
fn is_supported(flavor: Flavor, version: (u16, u16, u16)) -> bool {
    match flavor {
        Flavor::MariaDb => version >= (10, 6, 0),
        Flavor::MySql => version >= (8, 0, 29),
    }
}

/// Bytes of a value by which the server sorts: no column of an order is longer.
pub(super) const SORTED: usize = 4096;

fn session(flavor: Flavor) -> String {
    let own = match flavor {
        // It would make a join with a table of other types out of a long IN list.
        Flavor::MariaDb => ", SESSION in_predicate_conversion_threshold = 0",
        // It would tell sizes and counters that are a day old.
        Flavor::MySql => ", SESSION information_schema_stats_expiry = 0",
    };
    format!(
        "SET NAMES utf8mb4 COLLATE {}; SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,\
         ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_BACKSLASH_ESCAPES,NO_AUTO_VALUE_ON_ZERO', \
         SESSION time_zone = '+00:00', SESSION autocommit = 1, SESSION sql_select_limit = 18446744073709551615, \
         SESSION completion_type = 0, SESSION sql_auto_is_null = 0, SESSION sql_big_selects = 1, \
         SESSION max_sort_length = {SORTED}{own}",
        flavor.collation()
    )
}

impl pool::Connector for Connector {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection> {
        let mut conn = self.open().await?;
        let told = |e| self.site.mysql(e);
        let asked = "SELECT VERSION(), @@innodb_rollback_on_timeout, @@max_allowed_packet";
        let asked: Option<(String, bool, usize)> = conn.query_first(asked).await.map_err(told)?;
        let (version, timeout_ends_all, max_packet) = asked.unwrap_or_default();
        let flavor = if version.contains("MariaDB") { Flavor::MariaDb } else { Flavor::MySql };
        if !is_supported(flavor, conn.server_version()) {
            return Err(self
                .site
                .unavailable(format!("its version {version} is too old"))
                .hint("MariaDB 10.6 and MySQL 8.0.29, or later, will do."));
        }
        conn.query_drop(session(flavor)).await.map_err(told)?;
        Ok(Connection { conn, flavor, timeout_ends_all, max_packet, broken: false })
    }

    fn is_closed(&self, connection: &Connection) -> bool {
        connection.broken || connection.conn.is_disconnected()
    }

    async fn try_out(&self, connection: &mut Connection) -> bool {
        connection.conn.ping().await.is_ok()
    }
}
