//! The wire protocol against a made-up database: with a real client, and with one that sends what it likes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;
#[path = "fake/raw.rs"]
mod raw;

use atoll_front::{FrontConfig, FrontHandle, Limits, StatusSource, serve};
use fake::{Fake, FakeDatabase, one_of_each};
use futures::{SinkExt, StreamExt, TryStreamExt, pin_mut};
use raw::{Answer, Raw, V3, bind, describe, execute, message, parse, query, startup, sync};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

struct NoStatus;

#[async_trait::async_trait]
impl StatusSource for NoStatus {
    async fn status(&self) -> serde_json::Value {
        serde_json::json!({})
    }
}

async fn front(limits: Limits) -> (FrontHandle, Arc<Fake>) {
    let fake = Fake::new();
    let config = FrontConfig {
        sql_addr: "127.0.0.1:0".parse().unwrap(),
        http_addr: "127.0.0.1:0".parse().unwrap(),
        limits,
        ..FrontConfig::default()
    };
    let handle = serve(config, Arc::new(FakeDatabase(fake.clone())), Arc::new(NoStatus)).await.unwrap();
    (handle, fake)
}

async fn connect(front: &FrontHandle, user: &str) -> Result<Client, tokio_postgres::Error> {
    let port = front.sql_addr().port();
    let (client, connection) =
        tokio_postgres::connect(&format!("host=127.0.0.1 port={port} dbname=atoll {user}"), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn client() -> (FrontHandle, Arc<Fake>, Client) {
    let (front, fake) = front(Limits::default()).await;
    let client = connect(&front, "user=atoll").await.unwrap();
    (front, fake, client)
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn every_type_in_text() {
    let (_front, _fake, client) = client().await;
    let messages = client.simple_query("SELECT TYPES").await.unwrap();
    let Some(SimpleQueryMessage::Row(row)) = messages.iter().find(|m| matches!(m, SimpleQueryMessage::Row(_))) else {
        panic!("no row in {messages:?}")
    };
    for (i, (column, value, text)) in one_of_each().into_iter().enumerate() {
        assert_eq!(row.get(i), (!value.is_null()).then_some(text), "{}", column.name);
    }
}

#[tokio::test]
async fn every_type_in_binary() {
    let (_front, _fake, client) = client().await;
    let row = client.query_one("SELECT TYPES", &[]).await.unwrap();
    assert!(row.get::<_, bool>("bool"));
    assert_eq!(row.get::<_, i16>("int2"), -7);
    assert_eq!(row.get::<_, i32>("int4"), i32::MIN);
    assert_eq!(row.get::<_, i64>("int8"), i64::MAX);
    assert_eq!(row.get::<_, f32>("float4"), 0.1);
    assert_eq!(row.get::<_, f64>("float8"), 1e15);
    assert_eq!(row.get::<_, &str>("text"), "héllo");
    assert_eq!(row.get::<_, &[u8]>("bytea"), [0, 255]);
    assert_eq!(row.get::<_, Vec<Option<i32>>>("ints"), [Some(1), None]);
    assert_eq!(row.get::<_, Option<&str>>("null"), None);
    let epoch = std::time::UNIX_EPOCH;
    assert_eq!(row.get::<_, std::time::SystemTime>("timestamptz"), epoch + Duration::from_micros(1));
}

#[tokio::test]
async fn parameters_come_back() {
    let (_front, _fake, client) = client().await;
    let row = client.query_one("ECHO bigint", &[&i64::MIN]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), i64::MIN);
    let row = client.query_one("ECHO text[]", &[&vec![Some("a b"), None, Some("")]]).await.unwrap();
    assert_eq!(row.get::<_, Vec<Option<String>>>(0), [Some("a b".to_string()), None, Some(String::new())]);
    let row = client.query_one("ECHO bytea", &[&None::<Vec<u8>>]).await.unwrap();
    assert_eq!(row.get::<_, Option<Vec<u8>>>(0), None);
}

#[tokio::test]
async fn long_results_arrive_whole() {
    let (_front, _fake, client) = client().await;
    let rows = client.query("SELECT SERIES 50000", &[]).await.unwrap();
    assert_eq!(rows.len(), 50_000);
    assert!(rows.iter().enumerate().all(|(i, r)| r.get::<_, i64>(0) == i as i64));
    assert_eq!(rows[10].get::<_, Option<&str>>(1), None);
    assert_eq!(rows[11].get::<_, &str>(1), "row 11");
}

#[tokio::test]
async fn portals_give_rows_in_pieces() {
    let (_front, _fake, mut client) = client().await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT SERIES 2500", &[]).await.unwrap();
    let mut seen = Vec::new();
    for want in [1200, 1200, 100, 0] {
        let rows = transaction.query_portal(&portal, 1200).await.unwrap();
        assert_eq!(rows.len(), want);
        seen.extend(rows.iter().map(|r| r.get::<_, i64>(0)));
    }
    assert_eq!(seen, (0..2500).collect::<Vec<_>>());
}

#[tokio::test]
async fn errors_carry_their_fields() {
    let (_front, _fake, client) = client().await;
    let error = client.execute("FAIL", &[]).await.unwrap_err();
    let db = error.as_db_error().unwrap();
    assert_eq!(db.code(), &SqlState::UNIQUE_VIOLATION);
    assert_eq!(db.severity(), "ERROR");
    assert_eq!(db.detail(), Some("Key (id)=(1) already exists."));
    assert_eq!(db.hint(), Some("Use ON CONFLICT."));
    assert_eq!((db.constraint(), db.table()), (Some("t_pkey"), Some("t")));
    // A stream that breaks after its first rows.
    let error = client.query("SELECT BROKEN", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
    // The connection is as good as before.
    assert_eq!(client.query("SELECT SERIES 3", &[]).await.unwrap().len(), 3);
}

#[tokio::test]
async fn positions_count_from_the_start_of_the_text() {
    let (_front, _fake, client) = client().await;
    let error = client.simple_query("NOTICE; SELECT MISSING").await.unwrap_err();
    let position = error.as_db_error().and_then(|e| e.position().cloned());
    assert_eq!(position, Some(tokio_postgres::error::ErrorPosition::Original(16)));
}

#[tokio::test]
async fn a_simple_query_is_one_transaction() {
    let (_front, fake, client) = client().await;
    client.batch_execute("INSERT; INSERT").await.unwrap();
    assert_eq!(fake.committed.load(Ordering::SeqCst), 2);
    assert!(client.batch_execute("INSERT; FAIL; INSERT").await.is_err());
    assert_eq!(fake.committed.load(Ordering::SeqCst), 2);
    client.batch_execute("BEGIN; INSERT; COMMIT").await.unwrap();
    assert_eq!(fake.committed.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_failed_commit_replaces_the_completion() {
    let (front, _fake) = front(Limits::default()).await;
    let mut raw = Raw::ready(front.sql_addr()).await;
    assert_eq!(raw.tags(&query("FAIL COMMIT")).await, "EZ");
    let extended = [parse("", "FAIL COMMIT", &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    assert_eq!(raw.tags(&extended).await, "12EZ");
    assert_eq!(raw.tags(&query("INSERT")).await, "CZ");
}

#[tokio::test]
async fn a_transaction_block_fails_and_ends() {
    let (front, _fake) = front(Limits::default()).await;
    let mut raw = Raw::ready(front.sql_addr()).await;
    let status = |answers: &[Answer]| answers.last().unwrap().body[0] as char;
    raw.send(&query("BEGIN")).await;
    assert_eq!(status(&raw.until_ready().await), 'T');
    // An error that the engine never sees fails the block too.
    raw.send(&[bind("", "nothing", &[]), sync()].concat()).await;
    assert_eq!(status(&raw.until_ready().await), 'E');
    raw.send(&query("INSERT")).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "25P02");
    raw.send(&query("ROLLBACK")).await;
    assert_eq!(status(&raw.until_ready().await), 'I');
}

#[tokio::test]
async fn an_error_skips_to_sync() {
    let (front, fake) = front(Limits::default()).await;
    let mut raw = Raw::ready(front.sql_addr()).await;
    let insert = [parse("", "INSERT", &[]), bind("", "", &[]), execute("", 0)].concat();
    let fail = [parse("", "FAIL", &[]), bind("", "", &[]), execute("", 0)].concat();
    let pipeline = [insert.clone(), fail, insert.clone(), sync(), insert, sync()].concat();
    raw.send(&pipeline).await;
    let first: String = raw.until_ready().await.iter().map(|a| a.tag).collect();
    let second: String = raw.until_ready().await.iter().map(|a| a.tag).collect();
    assert_eq!((first.as_str(), second.as_str()), ("12C12EZ", "12CZ"));
    assert_eq!(fake.committed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn flush_sends_answers_and_errors() {
    let (front, _fake) = front(Limits::default()).await;
    let mut raw = Raw::ready(front.sql_addr()).await;
    let flush = message(b'H', &[]);
    raw.send(&[parse("", "ECHO int4", &[]), describe('S', ""), flush.clone()].concat()).await;
    let tags: Vec<char> = [raw.next().await, raw.next().await, raw.next().await].map(|a| a.unwrap().tag).into();
    assert_eq!(tags, ['1', 't', 'T']);
    // An error comes at once, although the Flush behind it is skipped.
    raw.send(&[parse("", "SELECT MISSING", &[]), describe('S', ""), flush].concat()).await;
    assert_eq!(raw.next().await.unwrap().sqlstate(), "42P01");
    assert_eq!(raw.tags(&sync()).await, "Z");
}

#[tokio::test]
async fn statements_and_portals_have_their_lives() {
    let limits = Limits { max_statements: 3, max_portals: 2, ..Limits::default() };
    let (front, _fake) = front(limits).await;
    let mut raw = Raw::ready(front.sql_addr()).await;
    assert_eq!(raw.tags(&[parse("a", "ECHO int4", &[]), describe('S', "a"), sync()].concat()).await, "1tTZ");
    raw.send(&[parse("a", "INSERT", &[]), sync()].concat()).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "42P05");
    raw.send(&[bind("", "b", &[]), sync()].concat()).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "26000");
    raw.send(&[bind("", "a", &[]), sync()].concat()).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "08P01");
    raw.send(&[bind("", "a", &["x"]), sync()].concat()).await;
    let answers = raw.until_ready().await;
    assert_eq!(answers[0].sqlstate(), "22P02");
    assert_eq!(answers[0].field(b'W').as_deref(), Some("unnamed portal parameter $1"));
    raw.send(&[execute("p", 0), sync()].concat()).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "34000");
    // What has no rows runs once.
    raw.send(&[parse("", "INSERT", &[]), bind("", "", &[]), execute("", 0), execute("", 0), sync()].concat()).await;
    assert_eq!(raw.until_ready().await[3].sqlstate(), "55000");
    // Portals end with their transaction, statements stay.
    assert_eq!(
        raw.tags(&[bind("p", "a", &["1"]), describe('P', "p"), execute("p", 0), sync()].concat()).await,
        "2TDCZ"
    );
    raw.send(&[execute("p", 0), sync()].concat()).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "34000");
    // Limits.
    raw.send(&[bind("p", "a", &["1"]), bind("q", "a", &["1"]), bind("r", "a", &["1"]), sync()].concat()).await;
    assert_eq!(raw.until_ready().await[2].sqlstate(), "54000");
    // "a" and the unnamed one are there already.
    raw.send(&[parse("b", "INSERT", &[]), parse("c", "INSERT", &[]), sync()].concat()).await;
    assert_eq!(raw.until_ready().await[1].sqlstate(), "54000");
    // DEALLOCATE in SQL reaches the protocol's statements, as drivers expect.
    assert_eq!(raw.tags(&query("DEALLOCATE a")).await, "CZ");
    raw.send(&[bind("", "a", &["1"]), sync()].concat()).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "26000");
    // Several statements in one Parse, none in another.
    raw.send(&[parse("", "INSERT; INSERT", &[]), sync()].concat()).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "42601");
    assert_eq!(
        raw.tags(&[parse("", " ", &[]), bind("", "", &[]), describe('P', ""), execute("", 0), sync()].concat()).await,
        "12nIZ"
    );
    assert_eq!(raw.tags(&query("")).await, "IZ");
}

#[tokio::test]
async fn notices_and_settings_are_passed_on() {
    let (front, _fake) = front(Limits::default()).await;
    let mut raw = Raw::ready(front.sql_addr()).await;
    raw.send(&query("NOTICE; SET here")).await;
    let answers = raw.until_ready().await;
    assert_eq!(answers.iter().map(|a| a.tag).collect::<String>(), "NCCSZ");
    assert_eq!(answers[0].field(b'M').as_deref(), Some("watch out"));
    assert_eq!(answers[3].text(), "application_name\0here");
}

#[tokio::test]
async fn copy_in_both_formats() {
    let (_front, fake, client) = client().await;
    let sink = client.copy_in("COPY t FROM STDIN").await.unwrap();
    pin_mut!(sink);
    // Cut where it hurts: within a number, an escape, a line end.
    for chunk in ["1\trow", " 1\n2", "\t\\N\n3\ta\\", "tb\\\\\n-4\t\n", "5\tlast"] {
        sink.send(bytes::Bytes::from(chunk)).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 5);
    let csv = client.copy_in("COPY t FROM STDIN CSV HEADER").await.unwrap();
    pin_mut!(csv);
    for chunk in ["n,t\r\n1,\"a,\"\"", "b\r\nc\"\r\n2,\r\n", "3,\"\"\r\n"] {
        csv.send(bytes::Bytes::from(chunk)).await.unwrap();
    }
    assert_eq!(csv.finish().await.unwrap(), 3);
    let batches = fake.copied.lock().clone();
    let texts: Vec<Option<String>> = batches
        .iter()
        .flat_map(|b| {
            let column = arrow_array::cast::AsArray::as_string::<i32>(b.column(1)).clone();
            column.iter().map(|v| v.map(str::to_string)).collect::<Vec<_>>()
        })
        .collect();
    let want = [Some("row 1"), None, Some("a\tb\\"), Some(""), Some("last"), Some("a,\"b\r\nc"), None, Some("")];
    assert_eq!(texts, want.map(|t| t.map(str::to_string)));
}

#[tokio::test]
async fn copy_in_many_rows_and_out_again() {
    let (_front, fake, client) = client().await;
    let sink = client.copy_in("COPY t FROM STDIN").await.unwrap();
    pin_mut!(sink);
    let mut text = String::new();
    for i in 0..50_000 {
        text.push_str(&format!("{i}\trow {i}\n"));
    }
    for chunk in text.as_bytes().chunks(4_999) {
        sink.feed(bytes::Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 50_000);
    let batches: Vec<usize> = fake.copied.lock().iter().map(|b| b.num_rows()).collect();
    assert_eq!(batches, [vec![2048; 24], vec![848]].concat());
    let out: Vec<bytes::Bytes> = client.copy_out("COPY t TO STDOUT").await.unwrap().try_collect().await.unwrap();
    assert_eq!(
        out.concat(),
        (0..25)
            .map(|i| if i % 10 == 0 { format!("{i}\t\\N\n") } else { format!("{i}\trow {i}\n") })
            .collect::<String>()
            .into_bytes()
    );
    let out: Vec<bytes::Bytes> =
        client.copy_out("COPY t TO STDOUT CSV HEADER").await.unwrap().try_collect().await.unwrap();
    assert!(out.concat().starts_with(b"n,t\n0,\n1,row 1\n"));
}

#[tokio::test]
async fn copy_errors_name_the_place() {
    let (front, fake) = front(Limits::default()).await;
    let mut raw = Raw::ready(front.sql_addr()).await;
    let data = |text: &str| message(b'd', text.as_bytes());
    for (input, sqlstate, context) in [
        ("1\tx\nx\ty\n", "22P02", "COPY t, line 2, column n: \"x\""),
        ("1\n", "22P04", "COPY t, line 1: \"1\""),
        ("1\tx\n2\ty\tz\n", "22P04", "COPY t, line 2: \"2\ty\tz\""),
        ("99999999999999999999\tx\n", "22003", "COPY t, line 1, column n: \"99999999999999999999\""),
    ] {
        raw.send(&[query("COPY t FROM STDIN"), data(input), data("3\tafter\n"), message(b'c', &[])].concat()).await;
        let answers = raw.until_ready().await;
        assert_eq!(answers.iter().map(|a| a.tag).collect::<String>(), "GEZ");
        assert_eq!(answers[1].sqlstate(), sqlstate);
        assert_eq!(answers[1].field(b'W').as_deref(), Some(context));
    }
    // The extended protocol: what is left of the data is skipped up to Sync.
    let start = [parse("", "COPY t FROM STDIN", &[]), bind("", "", &[]), execute("", 0)].concat();
    assert_eq!(
        raw.tags(&[start.clone(), data("bad\n"), data("1\tx\n"), message(b'c', &[]), sync()].concat()).await,
        "12GEZ"
    );
    // A client that gives up.
    raw.send(&[query("COPY t FROM STDIN"), data("1\tx\n"), message(b'f', b"no more\0")].concat()).await;
    assert_eq!(raw.until_ready().await[1].sqlstate(), "57014");
    assert_eq!(fake.copied.lock().len(), 0);
    // A Sync that came too early is ignored while copying.
    assert_eq!(raw.tags(&[start, sync(), data("1\tx\n"), message(b'c', &[]), sync()].concat()).await, "12GCZ");
    assert_eq!(fake.copied.lock().len(), 1);
}

#[tokio::test]
async fn a_cancel_request_needs_the_key() {
    let (_front, fake, client) = client().await;
    let token = client.cancel_token();
    let sleep = tokio::spawn(async move { client.simple_query("SLEEP").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    token.cancel_query(NoTls).await.unwrap();
    let error = sleep.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(fake.cancelled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_wrong_cancel_key_does_nothing() {
    let (front, fake) = front(Limits::default()).await;
    let mut raw = Raw::open(front.sql_addr()).await;
    raw.send(&startup(V3, &[("user", "atoll")])).await;
    let answers = raw.until_ready().await;
    let key = &answers.iter().find(|a| a.tag == 'K').unwrap().body;
    raw.send(&query("SLEEP")).await;
    let cancel =
        |secret: [u8; 4]| [&16i32.to_be_bytes()[..], &80_877_102i32.to_be_bytes(), &key[..4], &secret].concat();
    let right = [key[4], key[5], key[6], key[7]];
    let wrong = [key[4] ^ 1, key[5], key[6], key[7]];
    Raw::open(front.sql_addr()).await.send(&cancel(wrong)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fake.cancelled.load(Ordering::SeqCst), 0);
    Raw::open(front.sql_addr()).await.send(&cancel(right)).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "57014");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_work_with_it() {
    let (front, fake) = front(Limits::default()).await;
    let mut raw = Raw::ready(front.sql_addr()).await;
    raw.send(&query("SLEEP")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(raw);
    eventually("the session ends", || fake.sessions.load(Ordering::SeqCst) == 0).await;
    assert_eq!(fake.cancelled.load(Ordering::SeqCst), 1);
    // One that does not read stops an endless result, and is noticed when it goes.
    let mut raw = Raw::ready(front.sql_addr()).await;
    raw.send(&query("SELECT ENDLESS")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(raw);
    eventually("the stream is dropped", || fake.dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn an_endless_result_can_be_cancelled() {
    let (_front, fake, client) = client().await;
    let token = client.cancel_token();
    let stream = client.query_raw("SELECT ENDLESS", Vec::<i32>::new()).await.unwrap();
    pin_mut!(stream);
    for _ in 0..100 {
        stream.next().await.unwrap().unwrap();
    }
    token.cancel_query(NoTls).await.unwrap();
    let error = loop {
        if let Err(error) = stream.next().await.unwrap() {
            break error;
        }
    };
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    assert!(fake.dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn passwords() {
    let (front, _fake) = front(Limits::default()).await;
    connect(&front, "user=alice password=sécret").await.unwrap();
    for wrong in ["user=alice password=secret", "user=nobody password=secret"] {
        let error = connect(&front, wrong).await.err().unwrap();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD), "{wrong}");
    }
    let error = connect(&front, "user=atoll dbname=nowhere").await.err().unwrap();
    assert_eq!(error.code(), Some(&SqlState::INVALID_CATALOG_NAME));
}

#[tokio::test]
async fn too_many_connections() {
    let (front, fake) = front(Limits { max_connections: 2, ..Limits::default() }).await;
    let first = connect(&front, "user=atoll").await.unwrap();
    let _second = connect(&front, "user=atoll").await.unwrap();
    let error = connect(&front, "user=atoll").await.err().unwrap();
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    drop(first);
    eventually("a place is free", || fake.sessions.load(Ordering::SeqCst) == 1).await;
    // The permit is given back right after the session.
    tokio::time::sleep(Duration::from_millis(20)).await;
    connect(&front, "user=atoll").await.unwrap();
}

#[tokio::test]
async fn startup_packets_of_all_kinds() {
    let (front, _fake) = front(Limits::default()).await;
    let addr = front.sql_addr();
    // Encryption is refused in one byte, and the client goes on.
    let mut raw = Raw::open(addr).await;
    for code in [80_877_103i32, 80_877_104] {
        raw.send(&[8i32.to_be_bytes(), code.to_be_bytes()].concat()).await;
        assert_eq!(raw.stream.read_u8().await.unwrap(), b'N');
    }
    raw.send(&startup(V3, &[("user", "atoll")])).await;
    raw.until_ready().await;
    // A newer minor version and an unknown option.
    let mut raw = Raw::open(addr).await;
    raw.send(&startup(V3 + 2, &[("user", "atoll"), ("_pq_.x", "1")])).await;
    let answers = raw.until_ready().await;
    assert_eq!(answers[0], Answer { tag: 'v', body: [&[0; 7][..], &[1], b"_pq_.x\0"].concat() });
    for (packet, sqlstate) in [
        (startup(2 << 16, &[("user", "atoll")]), "0A000"),
        (startup(V3, &[]), "28000"),
        (startup(V3, &[("user", "atoll"), ("replication", "true")]), "0A000"),
    ] {
        let mut raw = Raw::open(addr).await;
        raw.send(&packet).await;
        let answer = raw.next().await.unwrap();
        assert_eq!((answer.sqlstate().as_str(), answer.field(b'S').as_deref()), (sqlstate, Some("FATAL")));
        assert_eq!(raw.next().await, None);
    }
}

#[tokio::test]
async fn hostile_streams_end_in_errors() {
    let limits = Limits { max_message_bytes: 100_000, ..Limits::default() };
    let (front, fake) = front(limits).await;
    let addr = front.sql_addr();
    // Inside a message: an error, and the connection goes on.
    let mut raw = Raw::ready(addr).await;
    for bytes in [
        message(b'P', b"x"),
        message(b'B', &[0, 0, 0xff, 0xff]),
        message(b'E', b"\0"),
        message(b'D', b"Q\0"),
        message(b'S', b"x"),
    ] {
        raw.send(&[bytes, sync()].concat()).await;
        assert_eq!(raw.until_ready().await[0].sqlstate(), "08P01");
    }
    raw.send(&message(b'Q', b"\xff\xfe\0")).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "22021");
    raw.send(&message(b'F', &[0; 8])).await;
    assert_eq!(raw.until_ready().await[0].sqlstate(), "0A000");
    // A broken frame: the connection ends, after saying why.
    for (bytes, sqlstate) in [
        (vec![b'Q', 0xff, 0xff, 0xff, 0xff], "08P01"),
        (vec![b'Q', 0, 0, 0, 0], "08P01"),
        (vec![b'?', 0, 0, 0, 4], "08P01"),
        (vec![b'Q', 0x7f, 0xff, 0xff, 0xff], "54000"),
        (message(b'p', b"x"), "08P01"),
    ] {
        let mut raw = Raw::ready(addr).await;
        raw.send(&bytes).await;
        let answer = raw.next().await.unwrap();
        assert_eq!((answer.sqlstate().as_str(), answer.field(b'S').as_deref()), (sqlstate, Some("FATAL")));
        assert_eq!(raw.next().await, None);
    }
    // Noise from the first byte on.
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 64], &[0x16, 3, 1, 0, 1]] {
        let mut raw = Raw::open(addr).await;
        raw.send(noise).await;
        let _ = raw.stream.shutdown().await;
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), raw.stream.read_to_end(&mut rest)).await.unwrap().ok();
    }
    drop(raw);
    eventually("all sessions end", || fake.sessions.load(Ordering::SeqCst) == 0).await;
    assert_eq!(connect(&front, "user=atoll").await.unwrap().query("SELECT SERIES 1", &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn shutdown_says_goodbye() {
    let limits = Limits { shutdown_grace: Duration::from_millis(200), ..Limits::default() };
    let (front, fake) = front(limits).await;
    let mut idle = Raw::ready(front.sql_addr()).await;
    let mut busy = Raw::ready(front.sql_addr()).await;
    busy.send(&query("SLEEP")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stopping = front.shutdown();
    let watching = async {
        assert_eq!(idle.next().await.unwrap().sqlstate(), "57P01");
        assert_eq!(idle.next().await, None);
        // The running statement had its grace.
        assert_eq!(busy.until_ready().await[0].sqlstate(), "57014");
        assert_eq!(busy.next().await.unwrap().sqlstate(), "57P01");
    };
    tokio::join!(stopping, watching);
    assert_eq!(fake.sessions.load(Ordering::SeqCst), 0);
    assert!(tokio::net::TcpStream::connect(front.sql_addr()).await.is_err());
}
