//! GRANT and REVOKE: what becomes of an access control list.
//!
//! Invariants: a list has one entry for each pair of grantee and grantor; whoever gave a privilege still has it with the option to
//! give it, or is the owner. PostgreSQL's `aclupdate` and `recursive_revoke` are the model.

use super::limits;
use crate::catalog::{AccessEntry, Catalog, Grant, Privileges, Securable};
use crate::{Error, ErrorKind, Result};

impl Catalog {
    fn securable(&self, relation: Option<&str>) -> Result<Securable> {
        relation.map_or(Ok(Securable::Schema), |name| self.own_relation(name).map(Securable::Relation))
    }

    pub(super) fn grant(&mut self, grant: &Grant) -> Result<()> {
        self.role_named(&grant.grantor)?;
        let object = self.securable(grant.relation.as_deref())?;
        let owner = self.owner(object).to_owned();
        let mut list = self.list_of(object);
        for grantee in &grant.grantees {
            if let Some(name) = grantee {
                self.role_named(name)?;
            } else if grant.grantable {
                return Err(Error::new(ErrorKind::InvalidGrant, "grant options can only be granted to roles"));
            }
            // The owner may give everything anyway.
            let grantable = grant.grantable && grantee.as_deref() != Some(&owner);
            if grantable {
                check_circle(&list, &owner, grantee.as_deref(), grant)?;
            }
            let at = list.iter().position(|e| e.grantee == *grantee && e.grantor == grant.grantor);
            let entry = match at {
                Some(at) => &mut list[at],
                None => {
                    limits::check("entries in an access control list", list.len(), limits::ACCESS_ENTRIES)?;
                    list.push(AccessEntry {
                        grantee: grantee.clone(),
                        grantor: grant.grantor.clone(),
                        privileges: Privileges::NONE,
                        grantable: Privileges::NONE,
                    });
                    let last = list.len() - 1;
                    &mut list[last]
                }
            };
            entry.privileges = entry.privileges.and(grant.privileges);
            if grantable {
                entry.grantable = entry.grantable.and(grant.privileges);
            }
        }
        self.store_list(object, list);
        Ok(())
    }

    pub(super) fn revoke(&mut self, from: &Grant, cascade: bool) -> Result<()> {
        self.role_named(&from.grantor)?;
        let object = self.securable(from.relation.as_deref())?;
        let mut list = self.list_of(object);
        let owner = self.owner(object).to_owned();
        for grantee in &from.grantees {
            if let Some(name) = grantee {
                self.role_named(name)?;
            }
            take(&mut list, &owner, grantee.as_deref(), &from.grantor, from.privileges, from.grantable, cascade)?;
        }
        self.store_list(object, list);
        Ok(())
    }

    /// Takes back everything that a role has on an object, whoever gave it, and what the role has given on: PostgreSQL's
    /// `RemoveRoleFromObjectACL`, which always cascades.
    pub(super) fn revoke_all_on(&mut self, object: Securable, role: &str) -> Result<()> {
        let Some(list) = self.stored_list(object) else { return Ok(()) };
        let owner = self.owner(object).to_owned();
        let mut list = list.clone();
        let grantors: Vec<String> =
            list.iter().filter(|e| e.grantee.as_deref() == Some(role)).map(|e| e.grantor.clone()).collect();
        let all = self.privileges_on(object);
        for grantor in grantors {
            take(&mut list, &owner, Some(role), &grantor, all, false, true)?;
        }
        self.store_list(object, list);
        Ok(())
    }

    fn store_list(&mut self, object: Securable, list: Vec<AccessEntry>) {
        match object {
            Securable::Relation(id) => {
                self.access.lists.insert(id, list);
            }
            Securable::Schema => self.access.schema = Some(list),
        }
    }

    /// Owners and privileges go with what they are about.
    pub(super) fn forget_access(&mut self) {
        let Catalog { access, tables, views, sequences, .. } = self;
        let there =
            |id: &crate::RelationId| tables.contains_key(id) || views.contains_key(id) || sequences.contains_key(id);
        access.owners.retain(|id, _| there(id));
        access.lists.retain(|id, _| there(id));
    }
}

/// Takes privileges (`option_only`: the option to give them) from a grantee, and what the grantee has given on.
fn take(
    list: &mut Vec<AccessEntry>,
    owner: &str,
    grantee: Option<&str>,
    grantor: &str,
    privileges: Privileges,
    option_only: bool,
    cascade: bool,
) -> Result<()> {
    let Some(at) = list.iter().position(|e| e.grantee.as_deref() == grantee && e.grantor == grantor) else {
        return Ok(());
    };
    let entry = &mut list[at];
    let lost = entry.grantable.both(privileges);
    entry.grantable = entry.grantable.without(privileges);
    if !option_only {
        entry.privileges = entry.privileges.without(privileges);
    }
    if entry.privileges.is_empty() {
        list.remove(at);
    }
    let Some(grantee) = grantee.filter(|g| *g != owner) else { return Ok(()) };
    // Somebody else may have given the option, too.
    let others = list.iter().filter(|e| e.grantee.as_deref() == Some(grantee));
    let lost = lost.without(others.fold(Privileges::NONE, |sum, e| sum.and(e.grantable)));
    while let Some(next) = list.iter().find(|e| e.grantor == grantee && !e.privileges.both(lost).is_empty()) {
        if !cascade {
            return Err(Error::new(ErrorKind::DependentObjects, "dependent privileges exist")
                .hint("Use CASCADE to revoke them too."));
        }
        let (to, given) = (next.grantee.clone(), next.privileges.both(lost));
        take(list, owner, to.as_deref(), grantee, given, false, true)?;
    }
    Ok(())
}

/// Refuses options that would come back to whoever gives them: if theirs were revoked, they would keep them by themselves.
fn check_circle(list: &[AccessEntry], owner: &str, grantee: Option<&str>, grant: &Grant) -> Result<()> {
    let (Some(grantee), true) = (grantee, grant.grantor != owner) else { return Ok(()) };
    // Without what comes from the grantee, the grantor must still be able to give.
    let mut rest = list.to_vec();
    while let Some(entry) = rest.iter().find(|e| e.grantee.as_deref() == Some(grantee) && !e.grantable.is_empty()) {
        let (grantor, options) = (entry.grantor.clone(), entry.grantable);
        take(&mut rest, owner, Some(grantee), &grantor, options, true, true)?;
    }
    let own = rest.iter().filter(|e| e.grantee.as_deref() == Some(&grant.grantor));
    if own.fold(Privileges::NONE, |sum, e| sum.and(e.grantable)).contain(grant.privileges) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidGrant, "grant options cannot be granted back to your own grantor"))
}

/// Another role takes the place of one; entries that thereby become the same are joined.
pub(super) fn rename(list: &mut Vec<AccessEntry>, before: &str, after: &str) {
    let mut renamed: Vec<AccessEntry> = Vec::with_capacity(list.len());
    for mut entry in std::mem::take(list) {
        if entry.grantee.as_deref() == Some(before) {
            entry.grantee = Some(after.into());
        }
        if entry.grantor == before {
            entry.grantor = after.into();
        }
        match renamed.iter_mut().find(|e| e.grantee == entry.grantee && e.grantor == entry.grantor) {
            Some(same) => {
                same.privileges = same.privileges.and(entry.privileges);
                same.grantable = same.grantable.and(entry.grantable);
            }
            None => renamed.push(entry),
        }
    }
    *list = renamed;
}
