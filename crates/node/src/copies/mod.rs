//! Copies that are being built while their tables are used: those of moved fragments, and those that were set aside while their sites
//! were down.
//!
//! The catalog says which there are (`Fragment::joining`, `Fragment::behind`); all writers write the joining ones as well
//! (`transaction/joining.rs`). Here is what brings them the rows that were there before: for each a task goes through the fragment in
//! chunks, a transaction each ([`chunk`]), copies, verifies, and then has the catalog changed so that the copy serves ([`build`]). What
//! [`compare`] and [`course`] decide is free of I/O. Copies at sites that are down are set aside, and come back, in [`aside`].
//!
//! Invariants: whatever is begun is in the catalog, so it goes on after a crash; a copy serves only after a pass over all of it has found no
//! difference; one task at a time builds a copy.

mod aside;
mod build;
mod chunk;
mod compare;
mod course;
mod orders;

pub(crate) use aside::set_aside;
pub(crate) use compare::{Image, change, images, same};
pub(crate) use orders::{cancel_move, move_fragment, moves};

use crate::node::Node;
use atoll_model::{Error, FragmentId, SiteId};
use atoll_ports::cluster::MoveInfo;
use atoll_ports::site::BranchOptions;
use course::Course;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// How often it is looked what there is to do.
const PERIOD: Duration = Duration::from_millis(500);

/// Ended moves that are remembered, for the view.
const REMEMBERED: usize = 100;

/// A copy.
type Copy = (FragmentId, SiteId);

/// What is under way.
#[derive(Default)]
pub(crate) struct Copies {
    /// Copies for which there is a task: the first one of those that move together.
    tasks: Mutex<BTreeSet<Copy>>,
    /// How far each is.
    standing: Mutex<BTreeMap<Copy, Standing>>,
    /// The last ones that have ended.
    ended: Mutex<VecDeque<MoveInfo>>,
    /// Sites that were found to be down, whose copies can be set aside.
    down: Mutex<BTreeSet<SiteId>>,
    /// Held while copies begin or cease to serve; serializable transactions share it while they commit.
    pub(crate) serving: tokio::sync::RwLock<()>,
    /// There is something to do.
    wake: Arc<Notify>,
    /// Something has come to an end, or to a halt.
    settled: Arc<Notify>,
}

/// What is known of a copy that is being built.
#[derive(Clone)]
struct Standing {
    course: Course,
    error: Option<Error>,
    /// It will not go on by itself.
    failed: bool,
}

impl Copies {
    /// A site whose copies can be set aside was found to be down.
    pub(crate) fn report_down(&self, site: SiteId) {
        self.down.lock().insert(site);
        self.wake.notify_one();
    }

    fn wake(&self) {
        self.wake.notify_one();
    }

    fn standing(&self, copy: Copy) -> Option<Standing> {
        self.standing.lock().get(&copy).cloned()
    }
}

/// Sees to it that everything that is to be built has its task, until the node is gone.
pub(crate) async fn run(node: Weak<Node>) {
    if let Some(node) = node.upgrade()
        && let Err(error) = build::forget_ended(&node).await
    {
        tracing::warn!(%error, "what was kept of copies that are not being built any more could not be removed");
    }
    loop {
        let wake = {
            let Some(node) = node.upgrade() else { return };
            aside::once(&node).await;
            start_tasks(&node);
            node.copies.wake.clone()
        };
        let _ = tokio::time::timeout(PERIOD, wake.notified()).await;
    }
}

fn start_tasks(node: &Arc<Node>) {
    for (copy, _) in build::wanted(&node.definitions.load()) {
        if node.copies.tasks.lock().insert(copy) {
            tokio::spawn(build::run(Arc::downgrade(node), copy));
        }
    }
}

/// How transactions of the builder behave: they give way to others soon.
fn patience() -> BranchOptions {
    BranchOptions { lock_timeout: Duration::from_secs(2), ..BranchOptions::default() }
}
