//! UPDATE and DELETE: find rows and their new values in one query, lock them, write.

use super::assign::assign;
use super::insert::is_default;
use super::returning::Returning;
use super::{Changed, check_rows, column_position, defaults, quote, refuse_generated_always, target};
use crate::session::context::{self, StatementContext};
use crate::session::locking;
use crate::syntax::fold;
use atoll_model::{Catalog, Error, ErrorKind, Result, Row, SqlType, Table, Value};
use atoll_ports::cluster::{FragmentRef, TableLock};
use atoll_ports::session::ResultColumn;
use atoll_ports::site::{LockMode, LockWait, RowChange};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, FunctionArg, FunctionArgExpr, FunctionArguments, SelectItem,
    SetExpr, Statement as Ast, TableFactor, TableWithJoins, Update, UpdateTableFromKind, With,
};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// How often a statement may meet rows that changed under it before it gives up with 40001. Each time it holds more locks, so this
/// is reached only when ever new rows come into its reach.
const MAX_RETRIES: u32 = 100;

/// Runs an UPDATE; `with` are the names of a WITH around it.
///
/// # Errors
/// Those of evaluation, locks, constraints and writing.
pub(crate) async fn update(cx: &StatementContext, statement: &Update, with: Option<&With>) -> Result<Changed> {
    let catalog = cx.txn.catalog();
    let (search, returning, assignments) = of_update(&catalog, statement, with)?;
    let table = search.table.clone();
    let mut found = search.run(cx).await?;

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
    let extra = found.take_extra(width + search.values.len());
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
    let returned = project(cx, &search, returning.as_ref(), &found.schema, &new_rows, &extra)?;
    Ok(Changed { rows: new_rows.len() as u64, returned })
}

/// Runs a DELETE; `with` are the names of a WITH around it.
///
/// # Errors
/// Those of evaluation, locks, foreign keys and writing.
pub(crate) async fn delete(cx: &StatementContext, statement: &Delete, with: Option<&With>) -> Result<Changed> {
    let catalog = cx.txn.catalog();
    let (search, returning) = of_delete(&catalog, statement, with)?;
    let mut found = search.run(cx).await?;
    let extra = found.take_extra(search.table.columns.len());
    let rows = found.rows;
    cx.txn.write(&search.table, rows.iter().cloned().map(RowChange::Delete).collect()).await?;
    let returned = project(cx, &search, returning.as_ref(), &found.schema, &rows, &extra)?;
    Ok(Changed { rows: rows.len() as u64, returned })
}

type Assignments = Vec<(usize, Option<Expr>)>;

fn of_update(
    catalog: &Catalog,
    statement: &Update,
    with: Option<&With>,
) -> Result<(Search, Option<Returning>, Assignments)> {
    if statement.limit.is_some() || !statement.order_by.is_empty() {
        return Err(Error::new(ErrorKind::Syntax, "UPDATE takes neither ORDER BY nor LIMIT"));
    }
    let (table, alias) = target_of(catalog, &statement.table)?;
    let from = match &statement.from {
        None => &[][..],
        Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => from.as_slice(),
    };
    let assignments = bind_assignments(&table, &statement.assignments)?;
    let returning = Returning::of(statement.returning.as_deref(), &table, &alias, &names_of(from))?;
    let search = Search {
        with: with.map(ToString::to_string),
        table,
        alias,
        from: list(from),
        selection: statement.selection.clone(),
        values: assignments.iter().filter_map(|(_, e)| e.as_ref().map(|e| e.to_string())).collect(),
        extra: returning.as_ref().map(Returning::selected).unwrap_or_default(),
    };
    Ok((search, returning, assignments))
}

fn of_delete(catalog: &Catalog, statement: &Delete, with: Option<&With>) -> Result<(Search, Option<Returning>)> {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &statement.from;
    let [from] = from.as_slice() else {
        return Err(Error::new(ErrorKind::Syntax, "DELETE takes one table; further ones go after USING"));
    };
    if statement.limit.is_some() || !statement.order_by.is_empty() {
        return Err(Error::new(ErrorKind::Syntax, "DELETE takes neither ORDER BY nor LIMIT"));
    }
    let (table, alias) = target_of(catalog, from)?;
    let using = statement.using.as_deref().unwrap_or_default();
    let returning = Returning::of(statement.returning.as_deref(), &table, &alias, &names_of(using))?;
    let search = Search {
        with: with.map(ToString::to_string),
        table,
        alias,
        from: list(using),
        selection: statement.selection.clone(),
        values: vec![],
        extra: returning.as_ref().map(Returning::selected).unwrap_or_default(),
    };
    Ok((search, returning))
}

/// The search of an UPDATE or DELETE as SQL, for EXPLAIN; with the table's name.
///
/// # Errors
/// Those of binding names.
pub(crate) fn search_of(catalog: &Catalog, statement: &Ast, with: Option<&With>) -> Result<Option<(String, String)>> {
    let search = match statement {
        Ast::Update(statement) => of_update(catalog, statement, with)?.0,
        Ast::Delete(statement) => of_delete(catalog, statement, with)?.0,
        _ => return Ok(None),
    };
    Ok(Some((search.sql(), search.table.name.clone())))
}

/// The columns of RETURNING of an UPDATE or DELETE.
///
/// # Errors
/// Those of binding names and types.
pub(crate) async fn returned_columns(
    state: &SessionState,
    catalog: &Catalog,
    statement: &Ast,
    with: Option<&With>,
) -> Result<Vec<ResultColumn>> {
    let (search, returning) = match statement {
        Ast::Update(statement) => {
            let (search, returning, _) = of_update(catalog, statement, with)?;
            (search, returning)
        }
        Ast::Delete(statement) => of_delete(catalog, statement, with)?,
        _ => return Ok(vec![]),
    };
    let Some(returning) = returning else { return Ok(vec![]) };
    if search.extra.is_empty() {
        return returning.columns(state, &search.table, None);
    }
    let sql = format!(
        "{} SELECT {} FROM {} AS {}{}",
        search.with.as_deref().unwrap_or_default(),
        search.extra.join(", "),
        quote(&search.table.name),
        quote(&search.alias),
        search.from
    );
    let plan = context::plan(state, crate::session::sql::parse_one(&sql)?).await?;
    let carried = returning.carried(plan.schema().as_arrow(), 0)?;
    returning.columns(state, &search.table, Some(&carried))
}

type Returned = Option<(Vec<ResultColumn>, Vec<Row>)>;

fn project(
    cx: &StatementContext,
    search: &Search,
    returning: Option<&Returning>,
    schema: &SchemaRef,
    rows: &[Row],
    extra: &[Vec<Value>],
) -> Result<Returned> {
    let Some(returning) = returning else { return Ok(None) };
    if search.extra.is_empty() {
        return returning.project(cx, &search.table, rows, None).map(Some);
    }
    let carried = returning.carried(schema, search.table.columns.len() + search.values.len())?;
    returning.project(cx, &search.table, rows, Some((&carried, extra))).map(Some)
}

fn target_of(catalog: &Catalog, from: &TableWithJoins) -> Result<(Arc<Table>, String)> {
    let TableFactor::Table { name, alias, .. } = &from.relation else {
        return Err(Error::new(ErrorKind::Syntax, "the table to change must be named"));
    };
    if !from.joins.is_empty() {
        return Err(Error::new(ErrorKind::Syntax, "joins go into FROM (UPDATE) or USING (DELETE)"));
    }
    let table = target(catalog, name)?;
    let alias = alias.as_ref().map_or_else(|| table.name.clone(), |a| fold(&a.name));
    Ok((table, alias))
}

/// What the tables of FROM or USING are called.
fn names_of(from: &[TableWithJoins]) -> Vec<String> {
    let mut factors = vec![];
    from.iter().for_each(|f| locking::collect(f, &mut factors));
    factors.into_iter().filter_map(locking::alias_of).collect()
}

fn list(from: &[TableWithJoins]) -> String {
    from.iter().map(|t| format!(", {t}")).collect()
}

/// Columns and what they are set to (`None`: DEFAULT).
///
/// # Errors
/// `UndefinedColumn`, `Syntax` for a column set twice, `GeneratedAlways`.
pub(super) fn bind_assignments(table: &Table, assignments: &[Assignment]) -> Result<Assignments> {
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
            (AssignmentTarget::Tuple(names), value) => {
                for (at, name) in names.iter().enumerate() {
                    bind(name, &nth(value, at, names.len())?)?;
                }
            }
        }
    }
    Ok(bound)
}

/// The nth value of `(…) = ROW (…)` or `(…) = (SELECT …)`.
fn nth(value: &Expr, at: usize, count: usize) -> Result<Expr> {
    let differ = || Error::new(ErrorKind::Syntax, "number of columns does not match number of values");
    match value {
        Expr::Nested(inner) if count == 1 => Ok(inner.as_ref().clone()),
        Expr::Function(f) if f.name.to_string().eq_ignore_ascii_case("row") => match &f.args {
            FunctionArguments::List(list) if list.args.len() == count => match &list.args[at] {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Ok(e.clone()),
                other => Err(Error::new(ErrorKind::Syntax, format!("{other} in a row"))),
            },
            _ => Err(differ()),
        },
        Expr::Subquery(query) => {
            let mut query = query.clone();
            let numbered =
                matches!(&query.order_by, Some(order) if order.to_string().contains(|c: char| c.is_ascii_digit()));
            match query.body.as_mut() {
                SetExpr::Select(select) if select.distinct.is_none() && !numbered => {
                    if select
                        .projection
                        .iter()
                        .any(|i| matches!(i, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)))
                    {
                        return Err(Error::unsupported("assignment of * to several columns").hint("Name the columns."));
                    }
                    if select.projection.len() != count {
                        return Err(differ());
                    }
                    select.projection = vec![select.projection.swap_remove(at)];
                    Ok(Expr::Subquery(query))
                }
                _ => Err(Error::unsupported("assignment of this subquery to several columns")
                    .hint("Write one subquery for each column, or use UPDATE … FROM.")),
            }
        }
        _ => Err(Error::new(
            ErrorKind::NotSupported,
            "source for a multiple-column UPDATE item must be a sub-SELECT or ROW() expression",
        )),
    }
}

/// The query that finds the rows to change and the values to set.
struct Search {
    with: Option<String>,
    table: Arc<Table>,
    alias: String,
    from: String,
    selection: Option<Expr>,
    values: Vec<String>,
    /// What RETURNING needs of other tables.
    extra: Vec<String>,
}

/// Whole rows of the table, each followed by the values to set and what RETURNING needs; with the SQL type of every column.
struct Found {
    schema: SchemaRef,
    types: Vec<SqlType>,
    rows: Vec<Row>,
}

impl Found {
    /// Takes away what is there for RETURNING alone.
    fn take_extra(&mut self, from: usize) -> Vec<Vec<Value>> {
        if self.types.len() == from {
            return vec![];
        }
        self.rows.iter_mut().map(|row| row.split_off(from)).collect()
    }
}

impl Search {
    /// Finds and locks: what it returns is what the newest committed rows are, and nobody else can change them.
    async fn run(&self, cx: &StatementContext) -> Result<Found> {
        cx.txn.lock_table(&self.table, TableLock::Write).await?;
        let sql = self.sql();
        for _ in 0..MAX_RETRIES {
            let (schema, rows) = cx.query_rows_with_hidden(&sql).await?;
            let rows = self.distinct(rows);
            if !self.lock(cx, &rows).await? {
                let types = context::types_of(&schema)?;
                return Ok(Found { schema, types, rows });
            }
            cx.txn.begin_statement().await?;
        }
        Err(Error::new(ErrorKind::SerializationFailure, "rows kept changing under the statement").hint("Run it again."))
    }

    fn sql(&self) -> String {
        let alias = quote(&self.alias);
        let columns =
            self.table.columns.iter().enumerate().map(|(i, c)| format!("{alias}.{} AS \"o{i}\"", quote(&c.name)));
        let values = self.values.iter().enumerate().map(|(i, v)| format!("{v} AS \"n{i}\""));
        let items: Vec<String> = columns.chain(values).chain(self.extra.iter().cloned()).collect();
        let selection = self.selection.as_ref().map(|s| format!(" WHERE {s}")).unwrap_or_default();
        let with = self.with.as_ref().map(|w| format!("{w} ")).unwrap_or_default();
        let items = items.join(", ");
        format!("{with}SELECT {items} FROM {} AS {alias}{}{selection}", quote(&self.table.name), self.from)
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
            let at = cx.txn.place(&self.table, &row[..self.table.columns.len()]).await?;
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
