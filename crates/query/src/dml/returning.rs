//! RETURNING: expressions over the rows that a statement wrote (or removed).

use super::{carried, evaluate, params};
use crate::session::context::StatementContext;
use atoll_model::{Error, ErrorKind, Result, Row, Table};
use atoll_ports::session::ResultColumn;
use datafusion::common::DFSchema;
use datafusion::sql::sqlparser::ast::{Expr, SelectItem};

/// Evaluates a RETURNING list; `None` without one.
///
/// # Errors
/// `UndefinedColumn`, and what the expressions meet.
pub(crate) async fn project(
    cx: &StatementContext,
    table: &Table,
    items: Option<&[SelectItem]>,
    alias: Option<&str>,
    rows: &[Row],
) -> Result<Option<(Vec<ResultColumn>, Vec<Row>)>> {
    let Some(items) = items else { return Ok(None) };
    let (types, schema) = carried(table);
    let df_schema =
        DFSchema::try_from_qualified_schema(alias.unwrap_or(&table.name), &schema).map_err(crate::read::map_error)?;
    let mut names = vec![];
    let mut exprs = vec![];
    for item in items {
        match item {
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                for column in table.columns.iter().filter(|c| !c.hidden) {
                    names.push(column.name.clone());
                    exprs.push(cx.compile(&super::quote(&column.name), &df_schema)?);
                }
            }
            SelectItem::UnnamedExpr(expr) => {
                names.push(output_name(expr));
                exprs.push(cx.compile(&expr.to_string(), &df_schema)?);
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                names.push(params::fold(alias));
                exprs.push(cx.compile(&expr.to_string(), &df_schema)?);
            }
            other => return Err(Error::new(ErrorKind::NotSupported, format!("RETURNING {other}"))),
        }
    }
    let (out_types, out) = evaluate(&exprs, &schema, &types, rows)?;
    let columns = names.into_iter().zip(out_types).map(|(name, ty)| ResultColumn { name, ty }).collect();
    Ok(Some((columns, out)))
}

/// The name that PostgreSQL gives an unnamed output column.
pub(crate) fn output_name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(i) => params::fold(i),
        Expr::CompoundIdentifier(parts) => parts.last().map_or_else(|| "?column?".into(), params::fold),
        Expr::Function(f) => f.name.0.last().and_then(|p| p.as_ident()).map_or_else(|| "?column?".into(), params::fold),
        Expr::Nested(inner) => output_name(inner),
        Expr::Cast { expr, .. } => output_name(expr),
        Expr::Case { .. } => "case".into(),
        _ => "?column?".into(),
    }
}
