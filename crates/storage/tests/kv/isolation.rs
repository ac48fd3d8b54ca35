//! Isolation levels: what each forbids, and what it lets pass.

use super::{TestResult, WAIT, all, at, number, open, options, parse, put};
use atoll_model::ErrorKind;
use atoll_storage::{Isolation, LockMode, Store, TxnOptions};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transfers_keep_the_sum_in_every_snapshot() -> TestResult {
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable] {
        let dir = tempfile::tempdir()?;
        let store = Arc::new(Store::open(dir.path(), options())?);
        let sites = [store.space("north")?, store.space("south")?];
        const ACCOUNTS: u64 = 8;
        for site in &sites {
            for account in 0..ACCOUNTS {
                put(&store, site, &account.to_be_bytes(), 100).await?;
            }
        }
        let until = Instant::now() + Duration::from_millis(700);
        let mut tasks = Vec::new();
        for client in 0..6u64 {
            let (store, sites) = (store.clone(), sites.clone());
            tasks.push(tokio::spawn(async move {
                let mut committed = 0;
                let mut random = client + 1;
                while Instant::now() < until {
                    let mut next = |bound: u64| {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        (random >> 33) % bound
                    };
                    let (from, to) = ((next(2), next(ACCOUNTS)), (next(2), next(ACCOUNTS)));
                    if from == to {
                        continue;
                    }
                    let txn = store.begin(at(isolation));
                    let step = async {
                        for (who, change) in [(from, -1), (to, 1)] {
                            let (site, key) = (&sites[who.0 as usize], who.1.to_be_bytes());
                            txn.begin_statement();
                            txn.lock(who.0, &key, LockMode::Exclusive, WAIT).await?;
                            txn.changed(site, &key)?;
                            let balance = txn.latest(site, &key)?.map_or(0, |v| parse(v.payload()));
                            txn.put(site, &key, &(balance + change).to_le_bytes())?;
                        }
                        txn.commit().await
                    };
                    match step.await {
                        Ok(_) => committed += 1,
                        Err(e) if matches!(e.kind(), ErrorKind::SerializationFailure | ErrorKind::Deadlock) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
                committed
            }));
        }
        let mut snapshots = 0;
        while Instant::now() < until {
            let txn = store.begin(TxnOptions { read_only: true, ..at(isolation) });
            let sum: i64 = sites.iter().flat_map(|s| all(&txn, s, false)).map(|(_, v)| parse(&v)).sum();
            assert_eq!(sum, 1600, "{isolation:?}");
            snapshots += 1;
            tokio::task::yield_now().await;
        }
        let mut committed = 0;
        for task in tasks {
            committed += task.await?;
        }
        assert!(committed > 10 && snapshots > 10, "{isolation:?}: {committed} commits, {snapshots} snapshots");
        assert_eq!(store.locked_keys(), 0);
    }
    Ok(())
}

#[tokio::test]
async fn lost_update_per_level() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, space) = open(dir.path())?;
    put(&store, &space, b"k", 10).await?;
    for isolation in [Isolation::RepeatableRead, Isolation::Serializable] {
        let (a, b) = (store.begin(at(isolation)), store.begin(at(isolation)));
        assert_eq!(number(&a, &space, b"k")?, number(&b, &space, b"k")?);
        a.lock(0, b"k", LockMode::Exclusive, WAIT).await?;
        assert!(!a.changed(&space, b"k")?);
        a.put(&space, b"k", &11i64.to_le_bytes())?;
        a.commit().await?;
        b.lock(0, b"k", LockMode::Exclusive, WAIT).await?;
        let error = b.changed(&space, b"k").expect_err("first updater wins");
        assert_eq!(error.kind(), ErrorKind::SerializationFailure);
    }
    // In ReadCommitted the second learns of the change and reads the newest version.
    let (a, b) = (store.begin(TxnOptions::default()), store.begin(TxnOptions::default()));
    a.lock(0, b"k", LockMode::Exclusive, WAIT).await?;
    a.put(&space, b"k", &20i64.to_le_bytes())?;
    a.commit().await?;
    b.lock(0, b"k", LockMode::Exclusive, WAIT).await?;
    assert!(b.changed(&space, b"k")?);
    assert_eq!(b.latest(&space, b"k")?.map(|v| parse(v.payload())), Some(20));
    assert_eq!(number(&b, &space, b"k")?, 11);
    b.begin_statement();
    assert_eq!(number(&b, &space, b"k")?, 20);
    // A deletion is a change as well.
    let (a, b) = (store.begin(TxnOptions::default()), store.begin(at(Isolation::RepeatableRead)));
    a.delete(&space, b"k")?;
    a.commit().await?;
    assert!(b.changed(&space, b"k").is_err());
    Ok(())
}

/// Two doctors on call; each goes off if the other is on. Only Serializable forbids that both do.
#[tokio::test]
async fn write_skew_per_level() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, space) = open(dir.path())?;
    for (isolation, forbidden) in [(Isolation::RepeatableRead, false), (Isolation::Serializable, true)] {
        for by_range in [false, true] {
            put(&store, &space, b"alice", 1).await?;
            put(&store, &space, b"bob", 1).await?;
            let (a, b) = (store.begin(at(isolation)), store.begin(at(isolation)));
            for (txn, me) in [(&a, b"alice".as_slice()), (&b, b"bob")] {
                let on_call: i64 = if by_range {
                    all(txn, &space, false).iter().map(|(_, v)| parse(v)).sum()
                } else {
                    number(txn, &space, b"alice")? + number(txn, &space, b"bob")?
                };
                assert_eq!(on_call, 2);
                txn.lock(0, me, LockMode::Exclusive, WAIT).await?;
                txn.put(&space, me, &0i64.to_le_bytes())?;
            }
            a.commit().await?;
            let second = b.commit().await.map_err(|e| e.kind());
            assert_eq!(second.is_err(), forbidden, "{isolation:?} {by_range} {second:?}");
            assert!(second.is_ok() || second == Err(ErrorKind::SerializationFailure));
        }
    }
    Ok(())
}

/// A phantom: both count an empty range and insert into it.
#[tokio::test]
async fn phantoms_do_not_pass_serializable() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, space) = open(dir.path())?;
    let (a, b) = (store.begin(at(Isolation::Serializable)), store.begin(at(Isolation::Serializable)));
    for txn in [&a, &b] {
        assert_eq!(txn.scan(&space, Bound::Included(b"m"), Bound::Excluded(b"n"), false).count(), 0);
    }
    a.put(&space, b"m1", b"x")?;
    b.put(&space, b"m2", b"x")?;
    a.commit().await?;
    assert_eq!(b.commit().await.map_err(|e| e.kind()), Err(ErrorKind::SerializationFailure));
    // Disjoint ranges do not disturb each other.
    let (a, b) = (store.begin(at(Isolation::Serializable)), store.begin(at(Isolation::Serializable)));
    assert_eq!(a.scan(&space, Bound::Included(b"p"), Bound::Excluded(b"q"), false).count(), 0);
    assert_eq!(b.scan(&space, Bound::Included(b"r"), Bound::Excluded(b"s"), false).count(), 0);
    a.put(&space, b"p1", b"x")?;
    b.put(&space, b"r1", b"x")?;
    a.commit().await?;
    b.commit().await?;
    Ok(())
}

/// Serializable transactions that each read two registers and write one: the result must be that of some serial order, which for
/// `x := y + 1` and `y := x + 1` means that the two registers never become equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn serializable_histories_are_serial() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, space) = open(dir.path())?;
    let store = Arc::new(store);
    put(&store, &space, b"y", 1).await?;
    let mut tasks = Vec::new();
    for client in 0..4 {
        let (store, space) = (store.clone(), space.clone());
        tasks.push(tokio::spawn(async move {
            let (from, to) = if client % 2 == 0 { (b"x", b"y") } else { (b"y", b"x") };
            let mut done = 0;
            for _ in 0..150 {
                let txn = store.begin(at(Isolation::Serializable));
                let other = number(&txn, &space, from)?;
                txn.lock(0, to, LockMode::Exclusive, WAIT).await?;
                txn.put(&space, to, &(other + 1).to_le_bytes())?;
                done += u32::from(txn.commit().await.is_ok());
            }
            Ok::<u32, atoll_model::Error>(done)
        }));
    }
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    assert!(done > 50, "{done}");
    let txn = store.begin(TxnOptions::default());
    assert_eq!((number(&txn, &space, b"x")? - number(&txn, &space, b"y")?).abs(), 1);
    Ok(())
}
