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

use atoll_model::{Result, Site as Definition, SiteEngine};
use atoll_ports::site::{ParticipantId, Site};
use std::sync::Arc;

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

/// Opens a site: an embedded one over this process's engine; a database as a participant of its own, since each commits for itself. Ids
/// of sites begin at 1, so that none of them is the engine's participant 0.
///
/// # Errors
/// `InvalidParameterValue` for options that cannot be; those of opening an embedded site.
pub fn open(engine: &Arc<embedded::EmbeddedEngine>, site: &Definition) -> Result<Arc<dyn Site>> {
    let participant = ParticipantId(site.id.0);
    match site.engine {
        SiteEngine::Embedded => engine.site(site.id),
        SiteEngine::Postgres => Ok(postgres::PostgresSite::open(site, participant)?),
        SiteEngine::Mysql => Ok(mysql::MysqlSite::open(site, participant)?),
    }
}
