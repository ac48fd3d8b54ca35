//! Atoll's entrances: PostgreSQL wire protocol, HTTP, authentication, metrics.
//!
//! Invariant: an entrance knows the SQL engine only through [`atoll_ports::session`]; whatever a client sends ends in an answer
//! or in an error with a SQLSTATE, never in a panic, and costs no more than its limit.

mod cells;
mod config;
pub mod copy;
mod encode;
mod http;
mod metrics;
mod params;
mod wire;

pub use config::{FrontConfig, Limits, Tls, TlsError};
pub use http::StatusSource;
#[cfg(feature = "fuzzing")]
pub use wire::fuzzing;

use atoll_model::{Error, ErrorKind, Result};
use atoll_ports::scram;
use atoll_ports::session::Database;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often histograms are compacted: without it they would grow with every statement.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// The running entrances.
pub struct FrontHandle {
    sql_addr: SocketAddr,
    http_addr: SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl FrontHandle {
    /// Where the wire protocol is served.
    pub fn sql_addr(&self) -> SocketAddr {
        self.sql_addr
    }

    /// Where HTTP is served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Takes no more clients, tells the idle ones that the server goes (57P01), gives running statements their grace
    /// ([`Limits::shutdown_grace`]), cancels the rest. Returns when all connections are closed.
    pub async fn shutdown(&self) {
        self.shutdown.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for FrontHandle {
    /// Without its handle nobody could stop the entrances any more.
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn listen(addr: SocketAddr, what: &str) -> Result<(TcpListener, SocketAddr)> {
    let failed = |e: std::io::Error| Error::new(ErrorKind::Io, format!("cannot listen on {addr} for {what}: {e}"));
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok((listener, addr))
}

/// Opens the entrances to a database.
///
/// # Errors
/// `Io` when an address is taken; `Internal` when the operating system has no random numbers.
pub async fn serve(
    config: FrontConfig,
    database: Arc<dyn Database>,
    status: Arc<dyn StatusSource>,
) -> Result<FrontHandle> {
    let metrics = metrics::install();
    let (sql, sql_addr) = listen(config.sql_addr, "SQL").await?;
    let (http, http_addr) = listen(config.http_addr, "HTTP").await?;
    let secret = match config.mock_secret {
        Some(secret) => secret,
        None => scram::random().map_err(|e| Error::internal(e.to_string()))?,
    };
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    if let Some(metrics) = metrics.clone() {
        let stop = shutdown.clone();
        tasks.spawn(async move {
            while tokio::time::timeout(METRICS_UPKEEP, stop.cancelled()).await.is_err() {
                metrics.run_upkeep();
            }
        });
    }
    tasks.spawn(wire::serve(sql, &config, secret, database.clone(), shutdown.clone()));
    tasks.spawn(http::serve(http, config, secret, database, status, metrics, shutdown.clone()));
    tasks.close();
    Ok(FrontHandle { sql_addr, http_addr, shutdown, tasks })
}
