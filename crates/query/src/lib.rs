//! Atoll's query layer: binder, router, localization, optimizer rules, DML, EXPLAIN. The only crate that knows DataFusion.
//!
//! [`SqlEngine`] is what entrances connect to. A statement takes one of three ways: a *keyed* statement runs straight against
//! storage, any other query goes through DataFusion (bind, localize, reduce, execute), and a statement that changes rows evaluates
//! row images through the same and writes them in a transaction. Everything else is a change of the catalog.

mod carried;
mod clock;
mod ddl;
mod dml;
mod keyed;
mod metrics;
mod pg;
mod privileges;
mod read;
mod rows;
mod session;
mod syntax;

pub use read::EngineOptions as ReadOptions;
pub use session::{EngineOptions, SqlEngine};
