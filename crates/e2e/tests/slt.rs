//! The scripts of `tests/slt`, under every layout and on PostgreSQL.
//!
//! `ATOLL_SLT=name` runs the scripts whose path contains it; `ATOLL_SLT_BLESS=1` with the test `postgres` rewrites expectations.

use atoll_e2e::layout::Layout;
use atoll_e2e::server::{Atoll, PostgreSql};
use atoll_e2e::slt::{Failure, Script, scripts};
use atoll_e2e::wire::Protocol;

fn report(layout: Layout, count: usize, failures: &[Failure]) {
    println!("{}: {count} records, {} failed", layout.name(), failures.len());
    for failure in failures {
        println!("\n{} [{}]\n{}\n{}", failure.place, layout.name(), failure.sql, failure.difference);
    }
    assert!(count > 0, "no record was run");
    assert!(failures.is_empty(), "{} of {count} records failed under layout {}", failures.len(), layout.name());
}

fn on_atoll(layout: Layout, protocol: Protocol) {
    let (mut count, mut failures) = (0, Vec::new());
    for path in scripts() {
        let script = Script::read(&path);
        if script.is_for(layout) {
            let atoll = Atoll::start();
            let (n, failed) = script.run(&atoll, layout, protocol);
            count += n;
            failures.extend(failed);
        }
    }
    report(layout, count, &failures);
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
            let (n, failed) = script.run(&server, Layout::PostgreSql, Protocol::Simple);
            count += n;
            failures.extend(failed);
        }
    }
    if !bless {
        report(Layout::PostgreSql, count, &failures);
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
