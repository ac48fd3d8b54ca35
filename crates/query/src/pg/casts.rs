//! Casts as PostgreSQL makes them, in place of Arrow's where the two differ.
//!
//! Invariant: text is read and written by `atoll_model::text` in either direction; a number that becomes an integer is rounded (half
//! away from zero, floating point half to even) and checked; `varchar(n)` and `char(n)` cut what a cast gives them, `timestamp(p)` and
//! `time(p)` round it. All other casts stay the planner's, so that its optimizations see them.

use super::functions::{from_float, interval_of, of_interval_text};
use crate::dml::assign::convert;
use atoll_model::text::rescale;
use atoll_model::{Error, ErrorKind, MAX_SECOND_DIGITS, SqlType, TYPE_METADATA_KEY, Value};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, CharacterLength, DataType as AstType, TimezoneInfo};
use std::sync::Arc;

/// Types of SQL as Arrow's.
#[derive(Debug)]
pub(crate) struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, ty: &AstType) -> Result<Option<FieldRef>> {
        let characters = |length: &Option<CharacterLength>| match length {
            Some(CharacterLength::IntegerLength { length, .. }) => u32::try_from(*length).ok(),
            _ => None,
        };
        let of = |ty: SqlType| Ok(Some(Arc::new(ty.field("", true))));
        // More digits than there are count as all.
        let digits = |p: &Option<u64>| p.map(|p| u8::try_from(p).unwrap_or(u8::MAX).min(MAX_SECOND_DIGITS));
        let zoned = |tz: &TimezoneInfo| matches!(tz, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone);
        match ty {
            AstType::Timestamp(p, tz) if zoned(tz) => of(SqlType::TimestampTz(digits(p))),
            AstType::Timestamp(p, _) => of(SqlType::Timestamp(digits(p))),
            AstType::Time(_, tz) if zoned(tz) => Err(external(Error::unsupported("time with time zone"))),
            AstType::Time(p, _) => of(SqlType::Time(digits(p))),
            AstType::Array(ArrayElemTypeDef::SquareBracket(item, _)) => {
                match self.plan_type_field(item)?.and_then(|field| SqlType::of_field(&field)) {
                    Some(item) if item.second_digits().is_some() => of(SqlType::Array(Box::new(item))),
                    _ => Ok(None),
                }
            }
            AstType::Varchar(n) | AstType::CharacterVarying(n) | AstType::CharVarying(n) => match characters(n) {
                Some(n) => of(SqlType::Varchar(Some(n))),
                None => of(SqlType::Varchar(None)),
            },
            AstType::Char(n) | AstType::Character(n) => of(SqlType::Char(characters(n).unwrap_or(1))),
            _ => Ok(None),
        }
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Key of the field metadata of casts that the planner of operators made: a date as its number of days.
const PLANNED_KEY: &str = "atoll.planned";

/// A cast between a date and its number of days, which SQL does not have.
pub(crate) fn days(expr: Expr, to: DataType) -> Expr {
    let field = Field::new("", to, true).with_metadata([(PLANNED_KEY.to_owned(), String::new())].into());
    Expr::Cast(Cast::new_from_field(Box::new(expr), Arc::new(field)))
}

/// A time or timestamp as one that declares no digits of a second; `field` is the expression's.
pub(crate) fn without_digits(expr: Expr, field: &Field) -> Expr {
    // A field with a name is taken as it is; one without keeps the metadata of what is cast.
    let bare = Field::new("bare", field.data_type().clone(), field.is_nullable());
    Expr::Cast(Cast::new_from_field(Box::new(expr), Arc::new(bare)))
}

/// A cast to one type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CastTo {
    name: String,
    to: SqlType,
    arrow: DataType,
    signature: Signature,
}

/// The call that makes a cast as PostgreSQL makes it; `None`: Arrow's is the same.
///
/// # Errors
/// 42846 for casts that PostgreSQL does not have.
pub(crate) fn checked(cast: &Cast, schema: &DFSchema) -> Result<Option<Expr>> {
    let Ok((_, from)) = cast.expr.to_field(schema) else { return Ok(None) };
    let arrow = cast.field.data_type();
    // A vector's text is not an array's: `VectorArrays` knows it.
    if from.data_type().is_null() || super::functions::is_vector(&from) {
        return Ok(None);
    }
    let (Some(source), Some(target)) = (SqlType::of_field(&from), SqlType::of_field(&cast.field)) else {
        return Ok(None);
    };
    // `x::timestamp` of a `timestamp(3)`: the planner takes a cast that keeps Arrow's type for none at all.
    if cast.field.name().is_empty() && source.second_digits().is_some() && target == source.without_second_digits() {
        return Ok(Some(without_digits(*cast.expr.clone(), &from)));
    }
    let textual = |t: &SqlType| {
        matches!(
            t,
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb
        )
    };
    let number = |t: &SqlType| matches!(t, SqlType::Numeric(_) | SqlType::Float4 | SqlType::Float8);
    let int = |t: &SqlType| matches!(t, SqlType::Int2 | SqlType::Int4 | SqlType::Int8);
    let moment =
        |t: &SqlType| matches!(t, SqlType::Date | SqlType::Timestamp(_) | SqlType::TimestampTz(_) | SqlType::Time(_));
    let bare = cast.field.metadata().get(TYPE_METADATA_KEY).is_none();
    let needed = match (&source, &target) {
        (a, b) if textual(a) && textual(b) => !bare && matches!(b, SqlType::Varchar(Some(_)) | SqlType::Char(_)),
        (a, b) if textual(a) || textual(b) => true,
        (a, b) if number(a) && int(b) => true,
        (SqlType::Float4 | SqlType::Float8, SqlType::Numeric(_)) => true,
        (SqlType::Bool, SqlType::Int4) | (SqlType::Int4, SqlType::Bool) => false,
        // Arrow has casts between almost all types; PostgreSQL has not.
        (SqlType::Bool, b) if number(b) || int(b) || moment(b) => return Err(no_cast(&source, &target)),
        (a, SqlType::Bool) if number(a) || int(a) || moment(a) => return Err(no_cast(&source, &target)),
        (a, b) if (moment(a) && (number(b) || int(b)) || (number(a) || int(a)) && moment(b)) => {
            // Arithmetic on dates is planned as arithmetic on their days.
            if cast.field.metadata().contains_key(PLANNED_KEY) { false } else { return Err(no_cast(&source, &target)) }
        }
        (_, SqlType::Array(item)) => item.second_digits().is_some(),
        (_, b) => b.second_digits().is_some(),
    };
    if !needed {
        return Ok(None);
    }
    let udf = ScalarUDF::from(CastTo {
        name: format!("cast_to_{target}"),
        to: target,
        arrow: arrow.clone(),
        signature: Signature::any(1, Volatility::Immutable),
    });
    Ok(Some(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(udf), vec![*cast.expr.clone()]))))
}

fn no_cast(from: &SqlType, to: &SqlType) -> DataFusionError {
    external(Error::new(ErrorKind::CannotCoerce, format!("cannot cast type {from} to {to}")))
}

impl ScalarUDFImpl for CastTo {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.arrow.clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = self.to.field(&self.name, true);
        // The planner may want another carrier of the same type (a list of other items, larger text).
        Ok(Arc::new(if *field.data_type() == self.arrow {
            field
        } else {
            Field::new(&self.name, self.arrow.clone(), true)
        }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (Some(argument), Some(field)) = (args.args.first(), args.arg_fields.first()) else {
            return Err(external(Error::internal("a cast of nothing")));
        };
        let scalar = matches!(argument, ColumnarValue::Scalar(_));
        let array = argument.to_array(if scalar { 1 } else { args.number_rows })?;
        let from = SqlType::of_field(field).ok_or_else(|| external(Error::internal("a cast from no SQL type")))?;
        let values = super::functions::values(&array, &from).map_err(external)?;
        let cast = values
            .iter()
            .map(|v| if v.is_null() { Ok(Value::Null) } else { self.cast(&from, v) })
            .collect::<atoll_model::Result<Vec<_>>>()
            .map_err(external)?;
        let made = super::functions::array_of(&self.to, cast).map_err(external)?;
        let made =
            if *made.data_type() == self.arrow { made } else { datafusion::arrow::compute::cast(&made, &self.arrow)? };
        Ok(if scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&made, 0)?)
        } else {
            ColumnarValue::Array(made)
        })
    }
}

impl CastTo {
    fn cast(&self, from: &SqlType, value: &Value) -> atoll_model::Result<Value> {
        let fits = |v: i128| -> atoll_model::Result<Value> {
            let out = || Error::new(ErrorKind::NumericOutOfRange, format!("{} out of range", self.to));
            match self.to {
                SqlType::Int2 => i16::try_from(v).map(Value::Int2).map_err(|_| out()),
                SqlType::Int4 => i32::try_from(v).map(Value::Int4).map_err(|_| out()),
                _ => i64::try_from(v).map(Value::Int8).map_err(|_| out()),
            }
        };
        let float = |x: f64| -> atoll_model::Result<Value> {
            let rounded = x.round_ties_even();
            if !rounded.is_finite() || rounded.abs() >= 1e19 {
                return Err(Error::new(ErrorKind::NumericOutOfRange, format!("{} out of range", self.to)));
            }
            fits(rounded as i128)
        };
        Ok(match (value, &self.to) {
            (Value::Text(text), SqlType::Varchar(Some(n)) | SqlType::Char(n)) => {
                Value::Text(cut(text, *n, matches!(self.to, SqlType::Char(_))))
            }
            (Value::Text(text), SqlType::Text | SqlType::Varchar(None)) => Value::Text(text.clone()),
            (Value::Text(text), SqlType::Interval) => of_interval_text(text)?,
            (Value::Text(text), SqlType::Numeric(limits)) => {
                let (unscaled, scale) = atoll_model::text::parse_numeric(text, None)?;
                let wanted = limits.map_or(atoll_model::UNCONSTRAINED_SCALE, |(_, s)| s);
                let precision = limits.map_or(38, |(p, _)| p);
                rescale(unscaled, scale, wanted)
                    .filter(|v| atoll_model::text::fits_precision(*v, precision))
                    .map(|v| Value::Numeric(v, wanted))
                    .ok_or_else(|| Error::new(ErrorKind::NumericOutOfRange, "numeric field overflow"))?
            }
            (Value::Text(text), ty) => atoll_model::text::parse(ty, text)?,
            (Value::Float4(x), SqlType::Int2 | SqlType::Int4 | SqlType::Int8) => float(f64::from(*x))?,
            (Value::Float8(x), SqlType::Int2 | SqlType::Int4 | SqlType::Int8) => float(*x)?,
            (Value::Numeric(v, s), SqlType::Int2 | SqlType::Int4 | SqlType::Int8) => {
                fits(rescale(*v, *s, 0).ok_or_else(|| Error::new(ErrorKind::NumericOutOfRange, "value out of range"))?)?
            }
            (Value::Float4(_) | Value::Float8(_), SqlType::Numeric(limits)) => {
                let scale = limits.map_or(atoll_model::UNCONSTRAINED_SCALE, |(_, s)| s);
                let x = match value {
                    // The shortest text of a float4 has its six digits.
                    Value::Float4(x) => x.to_string().parse().unwrap_or(f64::from(*x)),
                    Value::Float8(x) => *x,
                    _ => 0.0,
                };
                Value::Numeric(from_float(x, scale)?, scale)
            }
            (value, SqlType::Varchar(Some(n)) | SqlType::Char(n)) => {
                Value::Text(cut(&written(from, value), *n, matches!(self.to, SqlType::Char(_))))
            }
            (value, SqlType::Text | SqlType::Varchar(None) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb) => {
                Value::Text(written(from, value))
            }
            // Digits of a second.
            (value, to) => convert(value.clone(), from, to)?,
        })
    }
}

/// A value as a cast to text writes it: booleans in full.
fn written(from: &SqlType, value: &Value) -> String {
    match value {
        Value::Bool(b) => b.to_string(),
        value if *from == SqlType::Interval => interval_of(value),
        // Without the padding of char(n).
        Value::Text(text) => text.clone(),
        value => atoll_model::text::to_text(from, value),
    }
}

fn cut(text: &str, n: u32, blanks: bool) -> String {
    let end = text.char_indices().nth(n as usize).map_or(text.len(), |(i, _)| i);
    let kept = &text[..end];
    (if blanks { kept.trim_end_matches(' ') } else { kept }).to_owned()
}
