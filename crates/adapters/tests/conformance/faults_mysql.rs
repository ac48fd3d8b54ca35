//! What can go wrong with a MariaDB server across a network, and with what its DDL leaves behind.

use crate::faults::{OTHER_AUTHORITY, Outcomes, adopted, back, cutting_proxy, made, made_of, reads};
use crate::maria::Maria;
use crate::world::{
    LOCK_TIMEOUT, TestResult, account, accounts, begin, count, everything, failure, index, insert, key, lock, mysql,
    replica, rows, set,
};
use atoll_model::{ErrorKind, FragmentId, IndexId, Outcome, SiteId, SqlType, Value};
use atoll_ports::site::{Branch, BranchOptions, Finished, Isolation, PreparedName, Replica, RowChange, Site};
use futures::StreamExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Connections of Atoll, besides the test's own.
const CONNECTIONS: &str =
    "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND USER = 'app'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_addresses() -> TestResult {
    let server = Maria::start().await?;
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let at = replica(&accounts(), 0, SiteId(1));
    for (url, says) in [
        (server.url("app").replace("s3cret", "wrong-one"), "Access denied for user 'app'"),
        (server.url("nowhere"), "Unknown database 'nowhere'"),
        (format!("mysql://app:wrong-one@{closed}/d"), "refused"),
        (format!("{}?sslmode=require", server.url("app")), "TLS"),
    ] {
        let site = mysql(1, &url, &[])?;
        // The first one finds out; the next ones know.
        for _ in 0..3 {
            let began = Instant::now();
            let error = reads(&site, &at).await.expect_err(says);
            assert_eq!(error.kind(), ErrorKind::SiteUnavailable, "{error:?}");
            assert!(error.message().contains("site \"site1\" is unavailable"), "{error}");
            assert!(error.message().contains(says), "{error}");
            assert!(!format!("{error:?} {site:?}").contains("wrong-one"), "a password is shown: {error:?}");
            assert!(began.elapsed() < Duration::from_secs(2));
        }
    }
    Ok(())
}

/// A host that does not answer is waited for once, and not longer than allowed.
#[tokio::test]
async fn silent_host() -> TestResult {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("mysql://app@{}/d", silent.local_addr()?);
    let site = mysql(1, &url, &[("connect_timeout", "300ms")])?;
    let at = replica(&accounts(), 0, SiteId(1));
    for limit in [1000, 50, 50] {
        let began = Instant::now();
        assert_eq!(failure(reads(&site, &at).await), Some(ErrorKind::SiteUnavailable));
        assert!(began.elapsed() < Duration::from_millis(limit), "{:?}", began.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_in_the_middle() -> TestResult {
    let mut server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[])?;
    // More than the two portions that a scan keeps.
    let at = made_of(&site, 50_000, &"x".repeat(400)).await?;
    let gid = PreparedName::new("atoll_crash:1")?;
    let prepared = begin(&site, Isolation::ReadCommitted).await?;
    prepared.apply(&at, vec![insert(-1, "prepared", 1)]).await?;
    prepared.prepare(&gid).await?;

    let reader = begin(&site, Isolation::ReadCommitted).await?;
    let mut scan = reader.scan(&at, everything(&at))?;
    scan.next().await.ok_or("rows")??;
    let writer = begin(&site, Isolation::ReadCommitted).await?;
    writer.apply(&at, vec![insert(-2, "lost", 1)]).await?;
    server.server.crash();

    let mut ended = None;
    while let Some(batch) = scan.next().await {
        if let Err(error) = batch {
            ended = Some(error.kind());
            break;
        }
    }
    assert_eq!(ended, Some(ErrorKind::SiteUnavailable), "a result that is cut off is no result");
    // Nothing had been sent of a commit that could have been done: but who can tell?
    let lost = writer.commit().await.expect_err("the server is gone");
    assert!(lost.outcome() == Outcome::Indeterminate || lost.kind() == ErrorKind::SiteUnavailable, "{lost:?}");
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(failure(reads(&site, &at).await), Some(ErrorKind::SiteUnavailable));
        assert_eq!(failure(site.in_doubt().await), Some(ErrorKind::SiteUnavailable));
        assert_eq!(failure(site.finish(&gid, true).await), Some(ErrorKind::SiteUnavailable));
        assert_eq!(failure(site.purge(FragmentId(1)).await), Some(ErrorKind::SiteUnavailable));
    }
    assert!(began.elapsed() < Duration::from_secs(3));

    tokio::task::block_in_place(|| server.server.start_again())?;
    back(&site, &at).await?;
    // What was prepared is there, with its locks.
    let deadline = Instant::now() + Duration::from_secs(10);
    let found = loop {
        match site.in_doubt().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            found => break found?,
        }
    };
    assert_eq!(found, std::slice::from_ref(&gid));
    let other = begin(&site, Isolation::ReadCommitted).await?;
    assert!(other.apply(&at, vec![insert(-1, "other", 1)]).await.is_err());
    other.rollback();
    assert_eq!(site.finish(&gid, true).await?, Finished::Now);
    let reader = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(count(&*reader, &at, everything(&at)).await?, 50_001);
    assert_eq!(reader.get(&at, &key(-2)).await?, None);
    Ok(())
}

/// What a process has prepared, another can end, though the first one still has the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_by_another_process() -> TestResult {
    let server = Maria::start().await?;
    let one = mysql(1, &server.url("app"), &[("pool_size", "1"), ("pool_timeout", "5s")])?;
    let other = mysql(1, &server.url("app"), &[])?;
    let at = made(&one, 3).await?;
    let (keep, undo) = (PreparedName::new("atoll_other:1")?, PreparedName::new("atoll_other:2")?);
    for (name, commit, id) in [(&keep, true, 7), (&undo, false, 8)] {
        let branch = begin(&one, Isolation::ReadCommitted).await?;
        branch.apply(&at, vec![insert(id, &format!("{id}@x"), 1)]).await?;
        branch.prepare(name).await?;
        assert_eq!(other.in_doubt().await?, std::slice::from_ref(name));
        assert_eq!(other.finish(name, commit).await?, Finished::Now);
        assert_eq!(other.finish(name, commit).await?, Finished::Missing);
        assert!(one.in_doubt().await?.is_empty());
        assert_eq!(one.finish(name, commit).await?, Finished::Missing);
        // Its only connection is to be had again.
        let reader = begin(&one, Isolation::ReadCommitted).await?;
        assert_eq!(reader.get(&at, &key(id)).await?.is_some(), commit);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exhausted_pool() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[("pool_size", "2"), ("pool_timeout", "100ms")])?;
    let at = made(&site, 3).await?;
    let (a, b) = (begin(&site, Isolation::ReadCommitted).await?, begin(&site, Isolation::ReadCommitted).await?);
    lock(&*a, &at, 1).await?;
    lock(&*b, &at, 2).await?;
    let began = Instant::now();
    let refused = reads(&site, &at).await.expect_err("two connections, both in use");
    assert_eq!(refused.kind(), ErrorKind::TooManyConnections);
    assert!(refused.message().contains("all 2 connections to site \"site1\""), "{refused}");
    assert!((100..2000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    // What transactions wait for does not wait for them.
    assert!(site.in_doubt().await?.is_empty());
    a.rollback();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(reads(&site, &at).await?);
    drop(b);
    // However branches end, their connections are there again.
    for n in 0..50 {
        let branch = begin(&site, Isolation::ReadCommitted).await?;
        match n % 5 {
            0 => drop(lock(&*branch, &at, 1).await),
            1 => drop(branch.apply(&at, vec![insert(1, "taken", 1)]).await),
            2 => branch.commit().await.map(|_| ())?,
            3 => drop(branch.scan(&at, everything(&at))?.next().await),
            _ => drop(tokio::time::timeout(Duration::ZERO, branch.get(&at, &key(1))).await),
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while reads(&site, &at).await.is_err() {
        assert!(Instant::now() < deadline, "no connection comes back");
    }
    assert!(server.number("app", CONNECTIONS).await? <= 2 + 2);
    Ok(())
}

/// One connection is enough for a statement that reads and then writes; what it has seen it does not know then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_one() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[("pool_size", "1"), ("pool_timeout", "5s")])?;
    let at = made(&site, 3).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(rows(&*branch, &at, everything(&at)).await?.len(), 3);
    assert!(lock(&*branch, &at, 1).await?.changed, "it may have");
    branch.begin_statement();
    assert_eq!(rows(&*branch, &at, everything(&at)).await?.len(), 3);
    assert!(!lock(&*branch, &at, 1).await?.changed);
    assert!(!lock(&*branch, &at, 2).await?.changed);
    set(&*branch, &at, 1, 5).await?;
    branch.commit().await?;
    Ok(())
}

/// A statement that nobody waits for any more is ended at the site, and its locks go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_given_up() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[])?;
    let at = made(&site, 3).await?;
    let holder = begin(&site, Isolation::ReadCommitted).await?;
    lock(&*holder, &at, 1).await?;
    let patient = BranchOptions { lock_timeout: Duration::from_secs(60), ..BranchOptions::default() };
    let waiting = site.begin(patient).await?;
    lock(&*waiting, &at, 2).await?;
    assert!(tokio::time::timeout(LOCK_TIMEOUT, lock(&*waiting, &at, 1)).await.is_err());
    waiting.rollback();
    let next = site.begin(patient).await?;
    tokio::time::timeout(Duration::from_secs(5), lock(&*next, &at, 2)).await??;
    next.rollback();
    drop(waiting);
    let deadline = Instant::now() + Duration::from_secs(5);
    let waits = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'";
    while server.number("app", waits).await? > 0 {
        assert!(Instant::now() < deadline, "the statement still waits at the site");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn lost_while(server: &Maria, text: &'static str) -> Outcomes<(Arc<dyn Branch>, Arc<dyn Site>, Replica)> {
    let address = server.server.address();
    let (proxy, armed) = cutting_proxy(address, text).await?;
    let site = mysql(1, &server.url("app").replace(&address.to_string(), &proxy.to_string()), &[])?;
    let at = made(&site, 1).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.apply(&at, vec![insert(100, "100@x", 1)]).await?;
    armed.store(true, Ordering::Relaxed);
    Ok((branch, site, at))
}

/// A commit whose acknowledgement is lost is neither done nor undone, for all that one can know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_during_commit() -> TestResult {
    let server = Maria::start().await?;
    let (branch, _, _) = lost_while(&server, "XA COMMIT").await?;
    let error = branch.commit().await.expect_err("the answer is lost");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::StatementCompletionUnknown, Outcome::Indeterminate));

    // In two phases it is known who has to be asked.
    let (branch, site, _) = lost_while(&server, "XA PREPARE").await?;
    let gid = PreparedName::new("atoll_lost:1")?;
    assert_eq!(failure(branch.prepare(&gid).await), Some(ErrorKind::SiteUnavailable));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match site.in_doubt().await {
            Ok(found) if found == [gid.clone()] => break,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site.finish(&gid, false).await?;
    assert!(site.in_doubt().await?.is_empty());
    Ok(())
}

/// What a commit has made stays, also if nobody heard of the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_and_lost_commits() -> TestResult {
    let server = Maria::start().await?;
    let address = server.server.address();
    let (proxy, armed) = cutting_proxy(address, "XA COMMIT").await?;
    let site = mysql(1, &server.url("app").replace(&address.to_string(), &proxy.to_string()), &[])?;
    let at = made(&site, 1).await?;
    let mut changed = (*at.table).clone();
    changed.indexes.push(index(2, "accounts_balance_key", &[3], true));
    let unique = Replica { table: Arc::new(changed), ..at.clone() };
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.define(&unique, Some(&at.table)).await?;
    branch.build_index(&unique, IndexId(2)).await?;
    armed.store(true, Ordering::Relaxed);
    let error = branch.commit().await.expect_err("the answer is lost");
    assert_eq!(error.outcome(), Outcome::Indeterminate);
    drop(branch);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let direct = mysql(1, &server.url("app"), &[])?;
    let other = begin(&direct, Isolation::ReadCommitted).await?;
    let twice = other.apply(&unique, vec![insert(7, "7@x", 100)]).await.expect_err("the index holds");
    assert_eq!((twice.kind(), twice.constraint_name()), (ErrorKind::UniqueViolation, Some("accounts_balance_key")));
    Ok(())
}

/// Only what is committed of a definition has a say: an index that an undone change has left is found out and dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_undone_definitions_leave() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[])?;
    let at = made(&site, 1).await?;
    let relation = format!("f{}", at.fragment);
    let indexes =
        format!("SELECT COUNT(DISTINCT INDEX_NAME) FROM information_schema.STATISTICS WHERE TABLE_NAME = '{relation}'");
    let until = |wanted: i64| {
        let (server, indexes) = (&server, &indexes);
        async move {
            let deadline = Instant::now() + Duration::from_secs(5);
            while server.number("app", indexes).await? != wanted {
                assert!(Instant::now() < deadline, "an index that does not count stays");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            TestResult::Ok(())
        }
    };
    let mut changed = (*at.table).clone();
    changed.indexes.push(index(2, "accounts_balance_key", &[3], true));
    let unique = Replica { table: Arc::new(changed), ..at.clone() };

    // Rolled back: it goes with the transaction.
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.define(&unique, Some(&at.table)).await?;
    branch.build_index(&unique, IndexId(2)).await?;
    assert_eq!(server.number("app", &indexes).await?, 3);
    branch.rollback();
    until(2).await?;

    // Of a process that has died: it goes when it is in the way.
    server.run("app", &format!("CREATE UNIQUE INDEX i2_dead ON {relation} (c3)")).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    let refused = branch.apply(&at, vec![insert(7, "7@x", 100)]).await;
    assert_eq!(failure(refused), Some(ErrorKind::SerializationFailure));
    branch.rollback();
    until(2).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.apply(&at, vec![insert(7, "7@x", 100)]).await?;
    branch.commit().await?;

    // A table and a column of which nothing came: the next definition takes their place.
    let next = accounts();
    let next = replica(&next, 0, site.id());
    server.run("app", &format!("CREATE TABLE f{} (c1 INT PRIMARY KEY, c9 INT)", next.fragment)).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.define(&next, None).await?;
    branch.apply(&next, vec![insert(1, "1@x", 1)]).await?;
    branch.commit().await?;
    let reader = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(rows(&*reader, &next, everything(&next)).await?, [account(1, "1@x", 1)]);
    Ok(())
}

/// A definition cannot change in a transaction that has used the table: the server would wait for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_of_tables_in_use() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[])?;
    let at = made(&site, 1).await?;
    let mut changed = (*at.table).clone();
    changed.indexes.push(index(2, "accounts_balance", &[3], false));
    let indexed = Replica { table: Arc::new(changed), ..at.clone() };
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    // What was only read is given up.
    assert_eq!(rows(&*branch, &at, everything(&at)).await?.len(), 1);
    branch.define(&indexed, Some(&at.table)).await?;
    branch.apply(&at, vec![insert(7, "7@x", 100)]).await?;
    let refused = branch.build_index(&indexed, IndexId(2)).await.expect_err("it is in use");
    assert_eq!(refused.kind(), ErrorKind::NotSupported);
    assert!(refused.hint_text().is_some(), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_do_not_fit() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[])?;
    for (n, (ty, declared, value, kind)) in [
        (SqlType::Date, "date", "'0000-00-00'", ErrorKind::DatetimeOverflow),
        (SqlType::Timestamp(None), "datetime(6)", "'2020-00-10 00:00:00'", ErrorKind::DatetimeOverflow),
        (SqlType::Time(None), "time(6)", "'-01:00:00'", ErrorKind::DatetimeOverflow),
        (SqlType::Time(None), "time(6)", "'100:00:00'", ErrorKind::DatetimeOverflow),
        (SqlType::Bool, "tinyint(1)", "7", ErrorKind::NumericOutOfRange),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("odd{n}");
        server.run("app", &format!("CREATE TABLE {name} (id int PRIMARY KEY, x {declared})")).await?;
        let fill = format!("SET sql_mode = ''; INSERT INTO {name} VALUES (1, NULL), (2, {value}), (3, NULL)");
        server.run("app", &fill).await?;
        let at = adopted(site.id(), &name, ty);
        let branch = begin(&site, Isolation::ReadCommitted).await?;
        branch.define(&at, None).await?;
        let mark = branch.savepoint();
        assert_eq!(failure(rows(&*branch, &at, everything(&at)).await), Some(kind), "{declared} {value}");
        branch.rollback_to(mark);
        assert_eq!(failure(branch.get(&at, &key(2)).await), Some(kind), "{declared} {value}");
        branch.rollback_to(mark);
        assert_eq!(branch.get(&at, &key(3)).await?, Some(vec![Value::Int4(3), Value::Null]));
    }
    // The other way: what the site cannot hold is refused, not cut.
    let columns =
        vec![crate::world::column(1, "id", SqlType::Int4, true), crate::world::column(2, "x", SqlType::Text, false)];
    let large = replica(&Arc::new(crate::world::table("large", columns, 1, vec![])), 0, site.id());
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.define(&large, None).await?;
    let text = |n: usize| RowChange::Insert(vec![Value::Int4(n as i32), Value::Text("x".repeat(n))]);
    branch.apply(&large, vec![text(10 << 20)]).await?;
    assert_eq!(failure(branch.apply(&large, vec![text(20 << 20)]).await), Some(ErrorKind::ProgramLimit));
    branch.rollback();
    let at = made(&site, 0).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    let outcome = branch.apply(&at, vec![insert(1, &"x".repeat(800), 1)]).await;
    assert_eq!(failure(outcome), Some(ErrorKind::StringTooLong));
    branch.rollback();
    for (n, (ty, value, kind)) in [
        (SqlType::Float8, Value::Float8(f64::NAN), ErrorKind::NumericOutOfRange),
        (SqlType::Float4, Value::Float4(f32::INFINITY), ErrorKind::NumericOutOfRange),
        (SqlType::Date, Value::Date(-800_000), ErrorKind::DatetimeOverflow),
    ]
    .into_iter()
    .enumerate()
    {
        let columns = vec![crate::world::column(1, "id", SqlType::Int4, true), crate::world::column(2, "x", ty, false)];
        let at = replica(&Arc::new(crate::world::table(&format!("odd{n}"), columns, 1, vec![])), 0, site.id());
        let branch = begin(&site, Isolation::ReadCommitted).await?;
        branch.define(&at, None).await?;
        let outcome = branch.apply(&at, vec![RowChange::Insert(vec![Value::Int4(1), value])]).await;
        assert_eq!(failure(outcome), Some(kind));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopted_tables() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[])?;
    let exact = "CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin";
    let sql = format!(
        "CREATE DATABASE shop; CREATE TABLE shop.`Orders` (x text {exact}, id int PRIMARY KEY); \
         INSERT INTO shop.`Orders` VALUES ('a', 1), ('B', 2), ('_', 3)"
    );
    server.run("app", &sql).await?;
    let at = adopted(site.id(), "shop.Orders", SqlType::Text);
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.define(&at, None).await?;
    branch.apply(&at, vec![RowChange::Insert(vec![Value::Int4(4), Value::Null])]).await?;
    let many = |n| RowChange::Update { old: vec![Value::Int4(n), Value::Null], new: vec![Value::Int4(n), Value::Null] };
    branch
        .lock(&at, &[key(4), key(1)], atoll_ports::site::LockMode::Exclusive, atoll_ports::site::LockWait::Wait)
        .await?;
    branch.apply(&at, vec![many(4)]).await?;
    branch.commit().await?;
    let reader = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(count(&*reader, &at, everything(&at)).await?, 4);
    reader.rollback();
    // It is the site's, and stays.
    site.purge(at.fragment).await?;
    assert_eq!(server.number("app", "SELECT COUNT(*) FROM shop.`Orders`").await?, 4);

    let refused = |at: Replica| {
        let site = site.clone();
        async move {
            let branch = begin(&site, Isolation::ReadCommitted).await?;
            let error = branch.define(&at, None).await.err();
            Ok::<_, atoll_model::Error>(error.and_then(|e| Some((e.kind(), e.detail_text()?.to_owned()))))
        }
    };
    let sql = "CREATE TABLE bare (id int PRIMARY KEY, x text); CREATE TABLE plain (id int NOT NULL, x int); \
               CREATE TABLE more (id int PRIMARY KEY, x int, y int); CREATE TABLE big (id int unsigned PRIMARY KEY, x int); \
               CREATE TABLE whole (id int PRIMARY KEY, x datetime); \
               CREATE TABLE stamped (id int PRIMARY KEY, x timestamp(6) NULL ON UPDATE CURRENT_TIMESTAMP(6))";
    server.run("app", sql).await?;
    let folded = format!("CREATE TABLE folded (id varchar(20) CHARACTER SET utf8mb4 PRIMARY KEY, x text {exact})");
    server.run("app", &folded).await?;
    let by_text = |name: &str| {
        let mut table = (*adopted(site.id(), name, SqlType::Text).table).clone();
        table.columns[0].ty = SqlType::Varchar(Some(20));
        replica(&Arc::new(table), 0, site.id())
    };
    for (at, says) in [
        (adopted(site.id(), "shop.nothing", SqlType::Text), "There is no such table."),
        (adopted(site.id(), "shop.Orders", SqlType::Int8), "Its column \"x\" is of type text instead of bigint."),
        (adopted(site.id(), "bare", SqlType::Text), "Its column \"x\" is of type text (latin1) instead of text."),
        (adopted(site.id(), "plain", SqlType::Int4), "It has no unique index on (id)."),
        (adopted(site.id(), "more", SqlType::Int4), "It has a column \"y\" more."),
        (adopted(site.id(), "big", SqlType::Int4), "Its column \"id\" is of type int(10) unsigned instead of integer."),
        (
            adopted(site.id(), "whole", SqlType::Timestamp(None)),
            "Its column \"x\" is of type datetime instead of timestamp without time zone.",
        ),
        (
            adopted(site.id(), "stamped", SqlType::TimestampTz(None)),
            "Its column \"x\" is changed by the server itself.",
        ),
        (
            by_text("folded"),
            "Its column \"id\" is part of a key or an index and compared by utf8mb4_general_ci instead of \
             utf8mb4_nopad_bin.",
        ),
    ] {
        assert_eq!(refused(at).await?, Some((ErrorKind::DatatypeMismatch, says.to_owned())));
    }
    // A column without digits of a second is one of whole seconds.
    assert_eq!(refused(adopted(site.id(), "whole", SqlType::Timestamp(Some(0)))).await?, None);
    assert_eq!(refused(adopted(site.id(), "whole", SqlType::TimestampTz(Some(0)))).await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encryption() -> TestResult {
    let mut server = Maria::start().await?;
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("../front/tests/tls");
    let certificate = tls.join("cert.pem");
    let (cert, key_file) =
        (server.server.keep(&certificate, "cert.pem")?, server.server.keep(&tls.join("key.pem"), "key.pem")?);
    server.server.set(format!("ssl-cert={}", cert.display()));
    server.server.set(format!("ssl-key={}", key_file.display()));
    server
        .run("app", "CREATE USER careful@'%' IDENTIFIED BY 's3cret' REQUIRE SSL; GRANT ALL ON *.* TO careful@'%'")
        .await?;
    server.server.crash();
    tokio::task::block_in_place(|| server.server.start_again())?;
    let strict = format!("sslmode=verify-full&sslrootcert={}", certificate.display());
    let url = server.url("app").replace("app:", "careful:");
    for (mode, host, passes) in [
        ("sslmode=disable", "127.0.0.1", false),
        ("sslmode=prefer", "127.0.0.1", true),
        ("sslmode=require", "127.0.0.1", true),
        (&strict, "localhost", true),
    ] {
        let site = mysql(1, &format!("{}?{mode}", url.replace("127.0.0.1", host)), &[])?;
        let outcome = site.in_doubt().await;
        assert_eq!(outcome.is_ok(), passes, "{mode}: {outcome:?}");
    }
    // A certificate of another authority.
    let other = tempfile::NamedTempFile::new()?;
    std::fs::write(other.path(), OTHER_AUTHORITY)?;
    let url =
        format!("{}?sslmode=verify-full&sslrootcert={}", url.replace("127.0.0.1", "localhost"), other.path().display());
    let error = mysql(1, &url, &[])?.in_doubt().await.expect_err("not its authority");
    assert_eq!(error.kind(), ErrorKind::SiteUnavailable);
    assert!(error.message().contains("certificate"), "{error}");
    Ok(())
}

/// Two Atolls that use one database do not take each other's tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_another() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[])?;
    let at = made(&site, 1).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(failure(branch.define(&at, None).await), Some(ErrorKind::DuplicateTable));
    branch.rollback();
    let other = mysql(1, &server.url("app"), &[("schema", "Another `one")])?;
    let branch = begin(&other, Isolation::ReadCommitted).await?;
    branch.define(&at, None).await?;
    branch.apply(&at, vec![insert(7, "7@x", 1)]).await?;
    branch.commit().await?;
    let there = format!("SELECT c1 FROM `Another ``one`.f{}", at.fragment);
    assert_eq!(server.number("app", &there).await?, 7);
    other.purge(at.fragment).await?;
    assert!(reads(&site, &at).await.is_ok_and(|found| !found), "one row, of another key");
    Ok(())
}

/// Connections that break while they are idle are not handed out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[("idle_check", "1ms")])?;
    let at = made(&site, 3).await?;
    let kill = async || -> TestResult {
        let mut killed = 0;
        let ids = "SELECT COALESCE(MAX(ID), 0) FROM information_schema.PROCESSLIST \
                   WHERE ID <> CONNECTION_ID() AND USER = 'app' AND COMMAND <> 'Killed'";
        while let id @ 1.. = server.number("app", ids).await? {
            // It may end by itself before that.
            let _ = server.run("app", &format!("KILL {id}")).await;
            killed += 1;
        }
        assert!(killed > 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(())
    };
    for _ in 0..5 {
        assert!(reads(&site, &at).await?);
        kill().await?;
    }
    // One that breaks in a transaction ends it.
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    set(&*branch, &at, 1, 5).await?;
    kill().await?;
    assert_eq!(failure(set(&*branch, &at, 2, 5).await), Some(ErrorKind::SiteUnavailable));
    assert!(branch.commit().await.is_err());
    let reader = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(reader.get(&at, &key(1)).await?, Some(account(1, "1@x", 100)));
    Ok(())
}
