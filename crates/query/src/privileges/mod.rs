//! Who may do what: the one place at which every statement is checked, against the privileges that the catalog holds.
//!
//! The rules and the messages are PostgreSQL's. Invariants: a statement is checked when it runs, prepared or not, under the catalog
//! of its transaction, as the role that the session then has ([`Identity`]); what a view reads is checked as the view's owner; a
//! definition is checked command by command ([`definitions`]), so no statement can come around it. A superuser costs two comparisons
//! of addresses ([`Authority`]), anybody else one more for a statement that was checked before ([`Checked`]).

mod definitions;
mod grants;
mod needs;
pub(crate) mod show;

pub(crate) use definitions::{may_run, steps};
pub(crate) use grants::bind;

use crate::pg::parse::Statement;
use atoll_model::{Catalog, Error, ErrorKind, NamedObject, Privileges, RelationId, Result, Securable};
use needs::{Need, Wanted};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who a session is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Who has connected.
    pub session_user: Arc<str>,
    /// Whose privileges count: the same, or the role that SET ROLE has chosen.
    pub current_user: Arc<str>,
}

impl Identity {
    /// A user who has connected.
    pub fn of(user: &str) -> Self {
        let user: Arc<str> = user.into();
        Identity { session_user: user.clone(), current_user: user }
    }
}

/// Whether a session's role need not be asked about, remembered for one catalog: a superuser, where the views are superusers', too. What
/// the owner of a view may not read, nobody reads through it.
#[derive(Default)]
pub(crate) struct Authority(Option<(Arc<Catalog>, Arc<str>, bool)>);

impl Authority {
    /// Whether the role may run any statement.
    pub(crate) fn suffices(&mut self, catalog: &Arc<Catalog>, role: &Arc<str>) -> bool {
        if let Some((known, of, suffices)) = &self.0
            && Arc::ptr_eq(known, catalog)
            && Arc::ptr_eq(of, role)
        {
            return *suffices;
        }
        let owners = || catalog.views.keys().all(|id| catalog.is_superuser(catalog.owner_of(*id)));
        let suffices = catalog.is_superuser(role) && owners();
        self.0 = Some((catalog.clone(), role.clone(), suffices));
        suffices
    }
}

/// The catalog and the role for which a bound statement was last found to be allowed.
#[derive(Default)]
pub(crate) struct Checked(Mutex<Option<(Arc<Catalog>, Arc<str>)>>);

impl Checked {
    /// Checks a statement unless it has been for this catalog and role.
    ///
    /// # Errors
    /// `InsufficientPrivilege`.
    pub(crate) fn check(&self, statement: &Statement, catalog: &Arc<Catalog>, role: &Arc<str>) -> Result<()> {
        let known = |(c, r): &(Arc<Catalog>, Arc<str>)| Arc::ptr_eq(c, catalog) && r == role;
        if self.0.lock().as_ref().is_some_and(known) {
            return Ok(());
        }
        check(statement, catalog, role)?;
        *self.0.lock() = Some((catalog.clone(), role.clone()));
        Ok(())
    }
}

/// Whether a role may read and change what a statement reads and changes.
///
/// # Errors
/// `InsufficientPrivilege`.
fn check(statement: &Statement, catalog: &Catalog, role: &str) -> Result<()> {
    all(&needs::of(catalog, statement), catalog, role, &mut BTreeSet::new())
}

fn all(needs: &[Need], catalog: &Catalog, role: &str, views: &mut BTreeSet<RelationId>) -> Result<()> {
    for need in needs {
        let Some(id) = catalog.secured_relation(&need.relation) else { continue };
        let has = catalog.privileges_of(role, Securable::Relation(id));
        let enough = match need.wanted {
            Wanted::All(wanted) => has.contain(wanted),
            Wanted::AnyOf(wanted) => !has.both(wanted).is_empty(),
        };
        if !enough {
            return Err(denied(catalog, &need.relation));
        }
        // What a view reads, its owner reads. A view is looked into once: it has one owner.
        if let Some(view) = catalog.views.get(&id)
            && views.insert(id)
        {
            let query = Statement::Sql(Box::new(crate::pg::parse_one(&view.query)?));
            all(&needs::of(catalog, &query), catalog, catalog.owner_of(id), views)?;
        }
    }
    Ok(())
}

/// What PostgreSQL calls the kind of a relation in messages.
fn kind(catalog: &Catalog, relation: &str) -> &'static str {
    match catalog.names.get(relation) {
        Some(NamedObject::View(_)) => "view",
        Some(NamedObject::Sequence(_)) => "sequence",
        Some(NamedObject::Index(_)) => "index",
        _ => "table",
    }
}

/// `permission denied for table t`
fn denied(catalog: &Catalog, relation: &str) -> Error {
    insufficient(format!("permission denied for {} {relation}", kind(catalog, relation))).table(relation)
}

fn insufficient(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InsufficientPrivilege, message.into())
}

/// Whether a role may use a sequence in one of these ways.
///
/// # Errors
/// `InsufficientPrivilege`.
pub(crate) fn may_use_sequence(
    catalog: &Catalog,
    role: &str,
    sequence: &atoll_model::Sequence,
    any_of: Privileges,
) -> Result<()> {
    if catalog.privileges_of(role, Securable::Relation(sequence.id)).both(any_of).is_empty() {
        return Err(denied(catalog, &sequence.name));
    }
    Ok(())
}

/// Whether a role may do what concerns the cluster.
///
/// # Errors
/// `InsufficientPrivilege`.
pub(crate) fn administrator(catalog: &Catalog, role: &str, what: &str) -> Result<()> {
    if catalog.is_administrator(role) {
        return Ok(());
    }
    Err(insufficient(format!("permission denied to {what}"))
        .hint(format!("Only superusers and members of the role {} do that.", atoll_model::ADMINISTRATORS)))
}

#[cfg(test)]
mod tests;
