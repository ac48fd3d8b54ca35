//! The grammar, by example.

use super::*;

fn one(sql: &str) -> Statement {
    let mut items = parse(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    assert_eq!(items.len(), 1, "{sql}");
    items.remove(0).statement
}

fn error(sql: &str) -> (ErrorKind, String, Option<u32>) {
    let e = parse(sql).err().unwrap_or_else(|| panic!("{sql} parses"));
    (e.kind(), e.message().to_string(), e.position_in_statement())
}

#[test]
fn texts_on_lines_of_their_own_are_one() {
    for (sql, text) in [
        ("SELECT 'a'\n'b'", "SELECT 'ab'"),
        ("SELECT 'a' -- and\n  'b'\r\n\t''\n'c', 'd'", "SELECT 'abc', 'd'"),
        ("SELECT 'x\\'\n'''y'", r"SELECT E'x\\\'y'"),
        ("SELECT E'a\\n'\n'b'", r"SELECT E'a\nb'"),
    ] {
        let items = parse(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let shown = items.iter().map(|item| match &item.statement {
            Statement::Sql(ast) => ast.to_string(),
            other => format!("{other:?}"),
        });
        assert_eq!(shown.collect::<Vec<_>>(), [text], "{sql}");
    }
    for sql in ["SELECT 'a' 'b'", "SELECT 'a' /*\n*/ 'b'", "SELECT X'00'\n'01'", "SELECT E'a'\n'\\n'"] {
        let error = parse(sql).expect_err(sql);
        assert_eq!(error.kind().sqlstate(), "42601", "{sql}: {error}");
    }
}

#[test]
fn sites() {
    assert!(matches!(one("CREATE SITE beijing ENGINE embedded"),
        Statement::CreateSite { name, engine, options, .. } if name == "beijing" && engine == "embedded" && options.is_empty()));
    assert!(matches!(one("create site hk engine postgres options (url 'postgres://x', pool '4');"),
        Statement::CreateSite { options, .. } if options["url"] == "postgres://x" && options["pool"] == "4"));
    assert!(
        matches!(one("DROP SITE IF EXISTS a, b"), Statement::DropSite { names, if_exists: true } if names == ["a", "b"])
    );
}

#[test]
fn fragments_move() {
    let shown = |sql: &str| match one(sql) {
        Statement::MoveFragment { fragment, table, from, to, wait } => {
            let or_none = |name: Option<String>| name.unwrap_or_else(|| "-".into());
            format!("{fragment} of {} from {} to {to}, {wait}", or_none(table), or_none(from))
        }
        Statement::CancelMove { fragment, table } => {
            format!("cancel {fragment} of {}", table.unwrap_or_else(|| "-".into()))
        }
        other => panic!("{sql}: {other:?}"),
    };
    for (sql, expected) in [
        ("MOVE FRAGMENT users_hk TO munich", "users_hk of - from - to munich, true"),
        ("move fragment \"U\" of t from a to b with (wait = false);", "U of t from a to b, false"),
        ("MOVE FRAGMENT u TO b WITH (wait)", "u of - from - to b, true"),
        ("CANCEL MOVE OF FRAGMENT u", "cancel u of -"),
        ("CANCEL MOVE OF FRAGMENT u OF t", "cancel u of t"),
    ] {
        assert_eq!(shown(sql), expected, "{sql}");
    }
    for (sql, kind) in [
        ("MOVE FRAGMENT u", ErrorKind::Syntax),
        ("MOVE FRAGMENT u FROM a", ErrorKind::Syntax),
        ("MOVE FRAGMENT u TO b WITH (wait = soon)", ErrorKind::NotSupported),
        ("MOVE FRAGMENT u TO b WITH (speed = 3)", ErrorKind::NotSupported),
        ("CANCEL MOVE FRAGMENT u", ErrorKind::Syntax),
    ] {
        assert_eq!(error(sql).0, kind, "{sql}");
    }
}

#[test]
fn sites_are_altered_and_imported_from() {
    let Statement::AlterSite { name, changes } = one(
        "ALTER SITE hk OPTIONS (SET url 'postgres://x', ADD pool_size '4', DROP schema, set 'odd', idle_check '1s')",
    ) else {
        panic!()
    };
    let add = |k: &str, v: &str| OptionChange::Add(k.into(), v.into());
    assert_eq!(name, "hk");
    assert_eq!(
        changes,
        [
            OptionChange::Set("url".into(), "postgres://x".into()),
            add("pool_size", "4"),
            OptionChange::Drop("schema".into()),
            add("set", "odd"),
            add("idle_check", "1s"),
        ]
    );
    for (sql, want) in [
        ("IMPORT FOREIGN SCHEMA public FROM SERVER hk", Chosen::All),
        (
            "import foreign schema public limit to (a, \"B\") from server hk into public;",
            Chosen::Only(vec!["a".into(), "B".into()]),
        ),
        ("IMPORT FOREIGN SCHEMA public EXCEPT (a) FROM SERVER hk", Chosen::AllBut(vec!["a".into()])),
    ] {
        assert!(
            matches!(one(sql), Statement::ImportSchema { schema, tables, site } if schema == "public" && tables == want && site == "hk"),
            "{sql}"
        );
    }
    assert_eq!(error("IMPORT FOREIGN SCHEMA a FROM SERVER hk INTO other").0, ErrorKind::NotSupported);
}

#[test]
fn passwords_are_not_repeated() {
    for sql in [
        "CREATE SITE hk ENGINE postgres OPTIONS (url 'a' 'postgres://app:s3cret@h/d')",
        "CREATE SITE hk ENGINE postgres OPTIONS ('postgres://app:s3cret@h/d')",
        "CREATE SITE hk ENGINE postgres OPTIONS (url 'postgres://app:s3cret@h/d",
        "CREATE SITE hk ENGINE postgres OPTIONS (url \"postgres://app:s3cret@h/d",
        "CREATE SITE hk ENGINE postgres OPTIONS (url $a$postgres://app:s3cret@h/d",
        "ALTER SITE hk 's3cret' OPTIONS (DROP url)",
        "CREATE ROLE app PASSWORD x 's3cret'",
        "ALTER ROLE app PASSWORD 's3cret",
    ] {
        let error = parse(sql).err().unwrap_or_else(|| panic!("{sql} parses"));
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
    let Statement::AlterSite { changes, .. } = one("ALTER SITE hk OPTIONS (SET url 's3cret')") else { panic!() };
    assert!(!format!("{changes:?}").contains("s3cret"));
}

#[test]
fn tables_in_postgresql_clause_order() {
    let Statement::CreateTable(t) = one(
        "CREATE TABLE public.Users (uid text PRIMARY KEY, n int DEFAULT 1 + 2 NOT NULL CHECK (n > 0), CONSTRAINT u UNIQUE (n)) \
         PARTITION BY LIST (region) WITH (sites = 'a, b', replicas = 2, replication='all') TABLESPACE x",
    ) else {
        panic!()
    };
    assert_eq!((t.name.as_str(), t.columns.len(), t.constraints.len()), ("users", 2, 1));
    assert_eq!(t.partition_by, Some((PartitionKind::List, vec!["region".into()])));
    assert_eq!(t.tablespace.as_deref(), Some("x"));
    assert_eq!(t.options[1], ("replicas".into(), "2".into()));
    let Statement::CreateTable(t) = one("CREATE TABLE IF NOT EXISTS a (LIKE b INCLUDING ALL, c int)") else { panic!() };
    assert!(t.like[0].defaults && t.like[0].at == 0 && t.columns.len() == 1);
    let Statement::CreateTable(t) = one("CREATE TABLE a (x, y) AS SELECT 1, 2 WITH NO DATA") else { panic!() };
    assert!(t.no_data && t.query.is_some() && t.column_names == ["x", "y"]);
    let Statement::CreateTable(t) = one("CREATE TABLE a AS SELECT 1") else { panic!() };
    assert!(t.query.is_some());
}

#[test]
fn fragments() {
    let bounds = |sql: &str| match one(sql) {
        Statement::CreateFragment(f) => f,
        other => panic!("{other:?}"),
    };
    let f = bounds("CREATE TABLE p PARTITION OF t FOR VALUES IN ('a', NULL) TABLESPACE s");
    assert!(
        matches!(&f.bounds, Bounds::In(v) if v.len() == 2) && f.tablespace.as_deref() == Some("s") && f.parent == "t"
    );
    let f = bounds("CREATE TABLE p PARTITION OF t FOR VALUES IN ('a') TABLESPACE s OPTIONS (table 'shop.Users')");
    assert_eq!((f.tablespace.as_deref(), f.adopted.as_deref()), (Some("s"), Some("shop.Users")));
    let (kind, message, _) = error("CREATE TABLE p PARTITION OF t DEFAULT TABLESPACE s OPTIONS (tabel 'a.b')");
    assert_eq!((kind, message.contains("\"tabel\"")), (ErrorKind::NotSupported, true));
    let f = bounds("CREATE TABLE p PARTITION OF t FOR VALUES FROM (MINVALUE, 1) TO (10, MAXVALUE)");
    assert!(
        matches!(&f.bounds, Bounds::FromTo(a, b) if matches!(a[..], [Bound::Min, Bound::Value(_)]) && matches!(b[1], Bound::Max))
    );
    let f = bounds("CREATE TABLE p PARTITION OF t FOR VALUES WITH (MODULUS 4, REMAINDER 3)");
    assert!(matches!(f.bounds, Bounds::Hash { modulus: 4, remainder: 3 }));
    let f = bounds("CREATE TABLE p PARTITION OF t DEFAULT WITH (sites = 'a, b', replication = 'all')");
    assert!(matches!(f.bounds, Bounds::Default) && f.options.len() == 2);
}

#[test]
fn roles_and_maintenance() {
    assert!(matches!(one("CREATE USER ann WITH PASSWORD 'x' SUPERUSER"),
        Statement::CreateRole { name, attributes: RoleAttributes { login: Some(true), superuser: Some(true), password: Some(Some(_)), .. }, .. } if name == "ann"));
    assert!(matches!(
        one("ALTER ROLE ann PASSWORD NULL"),
        Statement::AlterRole { role: RoleName::Named(name), attributes: RoleAttributes { password: Some(None), .. } }
            if name == "ann"
    ));
    for (sql, expected) in [
        ("ALTER USER CURRENT_USER PASSWORD 'x'", RoleName::CurrentUser),
        ("ALTER ROLE current_role NOLOGIN", RoleName::CurrentUser),
        ("ALTER ROLE SESSION_USER NOLOGIN", RoleName::SessionUser),
        ("ALTER ROLE \"current_user\" NOLOGIN", RoleName::Named("current_user".into())),
    ] {
        assert!(matches!(one(sql), Statement::AlterRole { role, .. } if role == expected), "{sql}");
    }
    assert!(matches!(one("VACUUM (FULL, ANALYZE) t"), Statement::Vacuum { tables } if tables == ["t"]));
    assert!(matches!(one("vacuum analyze pgbench_branches"), Statement::Vacuum { tables } if tables.len() == 1));
    assert!(matches!(one("ANALYZE"), Statement::Analyze { tables } if tables.is_empty()));
    assert!(matches!(one("CHECKPOINT"), Statement::Checkpoint));
    for (sql, want) in [("verify", None), ("VERIFY ALL;", None), ("VERIFY TABLE a, public.\"B\"", Some(["a", "B"]))] {
        let want = want.map(|names| names.map(str::to_owned).to_vec());
        assert!(matches!(one(sql), Statement::Verify { tables } if tables == want), "{sql}");
    }
    for sql in [
        "DISCARD ALL",
        "COMMENT ON TABLE t IS 'x'",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "SHOW x",
        "TRUNCATE a, b RESTART IDENTITY",
    ] {
        assert!(matches!(one(sql), Statement::Sql(_)), "{sql}");
    }
}

#[test]
fn several_statements_with_their_text() {
    let sql = " SELECT 'é;' ; \n;SELECT 2 -- end";
    let items = parse(sql).expect("two statements");
    assert_eq!(&sql[items[0].text.clone()], "SELECT 'é;'");
    assert_eq!(&sql[items[1].text.clone()], "SELECT 2 -- end");
    assert!(parse("").is_ok_and(|i| i.is_empty()) && parse(" ; -- x\n").is_ok_and(|i| i.is_empty()));
}

#[test]
fn errors_as_postgresql_words_them() {
    assert_eq!(error("SELEC 1"), (ErrorKind::Syntax, "syntax error at or near \"SELEC\"".into(), Some(1)));
    assert_eq!(error("SELECT * FROM"), (ErrorKind::Syntax, "syntax error at end of input".into(), Some(14)));
    assert_eq!(error("SELECT 1 SELECT 2"), (ErrorKind::Syntax, "syntax error at or near \"SELECT\"".into(), Some(10)));
    assert_eq!(error("SELECT 'é' ) x").2, Some(12));
    for sql in ["'", "\"", "$$", "/* open", "SELECT 'a", "(((((", "CREATE TABLE t (", "CREATE TABLE t", "DROP"] {
        assert_eq!(error(sql).0, ErrorKind::Syntax, "{sql}");
    }
    assert_eq!(error("CREATE EXTENSION s").0, ErrorKind::NotSupported);
}

#[test]
fn limits_hold() {
    for sql in [
        format!("SELECT {}1{}", "(".repeat(50_000), ")".repeat(50_000)),
        format!("SELECT {}1", "- ".repeat(50_000)),
        format!("SELECT 1{}", " + 1".repeat(50_000)),
        vec!["SELECT 1"; 5000].join(" UNION ALL "),
        format!("SELECT 1{}", "::int".repeat(50_000)),
    ] {
        assert_eq!(error(&sql).0, ErrorKind::ProgramLimit);
    }
    one(&format!("SELECT 1 IN ({})", vec!["1"; 20_000].join(", ")));
    one(&format!("SELECT 1 WHERE {}", vec!["a = 1"; 500].join(" OR ")));
}

#[test]
fn spellings_that_sqlparser_lacks() {
    let written = |sql: &str| match &parse(sql).expect(sql)[0].statement {
        Statement::Sql(ast) => ast.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(written("SELECT 1 FROM t FOR NO KEY UPDATE"), "SELECT 1 FROM t FOR UPDATE");
    assert_eq!(written("SELECT 1 FROM t FOR KEY SHARE"), "SELECT 1 FROM t FOR SHARE");
    assert_eq!(
        written(
            "SELECT 1 FROM a, b WHERE x IN (SELECT 1 FROM c FOR UPDATE OF c SKIP LOCKED LIMIT (1)) FOR SHARE OF a, b"
        ),
        "SELECT 1 FROM a, b WHERE x IN (SELECT 1 FROM c LIMIT (1) FOR UPDATE OF c SKIP LOCKED) FOR SHARE OF a FOR SHARE OF b"
    );
    assert_eq!(written("SELECT substring('abc' from 1 for 2)"), "SELECT SUBSTRING('abc' FROM 1 FOR 2)");
    assert_eq!(written("FETCH c"), written("FETCH NEXT FROM c"));
    assert_eq!(written("FETCH 3 c"), written("FETCH 3 FROM c"));
    assert_eq!(written("SELECT"), "SELECT FROM (SELECT 1) AS \"nothing\"");
    assert_eq!(
        written("SELECT 1 WHERE EXISTS (SELECT )"),
        "SELECT 1 WHERE EXISTS (SELECT FROM (SELECT 1) AS \"nothing\")"
    );
    assert_eq!(written("TABLE t"), "SELECT * FROM t");
    assert_eq!(
        written("SELECT 1 FROM (TABLE t UNION ALL TABLE u) x"),
        written("SELECT 1 FROM (SELECT * FROM t UNION ALL SELECT * FROM u) x")
    );
    assert_eq!(written("ALTER TABLE t ADD COLUMN a int"), "ALTER TABLE t ADD COLUMN a INT");
    assert_eq!(
        written("CREATE SEQUENCE s NO CYCLE START WITH -5 CACHE 2 INCREMENT BY -1 MINVALUE -10"),
        written("CREATE SEQUENCE s INCREMENT BY -1 MINVALUE -10 START WITH -5 CACHE 2 NO CYCLE")
    );
    parse("CREATE TABLE t (a int GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 2))").expect("an identity");
    let items = parse("INSERT INTO t VALUES (1); INSERT INTO t OVERRIDING USER VALUE VALUES (1)").expect("inserts");
    let found: Vec<_> = items
        .iter()
        .map(|i| match &i.statement {
            Statement::Sql(ast) => match ast.as_ref() {
                datafusion::sql::sqlparser::ast::Statement::Insert(insert) => Overriding::of(insert),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(found, [None, Some(Overriding::User)]);
    assert_eq!(error("SELECT OVERRIDING SYSTEM VALUE 1").0, ErrorKind::Syntax);
}

#[test]
fn copy_takes_postgresqls_booleans() {
    for sql in [
        "COPY t FROM STDIN WITH (FREEZE ON)",
        "copy t from stdin (header off, format 'csv')",
        "COPY t TO STDOUT (HEADER 1)",
    ] {
        one(sql);
    }
    assert_eq!(error("COPY t FROM STDIN WITH (FREEZE maybe)").0, ErrorKind::Syntax);
}

#[test]
fn grants() {
    let granted = |sql: &str| match one(sql) {
        Statement::Grant(grant) => *grant,
        other => panic!("{sql}: {other:?}"),
    };
    let grant = granted("GRANT SELECT, insert ON TABLE public.t, \"U\" TO ann, GROUP bob, PUBLIC WITH GRANT OPTION");
    assert_eq!(grant.privileges, ["SELECT", "INSERT"]);
    assert_eq!(grant.on, GrantObjects::Relations(vec!["t".into(), "U".into()]));
    assert_eq!(grant.roles.len(), 3);
    assert!(grant.option && grant.revoke.is_none() && grant.roles[2] == RoleName::Public);
    let revoke =
        granted("REVOKE GRANT OPTION FOR ALL PRIVILEGES ON ALL SEQUENCES IN SCHEMA public FROM CURRENT_USER CASCADE");
    assert_eq!((revoke.on, revoke.revoke, revoke.option), (GrantObjects::AllSequences, Some(true), true));
    assert_eq!(revoke.roles, [RoleName::CurrentUser]);
    assert!(matches!(one("GRANT staff, \"Boss\" TO ann WITH ADMIN OPTION"),
        Statement::GrantRoles { roles, option: true, revoke: false, .. } if roles == ["staff", "Boss"]));
    assert!(matches!(
        one("REVOKE ADMIN OPTION FOR staff FROM ann"),
        Statement::GrantRoles { option: true, revoke: true, .. }
    ));
    assert!(
        matches!(one("ALTER VIEW IF EXISTS public.v OWNER TO ann"), Statement::SetOwner { sequence: false, if_exists: true, name, .. } if name == "v")
    );
    assert!(matches!(one("ALTER SEQUENCE s RESTART"), Statement::AlterSequence { .. }));
    for sql in ["DROP OWNED BY ann, bob CASCADE", "DROP OWNED BY ann, bob RESTRICT;", "DROP OWNED BY ann, bob"] {
        assert!(matches!(one(sql), Statement::DropOwned { roles } if roles.len() == 2), "{sql}");
    }
    for refused in [
        "GRANT SELECT (a) ON t TO ann",
        "GRANT ALL (a) ON t TO ann",
        "GRANT EXECUTE ON FUNCTION f TO ann",
        "GRANT USAGE ON SCHEMA other TO ann",
        "GRANT SELECT ON ALL TABLES IN SCHEMA other TO ann",
        "GRANT SELECT ON t TO ann GRANTED BY bob",
        "GRANT SELECT ON other.t TO ann",
    ] {
        assert_eq!(parse(refused).expect_err(refused).kind(), ErrorKind::NotSupported, "{refused}");
    }
    for wrong in [
        "GRANT SELECT ON t",
        "GRANT ON t TO ann",
        "REVOKE staff TO ann",
        "GRANT staff TO PUBLIC",
        "GRANT SELECT t TO ann",
    ] {
        assert_eq!(parse(wrong).expect_err(wrong).kind(), ErrorKind::Syntax, "{wrong}");
    }
}
