//! Text and formatting functions.

use super::scalar::{Scalar, shown, text};
use atoll_model::{Error, ErrorKind, SqlType, Value};

pub(super) fn functions() -> Vec<Scalar> {
    vec![
        Scalar::new("format", 1..=100, SqlType::Text, |call, args| {
            if args[0].is_null() {
                return Ok(Value::Null);
            }
            let mut out = String::new();
            let mut next = 1;
            let mut chars = text(&args[0]).chars();
            while let Some(c) = chars.next() {
                if c != '%' {
                    out.push(c);
                    continue;
                }
                let kind = match chars.next() {
                    Some('%') => {
                        out.push('%');
                        continue;
                    }
                    Some(kind @ ('s' | 'I' | 'L')) => kind,
                    Some(other) => {
                        return Err(Error::new(
                            ErrorKind::InvalidParameterValue,
                            format!("unrecognized format() type specifier \"{other}\""),
                        ));
                    }
                    None => {
                        return Err(Error::new(
                            ErrorKind::InvalidParameterValue,
                            "unterminated format() type specifier",
                        ));
                    }
                };
                let (Some(value), Some(ty)) = (args.get(next), call.types.get(next)) else {
                    return Err(Error::new(ErrorKind::InvalidParameterValue, "too few arguments for format()"));
                };
                next += 1;
                match (kind, value) {
                    ('s', Value::Null) => {}
                    ('L', Value::Null) => out.push_str("NULL"),
                    ('I', Value::Null) => {
                        return Err(Error::new(
                            ErrorKind::InvalidParameterValue,
                            "null values cannot be formatted as an SQL identifier",
                        ));
                    }
                    ('I', value) => out.push_str(&super::definitions::quote_ident(&shown(ty, value))),
                    ('L', value) => {
                        out.push('\'');
                        out.push_str(&shown(ty, value).replace('\'', "''"));
                        out.push('\'');
                    }
                    (_, value) => out.push_str(&shown(ty, value)),
                }
            }
            Ok(Value::Text(out))
        })
        .with_nulls(),
    ]
}
