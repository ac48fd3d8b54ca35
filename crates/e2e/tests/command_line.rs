//! The command line and the HTTP port of a real `atoll`.

use atoll_e2e::server::{Atoll, PostgreSql, Server, atoll_command};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::Duration;

fn atoll() -> Command {
    atoll_command().expect("the program is built")
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_example_configuration_is_a_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    let example = run(atoll().args(["config", "--example"]));
    assert!(example.status.success(), "{}", text(&example));
    let file = directory.path().join("atoll.toml");
    std::fs::write(&file, &example.stdout).expect("a file");
    let shown = run(atoll().args(["config", "--config"]).arg(&file));
    assert!(shown.status.success(), "{}", text(&shown));
    std::fs::write(&file, "no_such_setting = 1\n").expect("a file");
    let refused = run(atoll().args(["config", "--config"]).arg(&file));
    assert!(!refused.status.success() && text(&refused).contains("no_such_setting"), "{}", text(&refused));
}

/// The shell speaks the protocol to any server: PostgreSQL shows what is expected of Atoll.
#[test]
fn the_shell_prints_what_it_is_asked_for() {
    let (postgres, atoll_server) = (PostgreSql::start(), Atoll::start());
    for server in [&postgres as &dyn Server, &atoll_server] {
        let sql = |arguments: &[&str]| run(atoll().arg("sql").args(arguments).arg(server.url()));
        let output = sql(&[
            "-c",
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "-c",
            "INSERT INTO t VALUES (1, 'a,b'), (2, NULL)",
        ]);
        assert!(output.status.success(), "{}", text(&output));
        let output = sql(&["--format", "csv", "-c", "SELECT id, v FROM t ORDER BY id"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "id,v\n1,\"a,b\"\n2,\n", "{}", text(&output));
        let output = sql(&["-c", "SELECT id, v FROM t ORDER BY id"]);
        assert!(text(&output).contains("(2 rows)"), "{}", text(&output));
        let output = sql(&["-c", "\\d t"]);
        assert!(text(&output).contains("integer") && text(&output).contains("t_pkey"), "{}", text(&output));
        let output = sql(&["-c", "SELECT * FROM nosuch"]);
        assert!(!output.status.success() && text(&output).contains("nosuch"), "{}", text(&output));
    }
    let output = run(atoll().args(["sql", "-c", "SELECT 1", "postgres://atoll@127.0.0.1:1/atoll"]));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn a_load_keeps_good_rows_and_writes_down_bad_ones() {
    let server = Atoll::start();
    let mut client = server.connect().expect("it answers");
    for n in 1..=2 {
        client.query(&format!("CREATE SITE s{n} ENGINE embedded")).expect("a site");
    }
    let create = "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, age int CHECK (age >= 0)) PARTITION BY HASH (id) WITH (fragments = 4, sites = 's1, s2')";
    client.query(create).expect("a table");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("people.csv");
    let mut csv = "id,name,age\n".to_string();
    for id in 1..=5000 {
        csv += &match id {
            100 => "100,cid,not a number\n".to_string(),
            200 => "200,,20\n".to_string(),
            300 => "300,\"quoted, name\",-5\n".to_string(),
            400 => "1,twice,20\n".to_string(),
            _ => format!("{id},name {id},{}\n", id % 90),
        };
    }
    std::fs::write(&file, csv).expect("a file");
    let output = run(atoll().args(["load", "--url", &server.url(), "--max-errors", "10", "people"]).arg(&file));
    assert!(output.status.success(), "{}", text(&output));
    let mut one = |sql: &str| client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}")).scalar().map(str::to_string);
    assert_eq!(one("SELECT count(*) FROM people").as_deref(), Some("4996"));
    assert_eq!(one("SELECT name FROM people WHERE id = 1").as_deref(), Some("name 1"));
    let rejects = std::fs::read_to_string(directory.path().join("people.csv.rej")).expect("the reject file");
    let lines: Vec<&str> = rejects.lines().collect();
    assert_eq!(lines.len(), 5, "a header and four rows:\n{rejects}");
    for (line, sqlstate) in [("101", "22P02"), ("201", "23502"), ("301", "23514"), ("401", "23505")] {
        assert!(lines.iter().any(|l| l.starts_with(&format!("{line},{sqlstate},"))), "{line}, {sqlstate}:\n{rejects}");
    }
    // Too many bad rows, and a table that is not there.
    let output = run(atoll().args(["load", "--url", &server.url(), "--max-errors", "1", "people"]).arg(&file));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let output = run(atoll().args(["load", "--url", &server.url(), "nosuch"]).arg(&file));
    assert!(!output.status.success() && text(&output).contains("nosuch"), "{}", text(&output));
    // JSON lines.
    let file = directory.path().join("people.jsonl");
    std::fs::write(&file, "{\"id\": 6001, \"name\": \"json\", \"age\": null}\n{\"name\": \"lines\", \"id\": 6002}\n")
        .expect("a file");
    let output = run(atoll().args(["load", "--url", &server.url(), "people"]).arg(&file));
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(one("SELECT count(*) FROM people WHERE id > 6000").as_deref(), Some("2"));
}

/// One request; the status and the body.
fn http(server: &Atoll, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.http_address()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status in {head}"));
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (status, if chunked { unchunk(body) } else { body.to_string() })
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        text += &rest[..size];
        body = rest[size..].trim_start_matches("\r\n");
    }
    text
}

#[test]
fn http_answers() {
    let server = Atoll::start();
    let query = |body: Value| {
        let (status, text) = http(&server, "POST", "/query", &body.to_string());
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        (status, value)
    };
    for sql in [
        "CREATE TABLE h (id int PRIMARY KEY, t text, n numeric(6,2), at timestamptz)",
        "INSERT INTO h VALUES (1, 'ä', 1.50, '2024-01-01 00:00:00+00'), (2, NULL, NULL, NULL)",
    ] {
        let (status, answer) = query(json!({ "query": sql }));
        assert_eq!((status, &answer["success"]), (200, &json!(true)), "{sql}: {answer}");
    }
    let (status, answer) =
        query(json!({ "query": "SELECT id, t, n FROM h WHERE id >= $1 ORDER BY id", "params": [1] }));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(2), "{answer}");
    assert_eq!((&answer["data"][0]["id"], &answer["data"][0]["t"]), (&json!(1), &json!("ä")), "{answer}");
    assert_eq!(answer["data"][1]["t"], Value::Null, "{answer}");
    let columns: Vec<&str> =
        answer["columns"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(columns, ["id", "t", "n"], "{answer}");
    let (status, answer) = query(json!({ "query": "SELECT * FROM nosuch" }));
    assert_eq!((status, &answer["sqlstate"]), (400, &json!("42P01")), "{answer}");
    let (status, answer) = query(json!({ "query": "INSERT INTO h (id) VALUES (1)" }));
    assert_eq!((status, &answer["sqlstate"]), (409, &json!("23505")), "{answer}");
    assert_eq!(http(&server, "POST", "/query", "{not json").0, 400);
    assert_eq!(http(&server, "GET", "/nosuch", "").0, 404);
    assert_eq!(http(&server, "GET", "/health", "").0, 200);
    let (status, answer) = http(&server, "GET", "/status", "");
    assert!(status == 200 && answer.contains("main"), "{answer}");
    let (status, answer) = http(&server, "GET", "/metrics", "");
    assert!(status == 200 && answer.contains("# TYPE"), "{answer}");
    let (status, answer) = http(&server, "GET", "/openapi.json", "");
    assert!(status == 200 && answer.contains("\"/query\""), "{answer}");
}

#[test]
fn a_demo_ends_by_itself_with_its_answers() {
    let directory = tempfile::tempdir().expect("a directory");
    let demo = || {
        let mut command = atoll();
        command.current_dir(directory.path()).args(["demo", "--scale", "0.001", "--exit", "--data", "news"]);
        command
    };
    let output = run(&mut demo());
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("Beijing"), "{}", text(&output));
    // Again, on the data that is there.
    let output = run(&mut demo());
    assert!(output.status.success(), "{}", text(&output));
}
