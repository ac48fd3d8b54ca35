//! One connection to a site's server, and a transaction on it.
//!
//! Invariants: statements are sent in the order in which their futures are first polled (the driver queues them), so several may be under
//! way and a `BEGIN` need not be waited for; if it failed, so does what follows. A connection goes back to its pool only with no
//! transaction open: a rollback is sent before, and whoever gets it next is served after that. A connection whose statement was
//! given up before its answer came is cancelled and closed instead, lest the cancellation hit its next user.

use super::pool::{Lease, Pool};
use super::tls::Tls;
use super::values::Parameter;
use atoll_model::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, CopyInSink, Row, Statement};

/// Prepared statements kept per connection; beyond, all are forgotten and prepared anew.
const MAX_STATEMENTS: usize = 256;

/// How long a statement that nobody waits for any more may take to be cancelled.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection.
pub(super) struct Connection {
    pub(super) client: Client,
    tls: Tls,
    statements: Mutex<HashMap<String, Statement>>,
}

impl Connection {
    pub(super) fn new(client: Client, tls: Tls) -> Self {
        Connection { client, tls, statements: Mutex::default() }
    }

    /// A prepared statement, kept for the next time.
    async fn prepare(&self, sql: &str, types: &[Type]) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = self.statements.lock().get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare_typed(sql, types).await?;
        let mut statements = self.statements.lock();
        if statements.len() >= MAX_STATEMENTS {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// A connection with a transaction on it.
pub(super) struct Link {
    /// Taken only when the link goes.
    lease: Option<Lease>,
    pool: Arc<Pool>,
    /// A transaction is open, so far as was sent.
    open: AtomicBool,
    /// Statements whose answers are waited for.
    under_way: AtomicUsize,
    /// Somebody stopped waiting for an answer.
    abandoned: AtomicBool,
}

impl Link {
    /// Begins a transaction with these commands.
    ///
    /// # Errors
    /// Those of [`Pool::get`].
    pub(super) async fn begin(pool: &Arc<Pool>, begin: &str) -> Result<Self> {
        let link = Link::free(pool).await?;
        link.open.store(true, Ordering::Relaxed);
        link.send(begin);
        Ok(link)
    }

    /// For statements that are transactions of their own.
    ///
    /// # Errors
    /// Those of [`Pool::get`].
    pub(super) async fn free(pool: &Arc<Pool>) -> Result<Self> {
        Ok(Link {
            lease: Some(pool.get().await?),
            pool: pool.clone(),
            open: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
        })
    }

    fn connection(&self) -> &Connection {
        self.lease.as_ref().expect("only dropping the link takes the lease")
    }

    /// Whether the connection is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.connection().client.is_closed()
    }

    /// Sends commands without waiting for their end. Should they fail, so does whatever comes next in the transaction.
    pub(super) fn send(&self, commands: &str) {
        // The first poll puts them into the connection's queue; the answer is discarded by the driver when it comes.
        let _ = self.connection().client.batch_execute(commands).now_or_never();
    }

    /// Runs commands to their end.
    pub(super) async fn execute(&self, commands: &str) -> Result<()> {
        self.watched(self.connection().client.batch_execute(commands)).await?.map_err(|e| self.failed(&e))
    }

    /// Runs a statement that will come again, and gives its rows.
    pub(super) async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        let types: Vec<Type> = parameters.iter().map(|(_, ty)| ty.clone()).collect();
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        let connection = self.connection();
        let running = async {
            let statement = connection.prepare(sql, &types).await?;
            connection.client.query(&statement, &values).await
        };
        self.watched(running).await?.map_err(|e| self.failed(&e))
    }

    /// As [`Link::query`], for a statement that returns nothing: the number of rows touched.
    pub(super) async fn change(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64> {
        let types: Vec<Type> = parameters.iter().map(|(_, ty)| ty.clone()).collect();
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        let connection = self.connection();
        let running = async {
            let statement = connection.prepare(sql, &types).await?;
            connection.client.execute(&statement, &values).await
        };
        self.watched(running).await?.map_err(|e| self.failed(&e))
    }

    /// Begins a COPY to the site; [`Link::watched`] has to be told.
    pub(super) async fn copy_in(&self, sql: &str) -> Result<CopyInSink<Bytes>> {
        let connection = self.connection();
        let begun = async {
            let statement = connection.prepare(sql, &[]).await?;
            connection.client.copy_in(&statement).await
        };
        begun.await.map_err(|e| self.failed(&e))
    }

    /// The client, for what goes beyond whole results; [`Link::watched`] has to be told.
    pub(super) fn client(&self) -> &Client {
        &self.connection().client
    }

    /// Waits for an answer, and remembers should that be given up.
    ///
    /// # Errors
    /// `SiteUnavailable`: it was given up, because the site does not answer.
    pub(super) async fn watched<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        let mut watch = Watch { link: self, answered: false };
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let answer = self.pool.attended(answer).await?;
        watch.answered = true;
        Ok(answer)
    }

    /// An error of this connection.
    pub(super) fn failed(&self, error: &tokio_postgres::Error) -> Error {
        let site = self.pool.site();
        let told = site.error(error);
        if told.kind() == ErrorKind::NotSupported && told.message().starts_with("cached plan") {
            self.connection().statements.lock().clear();
            return Error::new(
                ErrorKind::SerializationFailure,
                format!("a table's definition has changed at site \"{}\"", site.0),
            )
            .hint("Run the transaction again.");
        }
        told
    }

    /// Nothing is left to roll back: the transaction has ended, or does so with what was just sent.
    pub(super) fn ended(&self) {
        self.open.store(false, Ordering::Relaxed);
    }

    /// Rolls back, without waiting. Scans that still hold the link will fail.
    pub(super) fn rollback(&self) {
        if !self.open.swap(false, Ordering::Relaxed) {
            return;
        }
        if self.under_way.load(Ordering::Relaxed) > 0 {
            self.abandoned.store(true, Ordering::Relaxed);
        }
        if self.abandoned.load(Ordering::Relaxed) {
            self.cancel_soon();
        }
        self.send("ROLLBACK");
    }

    /// Asks the server to end what is running.
    fn cancel_soon(&self) {
        let connection = self.connection();
        let (token, tls) = (connection.client.cancel_token(), connection.tls.clone());
        // Without a runtime the process is about to end, and the connection with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { tokio::time::timeout(CANCEL_TIMEOUT, token.cancel_query(tls)).await });
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let abandoned = self.abandoned.load(Ordering::Relaxed);
        if self.open.swap(false, Ordering::Relaxed) {
            if abandoned {
                self.cancel_soon();
            }
            self.send("ROLLBACK");
        }
        if abandoned && let Some(lease) = self.lease.take() {
            // Closing it: the driver first waits for what was sent.
            drop(Lease::take(lease));
        }
    }
}

struct Watch<'a> {
    link: &'a Link,
    answered: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.link.under_way.fetch_sub(1, Ordering::Relaxed);
        if !self.answered {
            self.link.abandoned.store(true, Ordering::Relaxed);
        }
    }
}
