//! Sites whose calls can be cut off: the process that makes them "dies" before or after one of them and makes no other, or it waits there
//! while something else dies.

use async_trait::async_trait;
use atoll_model::{FragmentId, IndexId, Result, Row, SiteEngine, SiteId, Table, Timestamp, Value};
use atoll_ports::digest::Digest;
use atoll_ports::query::SiteQuery;
use atoll_ports::session::BatchStream;
use atoll_ports::site::{
    Belonging, Branch, BranchOptions, Drift, Finished, FragmentStatistics, KeyRange, LockMode, LockWait, LockedRow,
    Meta, ParticipantId, PreparedBranch, PreparedName, Replica, RowChange, ScanRequest, Site, SiteTable,
};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

/// Where the process is cut off: at the steps of ending transactions, which are counted.
#[derive(Default)]
pub struct Cut {
    state: Mutex<State>,
    reached: Notify,
    gone_on: Notify,
}

#[derive(Default)]
struct State {
    /// Steps to go; `None`: it is not to be cut off.
    left: Option<usize>,
    /// It waits at the first step that begins so instead.
    pause: Option<String>,
    /// It does not die, but waits.
    pauses: bool,
    dead: bool,
    steps: Vec<String>,
}

impl Cut {
    /// Has the process die at a step from now on (the first is 0).
    pub fn arm(&self, step: usize) {
        *self.state.lock() = State { left: Some(step), ..State::default() };
    }

    /// Has the process wait at a step.
    pub fn pause_at(&self, step: usize) {
        *self.state.lock() = State { left: Some(step), pauses: true, ..State::default() };
    }

    /// Has the process wait at the first step that begins so.
    pub fn pause_before(&self, name: &str) {
        *self.state.lock() = State { pause: Some(name.to_owned()), pauses: true, ..State::default() };
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        *self.state.lock() = State { steps: self.steps(), ..State::default() };
        self.gone_on.notify_waiters();
    }

    /// Waits until it has died, or waits.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }

    /// The steps since it was armed.
    pub fn steps(&self) -> Vec<String> {
        self.state.lock().steps.clone()
    }

    async fn step(&self, name: String) {
        let going_on = self.gone_on.notified();
        let (stops, pauses) = {
            let mut state = self.state.lock();
            let due = state.left == Some(0) || state.pause.as_ref().is_some_and(|pause| name.starts_with(pause));
            if !state.dead && (state.left.is_some() || state.pause.is_some()) {
                state.steps.push(name);
                state.left = state.left.map(|left| left.saturating_sub(1));
                state.dead = due;
                if due {
                    self.reached.notify_one();
                }
            }
            (state.dead, state.pauses)
        };
        if stops && pauses {
            going_on.await;
        } else if stops {
            std::future::pending::<()>().await;
        }
    }
}

/// A site that can be cut off.
#[derive(Debug)]
pub struct CutSite {
    pub site: Arc<dyn Site>,
    pub cut: Arc<Cut>,
}

impl std::fmt::Debug for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cut")
    }
}

#[async_trait]
impl Site for CutSite {
    fn id(&self) -> SiteId {
        self.site.id()
    }

    fn engine(&self) -> SiteEngine {
        self.site.engine()
    }

    fn participant(&self) -> ParticipantId {
        self.site.participant()
    }

    async fn begin(&self, options: BranchOptions) -> Result<Arc<dyn Branch>> {
        let branch = self.site.begin(options).await?;
        Ok(Arc::new(CutBranch { branch, cut: self.cut.clone(), at: self.participant() }))
    }

    fn statistics(&self, fragment: FragmentId) -> FragmentStatistics {
        self.site.statistics(fragment)
    }

    fn statement(&self, query: &SiteQuery) -> Result<String> {
        self.site.statement(query)
    }

    async fn purge(&self, fragment: FragmentId) -> Result<()> {
        self.site.purge(fragment).await
    }

    async fn tables(&self, schema: &str) -> Result<Vec<SiteTable>> {
        self.site.tables(schema).await
    }

    async fn prepared(&self) -> Result<Vec<PreparedBranch>> {
        self.site.prepared().await
    }

    async fn in_doubt(&self) -> Result<Vec<PreparedName>> {
        self.site.in_doubt().await
    }

    async fn finish(&self, name: &PreparedName, commit: bool) -> Result<Finished> {
        let at = self.participant();
        self.cut.step(format!("before finish {at} {commit}")).await;
        let finished = self.site.finish(name, commit).await;
        self.cut.step(format!("after finish {at} {commit}")).await;
        finished
    }
}

struct CutBranch {
    branch: Arc<dyn Branch>,
    cut: Arc<Cut>,
    at: ParticipantId,
}

#[async_trait]
impl Branch for CutBranch {
    fn snapshot(&self) -> Timestamp {
        self.branch.snapshot()
    }

    fn begin_statement(&self) {
        self.branch.begin_statement();
    }

    async fn take_snapshot(&self) -> Result<()> {
        self.branch.take_snapshot().await
    }

    async fn get(&self, at: &Replica, key: &[Value]) -> Result<Option<Row>> {
        self.branch.get(at, key).await
    }

    fn scan(&self, at: &Replica, request: ScanRequest) -> Result<BatchStream> {
        self.branch.scan(at, request)
    }

    fn query(&self, query: SiteQuery) -> Result<BatchStream> {
        self.branch.query(query)
    }

    async fn lock(&self, at: &Replica, keys: &[Vec<Value>], mode: LockMode, wait: LockWait) -> Result<Vec<LockedRow>> {
        self.branch.lock(at, keys, mode, wait).await
    }

    async fn find_unique(
        &self,
        at: &Replica,
        index: Option<IndexId>,
        values: &[Value],
        mode: LockMode,
    ) -> Result<Option<Row>> {
        self.branch.find_unique(at, index, values, mode).await
    }

    async fn apply(&self, at: &Replica, changes: Vec<RowChange>) -> Result<()> {
        self.branch.apply(at, changes).await
    }

    async fn build_index(&self, at: &Replica, index: IndexId) -> Result<()> {
        self.branch.build_index(at, index).await
    }

    async fn define(&self, at: &Replica, before: Option<&Table>) -> Result<()> {
        self.branch.define(at, before).await
    }

    async fn misplaced(&self, at: &Replica) -> Result<Belonging> {
        self.branch.misplaced(at).await
    }

    async fn digest(&self, at: &Replica, range: &KeyRange) -> Result<Digest> {
        self.branch.digest(at, range).await
    }

    async fn drift(&self, at: &Replica) -> Result<Vec<Drift>> {
        self.branch.drift(at).await
    }

    async fn clear(&self, at: &Replica) -> Result<()> {
        self.branch.clear(at).await
    }

    fn meta(&self) -> Option<&dyn Meta> {
        self.branch.meta()
    }

    fn lock_owner(&self) -> u64 {
        self.branch.lock_owner()
    }

    fn blocked_by(&self) -> Vec<u64> {
        self.branch.blocked_by()
    }

    fn savepoint(&self) -> u64 {
        self.branch.savepoint()
    }

    fn rollback_to(&self, savepoint: u64) {
        self.branch.rollback_to(savepoint);
    }

    fn has_writes(&self) -> bool {
        self.branch.has_writes()
    }

    fn has_locks(&self) -> bool {
        self.branch.has_locks()
    }

    async fn commit(&self) -> Result<Timestamp> {
        self.cut.step(format!("before commit {}", self.at)).await;
        let committed = self.branch.commit().await;
        self.cut.step(format!("after commit {}", self.at)).await;
        committed
    }

    async fn prepare(&self, name: &PreparedName) -> Result<()> {
        self.cut.step(format!("before prepare {}", self.at)).await;
        let prepared = self.branch.prepare(name).await;
        self.cut.step(format!("after prepare {}", self.at)).await;
        prepared
    }

    fn rollback(&self) {
        self.branch.rollback();
    }
}
