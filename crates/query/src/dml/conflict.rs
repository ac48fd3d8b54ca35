//! INSERT … ON CONFLICT.
//!
//! Rows are taken one at a time: the key's values are locked over all fragments before the look-up, so between it and the write no
//! other transaction can bring the conflict about.

use super::assign::assign;
use super::{carried, check_rows, column_position, evaluate, params};
use crate::session::context::StatementContext;
use crate::syntax::fold;
use atoll_model::{ColumnId, Error, ErrorKind, IndexId, Result, Row, SqlType, Table, Value};
use atoll_ports::site::RowChange;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::DFSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::ast::{ConflictTarget, OnConflict, OnConflictAction};
use std::sync::Arc;

/// A bound ON CONFLICT clause.
pub(super) struct Plan {
    /// Keys that may conflict; `None` in it is the primary key.
    arbiters: Vec<(Option<IndexId>, Vec<ColumnId>)>,
    action: Action,
}

enum Action {
    Nothing,
    Update(Update),
}

/// DO UPDATE: expressions over the row that is there, followed by the row proposed (`excluded`).
struct Update {
    positions: Vec<usize>,
    values: Vec<Arc<dyn PhysicalExpr>>,
    /// Columns set to their default.
    defaulted: Vec<usize>,
    condition: Option<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    types: Vec<SqlType>,
}

impl Plan {
    /// Binds the clause of an INSERT into `table`.
    ///
    /// # Errors
    /// `InvalidColumnReference` when no unique key matches the target.
    pub(super) fn bind(cx: &StatementContext, table: &Table, clause: &OnConflict, alias: &str) -> Result<Plan> {
        let mut keys: Vec<(Option<IndexId>, &str, Vec<ColumnId>)> = vec![];
        if let Some(name) = &table.primary_key {
            keys.push((None, name, table.key.clone()));
        }
        keys.extend(
            table.indexes.iter().filter(|i| i.unique).map(|i| (Some(i.id), i.name.as_str(), i.columns.clone())),
        );
        let arbiters: Vec<_> = match &clause.conflict_target {
            None => keys,
            Some(ConflictTarget::Columns(names)) => {
                let mut wanted = names
                    .iter()
                    .map(|n| column_position(table, n).map(|p| table.columns[p].id))
                    .collect::<Result<Vec<_>>>()?;
                wanted.sort_unstable();
                keys.retain(|(_, _, columns)| {
                    let mut columns = columns.clone();
                    columns.sort_unstable();
                    columns == wanted
                });
                keys
            }
            Some(ConflictTarget::OnConstraint(name)) => {
                let name = crate::session::names::relation(name)?;
                if !keys.iter().any(|(_, n, _)| *n == name) {
                    return Err(Error::new(
                        ErrorKind::UndefinedObject,
                        format!("constraint \"{name}\" for table \"{}\" does not exist", table.name),
                    ));
                }
                keys.retain(|(_, n, _)| *n == name);
                keys
            }
        };
        if clause.conflict_target.is_some() && arbiters.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidColumnReference,
                "there is no unique or exclusion constraint matching the ON CONFLICT specification",
            ));
        }
        let action = match &clause.action {
            OnConflictAction::DoNothing => Action::Nothing,
            OnConflictAction::DoUpdate(_) if clause.conflict_target.is_none() => {
                return Err(Error::new(
                    ErrorKind::Syntax,
                    "ON CONFLICT DO UPDATE requires inference specification or constraint name",
                )
                .hint("For example, ON CONFLICT (column_name)."));
            }
            OnConflictAction::DoUpdate(update) => Action::Update(Update::bind(cx, table, update, alias)?),
        };
        Ok(Plan { arbiters: arbiters.into_iter().map(|(id, _, columns)| (id, columns)).collect(), action })
    }

    /// Inserts rows, or does what the clause says; returns the rows inserted or updated.
    ///
    /// # Errors
    /// Those of constraints and writing; `Cardinality` when one command would update a row twice.
    pub(super) async fn run(&self, cx: &StatementContext, table: &Arc<Table>, rows: Vec<Row>) -> Result<Vec<Row>> {
        let mut affected: Vec<Row> = vec![];
        for row in rows {
            check_rows(cx, table, std::slice::from_ref(&row))?;
            match self.conflicting(cx, table, &row).await? {
                None => {
                    cx.txn.write(table, vec![RowChange::Insert(row.clone())]).await?;
                    affected.push(row);
                }
                Some(old) => {
                    if let Action::Update(update) = &self.action {
                        if affected.iter().any(|a| table.key_of(a) == table.key_of(&old)) {
                            return Err(Error::new(
                                ErrorKind::Cardinality,
                                "ON CONFLICT DO UPDATE command cannot affect row a second time",
                            )
                            .hint(
                                "Ensure that no rows proposed for insertion within the same command have duplicate constrained values.",
                            ));
                        }
                        if let Some(mut new) = update.apply(table, &old, &row)? {
                            super::defaults::fill(cx, table, std::slice::from_mut(&mut new), &update.defaulted).await?;
                            check_rows(cx, table, std::slice::from_ref(&new))?;
                            cx.txn.write(table, vec![RowChange::Update { old, new: new.clone() }]).await?;
                            affected.push(new);
                        }
                    }
                }
            }
        }
        Ok(affected)
    }

    async fn conflicting(&self, cx: &StatementContext, table: &Arc<Table>, row: &Row) -> Result<Option<Row>> {
        for (index, columns) in &self.arbiters {
            let values: Vec<Value> =
                columns.iter().filter_map(|c| table.position(*c)).map(|p| row[p].clone()).collect();
            if values.iter().any(Value::is_null) {
                continue;
            }
            if let Some((_, old)) = cx.txn.find_unique(table, *index, &values).await? {
                return Ok(Some(old));
            }
        }
        Ok(None)
    }
}

impl Update {
    fn bind(
        cx: &StatementContext,
        table: &Table,
        update: &datafusion::sql::sqlparser::ast::DoUpdate,
        alias: &str,
    ) -> Result<Update> {
        let (types, one) = carried(table);
        let (old, excluded) = (alias, "excluded");
        let df_schema = DFSchema::try_from_qualified_schema(old, &one)
            .and_then(|s| s.join(&DFSchema::try_from_qualified_schema(excluded, &one)?))
            .map_err(crate::read::map_error)?;
        // A bare column means the row that is there, as in PostgreSQL: qualify it before binding.
        let bind = |expr: &datafusion::sql::sqlparser::ast::Expr| {
            let mut expr = qualify(expr.clone(), table, old);
            params::substitute(&mut expr, &cx.param_types, &cx.params)?;
            cx.compile(&expr.to_string(), &df_schema)
        };
        let mut positions = vec![];
        let mut values = vec![];
        let mut defaulted = vec![];
        for (at, value) in super::change::bind_assignments(table, &update.assignments)? {
            match value {
                Some(value) => {
                    positions.push(at);
                    values.push(bind(&value)?);
                }
                None => defaulted.push(at),
            }
        }
        let condition = update.selection.as_ref().map(bind).transpose()?;
        Ok(Update {
            positions,
            values,
            defaulted,
            condition,
            schema: Arc::new(df_schema.as_arrow().clone()),
            types: types.iter().chain(&types).cloned().collect(),
        })
    }

    /// The new row; `None`: the condition does not hold.
    fn apply(&self, table: &Table, old: &Row, excluded: &Row) -> Result<Option<Row>> {
        let both: Vec<Row> = vec![old.iter().chain(excluded).cloned().collect()];
        if let Some(condition) = &self.condition {
            let (_, out) = evaluate(std::slice::from_ref(condition), &self.schema, &self.types, &both)?;
            if out[0][0] != Value::Bool(true) {
                return Ok(None);
            }
        }
        let (types, mut out) = evaluate(&self.values, &self.schema, &self.types, &both)?;
        let mut new = old.clone();
        for at in &self.defaulted {
            new[*at] = Value::Null;
        }
        for ((at, value), ty) in self.positions.iter().zip(out.remove(0)).zip(&types) {
            new[*at] = assign(value, ty, &table.columns[*at])?;
        }
        Ok(Some(new))
    }
}

fn qualify(
    mut expr: datafusion::sql::sqlparser::ast::Expr,
    table: &Table,
    qualifier: &str,
) -> datafusion::sql::sqlparser::ast::Expr {
    use datafusion::sql::sqlparser::ast::{Expr, Ident};
    crate::syntax::change_expressions(&mut expr, |e| {
        if let Expr::Identifier(ident) = e
            && table.position_of(&fold(ident)).is_some()
        {
            *e = Expr::CompoundIdentifier(vec![Ident::with_quote('"', qualifier), ident.clone()]);
        }
    });
    expr
}
