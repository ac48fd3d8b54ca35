//! Applying a command to a catalog: the rules of DDL.
//!
//! Invariants: [`Catalog::apply`] is a pure function of the catalog and the command, so every node that applies the same commands
//! holds the same catalog, ids included; a refused command changes nothing; everything that can grow has a bound ([`limits`]).
//! What PostgreSQL refuses is refused with PostgreSQL's SQLSTATE and words; what fragmentation adds (foreign keys that would reach
//! across fragments, tables derived from others) is refused with the reason and what to do instead.

mod adopt;
mod alter;
mod copies;
mod create;
mod dependencies;
mod foreign;
mod fragments;
mod limits;
mod names;
mod privileges;
mod remove;
mod roles;
#[cfg(test)]
mod tests;
mod words;

use super::{Catalog, CatalogCommand, NamedObject, NewSequence, OptionChange, Sequence, Site, SiteEngine, View};
use crate::{CatalogVersion, ColumnId, Error, ErrorKind, RelationId, Result, SiteId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Catalog {
    /// The catalog after `command`, or why it cannot be.
    ///
    /// # Errors
    /// The SQLSTATEs that PostgreSQL gives for the same DDL; the catalog is unchanged.
    pub fn apply(&self, command: &CatalogCommand) -> Result<Catalog> {
        let mut next = self.clone();
        next.change(command)?;
        next.check_copies_complete(self)?;
        next.forget_comments();
        next.forget_access();
        next.version = CatalogVersion(self.version.0 + 1);
        Ok(next)
    }

    fn change(&mut self, command: &CatalogCommand) -> Result<()> {
        match command {
            CatalogCommand::CreateSite { name, engine, options } => self.create_site(name, *engine, options),
            CatalogCommand::AlterSite { name, changes } => self.alter_site(name, changes),
            CatalogCommand::DropSite { name } => self.drop_site(name),
            CatalogCommand::CreateTable(new) => self.create_table(new),
            CatalogCommand::CreateFragment { table, fragment } => self.create_fragment(table, fragment),
            CatalogCommand::DropFragment { name } => self.drop_fragment(name),
            CatalogCommand::DropTable { name, cascade } => self.drop_table(name, *cascade),
            CatalogCommand::Truncate { tables, restart_identity } => self.truncate(tables, *restart_identity),
            CatalogCommand::AlterTable { table, change } => self.alter_table(table, change),
            CatalogCommand::CreateIndex { table, index } => self.create_index(table, index),
            CatalogCommand::BeginMove { table, fragment, from, to } => {
                self.begin_move(table, fragment, from.as_deref(), to)
            }
            CatalogCommand::CancelMove { table, fragment } => self.cancel_move(table, fragment),
            CatalogCommand::PromoteCopy { table, fragment, site } => self.promote_copy(table, fragment, site),
            CatalogCommand::SetBehind { site } => self.set_behind(site),
            CatalogCommand::Rejoin { site } => self.rejoin(site),
            CatalogCommand::DropIndex { name } => self.drop_index(name),
            CatalogCommand::CreateView { name, columns, query, depends_on, replace } => {
                self.create_view(name, columns, query, depends_on, *replace)
            }
            CatalogCommand::DropView { name, cascade } => self.drop_view(name, *cascade),
            CatalogCommand::CreateSequence(new) => {
                self.create_sequence(new, None)?;
                Ok(())
            }
            CatalogCommand::DropSequence { name } => self.drop_sequence(name),
            CatalogCommand::Comment { relation, column, text } => {
                self.comment(relation, column.as_deref(), text.as_deref())
            }
            CatalogCommand::CreateRole { name, attributes } => self.create_role(name, attributes),
            CatalogCommand::AlterRole { name, attributes } => self.alter_role(name, attributes),
            CatalogCommand::DropRole { name } => self.drop_role(name),
            CatalogCommand::GrantRole { role, member, admin, grantor } => {
                self.grant_role(role, member, *admin, grantor)
            }
            CatalogCommand::RevokeRole { role, member, admin_only } => self.revoke_role(role, member, *admin_only),
            CatalogCommand::Grant(grant) => self.grant(grant),
            CatalogCommand::Revoke { from, cascade } => self.revoke(from, *cascade),
            CatalogCommand::SetOwner { relation, owner } => self.set_owner(relation, owner),
            CatalogCommand::TakeAccess { relation, from } => self.take_access(relation, from),
            CatalogCommand::ReassignOwned { from, to } => self.reassign_owned(from, to),
            CatalogCommand::RevokeAll { role } => self.revoke_all(role),
        }
    }

    fn create_site(&mut self, name: &str, engine: SiteEngine, options: &BTreeMap<String, String>) -> Result<()> {
        names::check(name)?;
        if self.site(name).is_some() {
            return Err(Error::new(ErrorKind::DuplicateObject, format!("site \"{name}\" already exists")));
        }
        limits::check("sites", self.sites.len(), limits::SITES)?;
        check_options(engine, options)?;
        let id = SiteId(self.fresh_id()?);
        self.sites.insert(id, Arc::new(Site { id, name: name.into(), engine, options: options.clone() }));
        Ok(())
    }

    fn alter_site(&mut self, name: &str, changes: &[OptionChange]) -> Result<()> {
        let id = self.site_named(name)?;
        let Some(site) = self.sites.get(&id) else { return Err(Error::internal(format!("there is no site {id}"))) };
        let mut site = (**site).clone();
        for change in changes {
            let (option, value) = match change {
                OptionChange::Add(option, value) | OptionChange::Set(option, value) => (option, Some(value)),
                OptionChange::Drop(option) => (option, None),
            };
            match (change, site.options.contains_key(option)) {
                (OptionChange::Add(..), true) => {
                    return Err(Error::new(
                        ErrorKind::DuplicateObject,
                        format!("option \"{option}\" provided more than once"),
                    )
                    .hint(format!("OPTIONS (SET {option} '…') changes it.")));
                }
                (OptionChange::Set(..) | OptionChange::Drop(_), false) => {
                    return Err(Error::new(ErrorKind::UndefinedObject, format!("option \"{option}\" not found")));
                }
                _ => {}
            }
            match value {
                Some(value) => site.options.insert(option.clone(), value.clone()),
                None => site.options.remove(option),
            };
        }
        check_options(site.engine, &site.options)?;
        self.sites.insert(id, Arc::new(site));
        Ok(())
    }

    fn drop_site(&mut self, name: &str) -> Result<()> {
        let id = self.site_named(name)?;
        let users: Vec<String> = self
            .tables
            .values()
            .flat_map(|t| {
                t.fragments.iter().filter(|f| f.copies().any(|copy| copy == id)).map(|f| format!("fragment {}", f.name))
            })
            .collect();
        if !users.is_empty() {
            return Err(Error::new(
                ErrorKind::DependentObjects,
                format!("cannot drop site \"{name}\" because fragments live there"),
            )
            .detail(dependencies::listed(&users))
            .hint("Drop these tables or fragments first."));
        }
        if self.sites.len() == 1 {
            return Err(Error::new(ErrorKind::NotInPrerequisiteState, "cannot drop the last site"));
        }
        for allocation in self.allocations.values_mut() {
            allocation.sites.retain(|s| *s != id);
        }
        self.sites.remove(&id);
        Ok(())
    }

    fn create_view(
        &mut self,
        name: &str,
        columns: &[String],
        query: &str,
        depends_on: &[String],
        replace: bool,
    ) -> Result<()> {
        names::check(name)?;
        let mut reads = BTreeSet::new();
        for relation in depends_on {
            match self.names.get(relation) {
                Some(
                    NamedObject::Table(id)
                    | NamedObject::Fragment(id)
                    | NamedObject::View(id)
                    | NamedObject::Sequence(id),
                ) => {
                    reads.insert(*id);
                }
                _ => return Err(names::no_relation(relation)),
            }
        }
        let id = match self.names.get(name) {
            Some(NamedObject::View(id)) if replace => *id,
            Some(NamedObject::View(_)) | None => {
                self.check_free(name)?;
                limits::check("views", self.views.len(), limits::RELATIONS)?;
                RelationId(self.fresh_id()?)
            }
            Some(_) if replace => {
                return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not a view")));
            }
            Some(_) => return Err(names::exists(name)),
        };
        if reads.iter().any(|read| *read == id || self.view_reads(*read, id)) {
            return Err(Error::new(
                ErrorKind::InvalidObjectDefinition,
                format!("infinite recursion detected in rules for relation \"{name}\""),
            ));
        }
        let view = View {
            id,
            name: name.into(),
            columns: columns.to_vec(),
            query: query.into(),
            depends_on: reads.into_iter().collect(),
        };
        self.names.insert(name.into(), NamedObject::View(id));
        self.views.insert(id, Arc::new(view));
        Ok(())
    }

    /// Whether the view `from` reads `target`, directly or through other views.
    fn view_reads(&self, from: RelationId, target: RelationId) -> bool {
        // Views never form a cycle (checked when they are made), so this ends.
        self.views.get(&from).is_some_and(|v| v.depends_on.iter().any(|d| *d == target || self.view_reads(*d, target)))
    }

    fn create_sequence(&mut self, new: &NewSequence, owned_by: Option<(RelationId, ColumnId)>) -> Result<RelationId> {
        names::check(&new.name)?;
        self.check_free(&new.name)?;
        limits::check("sequences", self.sequences.len(), limits::RELATIONS)?;
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidParameterValue, message));
        if new.increment == 0 {
            return invalid("INCREMENT must not be zero".into());
        }
        if new.min >= new.max {
            return invalid(format!("MINVALUE ({}) must be less than MAXVALUE ({})", new.min, new.max));
        }
        if new.start < new.min {
            return invalid(format!("START value ({}) cannot be less than MINVALUE ({})", new.start, new.min));
        }
        if new.start > new.max {
            return invalid(format!("START value ({}) cannot be greater than MAXVALUE ({})", new.start, new.max));
        }
        let id = RelationId(self.fresh_id()?);
        let sequence = Sequence {
            id,
            name: new.name.clone(),
            start: new.start,
            increment: new.increment,
            min: new.min,
            max: new.max,
            cycle: new.cycle,
            owned_by,
        };
        self.names.insert(new.name.clone(), NamedObject::Sequence(id));
        self.sequences.insert(id, Arc::new(sequence));
        Ok(id)
    }

    fn comment(&mut self, relation: &str, column: Option<&str>, text: Option<&str>) -> Result<()> {
        let id = match self.names.get(relation) {
            Some(NamedObject::Table(id) | NamedObject::View(id) | NamedObject::Sequence(id)) => *id,
            Some(_) => {
                return Err(Error::unsupported(format!("comments on \"{relation}\" are not stored"))
                    .hint("Tables, their columns, views and sequences have comments."));
            }
            None => return Err(names::no_relation(relation)),
        };
        let part = match column {
            None => 0,
            Some(column) => {
                let table = self.tables.get(&id).ok_or_else(|| {
                    Error::unsupported(format!("comments on columns of \"{relation}\" are not stored"))
                        .hint("Columns of tables have comments.")
                })?;
                let column = table.columns.iter().find(|c| c.name == column && !c.hidden).ok_or_else(|| {
                    Error::new(
                        ErrorKind::UndefinedColumn,
                        format!("column \"{column}\" of relation \"{relation}\" does not exist"),
                    )
                })?;
                u32::from(column.id.0)
            }
        };
        let comments = self.comments.entry(id).or_default();
        match text.filter(|t| !t.is_empty()) {
            Some(text) => comments.insert(part, text.into()),
            None => comments.remove(&part),
        };
        Ok(())
    }

    /// Comments go with what they are about.
    fn forget_comments(&mut self) {
        let Catalog { comments, tables, views, sequences, .. } = self;
        comments.retain(|id, parts| {
            if let Some(table) = tables.get(id) {
                parts.retain(|part, _| *part == 0 || table.columns.iter().any(|c| u32::from(c.id.0) == *part));
            } else if !views.contains_key(id) && !sequences.contains_key(id) {
                return false;
            }
            !parts.is_empty()
        });
    }
}

/// What an engine's options have to hold, as far as it can be told without opening the site: whoever does that checks the rest.
fn check_options(engine: SiteEngine, options: &BTreeMap<String, String>) -> Result<()> {
    match engine {
        SiteEngine::Embedded => {
            if let Some(option) = options.keys().next() {
                return Err(Error::new(
                    ErrorKind::InvalidParameterValue,
                    format!("an embedded site takes no option \"{option}\""),
                ));
            }
        }
        // Whoever opens the site checks the rest.
        SiteEngine::Postgres | SiteEngine::Mysql => {
            if !options.contains_key("url") {
                return Err(Error::new(
                    ErrorKind::InvalidParameterValue,
                    format!("a site of the engine {} needs the option \"url\"", engine.name()),
                )
                .hint(format!("OPTIONS (url '{}://user:password@host/database')", engine.name())));
            }
        }
    }
    Ok(())
}
