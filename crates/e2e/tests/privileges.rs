//! Privileges at the entrances: another user's connection, both protocols, COPY, HTTP, and a restart.

use atoll_e2e::asking::run;
use atoll_e2e::server::{Atoll, Server as _};
use atoll_e2e::wire::{Client, Protocol};
use std::io::{Read, Write};
use std::net::TcpStream;

fn connect(server: &Atoll, user: &str) -> Client {
    Client::connect(server.address(), user, "atoll").unwrap_or_else(|e| panic!("{user}: {e}"))
}

/// The SQLSTATE of a refusal, which is the same in both protocols.
fn refused(client: &mut Client, sql: &str) -> String {
    let [simple, extended] = [Protocol::Simple, Protocol::Extended].map(|protocol| match client.run(sql, protocol) {
        Ok(reply) => panic!("{sql}: {reply:?}"),
        Err(error) => error.sqlstate().unwrap_or_default().to_string(),
    });
    assert_eq!(simple, extended, "{sql}");
    simple
}

/// The answer of `/query` to a user without a password, whose name and colon in Base64 this is.
fn over_http(server: &Atoll, user: &str, sql: &str) -> String {
    let body = format!("{{\"query\":\"{sql}\"}}");
    let mut stream = TcpStream::connect(server.http_address()).unwrap_or_else(|e| panic!("HTTP: {e}"));
    let request = format!(
        "POST /query HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {user}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap_or_else(|e| panic!("HTTP: {e}"));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap_or_else(|e| panic!("HTTP: {e}"));
    answer
}

#[test]
fn every_entrance_asks() {
    let mut server = Atoll::start();
    let mut atoll = connect(&server, "atoll");
    run(&mut atoll, "CREATE ROLE bob LOGIN; CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 10)");
    let mut bob = connect(&server, "bob");
    for statement in
        ["SELECT n FROM t WHERE id = 1", "SELECT * FROM t", "UPDATE t SET n = 1", "COPY t TO STDOUT", "DROP TABLE t"]
    {
        assert_eq!(refused(&mut bob, statement), "42501", "{statement}");
    }
    assert!(bob.copy_out("COPY t TO STDOUT").is_err());
    assert!(bob.copy_in("COPY t FROM STDIN", b"2\t20\n").is_err());
    let bobs = "Ym9iOg==";
    assert!(over_http(&server, bobs, "SELECT n FROM t").contains("\"sqlstate\":\"42501\""));

    run(&mut atoll, "GRANT SELECT ON t TO bob");
    for protocol in [Protocol::Simple, Protocol::Extended] {
        let reply = bob.run("SELECT n FROM t WHERE id = 1", protocol).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(reply.scalar(), Some("10"));
    }
    assert!(over_http(&server, bobs, "SELECT n FROM t").starts_with("HTTP/1.1 200"));
    assert!(over_http(&server, bobs, "DELETE FROM t").contains("\"sqlstate\":\"42501\""));

    // What was granted is still so afterwards, and nothing else.
    server.kill();
    server.restart().unwrap_or_else(|e| panic!("{e}"));
    let mut bob = connect(&server, "bob");
    assert_eq!(bob.query("SELECT n FROM t").unwrap_or_else(|e| panic!("{e}")).scalar(), Some("10"));
    assert_eq!(refused(&mut bob, "DELETE FROM t"), "42501");
}
