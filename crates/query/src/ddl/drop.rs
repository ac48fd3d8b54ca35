//! DROP and TRUNCATE.
//!
//! Invariant: IF EXISTS forgives a missing object and nothing else; a name that means another kind of object is refused (42809).

use super::{Binder, Bound, relation_name};
use crate::syntax::fold;
use atoll_model::{CatalogCommand, Error, ErrorKind, NamedObject, Result, TableChange};
use datafusion::sql::sqlparser::ast::{
    CascadeOption, ObjectName, ObjectNamePart, ObjectType, Truncate, TruncateIdentityOption,
};

impl Binder<'_> {
    pub(super) fn drop(&self, kind: ObjectType, if_exists: bool, names: &[ObjectName], cascade: bool) -> Result<Bound> {
        let (tag, what) = match kind {
            ObjectType::Table => ("DROP TABLE", "table"),
            ObjectType::View => ("DROP VIEW", "view"),
            ObjectType::Index => ("DROP INDEX", "index"),
            ObjectType::Sequence => ("DROP SEQUENCE", "sequence"),
            ObjectType::Schema | ObjectType::Database | ObjectType::Type | ObjectType::MaterializedView
                if if_exists =>
            {
                // There are none, so there is nothing to drop.
                let (tag, what) = match kind {
                    ObjectType::Schema => ("DROP SCHEMA", "schema"),
                    ObjectType::Database => ("DROP DATABASE", "database"),
                    ObjectType::Type => ("DROP TYPE", "type"),
                    _ => ("DROP MATERIALIZED VIEW", "materialized view"),
                };
                let mut bound = Bound::of(tag);
                for name in names {
                    if matches!(name.to_string().as_str(), "public" | "pg_catalog" | "information_schema" | "atoll") {
                        return Err(Error::unsupported(format!("{what} {name} cannot be dropped")));
                    }
                    bound.notice("00000", format!("{what} \"{name}\" does not exist, skipping"));
                }
                return Ok(bound);
            }
            other => return Err(Error::unsupported(format!("DROP {other} is not supported"))),
        };
        let mut bound = Bound::of(tag);
        let mut seen: Vec<String> = vec![];
        for name in names {
            let name = relation_name(name)?;
            if seen.contains(&name) {
                continue;
            }
            seen.push(name.clone());
            let command = match (kind, self.catalog.names.get(&name)) {
                (ObjectType::Table, Some(NamedObject::Table(_))) => {
                    CatalogCommand::DropTable { name: name.clone(), cascade }
                }
                (ObjectType::Table, Some(NamedObject::Fragment(_))) => {
                    CatalogCommand::DropFragment { name: name.clone() }
                }
                (ObjectType::View, Some(NamedObject::View(_))) => {
                    CatalogCommand::DropView { name: name.clone(), cascade }
                }
                (ObjectType::Index, Some(NamedObject::Index(_))) => CatalogCommand::DropIndex { name: name.clone() },
                (ObjectType::Sequence, Some(NamedObject::Sequence(_))) => {
                    CatalogCommand::DropSequence { name: name.clone() }
                }
                (_, Some(_)) => {
                    return Err(Error::new(
                        ErrorKind::WrongObjectType,
                        format!("\"{name}\" is not a {what}").replace("a index", "an index"),
                    ));
                }
                (_, None) if if_exists => {
                    bound.notice("00000", format!("{what} \"{name}\" does not exist, skipping"));
                    continue;
                }
                (ObjectType::Index, None) => {
                    return Err(Error::new(ErrorKind::UndefinedObject, format!("{what} \"{name}\" does not exist")));
                }
                (_, None) => {
                    return Err(Error::new(ErrorKind::UndefinedTable, format!("{what} \"{name}\" does not exist")));
                }
            };
            bound.apply(command);
        }
        // Tables that refer to each other can be dropped together, children first.
        if kind == ObjectType::Table {
            bound.steps.sort_by_key(|step| match step {
                super::Step::Apply(CatalogCommand::DropTable { name, .. }) => self.ancestors(name),
                _ => usize::MAX,
            });
            bound.steps.reverse();
            self.untie(&mut bound);
        }
        Ok(bound)
    }

    /// Foreign keys of tables that refer to each other in a circle go first, when all of them are dropped.
    fn untie(&self, bound: &mut Bound) {
        let dropped: Vec<_> = bound
            .steps
            .iter()
            .filter_map(|step| match step {
                super::Step::Apply(CatalogCommand::DropTable { name, .. }) => self.catalog.table(name),
                _ => None,
            })
            .collect();
        let mut untied = vec![];
        for (at, child) in dropped.iter().enumerate() {
            // In the order of dropping, a parent that comes before its child is in the way.
            for key in &child.foreign_keys {
                if dropped[..at].iter().any(|parent| parent.id == key.parent) {
                    untied.push(super::Step::Apply(CatalogCommand::AlterTable {
                        table: child.name.clone(),
                        change: TableChange::DropConstraint { name: key.name.clone() },
                    }));
                }
            }
        }
        bound.steps.splice(..0, untied);
    }

    /// Length of the longest chain of parents above a table.
    fn ancestors(&self, name: &str) -> usize {
        let mut level = vec![name.to_string()];
        let mut depth = 0;
        while !level.is_empty() && depth <= self.catalog.tables.len() {
            depth += 1;
            level = level
                .iter()
                .filter_map(|n| self.catalog.table(n))
                .flat_map(|table| {
                    let derived = match &table.fragmentation {
                        atoll_model::Fragmentation::Derived { parent, .. } => Some(*parent),
                        _ => None,
                    };
                    table
                        .foreign_keys
                        .iter()
                        .map(|k| k.parent)
                        .chain(derived)
                        .filter(|p| *p != table.id)
                        .collect::<Vec<_>>()
                })
                .filter_map(|id| self.catalog.tables.get(&id).map(|t| t.name.clone()))
                .collect();
        }
        depth
    }

    pub(super) fn truncate(&self, truncate: &Truncate) -> Result<Bound> {
        let mut tables: Vec<String> = vec![];
        for target in &truncate.table_names {
            let name = relation_name(&target.name)?;
            match self.catalog.names.get(&name) {
                Some(NamedObject::Table(_)) => {}
                Some(NamedObject::Fragment(_)) => {
                    return Err(Error::unsupported("TRUNCATE takes whole tables: DELETE the rows of one fragment"));
                }
                Some(_) => return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not a table"))),
                None => return Err(super::undefined_table(&name)),
            }
            if !tables.contains(&name) {
                tables.push(name);
            }
        }
        let cascade = matches!(truncate.cascade, Some(CascadeOption::Cascade));
        let mut at = 0;
        while at < tables.len() {
            let id = self.catalog.table(&tables[at]).map(|t| t.id);
            for child in self.catalog.tables.values() {
                let refers = child.foreign_keys.iter().any(|k| Some(k.parent) == id);
                if refers && !tables.contains(&child.name) {
                    if !cascade {
                        return Err(Error::unsupported(
                            "cannot truncate a table referenced in a foreign key constraint",
                        )
                        .detail(format!("Table \"{}\" references \"{}\".", child.name, tables[at]))
                        .hint(format!(
                            "Truncate table \"{}\" at the same time, or use TRUNCATE ... CASCADE.",
                            child.name
                        )));
                    }
                    tables.push(child.name.clone());
                }
            }
            at += 1;
        }
        let restart_identity = matches!(truncate.identity, Some(TruncateIdentityOption::Restart));
        Ok(Bound::one("TRUNCATE TABLE", CatalogCommand::Truncate { tables, restart_identity }))
    }
}

/// The last part of a name, folded.
pub(super) fn last_part(name: &ObjectName) -> String {
    match name.0.last() {
        Some(ObjectNamePart::Identifier(ident)) => fold(ident),
        _ => name.to_string(),
    }
}
