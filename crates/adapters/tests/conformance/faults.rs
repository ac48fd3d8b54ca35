//! What can go wrong with a database across a network: nothing hangs, nothing is half done, and what is wrong is said.

use crate::server::Server;
use crate::world::{
    LOCK_TIMEOUT, TestResult, account, accounts, begin, column, count, everything, failure, insert, key, lock,
    postgres, replica, rows, set, table,
};
use atoll_model::{ErrorKind, FragmentId, Outcome, SiteId, SqlType, Value};
use atoll_ports::site::{Branch, BranchOptions, Finished, Isolation, PreparedName, Replica, Site};
use futures::StreamExt as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub type Outcomes<T> = Result<T, Box<dyn std::error::Error>>;

pub async fn made(site: &Arc<dyn Site>, count: i32) -> atoll_model::Result<Replica> {
    made_of(site, count, "x").await
}

/// As above, of rows that are as long as the address's domain makes them.
pub async fn made_of(site: &Arc<dyn Site>, count: i32, domain: &str) -> atoll_model::Result<Replica> {
    let at = replica(&accounts(), 0, site.id());
    let branch = begin(site, Isolation::ReadCommitted).await?;
    branch.define(&at, None).await?;
    branch.apply(&at, (0..count).map(|i| insert(i, &format!("{i}@{domain}"), 100)).collect()).await?;
    branch.commit().await?;
    Ok(at)
}

pub async fn reads(site: &Arc<dyn Site>, at: &Replica) -> atoll_model::Result<bool> {
    Ok(begin(site, Isolation::ReadCommitted).await?.get(at, &key(1)).await?.is_some())
}

/// Waits until the site answers again.
pub async fn back(site: &Arc<dyn Site>, at: &Replica) -> TestResult {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = reads(site, at).await {
        assert_eq!(error.kind(), ErrorKind::SiteUnavailable);
        if Instant::now() > deadline {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn wrong_addresses() -> TestResult {
    let server = Server::start().await?;
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let at = replica(&accounts(), 0, SiteId(1));
    for (url, says) in [
        (server.url("postgres").replace("s3cret", "wrong-one"), "password authentication failed for user \"postgres\""),
        (server.url("nowhere"), "database \"nowhere\" does not exist"),
        (format!("postgres://app:wrong-one@{closed}/d"), "refused"),
        (format!("{}?sslmode=require", server.url("postgres")), "TLS"),
    ] {
        let site = postgres(1, &url, &[])?;
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
    let url = format!("postgres://app@{}/d", silent.local_addr()?);
    let site = postgres(1, &url, &[("connect_timeout", "300ms")])?;
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
    let mut server = Server::start().await?;
    let site = postgres(1, &server.url("postgres"), &[])?;
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
    server.crash();

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

    server.start_again().await?;
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
    site.finish(&gid, true).await?;
    let reader = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(count(&*reader, &at, everything(&at)).await?, 50_001);
    assert_eq!(reader.get(&at, &key(-2)).await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exhausted_pool() -> TestResult {
    let server = Server::start().await?;
    let site = postgres(1, &server.url("postgres"), &[("pool_size", "2"), ("pool_timeout", "100ms")])?;
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
    assert!(reads(&site, &at).await?);
    drop(b);
    // However branches end, their connections are there again.
    for n in 0..50 {
        let branch = begin(&site, Isolation::ReadCommitted).await?;
        match n % 5 {
            0 => drop(lock(&*branch, &at, 1).await?),
            1 => drop(branch.apply(&at, vec![insert(1, "taken", 1)]).await),
            2 => branch.commit().await.map(|_| ())?,
            3 => drop(branch.scan(&at, everything(&at))?.next().await),
            _ => drop(tokio::time::timeout(Duration::ZERO, branch.get(&at, &key(1))).await),
        }
    }
    assert!(reads(&site, &at).await?);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'atoll'";
    assert!(server.number("postgres", sql).await? <= 2 + 2);
    Ok(())
}

/// A statement that nobody waits for any more is ended at the site, and its locks go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_given_up() -> TestResult {
    let server = Server::start().await?;
    let site = postgres(1, &server.url("postgres"), &[])?;
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
    while server.number("postgres", "SELECT count(*) FROM pg_locks WHERE NOT granted").await? > 0 {
        assert!(Instant::now() < deadline, "the statement still waits at the site");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A connection to the server, which ends without a word when it sees some text from the client.
pub async fn cutting_proxy(to: SocketAddr, at: &'static str) -> Outcomes<(SocketAddr, Arc<AtomicBool>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let armed = Arc::new(AtomicBool::new(false));
    let cuts = armed.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let cuts = cuts.clone();
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else { return };
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let forward = async {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                        if to_server.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                        let sent = String::from_utf8_lossy(&buffer[..n]);
                        if cuts.load(Ordering::Relaxed) && sent.contains(at) {
                            // The server has it, the client will not hear of it.
                            return;
                        }
                    }
                };
                let backward = async {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
                        // Slower than the other direction, so that a cut comes before an answer.
                        tokio::time::sleep(Duration::from_millis(if cuts.load(Ordering::Relaxed) { 50 } else { 0 }))
                            .await;
                        if to_client.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! { () = forward => {}, () = backward => {} }
            });
        }
    });
    Ok((address, armed))
}

async fn lost_while(
    server: &Server,
    text: &'static str,
    rows_before: i32,
) -> Outcomes<(Arc<dyn Branch>, Arc<dyn Site>, Replica)> {
    let (address, armed) = cutting_proxy(server.address, text).await?;
    let site = postgres(1, &server.url("postgres").replace(&server.address.to_string(), &address.to_string()), &[])?;
    let at = made(&site, rows_before).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.apply(&at, vec![insert(100, "100@x", 1)]).await?;
    armed.store(true, Ordering::Relaxed);
    Ok((branch, site, at))
}

/// A commit whose acknowledgement is lost is neither done nor undone, for all that one can know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_during_commit() -> TestResult {
    let server = Server::start().await?;
    let (branch, _, _) = lost_while(&server, "COMMIT", 1).await?;
    let error = branch.commit().await.expect_err("the answer is lost");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::StatementCompletionUnknown, Outcome::Indeterminate));

    // In two phases it is known who has to be asked.
    let (branch, site, _) = lost_while(&server, "PREPARE TRANSACTION", 1).await?;
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

#[tokio::test]
async fn prepared_transactions_disabled() -> TestResult {
    let server = Server::start_with(&["max_prepared_transactions=0"]).await?;
    let site = postgres(1, &server.url("postgres"), &[])?;
    let at = made(&site, 1).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.apply(&at, vec![insert(7, "7@x", 1)]).await?;
    let error = branch.prepare(&PreparedName::new("atoll_no:1")?).await.expect_err("it is disabled");
    assert!(error.message().contains("site \"site1\" takes no prepared transactions"), "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("max_prepared_transactions")), "{error:?}");
    // Transactions of this site alone go on.
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.apply(&at, vec![insert(8, "8@x", 1)]).await?;
    branch.commit().await?;
    let reader = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(rows(&*reader, &at, everything(&at)).await?, [account(0, "0@x", 100), account(8, "8@x", 1)]);
    Ok(())
}

/// Questions for statistics wait for tables that a prepared transaction has locked; its end does not wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_locks_and_statistics() -> TestResult {
    let server = Server::start().await?;
    let site = postgres(1, &server.url("postgres"), &[])?;
    let copies = [made(&site, 1).await?, made(&site, 1).await?, made(&site, 1).await?];
    let tables: Vec<String> = copies.iter().map(|at| format!("atoll.f{}", at.fragment)).collect();
    let sql = format!(
        "BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'atoll_locks:1'",
        tables.join(", ")
    );
    server.run("postgres", &sql).await?;
    for at in &copies {
        site.statistics(at.fragment);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let name = PreparedName::new("atoll_locks:1")?;
    let ended = tokio::time::timeout(Duration::from_secs(10), site.finish(&name, true)).await??;
    assert_eq!(ended, Finished::Now);
    assert!(reads(&site, &copies[0]).await.is_ok());
    Ok(())
}

/// A table of two columns that is there already.
pub fn adopted(site: SiteId, name: &str, ty: SqlType) -> Replica {
    let columns = vec![column(1, "id", SqlType::Int4, true), column(2, "x", ty, false)];
    let mut table = table("adopted", columns, 1, vec![]);
    table.fragments[0].adopted.insert(site, name.into());
    replica(&Arc::new(table), 0, site)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_do_not_fit() -> TestResult {
    let server = Server::start().await?;
    let site = postgres(1, &server.url("postgres"), &[])?;
    for (n, (ty, declared, value, kind)) in [
        (SqlType::Date, "date", "infinity", ErrorKind::DatetimeOverflow),
        (SqlType::Timestamp(None), "timestamp", "-infinity", ErrorKind::DatetimeOverflow),
        (SqlType::Numeric(None), "numeric", "NaN", ErrorKind::NumericOutOfRange),
        (SqlType::Numeric(None), "numeric", "1e30", ErrorKind::NumericOutOfRange),
        (SqlType::Numeric(None), "numeric", "0.12345678901", ErrorKind::NumericOutOfRange),
        (SqlType::Array(Box::new(SqlType::Int4)), "int[]", "{{1},{2}}", ErrorKind::NotSupported),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("odd{n}");
        let sql = format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, x {declared}); \
             INSERT INTO {name} VALUES (1, NULL), (2, '{value}'), (3, NULL)"
        );
        server.run("postgres", &sql).await?;
        let at = adopted(site.id(), &format!("public.{name}"), ty);
        let branch = begin(&site, Isolation::ReadCommitted).await?;
        branch.define(&at, None).await?;
        let mark = branch.savepoint();
        assert_eq!(failure(rows(&*branch, &at, everything(&at)).await), Some(kind), "{declared} {value}");
        branch.rollback_to(mark);
        assert_eq!(failure(branch.get(&at, &key(2)).await), Some(kind), "{declared} {value}");
        branch.rollback_to(mark);
        assert_eq!(branch.get(&at, &key(3)).await?, Some(vec![Value::Int4(3), Value::Null]));
    }
    // The other way: text that is longer than the site allows, because somebody has changed the table there.
    let at = made(&site, 0).await?;
    let alter = format!("ALTER TABLE atoll.f{} ALTER COLUMN email TYPE varchar(3)", at.fragment);
    server.run("postgres", &alter).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    let outcome = branch.apply(&at, vec![insert(1, "too long", 1)]).await;
    assert_eq!(failure(outcome), Some(ErrorKind::StringTooLong));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopted_tables() -> TestResult {
    let server = Server::start().await?;
    let site = postgres(1, &server.url("postgres"), &[])?;
    let sql = "CREATE SCHEMA shop; CREATE TABLE shop.\"Orders\" (x text, id int PRIMARY KEY); \
               INSERT INTO shop.\"Orders\" VALUES ('a', 1), ('B', 2), ('_', 3)";
    server.run("postgres", sql).await?;
    let at = adopted(site.id(), "shop.Orders", SqlType::Text);
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.define(&at, None).await?;
    branch.apply(&at, vec![atoll_ports::site::RowChange::Insert(vec![Value::Int4(4), Value::Null])]).await?;
    branch.commit().await?;
    let reader = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(count(&*reader, &at, everything(&at)).await?, 4);
    reader.rollback();
    // It is the site's, and stays.
    site.purge(at.fragment).await?;
    assert_eq!(server.number("postgres", "SELECT count(*) FROM shop.\"Orders\"").await?, 4);

    let refused = |at: Replica| {
        let site = site.clone();
        async move {
            let branch = begin(&site, Isolation::ReadCommitted).await?;
            let error = branch.define(&at, None).await.err();
            Ok::<_, atoll_model::Error>(error.and_then(|e| Some((e.kind(), e.detail_text()?.to_owned()))))
        }
    };
    server
        .run(
            "postgres",
            "CREATE TABLE bare (id int NOT NULL, x text); CREATE TABLE more (id int PRIMARY KEY, x text, y int)",
        )
        .await?;
    for (name, ty, says) in [
        ("shop.nothing", SqlType::Text, "There is no such table."),
        ("shop.Orders", SqlType::Int8, "Its column \"x\" is of type text instead of bigint."),
        ("public.bare", SqlType::Text, "It has no unique index on (id)."),
        ("public.more", SqlType::Text, "It has a column \"y\" more."),
    ] {
        let want = Some((ErrorKind::DatatypeMismatch, says.to_owned()));
        assert_eq!(refused(adopted(site.id(), name, ty)).await?, want);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encryption() -> TestResult {
    let mut server = Server::start().await?;
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("../front/tests/tls");
    let certificate = tls.join("cert.pem");
    server.encrypt(&certificate, &tls.join("key.pem"))?;
    server.crash();
    server.start_again().await?;
    let strict = format!("sslmode=verify-full&sslrootcert={}", certificate.display());
    let at = replica(&accounts(), 0, SiteId(1));
    for (mode, host, encrypted) in [
        ("sslmode=disable", "127.0.0.1", 0),
        ("sslmode=prefer", "127.0.0.1", 1),
        ("sslmode=require", "127.0.0.1", 1),
        (&strict, "localhost", 1),
    ] {
        let url = server.url("postgres").replace("127.0.0.1", host);
        let site = postgres(1, &format!("{url}?{mode}&application_name=encrypted"), &[])?;
        assert!(site.in_doubt().await?.is_empty());
        let sql = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                   WHERE ssl AND application_name = 'encrypted'";
        assert_eq!(server.number("postgres", sql).await?, encrypted, "{mode}");
        drop(site);
        // The server takes a moment to see that a connection is closed.
        let deadline = Instant::now() + Duration::from_secs(5);
        while server.number("postgres", sql).await? > 0 {
            assert!(Instant::now() < deadline, "a dropped site's connections stay");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // A certificate of another authority.
    let other = tempfile::NamedTempFile::new()?;
    std::fs::write(other.path(), OTHER_AUTHORITY)?;
    let url = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        server.url("postgres").replace("127.0.0.1", "localhost"),
        other.path().display()
    );
    let error = reads(&postgres(1, &url, &[])?, &at).await.expect_err("not its authority");
    assert_eq!(error.kind(), ErrorKind::SiteUnavailable);
    assert!(error.message().contains("certificate"), "{error}");
    Ok(())
}

/// Two Atolls that use one database do not take each other's tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_another() -> TestResult {
    let server = Server::start().await?;
    let site = postgres(1, &server.url("postgres"), &[])?;
    let at = made(&site, 1).await?;
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(failure(branch.define(&at, None).await), Some(ErrorKind::DuplicateTable));
    branch.rollback();
    let other = postgres(1, &server.url("postgres"), &[("schema", "Another one")])?;
    let branch = begin(&other, Isolation::ReadCommitted).await?;
    branch.define(&at, None).await?;
    branch.apply(&at, vec![insert(7, "7@x", 1)]).await?;
    branch.commit().await?;
    assert_eq!(
        server.number("postgres", &format!("SELECT id::bigint FROM \"Another one\".f{}", at.fragment)).await?,
        7
    );
    other.purge(at.fragment).await?;
    assert!(reads(&site, &at).await.is_ok_and(|found| !found), "one row, of another key");
    Ok(())
}

/// Connections that break while they are idle are not handed out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections() -> TestResult {
    let server = Server::start().await?;
    let site = postgres(1, &server.url("postgres"), &[("idle_check", "1ms")])?;
    let at = made(&site, 3).await?;
    for _ in 0..5 {
        assert!(reads(&site, &at).await?);
        let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'atoll'";
        assert!(server.number("postgres", others).await? > 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // One that breaks in a transaction ends it.
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    set(&*branch, &at, 1, 5).await?;
    let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'atoll'";
    server.number("postgres", others).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(failure(set(&*branch, &at, 2, 5).await), Some(ErrorKind::SiteUnavailable));
    assert!(branch.commit().await.is_err());
    let reader = begin(&site, Isolation::ReadCommitted).await?;
    assert_eq!(reader.get(&at, &key(1)).await?, Some(account(1, "1@x", 100)));
    Ok(())
}

/// A certificate that has signed nothing.
pub const OTHER_AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBjzCCATWgAwIBAgIUcUid4le6FB/+/hwVsDwP74SlTzUwCgYIKoZIzj0EAwIw\n\
HDEaMBgGA1UEAwwRYW5vdGhlciBhdXRob3JpdHkwIBcNMjYxMTIxMTUzNDMxWhgP\n\
MjEyNjEwMjgxNTM0MzFaMBwxGjAYBgNVBAMMEWFub3RoZXIgYXV0aG9yaXR5MFkw\n\
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEUwGAq5VG6LCB1Nd8yMwWHY1ZYx1uVGnT\n\
wekEjarzmPgYO+LM/78yi1DW5AhUaCpa7OeEbNZGZNSwQ86NdzyIOqNTMFEwHQYD\n\
VR0OBBYEFBqrhv50C8BS7hkuJfq5MFwjapxiMB8GA1UdIwQYMBaAFBqrhv50C8BS\n\
7hkuJfq5MFwjapxiMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIh\n\
AN8c9PD/XxrGUDS9bIN7MxMoI1h7Cy7TSQ+0LPZYdi4ZAiAJ31jLkK2CZg7TFFVJ\n\
skoC6y+S/r+IqNJmV7EOuCrgIA==\n\
-----END CERTIFICATE-----\n";
