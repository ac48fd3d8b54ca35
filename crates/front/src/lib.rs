//! Atoll's entrances: PostgreSQL wire protocol, HTTP, authentication, metrics.
