//! pg_catalog's tables about relations: what `\d` reads.

use super::table::{Definition, Source, b, empty, maybe, o, t, table, texts};
use crate::pg::functions::definitions as def;
use crate::privileges::show;
use atoll_model::{Column, Generated, RelationId, Row, Securable, SqlType, Table, Value};

const CLASS: &str = "oid:o relname:t relnamespace:o reltype:o reloftype:o relowner:o relam:o relfilenode:o reltablespace:o relpages:i \
    reltuples:f relallvisible:i reltoastrelid:o relhasindex:b relisshared:b relpersistence:t relkind:t relnatts:s relchecks:s \
    relhasrules:b relhastriggers:b relhassubclass:b relrowsecurity:b relforcerowsecurity:b relispopulated:b relreplident:t \
    relispartition:b relrewrite:o relfrozenxid:o relminmxid:o relacl:T reloptions:T relpartbound:t";

const ATTRIBUTE: &str = "attrelid:o attname:t atttypid:o attstattarget:i attlen:s attnum:s attndims:i attcacheoff:i atttypmod:i \
    attbyval:b attalign:t attstorage:t attcompression:t attnotnull:b atthasdef:b atthasmissing:b attidentity:t attgenerated:t \
    attisdropped:b attislocal:b attinhcount:i attcollation:o attacl:T attoptions:T attfdwoptions:T attmissingval:t";

pub(super) fn tables() -> Vec<Definition> {
    vec![
        table("pg_class", CLASS, classes).with_views(),
        table("pg_attribute", ATTRIBUTE, attributes).with_views(),
        table("pg_attrdef", "oid:o adrelid:o adnum:s adbin:t", defaults),
        table(
            "pg_index",
            "indexrelid:o indrelid:o indnatts:s indnkeyatts:s indisunique:b indnullsnotdistinct:b indisprimary:b indisexclusion:b \
             indimmediate:b indisclustered:b indisvalid:b indcheckxmin:b indisready:b indislive:b indisreplident:b indkey:v \
             indcollation:w indclass:w indoption:v indexprs:t indpred:t",
            indexes,
        ),
        table(
            "pg_constraint",
            "oid:o conname:t connamespace:o contype:t condeferrable:b condeferred:b convalidated:b conrelid:o contypid:o conindid:o \
             conparentid:o confrelid:o confupdtype:t confdeltype:t confmatchtype:t conislocal:b coninhcount:i connoinherit:b conkey:S \
             confkey:S conpfeqop:O conppeqop:O conffeqop:O confdelsetcols:S conexclop:O conbin:t",
            constraints,
        ),
        table("pg_inherits", "inhrelid:o inhparent:o inhseqno:i inhdetachpending:b", |s| {
            fragments(s).map(|(table, f)| vec![o(f.id.0), o(table.id.0), Value::Int4(1), b(false)]).collect()
        }),
        table(
            "pg_partitioned_table",
            "partrelid:o partstrat:t partnatts:s partdefid:o partattrs:v partclass:w partcollation:w partexprs:t",
            |s| {
                s.catalog
                    .tables
                    .values()
                    .filter(|x| def::is_declared(s.catalog, x))
                    .map(|x| {
                        let strategy = def::partition_key(x)
                            .unwrap_or_default()
                            .chars()
                            .next()
                            .unwrap_or('h')
                            .to_ascii_lowercase();
                        vec![
                            o(x.id.0),
                            t(strategy.to_string()),
                            Value::Int2(x.fragmentation_positions().len() as i16),
                            o(0),
                            Value::Array(
                                x.fragmentation_positions()
                                    .iter()
                                    .filter_map(|p| def::attnum(x, x.columns[*p].id))
                                    .map(Value::Int2)
                                    .collect(),
                            ),
                            Value::Array(vec![]),
                            Value::Array(vec![]),
                            Value::Null,
                        ]
                    })
                    .collect()
            },
        ),
        table(
            "pg_sequence",
            "seqrelid:o seqtypid:o seqstart:l seqincrement:l seqmax:l seqmin:l seqcache:l seqcycle:b",
            |s| {
                s.catalog
                    .sequences
                    .values()
                    .map(|q| {
                        vec![
                            o(q.id.0),
                            o(20),
                            Value::Int8(q.start),
                            Value::Int8(q.increment),
                            Value::Int8(q.max),
                            Value::Int8(q.min),
                            Value::Int8(1),
                            b(q.cycle),
                        ]
                    })
                    .collect()
            },
        ),
        table("pg_depend", "classid:o objid:o objsubid:i refclassid:o refobjid:o refobjsubid:i deptype:t", |s| {
            s.catalog
                .sequences
                .values()
                .filter_map(|q| {
                    let (table, column) = q.owned_by?;
                    let table = s.catalog.tables.get(&table)?;
                    let always = table.columns.iter().find(|c| c.id == column)?;
                    let kind = if matches!(always.generated, Some(Generated::Always(_))) { "i" } else { "a" };
                    let number = i32::from(def::attnum(table, column)?);
                    Some(vec![o(1259), o(q.id.0), Value::Int4(0), o(1259), o(table.id.0), Value::Int4(number), t(kind)])
                })
                .collect()
        }),
        table(
            "pg_rewrite",
            "oid:o rulename:t ev_class:o ev_type:t ev_enabled:t is_instead:b ev_qual:t ev_action:t",
            |_| vec![],
        ),
        empty("pg_description", "objoid:o classoid:o objsubid:i description:t"),
        empty("pg_shdescription", "objoid:o classoid:o description:t"),
    ]
}

/// Rows, bytes and modifications of a table.
pub(super) fn size(s: &Source<'_>, table: &Table) -> (i64, i64, i64) {
    let mut sum = (0u64, 0u64, 0u64);
    for fragment in &table.fragments {
        let one = s.cluster.statistics(table, fragment.id);
        sum = (sum.0 + one.rows, sum.1 + one.bytes, sum.2 + one.modifications);
    }
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    (signed(sum.0), signed(sum.1), signed(sum.2))
}

/// The fragments that were declared by name, with their tables.
fn fragments<'s>(s: &'s Source<'_>) -> impl Iterator<Item = (&'s Table, &'s atoll_model::Fragment)> {
    s.catalog
        .tables
        .values()
        .filter(|x| def::is_declared(s.catalog, x))
        .flat_map(|x| x.fragments.iter().map(move |f| (&**x, f)))
}

/// PostgreSQL keeps foreign keys by triggers at both tables.
pub(super) fn has_triggers(s: &Source<'_>, table: &Table) -> bool {
    !table.foreign_keys.is_empty()
        || s.catalog.tables.values().any(|x| x.foreign_keys.iter().any(|k| k.parent == table.id))
}

struct Class {
    oid: i64,
    name: String,
    kind: &'static str,
    am: i64,
    natts: usize,
    checks: usize,
    indexed: bool,
    triggers: bool,
    children: bool,
    tuples: i64,
    bytes: i64,
    partition: Option<String>,
    owner: i64,
    /// Its access control list, an array or NULL.
    access: Value,
}

impl Class {
    fn row(self) -> Row {
        let pages = i32::try_from(self.bytes / 8192).unwrap_or(i32::MAX);
        vec![
            o(self.oid),
            t(self.name),
            o(def::PUBLIC),
            o(0),
            o(0),
            o(self.owner),
            o(self.am),
            o(self.oid),
            o(0),
            Value::Int4(pages),
            Value::Float4(self.tuples as f32),
            Value::Int4(0),
            o(0),
            b(self.indexed),
            b(false),
            t("p"),
            t(self.kind),
            Value::Int2(i16::try_from(self.natts).unwrap_or(i16::MAX)),
            Value::Int2(i16::try_from(self.checks).unwrap_or(i16::MAX)),
            b(self.kind == "v"),
            b(self.triggers),
            b(self.children),
            b(false),
            b(false),
            b(true),
            t(if matches!(self.kind, "r" | "p") { "d" } else { "n" }),
            b(self.partition.is_some()),
            o(0),
            o(0),
            o(0),
            self.access,
            Value::Null,
            maybe(self.partition),
        ]
    }
}

fn classes(s: &Source<'_>) -> Vec<Row> {
    let mut rows = vec![];
    let plain = |of: RelationId, oid: i64, name: &str, kind, natts| Class {
        owner: def::role_oid(s.catalog, s.catalog.owner_of(of)),
        // An index has none of its own.
        access: match show::list(s.catalog, Securable::Relation(of)) {
            Some(list) if kind != "i" => texts(list),
            _ => Value::Null,
        },
        oid,
        name: name.into(),
        kind,
        am: 0,
        natts,
        checks: 0,
        indexed: false,
        triggers: false,
        children: false,
        tuples: -1,
        bytes: 0,
        partition: None,
    };
    for x in s.catalog.tables.values() {
        let declared = def::is_declared(s.catalog, x);
        let natts = x.columns.iter().filter(|c| !c.hidden).count();
        let (tuples, bytes, _) = size(s, x);
        let class = |oid: i64, name: &str, kind| Class {
            am: if kind == "r" { 2 } else { 0 },
            checks: x.checks.len(),
            indexed: x.primary_key.is_some() || !x.indexes.is_empty(),
            triggers: has_triggers(s, x),
            ..plain(x.id, oid, name, kind, natts)
        };
        let kind = if declared { "p" } else { "r" };
        rows.push(Class { children: declared, tuples, bytes, ..class(i64::from(x.id.0), &x.name, kind) }.row());
        if declared {
            for f in &x.fragments {
                let one = s.cluster.statistics(x, f.id);
                let bounds = def::bounds(s.catalog, x, &f.bounds);
                rows.push(
                    Class {
                        tuples: i64::try_from(one.rows).unwrap_or(i64::MAX),
                        bytes: i64::try_from(one.bytes).unwrap_or(i64::MAX),
                        partition: Some(bounds),
                        ..class(i64::from(f.id.0), &f.name, "r")
                    }
                    .row(),
                );
            }
        }
        if let Some(key) = &x.primary_key {
            rows.push(Class { am: 403, ..plain(x.id, def::index_oid(x, None), key, "i", x.key.len()) }.row());
        }
        for i in &x.indexes {
            rows.push(
                Class { am: 403, ..plain(x.id, def::index_oid(x, Some(i)), &i.name, "i", i.columns.len()) }.row(),
            );
        }
    }
    for v in s.catalog.views.values() {
        let natts = s.views.get(&v.id).map_or(v.columns.len(), Vec::len);
        rows.push(plain(v.id, i64::from(v.id.0), &v.name, "v", natts).row());
    }
    for q in s.catalog.sequences.values() {
        rows.push(plain(q.id, i64::from(q.id.0), &q.name, "S", 3).row());
    }
    rows
}

/// `typalign`
pub(super) fn alignment(ty: &SqlType) -> &'static str {
    match ty {
        SqlType::Bool | SqlType::Uuid => "c",
        SqlType::Int2 => "s",
        SqlType::Int8
        | SqlType::Float8
        | SqlType::Time(_)
        | SqlType::Timestamp(_)
        | SqlType::TimestampTz(_)
        | SqlType::Interval => "d",
        SqlType::Array(item) if alignment(item) == "d" => "d",
        _ => "i",
    }
}

/// `typstorage`
pub(super) fn storage(ty: &SqlType) -> &'static str {
    match ty {
        SqlType::Numeric(_) => "m",
        ty if length(ty) < 0 => "x",
        _ => "p",
    }
}

/// Bytes of a type's values in PostgreSQL; -1 where they vary.
pub(super) fn length(ty: &SqlType) -> i16 {
    match ty {
        SqlType::Bool => 1,
        SqlType::Int2 => 2,
        SqlType::Int4 | SqlType::Float4 | SqlType::Date => 4,
        SqlType::Int8 | SqlType::Float8 | SqlType::Time(_) | SqlType::Timestamp(_) | SqlType::TimestampTz(_) => 8,
        SqlType::Interval | SqlType::Uuid => 16,
        _ => -1,
    }
}

/// Whether a type has a collation: PostgreSQL's default one, 100.
pub(super) fn collation(ty: &SqlType) -> i64 {
    match ty {
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => 100,
        SqlType::Array(item) => collation(item),
        _ => 0,
    }
}

fn attribute(
    relation: i64,
    number: i16,
    name: &str,
    ty: &SqlType,
    not_null: bool,
    default: bool,
    identity: &str,
) -> Row {
    vec![
        o(relation),
        t(name),
        o(ty.pg_oid()),
        Value::Int4(-1),
        Value::Int2(length(ty)),
        Value::Int2(number),
        Value::Int4(i32::from(matches!(ty, SqlType::Array(_)))),
        Value::Int4(-1),
        Value::Int4(def::typmod(ty)),
        b(length(ty) > 0 && length(ty) <= 8),
        t(alignment(ty)),
        t(storage(ty)),
        t(""),
        b(not_null),
        b(default),
        b(false),
        t(identity),
        t(""),
        b(false),
        b(true),
        Value::Int4(0),
        o(collation(ty)),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
    ]
}

/// `a` or `d` for identity columns. Serial columns are told apart by nothing but their default, which both kinds show here as
/// `nextval`; GENERATED ALWAYS shows itself.
fn identity(column: &Column) -> &'static str {
    match &column.generated {
        Some(Generated::Always(_)) => "a",
        _ => "",
    }
}

/// A column's default, as SQL.
pub(in crate::pg) fn default_of(s: &Source<'_>, column: &Column) -> Option<String> {
    match &column.generated {
        Some(Generated::ByDefault(id)) => {
            let sequence = s.catalog.sequences.get(id)?;
            Some(format!("nextval('{}'::regclass)", def::quote_ident(&sequence.name).replace('\'', "''")))
        }
        Some(Generated::Always(_)) => None,
        None => column.default.as_deref().map(|d| def::default_expression(d, &column.ty)),
    }
}

fn attributes(s: &Source<'_>) -> Vec<Row> {
    let mut rows = vec![];
    for x in s.catalog.tables.values() {
        let columns: Vec<&Column> = x.columns.iter().filter(|c| !c.hidden).collect();
        let mut relations = vec![i64::from(x.id.0)];
        if def::is_declared(s.catalog, x) {
            relations.extend(x.fragments.iter().map(|f| i64::from(f.id.0)));
        }
        for relation in relations {
            for (at, c) in (1..).zip(&columns) {
                rows.push(attribute(relation, at, &c.name, &c.ty, c.not_null, default_of(s, c).is_some(), identity(c)));
            }
        }
        let key = x.primary_key.as_ref().map(|_| (None, &x.key));
        for (index, ids) in key.into_iter().chain(x.indexes.iter().map(|i| (Some(i), &i.columns))) {
            for (at, id) in (1..).zip(ids) {
                if let Some(p) = x.position(*id) {
                    let c = &x.columns[p];
                    rows.push(attribute(def::index_oid(x, index), at, &c.name, &c.ty, false, false, ""));
                }
            }
        }
    }
    for (view, columns) in &s.views {
        for (at, (name, ty)) in (1..).zip(columns) {
            rows.push(attribute(i64::from(view.0), at, name, ty, false, false, ""));
        }
    }
    for q in s.catalog.sequences.values() {
        for (at, (name, ty)) in
            (1..).zip([("last_value", SqlType::Int8), ("log_cnt", SqlType::Int8), ("is_called", SqlType::Bool)])
        {
            rows.push(attribute(i64::from(q.id.0), at, name, &ty, true, false, ""));
        }
    }
    rows
}

fn defaults(s: &Source<'_>) -> Vec<Row> {
    let mut rows = vec![];
    for x in s.catalog.tables.values() {
        for (at, c) in (1i16..).zip(x.columns.iter().filter(|c| !c.hidden)) {
            if let Some(default) = default_of(s, c) {
                let oid = def::default_oid(x, at);
                rows.push(vec![o(oid), o(x.id.0), Value::Int2(at), t(default)]);
            }
        }
    }
    rows
}

fn indexes(s: &Source<'_>) -> Vec<Row> {
    let mut rows = vec![];
    for x in s.catalog.tables.values() {
        let key = x.primary_key.as_ref().map(|_| (None, &x.key, true));
        for (index, ids, unique) in key.into_iter().chain(x.indexes.iter().map(|i| (Some(i), &i.columns, i.unique))) {
            let count = Value::Int2(ids.len() as i16);
            let zeros: Vec<Value> = ids.iter().map(|_| Value::Int2(0)).collect();
            let collations =
                ids.iter().filter_map(|id| x.position(*id)).map(|p| o(collation(&x.columns[p].ty))).collect();
            rows.push(vec![
                o(def::index_oid(x, index)),
                o(x.id.0),
                count.clone(),
                count,
                b(unique),
                b(false),
                b(index.is_none()),
                b(false),
                b(true),
                b(false),
                b(true),
                b(false),
                b(true),
                b(true),
                b(false),
                Value::Array(def::attnums(x, ids)),
                Value::Array(collations),
                Value::Array(ids.iter().map(|_| o(0)).collect()),
                Value::Array(zeros),
                Value::Null,
                Value::Null,
            ]);
        }
    }
    rows
}

fn constraints(s: &Source<'_>) -> Vec<Row> {
    let action = |a: atoll_model::ReferentialAction| match a {
        atoll_model::ReferentialAction::NoAction => "a",
        atoll_model::ReferentialAction::Cascade => "c",
        atoll_model::ReferentialAction::SetNull => "n",
    };
    let mut rows = vec![];
    for x in s.catalog.tables.values() {
        for (at, constraint) in def::constraints(x).iter().enumerate() {
            let (name, kind, index, columns) = match constraint {
                def::Constraint::Primary(name) => (*name, "p", def::index_oid(x, None), def::attnums(x, &x.key)),
                def::Constraint::Unique(i) => {
                    (i.name.as_str(), "u", def::index_oid(x, Some(i)), def::attnums(x, &i.columns))
                }
                def::Constraint::Check(name, expression) => {
                    let names = crate::pg::parse::parse_expression(expression)
                        .map(|e| crate::ddl::columns_of(&e))
                        .unwrap_or_default();
                    let ids: Vec<_> = names.iter().filter_map(|n| x.position_of(n)).map(|p| x.columns[p].id).collect();
                    (*name, "c", 0, def::attnums(x, &ids))
                }
                def::Constraint::Foreign(key) => (key.name.as_str(), "f", 0, def::attnums(x, &key.columns)),
            };
            let foreign = match constraint {
                def::Constraint::Foreign(key) => s.catalog.tables.get(&key.parent).map(|p| (*key, p)),
                _ => None,
            };
            let (on_update, on_delete, matching) =
                foreign.map_or((" ", " ", " "), |(key, _)| (action(key.on_update), action(key.on_delete), "s"));
            rows.push(vec![
                o(def::constraint_oid(x, at)),
                t(name),
                o(def::PUBLIC),
                t(kind),
                b(false),
                b(false),
                b(true),
                o(x.id.0),
                o(0),
                o(index),
                o(0),
                o(foreign.map_or(0, |(_, p)| p.id.0)),
                t(on_update),
                t(on_delete),
                t(matching),
                b(true),
                Value::Int4(0),
                b(true),
                Value::Array(columns),
                foreign.map_or(Value::Null, |(key, p)| Value::Array(def::attnums(p, &key.parent_columns))),
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                match constraint {
                    def::Constraint::Check(_, expression) => t(*expression),
                    _ => Value::Null,
                },
            ]);
        }
    }
    rows
}
