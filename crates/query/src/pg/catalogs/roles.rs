//! Roles, memberships and privileges: `pg_roles`, `pg_user`, `pg_auth_members`, and information_schema's views of privileges.
//!
//! Invariant: nothing here shows a password or what is made from one.

use super::table::{Definition, Source, b, o, t, table, time};
use crate::pg::functions::definitions as def;
use atoll_model::{Privileges, Row, Securable, Value};

const GRANTS: &str =
    "grantor:t grantee:t table_catalog:t table_schema:t table_name:t privilege_type:t is_grantable:t with_hierarchy:t";

pub(super) fn tables() -> Vec<Definition> {
    vec![
        table(
            "pg_roles",
            "rolname:t rolsuper:b rolinherit:b rolcreaterole:b rolcreatedb:b rolcanlogin:b rolreplication:b rolconnlimit:i rolpassword:t \
             rolvaliduntil:z rolbypassrls:b rolconfig:T oid:o",
            |s| {
                let role = |r: &atoll_model::Role| {
                    vec![
                        t(&r.name),
                        b(r.superuser),
                        b(r.inherit),
                        b(r.create_role || r.superuser),
                        b(r.create_db || r.superuser),
                        b(r.login),
                        b(r.superuser),
                        Value::Int4(-1),
                        t("********"),
                        time(r.valid_until),
                        b(r.superuser),
                        Value::Null,
                        o(def::role_oid(s.catalog, &r.name)),
                    ]
                };
                s.catalog.roles.values().map(|r| role(r)).collect()
            },
        ),
        table(
            "pg_user",
            "usename:t usesysid:o usecreatedb:b usesuper:b userepl:b usebypassrls:b passwd:t valuntil:z useconfig:T",
            |s| {
                let user = |r: &atoll_model::Role| {
                    vec![
                        t(&r.name),
                        o(def::role_oid(s.catalog, &r.name)),
                        b(r.create_db || r.superuser),
                        b(r.superuser),
                        b(r.superuser),
                        b(r.superuser),
                        t("********"),
                        time(r.valid_until),
                        Value::Null,
                    ]
                };
                s.catalog.roles.values().filter(|r| r.login).map(|r| user(r)).collect()
            },
        ),
        table("pg_auth_members", "roleid:o member:o grantor:o admin_option:b", |s| {
            let oid = |name: &str| o(def::role_oid(s.catalog, name));
            let memberships =
                s.catalog.access.members.iter().flat_map(|(role, members)| {
                    members.iter().map(move |(member, membership)| (role, member, membership))
                });
            memberships.map(|(role, member, m)| vec![oid(role), oid(member), oid(&m.grantor), b(m.admin)]).collect()
        }),
    ]
}

/// information_schema's. Of the privileges on a table PostgreSQL shows those that the user gave or has; here everybody sees all.
pub(super) fn information() -> Vec<Definition> {
    vec![
        table("table_privileges", GRANTS, |s| grants(s, true)),
        table("role_table_grants", GRANTS, |s| grants(s, false)),
        table("enabled_roles", "role_name:t", |s| s.catalog.roles.keys().map(|name| vec![t(name)]).collect()),
    ]
}

fn grants(s: &Source<'_>, public: bool) -> Vec<Row> {
    let tables = s.catalog.tables.values().map(|x| (x.id, &x.name));
    let mut rows = vec![];
    for (id, name) in tables.chain(s.catalog.views.values().map(|v| (v.id, &v.name))) {
        let owner = s.catalog.owner_of(id);
        for entry in s.catalog.list_of(Securable::Relation(id)) {
            if entry.grantee.is_none() && !public {
                continue;
            }
            // The owner may give everything.
            let owners = entry.grantee.as_deref() == Some(owner);
            for (privilege, _, word) in entry.privileges.each() {
                let yes = |yes: bool| t(if yes { "YES" } else { "NO" });
                rows.push(vec![
                    t(&entry.grantor),
                    t(entry.grantee.as_deref().unwrap_or("PUBLIC")),
                    t("atoll"),
                    t("public"),
                    t(name),
                    t(word),
                    yes(owners || entry.grantable.contain(privilege)),
                    yes(privilege == Privileges::SELECT),
                ]);
            }
        }
    }
    rows
}
