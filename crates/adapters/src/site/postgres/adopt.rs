//! Tables of the site that Atoll has adopted: whether they are what the definition says, which rows are not the fragment's, and TRUNCATE.
//!
//! Invariant: looking at a table locks and writes nothing, so adopting one needs no prepared transaction at the site.

use super::branch::Inner;
use super::connection::Link;
use super::layout::Layout;
use super::predicate::{parameters, typed};
use super::types;
use super::values::{self, Raw};
use crate::site::orders;
use crate::site::predicate::Condition;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};
use atoll_ports::site::{Belonging, Misplaced};
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
    let rows = inner.told(link.query(COLUMNS, &[(&layout.relation, Type::TEXT)]).await)?;
    let wrong = |why: String| {
        let table = &layout.table.name;
        inner.told(Err(Error::new(
            ErrorKind::DatatypeMismatch,
            format!("{} at site \"{}\" does not fit table \"{table}\"", layout.relation, inner.site.name.0),
        )
        .detail(why)
        .table(table)))
    };
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
        return wrong("There is no such table.".into());
    }
    for column in &layout.table.columns {
        let Some(at_site) = found.iter().find(|f| f.name == column.name) else {
            return wrong(format!("It has no column \"{}\".", column.name));
        };
        if !at_site.ty.as_ref().is_some_and(|ty| types::carries(ty, &column.ty)) {
            let shown = &at_site.shown;
            return wrong(format!("Its column \"{}\" is of type {shown} instead of {}.", column.name, column.ty));
        }
        if column.not_null && !at_site.not_null {
            return wrong(format!("Its column \"{}\" may be NULL.", column.name));
        }
        if at_site.computed {
            return wrong(format!("Its column \"{}\" takes no values: the site generates them.", column.name));
        }
        if !at_site.exact {
            return wrong(format!(
                "Its column \"{}\" has a collation that takes different texts for equal.",
                column.name
            ));
        }
    }
    if let Some(other) = found.iter().find(|f| layout.table.position_of(&f.name).is_none()) {
        return wrong(format!("It has a column \"{}\" more.", other.name));
    }
    check_unique(inner, link, layout, wrong).await
}

/// The key and the unique indexes of the definition must be the server's, too.
async fn check_unique(inner: &Inner, link: &Link, layout: &Layout, wrong: impl Fn(String) -> Result<()>) -> Result<()> {
    let sql = "SELECT array_agg(a.attname::text ORDER BY a.attname) \
               FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
               WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate \
               AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT i.indnkeyatts < i.indnatts GROUP BY i.indexrelid";
    let rows = inner.told(link.query(sql, &[(&layout.relation, Type::TEXT)]).await)?;
    let unique: Vec<Vec<String>> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
    let key = (None, layout.key.clone());
    for (_, order) in orders::unique(&layout.table)?.into_iter().chain([key]) {
        let mut names: Vec<&str> = order.iter().map(|at| layout.table.columns[*at].name.as_str()).collect();
        names.sort_unstable();
        if !unique.iter().any(|u| u.iter().map(String::as_str).eq(names.iter().copied())) {
            return wrong(format!("It has no unique index on ({}).", names.join(", ")));
        }
    }
    Ok(())
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
    let outcome = link.execute(&format!("DELETE FROM {}", layout.relation)).await.map_err(|e| link.failed(&e));
    inner.told_of(layout, outcome)
}
