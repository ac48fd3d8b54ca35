//! The node: the catalog in force, its sites, and everything that outlives a transaction.

use crate::active::Active;
use crate::coordinator::{self, Coordinator, History, Past, TransactionOptions};
use crate::copies::{self, Copies};
use crate::definitions::Definitions;
use crate::gates::Gates;
use crate::persist::{self, Purge};
use crate::purge::{self, Pending};
use crate::sequences::{Journal, Sequences};
use crate::sites::{SiteFactory, Sites};
use crate::transaction::{self, Txn};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use atoll_model::{
    CATALOG_FORMAT, Catalog, ClusterId, Error, ErrorKind, FragmentId, RelationId, Result, Sequence, SiteId, Table,
};
use atoll_ports::cluster::{Cluster, EndedTransaction, InDoubt, MoveInfo, MoveOrder, Transaction, TransactionInfo};
use atoll_ports::query::SiteQuery;
use atoll_ports::site::{Branch, BranchOptions, FragmentStatistics, ParticipantId, Site, SiteTable};
use atoll_ports::verify::Verified;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};

/// Hidden keys given out by one run of the process before they would run into the next run's.
const ROW_IDS_PER_START: u32 = 40;

/// An Atoll process's part of the database.
pub struct Node {
    pub(crate) sites: Arc<Sites>,
    pub(crate) coordinator: Arc<Coordinator>,
    /// Where the node's own values are.
    home: Arc<dyn Site>,
    pub(crate) definitions: ArcSwap<Definitions>,
    /// One change of the catalog at a time.
    pub(crate) ddl: Arc<tokio::sync::Mutex<()>>,
    /// No id below it is given to a new object, so that ids used by rolled back DDL are not used again.
    pub(crate) next_object: AtomicU32,
    pub(crate) gates: Gates,
    pub(crate) active: Active,
    pub(crate) sequences: Sequences,
    pub(crate) purges: Mutex<Vec<Pending>>,
    pub(crate) copies: Copies,
    pub(crate) turn: AtomicUsize,
    row_ids: AtomicI64,
    this: std::sync::Weak<Node>,
}

impl Node {
    /// Opens the database: reads its catalog (or makes a fresh one), opens its sites, and starts the background work. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    /// `DataCorrupted` or `NotSupported` for a catalog that cannot be read; those of opening sites.
    pub async fn open(factory: Box<dyn SiteFactory>) -> Result<Arc<Node>> {
        Self::open_with(factory, TransactionOptions::default()).await
    }

    /// As [`Node::open`], with other options.
    ///
    /// # Errors
    /// The same.
    pub async fn open_with(factory: Box<dyn SiteFactory>, options: TransactionOptions) -> Result<Arc<Node>> {
        let sites = Arc::new(Sites::new(factory));
        let fresh = Catalog::initial();
        let first = fresh.sites.values().next().ok_or_else(|| Error::internal("a fresh catalog has a site"))?;
        let home = sites.ensure(first)?;

        let branch = home.begin(BranchOptions::default()).await?;
        let stored = persist::read::<Catalog>(&*branch, "catalog", persist::CATALOG, CATALOG_FORMAT)?;
        let purges: Vec<Purge> =
            persist::read(&*branch, "list of dropped fragments", persist::PURGES, purge::FORMAT)?.unwrap_or_default();
        let starts: u64 = persist::read(&*branch, "count of starts", persist::STARTS, 1)?.unwrap_or(0);
        let catalog = match stored {
            Some(catalog) => catalog,
            None => {
                persist::write(&*branch, persist::CATALOG, CATALOG_FORMAT, &fresh)?;
                fresh
            }
        };
        let cluster = match persist::read::<ClusterId>(&*branch, "id of the cluster", persist::CLUSTER, 1)? {
            Some(cluster) => cluster,
            None => {
                let cluster = ClusterId(rand::random());
                persist::write(&*branch, persist::CLUSTER, 1, &cluster)?;
                cluster
            }
        };
        let decisions = coordinator::decisions(&*branch)?;
        let history = History::read(&*branch)?;
        // Durable before any hidden key, and any name of a transaction, of this run is given.
        persist::write(&*branch, persist::STARTS, 1, &(starts + 1))?;
        branch.commit().await?;
        let epoch = u32::try_from(starts + 1)
            .map_err(|_| Error::new(ErrorKind::ProgramLimit, "the node was started too often"))?;

        for site in catalog.sites.values() {
            sites.ensure(site)?;
        }
        let past = Past { cluster, epoch, decisions, history };
        let coordinator = Coordinator::begin(options, past, sites.clone(), home.clone());
        let node = Arc::new_cyclic(|this| Node {
            sites,
            coordinator,
            home,
            next_object: AtomicU32::new(catalog.next_id),
            definitions: ArcSwap::new(Definitions::new(Arc::new(catalog))),
            ddl: Arc::default(),
            gates: Gates::default(),
            active: Active::new(),
            sequences: Sequences::default(),
            purges: Mutex::new(purges.into_iter().map(|purge| Pending { purge, boundary: 0 }).collect()),
            copies: Copies::default(),
            turn: AtomicUsize::new(0),
            row_ids: AtomicI64::new(((starts as i64) << ROW_IDS_PER_START) + 1),
            this: this.clone(),
        });
        tokio::spawn(purge::run(node.this.clone()));
        tokio::spawn(copies::run(node.this.clone()));
        Ok(node)
    }

    /// An orderly end: writes exact positions of sequences, so that they show no gaps. Not needed for durability.
    ///
    /// # Errors
    /// Those of writing.
    pub async fn close(&self) -> Result<()> {
        self.coordinator.close().await?;
        self.sequences.give_back(self).await
    }

    /// A fresh branch for the node's own values.
    pub(crate) async fn home_branch(&self) -> Result<Arc<dyn Branch>> {
        self.home.begin(BranchOptions::default()).await
    }

    pub(crate) fn home(&self) -> &Arc<dyn Site> {
        &self.home
    }

    pub(crate) fn participant(&self, site: SiteId) -> Result<ParticipantId> {
        Ok(self.sites.get(site)?.site.participant())
    }

    /// Makes a committed catalog the one in force.
    pub(crate) fn publish(&self, definitions: Arc<Definitions>, dropped: Vec<Purge>) {
        self.definitions.store(definitions.clone());
        for site in definitions.sites.values() {
            if let Err(error) = self.sites.follow(site) {
                tracing::error!(site = site.name, %error, "an altered site could not be opened; it is reached as before");
            }
        }
        let sites = definitions.sites.values();
        let participants = sites.filter_map(|site| Some((self.participant(site.id).ok()?, site.engine)));
        self.coordinator.catalog_changed(participants);
        self.gates.retain(|id| definitions.tables.contains_key(&id));
        if !dropped.is_empty() {
            let boundary = self.active.boundary();
            self.purges.lock().extend(dropped.into_iter().map(|purge| Pending { purge, boundary }));
        }
    }

    /// Whether rows of an earlier copy of a fragment are yet to be removed from a site.
    pub(crate) fn is_being_purged(&self, site: SiteId, fragment: FragmentId) -> bool {
        self.purges.lock().iter().any(|pending| pending.purge == (site, fragment))
    }

    fn handle(&self) -> Arc<Node> {
        self.this.upgrade().expect("a node is only ever handed out in its Arc, and self is borrowed from it")
    }

    /// As [`Cluster::begin`], with all that the node knows of a transaction.
    pub(crate) fn begin_own(&self, options: BranchOptions) -> Arc<Txn> {
        let node = self.handle();
        self.active.begin(|id| Txn::new(node, id, options, self.definitions.load_full()))
    }

    fn sequence(&self, id: RelationId) -> Result<Arc<Sequence>> {
        self.definitions
            .load()
            .sequences
            .get(&id)
            .cloned()
            .or_else(|| self.sequences.definition(id))
            .ok_or_else(|| Error::new(ErrorKind::UndefinedTable, format!("sequence with id {id} does not exist")))
    }
}

#[async_trait]
impl Journal for Node {
    async fn open(&self) -> Result<Arc<dyn Branch>> {
        self.home_branch().await
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("catalog", &self.definitions.load().version).finish_non_exhaustive()
    }
}

#[async_trait]
impl Cluster for Node {
    fn catalog(&self) -> Arc<Catalog> {
        self.definitions.load().catalog.clone()
    }

    fn begin(&self, options: BranchOptions) -> Arc<dyn Transaction> {
        self.begin_own(options)
    }

    async fn next_values(&self, sequence: RelationId, count: u32) -> Result<i64> {
        self.sequences.next(&self.sequence(sequence)?, count, self).await
    }

    async fn set_sequence(&self, sequence: RelationId, value: i64, called: bool) -> Result<()> {
        self.sequences.set(&self.sequence(sequence)?, value, called, self).await
    }

    async fn sequence_position(&self, sequence: RelationId) -> Result<(i64, bool)> {
        self.sequences.position(&self.sequence(sequence)?, self).await
    }

    fn row_ids(&self, count: u32) -> i64 {
        self.row_ids.fetch_add(i64::from(count), Ordering::Relaxed)
    }

    fn statistics(&self, table: &Table, fragment: FragmentId) -> FragmentStatistics {
        let copy = table.fragments.iter().find(|f| f.id == fragment).and_then(|f| f.replicas.first());
        let site = copy.and_then(|site| self.sites.get(*site).ok());
        site.map(|open| open.site.statistics(fragment)).unwrap_or_default()
    }

    fn statement(&self, site: SiteId, query: &SiteQuery) -> Result<String> {
        self.sites.get(site)?.site.statement(query)
    }

    async fn site_tables(&self, site: SiteId, schema: &str) -> Result<Vec<SiteTable>> {
        self.sites.get(site)?.site.tables(schema).await
    }

    async fn move_fragment(&self, order: MoveOrder) -> Result<()> {
        copies::move_fragment(self, order).await
    }

    async fn cancel_move(&self, table: &str, fragment: &str) -> Result<()> {
        copies::cancel_move(self, table, fragment).await
    }

    fn moves(&self) -> Vec<MoveInfo> {
        copies::moves(self)
    }

    async fn set_aside(&self, site: SiteId) -> Result<()> {
        copies::set_aside(self, site).await
    }

    fn transactions(&self) -> Vec<TransactionInfo> {
        let mut all = self.coordinator.running();
        let committing: Vec<u64> = all.iter().filter_map(|t| t.id).collect();
        all.extend(self.active.all().iter().filter(|t| !committing.contains(&t.number())).map(|t| t.info()));
        all
    }

    async fn in_doubt(&self) -> Vec<InDoubt> {
        self.coordinator.in_doubt().await
    }

    fn transactions_log(&self) -> Vec<EndedTransaction> {
        self.coordinator.ended()
    }

    async fn resolve(&self, name: &str, commit: bool) -> Result<u64> {
        self.coordinator.resolve(name, commit).await
    }

    fn verify(&self, tables: Option<Vec<String>>) -> BoxStream<'static, Result<Verified>> {
        transaction::verify(self.handle(), tables)
    }
}
