//! The PostgreSQL wire protocol, version 3.0.
//!
//! Invariant: one task per connection, on one of the [`threads`], drives one [`atoll_ports::session::Session`] and talks to its client
//! through one [`channel::Channel`]; nothing is shared between connections but limits, counters and the table of cancel keys. Messages
//! are decoded and encoded here rather than by a library: hostile bytes must end in an error with a SQLSTATE, and a row must
//! be encoded from its Arrow column straight into the buffer that is sent.

mod backend;
mod channel;
mod connection;
mod extended;
mod frontend;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod intake;
mod results;
mod scram;
mod server;
mod startup;
mod stop;
mod threads;
mod workers;

pub(crate) use scram::mock_verifier;

use crate::config::{FrontConfig, Tls};
use atoll_ports::session::Database;
use std::future::Future;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves the wire protocol until shutdown.
pub(crate) fn serve(
    listener: TcpListener,
    config: &FrontConfig,
    mock_secret: [u8; 32],
    database: Arc<dyn Database>,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let tls = config.tls.as_ref().map(|Tls { sql, .. }| sql.clone());
    let shared = server::Shared::new(database, config.limits.clone(), tls, mock_secret, shutdown);
    server::serve(listener, Arc::new(shared))
}
