//! Roles and privileges beyond what a script of one connection shows: users side by side, what Atoll adds to PostgreSQL's rules.

mod world;

use atoll_model::Result;
use atoll_ports::session::{Credentials, Database};
use world::{TestResult, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_side_by_side() -> TestResult {
    let world = World::new().await?;
    let mut atoll = world.session("atoll").await?;
    atoll
        .run(
            "CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN;
             CREATE TABLE t (id int PRIMARY KEY, n int);
             INSERT INTO t VALUES (1, 10), (2, 20);",
        )
        .await?;
    let (mut ann, mut bob) = (world.session("ann").await?, world.session("bob").await?);
    // The same text in three sessions: bound once for each, and refused to two of them, on the keyed path as well.
    let keyed = "SELECT n FROM t WHERE id = 1";
    for _ in 0..2 {
        assert_eq!(atoll.run(keyed).await?, ["10"]);
        assert_eq!(ann.refused(keyed).await, "42501");
        assert_eq!(bob.refused(keyed).await, "42501");
    }
    atoll.run("GRANT SELECT, UPDATE ON t TO ann").await?;
    assert_eq!(ann.run(keyed).await?, ["10"]);
    assert_eq!(ann.run("UPDATE t SET n = n + 1 WHERE id = 1").await?, ["UPDATE 1"]);
    assert_eq!(ann.refused("DELETE FROM t WHERE id = 1").await, "42501");
    assert_eq!(bob.refused(keyed).await, "42501");
    ann.run("PREPARE p AS SELECT n FROM t WHERE id = 1; EXECUTE p").await?;
    atoll.run("REVOKE SELECT ON t FROM ann").await?;
    assert_eq!(ann.refused("EXECUTE p").await, "42501");
    assert_eq!(ann.refused("UPDATE t SET n = n + 1 WHERE id = 1").await, "42501");
    assert_eq!(ann.run("UPDATE t SET n = 0").await?, ["UPDATE 2"], "which reads nothing");
    // A grant is part of its transaction.
    atoll.run("BEGIN; GRANT SELECT ON t TO bob").await?;
    assert_eq!(bob.refused(keyed).await, "42501");
    atoll.run("ROLLBACK").await?;
    assert_eq!(bob.refused(keyed).await, "42501");
    // Nobody becomes what they are no member of.
    assert_eq!(bob.refused("SET ROLE ann").await, "42501");
    assert_eq!(bob.refused("SET ROLE atoll").await, "42501");
    assert_eq!(bob.refused("SET role = 'atoll'").await, "42501");
    assert_eq!(bob.refused("SELECT set_config('role', 'atoll', false)").await, "0A000");
    assert_eq!(bob.refused("SET session_authorization = 'atoll'").await, "55P02");
    assert_eq!(bob.refused("SET SESSION AUTHORIZATION atoll").await, "0A000");
    assert_eq!(bob.refused(keyed).await, "42501");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_concerns_the_cluster_is_the_administrators() -> TestResult {
    let world = World::new().await?;
    let mut atoll = world.session("atoll").await?;
    atoll
        .run(
            "CREATE ROLE ann LOGIN; CREATE ROLE boss LOGIN CREATEROLE; CREATE SITE a; CREATE SITE b;
             CREATE TABLE t (id int PRIMARY KEY) WITH (sites = 'a', fragments = 1);
             GRANT ALL ON t TO ann",
        )
        .await?;
    let mut ann = world.session("ann").await?;
    let of_administrators = [
        "CREATE SITE c",
        "DROP SITE b",
        "ALTER SITE b OPTIONS (ADD pool_size '3')",
        "MOVE FRAGMENT t TO b",
        "VERIFY TABLE t",
        "IMPORT FOREIGN SCHEMA public FROM SERVER a",
        "SELECT atoll.resolve_transaction('x', 'commit')",
    ];
    for statement in of_administrators {
        assert_eq!(ann.refused(statement).await, "42501", "{statement}");
    }
    // CREATEROLE does not lead there.
    let mut boss = world.session("boss").await?;
    assert_eq!(boss.refused("CREATE ROLE atoll_admin").await, "42501");
    atoll.run("CREATE ROLE atoll_admin").await?;
    assert_eq!(boss.refused("GRANT atoll_admin TO boss").await, "42501");
    assert_eq!(boss.refused("DROP ROLE atoll_admin").await, "42501");
    // Nor by way of those who may become administrators: their password and membership in them are as good as the role.
    atoll
        .run(
            "CREATE ROLE ops LOGIN NOINHERIT; GRANT atoll_admin TO ops; CREATE ROLE deputy; GRANT atoll TO deputy;
             CREATE ROLE guest; GRANT deputy TO guest",
        )
        .await?;
    for statement in [
        "ALTER ROLE atoll_admin LOGIN PASSWORD 'x'",
        "ALTER ROLE ops PASSWORD 'x'",
        "ALTER ROLE guest LOGIN",
        "GRANT ops TO boss",
        "GRANT deputy TO boss WITH ADMIN OPTION",
        "GRANT guest TO boss",
        "CREATE ROLE mole LOGIN IN ROLE ops",
        "REVOKE atoll_admin FROM ops",
        "DROP ROLE ops",
    ] {
        assert_eq!(boss.refused(statement).await, "42501", "{statement}");
    }
    assert_eq!(boss.refused("SET ROLE ops").await, "42501");
    boss.run("CREATE ROLE plain; ALTER ROLE plain CREATEDB; GRANT plain TO boss; SET ROLE plain; RESET ROLE").await?;
    // Who was given one WITH ADMIN OPTION may give it, as anywhere.
    atoll.run("GRANT ops TO boss WITH ADMIN OPTION").await?;
    boss.run("GRANT ops TO plain").await?;
    atoll.run("GRANT atoll_admin TO ann").await?;
    assert_eq!(ann.run("CREATE SITE c").await?, ["CREATE SITE"]);
    assert_eq!(ann.run("DROP SITE c").await?, ["DROP SITE"]);
    assert_ne!(ann.refused("SELECT atoll.resolve_transaction('x', 'commit')").await, "42501");
    // Administrators are no superusers.
    assert_eq!(ann.refused("DROP TABLE t").await, "42501");
    assert_eq!(ann.refused("CREATE ROLE x").await, "42501");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragments_and_keys_follow_their_table() -> TestResult {
    let world = World::new().await?;
    let mut atoll = world.session("atoll").await?;
    atoll
        .run(
            "CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN; GRANT CREATE ON SCHEMA public TO ann;
             CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE late (id int NOT NULL, n int DEFAULT 1);
             INSERT INTO late VALUES (1, 1); ALTER TABLE late OWNER TO ann; GRANT SELECT ON late TO bob;",
        )
        .await?;
    let (mut ann, mut bob) = (world.session("ann").await?, world.session("bob").await?);
    ann.run(
        "CREATE TABLE f (id int PRIMARY KEY, k text) PARTITION BY LIST (k);
         CREATE TABLE f_x PARTITION OF f FOR VALUES IN ('x'); INSERT INTO f VALUES (1, 'x')",
    )
    .await?;
    assert_eq!(bob.refused("SELECT * FROM f_x").await, "42501");
    assert_eq!(bob.refused("CREATE TABLE f_y PARTITION OF f FOR VALUES IN ('y')").await, "42501");
    assert_eq!(bob.refused("DROP TABLE f_x").await, "42501");
    assert_eq!(ann.refused("GRANT SELECT ON f_x TO bob").await, "0A000");
    assert_eq!(ann.refused("GRANT SELECT (id) ON f TO bob").await, "0A000");
    ann.run("GRANT SELECT ON f TO bob").await?;
    assert_eq!(bob.run("SELECT id FROM f_x").await?, ["1"]);
    // Placed as another table's rows are, or referring to them: both bind that table.
    assert_eq!(
        ann.refused(
            "CREATE TABLE d (id int PRIMARY KEY, x int REFERENCES p) WITH (colocate_with = 'p', colocate_on = 'x')"
        )
        .await,
        "42501"
    );
    assert_eq!(
        ann.refused("CREATE TABLE d (id int PRIMARY KEY, x int) WITH (colocate_with = 'p', colocate_on = 'x')").await,
        "42501"
    );
    atoll.run("GRANT REFERENCES ON p TO ann").await?;
    ann.run("CREATE TABLE d (id int PRIMARY KEY, x int REFERENCES p) WITH (colocate_with = 'p', colocate_on = 'x')")
        .await?;
    assert_eq!(ann.refused("TRUNCATE p CASCADE").await, "42501");
    // Strangers are not told what else is wrong.
    for (statement, owner) in [
        ("TRUNCATE p", "0A000"),
        ("ALTER TABLE p ADD COLUMN id int", "42701"),
        ("ALTER TABLE f_x ADD COLUMN n int", "0A000"),
        ("CREATE INDEX ON p (id) WHERE id > 1", "0A000"),
        ("ALTER VIEW p OWNER TO atoll", "42809"),
    ] {
        assert_eq!(bob.refused(statement).await, "42501", "{statement}");
        assert_eq!(atoll.refused(statement).await, owner, "{statement}");
    }
    atoll.run("CREATE SEQUENCE s").await?;
    assert_eq!(bob.refused("TRUNCATE s").await, "42809");
    assert_eq!(atoll.refused("TRUNCATE s").await, "42809");
    // The table is made anew for its key, and belongs to whom it belonged.
    assert_eq!(bob.refused("ALTER TABLE late ADD PRIMARY KEY (id)").await, "42501");
    // Its index takes what any index takes.
    atoll.run("REVOKE CREATE ON SCHEMA public FROM ann").await?;
    for statement in
        ["ALTER TABLE late ADD PRIMARY KEY (id)", "CREATE INDEX ON late (n)", "ALTER TABLE late ADD UNIQUE (n)"]
    {
        assert_eq!(ann.refused(statement).await, "42501", "{statement}");
    }
    ann.run("ALTER TABLE late ALTER COLUMN n SET DEFAULT 2").await?;
    atoll.run("GRANT CREATE ON SCHEMA public TO ann").await?;
    ann.run("ALTER TABLE late ADD PRIMARY KEY (id)").await?;
    assert_eq!(atoll.run("SELECT tableowner FROM pg_tables WHERE tablename = 'late'").await?, ["ann"]);
    assert_eq!(bob.run("SELECT n FROM late WHERE id = 1").await?, ["1"]);
    assert_eq!(bob.refused("INSERT INTO late VALUES (2, 2)").await, "42501");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogs_show_roles_and_no_passwords() -> TestResult {
    let world = World::new().await?;
    let mut atoll = world.session("atoll").await?;
    atoll
        .run(
            "CREATE ROLE staff; CREATE ROLE ann LOGIN PASSWORD 'secret' VALID UNTIL '2001-01-01' IN ROLE staff;
             CREATE ROLE bob LOGIN PASSWORD 'secret' VALID UNTIL 'infinity';
             CREATE TABLE t (id int PRIMARY KEY); GRANT SELECT ON t TO bob WITH GRANT OPTION; GRANT INSERT ON t TO PUBLIC",
        )
        .await?;
    assert!(world.engine.credentials("ann").is_none(), "its password has expired");
    assert!(matches!(world.engine.credentials("bob"), Some(Credentials::Scram(_))));
    assert_eq!(
        atoll.run("SELECT array_to_string(relacl, ' ') FROM pg_class WHERE relname = 't'").await?,
        ["atoll=arwdDxt/atoll bob=r*/atoll =a/atoll"]
    );
    // What psql asks for \du and \dp.
    assert_eq!(
        atoll
            .run(
                "SELECT r.rolname, r.rolcanlogin, ARRAY(SELECT b.rolname FROM pg_catalog.pg_auth_members m
                 JOIN pg_catalog.pg_roles b ON (m.roleid = b.oid) WHERE m.member = r.oid) AS memberof
                 FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_' ORDER BY 1"
            )
            .await?,
        ["ann t {staff}", "atoll t {}", "bob t {}", "staff f {}"]
    );
    assert_eq!(
        atoll
            .run(
                "SELECT c.relname, pg_catalog.array_to_string(c.relacl, E'\\n'), pg_catalog.array_to_string(ARRAY(
                 SELECT attname || E':\\n  ' || pg_catalog.array_to_string(attacl, E'\\n  ')
                 FROM pg_catalog.pg_attribute a WHERE attrelid = c.oid AND NOT attisdropped AND attacl IS NOT NULL), E'\\n')
                 FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r','v','m','S','f','p') AND n.nspname = 'public' ORDER BY 1"
            )
            .await?
            .len(),
        1
    );
    let grants = "SELECT grantee, privilege_type, is_grantable FROM information_schema.table_privileges
                  WHERE grantee IN ('bob', 'PUBLIC') ORDER BY 1";
    assert_eq!(atoll.run(grants).await?, ["PUBLIC INSERT NO", "bob SELECT YES"]);
    let mut shown = vec![];
    for view in ["pg_roles", "pg_user", "pg_auth_members", "information_schema.enabled_roles"] {
        shown.extend(atoll.run(&format!("SELECT * FROM {view}")).await?);
    }
    assert!(!shown.iter().any(|line| line.contains("SCRAM") || line.contains("secret")), "{shown:?}");
    // Everybody changes their own password, and nothing else.
    let mut bob = world.session("bob").await?;
    bob.run("ALTER ROLE bob PASSWORD 'another'").await?;
    for statement in
        ["ALTER ROLE bob SUPERUSER", "ALTER ROLE bob CREATEROLE", "ALTER ROLE ann PASSWORD 'x'", "DROP ROLE ann"]
    {
        assert_eq!(bob.refused(statement).await, "42501", "{statement}");
    }
    Ok(())
}

/// What a transaction has seen before stays as it was; what its user may do does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoke_reaches_open_transactions() -> TestResult {
    let world = World::new().await?;
    let mut atoll = world.session("atoll").await?;
    atoll
        .run(
            "CREATE ROLE eve LOGIN; CREATE ROLE ann; CREATE ROLE staff; CREATE ROLE atoll_admin;
             CREATE TABLE pub (id int PRIMARY KEY, n int); INSERT INTO pub VALUES (1, 10);
             CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (7);
             CREATE VIEW v AS SELECT n FROM pub; ALTER VIEW v OWNER TO ann; GRANT SELECT ON v TO eve; CREATE SEQUENCE s",
        )
        .await?;
    let mut eve = world.session("eve").await?;
    eve.run("PREPARE p AS SELECT n FROM pub WHERE id = 1").await?;
    let mut kept = vec![];
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        for statement in [
            "SELECT n FROM pub WHERE id = 1",
            "SELECT count(*) FROM pub",
            "SELECT * FROM v",
            "EXECUTE p",
            "INSERT INTO pub VALUES (2, 20)",
            "UPDATE pub SET n = 11 WHERE id = 1",
            "UPDATE pub SET n = n + 1",
            "DELETE FROM pub",
            "DECLARE c CURSOR FOR SELECT * FROM pub",
            "COPY pub TO STDOUT",
            "LOCK TABLE pub",
            "CREATE INDEX ON pub (n)",
            "SELECT nextval('s')",
            "ALTER SEQUENCE s RESTART",
            "SET ROLE staff",
            "SELECT atoll.resolve_transaction('x', 'commit')",
        ] {
            atoll
                .run(
                    "GRANT ALL ON pub TO ann; GRANT staff, atoll_admin TO eve;
                     ALTER SEQUENCE s OWNER TO eve; ALTER TABLE pub OWNER TO eve",
                )
                .await?;
            eve.run(&format!("BEGIN ISOLATION LEVEL {isolation}")).await?;
            assert_eq!(eve.run("SELECT pub.n, v.n FROM pub, v").await?, ["10 10"]);
            atoll
                .run(
                    "ALTER TABLE pub OWNER TO atoll; ALTER SEQUENCE s OWNER TO atoll;
                     REVOKE ALL ON pub FROM eve, ann; REVOKE ALL ON s FROM eve; REVOKE staff, atoll_admin FROM eve",
                )
                .await?;
            let found = eve.run(statement).await;
            if !matches!(&found, Err(error) if error.kind().sqlstate() == "42501") {
                kept.push(format!("{isolation}: {statement}: {found:?}"));
            }
            eve.run("ROLLBACK").await?;
        }
    }
    assert!(kept.is_empty(), "{kept:#?}");
    // It is the same with what is given meanwhile. A superuser is asked as well, once one is not any more.
    eve.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    assert_eq!(eve.run("SELECT 1").await?, ["1"]);
    atoll.run("GRANT SELECT ON other TO eve").await?;
    assert_eq!(eve.run("SELECT id FROM other; COMMIT; SELECT id FROM other").await?, ["7"]);
    atoll.run("ALTER ROLE eve SUPERUSER").await?;
    eve.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT n FROM pub").await?;
    atoll.run("ALTER ROLE eve NOSUPERUSER").await?;
    assert_eq!(eve.refused("SELECT n FROM pub").await, "42501");
    Ok(())
}

/// Statements that planning would otherwise run over a table that the user may not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_around() -> TestResult {
    let world = World::new().await?;
    let mut atoll = world.session("atoll").await?;
    atoll
        .run(
            "CREATE ROLE bob LOGIN; GRANT CREATE ON SCHEMA public TO bob; CREATE TABLE secret (id int PRIMARY KEY, v text);
             INSERT INTO secret VALUES (1, 'x'); CREATE TABLE own (id int PRIMARY KEY, v text);
             CREATE SEQUENCE s; ALTER TABLE own OWNER TO bob; INSERT INTO own VALUES (1, 'o')",
        )
        .await?;
    let mut bob = world.session("bob").await?;
    let mut around = vec![];
    for statement in [
        "TABLE secret",
        "SELECT * FROM (TABLE secret) x",
        "SELECT * FROM \"secret\"",
        "SELECT * FROM SECRET",
        "SELECT * FROM atoll.public.secret",
        "SELECT v FROM own UNION ALL SELECT v FROM secret",
        "SELECT * FROM own o, LATERAL (SELECT v FROM secret s WHERE s.id = o.id) x",
        "SELECT (SELECT max(v) FROM secret)",
        "SELECT ARRAY(SELECT v FROM secret)",
        "SELECT * FROM own ORDER BY (SELECT max(id) FROM secret)",
        "SELECT * FROM own LIMIT (SELECT max(id) FROM secret)",
        "SELECT count(*) FILTER (WHERE id IN (SELECT id FROM secret)) FROM own",
        "VALUES ((SELECT max(v) FROM secret))",
        "WITH secret AS (SELECT * FROM secret) SELECT * FROM secret",
        "WITH secret AS (INSERT INTO own VALUES (7, 'x')) SELECT * FROM secret",
        "WITH x AS (UPDATE own SET v = (SELECT max(v) FROM secret) RETURNING v) SELECT * FROM x",
        "WITH x AS (DELETE FROM secret RETURNING v) SELECT * FROM x",
        "INSERT INTO own SELECT id + 100, v FROM secret",
        "INSERT INTO own VALUES (9, (SELECT max(v) FROM secret))",
        "INSERT INTO own VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = (SELECT max(v) FROM secret)",
        "UPDATE own SET v = secret.v FROM secret WHERE secret.id = own.id",
        "DELETE FROM own USING secret WHERE secret.id = own.id",
        "DELETE FROM own WHERE EXISTS (SELECT 1 FROM secret)",
        "CREATE TABLE copied AS SELECT * FROM secret",
        "CREATE TABLE copied (LIKE secret INCLUDING ALL)",
        "EXPLAIN ANALYZE SELECT * FROM secret",
        "EXPLAIN UPDATE secret SET v = ''",
        "COPY secret TO STDOUT",
        "COPY (SELECT * FROM secret) TO STDOUT",
        "COPY secret FROM STDIN",
        "SELECT nextval('s')",
        "SELECT nextval('s'::regclass)",
        "INSERT INTO own VALUES (nextval('s'), 'x')",
        "SELECT * FROM own WHERE id = 1 AND v = (SELECT v FROM secret WHERE id = 1)",
    ] {
        let found: Result<Vec<String>> = bob.run(statement).await;
        if !matches!(&found, Err(error) if error.kind().sqlstate() == "42501") {
            around.push(format!("{statement}: {found:?}"));
        }
    }
    assert!(around.is_empty(), "{around:#?}");
    bob.run("CREATE VIEW v AS SELECT * FROM secret").await?;
    assert_eq!(bob.refused("SELECT * FROM v").await, "42501");
    assert_eq!(atoll.refused("SELECT * FROM v").await, "42501", "as its owner, whoever asks");
    assert_eq!(bob.run("SELECT * FROM own").await?, ["1 o"]);
    Ok(())
}
