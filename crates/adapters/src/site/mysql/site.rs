//! The site: its connections, what is known of its tables, and the prepared transactions that it keeps.
//!
//! A transaction that is prepared stays on its connection, because the server lets no other one end it while that is open: this process ends it
//! there. Whoever else wants to (after a crash, another process) finds it by the ledger, and has the server close the
//! connection if it must.
//!
//! Invariant: opening a site connects to nothing, so a site that is down hinders nobody who does not need it.

use super::branch::MysqlBranch;
use super::connection::{self, Pool};
use super::define::Leftovers;
use super::layout::{Layout, literal, quote, table_name};
use super::link::{Kind, Link};
use super::options::MysqlOptions;
use super::query::Statement;
use super::system::System;
use super::values::{Params, number, string};
use super::{adopt, survey};
use crate::site::clock::Clock;
use crate::site::name::SiteName;
use crate::site::statistics::Statistics;
use async_trait::async_trait;
use atoll_model::{Error, ErrorKind, FragmentId, IndexId, Result, Site as Definition, SiteEngine, SiteId, Timestamp};
use atoll_ports::query::SiteQuery;
use atoll_ports::site::{
    Branch, BranchOptions, Finished, FragmentStatistics, ParticipantId, PreparedBranch, PreparedName, Replica, Site,
    SiteTable,
};
use mysql_async::Value as Wire;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;

/// How long a purge waits for readers, in seconds, before it leaves it for another time.
const PURGE_PATIENCE: u32 = 1;

/// Connections for what must not wait for transactions, and for what transactions wait for.
const CONTROL_CONNECTIONS: usize = 2;

/// How old a row of the ledger is, in seconds, when it is looked at whether its transaction has ended.
const LEDGER_AGE: u32 = 60;

/// How often a prepared transaction is asked for again while the server closes the connection that it is on.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// A MySQL or MariaDB database as a site.
pub struct MysqlSite {
    id: SiteId,
    participant: ParticipantId,
    shared: Arc<Shared>,
}

/// What a site's branches share.
pub(super) struct Shared {
    pub(super) name: SiteName,
    pub(super) pool: Arc<Pool>,
    pub(super) control: Arc<Pool>,
    pub(super) system: System,
    pub(super) options: MysqlOptions,
    ready: OnceCell<()>,
    clock: Clock,
    /// What XA transactions of this process are called, with a number behind it.
    run: String,
    transactions: AtomicU64,
    /// Prepared transactions of this process, on their connections: no more than the pool has.
    parked: Mutex<HashMap<PreparedName, Parked>>,
    /// By fragment, of the newest definition seen; one for each copy at the site.
    layouts: RwLock<HashMap<FragmentId, Arc<Layout>>>,
    statistics: Statistics,
}

/// A prepared transaction on its connection, and what is to be done when it is committed.
struct Parked {
    link: Arc<Link>,
    xid: String,
    leftovers: Leftovers,
}

/// A row of the ledger.
struct Entry {
    name: String,
    xid: String,
    /// The connection that has prepared it.
    session: u64,
    /// Old enough to be looked at.
    old: bool,
    /// When it was made, in microseconds since 1970.
    since: Option<i64>,
}

impl MysqlSite {
    /// The site of this definition, which is a participant of its own. Connects to nothing yet.
    ///
    /// # Errors
    /// `InvalidParameterValue` for options that cannot be.
    pub fn open(site: &Definition, participant: ParticipantId) -> Result<Arc<Self>> {
        let options = MysqlOptions::of(site)?;
        let name = SiteName(site.name.clone());
        let shared = Arc::new(Shared {
            pool: connection::pool(&options, &name, options.limits.pool_size),
            control: connection::pool(&options, &name, CONTROL_CONNECTIONS),
            system: System::new(&options.schema),
            name,
            options,
            ready: OnceCell::new(),
            clock: Clock::default(),
            run: format!("atoll-{}", run_number()),
            transactions: AtomicU64::default(),
            parked: Mutex::default(),
            layouts: RwLock::default(),
            statistics: Statistics::default(),
        });
        Ok(Arc::new(MysqlSite { id: site.id, participant, shared }))
    }
}

/// A number that no other process, and no other site of this one, draws.
fn run_number() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    // Two keys of the standard library's, which are random and differ at each call.
    let draw = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", draw(), draw())
}

impl fmt::Debug for MysqlSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlSite").field("name", &self.shared.name.0).field("options", &self.shared.options).finish()
    }
}

impl Shared {
    /// A time that no earlier call has got.
    pub(super) fn clock(&self) -> Timestamp {
        self.clock.now()
    }

    /// A name for an XA transaction that no other has, anywhere.
    pub(super) fn fresh_xid(&self) -> String {
        format!("{}-{}", self.run, self.transactions.fetch_add(1, Ordering::Relaxed))
    }

    /// The layout of a copy.
    pub(super) fn layout(&self, at: &Replica) -> Result<Arc<Layout>> {
        if let Some(layout) = self.layouts.read().get(&at.fragment)
            && Arc::ptr_eq(&layout.table, &at.table)
        {
            return Ok(layout.clone());
        }
        let layout = Arc::new(Layout::new(at, &self.options.schema)?);
        self.layouts.write().insert(at.fragment, layout.clone());
        Ok(layout)
    }

    /// A connection for the site's own business, on which each statement stands for itself. `begin` goes ahead of the first.
    pub(super) async fn control(&self, begin: &str) -> Result<Link> {
        let lease = self.control.get().await?;
        Ok(Link::begin(lease, self.name.clone(), self.control.clone(), Kind::Single, begin))
    }

    /// Makes sure that Atoll's own tables are there.
    pub(super) async fn ensure(&self) -> Result<()> {
        self.ready.get_or_try_init(async || self.system.ensure(&self.control("").await?).await).await.map(|_| ())
    }

    /// A name for an index that none has had before, so that one that is left over is never taken for another.
    pub(super) fn fresh_index(&self, index: IndexId) -> String {
        let run = &self.run[self.run.len() - 12..];
        format!("i{index}_{run}{}", self.transactions.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether an index counts, or will if a transaction commits, or is not to count any more only if one does.
    pub(super) async fn counts(&self, fragment: FragmentId, index: &str) -> Result<bool> {
        if index == "PRIMARY" {
            return Ok(true);
        }
        let sql = format!(
            "SELECT part FROM {} WHERE fragment = {} AND part = {}",
            self.system.parts,
            fragment.0,
            literal(index)
        );
        let link = self.control("").await?;
        for level in ["READ UNCOMMITTED", "READ COMMITTED"] {
            link.execute(&format!("SET TRANSACTION ISOLATION LEVEL {level}")).await?;
            if !link.text(&sql).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps a prepared transaction on its connection until it is ended.
    pub(super) fn park(&self, name: PreparedName, link: Arc<Link>, xid: String, leftovers: Leftovers) {
        self.parked.lock().insert(name, Parked { link, xid, leftovers });
    }

    async fn ask_statistics(&self, fragment: FragmentId) -> Result<()> {
        let (schema, name) = match self.layouts.read().get(&fragment) {
            Some(layout) => (layout.schema.clone(), layout.name.clone()),
            None => (self.options.schema.clone(), table_name(fragment)),
        };
        let sql = format!(
            "SELECT TABLE_ROWS, DATA_LENGTH FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
            literal(&schema),
            literal(&name)
        );
        let rows = self.control("").await?.text(&sql).await?;
        let (rows, bytes) = rows.first().map_or((0, 0), |row| (number(row, 0), number(row, 1)));
        self.statistics.learn(fragment, rows, bytes);
        Ok(())
    }

    /// The names of prepared XA transactions.
    async fn prepared(&self, link: &Link) -> Result<HashSet<String>> {
        // Columns: format, length of the first part, length of the second, both.
        Ok(link.text("XA RECOVER").await?.iter().map(|row| string(row, 3)).collect())
    }

    /// The ledger, in the order of its names.
    async fn ledger(&self, link: &Link) -> Result<Vec<Entry>> {
        let branches = &self.system.branches;
        let sql = format!(
            "SELECT name, xid, session, made < UTC_TIMESTAMP() - INTERVAL {LEDGER_AGE} SECOND, \
             TIMESTAMPDIFF(MICROSECOND, '1970-01-01', made) FROM {branches} ORDER BY name"
        );
        // Also what is not committed: that is what is looked for.
        link.execute("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED").await?;
        match link.text(&sql).await {
            Ok(rows) => {
                let read = |row: &_| Entry {
                    name: string(row, 0),
                    xid: string(row, 1),
                    session: number(row, 2),
                    old: number(row, 3) == 1,
                    since: i64::try_from(number(row, 4)).ok(),
                };
                Ok(rows.iter().map(read).collect())
            }
            // Nothing was ever prepared here.
            Err(e) if matches!(e.kind(), ErrorKind::UndefinedTable | ErrorKind::InvalidCatalog) => Ok(vec![]),
            Err(e) => Err(e),
        }
    }

    /// Deletes rows of transactions that have ended.
    async fn tidy(&self, link: &Link, names: &[String]) -> Result<()> {
        for names in names.chunks(1000) {
            // What is not committed after all is locked, and left for another time.
            let sql = format!(
                "SET SESSION innodb_lock_wait_timeout = 1; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                 DELETE FROM {} WHERE name IN ({})",
                self.system.branches,
                names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ")
            );
            link.execute(&sql).await?;
        }
        Ok(())
    }

    /// Prepared branches, with what the ledger knows of them. What is too old in the ledger goes.
    async fn listed(&self) -> Result<Vec<PreparedBranch>> {
        let link = self.control("").await?;
        let parked: Vec<PreparedName> = self.parked.lock().keys().cloned().collect();
        let ledger = self.ledger(&link).await?;
        let prepared = self.prepared(&link).await?;
        let (there, ended): (Vec<_>, Vec<_>) = ledger.into_iter().partition(|entry| prepared.contains(&entry.xid));
        let old: Vec<String> = ended.into_iter().filter(|entry| entry.old).map(|entry| entry.name).collect();
        if !old.is_empty()
            && let Err(error) = self.tidy(&link, &old).await
        {
            tracing::debug!(site = self.name.0, %error, "the ledger is not tidied");
        }
        // What another process has ended need not be kept any longer.
        self.parked.lock().retain(|name, at| prepared.contains(&at.xid) || !parked.contains(name));
        // Of what is not a name, nobody here is the author.
        let branch =
            |entry: Entry| Some(PreparedBranch { name: PreparedName::new(entry.name).ok()?, since: entry.since });
        Ok(there.into_iter().filter_map(branch).collect())
    }

    /// Ends a prepared transaction that is on no connection of this process.
    async fn finish_elsewhere(&self, name: &PreparedName, verb: &str) -> Result<Finished> {
        let link = self.control("").await?;
        for _ in 0..ATTEMPTS {
            let ledger = self.ledger(&link).await?;
            let Some(Entry { xid, session, .. }) = ledger.into_iter().find(|entry| entry.name == name.as_str()) else {
                return Ok(Finished::Missing);
            };
            // After the ledger: what has ended since is not listed any more.
            if !self.prepared(&link).await?.contains(&xid) {
                return Ok(Finished::Missing);
            }
            match link.text(&format!("XA {verb} {}", literal(&xid))).await {
                Ok(_) => return Ok(Finished::Now),
                Err(e) if e.kind() == ErrorKind::UndefinedObject => {}
                Err(e) => return Err(e),
            }
            // It is on a connection that is still open. Closing it leaves it prepared.
            match link.text(&format!("KILL {session}")).await {
                Err(e) if e.kind() == ErrorKind::InsufficientPrivilege => return Err(e),
                // It is gone already.
                _ => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(self.name.unavailable(format!("transaction {name} is held by a connection")))
    }
}

#[async_trait]
impl Site for MysqlSite {
    fn id(&self) -> SiteId {
        self.id
    }

    fn engine(&self) -> SiteEngine {
        SiteEngine::Mysql
    }

    fn participant(&self) -> ParticipantId {
        self.participant
    }

    fn is_down(&self) -> bool {
        self.shared.pool.is_down()
    }

    async fn begin(&self, options: BranchOptions) -> Result<Arc<dyn Branch>> {
        // The connection is taken with the first statement, when it is known what for.
        Ok(Arc::new(MysqlBranch::new(self.shared.clone(), options)))
    }

    fn statistics(&self, fragment: FragmentId) -> FragmentStatistics {
        let known = self.shared.statistics.of(fragment, |runtime| {
            let shared = self.shared.clone();
            runtime.spawn(async move {
                if let Err(error) = shared.ask_statistics(fragment).await {
                    tracing::debug!(site = shared.name.0, %error, "no statistics");
                }
            });
        });
        // Others write to the site, too: no two answers promise the same content.
        FragmentStatistics { modifications: self.shared.clock().0, ..known }
    }

    fn statement(&self, query: &SiteQuery) -> Result<String> {
        let statement = Statement::new(query, |replica| self.shared.layout(replica))?;
        if statement.is_scan() {
            // The server has no cursors: a scan is read in portions, a query is not.
            return Err(Error::unsupported("all rows of a copy at a MySQL site in one answer"));
        }
        statement.sql(false, "")
    }

    async fn purge(&self, fragment: FragmentId) -> Result<()> {
        let schema = &self.shared.options.schema;
        // Adopted tables have other names, and stay. Who still reads this one is not waited for: others would queue up behind.
        let link = self.shared.control(&format!("SET SESSION lock_wait_timeout = {PURGE_PATIENCE}")).await?;
        let table = format!("{}.{}", quote(schema), quote(&table_name(fragment)));
        link.execute(&format!("DROP TABLE IF EXISTS {table}")).await?;
        let forgetting = format!("DELETE FROM {} WHERE fragment = {}", self.shared.system.parts, fragment.0);
        match link.execute(&forgetting).await {
            Err(e) if !matches!(e.kind(), ErrorKind::UndefinedTable | ErrorKind::InvalidCatalog) => return Err(e),
            _ => {}
        }
        self.shared.layouts.write().remove(&fragment);
        self.shared.statistics.forget(fragment);
        Ok(())
    }

    async fn tables(&self, schema: &str) -> Result<Vec<SiteTable>> {
        let system = ["information_schema", "mysql", "performance_schema", "sys"];
        if system.iter().any(|name| name.eq_ignore_ascii_case(schema)) {
            return Err(Error::new(ErrorKind::InvalidSchema, format!("database \"{schema}\" is the server's own")));
        }
        let link = self.shared.control("").await?;
        let missing = || {
            let site = &self.shared.name.0;
            Error::new(ErrorKind::InvalidSchema, format!("database \"{schema}\" does not exist at site \"{site}\""))
        };
        let tables = survey::tables(&link, schema).await?.ok_or_else(missing)?;
        let others = |table: &SiteTable| schema != self.shared.options.schema || !adopt::is_own(&table.name);
        Ok(tables.into_iter().filter(others).collect())
    }

    async fn in_doubt(&self) -> Result<Vec<PreparedName>> {
        Ok(self.prepared().await?.into_iter().map(|branch| branch.name).collect())
    }

    async fn prepared(&self) -> Result<Vec<PreparedBranch>> {
        self.shared.control.in_time(self.shared.listed()).await
    }

    async fn finish(&self, name: &PreparedName, commit: bool) -> Result<Finished> {
        let verb = if commit { "COMMIT" } else { "ROLLBACK" };
        let parked = self.shared.parked.lock().remove(name);
        let Some(Parked { link, xid, leftovers }) = parked else {
            return self.shared.finish_elsewhere(name, verb).await;
        };
        match link.execute(&format!("XA {verb} {}", literal(&xid))).await {
            Ok(()) => {
                link.ended();
                if commit {
                    leftovers.clear(&self.shared).await;
                } else {
                    leftovers.undo(&self.shared).await;
                }
                Ok(Finished::Now)
            }
            // The connection is gone, or in no state to tell: the transaction is found by its name.
            Err(error) => {
                tracing::debug!(site = self.shared.name.0, %error, "a prepared transaction has lost its connection");
                drop(link);
                self.shared.finish_elsewhere(name, verb).await
            }
        }
    }
}

/// Parameters that are numbers.
pub(super) fn numbers(values: impl IntoIterator<Item = u64>) -> Params {
    values.into_iter().map(Wire::UInt).collect()
}
