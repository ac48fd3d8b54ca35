//! pg_catalog's views for people: `pg_tables`, `pg_views`, `pg_indexes` …

use super::relations::{has_triggers, size};
use super::table::{Definition, b, o, t, table};
use crate::pg::functions::definitions as def;
use atoll_model::{Row, Value};

pub(super) fn tables() -> Vec<Definition> {
    vec![
        table(
            "pg_tables",
            "schemaname:t tablename:t tableowner:t tablespace:t hasindexes:b hasrules:b hastriggers:b rowsecurity:b",
            |s| {
                s.catalog
                    .tables
                    .values()
                    .map(|x| {
                        let indexed = x.primary_key.is_some() || !x.indexes.is_empty();
                        vec![
                            t("public"),
                            t(&x.name),
                            t(s.catalog.owner_of(x.id)),
                            Value::Null,
                            b(indexed),
                            b(false),
                            b(has_triggers(s, x)),
                            b(false),
                        ]
                    })
                    .collect()
            },
        ),
        table("pg_views", "schemaname:t viewname:t viewowner:t definition:t", |s| {
            s.catalog
                .views
                .values()
                .map(|v| vec![t("public"), t(&v.name), t(s.catalog.owner_of(v.id)), t(format!(" {};", v.query))])
                .collect()
        }),
        table("pg_indexes", "schemaname:t tablename:t indexname:t tablespace:t indexdef:t", |s| {
            let mut rows: Vec<Row> = vec![];
            for x in s.catalog.tables.values() {
                let key = x.primary_key.as_ref().map(|name| (name.clone(), None));
                for (name, index) in key.into_iter().chain(x.indexes.iter().map(|i| (i.name.clone(), Some(i)))) {
                    rows.push(vec![
                        t("public"),
                        t(&x.name),
                        t(name),
                        Value::Null,
                        t(def::index_definition(x, index, false)),
                    ]);
                }
            }
            rows
        }),
        table(
            "pg_sequences",
            "schemaname:t sequencename:t sequenceowner:t data_type:t start_value:l min_value:l max_value:l increment_by:l cycle:b \
             cache_size:l last_value:l",
            |s| {
                s.catalog
                    .sequences
                    .values()
                    .map(|q| {
                        vec![
                            t("public"),
                            t(&q.name),
                            t(s.catalog.owner_of(q.id)),
                            t("bigint"),
                            Value::Int8(q.start),
                            Value::Int8(q.min),
                            Value::Int8(q.max),
                            Value::Int8(q.increment),
                            b(q.cycle),
                            Value::Int8(1),
                            Value::Null,
                        ]
                    })
                    .collect()
            },
        ),
        table(
            "pg_stat_user_tables",
            "relid:o schemaname:t relname:t seq_scan:l seq_tup_read:l idx_scan:l idx_tup_fetch:l n_tup_ins:l n_tup_upd:l n_tup_del:l \
             n_live_tup:l n_dead_tup:l n_mod_since_analyze:l last_vacuum:z last_autovacuum:z last_analyze:z last_autoanalyze:z",
            |s| {
                s.catalog
                    .tables
                    .values()
                    .map(|x| {
                        let (rows, _, modified) = size(s, x);
                        let mut row = vec![o(x.id.0), t("public"), t(&x.name)];
                        row.extend(std::iter::repeat_n(Value::Null, 7));
                        row.extend([Value::Int8(rows), Value::Null, Value::Int8(modified)]);
                        row.extend(std::iter::repeat_n(Value::Null, 4));
                        row
                    })
                    .collect()
            },
        ),
    ]
}
