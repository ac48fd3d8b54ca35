//! DDL at a MySQL site: making the tables that hold copies, and changing them along with the definition.
//!
//! The server carries DDL out at once, on a connection of its own, and it stays when the transaction is undone. So:
//!
//! * What a change adds (a table, a column, an index) is added before the commit. If that does not come, it is left over: a table
//!   without rows, a column that nobody names, an index whose name is not among the parts that count ([`super::system`]).
//!   Left-over tables and columns give way to the next ones of the same number; left-over indexes are dropped when the transaction ends, or when
//!   one of them gets into somebody's way ([`super::clash`]).
//! * What a change takes away is taken away after the commit: indexes then, columns with the next change of the table.
//! * What can be left alone, is: a column's name at the site is its number, and it may be NULL there, as Atoll checks NOT NULL itself.
//!
//! Keys, unique indexes and other indexes are carried to the site; defaults, CHECKs, NOT NULL and foreign keys are not: Atoll
//! evaluates those once, for all copies, before a row gets there.
//!
//! Invariant: whatever a committed definition needs is there before the commit and until the commit that drops it. An adopted table is looked
//! at and never changed.

use super::adopt::{self, Found};
use super::beginning::YEAR;
use super::branch::Inner;
use super::clash;
use super::layout::{Layout, literal, quote};
use super::link::Link;
use super::site::Shared;
use super::types;
use super::values::string;
use atoll_model::{Error, ErrorKind, FragmentId, Index, IndexId, Result, Table, text};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long, in seconds, dropping what is left over waits for those who use the table, before it is left for another time.
const PATIENCE: u32 = 2;

/// How often it is looked whether an index does not count any more: a rollback may be under way.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Indexes to be dropped when the transaction has ended.
#[derive(Default)]
pub(super) struct Leftovers {
    after_commit: Vec<Spare>,
    when_undone: Vec<Spare>,
}

/// An index that may turn out not to count.
#[derive(Clone)]
struct Spare {
    fragment: FragmentId,
    relation: String,
    name: String,
    /// What it was made as.
    shape: String,
}

impl Spare {
    fn of(layout: &Layout, name: String, shape: String) -> Self {
        Spare { fragment: layout.fragment, relation: layout.relation.clone(), name, shape }
    }
}

impl Leftovers {
    /// An index that does not count, however the transaction ends.
    pub(super) fn found(&mut self, layout: &Layout, name: &str) {
        let spare = Spare::of(layout, name.into(), String::new());
        self.after_commit.push(spare.clone());
        self.when_undone.push(spare);
    }

    fn made(&self, relation: &str) -> impl Iterator<Item = &Spare> {
        self.when_undone.iter().filter(move |spare| spare.relation == relation && !spare.shape.is_empty())
    }

    /// The transaction is committed.
    pub(super) async fn clear(self, site: &Shared) {
        drop_indexes(site, self.after_commit).await;
    }

    /// The transaction is undone.
    pub(super) async fn undo(self, site: &Shared) {
        drop_indexes(site, self.when_undone).await;
    }

    /// The transaction is being undone.
    pub(super) fn undo_soon(self, site: &Arc<Shared>, link: Arc<Link>) {
        // It holds the table until it is rolled back.
        drop(link);
        if !self.when_undone.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let site = site.clone();
            runtime.spawn(async move { self.undo(&site).await });
        }
    }
}

/// Drops indexes that do not count. If that does not work now, they are found when they are in the way.
///
/// One that does count after all is left alone, as after a commit whose answer was lost.
async fn drop_indexes(site: &Shared, indexes: Vec<Spare>) {
    for spare in indexes {
        if let Err(error) = drop_index(site, &spare).await {
            tracing::debug!(site = site.name.0, %error, name = spare.name, "an index that does not count is left");
        }
    }
}

async fn drop_index(site: &Shared, spare: &Spare) -> Result<()> {
    for _ in 0..ATTEMPTS {
        if !site.counts(spare.fragment, &spare.name).await? {
            let link = site.control(&format!("SET SESSION lock_wait_timeout = {PATIENCE}")).await?;
            return link.execute(&format!("DROP INDEX {} ON {}", quote(&spare.name), spare.relation)).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

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
    inner.forget_reads();
    let link = inner.writer().await?;
    // What cannot be held is refused before anything is done.
    for at in 0..layout.table.columns.len() {
        types::declared(&layout.table, at, link.flavor)?;
    }
    inner.writes(&layout.table).await?;
    match before {
        None => inner.told(make(inner, &link, layout).await),
        Some(before) => inner.told(alter(inner, &link, layout, before).await),
    }
}

/// Runs DDL on a connection of its own, which ends no transaction.
async fn execute(inner: &Inner, layout: &Layout, command: &str) -> Result<()> {
    if inner.has_touched(layout) {
        let name = &layout.table.name;
        return Err(Error::unsupported(format!("a change of table \"{name}\" in a transaction that has used it"))
            .detail("A MySQL site changes a table's definition only when no transaction uses it.")
            .hint("Commit first."));
    }
    let timeout = inner.patience().min(YEAR);
    let link = inner.site.control(&format!("SET SESSION lock_wait_timeout = {timeout}")).await?;
    link.execute(command).await.map_err(|e| match e.kind() {
        ErrorKind::ProgramLimit => {
            Error::unsupported(format!("table \"{}\" at a MySQL site", layout.table.name)).detail(e.message())
        }
        _ => e,
    })
}

/// Notes in the transaction that a table (`""`) or an index is to count. False: it does already.
async fn count_in(inner: &Inner, link: &Link, layout: &Layout, part: &str) -> Result<bool> {
    let sql = format!(
        "INSERT INTO {} (fragment, part) VALUES ({}, {})",
        inner.site.system.parts,
        layout.fragment.0,
        literal(part)
    );
    match link.text(&sql).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UniqueViolation => Ok(false),
        Err(e) => Err(e),
    }
}

async fn make(inner: &Inner, link: &Link, layout: &Layout) -> Result<()> {
    // From here on, no other transaction makes this table.
    let fresh = count_in(inner, link, layout, "").await?;
    let found = adopt::columns(link, layout).await?;
    if !found.is_empty() {
        if !fresh {
            check_empty(inner, link, layout).await?;
            return adopt::check(inner, link, layout).await;
        }
        // The transaction itself must not use a table that it may have to drop.
        check_empty(inner, &inner.site.control("").await?, layout).await?;
        if is_as_declared(&found, layout) {
            // Left over from a transaction that was undone, perhaps in part, by this one.
            drop_left_indexes(inner, layout).await?;
        } else {
            execute(inner, layout, &format!("DROP TABLE {}", layout.relation)).await?;
            execute(inner, layout, &create(layout, link)?).await?;
        }
    } else {
        execute(inner, layout, &create(layout, link)?).await?;
    }
    for index in &layout.table.indexes {
        add_index(inner, link, layout, index).await?;
    }
    Ok(())
}

fn create(layout: &Layout, link: &Link) -> Result<String> {
    let table = &layout.table;
    let mut parts = vec![];
    for (at, column) in table.columns.iter().enumerate() {
        let null = if layout.key.contains(&at) { "NOT NULL" } else { "NULL" };
        let ty = types::declared(table, at, link.flavor)?;
        parts.push(format!("{} {ty} {null} COMMENT {}", layout.column(at), literal(&column.name)));
    }
    parts.push(format!("PRIMARY KEY ({})", layout.list(&layout.key)));
    let fragment = table.fragments.iter().find(|f| f.id == layout.fragment).map_or("", |f| f.name.as_str());
    let comment = literal(&format!("Atoll: fragment {fragment} of table {}", table.name));
    Ok(format!(
        "CREATE TABLE {} ({}) ENGINE=InnoDB ROW_FORMAT=DYNAMIC COMMENT={comment}",
        layout.relation,
        parts.join(", ")
    ))
}

/// A new copy has no rows: a table that has some is another one's, of another Atoll with the same ids.
async fn check_empty(inner: &Inner, link: &Link, layout: &Layout) -> Result<()> {
    let sql = format!("SELECT 1 FROM {} LIMIT 1 {}", layout.relation, link.flavor.shared());
    if link.text(&sql).await?.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::DuplicateTable,
        format!("table {} at site \"{}\" holds rows already", layout.relation, inner.site.name.0),
    )
    .hint("Is it used by another Atoll? Give each its own with the site's option \"schema\"."))
}

/// Lets the table follow the definition; what goes, goes after the commit.
async fn alter(inner: &Inner, link: &Link, layout: &Layout, before: &Table) -> Result<()> {
    let table = &layout.table;
    let kept = |id| before.columns.iter().find(|c| c.id == id);
    if let Some(column) = table.columns.iter().find(|c| kept(c.id).is_some_and(|old| old.ty != c.ty)) {
        return Err(Error::unsupported(format!("changing the type of column \"{}\" at a site", column.name)));
    }
    if before.key != table.key {
        return Err(Error::unsupported(format!("changing the key of table \"{}\" at a site", table.name)));
    }
    let added: Vec<usize> = (0..table.columns.len()).filter(|at| kept(table.columns[*at].id).is_none()).collect();
    if !added.is_empty() {
        let found = adopt::columns(link, layout).await?;
        let mut actions = vec![];
        // Columns that neither definition knows are left over; one of them may have the number of a new one.
        let known = |name: &str| before.columns.iter().any(|c| layout.site_name(c) == name);
        let left = found.keys().filter(|name| !known(name));
        actions.extend(left.map(|name| format!("DROP COLUMN {}", quote(name))));
        for at in added {
            actions.push(add_column(layout, at, link)?);
        }
        execute(inner, layout, &format!("ALTER TABLE {} {}", layout.relation, actions.join(", "))).await?;
    }
    let going: Vec<&Index> = before.indexes.iter().filter(|i| table.index(i.id).is_none()).collect();
    for index in going {
        discount_index(inner, link, layout, index.id).await?;
    }
    Ok(())
}

fn add_column(layout: &Layout, at: usize, link: &Link) -> Result<String> {
    let column = &layout.table.columns[at];
    let ty = types::declared(&layout.table, at, link.flavor)?;
    let default = if column.missing.is_null() {
        String::new()
    } else {
        let missing = text::to_text(&column.ty, &column.missing);
        let missing = match &column.missing {
            atoll_model::Value::Bool(v) => u8::from(*v).to_string(),
            atoll_model::Value::Bytea(bytes) => {
                format!("(X'{}')", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
            }
            // As the server writes it, in UTC.
            atoll_model::Value::TimestampTz(_) => literal(missing.trim_end_matches("+00")),
            atoll_model::Value::Text(v) => format!("({})", literal(v)),
            atoll_model::Value::Array(_) => format!("({})", literal(&missing)),
            _ => literal(&missing),
        };
        format!(" DEFAULT {missing}")
    };
    Ok(format!("ADD COLUMN {} {ty} NULL{default} COMMENT {}", layout.column(at), literal(&column.name)))
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
    inner.forget_reads();
    let link = inner.writer().await?;
    inner.writes(&layout.table).await?;
    let built = async {
        confine(inner, &link, layout, index).await?;
        add_index(inner, &link, layout, definition).await
    };
    match built.await {
        Err(e) if e.kind() == ErrorKind::UniqueViolation => {
            inner.told(Err(clash::of_new_index(inner, layout, definition).await))
        }
        outcome => inner.told(outcome),
    }
}

/// Declares columns of a new index with the length that an index can hold.
async fn confine(inner: &Inner, link: &Link, layout: &Layout, index: IndexId) -> Result<()> {
    let found = adopt::columns(link, layout).await?;
    let mut actions = vec![];
    for at in layout.order(Some(index))? {
        let wanted = types::declared(&layout.table, at, link.flavor)?;
        let name = layout.site_name(&layout.table.columns[at]);
        let is = found.get(&name).map(|c| c.full.to_uppercase()).unwrap_or_default();
        if wanted.starts_with("VAR") && wanted.split(' ').next() != Some(&is) {
            let null = if layout.key.contains(&at) { "NOT NULL" } else { "NULL" };
            let comment = literal(&layout.table.columns[at].name);
            actions.push(format!("MODIFY COLUMN {} {wanted} {null} COMMENT {comment}", quote(&name)));
        }
    }
    if actions.is_empty() {
        return Ok(());
    }
    let altered = execute(inner, layout, &format!("ALTER TABLE {} {}", layout.relation, actions.join(", "))).await;
    altered.map_err(|e| match e.kind() {
        ErrorKind::StringTooLong => Error::new(
            ErrorKind::ProgramLimit,
            format!("a value of table \"{}\" is too long for an index at a MySQL site", layout.table.name),
        )
        .detail(e.message()),
        _ => e,
    })
}

/// Makes an index under a name that none has had, and lets it count.
async fn add_index(inner: &Inner, link: &Link, layout: &Layout, index: &Index) -> Result<()> {
    let columns = layout.list(&layout.order(Some(index.id))?);
    let unique = if index.unique { "UNIQUE " } else { "" };
    let shape = format!("{unique}i{} ({columns})", index.id);
    // This transaction may have made it, and then undone that.
    let known = inner.leftovers.lock().made(&layout.relation).find(|spare| spare.shape == shape).cloned();
    if let Some(spare) = known {
        return count_in(inner, link, layout, &spare.name).await.map(|_| ());
    }
    let name = inner.site.fresh_index(index.id);
    let spare = Spare::of(layout, name.clone(), shape);
    inner.leftovers.lock().when_undone.push(spare);
    let making = format!("CREATE {unique}INDEX {} ON {} ({columns})", quote(&name), layout.relation);
    execute(inner, layout, &making).await?;
    count_in(inner, link, layout, &name).await.map(|_| ())
}

/// Lets an index not count any more, from the commit on.
async fn discount_index(inner: &Inner, link: &Link, layout: &Layout, index: IndexId) -> Result<()> {
    let parts = &inner.site.system.parts;
    let these = format!("fragment = {} AND part LIKE 'i{index}|_%' ESCAPE '|'", layout.fragment.0);
    let names = link.text(&format!("SELECT part FROM {parts} WHERE {these} FOR UPDATE")).await?;
    link.execute(&format!("DELETE FROM {parts} WHERE {these}")).await?;
    let spare = |row| Spare::of(layout, string(row, 0), String::new());
    inner.leftovers.lock().after_commit.extend(names.iter().map(spare));
    Ok(())
}

/// Drops the indexes of a left-over table that this transaction has not made.
async fn drop_left_indexes(inner: &Inner, layout: &Layout) -> Result<()> {
    let sql = format!(
        "SELECT DISTINCT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} \
         AND INDEX_NAME <> 'PRIMARY'",
        literal(&layout.schema),
        literal(&layout.name)
    );
    let rows = inner.site.control("").await?.text(&sql).await?;
    let own: Vec<String> = inner.leftovers.lock().made(&layout.relation).map(|spare| spare.name.clone()).collect();
    let others = rows.iter().map(|row| string(row, 0)).filter(|name| !own.contains(name));
    let actions: Vec<String> = others.map(|name| format!("DROP INDEX {}", quote(&name))).collect();
    if actions.is_empty() {
        return Ok(());
    }
    execute(inner, layout, &format!("ALTER TABLE {} {}", layout.relation, actions.join(", "))).await
}

fn same_shape(a: &Table, b: &Table) -> bool {
    let columns =
        |t: &Table| -> Vec<_> { t.columns.iter().map(|c| (c.id, c.name.clone(), c.ty.clone(), c.not_null)).collect() };
    columns(a) == columns(b) && a.key == b.key && b.indexes.iter().all(|i| a.index(i.id).is_some())
}

/// Whether the columns are exactly those that Atoll would declare.
fn is_as_declared(found: &HashMap<String, Found>, layout: &Layout) -> bool {
    found.len() == layout.table.columns.len()
        && layout.table.columns.iter().enumerate().all(|(at, column)| {
            found.get(&layout.site_name(column)).is_some_and(|found| {
                let site = types::of_site(&found.declared);
                site.is_some_and(|site| types::carries(&site, &column.ty, true))
                    && found.not_null == layout.key.contains(&at)
            })
        })
}
