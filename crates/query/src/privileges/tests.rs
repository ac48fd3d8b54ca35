//! What statements are found to need.

use super::*;
use crate::pg::parse;
use atoll_model::{CatalogCommand, NewColumn, NewFragmentation, NewTable, ReadBalance, Replication, SqlType, Value};

/// A catalog with a table `t (id, n)`.
fn catalog() -> Catalog {
    let column = |name: &str| NewColumn {
        name: name.into(),
        ty: SqlType::Int4,
        not_null: false,
        default: None,
        missing: Value::Null,
        identity: None,
    };
    let table = NewTable {
        name: "t".into(),
        columns: vec![column("id"), column("n")],
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
        on_replica_down: Default::default(),
        adopted: None,
    };
    Catalog::initial().apply(&CatalogCommand::CreateTable(Box::new(table))).expect("a table")
}

fn needed(sql: &str) -> Vec<String> {
    let catalog = catalog();
    let statement = parse::parse(sql).expect("it parses").pop().expect("one statement").statement;
    let letters = |p: Privileges| p.each().map(|(_, letter, _)| letter).collect::<String>();
    let show = |need: Need| match need.wanted {
        Wanted::All(all) => format!("{} {}", need.relation, letters(all)),
        Wanted::AnyOf(any) => format!("{} any of {}", need.relation, letters(any)),
    };
    needs::of(&catalog, &statement).into_iter().map(show).collect()
}

#[test]
fn whatever_is_read_is_found() {
    for (sql, expected) in [
        ("SELECT 1", vec![]),
        ("SELECT * FROM a JOIN public.b USING (id), LATERAL (SELECT * FROM \"C\") x", vec!["a r", "b r", "C r"]),
        ("SELECT (SELECT 1 FROM a) WHERE EXISTS (TABLE b)", vec!["a r", "b r"]),
        ("SELECT * FROM a UNION SELECT * FROM (b CROSS JOIN c)", vec!["a r", "b r", "c r"]),
        ("SELECT * FROM a WHERE id IN (SELECT id FROM b) ORDER BY (SELECT 1 FROM c)", vec!["a r", "b r", "c r"]),
        ("EXPLAIN SELECT * FROM a", vec!["a r"]),
        ("DECLARE x CURSOR FOR SELECT * FROM a", vec!["a r"]),
        ("COPY a TO STDOUT", vec!["a r"]),
        ("COPY (SELECT * FROM a) TO STDOUT", vec!["a r"]),
        ("COPY a FROM STDIN", vec!["a a"]),
        ("CREATE TABLE x AS SELECT * FROM a", vec!["a r"]),
        ("CREATE TABLE x (LIKE a)", vec!["a r"]),
        ("CREATE VIEW x AS SELECT * FROM a", vec![]),
        ("PREPARE x AS SELECT * FROM a", vec![]),
        ("LOCK TABLE a IN ACCESS SHARE MODE", vec!["a any of arwdD"]),
        ("LOCK TABLE a", vec!["a any of wdD"]),
        ("SELECT * FROM pg_catalog.pg_class, information_schema.tables", vec![]),
    ] {
        assert_eq!(needed(sql), expected, "{sql}");
    }
}

#[test]
fn a_name_of_with_hides_a_table_where_it_can_be_nothing_else() {
    for (sql, expected) in [
        ("WITH a AS (SELECT 1) SELECT * FROM a", vec![]),
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", vec!["a r"]),
        ("WITH x AS (SELECT * FROM a), a AS (SELECT 1) SELECT * FROM a, x", vec!["a r"]),
        ("WITH a AS (SELECT 1), x AS (SELECT * FROM a) SELECT * FROM x", vec![]),
        ("SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) x, a", vec!["a r"]),
        ("WITH a AS (SELECT 1) SELECT * FROM public.a", vec!["a r"]),
        ("WITH a AS (SELECT 1) SELECT (SELECT 1 FROM a) FROM a", vec![]),
        ("WITH RECURSIVE a AS (SELECT * FROM a) SELECT * FROM a", vec!["a r"]),
        ("WITH a AS (WITH b AS (SELECT 1) SELECT * FROM b) SELECT * FROM a, b", vec!["b r"]),
        // Without RETURNING it is no name, and the table would be read.
        ("WITH a AS (DELETE FROM b) SELECT * FROM a", vec!["b d", "a r"]),
        ("WITH a AS (DELETE FROM b RETURNING 1) SELECT * FROM a", vec!["b d"]),
    ] {
        assert_eq!(needed(sql), expected, "{sql}");
    }
}

#[test]
fn changes_need_to_read_what_they_look_at() {
    for (sql, expected) in [
        ("INSERT INTO t SELECT * FROM other", vec!["t a", "other r"]),
        ("INSERT INTO t DEFAULT VALUES RETURNING 1", vec!["t a"]),
        ("INSERT INTO t VALUES (1) RETURNING *", vec!["t ar"]),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", vec!["t a"]),
        ("INSERT INTO t VALUES (1) ON CONFLICT (id) DO NOTHING", vec!["t ar"]),
        ("INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET n = excluded.n", vec!["t arw"]),
        ("UPDATE t SET n = 1", vec!["t w"]),
        ("UPDATE t SET n = n + 1", vec!["t rw"]),
        ("UPDATE t x SET n = 1 WHERE x.id = 2", vec!["t rw"]),
        ("UPDATE t SET n = 1 FROM other o WHERE o.b", vec!["t w", "other r"]),
        ("UPDATE t SET n = 1 FROM other o WHERE t.id = o.b", vec!["t rw", "other r"]),
        ("UPDATE t SET n = (SELECT max(b) FROM other)", vec!["t w", "other r"]),
        ("DELETE FROM t", vec!["t d"]),
        ("DELETE FROM t WHERE id = 1", vec!["t rd"]),
        ("DELETE FROM t USING other WHERE t.id = b", vec!["t rd", "other r"]),
        ("DELETE FROM t RETURNING t", vec!["t rd"]),
        ("DELETE FROM t WHERE EXISTS (SELECT 1 FROM t)", vec!["t d", "t r"]),
        ("SELECT * FROM t, other FOR UPDATE OF other", vec!["t r", "other r", "other w"]),
        ("SELECT * FROM t FOR SHARE", vec!["t r", "t w"]),
    ] {
        assert_eq!(needed(sql), expected, "{sql}");
    }
}

#[test]
fn lists_are_written_as_postgresql_writes_them() {
    let entry = |grantee: Option<&str>, privileges, grantable| atoll_model::AccessEntry {
        grantee: grantee.map(Into::into),
        grantor: "ann".into(),
        privileges,
        grantable,
    };
    let mut catalog = Catalog::initial();
    catalog.access.schema = Some(vec![
        entry(None, Privileges::USAGE, Privileges::NONE),
        entry(Some("a b"), Privileges::SCHEMA, Privileges::CREATE),
    ]);
    let list = show::list(&catalog, Securable::Schema);
    assert_eq!(list, Some(vec!["=U/ann".to_owned(), "\"a b\"=UC*/ann".to_owned()]));
    assert!(show::named(Privileges::TABLE, "select, INSERT with grant option").is_ok());
    assert!(show::named(Privileges::TABLE, "usage").is_err());
}
