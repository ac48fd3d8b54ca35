//! MOVE FRAGMENT, and copies that are set aside, in SQL: sessions over a node with embedded sites and a PostgreSQL server that dies.

#[path = "../../adapters/tests/conformance/server.rs"]
#[allow(dead_code, reason = "shared with the tests of adapters")]
mod server;
mod world;

use server::Server;
use std::time::{Duration, Instant};
use world::{Client, TestResult, World};

async fn until(client: &mut Client, sql: &str, expected: &[&str]) -> TestResult {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let rows = client.run(sql).await?;
        if rows == expected {
            return Ok(());
        }
        if Instant::now() > deadline {
            let moves = client.run("SELECT * FROM atoll.moves").await?;
            return Err(format!("{sql}: {rows:?}; moves: {moves:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragments_move_in_sql() -> TestResult {
    let world = World::new().await?;
    let mut c = world.session("atoll").await?;
    c.run(
        "CREATE SITE a; CREATE SITE b; CREATE ROLE guest LOGIN;
         CREATE TABLE users (uid int PRIMARY KEY, region text) PARTITION BY LIST (region);
         CREATE TABLE users_x PARTITION OF users FOR VALUES IN ('x') TABLESPACE a;
         CREATE TABLE reads (rid int PRIMARY KEY, uid int) WITH (colocate_with = 'users', colocate_on = 'uid');
         CREATE TABLE t (id int PRIMARY KEY) WITH (sites = 'a, b', fragments = 2);
         INSERT INTO users SELECT g, 'x' FROM generate_series(1, 1500) g;
         INSERT INTO reads SELECT g, g FROM generate_series(1, 700) g;",
    )
    .await?;
    assert_eq!(c.run("MOVE FRAGMENT users_x TO b").await?, ["MOVE FRAGMENT"]);
    let sites = "SELECT table_name, site, state FROM atoll.replicas WHERE table_name <> 't' ORDER BY 1, 2";
    assert_eq!(c.run(sites).await?, ["reads b serving", "users b serving"]);
    assert_eq!(c.run("SELECT count(*), sum(u.uid) FROM users u JOIN reads r USING (uid)").await?, ["700 245350"]);
    assert_eq!(
        c.run("SELECT table_name, fragment, target, state, rows_written FROM atoll.moves").await?,
        ["users users_x b done 1500"]
    );
    c.run("MOVE FRAGMENT t_0 OF t TO b WITH (wait = false)").await?;
    until(&mut c, "SELECT fragment, site FROM atoll.replicas WHERE table_name = 't' ORDER BY 1", &["t_0 b", "t_1 b"])
        .await?;

    assert_eq!(c.refused("MOVE FRAGMENT users_x TO b").await, "55000");
    assert_eq!(c.refused("MOVE FRAGMENT users_x TO elsewhere").await, "42704");
    assert_eq!(c.refused("MOVE FRAGMENT nothing TO a").await, "42P01");
    assert_eq!(c.refused("CANCEL MOVE OF FRAGMENT users_x").await, "55000");
    assert_eq!(c.refused("BEGIN; MOVE FRAGMENT users_x TO a").await, "25001");
    c.run("ROLLBACK").await?;
    assert_eq!(world.session("guest").await?.refused("MOVE FRAGMENT users_x TO a").await, "42501");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_while_a_copy_is_down() -> TestResult {
    let mut server = Server::start().await?;
    let database = server.database().await?;
    let world = World::new().await?;
    let mut c = world.session("atoll").await?;
    let site = format!("CREATE SITE pg ENGINE postgres OPTIONS (url '{}')", server.url(&database));
    c.run(&site).await?;
    c.run(
        "CREATE SITE a;
         CREATE TABLE t (id int PRIMARY KEY, n int UNIQUE) WITH (sites = 'pg, a', replication = 'all', on_replica_down = 'catch_up');
         CREATE TABLE strict (id int PRIMARY KEY) WITH (sites = 'pg, a', replication = 'all');
         INSERT INTO t SELECT g, g FROM generate_series(1, 1200) g",
    )
    .await?;
    server.crash();
    // Each statement by itself succeeds, without the client's help.
    assert_eq!(c.run("INSERT INTO t VALUES (5000, 5000)").await?, ["INSERT 0 1"]);
    assert_eq!(
        c.run("SELECT site, state FROM atoll.replicas WHERE table_name = 't' ORDER BY 1").await?,
        ["a serving", "pg behind"]
    );
    assert_eq!(c.run("DELETE FROM t WHERE id <= 100").await?, ["DELETE 100"]);
    assert_eq!(c.run("UPDATE t SET n = id + 10000 WHERE id BETWEEN 101 AND 200").await?, ["UPDATE 100"]);
    // Values that the copy still has in other rows.
    assert_eq!(c.run("INSERT INTO t SELECT -g, g FROM generate_series(1, 200) g").await?, ["INSERT 0 200"]);
    let whole = "SELECT count(*), sum(id), sum(n) FROM t";
    let expected = c.run(whole).await?;
    assert_eq!(c.refused("INSERT INTO strict VALUES (1)").await, "08006");
    assert_eq!(c.refused("ALTER TABLE t ADD COLUMN x int").await, "55000");
    assert_eq!(c.refused("TRUNCATE t").await, "55000");
    server.start_again().await?;
    let states = "SELECT site, state FROM atoll.replicas WHERE table_name = 't' ORDER BY 1";
    until(&mut c, states, &["a serving", "pg serving"]).await?;
    for _ in 0..4 {
        // From one copy and the other.
        assert_eq!(c.run(whole).await?, expected);
    }
    assert_eq!(c.run("INSERT INTO strict VALUES (1)").await?, ["INSERT 0 1"]);
    c.run("ALTER TABLE t SET (on_replica_down = 'refuse')").await?;
    server.crash();
    assert_eq!(c.refused("INSERT INTO t VALUES (6000, 6000)").await, "08006");
    assert_eq!(c.refused("ALTER TABLE t SET (fillfactor = 10)").await, "0A000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_block_is_told_to_run_again() -> TestResult {
    let mut server = Server::start().await?;
    let database = server.database().await?;
    let world = World::new().await?;
    let mut c = world.session("atoll").await?;
    c.run(&format!("CREATE SITE pg ENGINE postgres OPTIONS (url '{}')", server.url(&database))).await?;
    c.run("CREATE SITE a; CREATE TABLE t (id int PRIMARY KEY) WITH (sites = 'a, pg', replication = 'all', on_replica_down = 'catch_up')")
        .await?;
    server.crash();
    c.run("BEGIN").await?;
    assert_eq!(c.refused("INSERT INTO t VALUES (1)").await, "40001");
    c.run("ROLLBACK").await?;
    until(&mut c, "SELECT site, state FROM atoll.replicas ORDER BY 1", &["a serving", "pg behind"]).await?;
    c.run("BEGIN; INSERT INTO t VALUES (1); COMMIT").await?;
    assert_eq!(c.run("SELECT * FROM t").await?, ["1"]);
    Ok(())
}
