//! Tables that sites had before Atoll: adopted as copies of fragments, looked through, used, emptied, and left where they are.

mod rig;
mod world;

use atoll_model::{CatalogCommand, Error, ErrorKind, FragmentBounds, NewFragment, NewTable, RangeBound, Value};
use atoll_ports::cluster::Cluster;
use rig::*;
use world::{by_list, copies, insert, int, list_fragment, references, short, table, text};

const USERS: &str = "CREATE TABLE users (region varchar NOT NULL, uid text COLLATE \"C\" PRIMARY KEY, n int); \
    INSERT INTO users SELECT 'hk', 'u' || n, n FROM generate_series(1, 1000) n";

fn at_site(rig: &Rig, at: usize, sql: &str) -> TestResult {
    rig.control.block_on(rig.databases[at].run(sql))
}

fn number(rig: &Rig, at: usize, sql: &str) -> TestResult<i64> {
    rig.control.block_on(rig.databases[at].number(sql))
}

fn refused(rig: &Rig, command: CatalogCommand) -> TestResult<(ErrorKind, String, String)> {
    match rig.ddl(command) {
        Ok(()) => Err("it was taken".into()),
        Err(error) => {
            let error = error.downcast::<Error>()?;
            Ok((error.kind(), error.message().to_owned(), error.detail_text().unwrap_or_default().to_owned()))
        }
    }
}

fn adopt(name: &str, bounds: FragmentBounds, site: &str, adopted: &str) -> CatalogCommand {
    let fragment = NewFragment { name: name.into(), bounds, sites: vec![site.into()], adopted: Some(adopted.into()) };
    CatalogCommand::CreateFragment { table: "users".into(), fragment }
}

fn list(values: &[&str]) -> FragmentBounds {
    FragmentBounds::List(values.iter().map(|v| text(v)).collect())
}

fn users() -> NewTable {
    let mut users = by_list(table("users", "uid text key, region text, n int"), "region");
    users.sites = vec!["home".into()];
    users
}

fn create(table: NewTable) -> CatalogCommand {
    CatalogCommand::CreateTable(Box::new(table))
}

/// The site takes no prepared transactions, and needs none for being looked at.
#[test]
fn a_table_becomes_a_fragment_and_stays_the_sites_own() -> TestResult {
    let mut rig = Rig::with(&["max_prepared_transactions=0"], &["max_prepared_transactions=0"])?;
    at_site(&rig, 0, USERS)?;
    rig.ddl(create(users()))?;
    rig.ddl(adopt("users_hk", list(&["hk"]), "pa", "public.users"))?;
    assert_eq!(
        number(
            &rig,
            0,
            "SELECT count(*) FROM pg_class WHERE relname LIKE 'f%' AND relkind = 'r'
                               AND relnamespace = to_regnamespace('atoll')"
        )?,
        0
    );
    let again = refused(&rig, adopt("users_again", list(&["x"]), "pa", "users"))?;
    assert_eq!((again.0, again.1.contains("adopted already, by \"users_hk\"")), (ErrorKind::DuplicateTable, true));

    let node = rig.node().clone();
    rig.run().block_on(async {
        let rows = world::rows(&*node.begin(short()), "users").await?;
        assert_eq!((rows.len(), rows.iter().any(|r| r == "users_hk: u7 hk 7")), (1000, true));
        let txn = node.begin(short());
        insert(&*txn, "users", vec![vec![text("new"), text("hk"), Value::Null]]).await?;
        txn.commit().await?;
        let txn = node.begin(short());
        let duplicate = insert(&*txn, "users", vec![vec![text("u1"), text("hk"), int(1)]]).await;
        assert_eq!(duplicate.err().map(|e| e.kind()), Some(ErrorKind::UniqueViolation));
        Ok::<_, Error>(())
    })?;
    assert_eq!(number(&rig, 0, "SELECT count(*) FROM users WHERE uid = 'new' AND n IS NULL")?, 1);
    drop(node);
    rig.restart()?;
    rig.ddl(CatalogCommand::Truncate { tables: vec!["users".into()], restart_identity: false }).expect_err("not alone");
    rig.ddl(CatalogCommand::DropTable { name: "users".into(), cascade: false })?;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(number(&rig, 0, "SELECT count(*) FROM users")?, 1001);
    rig.ddl(create(users()))?;
    rig.ddl(adopt("users_hk", list(&["hk"]), "pa", "users"))
}

#[test]
fn truncate_empties_it() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    at_site(&rig, 0, USERS)?;
    rig.ddl(create(users()))?;
    rig.ddl(adopt("users_hk", list(&["hk"]), "pa", "public.users"))?;
    rig.ddl(list_fragment("users", "users_home", &["home"], "home"))?;
    let node = rig.node().clone();
    rig.run().block_on(async {
        let txn = node.begin(short());
        insert(&*txn, "users", vec![vec![text("h"), text("home"), Value::Null]]).await?;
        txn.commit().await?;
        let txn = node.begin(short());
        txn.apply(CatalogCommand::Truncate { tables: vec!["users".into()], restart_identity: false }).await?;
        assert_eq!(world::rows(&*txn, "users").await?, Vec::<String>::new());
        txn.rollback();
        Ok::<_, Error>(())
    })?;
    assert_eq!(number(&rig, 0, "SELECT count(*) FROM users")?, 1000);
    rig.ddl(CatalogCommand::Truncate { tables: vec!["users".into()], restart_identity: false })?;
    assert_eq!(number(&rig, 0, "SELECT count(*) FROM users")?, 0);
    let rows = rig.run().block_on(async { world::rows(&*node.begin(short()), "users").await })?;
    assert_eq!(rows, Vec::<String>::new());
    rig.settle()
}

#[test]
fn rows_that_are_not_the_fragments_are_refused() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    at_site(&rig, 0, USERS)?;
    at_site(
        &rig,
        0,
        "UPDATE users SET region = 'bj' WHERE n IN (17, 18, 19); UPDATE users SET region = 'HK' WHERE n = 20",
    )?;
    rig.ddl(create(users()))?;
    let (kind, message, detail) = refused(&rig, adopt("users_hk", list(&["hk", "HK"]), "pa", "users"))?;
    assert_eq!(kind, ErrorKind::CheckViolation);
    assert_eq!(message, "3 rows of the adopted table do not belong to fragment \"users_hk\"");
    assert!(detail.starts_with("One has the key (uid)=(u1") && detail.ends_with(", and (region)=(bj)."), "{detail}");
    assert!(rig.node().catalog().fragment("users_hk").is_none());

    // What is left over by another fragment.
    rig.ddl(list_fragment("users", "users_bj", &["bj"], "home"))?;
    let (_, message, _) = refused(&rig, adopt("users_rest", FragmentBounds::Default, "pa", "users"))?;
    assert_eq!(message, "3 rows of the adopted table do not belong to fragment \"users_rest\"");
    at_site(&rig, 0, "DELETE FROM users WHERE region = 'bj'")?;
    rig.ddl(adopt("users_rest", FragmentBounds::Default, "pa", "users"))?;
    // And then another one may not claim its rows.
    let (kind, ..) = refused(&rig, list_fragment("users", "users_hk", &["hk"], "home"))?;
    assert_eq!(kind, ErrorKind::CheckViolation);
    Ok(())
}

#[test]
fn ranges_and_hashes() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    at_site(
        &rig,
        0,
        "CREATE TABLE visits (a int, b text, PRIMARY KEY (a, b)); \
                      INSERT INTO visits SELECT n / 10, chr(97 + n % 10) FROM generate_series(0, 99) n",
    )?;
    let mut visits = table("users", "a int key, b text key");
    visits.sites = vec!["home".into()];
    visits.fragmentation = atoll_model::NewFragmentation::Range(vec!["a".into(), "b".into()]);
    rig.ddl(create(visits.clone()))?;
    let bound = |a: i32, b: &str| vec![RangeBound::Value(int(a)), RangeBound::Value(text(b))];
    let range = |from, to| FragmentBounds::Range { from, to };
    // Rows (0, a) to (1, b) are below, from (9, j) on above.
    let (_, message, _) = refused(&rig, adopt("v", range(bound(1, "c"), bound(9, "j")), "pa", "visits"))?;
    assert_eq!(message, "13 rows of the adopted table do not belong to fragment \"v\"");
    let open = vec![RangeBound::Value(int(9)), RangeBound::Max];
    rig.ddl(adopt("v", range(vec![RangeBound::Min, RangeBound::Min], open), "pa", "visits"))?;
    rig.ddl(CatalogCommand::DropTable { name: "users".into(), cascade: false })?;

    visits.fragmentation = atoll_model::NewFragmentation::Hash(vec!["a".into()]);
    rig.ddl(create(visits))?;
    let hash = |remainder| FragmentBounds::Hash { modulus: 2, remainder };
    let mut counts = 0;
    for remainder in 0..2 {
        let (kind, message, _) = refused(&rig, adopt("v", hash(remainder), "pa", "visits"))?;
        assert_eq!(kind, ErrorKind::CheckViolation);
        counts += message.split(' ').next().and_then(|n| n.parse::<i32>().ok()).unwrap_or_default();
    }
    assert_eq!(counts, 100);
    Ok(())
}

#[test]
fn unique_values_are_in_one_fragment() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    at_site(&rig, 0, USERS)?;
    at_site(
        &rig,
        1,
        "CREATE TABLE users (region text NOT NULL, uid text PRIMARY KEY, n int); \
                      INSERT INTO users SELECT 'b', 'v' || n, n FROM generate_series(1, 500) n; \
                      INSERT INTO users VALUES ('b', 'u777', 1)",
    )?;
    rig.ddl(create(users()))?;
    rig.ddl(adopt("users_a", list(&["hk"]), "pa", "users"))?;
    let (kind, _, detail) = refused(&rig, adopt("users_b", list(&["b"]), "pb", "users"))?;
    assert_eq!(kind, ErrorKind::UniqueViolation);
    assert_eq!(detail, "Key (uid)=(u777) is in fragment \"users_a\" already.");
    at_site(&rig, 1, "DELETE FROM users WHERE uid = 'u777'")?;
    rig.ddl(adopt("users_b", list(&["b"]), "pb", "users"))
}

#[test]
fn whole_tables_and_what_is_refused() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    at_site(&rig, 0, USERS)?;
    at_site(
        &rig,
        0,
        "CREATE VIEW shown AS SELECT * FROM users; \
                      CREATE TABLE loose (uid text PRIMARY KEY, region text, n int); \
                      CREATE TABLE made (uid text PRIMARY KEY, region text NOT NULL, n int GENERATED ALWAYS AS (1) STORED); \
                      CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
                      CREATE TABLE blinded (uid text COLLATE blind PRIMARY KEY, region text NOT NULL, n int)",
    )?;
    let whole = |name: &str, site: &str, adopted: &str| {
        let mut new = copies(table(name, "uid text key, region text, n int"));
        (new.sites, new.adopted) = (vec![site.into()], Some(adopted.into()));
        new.columns[1].not_null = true;
        new
    };
    rig.ddl(create(whole("people", "pa", "users")))?;
    let node = rig.node().clone();
    assert_eq!(rig.run().block_on(async { world::rows(&*node.begin(short()), "people").await })?.len(), 1000);
    let mut keyless = whole("keyless", "pa", "loose");
    keyless.primary_key = None;
    let children = references(
        whole("children", "pa", "loose"),
        "region",
        "people",
        atoll_model::ReferentialAction::NoAction,
        atoll_model::ReferentialAction::NoAction,
    );
    for (table, kind, says) in [
        (whole("t", "home", "users"), ErrorKind::InvalidParameterValue, "Atoll's own"),
        (whole("t", "pa", "nothing"), ErrorKind::DatatypeMismatch, "There is no such table."),
        (whole("t", "pa", "shown"), ErrorKind::WrongObjectType, "It is no table that lasts."),
        (whole("t", "pa", "loose"), ErrorKind::DatatypeMismatch, "Its column \"region\" may be NULL."),
        (
            whole("t", "pa", "made"),
            ErrorKind::DatatypeMismatch,
            "Its column \"n\" takes no values: the site generates them.",
        ),
        (
            whole("t", "pa", "blinded"),
            ErrorKind::DatatypeMismatch,
            "Its column \"uid\" has a collation that takes different texts for equal.",
        ),
        (whole("t", "pa", "atoll.f1"), ErrorKind::WrongObjectType, "Its schema is where Atoll keeps its own copies."),
        (keyless, ErrorKind::InvalidTableDefinition, "needs a primary key"),
        (children, ErrorKind::NotSupported, "has foreign keys"),
    ] {
        let (got, message, detail) = refused(&rig, create(table))?;
        assert!(got == kind && (detail == says || message.contains(says)), "{got:?} {message} {detail}: {says}");
    }
    Ok(())
}

#[test]
fn tables_of_mariadb_are_adopted() -> TestResult {
    let rig = Rig::of([Engine::Maria, Engine::Postgres])?;
    let exact = "CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin";
    let users = format!(
        "CREATE TABLE users (region varchar(20) {exact} NOT NULL, uid varchar(20) {exact} PRIMARY KEY, n int); \
         INSERT INTO users SELECT 'hk', CONCAT('u', seq), seq FROM seq_1_to_1000; \
         UPDATE users SET region = 'bj' WHERE n IN (17, 18, 19); UPDATE users SET region = 'HK' WHERE n = 20; \
         CREATE TABLE visits (a int PRIMARY KEY, b int); INSERT INTO visits SELECT seq, seq FROM seq_0_to_99; \
         CREATE VIEW shown AS SELECT * FROM visits"
    );
    at_site(&rig, 0, &users)?;
    let mut new = by_list(table("users", "uid varchar(20) key, region varchar(20), n int"), "region");
    new.sites = vec!["home".into()];
    rig.ddl(create(new))?;
    // The site cannot tell, as it may compare texts otherwise, so that each row is looked at.
    let (kind, message, _) = refused(&rig, adopt("users_hk", list(&["hk"]), "pa", "users"))?;
    assert_eq!(kind, ErrorKind::CheckViolation);
    assert_eq!(message, "4 rows of the adopted table do not belong to fragment \"users_hk\"");
    at_site(&rig, 0, "UPDATE users SET region = 'hk'")?;
    rig.ddl(adopt("users_hk", list(&["hk"]), "pa", "users"))?;
    let node = rig.node().clone();
    rig.run().block_on(async {
        let rows = world::rows(&*node.begin(short()), "users").await?;
        assert_eq!((rows.len(), rows.iter().any(|r| r == "users_hk: u7 hk 7")), (1000, true));
        let txn = node.begin(short());
        insert(&*txn, "users", vec![vec![text("new"), text("hk"), Value::Null]]).await?;
        txn.commit().await?;
        let txn = node.begin(short());
        let duplicate = insert(&*txn, "users", vec![vec![text("u1"), text("hk"), int(1)]]).await;
        assert_eq!(duplicate.err().map(|e| e.kind()), Some(ErrorKind::UniqueViolation));
        txn.rollback();
        let txn = node.begin(short());
        txn.apply(CatalogCommand::Truncate { tables: vec!["users".into()], restart_identity: false }).await?;
        txn.rollback();
        Ok::<_, Error>(())
    })?;
    assert_eq!(number(&rig, 0, "SELECT COUNT(*) FROM users")?, 1001);
    rig.ddl(CatalogCommand::Truncate { tables: vec!["users".into()], restart_identity: false })?;
    assert_eq!(number(&rig, 0, "SELECT COUNT(*) FROM users")?, 0);
    rig.ddl(CatalogCommand::DropTable { name: "users".into(), cascade: false })?;

    // Numbers it compares as Atoll does.
    let mut visits = table("users", "a int key, b int");
    visits.sites = vec!["home".into()];
    visits.fragmentation = atoll_model::NewFragmentation::Range(vec!["a".into()]);
    rig.ddl(create(visits))?;
    let range = |from: i32, to: i32| FragmentBounds::Range {
        from: vec![RangeBound::Value(int(from))],
        to: vec![RangeBound::Value(int(to))],
    };
    let (_, message, detail) = refused(&rig, adopt("v", range(10, 97), "pa", "visits"))?;
    assert_eq!(message, "13 rows of the adopted table do not belong to fragment \"v\"");
    assert!(detail.starts_with("One has the key (a)="), "{detail}");
    for own in ["shown", "atoll_parts"] {
        assert_eq!(refused(&rig, adopt("v", range(0, 100), "pa", own))?.0, ErrorKind::WrongObjectType, "{own}");
    }
    rig.ddl(adopt("v", range(0, 100), "pa", "visits"))
}
