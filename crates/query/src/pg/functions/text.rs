//! Text and formatting functions.

use super::scalar::{Call, Scalar, shown, text};
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};

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
        Scalar::new("concat", 0..=100, SqlType::Text, |call, args| {
            Ok(Value::Text(
                args.iter().zip(call.types).filter(|(v, _)| !v.is_null()).map(|(v, t)| shown(t, v)).collect(),
            ))
        })
        .with_nulls(),
        Scalar::new("concat_ws", 1..=100, SqlType::Text, |call, args| {
            if args[0].is_null() {
                return Ok(Value::Null);
            }
            let parts: Vec<String> =
                args.iter().zip(call.types).skip(1).filter(|(v, _)| !v.is_null()).map(|(v, t)| shown(t, v)).collect();
            Ok(Value::Text(parts.join(text(&args[0]))))
        })
        .with_nulls(),
        // LIKE with another escape character than the backslash, as LIKE with the backslash.
        Scalar::new("atoll_like_pattern", 2..=2, SqlType::Text, |_, args| {
            let escape = text(&args[1]).chars().next();
            let mut out = String::new();
            let mut chars = text(&args[0]).chars();
            while let Some(c) = chars.next() {
                if Some(c) == escape {
                    let Some(next) = chars.next() else {
                        return Err(Error::new(
                            ErrorKind::InvalidEscapeSequence,
                            "LIKE pattern must not end with escape character",
                        ));
                    };
                    out.push('\\');
                    out.push(next);
                } else if c == '\\' {
                    out.push_str("\\\\");
                } else {
                    out.push(c);
                }
            }
            Ok(Value::Text(out))
        }),
        // SIMILAR TO's pattern as a regular expression.
        Scalar::new("atoll_similar_pattern", 2..=2, SqlType::Text, |_, args| {
            let escape = text(&args[1]).chars().next();
            let mut out = String::from("^(?:");
            let mut chars = text(&args[0]).chars();
            let mut bracket = false;
            while let Some(c) = chars.next() {
                if Some(c) == escape {
                    if let Some(next) = chars.next() {
                        out.push_str(&regex::escape(&next.to_string()));
                    }
                    continue;
                }
                match c {
                    ']' if bracket => {
                        bracket = false;
                        out.push(c);
                    }
                    _ if bracket => out.push(c),
                    '[' => {
                        bracket = true;
                        out.push(c);
                    }
                    '%' => out.push_str("(?s:.*)"),
                    '_' => out.push_str("(?s:.)"),
                    '.' | '^' | '$' | '\\' => {
                        out.push('\\');
                        out.push(c);
                    }
                    c => out.push(c),
                }
            }
            out.push_str(")$");
            Ok(Value::Text(out))
        }),
        Scalar::new("regexp_split_to_array", 2..=3, SqlType::Array(Box::new(SqlType::Text)), |_, args| {
            let regex = pattern(text(&args[1]), args.get(2).map_or("", text))?;
            let whole = text(&args[0]);
            let mut out = vec![];
            let mut from = 0;
            for found in regex.find_iter(whole) {
                // An empty match at either end splits nothing off.
                if found.is_empty() && (found.start() == 0 || found.start() == whole.len()) {
                    continue;
                }
                out.push(Value::Text(whole[from..found.start()].to_owned()));
                from = found.end();
            }
            out.push(Value::Text(whole[from..].to_owned()));
            Ok(Value::Array(out))
        }),
        Scalar::new("substr", 2..=3, SqlType::Text, substring).returning(substring_type),
        Scalar::new("substring", 2..=3, SqlType::Text, substring).returning(substring_type),
        Scalar::new("quote_nullable", 1..=1, SqlType::Text, |call, args| {
            Ok(Value::Text(match &args[0] {
                Value::Null => "NULL".into(),
                value => format!("'{}'", shown(&call.types[0], value).replace('\'', "''")),
            }))
        })
        .with_nulls(),
        Scalar::new("length", 1..=1, SqlType::Int4, |_, args| {
            let n = match &args[0] {
                Value::Bytea(bytes) => bytes.len(),
                value => text(value).chars().count(),
            };
            Ok(Value::Int4(i32::try_from(n).unwrap_or(i32::MAX)))
        })
        .returning(|types| match types {
            // A cast to text may keep the name of the type that it came from.
            [
                SqlType::Text
                | SqlType::Varchar(_)
                | SqlType::Char(_)
                | SqlType::Bytea
                | SqlType::Uuid
                | SqlType::Json
                | SqlType::Jsonb,
            ] => Ok(SqlType::Int4),
            [other] => {
                Err(Error::new(ErrorKind::UndefinedFunction, format!("function length({other}) does not exist")).hint(
                    "No function matches the given name and argument types. You might need to add explicit type casts.",
                ))
            }
            _ => Err(Error::new(ErrorKind::UndefinedFunction, "function length() does not exist")),
        }),
        bytes("octet_length", 1),
        bytes("bit_length", 8),
        // NULL for an array with NULLs, otherwise false: what `= ANY` over it is when nothing equals.
        Scalar::new("atoll_null_within", 1..=1, SqlType::Bool, |_, args| {
            Ok(match &args[0] {
                Value::Array(items) if items.iter().any(Value::is_null) => Value::Null,
                _ => Value::Bool(false),
            })
        }),
        // ARRAY(SELECT …) of no rows is an empty array.
        Scalar::new("atoll_or_empty", 1..=1, SqlType::Text, |_, args| {
            Ok(if args[0].is_null() { Value::Array(vec![]) } else { args[0].clone() })
        })
        .with_nulls()
        .returning(|types| Ok(types.first().cloned().unwrap_or(SqlType::Text))),
        // A literal array of values such as the first argument.
        Scalar::new("atoll_array_like", 2..=2, SqlType::Text, |call, args| match call.result {
            SqlType::Array(item) => atoll_model::text::parse_array(item, text(&args[1])).map(Value::Array),
            _ => Err(Error::internal("an array type expected")),
        })
        .with_nulls()
        .returning(|types| Ok(SqlType::Array(Box::new(types.first().cloned().unwrap_or(SqlType::Text))))),
        Scalar::new("to_number", 2..=2, SqlType::Numeric(None), |_, args| {
            let plain: String =
                text(&args[0]).chars().filter(|c| c.is_ascii_digit() || matches!(c, '.' | '-')).collect();
            let (unscaled, scale) = atoll_model::text::parse_numeric(&plain, None)?;
            atoll_model::text::rescale(unscaled, scale, atoll_model::UNCONSTRAINED_SCALE)
                .map(|v| Value::Numeric(v, atoll_model::UNCONSTRAINED_SCALE))
                .ok_or_else(|| Error::new(ErrorKind::NumericOutOfRange, "value out of range"))
        }),
        Scalar::new("encode", 2..=2, SqlType::Text, |call, args| {
            let bytes = match &args[0] {
                Value::Bytea(bytes) => bytes.clone(),
                Value::Text(t) if call.types[0] == SqlType::Text => atoll_model::text::parse_bytea(t)?,
                _ => return Err(Error::new(ErrorKind::UndefinedFunction, "function encode takes bytea")),
            };
            encode(&bytes, text(&args[1])).map(Value::Text)
        }),
        Scalar::new("decode", 2..=2, SqlType::Bytea, |_, args| {
            decode(text(&args[0]), text(&args[1])).map(Value::Bytea)
        }),
        Scalar::new("atoll_bitwise_not", 1..=1, SqlType::Int8, |_, args| {
            Ok(match &args[0] {
                Value::Int2(v) => Value::Int2(!v),
                Value::Int4(v) => Value::Int4(!v),
                value => Value::Int8(!super::scalar::integer(value)),
            })
        })
        .returning(|types| match types {
            [ty @ (SqlType::Int2 | SqlType::Int4 | SqlType::Int8)] => Ok(ty.clone()),
            _ => Err(Error::new(ErrorKind::UndefinedFunction, "operator does not exist: ~ of this type")),
        }),
        Scalar::new("array_length", 2..=2, SqlType::Int4, |_, args| dimension(&args[0], &args[1], |n| n)),
        Scalar::new("array_upper", 2..=2, SqlType::Int4, |_, args| dimension(&args[0], &args[1], |n| n)),
        Scalar::new("array_lower", 2..=2, SqlType::Int4, |_, args| dimension(&args[0], &args[1], |_| 1)),
        Scalar::new("array_position", 2..=3, SqlType::Int4, |_, args| {
            let Value::Array(items) = &args[0] else { return Ok(Value::Null) };
            let from = args.get(2).map_or(1, super::scalar::integer).max(1);
            let skip = usize::try_from(from - 1).unwrap_or(0);
            Ok(items
                .iter()
                .enumerate()
                .skip(skip)
                .find(|(_, v)| same(v, &args[1]))
                .and_then(|(i, _)| i32::try_from(i + 1).ok())
                .map_or(Value::Null, Value::Int4))
        })
        .with_nulls(),
    ]
}

/// The bytes of a text or bytea, times `unit`.
fn bytes(name: &'static str, unit: usize) -> Scalar {
    Scalar::new(name, 1..=1, SqlType::Int4, move |_, args| {
        let n = match &args[0] {
            Value::Bytea(bytes) => bytes.len(),
            value => text(value).len(),
        };
        Ok(Value::Int4(i32::try_from(n * unit).unwrap_or(i32::MAX)))
    })
}

fn unknown_encoding(name: &str) -> Error {
    Error::new(ErrorKind::InvalidParameterValue, format!("unrecognized encoding: \"{name}\""))
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8], encoding: &str) -> Result<String> {
    match encoding.to_ascii_lowercase().as_str() {
        "hex" => Ok(bytes.iter().map(|b| format!("{b:02x}")).collect()),
        "base64" => {
            let mut out = String::new();
            for (at, chunk) in bytes.chunks(3).enumerate() {
                // Lines of 76 characters, as in MIME.
                if at > 0 && at % 19 == 0 {
                    out.push('\n');
                }
                let n = (u32::from(chunk[0]) << 16)
                    | (u32::from(chunk.get(1).copied().unwrap_or(0)) << 8)
                    | u32::from(chunk.get(2).copied().unwrap_or(0));
                for digit in 0..4 {
                    if digit <= chunk.len() {
                        out.push(char::from(BASE64[(n >> (18 - 6 * digit) & 63) as usize]));
                    } else {
                        out.push('=');
                    }
                }
            }
            Ok(out)
        }
        "escape" => Ok(bytes
            .iter()
            .map(|b| match b {
                0 | 128..=255 => format!("\\{b:03o}"),
                b'\\' => "\\\\".to_owned(),
                b => char::from(*b).to_string(),
            })
            .collect()),
        _ => Err(unknown_encoding(encoding)),
    }
}

fn decode(input: &str, encoding: &str) -> Result<Vec<u8>> {
    match encoding.to_ascii_lowercase().as_str() {
        "hex" => atoll_model::text::parse_bytea(&format!("\\x{input}")),
        "base64" => {
            let mut out = vec![];
            let (mut bits, mut count) = (0u32, 0);
            for c in input.bytes().filter(|c| !c.is_ascii_whitespace() && *c != b'=') {
                let Some(digit) = BASE64.iter().position(|b| *b == c) else {
                    return Err(Error::new(
                        ErrorKind::InvalidParameterValue,
                        format!("invalid symbol \"{}\" found while decoding base64 sequence", char::from(c)),
                    ));
                };
                // A position among 64.
                bits = (bits << 6) | digit as u32;
                count += 6;
                if count >= 8 {
                    count -= 8;
                    out.push((bits >> count & 0xff) as u8);
                }
            }
            Ok(out)
        }
        "escape" => atoll_model::text::parse_bytea(input),
        _ => Err(unknown_encoding(encoding)),
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Null, _) | (_, Value::Null) => false,
        (a, b) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a == b,
            _ => a.compare(b) == Some(std::cmp::Ordering::Equal),
        },
    }
}

fn dimension(array: &Value, dimension: &Value, f: fn(i32) -> i32) -> Result<Value> {
    let mut here = array;
    for _ in 1..super::scalar::integer(dimension).max(1) {
        match here {
            Value::Array(items) if matches!(items.first(), Some(Value::Array(_))) => here = &items[0],
            _ => return Ok(Value::Null),
        }
    }
    Ok(match here {
        Value::Array(items) if !items.is_empty() && super::scalar::integer(dimension) > 0 => {
            Value::Int4(f(i32::try_from(items.len()).unwrap_or(i32::MAX)))
        }
        _ => Value::Null,
    })
}

/// A regular expression with PostgreSQL's flags.
fn pattern(text: &str, flags: &str) -> Result<regex::Regex> {
    let mut builder = regex::RegexBuilder::new(text);
    builder.dot_matches_new_line(true);
    for flag in flags.chars() {
        match flag {
            'i' => builder.case_insensitive(true),
            'n' | 'm' => builder.dot_matches_new_line(false).multi_line(true),
            'x' => builder.ignore_whitespace(true),
            's' | 'c' | 'g' => &mut builder,
            other => {
                return Err(Error::new(
                    ErrorKind::InvalidParameterValue,
                    format!("invalid regular expression option: \"{other}\""),
                ));
            }
        };
    }
    builder.build().map_err(|e| Error::new(ErrorKind::InvalidRegex, format!("invalid regular expression: {e}")))
}

fn substring_type(types: &[SqlType]) -> Result<SqlType> {
    let whole = |t: &SqlType| matches!(t, SqlType::Int2 | SqlType::Int4 | SqlType::Int8);
    match types {
        [SqlType::Bytea, rest @ ..] if rest.iter().all(whole) => Ok(SqlType::Bytea),
        [
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb,
            rest @ ..,
        ] if rest.iter().all(whole) || matches!(rest, [SqlType::Text | SqlType::Varchar(_)]) => Ok(SqlType::Text),
        _ => {
            let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
            Err(Error::new(
                ErrorKind::UndefinedFunction,
                format!("function pg_catalog.substring({}) does not exist", shown.join(", ")),
            )
            .hint("No function matches the given name and argument types. You might need to add explicit type casts."))
        }
    }
}

fn substring(_: &Call<'_>, args: &[Value]) -> Result<Value> {
    if let Value::Text(p) = &args[1] {
        let regex = pattern(p, "")?;
        return Ok(regex.captures(text(&args[0])).map_or(Value::Null, |c| {
            c.get(usize::from(c.len() > 1)).map_or(Value::Null, |m| Value::Text(m.as_str().to_owned()))
        }));
    }
    let from = super::scalar::integer(&args[1]);
    let end = match args.get(2).map(super::scalar::integer) {
        Some(n) if n < 0 => return Err(Error::new(ErrorKind::Substring, "negative substring length not allowed")),
        Some(n) => from.saturating_add(n),
        None => i64::MAX,
    };
    let skip = usize::try_from(from.max(1) - 1).unwrap_or(usize::MAX);
    let take = usize::try_from(end.saturating_sub(from.max(1))).unwrap_or(0);
    Ok(match &args[0] {
        Value::Bytea(bytes) => Value::Bytea(bytes.iter().skip(skip).take(take).copied().collect()),
        value => Value::Text(text(value).chars().skip(skip).take(take).collect()),
    })
}
