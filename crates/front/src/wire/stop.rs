//! Why a message, or a whole connection, ends early.

use atoll_model::Error;
use std::io;

/// Ends a statement or the connection.
#[derive(Debug)]
pub(super) enum Stop {
    /// The statement failed; the connection goes on.
    Failed { error: Error, context: Option<String> },
    /// The client is told, and the connection ends.
    Fatal(Error),
    /// The client is gone, or cannot be reached.
    Gone,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed { error, context: None }
    }
}

impl From<io::Error> for Stop {
    /// A broken connection needs no report: nobody is there to read it.
    fn from(_: io::Error) -> Self {
        Stop::Gone
    }
}

impl From<crate::copy::CopyError> for Stop {
    fn from(e: crate::copy::CopyError) -> Self {
        Stop::Failed { error: e.error, context: Some(e.context) }
    }
}
