//! DDL by example: what a statement binds to, and that the catalog takes it.

use super::*;
use crate::pg::parse::parse;
use atoll_model::{FragmentBounds, Value};
use datafusion::prelude::SessionContext;

fn run(catalog: &mut Catalog, sql: &str) -> Result<Vec<Step>> {
    let state = SessionContext::new().state();
    let mut steps = vec![];
    for item in parse(sql)? {
        let bound = bind(&item.statement, catalog, &state)?.unwrap_or_else(|| panic!("{sql} is not DDL"));
        for step in bound.steps {
            if let Step::Apply(command) = &step {
                *catalog = catalog.apply(command)?;
            }
            steps.push(step);
        }
    }
    Ok(steps)
}

fn refused(catalog: &Catalog, sql: &str) -> (ErrorKind, String) {
    let error = run(&mut catalog.clone(), sql).err().unwrap_or_else(|| panic!("{sql} is taken"));
    (error.kind(), error.message().to_string())
}

#[test]
fn a_fragmented_schema() {
    let mut catalog = Catalog::initial();
    run(
        &mut catalog,
        "CREATE SITE beijing; CREATE SITE hongkong ENGINE embedded;
         CREATE TABLE users (uid text PRIMARY KEY, region text, age int DEFAULT 1 + 2 CHECK (age > 0)) PARTITION BY LIST (region);
         CREATE TABLE users_bj PARTITION OF users FOR VALUES IN ('Beijing', NULL) TABLESPACE beijing;
         CREATE TABLE users_hk PARTITION OF users FOR VALUES IN ('Hong Kong') TABLESPACE hongkong;
         CREATE TABLE reads (id bigserial PRIMARY KEY, uid text) WITH (colocate_with = 'users', colocate_on = 'uid');
         CREATE TABLE be_read (aid text PRIMARY KEY, n numeric(10, 2), tags text[]) WITH (sites = 'beijing, hongkong', replication = 'all');
         CREATE INDEX ON users (age); CREATE VIEW old AS SELECT uid FROM users WHERE age > 60;",
    )
    .expect("a schema");
    let users = catalog.table("users").expect("users");
    assert_eq!(users.fragments[0].bounds, FragmentBounds::List(vec![Value::Text("Beijing".into()), Value::Null]));
    assert_eq!(users.checks[0].name, "users_age_check");
    assert_eq!(users.columns[2].default.as_deref(), Some("1 + 2"));
    assert_eq!(catalog.table("be_read").expect("be_read").fragments[0].replicas.len(), 2);
    assert!(catalog.sequence("reads_id_seq").is_some());
    assert_eq!(catalog.view("old").expect("a view").depends_on, [users.id]);
}

#[test]
fn what_is_refused() {
    let mut catalog = Catalog::initial();
    run(&mut catalog, "CREATE TABLE t (a int, b text)").expect("a table");
    for (sql, kind) in [
        ("CREATE TABLE x (a nosuch)", ErrorKind::UndefinedObject),
        ("CREATE TABLE x (a int, a int)", ErrorKind::DuplicateColumn),
        ("CREATE TABLE x (a int CHECK (b > 0))", ErrorKind::UndefinedColumn),
        ("CREATE TABLE x (a int CHECK (a + 1))", ErrorKind::DatatypeMismatch),
        ("CREATE TABLE x (a int DEFAULT 'x')", ErrorKind::InvalidText),
        ("CREATE TABLE x (a boolean DEFAULT 1 + 1)", ErrorKind::DatatypeMismatch),
        ("CREATE TABLE x (a int) WITH (replication = 'quorum')", ErrorKind::NotSupported),
        ("CREATE TABLE x (a int) WITH (nosuch = 1)", ErrorKind::InvalidParameterValue),
        ("CREATE TABLE x (a int) WITH (sites = 'nowhere')", ErrorKind::UndefinedObject),
        ("CREATE TEMP TABLE x (a int)", ErrorKind::NotSupported),
        ("CREATE TABLE x (a int PRIMARY KEY, b int PRIMARY KEY)", ErrorKind::InvalidTableDefinition),
        ("CREATE TABLE x (a numeric(50, 2))", ErrorKind::NotSupported),
        ("CREATE SITE s ENGINE postgres", ErrorKind::InvalidParameterValue),
        ("CREATE SITE s ENGINE mysql", ErrorKind::InvalidParameterValue),
        ("CREATE SITE s ENGINE oracle", ErrorKind::InvalidParameterValue),
        ("CREATE INDEX ON t ((a + 1))", ErrorKind::NotSupported),
        ("CREATE INDEX ON t (a) WHERE a > 0", ErrorKind::NotSupported),
        ("ALTER TABLE t ALTER COLUMN a TYPE bigint", ErrorKind::NotSupported),
        ("ALTER TABLE nosuch ADD COLUMN x int", ErrorKind::UndefinedTable),
        ("ALTER TABLE t ADD COLUMN a int", ErrorKind::DuplicateColumn),
        ("DROP VIEW t", ErrorKind::WrongObjectType),
        ("DROP TABLE nosuch", ErrorKind::UndefinedTable),
        ("CREATE TABLE nosuch.x (a int)", ErrorKind::NotSupported),
        ("COMMENT ON INDEX t IS 'x'", ErrorKind::NotSupported),
        ("COMMENT ON VIEW t IS 'x'", ErrorKind::WrongObjectType),
        ("COMMENT ON COLUMN t.x IS 'x'", ErrorKind::UndefinedColumn),
        ("CREATE SCHEMA s", ErrorKind::NotSupported),
        ("CREATE SCHEMA public", ErrorKind::DuplicateSchema),
    ] {
        assert_eq!(refused(&catalog, sql).0, kind, "{sql}: {}", refused(&catalog, sql).1);
    }
    assert!(
        run(&mut catalog, "DROP TABLE IF EXISTS nosuch; CREATE TABLE IF NOT EXISTS t (a int)")
            .expect("no-ops")
            .is_empty()
    );
}

#[test]
fn constraints_are_checked_before_they_are_added() {
    let mut catalog = Catalog::initial();
    run(&mut catalog, "CREATE TABLE t (a int, b text)").expect("a table");
    let steps = run(&mut catalog, "ALTER TABLE t ALTER COLUMN a SET NOT NULL").expect("steps");
    assert!(matches!(&steps[0], Step::Check { sql, .. } if sql == "SELECT 1 FROM \"t\" WHERE \"a\" IS NULL LIMIT 1"));
    let steps = run(&mut catalog, "ALTER TABLE t ADD COLUMN c int DEFAULT 7 CHECK (c > 1)").expect("steps");
    assert!(matches!(&steps[..], [Step::Apply(_), Step::Check { .. }, Step::Apply(_)]));
    assert_eq!(
        catalog.table("t").expect("t").columns.iter().find(|c| c.name == "c").expect("c").missing,
        Value::Int4(7)
    );
    run(&mut catalog, "CREATE INDEX t_b ON t (b)").expect("an index");
    run(&mut catalog, "ALTER TABLE t ADD PRIMARY KEY (a)").expect("a key");
    let table = catalog.table("t").expect("t");
    assert_eq!((table.primary_key.as_deref(), table.indexes[0].name.as_str()), (Some("t_pkey"), "t_b"));
}

const SITE: &str = "CREATE SITE pg ENGINE postgres OPTIONS (url 'postgres://app@h/d');";

#[test]
fn adopted_tables() {
    let mut catalog = Catalog::initial();
    run(&mut catalog, SITE).expect("a site");
    let steps = run(
        &mut catalog,
        "CREATE TABLE t (id int PRIMARY KEY, n int CHECK (n > 0)) TABLESPACE pg OPTIONS (table 'shop.t');
         CREATE TABLE p (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE p_hk PARTITION OF p FOR VALUES IN ('hk') TABLESPACE pg OPTIONS (table 'p');",
    )
    .expect("tables");
    // Its rows have to fulfil the CHECK.
    assert!(matches!(&steps[1], Step::Check { sql, .. } if sql.contains("NOT (n > 0)")), "{steps:?}");
    let adopted = |table: &str| {
        let fragments = &catalog.table(table).expect("it was made").fragments;
        fragments.iter().flat_map(|f| f.adopted.values().cloned()).collect::<Vec<_>>()
    };
    assert_eq!((adopted("t"), adopted("p")), (vec!["shop.t".into()], vec!["public.p".into()]));
    for (sql, kind) in [
        ("CREATE TABLE x (id int) TABLESPACE pg OPTIONS (table 'x')", ErrorKind::InvalidTableDefinition),
        ("CREATE TABLE x (id int PRIMARY KEY) OPTIONS (table 'x')", ErrorKind::InvalidParameterValue),
        (
            "CREATE TABLE x (id int PRIMARY KEY) WITH (fragments = 2, sites = 'pg') OPTIONS (table 'x')",
            ErrorKind::InvalidTableDefinition,
        ),
        (
            "CREATE TABLE x (id int PRIMARY KEY) PARTITION BY HASH (id) TABLESPACE pg OPTIONS (table 'x')",
            ErrorKind::InvalidTableDefinition,
        ),
    ] {
        assert_eq!(refused(&catalog, sql).0, kind, "{sql}");
    }
}

#[test]
fn imported_schemas() {
    use crate::pg::parse::Chosen;
    use atoll_model::{NewSequence, SqlType};
    use atoll_ports::site::{SiteColumn, SiteTable};

    let mut catalog = Catalog::initial();
    run(&mut catalog, SITE).expect("a site");
    let column = |name: &str, ty: Option<SqlType>, not_null: bool, default: Option<&str>| SiteColumn {
        name: name.into(),
        ty,
        declared: "point".into(),
        not_null,
        default: default.map(str::to_owned),
        sequence: None,
        problem: None,
    };
    let mut id = column("id", Some(SqlType::Int4), true, None);
    id.sequence = Some(NewSequence { name: String::new(), start: 8, increment: 1, min: 1, max: 100, cycle: false });
    let table = |name: &str, columns: Vec<SiteColumn>, key: Option<&str>, unique: &[&str]| SiteTable {
        name: name.into(),
        columns,
        key: key.map(|key| vec![key.to_owned()]),
        unique: unique.iter().map(|name| vec![(*name).to_owned()]).collect(),
    };
    let text = || Some(SqlType::Text);
    let tables = [
        table("a", vec![id, column("t", text(), false, Some("'x'"))], Some("id"), &["t"]),
        table("b", vec![column("t", text(), true, None), column("u", text(), false, None)], None, &["u", "t"]),
        table("c", vec![column("t", text(), true, None), column("p", None, false, None)], Some("t"), &[]),
        table("d", vec![column("t", text(), false, None)], None, &["t"]),
        table("e", vec![column("t", text(), true, Some("unheard_of(1)"))], Some("t"), &[]),
    ];
    let state = SessionContext::new().state();
    let import = |catalog: &Catalog, chosen: Chosen| {
        let site = catalog.site("pg").expect("it was made").clone();
        Binder { catalog, state: &state }.import_schema(&site, "shop", &chosen, &tables)
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let error = import(&catalog, Chosen::All).expect_err("some cannot be carried");
    let detail = error.detail_text().unwrap_or_default();
    let reasons: Vec<&str> = detail.lines().collect();
    assert_eq!(
        reasons[..2],
        ["c: column \"p\" is of type point", "d: it has neither a primary key nor a unique index without NULLs",]
    );
    assert!(reasons[2].starts_with("e: column \"t\" has the default unheard_of(1): "), "{detail}");
    assert_eq!(error.hint_text(), Some("EXCEPT (\"c\", \"d\", \"e\") leaves them out."));
    let missing = import(&catalog, Chosen::Only(names(&["a", "z"]))).expect_err("there is no z");
    assert_eq!(missing.kind(), ErrorKind::UndefinedTable);

    let bound = import(&catalog, Chosen::AllBut(names(&["c", "d", "e"]))).expect("these can be carried");
    for step in bound.steps {
        let Step::Apply(command) = step else { panic!("{step:?}") };
        catalog = catalog.apply(&command).expect("the catalog takes it");
    }
    let (a, b) = (catalog.table("a").expect("a"), catalog.table("b").expect("b"));
    assert_eq!(a.fragments[0].adopted.values().collect::<Vec<_>>(), ["shop.a"]);
    assert_eq!(catalog.sequence("a_id_seq").map(|s| (s.start, s.max)), Some((8, 100)));
    assert!(a.columns[1].default.is_some() && a.indexes[0].unique);
    assert_eq!((b.key.len(), b.columns[0].id == b.key[0], b.indexes.len()), (1, true, 1));
}
