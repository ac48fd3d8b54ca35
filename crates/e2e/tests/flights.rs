//! `examples/flights`: its schema, its sample of real flights, its queries, with the command line's own tools; PostgreSQL answers the same.

use atoll_e2e::compare::{Kind, same_rows, written_row};
use atoll_e2e::repository;
use atoll_e2e::server::{Atoll, PostgreSql, Server, atoll_command};
use atoll_e2e::wire::{Client, Reply};
use std::path::PathBuf;
use std::process::Command;

const TABLES: [&str; 5] = ["airlines", "airports", "planes", "weather", "flights"];

fn example(name: &str) -> PathBuf {
    repository().join("examples/flights").join(name)
}

fn text(name: &str) -> String {
    let path = example(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn statements(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("--")).collect();
    lines.join("\n").split(';').map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// PostgreSQL has the grammar of partitions; only where they lie is new to it.
fn for_postgres(sql: &str) -> Option<String> {
    if sql.starts_with("CREATE SITE") {
        return None;
    }
    let sql = sql.split(" TABLESPACE ").next().unwrap_or(sql);
    Some(sql.split(" WITH (sites").next().unwrap_or(sql).to_string())
}

fn postgres() -> (PostgreSql, Client) {
    let server = PostgreSql::start();
    let mut client = server.connect().expect("a new server answers");
    for sql in statements(&text("schema.sql")).iter().filter_map(|s| for_postgres(s)) {
        client.query(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    for table in TABLES {
        let data = output(Command::new("gzip").arg("-dc").arg(example(&format!("sample/{table}.csv.gz"))));
        let copy = format!("COPY {table} FROM STDIN WITH (FORMAT csv, HEADER)");
        client.copy_in(&copy, data.as_bytes()).unwrap_or_else(|e| panic!("{copy}: {e}"));
    }
    (server, client)
}

#[test]
fn postgres_answers_with_rows() {
    let (_server, mut client) = postgres();
    let queries = statements(&text("queries.sql"));
    let rows: usize = queries.iter().map(|q| client.query(q).unwrap_or_else(|e| panic!("{q}: {e}")).rows.len()).sum();
    assert!(rows > 50, "{} queries with {rows} rows", queries.len());
}

#[test]
fn atoll_equals_postgres() {
    let (_server, mut original) = postgres();
    let atoll = Atoll::start();
    let command = || atoll_command().expect("the program is built");
    output(command().args(["sql", "-f"]).arg(example("schema.sql")).arg(atoll.url()));
    for table in TABLES {
        let file = example(&format!("sample/{table}.csv.gz"));
        output(command().args(["load", "--url", &atoll.url(), table]).arg(file));
    }
    let mut tested = atoll.connect().expect("it answers");
    let mut wrong = Vec::new();
    let counts = TABLES.iter().map(|t| format!("SELECT count(*), '{t}' FROM {t}"));
    for sql in counts.chain(statements(&text("queries.sql"))) {
        let expected = original.query(&sql).unwrap_or_else(|e| panic!("PostgreSQL: {sql}: {e}"));
        match tested.query(&sql) {
            Ok(found) => {
                let kinds: Vec<Kind> = (expected.columns.iter().flatten())
                    .map(|c| if Kind::of(c.type_oid) == Kind::Text { Kind::Text } else { Kind::Real })
                    .collect();
                let written = |reply: &Reply| reply.rows.iter().map(written_row).collect::<Vec<_>>();
                let (a, b) = (written(&expected), written(&found));
                if !same_rows(&kinds, &a, &b, sql.contains("ORDER BY")) {
                    wrong.push(format!("{sql}\nPostgreSQL:\n  {}\nAtoll:\n  {}", a.join("\n  "), b.join("\n  ")));
                }
            }
            Err(e) => wrong.push(format!("{sql}\n{e}")),
        }
    }
    assert!(wrong.is_empty(), "{} queries differ:\n\n{}", wrong.len(), wrong.join("\n\n"));
}
