//! What is said of a site's table that is otherwise than the definition, whatever the engine.
//!
//! Invariant: a copy is readable unless a column of the definition is not there, or of another type, or one of the key is compared otherwise.

use super::name::SiteName;
use super::orders;
use atoll_model::{Column, Error, ErrorKind, Result, Table};
use atoll_ports::site::Drift;

/// Why a table of a site is not adopted.
pub(super) fn refused(relation: &str, site: &SiteName, table: &Table, first: Drift) -> Error {
    Error::new(
        ErrorKind::DatatypeMismatch,
        format!("{relation} at site \"{}\" does not fit table \"{}\"", site.0, table.name),
    )
    .detail(first.detail)
    .table(&table.name)
}

/// There is no table.
pub(super) fn of_table(relation: &str) -> Drift {
    Drift { object: relation.to_owned(), detail: "There is no such table.".into(), readable: false }
}

/// There is no such column.
pub(super) fn of_missing_column(name: &str) -> Drift {
    Drift { object: name.to_owned(), detail: format!("It has no column \"{name}\"."), readable: false }
}

/// There is a column that the definition has not.
pub(super) fn of_other_column(name: &str) -> Drift {
    Drift { object: name.to_owned(), detail: format!("It has a column \"{name}\" more."), readable: true }
}

/// A column's type is another one.
pub(super) fn of_type(column: &Column, shown: &str) -> Drift {
    let Column { name, ty, .. } = column;
    let detail = format!("Its column \"{name}\" is of type {shown} instead of {ty}.");
    Drift { object: name.clone(), detail, readable: false }
}

/// Something else about a column.
pub(super) fn of_column(name: &str, what: &str) -> Drift {
    Drift { object: name.to_owned(), detail: format!("Its column \"{name}\" {what}"), readable: true }
}

/// A column is compared otherwise than in Atoll: if it is part of the key, ranges of keys are other rows there.
pub(super) fn of_comparison(is_key: bool, name: &str, what: &str) -> Drift {
    Drift { readable: !is_key, ..of_column(name, what) }
}

/// The orders of a definition for which the site has no index: those in which values must not come twice, and if `all` the others as well.
/// An index of the site is whether it is unique, and its columns by their names there.
pub(super) fn of_indexes(
    table: &Table,
    all: bool,
    found: &[(bool, Vec<String>)],
    site_name: impl Fn(&Column) -> String,
) -> Result<Vec<Drift>> {
    let mut missing = vec![];
    let names = |order: &[usize], name: &dyn Fn(&Column) -> String| -> Vec<String> {
        order.iter().map(|at| name(&table.columns[*at])).collect()
    };
    let mut demand = |is_unique: bool, order: Vec<usize>| {
        let there = names(&order, &site_name);
        let is_there = found.iter().any(|(unique, columns)| match is_unique {
            // For what is unique, any order will do.
            true => *unique && columns.len() == there.len() && there.iter().all(|name| columns.contains(name)),
            false => *columns == there,
        });
        if !is_there {
            let columns = names(&order, &|column: &Column| column.name.clone()).join(", ");
            let kind = if is_unique { "unique index" } else { "index" };
            let detail = format!("It has no {kind} on ({columns}).");
            missing.push(Drift { object: format!("({columns})"), detail, readable: true });
        }
    };
    // A hidden key is an order in which values must not come twice, too.
    let key = table.has_hidden_key().then(|| table.key_positions());
    for order in orders::unique(table)?.into_iter().map(|(_, order)| order).chain(key) {
        demand(true, order);
    }
    for index in table.indexes.iter().filter(|index| all && !index.unique) {
        demand(false, orders::positions(table, Some(index.id))?);
    }
    Ok(missing)
}
