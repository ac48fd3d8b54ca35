//! ALTER TABLE.

use super::create::add_check;
use super::dependencies::needed;
use super::foreign::carries_derivation;
use super::{names, words};
use crate::catalog::{Catalog, Generated, NamedObject, NewColumn, Table, TableChange};
use crate::{ColumnId, Error, ErrorKind, Fragmentation, RelationId, Result};
use std::sync::Arc;

impl Catalog {
    pub(super) fn alter_table(&mut self, name: &str, change: &TableChange) -> Result<()> {
        let stored = self.table_named(name)?;
        let mut table = (*stored).clone();
        match change {
            TableChange::AddColumn(column) => self.alter_add_column(&mut table, column)?,
            TableChange::DropColumn { name, cascade } => return self.alter_drop_column(table, name, *cascade),
            TableChange::RenameColumn { from, to } => self.rename_column(&mut table, from, to)?,
            TableChange::Rename(to) => self.rename_table(&mut table, to)?,
            TableChange::SetOnReplicaDown(choice) => return self.set_on_replica_down(&stored, *choice),
            TableChange::SetDefault { column, default } => {
                let at = column_at(&table, column)?;
                let column = &mut table.columns[at];
                if matches!(column.generated, Some(Generated::Always(_))) {
                    return Err(Error::new(
                        ErrorKind::Syntax,
                        format!("column \"{}\" of relation \"{}\" is an identity column", column.name, stored.name),
                    ));
                }
                column.generated = None;
                column.default.clone_from(default);
            }
            TableChange::SetNotNull { column, not_null } => {
                let at = column_at(&table, column)?;
                if !not_null && table.key.contains(&table.columns[at].id) {
                    return Err(Error::new(
                        ErrorKind::InvalidTableDefinition,
                        format!("column \"{column}\" is in a primary key"),
                    ));
                }
                if !not_null && matches!(table.columns[at].generated, Some(Generated::Always(_))) {
                    return Err(Error::new(
                        ErrorKind::Syntax,
                        format!("column \"{column}\" of relation \"{}\" is an identity column", table.name),
                    ));
                }
                table.columns[at].not_null = *not_null;
            }
            TableChange::AddCheck { name, expression } => add_check(&mut table, name, expression)?,
            TableChange::AddForeignKey(key) => {
                let key = self.bind_foreign_key(&table, key)?;
                table.foreign_keys.push(key);
            }
            TableChange::DropConstraint { name } => return self.drop_constraint(table, name),
        }
        self.tables.insert(table.id, Arc::new(table));
        Ok(())
    }

    fn alter_add_column(&mut self, table: &mut Table, column: &NewColumn) -> Result<()> {
        if table.position_of(&column.name).is_some() {
            return Err(Error::new(
                ErrorKind::DuplicateColumn,
                format!("column \"{}\" of relation \"{}\" already exists", column.name, table.name),
            ));
        }
        if column.identity.is_some() {
            return Err(Error::unsupported(
                "ADD COLUMN with a serial or identity: the rows that are there would need values",
            )
            .hint("Add a plain column, UPDATE it from a sequence, and SET DEFAULT nextval(...)."));
        }
        self.add_column(table, column)
    }

    fn alter_drop_column(&mut self, mut table: Table, name: &str, cascade: bool) -> Result<()> {
        let at = column_at(&table, name)?;
        let id = table.columns[at].id;
        self.check_not_placed_by(&table, id)?;
        if table.key.contains(&id) {
            return Err(Error::unsupported(format!(
                "cannot drop column \"{name}\" because it is in the primary key of relation \"{}\"",
                table.name
            ))
            .hint("Rows are stored in the order of the primary key: make a new table, and INSERT … SELECT."));
        }
        let object = format!("column {name} of table {}", table.name);
        self.release_readers(&object, &table, name, cascade)?;
        let references: Vec<(RelationId, String)> = self
            .references_to(table.id)
            .filter(|(child, key)| child.id != table.id && key.parent_columns.contains(&id))
            .map(|(child, key)| (child.id, key.name.clone()))
            .collect();
        if !references.is_empty() && !cascade {
            let lines: Vec<String> = references
                .iter()
                .map(|(child, key)| {
                    let child = self.tables.get(child).map_or("", |t| t.name.as_str());
                    format!("constraint {key} on table {child} depends on {object}")
                })
                .collect();
            return Err(needed(&object, &lines));
        }
        for (child, key) in references {
            if let Some(child) = self.tables.get_mut(&child) {
                Arc::make_mut(child).foreign_keys.retain(|k| k.name != key);
            }
        }
        for index in table.indexes.extract_if(.., |i| i.columns.contains(&id)) {
            self.names.remove(&index.name);
        }
        table
            .foreign_keys
            .retain(|k| !(k.columns.contains(&id) || k.parent == table.id && k.parent_columns.contains(&id)));
        table.checks.retain(|c| !words::names_column(&c.expression, name));
        let owned: Vec<_> = self.sequences.values().filter(|s| s.owned_by == Some((table.id, id))).cloned().collect();
        for sequence in owned {
            self.forget_sequence(&sequence);
        }
        table.columns.remove(at);
        self.tables.insert(table.id, Arc::new(table));
        Ok(())
    }

    /// Refuses to drop a column that decides where rows lie, of this table or of those derived from it.
    fn check_not_placed_by(&self, table: &Table, id: ColumnId) -> Result<()> {
        let name = table.column_names(&[id]).concat();
        let own = match &table.fragmentation {
            Fragmentation::None => false,
            Fragmentation::List(c) | Fragmentation::Derived { column: c, .. } => *c == id,
            Fragmentation::Range(cs) | Fragmentation::Hash(cs) => cs.contains(&id),
        };
        if own {
            return Err(Error::new(
                ErrorKind::InvalidTableDefinition,
                format!(
                    "cannot drop column \"{name}\" because it is part of the partition key of relation \"{}\"",
                    table.name
                ),
            ));
        }
        let derived = self
            .derived_from(table.id)
            .into_iter()
            .find(|t| matches!(t.fragmentation, Fragmentation::Derived { parent_column, .. } if parent_column == id));
        match derived {
            None => Ok(()),
            Some(child) => Err(Error::new(
                ErrorKind::DependentObjects,
                format!("cannot drop column {name} of table {} because other objects depend on it", table.name),
            )
            .detail(format!("table {} is derived from it", child.name))),
        }
    }

    /// Drops the views that may read a column, or refuses because of them.
    fn release_readers(&mut self, object: &str, table: &Table, column: &str, cascade: bool) -> Result<()> {
        let readers: Vec<_> = self
            .views
            .values()
            .filter(|v| v.depends_on.contains(&table.id) && words::may_read_column(&v.query, column))
            .cloned()
            .collect();
        if !readers.is_empty() && !cascade {
            let lines: Vec<String> = readers.iter().map(|v| format!("view {} depends on {object}", v.name)).collect();
            return Err(needed(object, &lines));
        }
        for view in readers {
            // Another of them may have taken it along.
            if self.views.contains_key(&view.id) {
                self.drop_view(&view.name, true)?;
            }
        }
        Ok(())
    }

    fn rename_column(&mut self, table: &mut Table, from: &str, to: &str) -> Result<()> {
        names::check(to)?;
        let at = column_at(table, from)?;
        if table.position_of(to).is_some() {
            return Err(Error::new(
                ErrorKind::DuplicateColumn,
                format!("column \"{to}\" of relation \"{}\" already exists", table.name),
            ));
        }
        let reader =
            self.views.values().find(|v| v.depends_on.contains(&table.id) && words::may_read_column(&v.query, from));
        if let Some(view) = reader {
            return Err(Error::unsupported(format!(
                "cannot rename column \"{from}\" while view \"{}\" may read it",
                view.name
            ))
            .hint("Drop the view, rename the column, and create the view anew."));
        }
        table.columns[at].name = to.into();
        for check in &mut table.checks {
            check.expression = words::rename_column(&check.expression, from, to);
        }
        Ok(())
    }

    fn rename_table(&mut self, table: &mut Table, to: &str) -> Result<()> {
        names::check(to)?;
        self.check_free(to)?;
        if let Some(view) = self.views.values().find(|v| v.depends_on.contains(&table.id)) {
            return Err(Error::unsupported(format!(
                "cannot rename table \"{}\" while view \"{}\" reads it",
                table.name, view.name
            ))
            .hint("Drop the view, rename the table, and create the view anew."));
        }
        self.names.remove(&table.name);
        self.names.insert(to.into(), NamedObject::Table(table.id));
        table.name = to.into();
        Ok(())
    }

    fn drop_constraint(&mut self, mut table: Table, name: &str) -> Result<()> {
        if table.primary_key.as_deref() == Some(name) {
            return Err(Error::unsupported(format!("cannot drop the primary key of relation \"{}\"", table.name))
                .hint("Rows are stored in its order: make a new table, and INSERT … SELECT."));
        }
        if table.indexes.iter().any(|i| i.constraint && i.name == name) {
            return self.remove_index(table, name, false);
        }
        if let Some(at) = table.foreign_keys.iter().position(|k| k.name == name) {
            let key = table.foreign_keys.remove(at);
            let replaced = table.foreign_keys.iter().any(|k| carries_derivation(&table, k));
            if carries_derivation(&table, &key) && !replaced {
                return Err(Error::new(
                    ErrorKind::DependentObjects,
                    format!(
                        "cannot drop constraint {name} on table {} because its fragmentation requires it",
                        table.name
                    ),
                )
                .detail("The table's rows lie where the rows that they refer to lie, so these must exist."));
            }
        } else if let Some(at) = table.checks.iter().position(|c| c.name == name) {
            table.checks.remove(at);
        } else {
            return Err(Error::new(
                ErrorKind::UndefinedObject,
                format!("constraint \"{name}\" of relation \"{}\" does not exist", table.name),
            ));
        }
        self.tables.insert(table.id, Arc::new(table));
        Ok(())
    }
}

fn column_at(table: &Table, name: &str) -> Result<usize> {
    table.position_of(name).filter(|at| !table.columns[*at].hidden).ok_or_else(|| names::no_column(table, name))
}
