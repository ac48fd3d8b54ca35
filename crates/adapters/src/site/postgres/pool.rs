//! The connections of one site: bounded, tried when they were idle for long, replaced when they are old.
//!
//! Invariant: while a site is down, nobody waits for it. The first who finds that it cannot be reached waits at most `connect_timeout`;
//! from then on every request fails at once with what was found, until a task in the background has reached the site again.
//! (Nygard, *Release It!*: circuit breaker.)

use super::connection::Connection;
use super::error::SiteName;
use super::options::PostgresOptions;
use atoll_model::{Error, ErrorKind, Result};
use deadpool::Runtime;
use deadpool::managed::{self, Metrics, PoolError, RecycleError, RecycleResult, TimeoutType};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A connection on loan. Dropping it gives it back.
pub(super) type Lease = managed::Object<Manager>;

/// How soon a site that is down is tried again, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// How long a connection may take to show that it still works.
const TRIAL: Duration = Duration::from_secs(2);

/// Connections of a site.
pub(super) struct Pool {
    inner: managed::Pool<Manager>,
    manager: Arc<Connector>,
    /// Why the site is down, while it is.
    down: Mutex<Option<Error>>,
    this: Weak<Pool>,
}

impl Pool {
    /// A pool of so many connections at most; none is made yet.
    pub(super) fn new(options: PostgresOptions, site: SiteName, size: usize) -> Arc<Self> {
        let waiting = options.pool_timeout;
        let connecting = options.connect_timeout;
        let manager = Arc::new(Connector { options, site });
        let inner = managed::Pool::builder(Manager(manager.clone()))
            .max_size(size)
            .wait_timeout(Some(waiting))
            .create_timeout(Some(connecting))
            .recycle_timeout(Some(TRIAL))
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a pool with time-outs needs a runtime, and has one");
        Arc::new_cyclic(|this| Pool { inner, manager, down: Mutex::default(), this: this.clone() })
    }

    /// A connection.
    ///
    /// # Errors
    /// `SiteUnavailable`; `TooManyConnections` when none became free in time, or the site has no more.
    pub(super) async fn get(&self) -> Result<Lease> {
        if let Some(known) = self.down.lock().clone() {
            return Err(known);
        }
        let site = &self.manager.site;
        match self.inner.get().await {
            Ok(lease) => Ok(lease),
            Err(PoolError::Timeout(TimeoutType::Wait)) => Err(Error::new(
                ErrorKind::TooManyConnections,
                format!("all {} connections to site \"{}\" are in use", self.inner.status().max_size, site.0),
            )
            .hint("Raise the site's pool_size, or end idle transactions.")),
            Err(PoolError::Backend(error)) if error.kind() == ErrorKind::TooManyConnections => Err(error),
            Err(PoolError::Backend(error)) => Err(self.trip(error)),
            Err(PoolError::Timeout(_)) => {
                let limit = self.manager.options.connect_timeout;
                Err(self.trip(site.unavailable(format!("no answer in {} ms", limit.as_millis()))))
            }
            Err(other) => Err(Error::internal(format!("connections to site \"{}\": {other}", site.0))),
        }
    }

    /// Notes that the site is down, and has it tried until it is not.
    fn trip(&self, error: Error) -> Error {
        let mut down = self.down.lock();
        if down.is_none() {
            tracing::warn!(site = self.manager.site.0, %error, "site is down");
            *down = Some(error.clone());
            tokio::spawn(retry(self.this.clone()));
        }
        error
    }
}

/// Tries to reach a site until that works.
async fn retry(pool: Weak<Pool>) {
    let mut pause = FIRST_RETRY;
    loop {
        tokio::time::sleep(pause).await;
        let Some(pool) = pool.upgrade() else { return };
        let connecting = tokio::time::timeout(pool.manager.options.connect_timeout, pool.manager.connect());
        match connecting.await {
            Ok(Ok(_)) => {
                *pool.down.lock() = None;
                tracing::info!(site = pool.manager.site.0, "site is back");
                return;
            }
            // What hinders it may have changed; show the newest.
            Ok(Err(error)) => *pool.down.lock() = Some(error),
            Err(_) => {}
        }
        pause = (pause * 2).min(LAST_RETRY);
    }
}

/// Makes connections.
pub(super) struct Connector {
    options: PostgresOptions,
    site: SiteName,
}

impl Connector {
    async fn connect(&self) -> Result<Connection> {
        let tls = self.options.tls.clone();
        let (client, connection) = self.options.config.connect(tls.clone()).await.map_err(|e| self.site.refused(&e))?;
        if connection.parameter("server_encoding") != Some("UTF8") {
            return Err(self
                .site
                .unavailable("its database is not encoded in UTF8")
                .hint("CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"));
        }
        let site = self.site.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(site = site.0, %error, "a connection has ended");
            }
        });
        Ok(Connection::new(client, tls))
    }
}

/// What the pool asks of connections.
pub(super) struct Manager(Arc<Connector>);

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Error;

    async fn create(&self) -> Result<Connection> {
        self.0.connect().await
    }

    async fn recycle(&self, connection: &mut Connection, metrics: &Metrics) -> RecycleResult<Error> {
        if connection.client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        if metrics.age() > self.0.options.max_lifetime {
            return Err(RecycleError::message("old"));
        }
        if metrics.last_used() > self.0.options.idle_check {
            connection.client.check_connection().await.map_err(|_| RecycleError::message("broken"))?;
        }
        Ok(())
    }
}
