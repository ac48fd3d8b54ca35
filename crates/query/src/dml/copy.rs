//! COPY … FROM STDIN: batches from the entrance become rows of the table.

use super::{check_rows, defaults};
use crate::rows;
use crate::session::context::StatementContext;
use async_trait::async_trait;
use atoll_model::{Result, Row, SqlType, Table, Value};
use atoll_ports::session::RowSink;
use atoll_ports::site::RowChange;
use datafusion::arrow::array::RecordBatch;
use std::sync::Arc;

/// Takes the rows of a COPY within the statement's transaction.
pub(crate) struct CopySink {
    cx: StatementContext,
    table: Arc<Table>,
    positions: Vec<usize>,
    missing: Vec<usize>,
    types: Vec<SqlType>,
    rows: u64,
}

impl CopySink {
    /// A sink for rows that give the columns at `positions`.
    pub(crate) fn new(cx: StatementContext, table: Arc<Table>, positions: Vec<usize>) -> Self {
        let missing = (0..table.columns.len()).filter(|p| !positions.contains(p)).collect();
        let types = positions.iter().map(|p| table.columns[*p].ty.clone()).collect();
        CopySink { cx, table, positions, missing, types, rows: 0 }
    }

    /// Whether the data's columns are the table's, in order, with nothing to fill in.
    fn whole(&self) -> bool {
        self.missing.is_empty() && self.positions.iter().enumerate().all(|(i, p)| i == *p)
    }
}

#[async_trait]
impl RowSink for CopySink {
    async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        self.cx.check_cancelled()?;
        let given = rows::from_batch(&batch, &self.types)?;
        let rows: Vec<Row> = if self.whole() {
            given
        } else {
            let mut rows: Vec<Row> = given
                .into_iter()
                .map(|values| {
                    let mut row = vec![Value::Null; self.table.columns.len()];
                    for (value, at) in values.into_iter().zip(&self.positions) {
                        row[*at] = value;
                    }
                    row
                })
                .collect();
            defaults::fill(&self.cx, &self.table, &mut rows, &self.missing).await?;
            rows
        };
        check_rows(&self.cx, &self.table, &rows)?;
        self.rows += rows.len() as u64;
        self.cx.txn.write(&self.table, rows.into_iter().map(RowChange::Insert).collect()).await
    }

    async fn finish(self: Box<Self>) -> Result<u64> {
        Ok(self.rows)
    }
}
