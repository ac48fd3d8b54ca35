//! UPDATE and DELETE: find rows and their new values in one query, lock them, write.

use super::assign::assign;
use super::insert::is_default;
use super::{
    Changed, check_rows, column_position, defaults, params, quote, refuse_generated_always, returning, target,
};
use crate::session::context::StatementContext;
use atoll_model::{Error, ErrorKind, Result, Row, SqlType, Table, Value};
use atoll_ports::cluster::{FragmentRef, TableLock};
use atoll_ports::site::{LockMode, LockWait, RowChange};
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, TableFactor, TableWithJoins, Update, UpdateTableFromKind,
};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// How often a statement may meet rows that changed under it before it gives up with 40001. Each time it holds more locks, so this
/// is reached only when ever new rows come into its reach.
const MAX_RETRIES: u32 = 100;

/// Runs an UPDATE.
///
/// # Errors
/// Those of evaluation, locks, constraints and writing.
pub(crate) async fn update(cx: &StatementContext, statement: &Update) -> Result<Changed> {
    if statement.limit.is_some() || !statement.order_by.is_empty() {
        return Err(Error::new(ErrorKind::Syntax, "UPDATE takes neither ORDER BY nor LIMIT"));
    }
    let (table, alias) = target_of(cx, &statement.table)?;
    let from = match &statement.from {
        None => String::new(),
        Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => list(from),
    };
    let assignments = bind_assignments(&table, &statement.assignments)?;
    let values: Vec<String> = assignments.iter().filter_map(|(_, e)| e.as_ref().map(|e| e.to_string())).collect();
    let search = Search { table: &table, alias: &alias, from, selection: statement.selection.as_ref(), values };
    let found = search.run(cx).await?;

    let mut new_rows = Vec::with_capacity(found.rows.len());
    let width = table.columns.len();
    for row in &found.rows {
        let mut new = row[..width].to_vec();
        let mut given = row[width..].iter().zip(&found.types[width..]);
        for (at, expr) in &assignments {
            new[*at] = match (expr, expr.as_ref().and_then(|_| given.next())) {
                (Some(_), Some((value, ty))) => assign(value.clone(), ty, &table.columns[*at])?,
                _ => Value::Null,
            };
        }
        new_rows.push(new);
    }
    let defaulted: Vec<usize> = assignments.iter().filter(|(_, e)| e.is_none()).map(|(at, _)| *at).collect();
    defaults::fill(cx, &table, &mut new_rows, &defaulted).await?;
    check_rows(cx, &table, &new_rows)?;
    let changes = found
        .rows
        .into_iter()
        .zip(&new_rows)
        .map(|(mut old, new)| {
            old.truncate(width);
            RowChange::Update { old, new: new.clone() }
        })
        .collect();
    cx.txn.write(&table, changes).await?;
    let returned = returning::project(cx, &table, statement.returning.as_deref(), Some(&alias), &new_rows).await?;
    Ok(Changed { rows: new_rows.len() as u64, returned })
}

/// Runs a DELETE.
///
/// # Errors
/// Those of evaluation, locks, foreign keys and writing.
pub(crate) async fn delete(cx: &StatementContext, statement: &Delete) -> Result<Changed> {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &statement.from;
    let [from] = from.as_slice() else {
        return Err(Error::new(ErrorKind::Syntax, "DELETE takes one table; further ones go after USING"));
    };
    if statement.limit.is_some() || !statement.order_by.is_empty() {
        return Err(Error::new(ErrorKind::Syntax, "DELETE takes neither ORDER BY nor LIMIT"));
    }
    let (table, alias) = target_of(cx, from)?;
    let using = statement.using.as_deref().map(list).unwrap_or_default();
    let search =
        Search { table: &table, alias: &alias, from: using, selection: statement.selection.as_ref(), values: vec![] };
    let rows = search.run(cx).await?.rows;
    cx.txn.write(&table, rows.iter().cloned().map(RowChange::Delete).collect()).await?;
    let returned = returning::project(cx, &table, statement.returning.as_deref(), Some(&alias), &rows).await?;
    Ok(Changed { rows: rows.len() as u64, returned })
}

fn target_of(cx: &StatementContext, from: &TableWithJoins) -> Result<(Arc<Table>, String)> {
    let TableFactor::Table { name, alias, .. } = &from.relation else {
        return Err(Error::new(ErrorKind::Syntax, "the table to change must be named"));
    };
    if !from.joins.is_empty() {
        return Err(Error::new(ErrorKind::Syntax, "joins go into FROM (UPDATE) or USING (DELETE)"));
    }
    let table = target(cx, name)?;
    let alias = alias.as_ref().map_or_else(|| table.name.clone(), |a| params::fold(&a.name));
    Ok((table, alias))
}

fn list(from: &[TableWithJoins]) -> String {
    from.iter().map(|t| format!(", {t}")).collect()
}

/// Columns and what they are set to (`None`: DEFAULT).
fn bind_assignments(table: &Table, assignments: &[Assignment]) -> Result<Vec<(usize, Option<Expr>)>> {
    let mut bound: Vec<(usize, Option<Expr>)> = vec![];
    let mut bind = |name: &datafusion::sql::sqlparser::ast::ObjectName, value: &Expr| -> Result<()> {
        let [part] = name.0.as_slice() else {
            return Err(Error::unsupported(format!("assignment to {name}")).hint("Name the column alone."));
        };
        let ident = part.as_ident().ok_or_else(|| Error::new(ErrorKind::Syntax, format!("assignment to {name}")))?;
        let at = column_position(table, ident)?;
        if bound.iter().any(|(b, _)| *b == at) {
            return Err(Error::new(
                ErrorKind::Syntax,
                format!("multiple assignments to same column \"{}\"", table.columns[at].name),
            ));
        }
        let default = is_default(value);
        if !default {
            refuse_generated_always(&table.columns[at])?;
        }
        bound.push((at, (!default).then(|| value.clone())));
        Ok(())
    };
    for assignment in assignments {
        match (&assignment.target, &assignment.value) {
            (AssignmentTarget::ColumnName(name), value) => bind(name, value)?,
            (AssignmentTarget::Tuple(names), Expr::Tuple(values)) if names.len() == values.len() => {
                for (name, value) in names.iter().zip(values) {
                    bind(name, value)?;
                }
            }
            (AssignmentTarget::Tuple(_), Expr::Tuple(_)) => {
                return Err(Error::new(ErrorKind::Syntax, "number of columns does not match number of values"));
            }
            (AssignmentTarget::Tuple(_), _) => {
                return Err(Error::unsupported("assignment of a subquery to several columns")
                    .hint("Write one subquery for each column, or use UPDATE … FROM."));
            }
        }
    }
    Ok(bound)
}

/// The query that finds the rows to change and the values to set.
struct Search<'a> {
    table: &'a Arc<Table>,
    alias: &'a str,
    from: String,
    selection: Option<&'a Expr>,
    values: Vec<String>,
}

/// Whole rows of the table, each followed by the values to set; with the SQL type of every column.
struct Found {
    types: Vec<SqlType>,
    rows: Vec<Row>,
}

impl Search<'_> {
    /// Finds and locks: what it returns is what the newest committed rows are, and nobody else can change them.
    async fn run(&self, cx: &StatementContext) -> Result<Found> {
        cx.txn.lock_table(self.table, TableLock::Write).await?;
        let sql = self.sql();
        for _ in 0..MAX_RETRIES {
            let (types, rows) = cx.query_rows_with_hidden(&sql).await?;
            let rows = self.distinct(rows);
            if !self.lock(cx, &rows).await? {
                return Ok(Found { types, rows });
            }
            cx.txn.begin_statement().await?;
        }
        Err(Error::new(ErrorKind::SerializationFailure, "rows kept changing under the statement").hint("Run it again."))
    }

    fn sql(&self) -> String {
        let alias = quote(self.alias);
        let columns =
            self.table.columns.iter().enumerate().map(|(i, c)| format!("{alias}.{} AS \"o{i}\"", quote(&c.name)));
        let values = self.values.iter().enumerate().map(|(i, v)| format!("{v} AS \"n{i}\""));
        let items: Vec<String> = columns.chain(values).collect();
        let selection = self.selection.map(|s| format!(" WHERE {s}")).unwrap_or_default();
        format!("SELECT {} FROM {} AS {alias}{}{selection}", items.join(", "), quote(&self.table.name), self.from)
    }

    /// With FROM, a row may be found several times: PostgreSQL takes one of them, so does this.
    fn distinct(&self, rows: Vec<Row>) -> Vec<Row> {
        if self.from.is_empty() {
            return rows;
        }
        let positions = self.table.key_positions();
        let mut seen = HashSet::new();
        rows.into_iter()
            .filter(|row| seen.insert(positions.iter().map(|p| format!("{:?}", row[*p])).collect::<Vec<_>>()))
            .collect()
    }

    /// Locks the rows; true: one of them is no longer what the query saw.
    async fn lock(&self, cx: &StatementContext, rows: &[Row]) -> Result<bool> {
        let mut keys: BTreeMap<usize, Vec<Vec<Value>>> = BTreeMap::new();
        for row in rows {
            let at = cx.txn.place(self.table, &row[..self.table.columns.len()]).await?;
            keys.entry(at).or_default().push(self.table.key_of(row));
        }
        let mut changed = false;
        for (at, mut keys) in keys {
            // One order for all: two statements over the same rows do not lock them crosswise.
            keys.sort_by(|a, b| {
                let mut pairs = a.iter().zip(b);
                pairs.find_map(|(x, y)| x.compare(y).filter(|o| o.is_ne())).unwrap_or(std::cmp::Ordering::Equal)
            });
            let fragment = FragmentRef { table: self.table.clone(), at };
            let locked = cx.txn.lock(&fragment, &keys, LockMode::Exclusive, LockWait::Wait).await?;
            changed |= locked.iter().any(|l| l.changed);
        }
        Ok(changed)
    }
}
