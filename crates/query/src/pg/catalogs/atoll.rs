//! `atoll.*`: sites, fragments, replicas and what happens on them, by SELECT.

use super::relations::size;
use super::table::{Definition, b, maybe, o, t, table};
use crate::pg::functions::definitions as def;
use atoll_model::{ErrorKind, Fragmentation, Row, Table, Value};

pub(super) fn tables() -> Vec<Definition> {
    let mut tables = vec![
        table("sites", "site_id:o name:t engine:t fragments:l", |s| {
            s.catalog
                .sites
                .values()
                .map(|site| {
                    let here = s
                        .catalog
                        .tables
                        .values()
                        .flat_map(|x| &x.fragments)
                        .filter(|f| f.copies().any(|copy| copy == site.id))
                        .count();
                    vec![o(site.id.0), t(&site.name), t(site.engine.name()), Value::Int8(here as i64)]
                })
                .collect()
        }),
        table("tables", "table_id:o name:t fragmentation:t fragments:l replication:t rows:l bytes:l", |s| {
            s.catalog
                .tables
                .values()
                .map(|x| {
                    let (rows, bytes, _) = size(s, x);
                    let how = match &x.fragmentation {
                        Fragmentation::None => "none".into(),
                        Fragmentation::Derived { parent, .. } => {
                            format!("as {}", s.catalog.tables.get(parent).map_or("?", |p| p.name.as_str()))
                        }
                        _ => def::partition_key(x).unwrap_or_default().to_lowercase(),
                    };
                    vec![
                        o(x.id.0),
                        t(&x.name),
                        t(how),
                        Value::Int8(x.fragments.len() as i64),
                        t(format!("{:?}", x.replication).to_lowercase()),
                        Value::Int8(rows),
                        Value::Int8(bytes),
                    ]
                })
                .collect()
        }),
        table("fragments", "fragment_id:o table_name:t name:t bounds:t sites:T rows:l bytes:l", |s| {
            let each = |x: &Table| -> Vec<Row> {
                x.fragments
                    .iter()
                    .map(|f| {
                        let one = s.cluster.statistics(x, f.id);
                        let sites = f
                            .replicas
                            .iter()
                            .filter_map(|id| s.catalog.sites.get(id))
                            .map(|site| t(&site.name))
                            .collect();
                        vec![
                            o(f.id.0),
                            t(&x.name),
                            t(&f.name),
                            t(def::bounds(s.catalog, x, &f.bounds)),
                            Value::Array(sites),
                            Value::Int8(one.rows as i64),
                            Value::Int8(one.bytes as i64),
                        ]
                    })
                    .collect()
            };
            s.catalog.tables.values().flat_map(|x| each(x)).collect()
        }),
        table("replicas", "fragment_id:o table_name:t fragment:t site:t state:t", |s| {
            let mut rows = vec![];
            for x in s.catalog.tables.values() {
                for f in &x.fragments {
                    for id in f.copies() {
                        let site = s.catalog.sites.get(&id).map(|site| site.name.clone());
                        let state = match () {
                            () if f.replicas.contains(&id) => "serving",
                            () if f.joining.contains_key(&id) => "joining",
                            () => "behind",
                        };
                        rows.push(vec![o(f.id.0), t(&x.name), t(&f.name), maybe(site), t(state)]);
                    }
                }
            }
            rows
        }),
        table("indexes", "table_name:t name:t columns:T is_unique:b", |s| {
            let mut rows = vec![];
            for x in s.catalog.tables.values() {
                for i in &x.indexes {
                    let columns =
                        i.columns.iter().filter_map(|id| x.position(*id)).map(|p| t(&x.columns[p].name)).collect();
                    rows.push(vec![t(&x.name), t(&i.name), Value::Array(columns), b(i.unique)]);
                }
            }
            rows
        }),
        table("error_codes", "code:t sqlstate:t", |_| {
            ErrorKind::ALL.iter().map(|k| vec![t(k.code()), t(k.sqlstate())]).collect()
        }),
    ];
    tables.extend(super::transactions::tables());
    tables.push(super::moves::table());
    tables
}
