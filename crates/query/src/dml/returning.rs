//! RETURNING: expressions over the rows that a statement wrote (or removed), and over the rows of other tables that it joined.
//!
//! What an expression takes from other tables (FROM, USING) is computed by the query that finds the rows, and carried beside them.

use super::{carried, evaluate, quote};
use crate::session::context::{self, StatementContext};
use crate::syntax::{self, fold};
use atoll_model::{ROW_ID_COLUMN, Result, Row, SqlType, Table, Value};
use atoll_ports::session::ResultColumn;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, SelectItem, SelectItemQualifiedWildcardKind};
use std::sync::Arc;

/// Compiles SQL text over rows of a schema.
type Compiler<'a> = dyn Fn(&str, &DFSchema) -> Result<Arc<dyn PhysicalExpr>> + 'a;

/// A RETURNING list, taken apart.
pub(crate) struct Returning {
    items: Vec<Item>,
    /// Expressions over other tables: `"r0"`, `"r1"` … in the items.
    parts: Vec<Expr>,
    /// Other tables all of whose columns are wanted.
    wildcards: Vec<String>,
    /// What the table is called.
    alias: String,
}

/// Begins the name of the column that marks the end of a wildcard's columns.
const END: &str = "returned end ";

#[allow(clippy::large_enum_variant, reason = "a few of them per statement")]
enum Item {
    /// The columns of the table itself.
    Own,
    /// The columns of the nth of `wildcards`.
    Other(usize),
    /// An expression over the row and the parts.
    Expr(String, Expr),
}

/// Columns that the search carries for RETURNING: their types, and for wildcards their names.
pub(crate) struct Carried {
    /// Positions, within the search's extra columns, of those that count (hidden columns do not).
    positions: Vec<usize>,
    names: Vec<String>,
    types: Vec<SqlType>,
    /// How many of them are `parts`; then come the wildcards, with the number of the wildcard for each.
    wildcard_of: Vec<Option<usize>>,
}

impl Returning {
    /// Takes a list apart. `others`: what the joined tables are called.
    ///
    /// # Errors
    /// `NotSupported` for forms that are not PostgreSQL's.
    pub(crate) fn of(
        items: Option<&[SelectItem]>,
        table: &Table,
        alias: &str,
        others: &[String],
    ) -> Result<Option<Returning>> {
        let Some(items) = items else { return Ok(None) };
        let mut made = Returning { items: vec![], parts: vec![], wildcards: vec![], alias: alias.to_owned() };
        for item in items {
            match item {
                SelectItem::Wildcard(_) => {
                    made.items.push(Item::Own);
                    for other in others {
                        made.wildcard(other);
                    }
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(ObjectName(parts)), _) => {
                    let name = parts.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default();
                    if name == alias {
                        made.items.push(Item::Own);
                    } else if others.contains(&name) {
                        made.wildcard(&name);
                    } else {
                        return Err(atoll_model::Error::new(
                            atoll_model::ErrorKind::UndefinedTable,
                            format!("missing FROM-clause entry for table \"{name}\""),
                        ));
                    }
                }
                SelectItem::UnnamedExpr(expr) => made.expression(output_name(expr), expr, table, others),
                SelectItem::ExprWithAlias { expr, alias } => {
                    made.expression(fold(alias), expr, table, others);
                }
                other => return Err(atoll_model::Error::unsupported(format!("RETURNING {other}"))),
            }
        }
        Ok(Some(made))
    }

    fn wildcard(&mut self, other: &str) {
        let at = self.wildcards.iter().position(|w| w == other).unwrap_or_else(|| {
            self.wildcards.push(other.to_owned());
            self.wildcards.len() - 1
        });
        self.items.push(Item::Other(at));
    }

    fn expression(&mut self, name: String, expr: &Expr, table: &Table, others: &[String]) {
        let mut expr = expr.clone();
        if !others.is_empty() {
            syntax::change_expressions(&mut expr, |e| {
                let foreign = match e {
                    Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                        [.., qualifier, _] => fold(qualifier) != self.alias,
                        _ => false,
                    },
                    Expr::Identifier(ident) => table.position_of(&fold(ident)).is_none(),
                    _ => false,
                };
                if foreign {
                    let part = std::mem::replace(e, Expr::Identifier(Ident::with_quote('"', self.part_name())));
                    self.parts.push(part);
                }
            });
        }
        self.items.push(Item::Expr(name, expr));
    }

    fn part_name(&self) -> String {
        format!("returned part {}", self.parts.len())
    }

    /// What the search has to select beside the row.
    pub(crate) fn selected(&self) -> Vec<String> {
        let parts = self.parts.iter().enumerate().map(|(at, e)| format!("{e} AS \"returned part {at}\""));
        let wildcards = self.wildcards.iter().map(|w| format!("{}.*, true AS \"{END}{w}\"", quote(w)));
        parts.chain(wildcards).collect()
    }

    /// What the search gives for [`Returning::selected`].
    ///
    /// # Errors
    /// `NotSupported` for Arrow types without an SQL name.
    pub(crate) fn carried(&self, fields: &Schema, first: usize) -> Result<Carried> {
        let types = context::types_of(fields)?;
        let mut out = Carried { positions: vec![], names: vec![], types: vec![], wildcard_of: vec![] };
        let mut wildcard = 0;
        for (at, (field, ty)) in fields.fields().iter().zip(types).enumerate().skip(first) {
            let part = at - first < self.parts.len();
            if !part && field.name().starts_with(END) {
                wildcard += 1;
                continue;
            }
            if !part && field.name() == ROW_ID_COLUMN {
                continue;
            }
            out.positions.push(at - first);
            out.names.push(field.name().clone());
            out.types.push(ty);
            out.wildcard_of.push((!part).then_some(wildcard));
        }
        Ok(out)
    }

    fn compile(&self, table: &Table, carried_columns: Option<&Carried>, compile: &Compiler<'_>) -> Result<Compiled> {
        let (mut types, own) = carried(table);
        let mut df_schema =
            DFSchema::try_from_qualified_schema(self.alias.as_str(), &own).map_err(crate::read::map_error)?;
        let internal: Vec<String> = match carried_columns {
            None => vec![],
            Some(c) => (0..c.names.len()).map(|at| format!("returned part {at}")).collect(),
        };
        if let Some(c) = carried_columns {
            let schema = crate::rows::schema_of(internal.iter().map(String::as_str).zip(&c.types));
            let other = DFSchema::try_from(schema).map_err(crate::read::map_error)?;
            df_schema = df_schema.join(&other).map_err(crate::read::map_error)?;
            types.extend(c.types.iter().cloned());
        }
        let mut out = Compiled { names: vec![], exprs: vec![], schema: Arc::new(df_schema.as_arrow().clone()), types };
        for item in &self.items {
            match item {
                Item::Own => {
                    for column in table.columns.iter().filter(|c| !c.hidden) {
                        out.names.push(column.name.clone());
                        let sql = format!("{}.{}", quote(&self.alias), quote(&column.name));
                        out.exprs.push(compile(&sql, &df_schema)?);
                    }
                }
                Item::Other(wildcard) => {
                    for (at, name) in carried_columns.iter().flat_map(|c| c.names.iter().enumerate()) {
                        if carried_columns.is_some_and(|c| c.wildcard_of[at] == Some(*wildcard)) {
                            out.names.push(name.clone());
                            out.exprs.push(compile(&quote(&internal[at]), &df_schema)?);
                        }
                    }
                }
                Item::Expr(name, expr) => {
                    out.names.push(name.clone());
                    out.exprs.push(compile(&expr.to_string(), &df_schema)?);
                }
            }
        }
        Ok(out)
    }

    /// The result's columns.
    ///
    /// # Errors
    /// `UndefinedColumn`, and others of binding.
    pub(crate) fn columns(
        &self,
        state: &SessionState,
        table: &Table,
        carried: Option<&Carried>,
    ) -> Result<Vec<ResultColumn>> {
        let compiled = self.compile(table, carried, &|sql, schema| context::compile(state, sql, schema))?;
        compiled
            .names
            .into_iter()
            .zip(&compiled.exprs)
            .map(|(name, expr)| {
                let field = expr.return_field(&compiled.schema).map_err(crate::read::map_error)?;
                Ok(ResultColumn::new(name, SqlType::of_field(&field).unwrap_or(SqlType::Text)))
            })
            .collect()
    }

    /// Evaluates the list. `extra`: for each row, what the search gave for [`Returning::selected`].
    ///
    /// # Errors
    /// `UndefinedColumn`, and what the expressions meet.
    pub(crate) fn project(
        &self,
        cx: &StatementContext,
        table: &Table,
        rows: &[Row],
        extra: Option<(&Carried, &[Vec<Value>])>,
    ) -> Result<(Vec<ResultColumn>, Vec<Row>)> {
        let compiled = self.compile(table, extra.as_ref().map(|(c, _)| *c), &|sql, schema| cx.compile(sql, schema))?;
        let whole: Vec<Row>;
        let rows = match extra {
            None => rows,
            Some((carried, extra)) => {
                whole = rows
                    .iter()
                    .zip(extra)
                    .map(|(row, extra)| {
                        row.iter().cloned().chain(carried.positions.iter().map(|p| extra[*p].clone())).collect()
                    })
                    .collect();
                &whole
            }
        };
        let (out_types, out) = evaluate(&compiled.exprs, &compiled.schema, &compiled.types, rows)?;
        let columns = compiled.names.into_iter().zip(out_types).map(|(name, ty)| ResultColumn::new(name, ty)).collect();
        Ok((columns, out))
    }
}

struct Compiled {
    names: Vec<String>,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    types: Vec<SqlType>,
}

/// The name that PostgreSQL gives an unnamed output column.
pub(crate) fn output_name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(i) => fold(i),
        Expr::CompoundIdentifier(parts) => parts.last().map_or_else(|| "?column?".into(), fold),
        Expr::Function(f) => f.name.0.last().and_then(|p| p.as_ident()).map_or_else(|| "?column?".into(), fold),
        Expr::Nested(inner) => output_name(inner),
        Expr::Cast { expr, .. } => output_name(expr),
        Expr::Case { .. } => "case".into(),
        _ => "?column?".into(),
    }
}
