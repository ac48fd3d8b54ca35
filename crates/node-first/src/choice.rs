//! Which copy of a fragment a read goes to.

use atoll_model::{Fragment, ReadBalance, SiteId, Table};
use atoll_ports::session::BatchStream;
use futures::Stream;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// Counts reads: of all (for `round_robin`), and those under way at each site (for `least_loaded`).
#[derive(Default)]
pub(crate) struct ReadLoad {
    turn: AtomicUsize,
    sites: RwLock<HashMap<SiteId, Arc<AtomicUsize>>>,
}

impl ReadLoad {
    /// Chooses a copy. A fragment has at least one.
    pub(crate) fn choose(&self, table: &Table, fragment: &Fragment) -> SiteId {
        match (fragment.replicas.as_slice(), table.read_balance) {
            ([only], _) => *only,
            (sites, ReadBalance::RoundRobin) => sites[self.turn.fetch_add(1, Ordering::Relaxed) % sites.len()],
            (sites, ReadBalance::LeastLoaded) => {
                let load = |s: &SiteId| self.counter(*s).load(Ordering::Relaxed);
                sites.iter().copied().min_by_key(load).unwrap_or(sites[0])
            }
        }
    }

    fn counter(&self, site: SiteId) -> Arc<AtomicUsize> {
        if let Some(counter) = self.sites.read().get(&site) {
            return counter.clone();
        }
        self.sites.write().entry(site).or_default().clone()
    }

    /// Counts a stream as under way at a site until it ends or is dropped.
    pub(crate) fn counted(&self, site: SiteId, stream: BatchStream) -> BatchStream {
        let counter = self.counter(site);
        counter.fetch_add(1, Ordering::Relaxed);
        Box::pin(Counted { stream, counter })
    }
}

struct Counted {
    stream: BatchStream,
    counter: Arc<AtomicUsize>,
}

impl Stream for Counted {
    type Item = <BatchStream as Stream>::Item;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}
