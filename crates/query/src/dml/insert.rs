//! INSERT: rows from VALUES or a query, missing columns filled in, checked, and written where they belong.

use super::assign::assign;
use super::returning::Returning;
use super::{Changed, check_rows, column_position, conflict, defaults, params, refuse_generated_always, target};
use crate::pg::SessionAccess;
use crate::pg::parse::Overriding;
use crate::session::context::StatementContext;
use crate::syntax::fold;
use atoll_model::{Catalog, Error, ErrorKind, Result, Row, SqlType, Table, Value};
use atoll_ports::cluster::TableLock;
use atoll_ports::session::ResultColumn;
use atoll_ports::site::RowChange;
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{Expr, FunctionArguments, Insert, OnInsert, SetExpr, TableObject, With};
use std::sync::Arc;

/// Rows written by one call to the transaction: bounds the memory of `INSERT … SELECT` and COPY beside the write set itself.
const CHUNK: usize = 8192;

/// Runs an INSERT whose parameters are in `cx`; `with` are the names of a WITH around it.
///
/// # Errors
/// Those of evaluation, constraints and writing.
pub(crate) async fn insert(cx: &StatementContext, statement: &Insert, with: Option<&With>) -> Result<Changed> {
    let TableObject::TableName(name) = &statement.table else {
        return Err(Error::unsupported("INSERT into something other than a table"));
    };
    if statement.or.is_some() || statement.ignore || statement.overwrite || statement.replace_into {
        return Err(Error::new(ErrorKind::Syntax, "this form of INSERT is not PostgreSQL's"));
    }
    let table = target(&cx.txn.catalog(), name)?;
    cx.txn.lock_table(&table, TableLock::Write).await?;
    let positions: Vec<usize> = if statement.columns.is_empty() {
        (0..table.columns.len()).filter(|p| !table.columns[*p].hidden).collect()
    } else {
        named_columns(&table, statement)?
    };
    let overriding = Overriding::of(statement);
    let mut source = Source::read(cx, &table, &positions, statement, with).await?;
    if overriding == Some(Overriding::User) {
        source.defaults.take_identities(&table);
    }
    let on_conflict = match &statement.on {
        None => None,
        Some(OnInsert::OnConflict(on)) => Some(conflict::Plan::bind(cx, &table, on, &name_of(statement, &table))?),
        Some(_) => return Err(Error::new(ErrorKind::Syntax, "use ON CONFLICT instead of ON DUPLICATE KEY")),
    };
    let mut rows = source.rows;
    source.defaults.fill(cx, &table, &mut rows).await?;
    let affected = match on_conflict {
        None => {
            insert_rows(cx, &table, &rows).await?;
            rows
        }
        Some(plan) => plan.run(cx, &table, rows).await?,
    };
    let returning = Returning::of(statement.returning.as_deref(), &table, &name_of(statement, &table), &[])?;
    let returned = returning.map(|r| r.project(cx, &table, &affected, None)).transpose()?;
    Ok(Changed { rows: affected.len() as u64, returned })
}

/// What the table is called in ON CONFLICT and RETURNING.
fn name_of(statement: &Insert, table: &Table) -> String {
    statement.table_alias.as_ref().map_or_else(|| table.name.clone(), |a| fold(&a.alias))
}

/// The columns of RETURNING.
///
/// # Errors
/// Those of binding names and types.
pub(crate) fn returned_columns(
    state: &SessionState,
    catalog: &Catalog,
    statement: &Insert,
) -> Result<Vec<ResultColumn>> {
    let TableObject::TableName(name) = &statement.table else { return Ok(vec![]) };
    let table = target(catalog, name)?;
    let returning = Returning::of(statement.returning.as_deref(), &table, &name_of(statement, &table), &[])?;
    returning.map_or(Ok(vec![]), |r| r.columns(state, &table, None))
}

/// Checks and writes whole rows.
///
/// # Errors
/// Those of constraints and writing.
pub(crate) async fn insert_rows(cx: &StatementContext, table: &Arc<Table>, rows: &[Row]) -> Result<()> {
    check_rows(cx, table, rows)?;
    for chunk in rows.chunks(CHUNK) {
        cx.txn.write(table, chunk.iter().cloned().map(RowChange::Insert).collect()).await?;
    }
    Ok(())
}

fn named_columns(table: &Table, statement: &Insert) -> Result<Vec<usize>> {
    let mut positions = vec![];
    for name in &statement.columns {
        let ident = name
            .0
            .last()
            .and_then(|p| p.as_ident())
            .ok_or_else(|| Error::new(ErrorKind::Syntax, format!("\"{name}\" is not a column name")))?;
        let at = column_position(table, ident)?;
        if positions.contains(&at) {
            return Err(Error::new(
                ErrorKind::DuplicateColumn,
                format!("column \"{}\" specified more than once", table.columns[at].name),
            ));
        }
        positions.push(at);
    }
    Ok(positions)
}

/// Which columns of which rows take their default.
struct Defaults {
    /// Columns that no row gives.
    all: Vec<usize>,
    /// Single `DEFAULT`s: (row, column).
    single: Vec<(usize, usize)>,
}

impl Defaults {
    /// Identity columns take the next value, whatever was given.
    fn take_identities(&mut self, table: &Table) {
        for (at, column) in table.columns.iter().enumerate() {
            if column.generated.is_some() && !self.all.contains(&at) {
                self.all.push(at);
                self.single.retain(|(_, column)| *column != at);
            }
        }
    }

    async fn fill(&self, cx: &StatementContext, table: &Table, rows: &mut [Row]) -> Result<()> {
        defaults::fill(cx, table, rows, &self.all).await?;
        for &(row, column) in &self.single {
            defaults::fill(cx, table, std::slice::from_mut(&mut rows[row]), &[column]).await?;
        }
        Ok(())
    }
}

struct Source {
    rows: Vec<Row>,
    defaults: Defaults,
}

impl Source {
    async fn read(
        cx: &StatementContext,
        table: &Table,
        positions: &[usize],
        statement: &Insert,
        with: Option<&With>,
    ) -> Result<Source> {
        let overriding = Overriding::of(statement);
        let width = table.columns.len();
        let Some(query) = &statement.source else {
            // DEFAULT VALUES
            let defaults = Defaults { all: (0..width).collect(), single: vec![] };
            return Ok(Source { rows: vec![vec![Value::Null; width]], defaults });
        };
        let mut query = query.as_ref().clone();
        query.with = super::with::joined(with, query.with.as_ref())?;
        let plain = query.order_by.is_none() && query.limit_clause.is_none();
        let (given, source) = match query.body.as_ref() {
            SetExpr::Values(values) if plain => {
                let lists: Vec<&Vec<Expr>> = values.rows.iter().map(|r| &r.content).collect();
                let given = lists.first().map_or(0, |r| r.len());
                count(positions, statement, given)?;
                let with = query.with.as_ref().map(ToString::to_string).unwrap_or_default();
                let refuse = overriding.is_none();
                (given, Self::from_values(cx, table, &positions[..given], &lists, refuse, &with).await?)
            }
            _ => {
                params::substitute(&mut query, &cx.param_types, &cx.params)?;
                let (types, values) = cx.rows_of_query(query, false).await?;
                count(positions, statement, types.len())?;
                for at in &positions[..types.len()] {
                    if overriding.is_none() {
                        refuse_generated_always(&table.columns[*at])?;
                    }
                }
                let mut rows = Vec::with_capacity(values.len());
                for value in values {
                    let mut row = vec![Value::Null; width];
                    for ((value, ty), at) in value.into_iter().zip(&types).zip(positions) {
                        row[*at] = assign(value, ty, &table.columns[*at])?;
                    }
                    rows.push(row);
                }
                (types.len(), (rows, vec![]))
            }
        };
        let all = (0..width).filter(|p| !positions[..given].contains(p)).collect();
        Ok(Source { rows: source.0, defaults: Defaults { all, single: source.1 } })
    }

    /// Literals, parameters and DEFAULT are taken as they stand; lists with expressions are evaluated by the engine.
    async fn from_values(
        cx: &StatementContext,
        table: &Table,
        positions: &[usize],
        lists: &[&Vec<Expr>],
        refuse_generated: bool,
        with: &str,
    ) -> Result<(Vec<Row>, Vec<(usize, usize)>)> {
        let width = table.columns.len();
        let mut rows = Vec::with_capacity(lists.len());
        let mut single = vec![];
        for (r, list) in lists.iter().enumerate() {
            if list.len() != positions.len() {
                return Err(Error::new(ErrorKind::Syntax, "VALUES lists must all be the same length"));
            }
            let mut row = vec![Value::Null; width];
            for (expr, at) in list.iter().zip(positions) {
                let column = &table.columns[*at];
                if is_default(expr) {
                    single.push((r, *at));
                    continue;
                }
                if refuse_generated {
                    refuse_generated_always(column)?;
                }
                let given = cx.parameter(expr)?.or_else(|| params::plain_literal(expr)).or_else(|| instant(cx, expr));
                let (ty, value) = match given {
                    Some(typed) => typed,
                    None => {
                        let (mut types, mut values) = cx.query_rows(&format!("{with} SELECT {expr}")).await?;
                        let value = values.pop().and_then(|mut r| r.pop()).unwrap_or(Value::Null);
                        (types.pop().unwrap_or(SqlType::Text), value)
                    }
                };
                row[*at] = assign(value, &ty, column)?;
            }
            rows.push(row);
        }
        Ok((rows, single))
    }
}

/// `now()` and `CURRENT_TIMESTAMP`: too common to be planned each time.
fn instant(cx: &StatementContext, expr: &Expr) -> Option<(SqlType, Value)> {
    let Expr::Function(call) = expr else { return None };
    let [part] = call.name.0.as_slice() else { return None };
    let name = part.as_ident().filter(|i| i.quote_style.is_none())?;
    let bare = match &call.args {
        FunctionArguments::None => name.value.eq_ignore_ascii_case("current_timestamp"),
        FunctionArguments::List(list) => list.args.is_empty() && name.value.eq_ignore_ascii_case("now"),
        FunctionArguments::Subquery(_) => false,
    };
    let plain = call.over.is_none() && call.filter.is_none() && call.within_group.is_empty();
    (bare && plain).then(|| (SqlType::TimestampTz(None), Value::TimestampTz(cx.access.transaction_start())))
}

pub(super) fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"))
}

fn count(positions: &[usize], statement: &Insert, given: usize) -> Result<()> {
    if given > positions.len() {
        return Err(Error::new(ErrorKind::Syntax, "INSERT has more expressions than target columns"));
    }
    if given < positions.len() && !statement.columns.is_empty() {
        return Err(Error::new(ErrorKind::Syntax, "INSERT has more target columns than expressions"));
    }
    Ok(())
}
