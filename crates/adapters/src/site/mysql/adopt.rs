//! Tables of the site that Atoll has adopted: whether they are what the definition says, which rows are not the fragment's, and TRUNCATE.
//!
//! Invariant: looking at a table locks and writes nothing.

use super::branch::Inner;
use super::layout::{Layout, literal};
use super::link::Link;
use super::survey::{COLUMNS, declared, is_made_there};
use super::types::{self, Declared};
use super::values::{Params, decode, number, string};
use crate::site::predicate::Condition;
use crate::site::{drift, orders};
use atoll_model::{Error, ErrorKind, Result, Value};
use atoll_ports::site::{Belonging, Drift, Misplaced};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A column of the site's table.
pub(super) struct Found {
    pub(super) full: String,
    pub(super) declared: Declared,
    pub(super) not_null: bool,
    collation: String,
    /// The server itself changes it.
    is_made_there: bool,
}

/// The columns of the table, by name; none if it is not there.
pub(super) async fn columns(link: &Link, layout: &Layout) -> Result<HashMap<String, Found>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        literal(&layout.schema),
        literal(&layout.name)
    );
    let read = |row: &mysql_async::Row| {
        let found = Found {
            full: string(row, 2),
            declared: declared(row),
            not_null: string(row, 7) == "NO",
            collation: string(row, 8),
            is_made_there: is_made_there(&string(row, 10)),
        };
        (string(row, 0), found)
    };
    Ok(link.text(&sql).await?.iter().map(read).collect())
}

/// Makes sure that the site's table is what the definition says.
pub(super) async fn check(inner: &Inner, link: &Link, layout: &Layout) -> Result<()> {
    let mut all = differences(inner, link, layout).await?;
    if all.is_empty() && layout.adopted {
        all = of_indexes(inner, link, layout).await?;
    }
    let Some(first) = all.into_iter().next() else { return Ok(()) };
    inner.told(Err(drift::refused(&layout.relation, &inner.site.name, &layout.table, first)))
}

/// What the site's table is otherwise than the definition says.
pub(super) async fn drift(inner: &Arc<Inner>, layout: &Layout) -> Result<Vec<Drift>> {
    let (link, _) = inner.reader(&[layout]).await?;
    let mut all = differences(inner, &link, layout).await?;
    if !all.iter().any(|drift| drift.object == layout.relation) {
        all.extend(of_indexes(inner, &link, layout).await?);
    }
    Ok(all)
}

/// As [`drift`], but for the indexes.
async fn differences(inner: &Inner, link: &Link, layout: &Layout) -> Result<Vec<Drift>> {
    let found = inner.told(columns(link, layout).await)?;
    if found.is_empty() {
        return Ok(vec![drift::of_table(&layout.relation)]);
    }
    let ordered = orders::all(&layout.table)?.concat();
    let mut all = vec![];
    for (at, column) in layout.table.columns.iter().enumerate() {
        match found.get(&layout.site_name(column)) {
            None => all.push(drift::of_missing_column(&column.name)),
            Some(at_site) => all.extend(of_column(link, layout, at, at_site, ordered.contains(&at))),
        }
    }
    if layout.adopted {
        let known = |name: &String| layout.table.columns.iter().any(|c| layout.site_name(c) == *name);
        let others = found.keys().filter(|name| !known(name));
        all.extend(others.map(|other| drift::of_other_column(other)));
    }
    Ok(all)
}

/// What is wrong with the column at a position, which is part of an order or not.
fn of_column(link: &Link, layout: &Layout, at: usize, found: &Found, is_ordered: bool) -> Option<Drift> {
    let column = &layout.table.columns[at];
    let wrong = |why: &str| Some(drift::of_column(&column.name, why));
    let site = types::of_site(&found.declared);
    if !site.is_some_and(|ty| types::carries(&ty, &column.ty, !layout.adopted)) {
        let shown = match found.declared.characters.as_str() {
            "" | "utf8mb4" => found.full.clone(),
            characters => format!("{} ({characters})", found.full),
        };
        return Some(drift::of_type(column, &shown));
    }
    if found.is_made_there {
        return wrong("is changed by the server itself.");
    }
    if layout.adopted && column.not_null && !found.not_null {
        return wrong("may be NULL.");
    }
    // Atoll declares NOT NULL for the key alone.
    if !layout.adopted && found.not_null != layout.key.contains(&at) {
        return wrong(if found.not_null { "takes no NULL." } else { "may be NULL." });
    }
    if !types::is_text(&column.ty) || !is_ordered {
        return None;
    }
    // The server sorts by no more than the beginning of a text without length.
    if found.declared.base.ends_with("text") {
        let why = "is part of a key or an index without a length.";
        return Some(drift::of_comparison(layout.key.contains(&at), &column.name, why));
    }
    let collation = link.flavor.collation();
    (found.collation != collation).then(|| {
        let why = format!("is part of a key or an index and compared by {} instead of {collation}.", found.collation);
        drift::of_comparison(layout.key.contains(&at), &column.name, &why)
    })
}

/// The key and the unique indexes of the definition must be the server's, too; of a copy that Atoll has made, the other indexes as well.
async fn of_indexes(inner: &Inner, link: &Link, layout: &Layout) -> Result<Vec<Drift>> {
    let sql = format!(
        "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART, NON_UNIQUE FROM information_schema.STATISTICS \
         WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} ORDER BY INDEX_NAME, SEQ_IN_INDEX",
        literal(&layout.schema),
        literal(&layout.name)
    );
    let rows = inner.told(link.text(&sql).await)?;
    let mut found: BTreeMap<String, (bool, Vec<String>)> = BTreeMap::new();
    for row in &rows {
        // A prefix is no column.
        let name = if number(row, 2) == 0 { string(row, 1) } else { String::new() };
        found.entry(string(row, 0)).or_insert_with(|| (number(row, 3) == 0, vec![])).1.push(name);
    }
    let found: Vec<_> = found.into_values().collect();
    drift::of_indexes(&layout.table, !layout.adopted, &found, |column| layout.site_name(column))
}

/// Whether a table of this name is one of Atoll's own, in the database where it makes them.
pub(super) fn is_own(name: &str) -> bool {
    let copy = name.strip_prefix('f').is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()));
    copy || name.starts_with("atoll_")
}

/// Makes sure that a table may be adopted, and that it is what the definition says.
pub(super) async fn inspect(inner: &Arc<Inner>, layout: &Layout) -> Result<()> {
    let (link, _) = inner.reader(&[layout]).await?;
    let sql = format!(
        "SELECT TABLE_TYPE, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        literal(&layout.schema),
        literal(&layout.name)
    );
    let rows = inner.told(link.text(&sql).await)?;
    let plain = rows.first().is_none_or(|row| string(row, 0) == "BASE TABLE" && string(row, 1) == "InnoDB");
    let own = layout.schema == inner.site.options.schema && is_own(&layout.name);
    if own || !plain {
        let why = if plain { "Its name is one of Atoll's own tables." } else { "It is no table of the engine InnoDB." };
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
    let (link, _) = inner.reader(&[layout]).await?;
    let place = layout.table.fragmentation_positions();
    let shown: Vec<usize> = layout.key.iter().chain(&place).copied().collect();
    let sql = format!(
        "SELECT COUNT(*) OVER (), {} FROM {} WHERE ({belongs}) IS NOT TRUE LIMIT 1",
        layout.list(&shown),
        layout.relation
    );
    let params = Params::of(values.iter().map(|(ty, value)| (ty, value)))?;
    let rows = inner.told(link.query(&sql, params).await)?;
    let Some(row) = rows.into_iter().next() else { return Ok(Belonging::All) };
    let count = number(&row, 0);
    let wires = row.unwrap().into_iter().skip(1);
    let mut values =
        wires.zip(&shown).map(|(wire, at)| decode(layout.ty(*at), wire)).collect::<Result<Vec<Value>>>()?;
    let place = values.split_off(layout.key.len());
    Ok(Belonging::AllBut(Misplaced { rows: count, key: values, place }))
}

/// Deletes all rows: unlike the server's TRUNCATE, this can be undone, older snapshots still see them, and readers are not waited for.
pub(super) async fn clear(inner: &Arc<Inner>, layout: &Layout) -> Result<()> {
    inner.writes(&layout.table).await?;
    let link = inner.writer().await?;
    inner.touch(layout);
    inner.told(link.change(&format!("DELETE FROM {}", layout.relation), Params::none()).await).map(|_| ())
}
