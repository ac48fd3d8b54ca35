//! Recognising keyed statements.

use super::formula::Formula;
use super::{Action, Plan, Source, Update};
use crate::dml::{self, params};
use crate::pg::parse::Statement;
use crate::rows;
use crate::session::{context, names};
use crate::syntax::fold;
use atoll_model::{Catalog, Fragmentation, Result, SqlType, Table};
use atoll_ports::session::ResultColumn;
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{
    AssignmentTarget, BinaryOperator, Expr, FromTable, GroupByExpr, Ident, SelectItem, SetExpr, Statement as Ast,
    TableFactor, TableWithJoins,
};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Plan {
    /// The statement as a keyed one; `None`: it is not of that form. `inferred` has the parameters' types so far.
    ///
    /// # Errors
    /// Those of binding its expressions.
    pub(crate) fn of(
        state: &SessionState,
        catalog: &Arc<Catalog>,
        statement: &Statement,
        columns: &[ResultColumn],
        inferred: &mut BTreeMap<usize, SqlType>,
    ) -> Result<Option<Plan>> {
        let Statement::Sql(ast) = statement else { return Ok(None) };
        match ast.as_ref() {
            Ast::Query(query) => {
                let simple = query.with.is_none()
                    && query.order_by.is_none()
                    && query.limit_clause.is_none()
                    && query.fetch.is_none()
                    && query.locks.is_empty();
                let SetExpr::Select(select) = query.body.as_ref() else { return Ok(None) };
                let plain = select.distinct.is_none()
                    && select.top.is_none()
                    && select.having.is_none()
                    && select.qualify.is_none()
                    && select.into.is_none()
                    && select.named_window.is_empty()
                    && matches!(&select.group_by, GroupByExpr::Expressions(e, m) if e.is_empty() && m.is_empty());
                let [from] = select.from.as_slice() else { return Ok(None) };
                let Some((table, alias)) = one_table(catalog, from) else { return Ok(None) };
                if !simple || !plain {
                    return Ok(None);
                }
                let mut positions = vec![];
                for item in &select.projection {
                    match item {
                        SelectItem::Wildcard(options) if options.to_string().is_empty() => {
                            positions.extend((0..table.columns.len()).filter(|p| !table.columns[*p].hidden));
                        }
                        SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => {
                            let Some(at) = column(&table, &alias, e) else { return Ok(None) };
                            positions.push(at);
                        }
                        _ => return Ok(None),
                    }
                }
                // The same column twice would be moved out of the row twice.
                let mut distinct = positions.clone();
                distinct.sort_unstable();
                distinct.dedup();
                if distinct.len() != positions.len() || positions.len() != columns.len() {
                    return Ok(None);
                }
                let action = Action::Select { positions, columns: columns.to_vec() };
                Ok(Self::with_key(catalog, table, &alias, select.selection.as_ref(), inferred, action))
            }
            Ast::Update(update) => {
                let Some((table, alias)) = one_table(catalog, &update.table) else { return Ok(None) };
                if update.from.is_some()
                    || update.returning.is_some()
                    || update.limit.is_some()
                    || !table.checks.is_empty()
                {
                    return Ok(None);
                }
                let Some(plan) =
                    Self::with_key(catalog, table.clone(), &alias, update.selection.as_ref(), inferred, Action::Delete)
                else {
                    return Ok(None);
                };
                let mut assignments = vec![];
                for a in &update.assignments {
                    let AssignmentTarget::ColumnName(name) = &a.target else { return Ok(None) };
                    let [part] = name.0.as_slice() else { return Ok(None) };
                    let Some(at) = part.as_ident().and_then(|i| table.position_of(&fold(i))) else {
                        return Ok(None);
                    };
                    let fixed = table.key.contains(&table.columns[at].id) || table.columns[at].generated.is_some();
                    if fixed
                        || table.columns[at].hidden
                        || assignments.iter().any(|(b, _)| *b == at)
                        || !evaluable(&a.value)
                    {
                        return Ok(None);
                    }
                    assignments.push((at, a.value.clone()));
                }
                let Some(update) = Update::bind(state, &table, &alias, assignments, inferred)? else { return Ok(None) };
                Ok(Some(Plan { action: Action::Update(update), ..plan }))
            }
            Ast::Delete(delete) => {
                let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
                let [from] = from.as_slice() else { return Ok(None) };
                let Some((table, alias)) = one_table(catalog, from) else { return Ok(None) };
                if delete.using.is_some() || delete.returning.is_some() || delete.limit.is_some() {
                    return Ok(None);
                }
                Ok(Self::with_key(catalog, table, &alias, delete.selection.as_ref(), inferred, Action::Delete))
            }
            _ => Ok(None),
        }
    }

    fn with_key(
        catalog: &Arc<Catalog>,
        table: Arc<Table>,
        alias: &str,
        selection: Option<&Expr>,
        inferred: &mut BTreeMap<usize, SqlType>,
        action: Action,
    ) -> Option<Plan> {
        let mut found: BTreeMap<usize, &Expr> = BTreeMap::new();
        if table.has_hidden_key() || !equalities(&table, alias, selection?, &mut found) {
            return None;
        }
        let key_positions = table.key_positions();
        if found.len() != key_positions.len() {
            return None;
        }
        let mut key = vec![];
        for position in &key_positions {
            let expr = found.get(position)?;
            let ty = &table.columns[*position].ty.without_second_digits();
            key.push(match params::placeholder(expr) {
                Some(at) => {
                    inferred.entry(at).or_insert_with(|| ty.clone());
                    // A parameter of a wider type could be compared without a match, but not converted.
                    if inferred.get(&at) != Some(ty) {
                        return None;
                    }
                    Source::Parameter(at)
                }
                None => {
                    let (from, value) = params::plain_literal(expr)?;
                    // Only what converts without loss stands for the comparison.
                    let exact = matches!(
                        (&from, ty),
                        (SqlType::Int8, SqlType::Int2 | SqlType::Int4 | SqlType::Int8) | (SqlType::Text, _)
                    );
                    if !exact || dml::assign::convert(value.clone(), &from, ty).is_err() {
                        return None;
                    }
                    Source::Literal(from, value)
                }
            });
        }
        let placement = match &table.fragmentation {
            Fragmentation::Derived { direct: false, .. } => None,
            _ => table.fragmentation_positions().iter().map(|p| key_positions.iter().position(|k| k == p)).collect(),
        };
        Some(Plan { catalog: catalog.clone(), table, key, placement, action })
    }
}

impl Update {
    fn bind(
        state: &SessionState,
        table: &Table,
        alias: &str,
        assignments: Vec<(usize, Expr)>,
        inferred: &BTreeMap<usize, SqlType>,
    ) -> Result<Option<Update>> {
        // Parameters are columns after the row's own. All of them must have a type by now.
        let count = inferred.keys().last().map_or(0, |n| n + 1);
        let Some(parameters) = (0..count).map(|n| inferred.get(&n).cloned()).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let mut named: Vec<(String, SqlType)> = table.columns.iter().map(|c| (c.name.clone(), c.ty.clone())).collect();
        named.extend(parameters.iter().enumerate().map(|(n, ty)| (format!("${}", n + 1), ty.clone())));
        let schema = rows::schema_of(named.iter().map(|(n, ty)| (n.as_str(), ty)));
        let df_schema = DFSchema::try_from_qualified_schema(alias, &schema).map_err(crate::read::map_error)?;
        let (mut positions, mut values) = (vec![], vec![]);
        let known = |e: &Expr| column(table, alias, e);
        let formulas = assignments
            .iter()
            .map(|(at, expr)| Formula::of(expr, &table.columns[*at].ty, table, &parameters, &known))
            .collect();
        for (at, mut expr) in assignments {
            let mut unknown = false;
            crate::syntax::change_expressions(&mut expr, |e| {
                if let Some(n) = params::placeholder(e) {
                    unknown |= n >= count;
                    *e = Expr::Identifier(Ident::with_quote('"', format!("${}", n + 1)));
                }
            });
            if unknown {
                return Ok(None);
            }
            positions.push(at);
            values.push(context::compile(state, &expr.to_string(), &df_schema)?);
        }
        let types = named.into_iter().map(|(_, ty)| ty).collect();
        Ok(Some(Update { positions, values, schema, types, parameters, formulas }))
    }
}

/// The table and what it is called in the statement.
fn one_table(catalog: &Catalog, from: &TableWithJoins) -> Option<(Arc<Table>, String)> {
    let TableFactor::Table { name, alias, args: None, with_hints, version: None, sample: None, .. } = &from.relation
    else {
        return None;
    };
    if !from.joins.is_empty() || !with_hints.is_empty() || alias.as_ref().is_some_and(|a| !a.columns.is_empty()) {
        return None;
    }
    let table = catalog.table(&names::relation(name).ok()?)?.clone();
    let alias = alias.as_ref().map_or_else(|| table.name.clone(), |a| fold(&a.name));
    Some((table, alias))
}

/// The visible column that an expression is.
fn column(table: &Table, alias: &str, expr: &Expr) -> Option<usize> {
    let ident = match expr {
        Expr::Identifier(i) => i,
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [qualifier, name] if fold(qualifier) == alias => name,
            _ => return None,
        },
        _ => return None,
    };
    table.position_of(&fold(ident)).filter(|p| !table.columns[*p].hidden)
}

/// Collects `column = literal or parameter`, joined by AND; false: something else is there, or a column twice.
fn equalities<'a>(table: &Table, alias: &str, expr: &'a Expr, found: &mut BTreeMap<usize, &'a Expr>) -> bool {
    match expr {
        Expr::Nested(inner) => equalities(table, alias, inner, found),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            equalities(table, alias, left, found) && equalities(table, alias, right, found)
        }
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            let (at, value) = match (column(table, alias, left), column(table, alias, right)) {
                (Some(at), None) => (at, right.as_ref()),
                (None, Some(at)) => (at, left.as_ref()),
                _ => return false,
            };
            found.insert(at, value).is_none()
        }
        _ => false,
    }
}

/// Whether an expression is made of columns, literals, parameters and arithmetic only: no subqueries, no functions whose value
/// depends on the statement.
fn evaluable(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(i) => i.quote_style.is_some() || !i.value.eq_ignore_ascii_case("default"),
        Expr::CompoundIdentifier(_) | Expr::Value(_) => true,
        Expr::Nested(e) => evaluable(e),
        Expr::UnaryOp { expr, .. } => evaluable(expr),
        Expr::BinaryOp { left, right, op } => {
            use BinaryOperator::{Divide, Minus, Modulo, Multiply, Plus, StringConcat};
            matches!(op, Plus | Minus | Multiply | Divide | Modulo | StringConcat)
                && evaluable(left)
                && evaluable(right)
        }
        _ => false,
    }
}
