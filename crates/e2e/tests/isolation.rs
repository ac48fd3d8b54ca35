//! What transactions that run at the same time see of each other, at every isolation level; each test also runs on PostgreSQL,
//! which shows that the test asks for no more than the level promises.
//!
//! The anomalies are those of Adya, *Weak Consistency* (1999), in the tests' names as PostgreSQL's manual has them.

use atoll_e2e::asking::run;
use atoll_e2e::bank::{ACCOUNTS, TOTAL, Teller, is_transient, setup};
use atoll_e2e::budget;
use atoll_e2e::rng::Rng;
use atoll_e2e::server::{Atoll, PostgreSql, Server};
use atoll_e2e::wire::{Client, Error};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// A server, and the clause that spreads a table over its sites.
struct World<'a> {
    server: &'a dyn Server,
    spread: &'a str,
}

impl World<'_> {
    fn connect(&self) -> Client {
        self.server.connect().unwrap_or_else(|e| panic!("connecting: {e}"))
    }

    /// A table of numbered counters at several sites.
    fn counters(&self, name: &str, rows: i64, value: i64) -> Client {
        let mut client = self.connect();
        run(&mut client, &format!("CREATE TABLE {name} (id int PRIMARY KEY, v bigint NOT NULL) {}", self.spread));
        run(&mut client, &format!("INSERT INTO {name} SELECT g, {value} FROM generate_series(1, {rows}) g"));
        client
    }
}

fn number(client: &mut Client, sql: &str) -> i64 {
    let reply = client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    reply.scalar().and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("{sql}: {reply:?}"))
}

/// Runs a statement that may be refused with a code that asks to try again; whether it was done.
fn attempt(client: &mut Client, sql: &str) -> bool {
    match client.query(sql) {
        Ok(_) => true,
        Err(Error::Sql { sqlstate, .. }) if is_transient(&sqlstate) => {
            run(client, "ROLLBACK");
            false
        }
        Err(e) => panic!("{sql}: {e}"),
    }
}

fn every_snapshot_has_the_same_total(world: &World) {
    let mut client = world.connect();
    let statements = setup(!world.spread.is_empty(), 4);
    // The sites are there already.
    for sql in statements.iter().filter(|s| !s.starts_with("CREATE SITE")) {
        run(&mut client, sql);
    }
    let time = budget("ATOLL_ISOLATION_SECONDS", 8);
    let stop = AtomicBool::new(false);
    let mut tellers: Vec<Teller> = (0..4).map(|n| Teller::new(n, 42)).collect();
    let reads = AtomicI64::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = tellers
            .iter_mut()
            .map(|t| {
                let stop = &stop;
                scope.spawn(move || t.work(world.server, stop))
            })
            .collect();
        let readers: Vec<_> = (0..3)
            .map(|kind| {
                let (stop, reads) = (&stop, &reads);
                scope.spawn(move || {
                    let mut client = world.connect();
                    while !stop.load(Ordering::Relaxed) {
                        match kind {
                            0 => assert_eq!(number(&mut client, "SELECT sum(balance) FROM accounts"), TOTAL),
                            1 => one_snapshot_by_key(&mut client),
                            _ => one_snapshot_by_several_statements(&mut client),
                        }
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("every snapshot has the same total");
        }
        for writer in writers {
            writer.join().expect("a writer does not panic").expect("only transient refusals");
        }
    });
    let done: usize = tellers.iter().map(Teller::acknowledged).sum();
    let reads = reads.load(Ordering::Relaxed);
    println!("{done} transfers, {reads} snapshots");
    assert!(done > 50 && reads > 20, "hardly any load: {done} transfers, {reads} snapshots");
}

/// Every account read by its key, in one transaction.
fn one_snapshot_by_key(client: &mut Client) {
    run(client, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    let mut sum = 0;
    for id in 0..ACCOUNTS {
        let reply = client.execute("SELECT balance FROM accounts WHERE id = $1", &[Some(&id.to_string())]);
        let reply = reply.expect("a balance");
        sum += reply.scalar().and_then(|t| t.parse::<i64>().ok()).expect("one balance");
    }
    assert_eq!(sum, TOTAL, "accounts read one by one in one transaction");
    run(client, "COMMIT");
}

fn one_snapshot_by_several_statements(client: &mut Client) {
    run(client, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    let low = number(client, "SELECT sum(balance) FROM accounts WHERE id < 20");
    let rows = number(client, "SELECT count(*) FROM journal");
    let high = number(client, "SELECT sum(balance) FROM accounts WHERE id >= 20");
    assert_eq!(low + high, TOTAL, "two halves read in one transaction");
    assert_eq!(number(client, "SELECT count(*) FROM journal"), rows, "a count repeated in one transaction");
    run(client, "COMMIT");
}

fn increments_are_not_lost(world: &World) {
    let mut client = world.counters("incremented", 4, 0);
    let done = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let done = &done;
            scope.spawn(move || {
                let (mut client, mut rng) = (world.connect(), Rng::new(thread));
                for _ in 0..60 {
                    let id = rng.between(1, 4);
                    if attempt(&mut client, &format!("UPDATE incremented SET v = v + 1 WHERE id = {id}")) {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let done = done.load(Ordering::Relaxed);
    assert_eq!(number(&mut client, "SELECT sum(v) FROM incremented"), done);
    // A statement in READ COMMITTED waits for the other's commit and goes on with its result.
    assert_eq!(done, 240, "some were refused rather than made to wait");
}

fn a_lost_update_is_refused_at_repeatable_read(world: &World) {
    let mut a = world.counters("lost", 3, 10);
    let mut b = world.connect();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        run(&mut a, "UPDATE lost SET v = 10");
        for client in [&mut a, &mut b] {
            run(client, &format!("BEGIN ISOLATION LEVEL {level}"));
            assert_eq!(number(client, "SELECT v FROM lost WHERE id = 1"), 10);
        }
        run(&mut a, "UPDATE lost SET v = 11 WHERE id = 1");
        run(&mut a, "COMMIT");
        // Refused at once, or at the commit.
        let done = attempt(&mut b, "UPDATE lost SET v = 12 WHERE id = 1") && attempt(&mut b, "COMMIT");
        assert!(!done, "{level}: the second writer overwrote what it had not seen");
        assert_eq!(number(&mut a, "SELECT v FROM lost WHERE id = 1"), 11, "{level}");
    }
}

fn reads_repeat_as_the_level_says(world: &World) {
    let mut a = world.counters("repeated", 6, 1);
    let mut b = world.connect();
    for (level, stays) in [("READ COMMITTED", false), ("REPEATABLE READ", true), ("SERIALIZABLE", true)] {
        run(&mut a, "DELETE FROM repeated WHERE id > 6");
        run(&mut a, "UPDATE repeated SET v = 1");
        run(&mut b, &format!("BEGIN ISOLATION LEVEL {level}"));
        assert_eq!(number(&mut b, "SELECT sum(v) FROM repeated"), 6);
        run(&mut a, "BEGIN");
        run(&mut a, "UPDATE repeated SET v = 100 WHERE id = 2");
        run(&mut a, "INSERT INTO repeated VALUES (7, 1000)");
        assert_eq!(number(&mut b, "SELECT sum(v) FROM repeated"), 6, "{level}: a dirty read");
        run(&mut a, "COMMIT");
        let expected = if stays { 6 } else { 1105 };
        assert_eq!(number(&mut b, "SELECT sum(v) FROM repeated"), expected, "{level}");
        assert_eq!(number(&mut b, "SELECT v FROM repeated WHERE id = 2"), if stays { 1 } else { 100 }, "{level}");
        assert_eq!(
            number(&mut b, "SELECT count(*) FROM repeated WHERE id = 7"),
            i64::from(!stays),
            "{level}: a phantom"
        );
        run(&mut b, "COMMIT");
    }
}

/// Two doctors on call each see the other and go home.
fn write_skew_is_refused_when_serializable(world: &World) {
    let mut a = world.counters("on_call", 2, 1);
    let mut b = world.connect();
    for client in [&mut a, &mut b] {
        run(client, "BEGIN ISOLATION LEVEL SERIALIZABLE");
        assert_eq!(number(client, "SELECT sum(v) FROM on_call"), 2);
    }
    let first = attempt(&mut a, "UPDATE on_call SET v = 0 WHERE id = 1");
    let second = attempt(&mut b, "UPDATE on_call SET v = 0 WHERE id = 2");
    let committed = [first && attempt(&mut a, "COMMIT"), second && attempt(&mut b, "COMMIT")];
    assert!(committed != [true, true], "both went home");
    assert!(number(&mut a, "SELECT sum(v) FROM on_call") >= 1);

    // Snapshot isolation, which REPEATABLE READ is, lets it happen: nobody may be refused here.
    run(&mut a, "UPDATE on_call SET v = 1");
    for client in [&mut a, &mut b] {
        run(client, "BEGIN ISOLATION LEVEL REPEATABLE READ");
        assert_eq!(number(client, "SELECT sum(v) FROM on_call"), 2);
    }
    run(&mut a, "UPDATE on_call SET v = 0 WHERE id = 1");
    run(&mut b, "UPDATE on_call SET v = 0 WHERE id = 2");
    run(&mut a, "COMMIT");
    run(&mut b, "COMMIT");
}

/// Each inserts what the other's predicate would have found.
fn predicates_are_protected_when_serializable(world: &World) {
    let mut a = world.connect();
    run(&mut a, &format!("CREATE TABLE classes (id int PRIMARY KEY, class int, v int) {}", world.spread));
    run(&mut a, "INSERT INTO classes VALUES (1, 1, 10), (2, 1, 20), (3, 2, 100), (4, 2, 200)");
    let mut b = world.connect();
    for client in [&mut a, &mut b] {
        run(client, "BEGIN ISOLATION LEVEL SERIALIZABLE");
    }
    assert_eq!(number(&mut a, "SELECT sum(v) FROM classes WHERE class = 1"), 30);
    assert_eq!(number(&mut b, "SELECT sum(v) FROM classes WHERE class = 2"), 300);
    let first = attempt(&mut a, "INSERT INTO classes VALUES (5, 2, 30)");
    let second = attempt(&mut b, "INSERT INTO classes VALUES (6, 1, 300)");
    let committed = [first && attempt(&mut a, "COMMIT"), second && attempt(&mut b, "COMMIT")];
    assert!(committed != [true, true], "no serial order explains both");
}

/// Pairs of accounts that may not be overdrawn together, with concurrent withdrawals.
fn no_pair_is_overdrawn_when_serializable(world: &World) {
    let mut client = world.counters("pairs", 10, 100);
    let (done, refused) = (AtomicI64::new(0), AtomicI64::new(0));
    let time = budget("ATOLL_ISOLATION_SECONDS", 8) / 2;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (done, refused) = (&done, &refused);
            scope.spawn(move || {
                let (mut client, mut rng) = (world.connect(), Rng::new(thread));
                let began = Instant::now();
                while began.elapsed() < time {
                    let pair = rng.between(0, 4) * 2 + 1;
                    let (both, from) = (format!("{pair}, {}", pair + 1), pair + rng.between(0, 1));
                    let amount = rng.between(1, 60);
                    let step = |client: &mut Client| -> Result<bool, Error> {
                        client.query("BEGIN ISOLATION LEVEL SERIALIZABLE")?;
                        let reply = client.query(&format!("SELECT sum(v) FROM pairs WHERE id IN ({both})"))?;
                        let sum: i64 = reply.scalar().and_then(|t| t.parse().ok()).expect("a sum");
                        assert!(sum >= 0, "pair {pair} is overdrawn");
                        // Deposits keep it going.
                        let change = if sum < amount { 150 } else { -amount };
                        client.query(&format!("UPDATE pairs SET v = v + {change} WHERE id = {from}"))?;
                        client.query("COMMIT")?;
                        Ok(true)
                    };
                    match step(&mut client) {
                        Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                        Err(Error::Sql { sqlstate, .. }) if is_transient(&sqlstate) => {
                            run(&mut client, "ROLLBACK");
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        Err(e) => panic!("{e}"),
                    };
                }
            });
        }
    });
    let (done, refused) = (done.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    println!("{done} withdrawals, {refused} refused");
    let reply = client.query("SELECT (id - 1) / 2, sum(v) FROM pairs GROUP BY 1 HAVING sum(v) < 0").expect("the pairs");
    assert!(reply.rows.is_empty(), "overdrawn: {:?}", reply.rows);
    assert!(done > 20, "hardly any load");
}

fn a_deadlock_ends(world: &World) {
    let mut a = world.counters("crossed", 2, 0);
    let mut b = world.connect();
    run(&mut a, "BEGIN");
    run(&mut b, "BEGIN");
    run(&mut a, "UPDATE crossed SET v = 1 WHERE id = 1");
    run(&mut b, "UPDATE crossed SET v = 2 WHERE id = 2");
    let finished = std::thread::scope(|scope| {
        let other =
            scope.spawn(|| attempt(&mut a, "UPDATE crossed SET v = 1 WHERE id = 2") && attempt(&mut a, "COMMIT"));
        std::thread::sleep(Duration::from_millis(200));
        let own = attempt(&mut b, "UPDATE crossed SET v = 2 WHERE id = 1") && attempt(&mut b, "COMMIT");
        [own, other.join().expect("no panic")]
    });
    assert!(finished == [true, false] || finished == [false, true], "one gives way, the other goes on: {finished:?}");
}

fn locks_wait_and_time_out(world: &World) {
    let mut a = world.counters("locked", 2, 0);
    let mut b = world.connect();
    run(&mut a, "BEGIN");
    run(&mut a, "UPDATE locked SET v = v + 1 WHERE id = 1");
    run(&mut b, "SET lock_timeout = '300ms'");
    let began = Instant::now();
    let refusal = b.query("UPDATE locked SET v = v + 1 WHERE id = 1").expect_err("the row is locked");
    assert_eq!(refusal.sqlstate(), Some("55P03"), "{refusal}");
    assert!(began.elapsed() >= Duration::from_millis(250), "it did not wait");
    // Other rows are not locked, and readers never wait.
    run(&mut b, "UPDATE locked SET v = v + 1 WHERE id = 2");
    assert_eq!(number(&mut b, "SELECT v FROM locked WHERE id = 1"), 0);
    run(&mut b, "SET lock_timeout = '30s'");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&mut b, "UPDATE locked SET v = v * 10 WHERE id = 1"));
        std::thread::sleep(Duration::from_millis(200));
        run(&mut a, "COMMIT");
        waiting.join().expect("it goes on when the lock is free");
    });
    assert_eq!(number(&mut a, "SELECT v FROM locked WHERE id = 1"), 10, "on the committed value");
    // A row that is inserted twice: the second waits for the first one's end.
    run(&mut a, "BEGIN");
    run(&mut a, "INSERT INTO locked VALUES (3, 1)");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| b.query("INSERT INTO locked VALUES (3, 2)"));
        std::thread::sleep(Duration::from_millis(200));
        run(&mut a, "COMMIT");
        let refusal = waiting.join().expect("no panic").expect_err("a duplicate");
        assert_eq!(refusal.sqlstate(), Some("23505"), "{refusal}");
    });
    // SELECT FOR UPDATE locks, too.
    run(&mut a, "BEGIN");
    run(&mut a, "SELECT v FROM locked WHERE id = 1 FOR UPDATE");
    run(&mut b, "SET lock_timeout = '200ms'");
    let refusal = b.query("UPDATE locked SET v = 0 WHERE id = 1").expect_err("the row is locked");
    assert_eq!(refusal.sqlstate(), Some("55P03"), "{refusal}");
    run(&mut a, "ROLLBACK");
}

fn a_unique_value_is_given_once(world: &World) {
    let mut client = world.connect();
    run(&mut client, &format!("CREATE TABLE names (id int PRIMARY KEY, name text UNIQUE) {}", world.spread));
    let won = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let won = &won;
            scope.spawn(move || {
                let mut client = world.connect();
                for n in 0..40 {
                    let sql = format!("INSERT INTO names VALUES ({}, 'name {n}')", thread * 1000 + n);
                    match client.query(&sql) {
                        Ok(_) => _ = won.fetch_add(1, Ordering::Relaxed),
                        Err(e) => assert!(
                            e.sqlstate().is_some_and(|s| s == "23505" || is_transient(s)),
                            "a duplicate, or a conflict: {e}"
                        ),
                    }
                }
            });
        }
    });
    assert_eq!(number(&mut client, "SELECT count(*) FROM names"), won.load(Ordering::Relaxed));
    assert_eq!(number(&mut client, "SELECT count(DISTINCT name) FROM names"), won.load(Ordering::Relaxed));
}

const SPREAD: &str = "PARTITION BY HASH (id) WITH (fragments = 6, sites = 's1, s2, s3')";

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod postgres {
            $(#[test]
            fn $name() {
                let server = super::PostgreSql::start();
                super::$name(&super::World { server: &server, spread: "" });
            })*
        }

        mod atoll {
            $(#[test]
            fn $name() {
                let server = super::Atoll::start();
                let world = super::World { server: &server, spread: super::SPREAD };
                for n in 1..=3 {
                    super::run(&mut world.connect(), &format!("CREATE SITE s{n} ENGINE embedded"));
                }
                super::$name(&world);
            })*
        }
    };
}

on_both!(
    every_snapshot_has_the_same_total,
    increments_are_not_lost,
    a_lost_update_is_refused_at_repeatable_read,
    reads_repeat_as_the_level_says,
    write_skew_is_refused_when_serializable,
    predicates_are_protected_when_serializable,
    no_pair_is_overdrawn_when_serializable,
    a_deadlock_ends,
    locks_wait_and_time_out,
    a_unique_value_is_given_once,
);
