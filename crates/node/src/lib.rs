//! Atoll's runtime: the catalog that is in force, and transactions over tables whose fragments lie at many sites.
//!
//! Map: [`Node`] keeps the catalog (`persist`) and answers the query layer ([`atoll_ports::cluster`]); `transaction` is one
//! transaction, with its DDL, placement, writes, uniqueness and foreign keys; `gates` are the locks on whole tables; `sequences` hand
//! out numbers; `purge` removes what DDL has left behind; `coordinator` commits over several participants and recovers them.
//!
//! Invariant: sites are reached only through [`atoll_ports::site`], and a commit is one durable write at one participant, or one durable
//! decision that every participant follows.

mod active;
mod coordinator;
mod copies;
mod deadlocks;
mod definitions;
mod gates;
mod node;
mod persist;
mod purge;
mod rows;
mod sequences;
mod sites;
mod transaction;

pub use coordinator::TransactionOptions;
pub use node::Node;
pub use sites::SiteFactory;
