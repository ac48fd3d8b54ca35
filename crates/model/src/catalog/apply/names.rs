//! Names and ids: one name space for all relations, one number space for all objects.

use crate::catalog::{Catalog, NamedObject, Table};
use crate::{ColumnId, Error, ErrorKind, Result, SiteId};
use std::sync::Arc;

/// Bytes of a name, as in PostgreSQL (`NAMEDATALEN - 1`).
const MAX_NAME: usize = 63;

/// Refuses empty names and such as PostgreSQL would have cut off.
pub(super) fn check(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::new(ErrorKind::Syntax, "zero-length delimited identifier"));
    }
    if name.len() > MAX_NAME {
        return Err(Error::new(
            ErrorKind::ProgramLimit,
            format!("identifier \"{name}\" is longer than {MAX_NAME} bytes"),
        ));
    }
    Ok(())
}

pub(super) fn exists(name: &str) -> Error {
    Error::new(ErrorKind::DuplicateTable, format!("relation \"{name}\" already exists"))
}

pub(super) fn no_relation(name: &str) -> Error {
    Error::new(ErrorKind::UndefinedTable, format!("relation \"{name}\" does not exist"))
}

pub(super) fn no_role(name: &str) -> Error {
    Error::new(ErrorKind::UndefinedObject, format!("role \"{name}\" does not exist"))
}

pub(super) fn no_column(table: &Table, name: &str) -> Error {
    Error::new(ErrorKind::UndefinedColumn, format!("column \"{name}\" of relation \"{}\" does not exist", table.name))
}

/// `<first>_<second>_<label>`, the longer part cut until it fits: PostgreSQL's `makeObjectName`.
fn compose(first: &str, second: &str, label: &str) -> String {
    let separators = 1 + usize::from(!second.is_empty());
    let room = MAX_NAME.saturating_sub(label.len() + separators);
    let (mut a, mut b) = (first.len(), second.len());
    while a + b > room {
        if a > b { a -= 1 } else { b -= 1 }
    }
    let (a, b) = (cut(first, a), cut(second, b));
    if second.is_empty() { format!("{a}_{label}") } else { format!("{a}_{b}_{label}") }
}

/// At most so many bytes of a text, whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// The first name of that pattern that is not taken: without a number, then with 1, 2 …
pub(super) fn choose(first: &str, second: &str, label: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut name = compose(first, second, label);
    let mut number = 0u32;
    while taken(&name) {
        number += 1;
        name = compose(first, second, &format!("{label}{number}"));
    }
    name
}

/// The columns' names joined, as PostgreSQL puts them into the names of indexes and foreign keys.
pub(super) fn joined<'a>(columns: impl IntoIterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for column in columns {
        if joined.len() > MAX_NAME {
            break;
        }
        if !joined.is_empty() {
            joined.push('_');
        }
        joined.push_str(column);
    }
    joined
}

impl Catalog {
    /// An id that was never used before.
    pub(super) fn fresh_id(&mut self) -> Result<u32> {
        let id = self.next_id;
        self.next_id =
            id.checked_add(1).ok_or_else(|| Error::new(ErrorKind::ProgramLimit, "all object ids have been used"))?;
        Ok(id)
    }

    /// Refuses a relation's name that is taken.
    pub(super) fn check_free(&self, name: &str) -> Result<()> {
        if self.names.contains_key(name) { Err(exists(name)) } else { Ok(()) }
    }

    pub(super) fn table_named(&self, name: &str) -> Result<Arc<Table>> {
        match self.names.get(name) {
            Some(NamedObject::Table(id)) => self.tables.get(id).cloned().ok_or_else(|| no_relation(name)),
            Some(NamedObject::Fragment(_)) => {
                Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is a fragment, not a table"))
                    .hint("Name the table that it belongs to."))
            }
            Some(_) => Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not a table"))),
            None => Err(no_relation(name)),
        }
    }

    pub(super) fn site_named(&self, name: &str) -> Result<SiteId> {
        self.site(name).map(|s| s.id).ok_or_else(|| {
            Error::new(ErrorKind::UndefinedObject, format!("site \"{name}\" does not exist"))
                .hint("Make it with CREATE SITE.")
        })
    }

    /// A relation's name of the pattern `<first>_<second>_<label>` that is free.
    pub(super) fn choose_name(&self, first: &str, second: &str, label: &str) -> String {
        choose(first, second, label, |name| self.names.contains_key(name))
    }
}

impl Table {
    /// Ids of columns by name, without repetition; `error` is what an unknown name is answered with.
    pub(super) fn bind(&self, names: &[String], error: impl Fn(&str) -> Error) -> Result<Vec<ColumnId>> {
        let mut ids = Vec::with_capacity(names.len());
        for name in names {
            let at = self.position_of(name).filter(|at| !self.columns[*at].hidden).ok_or_else(|| error(name))?;
            let id = self.columns[at].id;
            if ids.contains(&id) {
                return Err(Error::new(
                    ErrorKind::DuplicateColumn,
                    format!("column \"{name}\" appears twice in constraint"),
                ));
            }
            ids.push(id);
        }
        super::limits::check("columns in a key", ids.len().saturating_sub(1), super::limits::KEY_COLUMNS)?;
        Ok(ids)
    }

    /// Names of columns by id.
    pub(super) fn column_names(&self, ids: &[ColumnId]) -> Vec<&str> {
        ids.iter().filter_map(|id| self.position(*id)).map(|p| self.columns[p].name.as_str()).collect()
    }

    /// Whether a constraint of that name exists.
    pub(super) fn has_constraint(&self, name: &str) -> bool {
        self.primary_key.as_deref() == Some(name)
            || self.checks.iter().any(|c| c.name == name)
            || self.foreign_keys.iter().any(|f| f.name == name)
            || self.indexes.iter().any(|i| i.constraint && i.name == name)
    }
}
