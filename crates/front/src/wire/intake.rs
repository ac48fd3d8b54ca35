//! COPY FROM STDIN as a pipeline of two: while the engine takes one batch, the next is read and decoded.
//!
//! Invariant: at most one batch is with the engine, on the threads of [`Workers`]; batches are taken in order; after
//! [`Intake::settle`] none is.

use super::stop::Stop;
use super::workers::Workers;
use arrow_array::RecordBatch;
use atoll_model::{Error, Result};
use atoll_ports::session::RowSink;
use tokio_util::task::AbortOnDropHandle;

type Taken = (Box<dyn RowSink>, Result<()>);

/// The engine's end of a COPY.
pub(super) struct Intake {
    /// With the engine, or, while it takes a batch, with the task.
    sink: Option<Box<dyn RowSink>>,
    task: Option<AbortOnDropHandle<Taken>>,
    /// Which lines the batch with the engine comes from.
    context: String,
    workers: Workers,
}

impl Intake {
    /// One that has taken nothing.
    pub(super) fn new(sink: Box<dyn RowSink>, workers: Workers) -> Self {
        Intake { sink: Some(sink), task: None, context: String::new(), workers }
    }

    /// Hands over a batch as soon as the one before is taken.
    ///
    /// # Errors
    /// Those of the batch before.
    pub(super) async fn push(&mut self, batch: RecordBatch, context: String) -> Result<(), Stop> {
        self.settle().await?;
        let Some(mut sink) = self.sink.take() else { return Err(lost().into()) };
        self.context = context;
        self.task = Some(self.workers.spawn(async move {
            let taken = sink.push(batch).await;
            (sink, taken)
        }));
        Ok(())
    }

    /// Ends the COPY, with nothing on its way to the engine: how many rows it has taken.
    ///
    /// # Errors
    /// `Internal` when a batch was lost, and those of the engine.
    pub(super) async fn finish(self) -> Result<u64> {
        self.workers.run(self.sink.ok_or_else(lost)?.finish()).await
    }

    /// Waits until nothing is on its way.
    ///
    /// # Errors
    /// Those of the last batch.
    pub(super) async fn settle(&mut self) -> Result<(), Stop> {
        // Taken out only when it has ended: who was dropped while waiting can wait again.
        let Some(task) = self.task.as_mut() else { return Ok(()) };
        let ended = task.await;
        self.task = None;
        let (sink, taken) = ended.map_err(|_| lost())?;
        self.sink = Some(sink);
        taken.map_err(|error| Stop::Failed { error, context: Some(std::mem::take(&mut self.context)) })
    }
}

/// The task has panicked.
fn lost() -> Error {
    Error::internal("the rows of COPY were not taken")
}
