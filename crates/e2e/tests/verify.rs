//! VERIFY and `atoll verify`, as their users see them: what is found, in which form, and with which exit status.

use atoll_e2e::asking::{connect, refused, rows, run};
use atoll_e2e::server::{Atoll, PostgreSql, Server, atoll_command};
use std::process::Output;

fn verify(atoll: &Atoll, arguments: &[&str]) -> Output {
    let mut command = atoll_command().unwrap_or_else(|e| panic!("{e}"));
    command.arg("verify").args(arguments).args(["--format", "csv", "--url", &atoll.url()]);
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

#[test]
fn what_was_changed_behind_atolls_back() {
    let (mut atoll, hongkong) = (Atoll::start(), PostgreSql::start());
    let mut client = connect(&atoll);
    let url = hongkong.url();
    run(&mut client, "CREATE SITE home");
    run(&mut client, &format!("CREATE SITE hongkong ENGINE postgres OPTIONS (url '{url}')"));
    run(&mut client, "CREATE TABLE c (id int PRIMARY KEY, n int) WITH (sites = 'home, hongkong', replication = 'all')");
    run(&mut client, "INSERT INTO c SELECT n, n FROM generate_series(1, 100) AS s(n)");
    run(&mut client, "CREATE TABLE other (id int PRIMARY KEY) TABLESPACE home");
    run(&mut client, "CREATE VIEW v AS SELECT * FROM c");
    assert_eq!(
        rows(&mut client, "VERIFY ALL"),
        [
            "c,-,-,summary,-,200,1 fragment, 2 copies looked at, 200 rows compared, 0 findings",
            "other,-,-,summary,-,0,1 fragment, 1 copy looked at, 0 rows compared, 0 findings",
        ]
    );
    assert_eq!(rows(&mut client, "VERIFY TABLE other").len(), 1);
    assert_eq!(verify(&atoll, &[]).status.code(), Some(0));

    let mut there = connect(&hongkong);
    let table =
        rows(&mut there, "SELECT relname FROM pg_class WHERE relname ~ '^f[0-9]+$' AND relkind = 'r'").remove(0);
    run(&mut there, &format!("UPDATE atoll.{table} SET n = 0 WHERE id = 7"));
    assert_eq!(
        rows(&mut client, "VERIFY TABLE c")[0],
        "c,c,hongkong,different,(id)=(7),1,n otherwise in the copy at site \"home\""
    );
    let found = verify(&atoll, &["c"]);
    let shown = String::from_utf8_lossy(&found.stdout);
    assert_eq!((found.status.code(), shown.lines().count()), (Some(1), 3), "{found:?}");
    assert!(shown.starts_with("table_name,fragment,site,kind,object,rows,detail\n"), "{shown}");
    let quiet = verify(&atoll, &["c", "--quiet"]);
    assert_eq!((quiet.status.code(), quiet.stdout.len()), (Some(1), 0), "{quiet:?}");
    assert_eq!(verify(&atoll, &["other"]).status.code(), Some(0));

    assert_eq!(verify(&atoll, &["none"]).status.code(), Some(3));
    assert_eq!(refused(&mut client, "VERIFY TABLE none").0, "42P01");
    assert_eq!(refused(&mut client, "VERIFY TABLE v").0, "42809");
    assert_eq!(refused(&mut client, "VERIFY c").0, "42601");
    run(&mut client, "BEGIN");
    assert_eq!(refused(&mut client, "VERIFY TABLE c").0, "25001");
    run(&mut client, "ROLLBACK");
    assert_eq!(refused(&mut client, "SELECT 1; VERIFY TABLE c").0, "25001");

    atoll.kill();
    assert_eq!(verify(&atoll, &[]).status.code(), Some(2));
}
