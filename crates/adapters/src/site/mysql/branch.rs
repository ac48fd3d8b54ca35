//! A transaction's part at a MySQL or MariaDB site.
//!
//! `RepeatableRead` is one XA transaction of the server at that level (a plain one if it is read-only). `Serializable` is, too, and locks what
//! it reads: the server's own level of that name would read what is newest, which need not fit what was read at other sites. So everything is
//! read twice, locked and in the snapshot, and fails with 40001 if that is not the same ([`super::scan`]).
//! `ReadCommitted` begins as a *reading* transaction with a consistent snapshot, renewed by every statement, so that all scans of a statement
//! see one moment, as Atoll's statements are several of the server's. With the first lock or write it becomes a *writing* one, an XA
//! transaction at READ COMMITTED, where the server takes a snapshot for each of its own statements; it stays that to its end. What a
//! statement has seen is then known by [`Seen`].
//!
//! Invariants: nothing is locked or written in a reading transaction, so it can be given up at any time, also to scans that are not done with
//! it; a savepoint reaches the server no later than the first statement after it, so rolling back to it is always possible; scans that
//! have begun do not see what is written after that.

use super::beginning::SNAPSHOT;
use super::define::{self, Leftovers};
use super::layout::{Layout, literal};
use super::link::{Kind, Link};
use super::query::Statement;
use super::seen::Seen;
use super::site::Shared;
use super::{adopt, answer, digest, lock, scan, write};
use async_trait::async_trait;
use atoll_model::{Error, ErrorKind, FragmentId, IndexId, Result, Row, Table, Timestamp, Value};
use atoll_ports::digest::Digest;
use atoll_ports::query::SiteQuery;
use atoll_ports::session::BatchStream;
use atoll_ports::site::{
    Belonging, Branch, BranchOptions, Drift, Isolation, KeyRange, LockMode, LockWait, LockedRow, Meta, PreparedName,
    Replica, RowChange, ScanRequest,
};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::{Arc, Weak};

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
    /// The transaction has read something at a level that has one snapshot.
    viewed: bool,
    savepoints: Vec<Savepoint>,
    /// A savepoint that the server has to return to before anything else.
    back_to: Option<usize>,
    wrote: bool,
    locked: bool,
    failed: bool,
    ended: bool,
    snapshot: Timestamp,
}

/// How a scan reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reading {
    /// Portion by portion: all see one snapshot.
    Portions,
    /// Portion by portion, until something is written.
    PortionsBeforeWrites,
    /// At once: the next statement of the server would see another moment. What is read is remembered in [`Seen`].
    AtOnce,
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
    /// What the statement has seen, in `ReadCommitted`.
    pub(super) seen: Mutex<Seen>,
    /// Scans that have to be done before something is written.
    scans: Mutex<Vec<Weak<scan::Cursor>>>,
    /// What to tidy up after the commit, or when there is none.
    pub(super) leftovers: Mutex<Leftovers>,
    /// Tables that the writing transaction has used.
    touched: Mutex<HashSet<FragmentId>>,
}

/// The branch itself: when it goes, the transaction is rolled back.
pub(super) struct MysqlBranch(Arc<Inner>);

impl MysqlBranch {
    pub(super) fn new(site: Arc<Shared>, options: BranchOptions) -> Self {
        let snapshot = site.clock();
        let state = State {
            link: None,
            phase: Phase::Idle,
            stale: false,
            viewed: false,
            savepoints: vec![],
            back_to: None,
            wrote: false,
            locked: false,
            failed: false,
            ended: false,
            snapshot,
        };
        MysqlBranch(Arc::new(Inner {
            site,
            options,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::default(),
            claims: Mutex::default(),
            seen: Mutex::default(),
            scans: Mutex::default(),
            leftovers: Mutex::default(),
            touched: Mutex::default(),
        }))
    }
}

impl Drop for MysqlBranch {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Inner {
    /// A transaction to read these copies in, and how.
    pub(super) async fn reader(&self, layouts: &[&Layout]) -> Result<(Arc<Link>, Reading)> {
        let _turn = self.turn.lock().await;
        self.check()?;
        let phase = self.state.lock().phase;
        if self.options.isolation != Isolation::ReadCommitted {
            let link = self.writing().await?;
            self.state.lock().viewed = true;
            layouts.iter().for_each(|layout| self.touch(layout));
            let reading = if self.options.read_only { Reading::Portions } else { Reading::PortionsBeforeWrites };
            return Ok((link, reading));
        }
        if phase == Phase::Writing {
            let reading = if self.options.read_only { Reading::Portions } else { Reading::AtOnce };
            layouts.iter().for_each(|layout| self.touch(layout));
            return Ok((self.writing().await?, reading));
        }
        Ok((self.reading().await?, Reading::Portions))
    }

    /// A transaction to lock and write in.
    pub(super) async fn writer(&self) -> Result<Arc<Link>> {
        let _turn = self.turn.lock().await;
        self.check()?;
        self.site.ensure().await?;
        self.state.lock().locked = true;
        self.writing().await
    }

    async fn take_snapshot(&self) -> Result<()> {
        let turn = self.turn.lock().await;
        self.check()?;
        let phase = self.state.lock().phase;
        let link = match self.options.isolation {
            Isolation::ReadCommitted if phase == Phase::Writing && !self.options.read_only => return Ok(()),
            Isolation::ReadCommitted if phase != Phase::Writing => self.reading().await?,
            _ => self.writing().await?,
        };
        self.state.lock().viewed = true;
        drop(turn);
        if link.kind == Kind::Reading {
            return self.told(link.flush().await);
        }
        // An XA transaction takes its snapshot with the first row that it looks for.
        self.site.ensure().await?;
        let sql = format!("SELECT 1 FROM {} LIMIT 1", self.site.system.locks);
        self.told(link.text(&sql).await).map(|_| ())
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
        let (link, stale) = {
            let mut state = self.state.lock();
            (state.link.take(), std::mem::take(&mut state.stale))
        };
        let link = match link {
            Some(link) if !stale => link,
            // Scans of an earlier statement may still need theirs.
            Some(link) if Arc::strong_count(&link) == 1 => {
                link.queue(&format!("COMMIT; {SNAPSHOT}"));
                link
            }
            _ => self.link(Kind::Reading, SNAPSHOT).await?,
        };
        let mut state = self.state.lock();
        state.phase = Phase::Reading;
        state.link = Some(link.clone());
        Ok(link)
    }

    async fn link(&self, kind: Kind, begin: &str) -> Result<Arc<Link>> {
        let lease = self.site.pool.get().await?;
        Ok(Arc::new(Link::begin(lease, self.site.name.clone(), self.site.control.clone(), kind, begin)))
    }

    async fn writing(&self) -> Result<Arc<Link>> {
        let (link, phase) = {
            let state = self.state.lock();
            (state.link.clone(), state.phase)
        };
        let link = match (phase, link) {
            (Phase::Writing, Some(link)) => link,
            (_, reading) => {
                drop(reading);
                let link = self.begin_writing().await?;
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
            link.queue(&commands);
        }
        Ok(link)
    }

    async fn begin_writing(&self) -> Result<Arc<Link>> {
        let (reading, stale) = {
            let mut state = self.state.lock();
            (state.link.take(), state.stale)
        };
        if let Some(reading) = reading.filter(|_| !stale) {
            // What the statement has read is in its snapshot; without a second connection, nobody knows any more.
            let spare = self.site.pool.spare().await;
            self.seen.lock().keep_view(spare.is_some().then(|| reading.clone()));
            if let Some(lease) = spare {
                let (kind, begin) = self.beginning();
                let control = self.site.control.clone();
                return Ok(Arc::new(Link::begin(lease, self.site.name.clone(), control, kind, &begin)));
            }
        }
        let (kind, begin) = self.beginning();
        self.link(kind, &begin).await
    }

    /// From now on to its end the transaction keeps others, itself included, from changing the table's definition.
    pub(super) fn touch(&self, layout: &Layout) {
        self.touched.lock().insert(layout.fragment);
    }

    /// Whether the transaction has used the table.
    pub(super) fn has_touched(&self, layout: &Layout) -> bool {
        self.touched.lock().contains(&layout.fragment)
    }

    /// Gives a reading transaction up, with what is known of what was read in it.
    pub(super) fn forget_reads(&self) {
        *self.seen.lock() = Seen::default();
        self.state.lock().stale = true;
    }

    /// Notes a failure: nothing but a rollback can follow.
    pub(super) fn told<T>(&self, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() {
            self.state.lock().failed = true;
        }
        outcome
    }

    /// Whether what is read has to be locked.
    pub(super) fn locks_reads(&self) -> bool {
        self.options.isolation == Isolation::Serializable
    }

    /// Whether the transaction has read at a level that has one snapshot.
    pub(super) fn has_viewed(&self) -> bool {
        self.state.lock().viewed && self.options.isolation != Isolation::ReadCommitted
    }

    /// A scan that may not see what is written from now on.
    pub(super) fn register(&self, scan: &Arc<scan::Cursor>) {
        let mut scans = self.scans.lock();
        scans.retain(|scan| scan.strong_count() > 0);
        scans.push(Arc::downgrade(scan));
    }

    /// Whether writing is allowed; from here on the branch has written.
    pub(super) async fn writes(&self, table: &Table) -> Result<()> {
        if self.options.read_only {
            return Err(Error::new(
                ErrorKind::ReadOnlyTransaction,
                format!("cannot write to \"{}\" in a read-only transaction", table.name),
            ));
        }
        let scans = std::mem::take(&mut *self.scans.lock());
        for scan in scans.iter().filter_map(Weak::upgrade) {
            scan.read_to_the_end().await?;
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
        self.seen.lock().undone();
        if let Some(link) = link {
            link.rollback();
            let leftovers = std::mem::take(&mut *self.leftovers.lock());
            leftovers.undo_soon(&self.site, link);
        }
    }

    /// Takes the transaction out to be ended with a command; `None`: there is nothing to be ended.
    async fn last(&self, always: bool) -> Result<Option<Arc<Link>>> {
        let _turn = self.turn.lock().await;
        let outcome = self.check();
        let mut state = self.state.lock();
        state.ended = true;
        let link = state.link.take();
        self.seen.lock().undone();
        if let Err(error) = outcome {
            if let Some(link) = link {
                link.rollback();
            }
            return Err(error);
        }
        let Some(link) = link else { return Ok(None) };
        let has_something = state.phase == Phase::Writing && !self.options.read_only && (always || state.wrote);
        if !has_something {
            // What was only read is let go; what was locked, too.
            link.rollback();
            return Ok(None);
        }
        // The last savepoints need not reach the server any more, but a return to one must.
        let commands = state.outstanding();
        drop(state);
        if !commands.is_empty() {
            link.queue(&commands);
        }
        Ok(Some(link))
    }

    /// Ends the transaction by commands for its name.
    async fn end_with(&self, link: &Arc<Link>, commands: impl Fn(&str) -> String) -> Result<String> {
        let Kind::Xa(xid) = &link.kind else { return Err(Error::internal("a transaction that cannot be committed")) };
        let outcome = link.execute(&format!("XA END '{xid}'; {}", commands(xid))).await;
        if let Err(error) = &outcome {
            link.rollback();
            // Of what may be committed, nothing is taken back.
            if error.kind() != ErrorKind::SiteUnavailable {
                let leftovers = std::mem::take(&mut *self.leftovers.lock());
                leftovers.undo_soon(&self.site, link.clone());
            }
        }
        outcome.map(|()| xid.clone())
    }
}

impl State {
    /// What the server has to be told of savepoints first.
    fn outstanding(&mut self) -> String {
        let mut commands = vec![];
        if let Some(at) = self.back_to.take() {
            commands.push(format!("ROLLBACK TO SAVEPOINT s{at}"));
        }
        for (at, savepoint) in self.savepoints.iter_mut().enumerate().filter(|(_, s)| !s.sent) {
            commands.push(format!("SAVEPOINT s{at}"));
            savepoint.sent = true;
        }
        commands.join("; ")
    }
}

#[async_trait]
impl Branch for MysqlBranch {
    fn snapshot(&self) -> Timestamp {
        self.0.state.lock().snapshot
    }

    fn begin_statement(&self) {
        if self.0.options.isolation != Isolation::ReadCommitted {
            return;
        }
        let mut state = self.0.state.lock();
        state.stale = true;
        state.snapshot = self.0.site.clock();
        drop(state);
        *self.0.seen.lock() = Seen::default();
    }

    async fn take_snapshot(&self) -> Result<()> {
        self.0.take_snapshot().await
    }

    async fn get(&self, at: &Replica, key: &[Value]) -> Result<Option<Row>> {
        scan::get(&self.0, &*self.0.site.layout(at)?, key).await
    }

    fn scan(&self, at: &Replica, request: ScanRequest) -> Result<BatchStream> {
        scan::scan(self.0.clone(), self.0.site.layout(at)?, request)
    }

    fn query(&self, query: SiteQuery) -> Result<BatchStream> {
        let statement = Statement::new(&query, |replica| self.0.site.layout(replica))?;
        Ok(answer::answer(self.0.clone(), statement))
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
            }
        } else if state.failed {
            state.phase = Phase::Idle;
            state.link = None;
        }
        state.failed = false;
        drop(state);
        self.0.seen.lock().undone();
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
        let inner = &self.0;
        let Some(link) = inner.last(false).await? else { return Ok(inner.site.clock()) };
        match inner.end_with(&link, |xid| format!("XA COMMIT '{xid}' ONE PHASE")).await {
            Ok(_) => {
                link.ended();
                let leftovers = std::mem::take(&mut *inner.leftovers.lock());
                leftovers.clear(&inner.site).await;
                Ok(inner.site.clock())
            }
            Err(error) if error.kind() == ErrorKind::SiteUnavailable => Err(Error::new(
                ErrorKind::StatementCompletionUnknown,
                format!("site \"{}\" was lost during a commit, whose outcome is not known", inner.site.name.0),
            )
            .hint("Look at the data before trying again.")
            .indeterminate()),
            Err(error) => Err(error),
        }
    }

    async fn prepare(&self, name: &PreparedName) -> Result<()> {
        let inner = &self.0;
        // Also one that has only locked or read has something to keep until the end.
        let Some(link) = inner.last(true).await? else { return Ok(()) };
        let Kind::Xa(xid) = &link.kind else { return Err(Error::internal("a transaction that cannot be prepared")) };
        // Two of one name do not wait for each other: they are a mistake.
        let entry = format!(
            "SET SESSION innodb_lock_wait_timeout = 1; \
             INSERT INTO {} (name, xid, session, made) VALUES ({}, {}, {}, UTC_TIMESTAMP()) \
             ON DUPLICATE KEY UPDATE xid = VALUES(xid), session = VALUES(session), made = VALUES(made)",
            inner.site.system.branches,
            literal(name.as_str()),
            literal(xid),
            link.id
        );
        inner.site.ensure().await?;
        if let Err(error) = link.execute(&entry).await {
            link.rollback();
            std::mem::take(&mut *inner.leftovers.lock()).undo_soon(&inner.site, link);
            return Err(match error.kind() {
                ErrorKind::LockTimeout => Error::new(
                    ErrorKind::DuplicateObject,
                    format!("site \"{}\" has a prepared transaction {name} already", inner.site.name.0),
                ),
                _ => error,
            });
        }
        let xid = inner.end_with(&link, |xid| format!("XA PREPARE '{xid}'")).await?;
        link.is_prepared();
        inner.site.park(name.clone(), link, xid, std::mem::take(&mut *inner.leftovers.lock()));
        Ok(())
    }

    fn rollback(&self) {
        self.0.end();
    }
}
