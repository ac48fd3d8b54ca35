//! A node: its sites, its catalog, and what transactions share.

use crate::choice::ReadLoad;
use crate::locks::TableLocks;
use crate::meta::{self, Dropped};
use crate::sequences::Sequences;
use crate::transaction::Txn;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use atoll_model::{
    Catalog, DEFAULT_SITE, Error, ErrorKind, FragmentId, RelationId, Result, Site as SiteDefinition, SiteId, Table,
};
use atoll_ports::cluster::{Cluster, Transaction, TransactionInfo};
use atoll_ports::site::{Branch, BranchOptions, FragmentStatistics, Isolation, Site};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::Notify;

/// Opens the sites that the catalog names.
pub trait SiteFactory: Send + Sync {
    /// Opens a site.
    ///
    /// # Errors
    /// `SiteUnavailable`, `Io`.
    fn open(&self, site: &SiteDefinition) -> Result<Arc<dyn Site>>;
}

/// Bits of a row id that count within one start of the node.
const ROW_ID_BITS: u32 = 40;

/// One process of Atoll.
pub struct Node {
    me: Weak<Node>,
    factory: Box<dyn SiteFactory>,
    sites: RwLock<HashMap<SiteId, Arc<dyn Site>>>,
    local: Arc<dyn Site>,
    pub(crate) catalog: ArcSwap<Catalog>,
    /// Held by the one transaction that changes the catalog.
    pub(crate) ddl: Arc<tokio::sync::Mutex<()>>,
    pub(crate) table_locks: TableLocks,
    pub(crate) load: ReadLoad,
    pub(crate) sequences: Sequences,
    next_transaction: AtomicU64,
    next_row: AtomicI64,
    active: Mutex<BTreeMap<u64, Active>>,
    pub(crate) purge: Notify,
}

struct Active {
    began: Instant,
    isolation: Isolation,
    txn: Weak<Txn>,
}

impl Node {
    /// Opens the node: loads the catalog (a fresh store gets the initial one) and the sites that it names, and starts the
    /// background tasks, which end with the node.
    ///
    /// # Errors
    /// `DataCorrupted`, `NotSupported` (a catalog of a newer Atoll), and those of the sites.
    pub async fn open(factory: Box<dyn SiteFactory>) -> Result<Arc<Node>> {
        let initial = Catalog::initial();
        let main = initial.site(DEFAULT_SITE).ok_or_else(|| Error::internal("no default site"))?;
        let local = factory.open(main)?;
        let branch = local.begin(BranchOptions::default()).await?;
        let (catalog, fresh) = match meta::catalog(branch.as_ref())? {
            Some(catalog) => (catalog, false),
            None => (initial.clone(), true),
        };
        // Row ids of one start never meet those of another: the start's number is their upper part.
        let epoch = meta::get::<i64>(branch.as_ref(), meta::EPOCH)?.unwrap_or(0) + 1;
        meta::put(branch.as_ref(), meta::EPOCH, &epoch)?;
        if fresh {
            meta::put(branch.as_ref(), meta::CATALOG, &catalog)?;
        }
        branch.commit().await?;
        let mut sites = HashMap::from([(local.id(), local.clone())]);
        for site in catalog.sites.values() {
            if site.id != local.id() {
                sites.insert(site.id, factory.open(site)?);
            }
        }
        let node = Arc::new_cyclic(|me| Node {
            me: me.clone(),
            factory,
            sites: RwLock::new(sites),
            local,
            catalog: ArcSwap::from_pointee(catalog),
            ddl: Arc::default(),
            table_locks: TableLocks::default(),
            load: ReadLoad::default(),
            sequences: Sequences::default(),
            next_transaction: AtomicU64::new(1),
            next_row: AtomicI64::new(epoch << ROW_ID_BITS),
            active: Mutex::default(),
            purge: Notify::new(),
        });
        tokio::spawn(crate::purge::run(Arc::downgrade(&node)));
        node.purge.notify_one();
        Ok(node)
    }

    /// Settles what is in memory before an orderly end.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn close(&self) -> Result<()> {
        self.sequences.settle(self).await
    }

    /// The committed catalog.
    pub(crate) fn current(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// A site of the catalog; one that a transaction has just created is opened.
    ///
    /// # Errors
    /// `UndefinedObject`; those of opening.
    pub(crate) fn site(&self, catalog: &Catalog, id: SiteId) -> Result<Arc<dyn Site>> {
        if let Some(site) = self.sites.read().get(&id) {
            return Ok(site.clone());
        }
        let definition = catalog
            .sites
            .get(&id)
            .ok_or_else(|| Error::new(ErrorKind::UndefinedObject, format!("site {id} does not exist")))?;
        let site = self.factory.open(definition)?;
        self.sites.write().insert(id, site.clone());
        Ok(site)
    }

    /// The site that holds the node's own values.
    pub(crate) fn local(&self) -> &Arc<dyn Site> {
        &self.local
    }

    /// A branch of its own at the local participant.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn local_branch(&self, options: BranchOptions) -> Result<Arc<dyn Branch>> {
        self.local.begin(options).await
    }

    /// A transaction has ended.
    pub(crate) fn ended(&self, id: u64) {
        self.active.lock().remove(&id);
    }

    /// The oldest catalog version that an open transaction may read by.
    pub(crate) fn oldest_version(&self) -> u64 {
        let active: Vec<Arc<Txn>> = self.active.lock().values().filter_map(|a| a.txn.upgrade()).collect();
        let versions = active.iter().map(|t| t.catalog().version.0);
        versions.min().unwrap_or(u64::MAX).min(self.current().version.0)
    }

    /// Fragments that stand in one catalog and not in the next.
    pub(crate) fn dropped(before: &Catalog, after: &Catalog) -> Vec<Dropped> {
        let kept: std::collections::HashSet<FragmentId> =
            after.tables.values().flat_map(|t| t.fragments.iter().map(|f| f.id)).collect();
        before
            .tables
            .values()
            .flat_map(|t| t.fragments.iter())
            .filter(|f| !kept.contains(&f.id))
            .map(|f| Dropped { fragment: f.id, sites: f.replicas.clone(), version: after.version.0 })
            .collect()
    }
}

#[async_trait]
impl Cluster for Node {
    fn catalog(&self) -> Arc<Catalog> {
        self.current()
    }

    fn begin(&self, options: BranchOptions) -> Arc<dyn Transaction> {
        let id = self.next_transaction.fetch_add(1, Ordering::Relaxed);
        // `me` is alive while a method of it runs.
        let Some(node) = self.me.upgrade() else { unreachable!("a node that is being called exists") };
        let txn = Arc::new(Txn::new(id, node, options));
        let active = Active { began: Instant::now(), isolation: options.isolation, txn: Arc::downgrade(&txn) };
        self.active.lock().insert(id, active);
        txn
    }

    async fn next_values(&self, sequence: RelationId, count: u32) -> Result<i64> {
        self.sequences.next(self, sequence, count).await
    }

    async fn set_sequence(&self, sequence: RelationId, value: i64, called: bool) -> Result<()> {
        self.sequences.set(self, sequence, value, called).await
    }

    async fn sequence_position(&self, sequence: RelationId) -> Result<(i64, bool)> {
        self.sequences.position(self, sequence).await
    }

    fn row_ids(&self, count: u32) -> i64 {
        self.next_row.fetch_add(i64::from(count), Ordering::Relaxed)
    }

    fn statistics(&self, table: &Table, fragment: FragmentId) -> FragmentStatistics {
        let site = table.fragments.iter().find(|f| f.id == fragment).and_then(|f| f.replicas.first());
        site.and_then(|id| self.sites.read().get(id).map(|s| s.statistics(fragment))).unwrap_or_default()
    }

    fn transactions(&self) -> Vec<TransactionInfo> {
        self.active
            .lock()
            .iter()
            .map(|(id, a)| TransactionInfo {
                id: *id,
                isolation: a.isolation,
                age_ms: u64::try_from(a.began.elapsed().as_millis()).unwrap_or(u64::MAX),
                has_writes: a.txn.upgrade().is_some_and(|t| t.has_writes()),
            })
            .collect()
    }
}
