//! The cache of columns: whatever it answers is what the rows would have.

use arrow_array::cast::AsArray;
use arrow_array::{Int64Array, RecordBatch};
use atoll_model::{
    Column, ColumnId, ErrorKind, Fragment, FragmentBounds, FragmentId, Fragmentation, ReadBalance, RelationId,
    Replication, SiteId, SqlType, Table, Value,
};
use atoll_storage::rows::{At, Batches, Change, ColumnCache, ScanPlan, TableCodec};
use atoll_storage::{Isolation, LockWait, Space, Store, StoreOptions, Txn, TxnOptions};
use rand::{Rng, SeedableRng};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn codec() -> Result<Arc<TableCodec>, atoll_model::Error> {
    let column = |id: u16, name: &str, ty: SqlType| Column {
        id: ColumnId(id),
        name: name.into(),
        ty,
        not_null: id == 1,
        default: None,
        missing: Value::Null,
        generated: None,
        hidden: false,
    };
    let fragment = |id: u32| Fragment {
        id: FragmentId(id),
        name: format!("t_{id}"),
        bounds: FragmentBounds::All,
        replicas: vec![SiteId(1)],
        adopted: Default::default(),
        joining: Default::default(),
        behind: Default::default(),
    };
    let table = Table {
        id: RelationId(9),
        name: "t".into(),
        next_column: 4,
        next_index: 1,
        columns: vec![column(1, "id", SqlType::Int8), column(2, "n", SqlType::Int8), column(3, "s", SqlType::Text)],
        key: vec![ColumnId(1)],
        primary_key: Some("t_pkey".into()),
        indexes: vec![],
        checks: vec![],
        foreign_keys: vec![],
        fragmentation: Fragmentation::None,
        fragments: vec![fragment(1), fragment(2)],
        replication: Replication::All,
        read_balance: ReadBalance::RoundRobin,
        on_replica_down: Default::default(),
    };
    Ok(Arc::new(TableCodec::new(Arc::new(table))?))
}

fn whole(columns: &[usize]) -> ScanPlan {
    ScanPlan {
        columns: columns.to_vec(),
        index: 0,
        lower: Bound::Unbounded,
        upper: Bound::Unbounded,
        reverse: false,
        limit: None,
        batch_size: 8192,
    }
}

struct World {
    _dir: tempfile::TempDir,
    store: Store,
    space: Arc<Space>,
    codec: Arc<TableCodec>,
    cache: Arc<ColumnCache>,
}

impl World {
    fn new(capacity: u64) -> Result<World, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path(), StoreOptions { disk_reserve: 0, ..StoreOptions::default() })?;
        let space = store.space("main")?;
        Ok(World { _dir: dir, store, space, codec: codec()?, cache: ColumnCache::new(capacity) })
    }

    fn begin(&self, isolation: Isolation) -> Txn {
        self.store.begin(TxnOptions { isolation, read_only: false, synchronous_commit: false })
    }

    fn cached(
        &self,
        txn: &Txn,
        fragment: u32,
        columns: &[usize],
    ) -> Result<(Vec<RecordBatch>, bool), atoll_model::Error> {
        let plan = whole(columns);
        let batches = self.codec.scan_cached(txn, &self.store, &self.space, fragment, &plan, &self.cache)?;
        let kept = matches!(&batches, Batches::Columns(_));
        Ok((batches.collect::<Result<_, _>>()?, kept))
    }

    fn check(&self, txn: &Txn, fragment: u32, columns: &[usize]) -> TestResult {
        let expected: Vec<RecordBatch> =
            self.codec.scan(txn, &self.space, fragment, &whole(columns))?.collect::<Result<_, _>>()?;
        // Twice: what the first fills, the second finds.
        for _ in 0..2 {
            let (found, _) = self.cached(txn, fragment, columns)?;
            assert_eq!(found, expected, "columns {columns:?} of fragment {fragment}");
        }
        Ok(())
    }

    async fn write(&self, txn: &Txn, fragment: u32, changes: &[Change]) -> Result<(), atoll_model::Error> {
        let at = At { txn, space: &self.space, fragment, wait: LockWait::Timeout(Duration::from_secs(10)) };
        self.codec.apply(at, changes).await
    }
}

fn row(id: i64, n: i64) -> Vec<Value> {
    vec![Value::Int8(id), Value::Int8(n), if n % 3 == 0 { Value::Null } else { Value::Text(format!("text {n}")) }]
}

/// Commits, open snapshots and own writes in any order: every scan equals the scan of the rows.
#[tokio::test]
async fn answers_as_the_rows_do() -> TestResult {
    let world = World::new(64 << 20)?;
    for fragment in [1, 2] {
        let txn = world.begin(Isolation::ReadCommitted);
        let rows: Vec<Change> = (0..9_000).map(|id| Change::Insert(row(id * 10, id))).collect();
        world.write(&txn, fragment, &rows).await?;
        txn.commit().await?;
    }
    let mut random = rand::rngs::SmallRng::seed_from_u64(7);
    let mut open: Vec<Txn> = vec![];
    let choices: [&[usize]; 6] = [&[0], &[1], &[2, 0], &[0, 1, 2], &[], &[1, 2]];
    for step in 0..60 {
        match random.random_range(0..4) {
            0 => {
                let txn = world.begin(Isolation::ReadCommitted);
                let id = random.random_range(0..90_000);
                let fragment = random.random_range(1..3);
                if world.codec.get(&txn, &world.space, fragment, &[Value::Int8(id)])?.is_none() {
                    world.write(&txn, fragment, &[Change::Insert(row(id, step))]).await?;
                }
                if random.random_bool(0.3) {
                    txn.rollback();
                } else {
                    txn.commit().await?;
                }
            }
            1 if open.len() < 4 => open.push(world.begin(Isolation::RepeatableRead)),
            1 => drop(open.swap_remove(random.random_range(0..4))),
            2 => {
                // A transaction sees its own writes, and nobody else does.
                let txn = world.begin(Isolation::ReadCommitted);
                world.write(&txn, 1, &[Change::Insert(row(1_000_000 + step, step))]).await?;
                world.check(&txn, 1, &[0, 1])?;
                world.check(&world.begin(Isolation::ReadCommitted), 1, &[0, 1])?;
                txn.rollback();
            }
            _ => {}
        }
        let columns = choices[random.random_range(0..choices.len())];
        world.check(&world.begin(Isolation::ReadCommitted), random.random_range(1..3), columns)?;
        for txn in &open {
            world.check(txn, random.random_range(1..3), columns)?;
        }
    }
    let (_, kept) = world.cached(&world.begin(Isolation::ReadCommitted), 1, &[0])?;
    assert!(kept, "a scan of a quiet fragment goes through the cache");
    Ok(())
}

/// While a writer moves amounts between rows, every sum over the cached column is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_stay_while_amounts_move() -> TestResult {
    const ROWS: i64 = 10_000;
    let world = Arc::new(World::new(64 << 20)?);
    let txn = world.begin(Isolation::ReadCommitted);
    let rows: Vec<Change> = (0..ROWS).map(|id| Change::Insert(row(id, 100))).collect();
    world.write(&txn, 1, &rows).await?;
    txn.commit().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (world, stop) = (world.clone(), stop.clone());
        tokio::spawn(async move {
            let mut moved = 0_i64;
            while !stop.load(Ordering::Relaxed) {
                let (from, to) = (moved % ROWS, (moved * 7 + 1) % ROWS);
                let txn = world.begin(Isolation::ReadCommitted);
                let read = |id: i64| world.codec.get(&txn, &world.space, 1, &[Value::Int8(id)]);
                let (Some(a), Some(b)) = (read(from)?, read(to)?) else { break };
                if from != to {
                    let amount = |row: &[Value], by: i64| row[1].as_i64().map_or(Value::Null, |n| Value::Int8(n + by));
                    let (mut a2, mut b2) = (a.clone(), b.clone());
                    (a2[1], b2[1]) = (amount(&a, -1), amount(&b, 1));
                    let changes = [Change::Update { old: a, new: a2 }, Change::Update { old: b, new: b2 }];
                    world.write(&txn, 1, &changes).await?;
                    txn.commit().await?;
                }
                moved += 1;
            }
            Ok::<i64, atoll_model::Error>(moved)
        })
    };
    let until = std::time::Instant::now() + Duration::from_secs(2);
    let mut through_cache = 0;
    while std::time::Instant::now() < until {
        let txn = world.begin(Isolation::ReadCommitted);
        let (batches, kept) = world.cached(&txn, 1, &[1])?;
        through_cache += usize::from(kept);
        let sum: i64 = batches.iter().map(|b| -> i64 { numbers(b).values().iter().sum() }).sum();
        assert_eq!(sum, ROWS * 100);
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    let moved = writer.await??;
    assert!(moved > 10 && through_cache > 0, "{moved} transfers, {through_cache} scans through the cache");
    Ok(())
}

fn numbers(batch: &RecordBatch) -> &Int64Array {
    batch.column(0).as_primitive()
}

/// What a serializable transaction read from the cache counts as read.
#[tokio::test]
async fn reads_from_the_cache_are_validated() -> TestResult {
    let world = World::new(64 << 20)?;
    let txn = world.begin(Isolation::ReadCommitted);
    world.write(&txn, 1, &[Change::Insert(row(1, 1)), Change::Insert(row(2, 2))]).await?;
    txn.commit().await?;
    world.check(&world.begin(Isolation::ReadCommitted), 1, &[1])?;
    let (a, b) = (world.begin(Isolation::Serializable), world.begin(Isolation::Serializable));
    for (txn, id) in [(&a, 10), (&b, 20)] {
        assert!(world.cached(txn, 1, &[1])?.1);
        world.write(txn, 1, &[Change::Insert(row(id, id))]).await?;
    }
    a.commit().await?;
    let error = b.commit().await.err().ok_or("write skew was let through")?;
    assert_eq!(error.kind(), ErrorKind::SerializationFailure);
    Ok(())
}

/// A capacity of nothing keeps nothing; one too small for a column answers all the same.
#[tokio::test]
async fn small_caches_answer_too() -> TestResult {
    for capacity in [0, 10_000] {
        let world = World::new(capacity)?;
        let txn = world.begin(Isolation::ReadCommitted);
        let rows: Vec<Change> = (0..9_000).map(|id| Change::Insert(row(id, id))).collect();
        world.write(&txn, 2, &rows).await?;
        txn.commit().await?;
        world.check(&world.begin(Isolation::ReadCommitted), 2, &[0, 2])?;
        world.check(&world.begin(Isolation::ReadCommitted), 2, &[])?;
    }
    Ok(())
}
