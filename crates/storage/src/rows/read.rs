//! Reading rows: by key, and in ranges of the table's key or of an index.
//!
//! Invariant: a scan reads rows and index entries from one frozen view, so every entry leads to its row; one that does not is damage.

use super::batch::BatchBuilder;
use super::cache::{ColumnBatches, ColumnCache};
use super::codec::TableCodec;
use super::row::corrupt;
use crate::kv::{Scan, Space, Store, Txn, View};
use arrow_array::RecordBatch;
use atoll_model::{Result, Row, Value};
use std::ops::Bound;
use std::sync::Arc;

/// Which rows of a fragment to read, and what of them.
#[derive(Clone, Debug)]
pub struct ScanPlan {
    /// Positions of the columns to return; none: only the number of rows counts.
    pub columns: Vec<usize>,
    /// The index whose order to follow; 0: the table's key.
    pub index: u16,
    /// Lower bound, a prefix of the order's columns.
    pub lower: Bound<Vec<Value>>,
    /// Upper bound.
    pub upper: Bound<Vec<Value>>,
    /// Backwards.
    pub reverse: bool,
    /// Stop after so many rows.
    pub limit: Option<usize>,
    /// Rows per batch.
    pub batch_size: usize,
}

/// Batches of rows, as they are asked for.
pub enum Batches {
    /// From the rows.
    Rows(Box<RowBatches>),
    /// From kept columns.
    Columns(Box<ColumnBatches>),
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Batches::Rows(batches) => batches.next(),
            Batches::Columns(batches) => batches.next(),
        }
    }
}

/// Batches decoded from stored rows.
pub struct RowBatches {
    codec: Arc<TableCodec>,
    fragment: u32,
    /// Where rows are looked up when an index is followed.
    rows: Option<View>,
    scan: Scan,
    builder: BatchBuilder,
    left: usize,
}

impl TableCodec {
    /// The row with this key in the transaction's view.
    ///
    /// # Errors
    /// `DataCorrupted`, `Io`.
    pub fn get(&self, txn: &Txn, space: &Space, fragment: u32, key: &[Value]) -> Result<Option<Row>> {
        let key = self.row_key(fragment, key)?;
        txn.get(space, &key)?.map(|stored| self.decode(stored.payload())).transpose()
    }

    /// Rows in the transaction's present view, as batches.
    ///
    /// # Errors
    /// `DatatypeMismatch` for bounds that are not of the columns' types.
    pub fn scan(self: &Arc<Self>, txn: &Txn, space: &Arc<Space>, fragment: u32, plan: &ScanPlan) -> Result<RowBatches> {
        self.scan_view(&txn.view(space), fragment, plan)
    }

    /// The same, through the cache of columns where that can answer.
    ///
    /// # Errors
    /// As [`TableCodec::scan`].
    pub fn scan_cached(
        self: &Arc<Self>,
        txn: &Txn,
        store: &Store,
        space: &Arc<Space>,
        fragment: u32,
        plan: &ScanPlan,
        cache: &Arc<ColumnCache>,
    ) -> Result<Batches> {
        Ok(match ColumnBatches::new(self, txn, store, space, fragment, plan, cache)? {
            Some(columns) => Batches::Columns(Box::new(columns)),
            None => Batches::Rows(Box::new(self.scan(txn, space, fragment, plan)?)),
        })
    }

    pub(super) fn scan_view(self: &Arc<Self>, view: &View, fragment: u32, plan: &ScanPlan) -> Result<RowBatches> {
        let (lower, upper) = self.range(fragment, plan.index, &plan.lower, &plan.upper)?;
        let left = plan.limit.unwrap_or(usize::MAX);
        let builder = BatchBuilder::new(self, &plan.columns, plan.batch_size.clamp(1, 1 << 20).min(left.max(1)))?;
        let scan = view.scan(as_bytes(&lower), as_bytes(&upper), plan.reverse);
        let rows = (plan.index != 0 && !builder.counts_only()).then(|| view.clone());
        Ok(RowBatches { codec: self.clone(), fragment, rows, scan, builder, left })
    }
}

fn as_bytes(bound: &Bound<fjall::Slice>) -> Bound<&[u8]> {
    bound.as_ref().map(|slice| slice.as_ref())
}

impl RowBatches {
    fn fill(&mut self) -> Result<()> {
        while self.left > 0 && !self.builder.is_full() {
            let Some(entry) = self.scan.next() else {
                self.left = 0;
                break;
            };
            let (key, stored) = entry?;
            self.left -= 1;
            if self.builder.counts_only() {
                self.builder.count();
                continue;
            }
            match &self.rows {
                None => self.builder.push(stored.payload())?,
                Some(rows) => {
                    let row_key = self.codec.row_of_entry(self.fragment, &key, stored.payload())?;
                    let row = rows.get(&row_key)?.ok_or_else(|| corrupt("index entry without row"))?;
                    self.builder.push(row.payload())?;
                }
            }
        }
        Ok(())
    }
}

impl Iterator for RowBatches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            self.left = 0;
            // What was collected before the error must not come after it.
            let _ = self.builder.finish();
            return Some(Err(self.codec.named(error)));
        }
        (!self.builder.is_empty()).then(|| self.builder.finish().map_err(|e| self.codec.named(e)))
    }
}
