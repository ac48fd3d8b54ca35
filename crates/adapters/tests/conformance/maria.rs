//! A private MariaDB server, and what tests do there beside Atoll.

use atoll_e2e::mariadb::MariaDb;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A server.
pub struct Maria {
    pub server: MariaDb,
    databases: AtomicU32,
}

impl Maria {
    /// Creates and starts one.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(&[]).await
    }

    /// As above, with other settings.
    pub async fn start_with(settings: &[&str]) -> io::Result<Self> {
        let server = tokio::task::block_in_place(|| MariaDb::start(settings))?;
        Ok(Maria { server, databases: AtomicU32::new(0) })
    }

    /// How its user reaches a database.
    pub fn url(&self, database: &str) -> String {
        self.server.url(database)
    }

    /// A new database.
    pub async fn database(&self) -> Outcome<String> {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.run("app", &format!("CREATE DATABASE {name}")).await?;
        Ok(name)
    }

    /// Runs statements there, beside Atoll.
    pub async fn run(&self, database: &str, sql: &str) -> Outcome<()> {
        let mut conn = Conn::from_url(self.url(database)).await?;
        conn.query_drop(sql).await?;
        Ok(conn.disconnect().await?)
    }

    /// One number out of a database.
    pub async fn number(&self, database: &str, sql: &str) -> Outcome<i64> {
        let mut conn = Conn::from_url(self.url(database)).await?;
        let number = conn.query_first(sql).await?.ok_or("no row")?;
        conn.disconnect().await?;
        Ok(number)
    }
}
