//! A value that comes twice: which constraint that breaks, and which value it is.
//!
//! The server names the index and cuts its values short; the rest is found by looking. An index that does not count (see [`super::define`]) must
//! have no say: the transaction fails, can be run again, and the index is dropped.

use super::branch::Inner;
use super::layout::Layout;
use super::link::Link;
use super::values::{Params, decode_row};
use atoll_model::{Error, ErrorKind, Index, IndexId, Result, Row, SqlType, Value, hash_values, text};
use std::collections::HashMap;

/// Rows looked for by one statement.
const ROWS: usize = 500;

/// A violation by one of these rows, as the port has it.
pub(super) async fn of_rows(inner: &Inner, link: &Link, layout: &Layout, error: Error, rows: &[&Row]) -> Error {
    if error.kind() != ErrorKind::UniqueViolation {
        return error;
    }
    let site_name = error.constraint_name().unwrap_or_default().to_owned();
    if layout.adopted {
        return error.table(&layout.table.name);
    }
    match inner.site.counts(layout.fragment, &site_name).await {
        Ok(true) => {}
        Ok(false) => return left_over(inner, layout, &site_name),
        Err(error) => return error,
    }
    let Some(index) = layout.order_of(&site_name) else { return left_over(inner, layout, &site_name) };
    let name = layout.constraint(index).unwrap_or(site_name);
    let message = format!("duplicate key value violates unique constraint \"{name}\"");
    let told = Error::new(ErrorKind::UniqueViolation, message).constraint(name).table(&layout.table.name);
    match twice(link, layout, index, rows).await {
        Ok(Some(key)) => told.detail(format!("{key} already exists.")),
        // What comes twice is certain, only not what it is.
        Ok(None) | Err(_) => told,
    }
}

/// A violation by the rows that are there.
pub(super) async fn of_new_index(inner: &Inner, layout: &Layout, index: &Index) -> Error {
    let message = format!("could not create unique index \"{}\"", index.name);
    let told = Error::new(ErrorKind::UniqueViolation, message).constraint(&index.name).table(&layout.table.name);
    let looking = async {
        let order = layout.order(Some(index.id))?;
        let columns = layout.list(&order);
        let filled = order.iter().map(|at| format!("{} IS NOT NULL", layout.column(*at))).collect::<Vec<_>>();
        let sql = format!(
            "SELECT {columns} FROM {} WHERE {} GROUP BY {columns} HAVING COUNT(*) > 1 LIMIT 1",
            layout.relation,
            filled.join(" AND ")
        );
        let rows = inner.site.control("").await?.query(&sql, Params::none()).await?;
        let types = order.iter().map(|at| layout.ty(*at));
        rows.into_iter().next().map(|row| Ok(shown(layout, &order, &decode_row(row, types)?))).transpose()
    };
    match looking.await {
        Ok::<_, Error>(Some(key)) => told.detail(format!("{key} is duplicated.")),
        Ok(None) | Err(_) => told,
    }
}

fn left_over(inner: &Inner, layout: &Layout, site_name: &str) -> Error {
    inner.leftovers.lock().found(layout, site_name);
    Error::new(
        ErrorKind::SerializationFailure,
        format!("an index of table \"{}\" is left over from a change that was undone", layout.table.name),
    )
    .hint("It is being dropped. Run the transaction again.")
    .table(&layout.table.name)
}

/// The values of an order that one of the rows brings, though they are there, or another brings them, too.
async fn twice(link: &Link, layout: &Layout, index: Option<IndexId>, rows: &[&Row]) -> Result<Option<String>> {
    let order = layout.order(index)?;
    let mut brought: HashMap<u64, Vec<&Value>> = HashMap::new();
    for row in rows {
        let values: Vec<&Value> = order.iter().map(|at| &row[*at]).collect();
        if values.iter().any(|v| v.is_null()) {
            continue;
        }
        if let Some(values) = brought.insert(hash_values(&values), values) {
            return Ok(Some(shown_of(layout, &order, &values)));
        }
    }
    let types: Vec<&SqlType> = order.iter().map(|at| layout.ty(*at)).collect();
    let brought: Vec<Vec<&Value>> = brought.into_values().collect();
    for chunk in brought.chunks(ROWS) {
        let sql = format!(
            "SELECT {} FROM {} WHERE {} LIMIT 1 {} SKIP LOCKED",
            layout.list(&order),
            layout.relation,
            vec![format!("({})", layout.equal(&order)); chunk.len()].join(" OR "),
            link.flavor.shared()
        );
        let params = Params::of(chunk.iter().flat_map(|values| types.iter().copied().zip(values.iter().copied())))?;
        if let Some(row) = link.query(&sql, params).await?.into_iter().next() {
            return Ok(Some(shown(layout, &order, &decode_row(row, types.iter().copied())?)));
        }
    }
    Ok(None)
}

fn shown(layout: &Layout, order: &[usize], values: &Row) -> String {
    shown_of(layout, order, &values.iter().collect::<Vec<_>>())
}

/// `Key (a, b)=(1, 2)`
fn shown_of(layout: &Layout, order: &[usize], values: &[&Value]) -> String {
    let names: Vec<&str> = order.iter().map(|at| layout.table.columns[*at].name.as_str()).collect();
    let values: Vec<String> =
        order.iter().zip(values).map(|(at, value)| text::to_text(layout.ty(*at), value)).collect();
    format!("Key ({})=({})", names.join(", "), values.join(", "))
}
