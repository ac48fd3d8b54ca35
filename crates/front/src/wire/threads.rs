//! Threads that serve connections.
//!
//! Each has an event loop of its own, and a connection stays on its thread: what a message wakes is mostly there already, so that a
//! short statement costs no hand-over between threads (thread per core, as in Seastar). Statements that take longer leave it,
//! see [`super::workers`].
//!
//! Invariant: nothing that runs here blocks its thread, or works for long without awaiting something.

use atoll_ports::session::STACK_BYTES;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The threads. They end when this is dropped.
pub(super) struct Threads {
    threads: Vec<Arc<Thread>>,
    stop: CancellationToken,
}

struct Thread {
    handle: Handle,
    connections: AtomicUsize,
}

/// A connection's place on a thread.
pub(super) struct Place(Arc<Thread>);

impl Threads {
    /// One for each processor.
    ///
    /// # Errors
    /// When the operating system gives no thread or no event queue.
    pub(super) fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism()?.get();
        let stop = CancellationToken::new();
        let mut threads = Threads { threads: Vec::with_capacity(count), stop: stop.clone() };
        for _ in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let stop = stop.clone();
            std::thread::Builder::new()
                .name("atoll-session".into())
                .stack_size(STACK_BYTES)
                .spawn(move || runtime.block_on(stop.cancelled()))?;
            threads.threads.push(Arc::new(Thread { handle, connections: AtomicUsize::new(0) }));
        }
        Ok(threads)
    }

    /// A place on the thread with the fewest connections; `None`: there is no thread.
    pub(super) fn place(&self) -> Option<Place> {
        let thread = self.threads.iter().min_by_key(|t| t.connections.load(Ordering::Relaxed))?;
        thread.connections.fetch_add(1, Ordering::Relaxed);
        Some(Place(thread.clone()))
    }
}

impl Place {
    /// Where the connection's task is to be spawned.
    pub(super) fn handle(&self) -> &Handle {
        &self.0.handle
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
