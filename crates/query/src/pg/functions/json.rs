//! Operators and functions of json and jsonb, which are carried as text.
//!
//! Invariant: what is of type jsonb is normalised text, so equal values are equal texts.

use super::scalar::{Scalar, integer, shown, text};
use atoll_model::text::{check_json, normalise_jsonb, parse_uuid};
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};
use serde_json::Value as Json;

pub(super) fn functions() -> Vec<Scalar> {
    let json_of = |types: &[SqlType]| {
        Ok(if matches!(types.first(), Some(SqlType::Json)) { SqlType::Json } else { SqlType::Jsonb })
    };
    let build = |name, ty: SqlType, object: bool| {
        let binary = ty == SqlType::Jsonb;
        Scalar::new(name, 0..=100, ty, move |call, args| {
            if !binary {
                return build_text(args, call.types, object);
            }
            let values: Vec<Json> = args.iter().zip(call.types).map(|(v, t)| to_json(t, v)).collect::<Result<_>>()?;
            if !object {
                return written(&Json::Array(values), binary);
            }
            if args.len() % 2 == 1 {
                return Err(Error::new(
                    ErrorKind::InvalidParameterValue,
                    "argument list must have even number of elements",
                ));
            }
            let mut made = serde_json::Map::new();
            for (at, pair) in values.chunks(2).enumerate() {
                if args[at * 2].is_null() {
                    return Err(Error::new(
                        ErrorKind::InvalidParameterValue,
                        format!("argument {}: key must not be null", at * 2 + 1),
                    ));
                }
                let key = shown(&call.types[at * 2], &args[at * 2]);
                made.insert(key, pair[1].clone());
            }
            written(&Json::Object(made), binary)
        })
        .with_nulls()
    };
    vec![
        Scalar::new("atoll_json", 1..=1, SqlType::Json, |_, args| {
            check_json(text(&args[0]))?;
            Ok(args[0].clone())
        }),
        Scalar::new("atoll_jsonb", 1..=1, SqlType::Jsonb, |_, args| Ok(Value::Text(normalise_jsonb(text(&args[0]))?))),
        Scalar::new("atoll_uuid", 1..=1, SqlType::Uuid, |_, args| Ok(Value::Text(parse_uuid(text(&args[0]))?))),
        Scalar::new("atoll_json_get", 2..=2, SqlType::Jsonb, |_, args| get(args, false)).returning(json_of),
        Scalar::new("atoll_json_get_text", 2..=2, SqlType::Text, |_, args| get(args, true)),
        Scalar::new("atoll_json_path", 2..=2, SqlType::Jsonb, |_, args| path(args, false)).returning(json_of),
        Scalar::new("atoll_json_path_text", 2..=2, SqlType::Text, |_, args| path(args, true)),
        Scalar::new("atoll_json_contains", 2..=2, SqlType::Bool, |_, args| {
            Ok(Value::Bool(contains(&read(text(&args[0]))?, &read(text(&args[1]))?, true)))
        }),
        Scalar::new("atoll_json_exists", 2..=2, SqlType::Bool, |_, args| {
            Ok(Value::Bool(has_key(&read(text(&args[0]))?, text(&args[1]))))
        }),
        Scalar::new("atoll_json_contained", 2..=2, SqlType::Bool, |_, args| {
            Ok(Value::Bool(contains(&read(text(&args[1]))?, &read(text(&args[0]))?, true)))
        }),
        Scalar::new("atoll_json_exists_any", 2..=2, SqlType::Bool, |_, args| {
            let json = read(text(&args[0]))?;
            Ok(Value::Bool(steps(&args[1])?.iter().any(|k| has_key(&json, text(k)))))
        }),
        Scalar::new("atoll_json_exists_all", 2..=2, SqlType::Bool, |_, args| {
            let json = read(text(&args[0]))?;
            Ok(Value::Bool(steps(&args[1])?.iter().all(|k| has_key(&json, text(k)))))
        }),
        Scalar::new("atoll_json_concat", 2..=2, SqlType::Jsonb, |_, args| {
            let whole = match (read(text(&args[0]))?, read(text(&args[1]))?) {
                (Json::Object(mut a), Json::Object(b)) => {
                    a.extend(b);
                    Json::Object(a)
                }
                (Json::Array(mut a), Json::Array(b)) => {
                    a.extend(b);
                    Json::Array(a)
                }
                (Json::Array(mut a), b) => {
                    a.push(b);
                    Json::Array(a)
                }
                (a, Json::Array(mut b)) => {
                    b.insert(0, a);
                    Json::Array(b)
                }
                (Json::Object(_), _) | (_, Json::Object(_)) => {
                    return Err(Error::new(ErrorKind::InvalidParameterValue, "invalid concatenation of jsonb objects"));
                }
                (a, b) => Json::Array(vec![a, b]),
            };
            written(&whole, true)
        }),
        Scalar::new("atoll_json_delete", 2..=2, SqlType::Jsonb, |_, args| {
            let mut json = read(text(&args[0]))?;
            match (&mut json, &args[1]) {
                (Json::Object(map), Value::Text(key)) => {
                    map.remove(key);
                }
                (Json::Object(map), Value::Array(keys)) => {
                    map.retain(|k, _| !keys.iter().any(|gone| text(gone) == k));
                }
                (Json::Array(items), Value::Text(key)) => items.retain(|i| i.as_str() != Some(key)),
                (Json::Array(items), Value::Array(keys)) => {
                    items.retain(|i| !keys.iter().any(|gone| i.as_str() == Some(text(gone))));
                }
                (Json::Array(items), key) if key.as_i64().is_some() => {
                    let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
                    let index = integer(key);
                    let index = if index < 0 { index + len } else { index };
                    if let Some(index) = usize::try_from(index).ok().filter(|i| *i < items.len()) {
                        items.remove(index);
                    }
                }
                (Json::Object(_), _) => {
                    return Err(Error::new(
                        ErrorKind::InvalidParameterValue,
                        "cannot delete from object using integer index",
                    ));
                }
                _ => return Err(Error::new(ErrorKind::InvalidParameterValue, "cannot delete from scalar")),
            }
            written(&json, true)
        }),
        Scalar::new("jsonb_strip_nulls", 1..=1, SqlType::Jsonb, |_, args| {
            let mut json = read(text(&args[0]))?;
            strip_nulls(&mut json);
            written(&json, true)
        }),
        Scalar::new("jsonb_set", 3..=4, SqlType::Jsonb, |_, args| {
            let mut json = read(text(&args[0]))?;
            let create = args.get(3) != Some(&Value::Bool(false));
            set(&mut json, &steps(&args[1])?, read(text(&args[2]))?, create);
            written(&json, true)
        }),
        extract_path("jsonb_extract_path", SqlType::Jsonb),
        extract_path("jsonb_extract_path_text", SqlType::Text),
        extract_path("json_extract_path", SqlType::Json),
        extract_path("json_extract_path_text", SqlType::Text),
        type_of("jsonb_typeof"),
        type_of("json_typeof"),
        length("jsonb_array_length"),
        length("json_array_length"),
        build("jsonb_build_object", SqlType::Jsonb, true),
        build("json_build_object", SqlType::Json, true),
        build("jsonb_build_array", SqlType::Jsonb, false),
        build("json_build_array", SqlType::Json, false),
        Scalar::new("to_jsonb", 1..=1, SqlType::Jsonb, |call, args| written(&to_json(&call.types[0], &args[0])?, true)),
        Scalar::new("to_json", 1..=1, SqlType::Json, |call, args| json_text(&call.types[0], &args[0]).map(Value::Text)),
        joined("atoll_json_array", SqlType::Json),
        joined("atoll_jsonb_array", SqlType::Jsonb),
    ]
}

/// The items of json_agg and jsonb_agg, each json text already, as one array.
fn joined(name: &'static str, ty: SqlType) -> Scalar {
    Scalar::new(name, 1..=1, ty, |_, args| {
        let Value::Array(items) = &args[0] else { return Ok(Value::Null) };
        let items: Vec<&str> = items.iter().map(|v| if v.is_null() { "null" } else { text(v) }).collect();
        Ok(Value::Text(format!("[{}]", items.join(", "))))
    })
}

/// A value as PostgreSQL's `to_json` writes it: arrays without blanks, json as it was given.
fn json_text(ty: &SqlType, value: &Value) -> Result<String> {
    Ok(match (ty, value) {
        (_, Value::Null) => "null".into(),
        (SqlType::Json | SqlType::Jsonb, value) => text(value).to_owned(),
        (SqlType::Array(item), Value::Array(items)) => {
            let parts = items.iter().map(|v| json_text(item, v)).collect::<Result<Vec<_>>>()?;
            format!("[{}]", parts.join(","))
        }
        (ty, value) => to_json(ty, value)?.to_string(),
    })
}

/// `json_build_object` and `json_build_array`, with PostgreSQL's blanks.
fn build_text(args: &[Value], types: &[SqlType], object: bool) -> Result<Value> {
    let parts = args.iter().zip(types).map(|(v, t)| json_text(t, v)).collect::<Result<Vec<_>>>()?;
    if !object {
        return Ok(Value::Text(format!("[{}]", parts.join(", "))));
    }
    if args.len() % 2 == 1 {
        return Err(Error::new(ErrorKind::InvalidParameterValue, "argument list must have even number of elements"));
    }
    let mut pairs = vec![];
    for at in (0..args.len()).step_by(2) {
        if args[at].is_null() {
            return Err(Error::new(
                ErrorKind::InvalidParameterValue,
                format!("argument {}: key must not be null", at + 1),
            ));
        }
        pairs.push(format!("{} : {}", Json::String(shown(&types[at], &args[at])), parts[at + 1]));
    }
    Ok(Value::Text(format!("{{{}}}", pairs.join(", "))))
}

fn has_key(json: &Json, key: &str) -> bool {
    match json {
        Json::Object(map) => map.contains_key(key),
        Json::Array(items) => items.iter().any(|i| i.as_str() == Some(key)),
        Json::String(s) => s == key,
        _ => false,
    }
}

fn strip_nulls(json: &mut Json) {
    match json {
        Json::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Json::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// Puts a value where a path leads; the last step is made if it is not there and `create`.
fn set(json: &mut Json, path: &[Value], new: Json, create: bool) {
    let [step, rest @ ..] = path else { return };
    match json {
        Json::Object(map) => {
            let key = text(step);
            if !rest.is_empty() {
                if let Some(inner) = map.get_mut(key) {
                    set(inner, rest, new, create);
                }
            } else if create || map.contains_key(key) {
                map.insert(key.to_owned(), new);
            }
        }
        Json::Array(items) => {
            let Ok(index) = text(step).parse::<i64>() else { return };
            let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let place = usize::try_from(if index < 0 { index + len } else { index });
            match place.ok().filter(|p| *p < items.len()) {
                Some(place) if rest.is_empty() => items[place] = new,
                Some(place) => set(&mut items[place], rest, new, create),
                None if rest.is_empty() && create && index < 0 => items.insert(0, new),
                None if rest.is_empty() && create => items.push(new),
                None => {}
            }
        }
        _ => {}
    }
}

fn extract_path(name: &'static str, ty: SqlType) -> Scalar {
    let as_text = ty == SqlType::Text;
    Scalar::new(name, 2..=16, ty, move |_, args| path(&[args[0].clone(), Value::Array(args[1..].to_vec())], as_text))
}

/// The steps of a path: an array of text, or its text form.
fn steps(value: &Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items.clone()),
        other => atoll_model::text::parse_array(&SqlType::Text, text(other)),
    }
}

fn type_of(name: &'static str) -> Scalar {
    Scalar::new(name, 1..=1, SqlType::Text, |_, args| {
        Ok(Value::Text(
            match read(text(&args[0]))? {
                Json::Null => "null",
                Json::Bool(_) => "boolean",
                Json::Number(_) => "number",
                Json::String(_) => "string",
                Json::Array(_) => "array",
                Json::Object(_) => "object",
            }
            .into(),
        ))
    })
}

fn length(name: &'static str) -> Scalar {
    Scalar::new(name, 1..=1, SqlType::Int4, |_, args| match read(text(&args[0]))? {
        Json::Array(items) => Ok(Value::Int4(i32::try_from(items.len()).unwrap_or(i32::MAX))),
        Json::Object(_) => Err(Error::new(ErrorKind::InvalidParameterValue, "cannot get array length of a non-array")),
        _ => Err(Error::new(ErrorKind::InvalidParameterValue, "cannot get array length of a scalar")),
    })
}

fn read(text: &str) -> Result<Json> {
    serde_json::from_str(text).map_err(|_| atoll_model::text::invalid_text("json", text))
}

fn written(json: &Json, binary: bool) -> Result<Value> {
    // PostgreSQL's json builders put blanks where jsonb's text has them, too.
    let _ = binary;
    Ok(Value::Text(normalise_jsonb(&json.to_string())?))
}

fn give(json: Option<&Json>, as_text: bool) -> Result<Value> {
    Ok(match json {
        None => Value::Null,
        Some(Json::Null) if as_text => Value::Null,
        Some(Json::String(s)) if as_text => Value::Text(s.clone()),
        Some(json) => Value::Text(normalise_jsonb(&json.to_string())?),
    })
}

fn at(items: &[Json], index: i64) -> Option<&Json> {
    let index = if index < 0 { i64::try_from(items.len()).ok()? + index } else { index };
    usize::try_from(index).ok().and_then(|i| items.get(i))
}

fn get(args: &[Value], as_text: bool) -> Result<Value> {
    let json = read(text(&args[0]))?;
    let found = match (&json, &args[1]) {
        (Json::Object(map), Value::Text(key)) => map.get(key),
        (Json::Array(items), key) if key.as_i64().is_some() => at(items, integer(key)),
        _ => None,
    };
    give(found, as_text)
}

fn path(args: &[Value], as_text: bool) -> Result<Value> {
    let json = read(text(&args[0]))?;
    let steps = steps(&args[1])?;
    let mut here = Some(&json);
    for step in &steps {
        let step = text(step);
        here = match here {
            Some(Json::Object(map)) => map.get(step),
            Some(Json::Array(items)) => step.parse().ok().and_then(|i| at(items, i)),
            _ => None,
        };
    }
    give(here, as_text)
}

/// jsonb's containment: objects by key, arrays as sets, and a bare scalar inside an array at the top.
fn contains(whole: &Json, part: &Json, top: bool) -> bool {
    match (whole, part) {
        (Json::Object(a), Json::Object(b)) => b.iter().all(|(k, v)| a.get(k).is_some_and(|w| contains(w, v, false))),
        (Json::Array(a), Json::Array(b)) => b.iter().all(|v| a.iter().any(|w| contains(w, v, false))),
        (Json::Array(a), scalar) if top && !scalar.is_object() => a.contains(scalar),
        (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

fn to_json(ty: &SqlType, value: &Value) -> Result<Json> {
    Ok(match (ty, value) {
        (_, Value::Null) => Json::Null,
        (_, Value::Bool(b)) => Json::Bool(*b),
        (SqlType::Json | SqlType::Jsonb, Value::Text(s)) => read(s)?,
        (SqlType::Array(item), Value::Array(items)) => {
            Json::Array(items.iter().map(|v| to_json(item, v)).collect::<Result<_>>()?)
        }
        (
            SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Numeric(_) | SqlType::Float4 | SqlType::Float8,
            value,
        ) => {
            let text = shown(ty, value);
            serde_json::from_str(&text).unwrap_or(Json::String(text))
        }
        (SqlType::Timestamp(_) | SqlType::TimestampTz(_), value) => {
            Json::String(shown(ty, value).replacen(' ', "T", 1))
        }
        (ty, value) => Json::String(shown(ty, value)),
    })
}
