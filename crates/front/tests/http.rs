//! HTTP against a made-up database.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use atoll_front::{FrontConfig, FrontHandle, Limits, StatusSource, serve};
use base64::Engine as _;
use fake::{Fake, FakeDatabase};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Sites;

#[async_trait::async_trait]
impl StatusSource for Sites {
    async fn status(&self) -> Value {
        json!({ "sites": ["beijing"] })
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
    let handle = serve(config, Arc::new(FakeDatabase(fake.clone())), Arc::new(Sites)).await.unwrap();
    (handle, fake)
}

/// One request with these header lines; gives status and body.
async fn request(addr: SocketAddr, method: &str, path: &str, headers: &[&str], body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|h| h.starts_with("Host:")) {
        text.push_str("Host: localhost\r\n");
    }
    headers.iter().for_each(|h| text.push_str(&format!("{h}\r\n")));
    text.push_str("\r\n");
    text.push_str(body);
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, body.to_string())
}

async fn query(front: &FrontHandle, body: Value) -> (u16, Value) {
    let headers = ["Content-Type: application/json"];
    let (status, text) = request(front.http_addr(), "POST", "/query", &headers, &body.to_string()).await;
    (status, serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn rows_as_objects() {
    let (front, _fake) = front(Limits::default()).await;
    let (status, answer) = query(&front, json!({ "query": "SELECT SERIES 2" })).await;
    assert_eq!(status, 200);
    assert_eq!(
        answer,
        json!({
            "success": true, "message": "SELECT 2", "rows_affected": 2, "truncated": false,
            "data": [{ "n": 0, "t": null }, { "n": 1, "t": "row 1" }],
            "columns": [{ "name": "n", "type": "bigint" }, { "name": "t", "type": "text" }],
        })
    );
    let (_, answer) = query(&front, json!({ "query": "SELECT TYPES" })).await;
    let row = &answer["data"][0];
    for (key, want) in [
        ("int8", json!(i64::MAX)),
        ("float8", json!(1e15)),
        ("timestamp", json!("1970-01-01T00:00:00")),
        ("json", json!({ "a": 1 })),
        ("ints", json!([1, null])),
        ("bytea", json!("\\x00ff")),
        ("null", json!(null)),
    ] {
        assert_eq!(row[key], want, "{key}");
    }
}

#[tokio::test]
async fn parameters_and_transactions() {
    let (front, fake) = front(Limits::default()).await;
    for (ty, param, want) in [
        ("int4", json!(5), json!(5)),
        ("text", json!("x"), json!("x")),
        ("jsonb", json!({ "b": 1 }), json!({ "b": 1 })),
        ("numeric(10,2)", json!("12.5"), json!(12.5)),
        ("date", json!(null), json!(null)),
    ] {
        let (status, answer) = query(&front, json!({ "query": format!("ECHO {ty}"), "params": [param] })).await;
        assert_eq!((status, &answer["data"][0]["echo"]), (200, &want), "{answer}");
    }
    let (status, answer) = query(&front, json!({ "query": "ECHO int4" })).await;
    assert_eq!((status, &answer["sqlstate"]), (400, &json!("42P02")));
    let (status, _) = query(&front, json!({ "query": "INSERT; INSERT" })).await;
    assert_eq!((status, fake.committed.load(Ordering::SeqCst)), (200, 2));
    let (status, _) = query(&front, json!({ "query": "INSERT; FAIL" })).await;
    assert_eq!((status, fake.committed.load(Ordering::SeqCst)), (409, 2));
    let (status, answer) = query(&front, json!({ "query": "FAIL COMMIT" })).await;
    assert_eq!((status, &answer["sqlstate"]), (409, &json!("40001")));
    let (status, answer) = query(&front, json!({ "query": "BEGIN; INSERT" })).await;
    assert_eq!((status, &answer["sqlstate"], fake.committed.load(Ordering::SeqCst)), (400, &json!("25001"), 2));
    let (status, _) = query(&front, json!({ "query": "BEGIN; INSERT; COMMIT" })).await;
    assert_eq!((status, fake.committed.load(Ordering::SeqCst)), (200, 3));
}

#[tokio::test]
async fn errors_have_all_their_parts() {
    let (front, _fake) = front(Limits::default()).await;
    let (status, answer) = query(&front, json!({ "query": "FAIL" })).await;
    assert_eq!(status, 409);
    assert_eq!(
        answer,
        json!({
            "success": false, "message": "duplicate key value violates unique constraint \"t_pkey\"",
            "sqlstate": "23505", "code": "unique_violation",
            "detail": "Key (id)=(1) already exists.", "hint": "Use ON CONFLICT.",
        })
    );
    let (status, answer) = query(&front, json!({ "query": "SELECT MISSING" })).await;
    assert_eq!((status, &answer["position"]), (400, &json!(8)));
    let (status, answer) = query(&front, json!({ "query": "COPY t FROM STDIN" })).await;
    assert_eq!((status, &answer["success"]), (501, &json!(false)));
    let (status, answer) = query(&front, json!({ "sql": "x" })).await;
    assert_eq!((status, &answer["sqlstate"]), (422, &json!("08P01")));
    let addr = front.http_addr();
    for (method, path, headers, body, want) in [
        ("POST", "/query", &["Content-Type: application/json"][..], "{", 400),
        // What a web page could send without asking first.
        ("POST", "/query", &["Content-Type: text/plain"][..], "{\"query\":\"INSERT\"}", 415),
        ("GET", "/query", &[][..], "", 405),
        ("GET", "/nothing", &[][..], "", 404),
    ] {
        let (status, text) = request(addr, method, path, headers, body).await;
        assert_eq!(status, want, "{method} {path}: {text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["success"], json!(false));
    }
}

#[tokio::test]
async fn limits_are_kept_and_told() {
    let limits = Limits {
        max_http_rows: 3,
        max_http_body_bytes: 1000,
        max_http_answer_bytes: 2000,
        http_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let (front, fake) = front(limits).await;
    let (status, answer) = query(&front, json!({ "query": "SELECT SERIES 10" })).await;
    assert_eq!((status, &answer["truncated"], answer["data"].as_array().unwrap().len()), (200, &json!(true), 3));
    let (status, _) = query(&front, json!({ "query": "SELECT ENDLESS" })).await;
    assert_eq!(status, 200);
    assert!(fake.dropped.load(Ordering::SeqCst));
    let (status, answer) = query(&front, json!({ "query": "ECHO text", "params": ["x".repeat(2000)] })).await;
    assert_eq!((status, &answer["success"]), (413, &json!(false)));
    let (status, answer) = query(&front, json!({ "query": "SLEEP" })).await;
    assert_eq!((status, &answer["sqlstate"]), (504, &json!("57014")));
    assert_eq!(fake.sessions.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_its_statement() {
    let (front, fake) = front(Limits::default()).await;
    let mut stream = TcpStream::connect(front.http_addr()).await.unwrap();
    let body = "{\"query\":\"SLEEP\"}";
    let head = format!(
        "POST /query HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    let started = Instant::now();
    while fake.cancelled.load(Ordering::SeqCst) == 0 {
        assert!(started.elapsed() < Duration::from_secs(10), "the statement is cancelled");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn who_may_ask() {
    let (front, _fake) = front(Limits::default()).await;
    let addr = front.http_addr();
    let json_type = "Content-Type: application/json";
    let body = "{\"query\":\"INSERT\"}";
    let basic = |pair: &str| format!("Authorization: Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    for (header, want) in [
        (basic("alice:sécret"), 200),
        // Remembered now.
        (basic("alice:sécret"), 200),
        (basic("alice:wrong"), 401),
        (basic("nobody:x"), 401),
        ("Authorization: Bearer x".to_string(), 401),
        // A page's own name, rebound to loopback.
        ("Host: evil.example".to_string(), 401),
        ("Host: 127.0.0.1".to_string(), 200),
    ] {
        let (status, text) = request(addr, "POST", "/query", &[json_type, &header], body).await;
        assert_eq!(status, want, "{header}: {text}");
    }
}

#[tokio::test]
async fn status_health_metrics_description() {
    let (front, _fake) = front(Limits::default()).await;
    let addr = front.http_addr();
    assert_eq!(request(addr, "GET", "/status", &[], "").await, (200, "{\"sites\":[\"beijing\"]}".to_string()));
    assert_eq!(
        request(addr, "GET", "/health", &["Host: anything"], "").await,
        (200, "{\"status\":\"ok\"}".to_string())
    );
    assert_eq!(request(addr, "GET", "/status", &["Host: evil.example"], "").await.0, 401);
    query(&front, json!({ "query": "INSERT" })).await;
    query(&front, json!({ "query": "FAIL" })).await;
    let (status, text) = request(addr, "GET", "/metrics", &[], "").await;
    assert_eq!(status, 200);
    for line in [
        "atoll_statements_total{kind=\"insert\",entrance=\"http\"}",
        "atoll_statement_seconds_bucket{kind=\"insert\",entrance=\"http\",le=\"0.001\"}",
        "atoll_errors_total{sqlstate=\"23505\"}",
        "atoll_connections{entrance=\"http\"}",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    let (status, text) = request(addr, "GET", "/openapi.json", &[], "").await;
    let description: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200);
    for path in ["/query", "/status", "/health", "/metrics"] {
        assert!(description["paths"][path].is_object(), "{path}");
    }
    assert_eq!(description["components"]["schemas"]["QueryAnswer"]["properties"]["data"]["type"], json!("array"));
}

#[tokio::test]
async fn a_slow_head_is_not_waited_for_at_shutdown() {
    let (front, _fake) = front(Limits { shutdown_grace: Duration::from_secs(1), ..Limits::default() }).await;
    let mut stream = TcpStream::connect(front.http_addr()).await.unwrap();
    stream.write_all(b"GET /health HT").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started = Instant::now();
    front.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn shutdown_gives_up_what_does_not_end() {
    let (front, fake) = front(Limits { shutdown_grace: Duration::from_millis(100), ..Limits::default() }).await;
    let addr = front.http_addr();
    let asking = tokio::spawn(async move {
        request(addr, "POST", "/query", &["Content-Type: application/json"], "{\"query\":\"SLEEP\"}").await
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    front.shutdown().await;
    asking.await.unwrap();
    let started = Instant::now();
    while fake.sessions.load(Ordering::SeqCst) > 0 {
        assert!(started.elapsed() < Duration::from_secs(10), "the session ends");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fake.cancelled.load(Ordering::SeqCst), 1);
}
