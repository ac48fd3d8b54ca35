//! The key-value layer against its promises: isolation levels, locks, savepoints, durability, refusal of bad files.

use atoll_model::ErrorKind;
use atoll_storage::{Isolation, LockMode, LockWait, Slice, Space, Store, StoreOptions, Txn, TxnOptions};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::ops::Bound;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

type TestResult = Result<(), Box<dyn std::error::Error>>;

const WAIT: LockWait = LockWait::Timeout(Duration::from_secs(20));

fn options() -> StoreOptions {
    // A small memtable, so that flushes and compactions happen while tests run; a volume of any size will do.
    StoreOptions { memtable_bytes: 256 << 10, bulk_keys: 1000, disk_reserve: 0, ..StoreOptions::default() }
}

fn open(dir: &std::path::Path) -> Result<(Store, Arc<Space>), atoll_model::Error> {
    let store = Store::open(dir, options())?;
    let space = store.space("main")?;
    Ok((store, space))
}

fn at(isolation: Isolation) -> TxnOptions {
    TxnOptions { isolation, ..TxnOptions::default() }
}

fn number(txn: &Txn, space: &Space, key: &[u8]) -> Result<i64, atoll_model::Error> {
    Ok(txn.get(space, key)?.map_or(0, |v| parse(v.payload())))
}

fn parse(payload: &[u8]) -> i64 {
    payload.try_into().map_or(i64::MIN, i64::from_le_bytes)
}

async fn put(store: &Store, space: &Arc<Space>, key: &[u8], value: i64) -> Result<u64, atoll_model::Error> {
    let txn = store.begin(TxnOptions::default());
    txn.put(space, key, &value.to_le_bytes())?;
    txn.commit().await
}

fn all(txn: &Txn, space: &Arc<Space>, reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    txn.scan(space, Bound::Unbounded, Bound::Unbounded, reverse)
        .map(|e| e.map(|(k, v)| (k.to_vec(), v.payload().to_vec())).expect("scan"))
        .collect()
}

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

#[tokio::test]
async fn runs_lock_as_single_locks_do() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, _) = open(dir.path())?;
    let keys = |from: u8, to: u8| (from..to).map(|k| Slice::new(&[k])).collect::<Vec<_>>();
    let (a, b) = (Arc::new(store.begin(TxnOptions::default())), Arc::new(store.begin(TxnOptions::default())));
    assert!(b.lock(0, &[7], LockMode::Shared, WAIT).await?);
    let load = tokio::spawn({
        let a = a.clone();
        async move { a.lock_run(0, keys(0, 10), WAIT).await }
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
    assert!(!a.lock_run(0, keys(5, 6), LockWait::Never).await? || a.lock(0, &[5], LockMode::Shared, WAIT).await?);
    let c = Arc::new(store.begin(TxnOptions::default()));
    let short = LockWait::Timeout(Duration::from_millis(30));
    assert_eq!(c.lock(0, &[2], LockMode::Shared, short).await.map_err(|e| e.kind()), Err(ErrorKind::LockTimeout));
    let overlapping = tokio::spawn({
        let c = c.clone();
        async move { c.lock_run(0, keys(8, 20), WAIT).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!overlapping.is_finished());
    drop(a);
    assert!(overlapping.await??);
    drop((b, c));
    assert_eq!(store.locked_keys(), 0);
    Ok(())
}

#[tokio::test]
async fn limits_are_errors() -> TestResult {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), StoreOptions { transaction_bytes: 100_000, ..options() })?;
    let space = store.space("main")?;
    let txn = store.begin(TxnOptions::default());
    assert_eq!(txn.put(&space, &[0; 70_000], b"").map_err(|e| e.kind()), Err(ErrorKind::ProgramLimit));
    let mut outcome = Ok(());
    for i in 0..10_000u32 {
        outcome = txn.put(&space, &i.to_be_bytes(), &[1; 100]);
        if outcome.is_err() {
            break;
        }
    }
    assert_eq!(outcome.map_err(|e| e.kind()), Err(ErrorKind::OutOfMemory));
    let txn = store.begin(TxnOptions { read_only: true, ..TxnOptions::default() });
    assert_eq!(txn.put(&space, b"k", b"").map_err(|e| e.kind()), Err(ErrorKind::ReadOnlyTransaction));
    Ok(())
}

#[tokio::test]
async fn reopening_keeps_data_clock_and_sizes() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut last = 0;
    for round in 0..4i64 {
        let (store, space) = open(dir.path())?;
        assert_eq!(number(&store.begin(TxnOptions::default()), &space, b"k")?, round);
        assert_eq!(store.fragment_size(&space, 5).rows, round as u64);
        let txn = store.begin(TxnOptions { synchronous_commit: false, ..TxnOptions::default() });
        txn.put(&space, b"k", &(round + 1).to_le_bytes())?;
        txn.count(&space, 5, 1, 10);
        let timestamp = txn.commit().await?;
        assert!(timestamp > last);
        last = timestamp;
        store.close()?;
        let late = store.begin(TxnOptions::default());
        late.put(&space, b"k", b"")?;
        assert_eq!(late.commit().await.map_err(|e| e.kind()), Err(ErrorKind::AdminShutdown));
    }
    Ok(())
}

#[tokio::test]
async fn a_second_process_is_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, _) = open(dir.path())?;
    let error = Store::open(dir.path(), options()).err().expect("locked");
    assert_eq!(error.kind(), ErrorKind::CannotConnectNow);
    assert!(error.message().contains(&dir.path().display().to_string()));
    drop(store);
    Store::open(dir.path(), options())?;
    std::fs::write(dir.path().join("FORMAT"), "atoll-storage 99\n")?;
    assert_eq!(Store::open(dir.path(), options()).err().map(|e| e.kind()), Some(ErrorKind::NotSupported));
    Ok(())
}

#[tokio::test]
async fn purge_empties_a_prefix_only() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, space) = open(dir.path())?;
    let txn = store.begin(TxnOptions::default());
    for i in 0..25_000u32 {
        txn.put(&space, &[b"a".as_slice(), &i.to_be_bytes()].concat(), b"x")?;
    }
    txn.put(&space, b"b", b"x")?;
    txn.commit().await?;
    assert_eq!(store.purge(&space, b"a").await?, 25_000);
    assert_eq!(all(&store.begin(TxnOptions::default()), &space, false), [(b"b".to_vec(), b"x".to_vec())]);
    assert_eq!(store.purge(&space, b"a").await?, 0);
    Ok(())
}

fn files_in(dir: &std::path::Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                todo.push(path);
            } else {
                files.extend(path.strip_prefix(dir).map(std::path::Path::to_path_buf));
            }
        }
    }
    Ok(files)
}

/// Damages every file of a store in turn: opening and reading must give an error that names the directory, or the right data.
#[tokio::test]
async fn damaged_files_are_errors_that_name_them() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, space) = open(dir.path())?;
    for round in 0..3u32 {
        let txn = store.begin(TxnOptions::default());
        for i in 0..5_000u32 {
            txn.put(&space, &i.to_be_bytes(), &[round as u8; 100])?;
        }
        txn.commit().await?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop((store, space));
    // Opening cuts the journal's preallocated space, which makes the copies small.
    drop(open(dir.path())?);
    let files = files_in(dir.path())?;
    assert!(files.iter().any(|f| f.display().to_string().contains("tables")), "{files:?}");
    let mut refused = 0;
    for file in files {
        let good = std::fs::read(dir.path().join(&file))?;
        // The journal's tail may be cut by a crash, and the tree rightly takes a damaged end for that: only tables and manifests.
        if good.len() < 16 || file.extension().is_some_and(|e| e == "jnl") {
            continue;
        }
        for place in [good.len() / 3, good.len() - 5] {
            let copy = tempfile::tempdir()?;
            for name in files_in(dir.path())? {
                let to = copy.path().join(&name);
                std::fs::create_dir_all(to.parent().expect("below the directory"))?;
                std::fs::copy(dir.path().join(&name), to)?;
            }
            let mut bad = good.clone();
            bad[place] ^= 0x55;
            std::fs::write(copy.path().join(&file), &bad)?;
            let outcome = open(copy.path()).and_then(|(store, space)| {
                let txn = store.begin(TxnOptions::default());
                txn.scan(&space, Bound::Unbounded, Bound::Unbounded, false)
                    .map(|e| e.map(|(_, v)| v.payload().to_vec()))
                    .collect::<Result<Vec<_>, _>>()
            });
            match outcome {
                Ok(rows) => assert!(rows.len() == 5_000 && rows.iter().all(|v| v == &[2; 100]), "{}", file.display()),
                Err(e) => {
                    assert!(e.message().contains(&copy.path().display().to_string()), "{e}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 0);
    Ok(())
}

/// A child process that works on a store until it is killed, saying on standard output what was acknowledged.
struct Child {
    process: std::process::Child,
    acknowledged: std::thread::JoinHandle<Option<i64>>,
}

impl Child {
    fn start(work: &str, dir: &std::path::Path) -> std::io::Result<Child> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--exact", work, "--ignored", "--nocapture"])
            .env("ATOLL_CRASH_DIR", dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = process.stdout.take().expect("piped");
        let acknowledged = std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<i64>().ok())
                .last()
        });
        Ok(Child { process, acknowledged })
    }

    /// Kills it and tells what it had acknowledged last.
    fn kill(mut self) -> std::io::Result<Option<i64>> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(self.acknowledged.join().expect("reader"))
    }
}

/// Commits to two sites for ever.
#[tokio::test]
#[ignore = "started by killed_processes_lose_no_acknowledged_commit"]
async fn crash_child() -> TestResult {
    let Some(dir) = std::env::var_os("ATOLL_CRASH_DIR") else { return Ok(()) };
    let store = Store::open(dir, options())?;
    let sites = [store.space("north")?, store.space("south")?];
    let mut n = number(&store.begin(TxnOptions::default()), &sites[0], b"n")?;
    loop {
        n += 1;
        let txn = store.begin(TxnOptions::default());
        for site in &sites {
            txn.put(site, b"n", &n.to_le_bytes())?;
            txn.put(site, &n.to_be_bytes(), &[7; 200])?;
        }
        txn.commit().await?;
        println!("\nacknowledged {n}");
    }
}

#[tokio::test]
async fn killed_processes_lose_no_acknowledged_commit() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut acknowledged = 0;
    for round in 0..8u64 {
        let child = Child::start("crash_child", dir.path())?;
        tokio::time::sleep(Duration::from_millis(300 + 37 * round)).await;
        acknowledged = child.kill()?.unwrap_or(acknowledged);
        let store = Store::open(dir.path(), options())?;
        let sites = [store.space("north")?, store.space("south")?];
        let txn = store.begin(TxnOptions::default());
        let found = number(&txn, &sites[0], b"n")?;
        assert!(found >= acknowledged, "acknowledged {acknowledged}, found {found}");
        for site in &sites {
            assert_eq!(number(&txn, site, b"n")?, found, "one commit, two sites");
            assert_eq!(all(&txn, site, false).len() as i64, found + i64::from(found > 0));
        }
    }
    assert!(acknowledged > 10, "{acknowledged}");
    Ok(())
}

const LOAD: i64 = 2_000;

/// Loads two sites for ever, in transactions that are large enough to go into tables of their own, with a small write at a third.
#[tokio::test]
#[ignore = "started by killed_loads_are_whole_or_gone"]
async fn load_child() -> TestResult {
    let Some(dir) = std::env::var_os("ATOLL_CRASH_DIR") else { return Ok(()) };
    let store = Store::open(dir, options())?;
    let (sites, count) = ([store.space("north")?, store.space("south")?], store.space("count")?);
    let mut n = number(&store.begin(TxnOptions::default()), &count, b"n")?;
    loop {
        n += 1;
        let txn = store.begin(TxnOptions::default());
        for site in &sites {
            for i in 0..LOAD {
                // Interleaved with what is there, so that an undo has to tell them apart.
                txn.put_new(site, &[i.to_be_bytes(), n.to_be_bytes()].concat(), &[7; 40])?;
            }
        }
        txn.put(&count, b"n", &n.to_le_bytes())?;
        txn.commit().await?;
        println!("\nacknowledged {n}");
    }
}

#[tokio::test]
async fn killed_loads_are_whole_or_gone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut acknowledged = 0;
    for round in 0..10u64 {
        let child = Child::start("load_child", dir.path())?;
        tokio::time::sleep(Duration::from_millis(200 + 61 * round)).await;
        acknowledged = child.kill()?.unwrap_or(acknowledged);
        let store = Store::open(dir.path(), options())?;
        let (sites, count) = ([store.space("north")?, store.space("south")?], store.space("count")?);
        let txn = store.begin(TxnOptions::default());
        let found = number(&txn, &count, b"n")?;
        assert!(found >= acknowledged, "acknowledged {acknowledged}, found {found}");
        for site in &sites {
            let rows = txn.scan(site, Bound::Unbounded, Bound::Unbounded, false).count() as i64;
            assert_eq!(rows, found * LOAD, "round {round}");
        }
    }
    assert!(acknowledged > 3, "{acknowledged}");
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Savepoint,
    RollbackTo(u8),
    Commit,
    Rollback,
    Scan(u8, u8, bool),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..20u8, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        3 => (0..20u8).prop_map(Step::Delete),
        2 => Just(Step::Savepoint),
        2 => any::<u8>().prop_map(Step::RollbackTo),
        2 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        3 => (0..20u8, 0..20u8, any::<bool>()).prop_map(|(a, b, r)| Step::Scan(a, b, r)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// One client against a sorted map: writes, savepoints, scans in both directions, commits, restarts.
    #[test]
    fn behaves_as_a_map(steps in prop::collection::vec(step(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let dir = tempfile::tempdir().expect("directory");
        let (mut store, mut space) = open(dir.path()).expect("open");
        let mut txn = store.begin(TxnOptions::default());
        let mut committed = Map::new();
        let mut model = committed.clone();
        let mut marks: Vec<(u64, Map)> = Vec::new();
        for step in steps {
            match step {
                Step::Put(k, v) => {
                    txn.put(&space, &[k], &[v]).expect("put");
                    model.insert(vec![k], vec![v]);
                }
                Step::Delete(k) => {
                    txn.delete(&space, &[k]).expect("delete");
                    model.remove(&vec![k]);
                }
                Step::Savepoint => marks.push((txn.savepoint(), model.clone())),
                Step::RollbackTo(n) if !marks.is_empty() => {
                    marks.truncate(usize::from(n) % marks.len() + 1);
                    let (mark, then) = marks.last().expect("not empty");
                    txn.rollback_to(*mark);
                    model = then.clone();
                }
                Step::RollbackTo(_) => {}
                Step::Commit => {
                    runtime.block_on(txn.commit()).expect("commit");
                    committed = model.clone();
                    txn = store.begin(TxnOptions::default());
                    marks.clear();
                }
                Step::Rollback => {
                    txn.rollback();
                    model = committed.clone();
                    txn = store.begin(TxnOptions::default());
                    marks.clear();
                }
                Step::Scan(a, b, reverse) => {
                    let found: Vec<_> = txn
                        .scan(&space, Bound::Included(&[a]), Bound::Excluded(&[b]), reverse)
                        .map(|e| e.map(|(k, v)| (k.to_vec(), v.payload().to_vec())).expect("scan"))
                        .collect();
                    let mut expected: Vec<_> = model
                        .iter()
                        .filter(|(k, _)| k[0] >= a && k[0] < b)
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect();
                    if reverse {
                        expected.reverse();
                    }
                    prop_assert_eq!(found, expected);
                }
                Step::Reopen => {
                    drop(txn);
                    drop(space);
                    drop(store);
                    (store, space) = open(dir.path()).expect("reopen");
                    txn = store.begin(TxnOptions::default());
                    model = committed.clone();
                    marks.clear();
                }
            }
            for k in 0..20u8 {
                let found = txn.get(&space, &[k]).expect("get").map(|v| v.payload().to_vec());
                prop_assert_eq!(found.as_ref(), model.get(&vec![k]));
            }
        }
        let forward: Vec<_> = model.into_iter().collect();
        prop_assert_eq!(all(&txn, &space, false), forward.clone());
        prop_assert_eq!(all(&txn, &space, true), forward.into_iter().rev().collect::<Vec<_>>());
    }
}
