//! Bad input over the wire: broken statements, hostile frames. The server refuses with a code and lives on.
//!
//! `ATOLL_HOSTILE_SECONDS` bounds the random part (15), `ATOLL_HOSTILE_SEED` repeats it.

use atoll_e2e::budget;
use atoll_e2e::rng::Rng;
use atoll_e2e::server::{Atoll, PostgreSql, Server};
use atoll_e2e::wire::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn alive(server: &dyn Server, after: &str) {
    let mut client = server.connect().unwrap_or_else(|e| panic!("after {after}: {e}"));
    let reply = client.query("SELECT 1 + 1").unwrap_or_else(|e| panic!("after {after}: {e}"));
    assert_eq!(reply.scalar(), Some("2"), "after {after}");
}

/// Sends bytes and reads what comes until the other side closes or has been silent for a moment.
fn exchange(server: &dyn Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_millis(150))).expect("a timeout");
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n) = stream.read(&mut chunk) {
        if n == 0 || answer.len() > 1 << 20 {
            break;
        }
        answer.extend_from_slice(&chunk[..n]);
    }
    answer
}

fn startup(server: &dyn Server) -> Vec<u8> {
    let mut body = 196_608_i32.to_be_bytes().to_vec();
    for text in ["user", server.user(), "database", server.database()] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut message = (body.len() as i32 + 4).to_be_bytes().to_vec();
    message.extend(body);
    message
}

fn frame(tag: u8, length: i32, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(body);
    message
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    frame(tag, body.len() as i32 + 4, body)
}

/// Frames that lie about themselves, before and after the start-up.
fn hostile_frames(server: &dyn Server) {
    let good = startup(server);
    let raw: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("one byte", vec![0]),
        ("a truncated start-up", good[..good.len() - 3].to_vec()),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a huge start-up", [i32::MAX.to_be_bytes(), 196_608_i32.to_be_bytes()].concat()),
        ("a negative start-up", [(-1_i32).to_be_bytes(), 196_608_i32.to_be_bytes()].concat()),
        ("a start-up of no length", [0_i32.to_be_bytes(), 196_608_i32.to_be_bytes()].concat()),
        ("protocol 1.0", [8_i32.to_be_bytes(), 65_536_i32.to_be_bytes()].concat()),
        ("protocol 9.0", [8_i32.to_be_bytes(), (9_i32 << 16).to_be_bytes()].concat()),
        ("a start-up without a terminator", [12_i32.to_be_bytes(), 196_608_i32.to_be_bytes(), *b"user"].concat()),
        ("a cancel of nobody", [16_i32, 80_877_102, 1, 1].map(i32::to_be_bytes).concat()),
        ("a short cancel", [8_i32, 80_877_102].map(i32::to_be_bytes).concat()),
        ("SSL twice", [8_i32, 80_877_103, 8, 80_877_103].map(i32::to_be_bytes).concat()),
        ("GSS", [8_i32, 80_877_104].map(i32::to_be_bytes).concat()),
        ("0xff", vec![0xff; 5000]),
    ];
    for (name, bytes) in raw {
        exchange(server, &bytes);
        alive(server, name);
    }
    let started: Vec<(&str, Vec<u8>)> = vec![
        ("a query longer than it is", frame(b'Q', 1000, b"SELECT 1\0")),
        ("a query shorter than it is", frame(b'Q', 8, b"SELECT 1\0")),
        ("a query without a terminator", message(b'Q', b"SELECT 1")),
        ("a query with a terminator in it", message(b'Q', b"SELECT\0 1\0")),
        ("a query that is not UTF-8", message(b'Q', b"SELECT '\xff\xfe\xc0'\0")),
        ("an empty query", message(b'Q', b"\0")),
        ("a huge length", frame(b'Q', i32::MAX, b"SELECT 1\0")),
        ("a negative length", frame(b'Q', -5, b"SELECT 1\0")),
        ("length 0", frame(b'Q', 0, b"")),
        ("length 3", frame(b'S', 3, b"")),
        ("an unknown tag", message(b'~', b"abc")),
        ("tag 0", message(0, b"")),
        ("a password that nobody asked for", message(b'p', b"secret\0")),
        ("copy data out of place", message(b'd', b"1\t2\n")),
        ("copy done out of place", message(b'c', b"")),
        ("a bind without a statement", [message(b'B', b"\0nosuch\0\0\0\0\0\0\0"), message(b'S', b"")].concat()),
        ("a bind cut short", [message(b'B', b"\0\0\0"), message(b'S', b"")].concat()),
        (
            "a bind with 65535 parameters",
            [message(b'P', b"\0SELECT 1\0\0\0"), message(b'B', b"\0\0\0\0\xff\xff")].concat(),
        ),
        (
            "a bind whose parameter is longer than the message",
            [
                message(b'P', b"\0SELECT $1::text\0\0\0"),
                message(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0"),
                message(b'S', b""),
            ]
            .concat(),
        ),
        (
            "a parameter of negative length",
            [
                message(b'P', b"\0SELECT $1::text\0\0\0"),
                message(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\x00\0\0"),
                message(b'S', b""),
            ]
            .concat(),
        ),
        (
            "a binary int of three bytes",
            [
                message(b'P', b"\0SELECT $1::int\0\0\0"),
                message(b'B', b"\0\0\0\x01\0\x01\0\x01\0\0\0\x03\0\0\x01\0\0"),
                message(b'E', b"\0\0\0\0\0"),
                message(b'S', b""),
            ]
            .concat(),
        ),
        (
            "a format that does not exist",
            [message(b'P', b"\0SELECT 1\0\0\0"), message(b'B', b"\0\0\0\x01\0\x09\0\0\0\0"), message(b'S', b"")]
                .concat(),
        ),
        ("a parse with 65535 types", [message(b'P', b"\0SELECT 1\0\xff\xff"), message(b'S', b"")].concat()),
        ("an execute of no portal", [message(b'E', b"nosuch\0\0\0\0\0"), message(b'S', b"")].concat()),
        ("a describe of what", [message(b'D', b"Zx\0"), message(b'S', b"")].concat()),
        ("a close of what", [message(b'C', b"Zx\0"), message(b'S', b"")].concat()),
        ("a function call", message(b'F', b"\0\0\0\x01\0\0\0\0\0\0")),
        ("many syncs", message(b'S', b"").repeat(1000)),
        ("a second start-up", good.clone()),
    ];
    for (name, bytes) in started {
        let answer = exchange(server, &[good.clone(), bytes].concat());
        assert!(!answer.is_empty(), "{name}: not even the start-up was answered");
        alive(server, name);
    }
}

/// Real traffic with bits turned, pieces cut, doubled and moved.
fn random_frames(server: &dyn Server) {
    let seed = std::env::var("ATOLL_HOSTILE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(Rng::fresh_seed);
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let good = startup(server);
    let pieces: Vec<Vec<u8>> = vec![
        message(b'Q', b"SELECT 1, 'x', NULL\0"),
        message(b'Q', b"BEGIN; SELECT 1; ROLLBACK\0"),
        message(b'P', b"s\0SELECT $1::int + 1, $2::text\0\0\x02\0\0\0\x17\0\0\0\x19"),
        message(b'B', b"p\0s\0\0\x02\0\x01\0\0\0\x02\0\0\0\x04\0\0\0\x07\0\0\0\x01x\0\x01\0\x01"),
        message(b'D', b"Pp\0"),
        message(b'E', b"p\0\0\0\0\0"),
        message(b'C', b"Ss\0"),
        message(b'S', b""),
        message(b'H', b""),
        message(b'Q', b"COPY nosuch FROM STDIN\0"),
        message(b'd', b"1\t2\n"),
        message(b'c', b""),
        message(b'f', b"failed\0"),
    ];
    let (began, time, mut count) = (Instant::now(), budget("ATOLL_HOSTILE_SECONDS", 15), 0);
    while began.elapsed() < time {
        let mut bytes = if rng.chance(90) { good.clone() } else { Vec::new() };
        for _ in 0..rng.between(1, 8) {
            let piece: &Vec<u8> = rng.pick(&pieces);
            bytes.extend_from_slice(piece);
        }
        for _ in 0..rng.between(1, 6) {
            // The start-up itself is spared mostly, or nothing behind it would be reached.
            let low = if rng.chance(85) && bytes.len() > good.len() { good.len() } else { 0 };
            let at = low + rng.below((bytes.len() - low).max(1)).min(bytes.len().saturating_sub(low + 1));
            match rng.below(5) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at] = rng.below(256) as u8,
                2 => bytes.truncate(at + 1),
                3 => {
                    let again: Vec<u8> = bytes[at..].iter().take(rng.below(40)).copied().collect();
                    bytes.splice(at..at, again);
                }
                _ => _ = bytes.drain(at..(at + rng.below(6)).min(bytes.len() - 1).max(at)),
            }
        }
        exchange(server, &bytes);
        count += 1;
        if count % 10 == 0 {
            alive(server, &format!("{count} exchanges from seed {seed}"));
        }
    }
    println!("{count} exchanges");
    alive(server, &format!("seed {seed}"));
}

/// Statements that are not, or ask for too much.
fn bad_statements(server: &dyn Server) {
    let mut client = server.connect().expect("a connection");
    client.set_timeout(Duration::from_secs(60)).expect("a timeout");
    let deep = |open: &str, close: &str, n: usize| format!("SELECT {}1{}", open.repeat(n), close.repeat(n));
    let mut statements: Vec<(String, bool)> = [
        "SELECT",
        "SELECT FROM WHERE",
        "INSERT INTO",
        "CREATE TABLE t",
        "CREATE TABLE t (",
        "DROP",
        ";",
        ";;;",
        "(((((",
        "'",
        "\"",
        "$$",
        "/* open",
        "SELECT 1 /* open",
        "-- only a comment",
        "SELECT 'a",
        "SELECT \"a",
        "SELECT $1",
        "SELECT $0",
        "SELECT $99999999999",
        "SELECT 1 SELECT 2",
        "EXECUTE nosuch",
        "DEALLOCATE nosuch",
        "FETCH 1 FROM nosuch",
        "SET nosuch.thing = 'x'",
        "SHOW nosuch",
        "SELECT * FROM",
        "SELECT 1 ORDER",
        "UPDATE x",
        "DELETE",
        "COPY nosuch FROM STDIN",
        "COPY",
        "EXPLAIN",
        "WITH x AS () SELECT 1",
        "SELECT 1e99999",
        "SELECT '\\xzz'::bytea",
        "SELECT repeat('x', -1)",
        "SELECT substr('x', -2147483648, 2147483647)",
        "SELECT (-2147483648)::int / -1",
        "SELECT -9223372036854775808 / -1",
        "SELECT (-9223372036854775808)::bigint % -1",
        "SELECT abs((-2147483648)::int)",
        "SELECT 'NaN'::float8::int",
        "SELECT 1e30::float8::bigint",
        "SELECT sqrt(-1)",
        "SELECT ln(0)",
        "SELECT power(10, 1000)",
        "SELECT lpad('x', -5)",
        "SELECT '9999-12-31'::date + 2000000000",
        "SELECT date '2024-01-01' + interval '999999999 years'",
        "SELECT chr(-1)",
        "SELECT chr(0)",
        "SELECT 'a' LIKE 'a\\'",
        "SELECT 'a' ~ '('",
        "SELECT regexp_replace('a', '[', 'b')",
        "SELECT ARRAY[1, 'a']",
        "SELECT (ARRAY[1])[-5]",
        "SELECT to_char(now(), '')",
        "SELECT to_date('x', 'YYYY')",
        "SELECT split_part('a', '', 0)",
        "SELECT round(1.5, 2000000000)",
        "SELECT generate_series(1, 10, 0)",
        "SELECT * FROM generate_series(1, 5) LIMIT 'x'",
        "SELECT 1 LIMIT 99999999999999999999",
        "CREATE TABLE hostile_nothing ()",
        "DROP TABLE hostile_nothing",
        "SELECT 'ok'",
    ]
    .iter()
    .map(|s| ((*s).to_string(), false))
    .collect();
    let list = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    statements.extend([
        (deep("(", ")", 5_000), false),
        (deep("- ", "", 5_000), false),
        (deep("NOT ", "", 5_000).replace('1', "true"), false),
        (deep("abs(", ")", 2_000), false),
        (deep("(SELECT ", ")", 300), false),
        (format!("SELECT 1{}", " + 1".repeat(5_000)), false),
        (format!("SELECT 1 WHERE {}", vec!["true"; 5_000].join(" AND ")), false),
        (format!("SELECT {}", list(1_600)), true),
        (format!("SELECT 1 IN ({})", list(20_000)), true),
        (format!("SELECT length('{}')", "x".repeat(2_000_000)), true),
        (format!("SELECT 1 AS {}", "n".repeat(10_000)), true),
        (format!("SELECT * FROM {}", "t".repeat(10_000)), false),
        (
            format!(
                "CREATE TABLE hostile_wide ({})",
                (0..2_000).map(|i| format!("c{i} int")).collect::<Vec<_>>().join(", ")
            ),
            false,
        ),
        (vec!["SELECT 1"; 300].join(" UNION ALL "), false),
    ]);
    let mut wrong = Vec::new();
    for (sql, must_work) in statements {
        let shown: String = sql.chars().take(60).collect();
        match client.query(&sql) {
            Ok(_) => {}
            Err(Error::Sql { sqlstate, message }) => {
                if must_work || sqlstate.len() != 5 || sqlstate == "XX000" || message.contains("panic") {
                    wrong.push(format!("{shown}: {sqlstate}: {message}"));
                }
            }
            Err(Error::Io(e)) => panic!("{shown}: the connection broke: {e}"),
        }
        let reply = client.query("ROLLBACK").and_then(|_| client.query("SELECT 1"));
        assert_eq!(reply.unwrap_or_else(|e| panic!("after {shown}: {e}")).scalar(), Some("1"), "after {shown}");
        // The same by the other protocol.
        match client.execute(&sql, &[]) {
            Err(Error::Io(e)) => panic!("{shown}, extended: the connection broke: {e}"),
            Err(Error::Sql { sqlstate, message }) if sqlstate == "XX000" => {
                wrong.push(format!("{shown}, extended: {message}"));
            }
            _ => {}
        }
        client.query("ROLLBACK").unwrap_or_else(|e| panic!("after {shown}, extended: {e}"));
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    alive(server, "bad statements");
}

/// Parameters that do not fit.
fn bad_parameters(server: &dyn Server) {
    let mut client = server.connect().expect("a connection");
    let mut wrong = Vec::new();
    for (sql, parameters, sqlstate) in [
        ("SELECT $1::int", &[Some("abc")][..], "22P02"),
        ("SELECT $1::int", &[Some("99999999999")], "22003"),
        ("SELECT $1::int", &[], "08P01"),
        ("SELECT $1::int", &[Some("1"), Some("2")], "08P01"),
        ("SELECT $1::date", &[Some("2024-02-30")], "22008"),
        ("SELECT $1::boolean", &[Some("")], "22P02"),
        ("SELECT $1::uuid", &[Some("x")], "22P02"),
        ("SELECT 10 / $1::int", &[Some("0")], "22012"),
    ] {
        let refusal = client.execute(sql, parameters).expect_err(sql);
        if refusal.sqlstate() != Some(sqlstate) {
            wrong.push(format!("{sql} with {parameters:?}: {refusal}, not {sqlstate}"));
        }
        assert_eq!(client.execute("SELECT $1::int", &[None]).expect("NULL").rows, [[None]]);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Connections that come and go, some in the middle of something.
fn leaving_clients(server: &dyn Server) {
    let mut client = server.connect().expect("a connection");
    client.query("CREATE TABLE left_behind (id int PRIMARY KEY, v int)").expect("a table");
    client.query("INSERT INTO left_behind VALUES (1, 0)").expect("a row");
    for n in 0..60 {
        let mut other = server.connect().expect("a connection");
        other.query("BEGIN").expect("a transaction");
        other.query("UPDATE left_behind SET v = v + 1 WHERE id = 1").expect("its row is free again");
        if n % 3 == 0 {
            other.query("COMMIT").expect("a commit");
        }
    }
    let v = client.query("SELECT v FROM left_behind").expect("the row");
    assert_eq!(v.scalar(), Some("20"));
    // Gone while a long answer is on its way.
    for _ in 0..5 {
        let mut stream = TcpStream::connect(server.address()).expect("it listens");
        let query = message(b'Q', b"SELECT g, repeat('x', 1000) FROM generate_series(1, 100000) g\0");
        stream.write_all(&[startup(server), query].concat()).expect("sent");
        let mut chunk = [0; 100];
        stream.read_exact(&mut chunk).expect("a beginning");
    }
    alive(server, "clients that left");
}

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod postgres {
            $(#[test]
            fn $name() {
                super::$name(&super::PostgreSql::start());
            })*
        }

        mod atoll {
            $(#[test]
            fn $name() {
                let mut server = super::Atoll::start();
                super::$name(&server);
                assert!(server.is_running(), "it has ended: {}", server.log_tail());
                let log = std::fs::read_to_string(server.log()).expect("its log");
                assert!(!log.contains("panicked"), "something panicked:\n{}", server.log_tail());
            })*
        }
    };
}

on_both!(hostile_frames, bad_statements, bad_parameters, leaving_clients);

#[test]
fn atoll_survives_random_frames() {
    let mut server = Atoll::start();
    random_frames(&server);
    assert!(server.is_running(), "it has ended: {}", server.log_tail());
    let log = std::fs::read_to_string(server.log()).expect("its log");
    assert!(!log.contains("panicked"), "something panicked:\n{}", server.log_tail());
}
