//! GRANT, REVOKE, ALTER ROLE and their like, which say CURRENT_USER: what they change, who gives it, and what PostgreSQL warns of.

use super::Identity;
use crate::ddl::{self, Bound};
use crate::pg::parse::{GrantObjects, GrantPrivileges, RoleName, Statement};
use crate::syntax::fold;
use atoll_model::{Catalog, CatalogCommand, Error, ErrorKind, Grant, NamedObject, Privileges, Result, Securable};
use datafusion::sql::sqlparser::ast::{AlterTableOperation, Owner, Statement as Ast};

/// Binds a statement about privileges, membership and owners; `None`: it is none.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn bind(statement: &Statement, catalog: &Catalog, who: &Identity) -> Result<Option<Bound>> {
    Ok(Some(match statement {
        Statement::Grant(grant) => privileges(grant, catalog, who)?,
        Statement::GrantRoles { roles, members, option, revoke } => {
            membership(roles, members, *option, *revoke, catalog, who)?
        }
        Statement::CreateRole { name, attributes, if_not_exists } if !attributes.in_roles.is_empty() => {
            let mut bound = ddl::create_role(name, attributes, *if_not_exists, catalog)?;
            // One that is there is left as it is.
            if !bound.steps.is_empty() {
                for role in &attributes.in_roles {
                    let (role, member, grantor) = (role.clone(), name.clone(), who.current_user.to_string());
                    bound.apply(CatalogCommand::GrantRole { role, member, admin: false, grantor });
                }
            }
            bound
        }
        Statement::AlterRole { role, attributes } => ddl::alter_role(named(role, who)?, attributes)?,
        Statement::SetOwner { name, sequence, if_exists, owner } => {
            let tag = if *sequence { "ALTER SEQUENCE" } else { "ALTER VIEW" };
            let (fits, what) = match catalog.names.get(name) {
                None if *if_exists => {
                    let message = format!("relation \"{name}\" does not exist, skipping");
                    return Ok(Some(Bound::skipped(tag, "00000", message)));
                }
                None => return Err(ddl::undefined_table(name)),
                Some(object) if *sequence => (matches!(object, NamedObject::Sequence(_)), "sequence"),
                Some(object) => (matches!(object, NamedObject::View(_)), "view"),
            };
            if !fits {
                return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not a {what}")));
            }
            set_owner(tag, name, named(owner, who)?)
        }
        Statement::Sql(ast) => match ast.as_ref() {
            Ast::AlterTable(alter) => match alter.operations.as_slice() {
                [AlterTableOperation::OwnerTo { new_owner }] => {
                    let name = ddl::relation_name(&alter.name)?;
                    if alter.if_exists && !catalog.names.contains_key(&name) {
                        return Ok(None);
                    }
                    let owner = match new_owner {
                        Owner::Ident(ident) => RoleName::Named(fold(ident)),
                        Owner::CurrentRole | Owner::CurrentUser => RoleName::CurrentUser,
                        Owner::SessionUser => RoleName::SessionUser,
                    };
                    set_owner("ALTER TABLE", &name, named(&owner, who)?)
                }
                _ => return Ok(None),
            },
            _ => return Ok(None),
        },
        Statement::ReassignOwned { from, to } => {
            let mut bound = Bound::of("REASSIGN OWNED");
            for from in from {
                bound.apply(CatalogCommand::ReassignOwned { from: named(from, who)?, to: named(to, who)? });
            }
            bound
        }
        Statement::DropOwned { roles } => {
            let mut bound = Bound::of("DROP OWNED");
            for role in roles {
                bound.apply(CatalogCommand::RevokeAll { role: named(role, who)? });
            }
            bound
        }
        _ => return Ok(None),
    }))
}

fn set_owner(tag: &'static str, relation: &str, owner: String) -> Bound {
    Bound::one(tag, CatalogCommand::SetOwner { relation: relation.into(), owner })
}

/// The name of a role that is not PUBLIC.
fn named(role: &RoleName, who: &Identity) -> Result<String> {
    grantee(role, who)?.ok_or_else(|| Error::new(ErrorKind::Syntax, "a role is needed here, not PUBLIC"))
}

fn grantee(role: &RoleName, who: &Identity) -> Result<Option<String>> {
    Ok(match role {
        RoleName::Named(name) => Some(name.clone()),
        RoleName::CurrentUser => Some(who.current_user.to_string()),
        RoleName::SessionUser => Some(who.session_user.to_string()),
        RoleName::Public => None,
    })
}

fn membership(
    roles: &[String],
    members: &[RoleName],
    option: bool,
    revoke: bool,
    catalog: &Catalog,
    who: &Identity,
) -> Result<Bound> {
    let mut bound = Bound::of(if revoke { "REVOKE ROLE" } else { "GRANT ROLE" });
    for role in roles {
        for member in members {
            let member = named(member, who)?;
            let is = catalog.access.members.get(role).and_then(|m| m.get(&member));
            let there = catalog.roles.contains_key(role) && catalog.roles.contains_key(&member);
            let role = role.clone();
            if there && !revoke && is.is_some_and(|m| m.admin || !option) {
                bound.notice("00000", format!("role \"{member}\" is already a member of role \"{role}\""));
            }
            if there && revoke && is.is_none() {
                bound.warning("01000", format!("role \"{member}\" is not a member of role \"{role}\""));
            }
            bound.apply(if revoke {
                CatalogCommand::RevokeRole { role, member, admin_only: option }
            } else {
                CatalogCommand::GrantRole { role, member, admin: option, grantor: who.current_user.to_string() }
            });
        }
    }
    Ok(bound)
}

/// An object of a GRANT: its name (`None`: the schema), what it is to the catalog, what PostgreSQL calls it.
struct Object {
    relation: Option<String>,
    securable: Securable,
    kind: &'static str,
}

fn privileges(grant: &GrantPrivileges, catalog: &Catalog, who: &Identity) -> Result<Bound> {
    let revoke = grant.revoke.is_some();
    let mut bound = Bound::of(if revoke { "REVOKE" } else { "GRANT" });
    let grantees: Vec<Option<String>> = grant.roles.iter().map(|r| grantee(r, who)).collect::<Result<_>>()?;
    for name in grantees.iter().flatten() {
        catalog.role_named(name)?;
    }
    if grant.on == GrantObjects::Database {
        return connect_only(grant, bound);
    }
    for object in objects(&grant.on, catalog)? {
        let possible = catalog.privileges_on(object.securable);
        let wanted = wanted(grant, possible, &object)?;
        if object.securable == Securable::Schema && revoke && wanted.contain(Privileges::USAGE) {
            return Err(Error::unsupported("USAGE of the schema public cannot be taken from anybody")
                .hint("REVOKE CREATE ON SCHEMA public; what is in the schema has privileges of its own."));
        }
        let (grantor, may_give) = catalog.grantor_for(&who.current_user, object.securable, wanted);
        let given = wanted.both(may_give);
        let name = object.relation.as_deref().unwrap_or("public");
        if may_give.is_empty() && catalog.privileges_of(&who.current_user, object.securable).is_empty() {
            return Err(super::insufficient(format!("permission denied for {} {name}", object.kind)));
        }
        // ALL means all that one may give.
        if given.is_empty() || (given != wanted && !is_all(grant)) {
            let few = if given.is_empty() { "no" } else { "not all" };
            let (verb, sqlstate) = if revoke { ("could be revoked", "01006") } else { ("were granted", "01007") };
            bound.warning(sqlstate, format!("{few} privileges {verb} for \"{name}\""));
        }
        if given.is_empty() {
            continue;
        }
        let change = Grant {
            relation: object.relation,
            privileges: given,
            grantees: grantees.clone(),
            grantor,
            grantable: grant.option,
        };
        bound.apply(match grant.revoke {
            None => CatalogCommand::Grant(change),
            Some(cascade) => CatalogCommand::Revoke { from: change, cascade },
        });
    }
    Ok(bound)
}

fn is_all(grant: &GrantPrivileges) -> bool {
    matches!(grant.privileges.as_slice(), [one] if one == "ALL")
}

/// The privileges that are named, as far as the object has them.
fn wanted(grant: &GrantPrivileges, possible: Privileges, object: &Object) -> Result<Privileges> {
    if is_all(grant) {
        return Ok(possible);
    }
    let mut wanted = Privileges::NONE;
    for name in &grant.privileges {
        let privilege = Privileges::named(name).ok_or_else(|| {
            Error::new(ErrorKind::Syntax, format!("unrecognized privilege type \"{}\"", name.to_lowercase()))
        })?;
        if !possible.contain(privilege) {
            let kind = if object.kind == "view" { "table" } else { object.kind };
            let kind = if kind == "table" { "relation" } else { kind };
            return Err(Error::new(ErrorKind::InvalidGrant, format!("invalid privilege type {name} for {kind}")));
        }
        wanted = wanted.and(privilege);
    }
    Ok(wanted)
}

/// Everybody who may log in may connect to the one database: granting that changes nothing, and nothing else can be granted on it.
fn connect_only(grant: &GrantPrivileges, bound: Bound) -> Result<Bound> {
    if grant.revoke.is_none() && !grant.option && grant.privileges.iter().all(|p| p == "CONNECT") {
        return Ok(bound);
    }
    Err(Error::unsupported("privileges on the database other than GRANT CONNECT").hint(
        "ALTER ROLE … NOLOGIN keeps a role from connecting; CREATE ON SCHEMA public is what making tables takes.",
    ))
}

fn objects(on: &GrantObjects, catalog: &Catalog) -> Result<Vec<Object>> {
    let relation =
        |name: &String, kind, id| Object { relation: Some(name.clone()), securable: Securable::Relation(id), kind };
    Ok(match on {
        GrantObjects::Schema => vec![Object { relation: None, securable: Securable::Schema, kind: "schema" }],
        GrantObjects::Database => vec![],
        GrantObjects::AllTables => {
            let tables = catalog.tables.values().map(|t| relation(&t.name, "table", t.id));
            tables.chain(catalog.views.values().map(|v| relation(&v.name, "view", v.id))).collect()
        }
        GrantObjects::AllSequences => catalog.sequences.values().map(|s| relation(&s.name, "sequence", s.id)).collect(),
        GrantObjects::Relations(names) | GrantObjects::Sequences(names) => {
            let sequences = matches!(on, GrantObjects::Sequences(_));
            let mut found = vec![];
            for name in names {
                found.push(match catalog.names.get(name) {
                    Some(NamedObject::Sequence(id)) => relation(name, "sequence", *id),
                    Some(_) if sequences => {
                        return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not a sequence")));
                    }
                    Some(NamedObject::Table(id)) => relation(name, "table", *id),
                    Some(NamedObject::View(id)) => relation(name, "view", *id),
                    Some(NamedObject::Fragment(_)) => {
                        return Err(Error::unsupported(format!("privileges on the fragment \"{name}\""))
                            .hint("A fragment has the privileges of its table: grant them there."));
                    }
                    Some(NamedObject::Index(_)) => {
                        return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is an index")));
                    }
                    None => return Err(ddl::undefined_table(name)),
                });
            }
            found
        }
    })
}
