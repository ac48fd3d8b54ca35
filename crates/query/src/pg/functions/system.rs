//! Functions about the catalog: names and definitions by object id, sizes, privileges.

use super::definitions::{self as def, last_name};
use super::scalar::{Scalar, integer, text};
use atoll_model::{Catalog, Error, ErrorKind, FragmentId, RelationId, Result, SqlType, Table, Value};
use std::sync::Arc;

pub(super) fn functions(catalog: &Arc<Catalog>) -> Vec<Scalar> {
    let mut made = by_oid(catalog);
    made.extend(plain());
    made.extend(object("atoll_regtype_oid", "atoll_regtype_text", type_oid, type_name));
    made.extend(object("atoll_regnamespace_oid", "atoll_regnamespace_text", schema_oid, schema_name));
    made.extend(sizes(catalog));
    made
}

/// The table, and the one of its fragments, that an object id or a name stands for.
fn stored<'c>(catalog: &'c Catalog, value: &Value) -> Result<Option<(&'c Table, Option<FragmentId>)>> {
    let oid = match value {
        Value::Text(name) => relation_oid(catalog, name)?,
        oid => integer(oid),
    };
    let Ok(id) = u32::try_from(oid) else { return Ok(None) };
    if let Some(table) = catalog.tables.get(&RelationId(id)) {
        return Ok(Some((table, None)));
    }
    let fragment = FragmentId(id);
    Ok(catalog.fragment_by_id(fragment).map(|(table, _)| (&**table, Some(fragment))))
}

/// Sizes of relations. Indexes lie with their table's rows: a table's size includes them, and theirs is 0.
fn sizes(catalog: &Arc<Catalog>) -> Vec<Scalar> {
    let mut made = vec![];
    for (name, arity) in [
        ("pg_table_size", 1..=1),
        ("pg_relation_size", 1..=2),
        ("pg_total_relation_size", 1..=1),
        ("pg_indexes_size", 1..=1),
    ] {
        let catalog = catalog.clone();
        let counted = name != "pg_indexes_size";
        made.push(
            Scalar::new(name, arity, SqlType::Int8, move |call, args| {
                let Some((table, fragment)) = stored(&catalog, &args[0])? else { return Ok(Value::Int8(0)) };
                let hooks = super::session::hooks(call)?;
                let bytes: u64 = table
                    .fragments
                    .iter()
                    .filter(|f| counted && fragment.is_none_or(|id| id == f.id))
                    .map(|f| hooks.fragment_bytes(table, f.id))
                    .sum();
                Ok(Value::Int8(i64::try_from(bytes).unwrap_or(i64::MAX)))
            })
            .stable(),
        );
    }
    for name in ["pg_database_size", "pg_tablespace_size"] {
        let catalog = catalog.clone();
        made.push(
            Scalar::new(name, 1..=1, SqlType::Int8, move |call, args| {
                let hooks = super::session::hooks(call)?;
                let site = catalog.sites.values().find(|s| match &args[0] {
                    Value::Text(n) => s.name == *n,
                    oid => i64::from(s.id.0) == integer(oid),
                });
                let everywhere = name == "pg_database_size";
                let bytes: u64 = catalog
                    .tables
                    .values()
                    .flat_map(|t| t.fragments.iter().map(move |f| (t, f)))
                    .filter(|(_, f)| everywhere || site.is_some_and(|s| f.replicas.contains(&s.id)))
                    .map(|(t, f)| hooks.fragment_bytes(t, f.id))
                    .sum();
                Ok(Value::Int8(i64::try_from(bytes).unwrap_or(i64::MAX)))
            })
            .stable(),
        );
    }
    let ancestors = catalog.clone();
    let oids = SqlType::Array(Box::new(SqlType::Int8));
    made.push(
        Scalar::new("atoll_partition_ancestors", 1..=1, oids, move |_, args| {
            let oid = match &args[0] {
                Value::Text(name) => relation_oid(&ancestors, name)?,
                oid => integer(oid),
            };
            Ok(Value::Array(match stored(&ancestors, &Value::Int8(oid))? {
                Some((table, Some(_))) => vec![Value::Int8(oid), Value::Int8(i64::from(table.id.0))],
                Some((table, None)) if def::is_declared(&ancestors, table) => vec![Value::Int8(oid)],
                _ => vec![],
            }))
        })
        .stable(),
    );
    made
}

/// A function of the catalog.
pub(super) fn of(
    catalog: &Arc<Catalog>,
    name: &'static str,
    arity: std::ops::RangeInclusive<usize>,
    returns: SqlType,
    body: impl Fn(&Catalog, &[Value]) -> Result<Value> + Send + Sync + 'static,
) -> Scalar {
    let catalog = catalog.clone();
    Scalar::new(name, arity, returns, move |_, args| body(&catalog, args)).stable()
}

fn optional(value: Option<String>) -> Value {
    value.map_or(Value::Null, Value::Text)
}

fn by_oid(catalog: &Arc<Catalog>) -> Vec<Scalar> {
    let regclass = |types: &[SqlType]| {
        Ok(if matches!(types.first(), Some(SqlType::Int2 | SqlType::Int4 | SqlType::Int8)) {
            SqlType::Text
        } else {
            SqlType::Int8
        })
    };
    vec![
        of(catalog, "atoll_regclass", 1..=1, SqlType::Int8, |catalog, args| match &args[0] {
            Value::Text(name) => relation_oid(catalog, name).map(Value::Int8),
            oid => Ok(Value::Text(relation_name(catalog, integer(oid)))),
        })
        .returning(regclass),
        of(catalog, "atoll_regclass_oid", 1..=1, SqlType::Int8, |catalog, args| match &args[0] {
            Value::Text(name) => relation_oid(catalog, name).map(Value::Int8),
            oid => Ok(Value::Int8(integer(oid))),
        }),
        of(catalog, "atoll_regclass_text", 1..=1, SqlType::Text, |catalog, args| {
            let oid = match &args[0] {
                Value::Text(name) => relation_oid(catalog, name)?,
                oid => integer(oid),
            };
            Ok(Value::Text(relation_name(catalog, oid)))
        }),
        of(catalog, "atoll_regrole_oid", 1..=1, SqlType::Int8, |catalog, args| match &args[0] {
            Value::Text(name) => Ok(Value::Int8(def::role_oid(catalog, &last_name(name)))),
            oid => Ok(Value::Int8(integer(oid))),
        }),
        of(catalog, "atoll_regrole_text", 1..=1, SqlType::Text, |catalog, args| match &args[0] {
            Value::Text(name) => Ok(Value::Text(last_name(name))),
            oid => Ok(Value::Text(role(catalog, integer(oid)))),
        }),
        of(catalog, "to_regclass", 1..=1, SqlType::Int8, |catalog, args| {
            let plain = last_name(text(&args[0]));
            Ok(def::oid_of(catalog, &plain)
                .or_else(|| crate::pg::catalogs::system_oid(&plain))
                .map_or(Value::Null, Value::Int8))
        }),
        of(catalog, "atoll_regrole", 1..=1, SqlType::Int8, |catalog, args| match &args[0] {
            Value::Text(name) => Ok(Value::Int8(def::role_oid(catalog, &last_name(name)))),
            oid => Ok(Value::Text(role(catalog, integer(oid)))),
        })
        .returning(regclass),
        of(catalog, "pg_get_userbyid", 1..=1, SqlType::Text, |catalog, args| {
            Ok(Value::Text(role(catalog, integer(&args[0]))))
        }),
        of(catalog, "pg_get_indexdef", 1..=3, SqlType::Text, |catalog, args| {
            let Some((table, index)) = def::index_of(catalog, integer(&args[0])) else { return Ok(Value::Null) };
            if let Some(column) = args.get(1).map(integer).filter(|c| *c > 0) {
                let columns = index.map_or(&table.key, |i| &i.columns);
                let id = usize::try_from(column - 1).ok().and_then(|c| columns.get(c));
                return Ok(optional(
                    id.and_then(|id| table.position(*id)).map(|p| def::quote_ident(&table.columns[p].name)),
                ));
            }
            Ok(Value::Text(def::index_definition(table, index, args.get(2) == Some(&Value::Bool(true)))))
        }),
        of(catalog, "pg_get_constraintdef", 1..=2, SqlType::Text, |catalog, args| {
            let oid = integer(&args[0]);
            for table in catalog.tables.values() {
                for (at, constraint) in def::constraints(table).iter().enumerate() {
                    if def::constraint_oid(table, at) == oid {
                        let pretty = args.get(1) == Some(&Value::Bool(true));
                        return Ok(Value::Text(def::constraint_definition(catalog, table, constraint, pretty)));
                    }
                }
            }
            Ok(Value::Null)
        }),
        of(catalog, "pg_get_viewdef", 1..=2, SqlType::Text, |catalog, args| {
            let view = match &args[0] {
                Value::Text(name) => catalog.view(&last_name(name)),
                oid => u32::try_from(integer(oid)).ok().and_then(|id| catalog.views.get(&RelationId(id))),
            };
            Ok(optional(view.map(|v| format!(" {};", v.query))))
        }),
        of(catalog, "pg_get_partkeydef", 1..=1, SqlType::Text, |catalog, args| {
            let table = u32::try_from(integer(&args[0])).ok().and_then(|id| catalog.tables.get(&RelationId(id)));
            // As in `pg_class.relkind`: a table whose fragments nobody declared is shown as an ordinary one.
            let partitioned = table.filter(|t| def::is_declared(catalog, t));
            Ok(optional(partitioned.and_then(|t| def::partition_key(t))))
        }),
        of(catalog, "pg_get_serial_sequence", 2..=2, SqlType::Text, |catalog, args| {
            let table = catalog.table(&last_name(text(&args[0])));
            let sequence = table.and_then(|t| {
                let column = t.columns.iter().find(|c| c.name == text(&args[1]))?;
                catalog.sequences.values().find(|s| s.owned_by == Some((t.id, column.id)))
            });
            Ok(optional(sequence.map(|s| format!("public.{}", def::quote_ident(&s.name)))))
        }),
    ]
}

/// The object id of the relation of that name, or the number that the text is.
pub(super) fn relation_oid(catalog: &Catalog, name: &str) -> Result<i64> {
    if let Ok(oid) = name.parse() {
        return Ok(oid);
    }
    let plain = last_name(name);
    def::oid_of(catalog, &plain)
        .or_else(|| crate::pg::catalogs::system_oid(&plain))
        .ok_or_else(|| Error::new(ErrorKind::UndefinedTable, format!("relation \"{name}\" does not exist")))
}

/// How `regclass` shows an object id.
fn relation_name(catalog: &Catalog, oid: i64) -> String {
    if oid == 0 {
        return "-".into();
    }
    def::relation_of(catalog, oid)
        .map(|name| def::quote_ident(&name))
        .or_else(|| crate::pg::catalogs::system_name(oid).map(str::to_owned))
        .unwrap_or_else(|| oid.to_string())
}

fn type_oid(name: &str) -> Result<i64> {
    if let Ok(oid) = name.parse() {
        return Ok(oid);
    }
    let plain = last_name(name);
    match plain.as_str() {
        "oid" => Ok(26),
        "name" => Ok(19),
        "regclass" => Ok(2205),
        _ => SqlType::parse(&plain)
            .map(|t| i64::from(t.pg_oid()))
            .ok_or_else(|| Error::new(ErrorKind::UndefinedObject, format!("type \"{name}\" does not exist"))),
    }
}

fn type_name(oid: i64) -> String {
    if oid == 0 { "-".into() } else { def::format_type(oid, -1) }
}

/// Schemas and their object ids.
const SCHEMAS: [(&str, i64); 4] = [
    ("pg_catalog", def::PG_CATALOG),
    ("public", def::PUBLIC),
    ("information_schema", def::INFORMATION_SCHEMA),
    ("atoll", def::ATOLL),
];

fn schema_oid(name: &str) -> Result<i64> {
    let plain = last_name(name);
    SCHEMAS
        .iter()
        .find(|(n, _)| *n == plain)
        .map(|(_, oid)| *oid)
        .ok_or_else(|| Error::new(ErrorKind::InvalidSchema, format!("schema \"{name}\" does not exist")))
}

fn schema_name(oid: i64) -> String {
    SCHEMAS.iter().find(|(_, o)| *o == oid).map_or_else(|| oid.to_string(), |(n, _)| (*n).into())
}

/// The pair of functions for `::reg…::oid` and `::reg…::text`.
fn object(
    oid: &'static str,
    name: &'static str,
    find: fn(&str) -> Result<i64>,
    show: fn(i64) -> String,
) -> [Scalar; 2] {
    [
        Scalar::new(oid, 1..=1, SqlType::Int8, move |_, args| match &args[0] {
            Value::Text(name) => find(name).map(Value::Int8),
            oid => Ok(Value::Int8(integer(oid))),
        }),
        Scalar::new(name, 1..=1, SqlType::Text, move |_, args| {
            let oid = match &args[0] {
                Value::Text(name) => find(name)?,
                oid => integer(oid),
            };
            Ok(Value::Text(show(oid)))
        }),
    ]
}

fn role(catalog: &Catalog, oid: i64) -> String {
    catalog
        .roles
        .keys()
        .find(|n| def::role_oid(catalog, n) == oid)
        .cloned()
        .unwrap_or_else(|| format!("unknown (OID={oid})"))
}

fn plain() -> Vec<Scalar> {
    let yes =
        |name: &'static str, arity| Scalar::new(name, arity, SqlType::Bool, |_, _| Ok(Value::Bool(true))).stable();
    let no =
        |name: &'static str, arity| Scalar::new(name, arity, SqlType::Bool, |_, _| Ok(Value::Bool(false))).stable();
    let none = |name: &'static str, arity| Scalar::new(name, arity, SqlType::Text, |_, _| Ok(Value::Null)).stable();
    let zero = |name: &'static str, arity| Scalar::new(name, arity, SqlType::Int8, |_, _| Ok(Value::Int8(0))).stable();
    let regtype = |types: &[SqlType]| {
        Ok(if matches!(types.first(), Some(SqlType::Int2 | SqlType::Int4 | SqlType::Int8)) {
            SqlType::Text
        } else {
            SqlType::Int8
        })
    };
    vec![
        // There are no advisory locks, so none is held: pools call this when a connection comes back.
        Scalar::new("pg_advisory_unlock_all", 0..=0, SqlType::Text, |_, _| Ok(Value::Text(String::new()))).stable(),
        yes("pg_table_is_visible", 1..=1),
        yes("pg_type_is_visible", 1..=1),
        yes("pg_function_is_visible", 1..=1),
        yes("pg_operator_is_visible", 1..=1),
        yes("pg_opclass_is_visible", 1..=1),
        yes("pg_collation_is_visible", 1..=1),
        yes("pg_statistics_obj_is_visible", 1..=1),
        yes("has_database_privilege", 2..=3),
        yes("has_function_privilege", 2..=3),
        yes("has_tablespace_privilege", 2..=3),
        no("pg_is_other_temp_schema", 1..=1),
        no("pg_relation_is_publishable", 1..=1),
        none("obj_description", 1..=2),
        none("col_description", 2..=2),
        none("shobj_description", 2..=2),
        none("pg_get_ruledef", 1..=2),
        none("pg_get_triggerdef", 1..=2),
        none("pg_get_functiondef", 1..=1),
        none("pg_get_function_result", 1..=1),
        none("pg_get_function_arguments", 1..=1),
        none("pg_get_function_identity_arguments", 1..=1),
        none("pg_get_statisticsobjdef_columns", 1..=1),
        Scalar::new("pg_tablespace_location", 1..=1, SqlType::Text, |_, _| Ok(Value::Text(String::new()))),
        none("pg_get_function_sqlbody", 1..=1),
        none("pg_get_function_arg_default", 2..=2),
        none("pg_get_statisticsobjdef", 1..=1),
        none("pg_get_partition_constraintdef", 1..=1),
        none("pg_options_to_table", 1..=1),
        yes("pg_ts_config_is_visible", 1..=1),
        yes("pg_ts_dict_is_visible", 1..=1),
        yes("pg_ts_parser_is_visible", 1..=1),
        yes("pg_ts_template_is_visible", 1..=1),
        yes("pg_conversion_is_visible", 1..=1),
        yes("pg_opfamily_is_visible", 1..=1),
        yes("has_type_privilege", 2..=3),
        yes("has_language_privilege", 2..=3),
        yes("has_server_privilege", 2..=3),
        yes("has_foreign_data_wrapper_privilege", 2..=3),
        zero("pg_my_temp_schema", 0..=0),
        zero("pg_stat_get_numscans", 1..=1),
        zero("pg_relation_filenode", 1..=1),
        Scalar::new("pg_get_expr", 2..=3, SqlType::Text, |_, args| Ok(args[0].clone())),
        Scalar::new("format_type", 2..=2, SqlType::Text, |_, args| {
            Ok(match (&args[0], &args[1]) {
                (Value::Null, _) => Value::Null,
                (oid, typmod) => Value::Text(def::format_type(integer(oid), typmod.as_i64().unwrap_or(-1))),
            })
        })
        .with_nulls(),
        Scalar::new("atoll_regtype", 1..=1, SqlType::Int8, |_, args| match &args[0] {
            Value::Text(name) => type_oid(name).map(Value::Int8),
            oid => Ok(Value::Text(type_name(integer(oid)))),
        })
        .returning(regtype),
        // Functions have no object ids here; the ones that catalogs name are those of types.
        Scalar::new("atoll_regproc", 1..=1, SqlType::Text, |_, args| match &args[0] {
            Value::Text(name) => {
                let plain = last_name(name);
                let of_type = |suffix: &str| {
                    plain
                        .strip_suffix(suffix)
                        .is_some_and(|ty| ty.trim_end_matches('_') == "array" || SqlType::parse(ty).is_some())
                };
                if plain == "-" || ["in", "out", "recv", "send"].into_iter().any(of_type) {
                    return Ok(Value::Text(plain));
                }
                Err(Error::new(ErrorKind::UndefinedFunction, format!("function \"{name}\" does not exist")))
            }
            oid => Ok(Value::Text(if integer(oid) == 0 { "-".into() } else { integer(oid).to_string() })),
        }),
        Scalar::new("atoll_regnamespace", 1..=1, SqlType::Int8, |_, args| match &args[0] {
            Value::Text(name) => schema_oid(name).map(Value::Int8),
            oid => Ok(Value::Text(schema_name(integer(oid)))),
        })
        .returning(regtype),
        Scalar::new("to_regtype", 1..=1, SqlType::Int8, |_, args| {
            Ok(type_oid(text(&args[0])).map_or(Value::Null, Value::Int8))
        }),
        Scalar::new("array_lower", 2..=2, SqlType::Int4, |_, args| Ok(bound(args, |_| 1))),
        Scalar::new("array_upper", 2..=2, SqlType::Int4, |_, args| Ok(bound(args, |n| n))),
        Scalar::new("like_escape", 2..=2, SqlType::Text, |_, args| like_escape(text(&args[0]), text(&args[1]))),
        Scalar::new("getdatabaseencoding", 0..=0, SqlType::Text, |_, _| Ok(Value::Text("UTF8".into()))),
        Scalar::new("has_parameter_privilege", 2..=3, SqlType::Bool, |_, _| Ok(Value::Bool(true))),
        Scalar::new("pg_encoding_to_char", 1..=1, SqlType::Text, |_, args| {
            Ok(Value::Text(if integer(&args[0]) == 6 { "UTF8".into() } else { String::new() }))
        }),
        Scalar::new("pg_char_to_encoding", 1..=1, SqlType::Int4, |_, args| {
            Ok(Value::Int4(if text(&args[0]).eq_ignore_ascii_case("utf8") { 6 } else { -1 }))
        }),
        Scalar::new("pg_size_pretty", 1..=1, SqlType::Text, |_, args| {
            let bytes = match &args[0] {
                Value::Numeric(n, s) => {
                    atoll_model::text::rescale(*n, *s, 0).and_then(|n| i64::try_from(n).ok()).unwrap_or(i64::MAX)
                }
                other => integer(other),
            };
            Ok(Value::Text(pretty(bytes)))
        }),
        Scalar::new("pg_typeof", 1..=1, SqlType::Text, |call, _| {
            Ok(Value::Text(
                call.types.first().map_or_else(|| "unknown".into(), |t| def::format_type(i64::from(t.pg_oid()), -1)),
            ))
        })
        .with_nulls(),
        Scalar::new("quote_ident", 1..=1, SqlType::Text, |_, args| Ok(Value::Text(def::quote_ident(text(&args[0]))))),
        Scalar::new("quote_literal", 1..=1, SqlType::Text, |call, args| {
            let shown = super::scalar::shown(&call.types[0], &args[0]);
            let escaped = shown.replace('\'', "''");
            Ok(Value::Text(if shown.contains('\\') {
                format!("E'{}'", escaped.replace('\\', "\\\\"))
            } else {
                format!("'{escaped}'")
            }))
        }),
    ]
}

/// A bound of an array's first dimension: it has no other, and an empty array has none.
fn bound(args: &[Value], of: fn(usize) -> usize) -> Value {
    match (&args[0], integer(&args[1])) {
        (Value::Array(items), 1) if !items.is_empty() => {
            i32::try_from(of(items.len())).map_or(Value::Null, Value::Int4)
        }
        _ => Value::Null,
    }
}

/// A pattern whose escape character is another, as one that escapes with the backslash.
fn like_escape(pattern: &str, escape: &str) -> Result<Value> {
    let mut chars = escape.chars();
    let escape = chars.next();
    if chars.next().is_some() {
        return Err(Error::new(ErrorKind::InvalidParameterValue, "invalid escape string")
            .hint("Escape string must be empty or one character."));
    }
    let mut made = String::with_capacity(pattern.len());
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if Some(c) == escape {
            made.push('\\');
            made.extend(rest.next());
        } else {
            if c == '\\' {
                made.push('\\');
            }
            made.push(c);
        }
    }
    Ok(Value::Text(made))
}

/// A size as `pg_size_pretty` prints it: the next unit from ten times its size on, rounded half up.
fn pretty(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let mut size = i128::from(bytes);
    let mut unit = 0;
    // Half a unit of the next size is kept as an extra bit, as PostgreSQL does.
    let mut doubled = size * 2;
    while unit + 1 < UNITS.len() && doubled.abs() >= 20_480 - i128::from(unit > 0) {
        doubled /= 1024;
        unit += 1;
    }
    if unit > 0 {
        size = (doubled + doubled.signum()) / 2;
    }
    format!("{size} {}", UNITS[unit])
}
