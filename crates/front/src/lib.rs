//! Atoll's entrances: PostgreSQL wire protocol, HTTP, authentication, metrics.
//!
//! Invariant: an entrance knows the SQL engine only through [`atoll_ports::session`]; whatever a client sends ends in an answer
//! or in an error with a SQLSTATE, never in a panic, and costs no more than its limit.

mod cells;
mod config;
pub mod copy;
mod encode;
mod metrics;
mod params;
mod wire;

pub use config::{FrontConfig, Limits, Tls, TlsError};
