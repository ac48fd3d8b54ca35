//! A copy that is looked at, in a branch that serves others as well.
//!
//! Invariant: a step that fails leaves the branch as it was before the first one, with the same snapshot, so that others can go on.

use atoll_model::{Error, Result};
use atoll_ports::site::{Branch, Replica};
use std::future::Future;
use std::sync::Arc;

/// A branch with its snapshot taken.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) branch: Arc<dyn Branch>,
    /// What to return to.
    mark: u64,
}

impl Open {
    pub(super) fn of(branch: Arc<dyn Branch>) -> Self {
        Open { mark: branch.savepoint(), branch }
    }
}

/// A copy.
pub(super) struct Copy {
    pub(super) replica: Replica,
    /// The site's name, and the fragment's.
    pub(super) site: String,
    pub(super) fragment: String,
    pub(super) branch: Arc<dyn Branch>,
    mark: u64,
}

impl Copy {
    pub(super) fn new(replica: Replica, site: String, fragment: String, open: Open) -> Self {
        Copy { replica, site, fragment, branch: open.branch, mark: open.mark }
    }

    /// Takes a step.
    pub(super) async fn tried<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = step.await;
        if outcome.is_err() {
            self.branch.rollback_to(self.mark);
        }
        outcome
    }
}

/// An error in one line.
pub(super) fn told(error: &Error) -> String {
    match error.detail_text() {
        Some(detail) => format!("{}: {detail}", error.message()),
        None => error.message().to_owned(),
    }
}
