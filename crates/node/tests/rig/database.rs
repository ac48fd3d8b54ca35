//! A database on a private server, of one engine or another.

use super::TestResult;
use super::maria::Maria;
use super::server::Server;
use atoll_e2e::mariadb;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

/// Whose server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    Postgres,
    Maria,
}

enum Backend {
    Postgres(Server),
    Maria(Box<Maria>),
}

/// A database, with the server that it is at.
pub struct Database {
    server: Backend,
    name: String,
}

fn told(error: Box<dyn std::error::Error>) -> Box<dyn std::error::Error + Send + Sync> {
    error.to_string().into()
}

impl Database {
    /// Starts a server and makes a database there.
    pub async fn start(engine: Engine) -> TestResult<Self> {
        match engine {
            Engine::Postgres => Self::postgres(&["max_prepared_transactions=50"]).await,
            Engine::Maria => {
                let server = Maria::start().await?;
                let name = server.database().await.map_err(told)?;
                Ok(Database { server: Backend::Maria(Box::new(server)), name })
            }
        }
    }

    /// A PostgreSQL server with these settings.
    pub async fn postgres(settings: &[&str]) -> TestResult<Self> {
        let server = Server::start_with(settings).await?;
        let name = server.database().await.map_err(told)?;
        Ok(Database { server: Backend::Postgres(server), name })
    }

    pub fn url(&self) -> String {
        match &self.server {
            Backend::Postgres(server) => server.url(&self.name),
            Backend::Maria(server) => server.url(&self.name),
        }
    }

    pub fn crash(&mut self) {
        match &mut self.server {
            Backend::Postgres(server) => server.crash(),
            Backend::Maria(server) => server.server.crash(),
        }
    }

    pub async fn start_again(&mut self) -> std::io::Result<()> {
        match &mut self.server {
            Backend::Postgres(server) => server.start_again().await,
            Backend::Maria(server) => tokio::task::block_in_place(|| server.server.start_again()),
        }
    }

    /// Atoll's prepared transactions.
    pub async fn prepared(&self) -> TestResult<i64> {
        match &self.server {
            Backend::Postgres(server) => {
                let sql = "SELECT count(*) FROM pg_prepared_xacts WHERE starts_with(gid, 'atoll_')";
                server.number(&self.name, sql).await.map_err(told)
            }
            Backend::Maria(server) => {
                let mut conn = Conn::from_url(server.url(&self.name)).await?;
                let all: Vec<mysql_async::Row> = conn.query("XA RECOVER").await?;
                conn.disconnect().await?;
                Ok(i64::try_from(all.len())?)
            }
        }
    }

    /// Runs statements there.
    pub async fn run(&self, sql: &str) -> TestResult {
        match &self.server {
            Backend::Postgres(server) => server.run(&self.name, sql).await.map_err(told),
            Backend::Maria(server) => server.run(&self.name, sql).await.map_err(told),
        }
    }

    /// The number that a query gives.
    pub async fn number(&self, sql: &str) -> TestResult<i64> {
        match &self.server {
            Backend::Postgres(server) => server.number(&self.name, sql).await.map_err(told),
            Backend::Maria(server) => server.number(&self.name, sql).await.map_err(told),
        }
    }

    /// Prepares a transaction that is not this Atoll's, under a name.
    pub async fn prepare_foreign(&self, name: &str) -> TestResult {
        match &self.server {
            Backend::Postgres(server) => {
                let sql = format!("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '{name}'");
                server.run(&self.name, &sql).await.map_err(told)
            }
            Backend::Maria(server) => {
                let entry = format!(
                    "INSERT INTO atoll_branches (name, xid, session, made) VALUES ('{name}', 'x{name}', 1, NOW())"
                );
                let sql = format!("XA START 'x{name}'; {entry}; XA END 'x{name}'; XA PREPARE 'x{name}'");
                server.run(&self.name, &sql).await.map_err(told)
            }
        }
    }

    /// All prepared transactions, whosesoever.
    pub async fn all_prepared(&self) -> TestResult<i64> {
        match &self.server {
            Backend::Postgres(server) => {
                server.number(&self.name, "SELECT count(*) FROM pg_prepared_xacts").await.map_err(told)
            }
            Backend::Maria(_) => self.prepared().await,
        }
    }

    /// Tables that hold copies, by what is committed.
    pub async fn tables(&self) -> TestResult<i64> {
        let number = match &self.server {
            Backend::Postgres(server) => {
                let sql =
                    "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace('atoll')";
                server.number(&self.name, sql).await
            }
            Backend::Maria(server) => {
                let sql = "SELECT COUNT(*) FROM information_schema.TABLES JOIN atoll_parts \
                           ON TABLE_NAME = CONCAT('f', fragment) AND part = '' WHERE TABLE_SCHEMA = DATABASE()";
                match server.number(&self.name, sql).await {
                    // Nothing was ever made there.
                    Err(e) if e.to_string().contains("doesn't exist") => Ok(0),
                    number => number,
                }
            }
        };
        number.map_err(told)
    }

    /// Whether a URL is of this kind of server.
    pub fn is_maria(url: &str) -> bool {
        url.starts_with("mysql:") && url.contains(mariadb::USER)
    }
}
