//! A copy of a fragment as a table of the site: its name there, and the text of the statements on it.
//!
//! A copy that Atoll has made is the table `f<fragment id>`, and its columns are `c<column id>`: ids are never reused by definitions that are
//! in force, so no rename has to reach the site, whose DDL could not be undone with the transaction. Comments of the table and
//! of its columns say what they are. An adopted copy keeps its names, and nothing ever drops or changes it.

use super::types;
use crate::site::columns;
use crate::site::orders;
use crate::site::predicate::Dialect;
use arrow_schema::SchemaRef;
use atoll_model::{Column, Error, FragmentId, IndexId, Result, SqlType, Table};
use atoll_ports::site::Replica;
use std::sync::Arc;

/// A copy at the site.
pub(super) struct Layout {
    pub(super) table: Arc<Table>,
    pub(super) fragment: FragmentId,
    /// The database that it is in, and its name there.
    pub(super) schema: String,
    pub(super) name: String,
    /// It was there before.
    pub(super) adopted: bool,
    /// Database and name, as statements have them.
    pub(super) relation: String,
    /// All columns, as statements have them.
    pub(super) columns: String,
    /// Positions of the key's columns.
    pub(super) key: Vec<usize>,
}

/// An identifier in a statement.
pub(super) fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A string constant in a statement: backslashes are nothing special in Atoll's sessions.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
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
            Some(full) => full.split_once('.').unwrap_or((schema, full)),
            None => (schema, own.as_str()),
        };
        let key = table.key_positions();
        if key.len() != table.key.len() || key.is_empty() {
            return Err(Error::internal(format!("table \"{}\" has lost its key", table.name)));
        }
        let mut layout = Layout {
            relation: format!("{}.{}", quote(schema), quote(name)),
            columns: String::new(),
            fragment: at.fragment,
            adopted: adopted.is_some(),
            schema: schema.to_owned(),
            name: name.to_owned(),
            key,
            table: table.clone(),
        };
        layout.columns = layout.list(&(0..table.columns.len()).collect::<Vec<_>>());
        Ok(layout)
    }

    /// The type of the column at a position.
    pub(super) fn ty(&self, at: usize) -> &SqlType {
        &self.table.columns[at].ty
    }

    /// The types of all columns.
    pub(super) fn types(&self) -> impl Iterator<Item = &SqlType> {
        self.table.columns.iter().map(|column| &column.ty)
    }

    /// The site's name of a column.
    pub(super) fn site_name(&self, column: &Column) -> String {
        if self.adopted { column.name.clone() } else { format!("c{}", column.id) }
    }

    /// The name of the column at a position, as statements have it.
    pub(super) fn column(&self, at: usize) -> String {
        quote(&self.site_name(&self.table.columns[at]))
    }

    /// Columns as statements have them.
    pub(super) fn list(&self, positions: &[usize]) -> String {
        positions.iter().map(|at| self.column(*at)).collect::<Vec<_>>().join(", ")
    }

    /// Positions of the columns of an order: the key's, or an index's.
    pub(super) fn order(&self, index: Option<IndexId>) -> Result<Vec<usize>> {
        orders::positions(&self.table, index)
    }

    /// A parameter that is compared with the column at a position.
    pub(super) fn compared(&self, at: usize) -> String {
        match self.ty(at) {
            // A decimal would otherwise be compared with the text of a number as a floating-point number.
            SqlType::Numeric(limits) => {
                let (precision, scale) = limits.map_or((38, atoll_model::UNCONSTRAINED_SCALE), |(p, s)| (p, s));
                format!("CAST(? AS DECIMAL({precision},{scale}))")
            }
            _ => "?".into(),
        }
    }

    /// The condition that columns have the values of parameters.
    pub(super) fn equal(&self, positions: &[usize]) -> String {
        let equal = positions.iter().map(|at| format!("{} = {}", self.column(*at), self.compared(*at)));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// The condition that the key is one of so many. In this form the server looks each of them up.
    pub(super) fn one_of(&self, count: usize) -> String {
        if let [at] = self.key[..] {
            return format!("{} IN ({})", self.column(at), vec![self.compared(at); count].join(", "));
        }
        vec![format!("({})", self.equal(&self.key)); count].join(" OR ")
    }

    /// How a statement that locks is kept from going through the whole table, running into the locks of others.
    pub(super) fn by_key(&self) -> &'static str {
        // An adopted table may have its key elsewhere; there, statements name one key each, which the server looks up.
        if self.adopted { "" } else { " FORCE INDEX (PRIMARY)" }
    }

    /// How many rows a statement may name by their keys.
    pub(super) fn keys_at_once(&self, most: usize) -> usize {
        if self.adopted { 1 } else { most }
    }

    /// The order of an index of the site, by its name there; `None`: not one of the definition's.
    pub(super) fn order_of(&self, site_name: &str) -> Option<Option<IndexId>> {
        if site_name == "PRIMARY" {
            return Some(None);
        }
        let of = |id: IndexId| site_name.strip_prefix(&format!("i{id}")).is_some_and(|rest| rest.starts_with('_'));
        self.table.indexes.iter().find(|i| of(i.id)).map(|i| Some(i.id))
    }

    /// The table's own name of an order's constraint.
    pub(super) fn constraint(&self, index: Option<IndexId>) -> Option<String> {
        match index {
            None => self.table.primary_key.clone(),
            Some(id) => self.table.index(id).map(|i| i.name.clone()),
        }
    }

    /// The Arrow schema of some columns.
    pub(super) fn arrow(&self, positions: &[usize]) -> SchemaRef {
        columns::schema(positions.iter().map(|at| {
            let column = &self.table.columns[*at];
            (column.name.as_str(), &column.ty, !column.not_null)
        }))
    }

    /// Whether the site must be asked about how it compares the column: it is text of an adopted table.
    pub(super) fn is_collated(&self, at: usize) -> bool {
        self.adopted && types::is_text(self.ty(at))
    }
}

impl Dialect for Layout {
    fn table(&self) -> &Table {
        &self.table
    }

    fn equated(&self, at: usize) -> String {
        self.column(at)
    }

    fn ordered(&self, at: usize) -> String {
        // Every column of an order is declared, or was found to be, with the collation that is wanted.
        self.column(at)
    }

    fn parameter(&self, at: usize, _: usize) -> String {
        self.compared(at)
    }
}
