//! Roles, owners and privileges.

use super::*;

fn role(name: &str) -> CatalogCommand {
    CatalogCommand::CreateRole { name: name.into(), attributes: RoleChange::default() }
}

fn grant(on: &str, privileges: Privileges, grantor: &str, grantee: Option<&str>, grantable: bool) -> Grant {
    let grantees = vec![grantee.map(str::to_owned)];
    Grant { relation: Some(on.into()), privileges, grantees, grantor: grantor.into(), grantable }
}

fn give(on: &str, privileges: Privileges, grantor: &str, grantee: Option<&str>) -> CatalogCommand {
    CatalogCommand::Grant(grant(on, privileges, grantor, grantee, false))
}

fn take(from: Grant, cascade: bool) -> CatalogCommand {
    CatalogCommand::Revoke { from, cascade }
}

fn member(role: &str, member: &str) -> CatalogCommand {
    let (role, member) = (role.into(), member.into());
    CatalogCommand::GrantRole { role, member, admin: false, grantor: BOOTSTRAP_ROLE.into() }
}

fn own(relation: &str, owner: &str) -> CatalogCommand {
    CatalogCommand::SetOwner { relation: relation.into(), owner: owner.into() }
}

impl Script {
    /// Some roles, and a table of Ann's with a sequence.
    fn with_roles() -> Self {
        let mut s = Script::new();
        for name in ["ann", "bob", "cem", "staff"] {
            s.ok(role(name));
        }
        s.create(at(table("t", "id integer key, n integer serial"), &["bj"]));
        s.ok(own("t", "ann"));
        s
    }

    fn may(&self, role: &str, relation: &str) -> String {
        let id = self.catalog.secured_relation(relation).expect("a relation");
        self.catalog.privileges_of(role, Securable::Relation(id)).each().map(|(_, letter, _)| letter).collect()
    }
}

#[test]
fn owners_have_everything_and_others_what_they_are_given() {
    let mut s = Script::with_roles();
    assert_eq!(
        (s.may("ann", "t"), s.may("bob", "t"), s.may("atoll", "t")),
        ("arwdDxt".into(), "".into(), "arwdDxt".into())
    );
    assert_eq!((s.may("ann", "t_n_seq"), s.may("bob", "t_n_seq")), ("rwU".into(), "".into()), "the table's owner");
    s.ok(give("t", Privileges::SELECT, "ann", Some("bob")));
    s.ok(give("t", Privileges::INSERT, "ann", None));
    assert_eq!((s.may("bob", "t"), s.may("cem", "t"), s.may("nobody", "t")), ("ar".into(), "a".into(), "a".into()));
    s.ok(take(grant("t", Privileges::TABLE, "ann", None, false), false));
    assert_eq!((s.may("bob", "t"), s.may("cem", "t")), ("r".into(), "".into()));
    // An owner may do without.
    s.ok(take(grant("t", Privileges::SELECT, "ann", Some("ann"), false), false));
    assert_eq!((s.may("ann", "t"), s.may("atoll", "t")), ("awdDxt".into(), "arwdDxt".into()));
    s.ok(own("t", "cem"));
    assert_eq!((s.may("ann", "t"), s.may("bob", "t"), s.may("cem", "t")), ("".into(), "r".into(), "awdDxt".into()));
}

#[test]
fn membership_gives_what_the_role_has() {
    let mut s = Script::with_roles();
    s.ok(give("t", Privileges::SELECT, "ann", Some("staff")));
    s.ok(member("staff", "bob"));
    s.ok(member("bob", "cem"));
    assert_eq!((s.may("bob", "t"), s.may("cem", "t")), ("r".into(), "r".into()));
    assert_eq!(s.refused(member("cem", "staff")), "0LP01 role \"cem\" is a member of role \"staff\"");
    let attributes = RoleChange { inherit: Some(false), ..RoleChange::default() };
    s.ok(CatalogCommand::AlterRole { name: "bob".into(), attributes });
    assert_eq!((s.may("bob", "t"), s.may("cem", "t")), ("".into(), "".into()), "only with SET ROLE");
    assert!(s.catalog.is_member("cem", "staff") && !s.catalog.acts_for("cem", "staff"));
    assert!(!s.catalog.is_administrator("cem"));
    s.ok(role(ADMINISTRATORS));
    s.ok(member(ADMINISTRATORS, "cem"));
    assert!(s.catalog.is_administrator("cem") && !s.catalog.is_administrator("bob"));
    // SET ROLE reaches what INHERIT does not.
    assert!(s.catalog.may_become_administrator(ADMINISTRATORS) && !s.catalog.may_become_administrator("bob"));
    s.ok(member(ADMINISTRATORS, "staff"));
    assert!(!s.catalog.is_administrator("bob") && s.catalog.may_become_administrator("bob"));
    assert!(!s.catalog.may_become_administrator("ann"));
    s.ok(member(BOOTSTRAP_ROLE, "ann"));
    assert!(!s.catalog.is_superuser("ann") && s.catalog.may_become_administrator("ann"));
    s.ok(CatalogCommand::RevokeRole { role: "staff".into(), member: "bob".into(), admin_only: false });
    assert!(!s.catalog.is_member("cem", "staff"));
}

#[test]
fn what_is_given_on_goes_with_what_it_came_from() {
    let mut s = Script::with_roles();
    let id = Securable::Relation(s.catalog.secured_relation("t").expect("t"));
    s.ok(CatalogCommand::Grant(grant("t", Privileges::SELECT, "ann", Some("bob"), true)));
    assert_eq!(s.catalog.grantor_for("bob", id, Privileges::TABLE), ("bob".into(), Privileges::SELECT));
    assert_eq!(s.catalog.grantor_for("cem", id, Privileges::TABLE).1, Privileges::NONE);
    assert_eq!(s.catalog.grantor_for("atoll", id, Privileges::SELECT).0, "ann", "in the owner's name");
    s.ok(CatalogCommand::Grant(grant("t", Privileges::SELECT, "bob", Some("cem"), true)));
    let back = CatalogCommand::Grant(grant("t", Privileges::SELECT, "cem", Some("bob"), true));
    assert_eq!(s.refused(back), "0LP01 grant options cannot be granted back to your own grantor");
    let public = CatalogCommand::Grant(grant("t", Privileges::SELECT, "ann", None, true));
    assert_eq!(s.refused(public), "0LP01 grant options can only be granted to roles");
    let from_bob = || grant("t", Privileges::SELECT, "ann", Some("bob"), false);
    assert_eq!(s.refused(take(from_bob(), false)), "2BP01 dependent privileges exist");
    s.ok(take(from_bob(), true));
    assert_eq!((s.may("bob", "t"), s.may("cem", "t")), ("".into(), "".into()));
    assert_eq!(s.catalog.stored_list(id).map(Vec::len), Some(1), "the owner's");
    // DROP OWNED takes it without being told to.
    s.ok(CatalogCommand::Grant(grant("t", Privileges::SELECT, "ann", Some("bob"), true)));
    s.ok(give("t", Privileges::SELECT, "bob", Some("cem")));
    s.ok(CatalogCommand::RevokeAll { role: "bob".into() });
    assert_eq!((s.may("bob", "t"), s.may("cem", "t")), ("".into(), "".into()));
}

#[test]
fn roles_that_are_named_stay() {
    let mut s = Script::with_roles();
    let drop = |name: &str| CatalogCommand::DropRole { name: name.into() };
    assert_eq!(s.refused(drop("ann")), "2BP01 role \"ann\" cannot be dropped because some objects depend on it");
    s.ok(give("t", Privileges::SELECT, "ann", Some("bob")));
    assert_eq!(s.refused(drop("bob")), "2BP01 role \"bob\" cannot be dropped because some objects depend on it");
    s.ok(CatalogCommand::RevokeAll { role: "bob".into() });
    s.ok(member("staff", "bob"));
    s.ok(drop("bob"));
    assert!(s.catalog.access.members.is_empty());
    let all_of = |role: &str| CatalogCommand::RevokeAll { role: role.into() };
    assert_eq!(s.refused(all_of("ann")), "0A000 DROP OWNED of a role that owns relations");
    assert_eq!(
        s.refused(all_of(BOOTSTRAP_ROLE)),
        "2BP01 cannot drop objects owned by role atoll because they are required by the database system"
    );
    s.ok(CatalogCommand::ReassignOwned { from: "ann".into(), to: "atoll".into() });
    assert_eq!(s.catalog.list_of(Securable::Relation(s.table("t").id))[0].grantee.as_deref(), Some("atoll"));
    s.ok(drop("ann"));
    assert_eq!(s.refused(role("pg_x")), "42939 role name \"pg_x\" is reserved");
}

#[test]
fn privileges_follow_what_they_are_about() {
    let mut s = Script::with_roles();
    s.ok(give("t_n_seq", Privileges::USAGE, "ann", Some("bob")));
    s.ok(CatalogCommand::Truncate { tables: vec!["t".into()], restart_identity: true });
    assert_eq!(s.may("bob", "t_n_seq"), "U", "the sequence has another id now");
    s.create(at(table("u", "id integer key"), &["bj"]));
    s.ok(CatalogCommand::TakeAccess { relation: "u".into(), from: "t".into() });
    assert_eq!(s.catalog.owner_of(s.table("u").id), "ann");
    s.ok(CatalogCommand::DropTable { name: "t".into(), cascade: false });
    s.ok(CatalogCommand::DropTable { name: "u".into(), cascade: false });
    assert!(s.catalog.access.is_empty());
}

#[test]
fn a_catalog_without_owners_is_read() {
    let mut s = Script::new();
    s.create(at(table("t", "id integer key"), &["bj"]));
    let mut stored = serde_json::to_value(&s.catalog).expect("a catalog is written");
    let object = stored.as_object_mut().expect("an object");
    assert!(!object.contains_key("access"), "nothing is written where nothing is said");
    object.insert("format".into(), 1.into());
    let atoll = serde_json::json!({ "name": "atoll", "login": true, "superuser": true, "password": null });
    object.insert("roles".into(), serde_json::json!({ "atoll": atoll }));
    let read: Catalog = serde_json::from_value(stored).expect("a catalog is read");
    assert_eq!(read.owner_of(s.table("t").id), BOOTSTRAP_ROLE);
    assert!(read.is_superuser("atoll") && read.roles["atoll"].inherit);
    s.ok(role("ann"));
    s.ok(own("t", "ann"));
    let again: Catalog = serde_json::from_value(serde_json::to_value(&s.catalog).expect("written")).expect("read");
    assert_eq!(again, s.catalog);
}
