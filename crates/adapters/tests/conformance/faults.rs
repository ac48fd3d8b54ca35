//! What can go wrong with a database across a network.
