//! Rows read by their key outside of any transaction: several at a time, as one statement, and of them only the columns that are wanted.
//!
//! Invariant: a row is read after it was asked for, in a snapshot of its own statement, so the answer is one that a transaction of this
//! read alone could have got. Only keys of one column are read together, of types whose equality is that of their bytes.

use super::branch::decode_columns;
use super::connection::Link;
use super::layout::Layout;
use super::predicate::{key_equals, typed};
use super::site::Shared;
use super::values::Param;
use crate::site::company::Company;
use atoll_model::{Result, Row, SqlType, Value};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Statements for several keys take 2, 4, 8 … 64 of them: an exact number of parameters in each, so that the server sees that a plan for
/// whatever keys costs what one for these keys does, and keeps it. (An array of unknown length it takes for ten values, and plans anew
/// for every shorter one, which costs as much as running it.)
const SIZES: usize = 6;

/// Sets of columns that are read by themselves; whoever wants another gets all columns.
const MAX_READERS: usize = 16;

/// Who reads rows of a copy by their keys.
#[derive(Default)]
pub(super) struct Reads {
    by_columns: RwLock<HashMap<Box<[usize]>, Arc<Reader>>>,
    whole: OnceLock<Arc<Reader>>,
}

/// Reads some columns.
struct Reader {
    company: Company<Value, Result<Option<Row>>>,
    /// Those wanted and the key's, in the order in which they are asked for.
    columns: Vec<usize>,
    one: OnceLock<String>,
    several: [OnceLock<String>; SIZES],
}

impl Reads {
    /// Who reads the columns wanted, or all.
    fn reader(&self, layout: &Layout, wanted: &[usize]) -> Arc<Reader> {
        let is_full = {
            let readers = self.by_columns.read();
            if let Some(reader) = readers.get(wanted) {
                return reader.clone();
            }
            readers.len() >= MAX_READERS
        };
        if is_full {
            let all = || Arc::new(Reader::new(layout, &(0..layout.table.columns.len()).collect::<Vec<_>>()));
            return self.whole.get_or_init(all).clone();
        }
        let new = || Arc::new(Reader::new(layout, wanted));
        self.by_columns.write().entry(wanted.into()).or_insert_with(new).clone()
    }
}

impl Reader {
    fn new(layout: &Layout, wanted: &[usize]) -> Self {
        let mut columns = [wanted, &layout.key].concat();
        columns.sort_unstable();
        columns.dedup();
        Reader { company: Company::default(), columns, one: OnceLock::new(), several: Default::default() }
    }

    /// A statement for the rows that a condition holds for.
    fn statement(&self, layout: &Layout, condition: &str) -> String {
        format!("SELECT {} FROM {} WHERE {condition}", layout.list(&self.columns), layout.relation)
    }
}

/// The row with this key. Columns that are neither wanted nor the key's are NULL.
pub(super) async fn read(site: &Shared, layout: &Layout, key: &[Value], wanted: &[usize]) -> Result<Option<Row>> {
    if key.len() != layout.key.len() || key.iter().any(Value::is_null) {
        return Ok(None);
    }
    let reader = &*layout.reads.reader(layout, wanted);
    match key {
        [only] if goes_together(layout) => {
            reader.company.ask(only.clone(), |keys| several(site, layout, reader, keys)).await
        }
        _ => one(site, layout, reader, key).await,
    }
}

fn goes_together(layout: &Layout) -> bool {
    layout.key.iter().all(|at| match layout.ty(*at) {
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Uuid => true,
        // An adopted table's collation may take different texts for the same.
        SqlType::Text | SqlType::Varchar(_) => !layout.adopted,
        _ => false,
    })
}

async fn one(site: &Shared, layout: &Layout, reader: &Reader, key: &[Value]) -> Result<Option<Row>> {
    let sql = reader.one.get_or_init(|| reader.statement(layout, &key_equals(layout, &layout.key, 1)));
    let parameters: Vec<Param<'_>> = layout.key.iter().zip(key).map(|(at, v)| Param(layout.ty(*at), v)).collect();
    Ok(ask(site, layout, reader, sql, &parameters).await?.pop())
}

async fn several(site: &Shared, layout: &Layout, reader: &Reader, keys: Vec<Value>) -> Vec<Result<Option<Row>>> {
    if let [only] = keys.as_slice() {
        return vec![one(site, layout, reader, std::slice::from_ref(only)).await];
    }
    match found(site, layout, reader, &keys).await {
        Ok(rows) => keys.iter().map(|key| Ok(row_of(&rows, layout.key[0], key))).collect(),
        Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
    }
}

/// The rows that there are of these keys, two at least, in any order.
async fn found(site: &Shared, layout: &Layout, reader: &Reader, keys: &[Value]) -> Result<Vec<Row>> {
    let at = layout.key[0];
    let size = keys.len().next_power_of_two();
    let sql = reader.several[size.trailing_zeros() as usize - 1].get_or_init(|| {
        let list = (1..=size).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ");
        reader.statement(layout, &format!("{} IN ({list})", layout.column(at)))
    });
    // The last one again fills up the list.
    let filled = keys.iter().chain(std::iter::repeat(&keys[keys.len() - 1])).take(size);
    let parameters: Vec<Param<'_>> = filled.map(|key| Param(layout.ty(at), key)).collect();
    ask(site, layout, reader, sql, &parameters).await
}

async fn ask(site: &Shared, layout: &Layout, reader: &Reader, sql: &str, parameters: &[Param<'_>]) -> Result<Vec<Row>> {
    let link = Link::free(&site.pool).await?;
    let rows = link.query(sql, &typed(parameters)).await?;
    rows.iter().map(|row| decode_columns(layout, row, 0, reader.columns.iter().copied())).collect()
}

fn row_of(rows: &[Row], at: usize, key: &Value) -> Option<Row> {
    rows.iter().find(|row| row[at].matches(key)).cloned()
}
