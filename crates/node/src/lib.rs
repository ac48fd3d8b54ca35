//! Atoll's runtime: catalog, transactions, replication, background tasks.
