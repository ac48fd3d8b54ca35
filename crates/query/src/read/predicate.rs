//! What a predicate says of the columns of one table: domains for reduction, ranges of keys for scans.
//!
//! Invariant: everything here is a *necessary* condition. A row for which the predicate is true lies in every domain, in one of
//! the fragments and in one of the ranges that are computed here; the predicate itself is evaluated again above the scan. A WHERE
//! clause keeps a row only when it is true, so NULL may be treated as false throughout.

use crate::rows;
use atoll_model::{ColumnId, Domain, FragmentBounds, Fragmentation, SqlType, Table, Value};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use std::cmp::Ordering;
use std::ops::Bound;

/// Longest OR that is looked into; a longer one keeps all fragments.
const MAX_DISJUNCTS: usize = 64;

/// Domains of columns, one per column at most.
pub(crate) type Domains = Vec<(ColumnId, Domain)>;

/// What every one of these predicates together says of the table's columns.
pub(crate) fn domains(table: &Table, filters: &[Expr]) -> Domains {
    let mut out = Domains::new();
    for filter in filters {
        collect(table, filter, &mut out);
    }
    out
}

fn collect(table: &Table, expr: &Expr, out: &mut Domains) {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            collect(table, left, out);
            collect(table, right, out);
        }
        Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
            for (column, domain) in disjunction(table, expr) {
                narrow(out, column, domain);
            }
        }
        _ => {
            if let Some((column, domain)) = simple(table, expr) {
                narrow(out, column, domain);
            }
        }
    }
}

/// A union of domains for each column that every disjunct speaks of.
fn disjunction(table: &Table, expr: &Expr) -> Domains {
    let disjuncts = split(expr, Operator::Or);
    if disjuncts.len() > MAX_DISJUNCTS {
        return vec![];
    }
    let mut each = disjuncts.iter().map(|d| domains(table, std::slice::from_ref(*d)));
    let Some(mut union) = each.next() else { return vec![] };
    for other in each {
        union = union
            .into_iter()
            .filter_map(|(c, a)| {
                let (_, b) = other.iter().find(|(d, _)| *d == c)?;
                Some((c, join(a, b.clone())?))
            })
            .collect();
    }
    union
}

/// The conjuncts or disjuncts of an expression.
fn split(expr: &Expr, by: Operator) -> Vec<&Expr> {
    let (mut todo, mut out) = (vec![expr], vec![]);
    while let Some(next) = todo.pop() {
        match next {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if *op == by => {
                todo.extend([right.as_ref(), left.as_ref()])
            }
            other => out.push(other),
        }
    }
    out
}

/// The fragments that can hold rows for which all of the predicates are true, ascending. An OR is reduced branch by branch, which
/// says more than the union of its domains.
pub(crate) fn reduce(table: &Table, filters: &[Expr]) -> Vec<usize> {
    let conjuncts: Vec<&Expr> = filters.iter().flat_map(|f| split(f, Operator::And)).collect();
    let mut kept = table.reduce(&domains(table, filters));
    for conjunct in conjuncts {
        if kept.len() < 2 {
            break;
        }
        match conjunct {
            Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
                let disjuncts = split(conjunct, Operator::Or);
                if disjuncts.len() <= MAX_DISJUNCTS {
                    let mut any = vec![];
                    for disjunct in disjuncts {
                        any.extend(reduce(table, std::slice::from_ref(disjunct)));
                    }
                    kept.retain(|at| any.contains(at));
                }
            }
            _ => {
                if let Some((column, excluded)) = exclusion(table, conjunct) {
                    kept.retain(|at| !is_excluded(table, *at, column, &excluded));
                }
            }
        }
    }
    kept
}

/// `column <> a`, `column NOT IN (a, b)`: the values that a row cannot have (nor NULL, for which the comparison is not true).
fn exclusion(table: &Table, expr: &Expr) -> Option<(ColumnId, Vec<Value>)> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::NotEq, right }) => {
            let (column, value) = match (column_of(table, left), column_of(table, right)) {
                (Some(c), None) => (c, literal(right)?),
                (None, Some(c)) => (c, literal(left)?),
                _ => return None,
            };
            Some((table.columns[column].id, vec![convert(&value, &table.columns[column].ty)?]))
        }
        Expr::InList(list) if list.negated => {
            let column = column_of(table, &list.expr)?;
            let ty = &table.columns[column].ty;
            let values = list.list.iter().filter_map(|e| convert(&literal(e)?, ty)).collect();
            Some((table.columns[column].id, values))
        }
        _ => None,
    }
}

/// Whether all rows of a list fragment have excluded values.
fn is_excluded(table: &Table, at: usize, column: ColumnId, excluded: &[Value]) -> bool {
    match (&table.fragmentation, &table.fragments[at].bounds) {
        (Fragmentation::List(c), FragmentBounds::List(values)) if *c == column => {
            values.iter().all(|v| v.is_null() || excluded.iter().any(|e| e.matches(v)))
        }
        _ => false,
    }
}

/// One comparison of a column with constants.
fn simple(table: &Table, expr: &Expr) -> Option<(ColumnId, Domain)> {
    let found = |column: usize, domain| Some((table.columns[column].id, domain));
    let truth = |column: usize, value: bool| {
        (table.columns[column].ty == SqlType::Bool)
            .then(|| (table.columns[column].id, Domain::Values(vec![Value::Bool(value)])))
    };
    match expr {
        Expr::Column(_) => truth(column_of(table, expr)?, true),
        Expr::Not(inner) | Expr::IsFalse(inner) => truth(column_of(table, inner)?, false),
        Expr::IsTrue(inner) => truth(column_of(table, inner)?, true),
        Expr::IsNull(inner) => found(column_of(table, inner)?, Domain::Values(vec![Value::Null])),
        Expr::IsNotNull(inner) => found(column_of(table, inner)?, Domain::Range(Bound::Unbounded, Bound::Unbounded)),
        Expr::Between(between) if !between.negated => {
            let column = column_of(table, &between.expr)?;
            let bound = |e| {
                literal(e)
                    .and_then(|v| convert(&v, &table.columns[column].ty))
                    .map_or(Bound::Unbounded, Bound::Included)
            };
            found(column, Domain::Range(bound(&between.low), bound(&between.high)))
        }
        Expr::InList(list) if !list.negated => {
            let column = column_of(table, &list.expr)?;
            let mut values: Vec<Value> = vec![];
            for item in &list.list {
                match membership(&literal(item)?, &table.columns[column].ty)? {
                    Some(v) if !values.iter().any(|w| w.matches(&v)) => values.push(v),
                    _ => {}
                }
            }
            found(column, Domain::Values(values))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (column, op, constant) = match column_of(table, left) {
                Some(column) => (column, *op, right),
                None => (column_of(table, right)?, op.swap()?, left),
            };
            let (ty, scalar) = (&table.columns[column].ty, literal(constant)?);
            if scalar.is_null() {
                return found(column, Domain::Values(vec![]));
            }
            if op == Operator::Eq {
                return found(column, Domain::Values(membership(&scalar, ty)?.into_iter().collect()));
            }
            let value = convert(&scalar, ty)?;
            let domain = match op {
                Operator::Lt => Domain::Range(Bound::Unbounded, Bound::Excluded(value)),
                Operator::LtEq => Domain::Range(Bound::Unbounded, Bound::Included(value)),
                Operator::Gt => Domain::Range(Bound::Excluded(value), Bound::Unbounded),
                Operator::GtEq => Domain::Range(Bound::Included(value), Bound::Unbounded),
                _ => return None,
            };
            found(column, domain)
        }
        _ => None,
    }
}

/// Position of the column that an expression is; casts to a wider integer keep its order and its values.
fn column_of(table: &Table, expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Column(c) => table.position_of(&c.name),
        Expr::Alias(a) => column_of(table, &a.expr),
        Expr::Cast(cast) => {
            let column = column_of(table, &cast.expr)?;
            let width = |ty: &DataType| match ty {
                DataType::Int16 => Some(2),
                DataType::Int32 => Some(4),
                DataType::Int64 => Some(8),
                _ => None,
            };
            let widens = width(cast.field.data_type())? >= width(&table.columns[column].ty.arrow())?;
            widens.then_some(column)
        }
        _ => None,
    }
}

/// The constant that an expression is.
fn literal(expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        Expr::Alias(a) => literal(&a.expr),
        Expr::Cast(cast) => literal(&cast.expr)?.cast_to(cast.field.data_type()).ok(),
        _ => None,
    }
}

/// The column's value that equals the constant: `Some(None)`: no value of the column can; `None`: not known.
#[expect(clippy::option_option, reason = "unknown and impossible are different answers")]
fn membership(scalar: &ScalarValue, ty: &SqlType) -> Option<Option<Value>> {
    if scalar.is_null() {
        return Some(None);
    }
    if let Some(value) = convert(scalar, ty) {
        return Some(Some(value));
    }
    // An integer outside the column's range equals none of its values.
    match (integer(scalar), ty) {
        (Some(_), SqlType::Int2 | SqlType::Int4 | SqlType::Int8) => Some(None),
        _ => None,
    }
}

fn integer(scalar: &ScalarValue) -> Option<i64> {
    Some(match scalar {
        ScalarValue::Int8(Some(v)) => i64::from(*v),
        ScalarValue::Int16(Some(v)) => i64::from(*v),
        ScalarValue::Int32(Some(v)) => i64::from(*v),
        ScalarValue::Int64(Some(v)) => *v,
        ScalarValue::UInt8(Some(v)) => i64::from(*v),
        ScalarValue::UInt16(Some(v)) => i64::from(*v),
        ScalarValue::UInt32(Some(v)) => i64::from(*v),
        _ => return None,
    })
}

/// A constant as a value of a column's type, if it is one without any loss.
pub(crate) fn convert(scalar: &ScalarValue, ty: &SqlType) -> Option<Value> {
    if scalar.is_null() {
        return None;
    }
    match (integer(scalar), ty) {
        (Some(v), SqlType::Int2) => return i16::try_from(v).ok().map(Value::Int2),
        (Some(v), SqlType::Int4) => return i32::try_from(v).ok().map(Value::Int4),
        (Some(v), SqlType::Int8) => return Some(Value::Int8(v)),
        _ => {}
    }
    let same = match (scalar.data_type(), ty.arrow()) {
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, DataType::Utf8) => true,
        (DataType::Decimal128(_, a), DataType::Decimal128(_, b)) => {
            let ScalarValue::Decimal128(Some(v), ..) = scalar else { return None };
            return (a == b).then_some(Value::Numeric(*v, b));
        }
        (a, b) => a == b,
    };
    if !same {
        return None;
    }
    rows::value_at(&scalar.to_array().ok()?, 0, ty).ok()
}

/// Adds what is known of a column: the intersection with what was known.
pub(crate) fn narrow(domains: &mut Domains, column: ColumnId, domain: Domain) {
    match domains.iter_mut().find(|(c, _)| *c == column) {
        Some((_, known)) => {
            let both = meet(known, &domain);
            *known = both;
        }
        None => domains.push((column, domain)),
    }
}

fn meet(a: &Domain, b: &Domain) -> Domain {
    match (a, b) {
        (Domain::Values(vs), other) | (other, Domain::Values(vs)) => {
            Domain::Values(vs.iter().filter(|v| other.contains(v)).cloned().collect())
        }
        (Domain::Range(l1, h1), Domain::Range(l2, h2)) => {
            Domain::Range(tighter(l1, l2, Ordering::Greater), tighter(h1, h2, Ordering::Less))
        }
    }
}

/// The narrower of two bounds; `wanted` is how the narrower compares with the other.
fn tighter(a: &Bound<Value>, b: &Bound<Value>, wanted: Ordering) -> Bound<Value> {
    match (a, b) {
        (Bound::Unbounded, other) | (other, Bound::Unbounded) => other.clone(),
        (Bound::Included(x) | Bound::Excluded(x), Bound::Included(y) | Bound::Excluded(y)) => match x.compare(y) {
            Some(Ordering::Equal) if matches!(b, Bound::Excluded(_)) => b.clone(),
            Some(order) if order == wanted || order == Ordering::Equal => a.clone(),
            Some(_) => b.clone(),
            // Values that cannot be compared: either alone is a necessary condition.
            None => a.clone(),
        },
    }
}

/// A domain that holds both; `None`: nothing is known then.
fn join(a: Domain, b: Domain) -> Option<Domain> {
    match (a, b) {
        (Domain::Values(mut x), Domain::Values(y)) => {
            for v in y {
                if !x.iter().any(|w| w.matches(&v)) {
                    x.push(v);
                }
            }
            Some(Domain::Values(x))
        }
        (Domain::Range(l1, h1), Domain::Range(l2, h2)) => {
            Some(Domain::Range(wider(l1, l2, Ordering::Less), wider(h1, h2, Ordering::Greater)))
        }
        (Domain::Values(vs), range) | (range, Domain::Values(vs)) => {
            let mut hull = range;
            for v in vs {
                if v.is_null() {
                    return None;
                }
                hull = join(hull, Domain::Range(Bound::Included(v.clone()), Bound::Included(v)))?;
            }
            Some(hull)
        }
    }
}

fn wider(a: Bound<Value>, b: Bound<Value>, wanted: Ordering) -> Bound<Value> {
    match (&a, &b) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => Bound::Unbounded,
        (Bound::Included(x) | Bound::Excluded(x), Bound::Included(y) | Bound::Excluded(y)) => match x.compare(y) {
            Some(Ordering::Equal) if matches!(b, Bound::Included(_)) => b,
            Some(order) if order == wanted || order == Ordering::Equal => a,
            Some(_) => b,
            None => Bound::Unbounded,
        },
    }
}
