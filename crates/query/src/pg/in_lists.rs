//! Lists of one and the same expression are kept apart.
//!
//! DataFusion merges `x IN (…)` and `x NOT IN (…)` that meet under AND or OR by set operations on their lists, as if neither `x`
//! nor an item could be NULL: `x IN (1, 2) AND x NOT IN (3, NULL)` became `x IN (1, 2)`, and `NOT (x IN (1) AND x IN (2))` true for a NULL.
//!
//! Invariant: no two lists that such a merge would misread have equal operands. All but the first get theirs through a function
//! that gives back what it is given; the first still tells which fragments and keys to read.

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, lit,
};
use datafusion::optimizer::AnalyzerRule;
use std::sync::{Arc, LazyLock};

/// Runs after the last rule that makes or types expressions.
#[derive(Debug)]
pub(crate) struct ListsApart;

impl AnalyzerRule for ListsApart {
    fn name(&self) -> &str {
        "lists_apart"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let mut number = 0;
        let apart = plan.transform_up_with_subqueries(|node| {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                if !expr.exists(|e| Ok(matches!(e, Expr::InList(_))))? {
                    return Ok(Transformed::no(expr));
                }
                let name = names.save(&expr);
                let kept = expr.transform_up(|e| apart(e, &mut number))?;
                Ok(if kept.transformed { kept.update_data(|e| name.restore(e)) } else { kept })
            })
        })?;
        Ok(apart.data)
    }
}

fn apart(expr: Expr, number: &mut u64) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) = expr else {
        return Ok(Transformed::no(expr));
    };
    // Under OR, lists that are not negated become one, NULLs and all: that is right.
    let shared = if op == Operator::And || negates(&left) || negates(&right) { operands(&left) } else { vec![] };
    if shared.is_empty() || !operands(&right).iter().any(|e| shared.contains(e)) {
        return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
    }
    let shared: Vec<Expr> = shared.into_iter().cloned().collect();
    let right = right.transform_up(|e| {
        Ok(match e {
            Expr::InList(InList { expr, list, negated }) if shared.contains(&expr) => {
                *number += 1;
                let same = ScalarFunction::new_udf(SAME.clone(), vec![*expr, lit(*number)]);
                Transformed::yes(Expr::InList(InList { expr: Box::new(Expr::ScalarFunction(same)), list, negated }))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right: Box::new(right.data) })))
}

/// What lists are asked about, anywhere in an expression.
fn operands(expr: &Expr) -> Vec<&Expr> {
    let mut found = vec![];
    let mut todo = vec![expr];
    while let Some(expr) = todo.pop() {
        match expr {
            Expr::InList(InList { expr, .. }) => found.push(expr.as_ref()),
            Expr::BinaryExpr(BinaryExpr { left, right, .. }) => todo.extend([left.as_ref(), right.as_ref()]),
            Expr::Not(inner) => todo.push(inner),
            _ => {}
        }
    }
    found
}

fn negates(expr: &Expr) -> bool {
    expr.exists(|e| Ok(matches!(e, Expr::Not(_) | Expr::InList(InList { negated: true, .. })))).unwrap_or(true)
}

/// Gives back its first argument; the second, a number, makes calls differ.
static SAME: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::from(Same { signature: Signature::any(2, Volatility::Immutable) })));

#[derive(Debug, PartialEq, Eq, Hash)]
struct Same {
    signature: Signature,
}

impl ScalarUDFImpl for Same {
    fn name(&self) -> &str {
        "atoll_same"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args.first() {
            Some(ty) => Ok(ty.clone()),
            None => internal_err!("atoll_same() of nothing"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match args.arg_fields.first() {
            Some(field) => Ok(field.clone()),
            None => internal_err!("atoll_same() of nothing"),
        }
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(args.args.swap_remove(0))
    }
}
