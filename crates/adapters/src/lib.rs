//! Implementations of Atoll's ports: the places where rows live.
//!
//! Invariant: nothing here decides anything that the port's contract leaves open; an adapter translates.

pub mod site;
pub mod tls;
