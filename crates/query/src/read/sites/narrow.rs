//! Narrowing: what a join has learned of its other side becomes a condition of the site's statement, so that rows without a partner do not
//! come at all (semijoins: Bernstein and Chiu, *Using semi-joins to solve relational queries*, JACM 1981).
//!
//! Invariant: the condition holds of every row that the filter lets through. What cannot be said to a site is left out: the join drops
//! those rows in any case.

use super::expr::{compare, constant, is_in, textual};
use atoll_ports::query::{Comparison, Output, SiteExpr, SiteQuery};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, DynamicFilterPhysicalExpr, InListExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use std::sync::Arc;

/// Values of a join's one side that those who read the other are told, at most, and the bytes that they have: a statement that is larger than
/// the rows that it spares is not worth it.
pub(in crate::read) const SEMIJOIN_VALUES: usize = 5000;
pub(in crate::read) const SEMIJOIN_BYTES: usize = 256 << 10;

/// Whether conditions on the outputs are conditions on the rows that are read.
pub(super) fn can_narrow(query: &SiteQuery) -> bool {
    let cut = query.limit.is_some() || query.offset > 0;
    query.group.is_none() && query.having.is_empty() && !cut && !query.outputs.iter().any(|o| o.expr.has_window())
}

/// The query with what filters over its outputs say now; `None`: that is nothing.
pub(super) fn narrowed(query: &SiteQuery, filters: &[Arc<dyn PhysicalExpr>]) -> Option<SiteQuery> {
    let known: Vec<Arc<dyn PhysicalExpr>> = filters.iter().filter_map(current).collect();
    let conditions: Vec<SiteExpr> = known
        .iter()
        .flat_map(|filter| split_conjunction(filter))
        .filter_map(|part| condition(&query.outputs, part))
        .collect();
    if conditions.is_empty() {
        return None;
    }
    let mut query = query.clone();
    query.filter.extend(conditions);
    Some(query)
}

/// What a filter that grows says now.
fn current(filter: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
    match filter.downcast_ref::<DynamicFilterPhysicalExpr>() {
        Some(growing) => growing.current().ok(),
        None => Some(filter.clone()),
    }
}

fn condition(outputs: &[Output], part: &Arc<dyn PhysicalExpr>) -> Option<SiteExpr> {
    if let Some(list) = part.downcast_ref::<InListExpr>() {
        let column = column(outputs, list.expr())?;
        if list.negated() || list.len() > SEMIJOIN_VALUES {
            return None;
        }
        let values = list.list().iter().map(|value| value_beside(&column, value)).collect::<Option<Vec<_>>>()?;
        return is_in(column, values).ok();
    }
    let comparison = part.downcast_ref::<BinaryExpr>()?;
    let how = match comparison.op() {
        Operator::Eq => Comparison::Equal,
        Operator::Lt => Comparison::Less,
        Operator::LtEq => Comparison::LessOrEqual,
        Operator::Gt => Comparison::Greater,
        Operator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    };
    let column = column(outputs, comparison.left())?;
    // Bounds of texts spare little, and no index of the site's has their order.
    if textual(&column.ty()) && how != Comparison::Equal {
        return None;
    }
    let value = value_beside(&column, comparison.right())?;
    compare(how, column, value).ok()
}

/// The column of a source that an output is.
fn column(outputs: &[Output], expr: &Arc<dyn PhysicalExpr>) -> Option<SiteExpr> {
    let output = outputs.get(expr.downcast_ref::<Column>()?.index())?;
    matches!(output.expr, SiteExpr::Column { .. }).then(|| output.expr.clone())
}

fn value_beside(column: &SiteExpr, expr: &Arc<dyn PhysicalExpr>) -> Option<SiteExpr> {
    let value = expr.downcast_ref::<Literal>()?.value();
    constant(value, Some(column.ty())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_model::{SqlType, Value};
    use atoll_ports::query::WindowFunction;
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::physical_expr::expressions::{binary, col, in_list, lit};

    fn query() -> SiteQuery {
        let output = |position: usize, ty: SqlType| Output {
            expr: SiteExpr::Column { source: 0, position, ty: ty.clone() },
            name: format!("c{position}"),
            ty,
            nullable: true,
        };
        SiteQuery {
            sources: vec![],
            filter: vec![],
            group: None,
            having: vec![],
            outputs: vec![output(0, SqlType::Text), output(1, SqlType::Int4)],
            order: vec![],
            offset: 0,
            limit: None,
            batch_size: 1,
        }
    }

    #[test]
    fn what_is_known_becomes_conditions() -> datafusion::common::Result<()> {
        let schema = Schema::new(vec![Field::new("c0", DataType::Utf8, true), Field::new("c1", DataType::Int32, true)]);
        let column = |name: &str| col(name, &schema);
        let texts = in_list(column("c0")?, vec![lit("a"), lit("it's")], &false, &schema)?;
        let above = binary(column("c1")?, Operator::GtEq, lit(5i32), &schema)?;
        let text_above = binary(column("c0")?, Operator::GtEq, lit("a"), &schema)?;
        let known = binary(binary(text_above, Operator::And, above, &schema)?, Operator::And, texts, &schema)?;
        let growing = Arc::new(DynamicFilterPhysicalExpr::new(vec![column("c0")?, column("c1")?], lit(true)));
        let filter = growing.clone() as Arc<dyn PhysicalExpr>;
        assert!(narrowed(&query(), std::slice::from_ref(&filter)).is_none());
        growing.update(known)?;
        let narrowed = narrowed(&query(), &[filter]).map(|query| query.filter);
        let outputs = query().outputs;
        let text = |t: &str| SiteExpr::Value(SqlType::Text, Value::Text(t.into()));
        let five = SiteExpr::Value(SqlType::Int4, Value::Int4(5));
        let expected = vec![
            SiteExpr::Compare(Comparison::GreaterOrEqual, Box::new(outputs[1].expr.clone()), Box::new(five)),
            SiteExpr::In(Box::new(outputs[0].expr.clone()), vec![text("a"), text("it's")]),
        ];
        assert_eq!(narrowed, Some(expected));
        Ok(())
    }

    #[test]
    fn groups_limits_and_windows_are_not_narrowed() {
        let query = query();
        assert!(can_narrow(&query));
        let function = WindowFunction::RowNumber;
        let expr = SiteExpr::Window { function, partition: vec![], order: vec![], ty: SqlType::Int8 };
        let number = Output { expr, ..query.outputs[1].clone() };
        assert!(!can_narrow(&SiteQuery { outputs: vec![number], ..query.clone() }));
        assert!(!can_narrow(&SiteQuery { limit: Some(1), ..query.clone() }));
        assert!(!can_narrow(&SiteQuery { group: Some(vec![]), ..query }));
    }
}
