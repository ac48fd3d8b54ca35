//! A server that is killed under load, again and again: what was acknowledged is there, what was not is there wholly or not at all.
//!
//! `ATOLL_CRASH_SECONDS` bounds the time, `ATOLL_CRASH_SEED` repeats the clients' choices (not the moments of the kills).

use atoll_e2e::bank::{Teller, audit, setup};
use atoll_e2e::budget;
use atoll_e2e::rng::Rng;
use atoll_e2e::server::{Atoll, Crash, PostgreSql, Server};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: i64 = 6;

fn rounds(server: &mut dyn Crash, spread: bool, time: Duration, at_least: u32) {
    let seed = std::env::var("ATOLL_CRASH_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(Rng::fresh_seed);
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut client = server.connect().expect("a new server answers");
    for sql in setup(spread, CLIENTS) {
        client.query(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let mut tellers: Vec<Teller> = (0..CLIENTS).map(|n| Teller::new(n, seed)).collect();
    let (began, mut round) = (Instant::now(), 0);
    let mut slowest = Duration::ZERO;
    while round < at_least || began.elapsed() < time {
        round += 1;
        let life = Duration::from_millis(rng.between(30, 900) as u64);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let server_now: &dyn Server = &*server;
            let workers: Vec<_> = tellers.iter_mut().map(|t| scope.spawn(|| t.work(server_now, &stop))).collect();
            std::thread::sleep(life);
            kill_while_shared(server_now);
            stop.store(true, Ordering::Relaxed);
            for worker in workers {
                worker.join().expect("a client does not panic").unwrap_or_else(|e| panic!("round {round}: {e}"));
            }
        });
        server.crash();
        let restarting = Instant::now();
        server.start_again().unwrap_or_else(|e| panic!("round {round}: it does not start again: {e}"));
        slowest = slowest.max(restarting.elapsed());
        let mut client = server.connect().expect("it has just answered");
        let wrong = audit(&mut client, &tellers).unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert!(wrong.is_empty(), "after {round} crashes:\n{}", wrong.join("\n"));
    }
    let acknowledged: usize = tellers.iter().map(Teller::acknowledged).sum();
    let refused: u64 = tellers.iter().map(|t| t.refused).sum();
    println!("{round} crashes, {acknowledged} transfers acknowledged, {refused} refused; slowest restart {slowest:?}");
    assert!(acknowledged > 20 * round as usize, "hardly any load: {acknowledged} transfers in {round} rounds");
}

/// Kills the process while clients are talking to it.
fn kill_while_shared(server: &dyn Server) {
    let process = server.process_id().expect("it is running");
    let signal = server.crash_signal();
    let status = std::process::Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(status.is_ok_and(|s| s.success()), "kill {signal} {process}");
}

#[test]
fn postgres_loses_nothing() {
    // Validates the test itself; a few rounds are enough.
    rounds(&mut PostgreSql::start(), false, Duration::from_secs(2), 2);
}

#[test]
fn atoll_loses_nothing() {
    rounds(&mut Atoll::start(), true, budget("ATOLL_CRASH_SECONDS", 45), 5);
}

#[test]
fn atoll_keeps_everything_over_a_graceful_restart() {
    let mut atoll = Atoll::start();
    let mut client = atoll.connect().expect("a new server answers");
    for sql in setup(true, 1) {
        client.query(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let mut tellers = vec![Teller::new(0, 1)];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| tellers[0].work(&atoll, &stop));
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        worker.join().expect("a client does not panic").expect("no refusal without concurrency");
    });
    client.query("CREATE VIEW rich AS SELECT id FROM accounts WHERE balance > 1000").expect("a view");
    client.query("CREATE SEQUENCE numbers").expect("a sequence");
    let before: i64 = next_number(&mut client);
    let rich = client.query("SELECT id FROM rich ORDER BY id").expect("the view's rows");
    for _ in 0..2 {
        atoll.terminate().expect("SIGTERM ends it");
        atoll.restart().expect("it starts again");
        let mut client = atoll.connect().expect("it has just answered");
        assert_eq!(audit(&mut client, &tellers).expect("an audit"), Vec::<String>::new());
        assert_eq!(client.query("SELECT id FROM rich ORDER BY id").expect("the view's rows"), rich);
        assert!(next_number(&mut client) > before, "a sequence gave a number twice");
    }
}

fn next_number(client: &mut atoll_e2e::wire::Client) -> i64 {
    let reply = client.query("SELECT nextval('numbers')").expect("a number");
    reply.scalar().and_then(|t| t.parse().ok()).expect("a number")
}
