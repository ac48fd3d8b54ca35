//! Sites: one module per engine, and what engines have in common.
//!
//! | module | what sites of several engines share |
//! |---|---|
//! | `limits`, `name`, `pool` | options, messages and connections of servers |
//! | `orders`, `predicate`, `changes`, `columns` | a table's orders, conditions on them, sorted changes, Arrow columns |
//! | `company` | requests that are answered together |
//! | `drift` | what is said of tables that are otherwise than their definition |
//! | `select` | queries as SELECT statements |
//! | `clock`, `statistics` | what servers do not tell, or not at once |

mod changes;
mod clock;
mod columns;
mod company;
mod drift;
pub mod embedded;
mod limits;
pub mod mysql;
mod name;
mod orders;
mod pool;
pub mod postgres;
mod predicate;
mod select;
mod statistics;
