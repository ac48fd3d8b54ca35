//! Copies that come, go, and are set aside.

use super::*;

fn begin(table: &str, fragment: &str, from: Option<&str>, to: &str) -> CatalogCommand {
    CatalogCommand::BeginMove {
        table: table.into(),
        fragment: fragment.into(),
        from: from.map(Into::into),
        to: to.into(),
    }
}

fn promote(table: &str, fragment: &str, site: &str) -> CatalogCommand {
    CatalogCommand::PromoteCopy { table: table.into(), fragment: fragment.into(), site: site.into() }
}

fn cancel(table: &str, fragment: &str) -> CatalogCommand {
    CatalogCommand::CancelMove { table: table.into(), fragment: fragment.into() }
}

fn behind(site: &str) -> CatalogCommand {
    CatalogCommand::SetBehind { site: site.into() }
}

fn rejoin(site: &str) -> CatalogCommand {
    CatalogCommand::Rejoin { site: site.into() }
}

/// `serving | joining | behind` of a table's fragment.
fn copies_of(script: &Script, table: &str, at: usize) -> String {
    let name = |id: &SiteId| script.catalog.sites[id].name.clone();
    let f = &script.table(table).fragments[at];
    let show = |sites: Vec<String>| sites.join(" ");
    format!(
        "{} | {} | {}",
        show(f.replicas.iter().map(name).collect()),
        show(f.joining.keys().map(name).collect()),
        show(f.behind.keys().map(name).collect())
    )
}

/// A table in two fragments at `bj` and `hk`, and one that is derived from it.
fn group() -> Script {
    let mut script = Script::new();
    let mut users = table("users", "id integer key");
    users.sites = vec!["bj".into(), "hk".into()];
    script.create(users);
    let mut reads = table("reads", "rid integer key, id integer");
    reads.fragmentation = NewFragmentation::Derived { parent: "users".into(), column: "id".into() };
    script.create(reads);
    script
}

/// A table with copies at `bj` and `hk`.
fn copied(choice: OnReplicaDown) -> Script {
    let mut script = Script::new();
    let mut be_read = table("be_read", "id integer key, n integer unique");
    be_read.fragmentation = NewFragmentation::Copies;
    be_read.sites = vec!["bj".into(), "hk".into()];
    be_read.on_replica_down = choice;
    script.create(be_read);
    script
}

#[test]
fn corresponding_fragments_move_together() {
    let mut script = group();
    script.ok(begin("reads", "reads_0", None, "sh"));
    assert_eq!(copies_of(&script, "users", 0), "bj | sh | ");
    assert_eq!(copies_of(&script, "reads", 0), "bj | sh | ");
    assert_eq!(copies_of(&script, "users", 1), "hk |  | ");
    assert!(script.refused(begin("users", "users_0", None, "hk")).starts_with("55000"));
    assert!(script.refused(CatalogCommand::DropSite { name: "sh".into() }).starts_with("2BP01"));
    script.ok(promote("users", "users_0", "sh"));
    assert_eq!(script.fragments("reads")[0], "reads_0 [0/2] @ sh");
    assert!(script.refused(promote("users", "users_0", "sh")).starts_with("55000"));
    script.ok(begin("users", "users_0", Some("sh"), "bj"));
    script.ok(cancel("reads", "reads_0"));
    assert_eq!(copies_of(&script, "users", 0), "sh |  | ");
    assert!(script.refused(cancel("users", "users_0")).starts_with("55000"));
}

#[test]
fn what_would_break_a_promise_is_not_moved() {
    let mut script = group();
    for (command, state) in [
        (begin("users", "users_0", None, "bj"), "55000"),
        (begin("users", "users_0", Some("hk"), "sh"), "55000"),
        (begin("users", "users_0", None, "elsewhere"), "42704"),
        (begin("users", "users_9", None, "sh"), "42P01"),
    ] {
        assert!(script.refused(command.clone()).starts_with(state), "{command:?}: {}", script.refused(command.clone()));
    }
    // Every site of the child has a copy of the parent, and keeps it.
    let mut parent = table("parent", "id integer key");
    parent.fragmentation = NewFragmentation::Copies;
    parent.sites = vec!["bj".into(), "hk".into()];
    script.create(parent);
    let mut child = table("child", "id integer key, p integer");
    child.sites = vec!["bj".into(), "hk".into()];
    child.foreign_keys.push(NewForeignKey {
        name: None,
        columns: vec!["p".into()],
        parent: "parent".into(),
        parent_columns: vec![],
        on_delete: ReferentialAction::NoAction,
        on_update: ReferentialAction::NoAction,
    });
    script.create(child);
    assert!(script.refused(begin("parent", "parent", Some("hk"), "sh")).starts_with("0A000"));
    assert!(script.refused(begin("parent", "parent", None, "sh")).starts_with("22023"));
    assert!(script.refused(begin("child", "child_0", None, "sh")).starts_with("0A000"));
    script.ok(begin("child", "child_0", None, "hk"));
}

#[test]
fn a_copy_is_set_aside_and_comes_back() {
    let mut script = copied(OnReplicaDown::CatchUp);
    let serving = script.catalog.site("hk").expect("hk").id;
    assert!(script.catalog.can_set_behind(serving));
    script.ok(behind("hk"));
    assert_eq!(copies_of(&script, "be_read", 0), "bj |  | hk");
    // Never the last one.
    assert!(script.refused(behind("bj")).starts_with("55000"));
    assert!(script.refused(behind("hk")).starts_with("55000"));
    // Its definition cannot change without it; it can be dropped.
    let rename = |to: &str| CatalogCommand::AlterTable {
        table: "be_read".into(),
        change: TableChange::RenameColumn { from: "n".into(), to: to.into() },
    };
    assert!(script.refused(rename("m")).starts_with("55000"));
    let truncate = CatalogCommand::Truncate { tables: vec!["be_read".into()], restart_identity: false };
    assert!(script.refused(truncate).starts_with("55000"));
    let dropped = script.catalog.apply(&CatalogCommand::DropTable { name: "be_read".into(), cascade: false });
    assert!(dropped.is_ok());
    script.ok(rejoin("hk"));
    assert_eq!(copies_of(&script, "be_read", 0), "bj | hk | ");
    assert!(script.refused(rename("m")).starts_with("55000"));
    script.ok(behind("hk"));
    script.ok(rejoin("hk"));
    let building = script.table("be_read").fragments[0].joining[&serving];
    assert_eq!((building.replaces, building.stale, building.since), (None, true, script.catalog.version));
    script.ok(promote("be_read", "be_read", "hk"));
    assert_eq!(copies_of(&script, "be_read", 0), "bj hk |  | ");
    script.ok(rename("m"));
}

#[test]
fn a_write_is_refused_unless_the_table_says_otherwise() {
    let mut script = copied(OnReplicaDown::Refuse);
    assert!(script.refused(behind("hk")).starts_with("55000"));
    let set =
        |choice| CatalogCommand::AlterTable { table: "be_read".into(), change: TableChange::SetOnReplicaDown(choice) };
    script.ok(set(OnReplicaDown::CatchUp));
    script.ok(behind("hk"));
    script.ok(set(OnReplicaDown::Refuse));
    assert_eq!(copies_of(&script, "be_read", 0), "bj |  | hk");
}

#[test]
fn a_move_survives_both_its_sites() {
    let mut script = copied(OnReplicaDown::CatchUp);
    script.ok(begin("be_read", "be_read", Some("hk"), "sh"));
    script.ok(behind("sh"));
    assert_eq!(copies_of(&script, "be_read", 0), "bj hk |  | sh");
    script.ok(rejoin("sh"));
    script.ok(behind("hk"));
    assert_eq!(copies_of(&script, "be_read", 0), "bj | sh | hk");
    script.ok(promote("be_read", "be_read", "sh"));
    assert_eq!(copies_of(&script, "be_read", 0), "bj sh |  | ");
}

#[test]
fn old_catalogs_are_read() {
    let script = group();
    let mut stored = serde_json::to_value(&script.catalog).expect("a catalog is written");
    for table in stored["tables"].as_object_mut().expect("tables").values_mut() {
        table.as_object_mut().expect("a table").remove("on_replica_down");
    }
    let read: Catalog = serde_json::from_value(stored).expect("a catalog is read");
    assert_eq!(read, script.catalog);
}
