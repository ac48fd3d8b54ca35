//! The connections of one site: bounded, tried when they were idle for long, replaced when they are old.
//!
//! Invariant: while a site is down, nobody waits for it. The first who finds that it cannot be reached waits at most `connect_timeout`;
//! from then on every request fails at once with what was found, until a task in the background has reached the site again.
//! (Nygard, *Release It!*: circuit breaker.) A statement may take its time, as long as the site answers others.

use super::limits::Limits;
use super::name::SiteName;
use atoll_model::{Error, ErrorKind, Result};
use deadpool::Runtime;
use deadpool::managed::{self, Metrics, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType, Timeouts};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// A connection on loan. Dropping it gives it back.
pub(super) type Lease<C> = managed::Object<Manager<C>>;

/// Makes connections of an engine.
pub(super) trait Connector: Send + Sync + 'static {
    /// What it makes.
    type Connection: Send;

    /// A new connection.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection>> + Send;

    /// Whether one is known to be gone.
    fn is_closed(&self, connection: &Self::Connection) -> bool;

    /// Whether one that was idle for long still works.
    fn try_out(&self, connection: &mut Self::Connection) -> impl Future<Output = bool> + Send;
}

/// How soon a site that is down is tried again, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// How long a site may take to answer what is not a client's statement.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may take to show that it still works.
const TRIAL: Duration = Duration::from_secs(2);

/// Connections of a site.
pub(super) struct Pool<C: Connector> {
    inner: managed::Pool<Manager<C>>,
    connector: Arc<C>,
    limits: Limits,
    site: SiteName,
    /// Why the site is down, while it is.
    down: Mutex<Option<Error>>,
    /// When it was last found to be there although a statement was not answered; locked while that is looked at.
    there: tokio::sync::Mutex<Option<Instant>>,
    this: Weak<Pool<C>>,
}

impl<C: Connector> Pool<C> {
    /// A pool of so many connections at most; none is made yet.
    pub(super) fn new(connector: C, limits: Limits, site: SiteName, size: usize) -> Arc<Self> {
        let connector = Arc::new(connector);
        let inner = managed::Pool::builder(Manager { connector: connector.clone(), limits })
            .max_size(size)
            // The connection used last has the warmest caches at the server, and those not needed become old.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(limits.pool_timeout))
            .create_timeout(Some(limits.connect_timeout))
            .recycle_timeout(Some(TRIAL))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a pool with time-outs needs a runtime, and has one");
        let (down, there) = (Mutex::default(), tokio::sync::Mutex::default());
        Arc::new_cyclic(|this| Pool { inner, connector, limits, site, down, there, this: this.clone() })
    }

    /// What to call the site.
    pub(super) fn site(&self) -> &SiteName {
        &self.site
    }

    /// A connection.
    ///
    /// # Errors
    /// `SiteUnavailable`; `TooManyConnections` when none became free in time, or the site has no more.
    pub(super) async fn get(&self) -> Result<Lease<C>> {
        if let Some(known) = self.down.lock().clone() {
            return Err(known);
        }
        let site = &self.site;
        match self.inner.get().await {
            Ok(lease) => Ok(lease),
            Err(PoolError::Timeout(TimeoutType::Wait)) => Err(Error::new(
                ErrorKind::TooManyConnections,
                format!("all {} connections to site \"{}\" are in use", self.inner.status().max_size, site.0),
            )
            .hint("Raise the site's pool_size, or end idle transactions.")),
            Err(PoolError::Backend(error)) if error.kind() == ErrorKind::TooManyConnections => Err(error),
            Err(PoolError::Backend(error)) => Err(self.trip(error)),
            Err(PoolError::Timeout(_)) => Err(self.trip(self.silent(self.limits.connect_timeout))),
            Err(other) => Err(Error::internal(format!("connections to site \"{}\": {other}", site.0))),
        }
    }

    /// Whether the site is known to be down.
    pub(super) fn is_down(&self) -> bool {
        self.down.lock().is_some()
    }

    /// Waits for the answer to a question that takes no time; a server that hangs does not hang whoever asks.
    ///
    /// # Errors
    /// `SiteUnavailable` after [`CONTROL_TIMEOUT`]; those of the question.
    pub(super) async fn in_time<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let waited = tokio::time::timeout(CONTROL_TIMEOUT, answer).await;
        waited.unwrap_or_else(|_| Err(self.trip(self.silent(CONTROL_TIMEOUT))))
    }

    /// Waits for the answer to a statement, which may take as long as it does. The site is asked now and then whether it is there.
    ///
    /// # Errors
    /// `SiteUnavailable`: it is not. What has become of the statement is not known.
    pub(super) async fn attended<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        let mut answer = pin!(answer);
        loop {
            let found = async {
                tokio::time::sleep(self.limits.busy_check).await;
                self.is_there().await
            };
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer),
                there = found => there?,
            }
        }
    }

    /// Asks the site whether it is there. Of several who want to know, one asks.
    async fn is_there(&self) -> Result<()> {
        let mut there = self.there.lock().await;
        if there.is_some_and(|at| at.elapsed() < self.limits.busy_check) {
            return Ok(());
        }
        if let Some(known) = self.down.lock().clone() {
            return Err(known);
        }
        match tokio::time::timeout(self.limits.connect_timeout, self.connector.connect()).await {
            Ok(Err(error)) if error.kind() != ErrorKind::TooManyConnections => Err(self.trip(error)),
            Ok(_) => {
                *there = Some(Instant::now());
                Ok(())
            }
            Err(_) => Err(self.trip(self.silent(self.limits.connect_timeout))),
        }
    }

    fn silent(&self, waited: Duration) -> Error {
        self.site.unavailable(format!("no answer in {} ms", waited.as_millis()))
    }

    /// A connection, if one is free at once.
    pub(super) async fn spare(&self) -> Option<Lease<C>> {
        if self.down.lock().is_some() {
            return None;
        }
        let timeouts = Timeouts { wait: Some(Duration::ZERO), ..self.inner.timeouts() };
        self.inner.timeout_get(&timeouts).await.ok()
    }

    /// Notes that the site is down, and has it tried until it is not.
    fn trip(&self, error: Error) -> Error {
        let mut down = self.down.lock();
        if down.is_none() {
            tracing::warn!(site = self.site.0, %error, "site is down");
            *down = Some(error.clone());
            tokio::spawn(retry(self.this.clone()));
        }
        error
    }
}

/// Tries to reach a site until that works.
async fn retry<C: Connector>(pool: Weak<Pool<C>>) {
    let mut pause = FIRST_RETRY;
    loop {
        tokio::time::sleep(pause).await;
        let Some(pool) = pool.upgrade() else { return };
        let connecting = tokio::time::timeout(pool.limits.connect_timeout, pool.connector.connect());
        match connecting.await {
            Ok(Ok(_)) => {
                *pool.down.lock() = None;
                tracing::info!(site = pool.site.0, "site is back");
                return;
            }
            // What hinders it may have changed; show the newest.
            Ok(Err(error)) => *pool.down.lock() = Some(error),
            Err(_) => {}
        }
        pause = (pause * 2).min(LAST_RETRY);
    }
}

/// What the pool asks of connections.
pub(super) struct Manager<C> {
    connector: Arc<C>,
    limits: Limits,
}

impl<C: Connector> managed::Manager for Manager<C> {
    type Type = C::Connection;
    type Error = Error;

    async fn create(&self) -> Result<C::Connection> {
        self.connector.connect().await
    }

    async fn recycle(&self, connection: &mut C::Connection, metrics: &Metrics) -> RecycleResult<Error> {
        if self.connector.is_closed(connection) {
            return Err(RecycleError::message("closed"));
        }
        if metrics.age() > self.limits.max_lifetime {
            return Err(RecycleError::message("old"));
        }
        if metrics.last_used() > self.limits.idle_check && !self.connector.try_out(connection).await {
            return Err(RecycleError::message("broken"));
        }
        Ok(())
    }
}
