//! What the suite needs: two sites of an engine, tables with copies there, rows.

use crate::maria::Maria;
use crate::server::Server;
use atoll_adapters::site::embedded::EmbeddedEngine;
use atoll_adapters::site::mysql::MysqlSite;
use atoll_adapters::site::postgres::PostgresSite;
use atoll_model::{
    Column, ColumnId, Error, ErrorKind, Fragment, FragmentBounds, FragmentId, Fragmentation, Index, IndexId,
    ReadBalance, RelationId, Replication, Result, Row, Site as Definition, SiteEngine, SiteId, SqlType, Table, Value,
};
use atoll_ports::rows::value_at;
use atoll_ports::site::{
    Branch, BranchOptions, Isolation, KeyRange, LockMode, LockWait, LockedRow, ParticipantId, Replica, RowChange,
    ScanRequest, Site,
};
use atoll_storage::{Store, StoreOptions};
use futures::TryStreamExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

pub type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

/// How long the suite's branches wait for locks.
pub const LOCK_TIMEOUT: Duration = Duration::from_millis(150);

/// What the port leaves to engines.
#[derive(Clone, Copy)]
pub struct Traits {
    /// Prepared branches are to be had.
    pub prepares: bool,
    /// `Serializable` reads a snapshot and is validated, instead of locking what it reads.
    pub optimistic: bool,
    /// What a definition drops has no more say at once; otherwise, from the commit on.
    pub drops_at_once: bool,
    /// NaN and infinity can be stored.
    pub special_floats: bool,
}

/// What the sites run on.
enum Backend {
    Store,
    Postgres(Server),
    Maria(Maria),
}

/// Two empty sites of an engine.
pub struct World {
    pub sites: [Arc<dyn Site>; 2],
    /// What the engine is like, where engines differ.
    pub traits: Traits,
    server: Backend,
    /// The sites' databases, if they are such.
    databases: Vec<String>,
    // Removed when the suite is done.
    _dir: Option<TempDir>,
}

impl World {
    pub async fn embedded() -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path(), StoreOptions { disk_reserve: 0, ..StoreOptions::default() })?;
        let engine = EmbeddedEngine::new(Arc::new(store), ParticipantId(1), 16 << 20)?;
        let sites = [engine.site(SiteId(1))?, engine.site(SiteId(2))?];
        let traits = Traits { prepares: false, optimistic: true, drops_at_once: true, special_floats: true };
        Ok(World { sites, traits, server: Backend::Store, databases: vec![], _dir: Some(dir) })
    }

    pub async fn postgres() -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let server = Server::start().await?;
        let databases = vec![server.database().await?, server.database().await?];
        let site = |n: usize| postgres(n as u32 + 1, &server.url(&databases[n]), &[]);
        let sites: [Arc<dyn Site>; 2] = [site(0)?, site(1)?];
        let traits = Traits { prepares: true, optimistic: true, drops_at_once: true, special_floats: true };
        Ok(World { sites, traits, server: Backend::Postgres(server), databases, _dir: None })
    }

    pub async fn mysql() -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let server = Maria::start().await?;
        let databases = vec![server.database().await?, server.database().await?];
        let site = |n: usize| mysql(n as u32 + 1, &server.url(&databases[n]), &[]);
        let sites: [Arc<dyn Site>; 2] = [site(0)?, site(1)?];
        let traits = Traits { prepares: true, optimistic: false, drops_at_once: false, special_floats: false };
        Ok(World { sites, traits, server: Backend::Maria(server), databases, _dir: None })
    }

    /// Isolation levels that read a snapshot.
    pub fn snapshot_levels(&self) -> &'static [Isolation] {
        let all = &[Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable];
        if self.traits.optimistic { all } else { &all[..2] }
    }

    /// Lets the server of the first site count rows.
    pub async fn analyze(&self, at: &Replica) -> TestResult {
        match &self.server {
            Backend::Store => Ok(()),
            Backend::Postgres(server) => server.run(&self.databases[0], "ANALYZE").await,
            Backend::Maria(server) => server.run(&self.databases[0], &format!("ANALYZE TABLE f{}", at.fragment)).await,
        }
    }

    /// The site that most checks are about.
    pub fn here(&self) -> &Arc<dyn Site> {
        &self.sites[0]
    }

    pub async fn begin(&self, isolation: Isolation) -> Result<Arc<dyn Branch>> {
        begin(self.here(), isolation).await
    }

    /// Makes the copies of a table's fragments at the first site.
    pub async fn create(&self, table: &Arc<Table>) -> Result<Replica> {
        let branch = self.begin(Isolation::ReadCommitted).await?;
        for at in 0..table.fragments.len() {
            branch.define(&replica(table, at, self.here().id()), None).await?;
        }
        branch.commit().await?;
        Ok(replica(table, 0, self.here().id()))
    }

    /// The usual table with so many rows.
    pub async fn accounts(&self, rows: i32) -> Result<Replica> {
        let at = self.create(&accounts()).await?;
        self.write(&at, (1..=rows).map(|i| RowChange::Insert(account(i, &format!("{i}@x"), 100))).collect()).await?;
        Ok(at)
    }

    /// A transaction of one write.
    pub async fn write(&self, at: &Replica, changes: Vec<RowChange>) -> Result<()> {
        let branch = self.begin(Isolation::ReadCommitted).await?;
        branch.apply(at, changes).await?;
        branch.commit().await.map(|_| ())
    }

    /// What is committed, in the order of the key.
    pub async fn rows(&self, at: &Replica) -> Result<Vec<Row>> {
        rows(&*self.begin(Isolation::ReadCommitted).await?, at, everything(at)).await
    }
}

/// A PostgreSQL site.
pub fn postgres(id: u32, url: &str, options: &[(&str, &str)]) -> Result<Arc<dyn Site>> {
    Ok(PostgresSite::open(&definition(SiteEngine::Postgres, id, url, options), ParticipantId(id))?)
}

/// A MySQL site.
pub fn mysql(id: u32, url: &str, options: &[(&str, &str)]) -> Result<Arc<dyn Site>> {
    Ok(MysqlSite::open(&definition(SiteEngine::Mysql, id, url, options), ParticipantId(id))?)
}

fn definition(engine: SiteEngine, id: u32, url: &str, options: &[(&str, &str)]) -> Definition {
    let url = ("url", url);
    let options = options.iter().chain(std::iter::once(&url)).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Definition { id: SiteId(id), name: format!("site{id}"), engine, options: options.collect() }
}

pub async fn begin(site: &Arc<dyn Site>, isolation: Isolation) -> Result<Arc<dyn Branch>> {
    site.begin(BranchOptions { isolation, lock_timeout: LOCK_TIMEOUT, ..BranchOptions::default() }).await
}

pub fn replica(table: &Arc<Table>, at: usize, site: SiteId) -> Replica {
    Replica { site, fragment: table.fragments[at].id, table: table.clone() }
}

fn fresh_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn column(id: u16, name: &str, ty: SqlType, not_null: bool) -> Column {
    Column {
        id: ColumnId(id),
        name: name.into(),
        ty,
        not_null,
        default: None,
        missing: Value::Null,
        generated: None,
        hidden: false,
    }
}

pub fn index(id: u16, name: &str, columns: &[u16], unique: bool) -> Index {
    Index {
        id: IndexId(id),
        name: name.into(),
        columns: columns.iter().map(|c| ColumnId(*c)).collect(),
        unique,
        constraint: unique,
    }
}

/// A table whose key are its first columns.
pub fn table(name: &str, columns: Vec<Column>, key: usize, indexes: Vec<Index>) -> Table {
    Table {
        id: RelationId(fresh_id()),
        name: name.into(),
        next_column: 100,
        next_index: 100,
        key: columns[..key].iter().map(|c| c.id).collect(),
        primary_key: Some(format!("{name}_pkey")),
        columns,
        indexes,
        checks: vec![],
        foreign_keys: vec![],
        fragmentation: Fragmentation::None,
        fragments: vec![fragment(name, FragmentBounds::All)],
        replication: Replication::All,
        read_balance: ReadBalance::RoundRobin,
        on_replica_down: Default::default(),
    }
}

pub fn fragment(name: &str, bounds: FragmentBounds) -> Fragment {
    Fragment {
        id: FragmentId(fresh_id()),
        name: name.into(),
        bounds,
        replicas: vec![SiteId(1), SiteId(2)],
        adopted: Default::default(),
        joining: Default::default(),
        behind: Default::default(),
    }
}

/// `accounts (id int primary key, email text unique, balance bigint)`
pub fn accounts() -> Arc<Table> {
    let columns = vec![
        column(1, "id", SqlType::Int4, true),
        column(2, "email", SqlType::Text, false),
        column(3, "balance", SqlType::Int8, false),
    ];
    Arc::new(table("accounts", columns, 1, vec![index(1, "accounts_email_key", &[2], true)]))
}

/// The same in two fragments by `id`, so that `email` is unique over fragments and not within one.
pub fn fragmented() -> Arc<Table> {
    let mut table = (*accounts()).clone();
    table.fragmentation = Fragmentation::Hash(vec![ColumnId(1)]);
    table.fragments =
        (0..2).map(|n| fragment(&format!("accounts_{n}"), FragmentBounds::Hash { modulus: 2, remainder: n })).collect();
    Arc::new(table)
}

pub fn account(id: i32, email: &str, balance: i64) -> Row {
    vec![Value::Int4(id), Value::Text(email.into()), Value::Int8(balance)]
}

pub fn key(id: i32) -> Vec<Value> {
    vec![Value::Int4(id)]
}

pub fn text(text: &str) -> Value {
    Value::Text(text.into())
}

pub fn insert(id: i32, email: &str, balance: i64) -> RowChange {
    RowChange::Insert(account(id, email, balance))
}

pub fn update(old: Row, new: Row) -> RowChange {
    RowChange::Update { old, new }
}

/// A scan of all columns.
pub fn everything(at: &Replica) -> ScanRequest {
    ScanRequest {
        columns: (0..at.table.columns.len()).collect(),
        index: None,
        range: KeyRange::ALL,
        reverse: false,
        limit: None,
        batch_size: 1024,
    }
}

/// The rows of a scan of all columns.
pub async fn rows(branch: &dyn Branch, at: &Replica, request: ScanRequest) -> Result<Vec<Row>> {
    let columns = request.columns.clone();
    let batches: Vec<_> = branch.scan(at, request)?.try_collect().await?;
    let mut rows = vec![];
    for batch in batches {
        for n in 0..batch.num_rows() {
            let cells = columns.iter().zip(batch.columns());
            rows.push(
                cells
                    .map(|(at_column, array)| value_at(array, n, &at.table.columns[*at_column].ty))
                    .collect::<Result<_>>()?,
            );
        }
    }
    Ok(rows)
}

/// The number of rows of a scan.
pub async fn count(branch: &dyn Branch, at: &Replica, request: ScanRequest) -> Result<usize> {
    let batches: Vec<_> = branch.scan(at, request)?.try_collect().await?;
    Ok(batches.iter().map(|batch| batch.num_rows()).sum())
}

pub async fn lock(branch: &dyn Branch, at: &Replica, id: i32) -> Result<LockedRow> {
    let mut locked = branch.lock(at, &[key(id)], LockMode::Exclusive, LockWait::Wait).await?;
    locked.pop().ok_or_else(|| Error::internal("no answer for a key"))
}

/// Locks and sets the balance.
pub async fn set(branch: &dyn Branch, at: &Replica, id: i32, balance: i64) -> Result<()> {
    let old = lock(branch, at, id).await?.row.ok_or_else(|| Error::internal("no such row"))?;
    let mut new = old.clone();
    new[2] = Value::Int8(balance);
    branch.apply(at, vec![update(old, new)]).await
}

/// The kind of failure, if it is one.
pub fn failure<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.map_err(|e| e.kind()).err()
}
