//! Quotients of numerics, and numerics and floats that become integers, with PostgreSQL's digits and PostgreSQL's rounding.
//!
//! Invariant: a quotient of numerics has 16 digits after the point, or as many as an operand has, the last one rounded half away from
//! zero. A numeric becomes an integer by rounding half away from zero, a float by rounding half to even. Beyond the result's range,
//! all of them fail.

use super::error::external;
use atoll_model::{Error, ErrorKind};
use datafusion::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, PrimitiveArray};
use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, i256,
};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use std::sync::{Arc, LazyLock};

/// Digits after the point of a quotient, at least.
const QUOTIENT_SCALE: i8 = 16;

/// `a * 10^shift / b`, rounded half away from zero; `None` when it does not fit, or when `b` is zero.
fn quotient(a: i128, b: i128, shift: u32) -> Option<i128> {
    if b == 0 {
        return None;
    }
    if let Some(scaled) = 10_i128.checked_pow(shift).and_then(|power| a.checked_mul(power)) {
        let (whole, rest) = (scaled.checked_div(b)?, scaled.checked_rem(b)?);
        let up = rest.unsigned_abs() >= b.unsigned_abs() - rest.unsigned_abs();
        let away = if (scaled < 0) == (b < 0) { 1 } else { -1 };
        return if up { whole.checked_add(away) } else { Some(whole) };
    }
    let (b, ten) = (i256::from_i128(b), i256::from_i128(10));
    let scaled = i256::from_i128(a).checked_mul(ten.checked_pow(shift)?)?;
    let (whole, rest) = (scaled.checked_div(b)?, scaled.checked_rem(b)?);
    let (rest, divisor) = (rest.checked_abs()?, b.checked_abs()?);
    let away = if (scaled < i256::ZERO) == (b < i256::ZERO) { i256::ONE } else { i256::MINUS_ONE };
    let rounded = if rest >= divisor.checked_sub(rest)? { whole.checked_add(away)? } else { whole };
    rounded.to_i128()
}

fn out_of_range(what: &str) -> DataFusionError {
    external(Error::new(ErrorKind::NumericOutOfRange, format!("{what} out of range")))
}

static DIVIDE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::from(Divide { signature: Signature::any(2, Volatility::Immutable) }))
});

#[derive(Debug, PartialEq, Eq, Hash)]
struct Divide {
    signature: Signature,
}

fn scale_of(ty: &DataType) -> i8 {
    match ty {
        DataType::Decimal128(_, scale) => *scale,
        _ => 0,
    }
}

impl ScalarUDFImpl for Divide {
    fn name(&self) -> &str {
        "numeric_div"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(DataType::Decimal128(38, args.iter().map(scale_of).fold(QUOTIENT_SCALE, i8::max)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scales: Vec<i8> = args.args.iter().map(|a| scale_of(&a.data_type())).collect();
        let scale = scale_of(args.return_type());
        // Not negative: the result's scale is not below the dividend's, and no scale is below zero.
        let shift = u32::from((scale - scales[0] + scales[1]).unsigned_abs());
        let limit = 10_u128.pow(38);
        let divide = |a: i128, b: i128| {
            if b == 0 {
                return Err(external(Error::new(ErrorKind::DivisionByZero, "division by zero")));
            }
            quotient(a, b, shift).filter(|v| v.unsigned_abs() < limit).ok_or_else(|| out_of_range("numeric"))
        };
        rowwise(&args, |columns| {
            let (a, b) = (columns[0].as_primitive::<Decimal128Type>(), columns[1].as_primitive::<Decimal128Type>());
            let values = a.iter().zip(b).map(|(a, b)| a.zip(b).map(|(a, b)| divide(a, b)).transpose());
            let values = values.collect::<Result<Decimal128Array>>()?;
            Ok(Arc::new(values.with_data_type(DataType::Decimal128(38, scale))))
        })
    }
}

/// Runs over columns; of constants alone, gives a constant.
fn rowwise(
    args: &ScalarFunctionArgs,
    run: impl Fn(&[ArrayRef]) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
    let columns: Vec<ArrayRef> =
        args.args.iter().map(|a| a.to_array(if constant { 1 } else { args.number_rows })).collect::<Result<_>>()?;
    let result = run(&columns)?;
    Ok(if constant {
        ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&result, 0)?)
    } else {
        ColumnarValue::Array(result)
    })
}

/// To an integer of one width.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ToInteger {
    name: &'static str,
    ty: DataType,
    signature: Signature,
}

fn to_integer(ty: &DataType) -> Option<Arc<ScalarUDF>> {
    static ALL: LazyLock<[Arc<ScalarUDF>; 3]> = LazyLock::new(|| {
        [("to_int2", DataType::Int16), ("to_int4", DataType::Int32), ("to_int8", DataType::Int64)].map(|(name, ty)| {
            let signature = Signature::any(1, Volatility::Immutable);
            Arc::new(ScalarUDF::from(ToInteger { name, ty, signature }))
        })
    });
    let at = match ty {
        DataType::Int16 => 0,
        DataType::Int32 => 1,
        DataType::Int64 => 2,
        _ => return None,
    };
    Some(ALL[at].clone())
}

impl ToInteger {
    fn convert<T: ArrowPrimitiveType>(&self, column: &ArrayRef) -> Result<ArrayRef>
    where
        T::Native: TryFrom<i128>,
    {
        let name = match self.ty {
            DataType::Int16 => "smallint",
            DataType::Int32 => "integer",
            _ => "bigint",
        };
        let fit = |v: Option<i128>| v.and_then(|v| T::Native::try_from(v).ok()).ok_or_else(|| out_of_range(name));
        // A float beyond 128 bits, or none at all, becomes the nearest end of the range, or zero: tested before.
        let whole = |v: f64| (v.is_finite() && v.abs() < 1e30).then(|| v.round_ties_even() as i128);
        let result: PrimitiveArray<T> = match column.data_type() {
            DataType::Decimal128(_, scale) => {
                let divisor = 10_i128.pow(u32::from(scale.unsigned_abs()));
                let values = column.as_primitive::<Decimal128Type>().iter();
                values.map(|v| v.map(|v| fit(quotient(v, divisor, 0))).transpose()).collect::<Result<_>>()?
            }
            DataType::Float32 => {
                let values = column.as_primitive::<Float32Type>().iter();
                values.map(|v| v.map(|v| fit(whole(v.into()))).transpose()).collect::<Result<_>>()?
            }
            _ => {
                let values = column.as_primitive::<Float64Type>().iter();
                values.map(|v| v.map(|v| fit(whole(v))).transpose()).collect::<Result<_>>()?
            }
        };
        Ok(Arc::new(result))
    }
}

impl ScalarUDFImpl for ToInteger {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.ty.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        rowwise(&args, |columns| match self.ty {
            DataType::Int16 => self.convert::<Int16Type>(&columns[0]),
            DataType::Int32 => self.convert::<Int32Type>(&columns[0]),
            _ => self.convert::<Int64Type>(&columns[0]),
        })
    }
}

/// Puts the functions here in the places of DataFusion's operators, where the operands' types are known already.
pub(super) fn numeric(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let decimal = |e: &Expr| matches!(e.get_type(schema), Ok(DataType::Decimal128(_, s)) if s >= 0);
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right }) if decimal(&left) && decimal(&right) => {
            let call = ScalarFunction::new_udf(DIVIDE.clone(), vec![*left, *right]);
            Ok(Transformed::yes(Expr::ScalarFunction(call)))
        }
        Expr::Cast(cast) => {
            let rounds = decimal(&cast.expr)
                || matches!(cast.expr.get_type(schema), Ok(DataType::Float32 | DataType::Float64));
            match to_integer(cast.field.data_type()) {
                Some(function) if rounds => {
                    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![*cast.expr]))))
                }
                _ => Ok(Transformed::no(Expr::Cast(Cast { ..cast }))),
            }
        }
        other => Ok(Transformed::no(other)),
    }
}

/// The same, and checked integer arithmetic, for expressions that are compiled by themselves, past the analyzer's rules.
#[derive(Debug)]
pub(super) struct Expressions;

impl FunctionRewrite for Expressions {
    fn name(&self) -> &str {
        "arithmetic"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        super::overflow::checked(expr, schema)
    }
}

#[cfg(test)]
mod tests {
    use super::quotient;

    #[test]
    fn quotients_are_rounded_half_away_from_zero() {
        assert_eq!(quotient(10, 3, 4), Some(33_333));
        assert_eq!(quotient(5, 2, 0), Some(3));
        assert_eq!(quotient(-5, 2, 0), Some(-3));
        assert_eq!(quotient(5, -2, 0), Some(-3));
        assert_eq!(quotient(-4, 3, 0), Some(-1));
        assert_eq!(quotient(1, 0, 0), None);
        assert_eq!(quotient(i128::MAX, 1, 1), None);
        assert_eq!(quotient(i128::MAX, 10, 1), Some(i128::MAX));
        assert_eq!(quotient(10_i128.pow(37) * 2, -(10_i128.pow(37)) * 3, 30), Some(-666_666_666_666_666_666_666_666_666_667));
    }
}
