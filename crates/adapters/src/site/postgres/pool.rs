//! Connections to a PostgreSQL server, for the pool.

use super::connection::Connection;
use super::options::PostgresOptions;
use crate::site::name::SiteName;
use crate::site::pool;
use atoll_model::Result;
use std::sync::Arc;

/// Connections of a site.
pub(super) type Pool = pool::Pool<Connector>;

/// A connection on loan. Dropping it gives it back.
pub(super) type Lease = pool::Lease<Connector>;

/// A pool of so many connections at most; none is made yet.
pub(super) fn new(options: &PostgresOptions, site: &SiteName, size: usize) -> Arc<Pool> {
    let connector = Connector { options: options.clone(), site: site.clone() };
    Pool::new(connector, options.limits, site.clone(), size)
}

/// Makes connections.
pub(super) struct Connector {
    options: PostgresOptions,
    site: SiteName,
}

impl pool::Connector for Connector {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection> {
        let tls = self.options.tls.clone();
        let (client, connection) = self.options.config.connect(tls.clone()).await.map_err(|e| self.site.refused(&e))?;
        if connection.parameter("server_encoding") != Some("UTF8") {
            return Err(self
                .site
                .unavailable("its database is not encoded in UTF8")
                .hint("CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"));
        }
        let site = self.site.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(site = site.0, %error, "a connection has ended");
            }
        });
        Ok(Connection::new(client, tls))
    }

    fn is_closed(&self, connection: &Connection) -> bool {
        connection.client.is_closed()
    }

    async fn try_out(&self, connection: &mut Connection) -> bool {
        connection.client.check_connection().await.is_ok()
    }
}
