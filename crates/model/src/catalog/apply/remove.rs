//! DROP and TRUNCATE of tables, indexes and sequences.

use super::dependencies::{listed, needed};
use crate::catalog::{Catalog, Generated, NamedObject, Sequence, Table};
use crate::{Error, ErrorKind, FragmentBounds, FragmentId, RelationId, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Catalog {
    pub(super) fn drop_table(&mut self, name: &str, cascade: bool) -> Result<()> {
        let table = match self.names.get(name) {
            Some(NamedObject::Table(id)) => self.tables.get(id).cloned(),
            Some(NamedObject::Fragment(_)) => return self.drop_fragment(name),
            Some(object) => {
                let hint = match object {
                    NamedObject::View(_) => "Use DROP VIEW to remove a view.",
                    NamedObject::Index(_) => "Use DROP INDEX to remove an index.",
                    _ => "Use DROP SEQUENCE to remove a sequence.",
                };
                return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not a table")).hint(hint));
            }
            None => None,
        }
        .ok_or_else(|| Error::new(ErrorKind::UndefinedTable, format!("table \"{name}\" does not exist")))?;
        let object = format!("table {name}");
        let derived: Vec<String> =
            self.derived_from(table.id).iter().map(|t| format!("table {} is derived from {object}", t.name)).collect();
        if !derived.is_empty() {
            return Err(Error::new(
                ErrorKind::DependentObjects,
                format!("cannot drop {object} because other objects depend on it"),
            )
            .detail(listed(&derived))
            .hint("Drop the derived tables first: their rows lie where this table's rows do."));
        }
        let children: Vec<(RelationId, String)> = self
            .references_to(table.id)
            .filter(|(child, _)| child.id != table.id)
            .map(|(child, key)| {
                (child.id, format!("constraint {} on table {} depends on {object}", key.name, child.name))
            })
            .collect();
        if !cascade && !children.is_empty() {
            let lines: Vec<String> = children.into_iter().map(|(_, line)| line).collect();
            return Err(needed(&object, &lines));
        }
        self.release_views(&object, table.id, cascade)?;
        for (child, _) in children {
            if let Some(child) = self.tables.get_mut(&child) {
                Arc::make_mut(child).foreign_keys.retain(|k| k.parent != table.id);
            }
        }
        self.forget_table(&table);
        Ok(())
    }

    fn forget_table(&mut self, table: &Table) {
        self.names.remove(&table.name);
        if let Some(name) = &table.primary_key {
            self.names.remove(name);
        }
        for index in &table.indexes {
            self.names.remove(&index.name);
        }
        for fragment in &table.fragments {
            if self.names.get(&fragment.name) == Some(&NamedObject::Fragment(table.id)) {
                self.names.remove(&fragment.name);
            }
        }
        let owned: Vec<_> =
            self.sequences.values().filter(|s| s.owned_by.is_some_and(|(t, _)| t == table.id)).cloned().collect();
        for sequence in owned {
            self.forget_sequence(&sequence);
        }
        self.allocations.remove(&table.id);
        self.tables.remove(&table.id);
    }

    pub(super) fn forget_sequence(&mut self, sequence: &Sequence) {
        self.names.remove(&sequence.name);
        self.sequences.remove(&sequence.id);
    }

    pub(super) fn drop_sequence(&mut self, name: &str) -> Result<()> {
        let sequence = match self.names.get(name) {
            Some(NamedObject::Sequence(id)) => self.sequences.get(id).cloned(),
            Some(_) => return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not a sequence"))),
            None => None,
        }
        .ok_or_else(|| Error::new(ErrorKind::UndefinedTable, format!("sequence \"{name}\" does not exist")))?;
        let object = format!("sequence {name}");
        let users: Vec<String> = self
            .tables
            .values()
            .flat_map(|t| t.columns.iter().map(move |c| (t, c)))
            .filter(|(_, c)| matches!(c.generated, Some(Generated::ByDefault(s) | Generated::Always(s)) if s == sequence.id))
            .map(|(t, c)| format!("default value for column {} of table {} depends on {object}", c.name, t.name))
            .collect();
        if !users.is_empty() {
            return Err(needed(&object, &users));
        }
        self.release_views(&object, sequence.id, false)?;
        self.forget_sequence(&sequence);
        Ok(())
    }

    pub(super) fn drop_index(&mut self, name: &str) -> Result<()> {
        let table = match self.names.get(name) {
            Some(NamedObject::Index(id)) => self.tables.get(id).cloned(),
            Some(_) => return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not an index"))),
            None => None,
        }
        .ok_or_else(|| Error::new(ErrorKind::UndefinedObject, format!("index \"{name}\" does not exist")))?;
        let index = table.indexes.iter().find(|i| i.name == name);
        if index.is_none_or(|i| i.constraint) {
            return Err(Error::new(
                ErrorKind::DependentObjects,
                format!("cannot drop index {name} because constraint {name} on table {} requires it", table.name),
            )
            .hint(format!("You can drop constraint {name} on table {} instead.", table.name)));
        }
        self.remove_index((*table).clone(), name, false)
    }

    /// Removes a secondary index, unless a foreign key needs it; with `cascade`, the foreign keys go too.
    pub(super) fn remove_index(&mut self, mut table: Table, name: &str, cascade: bool) -> Result<()> {
        let Some(at) = table.indexes.iter().position(|i| i.name == name) else { return Ok(()) };
        let index = table.indexes.remove(at);
        self.names.remove(name);
        let id = table.id;
        self.tables.insert(id, Arc::new(table));
        if !index.unique {
            return Ok(());
        }
        let keyed = |table: &Table, columns: &[crate::ColumnId]| {
            let same = |key: &[crate::ColumnId]| key.len() == columns.len() && columns.iter().all(|c| key.contains(c));
            (!table.has_hidden_key() && same(&table.key)) || table.indexes.iter().any(|i| i.unique && same(&i.columns))
        };
        let Some(table) = self.tables.get(&id).cloned() else { return Ok(()) };
        let orphaned: Vec<(RelationId, String)> = self
            .references_to(id)
            .filter(|(_, key)| !keyed(&table, &key.parent_columns))
            .map(|(child, key)| (child.id, key.name.clone()))
            .collect();
        if !orphaned.is_empty() && !cascade {
            let lines: Vec<String> = orphaned
                .iter()
                .map(|(child, key)| {
                    let child = self.tables.get(child).map_or("", |t| t.name.as_str());
                    format!("constraint {key} on table {child} depends on index {name}")
                })
                .collect();
            return Err(needed(&format!("index {name}"), &lines));
        }
        for (child, key) in orphaned {
            if let Some(child) = self.tables.get_mut(&child) {
                Arc::make_mut(child).foreign_keys.retain(|k| k.name != key);
            }
        }
        Ok(())
    }

    /// Gives every fragment of the tables a new id, under which there are no rows. Those with adopted copies keep theirs: whoever applies the
    /// command deletes their rows.
    pub(super) fn truncate(&mut self, tables: &[String], restart_identity: bool) -> Result<()> {
        let mut emptied = vec![];
        for name in tables {
            let table = self.table_named(name)?;
            if !emptied.contains(&table.id) {
                emptied.push(table.id);
            }
        }
        for id in &emptied {
            if let Some((child, _)) = self.references_to(*id).find(|(child, _)| !emptied.contains(&child.id)) {
                let (c, p) = (&child.name, self.tables.get(id).map_or("", |t| t.name.as_str()));
                return Err(Error::unsupported("cannot truncate a table referenced in a foreign key constraint")
                    .detail(format!("Table \"{c}\" references \"{p}\"."))
                    .hint(format!("Truncate table \"{c}\" at the same time, or use TRUNCATE ... CASCADE.")));
            }
        }
        let mut renewed: BTreeMap<FragmentId, FragmentId> = BTreeMap::new();
        for id in &emptied {
            let Some(table) = self.tables.get(id) else { continue };
            let mut table = (**table).clone();
            for fragment in table.fragments.iter_mut().filter(|f| f.adopted.is_empty()) {
                let fresh = FragmentId(self.fresh_id()?);
                renewed.insert(fragment.id, fresh);
                fragment.id = fresh;
            }
            if restart_identity {
                for column in &mut table.columns {
                    let Some(Generated::ByDefault(old) | Generated::Always(old)) = &mut column.generated else {
                        continue;
                    };
                    // A new id is a new position in the store.
                    let fresh = RelationId(self.fresh_id()?);
                    if let Some(sequence) = self.sequences.remove(old) {
                        let mut sequence = (*sequence).clone();
                        sequence.id = fresh;
                        self.names.insert(sequence.name.clone(), NamedObject::Sequence(fresh));
                        self.sequences.insert(fresh, Arc::new(sequence));
                    }
                    if let Some(list) = self.access.lists.remove(old) {
                        self.access.lists.insert(fresh, list);
                    }
                    *old = fresh;
                }
            }
            self.tables.insert(*id, Arc::new(table));
        }
        for table in self.tables.values_mut() {
            let stale =
                |f: &crate::Fragment| matches!(f.bounds, FragmentBounds::Derived(p) if renewed.contains_key(&p));
            if !table.fragments.iter().any(stale) {
                continue;
            }
            for fragment in &mut Arc::make_mut(table).fragments {
                if let FragmentBounds::Derived(parent) = &mut fragment.bounds
                    && let Some(fresh) = renewed.get(parent)
                {
                    *parent = *fresh;
                }
            }
        }
        Ok(())
    }
}
