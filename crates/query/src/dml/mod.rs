//! Statements that change rows: INSERT, UPDATE, DELETE, COPY FROM.
//!
//! All work with *row images*: expressions are evaluated once, here, and what travels to the copies are the resulting rows, so
//! `now()`, `random()`, defaults and serials never differ between copies. In `READ COMMITTED`, a row that changed between the
//! statement's snapshot and its lock makes the statement run again on a newer snapshot, with the locks that it has: what
//! PostgreSQL does row by row (EvalPlanQual), done for the statement as a whole, so a statement sees one snapshot.

pub(crate) mod assign;
mod change;
mod conflict;
pub(crate) mod copy;
mod defaults;
mod insert;
pub(crate) mod params;
pub(crate) mod returning;
pub(crate) mod with;

pub(crate) use change::{delete, search_of, update};
pub(crate) use defaults::fill as fill_defaults;
pub(crate) use insert::{insert, insert_rows};
pub(crate) use with::{changes_rows, changing, run};

use crate::rows;
use crate::session::context::StatementContext;
use crate::syntax::fold;
use atoll_model::{Catalog, Column, Error, ErrorKind, Result, Row, SqlType, Table, Value, text};
use atoll_ports::session::ResultColumn;
use datafusion::arrow::array::{Array, AsArray};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Statement as Ast, With};
use std::sync::Arc;

/// What a statement that changes rows did.
pub(crate) struct Changed {
    /// How many rows.
    pub(crate) rows: u64,
    /// The rows of RETURNING.
    pub(crate) returned: Option<(Vec<ResultColumn>, Vec<Row>)>,
}

/// The columns of a statement's RETURNING.
///
/// # Errors
/// Those of binding names and types.
pub(crate) async fn returned_columns(
    state: &SessionState,
    catalog: &Catalog,
    statement: &Ast,
    with: Option<&With>,
) -> Result<Vec<ResultColumn>> {
    match statement {
        Ast::Insert(statement) => insert::returned_columns(state, catalog, statement),
        other => change::returned_columns(state, catalog, other, with).await,
    }
}

/// The table that a statement writes to.
///
/// # Errors
/// `UndefinedTable`, `WrongObjectType` for views.
pub(crate) fn target(catalog: &Catalog, name: &ObjectName) -> Result<Arc<Table>> {
    let name = crate::session::names::relation(name)?;
    if let Some(table) = catalog.table(&name) {
        return Ok(table.clone());
    }
    if catalog.view(&name).is_some() {
        return Err(Error::new(ErrorKind::WrongObjectType, format!("cannot change view \"{name}\""))
            .hint("Write to the tables that the view reads."));
    }
    if let Some((table, _)) = catalog.fragment(&name) {
        return Err(Error::unsupported(format!("\"{name}\" is a fragment of \"{}\"", table.name))
            .hint(format!("Write to \"{}\": the row finds its fragment.", table.name)));
    }
    Err(Error::new(ErrorKind::UndefinedTable, format!("relation \"{name}\" does not exist")))
}

/// Position of a column that a statement names.
///
/// # Errors
/// `UndefinedColumn`.
pub(crate) fn column_position(table: &Table, name: &Ident) -> Result<usize> {
    let name = fold(name);
    table.position_of(&name).filter(|p| !table.columns[*p].hidden).ok_or_else(|| {
        Error::new(
            ErrorKind::UndefinedColumn,
            format!("column \"{name}\" of relation \"{}\" does not exist", table.name),
        )
    })
}

/// Checks NOT NULL and the table's CHECK constraints for rows about to be written.
///
/// # Errors
/// `NotNullViolation`, `CheckViolation`, with PostgreSQL's detail.
pub(crate) fn check_rows(cx: &StatementContext, table: &Table, rows: &[Row]) -> Result<()> {
    check_not_null(table, rows)?;
    if table.checks.is_empty() || rows.is_empty() {
        return Ok(());
    }
    let (types, schema) = carried(table);
    let batch = rows::to_batch(&schema, &types, rows)?;
    let df_schema =
        DFSchema::try_from_qualified_schema(table.name.as_str(), &schema).map_err(crate::read::map_error)?;
    for check in &table.checks {
        let expr = cx.compile(&check.expression, &df_schema)?;
        let array =
            expr.evaluate(&batch).and_then(|v| v.into_array(batch.num_rows())).map_err(crate::read::map_error)?;
        let Some(passed) = array.as_boolean_opt() else { continue };
        // NULL passes, as the standard says.
        if let Some(bad) = (0..rows.len()).find(|i| passed.is_valid(*i) && !passed.value(*i)) {
            return Err(Error::new(
                ErrorKind::CheckViolation,
                format!("new row for relation \"{}\" violates check constraint \"{}\"", table.name, check.name),
            )
            .detail(failing_row(table, &rows[bad]))
            .constraint(check.name.clone())
            .table(table.name.clone()));
        }
    }
    Ok(())
}

/// Checks NOT NULL alone.
///
/// # Errors
/// `NotNullViolation`, with PostgreSQL's detail.
pub(crate) fn check_not_null(table: &Table, rows: &[Row]) -> Result<()> {
    for (at, column) in table.columns.iter().enumerate() {
        if !column.not_null {
            continue;
        }
        if let Some(row) = rows.iter().find(|r| r[at].is_null()) {
            return Err(Error::new(
                ErrorKind::NotNullViolation,
                format!(
                    "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                    column.name, table.name
                ),
            )
            .detail(failing_row(table, row))
            .table(table.name.clone()));
        }
    }
    Ok(())
}

fn failing_row(table: &Table, row: &[Value]) -> String {
    let shown: Vec<String> = table
        .columns
        .iter()
        .zip(row)
        .filter(|(c, _)| !c.hidden)
        .map(|(c, v)| if v.is_null() { "null".into() } else { text::to_text(&c.ty, v) })
        .collect();
    format!("Failing row contains ({}).", shown.join(", "))
}

/// Types and Arrow schema of a table's whole rows.
pub(crate) fn carried(table: &Table) -> (Vec<SqlType>, datafusion::arrow::datatypes::SchemaRef) {
    let types = table.columns.iter().map(|c| c.ty.clone()).collect();
    let schema = rows::schema_of(table.columns.iter().map(|c| (c.name.as_str(), &c.ty)));
    (types, schema)
}

/// Evaluates compiled expressions over rows: the value of each for each row, with its SQL type.
///
/// # Errors
/// What the expressions meet.
pub(crate) fn evaluate(
    exprs: &[Arc<dyn PhysicalExpr>],
    schema: &datafusion::arrow::datatypes::SchemaRef,
    types: &[SqlType],
    rows: &[Row],
) -> Result<(Vec<SqlType>, Vec<Row>)> {
    let batch = rows::to_batch(schema, types, rows)?;
    let mut out_types = vec![];
    let mut columns = vec![];
    for expr in exprs {
        let field = expr.return_field(schema).map_err(crate::read::map_error)?;
        out_types.push(SqlType::of_field(&field).ok_or_else(|| {
            Error::unsupported(format!("values of Arrow type {} have no SQL type", field.data_type()))
        })?);
        columns
            .push(expr.evaluate(&batch).and_then(|v| v.into_array(batch.num_rows())).map_err(crate::read::map_error)?);
    }
    let mut out: Vec<Row> = vec![Vec::with_capacity(exprs.len()); rows.len()];
    for (column, ty) in columns.into_iter().zip(&out_types) {
        let one = rows::schema_of([("c", ty)]);
        let column = rows::as_carried(&column, ty)?;
        let batch = datafusion::arrow::array::RecordBatch::try_new(one, vec![column])
            .map_err(|e| Error::internal(e.to_string()))?;
        for (row, mut value) in out.iter_mut().zip(rows::from_batch(&batch, std::slice::from_ref(ty))?) {
            row.append(&mut value);
        }
    }
    Ok((out_types, out))
}

/// Quotes a name for SQL.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether a value may be given for a column at all.
///
/// # Errors
/// `Syntax`-class 428C9 in PostgreSQL; here `NotSupported` has no business: the column is GENERATED ALWAYS.
pub(crate) fn refuse_generated_always(column: &Column) -> Result<()> {
    match column.generated {
        Some(atoll_model::Generated::Always(_)) => Err(Error::new(
            ErrorKind::GeneratedAlways,
            format!("cannot insert a non-DEFAULT value into column \"{}\"", column.name),
        )
        .detail(format!("Column \"{}\" is an identity column defined as GENERATED ALWAYS.", column.name))
        .hint("Use OVERRIDING SYSTEM VALUE to override.")),
        _ => Ok(()),
    }
}
