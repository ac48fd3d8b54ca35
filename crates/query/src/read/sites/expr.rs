//! Expressions that mean the same at every site.
//!
//! Invariant: what is translated has one value whatever engine computes it: comparisons of types that all engines order alike (text by
//! its bytes), exact arithmetic, three-valued logic. Everything else has a reason why it stays in the engine.

use crate::rows;
use atoll_model::{SqlType, Value};
use atoll_ports::query::{Aggregate, Arithmetic, Comparison, SiteExpr, SortKey, WindowFunction};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, InList, Like, Sort};
use datafusion::logical_expr::{
    BinaryExpr, Case, Cast, Expr, ExprSchemable, Operator, WindowFrame, WindowFrameBound, WindowFrameUnits,
};

/// Why something is not handed down.
pub(super) type Reason = String;

/// The columns that expressions over a plan see, as what they are in terms of the sources.
pub(super) struct Scope<'a> {
    pub(super) schema: &'a DFSchema,
    pub(super) columns: &'a [SiteExpr],
}

/// Types whose values all engines compare alike.
pub(super) fn comparable(ty: &SqlType) -> bool {
    match ty {
        SqlType::Bool
        | SqlType::Int2
        | SqlType::Int4
        | SqlType::Int8
        | SqlType::Float4
        | SqlType::Float8
        | SqlType::Numeric(_)
        | SqlType::Text
        | SqlType::Varchar(_)
        | SqlType::Bytea
        | SqlType::Date
        | SqlType::Time(_)
        | SqlType::Timestamp(_)
        | SqlType::TimestampTz(_)
        | SqlType::Uuid => true,
        // Padding; documents that are equal and written otherwise; lists.
        SqlType::Char(_) | SqlType::Json | SqlType::Jsonb | SqlType::Array(_) | SqlType::Interval => false,
    }
}

/// Whether all engines find rows alike by it.
pub(super) fn is_key(expr: &SiteExpr) -> bool {
    let float = matches!(expr.ty(), SqlType::Float4 | SqlType::Float8);
    comparable(&expr.ty()) && !float && !matches!(expr, SiteExpr::Value(..))
}

fn number(ty: &SqlType) -> bool {
    matches!(
        ty,
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Float4 | SqlType::Float8 | SqlType::Numeric(_)
    )
}

fn integer(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Int2 | SqlType::Int4 | SqlType::Int8)
}

pub(super) fn textual(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Text | SqlType::Varchar(_))
}

impl Scope<'_> {
    /// An expression without aggregates.
    pub(super) fn expr(&self, expr: &Expr) -> Result<SiteExpr, Reason> {
        let boxed = |e: &Expr| self.expr(e).map(Box::new);
        Ok(match expr {
            Expr::Alias(alias) => self.expr(&alias.expr)?,
            Expr::Column(column) => {
                let at = self.schema.index_of_column(column).map_err(|e| e.to_string())?;
                self.columns[at].clone()
            }
            Expr::Literal(value, metadata) => {
                let field = metadata.as_ref().map(|m| m.add_to_field(value_field(value)));
                constant(value, field.as_ref().and_then(SqlType::of_field))?
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => self.binary(left, *op, right)?,
            Expr::Not(inner) => SiteExpr::Not(boxed(inner)?),
            Expr::IsNull(inner) => SiteExpr::IsNull(boxed(inner)?),
            Expr::IsNotNull(inner) => SiteExpr::Not(Box::new(SiteExpr::IsNull(boxed(inner)?))),
            Expr::Between(between) => {
                let value = self.expr(&between.expr)?;
                let low = compare(Comparison::GreaterOrEqual, value.clone(), self.expr(&between.low)?)?;
                let high = compare(Comparison::LessOrEqual, value, self.expr(&between.high)?)?;
                let within = SiteExpr::And(vec![low, high]);
                if between.negated { SiteExpr::Not(Box::new(within)) } else { within }
            }
            Expr::InList(InList { expr, list, negated }) => {
                let list = list.iter().map(|item| self.expr(item)).collect::<Result<_, _>>()?;
                let found = is_in(self.expr(expr)?, list)?;
                if *negated { SiteExpr::Not(Box::new(found)) } else { found }
            }
            Expr::Like(Like { negated, expr: value, pattern, escape_char: None, case_insensitive: false }) => {
                let (value, pattern) = (boxed(value)?, boxed(pattern)?);
                if !textual(&value.ty()) || !textual(&pattern.ty()) {
                    return Err(format!("LIKE on {}", value.ty()));
                }
                let like = SiteExpr::Like(value, pattern);
                if *negated { SiteExpr::Not(Box::new(like)) } else { like }
            }
            Expr::Case(case) => self.case(case, expr)?,
            Expr::Cast(Cast { expr: inner, field }) => {
                let value = self.expr(inner)?;
                let ty = SqlType::of_field(field).ok_or_else(|| format!("a cast to {}", field.data_type()))?;
                widened(value, ty)?
            }
            Expr::ScalarFunction(call) => {
                let arithmetic = match call.func.name() {
                    "int_add" => Some(Arithmetic::Add),
                    "int_sub" => Some(Arithmetic::Subtract),
                    "int_mul" => Some(Arithmetic::Multiply),
                    _ => None,
                };
                match (arithmetic, call.func.name(), call.args.as_slice()) {
                    (Some(how), _, [left, right]) => self.arithmetic(how, left, right, expr)?,
                    (_, "coalesce", args) if !args.is_empty() => {
                        let args = args.iter().map(|a| self.expr(a)).collect::<Result<Vec<_>, _>>()?;
                        let ty = self.ty(expr)?;
                        if args.iter().any(|a| a.ty().arrow() != ty.arrow()) {
                            return Err("coalesce of several types".into());
                        }
                        SiteExpr::Coalesce(args, ty)
                    }
                    (_, name, _) => return Err(format!("function {name} is computed here")),
                }
            }
            other => return Err(format!("{} is computed here", other.variant_name())),
        })
    }

    fn binary(&self, left: &Expr, op: Operator, right: &Expr) -> Result<SiteExpr, Reason> {
        let comparison = match op {
            Operator::And => return Ok(SiteExpr::And(vec![self.expr(left)?, self.expr(right)?])),
            Operator::Or => return Ok(SiteExpr::Or(vec![self.expr(left)?, self.expr(right)?])),
            Operator::Plus => return self.arithmetic(Arithmetic::Add, left, right, &binary(left, op, right)),
            Operator::Minus => return self.arithmetic(Arithmetic::Subtract, left, right, &binary(left, op, right)),
            Operator::Multiply => return self.arithmetic(Arithmetic::Multiply, left, right, &binary(left, op, right)),
            Operator::Eq => Comparison::Equal,
            Operator::NotEq => Comparison::NotEqual,
            Operator::Lt => Comparison::Less,
            Operator::LtEq => Comparison::LessOrEqual,
            Operator::Gt => Comparison::Greater,
            Operator::GtEq => Comparison::GreaterOrEqual,
            op => return Err(format!("operator {op} is computed here")),
        };
        compare(comparison, self.expr(left)?, self.expr(right)?)
    }

    fn arithmetic(&self, how: Arithmetic, left: &Expr, right: &Expr, whole: &Expr) -> Result<SiteExpr, Reason> {
        let (left, right, ty) = (self.expr(left)?, self.expr(right)?, self.ty(whole)?);
        let exact = |ty: &SqlType| matches!(ty, SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Numeric(_));
        // Moments and spans of time, floating point: engines round differently.
        if !exact(&left.ty()) || !exact(&right.ty()) || !exact(&ty) {
            return Err(format!("arithmetic on {} and {}", left.ty(), right.ty()));
        }
        if left.ty().arrow() != right.ty().arrow() && !matches!(ty, SqlType::Numeric(_)) {
            return Err("arithmetic on several types".into());
        }
        Ok(SiteExpr::Arithmetic(how, Box::new(left), Box::new(right), ty))
    }

    fn case(&self, case: &Case, whole: &Expr) -> Result<SiteExpr, Reason> {
        let ty = self.ty(whole)?;
        let of_type = |value: SiteExpr| {
            if value.ty().arrow() == ty.arrow() { Ok(value) } else { Err("CASE of several types".to_owned()) }
        };
        let operand = case.expr.as_deref().map(|e| self.expr(e)).transpose()?;
        let mut branches = vec![];
        for (when, then) in &case.when_then_expr {
            let when = self.expr(when)?;
            let when = match &operand {
                Some(operand) => compare(Comparison::Equal, operand.clone(), when)?,
                None => when,
            };
            branches.push((when, of_type(self.expr(then)?)?));
        }
        let otherwise = case.else_expr.as_deref().map(|e| self.expr(e).and_then(of_type)).transpose()?.map(Box::new);
        Ok(SiteExpr::Case { branches, otherwise, ty })
    }

    fn ty(&self, expr: &Expr) -> Result<SqlType, Reason> {
        let field = expr.to_field(self.schema).map_err(|e| e.to_string())?.1;
        SqlType::of_field(&field).ok_or_else(|| format!("values of {}", field.data_type()))
    }

    /// An aggregate.
    pub(super) fn aggregate(&self, expr: &Expr) -> Result<SiteExpr, Reason> {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = unaliased(expr) else {
            return Err("an aggregate of another form".into());
        };
        if params.filter.is_some() || !params.order_by.is_empty() || params.null_treatment.is_some() {
            return Err(format!("{} with FILTER, ORDER BY or IGNORE NULLS", func.name()));
        }
        let distinct = params.distinct;
        let (function, argument) = self.aggregated(func.name(), &params.args, distinct)?;
        Ok(SiteExpr::Aggregate { function, argument, distinct, ty: self.ty(expr)? })
    }

    /// An aggregate and its argument.
    fn aggregated(
        &self,
        name: &str,
        args: &[Expr],
        distinct: bool,
    ) -> Result<(Aggregate, Option<Box<SiteExpr>>), Reason> {
        let function = function(name).ok_or_else(|| format!("{name} is computed here"))?;
        let argument = match (function, args) {
            (Aggregate::Count, [Expr::Literal(value, _)]) if !value.is_null() && !distinct => None,
            (_, [argument]) => Some(self.expr(argument)?),
            _ => return Err(format!("{name} of several values")),
        };
        let fits = match (function, argument.as_ref().map(SiteExpr::ty)) {
            (_, None) => true,
            (Aggregate::Count, Some(ty)) => !distinct || comparable(&ty),
            // A sum of floating point numbers depends on the order, in one engine as in several.
            (Aggregate::Sum, Some(ty)) => number(&ty) && !distinct,
            (Aggregate::Min | Aggregate::Max, Some(ty)) => {
                comparable(&ty) && !matches!(ty, SqlType::Bool | SqlType::Uuid | SqlType::Bytea)
            }
            (Aggregate::Every | Aggregate::Any, Some(ty)) => ty == SqlType::Bool,
        };
        if !fits {
            return Err(format!("{name} of this type"));
        }
        let argument = match (function, argument) {
            // What is summed as numeric need not be one before.
            (Aggregate::Sum | Aggregate::Count, Some(SiteExpr::Widen(inner, SqlType::Numeric(_))))
                if integer(&inner.ty()) =>
            {
                Some(inner)
            }
            (_, argument) => argument.map(Box::new),
        };
        Ok((function, argument))
    }

    /// A window function.
    pub(super) fn window(&self, expr: &Expr) -> Result<SiteExpr, Reason> {
        let Expr::WindowFunction(call) = unaliased(expr) else { return Err("a window of another form".into()) };
        let (name, params) = (call.fun.name(), &call.params);
        if params.filter.is_some() || params.null_treatment.is_some() || params.distinct {
            return Err(format!("{name} with FILTER, DISTINCT or IGNORE NULLS"));
        }
        let partition = params.partition_by.iter().map(|e| self.expr(e)).collect::<Result<Vec<_>, _>>()?;
        if let Some(key) = partition.iter().find(|key| !is_key(key)) {
            return Err(format!("a partition by {}", key.ty()));
        }
        let order = self.order(&params.order_by)?;
        let function = match name {
            "row_number" => WindowFunction::RowNumber,
            "rank" | "dense_rank" if order.is_empty() => return Err(format!("{name} without an order")),
            "rank" => WindowFunction::Rank,
            "dense_rank" => WindowFunction::DenseRank,
            _ if !is_default(&params.window_frame, order.is_empty()) => return Err("a frame of its own".into()),
            _ => {
                let (function, argument) = self.aggregated(name, &params.args, false)?;
                let exact = match (function, argument.as_ref().map(|a| a.ty())) {
                    (Aggregate::Count, _) => true,
                    (_, None) | (Aggregate::Every | Aggregate::Any, _) => false,
                    // As it goes on, the sum of what was there before may be rounded otherwise; the least of texts is by a collation.
                    (Aggregate::Sum | Aggregate::Min | Aggregate::Max, Some(ty)) => {
                        integer(&ty) || matches!(ty, SqlType::Numeric(_))
                    }
                };
                if !exact {
                    return Err(format!("{name} of this type over a window"));
                }
                WindowFunction::Aggregate(function, argument)
            }
        };
        Ok(SiteExpr::Window { function, partition, order, ty: self.ty(expr)? })
    }

    /// An order of rows. Constants order nothing.
    pub(super) fn order(&self, keys: &[Sort]) -> Result<Vec<SortKey>, Reason> {
        let mut order = vec![];
        for key in keys {
            let expr = self.expr(&key.expr)?;
            if !comparable(&expr.ty()) {
                return Err(format!("an order by {}", expr.ty()));
            }
            if !matches!(expr, SiteExpr::Value(..)) {
                order.push(SortKey { expr, descending: !key.asc, nulls_first: key.nulls_first });
            }
        }
        Ok(order)
    }
}

/// Whether a frame is the one that a window without an order, or with one, has by default.
fn is_default(frame: &WindowFrame, unordered: bool) -> bool {
    let to_the_end = matches!(&frame.end_bound, WindowFrameBound::Following(by) if by.is_null());
    let to_the_peers =
        frame.units == WindowFrameUnits::Range && matches!(frame.end_bound, WindowFrameBound::CurrentRow);
    let from_the_beginning = matches!(&frame.start_bound, WindowFrameBound::Preceding(by) if by.is_null());
    from_the_beginning && if unordered { to_the_end || to_the_peers } else { to_the_peers }
}

/// The aggregate of a name.
pub(super) fn function(name: &str) -> Option<Aggregate> {
    Some(match name {
        "count" => Aggregate::Count,
        "sum" | "exact_sum" => Aggregate::Sum,
        "min" => Aggregate::Min,
        "max" => Aggregate::Max,
        "bool_and" => Aggregate::Every,
        "bool_or" => Aggregate::Any,
        _ => return None,
    })
}

/// What stands under aliases.
pub(super) fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        expr => expr,
    }
}

fn binary(left: &Expr, op: Operator, right: &Expr) -> Expr {
    datafusion::logical_expr::binary_expr(left.clone(), op, right.clone())
}

fn value_field(value: &ScalarValue) -> datafusion::arrow::datatypes::Field {
    datafusion::arrow::datatypes::Field::new("", value.data_type(), true)
}

/// A constant, of a type that it is known to have.
pub(super) fn constant(value: &ScalarValue, ty: Option<SqlType>) -> Result<SiteExpr, Reason> {
    let carried = value.data_type();
    if carried == DataType::Null {
        return Err("a NULL of no type".into());
    }
    let ty = ty.or_else(|| SqlType::of_arrow(&carried)).ok_or_else(|| format!("constants of {carried}"))?;
    // A constant has the digits that it has: the site need not round it.
    let ty = ty.without_second_digits();
    let array = value.to_array().map_err(|e| e.to_string())?;
    let value = rows::value_at(&array, 0, &ty).map_err(|e| e.to_string())?;
    if matches!(value, Value::Float4(_) | Value::Float8(_)) && !finite(&value) {
        return Err("infinities".into());
    }
    Ok(SiteExpr::Value(ty, value))
}

fn finite(value: &Value) -> bool {
    match value {
        Value::Float4(f) => f.is_finite(),
        Value::Float8(f) => f.is_finite(),
        _ => true,
    }
}

/// A comparison, if its sides compare.
pub(super) fn compare(how: Comparison, left: SiteExpr, right: SiteExpr) -> Result<SiteExpr, Reason> {
    let right = same_type(&left, right)?;
    let left = same_type(&right, left)?;
    Ok(SiteExpr::Compare(how, Box::new(left), Box::new(right)))
}

/// A search in a list, if its items compare.
pub(super) fn is_in(left: SiteExpr, list: Vec<SiteExpr>) -> Result<SiteExpr, Reason> {
    let list = list.into_iter().map(|item| same_type(&left, item)).collect::<Result<_, _>>()?;
    Ok(SiteExpr::In(Box::new(left), list))
}

/// An operand beside another: of a type that compares with it. A constant text beside a `uuid` is one.
fn same_type(beside: &SiteExpr, expr: SiteExpr) -> Result<SiteExpr, Reason> {
    let (one, other) = (beside.ty(), expr.ty());
    if !comparable(&one) || !comparable(&other) {
        return Err(format!("comparisons of {one} and {other}"));
    }
    if let (SqlType::Uuid, SiteExpr::Value(SqlType::Text, value)) = (&one, &expr) {
        return Ok(SiteExpr::Value(SqlType::Uuid, value.clone()));
    }
    let alike = one.arrow() == other.arrow() && (one == SqlType::Uuid) == (other == SqlType::Uuid);
    let exact = |ty: &SqlType| number(ty) && !matches!(ty, SqlType::Float4 | SqlType::Float8);
    if alike || (exact(&one) && exact(&other)) { Ok(expr) } else { Err(format!("comparisons of {one} and {other}")) }
}

/// A value as one of a type that holds all of its values.
fn widened(value: SiteExpr, to: SqlType) -> Result<SiteExpr, Reason> {
    let from = value.ty();
    if from.arrow() == to.arrow() && (textual(&from) || from == to) && (textual(&to) || from == to) {
        return Ok(value);
    }
    // Fewer digits of a second stay what they are; rounding to fewer is `CastTo`'s, a function that is computed here.
    if from.without_second_digits() == to {
        return Ok(value);
    }
    let wider = match (&from, &to) {
        (SqlType::Int2, SqlType::Int4 | SqlType::Int8) | (SqlType::Int4, SqlType::Int8) => true,
        (SqlType::Int2 | SqlType::Int4, SqlType::Numeric(Some((p, s)))) => i16::from(*p) - i16::from(*s) >= 10,
        (SqlType::Int8, SqlType::Numeric(Some((p, s)))) => i16::from(*p) - i16::from(*s) >= 19,
        (SqlType::Numeric(Some((p, s))), SqlType::Numeric(Some((q, t)))) => {
            t >= s && i16::from(*q) - i16::from(*t) >= i16::from(*p) - i16::from(*s)
        }
        (SqlType::Float4, SqlType::Float8) => true,
        _ => false,
    };
    if wider { Ok(SiteExpr::Widen(Box::new(value), to)) } else { Err(format!("a cast of {from} to {to}")) }
}
