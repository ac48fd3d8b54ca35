//! The coordinator of transactions over several participants: it drives the machines of [`atoll_protocol`].
//!
//! | module | what it does |
//! |---|---|
//! | `drive` | one commit: a task of its own, which goes on when the client's session has gone |
//! | `running` | the commits that are under way, and what views show of transactions |
//! | `history` | how the last ones have ended |
//! | `log` | the decision log, in the node's own values at the embedded participant |
//! | `recover` | finds and finishes what earlier runs of this node, or lost requests, have left at the sites |
//! | `reads` | opens the snapshots of reads over several participants |
//! | `ledger` | which participants commits have had in common, and when: for reads that come to a participant later |
//!
//! Invariants: a transaction is active from before its first effect until its machine is done; a driver that panics leaves it active, so
//! that recovery does not take it for one that never decided. The epoch is durable before a coordinator of that epoch exists. No
//! background task keeps the node, so a node that is dropped takes its coordinator with it.

mod drive;
mod history;
mod ledger;
mod log;
mod reads;
mod recover;
mod running;

pub(crate) use drive::{Ending, Part, commit};
pub(crate) use history::{History, now as wall_clock};
pub(crate) use ledger::Moment;
pub(crate) use log::read as decisions;
pub(crate) use reads::torn;

use crate::sites::Sites;
use atoll_model::{ClusterId, NodeId, ParticipantId, Result, SiteEngine};
use atoll_ports::site::{BranchOptions, ReadConsistency, Site};
use atoll_protocol::recovery::Recovery;
use atoll_protocol::{Backoff, Decision, Incarnation, Names, Time, TransactionId, recovery, snapshot};
use parking_lot::Mutex;
use running::Running;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The one node of a database.
const NODE: NodeId = NodeId(1);

/// How transactions over several participants are run.
#[derive(Clone, Copy, Debug)]
pub struct TransactionOptions {
    /// For the votes, for any answer of a site, and for the answer to the client.
    pub timeout: Duration,
    /// Between attempts at a site that does not answer.
    pub retry: Backoff,
    /// Between looks for prepared transactions at a site where all is well.
    pub sweep: Duration,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        TransactionOptions {
            timeout: Duration::from_secs(30),
            // A site that is back is used again within seconds, so what it has yet to apply should not take longer.
            retry: Backoff { most: Duration::from_secs(2), ..Backoff::default() },
            sweep: Duration::from_secs(60),
        }
    }
}

/// What a coordinator knows of earlier runs.
pub(crate) struct Past {
    pub(crate) cluster: ClusterId,
    /// The number of this start, durable by now.
    pub(crate) epoch: u32,
    /// What earlier runs have decided and not forgotten.
    pub(crate) decisions: Vec<Decision>,
    /// How transactions of earlier runs have ended.
    pub(crate) history: History,
}

/// The coordinator.
pub(crate) struct Coordinator {
    options: TransactionOptions,
    names: Names,
    cluster: ClusterId,
    me: Incarnation,
    began: Instant,
    sites: Arc<Sites>,
    home: Arc<dyn Site>,
    sequence: AtomicU64,
    active: Mutex<BTreeMap<TransactionId, Running>>,
    reads: Mutex<reads::Reads>,
    recovery: Mutex<Recovery>,
    /// Recovery may have to wake up at another time.
    wake: Arc<Notify>,
    /// There is no participant but the embedded one, so nothing here is needed.
    alone: AtomicBool,
    forgotten: log::Forgotten,
}

impl Coordinator {
    /// Begins, and with it recovery. Needs a tokio runtime.
    pub(crate) fn begin(
        options: TransactionOptions,
        past: Past,
        sites: Arc<Sites>,
        home: Arc<dyn Site>,
    ) -> Arc<Coordinator> {
        let me = Incarnation { node: NODE, epoch: past.epoch };
        let began = Instant::now();
        let others = others(&sites, &*home);
        let settings = recovery::Options {
            timeout: options.timeout,
            sweep: options.sweep,
            retry: options.retry,
            ..recovery::Options::new(past.cluster, me)
        };
        // Sites that are in no catalog any more have no copies that somebody could miss.
        let gone: BTreeSet<ParticipantId> = past.decisions.iter().flat_map(|d| d.prepared.iter().copied()).collect();
        let gone = gone.into_iter().filter(|p| !others.contains(p));
        let now = Time::default();
        let (mut recovery, mut effects) = Recovery::begin(now, settings, others.iter().copied(), past.decisions);
        for p in gone {
            tracing::warn!(participant = %p, "decisions name a participant that is no site any more");
            effects.extend(recovery.step(now, recovery::Input::Remove(p)));
        }
        let names = names(sites.clone(), home.participant());
        let waits =
            snapshot::Options { timeout: options.timeout, names: names.clone(), ..snapshot::Options::default() };
        let coordinator = Arc::new(Coordinator {
            options,
            names,
            cluster: past.cluster,
            me,
            began,
            forgotten: log::Forgotten::begin(home.clone(), past.history),
            sequence: AtomicU64::new(1),
            active: Mutex::default(),
            reads: Mutex::new(reads::Reads::new(waits, others.iter().copied())),
            recovery: Mutex::new(recovery),
            wake: Arc::default(),
            alone: AtomicBool::new(others.is_empty()),
            sites,
            home,
        });
        coordinator.clone().recover_by(effects);
        tokio::spawn(recover::run(Arc::downgrade(&coordinator), coordinator.wake.clone()));
        coordinator
    }

    /// Whether all transactions have one participant.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// Whether the reads of a transaction have to fit each other, and show all that was committed.
    pub(crate) fn guards_reads(&self, options: &BranchOptions) -> bool {
        !self.is_alone() && options.read_consistency == ReadConsistency::Cluster
    }

    /// Whether a participant is the one with the decision log.
    pub(crate) fn is_home(&self, participant: ParticipantId) -> bool {
        self.home.participant() == participant
    }

    /// Looks after the sites of the catalog in force.
    pub(crate) fn catalog_changed(self: &Arc<Self>, sites: impl Iterator<Item = (ParticipantId, SiteEngine)>) {
        let others: BTreeSet<ParticipantId> =
            sites.filter(|(p, engine)| *engine != SiteEngine::Embedded && !self.is_home(*p)).map(|(p, _)| p).collect();
        if others.is_empty() {
            return;
        }
        self.alone.store(false, Ordering::Relaxed);
        for p in others {
            // What is known already stays as it is. A site that was dropped is looked after to the end of this run.
            self.recover(recovery::Input::Add(p));
        }
    }

    /// Writes down what is still to be written.
    pub(crate) async fn close(&self) -> Result<()> {
        self.forgotten.flush(&self.home).await
    }

    fn now(&self) -> Time {
        Time(self.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
    }

    /// Waits until a time of the machines; for ever without one.
    async fn until(&self, time: Option<Time>) {
        match time {
            Some(time) => tokio::time::sleep_until((self.began + Duration::from_millis(time.0)).into()).await,
            None => std::future::pending().await,
        }
    }

    fn site(&self, participant: ParticipantId) -> Option<Arc<dyn Site>> {
        self.sites.of_participant(participant)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // Recovery's task is to see that there is nothing left to look after.
        self.wake.notify_one();
    }
}

/// What clients are told of participants.
fn names(sites: Arc<Sites>, home: ParticipantId) -> Names {
    Names::new(move |participant| match sites.name_of(participant) {
        _ if participant == home => "the embedded sites".to_owned(),
        Some(name) => format!("site \"{name}\""),
        None => format!("site {participant}, which was dropped,"),
    })
}

/// Participants that prepare, unlike home.
fn others(sites: &Sites, home: &dyn Site) -> BTreeSet<ParticipantId> {
    let all = sites.participants();
    all.into_iter().filter(|p| *p != home.participant()).collect()
}
