//! Random programs on PostgreSQL and on Atoll, for as long as `ATOLL_DIFF_SECONDS` allows (60).
//!
//! `ATOLL_DIFF_SEED=N` runs the program of one seed.

use atoll_e2e::budget;
use atoll_e2e::diff::{Dialect, Pair, Program, Tally};
use atoll_e2e::rng::Rng;
use atoll_e2e::server::{Atoll, PostgreSql, Server};
use std::time::{Duration, Instant};

fn compare(pair: Pair, test: &str, time: Duration) -> Tally {
    let given: Option<u64> = std::env::var("ATOLL_DIFF_SEED").ok().and_then(|s| s.parse().ok());
    let first = given.unwrap_or_else(Rng::fresh_seed);
    let (began, mut tally, mut programs) = (Instant::now(), Tally::default(), 0);
    for seed in first.. {
        let program = Program::new(seed);
        match pair.run(&program) {
            Ok(one) => tally.add(one),
            Err(difference) => {
                let (program, difference) = pair.shrink(&program, difference);
                let statements: Vec<String> = program.statements.iter().map(ToString::to_string).collect();
                panic!(
                    "seed {seed}: after\n\n{}\n\n{}\n\nto repeat: ATOLL_DIFF_SEED={seed} cargo nextest run --release -p atoll-e2e {test}",
                    statements.join("\n"),
                    difference.text
                );
            }
        }
        programs += 1;
        if given.is_some() || began.elapsed() > time {
            break;
        }
    }
    println!("from seed {first}: {programs} programs, {tally:?}");
    tally
}

#[test]
fn postgres_equals_itself() {
    // Shows that the programs' answers are determined; on the way, that not all of them fail.
    let (a, b) = (PostgreSql::start(), PostgreSql::start());
    // The other one plans otherwise, so that rows come in another order.
    let mut client = b.connect().expect("a new server answers");
    for setting in ["hashjoin", "hashagg", "indexscan", "bitmapscan"] {
        client.query(&format!("ALTER DATABASE postgres SET enable_{setting} = off")).expect("a setting");
    }
    let pair = Pair { original: &a, tested: &b, dialect: Dialect::PostgreSql };
    let tally = compare(pair, "postgres_equals_itself", budget("ATOLL_DIFF_SELF_SECONDS", 5));
    assert!(tally.failed * 3 < tally.same, "most statements fail: {tally:?}");
}

#[test]
fn atoll_equals_postgres() {
    let (postgres, atoll) = (PostgreSql::start(), Atoll::start());
    let mut client = atoll.connect().expect("a new server answers");
    for n in 1..=3 {
        client.query(&format!("CREATE SITE s{n} ENGINE embedded")).expect("a site");
    }
    let pair = Pair { original: &postgres, tested: &atoll, dialect: Dialect::Atoll };
    let tally = compare(pair, "atoll_equals_postgres", budget("ATOLL_DIFF_SECONDS", 60));
    assert!(tally.unsupported * 50 < tally.same, "too much is refused as not supported: {tally:?}");
}
