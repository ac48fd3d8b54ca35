//! The site: its connections, what is known of its tables, and the prepared transactions that it keeps.
//!
//! Invariant: opening a site connects to nothing, so a site that is down hinders nobody who does not need it.

use super::branch::PostgresBranch;
use super::connection::Link;
use super::layout::{Layout, quote, table_name};
use super::options::PostgresOptions;
use super::pool::{self, Pool};
use super::query::Statement;
use super::{reads, survey};
use crate::site::clock::Clock;
use crate::site::name::SiteName;
use crate::site::statistics::Statistics;
use async_trait::async_trait;
use atoll_model::{
    Error, ErrorKind, FragmentId, Result, Row, Site as Definition, SiteEngine, SiteId, Timestamp, Value,
};
use atoll_ports::query::SiteQuery;
use atoll_ports::site::{
    Branch, BranchOptions, Finished, FragmentStatistics, ParticipantId, PreparedBranch, PreparedName, Replica, Site,
    SiteTable,
};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use tokio_postgres::types::Type;

/// How long a purge waits for readers, in milliseconds, before it leaves it for another time.
const PURGE_PATIENCE: u32 = 500;

/// Connections for what must not wait for transactions, and for what transactions wait for.
const CONTROL_CONNECTIONS: usize = 2;

/// Milliseconds that a question for statistics may wait for a lock.
const STATISTICS_LOCK_MS: u32 = 10;

/// The same for what a site's tables are.
const SURVEY_LOCK_MS: u32 = 2000;

/// A PostgreSQL database as a site.
pub struct PostgresSite {
    id: SiteId,
    participant: ParticipantId,
    shared: Arc<Shared>,
}

/// What a site's branches share.
pub(super) struct Shared {
    pub(super) name: SiteName,
    pub(super) pool: Arc<Pool>,
    pub(super) control: Arc<Pool>,
    options: PostgresOptions,
    clock: Clock,
    /// By fragment, of the newest definition seen; one for each copy at the site.
    layouts: RwLock<HashMap<FragmentId, Arc<Layout>>>,
    statistics: Statistics,
}

impl PostgresSite {
    /// The site of this definition, which is a participant of its own. Connects to nothing yet.
    ///
    /// # Errors
    /// `InvalidParameterValue` for options that cannot be.
    pub fn open(site: &Definition, participant: ParticipantId) -> Result<Arc<Self>> {
        let options = PostgresOptions::of(site)?;
        let name = SiteName(site.name.clone());
        let shared = Arc::new(Shared {
            pool: pool::new(&options, &name, options.limits.pool_size),
            control: pool::new(&options, &name, CONTROL_CONNECTIONS),
            name,
            options,
            clock: Clock::default(),
            layouts: RwLock::default(),
            statistics: Statistics::default(),
        });
        Ok(Arc::new(PostgresSite { id: site.id, participant, shared }))
    }
}

impl fmt::Debug for PostgresSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSite")
            .field("name", &self.shared.name.0)
            .field("options", &self.shared.options)
            .finish()
    }
}

impl Shared {
    /// A time that no earlier call has got: the server has no timestamps of commits to give.
    pub(super) fn clock(&self) -> Timestamp {
        self.clock.now()
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

    /// The schema in which Atoll makes its tables.
    pub(super) fn own_schema(&self) -> &str {
        &self.options.schema
    }

    /// A transaction for the site's own business.
    async fn control(&self, begin: &str) -> Result<Link> {
        Link::begin(&self.control, begin).await
    }

    /// Runs one command outside of transactions.
    async fn command(&self, command: &str) -> Result<()> {
        let link = Link::free(&self.control).await?;
        self.control.in_time(link.execute(command)).await
    }

    async fn ask_statistics(&self, fragment: FragmentId) -> Result<()> {
        let relation = match self.layouts.read().get(&fragment) {
            Some(layout) => layout.relation.clone(),
            None => format!("{}.{}", quote(&self.options.schema), quote(&table_name(fragment))),
        };
        // What ANALYZE has found, or what the statistics collector has counted since.
        let sql = "SELECT GREATEST(c.reltuples::bigint, COALESCE(s.n_live_tup, 0), 0), pg_relation_size(c.oid) \
                   FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE c.oid = to_regclass($1)";
        // The size of a table that somebody changes is waited for; and those who end that change wait for this connection.
        let link = self.control(&format!("BEGIN READ ONLY; SET LOCAL lock_timeout = {STATISTICS_LOCK_MS}")).await?;
        let rows = link.query(sql, &[(&relation, Type::TEXT)]).await?;
        let read = |at: usize| {
            let number: i64 = rows.first().and_then(|row| row.try_get(at).ok()).unwrap_or_default();
            u64::try_from(number).unwrap_or_default()
        };
        let (rows, bytes) = (read(0), read(1));
        self.statistics.learn(fragment, rows, bytes);
        Ok(())
    }
}

#[async_trait]
impl Site for PostgresSite {
    fn id(&self) -> SiteId {
        self.id
    }

    fn engine(&self) -> SiteEngine {
        SiteEngine::Postgres
    }

    fn participant(&self) -> ParticipantId {
        self.participant
    }

    fn is_down(&self) -> bool {
        self.shared.pool.is_down()
    }

    async fn begin(&self, options: BranchOptions) -> Result<Arc<dyn Branch>> {
        // The connection is taken with the first statement, when it is known what for.
        Ok(Arc::new(PostgresBranch::new(self.shared.clone(), options)))
    }

    async fn read(&self, at: &Replica, key: &[Value], wanted: &[usize]) -> Result<Option<Row>> {
        reads::read(&self.shared, &*self.shared.layout(at)?, key, wanted).await
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

    fn updates_rows(&self) -> bool {
        true
    }

    fn statement(&self, query: &SiteQuery) -> Result<String> {
        Ok(Statement::new(query, |replica| self.shared.layout(replica))?.sql)
    }

    async fn purge(&self, fragment: FragmentId) -> Result<()> {
        let table = format!("{}.{}", quote(&self.shared.options.schema), quote(&table_name(fragment)));
        // Adopted tables have other names, and stay. Who still reads this one is not waited for: others would queue up behind.
        let link = self.shared.control(&format!("BEGIN; SET LOCAL lock_timeout = {PURGE_PATIENCE}")).await?;
        link.execute(&format!("DROP TABLE IF EXISTS {table}; COMMIT")).await?;
        link.ended();
        self.shared.layouts.write().remove(&fragment);
        self.shared.statistics.forget(fragment);
        Ok(())
    }

    async fn tables(&self, schema: &str) -> Result<Vec<SiteTable>> {
        let site = &self.shared.name.0;
        if schema == self.shared.options.schema {
            return Err(Error::new(
                ErrorKind::InvalidSchema,
                format!("schema \"{schema}\" of site \"{site}\" is where Atoll keeps its own copies"),
            ));
        }
        let begin =
            format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = {SURVEY_LOCK_MS}");
        let link = self.shared.control(&begin).await?;
        let schema_there = "SELECT to_regnamespace($1) IS NOT NULL";
        let known = link.query(schema_there, &[(&quote(schema), Type::TEXT)]).await?;
        if !known.first().is_some_and(|row| row.try_get(0).unwrap_or(false)) {
            return Err(Error::new(
                ErrorKind::InvalidSchema,
                format!("schema \"{schema}\" does not exist at site \"{site}\""),
            ));
        }
        survey::tables(&link, &quote(schema)).await
    }

    async fn in_doubt(&self) -> Result<Vec<PreparedName>> {
        Ok(self.prepared().await?.into_iter().map(|branch| branch.name).collect())
    }

    async fn prepared(&self) -> Result<Vec<PreparedBranch>> {
        let link = self.shared.control("BEGIN READ ONLY").await?;
        let sql = "SELECT gid, (EXTRACT(EPOCH FROM prepared) * 1000000)::bigint FROM pg_prepared_xacts \
                   WHERE database = current_database() AND starts_with(gid, $1) ORDER BY gid";
        let asked = link.query(sql, &[(&PreparedName::PREFIX, Type::TEXT)]);
        let rows = self.shared.control.in_time(asked).await?;
        // Of what is not a name, nobody here is the author.
        let named = |row: &tokio_postgres::Row| {
            let name = PreparedName::new(row.try_get::<_, String>(0).ok()?).ok()?;
            Some(PreparedBranch { name, since: row.try_get(1).ok() })
        };
        Ok(rows.iter().filter_map(named).collect())
    }

    async fn finish(&self, name: &PreparedName, commit: bool) -> Result<Finished> {
        let verb = if commit { "COMMIT" } else { "ROLLBACK" };
        match self.shared.command(&format!("{verb} PREPARED '{name}'")).await {
            Ok(()) => Ok(Finished::Now),
            Err(error) if error.kind() == ErrorKind::UndefinedObject => Ok(Finished::Missing),
            Err(error) => Err(error),
        }
    }
}
