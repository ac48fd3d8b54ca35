//! Who may do what: the one place at which every statement is checked, against the privileges that the catalog holds.
//!
//! The rules and the messages are PostgreSQL's. Invariants: a statement is checked when it runs, prepared or not, as the role that the
//! session then has ([`Identity`]); its names mean what they mean to its transaction, the privileges are those in force at that moment,
//! however old the transaction is ([`Footing`]); what a view reads is checked as the view's owner; a definition is checked command by
//! command ([`definitions`]), so no statement can come around it. A superuser costs three comparisons of addresses ([`Authority`]), as
//! long as every view's owner is a superuser as well; any other statement costs as many more once it has been checked ([`Checked`]).

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

/// What a statement is judged by. PostgreSQL looks privileges up as they are at the moment, whatever snapshot a transaction has: so does
/// this, or who has begun a transaction would keep what is taken from them.
#[derive(Clone)]
pub(crate) struct Footing {
    /// What names mean: the catalog that the transaction sees.
    seen: Arc<Catalog>,
    /// Whose roles, owners and privileges count: the newest, or the transaction's own where it has changed it.
    in_force: Arc<Catalog>,
}

impl Footing {
    /// That of a transaction that sees one catalog, while another is the newest that is committed.
    pub(crate) fn of(seen: Arc<Catalog>, newest: Arc<Catalog>) -> Self {
        // Who changes the catalog holds its lock: nothing newer than its own can be committed.
        let in_force = if newest.version < seen.version { seen.clone() } else { newest };
        Footing { seen, in_force }
    }

    /// The catalog whose roles count.
    pub(crate) fn in_force(&self) -> &Arc<Catalog> {
        &self.in_force
    }

    /// The catalog whose owner and privileges of a relation count. On one that is there no longer nobody can change them.
    fn about(&self, relation: RelationId) -> &Catalog {
        if self.in_force.has_relation(relation) { &self.in_force } else { &self.seen }
    }

    fn is(&self, other: &Footing) -> bool {
        Arc::ptr_eq(&self.seen, &other.seen) && Arc::ptr_eq(&self.in_force, &other.in_force)
    }
}

/// Whether a session's role need not be asked about, remembered for one footing: a superuser, where the views are superusers', too. What
/// the owner of a view may not read, nobody reads through it.
#[derive(Default)]
pub(crate) struct Authority(Option<(Footing, Arc<str>, bool)>);

impl Authority {
    /// Whether the role may run any statement.
    pub(crate) fn suffices(&mut self, footing: &Footing, role: &Arc<str>) -> bool {
        if let Some((known, of, suffices)) = &self.0
            && known.is(footing)
            && Arc::ptr_eq(of, role)
        {
            return *suffices;
        }
        let is_superuser = |role: &str| footing.in_force.is_superuser(role);
        let owners = || footing.seen.views.keys().all(|id| is_superuser(footing.about(*id).owner_of(*id)));
        let suffices = is_superuser(role) && owners();
        self.0 = Some((footing.clone(), role.clone(), suffices));
        suffices
    }
}

/// The footing and the role for which a bound statement was last found to be allowed.
#[derive(Default)]
pub(crate) struct Checked(Mutex<Option<(Footing, Arc<str>)>>);

impl Checked {
    /// Checks a statement unless it has been for this footing and role.
    ///
    /// # Errors
    /// `InsufficientPrivilege`.
    pub(crate) fn check(&self, statement: &Statement, footing: &Footing, role: &Arc<str>) -> Result<()> {
        let known = |(f, r): &(Footing, Arc<str>)| f.is(footing) && r == role;
        if self.0.lock().as_ref().is_some_and(known) {
            return Ok(());
        }
        check(statement, footing, role)?;
        *self.0.lock() = Some((footing.clone(), role.clone()));
        Ok(())
    }
}

/// Whether a role may read and change what a statement reads and changes.
///
/// # Errors
/// `InsufficientPrivilege`.
fn check(statement: &Statement, footing: &Footing, role: &str) -> Result<()> {
    all(&needs::of(&footing.seen, statement), footing, role, &mut BTreeSet::new())
}

fn all(needs: &[Need], footing: &Footing, role: &str, views: &mut BTreeSet<RelationId>) -> Result<()> {
    let catalog = &*footing.seen;
    for need in needs {
        let Some(id) = catalog.secured_relation(&need.relation) else { continue };
        let has = footing.about(id).privileges_of(role, Securable::Relation(id));
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
            all(&needs::of(catalog, &query), footing, footing.about(id).owner_of(id), views)?;
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
    footing: &Footing,
    role: &str,
    sequence: &atoll_model::Sequence,
    any_of: Privileges,
) -> Result<()> {
    let catalog = footing.about(sequence.id);
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
