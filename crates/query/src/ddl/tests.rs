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
