//! PostgreSQL's face: its grammar, its functions, its catalogs, on top of DataFusion.
//!
//! Invariant: what is here answers as PostgreSQL does or refuses with PostgreSQL's SQLSTATE; it never guesses.

pub mod parse;
pub mod rewrite;
