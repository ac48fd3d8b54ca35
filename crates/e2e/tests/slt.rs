//! The scripts of `tests/slt`, under every layout and on PostgreSQL.
//!
//! `ATOLL_SLT=name` runs the scripts whose path contains it; `ATOLL_SLT_BLESS=1` with the test `postgres` rewrites expectations.

use atoll_e2e::layout::Layout;
use atoll_e2e::mariadb::MariaDb;
use atoll_e2e::server::{Atoll, PostgreSql};
use atoll_e2e::slt::{Failure, Script, scripts};
use atoll_e2e::wire::Protocol;
use std::collections::BTreeSet;

/// What does not answer as PostgreSQL yet: `tests/slt/known-failures.txt`, lines of layouts, script, statement, separated by tabs.
/// A failure that is not in the list fails the test, and so does an entry that has come to pass: the list only shrinks.
fn known(label: &str) -> BTreeSet<(String, String)> {
    let path = atoll_e2e::repository().join("tests/slt/known-failures.txt");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let chosen: Vec<String> =
        scripts().iter().filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect();
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.splitn(3, '\t');
            let (layouts, script, sql) = (fields.next()?, fields.next()?, fields.next()?);
            let here = layouts.split(',').any(|l| l == label) && chosen.iter().any(|c| c == script);
            here.then(|| (script.to_string(), sql.to_string()))
        })
        .collect()
}

fn report(label: &str, count: usize, failures: &[Failure]) {
    let key = |f: &Failure| {
        let script = f.place.rsplit_once(':').map_or(f.place.as_str(), |(script, _)| script);
        (script.to_string(), f.sql.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let known = known(label);
    let failed: BTreeSet<_> = failures.iter().map(key).collect();
    let new: Vec<&Failure> = failures.iter().filter(|f| !known.contains(&key(f))).collect();
    println!("{label}: {count} records, {} failed, {} of them unexpectedly", failures.len(), new.len());
    for failure in &new {
        println!("\n{} [{label}]\n{}\n{}", failure.place, failure.sql, failure.difference);
    }
    let passing: Vec<_> = known.difference(&failed).collect();
    assert!(count > 0, "no record was run");
    assert!(new.is_empty(), "{} of {count} records failed under layout {label}", new.len());
    assert!(passing.is_empty(), "these pass now: take them off tests/slt/known-failures.txt: {passing:#?}");
}

fn on_atoll(layout: Layout, protocol: Protocol) {
    on_sites(layout, protocol, Vec::new);
}

/// `databases`: gives fresh ones for each script, which are the first of its sites.
fn on_sites(layout: Layout, protocol: Protocol, mut databases: impl FnMut() -> Vec<String>) {
    let (mut count, mut failures) = (0, Vec::new());
    for path in scripts() {
        let script = Script::read(&path);
        if script.is_for(layout) {
            let atoll = Atoll::start();
            let (n, failed) = script.run(&atoll, layout, protocol, &databases());
            count += n;
            failures.extend(failed);
        }
    }
    let label = match protocol {
        Protocol::Simple => layout.name().to_string(),
        Protocol::Extended => format!("{}-extended", layout.name()),
    };
    report(&label, count, &failures);
}

#[test]
fn postgres() {
    let mut server = PostgreSql::start();
    let bless = std::env::var_os("ATOLL_SLT_BLESS").is_some();
    let (mut count, mut failures) = (0, Vec::new());
    for path in scripts() {
        let mut script = Script::read(&path);
        if script.is_for(Layout::PostgreSql) {
            server.fresh_database();
            if bless {
                script.bless(&server);
                continue;
            }
            let (n, failed) = script.run(&server, Layout::PostgreSql, Protocol::Simple, &[]);
            count += n;
            failures.extend(failed);
        }
    }
    if !bless {
        report("postgres", count, &failures);
    }
}

#[test]
fn one_site() {
    on_atoll(Layout::OneSite, Protocol::Simple);
}

#[test]
fn one_site_with_the_extended_protocol() {
    on_atoll(Layout::OneSite, Protocol::Extended);
}

#[test]
fn three_sites_by_hash() {
    on_atoll(Layout::Hash, Protocol::Simple);
}

#[test]
fn three_sites_by_hash_with_the_extended_protocol() {
    on_atoll(Layout::Hash, Protocol::Extended);
}

#[test]
fn three_sites_by_list() {
    on_atoll(Layout::List, Protocol::Simple);
}

#[test]
fn three_sites_by_range() {
    on_atoll(Layout::Range, Protocol::Simple);
}

#[test]
fn colocated() {
    on_atoll(Layout::Colocated, Protocol::Simple);
}

#[test]
fn replicated_at_three_sites() {
    on_atoll(Layout::Replicated, Protocol::Simple);
}

fn database(server: &mut PostgreSql) -> String {
    server.fresh_database();
    server.url()
}

fn mariadb() -> MariaDb {
    MariaDb::start(&[]).unwrap_or_else(|e| panic!("a private MariaDB: {e}"))
}

fn mariadb_database(server: &mut MariaDb) -> String {
    server.fresh_database().unwrap_or_else(|e| panic!("a database: {e}"))
}

#[test]
fn two_postgresql_servers() {
    let (mut one, mut two) = (PostgreSql::start(), PostgreSql::start());
    on_sites(Layout::PostgreSqlSites, Protocol::Simple, || {
        vec![database(&mut one), database(&mut two), database(&mut one)]
    });
}

#[test]
fn two_mariadb_servers() {
    let (mut one, mut two) = (mariadb(), mariadb());
    on_sites(Layout::MariaDbSites, Protocol::Simple, || {
        vec![mariadb_database(&mut one), mariadb_database(&mut two), mariadb_database(&mut one)]
    });
}

#[test]
fn an_engine_of_each_kind() {
    let (mut postgres, mut mariadb) = (PostgreSql::start(), mariadb());
    on_sites(Layout::Engines, Protocol::Simple, || vec![database(&mut postgres), mariadb_database(&mut mariadb)]);
}
