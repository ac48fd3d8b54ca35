//! A node in memory, for tests of this module: fragments are sorted vectors, a transaction reads them and writes nothing.

use crate::rows;
use async_trait::async_trait;
use atoll_model::{
    Catalog, CatalogCommand, Column, ColumnId, Error, ForeignKey, Fragment, FragmentBounds, FragmentId, Fragmentation,
    Index, IndexId, NamedObject, Place, ReadBalance, ReferentialAction, RelationId, Replication, Result, Row, Site,
    SiteEngine, SiteId, SqlType, Table, Timestamp, Value,
};
use atoll_ports::cluster::{Cluster, FragmentRef, TableLock, Transaction, TransactionInfo};
use atoll_ports::query::SiteQuery;
use atoll_ports::session::BatchStream;
use atoll_ports::site::{
    BranchOptions, FragmentStatistics, KeyRange, LockMode, LockWait, LockedRow, RowChange, ScanRequest,
};
use futures::StreamExt;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

/// A table under construction.
pub(super) struct Define {
    name: String,
    columns: Vec<(String, SqlType)>,
    fragmentation: Fragmentation,
    bounds: Vec<(String, FragmentBounds, Vec<u32>)>,
    indexes: Vec<Vec<usize>>,
    foreign_keys: Vec<ForeignKey>,
}

impl Define {
    /// The first column is the primary key.
    pub(super) fn new(name: &str, columns: &[(&str, SqlType)]) -> Self {
        Define {
            name: name.into(),
            columns: columns.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect(),
            fragmentation: Fragmentation::None,
            bounds: vec![(format!("{name}_0"), FragmentBounds::All, vec![1])],
            indexes: vec![],
            foreign_keys: vec![],
        }
    }
    pub(super) fn fragments(mut self, by: Fragmentation, bounds: Vec<FragmentBounds>) -> Self {
        self.fragmentation = by;
        let at = |i: usize| vec![(i % 3) as u32 + 1];
        self.bounds = bounds.into_iter().enumerate().map(|(i, b)| (format!("{}_{i}", self.name), b, at(i))).collect();
        self
    }
    /// A foreign key to another table's key.
    pub(super) fn refers(mut self, at: usize, parent: RelationId) -> Self {
        self.foreign_keys.push(ForeignKey {
            name: format!("{}_{at}_fkey", self.name),
            columns: vec![column(at)],
            parent,
            parent_columns: vec![column(0)],
            on_delete: ReferentialAction::NoAction,
            on_update: ReferentialAction::NoAction,
        });
        self
    }
    pub(super) fn index(mut self, columns: &[usize]) -> Self {
        self.indexes.push(columns.to_vec());
        self
    }
}

pub(super) fn hash(modulus: u32) -> Vec<FragmentBounds> {
    (0..modulus).map(|remainder| FragmentBounds::Hash { modulus, remainder }).collect()
}

pub(super) fn column(n: usize) -> ColumnId {
    ColumnId(n as u16 + 1)
}

/// The node.
#[derive(Default)]
pub(super) struct Memory {
    catalog: Option<Arc<Catalog>>,
    rows: HashMap<FragmentId, Vec<Row>>,
}

impl Memory {
    /// Adds a table and its rows; parents before children.
    pub(super) fn add(&mut self, define: Define, rows: Vec<Row>) -> RelationId {
        let mut catalog = self.catalog.take().map_or_else(Catalog::initial, |c| c.as_ref().clone());
        for (id, name) in [(1, "one"), (2, "two"), (3, "three")] {
            let site =
                Site { id: SiteId(id), name: name.into(), engine: SiteEngine::Embedded, options: Default::default() };
            catalog.sites.insert(SiteId(id), Arc::new(site));
        }
        let id = RelationId(catalog.next_id);
        catalog.next_id += 100;
        let columns = define.columns.iter().enumerate().map(|(n, (name, ty))| Column {
            id: column(n),
            name: name.clone(),
            ty: ty.clone(),
            not_null: n == 0,
            default: None,
            missing: Value::Null,
            generated: None,
            hidden: false,
        });
        let fragments = define.bounds.iter().enumerate().map(|(n, (name, bounds, sites))| Fragment {
            id: FragmentId(id.0 + 1 + n as u32),
            name: name.clone(),
            bounds: bounds.clone(),
            replicas: sites.iter().map(|s| SiteId(*s)).collect(),
            adopted: Default::default(),
            joining: Default::default(),
            behind: Default::default(),
        });
        let table = Table {
            id,
            name: define.name.clone(),
            columns: columns.collect(),
            next_column: 100,
            next_index: 100,
            key: vec![column(0)],
            primary_key: Some(format!("{}_pkey", define.name)),
            indexes: define
                .indexes
                .iter()
                .enumerate()
                .map(|(n, cs)| Index {
                    id: IndexId(n as u16 + 1),
                    name: format!("{}_index_{n}", define.name),
                    columns: cs.iter().map(|c| column(*c)).collect(),
                    unique: false,
                    constraint: false,
                })
                .collect(),
            checks: vec![],
            foreign_keys: define.foreign_keys.clone(),
            fragmentation: define.fragmentation,
            fragments: fragments.collect(),
            replication: Replication::All,
            read_balance: ReadBalance::RoundRobin,
            on_replica_down: Default::default(),
        };
        for row in rows {
            let at = match table.place(&row) {
                Place::Fragment(at) => at,
                Place::WithParent => self.with_parent(&catalog, &table, &row),
                Place::Nowhere => panic!("no fragment for {row:?}"),
            };
            self.rows.entry(table.fragments[at].id).or_default().push(row);
        }
        for fragment in &table.fragments {
            let rows = self.rows.entry(fragment.id).or_default();
            rows.sort_by(|a, b| a[0].compare(&b[0]).unwrap());
        }
        catalog.names.insert(define.name, NamedObject::Table(id));
        for fragment in &table.fragments {
            catalog.names.insert(fragment.name.clone(), NamedObject::Fragment(id));
        }
        catalog.tables.insert(id, Arc::new(table));
        self.catalog = Some(Arc::new(catalog));
        id
    }

    fn with_parent(&self, catalog: &Catalog, table: &Table, row: &[Value]) -> usize {
        let Fragmentation::Derived { parent, column, parent_column, .. } = &table.fragmentation else { panic!() };
        let parent = &catalog.tables[parent];
        let (c, p) = (table.position(*column).unwrap(), parent.position(*parent_column).unwrap());
        let of = parent.fragments.iter().find(|f| self.rows[&f.id].iter().any(|r| r[p].matches(&row[c]))).unwrap();
        table.fragments.iter().position(|f| f.bounds == FragmentBounds::Derived(of.id)).unwrap()
    }

    pub(super) fn id(&self, table: &str, fragment: usize) -> FragmentId {
        self.catalog().table(table).unwrap().fragments[fragment].id
    }
}

fn in_range(key: &[Value], range: &KeyRange) -> bool {
    let compare = |bound: &[Value]| {
        key.iter()
            .zip(bound)
            .map(|(k, b)| k.compare(b).unwrap_or(Ordering::Greater))
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    let lower = match &range.lower {
        Bound::Unbounded => true,
        Bound::Included(b) => compare(b).is_ge(),
        Bound::Excluded(b) => compare(b).is_gt(),
    };
    let upper = match &range.upper {
        Bound::Unbounded => true,
        Bound::Included(b) => compare(b).is_le(),
        Bound::Excluded(b) => compare(b).is_lt(),
    };
    lower && upper
}

#[async_trait]
impl Cluster for Memory {
    fn catalog(&self) -> Arc<Catalog> {
        self.catalog.clone().unwrap()
    }
    fn begin(&self, _: BranchOptions) -> Arc<dyn Transaction> {
        Arc::new(Reader { catalog: self.catalog(), rows: self.rows.clone() })
    }
    async fn next_values(&self, _: RelationId, _: u32) -> Result<i64> {
        Err(Error::unsupported("sequences"))
    }
    async fn set_sequence(&self, _: RelationId, _: i64, _: bool) -> Result<()> {
        Err(Error::unsupported("sequences"))
    }
    async fn sequence_position(&self, _: RelationId) -> Result<(i64, bool)> {
        Err(Error::unsupported("sequences"))
    }
    fn row_ids(&self, _: u32) -> i64 {
        0
    }
    fn statistics(&self, _: &Table, fragment: FragmentId) -> FragmentStatistics {
        let rows = self.rows[&fragment].len() as u64;
        FragmentStatistics { rows, bytes: rows * 32, modifications: 1 }
    }
    fn statement(&self, _: SiteId, _: &SiteQuery) -> Result<String> {
        Err(Error::unsupported("queries"))
    }
    fn transactions(&self) -> Vec<TransactionInfo> {
        vec![]
    }
}

struct Reader {
    catalog: Arc<Catalog>,
    rows: HashMap<FragmentId, Vec<Row>>,
}

#[async_trait]
impl Transaction for Reader {
    fn id(&self) -> u64 {
        1
    }
    fn options(&self) -> BranchOptions {
        BranchOptions::default()
    }
    fn catalog(&self) -> Arc<Catalog> {
        self.catalog.clone()
    }
    async fn begin_statement(&self) -> Result<()> {
        Ok(())
    }
    async fn apply(&self, _: CatalogCommand) -> Result<()> {
        Err(Error::unsupported("writes"))
    }
    async fn lock_table(&self, _: &Arc<Table>, _: TableLock) -> Result<()> {
        Ok(())
    }
    async fn get(&self, _: &FragmentRef, _: &[Value]) -> Result<Option<Row>> {
        Err(Error::unsupported("get"))
    }
    fn query(&self, _: SiteId, _: SiteQuery) -> Result<BatchStream> {
        Err(Error::unsupported("queries"))
    }
    fn scan(&self, fragment: &FragmentRef, request: ScanRequest) -> Result<(SiteId, BatchStream)> {
        let table = &fragment.table;
        let order = match request.index {
            Some(id) => table.index(id).unwrap().columns.clone(),
            None => table.key.clone(),
        };
        let order: Vec<usize> = order.iter().map(|c| table.position(*c).unwrap()).collect();
        let key = |r: &Row| order.iter().map(|p| r[*p].clone()).collect::<Vec<_>>();
        let mut rows: Vec<Row> = self.rows[&table.fragments[fragment.at].id]
            .iter()
            .filter(|r| in_range(&key(r), &request.range))
            .cloned()
            .collect();
        let nulls_last =
            |a: &Value, b: &Value| a.is_null().cmp(&b.is_null()).then(a.compare(b).unwrap_or(Ordering::Equal));
        rows.sort_by(|a, b| {
            key(a).iter().zip(&key(b)).map(|(x, y)| nulls_last(x, y)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
        });
        if request.reverse {
            rows.reverse();
        }
        rows.truncate(request.limit.unwrap_or(usize::MAX));
        let types: Vec<SqlType> = request.columns.iter().map(|c| table.columns[*c].ty.clone()).collect();
        let names: Vec<&str> = request.columns.iter().map(|c| table.columns[*c].name.as_str()).collect();
        let schema = rows::schema_of(names.into_iter().zip(&types));
        let batches: Vec<_> = rows
            .chunks(request.batch_size)
            .map(|chunk| {
                let cut: Vec<Row> =
                    chunk.iter().map(|r| request.columns.iter().map(|c| r[*c].clone()).collect()).collect();
                rows::to_batch(&schema, &types, &cut)
            })
            .collect();
        Ok((self.site_for_read(fragment), futures::stream::iter(batches).boxed()))
    }
    fn site_for_read(&self, fragment: &FragmentRef) -> SiteId {
        fragment.table.fragments[fragment.at].replicas[0]
    }
    async fn lock(&self, _: &FragmentRef, _: &[Vec<Value>], _: LockMode, _: LockWait) -> Result<Vec<LockedRow>> {
        Err(Error::unsupported("locks"))
    }
    async fn find_unique(&self, _: &Arc<Table>, _: Option<IndexId>, _: &[Value]) -> Result<Option<(usize, Row)>> {
        Err(Error::unsupported("locks"))
    }
    async fn place(&self, _: &Arc<Table>, _: &[Value]) -> Result<usize> {
        Err(Error::unsupported("place"))
    }
    async fn write(&self, _: &Arc<Table>, _: Vec<RowChange>) -> Result<()> {
        Err(Error::unsupported("writes"))
    }
    fn savepoint(&self) -> u64 {
        0
    }
    fn rollback_to(&self, _: u64) {}
    fn has_writes(&self) -> bool {
        false
    }
    async fn commit(&self) -> Result<Timestamp> {
        Ok(Timestamp(1))
    }
    fn rollback(&self) {}
}
