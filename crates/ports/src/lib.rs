//! Atoll's traits at its edges.
//!
//! Invariant: a trait here is the whole of what one side may know of the other: `front` speaks to [`session`], `query` to
//! [`cluster`], the node's transactions to [`site`]; [`query`] is what is handed down to sites as a whole. Each has its contract in its documentation.

pub mod cluster;
pub mod digest;
pub mod query;
pub mod rows;
pub mod scram;
pub mod session;
pub mod site;
pub mod verify;
