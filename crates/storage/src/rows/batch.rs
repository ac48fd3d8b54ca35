//! Record batches built from stored rows.
//!
//! Invariant: a batch ends at the wanted number of rows or when its rows' bytes reach [`MAX_BYTES`], so that neither memory nor
//! the 32-bit offsets of Arrow's text columns can overflow, however large the rows are.

use super::codec::TableCodec;
use super::column::Column;
use super::row::{RowReader, corrupt};
use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use atoll_model::{Error, Result};
use std::sync::Arc;

/// Bytes of stored rows after which a batch is handed out.
const MAX_BYTES: usize = 16 << 20;

impl TableCodec {
    /// The schema of batches of these columns.
    pub(crate) fn schema_of(&self, positions: &[usize]) -> Result<Schema> {
        let field = |at: &usize| {
            let column = self.table.columns.get(*at)?;
            Some(column.ty.field(&column.name, !column.not_null))
        };
        positions
            .iter()
            .map(field)
            .collect::<Option<Vec<_>>>()
            .map(Schema::new)
            .ok_or_else(|| Error::internal(format!("a column beyond those of table {}", self.table.name)))
    }
}

/// A batch under construction.
pub(crate) struct BatchBuilder {
    schema: SchemaRef,
    slots: Vec<u16>,
    columns: Vec<Column>,
    capacity: usize,
    rows: usize,
    bytes: usize,
}

impl BatchBuilder {
    pub(crate) fn new(codec: &TableCodec, positions: &[usize], capacity: usize) -> Result<Self> {
        let mut slots = Vec::with_capacity(positions.len());
        let mut columns = Vec::with_capacity(positions.len());
        for at in positions {
            let column = codec
                .table
                .columns
                .get(*at)
                .ok_or_else(|| Error::internal(format!("table {} has no column at {at}", codec.table.name)))?;
            slots.push(column.id.0);
            columns.push(Column::new(&column.ty, &column.missing, capacity)?);
        }
        Ok(BatchBuilder { schema: Arc::new(codec.schema_of(positions)?), slots, columns, capacity, rows: 0, bytes: 0 })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows >= self.capacity || self.bytes >= MAX_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether rows need not be read to be counted.
    pub(crate) fn counts_only(&self) -> bool {
        self.columns.is_empty()
    }

    pub(crate) fn count(&mut self) {
        self.rows += 1;
    }

    pub(crate) fn push(&mut self, payload: &[u8]) -> Result<()> {
        if payload.len() > i32::MAX as usize / 2 {
            return Err(corrupt("size"));
        }
        let reader = RowReader::new(payload)?;
        for (slot, column) in self.slots.iter().zip(&mut self.columns) {
            column.push(reader.cell(*slot)?)?;
        }
        self.rows += 1;
        self.bytes += payload.len();
        Ok(())
    }

    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let arrays = self.columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        self.bytes = 0;
        // A NULL in a NOT NULL column is the only thing that can be wrong here.
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(|e| corrupt(&e.to_string()))
    }
}
