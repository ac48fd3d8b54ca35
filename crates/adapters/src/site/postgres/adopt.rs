//! Tables of the site that Atoll has adopted: whether they are what the definition says, which rows are not the fragment's, and TRUNCATE.
//!
//! Invariant: looking at a table locks and writes nothing, so adopting one needs no prepared transaction at the site.

use super::branch::Inner;
use super::connection::Link;
use super::layout::Layout;
use super::predicate::{parameters, typed};
use super::types;
use super::values::{self, Raw};
use crate::site::drift;
use crate::site::predicate::Condition;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};
use atoll_ports::site::{Belonging, Drift, Misplaced};
use std::sync::Arc;
use tokio_postgres::types::Type;

/// What the site's catalog knows of a table's columns.
const COLUMNS: &str = "SELECT a.attname::text, a.atttypid, a.atttypmod, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
     a.attgenerated <> '' OR a.attidentity = 'a', COALESCE(c.collisdeterministic, true) \
     FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = a.attcollation \
     WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// A column of the site's table.
struct Found {
    name: String,
    ty: Option<SqlType>,
    shown: String,
    not_null: bool,
    /// The site makes its values, and takes none.
    computed: bool,
    /// Values that are equal have the same bytes.
    exact: bool,
}

/// Makes sure that the site's table is what the definition says.
pub(super) async fn check(inner: &Inner, link: &Link, layout: &Layout) -> Result<()> {
    let Some(first) = differences(inner, link, layout).await?.into_iter().next() else { return Ok(()) };
    inner.told(Err(drift::refused(&layout.relation, &inner.site.name, &layout.table, first)))
}

/// What the site's table is otherwise than the definition says.
pub(super) async fn drift(inner: &Arc<Inner>, layout: &Layout) -> Result<Vec<Drift>> {
    let (link, ask) = inner.reader().await?;
    if ask {
        inner.saw(&link).await?;
    }
    differences(inner, &link, layout).await
}

async fn differences(inner: &Inner, link: &Link, layout: &Layout) -> Result<Vec<Drift>> {
    let rows = inner.told(link.query(COLUMNS, &[(&layout.relation, Type::TEXT)]).await)?;
    let read = |row: &tokio_postgres::Row| -> Result<Found, tokio_postgres::Error> {
        let (oid, modifier): (u32, i32) = (row.try_get(1)?, row.try_get(2)?);
        Ok(Found {
            name: row.try_get(0)?,
            ty: types::of_site(oid, modifier),
            shown: row.try_get(3)?,
            not_null: row.try_get(4)?,
            computed: row.try_get(5)?,
            exact: row.try_get(6)?,
        })
    };
    let found: Vec<Found> =
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|e| Error::internal(format!("columns: {e}")))?;
    if found.is_empty() {
        return Ok(vec![drift::of_table(&layout.relation)]);
    }
    let mut all = vec![];
    for (at, column) in layout.table.columns.iter().enumerate() {
        match found.iter().find(|f| f.name == column.name) {
            None => all.push(drift::of_missing_column(&column.name)),
            Some(at_site) => all.extend(of_column(layout, at, at_site)),
        }
    }
    let others = found.iter().filter(|f| layout.table.position_of(&f.name).is_none());
    all.extend(others.map(|other| drift::of_other_column(&other.name)));
    all.extend(of_indexes(inner, link, layout).await?);
    Ok(all)
}

/// What is wrong with the column at a position.
fn of_column(layout: &Layout, at: usize, found: &Found) -> Option<Drift> {
    let column = &layout.table.columns[at];
    if !found.ty.as_ref().is_some_and(|ty| types::carries(ty, &column.ty)) {
        return Some(drift::of_type(column, &found.shown));
    }
    if column.not_null && !found.not_null {
        return Some(drift::of_column(&column.name, "may be NULL."));
    }
    if !layout.adopted && found.not_null && !column.not_null && !layout.key.contains(&at) {
        return Some(drift::of_column(&column.name, "takes no NULL."));
    }
    if found.computed {
        return Some(drift::of_column(&column.name, "takes no values: the site generates them."));
    }
    (!found.exact).then(|| {
        drift::of_comparison(
            layout.key.contains(&at),
            &column.name,
            "has a collation that takes different texts for equal.",
        )
    })
}

/// The key and the unique indexes of the definition must be the server's, too; of a copy that Atoll has made, the other indexes as well.
async fn of_indexes(inner: &Inner, link: &Link, layout: &Layout) -> Result<Vec<Drift>> {
    let sql = "SELECT i.indisunique AND i.indimmediate, \
               ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS n(attnum, at) \
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = n.attnum ORDER BY n.at) \
               FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisvalid \
               AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = i.indnatts";
    let rows = inner.told(link.query(sql, &[(&layout.relation, Type::TEXT)]).await)?;
    let read = |row: &tokio_postgres::Row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?));
    drift::of_indexes(&layout.table, !layout.adopted, &rows.iter().filter_map(read).collect::<Vec<_>>(), |column| {
        column.name.clone()
    })
}

/// Makes sure that a table may be adopted, and that it is what the definition says.
pub(super) async fn inspect(inner: &Arc<Inner>, layout: &Layout) -> Result<()> {
    let (link, ask) = inner.reader().await?;
    if ask {
        inner.saw(&link).await?;
    }
    let sql = "SELECT relkind IN ('r', 'p') AND relpersistence <> 't' FROM pg_class WHERE oid = to_regclass($1)";
    let rows = inner.told(link.query(sql, &[(&layout.relation, Type::TEXT)]).await)?;
    let plain = rows.first().is_none_or(|row| row.try_get(0).unwrap_or(false));
    if layout.schema == inner.site.own_schema() || !plain {
        let why = if plain { "Its schema is where Atoll keeps its own copies." } else { "It is no table that lasts." };
        let (relation, site) = (&layout.relation, &inner.site.name.0);
        return inner.told(Err(Error::new(
            ErrorKind::WrongObjectType,
            format!("{relation} at site \"{site}\" cannot be adopted"),
        )
        .detail(why)));
    }
    check(inner, &link, layout).await
}

/// Counts the rows that are not the fragment's, and shows one.
pub(super) async fn misplaced(inner: &Arc<Inner>, layout: &Layout) -> Result<Belonging> {
    let Some((belongs, values)) = Condition::of_fragment(layout, layout.fragment) else {
        return Ok(Belonging::Unknown);
    };
    let (link, ask) = inner.reader().await?;
    if ask {
        inner.saw(&link).await?;
    }
    let place = layout.table.fragmentation_positions();
    let shown: String = layout.key.iter().chain(&place).map(|at| format!(", {}", layout.column(*at))).collect();
    let sql = format!("SELECT count(*) OVER (){shown} FROM {} WHERE ({belongs}) IS NOT TRUE LIMIT 1", layout.relation);
    let rows = inner.told_of(layout, link.query(&sql, &typed(&parameters(&values))).await)?;
    let Some(row) = rows.first() else { return Ok(Belonging::All) };
    let unread = |e: tokio_postgres::Error| Error::internal(format!("a row of a site: {e}"));
    let count: i64 = row.try_get(0).map_err(unread)?;
    let read = |from: usize, columns: &[usize]| -> Result<Vec<Value>> {
        let columns = columns.iter().enumerate();
        columns
            .map(|(n, at)| match row.try_get::<_, Raw<'_>>(from + n).map_err(unread)? {
                Raw(Some(bytes)) => values::decode(layout.ty(*at), bytes),
                Raw(None) => Ok(Value::Null),
            })
            .collect()
    };
    Ok(Belonging::AllBut(Misplaced {
        rows: u64::try_from(count).unwrap_or_default(),
        key: read(1, &layout.key)?,
        place: read(1 + layout.key.len(), &place)?,
    }))
}

/// Deletes all rows: unlike the server's TRUNCATE, older snapshots still see them, and readers are not waited for.
pub(super) async fn clear(inner: &Arc<Inner>, layout: &Layout) -> Result<()> {
    let link = inner.writer().await?;
    inner.writes(&layout.table)?;
    let outcome = link.execute(&format!("DELETE FROM {}", layout.relation)).await;
    inner.told_of(layout, outcome)
}
