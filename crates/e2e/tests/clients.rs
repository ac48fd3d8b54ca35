//! Real clients. Each script of `tests/clients` also runs on PostgreSQL, which shows that it asks for what PostgreSQL does.
//!
//! `scripts/test` installs the clients in `target/test-env`; `ATOLL_TEST_ENV` names another place.

use atoll_e2e::repository;
use atoll_e2e::server::{Atoll, PostgreSql, Server};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where the clients are installed.
fn environment() -> PathBuf {
    if let Some(directory) = std::env::var_os("ATOLL_TEST_ENV") {
        return directory.into();
    }
    // target/PROFILE/deps/TEST
    let program = std::env::current_exe().expect("the test's own path");
    program.ancestors().nth(3).expect("a test lies in target").join("test-env")
}

/// Runs a client; its output if it succeeds.
fn run(command: &mut Command, input: &str) -> String {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("PGCONNECT_TIMEOUT", "10")
        .env("PSQLRC", "/dev/null")
        .env_remove("PGOPTIONS")
        .spawn()
        .unwrap_or_else(|e| panic!("{shown}: {e}; scripts/test installs it"));
    let mut stdin = child.stdin.take().expect("it was piped");
    let input = input.to_string();
    let writer = std::thread::spawn(move || {
        // It may have ended already, which its status tells.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("its output");
    writer.join().expect("no panic");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}: {}\n{out}\n{err}", output.status);
    format!("{out}\n{err}")
}

fn python(server: &dyn Server, script: &str) {
    let program = environment().join("venv/bin/python");
    let output = run(Command::new(program).arg(repository().join("tests/clients").join(script)).arg(server.url()), "");
    assert!(output.contains("ok"), "{output}");
}

fn psycopg(server: &dyn Server) {
    python(server, "psycopg_test.py");
}

fn sqlalchemy(server: &dyn Server) {
    python(server, "sqlalchemy_test.py");
}

fn asyncpg(server: &dyn Server) {
    python(server, "asyncpg_test.py");
}

fn node_postgres(server: &dyn Server) {
    let script = repository().join("tests/clients/node_test.js");
    let modules = environment().join("node/node_modules");
    let output = run(Command::new("node").env("NODE_PATH", modules).arg(script).arg(server.url()), "");
    assert!(output.contains("ok"), "{output}");
}

fn pgjdbc(server: &dyn Server) {
    let jars = ["postgresql", "scram-client", "scram-common"].map(|jar| format!("/usr/share/java/{jar}.jar")).join(":");
    let url = format!("jdbc:postgresql://{}/{}", server.address(), server.database());
    let script = repository().join("tests/clients/Jdbc.java");
    let output = run(Command::new("java").args(["-cp", &jars]).arg(script).args([&url, server.user()]), "");
    assert!(output.contains("ok"), "{output}");
}

fn psql(server: &dyn Server) {
    let script = std::fs::read_to_string(repository().join("tests/clients/psql.sql")).expect("the script");
    let output = run(Command::new("psql").args(["-X", "-d"]).arg(server.url()), &script);
    let section = |name: &str| {
        let from = output.split_once(&format!("== {name}\n")).unwrap_or_else(|| panic!("no {name} in\n{output}")).1;
        from.split("\n== ").next().unwrap_or_default().to_string()
    };
    for (name, words) in [
        ("d", &["ps_users", "ps_empty", "ps_names", "view", "ps_users_id_seq", "sequence"][..]),
        ("dt", &["public", "ps_users", "ps_empty", "table"]),
        ("dt pattern", &["ps_users"]),
        ("dt+", &["ps_users"]),
        ("di", &["ps_users_pkey", "ps_users_name", "ps_users_at", "index"]),
        ("dv", &["ps_names"]),
        ("ds", &["ps_users_id_seq"]),
        ("dn", &["public"]),
        ("du", &[server.user()]),
        ("df", &["(0 rows)"]),
        ("l", &[server.database(), "UTF8"]),
        (
            "d table",
            &[
                "Table \"public.ps_users\"",
                "id     | integer ",
                "not null",
                "nextval('ps_users_id_seq'::regclass)",
                "character varying(30)",
                "'nobody'::character varying",
                "numeric(6,2)",
                "timestamp with time zone",
                "\"ps_users_pkey\" PRIMARY KEY, btree (id)",
                "\"ps_users_at\" UNIQUE, btree (at)",
                "\"ps_users_name\" btree (name)",
                "Check constraints:",
                "score >= ",
            ],
        ),
        ("d+ table", &["ps_users_pkey", "numeric(6,2)"]),
        ("d index", &["Index \"public.ps_users_name\"", "btree"]),
        ("d view", &["View \"public.ps_names\"", "name", "character varying(30)"]),
        ("d sequence", &["Sequence \"public.ps_users_id_seq\""]),
        ("conninfo", &["You are connected to database"]),
        ("gdesc", &["integer", "character varying(30)", "numeric(6,2)"]),
        ("x", &["[ RECORD 2 ]", "ann", "1.50"]),
        ("bind and variables", &["(1 row)", "rows 2"]),
        ("copy", &["a,b\n1,one\n2,\"two, quoted\""]),
        ("several", &["first", "second"]),
        ("transaction", &["BEGIN", "INSERT 0 1", "ROLLBACK", "     2"]),
    ] {
        let text = section(name);
        for word in words {
            assert!(text.contains(word), "{word:?} is missing in {name}:\n{text}");
        }
    }
    assert!(!section("dt pattern").contains("ps_empty"), "the pattern is not looked at");
}

fn pgbench(server: &dyn Server) {
    let address = server.address();
    let bench = |arguments: &[&str]| {
        let port = address.port().to_string();
        let mut command = Command::new("pgbench");
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", server.user()]).args(arguments).arg(server.database());
        run(&mut command, "")
    };
    bench(&["-i", "-s", "1", "-q"]);
    let mut client = server.connect().expect("a connection");
    let mut one = |sql: &str| {
        let reply = client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        reply.scalar().unwrap_or("NULL").to_string()
    };
    assert_eq!(one("SELECT count(*) FROM pgbench_accounts"), "100000");
    let processed = |output: &str| {
        let line =
            output.lines().find(|l| l.starts_with("number of transactions actually processed")).unwrap_or(output);
        assert!(output.contains("number of failed transactions: 0"), "{output}");
        line.rsplit(' ')
            .next()
            .and_then(|n| n.split('/').next()?.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("{output}"))
    };
    // Without -n it vacuums first, and empties the history, which is to be counted in the end.
    assert_eq!(processed(&bench(&["-S", "-t", "10"])), 10);
    for mode in ["simple", "extended", "prepared"] {
        assert_eq!(processed(&bench(&["-n", "-S", "-M", mode, "-c", "4", "-j", "2", "-t", "200"])), 800);
        // One client by itself first: with several, branch rows are contended.
        assert_eq!(processed(&bench(&["-n", "-M", mode, "-c", "1", "-t", "50"])), 50);
        assert_eq!(processed(&bench(&["-n", "-M", mode, "-c", "4", "-j", "2", "-t", "50"])), 200);
    }
    assert_eq!(one("SELECT count(*) FROM pgbench_history"), "750");
    let sum = one("SELECT sum(delta) FROM pgbench_history");
    for table in ["accounts", "tellers", "branches"] {
        let column = &table[..1];
        assert_eq!(one(&format!("SELECT sum({column}balance) FROM pgbench_{table}")), sum, "{table}");
    }
}

/// tokio-postgres: every type in binary, both ways.
fn tokio_postgres(server: &dyn Server) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.expect("a connection");
        let connection = tokio::spawn(connection);
        client
            .batch_execute(
                "CREATE TABLE tp (id bigint PRIMARY KEY, b boolean, i2 smallint, i4 int, f4 real, f8 float8, t text, y bytea, ia int[], ta text[])",
            )
            .await
            .expect("a table");
        let insert = client.prepare("INSERT INTO tp VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)").await.expect("a plan");
        let (bytes, numbers, texts) = (vec![0_u8, 255], vec![Some(1), None], vec!["a".to_string(), "b,\"".to_string()]);
        let n = client
            .execute(&insert, &[&1_i64, &true, &-2_i16, &3_i32, &0.5_f32, &1e300_f64, &"ä", &bytes, &numbers, &texts])
            .await
            .expect("a row");
        assert_eq!(n, 1);
        client.execute("INSERT INTO tp (id) VALUES ($1)", &[&2_i64]).await.expect("a row of NULLs");
        let rows = client.query("SELECT * FROM tp ORDER BY id", &[]).await.expect("rows");
        let row = &rows[0];
        assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1), row.get::<_, i16>(2), row.get::<_, i32>(3)), (1, true, -2, 3));
        assert_eq!((row.get::<_, f32>(4), row.get::<_, f64>(5), row.get::<_, &str>(6)), (0.5, 1e300, "ä"));
        assert_eq!(row.get::<_, Vec<u8>>(7), bytes);
        assert_eq!(row.get::<_, Vec<Option<i32>>>(8), numbers);
        assert_eq!(row.get::<_, Vec<String>>(9), texts);
        assert!((1..10).all(|c| match c {
            8 => rows[1].get::<_, Option<Vec<i32>>>(c).is_none(),
            9 => rows[1].get::<_, Option<Vec<String>>>(c).is_none(),
            1 => rows[1].get::<_, Option<bool>>(c).is_none(),
            _ => true,
        }));
        let sum: Option<i64> = client.query_one("SELECT sum(i4) FROM tp", &[]).await.expect("a sum").get(0);
        assert_eq!(sum, Some(3));
        let error = client
            .execute(&insert, &[&1_i64, &true, &0_i16, &0_i32, &0_f32, &0_f64, &"", &bytes, &numbers, &texts])
            .await
            .expect_err("a duplicate");
        assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("23505"));
        drop(client);
        connection.await.expect("no panic").expect("the connection ends well");
    });
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
                super::$name(&super::Atoll::start());
            })*
        }
    };
}

on_both!(psql, pgbench, psycopg, sqlalchemy, asyncpg, node_postgres, pgjdbc, tokio_postgres);
