//! What survives a restart, a kill, a damaged file; limits and refusals.

use super::{TestResult, all, number, open, options};
use atoll_model::ErrorKind;
use atoll_storage::{Store, StoreOptions, TxnOptions};
use std::io::{BufRead, BufReader};
use std::ops::Bound;
use std::process::{Command, Stdio};
use std::time::Duration;

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

/// Damage in the middle of a journal is not taken for an end that a crash tore; a torn end is.
#[tokio::test]
async fn damaged_journals_are_told_from_torn_ones() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (store, space) = open(dir.path())?;
    for n in 0..50u64 {
        let txn = store.begin(TxnOptions::default());
        for part in 0..20u8 {
            txn.put(&space, &[&n.to_be_bytes()[..], &[part]].concat(), &[part; 700])?;
        }
        txn.commit().await?;
    }
    drop((store, space));
    // Opening cuts what was preallocated.
    drop(open(dir.path())?);
    let name =
        files_in(dir.path())?.into_iter().find(|f| f.extension().is_some_and(|e| e == "jnl")).ok_or("a journal")?;
    let journal = dir.path().join(name);
    let good = std::fs::read(&journal)?;
    for place in (0..good.len() * 9 / 10).step_by(good.len() / 40 + 1) {
        // All of a batch's header, so that lengths and tags are hit too.
        let mut bad = good.clone();
        bad[place..place + 24].iter_mut().for_each(|byte| *byte ^= 0x5a);
        std::fs::write(&journal, &bad)?;
        let error = open(dir.path()).err().ok_or(format!("damage at {place} went unnoticed"))?;
        assert_eq!(error.kind(), ErrorKind::DataCorrupted);
        assert!(error.message().contains(&dir.path().display().to_string()), "{error}");
    }
    // Torn: the last commits are gone, those before are there.
    for cut in [good.len() - 3, good.len() - 5_000] {
        std::fs::write(&journal, &good[..cut])?;
        let (store, space) = open(dir.path())?;
        let rows = all(&store.begin(TxnOptions::default()), &space, false);
        assert!(rows.len() >= 49 * 20 && rows.len().is_multiple_of(20), "{}", rows.len());
    }
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
        let child = Child::start("durability::crash_child", dir.path())?;
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
        let child = Child::start("durability::load_child", dir.path())?;
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
