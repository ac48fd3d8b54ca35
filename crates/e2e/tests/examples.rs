//! The examples over database servers, run by their own scripts: `examples/news` on PostgreSQL, `examples/middleware` on MariaDB. The
//! scripts check what they show, so what is looked for here is that they come to their end, and show what they are for.

use atoll_e2e::repository;
use atoll_e2e::server::atoll_command;
use std::process::Command;

/// What a script may take; then it is ended, and ends its servers.
const SECONDS: &str = "60";

/// The exit code, and all that was written.
fn output(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

/// Runs an example from a directory that is not its own.
fn run(example: &str, arguments: &[&str]) -> String {
    let atoll = atoll_command().expect("the program is built");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=30", SECONDS]).arg(repository().join("examples").join(example).join("run"));
    command.args(arguments).env("ATOLL", atoll.get_program()).current_dir(elsewhere.path());
    let (status, text) = output(&mut command);
    assert_eq!(status, Some(0), "{text}");
    text
}

/// These stand in the text, in this order.
fn assert_lines(text: &str, lines: &[&str]) {
    let mut rest = text;
    for line in lines {
        let Some(at) = rest.find(line) else { panic!("{line:?} is not there, or not in its place:\n{text}") };
        rest = &rest[at + line.len()..];
    }
}

#[test]
fn news_on_two_postgresql_servers() {
    let text = run("news", &["--scale", "0.002"]);
    for made in ["beijing        at a server, engine postgres", "hongkong       at a server, engine postgres"] {
        assert!(text.contains(made), "{made:?} is not there:\n{text}");
    }
    // What each server was asked for, and what it holds: readings lie with their readers, counts at both.
    assert_lines(
        &text,
        &[
            "SiteQuery: beijing: SELECT",
            "What the servers hold",
            "beijing\n",
            "fragment users_bj of table users",
            "fragment be_read of table be_read",
            "hongkong\n",
            "fragment users_hk of table users",
            "fragment be_read of table be_read",
        ],
    );
}

#[test]
fn three_mariadb_servers_hold_the_same() {
    let text = run("middleware", &[]);
    let same = "node1, node2 and node3 have the same rows";
    assert_lines(
        &text,
        &[
            "Every write goes to all three",
            same,
            "A read asks one of them",
            "SQLSTATE:  23514",
            same,
            "node2 is killed",
            "site \"node2\" is unavailable",
            "SQLSTATE:  08006",
            "node2 is back",
            "INSERT 0 1",
            same,
            "preparing",
            "XA RECOVER",
            "site \"node3\" was lost before the decision; rolled back",
            "(0 rows)",
            same,
            "atoll.transactions_log",
            "rolled back",
        ],
    );
}

#[test]
fn a_site_of_the_demo_keeps_its_password() {
    const PASSWORD: &str = "s3cret-of-the-site";
    let directory = tempfile::tempdir().expect("a directory");
    // No such site; no such engine; nobody there.
    for (site, scheme, status, shown) in [
        ("macau", "postgres", 2, "its sites are beijing, hongkong"),
        ("beijing", "oracle", 2, "postgres://, postgresql://, mysql:// or mariadb://"),
        ("beijing", "postgres", 1, "site \"beijing\""),
        ("beijing", "mysql", 1, "site \"beijing\""),
    ] {
        let mut atoll = atoll_command().expect("the program is built");
        atoll.current_dir(directory.path()).args(["demo", "--scale", "0.001", "--exit", "--site"]);
        let (found, text) = output(atoll.arg(format!("{site}={scheme}://app:{PASSWORD}@127.0.0.1:1/news")));
        assert_eq!(found, Some(status), "{text}");
        assert!(text.contains(shown) && !text.contains(PASSWORD), "{text}");
    }
}
