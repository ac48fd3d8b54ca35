//! information_schema.

use super::relations::default_of;
use super::table::{Definition, Source, maybe, t, table};
use crate::pg::functions::definitions as def;
use atoll_model::{Generated, MAX_SECOND_DIGITS, Row, SqlType, Table, Value};

const COLUMNS: &str = "table_catalog:t table_schema:t table_name:t column_name:t ordinal_position:i column_default:t is_nullable:t \
    data_type:t character_maximum_length:i character_octet_length:i numeric_precision:i numeric_precision_radix:i numeric_scale:i \
    datetime_precision:i interval_type:t collation_name:t udt_catalog:t udt_schema:t udt_name:t is_identity:t identity_generation:t \
    is_generated:t generation_expression:t is_updatable:t";

pub(super) fn tables() -> Vec<Definition> {
    vec![
        table(
            "tables",
            "table_catalog:t table_schema:t table_name:t table_type:t self_referencing_column_name:t reference_generation:t \
             user_defined_type_catalog:t user_defined_type_schema:t user_defined_type_name:t is_insertable_into:t is_typed:t commit_action:t",
            |s| {
                let row = |name: &str, kind: &str, insertable: &str| -> Row {
                    let mut row = vec![t("atoll"), t("public"), t(name), t(kind)];
                    row.extend(std::iter::repeat_n(Value::Null, 5));
                    row.extend([t(insertable), t("NO"), Value::Null]);
                    row
                };
                let mut rows: Vec<Row> = s.catalog.tables.values().map(|x| row(&x.name, "BASE TABLE", "YES")).collect();
                rows.extend(s.catalog.views.values().map(|v| row(&v.name, "VIEW", "NO")));
                rows
            },
        ),
        table("columns", COLUMNS, columns).with_views(),
        table(
            "table_constraints",
            "constraint_catalog:t constraint_schema:t constraint_name:t table_catalog:t table_schema:t table_name:t constraint_type:t \
             is_deferrable:t initially_deferred:t enforced:t nulls_distinct:t",
            |s| {
                constraints(s, |x, name, constraint| {
                    let kind = match constraint {
                        def::Constraint::Primary(_) => "PRIMARY KEY",
                        def::Constraint::Unique(_) => "UNIQUE",
                        def::Constraint::Check(..) => "CHECK",
                        def::Constraint::Foreign(_) => "FOREIGN KEY",
                    };
                    vec![vec![
                        t("atoll"),
                        t("public"),
                        t(name),
                        t("atoll"),
                        t("public"),
                        t(&x.name),
                        t(kind),
                        t("NO"),
                        t("NO"),
                        t("YES"),
                        Value::Null,
                    ]]
                })
            },
        ),
        table(
            "key_column_usage",
            "constraint_catalog:t constraint_schema:t constraint_name:t table_catalog:t table_schema:t table_name:t column_name:t \
             ordinal_position:i position_in_unique_constraint:i",
            |s| {
                constraints(s, |x, name, constraint| {
                    let (ids, foreign) = match constraint {
                        def::Constraint::Primary(_) => (&x.key, false),
                        def::Constraint::Unique(i) => (&i.columns, false),
                        def::Constraint::Foreign(k) => (&k.columns, true),
                        def::Constraint::Check(..) => return vec![],
                    };
                    (1..)
                        .zip(names(x, ids))
                        .map(|(at, column)| {
                            vec![
                                t("atoll"),
                                t("public"),
                                t(name),
                                t("atoll"),
                                t("public"),
                                t(&x.name),
                                t(column),
                                Value::Int4(at),
                                if foreign { Value::Int4(at) } else { Value::Null },
                            ]
                        })
                        .collect()
                })
            },
        ),
        table(
            "constraint_column_usage",
            "table_catalog:t table_schema:t table_name:t column_name:t constraint_catalog:t constraint_schema:t constraint_name:t",
            |s| {
                constraints(s, |x, name, constraint| {
                    let (table, ids) = match constraint {
                        def::Constraint::Primary(_) => (Some(x), &x.key),
                        def::Constraint::Unique(i) => (Some(x), &i.columns),
                        def::Constraint::Foreign(k) => {
                            (s.catalog.tables.get(&k.parent).map(|p| &**p), &k.parent_columns)
                        }
                        def::Constraint::Check(..) => return vec![],
                    };
                    table
                        .map(|owner| {
                            names(owner, ids)
                                .into_iter()
                                .map(|c| {
                                    vec![
                                        t("atoll"),
                                        t("public"),
                                        t(&owner.name),
                                        t(c),
                                        t("atoll"),
                                        t("public"),
                                        t(name),
                                    ]
                                })
                                .collect()
                        })
                        .unwrap_or_default()
                })
            },
        ),
        table(
            "referential_constraints",
            "constraint_catalog:t constraint_schema:t constraint_name:t unique_constraint_catalog:t unique_constraint_schema:t \
             unique_constraint_name:t match_option:t update_rule:t delete_rule:t",
            |s| {
                constraints(s, |_, name, constraint| {
                    let def::Constraint::Foreign(key) = constraint else { return vec![] };
                    let rule = |a: atoll_model::ReferentialAction| match a {
                        atoll_model::ReferentialAction::NoAction => "NO ACTION",
                        atoll_model::ReferentialAction::Cascade => "CASCADE",
                        atoll_model::ReferentialAction::SetNull => "SET NULL",
                    };
                    let parent = s.catalog.tables.get(&key.parent).and_then(|p| {
                        if p.key == key.parent_columns {
                            p.primary_key.clone()
                        } else {
                            p.indexes
                                .iter()
                                .find(|i| i.unique && i.columns == key.parent_columns)
                                .map(|i| i.name.clone())
                        }
                    });
                    vec![vec![
                        t("atoll"),
                        t("public"),
                        t(name),
                        t("atoll"),
                        t("public"),
                        maybe(parent),
                        t("NONE"),
                        t(rule(key.on_update)),
                        t(rule(key.on_delete)),
                    ]]
                })
            },
        ),
        table("check_constraints", "constraint_catalog:t constraint_schema:t constraint_name:t check_clause:t", |s| {
            constraints(s, |_, name, constraint| match constraint {
                def::Constraint::Check(_, expression) => {
                    vec![vec![t("atoll"), t("public"), t(name), t(format!("({expression})"))]]
                }
                _ => vec![],
            })
        }),
        table(
            "schemata",
            "catalog_name:t schema_name:t schema_owner:t default_character_set_catalog:t default_character_set_schema:t \
             default_character_set_name:t sql_path:t",
            |_| {
                ["pg_catalog", "public", "information_schema", "atoll"]
                    .into_iter()
                    .map(|n| vec![t("atoll"), t(n), t("atoll"), Value::Null, Value::Null, Value::Null, Value::Null])
                    .collect()
            },
        ),
        table(
            "views",
            "table_catalog:t table_schema:t table_name:t view_definition:t check_option:t is_updatable:t is_insertable_into:t",
            |s| {
                s.catalog
                    .views
                    .values()
                    .map(|v| vec![t("atoll"), t("public"), t(&v.name), t(&v.query), t("NONE"), t("NO"), t("NO")])
                    .collect()
            },
        ),
        table(
            "sequences",
            "sequence_catalog:t sequence_schema:t sequence_name:t data_type:t numeric_precision:i numeric_precision_radix:i numeric_scale:i \
             start_value:t minimum_value:t maximum_value:t increment:t cycle_option:t",
            |s| {
                s.catalog
                    .sequences
                    .values()
                    .map(|q| {
                        vec![
                            t("atoll"),
                            t("public"),
                            t(&q.name),
                            t("bigint"),
                            Value::Int4(64),
                            Value::Int4(2),
                            Value::Int4(0),
                            t(q.start.to_string()),
                            t(q.min.to_string()),
                            t(q.max.to_string()),
                            t(q.increment.to_string()),
                            t(if q.cycle { "YES" } else { "NO" }),
                        ]
                    })
                    .collect()
            },
        ),
        super::table::empty(
            "routines",
            "specific_catalog:t specific_schema:t specific_name:t routine_schema:t routine_name:t routine_type:t data_type:t",
        ),
        super::table::empty(
            "parameters",
            "specific_schema:t specific_name:t ordinal_position:i parameter_name:t data_type:t",
        ),
        super::table::empty(
            "triggers",
            "trigger_schema:t trigger_name:t event_manipulation:t event_object_schema:t event_object_table:t",
        ),
        super::table::empty("domains", "domain_catalog:t domain_schema:t domain_name:t data_type:t"),
        table("information_schema_catalog_name", "catalog_name:t", |_| vec![vec![t("atoll")]]),
    ]
}

fn names(table: &Table, ids: &[atoll_model::ColumnId]) -> Vec<String> {
    ids.iter().filter_map(|id| table.position(*id)).map(|p| table.columns[p].name.clone()).collect()
}

fn constraints(s: &Source<'_>, rows: impl Fn(&Table, &str, &def::Constraint<'_>) -> Vec<Row>) -> Vec<Row> {
    let mut all = vec![];
    for x in s.catalog.tables.values() {
        for constraint in def::constraints(x) {
            let name = match &constraint {
                def::Constraint::Primary(n) | def::Constraint::Check(n, _) => n,
                def::Constraint::Unique(i) => i.name.as_str(),
                def::Constraint::Foreign(k) => k.name.as_str(),
            };
            all.extend(rows(x, name, &constraint));
        }
    }
    all
}

fn columns(s: &Source<'_>) -> Vec<Row> {
    let mut rows = vec![];
    for x in s.catalog.tables.values() {
        for (at, c) in (1..).zip(x.columns.iter().filter(|c| !c.hidden)) {
            let always = matches!(c.generated, Some(Generated::Always(_)));
            rows.push(column(&x.name, at, &c.name, &c.ty, default_of(s, c), c.not_null, always, true));
        }
    }
    for v in s.catalog.views.values() {
        for (at, (name, ty)) in (1..).zip(s.views.get(&v.id).into_iter().flatten()) {
            rows.push(column(&v.name, at, name, ty, None, false, false, false));
        }
    }
    rows
}

#[expect(clippy::too_many_arguments, reason = "one for each thing that is known of a column")]
fn column(
    relation: &str,
    at: i32,
    name: &str,
    ty: &SqlType,
    default: Option<String>,
    not_null: bool,
    always: bool,
    updatable: bool,
) -> Row {
    let number = |n: Option<i32>| n.map_or(Value::Null, Value::Int4);
    let (precision, radix, scale) = match ty {
        SqlType::Int2 => (Some(16), Some(2), Some(0)),
        SqlType::Int4 => (Some(32), Some(2), Some(0)),
        SqlType::Int8 => (Some(64), Some(2), Some(0)),
        SqlType::Float4 => (Some(24), Some(2), None),
        SqlType::Float8 => (Some(53), Some(2), None),
        SqlType::Numeric(Some((p, q))) => (Some(i32::from(*p)), Some(10), Some(i32::from(*q))),
        SqlType::Numeric(None) => (None, Some(10), None),
        _ => (None, None, None),
    };
    let length = match ty {
        SqlType::Varchar(Some(n)) | SqlType::Char(n) => i32::try_from(*n).ok(),
        _ => None,
    };
    let octets = match ty {
        SqlType::Text | SqlType::Varchar(None) => Some(1 << 30),
        _ => length.map(|n| n.saturating_mul(4)),
    };
    let datetime = match ty {
        SqlType::Date => Some(0),
        SqlType::Time(digits) | SqlType::Timestamp(digits) | SqlType::TimestampTz(digits) => {
            Some(digits.unwrap_or(MAX_SECOND_DIGITS).into())
        }
        SqlType::Interval => Some(6),
        _ => None,
    };
    let plain = match ty {
        SqlType::Array(_) => "ARRAY".into(),
        ty => def::format_type(i64::from(ty.pg_oid()), -1),
    };
    vec![
        t("atoll"),
        t("public"),
        t(relation),
        t(name),
        Value::Int4(at),
        maybe(default),
        t(if not_null { "NO" } else { "YES" }),
        t(plain),
        number(length),
        number(octets),
        number(precision),
        number(radix),
        number(scale),
        number(datetime),
        Value::Null,
        Value::Null,
        t("atoll"),
        t("pg_catalog"),
        t(udt(ty)),
        t(if always { "YES" } else { "NO" }),
        if always { t("ALWAYS") } else { Value::Null },
        t("NEVER"),
        Value::Null,
        t(if updatable { "YES" } else { "NO" }),
    ]
}

/// A type's name in pg_type.
fn udt(ty: &SqlType) -> String {
    match ty {
        SqlType::Bool => "bool".into(),
        SqlType::Int2 => "int2".into(),
        SqlType::Int4 => "int4".into(),
        SqlType::Int8 => "int8".into(),
        SqlType::Float4 => "float4".into(),
        SqlType::Float8 => "float8".into(),
        SqlType::Numeric(_) => "numeric".into(),
        SqlType::Varchar(_) => "varchar".into(),
        SqlType::Char(_) => "bpchar".into(),
        SqlType::Time(_) => "time".into(),
        SqlType::Timestamp(_) => "timestamp".into(),
        SqlType::TimestampTz(_) => "timestamptz".into(),
        SqlType::Array(item) => format!("_{}", udt(item)),
        ty => ty.to_string(),
    }
}
