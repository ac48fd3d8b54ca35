//! Roles and their membership in each other.
//!
//! Invariants: memberships form no circle; somebody who may log in is a superuser; [`BOOTSTRAP_ROLE`] is there, as it owns what
//! nobody else does; no role goes that an owner or an access control list names.

use super::{limits, names};
use crate::catalog::{BOOTSTRAP_ROLE, Catalog, Membership, Role, RoleChange, Securable};
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;

impl Catalog {
    pub(super) fn create_role(&mut self, name: &str, attributes: &RoleChange) -> Result<()> {
        names::check(name)?;
        if name == "public" || name == "none" || name.starts_with("pg_") {
            return Err(Error::new(ErrorKind::ReservedName, format!("role name \"{name}\" is reserved")));
        }
        if self.roles.contains_key(name) {
            return Err(Error::new(ErrorKind::DuplicateObject, format!("role \"{name}\" already exists")));
        }
        limits::check("roles", self.roles.len(), limits::ROLES)?;
        let mut role = Role::new(name);
        change(&mut role, attributes);
        self.roles.insert(name.into(), Arc::new(role));
        Ok(())
    }

    pub(super) fn alter_role(&mut self, name: &str, attributes: &RoleChange) -> Result<()> {
        let role = self.roles.get_mut(name).ok_or_else(|| names::no_role(name))?;
        change(Arc::make_mut(role), attributes);
        self.check_superuser_left()
    }

    pub(super) fn drop_role(&mut self, name: &str) -> Result<()> {
        self.role_named(name)?;
        if name == BOOTSTRAP_ROLE {
            return Err(Error::new(
                ErrorKind::DependentObjects,
                format!("cannot drop role {name} because it is required by the database system"),
            ));
        }
        let dependents = self.dependents_of_role(name);
        if !dependents.is_empty() {
            return Err(Error::new(
                ErrorKind::DependentObjects,
                format!("role \"{name}\" cannot be dropped because some objects depend on it"),
            )
            .detail(super::dependencies::listed(&dependents))
            .hint("Use REASSIGN OWNED, REVOKE or DROP OWNED first."));
        }
        self.roles.remove(name);
        self.access.members.remove(name);
        for members in self.access.members.values_mut() {
            members.remove(name);
            for membership in members.values_mut().filter(|m| m.grantor == name) {
                membership.grantor = BOOTSTRAP_ROLE.into();
            }
        }
        self.access.members.retain(|_, members| !members.is_empty());
        self.check_superuser_left()
    }

    /// What a role owns and has privileges for.
    fn dependents_of_role(&self, role: &str) -> Vec<String> {
        let owned = self.access.owners.iter().filter(|(_, owner)| *owner == role);
        let mut found: Vec<String> = owned.map(|(id, _)| format!("owner of {}", self.described(*id))).collect();
        let lists = self.access.lists.iter().map(|(id, list)| (self.described(*id), list));
        for (object, list) in lists.chain(self.access.schema.iter().map(|list| ("schema public".to_owned(), list))) {
            if list.iter().any(|e| e.grantee.as_deref() == Some(role) || e.grantor == role) {
                found.push(format!("privileges for {object}"));
            }
        }
        found
    }

    fn described(&self, id: crate::RelationId) -> String {
        match (self.tables.get(&id), self.views.get(&id), self.sequences.get(&id)) {
            (Some(table), ..) => format!("table {}", table.name),
            (_, Some(view), _) => format!("view {}", view.name),
            (.., Some(sequence)) => format!("sequence {}", sequence.name),
            _ => format!("relation {id}"),
        }
    }

    /// The role of that name.
    ///
    /// # Errors
    /// `UndefinedObject`.
    pub fn role_named(&self, name: &str) -> Result<&Arc<Role>> {
        self.roles.get(name).ok_or_else(|| names::no_role(name))
    }

    /// Nobody can lock everybody out.
    fn check_superuser_left(&self) -> Result<()> {
        if self.roles.values().any(|r| r.superuser && r.login) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotInPrerequisiteState, "no superuser who may log in would be left")
            .hint("Make another role a superuser first."))
    }

    pub(super) fn grant_role(&mut self, role: &str, member: &str, admin: bool, grantor: &str) -> Result<()> {
        self.role_named(role)?;
        self.role_named(member)?;
        self.role_named(grantor)?;
        // Not as a superuser, who is a member of everything: by memberships alone.
        if self.reached(role, |_| true).contains(member) {
            return Err(Error::new(
                ErrorKind::InvalidGrant,
                format!("role \"{role}\" is a member of role \"{member}\""),
            ));
        }
        let members = self.access.members.entry(role.into()).or_default();
        if !members.contains_key(member) {
            limits::check("members of a role", members.len(), limits::ROLES)?;
        }
        let admin = admin || members.get(member).is_some_and(|m| m.admin);
        members.insert(member.into(), Membership { grantor: grantor.into(), admin });
        Ok(())
    }

    pub(super) fn revoke_role(&mut self, role: &str, member: &str, admin_only: bool) -> Result<()> {
        self.role_named(role)?;
        self.role_named(member)?;
        let Some(members) = self.access.members.get_mut(role) else { return Ok(()) };
        if !admin_only {
            members.remove(member);
        } else if let Some(membership) = members.get_mut(member) {
            membership.admin = false;
        }
        if members.is_empty() {
            self.access.members.remove(role);
        }
        Ok(())
    }

    pub(super) fn set_owner(&mut self, relation: &str, owner: &str) -> Result<()> {
        self.role_named(owner)?;
        let id = self.own_relation(relation)?;
        if self.owner_of(id) == owner {
            return Ok(());
        }
        if self.sequences.get(&id).is_some_and(|s| s.owned_by.is_some()) {
            return Err(Error::unsupported(format!("cannot change owner of sequence \"{relation}\""))
                .detail("The sequence belongs to a column, and so to the owner of its table."));
        }
        let before = self.owner_of(id).to_owned();
        self.change_owner(id, &before, owner);
        Ok(())
    }

    /// A relation's owner changes, and with it who stands for the owner in its access control list and in those of its sequences.
    fn change_owner(&mut self, id: crate::RelationId, before: &str, owner: &str) {
        if before == owner {
            return;
        }
        if owner == BOOTSTRAP_ROLE {
            self.access.owners.remove(&id);
        } else {
            self.access.owners.insert(id, owner.into());
        }
        let owned = self.sequences.values().filter(|s| s.owned_by.is_some_and(|(t, _)| t == id)).map(|s| s.id);
        for object in std::iter::once(id).chain(owned.collect::<Vec<_>>()) {
            if let Some(list) = self.access.lists.get_mut(&object) {
                super::privileges::rename(list, before, owner);
            }
        }
    }

    /// The table, view or sequence of that name.
    pub(super) fn own_relation(&self, name: &str) -> Result<crate::RelationId> {
        use crate::catalog::NamedObject as Named;
        match self.names.get(name) {
            Some(Named::Table(id) | Named::View(id) | Named::Sequence(id)) => Ok(*id),
            Some(Named::Fragment(_)) => {
                Err(Error::unsupported(format!("\"{name}\" is a fragment, whose owner and privileges are its table's"))
                    .hint("Name the table that it belongs to."))
            }
            Some(Named::Index(_)) => Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is an index"))),
            None => Err(names::no_relation(name)),
        }
    }

    pub(super) fn take_access(&mut self, relation: &str, from: &str) -> Result<()> {
        let (id, from) = (self.own_relation(relation)?, self.own_relation(from)?);
        match self.access.owners.get(&from).cloned() {
            Some(owner) => self.access.owners.insert(id, owner),
            None => self.access.owners.remove(&id),
        };
        match self.access.lists.get(&from).cloned() {
            Some(list) => self.access.lists.insert(id, list),
            None => self.access.lists.remove(&id),
        };
        Ok(())
    }

    pub(super) fn reassign_owned(&mut self, from: &str, to: &str) -> Result<()> {
        self.role_named(from)?;
        self.role_named(to)?;
        if from == BOOTSTRAP_ROLE {
            return Err(Error::new(
                ErrorKind::DependentObjects,
                format!(
                    "cannot reassign ownership of objects owned by role {from} because they are required by the database system"
                ),
            ));
        }
        let owned = self.access.owners.iter().filter(|(_, owner)| *owner == from).map(|(id, _)| *id);
        for id in owned.collect::<Vec<_>>() {
            self.change_owner(id, from, to);
        }
        Ok(())
    }

    pub(super) fn revoke_all(&mut self, role: &str) -> Result<()> {
        self.role_named(role)?;
        // It owns whatever has no other owner, which is written down nowhere.
        if role == BOOTSTRAP_ROLE {
            return Err(Error::new(
                ErrorKind::DependentObjects,
                format!("cannot drop objects owned by role {role} because they are required by the database system"),
            ));
        }
        let owned = self.access.owners.iter().find(|(_, owner)| *owner == role);
        if let Some((id, _)) = owned {
            return Err(Error::unsupported("DROP OWNED of a role that owns relations")
                .detail(format!("It is the owner of {}.", self.described(*id)))
                .hint("Drop what it owns, or give it to another role with REASSIGN OWNED."));
        }
        let objects: Vec<Securable> =
            self.access.lists.keys().map(|id| Securable::Relation(*id)).chain([Securable::Schema]).collect();
        for object in objects {
            self.revoke_all_on(object, role)?;
        }
        Ok(())
    }
}

fn change(role: &mut Role, attributes: &RoleChange) {
    role.login = attributes.login.unwrap_or(role.login);
    role.superuser = attributes.superuser.unwrap_or(role.superuser);
    role.inherit = attributes.inherit.unwrap_or(role.inherit);
    role.create_role = attributes.create_role.unwrap_or(role.create_role);
    role.create_db = attributes.create_db.unwrap_or(role.create_db);
    if let Some(password) = &attributes.password {
        role.password.clone_from(password);
    }
    role.valid_until = attributes.valid_until.unwrap_or(role.valid_until);
}
