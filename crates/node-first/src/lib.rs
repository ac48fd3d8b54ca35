//! Atoll's runtime: the catalog, transactions over sites, sequences, background tasks.
//!
//! [`Node`] implements `ports::cluster::Cluster`. It knows sites only through `ports::site`; which engines there are is decided by
//! the [`SiteFactory`] that it is given.

mod choice;
mod locks;
mod meta;
mod node;
mod purge;
mod references;
mod sequences;
mod transaction;
mod write;

pub use node::{Node, SiteFactory};
