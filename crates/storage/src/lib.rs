//! Atoll's embedded engine: MVCC rows and indexes on an LSM tree.
