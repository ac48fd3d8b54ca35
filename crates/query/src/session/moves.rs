//! MOVE FRAGMENT and CANCEL MOVE: what moves goes on without the session, so neither is part of a transaction.

use super::SqlSession;
use crate::pg::parse::Statement;
use crate::privileges;
use atoll_model::{Error, ErrorKind, Result};
use atoll_ports::cluster::MoveOrder;
use atoll_ports::session::Execution;

impl SqlSession {
    /// Runs one of the two.
    pub(super) async fn move_fragment(&mut self, statement: &Statement) -> Result<Execution> {
        let cluster = self.engine.cluster.clone();
        let catalog = cluster.catalog();
        privileges::administrator(&catalog, &self.identity().current_user, "move a fragment")?;
        let (fragment, table, tag) = match statement {
            Statement::MoveFragment { fragment, table, .. } => (fragment, table, "MOVE FRAGMENT"),
            Statement::CancelMove { fragment, table } => (fragment, table, "CANCEL MOVE"),
            _ => return Err(Error::internal("a statement that moves nothing")),
        };
        if self.current.is_explicit() || self.current.txn().is_some_and(|txn| txn.has_writes()) {
            return Err(Error::new(
                ErrorKind::ActiveTransaction,
                format!("{tag} cannot run inside a transaction block"),
            ));
        }
        let (table, at) = catalog.fragment_named(table.as_deref(), fragment)?;
        let (table, fragment) = (table.name.clone(), table.fragments[at].name.clone());
        match statement {
            Statement::MoveFragment { from, to, wait, .. } => {
                let (from, to, wait) = (from.clone(), to.clone(), *wait);
                cluster.move_fragment(MoveOrder { table, fragment, from, to, wait }).await?;
            }
            _ => cluster.cancel_move(&table, &fragment).await?,
        }
        Ok(Execution::Done { tag, rows: None })
    }
}
