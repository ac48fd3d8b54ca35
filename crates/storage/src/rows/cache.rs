//! Columns of whole fragments, decoded and kept in memory: what analytical queries read over and over.
//!
//! A fragment's content is a function of the last commit that wrote to it, so that commit's timestamp is its *version*. Versions are
//! published no later than the snapshots that show them. A reader takes its snapshot S first and then asks for the version V: if
//! V ≤ S, no commit beyond S has touched the fragment, and what S shows is exactly version V; if V > S, the reader goes to the rows.
//!
//! Invariants: a column is kept under the version it was read at and is used for no other; the bytes kept stay below the capacity;
//! chunks of all columns of one version have the same lengths, since they are cut by rows and by the stored rows' bytes alone.

use super::codec::TableCodec;
use super::read::{RowBatches, ScanPlan};
use crate::kv::{Space, Store, Txn, View};
use arrow_array::{Array, ArrayRef, NullArray, RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use atoll_model::{Error, Result, SqlType};
use std::ops::Bound;
use std::sync::Arc;

/// Rows of a chunk. Scans with another batch size go to the rows.
const CHUNK_ROWS: usize = 8192;

/// The column that stands for the number of rows: chunks of [`NullArray`]s, which take no memory.
const ROW_COUNT: u16 = u16::MAX;

/// What the columns of one fragment at one site are found by: site's index, fragment, column's id.
type Key = (u32, u32, u16);

/// One column of one version of a fragment.
struct CachedColumn {
    version: u64,
    ty: SqlType,
    chunks: Vec<ArrayRef>,
    bytes: u32,
}

/// The columns kept, the least recently used ones leaving first.
pub struct ColumnCache {
    columns: moka::sync::Cache<Key, Arc<CachedColumn>>,
    /// Bytes that one column may take: more would push out everything else.
    largest: usize,
}

impl ColumnCache {
    /// A cache of at most so many bytes; 0 keeps nothing.
    pub fn new(capacity: u64) -> Arc<Self> {
        let columns = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .weigher(|_, column: &Arc<CachedColumn>| column.bytes.max(1))
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .build();
        let largest = usize::try_from(capacity / 2).unwrap_or(usize::MAX).min(u32::MAX as usize);
        Arc::new(ColumnCache { columns, largest })
    }

    fn get(&self, key: Key, version: u64, ty: &SqlType) -> Option<Arc<CachedColumn>> {
        self.columns.get(&key).filter(|column| column.version == version && column.ty == *ty)
    }
}

/// One column of the answer.
enum Source {
    Kept(Arc<CachedColumn>),
    /// Position among the columns that are read from the rows.
    Read(usize),
}

/// A column on its way into the cache.
struct Filling {
    key: Key,
    ty: SqlType,
    chunks: Vec<ArrayRef>,
    bytes: usize,
}

/// Batches whose columns come from the cache where it has them, and from the rows otherwise.
pub struct ColumnBatches {
    schema: SchemaRef,
    sources: Vec<Source>,
    /// Chunks of the answer, if every column is kept.
    chunks: Option<usize>,
    at: usize,
    rows: Option<RowBatches>,
    filling: Vec<Filling>,
    cache: Arc<ColumnCache>,
    version: u64,
}

impl ColumnBatches {
    /// A scan of a whole fragment through the cache; `None`: this scan has to go to the rows.
    ///
    /// # Errors
    /// As [`TableCodec::scan`].
    pub(super) fn new(
        codec: &Arc<TableCodec>,
        txn: &Txn,
        store: &Store,
        space: &Arc<Space>,
        fragment: u32,
        plan: &ScanPlan,
        cache: &Arc<ColumnCache>,
    ) -> Result<Option<ColumnBatches>> {
        let whole = matches!((&plan.lower, &plan.upper), (Bound::Unbounded, Bound::Unbounded));
        if !whole || plan.index != 0 || plan.reverse || plan.limit.is_some() || plan.batch_size != CHUNK_ROWS {
            return Ok(None);
        }
        let view = txn.view(space);
        if view.has_own_writes() || cache.largest == 0 {
            return Ok(None);
        }
        // After the snapshot: see the module's documentation.
        let version = store.fragment_size(space, fragment).modifications;
        if version > view.timestamp() {
            return Ok(None);
        }
        let wanted: Vec<(u16, SqlType)> = if plan.columns.is_empty() {
            vec![(ROW_COUNT, SqlType::Bool)]
        } else {
            plan.columns
                .iter()
                .map(|at| codec.slots.get(*at).cloned())
                .collect::<Option<_>>()
                .ok_or_else(|| Error::internal(format!("a column beyond those of table {}", codec.table.name)))?
        };
        let (mut sources, mut missing, mut filling) = (Vec::with_capacity(wanted.len()), vec![], vec![]);
        for (position, (slot, ty)) in wanted.into_iter().enumerate() {
            let key = (space.index, fragment, slot);
            sources.push(match cache.get(key, version, &ty) {
                Some(kept) => Source::Kept(kept),
                None => {
                    missing.extend(plan.columns.get(position));
                    filling.push(Filling { key, ty, chunks: vec![], bytes: 0 });
                    Source::Read(filling.len() - 1)
                }
            });
        }
        let chunks = match sources.first() {
            Some(Source::Kept(first)) if filling.is_empty() => Some(first.chunks.len()),
            _ => None,
        };
        let rows = match chunks {
            Some(_) => {
                note_read(&view, codec, fragment, plan)?;
                None
            }
            None => Some(codec.scan_view(&view, fragment, &ScanPlan { columns: missing, ..plan.clone() })?),
        };
        let schema = if plan.columns.is_empty() { Schema::empty() } else { codec.schema_of(&plan.columns)? };
        Ok(Some(ColumnBatches {
            schema: Arc::new(schema),
            sources,
            chunks,
            at: 0,
            rows,
            filling,
            cache: cache.clone(),
            version,
        }))
    }

    /// The next chunk of the columns that are read from the rows, with its number of rows; `None`: the end.
    fn read(&mut self) -> Option<Result<(usize, Vec<ArrayRef>)>> {
        let Some(rows) = &mut self.rows else {
            return (Some(self.at) < self.chunks).then(|| Ok((0, vec![])));
        };
        match rows.next() {
            Some(Err(error)) => {
                self.filling.clear();
                Some(Err(error))
            }
            Some(Ok(batch)) => {
                let count = batch.num_rows();
                let arrays = if batch.num_columns() == 0 {
                    vec![Arc::new(NullArray::new(count)) as ArrayRef]
                } else {
                    batch.columns().to_vec()
                };
                for (filling, array) in self.filling.iter_mut().zip(&arrays) {
                    filling.bytes += array.get_array_memory_size();
                    if filling.bytes > self.cache.largest {
                        filling.chunks = vec![];
                    } else {
                        filling.chunks.push(array.clone());
                    }
                }
                Some(Ok((count, arrays)))
            }
            None => {
                self.keep();
                self.rows = None;
                self.chunks = Some(0);
                None
            }
        }
    }

    fn keep(&mut self) {
        for filling in self.filling.drain(..).filter(|f| f.bytes <= self.cache.largest) {
            // Below `largest`, which fits.
            let bytes = u32::try_from(filling.bytes).unwrap_or(u32::MAX);
            let column = CachedColumn { version: self.version, ty: filling.ty, chunks: filling.chunks, bytes };
            self.cache.columns.insert(filling.key, Arc::new(column));
        }
    }

    fn assemble(&self, read: &[ArrayRef]) -> Result<RecordBatch> {
        let columns = self
            .sources
            .iter()
            .map(|source| match source {
                Source::Kept(column) => column.chunks.get(self.at).cloned(),
                Source::Read(at) => read.get(*at).cloned(),
            })
            .collect::<Option<Vec<ArrayRef>>>()
            .ok_or_else(|| Error::internal("kept columns of different lengths"))?;
        let count = columns.first().map_or(0, |c| c.len());
        let columns = if self.schema.fields().is_empty() { vec![] } else { columns };
        RecordBatch::try_new_with_options(
            self.schema.clone(),
            columns,
            &RecordBatchOptions::new().with_row_count(Some(count)),
        )
        .map_err(|e| Error::internal(format!("kept columns do not fit together: {e}")))
    }
}

impl Iterator for ColumnBatches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let (_, read) = match self.read()? {
            Ok(read) => read,
            Err(error) => return Some(Err(error)),
        };
        let batch = self.assemble(&read);
        self.at += 1;
        Some(batch)
    }
}

/// Records the range for serializability, as reading the rows would have.
fn note_read(view: &View, codec: &TableCodec, fragment: u32, plan: &ScanPlan) -> Result<()> {
    let (lower, upper) = codec.range(fragment, plan.index, &plan.lower, &plan.upper)?;
    view.note_range(lower, upper);
    Ok(())
}
