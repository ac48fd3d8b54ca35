//! A copy of a fragment as a table of the site: its name there, and the text of the statements on it.
//!
//! A copy that Atoll has made is the table `f<fragment id>` in the site's schema: ids are never reused, so TRUNCATE, which gives a fragment
//! a new id, and the purge of the old one do not get into each other's way, and no rename has to reach the site. Whose table it is,
//! its COMMENT says. An adopted copy keeps its name, and nothing ever drops it.

use super::reads::Reads;
use super::types;
use crate::site::columns;
use crate::site::orders;
use arrow_schema::SchemaRef;
use atoll_model::{Error, FragmentId, IndexId, Result, SqlType, Table};
use atoll_ports::site::Replica;
use std::sync::Arc;

/// A copy at the site.
pub(super) struct Layout {
    pub(super) table: Arc<Table>,
    pub(super) fragment: FragmentId,
    /// The schema that it is in.
    pub(super) schema: String,
    /// It was there before.
    pub(super) adopted: bool,
    /// Schema and name, as statements have them.
    pub(super) relation: String,
    /// All columns, as statements have them.
    pub(super) columns: String,
    /// Positions of the key's columns.
    pub(super) key: Vec<usize>,
    /// Its readers.
    pub(super) reads: Reads,
}

/// An identifier in a statement.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant in a statement.
pub(super) fn literal(text: &str) -> String {
    let text = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", text.replace('\\', "\\\\")) } else { format!("'{text}'") }
}

/// The name of the table that holds a fragment.
pub(super) fn table_name(fragment: FragmentId) -> String {
    format!("f{fragment}")
}

impl Layout {
    /// The layout of a copy; `schema` is where Atoll makes its tables.
    pub(super) fn new(at: &Replica, schema: &str) -> Result<Self> {
        let table = at.table.clone();
        let adopted = table.fragments.iter().find(|f| f.id == at.fragment).and_then(|f| f.adopted.get(&at.site));
        let own = table_name(at.fragment);
        let (schema, name) = match adopted {
            Some(full) => full.split_once('.').unwrap_or(("public", full)),
            None => (schema, own.as_str()),
        };
        let key = table.key_positions();
        if key.len() != table.key.len() || key.is_empty() {
            return Err(Error::internal(format!("table \"{}\" has lost its key", table.name)));
        }
        Ok(Layout {
            relation: format!("{}.{}", quote(schema), quote(name)),
            columns: table.columns.iter().map(|c| quote(&c.name)).collect::<Vec<_>>().join(", "),
            fragment: at.fragment,
            adopted: adopted.is_some(),
            schema: schema.to_owned(),
            key,
            table: table.clone(),
            reads: Reads::default(),
        })
    }

    /// The type of the column at a position.
    pub(super) fn ty(&self, at: usize) -> &SqlType {
        &self.table.columns[at].ty
    }

    /// The name of the column at a position, as statements have it.
    pub(super) fn column(&self, at: usize) -> String {
        quote(&self.table.columns[at].name)
    }

    /// Columns as statements have them.
    pub(super) fn list(&self, positions: &[usize]) -> String {
        positions.iter().map(|at| self.column(*at)).collect::<Vec<_>>().join(", ")
    }

    /// A column as it is compared by its order: text by its bytes.
    pub(super) fn ordered(&self, at: usize) -> String {
        let collation = if types::is_text(self.ty(at)) { " COLLATE \"C\"" } else { "" };
        format!("{}{collation}", self.column(at))
    }

    /// Positions of the columns of an order: the key's, or an index's.
    pub(super) fn order(&self, index: Option<IndexId>) -> Result<Vec<usize>> {
        orders::positions(&self.table, index)
    }

    /// The name at the site of an index, or of the primary key.
    pub(super) fn index_name(&self, index: Option<IndexId>) -> String {
        match index {
            Some(id) => format!("{}_i{id}", table_name(self.fragment)),
            None => format!("{}_pkey", table_name(self.fragment)),
        }
    }

    /// The table's own name of a constraint of the site.
    pub(super) fn constraint(&self, site_name: &str) -> Option<String> {
        if site_name == self.index_name(None) {
            return self.table.primary_key.clone();
        }
        let index = self.table.indexes.iter().find(|i| self.index_name(Some(i.id)) == site_name);
        index.map(|i| i.name.clone())
    }

    /// The Arrow schema of some columns.
    pub(super) fn arrow(&self, positions: &[usize]) -> SchemaRef {
        columns::schema(positions.iter().map(|at| {
            let column = &self.table.columns[*at];
            (column.name.as_str(), &column.ty, !column.not_null)
        }))
    }
}
