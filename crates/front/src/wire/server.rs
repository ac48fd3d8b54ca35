//! The listener of the wire protocol, its connections, and who may cancel what.
//!
//! Invariant: sockets are bounded twice, those that have logged in by `max_connections` and all of them by that number and
//! a margin for logins and cancel requests; what is beyond is closed at once.

use super::backend::{self, Severity};
use super::startup::{Start, start};
use super::stop::Stop;
use super::threads::Threads;
use super::workers::Workers;
use crate::config::Limits;
use crate::metrics::StatementMetrics;
use atoll_model::{Error, ErrorKind};
use atoll_ports::session::{Canceller, Database};
use metrics::gauge;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::rustls;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sockets beyond `max_connections`: those logging in, and cancel requests.
const MARGIN: usize = 128;
/// Time for cancelled statements to end at shutdown.
const FAREWELL: Duration = Duration::from_secs(2);

/// What all connections share.
pub(super) struct Shared {
    pub(super) database: Arc<dyn Database>,
    pub(super) limits: Arc<Limits>,
    pub(super) metrics: Arc<StatementMetrics>,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) mock_secret: [u8; 32],
    pub(super) shutdown: CancellationToken,
    /// Where statements run that take longer.
    pub(super) workers: Workers,
    /// One permit for each session.
    pub(super) places: Arc<Semaphore>,
    process_ids: AtomicI32,
    cancellers: Mutex<HashMap<i32, (i32, Arc<Canceller>)>>,
}

impl Shared {
    /// For connections whose longer statements run in the runtime that this is called in.
    pub(super) fn new(
        database: Arc<dyn Database>,
        limits: Limits,
        tls: Option<Arc<rustls::ServerConfig>>,
        mock_secret: [u8; 32],
        shutdown: CancellationToken,
    ) -> Self {
        Shared {
            database,
            places: Arc::new(Semaphore::new(limits.max_connections)),
            limits: Arc::new(limits),
            metrics: Arc::new(StatementMetrics::new("sql")),
            tls,
            mock_secret,
            shutdown,
            workers: Workers::here(),
            process_ids: AtomicI32::new(1),
            cancellers: Mutex::default(),
        }
    }

    /// A number for a session that no other open one has.
    pub(super) fn next_process_id(&self) -> i32 {
        loop {
            let id = self.process_ids.fetch_add(1, Ordering::Relaxed) & i32::MAX;
            if id != 0 && !self.cancellers.lock().contains_key(&id) {
                return id;
            }
        }
    }

    pub(super) fn register(&self, process_id: i32, secret: i32, canceller: Arc<Canceller>) {
        self.cancellers.lock().insert(process_id, (secret, canceller));
    }

    /// Cancels the statement of a session whose secret the client knows. A wrong one is ignored, as the protocol says.
    pub(super) fn cancel(&self, process_id: i32, secret: i32) {
        let found = self.cancellers.lock().get(&process_id).cloned();
        if let Some((right, canceller)) = found
            && right == secret
        {
            canceller.cancel();
        }
    }

    fn cancel_all(&self) {
        for (_, canceller) in self.cancellers.lock().values() {
            canceller.cancel();
        }
    }
}

/// Serves until shutdown, then until the last connection has ended or been ended.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let threads = match Threads::start() {
        Ok(threads) => threads,
        Err(error) => {
            tracing::error!(%error, "cannot start threads for connections; SQL is not served");
            return;
        }
    };
    let tracker = TaskTracker::new();
    let abort = CancellationToken::new();
    let sockets =
        Arc::new(Semaphore::new(shared.limits.max_connections.saturating_add(MARGIN).min(Semaphore::MAX_PERMITS)));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: some will be free later.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = sockets.clone().try_acquire_owned() else {
            metrics::counter!("atoll_connections_refused_total", "reason" => "too_many").increment(1);
            continue;
        };
        // It was accepted by this thread's event loop, and goes to another.
        let (Ok(socket), Some(place)) = (socket.into_std(), threads.place()) else { continue };
        let (shared, abort) = (shared.clone(), abort.clone());
        let thread = place.handle().clone();
        let serving = async move {
            let Ok(socket) = TcpStream::from_std(socket) else { return };
            tokio::select! {
                biased;
                () = connection(socket, peer, shared) => {}
                () = abort.cancelled() => {}
            }
            drop((permit, place));
        };
        tracker.spawn_on(serving, &thread);
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(shared.limits.shutdown_grace, tracker.wait()).await.is_err() {
        shared.cancel_all();
        if tokio::time::timeout(FAREWELL, tracker.wait()).await.is_err() {
            abort.cancel();
            tracker.wait().await;
        }
    }
}

async fn connection(socket: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    // Answers are written whole: waiting for more to send would only delay them.
    let _ = socket.set_nodelay(true);
    // A client whose machine is gone is noticed within minutes.
    let keepalive =
        socket2::TcpKeepalive::new().with_time(Duration::from_secs(120)).with_interval(Duration::from_secs(20));
    let _ = socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive);
    let limit = shared.limits.authentication_timeout;
    let started =
        tokio::time::timeout(limit, start(socket, peer.ip(), &shared)).await.unwrap_or(Err((Stop::Gone, None)));
    match started {
        Ok(Start::Session(session, process_id, permit)) => {
            let open = gauge!("atoll_connections", "entrance" => "sql");
            open.increment(1);
            let _leave = Leave { shared: &shared, process_id, open };
            session.run().await;
            drop(permit);
        }
        Ok(Start::Cancelled) => {}
        Err((Stop::Gone, _) | (_, None)) => {}
        Err((Stop::Fatal(error) | Stop::Failed { error, .. }, Some(mut channel))) => {
            if error.kind() == ErrorKind::InvalidPassword {
                tracing::info!(%peer, "{error}");
            }
            shared.metrics.error(&error);
            farewell(&mut channel, &error).await;
        }
    }
}

async fn farewell(channel: &mut super::channel::Channel, error: &Error) {
    backend::error(&mut channel.out, Severity::Fatal, error, None);
    channel.all_due();
    channel.close().await;
}

/// Forgets a session however its task ends.
struct Leave<'a> {
    shared: &'a Shared,
    process_id: i32,
    open: metrics::Gauge,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.shared.cancellers.lock().remove(&self.process_id);
        self.open.decrement(1);
    }
}
