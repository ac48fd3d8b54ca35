//! Ends joins that compute for long without giving a row: a nested-loop join looks at every pair of rows within one poll.
//!
//! Invariant: no operator computes for longer than one batch without a look at the statement's interrupt, so that a cancel request and
//! `statement_timeout` end it promptly.

use super::error::external;
use atoll_model::{Error, ErrorKind};
use atoll_ports::session::Canceller;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

/// What ends a running statement from outside.
pub(crate) struct Interrupt {
    pub(crate) canceller: Arc<Canceller>,
    /// When `statement_timeout` passes.
    pub(crate) deadline: Option<Instant>,
}

impl Interrupt {
    fn check(&self) -> Result<()> {
        let message = if self.canceller.is_cancelled() {
            "canceling statement due to user request"
        } else if self.deadline.is_some_and(|d| Instant::now() >= d) {
            "canceling statement due to statement timeout"
        } else {
            return Ok(());
        };
        Err(external(Error::new(ErrorKind::QueryCanceled, message)))
    }
}

/// The plan, whose joins by nested loops look at the interrupt.
///
/// # Errors
/// Those of rebuilding a join.
pub(super) fn interruptible(
    plan: Arc<dyn ExecutionPlan>,
    interrupt: &Arc<Interrupt>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
            let filter = join.filter().map(|f| {
                let guarded = Guarded { inner: f.expression().clone(), interrupt: interrupt.clone() };
                JoinFilter::new(Arc::new(guarded), f.column_indices().to_vec(), f.schema().clone())
            });
            let projection = join.projection().as_ref().map(|p| p.to_vec());
            let join = NestedLoopJoinExec::try_new(
                join.left().clone(),
                join.right().clone(),
                filter,
                join.join_type(),
                projection,
            )?;
            return Ok(Transformed::yes(Arc::new(CooperativeExec::new(Arc::new(join))) as Arc<dyn ExecutionPlan>));
        }
        if node.downcast_ref::<CrossJoinExec>().is_some() {
            return Ok(Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>));
        }
        Ok(Transformed::no(node))
    })
    .data()
}

/// An expression that looks at the interrupt whenever it is evaluated.
struct Guarded {
    inner: Arc<dyn PhysicalExpr>,
    interrupt: Arc<Interrupt>,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner, f)
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Guarded {}

impl Hash for Guarded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl PhysicalExpr for Guarded {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.inner.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.inner.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.interrupt.check()?;
        self.inner.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = children.pop().unwrap_or_else(|| self.inner.clone());
        Ok(Arc::new(Guarded { inner, interrupt: self.interrupt.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
