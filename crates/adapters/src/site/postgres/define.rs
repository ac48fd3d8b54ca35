//! DDL at a PostgreSQL site: making the tables that hold copies, and changing them along with the definition.
//!
//! Keys, unique indexes, other indexes and NOT NULL are carried to the site; defaults, CHECKs and foreign keys are not: Atoll evaluates
//! those once, for all copies, before a row gets there. The server's DDL is transactional, so all of it is undone with the branch.
//!
//! Invariant: after [`define`] the site's table holds exactly the columns of the definition, or the call has failed. An adopted table is looked
//! at and never changed.

use super::adopt;
use super::branch::Inner;
use super::connection::Link;
use super::layout::{Layout, literal, quote, table_name};
use super::types;
use atoll_model::{Column, Error, ErrorKind, Index, IndexId, Result, Table, text};
use std::sync::Arc;
use tokio_postgres::types::Type;

/// Makes the copy's table, or lets it follow the definition.
pub(super) async fn define(inner: &Arc<Inner>, layout: &Layout, before: Option<&Table>) -> Result<()> {
    if layout.adopted {
        if before.is_some_and(|before| !same_shape(before, &layout.table)) {
            return Err(Error::unsupported(format!("a change of table \"{}\"", layout.table.name))
                .detail(format!("A fragment of it is the adopted table {}.", layout.relation))
                .hint("Change that table at its site, then drop and adopt it again."));
        }
        return adopt::inspect(inner, layout).await;
    }
    let link = inner.writer().await?;
    let commands = match before {
        None => {
            ensure_schema(inner, &link, &layout.schema).await?;
            create(layout)?
        }
        Some(before) => alter(layout, before)?,
    };
    if commands.is_empty() {
        return Ok(());
    }
    inner.writes(&layout.table)?;
    let outcome = link.execute(&commands.join("; ")).await;
    inner.told_of(layout, outcome)?;
    if before.is_some() {
        return Ok(());
    }
    adopt::check(inner, &link, layout).await?;
    check_empty(inner, &link, layout).await
}

/// A new copy has no rows: a table that has some is another one's, of another Atoll with the same ids.
async fn check_empty(inner: &Inner, link: &Link, layout: &Layout) -> Result<()> {
    let sql = format!("SELECT EXISTS (SELECT FROM {})", layout.relation);
    let rows = inner.told(link.query(&sql, &[]).await)?;
    if rows.first().is_some_and(|row| row.try_get(0).ok() == Some(false)) {
        return Ok(());
    }
    inner.told(Err(Error::new(
        ErrorKind::DuplicateTable,
        format!("table {} at site \"{}\" holds rows already", layout.relation, inner.site.name.0),
    )
    .hint("Is it used by another Atoll? Give each its own with the site's option \"schema\".")))
}

/// Fills a new index from the rows that are there.
pub(super) async fn build_index(inner: &Arc<Inner>, layout: &Layout, index: IndexId) -> Result<()> {
    let definition = layout
        .table
        .index(index)
        .ok_or_else(|| Error::internal(format!("table \"{}\" has no such index", layout.table.name)))?;
    if layout.adopted {
        return Err(Error::unsupported(format!("a new index on table \"{}\"", layout.table.name))
            .detail(format!("A fragment of it is the adopted table {}.", layout.relation))
            .hint("Create the index at its site, then drop and adopt the table again."));
    }
    let link = inner.writer().await?;
    inner.writes(&layout.table)?;
    let outcome = link.execute(&create_index(layout, definition)?).await;
    inner.told_of(layout, outcome)
}

/// Makes the schema in a transaction of its own: two that make it at once would otherwise wait for each other to the end.
async fn ensure_schema(inner: &Inner, link: &Link, schema: &str) -> Result<()> {
    let known =
        inner.told(link.query("SELECT to_regnamespace($1) IS NOT NULL", &[(&quote(schema), Type::TEXT)]).await)?;
    if known.first().is_some_and(|row| row.try_get(0).unwrap_or(false)) {
        return Ok(());
    }
    let link = Link::begin(&inner.site.control, "BEGIN").await?;
    match link.execute(&format!("CREATE SCHEMA IF NOT EXISTS {}; COMMIT", quote(schema))).await {
        Ok(()) => {
            link.ended();
            Ok(())
        }
        // Somebody else was faster.
        Err(error) if matches!(error.kind(), ErrorKind::DuplicateSchema | ErrorKind::UniqueViolation) => Ok(()),
        Err(error) => inner.told(Err(error)),
    }
}

fn create(layout: &Layout) -> Result<Vec<String>> {
    let table = &layout.table;
    let mut parts = vec![];
    for column in &table.columns {
        let null = if column.not_null { " NOT NULL" } else { "" };
        parts.push(format!("{} {}{null}", quote(&column.name), types::declared(column)?));
    }
    let key = layout.list(&layout.key);
    parts.push(format!("CONSTRAINT {} PRIMARY KEY ({key})", quote(&layout.index_name(None))));
    let mut commands = vec![format!("CREATE TABLE IF NOT EXISTS {} ({})", layout.relation, parts.join(", "))];
    for index in &table.indexes {
        commands.push(create_index(layout, index)?);
    }
    commands.push(comment(layout));
    Ok(commands)
}

fn comment(layout: &Layout) -> String {
    let table = &layout.table;
    let fragment = table.fragments.iter().find(|f| f.id == layout.fragment).map_or("", |f| f.name.as_str());
    let text = literal(&format!("Atoll: fragment {fragment} of table {}", table.name));
    format!("COMMENT ON TABLE {} IS {text}", layout.relation)
}

fn create_index(layout: &Layout, index: &Index) -> Result<String> {
    let unique = if index.unique { "UNIQUE " } else { "" };
    let name = quote(&layout.index_name(Some(index.id)));
    let columns: Vec<String> = layout.order(Some(index.id))?.into_iter().map(|at| layout.ordered(at)).collect();
    Ok(format!("CREATE {unique}INDEX IF NOT EXISTS {name} ON {} ({})", layout.relation, columns.join(", ")))
}

/// What has to be done for one definition to become the other.
fn alter(layout: &Layout, before: &Table) -> Result<Vec<String>> {
    let table = &layout.table;
    let (mut commands, relation) = (vec![], &layout.relation);
    for index in before.indexes.iter().filter(|i| table.index(i.id).is_none()) {
        let name = format!("{}_i{}", table_name(layout.fragment), index.id);
        commands.push(format!("DROP INDEX IF EXISTS {}.{}", quote(&layout.schema), quote(&name)));
    }
    for column in before.columns.iter().filter(|c| table.position(c.id).is_none()) {
        commands.push(format!("ALTER TABLE {relation} DROP COLUMN {}", quote(&column.name)));
    }
    for column in &table.columns {
        let name = quote(&column.name);
        let Some(old) = before.columns.iter().find(|c| c.id == column.id) else {
            commands.extend(add_column(relation, column)?);
            continue;
        };
        if old.name != column.name {
            commands.push(format!("ALTER TABLE {relation} RENAME COLUMN {} TO {name}", quote(&old.name)));
        }
        if old.not_null != column.not_null {
            let action = if column.not_null { "SET" } else { "DROP" };
            commands.push(format!("ALTER TABLE {relation} ALTER COLUMN {name} {action} NOT NULL"));
        }
        if old.ty != column.ty {
            return Err(Error::unsupported(format!("changing the type of column \"{}\" at a site", column.name)));
        }
    }
    if before.key != table.key {
        return Err(Error::unsupported(format!("changing the key of table \"{}\" at a site", table.name)));
    }
    if before.name != table.name {
        commands.push(comment(layout));
    }
    Ok(commands)
}

fn add_column(relation: &str, column: &Column) -> Result<Vec<String>> {
    let (name, ty) = (quote(&column.name), types::declared(column)?);
    let null = if column.not_null { " NOT NULL" } else { "" };
    if column.missing.is_null() {
        return Ok(vec![format!("ALTER TABLE {relation} ADD COLUMN {name} {ty}{null}")]);
    }
    let missing = literal(&text::to_text(&column.ty, &column.missing));
    Ok(vec![
        format!("ALTER TABLE {relation} ADD COLUMN {name} {ty}{null} DEFAULT {missing}::{}", column.ty),
        format!("ALTER TABLE {relation} ALTER COLUMN {name} DROP DEFAULT"),
    ])
}

fn same_shape(a: &Table, b: &Table) -> bool {
    let columns =
        |t: &Table| -> Vec<_> { t.columns.iter().map(|c| (c.id, c.name.clone(), c.ty.clone(), c.not_null)).collect() };
    columns(a) == columns(b) && a.key == b.key && b.indexes.iter().all(|i| a.index(i.id).is_some())
}
