//! Arithmetic of `numeric`, rounding, and the functions of mathematics with PostgreSQL's domains.
//!
//! Invariant: a quotient of numerics has [`QUOTIENT_SCALE`] digits after the point, rounded half away from zero; what does not fit 38
//! digits with them is an error (22003), never a rounded or wrapped number. A literal second argument of `round` and `trunc` is the
//! scale of the result.

use super::datetime::float;
use super::scalar::{Scalar, integer};
use atoll_model::text::rescale;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};
use datafusion::arrow::datatypes::i256;
use datafusion::common::ScalarValue;

/// Digits after the point of a quotient.
pub const QUOTIENT_SCALE: i8 = 20;
/// Those of roots, powers and logarithms of numerics: what floating point gives.
const TRANSCENDENTAL_SCALE: i8 = 16;

fn out_of_range() -> Error {
    Error::new(ErrorKind::NumericOutOfRange, "value out of range")
        .detail("Computed numerics have 38 digits, of which up to 20 follow the point.")
}

fn by_zero() -> Error {
    Error::new(ErrorKind::DivisionByZero, "division by zero")
}

/// A number as unscaled digits and their scale.
fn decimal(value: &Value) -> (i128, i8) {
    match value {
        Value::Numeric(v, s) => (*v, *s),
        other => (i128::from(integer(other)), 0),
    }
}

fn ten(power: u32) -> Option<i256> {
    i256::from_i128(10).checked_pow(power)
}

/// `a / b` with so many digits, rounded half away from zero.
fn divide(a: &Value, b: &Value, scale: i8) -> Result<i128> {
    let ((a, sa), (b, sb)) = (decimal(a), decimal(b));
    if b == 0 {
        return Err(by_zero());
    }
    let shift = i32::from(scale) - i32::from(sa) + i32::from(sb);
    let (mut n, mut d) = (i256::from_i128(a), i256::from_i128(b));
    let by = ten(shift.unsigned_abs()).ok_or_else(out_of_range)?;
    if shift >= 0 {
        n = n.checked_mul(by).ok_or_else(out_of_range)?;
    } else {
        d = d.checked_mul(by).ok_or_else(out_of_range)?;
    }
    let (q, r) = (n.checked_div(d).ok_or_else(out_of_range)?, n.checked_rem(d).ok_or_else(out_of_range)?);
    let twice = r.wrapping_abs().checked_mul(i256::from_i128(2)).ok_or_else(out_of_range)?;
    let q = if twice >= d.wrapping_abs() {
        let away = if (a < 0) == (b < 0) { i256::ONE } else { i256::MINUS_ONE };
        q.checked_add(away).ok_or_else(out_of_range)?
    } else {
        q
    };
    fit(q.to_i128())
}

fn fit(value: Option<i128>) -> Result<i128> {
    value.filter(|v| atoll_model::text::fits_precision(*v, 38)).ok_or_else(out_of_range)
}

/// A floating point number as a numeric: its fifteen digits, as PostgreSQL converts it.
pub(crate) fn from_float(value: f64, scale: i8) -> Result<i128> {
    if !value.is_finite() {
        return Err(Error::unsupported(format!("{value} as numeric")));
    }
    let (unscaled, own) = atoll_model::text::parse_numeric(&format!("{value:.14e}"), None)?;
    fit(rescale(unscaled, own, scale))
}

#[derive(Clone, Copy)]
enum Rounding {
    Half,
    Zero,
}

fn round_to(value: &Value, places: i64, result: i8, rounding: Rounding) -> Result<Value> {
    let (v, s) = decimal(value);
    let drop = i64::from(s) - places;
    let rounded = if drop <= 0 {
        rescale(v, s, result)
    } else if drop > 38 {
        Some(0)
    } else {
        let unit = 10i128.checked_pow(u32::try_from(drop).unwrap_or(38)).unwrap_or(i128::MAX);
        let (q, r) = (v / unit, v % unit);
        let q = match rounding {
            Rounding::Half if r.unsigned_abs() >= unit.unsigned_abs() - r.unsigned_abs() => q + v.signum(),
            _ => q,
        };
        q.checked_mul(unit).and_then(|v| rescale(v, s, result))
    };
    fit(rounded).map(|v| Value::Numeric(v, result))
}

fn scale_of(ty: &SqlType) -> i8 {
    match ty {
        SqlType::Numeric(Some((_, s))) => *s,
        SqlType::Numeric(None) => atoll_model::UNCONSTRAINED_SCALE,
        _ => 0,
    }
}

fn is_float(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Float4 | SqlType::Float8)
}

/// Floating point for integers and floats, numeric for numerics.
fn float_or_numeric(scale: i8) -> impl Fn(&[SqlType]) -> Result<SqlType> + Send + Sync + 'static {
    move |types| {
        let numeric = types.iter().any(|t| matches!(t, SqlType::Numeric(_))) && !types.iter().any(is_float);
        Ok(if numeric { SqlType::Numeric(Some((38, scale))) } else { SqlType::Float8 })
    }
}

fn check_number(name: &str, types: &[SqlType]) -> Result<()> {
    let number = |t: &SqlType| {
        matches!(
            t,
            SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Numeric(_) | SqlType::Float4 | SqlType::Float8
        )
    };
    if types.iter().all(number) {
        return Ok(());
    }
    let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
    Err(Error::new(ErrorKind::UndefinedFunction, format!("function {name}({}) does not exist", shown.join(", ")))
        .hint("No function matches the given name and argument types. You might need to add explicit type casts."))
}

fn rounding(name: &'static str, kind: Rounding) -> Scalar {
    let float_of = move |x: f64| match kind {
        Rounding::Half => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
    };
    Scalar::new(name, 1..=2, SqlType::Float8, move |call, args| {
        if args.len() == 1 && !matches!(call.types[0], SqlType::Numeric(_)) {
            return Ok(Value::Float8(float_of(float(&args[0]))));
        }
        let places = args.get(1).map_or(0, integer);
        let result = match call.result {
            SqlType::Numeric(Some((_, s))) => *s,
            _ => 0,
        };
        round_to(&args[0], places, result, kind)
    })
    .returning_by_literal(move |types, literals| {
        check_number(name, types)?;
        if types.len() == 2 && is_float(&types[0]) {
            return Err(Error::new(
                ErrorKind::UndefinedFunction,
                format!("function {name}({}, integer) does not exist", types[0]),
            )
            .hint(
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            ));
        }
        if types.len() == 1 {
            return Ok(match types[0] {
                SqlType::Numeric(_) => SqlType::Numeric(Some((38, 0))),
                _ => SqlType::Float8,
            });
        }
        let own = scale_of(&types[0]);
        let scale = match literals.get(1) {
            Some(Some(ScalarValue::Int64(Some(n)))) => i8::try_from((*n).clamp(0, 30)).unwrap_or(own),
            Some(Some(ScalarValue::Int32(Some(n)))) => i8::try_from((*n).clamp(0, 30)).unwrap_or(own),
            _ => own,
        };
        Ok(SqlType::Numeric(Some((38, scale))))
    })
}

/// A function of floating point, which numerics take, too.
fn real(
    name: &'static str,
    arity: std::ops::RangeInclusive<usize>,
    f: impl Fn(&[f64]) -> Result<f64> + Send + Sync + 'static,
) -> Scalar {
    Scalar::new(name, arity, SqlType::Float8, move |call, args| {
        let inputs: Vec<f64> = args.iter().map(float).collect();
        let y = f(&inputs)?;
        if y.is_infinite() && inputs.iter().all(|x| x.is_finite()) {
            return Err(Error::new(ErrorKind::NumericOutOfRange, "value out of range: overflow"));
        }
        match call.result {
            SqlType::Numeric(_) => from_float(y, TRANSCENDENTAL_SCALE).map(|v| Value::Numeric(v, TRANSCENDENTAL_SCALE)),
            _ => Ok(Value::Float8(y)),
        }
    })
    .returning(move |types| {
        check_number(name, types)?;
        float_or_numeric(TRANSCENDENTAL_SCALE)(types)
    })
}

fn whole(name: &'static str, f: fn(f64) -> f64, up: i128) -> Scalar {
    Scalar::new(name, 1..=1, SqlType::Float8, move |_, args| match &args[0] {
        Value::Numeric(v, s) => {
            let unit = 10i128.checked_pow(u32::from(s.unsigned_abs())).unwrap_or(i128::MAX);
            let (q, r) = (v.div_euclid(unit), v.rem_euclid(unit));
            Ok(Value::Numeric(if r == 0 { q } else { q + up }, 0))
        }
        other => Ok(Value::Float8(f(float(other)))),
    })
    .returning(move |types| {
        check_number(name, types)?;
        float_or_numeric(0)(types)
    })
}

fn logarithm(x: f64) -> Result<f64> {
    if x == 0.0 {
        return Err(Error::new(ErrorKind::InvalidLogarithm, "cannot take logarithm of zero"));
    }
    if x < 0.0 {
        return Err(Error::new(ErrorKind::InvalidLogarithm, "cannot take logarithm of a negative number"));
    }
    Ok(x)
}

pub(super) fn functions() -> Vec<Scalar> {
    vec![
        Scalar::new("atoll_div", 2..=2, SqlType::Numeric(Some((38, QUOTIENT_SCALE))), |_, args| {
            divide(&args[0], &args[1], QUOTIENT_SCALE).map(|v| Value::Numeric(v, QUOTIENT_SCALE))
        }),
        Scalar::new("div", 2..=2, SqlType::Numeric(Some((38, 0))), |_, args| {
            let ((a, sa), (b, sb)) = (decimal(&args[0]), decimal(&args[1]));
            if b == 0 {
                return Err(by_zero());
            }
            let scale = sa.max(sb);
            match (rescale(a, sa, scale), rescale(b, sb, scale)) {
                (Some(a), Some(b)) => Ok(Value::Numeric(a / b, 0)),
                _ => Err(out_of_range()),
            }
        })
        .returning(|types| {
            check_number("div", types)?;
            Ok(SqlType::Numeric(Some((38, 0))))
        }),
        rounding("round", Rounding::Half),
        rounding("trunc", Rounding::Zero),
        whole("ceil", f64::ceil, 1),
        whole("floor", f64::floor, 0),
        Scalar::new("sign", 1..=1, SqlType::Float8, |_, args| match &args[0] {
            Value::Numeric(v, _) => Ok(Value::Numeric(v.signum(), 0)),
            other => {
                let x = float(other);
                Ok(Value::Float8(if x == 0.0 { 0.0 } else { x.signum() }))
            }
        })
        .returning(|types| {
            check_number("sign", types)?;
            float_or_numeric(0)(types)
        }),
        real("sqrt", 1..=1, |x| {
            if x[0] < 0.0 {
                return Err(Error::new(ErrorKind::InvalidPower, "cannot take square root of a negative number"));
            }
            Ok(x[0].sqrt())
        }),
        real("exp", 1..=1, |x| Ok(x[0].exp())),
        real("ln", 1..=1, |x| logarithm(x[0]).map(f64::ln)),
        real("log10", 1..=1, |x| logarithm(x[0]).map(f64::log10)),
        real("log", 1..=2, |x| match x {
            [x] => logarithm(*x).map(f64::log10),
            [base, x] => {
                let divisor = logarithm(*base)?.ln();
                if divisor == 0.0 {
                    return Err(by_zero());
                }
                logarithm(*x).map(|x| x.ln() / divisor)
            }
            _ => Err(Error::internal("log takes one or two arguments")),
        }),
        real("power", 2..=2, |x| {
            let (base, exponent) = (x[0], x[1]);
            if base == 0.0 && exponent < 0.0 {
                return Err(Error::new(ErrorKind::InvalidPower, "zero raised to a negative power is undefined"));
            }
            if base < 0.0 && exponent.fract() != 0.0 {
                return Err(Error::new(
                    ErrorKind::InvalidPower,
                    "a negative number raised to a non-integer power yields a complex result",
                ));
            }
            Ok(base.powf(exponent))
        }),
        Scalar::new("factorial", 1..=1, SqlType::Numeric(Some((38, 0))), |_, args| {
            let n = integer(&args[0]);
            if n < 0 {
                return Err(Error::new(ErrorKind::NumericOutOfRange, "factorial of a negative number is undefined"));
            }
            let product = (2..=i128::from(n)).try_fold(1i128, i128::checked_mul);
            fit(product).map(|v| Value::Numeric(v, 0))
        }),
        Scalar::new("width_bucket", 4..=4, SqlType::Int4, |_, args| {
            let (x, low, high, count) = (float(&args[0]), float(&args[1]), float(&args[2]), integer(&args[3]));
            if count <= 0 {
                return Err(Error::new(ErrorKind::InvalidWidthBucket, "count must be greater than zero"));
            }
            if low == high {
                return Err(Error::new(ErrorKind::InvalidWidthBucket, "lower bound cannot equal upper bound"));
            }
            let position = (x - low) / (high - low);
            let bucket = if position < 0.0 {
                0
            } else if position >= 1.0 {
                count + 1
            } else {
                (position * count as f64).floor() as i64 + 1
            };
            i32::try_from(bucket).map(Value::Int4).map_err(|_| out_of_range())
        }),
        Scalar::new("scale", 1..=1, SqlType::Int4, |_, args| match &args[0] {
            Value::Numeric(_, s) => Ok(Value::Int4(i32::from(*s))),
            _ => Ok(Value::Int4(0)),
        }),
        Scalar::new("trim_scale", 1..=1, SqlType::Numeric(None), |_, args| Ok(args[0].clone()))
            .returning(|types| Ok(types.first().cloned().unwrap_or(SqlType::Numeric(None)))),
    ]
}
