//! Tables of the site that Atoll has adopted: whether they are what the definition says, which rows are not the fragment's, and TRUNCATE.
//!
//! Invariant: looking at a table locks and writes nothing.

use super::branch::Inner;
use super::layout::{Layout, literal};
use super::link::Link;
use super::survey::{COLUMNS, declared, is_made_there};
use super::types::{self, Declared};
use super::values::{Params, decode, number, string};
use crate::site::orders;
use crate::site::predicate::Condition;
use atoll_model::{Error, ErrorKind, Result, Value};
use atoll_ports::site::{Belonging, Misplaced};
use std::collections::HashMap;
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
    let wrong = |why: String| {
        let table = &layout.table.name;
        inner.told(Err(Error::new(
            ErrorKind::DatatypeMismatch,
            format!("{} at site \"{}\" does not fit table \"{table}\"", layout.relation, inner.site.name.0),
        )
        .detail(why)
        .table(table)))
    };
    let found = inner.told(columns(link, layout).await)?;
    if found.is_empty() {
        return wrong("There is no such table.".into());
    }
    let ordered = orders::all(&layout.table)?.concat();
    for (at, column) in layout.table.columns.iter().enumerate() {
        let Some(at_site) = found.get(&layout.site_name(column)) else {
            return wrong(format!("It has no column \"{}\".", column.name));
        };
        let site = types::of_site(&at_site.declared);
        if !site.is_some_and(|ty| types::carries(&ty, &column.ty, !layout.adopted)) {
            let shown = match at_site.declared.characters.as_str() {
                "" | "utf8mb4" => at_site.full.clone(),
                characters => format!("{} ({characters})", at_site.full),
            };
            return wrong(format!("Its column \"{}\" is of type {shown} instead of {}.", column.name, column.ty));
        }
        if at_site.is_made_there {
            return wrong(format!("Its column \"{}\" is changed by the server itself.", column.name));
        }
        if layout.adopted && column.not_null && !at_site.not_null {
            return wrong(format!("Its column \"{}\" may be NULL.", column.name));
        }
        // The server sorts by no more than the beginning of a text without length.
        let is_bounded = !at_site.declared.base.ends_with("text");
        if layout.is_collated(at) && ordered.contains(&at) && !is_bounded {
            return wrong(format!("Its column \"{}\" is part of a key or an index without a length.", column.name));
        }
        let exact = at_site.collation == link.flavor.collation();
        if layout.is_collated(at) && ordered.contains(&at) && !exact {
            return wrong(format!(
                "Its column \"{}\" is part of a key or an index and compared by {} instead of {}.",
                column.name,
                at_site.collation,
                link.flavor.collation()
            ));
        }
    }
    let other = found.keys().find(|name| !layout.table.columns.iter().any(|c| layout.site_name(c) == **name));
    match other {
        Some(other) if layout.adopted => wrong(format!("It has a column \"{other}\" more.")),
        _ if layout.adopted => check_unique(inner, link, layout, wrong).await,
        _ => Ok(()),
    }
}

/// The key and the unique indexes of an adopted table must be the server's, too.
async fn check_unique(inner: &Inner, link: &Link, layout: &Layout, wrong: impl Fn(String) -> Result<()>) -> Result<()> {
    let sql = format!(
        "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS \
         WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} AND NON_UNIQUE = 0",
        literal(&layout.schema),
        literal(&layout.name)
    );
    let rows = inner.told(link.text(&sql).await)?;
    let mut unique: HashMap<String, Vec<String>> = HashMap::new();
    for row in &rows {
        // A prefix is no column.
        let name = if number(row, 2) == 0 { string(row, 1) } else { String::new() };
        unique.entry(string(row, 0)).or_default().push(name);
    }
    unique.values_mut().for_each(|names| names.sort_unstable());
    let key = (None, layout.key.clone());
    for (_, order) in orders::unique(&layout.table)?.into_iter().chain([key]) {
        let mut names: Vec<&str> = order.iter().map(|at| layout.table.columns[*at].name.as_str()).collect();
        names.sort_unstable();
        if !unique.values().any(|u| u.iter().map(String::as_str).eq(names.iter().copied())) {
            return wrong(format!("It has no unique index on ({}).", names.join(", ")));
        }
    }
    Ok(())
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
