//! Sites: one module per engine.

pub mod embedded;
pub mod postgres;
