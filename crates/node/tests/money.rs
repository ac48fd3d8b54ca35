//! Concurrent transfers between participants, and reads over all of them: no money is made or lost, and no read sees half a transfer.
#![allow(clippy::print_stderr, reason = "a report for people")]

mod rig;
mod world;

use atoll_model::{ErrorKind, Outcome};
use atoll_ports::cluster::Cluster;
use atoll_ports::site::{BranchOptions, Isolation};
use rig::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

over_engines!(
    no_statement_sees_half_a_transfer,
    no_transaction_sees_half_a_transfer,
    money_is_conserved_whatever_dies,
    a_snapshot_that_does_not_go_with_the_others_is_refused,
);

const TOTAL: i32 = 3 * EACH;

/// What happened in a run.
#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    moved: AtomicU64,
    read: AtomicU64,
    /// Reads that were refused and may be tried again.
    refused: AtomicU64,
    unknown: AtomicU64,
}

/// Whether a statement or transaction may be tried again, or its site is down.
fn passes(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::SerializationFailure
            | ErrorKind::Deadlock
            | ErrorKind::LockTimeout
            | ErrorKind::SiteUnavailable
            | ErrorKind::StatementCompletionUnknown
    )
}

fn start(run: &Run, counts: &Arc<Counts>, isolation: Isolation) -> Vec<tokio::task::JoinHandle<Result<(), String>>> {
    let mut tasks = vec![];
    for (at, moves) in [[(0, -1), (1, 1)], [(1, -1), (2, 1)], [(0, 2), (2, -2)]].into_iter().enumerate() {
        let (node, counts) = (run.node.clone(), counts.clone());
        tasks.push(run.spawn(async move {
            while !counts.stop.load(Ordering::Relaxed) {
                let txn = node.begin(patient());
                let moving = async {
                    transfer(&*txn, &moves).await?;
                    txn.commit().await
                };
                match moving.await {
                    Ok(_) => drop(counts.moved.fetch_add(1, Ordering::Relaxed)),
                    Err(e) if e.outcome() == Outcome::Indeterminate => {
                        counts.unknown.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(e) if passes(e.kind()) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(e) => return Err(format!("mover {at}: {e:?}")),
                }
            }
            Ok(())
        }));
    }
    for _ in 0..2 {
        let (node, counts) = (run.node.clone(), counts.clone());
        tasks.push(run.spawn(async move {
            while !counts.stop.load(Ordering::Relaxed) {
                let txn = node.begin(BranchOptions { isolation, read_only: true, ..patient() });
                let reading = async {
                    let all = balances(&*txn).await?;
                    // In the stricter levels the next statement sees the same.
                    let again = balances(&*txn).await?;
                    txn.commit().await?;
                    Ok::<_, atoll_model::Error>([all, again])
                };
                match reading.await {
                    Ok(read) => {
                        for all in &read {
                            counts.read.fetch_add(1, Ordering::Relaxed);
                            if all.iter().sum::<i32>() != TOTAL || all.len() != 3 {
                                return Err(format!("half of a transfer: {all:?}"));
                            }
                        }
                        if isolation != Isolation::ReadCommitted && read[0] != read[1] {
                            return Err(format!("two snapshots: {read:?}"));
                        }
                    }
                    Err(e) if passes(e.kind()) => {
                        counts.refused.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    Err(e) => return Err(format!("reader: {e:?}")),
                }
            }
            Ok(())
        }));
    }
    tasks
}

fn end(rig: &Rig, counts: &Counts, tasks: Vec<tokio::task::JoinHandle<Result<(), String>>>) -> TestResult {
    counts.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        rig.run().block_on(task)??;
    }
    rig.settle()?;
    assert_eq!(rig.balances()?.iter().sum::<i32>(), TOTAL);
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    eprintln!(
        "{} transfers, {} unknown, {} reads, {} refused",
        count(&counts.moved),
        count(&counts.unknown),
        count(&counts.read),
        count(&counts.refused)
    );
    Ok(())
}

fn no_read_is_torn(engines: [Engine; 2], isolation: Isolation) -> TestResult {
    let rig = Rig::of(engines)?;
    rig.accounts()?;
    let counts = Arc::<Counts>::default();
    let tasks = start(rig.run(), &counts, isolation);
    // `ATOLL_TEST_READS` makes it longer.
    let wanted = std::env::var("ATOLL_TEST_READS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let deadline = Instant::now() + Duration::from_secs(600);
    let enough = || counts.read.load(Ordering::Relaxed) >= wanted && counts.moved.load(Ordering::Relaxed) > 10;
    while !enough() && Instant::now() < deadline {
        if tasks.iter().any(tokio::task::JoinHandle::is_finished) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    end(&rig, &counts, tasks)?;
    assert!(counts.read.load(Ordering::Relaxed) >= wanted);
    assert!(counts.moved.load(Ordering::Relaxed) > 10);
    assert_eq!(counts.unknown.load(Ordering::Relaxed), 0);
    Ok(())
}

fn no_statement_sees_half_a_transfer(engines: [Engine; 2]) -> TestResult {
    no_read_is_torn(engines, Isolation::ReadCommitted)
}

fn no_transaction_sees_half_a_transfer(engines: [Engine; 2]) -> TestResult {
    no_read_is_torn(engines, Isolation::RepeatableRead)
}

/// Servers die and come back under transfers and reads; so does the node.
fn money_is_conserved_whatever_dies(engines: [Engine; 2]) -> TestResult {
    let mut rig = Rig::of(engines)?;
    rig.accounts()?;
    for round in 0..6 {
        let counts = Arc::<Counts>::default();
        let tasks = start(rig.run(), &counts, Isolation::ReadCommitted);
        std::thread::sleep(Duration::from_millis(400 + 37 * round));
        match round % 3 {
            2 => {
                rig.restart()?;
                rig.settle()?;
                assert_eq!(rig.balances()?.iter().sum::<i32>(), TOTAL);
            }
            at => {
                rig.crash(at as usize);
                std::thread::sleep(Duration::from_millis(200));
                rig.start_again(at as usize)?;
                std::thread::sleep(Duration::from_millis(600));
                end(&rig, &counts, tasks)?;
            }
        }
    }
    Ok(())
}

/// A participant that a transaction reads later than others, when a transfer over both has committed in between.
fn a_snapshot_that_does_not_go_with_the_others_is_refused(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    rig.accounts()?;
    let node = rig.node();
    rig.run().block_on(async {
        let reader = node.begin(BranchOptions { isolation: Isolation::RepeatableRead, ..patient() });
        reader.begin_statement().await?;
        let table = node.catalog().table("accounts").expect("it was created").clone();
        let fragment = |at: usize| atoll_ports::cluster::FragmentRef { table: table.clone(), at };
        let get = async |at: usize| reader.get(&fragment(at), &[world::int(at as i32)]).await;
        assert!(get(1).await?.is_some());
        for moves in [[(0, -1), (1, 1)], [(1, -1), (0, 1)]] {
            let mover = node.begin(patient());
            transfer(&*mover, &moves).await?;
            mover.commit().await?;
        }
        // These commits were at 0 and 1: 2 goes with 1, and 0 does not.
        assert!(get(2).await?.is_some());
        assert_eq!(get(0).await.err().map(|e| e.kind()), Some(ErrorKind::SerializationFailure));
        Ok::<_, atoll_model::Error>(())
    })?;
    Ok(())
}
