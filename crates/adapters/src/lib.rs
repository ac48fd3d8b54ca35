//! Implementations of Atoll's ports: sites, logs, caches, blob stores.
