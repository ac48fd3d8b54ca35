//! Values to and from JSON.
//!
//! Invariant: numbers are exact: integers and numeric are written with all their digits as JSON numbers; what JSON has no
//! number for (NaN, infinities) is text. Dates and times are ISO 8601, bytea is hex, json is embedded as it is.

use crate::cells::{Cell, item_type};
use crate::encode::write_text;
use atoll_model::text;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};
use serde_json::Value as Json;

/// Writes a value as JSON.
pub(super) fn write(ty: &SqlType, cell: Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Null => out.extend_from_slice(b"null"),
        Cell::Bool(v) => out.extend_from_slice(if v { b"true" } else { b"false" }),
        Cell::Float4(v) if !v.is_finite() => quoted(ty, cell, out),
        Cell::Float8(v) if !v.is_finite() => quoted(ty, cell, out),
        Cell::Int(_) | Cell::Float4(_) | Cell::Float8(_) | Cell::Numeric(..) => write_text(ty, cell, out),
        Cell::Text(v) if matches!(ty, SqlType::Json | SqlType::Jsonb) && text::check_json(v).is_ok() => {
            out.extend_from_slice(v.as_bytes());
        }
        Cell::Text(v) => write_string(v, out),
        Cell::Timestamp(_) => {
            let mut plain = Vec::new();
            write_text(ty, cell, &mut plain);
            if let Some(space) = plain.iter_mut().find(|b| **b == b' ') {
                *space = b'T';
            }
            if matches!(ty, SqlType::TimestampTz(_)) {
                // `+00` is ISO 8601, but not what most parsers take.
                plain.extend_from_slice(b":00");
            }
            out.push(b'"');
            out.extend_from_slice(&plain);
            out.push(b'"');
        }
        Cell::Bytes(_) | Cell::Date(_) | Cell::Time(_) | Cell::Interval(_) => quoted(ty, cell, out),
        Cell::List(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(item_type(ty), item, out);
            }
            out.push(b']');
        }
    }
}

/// The text form as a JSON string.
fn quoted(ty: &SqlType, cell: Cell<'_>, out: &mut Vec<u8>) {
    let mut plain = Vec::new();
    write_text(ty, cell, &mut plain);
    write_string(&String::from_utf8_lossy(&plain), out);
}

/// A JSON string.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing a string to a Vec cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// A parameter given in JSON as a value of the type that the statement needs.
///
/// # Errors
/// 22P02 and what the type's text form gives.
pub(super) fn parameter(ty: &SqlType, json: &Json) -> Result<Value> {
    match (ty, json) {
        (_, Json::Null) => Ok(Value::Null),
        (SqlType::Array(item), Json::Array(values)) => {
            Ok(Value::Array(values.iter().map(|v| parameter(item, v)).collect::<Result<_>>()?))
        }
        (_, Json::String(text)) => text::parse(ty, text),
        (SqlType::Json | SqlType::Jsonb, other) => text::parse(ty, &other.to_string()),
        (_, Json::Bool(_) | Json::Number(_)) => text::parse(ty, &json.to_string()),
        (_, Json::Array(_) | Json::Object(_)) => Err(Error::new(
            ErrorKind::InvalidText,
            format!(
                "a parameter of type {ty} cannot be given as a JSON {}",
                if json.is_array() { "array" } else { "object" }
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(ty: &SqlType, value: &Value) -> String {
        let mut out = Vec::new();
        write(ty, Cell::from(value), &mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn values_are_json() {
        for (ty, value, want) in [
            (SqlType::Int8, Value::Int8(i64::MAX), "9223372036854775807"),
            (SqlType::Numeric(Some((10, 2))), Value::Numeric(-1250, 2), "-12.50"),
            (SqlType::Float8, Value::Float8(f64::NAN), "\"NaN\""),
            (SqlType::Float8, Value::Float8(1e20), "1e+20"),
            (SqlType::Text, Value::Text("a\"\n".into()), "\"a\\\"\\n\""),
            (SqlType::Jsonb, Value::Text("{\"a\": 1}".into()), "{\"a\": 1}"),
            (SqlType::Timestamp(None), Value::Timestamp(1_500_000), "\"1970-01-01T00:00:01.5\""),
            (SqlType::TimestampTz(None), Value::TimestampTz(0), "\"1970-01-01T00:00:00+00:00\""),
            (SqlType::Bytea, Value::Bytea(vec![255]), "\"\\\\xff\""),
            (SqlType::Array(Box::new(SqlType::Int4)), Value::Array(vec![Value::Int4(1), Value::Null]), "[1,null]"),
        ] {
            let written = json(&ty, &value);
            assert_eq!(written, want);
            assert!(serde_json::from_str::<Json>(&written).is_ok(), "{written}");
        }
    }

    #[test]
    fn parameters_are_read_by_type() {
        let array = SqlType::Array(Box::new(SqlType::Int4));
        assert_eq!(parameter(&SqlType::Int4, &Json::from(5)).ok(), Some(Value::Int4(5)));
        assert_eq!(parameter(&SqlType::Int4, &Json::from("5")).ok(), Some(Value::Int4(5)));
        assert_eq!(parameter(&SqlType::Text, &Json::from(5)).ok(), Some(Value::Text("5".into())));
        assert_eq!(
            parameter(&array, &serde_json::json!([1, null])).ok(),
            Some(Value::Array(vec![Value::Int4(1), Value::Null]))
        );
        assert_eq!(
            parameter(&SqlType::Jsonb, &serde_json::json!({"b": [1]})).ok(),
            Some(Value::Text("{\"b\": [1]}".into()))
        );
        assert!(parameter(&SqlType::Int4, &serde_json::json!({})).is_err());
        assert!(parameter(&SqlType::Int4, &Json::from(1.5)).is_err());
    }
}
