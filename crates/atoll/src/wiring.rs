//! The one place that names concrete backends: it builds a server from its configuration.

use std::net::SocketAddr;

use crate::config::ServeConfig;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This build has no server.
    #[error("the server is not wired yet")]
    NotWired,
}

/// A server that accepts connections until it is shut down.
#[derive(Debug)]
pub struct RunningServer {
    sql_addr: SocketAddr,
    http_addr: SocketAddr,
}

impl RunningServer {
    /// The address that PostgreSQL clients connect to, with the port that was really taken.
    pub fn sql_addr(&self) -> SocketAddr {
        self.sql_addr
    }

    /// The address that HTTP clients connect to, with the port that was really taken.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Stops accepting connections, lets running statements end, and closes the storage.
    pub async fn shutdown(self) {}
}

/// Starts a server.
pub async fn start(config: &ServeConfig) -> Result<RunningServer, StartError> {
    let _ = config;
    Err(StartError::NotWired)
}
