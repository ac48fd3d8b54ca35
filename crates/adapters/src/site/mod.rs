//! Sites: one module per engine.

pub mod embedded;
