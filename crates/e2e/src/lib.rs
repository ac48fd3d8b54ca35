//! Black-box tests of the `atoll` binary: what a client of the wire protocol sees, and nothing of the inside.
//!
//! Everything here runs against two kinds of server, a private [PostgreSQL](server::PostgreSql) and a private
//! [Atoll](server::Atoll), so that a test's expectations are checked against the original before they are asked of Atoll.
//! The crate depends on no other crate of the workspace: it can only find out what a user could find out.

pub mod asking;
pub mod bank;
pub mod compare;
pub mod diff;
pub mod layout;
pub mod mariadb;
pub mod rng;
pub mod server;
pub mod slt;
pub mod wire;

use std::path::PathBuf;
use std::time::Duration;

/// The root of the repository.
pub fn repository() -> PathBuf {
    // The crate lies two levels below it.
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The bound on a test's running time: seconds from an environment variable, or a default.
pub fn budget(variable: &str, default_seconds: u64) -> Duration {
    let seconds = std::env::var(variable).ok().and_then(|s| s.parse().ok()).unwrap_or(default_seconds);
    Duration::from_secs(seconds)
}
