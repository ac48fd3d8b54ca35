//! Subqueries where the planner has none, or not with SQL's three values: EXISTS, IN, ANY and ALL.
//!
//! Invariant: the planner sees EXISTS and IN only as conditions (of WHERE, HAVING, ON, under AND, OR, NOT), where it makes joins of
//! them; everywhere else, and for ANY and ALL with other operators than `= ANY` and `<> ALL`, they become scalar subqueries that count
//! and compare, with NULL where SQL says so.

use super::shapes::parse_query;
use super::{binary, call, nested, null};
use crate::syntax;
use atoll_model::{Error, ErrorKind, Result};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator as Op, Expr, GroupByExpr, Query, Select, SelectItem, SetExpr, UnaryOperator, Value, Visitor,
    VisitorMut,
};
use std::ops::ControlFlow;

/// Rewrites the subqueries of one SELECT's expressions; nested queries are met when the walk reaches them.
///
/// # Errors
/// `NotSupported` for rows compared with subqueries outside of conditions.
pub fn select(select: &mut Select) -> Result<()> {
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } = item {
            value(e)?;
        }
    }
    for e in select.selection.iter_mut().chain(&mut select.having) {
        no_windows(e)?;
        condition(e, false)?;
    }
    if let GroupByExpr::Expressions(items, _) = &mut select.group_by {
        for e in items {
            value(e)?;
        }
    }
    Ok(())
}

/// Window functions are computed after WHERE and HAVING.
fn no_windows(expr: &Expr) -> Result<()> {
    let mut depth = 0usize;
    struct Windows<'a>(&'a mut usize);
    impl Visitor for Windows<'_> {
        type Break = ();
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            *self.0 += 1;
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            *self.0 -= 1;
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(f) if f.over.is_some() && *self.0 == 0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    if syntax::visit(expr, &mut Windows(&mut depth)).is_break() {
        return Err(Error::new(ErrorKind::Windowing, "window functions are not allowed in WHERE and HAVING"));
    }
    Ok(())
}

/// An expression that is a condition; `negated`: it stands under NOT, where "unknown" and "no" differ.
fn condition(expr: &mut Expr, negated: bool) -> Result<()> {
    match expr {
        Expr::Nested(inner) => condition(inner, negated),
        Expr::UnaryOp { op: UnaryOperator::Not, expr: inner } => condition(inner, !negated),
        Expr::AnyOp { right, .. } | Expr::AllOp { right, .. }
            if !negated && !matches!(right.as_ref(), Expr::Subquery(_)) =>
        {
            Ok(())
        }
        Expr::BinaryOp { left, op: Op::And, right } => {
            condition(left, negated)?;
            condition(right, negated)
        }
        Expr::BinaryOp { left, op: Op::Or, right } => {
            // Under OR, the planner's joins tell "no" and "unknown" apart no longer; NOT makes that a difference.
            for side in [left, right] {
                if has_not(side) { value(side)? } else { condition(side, negated)? }
            }
            Ok(())
        }
        Expr::Exists { .. } => Ok(()),
        Expr::InSubquery { expr: inner, subquery, negated } => {
            let Expr::Tuple(items) = inner.as_ref() else { return Ok(()) };
            if *negated {
                return Err(Error::unsupported("NOT IN of rows over a subquery").hint("Use NOT EXISTS."));
            }
            let columns: Vec<String> = (1..=items.len()).map(|n| format!("\"row {n}\"")).collect();
            let list = columns.join(", ");
            let conditions: Vec<String> =
                columns.iter().zip(items).map(|(c, item)| format!("\"the row\".{c} = ({item})")).collect();
            let sql = format!("SELECT 1 FROM ({subquery}) AS \"the row\" ({list}) WHERE {}", conditions.join(" AND "));
            *expr = Expr::Exists { subquery: Box::new(parse_query(&sql)?), negated: false };
            Ok(())
        }
        Expr::AnyOp { left, compare_op: Op::Eq, right, .. } if matches!(right.as_ref(), Expr::Subquery(_)) => {
            let left = std::mem::replace(left, Box::new(null()));
            let Expr::Subquery(subquery) = std::mem::replace(right.as_mut(), null()) else { return Ok(()) };
            *expr = Expr::InSubquery { expr: left, subquery, negated: false };
            condition(expr, negated)
        }
        Expr::AllOp { left, compare_op: Op::NotEq, right } if matches!(right.as_ref(), Expr::Subquery(_)) => {
            let left = std::mem::replace(left, Box::new(null()));
            let Expr::Subquery(subquery) = std::mem::replace(right.as_mut(), null()) else { return Ok(()) };
            *expr = Expr::InSubquery { expr: left, subquery, negated: true };
            condition(expr, negated)
        }
        other => value(other),
    }
}

fn has_not(expr: &Expr) -> bool {
    syntax::any_expression(expr, |e| {
        matches!(e, Expr::UnaryOp { op: UnaryOperator::Not, .. } | Expr::InSubquery { negated: true, .. })
    })
}

/// An expression whose value is asked for.
fn value(expr: &mut Expr) -> Result<()> {
    struct Values {
        depth: usize,
    }
    impl VisitorMut for Values {
        type Break = Error;

        fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
            self.depth += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
            if self.depth > 0 {
                return ControlFlow::Continue(());
            }
            match as_value(expr) {
                Ok(Some(made)) => {
                    *expr = made;
                    ControlFlow::Continue(())
                }
                Ok(None) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        }
    }
    syntax::try_visit_mut(expr, &mut Values { depth: 0 })
}

fn as_value(expr: &Expr) -> Result<Option<Expr>> {
    Ok(Some(match expr {
        Expr::Exists { subquery, negated } => {
            let counted = scalar(&count_rows(subquery))?;
            binary(counted, if *negated { Op::Eq } else { Op::Gt }, number(0))
        }
        Expr::InSubquery { expr: left, subquery, negated } => {
            let any = compared(left, &Op::Eq, subquery, true)?;
            if *negated { Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(nested(any)) } } else { any }
        }
        Expr::AnyOp { left, compare_op, right, .. } => match right.as_ref() {
            Expr::Subquery(subquery) => compared(left, compare_op, subquery, true)?,
            Expr::Value(_) => return Ok(None),
            // The planner leaves an array's NULLs out.
            array => nested(binary(expr.clone(), Op::Or, call("atoll_null_within", vec![array.clone()]))),
        },
        Expr::AllOp { left, compare_op, right } => match right.as_ref() {
            Expr::Subquery(subquery) => compared(left, compare_op, subquery, false)?,
            Expr::Value(_) => return Ok(None),
            array => {
                let unknown = call("atoll_null_within", vec![array.clone()]);
                let not = Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(unknown) };
                nested(binary(expr.clone(), Op::And, not))
            }
        },
        _ => return Ok(None),
    }))
}

fn number(n: i64) -> Expr {
    Expr::value(Value::Number(n.to_string(), false))
}

fn scalar(sql: &str) -> Result<Expr> {
    Ok(nested(Expr::Subquery(Box::new(parse_query(sql)?))))
}

/// A SELECT of which only the rows count: no grouping, no limit, no aggregates.
fn simple(query: &Query) -> Option<&Select> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(e, _) if e.is_empty());
    let calls = select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => {
            syntax::any_expression(e, |e| matches!(e, Expr::Function(_)))
        }
        _ => false,
    });
    let plain = query.with.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && select.distinct.is_none()
        && select.having.is_none()
        && !grouped
        && !calls;
    plain.then_some(select)
}

fn count_rows(query: &Query) -> String {
    match simple(query) {
        Some(select) => {
            let mut select = select.clone();
            let mut counted = parse_query("SELECT count(*)").unwrap_or_else(|_| query.clone());
            if let SetExpr::Select(made) = counted.body.as_mut() {
                select.projection = std::mem::take(&mut made.projection);
            }
            select.to_string()
        }
        None => format!("SELECT count(*) FROM ({query}) AS \"some rows\""),
    }
}

/// `left op ANY (…)` or `left op ALL (…)`: decided by the least and the greatest value, by whether there are any, and by NULLs.
fn compared(left: &Expr, op: &Op, query: &Query, any: bool) -> Result<Expr> {
    if matches!(left, Expr::Tuple(_)) {
        return Err(Error::unsupported("rows compared with a subquery outside of conditions"));
    }
    let of = |what: &str| match simple(query).map(|s| (s, s.projection.as_slice())) {
        // Correlated subqueries are joined only when nothing stands around them.
        Some((select, [SelectItem::UnnamedExpr(item) | SelectItem::ExprWithAlias { expr: item, .. }])) => {
            let mut bare = select.clone();
            let made = parse_query(&format!("SELECT {}", what.replace("\"a value\"", &format!("({item})"))))?;
            if let SetExpr::Select(made) = *made.body {
                bare.projection = made.projection;
            }
            scalar(&bare.to_string())
        }
        _ => scalar(&format!("SELECT {what} FROM ({query}) AS \"the values\" (\"a value\")")),
    };
    let against = |what: &str| -> Result<Expr> { Ok(binary(nested(left.clone()), op.clone(), of(what)?)) };
    let (least, greatest) = ("min(\"a value\")", "max(\"a value\")");
    let decided = match (op, any) {
        (Op::Eq, true) => {
            let found =
                format!("SELECT count(*) FROM ({query}) AS \"the values\" (\"a value\") WHERE \"a value\" = ({left})");
            binary(scalar(&found)?, Op::Gt, number(0))
        }
        (Op::NotEq, false) => {
            let found =
                format!("SELECT count(*) FROM ({query}) AS \"the values\" (\"a value\") WHERE \"a value\" = ({left})");
            binary(scalar(&found)?, Op::Eq, number(0))
        }
        (Op::Eq, false) => binary(against(least)?, Op::And, against(greatest)?),
        (Op::NotEq, true) => binary(against(least)?, Op::Or, against(greatest)?),
        (Op::Lt | Op::LtEq, true) | (Op::Gt | Op::GtEq, false) => against(greatest)?,
        (Op::Gt | Op::GtEq, true) | (Op::Lt | Op::LtEq, false) => against(least)?,
        (other, _) => return Err(Error::unsupported(format!("operator {other} with ANY or ALL of a subquery"))),
    };
    let truth = |b: bool| Expr::value(Value::Boolean(b));
    let empty = binary(of("count(*)")?, Op::Eq, number(0));
    let unknown = binary(
        Expr::IsNull(Box::new(nested(left.clone()))),
        Op::Or,
        binary(of("count(*) - count(\"a value\")")?, Op::Gt, number(0)),
    );
    let when = |condition: Expr, result: Expr| datafusion::sql::sqlparser::ast::CaseWhen { condition, result };
    let decision = if any {
        when(nested(decided), truth(true))
    } else {
        when(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(nested(decided)) }, truth(false))
    };
    let template = super::shapes::parse_case()?;
    let Expr::Case { case_token, end_token, .. } = template else {
        return Err(Error::internal("a rewriting is no CASE"));
    };
    Ok(nested(Expr::Case {
        case_token,
        end_token,
        operand: None,
        conditions: vec![when(empty, truth(!any)), decision, when(unknown, null())],
        else_result: Some(Box::new(truth(!any))),
    }))
}
