//! Figures of the engine alone, without SQL: `cargo bench -p atoll-storage [-- DIRECTORY]`. Prints one line per figure.

use atoll_model::{
    Column, ColumnId, Fragment, FragmentBounds, FragmentId, Fragmentation, Index, IndexId, ReadBalance, RelationId,
    Replication, Result, SiteId, SqlType, Table, Value,
};
use atoll_storage::rows::{At, Change, ScanPlan, TableCodec};
use atoll_storage::{LockMode, LockWait, Space, Store, StoreOptions, Txn, TxnOptions};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ROWS: i64 = 1_000_000;
const CHUNK: i64 = 50_000;
const WAIT: LockWait = LockWait::Timeout(Duration::from_secs(30));

fn table(id: u32, indexed: bool) -> Arc<Table> {
    let types = [SqlType::Int8, SqlType::Int4, SqlType::Int4, SqlType::Text, SqlType::Timestamp(None), SqlType::Float8];
    let names = ["id", "uid", "aid", "status", "at", "score"];
    let columns = types.iter().zip(names).enumerate().map(|(i, (ty, name))| Column {
        id: ColumnId(i as u16),
        name: name.into(),
        ty: ty.clone(),
        not_null: i == 0,
        default: None,
        missing: Value::Null,
        generated: None,
        hidden: false,
    });
    Arc::new(Table {
        id: RelationId(id),
        name: "reads".into(),
        columns: columns.collect(),
        next_column: 6,
        next_index: 2,
        key: vec![ColumnId(0)],
        primary_key: Some("reads_pkey".into()),
        indexes: if indexed {
            vec![Index {
                id: IndexId(1),
                name: "reads_uid".into(),
                columns: vec![ColumnId(1)],
                unique: false,
                constraint: false,
            }]
        } else {
            vec![]
        },
        checks: vec![],
        foreign_keys: vec![],
        fragmentation: Fragmentation::None,
        fragments: vec![Fragment {
            id: FragmentId(id),
            name: "reads".into(),
            bounds: FragmentBounds::All,
            replicas: vec![SiteId(1)],
            adopted: Default::default(),
            joining: Default::default(),
            behind: Default::default(),
        }],
        replication: Replication::All,
        read_balance: ReadBalance::RoundRobin,
        on_replica_down: Default::default(),
    })
}

fn row(i: i64) -> Vec<Value> {
    vec![
        Value::Int8(i),
        Value::Int4((i.wrapping_mul(7919) % 10_000) as i32),
        Value::Int4((i.wrapping_mul(104_729) % 10_000) as i32),
        Value::Text(format!("status of read {}", i % 100)),
        Value::Timestamp(1_500_000_000_000_000 + i * 1_000_000),
        Value::Float8(i as f64 / 3.0),
    ]
}

fn report(what: &str, count: u64, took: Duration) {
    let rate = count as f64 / took.as_secs_f64();
    println!("{what:<52} {rate:>12.0}/s  {:>9.3} us each", took.as_secs_f64() * 1e6 / count as f64);
}

fn plan(columns: Vec<usize>) -> ScanPlan {
    ScanPlan {
        columns,
        index: 0,
        lower: Bound::Unbounded,
        upper: Bound::Unbounded,
        reverse: false,
        limit: None,
        batch_size: 8192,
    }
}

async fn load(store: &Store, space: &Arc<Space>, codec: &TableCodec, fragment: u32, chunk: i64) -> Result<Duration> {
    let began = Instant::now();
    let mut committing = Duration::ZERO;
    for from in (0..ROWS).step_by(chunk as usize) {
        let txn = store.begin(TxnOptions::default());
        for part in (from..(from + chunk).min(ROWS)).collect::<Vec<_>>().chunks(1000) {
            let changes: Vec<Change> = part.iter().map(|i| Change::Insert(row(*i))).collect();
            codec.apply(At { txn: &txn, space, fragment, wait: WAIT }, &changes).await?;
        }
        let commit = Instant::now();
        txn.commit().await?;
        committing += commit.elapsed();
    }
    report("  of which in commit", ROWS as u64, committing);
    Ok(began.elapsed())
}

fn scans(store: &Store, space: &Arc<Space>, codec: &Arc<TableCodec>, fragment: u32, state: &str) -> Result<()> {
    for (what, columns) in
        [("count", vec![]), ("one integer", vec![1]), ("all six columns", (0..6).collect::<Vec<_>>())]
    {
        let txn = store.begin(TxnOptions::default());
        let began = Instant::now();
        let mut rows = 0;
        for batch in codec.scan(&txn, space, fragment, &plan(columns))? {
            rows += batch?.num_rows();
        }
        assert_eq!(rows as i64, ROWS);
        report(&format!("scan, {what}, {state}"), ROWS as u64, began.elapsed());
    }
    Ok(())
}

fn gets(store: &Store, space: &Arc<Space>, codec: &TableCodec, fragment: u32, state: &str) -> Result<()> {
    let gets = 300_000u64;
    let txn = store.begin(TxnOptions::default());
    let began = Instant::now();
    for n in 0..gets {
        let key = Value::Int8((n.wrapping_mul(2_654_435_761) % ROWS as u64) as i64);
        assert!(codec.get(&txn, space, fragment, &[key])?.is_some());
    }
    report(&format!("point get, {state}"), gets, began.elapsed());
    Ok(())
}

/// As TPC-B: three updates of existing rows under locks, one insert.
async fn small(txn: &Txn, space: &Arc<Space>, client: u64, n: u64) -> Result<()> {
    for part in 0..3u64 {
        let key = ((client << 40) | (part << 32) | (n % 1000)).to_be_bytes();
        txn.lock(1, &key, LockMode::Exclusive, WAIT).await?;
        txn.changed(space, &key)?;
        txn.latest(space, &key)?;
        txn.put(space, &key, &[1; 100])?;
    }
    txn.put(space, &((client << 40) | (3 << 32) | n).to_be_bytes(), &[1; 50])
}

/// Small transactions up to their commit, on one core; the best of some rounds.
async fn writes(store: &Store, space: &Arc<Space>) -> Result<()> {
    const COUNT: u64 = 100_000;
    let mut best = Duration::MAX;
    for _ in 0..7 {
        let began = Instant::now();
        for n in 0..COUNT {
            let txn = store.begin(TxnOptions::default());
            small(&txn, space, 0, n).await?;
            txn.rollback();
        }
        best = best.min(began.elapsed());
    }
    report("small transactions, rolled back", COUNT, best);
    Ok(())
}

async fn commits(store: &Arc<Store>, space: &Arc<Space>, clients: u64, durable: bool) -> Result<()> {
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..clients {
        let (store, space, done) = (store.clone(), space.clone(), done.clone());
        tasks.push(tokio::spawn(async move {
            let mut n = 0u64;
            while began.elapsed() < Duration::from_secs(2) {
                let txn = store.begin(TxnOptions { synchronous_commit: durable, ..TxnOptions::default() });
                small(&txn, &space, client, n).await?;
                txn.commit().await?;
                n += 1;
            }
            done.fetch_add(n, Ordering::Relaxed);
            Result::Ok(())
        }));
    }
    for task in tasks {
        task.await.map_err(|e| atoll_model::Error::internal(e.to_string()))??;
    }
    let kind = if durable { "durable" } else { "asynchronous" };
    report(&format!("{kind} commits, {clients} clients"), done.load(Ordering::Relaxed), began.elapsed());
    Ok(())
}

async fn run(dir: &std::path::Path) -> Result<()> {
    let store = Arc::new(Store::open(dir, StoreOptions::default())?);
    let (space, other) = (store.space("bench")?, store.space("commits")?);
    let quick = std::env::var_os("ATOLL_BENCH_LOAD").is_some();
    for clients in if quick { vec![] } else { vec![1, 8, 32] } {
        commits(&store, &other, clients, true).await?;
    }
    commits(&store, &other, 8, false).await?;
    writes(&store, &other).await?;
    let (plain, indexed) = (Arc::new(TableCodec::new(table(1, false))?), Arc::new(TableCodec::new(table(2, true))?));
    report("load, transactions of 50,000 rows", ROWS as u64, load(&store, &space, &plain, 1, CHUNK).await?);
    scans(&store, &space, &plain, 1, "just loaded")?;
    gets(&store, &space, &plain, 1, "just loaded")?;
    report("load, one index more", ROWS as u64, load(&store, &space, &indexed, 2, CHUNK).await?);
    report("load, one transaction", ROWS as u64, load(&store, &space, &plain, 3, ROWS).await?);
    tokio::time::sleep(Duration::from_secs(5)).await;
    scans(&store, &space, &plain, 1, "settled")?;
    gets(&store, &space, &plain, 1, "settled")?;
    let txn = store.begin(TxnOptions::default());
    let began = Instant::now();
    let mut rows = 0u64;
    for uid in 0..200 {
        let by_uid = ScanPlan {
            index: 1,
            lower: Bound::Included(vec![Value::Int4(uid)]),
            upper: Bound::Included(vec![Value::Int4(uid)]),
            ..plan((0..6).collect())
        };
        for batch in indexed.scan(&txn, &space, 2, &by_uid)? {
            rows += batch?.num_rows() as u64;
        }
    }
    report("rows through an index, 100 per value", rows, began.elapsed());
    println!("{:<52} {:>9} MB", "disk", store.disk_bytes()? >> 20);
    store.close()
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let given = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let temporary = tempfile::tempdir_in(given.as_deref().unwrap_or("."))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(temporary.path()))?;
    Ok(())
}
