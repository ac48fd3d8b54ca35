//! Statements pinned to a key: `SELECT columns`, `UPDATE` and `DELETE` of one table `WHERE` every key column equals a literal or
//! parameter. They run straight against storage: no planner, no optimizer.
//!
//! Invariant: the answer is the one that the general path would give. Whatever is not surely of this form is not taken. The row's
//! newest version under its lock is what READ COMMITTED may change, since the key alone decides whether it qualifies.

mod bind;
mod formula;

use crate::dml::{self, assign};
use crate::rows;
use atoll_model::{Catalog, Error, Result, Row, SqlType, Table, Value};
use atoll_ports::cluster::{FragmentRef, TableLock, Transaction};
use atoll_ports::query::SiteExpr;
use atoll_ports::session::{Execution, ResultColumn};
use atoll_ports::site::{LockMode, LockWait, RowChange};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use formula::Formula;
use std::sync::Arc;

/// A keyed statement.
pub(crate) struct Plan {
    /// The catalog that it holds for.
    catalog: Arc<Catalog>,
    table: Arc<Table>,
    /// One for each key column, in key order.
    key: Vec<Source>,
    /// Positions, within the key, of the columns that fragmentation looks at; `None`: the key does not tell the fragment.
    placement: Option<Vec<usize>>,
    action: Action,
}

enum Source {
    Parameter(usize),
    Literal(SqlType, Value),
}

enum Action {
    Select { positions: Vec<usize>, columns: Vec<ResultColumn> },
    Update(Update),
    Delete,
}

/// Expressions over the row, followed by the parameters.
struct Update {
    positions: Vec<usize>,
    values: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    types: Vec<SqlType>,
    /// Types of the parameters in `types`, which those given are converted to.
    parameters: Vec<SqlType>,
    /// The same values as sites compute them, where all are of that form.
    formulas: Option<Vec<Formula>>,
}

/// Runs a keyed statement; `None`: the catalog has changed since it was bound.
///
/// # Errors
/// Those of storage, locks, constraints, and of converting parameters.
pub(crate) async fn run(
    plan: &Plan,
    txn: &Arc<dyn Transaction>,
    param_types: &[SqlType],
    params: &[Value],
) -> Result<Option<Execution>> {
    if !Arc::ptr_eq(&txn.catalog(), &plan.catalog) {
        return Ok(None);
    }
    let key = plan.key(param_types, params)?;
    let rows = match key {
        // Nothing equals NULL.
        None => 0..0,
        Some(ref key) => plan.candidates(key),
    };
    let key = key.unwrap_or_default();
    crate::metrics::statement_over(rows.len());
    match &plan.action {
        Action::Select { positions, columns } => {
            let mut out = vec![];
            let alone = rows.len() == 1;
            for at in rows {
                let fragment = plan.fragment(at);
                let found = if alone {
                    txn.get_alone(&fragment, &key, positions).await?
                } else {
                    txn.get(&fragment, &key).await?
                };
                if let Some(mut row) = found {
                    out.push(positions.iter().map(|p| std::mem::replace(&mut row[*p], Value::Null)).collect());
                    break;
                }
            }
            Ok(Some(Execution::Rows { columns: columns.clone(), rows: out, tag: "SELECT" }))
        }
        Action::Update(update) => {
            if rows.len() == 1
                && let Some(set) = update.at_site(param_types, params)?
                && let Some(found) = txn.update_row(&plan.fragment(rows.start), &key, &set).await?
            {
                return Ok(Some(done("UPDATE", u64::from(found))));
            }
            txn.lock_table(&plan.table, TableLock::Write).await?;
            let Some(old) = plan.lock(txn, rows, key).await? else { return Ok(Some(done("UPDATE", 0))) };
            let new = update.apply(&plan.table, &old, param_types, params)?;
            dml::check_not_null(&plan.table, std::slice::from_ref(&new))?;
            txn.write(&plan.table, vec![RowChange::Update { old, new }]).await?;
            Ok(Some(done("UPDATE", 1)))
        }
        Action::Delete => {
            txn.lock_table(&plan.table, TableLock::Write).await?;
            let Some(old) = plan.lock(txn, rows, key).await? else { return Ok(Some(done("DELETE", 0))) };
            txn.write(&plan.table, vec![RowChange::Delete(old)]).await?;
            Ok(Some(done("DELETE", 1)))
        }
    }
}

fn done(tag: &'static str, rows: u64) -> Execution {
    Execution::Done { tag, rows: Some(rows) }
}

impl Plan {
    /// Whether it holds for this catalog, so that it runs as it is.
    pub(crate) fn is_of(&self, catalog: &Arc<Catalog>) -> bool {
        Arc::ptr_eq(catalog, &self.catalog)
    }

    fn fragment(&self, at: usize) -> FragmentRef {
        FragmentRef { table: self.table.clone(), at }
    }

    /// The key's values; `None`: one of them is NULL.
    fn key(&self, types: &[SqlType], params: &[Value]) -> Result<Option<Vec<Value>>> {
        let mut key = Vec::with_capacity(self.key.len());
        for (source, id) in self.key.iter().zip(&self.table.key) {
            let column = self.table.position(*id).map(|p| &self.table.columns[p]);
            let column = column.ok_or_else(|| Error::internal("a key column is missing"))?;
            let (ty, value) = match source {
                Source::Parameter(at) => (types.get(*at), params.get(*at)),
                Source::Literal(ty, value) => (Some(ty), Some(value)),
            };
            let (Some(ty), Some(value)) = (ty, value) else { return Err(dml::params::undefined(0)) };
            if value.is_null() {
                return Ok(None);
            }
            // What is looked for is not rounded: no row has it then.
            key.push(assign::convert(value.clone(), ty, &column.ty.without_second_digits())?);
        }
        Ok(Some(key))
    }

    fn candidates(&self, key: &[Value]) -> std::ops::Range<usize> {
        match &self.placement {
            Some(positions) => {
                let values: Vec<&Value> = positions.iter().map(|p| &key[*p]).collect();
                self.table.place_key(&values).map_or(0..0, |at| at..at + 1)
            }
            None => 0..self.table.fragments.len(),
        }
    }

    async fn lock(
        &self,
        txn: &Arc<dyn Transaction>,
        candidates: std::ops::Range<usize>,
        key: Vec<Value>,
    ) -> Result<Option<Row>> {
        let keys = [key];
        for at in candidates {
            let mut locked = txn.lock(&self.fragment(at), &keys, LockMode::Exclusive, LockWait::Wait).await?;
            if let Some(row) = locked.pop().and_then(|l| l.row) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }
}

impl Update {
    /// What the site is to compute, with these parameters.
    fn at_site(&self, types: &[SqlType], params: &[Value]) -> Result<Option<Vec<(usize, SiteExpr)>>> {
        let Some(formulas) = &self.formulas else { return Ok(None) };
        let given = |at: usize| match (types.get(at), params.get(at), self.parameters.get(at)) {
            (Some(from), Some(value), Some(to)) => assign::convert(value.clone(), from, to),
            _ => Err(dml::params::undefined(at)),
        };
        let set = self.positions.iter().zip(formulas).map(|(at, formula)| Ok((*at, formula.with(&given)?)));
        set.collect::<Result<_>>().map(Some)
    }

    fn apply(&self, table: &Table, old: &Row, param_types: &[SqlType], params: &[Value]) -> Result<Row> {
        let mut input = old.clone();
        for ((value, from), to) in params.iter().zip(param_types).zip(&self.parameters) {
            input.push(assign::convert(value.clone(), from, to)?);
        }
        let batch = rows::to_batch(&self.schema, &self.types, std::slice::from_ref(&input))?;
        let mut new = old.clone();
        for (at, expr) in self.positions.iter().zip(&self.values) {
            let column = &table.columns[*at];
            let field = expr.return_field(&self.schema).map_err(crate::read::map_error)?;
            let ty = SqlType::of_field(&field)
                .ok_or_else(|| Error::unsupported(format!("values of Arrow type {}", field.data_type())))?;
            let array = expr.evaluate(&batch).and_then(|v| v.into_array(1)).map_err(crate::read::map_error)?;
            let value = rows::value_at(&array, 0, &ty)?;
            new[*at] = assign::assign(value, &ty, column)?;
        }
        Ok(new)
    }
}
