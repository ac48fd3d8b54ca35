//! Row locks: waiting, deadlocks, time-outs, runs.

use super::{TestResult, WAIT, open};
use atoll_model::ErrorKind;
use atoll_storage::{LockMode, LockWait, Txn, TxnOptions};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::test]
async fn deadlock_is_found_at_once() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, _) = open(dir.path())?;
    let txns: Vec<Arc<Txn>> = (0..3).map(|_| Arc::new(store.begin(TxnOptions::default()))).collect();
    for (i, txn) in txns.iter().enumerate() {
        txn.lock(0, &[i as u8], LockMode::Exclusive, WAIT).await?;
    }
    let waiting: Vec<_> = (0..2)
        .map(|i: usize| {
            let txn = txns[i].clone();
            tokio::spawn(async move { txn.lock(0, &[i as u8 + 1], LockMode::Exclusive, WAIT).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    let error = txns[2].lock(0, &[0], LockMode::Exclusive, WAIT).await.expect_err("closes the cycle");
    assert_eq!(error.kind(), ErrorKind::Deadlock);
    assert!(began.elapsed() < Duration::from_secs(5));
    txns[2].rollback();
    let mut waiting = waiting.into_iter();
    assert!(waiting.next_back().expect("second").await??);
    txns[1].rollback();
    assert!(waiting.next().expect("first").await??);
    txns[0].rollback();
    assert_eq!(store.locked_keys(), 0);
    Ok(())
}

#[tokio::test]
async fn two_upgrades_are_a_deadlock() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, _) = open(dir.path())?;
    let (a, b) = (Arc::new(store.begin(TxnOptions::default())), store.begin(TxnOptions::default()));
    assert!(a.lock(0, b"k", LockMode::Shared, WAIT).await?);
    assert!(b.lock(0, b"k", LockMode::Shared, WAIT).await?);
    let upgrade = tokio::spawn({
        let a = a.clone();
        async move { a.lock(0, b"k", LockMode::Exclusive, WAIT).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = b.lock(0, b"k", LockMode::Exclusive, WAIT).await.expect_err("deadlock");
    assert_eq!(error.kind(), ErrorKind::Deadlock);
    b.rollback();
    assert!(upgrade.await??);
    Ok(())
}

#[tokio::test]
async fn lock_waits_end() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, _) = open(dir.path())?;
    let (a, b) = (store.begin(TxnOptions::default()), store.begin(TxnOptions::default()));
    assert!(a.lock(7, b"k", LockMode::Exclusive, WAIT).await?);
    let short = LockWait::Timeout(Duration::from_millis(30));
    let error = b.lock(7, b"k", LockMode::Shared, short).await.expect_err("held");
    assert_eq!(error.kind(), ErrorKind::LockTimeout);
    assert!(!b.lock(7, b"k", LockMode::Shared, LockWait::Never).await?);
    assert!(b.lock(8, b"k", LockMode::Exclusive, LockWait::Never).await?, "another numbering, another lock");
    // A wait that is cancelled leaves nothing behind.
    tokio::select! {
        _ = b.lock(7, b"k", LockMode::Exclusive, WAIT) => panic!("cannot be had"),
        () = tokio::time::sleep(Duration::from_millis(20)) => {}
    }
    drop(a);
    assert!(b.lock(7, b"k", LockMode::Exclusive, LockWait::Never).await?);
    drop(b);
    assert_eq!(store.locked_keys(), 0);
    Ok(())
}

async fn lock_run(txn: &Txn, from: u8, to: u8, wait: LockWait) -> atoll_model::Result<bool> {
    let keys: Vec<[u8; 1]> = (from..to).map(|key| [key]).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    txn.lock_run(0, &keys, wait).await
}

#[tokio::test]
async fn runs_lock_as_single_locks_do() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, _) = open(dir.path())?;
    let (a, b) = (Arc::new(store.begin(TxnOptions::default())), Arc::new(store.begin(TxnOptions::default())));
    assert!(b.lock(0, &[7], LockMode::Shared, WAIT).await?);
    let load = tokio::spawn({
        let a = a.clone();
        async move { lock_run(&a, 0, 10, WAIT).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    // The run waits for key 7 alone; the rest of it is held already.
    assert!(!load.is_finished());
    assert!(!b.lock(0, &[3], LockMode::Shared, LockWait::Never).await?);
    assert!(b.lock(0, &[10], LockMode::Shared, LockWait::Never).await?);
    assert!(b.lock(1, &[3], LockMode::Shared, LockWait::Never).await?);
    // Waiting for one of its keys now closes a cycle.
    let error = b.lock(0, &[4], LockMode::Exclusive, WAIT).await.expect_err("a waits for 7");
    assert_eq!(error.kind(), ErrorKind::Deadlock);
    b.rollback();
    assert!(load.await??);
    assert!(a.lock(0, &[5], LockMode::Exclusive, LockWait::Never).await?, "its own");
    assert!(!lock_run(&a, 5, 6, LockWait::Never).await? || a.lock(0, &[5], LockMode::Shared, WAIT).await?);
    let c = Arc::new(store.begin(TxnOptions::default()));
    let short = LockWait::Timeout(Duration::from_millis(30));
    assert_eq!(c.lock(0, &[2], LockMode::Shared, short).await.map_err(|e| e.kind()), Err(ErrorKind::LockTimeout));
    let overlapping = tokio::spawn({
        let c = c.clone();
        async move { lock_run(&c, 8, 20, WAIT).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!overlapping.is_finished());
    drop(a);
    assert!(overlapping.await??);
    drop((b, c));
    assert_eq!(store.locked_keys(), 0);
    Ok(())
}

/// Whether others hold fewer single locks than the run has keys, or more.
#[tokio::test]
async fn runs_find_what_others_hold() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, _) = open(dir.path())?;
    for held in [1, 200] {
        let (a, b) = (store.begin(TxnOptions::default()), store.begin(TxnOptions::default()));
        for key in 100..100 + held {
            // The same keys in another numbering are in nobody's way.
            assert!(b.lock(0, &[(key % 256) as u8], LockMode::Exclusive, LockWait::Never).await?);
            assert!(b.lock(1, &[(key % 256) as u8], LockMode::Exclusive, LockWait::Never).await?);
        }
        assert!(!lock_run(&a, 90, 110, LockWait::Never).await?, "{held}");
        assert!(!b.lock(0, &[90], LockMode::Shared, LockWait::Never).await?, "a has the others");
        assert!(lock_run(&a, 60, 99, LockWait::Never).await?, "{held}");
        drop(b);
        assert!(lock_run(&a, 90, 110, LockWait::Never).await?, "{held}");
    }
    assert_eq!(store.locked_keys(), 0);
    Ok(())
}
