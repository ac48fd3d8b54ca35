//! Who may define what: owners what is theirs, administrators what concerns the cluster, roles with CREATEROLE other roles.
//!
//! Invariant: a definition is checked by the commands that it comes to, before the first of them is applied; a new kind of command
//! does not compile before it has been said here who may issue it.

use super::{Identity, administrator, denied, insufficient, kind};
use crate::ddl::{Step, relation_name};
use crate::pg::parse::Statement;
use atoll_model::{
    Catalog, CatalogCommand, Error, ErrorKind, Grant, NamedObject, NewFragmentation, NewTable, Privileges, Result,
    RoleChange, Securable, TableChange,
};
use datafusion::sql::sqlparser::ast::{ObjectName, Statement as Ast};

/// What is asked before a definition is bound: what its steps do not say, and the privileges on a relation that is to be changed, so that
/// strangers are told of those first, as by PostgreSQL, and nothing about the relation.
///
/// # Errors
/// `InsufficientPrivilege`.
pub(crate) fn may_run(statement: &Statement, catalog: &Catalog, role: &str) -> Result<()> {
    // A name that can be none of the schema `public` is answered by binding.
    let owns_named = |name: &ObjectName| relation_name(name).map_or(Ok(()), |name| owns(catalog, role, &name));
    match statement {
        // What the site's user can reach, everybody could otherwise.
        Statement::ImportSchema { .. } => administrator(catalog, role, "adopt tables of a site"),
        Statement::AlterSequence { name, .. } | Statement::SetOwner { name, .. } => owns(catalog, role, name),
        Statement::Sql(ast) => match ast.as_ref() {
            Ast::AlterTable(alter) => owns_named(&alter.name),
            Ast::CreateIndex(create) => owns_named(&create.table_name),
            // Here what is no table is told so first.
            Ast::Truncate(truncate) => {
                let names = truncate.table_names.iter().filter_map(|target| relation_name(&target.name).ok());
                let tables = |name: &String| catalog.table(name).is_some() || catalog.fragment(name).is_some();
                names.filter(tables).try_for_each(|name| has(catalog, role, &name, Privileges::TRUNCATE))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Whether a role may take all the steps of a definition.
///
/// # Errors
/// `InsufficientPrivilege`.
pub(crate) fn steps(steps: &[Step], catalog: &Catalog, who: &Identity) -> Result<()> {
    let role = &*who.current_user;
    if catalog.is_superuser(role) {
        return commands(steps).try_for_each(|command| own_role(command, who));
    }
    // A table that is made anew, as ADD PRIMARY KEY does: that is a change of the old one.
    let anew = commands(steps).find_map(|command| match command {
        CatalogCommand::TakeAccess { relation, .. } => Some(relation.as_str()),
        _ => None,
    });
    for command in commands(steps) {
        let of = match command {
            CatalogCommand::CreateTable(new) => Some(new.name.as_str()),
            CatalogCommand::AlterTable { table, .. } => Some(table.as_str()),
            _ => None,
        };
        if of.is_none() || of != anew {
            own_role(command, who)?;
            may_apply(command, catalog, role)?;
        }
    }
    for step in steps {
        if let Step::Restart { sequence, .. } = step {
            owns(catalog, role, sequence)?;
        }
    }
    Ok(())
}

fn commands(steps: &[Step]) -> impl Iterator<Item = &CatalogCommand> {
    steps.iter().filter_map(|step| match step {
        Step::Apply(command) => Some(command),
        _ => None,
    })
}

/// Nobody drops the role that they are.
fn own_role(command: &CatalogCommand, who: &Identity) -> Result<()> {
    let CatalogCommand::DropRole { name } = command else { return Ok(()) };
    let in_use = |what: &str| Err(Error::new(ErrorKind::ObjectInUse, format!("{what} user cannot be dropped")));
    match name.as_str() {
        name if name == &*who.current_user => in_use("current"),
        name if name == &*who.session_user => in_use("session"),
        _ => Ok(()),
    }
}

/// What there is not is left to the catalog, which says so.
fn may_apply(command: &CatalogCommand, catalog: &Catalog, role: &str) -> Result<()> {
    match command {
        CatalogCommand::CreateSite { .. } => administrator(catalog, role, "create site"),
        CatalogCommand::AlterSite { .. } => administrator(catalog, role, "alter site"),
        CatalogCommand::DropSite { .. } => administrator(catalog, role, "drop site"),
        CatalogCommand::BeginMove { .. }
        | CatalogCommand::CancelMove { .. }
        | CatalogCommand::PromoteCopy { .. }
        | CatalogCommand::SetBehind { .. }
        | CatalogCommand::Rejoin { .. } => administrator(catalog, role, "move a fragment"),
        CatalogCommand::CreateTable(new) => create_table(new, catalog, role),
        CatalogCommand::CreateFragment { table, fragment } => {
            if fragment.adopted.is_some() {
                administrator(catalog, role, "adopt a table of a site")?;
            }
            owns(catalog, role, table)
        }
        CatalogCommand::DropFragment { name }
        | CatalogCommand::DropTable { name, .. }
        | CatalogCommand::DropView { name, .. }
        | CatalogCommand::DropSequence { name }
        | CatalogCommand::DropIndex { name } => owns(catalog, role, name),
        CatalogCommand::Truncate { tables, restart_identity } => {
            for table in tables {
                has(catalog, role, table, Privileges::TRUNCATE)?;
                if *restart_identity {
                    owned_sequences(catalog, table).try_for_each(|sequence| owns(catalog, role, sequence))?;
                }
            }
            Ok(())
        }
        CatalogCommand::AlterTable { table, change } => {
            owns(catalog, role, table)?;
            match change {
                TableChange::AddForeignKey(key) => has(catalog, role, &key.parent, Privileges::REFERENCES),
                TableChange::Rename(_) => may_create(catalog, role),
                TableChange::AddColumn(_)
                | TableChange::DropColumn { .. }
                | TableChange::RenameColumn { .. }
                | TableChange::SetDefault { .. }
                | TableChange::SetNotNull { .. }
                | TableChange::SetOnReplicaDown(_)
                | TableChange::AddCheck { .. }
                | TableChange::DropConstraint { .. } => Ok(()),
            }
        }
        CatalogCommand::CreateIndex { table, .. } => {
            owns(catalog, role, table)?;
            may_create(catalog, role)
        }
        CatalogCommand::CreateView { name, replace, .. } => {
            may_create(catalog, role)?;
            if *replace && catalog.view(name).is_some() { owns(catalog, role, name) } else { Ok(()) }
        }
        CatalogCommand::CreateSequence(_) => may_create(catalog, role),
        CatalogCommand::Comment { relation, .. } => owns(catalog, role, relation),
        CatalogCommand::CreateRole { name, attributes } => {
            manages_roles(catalog, role, "create role")?;
            if attributes.superuser == Some(true) {
                return Err(insufficient("must be superuser to create superusers"));
            }
            if name == atoll_model::ADMINISTRATORS {
                return Err(insufficient(format!("must be superuser to create the role {name}")));
            }
            Ok(())
        }
        CatalogCommand::AlterRole { name, attributes } => alter_role(name, attributes, catalog, role),
        CatalogCommand::DropRole { name } => {
            manages_roles(catalog, role, "drop role")?;
            if catalog.is_superuser(name) {
                return Err(insufficient("must be superuser to drop superusers"));
            }
            if catalog.may_become_administrator(name) {
                return Err(above_create_role("drop", name));
            }
            Ok(())
        }
        CatalogCommand::GrantRole { role: granted, .. } | CatalogCommand::RevokeRole { role: granted, .. } => {
            gives_membership(granted, catalog, role)
        }
        CatalogCommand::SetOwner { relation, owner } => {
            owns(catalog, role, relation)?;
            if !catalog.roles.contains_key(owner) {
                return Ok(());
            }
            if !catalog.is_member(role, owner) {
                return Err(insufficient(format!("must be member of role \"{owner}\"")));
            }
            may_create(catalog, owner)
        }
        // For a primary key, which is an index.
        CatalogCommand::TakeAccess { relation: _, from } => {
            owns(catalog, role, from)?;
            may_create(catalog, role)
        }
        CatalogCommand::ReassignOwned { from, to } => {
            for other in [from, to] {
                if !catalog.acts_for(role, other) {
                    return Err(insufficient("permission denied to reassign objects"));
                }
            }
            Ok(())
        }
        CatalogCommand::RevokeAll { role: of } => {
            if catalog.acts_for(role, of) {
                Ok(())
            } else {
                Err(insufficient("permission denied to drop objects"))
            }
        }
        CatalogCommand::Grant(grant) | CatalogCommand::Revoke { from: grant, .. } => gives(grant, catalog, role),
    }
}

/// Whether the grantor of a grant is who may give it for the role.
fn gives(grant: &Grant, catalog: &Catalog, role: &str) -> Result<()> {
    let object = match grant.relation.as_deref() {
        None => Securable::Schema,
        Some(name) => match catalog.secured_relation(name) {
            Some(id) => Securable::Relation(id),
            None => return Ok(()),
        },
    };
    let (grantor, may_give) = catalog.grantor_for(role, object, grant.privileges);
    if grantor == grant.grantor && may_give.contain(grant.privileges) {
        return Ok(());
    }
    Err(match grant.relation.as_deref() {
        Some(name) => denied(catalog, name),
        None => insufficient("permission denied for schema public"),
    })
}

fn create_table(new: &NewTable, catalog: &Catalog, role: &str) -> Result<()> {
    may_create(catalog, role)?;
    if new.adopted.is_some() {
        administrator(catalog, role, "adopt a table of a site")?;
    }
    let derived = match &new.fragmentation {
        NewFragmentation::Derived { parent, .. } => Some(parent),
        NewFragmentation::Default
        | NewFragmentation::Copies
        | NewFragmentation::List(_)
        | NewFragmentation::Range(_)
        | NewFragmentation::Hash(_) => None,
    };
    // To be placed as another table's rows are binds that table as a foreign key does.
    let parents = new.foreign_keys.iter().map(|key| &key.parent).chain(derived);
    parents
        .filter(|parent| **parent != new.name)
        .try_for_each(|parent| has(catalog, role, parent, Privileges::REFERENCES))
}

fn manages_roles(catalog: &Catalog, role: &str, what: &str) -> Result<()> {
    if catalog.is_superuser(role) || catalog.roles.get(role).is_some_and(|r| r.create_role) {
        return Ok(());
    }
    Err(insufficient(format!("permission denied to {what}")).hint("The role needs the attribute CREATEROLE."))
}

fn alter_role(name: &str, attributes: &RoleChange, catalog: &Catalog, role: &str) -> Result<()> {
    let own_password =
        name == role && *attributes == RoleChange { password: attributes.password.clone(), ..RoleChange::default() };
    if own_password || catalog.is_superuser(role) {
        return Ok(());
    }
    if !catalog.roles.contains_key(name) {
        return Ok(());
    }
    if catalog.is_superuser(name) || attributes.superuser.is_some() {
        return Err(insufficient("must be superuser to alter superuser roles or change superuser attribute"));
    }
    if catalog.may_become_administrator(name) {
        return Err(above_create_role("alter", name));
    }
    if catalog.roles.get(role).is_some_and(|r| r.create_role) {
        return Ok(());
    }
    Err(insufficient("permission denied")
        .hint("The role needs the attribute CREATEROLE; everybody may change their own password."))
}

/// What CREATEROLE does not reach. PostgreSQL 15 lets it alter and give members of superusers, by which one becomes a superuser.
fn above_create_role(what: &str, role: &str) -> Error {
    insufficient(format!("must be superuser to {what} role \"{role}\""))
        .detail(format!("It is the role {0}, or a member of it or of a superuser.", atoll_model::ADMINISTRATORS))
}

/// CREATEROLE reaches every role that is no way to administer the cluster: those take the ADMIN OPTION, or a superuser.
fn gives_membership(granted: &str, catalog: &Catalog, role: &str) -> Result<()> {
    if catalog.is_superuser(granted) && !catalog.is_superuser(role) {
        return Err(insufficient("must be superuser to alter superusers"));
    }
    let manages = catalog.roles.get(role).is_some_and(|r| r.create_role) && !catalog.may_become_administrator(granted);
    if manages || !catalog.roles.contains_key(granted) || catalog.may_give_membership(role, granted) {
        return Ok(());
    }
    Err(insufficient(format!("must have admin option on role \"{granted}\"")))
}

/// CREATE in the schema `public`.
fn may_create(catalog: &Catalog, role: &str) -> Result<()> {
    if catalog.privileges_of(role, Securable::Schema).contain(Privileges::CREATE) {
        return Ok(());
    }
    Err(insufficient("permission denied for schema public").hint(format!(
        "A superuser may GRANT CREATE ON SCHEMA public TO {}.",
        crate::pg::functions::definitions::quote_ident(role)
    )))
}

fn has(catalog: &Catalog, role: &str, relation: &str, wanted: Privileges) -> Result<()> {
    match catalog.secured_relation(relation) {
        Some(id) if !catalog.privileges_of(role, Securable::Relation(id)).contain(wanted) => {
            Err(denied(catalog, relation))
        }
        _ => Ok(()),
    }
}

/// Whether a role is the owner of a relation (of an index or a fragment: of its table), or stands for it.
fn owns(catalog: &Catalog, role: &str, relation: &str) -> Result<()> {
    match catalog.secured_relation(relation) {
        Some(id) if !catalog.acts_for(role, catalog.owner_of(id)) => {
            Err(insufficient(format!("must be owner of {} {relation}", kind(catalog, relation))).table(relation))
        }
        _ => Ok(()),
    }
}

fn owned_sequences<'c>(catalog: &'c Catalog, table: &str) -> impl Iterator<Item = &'c str> {
    let table = match catalog.names.get(table) {
        Some(NamedObject::Table(id)) => Some(*id),
        _ => None,
    };
    let of = move |s: &&std::sync::Arc<atoll_model::Sequence>| s.owned_by.is_some_and(|(t, _)| Some(t) == table);
    catalog.sequences.values().filter(of).map(|s| s.name.as_str())
}
