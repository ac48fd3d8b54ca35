//! The tables of a schema, as the site's own catalog describes them, for adopting many at once.
//!
//! Invariant: what is told of a table is from one snapshot. Partitions are told as the table that they are parts of; views, temporary tables and
//! those of extensions are not told.

use super::connection::Link;
use super::types;
use atoll_model::{Error, NewSequence, Result};
use atoll_ports::site::{SiteColumn, SiteTable};
use std::collections::BTreeMap;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// The tables that are told.
const TABLES: &str = "pg_class c WHERE c.relnamespace = $1::text::regnamespace AND c.relkind IN ('r', 'p') \
     AND NOT c.relispartition AND c.relpersistence <> 't' \
     AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')";

fn columns() -> String {
    format!(
        "SELECT t.relname::text, a.attname::text, a.atttypid, a.atttypmod, format_type(a.atttypid, a.atttypmod), \
         a.attnotnull, a.attgenerated <> '', a.attidentity = 'a', COALESCE(k.collisdeterministic, true), \
         pg_get_expr(d.adbin, d.adrelid), \
         COALESCE(pg_sequence_last_value(s.seqrelid) + s.seqincrement, s.seqstart), \
         s.seqincrement, s.seqmin, s.seqmax, s.seqcycle \
         FROM (SELECT c.oid, c.relname FROM {TABLES}) t \
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped \
         LEFT JOIN pg_collation k ON k.oid = a.attcollation \
         LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum \
         LEFT JOIN pg_sequence s ON s.seqrelid = to_regclass(pg_get_serial_sequence(t.oid::regclass::text, a.attname)) \
         ORDER BY t.relname, a.attnum"
    )
}

fn indexes() -> String {
    format!(
        "SELECT t.relname::text, i.indisprimary, \
         ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS n(attnum, at) \
               JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = n.attnum ORDER BY n.at) \
         FROM (SELECT c.oid, c.relname FROM {TABLES}) t JOIN pg_index i ON i.indrelid = t.oid \
         WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL \
         AND i.indnkeyatts = i.indnatts ORDER BY t.relname, i.indexrelid"
    )
}

/// The tables of a schema that is there, in a transaction that reads one snapshot.
pub(super) async fn tables(link: &Link, schema: &str) -> Result<Vec<SiteTable>> {
    let mut tables: BTreeMap<String, SiteTable> = BTreeMap::new();
    for row in link.query(&columns(), &[(&schema, Type::TEXT)]).await? {
        let (name, column) = column(&row).map_err(unread)?;
        let fresh = || SiteTable { name: name.clone(), columns: vec![], key: None, unique: vec![] };
        tables.entry(name.clone()).or_insert_with(fresh).columns.push(column);
    }
    for row in link.query(&indexes(), &[(&schema, Type::TEXT)]).await? {
        let read = || Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let (name, primary, columns): (String, bool, Vec<String>) = read().map_err(unread)?;
        let Some(table) = tables.get_mut(&name) else { continue };
        if primary {
            table.key = Some(columns);
        } else {
            table.unique.push(columns);
        }
    }
    Ok(tables.into_values().collect())
}

fn column(row: &Row) -> Result<(String, SiteColumn), tokio_postgres::Error> {
    let (oid, modifier): (u32, i32) = (row.try_get(2)?, row.try_get(3)?);
    let (generated, always, exact): (bool, bool, bool) = (row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
    let problem = match (generated || always, exact) {
        (true, _) => Some("the site generates its values and takes none"),
        (_, false) => Some("its collation takes different texts for equal"),
        _ => None,
    };
    let sequence = match row.try_get::<_, Option<i64>>(10)? {
        None => None,
        Some(start) => Some(NewSequence {
            name: String::new(),
            start,
            increment: row.try_get(11)?,
            min: row.try_get(12)?,
            max: row.try_get(13)?,
            cycle: row.try_get(14)?,
        }),
    };
    let column = SiteColumn {
        name: row.try_get(1)?,
        ty: types::of_site(oid, modifier),
        declared: row.try_get(4)?,
        not_null: row.try_get(5)?,
        default: row.try_get::<_, Option<String>>(9)?.filter(|_| sequence.is_none()),
        sequence,
        problem,
    };
    Ok((row.try_get(0)?, column))
}

fn unread(error: tokio_postgres::Error) -> Error {
    Error::internal(format!("what a site says of its tables: {error}"))
}
