//! Databases as sites, as their users see them: existing tables are adopted, one by one and by schema, sites are altered, transactions over
//! several of them are seen and resolved, and no password is shown anywhere.

use atoll_e2e::asking::{connect, refused, rows, run};
use atoll_e2e::server::{Atoll, Crash as _, PostgreSql, Server, atoll_command};
use atoll_e2e::wire::Client;
use std::process::Output;
use std::time::{Duration, Instant};

/// Stands in every URL of a site; the servers trust everybody.
const PASSWORD: &str = "s3cret-of-the-site";

/// Where options, statements and settings could be shown.
const VIEWS: [&str; 15] = [
    "atoll.sites",
    "atoll.tables",
    "atoll.fragments",
    "atoll.replicas",
    "atoll.moves",
    "atoll.transactions",
    "atoll.in_doubt",
    "atoll.transactions_log",
    "pg_tablespace",
    "pg_foreign_server",
    "pg_foreign_table",
    "pg_user_mappings",
    "pg_settings",
    "pg_description",
    "pg_roles",
];

struct World {
    atoll: Atoll,
    hongkong: PostgreSql,
    beijing: PostgreSql,
}

fn site_url(server: &PostgreSql) -> String {
    format!("postgres://{}:{PASSWORD}@{}/{}", server.user(), server.address(), server.database())
}

impl World {
    fn start() -> (World, Client) {
        let world = World { atoll: Atoll::start(), hongkong: PostgreSql::start(), beijing: PostgreSql::start() };
        let mut client = connect(&world.atoll);
        for (name, server) in [("hongkong", &world.hongkong), ("beijing", &world.beijing)] {
            run(&mut client, &format!("CREATE SITE {name} ENGINE postgres OPTIONS (url '{}')", site_url(server)));
        }
        (world, client)
    }
}

const USERS: &str = "CREATE TABLE users (uid text PRIMARY KEY, name varchar(40), region text NOT NULL)";

#[test]
fn tables_that_are_there_become_fragments() {
    let (world, mut client) = World::start();
    let mut hongkong = connect(&world.hongkong);
    run(&mut hongkong, USERS);
    run(&mut hongkong, "INSERT INTO users SELECT 'h' || n, 'Name ' || n, 'hk' FROM generate_series(1, 100) n");
    run(
        &mut client,
        "CREATE TABLE users (uid text PRIMARY KEY, name varchar(40), region text NOT NULL CHECK (region <> 'mars')) \
                      PARTITION BY LIST (region)",
    );
    let adopt = "CREATE TABLE users_hk PARTITION OF users FOR VALUES IN ('hk') TABLESPACE hongkong OPTIONS (table 'public.users')";
    run(&mut hongkong, "INSERT INTO users VALUES ('b1', NULL, 'bj')");
    assert_eq!(
        refused(&mut client, adopt),
        ("23514".into(), "1 row of the adopted table does not belong to fragment \"users_hk\"".into())
    );
    run(&mut hongkong, "DELETE FROM users WHERE uid = 'b1'");
    run(&mut client, adopt);
    run(&mut client, "CREATE TABLE users_bj PARTITION OF users FOR VALUES IN ('bj') TABLESPACE beijing");

    assert_eq!(rows(&mut client, "SELECT count(*), min(name) FROM users"), ["100,Name 1"]);
    // Over both servers, at once.
    run(&mut client, "INSERT INTO users VALUES ('h101', 'Ann', 'hk'), ('b1', 'Bo', 'bj')");
    run(&mut client, "UPDATE users SET name = 'Anne' WHERE uid = 'h101'");
    assert_eq!(rows(&mut hongkong, "SELECT name FROM users WHERE uid = 'h101'"), ["Anne"]);
    assert_eq!(refused(&mut client, "INSERT INTO users VALUES ('h1', 'again', 'bj')").0, "23505");
    assert_eq!(refused(&mut client, "INSERT INTO users VALUES ('m1', 'Marvin', 'mars')").0, "23514");
    // Written by others at the site: seen at once.
    run(&mut hongkong, "UPDATE users SET name = 'Zoe' WHERE uid = 'h2'");
    assert_eq!(rows(&mut client, "SELECT name FROM users WHERE uid = 'h2'"), ["Zoe"]);
    assert_eq!(refused(&mut client, "ALTER TABLE users ADD COLUMN age int").0, "0A000");

    run(&mut client, "TRUNCATE users");
    assert_eq!(rows(&mut hongkong, "SELECT count(*) FROM users"), ["0"]);
    run(&mut client, "INSERT INTO users VALUES ('h1', 'Ann', 'hk')");
    run(&mut client, "DROP TABLE users");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(rows(&mut hongkong, "SELECT uid FROM users"), ["h1"]);

    // In one piece, with a CHECK that its rows do not fulfil.
    let whole = |check: &str| {
        format!(
            "CREATE TABLE people (uid text PRIMARY KEY {check}, name varchar(40), region text NOT NULL) \
             TABLESPACE hongkong OPTIONS (table 'users')"
        )
    };
    assert_eq!(refused(&mut client, &whole("CHECK (uid > 'x')")).0, "23514");
    run(&mut client, &whole(""));
    assert_eq!(rows(&mut client, "SELECT uid, region FROM people"), ["h1,hk"]);
    let (_, message) = refused(
        &mut client,
        "CREATE TABLE twice (uid text PRIMARY KEY, name varchar(40), region text NOT NULL) \
         TABLESPACE hongkong OPTIONS (table 'public.users')",
    );
    assert!(message.contains("adopted already"), "{message}");
}

#[test]
fn schemas_are_imported() {
    let (world, mut client) = World::start();
    let mut hongkong = connect(&world.hongkong);
    for sql in [
        "CREATE TABLE customers (id serial PRIMARY KEY, email text NOT NULL UNIQUE, since timestamptz DEFAULT now(), kind text DEFAULT 'plain'::text)",
        "INSERT INTO customers (email) VALUES ('a@x'), ('b@x')",
        "CREATE TABLE orders (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, customer int NOT NULL REFERENCES customers (id), total numeric(10,2))",
        "CREATE TABLE places (id int PRIMARY KEY, at point)",
        "CREATE TABLE notes (text text)",
        "CREATE VIEW shown AS SELECT 1",
    ] {
        run(&mut hongkong, sql);
    }
    let (sqlstate, message) = refused(&mut client, "IMPORT FOREIGN SCHEMA public FROM SERVER hongkong");
    assert_eq!(sqlstate, "0A000");
    assert_eq!(message, "2 tables of schema \"public\" of site \"hongkong\" cannot be imported");
    assert_eq!(rows(&mut client, "SELECT count(*) FROM atoll.tables"), ["0"]);
    run(&mut client, "IMPORT FOREIGN SCHEMA public EXCEPT (places, notes) FROM SERVER hongkong INTO public");
    assert_eq!(rows(&mut client, "SELECT name FROM atoll.tables ORDER BY 1"), ["customers", "orders"]);
    assert_eq!(
        rows(&mut client, "INSERT INTO customers (email) VALUES ('c@x') RETURNING id, kind, since IS NOT NULL"),
        ["3,plain,t"]
    );
    assert_eq!(refused(&mut client, "INSERT INTO customers (email) VALUES ('a@x')").0, "23505");
    assert_eq!(refused(&mut client, "INSERT INTO customers (email) VALUES (NULL)").0, "23502");
    // The site keeps its own foreign key.
    assert_eq!(refused(&mut client, "INSERT INTO orders (customer, total) VALUES (99, 1)").0, "23503");
    run(&mut client, "INSERT INTO orders (customer, total) VALUES (1, 12.5)");
    assert_eq!(
        rows(&mut client, "SELECT email, total FROM customers JOIN orders ON customers.id = customer"),
        ["a@x,12.50"]
    );
    assert_eq!(refused(&mut client, "IMPORT FOREIGN SCHEMA public LIMIT TO (nothing) FROM SERVER hongkong").0, "42P01");
    assert_eq!(refused(&mut client, "IMPORT FOREIGN SCHEMA elsewhere FROM SERVER hongkong").0, "3F000");
    assert_eq!(refused(&mut client, "IMPORT FOREIGN SCHEMA atoll FROM SERVER hongkong").0, "3F000");
    assert_eq!(refused(&mut client, "IMPORT FOREIGN SCHEMA public FROM SERVER nowhere").0, "42704");
    run(&mut client, "CREATE ROLE clerk LOGIN");
    let mut clerk = Client::connect(world.atoll.address(), "clerk", "atoll").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(refused(&mut clerk, "IMPORT FOREIGN SCHEMA public FROM SERVER hongkong").0, "42501");
    assert_eq!(refused(&mut clerk, "SELECT atoll.resolve_transaction('x', 'commit')").0, "42501");
}

#[test]
fn sites_are_altered_and_passwords_are_not_shown() {
    let (world, mut client) = World::start();
    run(&mut client, "CREATE TABLE t (id int PRIMARY KEY) TABLESPACE hongkong");
    let url = site_url(&world.hongkong);
    let mut told = vec![];
    for (sql, sqlstate) in [
        (format!("ALTER SITE hongkong OPTIONS (SET url '{url}nowhere')"), "08006"),
        (format!("ALTER SITE hongkong OPTIONS (SET url '{}')", site_url(&world.beijing)), "42P01"),
        (format!("ALTER SITE hongkong OPTIONS (ADD url '{url}')"), "42710"),
        (format!("ALTER SITE hongkong OPTIONS (SET url '{url}?nonsense=1')"), "22023"),
        (format!("ALTER SITE hongkong OPTIONS (SET url '{url}' '{url}')"), "42601"),
        (format!("ALTER SITE hongkong OPTIONS (SET url '{url}"), "42601"),
        (format!("ALTER SITE nowhere OPTIONS (SET url '{url}')"), "42704"),
        (format!("CREATE SITE x ENGINE postgres OPTIONS (uri '{url}')"), "22023"),
    ] {
        let (got, message) = refused(&mut client, &sql);
        assert_eq!(got, sqlstate, "{sql}: {message}");
        told.push(message);
    }
    run(
        &mut client,
        &format!("ALTER SITE hongkong OPTIONS (SET url '{url}?application_name=altered', ADD pool_size '3')"),
    );
    run(&mut client, "INSERT INTO t VALUES (1)");
    let altered = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'altered'";
    assert_eq!(rows(&mut connect(&world.hongkong), altered), ["t"]);

    // Nothing that anybody can read has it.
    for view in VIEWS {
        let shown = rows(&mut client, &format!("SELECT * FROM {view}"));
        told.extend(shown);
    }
    told.extend(rows(&mut client, "SHOW ALL"));
    told.push(std::fs::read_to_string(world.atoll.log()).unwrap_or_else(|e| panic!("{e}")));
    if let Some(shown) = told.iter().find(|text| text.contains(PASSWORD)) {
        panic!("a password is shown: {shown}");
    }
}

fn txn(world: &World, arguments: &[&str]) -> Output {
    let mut command = atoll_command().unwrap_or_else(|e| panic!("{e}"));
    command.arg("txn").args(arguments).args(["--format", "csv", "--url", &world.atoll.url()]);
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

#[test]
fn transactions_are_seen_and_resolved() {
    let (mut world, mut client) = World::start();
    run(&mut client, "CREATE TABLE t (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)");
    for (region, site) in [("hk", "hongkong"), ("bj", "beijing")] {
        run(
            &mut client,
            &format!("CREATE TABLE t_{region} PARTITION OF t FOR VALUES IN ('{region}') TABLESPACE {site}"),
        );
    }
    run(&mut client, "BEGIN");
    run(&mut client, "INSERT INTO t VALUES (1, 'hk'), (1, 'bj')");
    let open = "SELECT state, participants, has_writes, transaction_name FROM atoll.transactions WHERE has_writes";
    let shown = rows(&mut connect(&world.atoll), open);
    assert!(shown == ["active,{hongkong,beijing},t,-"] || shown == ["active,{beijing,hongkong},t,-"], "{shown:?}");
    run(&mut client, "COMMIT");
    let log = "SELECT outcome, participants, created_at <= ended_at, reason FROM atoll.transactions_log \
               ORDER BY created_at DESC LIMIT 1";
    let deadline = Instant::now() + Duration::from_secs(10);
    while rows(&mut client, log) != ["committed,{hongkong,beijing},t,-"] {
        assert!(Instant::now() < deadline, "{:?}", rows(&mut client, log));
        std::thread::sleep(Duration::from_millis(50));
    }
    let name = rows(&mut client, "SELECT transaction_name FROM atoll.transactions_log LIMIT 1").remove(0);
    let cluster = name.split('_').nth(1).unwrap_or_else(|| panic!("{name}")).to_owned();
    assert_eq!(rows(&mut client, "SELECT count(*) FROM atoll.in_doubt"), ["0"]);

    // As another node of the cluster, which is gone, would have left it.
    let left = format!("atoll_{cluster}_9-1_1");
    let mut hongkong = connect(&world.hongkong);
    let site = rows(&mut client, "SELECT site_id FROM atoll.sites WHERE name = 'hongkong'").remove(0);
    run(&mut hongkong, "CREATE TABLE marks (id int)");
    run(&mut hongkong, "BEGIN");
    run(&mut hongkong, "INSERT INTO marks VALUES (1)");
    run(&mut hongkong, &format!("PREPARE TRANSACTION '{left}_{site}'"));
    let in_doubt = "SELECT site, transaction_name, owner, decision, age_ms >= 0, problem FROM atoll.in_doubt";
    assert_eq!(rows(&mut client, in_doubt), [format!("hongkong,{left},another node,-,t,-")]);
    let listed = txn(&world, &["list"]);
    assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains(&left), "{listed:?}");
    assert_eq!(refused(&mut client, &format!("SELECT atoll.resolve_transaction('{left}', 'perhaps')")).0, "22023");
    assert_eq!(refused(&mut client, &format!("SELECT atoll.resolve_transaction('{name}', 'rollback')")).0, "42704");
    let resolved = txn(&world, &["resolve", &left, "commit"]);
    assert!(resolved.status.success(), "{resolved:?}");
    assert_eq!(rows(&mut hongkong, "SELECT count(*) FROM marks"), ["1"]);
    let again = txn(&world, &["resolve", &left, "commit"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!(rows(&mut client, "SELECT reason FROM atoll.transactions_log LIMIT 1"), ["resolved by hand"]);

    // The log outlives the process; a site that is down is told of.
    world.atoll.kill();
    world.atoll.restart().unwrap_or_else(|e| panic!("{e}"));
    world.beijing.crash();
    let mut client = connect(&world.atoll);
    assert_eq!(
        rows(&mut client, &format!("SELECT outcome FROM atoll.transactions_log WHERE transaction_name = '{name}'")),
        ["committed"]
    );
    let problems = "SELECT site, gid, problem IS NOT NULL FROM atoll.in_doubt";
    assert_eq!(rows(&mut client, problems), ["beijing,-,t"]);
}

#[test]
fn a_server_that_takes_no_prepared_transactions() {
    let (world, mut client) = World::start();
    let mut plain = PostgreSql::start();
    plain.set("max_prepared_transactions=0");
    plain.crash();
    plain.start_again().unwrap_or_else(|e| panic!("{e}"));
    let mut there = connect(&plain);
    run(&mut there, "CREATE TABLE t (id int, region text, PRIMARY KEY (id, region))");
    run(&mut client, &format!("CREATE SITE plain ENGINE postgres OPTIONS (url '{}')", site_url(&plain)));
    run(&mut client, "CREATE TABLE t (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region)");
    run(&mut client, "CREATE TABLE t_p PARTITION OF t FOR VALUES IN ('p') TABLESPACE plain OPTIONS (table 't')");
    run(&mut client, "CREATE TABLE t_hk PARTITION OF t FOR VALUES IN ('hk') TABLESPACE hongkong");
    run(&mut client, "INSERT INTO t VALUES (1, 'p'), (2, 'p')");
    let (sqlstate, message) = refused(&mut client, "INSERT INTO t VALUES (3, 'p'), (3, 'hk')");
    assert_eq!((sqlstate.as_str(), message.as_str()), ("55000", "site \"plain\" takes no prepared transactions"));
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t"), ["2"]);
    drop(world);
}

#[test]
fn read_consistency_is_a_transactions_own() {
    let (_world, mut client) = World::start();
    run(&mut client, "CREATE TABLE t (id int PRIMARY KEY) WITH (fragments = 2, sites = 'hongkong, beijing')");
    run(&mut client, "INSERT INTO t SELECT generate_series(1, 10)");
    assert_eq!(rows(&mut client, "SHOW atoll.read_consistency"), ["cluster"]);
    assert_eq!(refused(&mut client, "SET atoll.read_consistency = 'both'").0, "22023");
    run(&mut client, "SET atoll.read_consistency = 'site'");
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t"), ["10"]);
    run(&mut client, "BEGIN");
    run(&mut client, "SET LOCAL atoll.read_consistency = 'cluster'");
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t"), ["10"]);
    assert_eq!(
        refused(&mut client, "SET atoll.read_consistency = 'site'"),
        ("25001".into(), "SET atoll.read_consistency must be called before any query".into())
    );
    run(&mut client, "ROLLBACK");
    assert_eq!(rows(&mut client, "SHOW atoll.read_consistency"), ["site"]);
}
