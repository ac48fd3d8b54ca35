//! Foreign keys: what they may refer to, and where the rows that they connect lie.
//!
//! Invariant: a foreign key never reaches across fragments: a row and the row that it refers to are in corresponding fragments of a
//! co-located group, or the parent has one fragment with a copy at every site of the child. So sites of any engine can enforce it.

use super::create::exists_constraint;
use super::{limits, names};
use crate::catalog::{Catalog, ForeignKey, NewForeignKey, NewIndex, ReferentialAction, Table};
use crate::{ColumnId, Error, ErrorKind, Fragmentation, RelationId, Result, SiteId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What decides where a row lies, as a function of some of its columns. Rows for which it is equal lie together.
#[derive(PartialEq)]
enum Location {
    /// In the only fragment.
    Only(RelationId),
    /// Where this relation's rule puts the values of these columns.
    Rule(RelationId, Vec<ColumnId>),
    /// Where this relation's row with that column equal to the value of this column (of the table asked about) lies.
    Row { parent: RelationId, parent_column: ColumnId, column: ColumnId },
}

impl Catalog {
    /// Checks a foreign key of `child` (which need not be in the catalog yet).
    pub(super) fn bind_foreign_key(&self, child: &Table, new: &NewForeignKey) -> Result<ForeignKey> {
        limits::check("constraints on a table", child.checks.len() + child.foreign_keys.len(), limits::CONSTRAINTS)?;
        let no_column = |name: &str| {
            Error::new(
                ErrorKind::UndefinedColumn,
                format!("column \"{name}\" referenced in foreign key constraint does not exist"),
            )
        };
        let columns = child.bind(&new.columns, no_column)?;
        let stored = if new.parent == child.name { None } else { Some(self.table_named(&new.parent)?) };
        let parent = stored.as_deref().unwrap_or(child);
        let parent_columns = if new.parent_columns.is_empty() {
            if parent.has_hidden_key() {
                return Err(Error::new(
                    ErrorKind::UndefinedObject,
                    format!("there is no primary key for referenced table \"{}\"", parent.name),
                ));
            }
            parent.key.clone()
        } else {
            parent.bind(&new.parent_columns, no_column)?
        };
        if columns.len() != parent_columns.len() {
            return Err(Error::new(
                ErrorKind::InvalidForeignKey,
                "number of referencing and referenced columns for foreign key disagree",
            ));
        }
        // Compared as sets: the order of a unique index's columns does not matter.
        let wanted: BTreeSet<_> = parent_columns.iter().collect();
        let matches = |key: &[ColumnId]| key.len() == parent_columns.len() && key.iter().all(|c| wanted.contains(c));
        let keyed = !parent.has_hidden_key() && matches(&parent.key);
        if !keyed && !parent.indexes.iter().any(|i| i.unique && matches(&i.columns)) {
            return Err(Error::new(
                ErrorKind::InvalidForeignKey,
                format!("there is no unique constraint matching given keys for referenced table \"{}\"", parent.name),
            ));
        }
        let name = match &new.name {
            Some(name) => {
                names::check(name)?;
                if child.has_constraint(name) {
                    return Err(exists_constraint(child, name));
                }
                name.clone()
            }
            None => {
                names::choose(&child.name, &names::joined(new.columns.iter().map(String::as_str)), "fkey", |name| {
                    child.has_constraint(name)
                })
            }
        };
        for (c, p) in columns.iter().zip(&parent_columns) {
            let (Some(c), Some(p)) =
                (child.columns.iter().find(|x| x.id == *c), parent.columns.iter().find(|x| x.id == *p))
            else {
                continue;
            };
            if c.ty.arrow() != p.ty.arrow() {
                return Err(Error::new(
                    ErrorKind::DatatypeMismatch,
                    format!("foreign key constraint \"{name}\" cannot be implemented"),
                )
                .detail(format!(
                    "Key columns \"{}\" and \"{}\" are of incompatible types: {} and {}.",
                    c.name, p.name, c.ty, p.ty
                )));
            }
        }
        let set_null = [new.on_delete, new.on_update].contains(&ReferentialAction::SetNull);
        if set_null && let Some(c) = child.columns.iter().find(|c| c.not_null && columns.contains(&c.id)) {
            return Err(Error::new(
                ErrorKind::InvalidForeignKey,
                format!("ON DELETE or ON UPDATE SET NULL, but column \"{}\" is NOT NULL", c.name),
            ));
        }
        let key = ForeignKey {
            name,
            columns,
            parent: parent.id,
            parent_columns,
            on_delete: new.on_delete,
            on_update: new.on_update,
        };
        self.check_together(child, &key, parent)?;
        Ok(key)
    }

    /// Refuses a foreign key that would reach across fragments.
    fn check_together(&self, child: &Table, key: &ForeignKey, parent: &Table) -> Result<()> {
        if self.full_copy(child, parent) || self.together(child, parent, key) {
            return Ok(());
        }
        let (c, p) = (&child.name, &parent.name);
        let column = child.column_names(&key.columns).first().copied().unwrap_or_default().to_string();
        Err(Error::unsupported(format!("foreign key constraint \"{}\" would reach across fragments", key.name))
            .detail(format!("Rows of \"{c}\" and the rows of \"{p}\" that they refer to may lie in different fragments."))
            .hint(format!(
                "Derive \"{c}\" from \"{p}\" with WITH (colocate_with = '{p}', colocate_on = '{column}'), or keep a full copy \
                 of \"{p}\" at every site of \"{c}\" with WITH (sites = '…', replication = 'all')."
            ))
            .constraint(&key.name)
            .table(c))
    }

    /// Whether every site of the child has a copy of all of the parent, now and for good.
    fn full_copy(&self, child: &Table, parent: &Table) -> bool {
        let [only] = parent.fragments.as_slice() else { return false };
        let complete = match &only.bounds {
            crate::FragmentBounds::All => true,
            crate::FragmentBounds::Hash { modulus, .. } => *modulus == 1,
            _ => false,
        };
        // A copy that was set aside will serve again.
        let returning = only.joining.iter().filter(|(_, copy)| copy.replaces.is_none()).map(|(site, _)| site);
        let held: BTreeSet<SiteId> = only.replicas.iter().chain(only.behind.keys()).chain(returning).copied().collect();
        complete && child.fragments.iter().flat_map(|f| &f.replicas).all(|site| held.contains(site))
    }

    fn together(&self, child: &Table, parent: &Table, key: &ForeignKey) -> bool {
        let paired =
            |c: ColumnId, p: ColumnId| key.columns.iter().zip(&key.parent_columns).any(|(a, b)| (*a, *b) == (c, p));
        let (here, there) = (self.location(child), self.location(parent));
        if let Location::Row { parent: of, parent_column, column } = here
            && of == parent.id
            && paired(column, parent_column)
        {
            return true;
        }
        if let Location::Row { parent: of, parent_column, column } = there
            && of == child.id
            && paired(parent_column, column)
        {
            return true;
        }
        match (here, there) {
            (Location::Rule(a, cs), Location::Rule(b, ps)) => {
                a == b && cs.len() == ps.len() && cs.iter().zip(&ps).all(|(c, p)| paired(*c, *p))
            }
            (
                Location::Row { parent: a, parent_column: x, column: c },
                Location::Row { parent: b, parent_column: y, column: p },
            ) => a == b && x == y && paired(c, p),
            (Location::Only(a), Location::Only(b)) => a == b,
            _ => false,
        }
    }

    /// What decides where a table's rows lie.
    fn location(&self, table: &Table) -> Location {
        match &table.fragmentation {
            Fragmentation::None => Location::Only(table.id),
            Fragmentation::List(c) => Location::Rule(table.id, vec![*c]),
            Fragmentation::Range(cs) | Fragmentation::Hash(cs) => Location::Rule(table.id, cs.clone()),
            Fragmentation::Derived { parent, column, parent_column, direct: false } => {
                Location::Row { parent: *parent, parent_column: *parent_column, column: *column }
            }
            // The parent's own rule, applied to this column: follow it up to the table that has it.
            Fragmentation::Derived { parent, column, .. } => match self.tables.get(parent).map(|p| self.location(p)) {
                Some(Location::Rule(root, _)) => Location::Rule(root, vec![*column]),
                _ => Location::Only(*parent),
            },
        }
    }

    /// Foreign keys of which a table is the parent, with their children.
    pub(super) fn references_to(&self, parent: RelationId) -> impl Iterator<Item = (&Arc<Table>, &ForeignKey)> {
        self.tables
            .values()
            .flat_map(move |t| t.foreign_keys.iter().filter(move |k| k.parent == parent).map(move |k| (t, k)))
    }

    /// Refuses a change of fragments after which a foreign key would reach across them.
    pub(super) fn recheck_foreign_keys(&self) -> Result<()> {
        for child in self.tables.values() {
            for key in &child.foreign_keys {
                if let Some(parent) = self.tables.get(&key.parent) {
                    self.check_together(child, key, parent)?;
                }
            }
        }
        Ok(())
    }

    /// What a table whose rows lie with their parents needs: the parents must stay while it has rows, and be told quickly from it.
    pub(super) fn complete_derived(&mut self, table: &mut Table) -> Result<()> {
        let Fragmentation::Derived { parent, column, parent_column, direct: false } = table.fragmentation else {
            return Ok(());
        };
        let child_column = table.column_names(&[column]).concat();
        if table.key.first() != Some(&column) && !table.indexes.iter().any(|i| i.columns.first() == Some(&column)) {
            let index = NewIndex { name: None, columns: vec![child_column.clone()], unique: false, constraint: false };
            self.add_index(table, &index)?;
        }
        let declared =
            |k: &ForeignKey| k.parent == parent && k.columns == [column] && k.parent_columns == [parent_column];
        if table.foreign_keys.iter().any(declared) {
            return Ok(());
        }
        let Some(stored) = self.tables.get(&parent) else { return Ok(()) };
        let key = NewForeignKey {
            name: None,
            columns: vec![child_column],
            parent: stored.name.clone(),
            parent_columns: stored.column_names(&[parent_column]).into_iter().map(String::from).collect(),
            on_delete: ReferentialAction::NoAction,
            on_update: ReferentialAction::NoAction,
        };
        let key = self.bind_foreign_key(table, &key)?;
        table.foreign_keys.push(key);
        Ok(())
    }
}

/// Whether a foreign key is what keeps a derived table's rows with their parents.
pub(super) fn carries_derivation(table: &Table, key: &ForeignKey) -> bool {
    matches!(
        table.fragmentation,
        Fragmentation::Derived { parent, column, parent_column, direct: false }
            if key.parent == parent && key.columns == [column] && key.parent_columns == [parent_column]
    )
}
