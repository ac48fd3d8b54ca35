//! A connection of a site with a transaction on it.
//!
//! Invariants: a connection goes back to its pool only when no transaction is open on it. One whose statement was given up before its answer
//! came is killed at the server and closed, so that the statement ends and its locks go; one with a prepared transaction is closed. A command that was put off goes ahead of the
//! next statement; if it fails, so does that statement and every later one: nothing is ever executed outside of the transaction
//! that it was meant for.

use super::connection::{Flavor, Lease, Pool};
use super::error::number;
use super::values::Params;
use crate::site::name::SiteName;
use atoll_model::{Error, ErrorKind, Result};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a statement that nobody waits for any more may take to be killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a rollback may take before the connection is given up instead.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(60);

/// What kind of transaction it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// None: each statement for itself.
    Single,
    /// One that only reads.
    Reading,
    /// An XA transaction of this name, which can be prepared.
    Xa(String),
}

/// Who reads an answer while it comes.
pub(super) trait Reader: Send {
    /// Takes a row.
    fn take(&mut self, row: Row) -> Result<()>;

    /// Waits until there is room for another one, but not for long while somebody waits for the connection. False: no more is wanted.
    fn room(&mut self, queue: &Queue) -> impl Future<Output = bool> + Send;

    /// Waits until no more is wanted.
    fn given_up(&self) -> impl Future<Output = ()> + Send;
}

/// Statements that wait for the connection.
#[derive(Default)]
pub(super) struct Queue {
    length: AtomicUsize,
    grown: Notify,
}

impl Queue {
    /// Whether there are any.
    pub(super) fn is_waiting(&self) -> bool {
        self.length.load(Ordering::Acquire) > 0
    }

    /// Waits for the next one.
    pub(super) async fn grown(&self) {
        self.grown.notified().await;
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a Queue);

impl<'a> Waiting<'a> {
    fn new(queue: &'a Queue) -> Self {
        queue.length.fetch_add(1, Ordering::Release);
        queue.grown.notify_one();
        Waiting(queue)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.length.fetch_sub(1, Ordering::Release);
    }
}

/// A connection with a transaction on it.
pub(super) struct Link {
    lease: tokio::sync::Mutex<Option<Lease>>,
    queue: Queue,
    site: SiteName,
    /// For killing the connection.
    control: Arc<Pool>,
    pub(super) kind: Kind,
    pub(super) flavor: Flavor,
    pub(super) id: u32,
    timeout_ends_all: bool,
    /// Bytes of a statement at most, with its parameters.
    pub(super) max_packet: usize,
    /// Commands that go ahead of the next statement.
    queued: Mutex<String>,
    /// Why nothing can be done with it any more.
    spoilt: Mutex<Option<Error>>,
    /// A transaction is open.
    open: AtomicBool,
    /// It is prepared: it must not be rolled back, and survives the connection.
    prepared: AtomicBool,
    /// Statements whose answers are waited for.
    under_way: AtomicUsize,
    /// Somebody stopped waiting for an answer.
    abandoned: AtomicBool,
}

impl Link {
    /// Begins a transaction with these commands.
    pub(super) fn begin(lease: Lease, site: SiteName, control: Arc<Pool>, kind: Kind, begin: &str) -> Self {
        Link {
            site,
            control,
            flavor: lease.flavor,
            id: lease.conn.id(),
            timeout_ends_all: lease.timeout_ends_all,
            max_packet: lease.max_packet,
            prepared: AtomicBool::new(false),
            open: AtomicBool::new(kind != Kind::Single),
            kind,
            queued: Mutex::new(begin.to_owned()),
            lease: tokio::sync::Mutex::new(Some(lease)),
            queue: Queue::default(),
            spoilt: Mutex::default(),
            under_way: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
        }
    }

    /// Puts commands off to the next statement.
    pub(super) fn queue(&self, commands: &str) {
        let mut queued = self.queued.lock();
        if !queued.is_empty() {
            queued.push_str("; ");
        }
        queued.push_str(commands);
    }

    /// Runs commands to their end.
    pub(super) async fn execute(&self, commands: &str) -> Result<()> {
        self.queue(commands);
        self.with(async |_| Ok(())).await
    }

    /// Runs what was put off.
    pub(super) async fn flush(&self) -> Result<()> {
        self.with(async |_| Ok(())).await
    }

    /// Runs a statement that will come again, and gives its rows.
    pub(super) async fn query(&self, sql: &str, params: Params) -> Result<Vec<Row>> {
        self.check_size(sql, &params)?;
        self.with(async |conn| conn.exec(sql, params.into_driver()).await).await
    }

    /// As [`Link::query`], with the rows given to a function, one at a time. They are read to their end, also after a failure of it.
    pub(super) async fn each(
        &self,
        sql: &str,
        params: Params,
        take: &mut (impl FnMut(Row) -> Result<()> + Send),
    ) -> Result<()> {
        self.check_size(sql, &params)?;
        let mut wrong = None;
        self.with(async |conn| {
            let mut rows = conn.exec_iter(sql, params.into_driver()).await?;
            while let Some(row) = rows.next().await? {
                if wrong.is_none() {
                    wrong = take(row).err();
                }
            }
            Ok(())
        })
        .await?;
        wrong.map_or(Ok(()), Err)
    }

    /// Runs a statement whose rows are read while they come. If no more are wanted, the server is told to stop.
    pub(super) async fn stream(&self, sql: &str, reader: &mut impl Reader) -> Result<()> {
        self.check_size(sql, &Params::none())?;
        let mut wrong = None;
        self.with(async |conn| {
            let mut stopped = false;
            let answer = conn.exec_iter(sql, mysql_async::Params::Empty);
            match self.unless_given_up(reader, &mut stopped, answer).await {
                Err(error) if !(stopped && is_interruption(&error)) => return Err(error),
                Err(_) => {}
                Ok(mut rows) => loop {
                    let row = match self.unless_given_up(reader, &mut stopped, rows.next()).await {
                        Err(error) if stopped && is_interruption(&error) => None,
                        row => row?,
                    };
                    let Some(row) = row else { break };
                    if stopped {
                        continue;
                    }
                    wrong = reader.take(row).err();
                    if wrong.is_some() || !reader.room(&self.queue).await {
                        stopped = true;
                        self.interrupt().await;
                    }
                },
            }
            // Should the statement have ended before it was interrupted, that is for the next command, which takes no harm from it.
            if stopped { conn.ping().await } else { Ok(()) }
        })
        .await?;
        wrong.map_or(Ok(()), Err)
    }

    /// Waits for the server, and tells it to stop when no more is wanted; its last word is waited for all the same.
    async fn unless_given_up<T>(
        &self,
        reader: &impl Reader,
        stopped: &mut bool,
        answer: impl Future<Output = Result<T, mysql_async::Error>>,
    ) -> Result<T, mysql_async::Error> {
        let mut answer = std::pin::pin!(answer);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                () = reader.given_up(), if !*stopped => {
                    *stopped = true;
                    self.interrupt().await;
                }
            }
        }
    }

    /// Has the server end the statement that is under way, and nothing else.
    async fn interrupt(&self) {
        let interrupting = async {
            // If nobody can be told, the answer is read to its end.
            if let Ok(mut lease) = self.control.get().await {
                let _ = lease.conn.query_drop(format!("KILL QUERY {}", self.id)).await;
            }
        };
        let _ = tokio::time::timeout(KILL_TIMEOUT, interrupting).await;
    }

    /// As [`Link::query`], for a statement that returns nothing: the number of rows touched.
    pub(super) async fn change(&self, sql: &str, params: Params) -> Result<u64> {
        self.check_size(sql, &params)?;
        self.with(async |conn| Ok(conn.exec_iter(sql, params.into_driver()).await?.affected_rows())).await
    }

    /// As [`Link::query`], for a statement that cannot be prepared.
    pub(super) async fn text(&self, sql: &str) -> Result<Vec<Row>> {
        self.with(async |conn| conn.query(sql).await).await
    }

    /// A statement that is too large would cost the connection.
    fn check_size(&self, sql: &str, params: &Params) -> Result<()> {
        if sql.len() + params.size() <= self.max_packet {
            return Ok(());
        }
        Err(Error::new(ErrorKind::ProgramLimit, format!("a row is too large for site \"{}\"", self.site.0))
            .detail(format!("It takes packets of {} bytes.", self.max_packet))
            .hint("Raise max_allowed_packet of that server."))
    }

    /// Does something with the connection, after what was put off.
    async fn with<T>(&self, run: impl AsyncFnOnce(&mut Conn) -> Result<T, mysql_async::Error>) -> Result<T> {
        self.watched(async {
            let mut lease = match self.lease.try_lock() {
                Ok(lease) => lease,
                Err(_) => {
                    let _waiting = Waiting::new(&self.queue);
                    self.lease.lock().await
                }
            };
            if let Some(error) = self.spoilt.lock().clone() {
                return Err(error);
            }
            let Some(lease) = lease.as_mut() else { return Err(ended()) };
            let queued = std::mem::take(&mut *self.queued.lock());
            if !queued.is_empty() {
                let begun = lease.conn.query_drop(queued).await.map_err(|e| self.failed(e));
                if let Err(error) = &begun {
                    *self.spoilt.lock() = Some(error.clone());
                }
                begun?;
            }
            run(&mut lease.conn).await.map_err(|e| self.failed(e))
        })
        .await
    }

    /// An error of this connection.
    fn failed(&self, error: mysql_async::Error) -> Error {
        let lost = !matches!(error, mysql_async::Error::Server(_));
        let told = self.site.mysql(error);
        let all_undone = match told.kind() {
            ErrorKind::Deadlock | ErrorKind::SiteUnavailable => true,
            ErrorKind::LockTimeout => self.timeout_ends_all,
            _ => lost,
        };
        if all_undone && self.kind != Kind::Single {
            *self.spoilt.lock() = Some(told.clone());
        }
        if lost || told.kind() == ErrorKind::SiteUnavailable {
            self.abandoned.store(true, Ordering::Relaxed);
        }
        told
    }

    /// Waits for an answer, and remembers should that be given up. It is given up if the site does not answer others either.
    async fn watched<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let mut watch = Watch { link: self, answered: false };
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let answer = self.control.attended(answer).await.inspect_err(|e| {
            self.spoilt.lock().get_or_insert_with(|| e.clone());
        })?;
        watch.answered = true;
        answer
    }

    /// Nothing is left to roll back.
    pub(super) fn ended(&self) {
        self.open.store(false, Ordering::Relaxed);
        self.prepared.store(false, Ordering::Relaxed);
    }

    /// From now on only [`Site::finish`](atoll_ports::site::Site::finish) ends the transaction.
    pub(super) fn is_prepared(&self) {
        self.open.store(false, Ordering::Relaxed);
        self.prepared.store(true, Ordering::Relaxed);
    }

    /// Rolls back, without waiting. Scans that still hold the link will fail.
    pub(super) fn rollback(&self) {
        if !self.open.load(Ordering::Relaxed) {
            return;
        }
        self.spoilt.lock().get_or_insert_with(ended);
        let busy = self.under_way.load(Ordering::Relaxed) > 0;
        if busy && self.kind == Kind::Reading {
            // It holds no locks; what is under way ends first, and then the transaction with the link.
            return;
        }
        if busy {
            self.abandoned.store(true, Ordering::Relaxed);
            self.kill_soon();
        } else if let Ok(mut lease) = self.lease.try_lock()
            && let Some(lease) = lease.take()
        {
            self.end_soon(lease);
        }
    }

    /// Gives the connection back, or up.
    fn end_soon(&self, mut lease: Lease) {
        let open = self.open.swap(false, Ordering::Relaxed);
        if self.abandoned.load(Ordering::Relaxed) {
            self.kill_soon();
            close(lease);
            return;
        }
        if self.prepared.load(Ordering::Relaxed) {
            close(lease);
            return;
        }
        if !open {
            return;
        }
        // Commands that were put off need not be carried out; if the transaction's beginning is among them, there is none.
        let kind = self.kind.clone();
        lease.broken = true;
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    let rolled_back = tokio::time::timeout(ROLLBACK_TIMEOUT, roll_back(&mut lease.conn, &kind)).await;
                    lease.broken = !matches!(rolled_back, Ok(Ok(())));
                    if lease.broken {
                        close(lease);
                    }
                });
            }
            // Without a runtime the process is about to end, and the connection with it.
            Err(_) => close(lease),
        }
    }

    /// Has the server end the connection, and with it whatever it is doing.
    fn kill_soon(&self) {
        let (control, id) = (self.control.clone(), self.id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::timeout(KILL_TIMEOUT, async {
                    // If the site cannot be reached, there is nobody to be told.
                    if let Ok(mut lease) = control.get().await {
                        let _ = lease.conn.query_drop(format!("KILL {id}")).await;
                    }
                })
                .await
            });
        }
    }
}

/// Whether the statement was told to stop.
fn is_interruption(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Server(server) if server.code == number::INTERRUPTED)
}

/// A lease on a connection that is not to be used again.
fn close(lease: Lease) {
    drop(Lease::take(lease));
}

fn ended() -> Error {
    Error::new(ErrorKind::NoActiveTransaction, "the transaction has ended")
}

async fn roll_back(conn: &mut Conn, kind: &Kind) -> Result<(), mysql_async::Error> {
    let Kind::Xa(xid) = kind else { return conn.query_drop("ROLLBACK").await };
    // It may not be active any more, after a deadlock, or may never have begun.
    let _ = conn.query_drop(format!("XA END '{xid}'")).await;
    match conn.query_drop(format!("XA ROLLBACK '{xid}'")).await {
        Err(mysql_async::Error::Server(e)) if e.code == number::XA_UNKNOWN => Ok(()),
        outcome => outcome,
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.get_mut().take() {
            self.end_soon(lease);
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
