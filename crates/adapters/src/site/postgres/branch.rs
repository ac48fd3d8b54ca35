//! A transaction's part at a PostgreSQL site.
//!
//! `RepeatableRead` and `Serializable` are one transaction of the server at that level. `ReadCommitted` begins as a *reading* transaction at
//! REPEATABLE READ, renewed by every statement, so that all scans of a statement see one snapshot, as Atoll's statements are several
//! of the server's. With the first lock or write it becomes a *writing* one at READ COMMITTED, where the server takes a snapshot for each of
//! its own statements; it stays that to its end. What a row was when the statement began to read is then known by the
//! snapshot at that moment ([`Snapshot`]), so a row that has changed since is told apart.
//!
//! Invariants: nothing is locked or written in a reading transaction, so it can be given up at any time, also to scans that are not done with
//! it; a savepoint reaches the server no later than the first statement after it, so rolling back to it is always possible.

use super::connection::Link;
use super::error::of_table;
use super::layout::Layout;
use super::query::Statement;
use super::site::Shared;
use super::snapshot::Snapshot;
use super::values::Raw;
use super::{adopt, define, digest, lock, scan, values, write};
use async_trait::async_trait;
use atoll_model::{Error, ErrorKind, IndexId, Result, Row, Table, Timestamp, Value};
use atoll_ports::digest::Digest;
use atoll_ports::query::{SiteExpr, SiteQuery};
use atoll_ports::session::BatchStream;
use atoll_ports::site::{
    Belonging, Branch, BranchOptions, Drift, Isolation, KeyRange, LockMode, LockWait, LockedRow, Meta, PreparedName,
    Replica, RowChange, ScanRequest,
};
use parking_lot::Mutex;
use std::fmt::Write as _;
use std::sync::Arc;

/// What the transaction at the server is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// There is none.
    Idle,
    /// One statement's reads in `ReadCommitted`.
    Reading,
    /// Everything.
    Writing,
}

/// What is known of the view in which the running statement has read.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// It has read nothing.
    Nothing,
    /// It has begun to, and the snapshot is being asked for.
    Unknown,
    /// The oldest snapshot in which it can have read.
    Since(Snapshot),
}

struct Savepoint {
    /// The server knows it.
    sent: bool,
    /// Something had been written by then.
    wrote: bool,
}

struct State {
    link: Option<Arc<Link>>,
    phase: Phase,
    /// A new statement has begun since the reading transaction.
    stale: bool,
    seen: Seen,
    savepoints: Vec<Savepoint>,
    /// A savepoint that the server has to return to before anything else.
    back_to: Option<usize>,
    wrote: bool,
    locked: bool,
    failed: bool,
    ended: bool,
    /// Returns to savepoints so far: each closes the cursors opened since.
    returns: u64,
    snapshot: Timestamp,
}

/// A branch, with what its scans share of it.
pub(super) struct Inner {
    pub(super) site: Arc<Shared>,
    pub(super) options: BranchOptions,
    state: Mutex<State>,
    /// Held while a transaction is begun or ended, so that there is one of them.
    turn: tokio::sync::Mutex<()>,
    /// What is locked by value.
    pub(super) claims: Mutex<lock::Claims>,
}

/// The branch itself: when it goes, the transaction is rolled back.
pub(super) struct PostgresBranch(Arc<Inner>);

impl PostgresBranch {
    pub(super) fn new(site: Arc<Shared>, options: BranchOptions) -> Self {
        let snapshot = site.clock();
        let state = State {
            link: None,
            phase: Phase::Idle,
            stale: false,
            seen: Seen::Nothing,
            savepoints: vec![],
            back_to: None,
            wrote: false,
            locked: false,
            failed: false,
            ended: false,
            returns: 0,
            snapshot,
        };
        PostgresBranch(Arc::new(Inner {
            site,
            options,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::default(),
            claims: Mutex::default(),
        }))
    }
}

impl Drop for PostgresBranch {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Inner {
    /// A transaction to read in, and whether its snapshot has to be asked for, with or before the first read ([`Inner::saw`]).
    pub(super) async fn reader(&self) -> Result<(Arc<Link>, bool)> {
        let link = self.reader_of_rows().await?;
        let mut state = self.state.lock();
        let ask = self.options.isolation == Isolation::ReadCommitted
            && state.phase == Phase::Writing
            && matches!(state.seen, Seen::Nothing);
        if ask {
            state.seen = Seen::Unknown;
        }
        Ok((link, ask))
    }

    /// As [`Inner::reader`], to read rows that this statement does not go on to lock: nobody will ask in which snapshot.
    pub(super) async fn reader_of_rows(&self) -> Result<Arc<Link>> {
        let _turn = self.turn.lock().await;
        self.check()?;
        let phase = self.state.lock().phase;
        if self.options.isolation != Isolation::ReadCommitted || phase == Phase::Writing {
            self.writing().await
        } else {
            self.reading().await
        }
    }

    /// A transaction to lock and write in.
    pub(super) async fn writer(&self) -> Result<Arc<Link>> {
        let _turn = self.turn.lock().await;
        self.check()?;
        self.state.lock().locked = true;
        self.writing().await
    }

    fn check(&self) -> Result<()> {
        let state = self.state.lock();
        if state.ended {
            return Err(Error::new(ErrorKind::NoActiveTransaction, "the transaction has ended"));
        }
        if state.failed {
            return Err(Error::new(
                ErrorKind::InFailedTransaction,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        Ok(())
    }

    async fn reading(&self) -> Result<Arc<Link>> {
        let begin = self.begin("REPEATABLE READ READ ONLY");
        let (link, stale) = {
            let mut state = self.state.lock();
            (state.link.take(), std::mem::take(&mut state.stale))
        };
        let link = match link {
            Some(link) if !stale => link,
            // Scans of an earlier statement may still need theirs.
            Some(link) if Arc::strong_count(&link) == 1 && !link.is_closed() => {
                link.send(&format!("COMMIT; {begin}"));
                link
            }
            _ => Arc::new(Link::begin(&self.site.pool, &begin).await?),
        };
        let mut state = self.state.lock();
        state.phase = Phase::Reading;
        state.link = Some(link.clone());
        Ok(link)
    }

    async fn writing(&self) -> Result<Arc<Link>> {
        let (link, phase) = {
            let state = self.state.lock();
            (state.link.clone(), state.phase)
        };
        let link = match (phase, link) {
            (Phase::Writing, Some(link)) => link,
            (_, reading) => {
                let link = self.begin_writing(reading).await?;
                let mut state = self.state.lock();
                state.phase = Phase::Writing;
                state.back_to = None;
                state.savepoints.iter_mut().for_each(|s| s.sent = false);
                state.link = Some(link.clone());
                link
            }
        };
        let commands = self.state.lock().outstanding();
        if !commands.is_empty() {
            link.send(&commands);
        }
        Ok(link)
    }

    async fn begin_writing(&self, reading: Option<Arc<Link>>) -> Result<Arc<Link>> {
        let level = match self.options.isolation {
            Isolation::ReadCommitted => "READ COMMITTED",
            Isolation::RepeatableRead => "REPEATABLE READ",
            Isolation::Serializable => "SERIALIZABLE",
        };
        let level = if self.options.read_only { format!("{level} READ ONLY") } else { level.to_owned() };
        let begin = self.begin(&level);
        if let Some(reading) = reading {
            if !self.state.lock().stale {
                self.saw(&reading).await?;
            }
            self.state.lock().link = None;
            // Scans of this statement may still need it.
            if Arc::strong_count(&reading) == 1 {
                reading.send(&format!("COMMIT; {begin}"));
                return Ok(reading);
            }
        }
        Ok(Arc::new(Link::begin(&self.site.pool, &begin).await?))
    }

    fn begin(&self, level: &str) -> String {
        // Zero is "for ever" here and there; anything else must not become that.
        let timeout = self.options.lock_timeout;
        let millis = if timeout.is_zero() { 0 } else { timeout.as_millis().clamp(1, 2_147_483_647) };
        let mut begin = format!("BEGIN ISOLATION LEVEL {level}; SET LOCAL lock_timeout = {millis}");
        if !self.options.synchronous_commit {
            begin.push_str("; SET LOCAL synchronous_commit = off");
        }
        begin
    }

    /// Asks for the snapshot of the statement's reads.
    pub(super) async fn saw(&self, link: &Link) -> Result<()> {
        let rows = self.told(link.query("SELECT pg_current_snapshot()::text", &[]).await)?;
        let text: String = rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default();
        let snapshot = Snapshot::parse(&text)
            .ok_or_else(|| Error::internal(format!("site \"{}\" gave the snapshot {text:?}", self.site.name.0)))?;
        self.state.lock().seen = Seen::Since(snapshot);
        Ok(())
    }

    /// What [`Inner::close_cursor`] will want to know of a cursor that is opened now.
    pub(super) fn returns(&self) -> u64 {
        self.state.lock().returns
    }

    /// Closes a cursor that is still there; closing another would end the transaction.
    pub(super) fn close_cursor(&self, link: &Link, name: &str, returns: u64) {
        let state = self.state.lock();
        // Under the lock, no return to a savepoint can come between.
        if state.returns == returns && !state.failed && !state.ended {
            link.send(&format!("CLOSE {name}"));
        }
    }

    pub(super) fn seen(&self) -> Seen {
        self.state.lock().seen.clone()
    }

    /// Notes a failure: nothing but a rollback can follow.
    pub(super) fn told<T>(&self, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() {
            self.state.lock().failed = true;
        }
        outcome
    }

    /// As [`Inner::told`], with the table's own names in the error.
    pub(super) fn told_of<T>(&self, layout: &Layout, outcome: Result<T>) -> Result<T> {
        self.told(outcome.map_err(|e| of_table(e, &layout.table, |name| layout.constraint(name))))
    }

    /// Whether writing is allowed; from here on the branch has written.
    pub(super) fn writes(&self, table: &Table) -> Result<()> {
        if self.options.read_only {
            return Err(Error::new(
                ErrorKind::ReadOnlyTransaction,
                format!("cannot write to \"{}\" in a read-only transaction", table.name),
            ));
        }
        self.state.lock().wrote = true;
        Ok(())
    }

    /// Rolls back, unless the transaction has ended.
    fn end(&self) {
        let link = {
            let mut state = self.state.lock();
            state.ended = true;
            state.link.take()
        };
        if let Some(link) = link {
            link.rollback();
        }
    }

    /// Takes the transaction out to be ended with a command; `None`: there is nothing to be ended.
    async fn last(&self, always: bool) -> Result<Option<Arc<Link>>> {
        let _turn = self.turn.lock().await;
        let outcome = self.check();
        let mut state = self.state.lock();
        state.ended = true;
        let link = state.link.take();
        if let Err(error) = outcome {
            if let Some(link) = link {
                link.rollback();
            }
            return Err(error);
        }
        let Some(link) = link else { return Ok(None) };
        if state.phase != Phase::Writing || !(always || state.wrote) {
            // What was only read is let go; what was locked, too.
            return Ok(None);
        }
        // The last savepoints need not reach the server any more, but a return to one must.
        let commands = state.outstanding();
        drop(state);
        if !commands.is_empty() {
            link.send(&commands);
        }
        Ok(Some(link))
    }

    /// Ends the transaction by a command. The empty query before it fails in a transaction that has failed, of which COMMIT would
    /// make a rollback and report success.
    async fn end_with(&self, link: &Link, command: &str) -> Result<()> {
        let outcome = link.execute(&format!("SELECT; {command}")).await;
        match &outcome {
            Ok(()) => link.ended(),
            Err(_) => link.rollback(),
        }
        outcome
    }
}

impl State {
    /// What the server has to be told of savepoints first.
    fn outstanding(&mut self) -> String {
        let mut commands = String::new();
        if let Some(at) = self.back_to.take() {
            // Writing to a String cannot fail.
            let _ = write!(commands, "ROLLBACK TO SAVEPOINT s{at};");
        }
        for (at, savepoint) in self.savepoints.iter_mut().enumerate().filter(|(_, s)| !s.sent) {
            let _ = write!(commands, "SAVEPOINT s{at};");
            savepoint.sent = true;
        }
        commands
    }
}

/// A row of the site, from a column on.
pub(super) fn decode_row(layout: &Layout, row: &tokio_postgres::Row, first: usize) -> Result<Row> {
    decode_columns(layout, row, first, 0..layout.table.columns.len())
}

/// A row of which the site gives these columns of the table, from a column of its answer on; the others are NULL.
pub(super) fn decode_columns(
    layout: &Layout,
    row: &tokio_postgres::Row,
    first: usize,
    given: impl Iterator<Item = usize> + Clone,
) -> Result<Row> {
    let columns = &layout.table.columns;
    let expected = given.clone().map(|at| (columns[at].name.as_str(), &columns[at].ty));
    scan::check_types(&layout.table.name, expected, &row.columns()[first..])?;
    let mut values = vec![Value::Null; columns.len()];
    for (n, at) in given.enumerate() {
        match row.try_get::<_, Raw<'_>>(first + n) {
            Ok(Raw(Some(bytes))) => values[at] = values::decode(&columns[at].ty, bytes)?,
            Ok(Raw(None)) => {}
            Err(error) => return Err(Error::internal(format!("a row of a site: {error}"))),
        }
    }
    Ok(values)
}

#[async_trait]
impl Branch for PostgresBranch {
    fn snapshot(&self) -> Timestamp {
        self.0.state.lock().snapshot
    }

    fn begin_statement(&self) {
        if self.0.options.isolation != Isolation::ReadCommitted {
            return;
        }
        let mut state = self.0.state.lock();
        state.stale = true;
        state.seen = Seen::Nothing;
        state.snapshot = self.0.site.clock();
    }

    async fn take_snapshot(&self) -> Result<()> {
        let inner = &self.0;
        let (link, ask) = inner.reader().await?;
        let each_its_own =
            inner.options.isolation == Isolation::ReadCommitted && inner.state.lock().phase == Phase::Writing;
        // The server takes it with the first statement of any kind.
        if ask || !each_its_own { inner.saw(&link).await } else { Ok(()) }
    }

    async fn get(&self, at: &Replica, key: &[Value]) -> Result<Option<Row>> {
        scan::get(&self.0, &*self.0.site.layout(at)?, key).await
    }

    fn scan(&self, at: &Replica, request: ScanRequest) -> Result<BatchStream> {
        scan::scan(self.0.clone(), self.0.site.layout(at)?, request)
    }

    fn query(&self, query: SiteQuery) -> Result<BatchStream> {
        let asked = Statement::new(&query, |replica| self.0.site.layout(replica))?;
        Ok(scan::query(self.0.clone(), asked.first.clone(), &query, asked.sql))
    }

    async fn lock(&self, at: &Replica, keys: &[Vec<Value>], mode: LockMode, wait: LockWait) -> Result<Vec<LockedRow>> {
        lock::lock(&self.0, &*self.0.site.layout(at)?, keys, mode, wait).await
    }

    async fn find_unique(
        &self,
        at: &Replica,
        index: Option<IndexId>,
        values: &[Value],
        mode: LockMode,
    ) -> Result<Option<Row>> {
        lock::find_unique(&self.0, &*self.0.site.layout(at)?, index, values, mode).await
    }

    async fn apply(&self, at: &Replica, changes: Vec<RowChange>) -> Result<()> {
        write::apply(&self.0, &*self.0.site.layout(at)?, changes).await
    }

    async fn update_row(&self, at: &Replica, key: &[Value], set: &[(usize, SiteExpr)]) -> Result<bool> {
        write::update_row(&self.0, &*self.0.site.layout(at)?, key, set).await
    }

    async fn build_index(&self, at: &Replica, index: IndexId) -> Result<()> {
        define::build_index(&self.0, &*self.0.site.layout(at)?, index).await
    }

    async fn define(&self, at: &Replica, before: Option<&Table>) -> Result<()> {
        define::define(&self.0, &*self.0.site.layout(at)?, before).await
    }

    async fn misplaced(&self, at: &Replica) -> Result<Belonging> {
        adopt::misplaced(&self.0, &*self.0.site.layout(at)?).await
    }

    async fn own_digest(&self, at: &Replica, range: &KeyRange) -> Result<Option<Digest>> {
        digest::of_range(&self.0, &*self.0.site.layout(at)?, range).await
    }

    async fn drift(&self, at: &Replica) -> Result<Vec<Drift>> {
        adopt::drift(&self.0, &*self.0.site.layout(at)?).await
    }

    async fn clear(&self, at: &Replica) -> Result<()> {
        adopt::clear(&self.0, &*self.0.site.layout(at)?).await
    }

    fn meta(&self) -> Option<&dyn Meta> {
        None
    }

    fn lock_owner(&self) -> u64 {
        // Waits at a site are the site's own: its detector ends cycles within it, `lock_timeout` those that leave it.
        0
    }

    fn blocked_by(&self) -> Vec<u64> {
        vec![]
    }

    fn savepoint(&self) -> u64 {
        let mut state = self.0.state.lock();
        let wrote = state.wrote;
        state.savepoints.push(Savepoint { sent: false, wrote });
        state.savepoints.len() as u64 - 1
    }

    fn rollback_to(&self, savepoint: u64) {
        let mut state = self.0.state.lock();
        let Ok(at) = usize::try_from(savepoint) else { return };
        let Some(Savepoint { sent, wrote }) = state.savepoints.get(at) else { return };
        let (sent, wrote) = (*sent, *wrote);
        state.savepoints.truncate(at + 1);
        state.wrote = wrote;
        if state.phase == Phase::Writing {
            if sent {
                state.back_to = Some(at);
                state.returns += 1;
            }
        } else if state.failed {
            state.phase = Phase::Idle;
            state.link = None;
        }
        state.failed = false;
        // Which values the server has forgotten to be locked is not worth knowing.
        self.0.claims.lock().clear();
    }

    fn has_writes(&self) -> bool {
        self.0.state.lock().wrote
    }

    fn has_locks(&self) -> bool {
        let state = self.0.state.lock();
        // What failed to begin a transaction that locks has locked nothing.
        state.wrote || state.locked && state.phase == Phase::Writing
    }

    async fn commit(&self) -> Result<Timestamp> {
        let serializable = self.0.options.isolation == Isolation::Serializable;
        let wrote = self.has_writes();
        let Some(link) = self.0.last(serializable).await? else { return Ok(self.0.site.clock()) };
        match self.0.end_with(&link, "COMMIT").await {
            Ok(()) => Ok(self.0.site.clock()),
            Err(error) if error.kind() == ErrorKind::SiteUnavailable && wrote => Err(Error::new(
                ErrorKind::StatementCompletionUnknown,
                format!("site \"{}\" was lost during a commit, whose outcome is not known", self.0.site.name.0),
            )
            .hint("Look at the data before trying again.")
            .indeterminate()),
            Err(error) => Err(error),
        }
    }

    async fn prepare(&self, name: &PreparedName) -> Result<()> {
        // Also one that has only locked or read has something to keep until the end.
        let Some(link) = self.0.last(true).await? else { return Ok(()) };
        match self.0.end_with(&link, &format!("PREPARE TRANSACTION '{name}'")).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotInPrerequisiteState => Err(error),
            Err(error) => {
                let site = &self.0.site.name.0;
                Err(Error::new(error.kind(), format!("site \"{site}\" takes no prepared transactions"))
                    .detail(error.message().to_owned())
                    .hint(
                        "Set max_prepared_transactions of that server to at least its max_connections and restart it, \
                         or write to this site alone in a transaction.",
                    ))
            }
        }
    }

    fn rollback(&self) {
        self.0.end();
    }
}
