//! DDL as readable scripts: each line is a command, each answer what the catalog made of it.

use crate::*;
use std::collections::BTreeMap;

mod access;
mod copies;

/// A catalog and what was done to it.
struct Script {
    catalog: Catalog,
}

impl Script {
    fn new() -> Self {
        let mut script = Script { catalog: Catalog::initial() };
        for site in ["bj", "hk", "sh"] {
            script.ok(CatalogCommand::CreateSite {
                name: site.into(),
                engine: SiteEngine::Embedded,
                options: BTreeMap::new(),
            });
        }
        script
    }

    #[track_caller]
    fn ok(&mut self, command: CatalogCommand) {
        match self.catalog.apply(&command) {
            Ok(next) => {
                assert_eq!(next.version.0, self.catalog.version.0 + 1);
                assert_eq!(self.catalog.apply(&command).ok().as_ref(), Some(&next), "deterministic");
                self.catalog = next;
                self.consistent();
            }
            Err(e) => panic!("{command:?}: {} {} {:?}", e.kind().sqlstate(), e.message(), e.detail_text()),
        }
    }

    /// The SQLSTATE and message with which a command is refused.
    #[track_caller]
    fn refused(&self, command: CatalogCommand) -> String {
        match self.catalog.apply(&command) {
            Ok(_) => panic!("accepted: {command:?}"),
            Err(e) => format!("{} {}", e.kind().sqlstate(), e.message()),
        }
    }

    fn create(&mut self, table: NewTable) {
        self.ok(CatalogCommand::CreateTable(Box::new(table)));
    }

    fn refuse(&self, table: NewTable) -> String {
        self.refused(CatalogCommand::CreateTable(Box::new(table)))
    }

    fn table(&self, name: &str) -> &Table {
        self.catalog.table(name).unwrap_or_else(|| panic!("table {name}"))
    }

    /// `name [bounds] @ sites` of each fragment.
    fn fragments(&self, table: &str) -> Vec<String> {
        let site = |id: &SiteId| self.catalog.sites[id].name.clone();
        let show = |f: &Fragment| {
            let bounds = match &f.bounds {
                FragmentBounds::All => "all".into(),
                FragmentBounds::Default => "default".into(),
                FragmentBounds::Hash { modulus, remainder } => format!("{remainder}/{modulus}"),
                FragmentBounds::List(values) => format!("list of {}", values.len()),
                FragmentBounds::Range { .. } => "range".into(),
                FragmentBounds::Derived(of) => {
                    let parents = self.catalog.tables.values().flat_map(|t| &t.fragments);
                    parents.filter(|p| p.id == *of).map(|p| format!("with {}", p.name)).collect()
                }
            };
            format!("{} [{bounds}] @ {}", f.name, f.replicas.iter().map(site).collect::<Vec<_>>().join(" "))
        };
        self.table(table).fragments.iter().map(show).collect()
    }

    /// What must hold of every catalog: names lead to what bears them, and everything that bears one is found.
    #[track_caller]
    fn consistent(&self) {
        let mut names: Vec<String> = vec![];
        for t in self.catalog.tables.values() {
            names.push(t.name.clone());
            names.extend(t.primary_key.clone());
            names.extend(t.indexes.iter().map(|i| i.name.clone()));
            let declared = |f: &&Fragment| self.catalog.fragment(&f.name).is_some_and(|(o, _)| o.id == t.id);
            names.extend(t.fragments.iter().filter(declared).map(|f| f.name.clone()));
            for key in &t.foreign_keys {
                assert!(self.catalog.tables.contains_key(&key.parent), "{}", key.name);
            }
            if let Fragmentation::Derived { parent, .. } = t.fragmentation {
                let parent = &self.catalog.tables[&parent];
                let sites = |t: &Table| t.fragments.iter().map(|f| f.replicas.clone()).collect::<Vec<_>>();
                assert_eq!(sites(t), sites(parent), "{} lies with {}", t.name, parent.name);
            }
        }
        names.extend(self.catalog.views.values().map(|v| v.name.clone()));
        names.extend(self.catalog.sequences.values().map(|s| s.name.clone()));
        names.sort();
        assert_eq!(names, self.catalog.names.keys().cloned().collect::<Vec<_>>());
        let ids: Vec<u32> = self.catalog.tables.values().flat_map(|t| t.fragments.iter().map(|f| f.id.0)).collect();
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
    }
}

/// Columns written as `id integer key, name text unique`.
fn table(name: &str, columns: &str) -> NewTable {
    let mut new = NewTable {
        name: name.into(),
        columns: vec![],
        primary_key: None,
        uniques: vec![],
        checks: vec![],
        foreign_keys: vec![],
        fragmentation: NewFragmentation::Default,
        sites: vec![],
        fragments: None,
        replicas: 1,
        replication: Replication::All,
        read_balance: ReadBalance::RoundRobin,
        on_replica_down: OnReplicaDown::Refuse,
        adopted: None,
    };
    let mut key = vec![];
    for column in columns.split(',') {
        let mut words = column.split_whitespace();
        let (name, ty) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut identity = None;
        for word in words {
            match word {
                "key" => key.push(name.to_string()),
                "unique" => new.uniques.push(index(name)),
                "serial" => identity = Some((false, sequence(&format!("{}_{name}_seq", new.name)))),
                other => panic!("{other}"),
            }
        }
        let ty = SqlType::parse(ty).unwrap_or_else(|| panic!("type {ty}"));
        new.columns.push(NewColumn { identity, ..column_of(name, ty) });
    }
    new.primary_key = (!key.is_empty()).then_some((None, key));
    new
}

fn column_of(name: &str, ty: SqlType) -> NewColumn {
    NewColumn { name: name.into(), ty, not_null: false, default: None, missing: Value::Null, identity: None }
}

fn sequence(name: &str) -> NewSequence {
    NewSequence { name: name.into(), start: 1, increment: 1, min: 1, max: 100, cycle: false }
}

fn index(column: &str) -> NewIndex {
    NewIndex { name: None, columns: vec![column.into()], unique: true, constraint: true }
}

fn with(mut table: NewTable, fragmentation: NewFragmentation) -> NewTable {
    table.fragmentation = fragmentation;
    table
}

fn at(mut table: NewTable, sites: &[&str]) -> NewTable {
    table.sites = sites.iter().map(|s| s.to_string()).collect();
    table
}

fn derived(table: NewTable, parent: &str, column: &str) -> NewTable {
    with(table, NewFragmentation::Derived { parent: parent.into(), column: column.into() })
}

fn foreign(columns: &[&str], parent: &str, parent_columns: &[&str]) -> NewForeignKey {
    NewForeignKey {
        name: None,
        columns: columns.iter().map(|c| c.to_string()).collect(),
        parent: parent.into(),
        parent_columns: parent_columns.iter().map(|c| c.to_string()).collect(),
        on_delete: ReferentialAction::NoAction,
        on_update: ReferentialAction::NoAction,
    }
}

fn refers(mut table: NewTable, key: NewForeignKey) -> NewTable {
    table.foreign_keys.push(key);
    table
}

fn fragment(table: &str, name: &str, bounds: FragmentBounds, sites: &[&str]) -> CatalogCommand {
    let sites = sites.iter().map(|s| s.to_string()).collect();
    let fragment = NewFragment { name: name.into(), bounds, sites, adopted: None };
    CatalogCommand::CreateFragment { table: table.into(), fragment }
}

fn list(values: &[&str]) -> FragmentBounds {
    FragmentBounds::List(values.iter().map(|v| Value::Text((*v).into())).collect())
}

fn range(from: i32, to: i32) -> FragmentBounds {
    let bound = |v| vec![RangeBound::Value(Value::Int4(v))];
    FragmentBounds::Range { from: bound(from), to: bound(to) }
}

fn hash(modulus: u32, remainder: u32) -> FragmentBounds {
    FragmentBounds::Hash { modulus, remainder }
}

fn drop(name: &str, cascade: bool) -> CatalogCommand {
    CatalogCommand::DropTable { name: name.into(), cascade }
}

fn alter(table: &str, change: TableChange) -> CatalogCommand {
    CatalogCommand::AlterTable { table: table.into(), change }
}

fn view(name: &str, query: &str, depends_on: &[&str]) -> CatalogCommand {
    CatalogCommand::CreateView {
        name: name.into(),
        columns: vec![],
        query: query.into(),
        depends_on: depends_on.iter().map(|d| d.to_string()).collect(),
        replace: false,
    }
}

/// users by region, articles replicated in part, reads derived: the news platform.
fn news() -> Script {
    let mut s = Script::new();
    s.create(with(table("users", "uid text key, region text"), NewFragmentation::List("region".into())));
    s.ok(fragment("users", "users_bj", list(&["Beijing"]), &["bj"]));
    s.create(derived(table("reads", "rid bigint key, uid text"), "users", "uid"));
    s.ok(fragment("users", "users_hk", list(&["Hong Kong"]), &["hk", "bj"]));
    s
}

#[test]
fn fragments_and_their_sites() {
    let mut s = news();
    assert_eq!(s.fragments("users"), ["users_bj [list of 1] @ bj", "users_hk [list of 1] @ hk bj"]);
    assert_eq!(s.fragments("reads"), ["reads_bj [with users_bj] @ bj", "reads_hk [with users_hk] @ hk bj"]);
    let reads = s.table("reads");
    assert_eq!(reads.indexes.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["reads_uid_idx"]);
    assert_eq!(reads.foreign_keys.iter().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["reads_uid_fkey"]);

    s.create(table("plain", "a integer"));
    assert_eq!(
        s.fragments("plain"),
        ["plain_0 [0/4] @ main", "plain_1 [1/4] @ bj", "plain_2 [2/4] @ hk", "plain_3 [3/4] @ sh"]
    );
    assert!(s.table("plain").has_hidden_key() && s.table("plain").columns[1].hidden);
    let mut copied = at(table("copied", "a integer key"), &["bj", "hk", "sh"]);
    (copied.fragments, copied.replicas) = (Some(2), 2);
    s.create(copied);
    assert_eq!(s.fragments("copied"), ["copied_0 [0/2] @ bj hk", "copied_1 [1/2] @ hk sh"]);
    s.create(derived(table("direct", "b integer, a integer"), "copied", "a"));
    assert_eq!(s.fragments("direct"), ["direct_0 [0/2] @ bj hk", "direct_1 [1/2] @ hk sh"]);
    s.create(with(at(table("everywhere", "a integer key"), &["bj", "hk"]), NewFragmentation::Copies));
    assert_eq!(s.fragments("everywhere"), ["everywhere [all] @ bj hk"]);
}

#[test]
fn bounds_never_overlap() {
    let mut s = news();
    let mut refusals = vec![
        s.refused(fragment("users", "users_bj", list(&["x"]), &[])),
        s.refused(fragment("users", "u", list(&["x", "Beijing"]), &[])),
        s.refused(fragment("users", "u", range(1, 2), &[])),
        s.refused(fragment("users", "u", FragmentBounds::List(vec![Value::Int4(1)]), &[])),
        s.refused(fragment("reads", "r", list(&["x"]), &[])),
        s.refused(fragment("users", "u", list(&["x"]), &["nowhere"])),
    ];
    s.ok(fragment("users", "users_rest", FragmentBounds::Default, &[]));
    refusals.push(s.refused(fragment("users", "u", FragmentBounds::Default, &[])));
    s.create(with(table("r", "a integer key"), NewFragmentation::Range(vec!["a".into()])));
    s.ok(fragment("r", "r1", range(0, 10), &[]));
    s.ok(fragment("r", "r2", range(10, 20), &[]));
    refusals.push(s.refused(fragment("r", "r3", range(19, 30), &[])));
    refusals.push(s.refused(fragment("r", "r3", range(30, 30), &[])));
    s.create(with(table("h", "a integer key"), NewFragmentation::Hash(vec!["a".into()])));
    s.ok(fragment("h", "h1", hash(4, 1), &[]));
    refusals.push(s.refused(fragment("h", "h2", hash(2, 1), &[])));
    refusals.push(s.refused(fragment("h", "h2", hash(6, 0), &[])));
    refusals.push(s.refused(fragment("h", "h2", hash(4, 4), &[])));
    refusals.push(s.refused(fragment("h", "h2", FragmentBounds::Default, &[])));
    s.ok(fragment("h", "h2", hash(2, 0), &[]));
    assert_eq!(
        refusals,
        [
            "42P07 relation \"users_bj\" already exists",
            "42P17 partition \"u\" would overlap partition \"users_bj\"",
            "42P16 invalid bound specification for a list partition",
            "42804 specified value cannot be cast to type text for column \"region\"",
            "42809 \"reads\" is not partitioned",
            "42704 site \"nowhere\" does not exist",
            "42P17 partition \"u\" conflicts with existing default partition \"users_rest\"",
            "42P17 partition \"r3\" would overlap partition \"r2\"",
            "42P17 empty range bound specified for partition \"r3\"",
            "42P17 partition \"h2\" would overlap partition \"h1\"",
            "42P17 every hash partition modulus must be a factor of the next larger modulus",
            "42P16 remainder for hash partition must be less than modulus",
            "42P16 a hash-partitioned table may not have a default partition",
        ]
    );
}

#[test]
fn tables_that_contradict_themselves() {
    let mut s = news();
    let mut many = table("many", "a integer key");
    many.replicas = 5;
    let refusals = [
        s.refuse(table("users", "a integer")),
        s.refuse(table("t", "a integer, a text")),
        s.refuse(NewTable { primary_key: Some((None, vec!["b".into()])), ..table("t", "a integer") }),
        s.refuse(NewTable { uniques: vec![index("b")], ..table("t", "a integer") }),
        s.refuse(table("t", "a interval")),
        s.refuse(table("t", "a json key")),
        s.refuse(table("t", "a numeric(39)")),
        s.refuse(with(table("t", "a integer"), NewFragmentation::List("b".into()))),
        s.refuse(derived(table("t", "a integer"), "users", "a")),
        s.refuse(derived(table("t", "a integer"), "nothing", "a")),
        s.refuse(many),
        s.refuse(at(table("t", "a integer"), &["nowhere"])),
        s.refuse(NewTable { fragments: Some(5000), ..table("t", "a integer") }),
    ];
    assert_eq!(
        refusals,
        [
            "42P07 relation \"users\" already exists",
            "42701 column \"a\" specified more than once",
            "42703 column \"b\" named in key does not exist",
            "42703 column \"b\" named in key does not exist",
            "0A000 column \"a\" of type interval: intervals are not stored in tables",
            "42704 data type json has no default operator class for access method \"btree\"",
            "0A000 NUMERIC precision 39 must be between 1 and 38",
            "42703 column \"b\" named in partition key does not exist",
            "42804 column \"a\" is of another type than the column of \"users\" that it refers to",
            "42P01 relation \"nothing\" does not exist",
            "22023 5 replicas need as many sites, there are 4",
            "42704 site \"nowhere\" does not exist",
            "22023 \"fragments\" must be between 1 and 4096",
        ]
    );
    let wide: Vec<String> = (0..1601).map(|i| format!("c{i} integer")).collect();
    assert_eq!(s.refuse(table("wide", &wide.join(","))), "54000 there can be at most 1600 columns in a table");
    s.create(table("wide", &wide[..1600].join(",")));
}

#[test]
fn foreign_keys_stay_within_a_co_located_group() {
    let mut s = news();
    s.create(with(at(table("articles", "aid integer key, code text unique"), &["bj", "hk"]), NewFragmentation::Copies));
    s.create(table("spread", "id integer key, other integer, tag text"));
    // Derived from the same users, by the same column.
    s.create(derived(table("logins", "uid text key, n integer"), "users", "uid"));
    let to_logins = |name: &str| {
        refers(derived(table(name, "uid text, n integer"), "users", "uid"), foreign(&["uid"], "logins", &[]))
    };
    s.create(to_logins("visits"));
    let likes = |name: &str| derived(table(name, "uid text, aid integer, code text"), "users", "uid");
    s.create(refers(likes("likes"), foreign(&["aid"], "articles", &[])));
    s.create(refers(likes("likes2"), foreign(&["code"], "articles", &["code"])));
    let refusals = [
        s.refuse(refers(table("t", "aid integer"), foreign(&["aid"], "articles", &[]))),
        s.refuse(refers(table("t", "id integer"), foreign(&["id"], "spread", &[]))),
        s.refuse(refers(table("t", "id integer key, up integer"), foreign(&["up"], "t", &[]))),
        s.refuse(refers(table("t", "tag text"), foreign(&["tag"], "spread", &["tag"]))),
        s.refuse(refers(table("t", "tag text"), foreign(&["tag"], "spread", &[]))),
        s.refuse(refers(table("t", "tag text"), foreign(&["nothing"], "spread", &[]))),
        s.refuse(refers(table("t", "a integer"), foreign(&["a"], "nothing", &[]))),
        s.refuse(refers(table("t", "a integer"), foreign(&["a"], "spread", &["id", "tag"]))),
    ];
    let apart = |k: &str| format!("0A000 foreign key constraint \"{k}\" would reach across fragments");
    assert_eq!(
        refusals,
        [
            apart("t_aid_fkey"),
            apart("t_id_fkey"),
            apart("t_up_fkey"),
            "42830 there is no unique constraint matching given keys for referenced table \"spread\"".into(),
            "42804 foreign key constraint \"t_tag_fkey\" cannot be implemented".into(),
            "42703 column \"nothing\" referenced in foreign key constraint does not exist".into(),
            "42P01 relation \"nothing\" does not exist".into(),
            "42830 number of referencing and referenced columns for foreign key disagree".into(),
        ]
    );
    // A new fragment may not carry a child to where the parent is not.
    assert_eq!(s.refused(fragment("users", "users_sh", list(&["Shanghai"]), &["sh"])), apart("likes_aid_fkey"));
    // In one piece, a table may refer to itself.
    s.create(refers(at(table("tree", "id integer key, up integer"), &["bj"]), foreign(&["up"], "tree", &[])));
}

#[test]
fn what_others_depend_on_stays() {
    let mut s = news();
    s.create(with(at(table("p", "id integer key, n integer unique"), &["bj"]), NewFragmentation::Copies));
    s.create(refers(at(table("c", "p integer"), &["bj"]), foreign(&["p"], "p", &["n"])));
    s.ok(view("v", "SELECT id FROM p", &["p"]));
    s.ok(view("w", "SELECT id FROM v", &["v"]));
    let refusals = [
        s.refused(drop("p", false)),
        s.refused(drop("users", true)),
        s.refused(drop("v", false)),
        s.refused(drop("nothing", false)),
        s.refused(CatalogCommand::DropView { name: "v".into(), cascade: false }),
        s.refused(CatalogCommand::DropIndex { name: "p_pkey".into() }),
        s.refused(alter("p", TableChange::DropConstraint { name: "p_n_key".into() })),
        s.refused(alter("reads", TableChange::DropConstraint { name: "reads_uid_fkey".into() })),
        s.refused(CatalogCommand::DropSite { name: "bj".into() }),
        s.refused(CatalogCommand::DropFragment { name: "users_bj".into() }),
        s.refused(CatalogCommand::Truncate { tables: vec!["users".into()], restart_identity: false }),
        s.refused(alter("users", TableChange::DropColumn { name: "region".into(), cascade: true })),
        s.refused(alter("p", TableChange::DropColumn { name: "n".into(), cascade: false })),
        s.refused(alter("p", TableChange::RenameColumn { from: "id".into(), to: "x".into() })),
        s.refused(CatalogCommand::DropRole { name: "atoll".into() }),
    ];
    assert_eq!(
        refusals,
        [
            "2BP01 cannot drop table p because other objects depend on it",
            "2BP01 cannot drop table users because other objects depend on it",
            "42809 \"v\" is not a table",
            "42P01 table \"nothing\" does not exist",
            "2BP01 cannot drop view v because other objects depend on it",
            "2BP01 cannot drop index p_pkey because constraint p_pkey on table p requires it",
            "2BP01 cannot drop index p_n_key because other objects depend on it",
            "2BP01 cannot drop constraint reads_uid_fkey on table reads because its fragmentation requires it",
            "2BP01 cannot drop site \"bj\" because fragments live there",
            "2BP01 cannot drop table users_bj because other objects depend on it",
            "0A000 cannot truncate a table referenced in a foreign key constraint",
            "42P16 cannot drop column \"region\" because it is part of the partition key of relation \"users\"",
            "2BP01 cannot drop column n of table p because other objects depend on it",
            "0A000 cannot rename column \"id\" while view \"v\" may read it",
            "2BP01 cannot drop role atoll because it is required by the database system",
        ]
    );
    s.ok(drop("p", true));
    assert!(s.catalog.views.is_empty() && s.table("c").foreign_keys.is_empty());
    let before = s.fragments("reads");
    s.ok(CatalogCommand::Truncate { tables: vec!["users".into(), "reads".into()], restart_identity: false });
    assert_eq!(s.fragments("reads"), before, "still with their parents, under new ids");
    s.ok(drop("reads", false));
    s.ok(drop("users", false));
}

#[test]
fn altered_tables() {
    let mut s = Script::new();
    let mut t = table("t", "id integer key, n integer serial, m integer unique");
    t.checks.push(("t_m_check".into(), "m > 0 AND m < n".into()));
    s.create(t);
    s.ok(alter("t", TableChange::AddColumn(column_of("extra", SqlType::Text))));
    s.ok(alter("t", TableChange::RenameColumn { from: "m".into(), to: "measure".into() }));
    assert_eq!(s.table("t").checks[0].expression, "measure > 0 AND measure < n");
    s.ok(alter("t", TableChange::Rename("u".into())));
    assert!(s.catalog.table("t").is_none());
    s.ok(alter("u", TableChange::DropColumn { name: "measure".into(), cascade: false }));
    assert!(s.table("u").checks.is_empty() && s.table("u").indexes.is_empty());
    let old = s.catalog.sequence("t_n_seq").map(|q| q.id);
    s.ok(CatalogCommand::Truncate { tables: vec!["u".into()], restart_identity: true });
    assert_ne!(s.catalog.sequence("t_n_seq").map(|q| q.id), old, "begins anew");
    assert_eq!(
        s.refused(CatalogCommand::DropSequence { name: "t_n_seq".into() }),
        "2BP01 cannot drop sequence t_n_seq because other objects depend on it"
    );
    s.ok(alter("u", TableChange::DropColumn { name: "n".into(), cascade: false }));
    assert!(s.catalog.sequences.is_empty());
    // A new column of an old name is another column.
    s.ok(alter("u", TableChange::AddColumn(column_of("measure", SqlType::Int4))));
    let ids: Vec<u16> = s.table("u").columns.iter().map(|c| c.id.0).collect();
    assert_eq!(ids, [1, 4, 5]);
    for (change, refusal) in [
        (
            TableChange::AddColumn(column_of("id", SqlType::Int4)),
            "42701 column \"id\" of relation \"u\" already exists",
        ),
        (
            TableChange::DropColumn { name: "nothing".into(), cascade: false },
            "42703 column \"nothing\" of relation \"u\" does not exist",
        ),
        (TableChange::SetNotNull { column: "id".into(), not_null: false }, "42P16 column \"id\" is in a primary key"),
        (TableChange::DropConstraint { name: "x".into() }, "42704 constraint \"x\" of relation \"u\" does not exist"),
    ] {
        assert_eq!(s.refused(alter("u", change)), refusal);
    }
}

#[test]
fn names_are_chosen_as_postgresql_chooses_them() {
    let mut s = Script::new();
    s.create(table("t", "a integer key, b integer unique"));
    let plain = || NewIndex { name: None, columns: vec!["a".into(), "b".into()], unique: false, constraint: false };
    for _ in 0..3 {
        s.ok(CatalogCommand::CreateIndex { table: "t".into(), index: plain() });
    }
    let names: Vec<&str> = s.table("t").indexes.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["t_b_key", "t_a_b_idx", "t_a_b_idx1", "t_a_b_idx2"]);
    let long = "x".repeat(60);
    s.create(table(&long, "a integer key"));
    assert_eq!(s.table(&long).primary_key.as_deref(), Some(format!("{}_pkey", "x".repeat(58)).as_str()));
}

fn adopting(mut command: CatalogCommand, name: &str) -> CatalogCommand {
    match &mut command {
        CatalogCommand::CreateFragment { fragment, .. } => fragment.adopted = Some(name.into()),
        CatalogCommand::CreateTable(table) => table.adopted = Some(name.into()),
        other => panic!("{other:?}"),
    }
    command
}

fn postgres_site(name: &str) -> CatalogCommand {
    let options = [("url".to_owned(), "postgres://app@h/d".to_owned())].into();
    CatalogCommand::CreateSite { name: name.into(), engine: SiteEngine::Postgres, options }
}

#[test]
fn tables_of_a_site_are_adopted_once() {
    let mut s = news();
    s.ok(postgres_site("pg"));
    s.ok(postgres_site("pg2"));
    let part = |name: &str, value: &str, sites: &[&str]| fragment("users", name, list(&[value]), sites);
    s.ok(adopting(part("users_pg", "pg", &["pg"]), "users"));
    assert_eq!(s.table("users").fragments[2].adopted.values().collect::<Vec<_>>(), ["public.users"]);
    // Those of another site are others.
    s.ok(adopting(part("users_pg2", "pg2", &["pg2"]), "public.users"));
    let whole = |table: NewTable| adopting(CatalogCommand::CreateTable(Box::new(table)), "shop.t");
    let there = |columns: &str| with(at(table("t", columns), &["pg"]), NewFragmentation::Copies);
    let refusals = [
        s.refused(adopting(part("u", "x", &["pg"]), "public.users")),
        s.refused(adopting(part("u", "x", &["pg", "pg2"]), "public.u")),
        s.refused(adopting(part("u", "x", &["bj"]), "public.u")),
        s.refused(adopting(part("u", "x", &["pg"]), ".u")),
        s.refused(whole(there("a integer"))),
        s.refused(whole(at(table("t", "a integer key"), &["pg"]))),
        s.refused(whole(refers(there("a integer key, uid text"), foreign(&["uid"], "users", &["uid"])))),
    ];
    assert_eq!(
        refusals,
        [
            "42P07 table public.users of site \"pg\" is adopted already, by \"users_pg\"",
            "22023 a table is adopted at one site",
            "22023 site \"bj\" has no tables that could be adopted: it is Atoll's own",
            "22023 \".u\" is no name of a table of a site",
            "42P16 table \"t\" needs a primary key, to adopt a table of a site",
            "42P16 only a table in one piece is adopted as a whole",
            "0A000 adopting rows into table \"t\", which has foreign keys",
        ]
    );
    s.ok(whole(there("a integer key")));
    // TRUNCATE gives no new id to what it cannot empty by that.
    let before: Vec<FragmentId> = s.table("users").fragments.iter().map(|f| f.id).collect();
    s.ok(drop("reads", false));
    s.ok(CatalogCommand::Truncate { tables: vec!["users".into()], restart_identity: false });
    let after: Vec<FragmentId> = s.table("users").fragments.iter().map(|f| f.id).collect();
    assert_eq!(before.iter().zip(&after).map(|(a, b)| a == b).collect::<Vec<_>>(), [false, false, true, true]);
    // Once it is forgotten, it can be adopted again.
    s.ok(drop("users_pg", false));
    s.ok(adopting(part("users_again", "pg", &["pg"]), "users"));
}

#[test]
fn options_of_sites_change_by_name() {
    let mut s = news();
    s.ok(postgres_site("pg"));
    let change = |site: &str, changes: &[OptionChange]| CatalogCommand::AlterSite {
        name: site.into(),
        changes: changes.to_vec(),
    };
    let add = |option: &str| OptionChange::Add(option.into(), "1".into());
    let set = |option: &str| OptionChange::Set(option.into(), "2".into());
    s.ok(change("pg", &[add("pool_size"), set("url")]));
    s.ok(change("pg", &[set("pool_size"), OptionChange::Drop("pool_size".into()), add("schema")]));
    let options = s.catalog.site("pg").map(|site| site.options.clone()).unwrap_or_default();
    assert_eq!(options.into_iter().collect::<Vec<_>>(), [("schema".into(), "1".into()), ("url".into(), "2".into())]);
    assert_eq!(
        [
            s.refused(change("pg", &[add("url")])),
            s.refused(change("pg", &[set("pool_size")])),
            s.refused(change("pg", &[OptionChange::Drop("url".into())])),
            s.refused(change("bj", &[add("url")])),
            s.refused(change("nowhere", &[])),
        ],
        [
            "42710 option \"url\" provided more than once",
            "42704 option \"pool_size\" not found",
            "22023 a site of the engine postgres needs the option \"url\"",
            "22023 an embedded site takes no option \"url\"",
            "42704 site \"nowhere\" does not exist",
        ]
    );
}
