//! The embedded engine as sites: all of them in one [`Store`], so that they are one participant of a transaction and a commit
//! over several of them is one durable write.
//!
//! Invariant: a site's key space is named by the site's id, which is never reused; renaming a site changes nothing here.

use async_trait::async_trait;
use atoll_model::{
    Error, ErrorKind, FragmentId, IndexId, RelationId, Result, Row, SiteEngine, SiteId, Table, Timestamp, Value,
};
use atoll_ports::session::BatchStream;
use atoll_ports::site::{
    Branch, BranchOptions, Finished, FragmentStatistics, Isolation, LockMode, LockWait, LockedRow, Meta, ParticipantId,
    PreparedName, Replica, RowChange, ScanRequest, Site,
};
use atoll_storage::kv;
use atoll_storage::rows::{At, Change, ColumnCache, Locked, ScanPlan, TableCodec};
use atoll_storage::{Space, Store, Txn, TxnOptions};
use futures::StreamExt as _;
use futures::stream;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Name of the key space of the node's own values.
const META: &str = "meta";

/// All embedded sites of one process.
pub struct EmbeddedEngine {
    store: Arc<Store>,
    participant: ParticipantId,
    meta: Arc<Space>,
    columns: Arc<ColumnCache>,
    spaces: RwLock<HashMap<SiteId, Arc<Space>>>,
    /// The layout of each table's newest version that was seen. One entry per table, so bounded by the catalog.
    codecs: RwLock<HashMap<RelationId, Arc<TableCodec>>>,
}

impl EmbeddedEngine {
    /// The engine over an open store, with so many bytes for columns kept in memory.
    ///
    /// # Errors
    /// Those of files.
    pub fn new(store: Arc<Store>, participant: ParticipantId, column_cache: u64) -> Result<Arc<Self>> {
        let meta = store.space(META)?;
        Ok(Arc::new(EmbeddedEngine {
            store,
            participant,
            meta,
            columns: ColumnCache::new(column_cache),
            spaces: RwLock::default(),
            codecs: RwLock::default(),
        }))
    }

    /// The store beneath.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The site with this id, created at the first use.
    ///
    /// # Errors
    /// Those of files.
    pub fn site(self: &Arc<Self>, id: SiteId) -> Result<Arc<dyn Site>> {
        self.space(id)?;
        Ok(Arc::new(EmbeddedSite { engine: self.clone(), id }))
    }

    /// Begins a branch over all sites.
    pub fn begin(self: &Arc<Self>, options: BranchOptions) -> Arc<dyn Branch> {
        let txn = self.store.begin(TxnOptions {
            isolation: match options.isolation {
                Isolation::ReadCommitted => kv::Isolation::ReadCommitted,
                Isolation::RepeatableRead => kv::Isolation::RepeatableRead,
                Isolation::Serializable => kv::Isolation::Serializable,
            },
            read_only: options.read_only,
            synchronous_commit: options.synchronous_commit,
        });
        Arc::new(EmbeddedBranch {
            engine: self.clone(),
            txn,
            wait: kv::LockWait::Timeout(options.lock_timeout),
            meta_failure: Mutex::default(),
            failed: AtomicBool::new(false),
        })
    }

    fn space(&self, id: SiteId) -> Result<Arc<Space>> {
        if let Some(space) = self.spaces.read().get(&id) {
            return Ok(space.clone());
        }
        let space = self.store.space(&id.to_string())?;
        self.spaces.write().insert(id, space.clone());
        Ok(space)
    }

    fn codec(&self, table: &Arc<Table>) -> Result<Arc<TableCodec>> {
        if let Some(codec) = self.codecs.read().get(&table.id)
            && Arc::ptr_eq(codec.table(), table)
        {
            return Ok(codec.clone());
        }
        let codec = Arc::new(TableCodec::new(table.clone())?);
        self.codecs.write().insert(table.id, codec.clone());
        Ok(codec)
    }
}

impl fmt::Debug for EmbeddedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmbeddedEngine({:?})", self.participant)
    }
}

/// One embedded site.
#[derive(Debug)]
struct EmbeddedSite {
    engine: Arc<EmbeddedEngine>,
    id: SiteId,
}

#[async_trait]
impl Site for EmbeddedSite {
    fn id(&self) -> SiteId {
        self.id
    }

    fn engine(&self) -> SiteEngine {
        SiteEngine::Embedded
    }

    fn participant(&self) -> ParticipantId {
        self.engine.participant
    }

    async fn begin(&self, options: BranchOptions) -> Result<Arc<dyn Branch>> {
        Ok(self.engine.begin(options))
    }

    fn statistics(&self, fragment: FragmentId) -> FragmentStatistics {
        // A site whose space cannot be opened has nothing to tell; reading it will say why.
        let Ok(space) = self.engine.space(self.id) else { return FragmentStatistics::default() };
        let size = self.engine.store.fragment_size(&space, fragment.0);
        FragmentStatistics { rows: size.rows, bytes: size.bytes, modifications: size.modifications }
    }

    async fn purge(&self, fragment: FragmentId) -> Result<()> {
        let space = self.engine.space(self.id)?;
        self.engine.store.purge(&space, &fragment.0.to_be_bytes()).await?;
        self.engine.store.forget_size(&space, fragment.0);
        Ok(())
    }

    async fn in_doubt(&self) -> Result<Vec<PreparedName>> {
        Ok(vec![])
    }

    async fn finish(&self, _: &PreparedName, _: bool) -> Result<Finished> {
        // Nothing is ever prepared here.
        Ok(Finished::Missing)
    }
}

/// A transaction's branch at the embedded sites.
struct EmbeddedBranch {
    engine: Arc<EmbeddedEngine>,
    txn: Txn,
    wait: kv::LockWait,
    /// Why a value of the node's own could not be put: the branch must not commit without it.
    meta_failure: Mutex<Option<Error>>,
    /// A call has failed after it had written a part of its rows.
    failed: AtomicBool,
}

impl EmbeddedBranch {
    fn at(&self, replica: &Replica) -> Result<(Arc<Space>, Arc<TableCodec>)> {
        Ok((self.engine.space(replica.site)?, self.engine.codec(&replica.table)?))
    }

    /// Notes a failure, after which only a rollback helps.
    fn told(&self, outcome: Result<()>) -> Result<()> {
        if outcome.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn with<'a>(&'a self, space: &'a Arc<Space>, replica: &Replica, wait: kv::LockWait) -> At<'a> {
        At { txn: &self.txn, space, fragment: replica.fragment.0, wait }
    }
}

fn mode(mode: LockMode) -> kv::LockMode {
    match mode {
        LockMode::Shared => kv::LockMode::Shared,
        LockMode::Exclusive => kv::LockMode::Exclusive,
    }
}

#[async_trait]
impl Branch for EmbeddedBranch {
    fn snapshot(&self) -> Timestamp {
        Timestamp(self.txn.snapshot())
    }

    fn begin_statement(&self) {
        self.txn.begin_statement();
    }

    async fn take_snapshot(&self) -> Result<()> {
        // It was taken when the branch or the statement began.
        Ok(())
    }

    async fn get(&self, at: &Replica, key: &[Value]) -> Result<Option<Row>> {
        let (space, codec) = self.at(at)?;
        codec.get(&self.txn, &space, at.fragment.0, key)
    }

    fn scan(&self, at: &Replica, request: ScanRequest) -> Result<BatchStream> {
        let (space, codec) = self.at(at)?;
        let plan = ScanPlan {
            columns: request.columns,
            index: request.index.map_or(0, |IndexId(id)| id),
            lower: request.range.lower,
            upper: request.range.upper,
            reverse: request.reverse,
            limit: request.limit,
            batch_size: request.batch_size,
        };
        let batches =
            codec.scan_cached(&self.txn, &self.engine.store, &space, at.fragment.0, &plan, &self.engine.columns)?;
        Ok(stream::iter(batches).boxed())
    }

    async fn lock(
        &self,
        at: &Replica,
        keys: &[Vec<Value>],
        strength: LockMode,
        wait: LockWait,
    ) -> Result<Vec<LockedRow>> {
        let (space, codec) = self.at(at)?;
        let patience = if wait == LockWait::Wait { self.wait } else { kv::LockWait::Never };
        let found = codec.lock_rows(self.with(&space, at, patience), keys, mode(strength)).await?;
        if wait == LockWait::NoWait && found.iter().any(|row| !row.locked) {
            return Err(codec.not_available());
        }
        Ok(found.into_iter().map(|Locked { locked, row, changed }| LockedRow { locked, row, changed }).collect())
    }

    async fn find_unique(
        &self,
        at: &Replica,
        index: Option<IndexId>,
        values: &[Value],
        strength: LockMode,
    ) -> Result<Option<Row>> {
        let (space, codec) = self.at(at)?;
        let index = index.map_or(0, |IndexId(id)| id);
        codec.find_unique(self.with(&space, at, self.wait), index, values, mode(strength)).await
    }

    async fn apply(&self, at: &Replica, changes: Vec<RowChange>) -> Result<()> {
        let (space, codec) = self.at(at)?;
        let changes: Vec<Change> = changes
            .into_iter()
            .map(|change| match change {
                RowChange::Insert(row) => Change::Insert(row),
                RowChange::Update { old, new } => Change::Update { old, new },
                RowChange::Delete(row) => Change::Delete(row),
            })
            .collect();
        let outcome = codec.apply(self.with(&space, at, self.wait), &changes).await;
        self.told(outcome)
    }

    async fn build_index(&self, at: &Replica, index: IndexId) -> Result<()> {
        let (space, codec) = self.at(at)?;
        self.told(codec.build_index(self.with(&space, at, self.wait), index.0))
    }

    async fn define(&self, _: &Replica, _: Option<&Table>) -> Result<()> {
        // A stored row says itself which columns it has, and a fragment's key space needs no creation.
        Ok(())
    }

    fn meta(&self) -> Option<&dyn Meta> {
        Some(self)
    }

    fn lock_owner(&self) -> u64 {
        self.txn.id()
    }

    fn blocked_by(&self) -> Vec<u64> {
        self.txn.blocked_by()
    }

    fn savepoint(&self) -> u64 {
        self.txn.savepoint()
    }

    fn rollback_to(&self, savepoint: u64) {
        self.txn.rollback_to(savepoint);
        self.failed.store(false, Ordering::Relaxed);
    }

    fn has_writes(&self) -> bool {
        self.txn.has_writes()
    }

    async fn commit(&self) -> Result<Timestamp> {
        if let Some(error) = self.meta_failure.lock().take() {
            self.txn.rollback();
            return Err(error);
        }
        if self.failed.load(Ordering::Relaxed) {
            self.txn.rollback();
            return Err(Error::new(ErrorKind::InFailedTransaction, "the transaction has failed and is rolled back"));
        }
        self.txn.commit().await.map(Timestamp)
    }

    async fn prepare(&self, _: &PreparedName) -> Result<()> {
        // The decision log is kept here: the coordinator commits this participant last, with the decision in the same write.
        Err(Error::unsupported("preparing a transaction at embedded sites"))
    }

    fn rollback(&self) {
        self.txn.rollback();
    }
}

impl Meta for EmbeddedBranch {
    fn put(&self, key: &[u8], value: Option<Vec<u8>>) {
        let outcome = match value {
            Some(value) => self.txn.put(&self.engine.meta, key, &value),
            None => self.txn.delete(&self.engine.meta, key),
        };
        if let Err(error) = outcome {
            self.meta_failure.lock().get_or_insert(error);
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.txn.get(&self.engine.meta, key)?.map(|stored| stored.payload().to_vec()))
    }
}
