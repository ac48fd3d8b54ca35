//! Who may do what: roles, their membership in each other, owners of relations, and privileges on them.
//!
//! The rules are PostgreSQL's (its manual, chapters 22 and 5.7). Invariants: an owner that is not written down is
//! [`BOOTSTRAP_ROLE`], so a catalog of an older version, which knows no owners, is one in which that role owns everything; a list
//! that is not written down is the default one, which gives the owner everything; every entry names roles that there are
//! ([`Catalog::apply`](super::Catalog::apply) drops no role that one names).

use super::{Catalog, NamedObject};
use crate::RelationId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The superuser of a fresh data directory: it owns what has no other owner, and is never dropped.
pub const BOOTSTRAP_ROLE: &str = "atoll";

/// Members of a role of this name may do what concerns the cluster: sites, moves of fragments, VERIFY, transactions left in doubt.
pub const ADMINISTRATORS: &str = "atoll_admin";

/// A role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// May connect.
    pub login: bool,
    /// May do anything.
    pub superuser: bool,
    /// SCRAM-SHA-256 verifier, if a password is set.
    pub password: Option<String>,
    /// Has the privileges of the roles that it is a member of without SET ROLE.
    #[serde(default = "yes")]
    pub inherit: bool,
    /// May make, change and drop roles that are no superusers.
    #[serde(default)]
    pub create_role: bool,
    /// Kept and shown: there is one database.
    #[serde(default)]
    pub create_db: bool,
    /// When its password expires, in microseconds since 1970; `None`: never.
    #[serde(default)]
    pub valid_until: Option<i64>,
}

fn yes() -> bool {
    true
}

impl Role {
    /// A role with nothing but a name.
    pub fn new(name: impl Into<String>) -> Self {
        Role {
            name: name.into(),
            login: false,
            superuser: false,
            password: None,
            inherit: true,
            create_role: false,
            create_db: false,
            valid_until: None,
        }
    }
}

/// What CREATE and ALTER ROLE say of a role; `None` leaves as it is.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleChange {
    /// LOGIN
    pub login: Option<bool>,
    /// SUPERUSER
    pub superuser: Option<bool>,
    /// INHERIT
    pub inherit: Option<bool>,
    /// CREATEROLE
    pub create_role: Option<bool>,
    /// CREATEDB
    pub create_db: Option<bool>,
    /// PASSWORD: a SCRAM verifier; `Some(None)` removes it.
    pub password: Option<Option<String>>,
    /// VALID UNTIL; `Some(None)`: for ever.
    pub valid_until: Option<Option<i64>>,
}

impl fmt::Debug for RoleChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleChange")
            .field("login", &self.login)
            .field("superuser", &self.superuser)
            .field("inherit", &self.inherit)
            .field("create_role", &self.create_role)
            .field("create_db", &self.create_db)
            .field("password", &self.password.as_ref().map(Option::is_some))
            .field("valid_until", &self.valid_until)
            .finish()
    }
}

/// A set of privileges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Privileges(u16);

/// (privilege, its letter in an access control list, its name), in the order in which PostgreSQL prints them.
const NAMES: [(Privileges, char, &str); 9] = [
    (Privileges::INSERT, 'a', "INSERT"),
    (Privileges::SELECT, 'r', "SELECT"),
    (Privileges::UPDATE, 'w', "UPDATE"),
    (Privileges::DELETE, 'd', "DELETE"),
    (Privileges::TRUNCATE, 'D', "TRUNCATE"),
    (Privileges::REFERENCES, 'x', "REFERENCES"),
    (Privileges::TRIGGER, 't', "TRIGGER"),
    (Privileges::USAGE, 'U', "USAGE"),
    (Privileges::CREATE, 'C', "CREATE"),
];

impl Privileges {
    /// None.
    pub const NONE: Privileges = Privileges(0);
    /// SELECT
    pub const SELECT: Privileges = Privileges(1);
    /// INSERT
    pub const INSERT: Privileges = Privileges(2);
    /// UPDATE
    pub const UPDATE: Privileges = Privileges(4);
    /// DELETE
    pub const DELETE: Privileges = Privileges(8);
    /// TRUNCATE
    pub const TRUNCATE: Privileges = Privileges(16);
    /// REFERENCES: to be named by foreign keys.
    pub const REFERENCES: Privileges = Privileges(32);
    /// TRIGGER: part of ALL; there are no triggers.
    pub const TRIGGER: Privileges = Privileges(64);
    /// USAGE of a sequence or schema.
    pub const USAGE: Privileges = Privileges(128);
    /// CREATE in a schema.
    pub const CREATE: Privileges = Privileges(256);
    /// What there is on tables and views.
    pub const TABLE: Privileges = Privileges(1 | 2 | 4 | 8 | 16 | 32 | 64);
    /// What there is on sequences.
    pub const SEQUENCE: Privileges = Privileges(1 | 4 | 128);
    /// What there is on schemas.
    pub const SCHEMA: Privileges = Privileges(128 | 256);

    /// Those of either.
    #[must_use]
    pub fn and(self, other: Privileges) -> Privileges {
        Privileges(self.0 | other.0)
    }

    /// Those of both.
    #[must_use]
    pub fn both(self, other: Privileges) -> Privileges {
        Privileges(self.0 & other.0)
    }

    /// Those that are not of the other.
    #[must_use]
    pub fn without(self, other: Privileges) -> Privileges {
        Privileges(self.0 & !other.0)
    }

    /// Whether all of the others are among these.
    pub fn contain(self, other: Privileges) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The privilege of that name, in upper case.
    pub fn named(name: &str) -> Option<Privileges> {
        NAMES.iter().find(|(_, _, n)| *n == name).map(|(p, ..)| *p)
    }

    /// Each: itself, its letter in an access control list, its name.
    pub fn each(self) -> impl Iterator<Item = (Privileges, char, &'static str)> {
        NAMES.into_iter().filter(move |(p, ..)| self.contain(*p))
    }
}

/// What privileges are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Securable {
    /// A table, view or sequence.
    Relation(RelationId),
    /// The schema `public`.
    Schema,
}

/// One line of an access control list: what one role has given another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEntry {
    /// Who has them; `None`: PUBLIC, everybody.
    pub grantee: Option<String>,
    /// Who has given them.
    pub grantor: String,
    /// What.
    pub privileges: Privileges,
    /// Those of them that the grantee may give on (WITH GRANT OPTION).
    #[serde(default)]
    pub grantable: Privileges,
}

/// A membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Who has given it.
    pub grantor: String,
    /// WITH ADMIN OPTION: may give it on.
    #[serde(default)]
    pub admin: bool,
}

/// Owners, privileges and memberships: what a catalog keeps of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessControl {
    /// Owners of relations other than [`BOOTSTRAP_ROLE`]; a column's sequence belongs to the owner of its table.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub owners: BTreeMap<RelationId, String>,
    /// Access control lists of relations that are not the default one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub lists: BTreeMap<RelationId, Vec<AccessEntry>>,
    /// That of the schema `public`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Vec<AccessEntry>>,
    /// Members of roles: by role, then by member.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<String, BTreeMap<String, Membership>>,
}

impl AccessControl {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        *self == AccessControl::default()
    }
}

impl Catalog {
    /// Whether a role may do anything.
    pub fn is_superuser(&self, role: &str) -> bool {
        self.roles.get(role).is_some_and(|r| r.superuser)
    }

    /// Whether a role may do what concerns the cluster as a whole.
    pub fn is_administrator(&self, role: &str) -> bool {
        self.is_superuser(role) || (self.roles.contains_key(ADMINISTRATORS) && self.acts_for(role, ADMINISTRATORS))
    }

    /// Whether a role is, or may become with SET ROLE, one that [`Catalog::is_administrator`] speaks of. CREATEROLE does not reach it:
    /// whoever may set its password, or become its member, would be one as well.
    pub fn may_become_administrator(&self, role: &str) -> bool {
        self.reached(role, |_| true).into_iter().any(|other| other == ADMINISTRATORS || self.is_superuser(other))
    }

    /// The owner of a table, view or sequence.
    pub fn owner_of(&self, relation: RelationId) -> &str {
        let relation = match self.sequences.get(&relation).and_then(|s| s.owned_by) {
            Some((table, _)) => table,
            None => relation,
        };
        self.access.owners.get(&relation).map_or(BOOTSTRAP_ROLE, String::as_str)
    }

    /// The relation of that name (of a declared fragment or an index: its table) whose owner and privileges decide.
    pub fn secured_relation(&self, name: &str) -> Option<RelationId> {
        self.names.get(name).map(|object| match object {
            NamedObject::Table(id)
            | NamedObject::Fragment(id)
            | NamedObject::Index(id)
            | NamedObject::View(id)
            | NamedObject::Sequence(id) => *id,
        })
    }

    /// Whether there is a table, view or sequence of that id.
    pub fn has_relation(&self, id: RelationId) -> bool {
        self.tables.contains_key(&id) || self.views.contains_key(&id) || self.sequences.contains_key(&id)
    }

    /// Its owner.
    pub fn owner(&self, object: Securable) -> &str {
        match object {
            Securable::Relation(id) => self.owner_of(id),
            Securable::Schema => BOOTSTRAP_ROLE,
        }
    }

    /// What there is to be given on it.
    pub fn privileges_on(&self, object: Securable) -> Privileges {
        match object {
            Securable::Relation(id) if self.sequences.contains_key(&id) => Privileges::SEQUENCE,
            Securable::Relation(_) => Privileges::TABLE,
            Securable::Schema => Privileges::SCHEMA,
        }
    }

    /// Its access control list as it was written down; `None`: the default one.
    pub fn stored_list(&self, object: Securable) -> Option<&Vec<AccessEntry>> {
        match object {
            Securable::Relation(id) => self.access.lists.get(&id),
            Securable::Schema => self.access.schema.as_ref(),
        }
    }

    /// Its access control list. By default the owner has everything, and everybody may use the schema.
    pub fn list_of(&self, object: Securable) -> Vec<AccessEntry> {
        if let Some(list) = self.stored_list(object) {
            return list.clone();
        }
        let owner = self.owner(object).to_owned();
        let entry = |grantee: Option<String>, privileges| AccessEntry {
            grantee,
            grantor: owner.clone(),
            privileges,
            grantable: Privileges::NONE,
        };
        let mut list = vec![entry(Some(owner.clone()), self.privileges_on(object))];
        if object == Securable::Schema {
            list.insert(0, entry(None, Privileges::USAGE));
        }
        list
    }

    /// The roles whose privileges a role has: itself, and those that it is a member of, as far as INHERIT reaches.
    pub fn acting_roles(&self, role: &str) -> BTreeSet<&str> {
        self.reached(role, |through| self.roles.get(through).is_some_and(|r| r.inherit))
    }

    /// Whether a role has the privileges of another.
    pub fn acts_for(&self, role: &str, other: &str) -> bool {
        role == other || self.is_superuser(role) || self.acting_roles(role).contains(other)
    }

    /// Whether a role may become another with SET ROLE.
    pub fn is_member(&self, role: &str, other: &str) -> bool {
        role == other || self.is_superuser(role) || self.reached(role, |_| true).contains(other)
    }

    /// Whether a role may give membership in another: a superuser, or whoever has it WITH ADMIN OPTION.
    pub fn may_give_membership(&self, role: &str, other: &str) -> bool {
        let admin = |member: &str| self.access.members.get(other).and_then(|m| m.get(member)).is_some_and(|m| m.admin);
        self.is_superuser(role) || self.reached(role, |_| true).into_iter().any(admin)
    }

    /// The roles reached from one, itself among them, through memberships of those that `through` lets pass.
    pub(super) fn reached(&self, role: &str, through: impl Fn(&str) -> bool) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let Some((role, _)) = self.roles.get_key_value(role) else { return found };
        found.insert(role.as_str());
        let mut open = vec![role.as_str()];
        while let Some(member) = open.pop() {
            if !through(member) {
                continue;
            }
            for (of, members) in &self.access.members {
                if members.contains_key(member) && found.insert(of) {
                    open.push(of);
                }
            }
        }
        found
    }

    /// What a role may do with an object.
    pub fn privileges_of(&self, role: &str, object: Securable) -> Privileges {
        if self.is_superuser(role) {
            return self.privileges_on(object);
        }
        let roles = self.acting_roles(role);
        let applies = |e: &&AccessEntry| e.grantee.as_deref().is_none_or(|g| roles.contains(g));
        let sum = |entries: &[AccessEntry]| {
            entries.iter().filter(applies).fold(Privileges::NONE, |sum, e| sum.and(e.privileges))
        };
        match self.stored_list(object) {
            Some(list) => sum(list),
            None => sum(&self.list_of(object)),
        }
    }

    /// Who gives privileges when a role does, and which it may give: PostgreSQL's `select_best_grantor`. The owner's own are given in
    /// the owner's name; otherwise it is the role, among those that it acts for, that may give the most of what is wanted.
    pub fn grantor_for(&self, role: &str, object: Securable, wanted: Privileges) -> (String, Privileges) {
        let owner = self.owner(object);
        if self.acts_for(role, owner) {
            return (owner.to_owned(), self.privileges_on(object));
        }
        let list = self.list_of(object);
        let may_give = |grantor: &str| {
            let own = list.iter().filter(|e| e.grantee.as_deref() == Some(grantor));
            own.fold(Privileges::NONE, |sum, e| sum.and(e.grantable)).both(wanted)
        };
        let mut best = (role.to_owned(), may_give(role));
        for other in self.acting_roles(role) {
            let given = may_give(other);
            if given.0.count_ones() > best.1.0.count_ones() {
                best = (other.to_owned(), given);
            }
        }
        best
    }
}
