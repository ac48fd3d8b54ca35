//! Statements that leave their connection's thread: they are planned and run on the threads of the runtime that serves queries, which share
//! their work among each other.
//!
//! Invariants: the session is in one place at a time, with its connection or with a task; a task whose answer nobody waits for
//! any more is aborted. Batches come through a channel for one: nothing is read ahead beyond it. A task's panic is the connection's.

use async_trait::async_trait;
use atoll_model::{Error, Result, SqlType, Value};
use atoll_ports::session::{
    BatchStream, Canceller, Execution, Notice, Parsed, Prepared, ResultColumn, Session, TransactionStatus,
};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

/// The threads that such statements go to.
#[derive(Clone)]
pub(super) struct Workers(Handle);

impl Workers {
    /// Those of the runtime that this is called in.
    pub(super) fn here() -> Self {
        Workers(Handle::current())
    }

    /// Begins something there, which ends when nobody waits for it any more.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(self.0.spawn(work))
    }

    /// Has something done there.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.spawn(work).await {
            Ok(done) => done,
            Err(error) => gone(error).await,
        }
    }

    /// A session whose longer statements run there.
    pub(super) fn session(&self, session: Box<dyn Session>) -> Box<dyn Session> {
        Box::new(RoamingSession { workers: self.clone(), canceller: session.canceller(), session: Some(session) })
    }

    fn execution(&self, execution: Execution) -> Execution {
        match execution {
            Execution::Batches { columns, schema, stream, tag } => {
                Execution::Batches { columns, schema, stream: self.stream(stream), tag }
            }
            Execution::CopyOut { options, columns, schema, stream } => {
                Execution::CopyOut { options, columns, schema, stream: self.stream(stream) }
            }
            other => other,
        }
    }

    /// Batches that are made there.
    fn stream(&self, mut stream: BatchStream) -> BatchStream {
        let (sender, receiver) = mpsc::channel(1);
        let task = self.spawn(async move {
            while let Some(batch) = stream.next().await {
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
            // Whoever is told of the end may take it that the work behind the stream has ended.
            drop(stream);
        });
        futures::stream::unfold((receiver, Some(task)), |(mut receiver, task)| async move {
            let task = task?;
            match receiver.recv().await {
                Some(batch) => Some((batch, (receiver, Some(task)))),
                None => match task.await {
                    Ok(()) => None,
                    Err(error) => gone(error).await,
                },
            }
        })
        .boxed()
    }
}

/// A task has ended without an answer: it has panicked, or its runtime ends, and this one will soon.
async fn gone<T>(error: JoinError) -> T {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => std::future::pending().await,
    }
}

/// A session that is here, or with the workers.
struct RoamingSession {
    workers: Workers,
    canceller: Arc<Canceller>,
    session: Option<Box<dyn Session>>,
}

impl RoamingSession {
    fn here(&mut self) -> Result<&mut Box<dyn Session>> {
        self.session.as_mut().ok_or_else(lost)
    }

    /// Has the workers do something with the session.
    async fn there<T: Send + 'static>(
        &mut self,
        work: impl for<'s> FnOnce(&'s mut dyn Session) -> BoxFuture<'s, Result<T>> + Send + 'static,
    ) -> Result<T> {
        let mut session = self.session.take().ok_or_else(lost)?;
        let done = self.workers.run(async move {
            let outcome = work(&mut *session).await;
            (session, outcome)
        });
        let (session, outcome) = done.await;
        self.session = Some(session);
        outcome
    }
}

/// Somebody stopped waiting for an answer, and asks again.
fn lost() -> Error {
    Error::internal("the session went away with a statement that was given up")
}

#[async_trait]
impl Session for RoamingSession {
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>> {
        self.here()?.parse(sql)
    }

    fn recall(&self, statement: &Parsed, param_types: &[Option<SqlType>]) -> Option<Arc<Prepared>> {
        self.session.as_ref()?.recall(statement, param_types)
    }

    fn prepares_at_once(&self, statement: &Parsed) -> bool {
        self.session.as_ref().is_some_and(|s| s.prepares_at_once(statement))
    }

    fn runs_at_once(&self, prepared: &Prepared) -> bool {
        self.session.as_ref().is_some_and(|s| s.runs_at_once(prepared))
    }

    async fn prepare(&mut self, statement: Parsed, param_types: &[Option<SqlType>]) -> Result<Arc<Prepared>> {
        if let Some(prepared) = self.recall(&statement, param_types) {
            return Ok(prepared);
        }
        if self.prepares_at_once(&statement) {
            return self.here()?.prepare(statement, param_types).await;
        }
        let param_types = param_types.to_vec();
        self.there(move |session| Box::pin(async move { session.prepare(statement, &param_types).await })).await
    }

    async fn execute(&mut self, prepared: &Arc<Prepared>, params: Vec<Value>) -> Result<Execution> {
        if self.runs_at_once(prepared) {
            return self.here()?.execute(prepared, params).await;
        }
        let prepared = prepared.clone();
        let execution = self.there(move |session| Box::pin(async move { session.execute(&prepared, params).await }));
        let execution = execution.await?;
        Ok(self.workers.execution(execution))
    }

    async fn sync(&mut self, failed: bool) -> Result<()> {
        self.here()?.sync(failed).await
    }

    fn fail(&mut self) {
        if let Some(session) = &mut self.session {
            session.fail();
        }
    }

    fn status(&self) -> TransactionStatus {
        self.session.as_ref().map_or(TransactionStatus::Failed, |s| s.status())
    }

    fn reported_settings(&self) -> Vec<(String, String)> {
        self.session.as_ref().map(|s| s.reported_settings()).unwrap_or_default()
    }

    fn changed_settings(&mut self) -> Vec<(String, String)> {
        self.session.as_mut().map(|s| s.changed_settings()).unwrap_or_default()
    }

    fn notices(&mut self) -> Vec<Notice> {
        self.session.as_mut().map(|s| s.notices()).unwrap_or_default()
    }

    fn cursor_columns(&self, name: &str) -> Option<Vec<ResultColumn>> {
        self.session.as_ref()?.cursor_columns(name)
    }

    fn canceller(&self) -> Arc<Canceller> {
        self.canceller.clone()
    }
}
