//! The row layer: scans against look-ups, tables with indexes against a model. The laws of the codecs are in `src/rows/fuzzing.rs`.

use arrow_array::{Array, RecordBatch};
use atoll_model::{
    Column, ColumnId, ErrorKind, Fragment, FragmentBounds, FragmentId, Fragmentation, Index, IndexId, ReadBalance,
    RelationId, Replication, Row, SiteId, SqlType, Table, Value,
};
use atoll_storage::rows::{At, Change, ScanPlan, TableCodec};
use atoll_storage::{Isolation, LockMode, LockWait, Space, Store, StoreOptions, Txn, TxnOptions};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

type TestResult = Result<(), Box<dyn std::error::Error>>;

const WAIT: LockWait = LockWait::Timeout(Duration::from_secs(10));
const FRAGMENT: u32 = 3;

fn column(id: u16, name: &str, ty: SqlType, not_null: bool) -> Column {
    Column {
        id: ColumnId(id),
        name: name.into(),
        ty,
        not_null,
        default: None,
        missing: Value::Null,
        generated: None,
        hidden: false,
    }
}

fn index(id: u16, name: &str, columns: &[u16], unique: bool) -> Index {
    let columns = columns.iter().map(|c| ColumnId(*c)).collect();
    Index { id: IndexId(id), name: name.into(), columns, unique, constraint: unique }
}

fn table(columns: Vec<Column>, key: &[u16], indexes: Vec<Index>) -> Table {
    Table {
        id: RelationId(9),
        name: "t".into(),
        next_column: columns.len() as u16,
        next_index: indexes.len() as u16 + 1,
        columns,
        key: key.iter().map(|c| ColumnId(*c)).collect(),
        primary_key: Some("t_pkey".into()),
        indexes,
        checks: vec![],
        foreign_keys: vec![],
        fragmentation: Fragmentation::None,
        fragments: vec![Fragment {
            id: FragmentId(FRAGMENT),
            name: "t".into(),
            bounds: FragmentBounds::All,
            replicas: vec![SiteId(1)],
            adopted: Default::default(),
            joining: Default::default(),
            behind: Default::default(),
        }],
        replication: Replication::All,
        read_balance: ReadBalance::RoundRobin,
        on_replica_down: Default::default(),
    }
}

fn codec(table: Table) -> Arc<TableCodec> {
    Arc::new(TableCodec::new(Arc::new(table)).expect("layout"))
}

fn all(columns: usize) -> ScanPlan {
    ScanPlan {
        columns: (0..columns).collect(),
        index: 0,
        lower: Bound::Unbounded,
        upper: Bound::Unbounded,
        reverse: false,
        limit: None,
        batch_size: 3,
    }
}

fn store() -> Result<(tempfile::TempDir, Store, Arc<Space>), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), StoreOptions { disk_reserve: 0, ..StoreOptions::default() })?;
    let space = store.space("main")?;
    Ok((dir, store, space))
}

fn ints(batches: &[RecordBatch], at: usize) -> Vec<Option<i32>> {
    let column = |b: &RecordBatch| -> Vec<Option<i32>> {
        let array = b.column(at).as_any().downcast_ref::<arrow_array::Int32Array>().expect("int4");
        array.iter().collect()
    };
    batches.iter().flat_map(column).collect()
}

fn at<'a>(txn: &'a Txn, space: &'a Arc<Space>) -> At<'a> {
    At { txn, space, fragment: FRAGMENT, wait: WAIT }
}

fn scan(
    codec: &Arc<TableCodec>,
    txn: &Txn,
    space: &Arc<Space>,
    plan: &ScanPlan,
) -> Result<Vec<RecordBatch>, atoll_model::Error> {
    codec.scan(txn, space, FRAGMENT, plan)?.collect()
}

fn scalar() -> impl Strategy<Value = SqlType> {
    prop_oneof![
        Just(SqlType::Bool),
        Just(SqlType::Int2),
        Just(SqlType::Int4),
        Just(SqlType::Int8),
        Just(SqlType::Float4),
        Just(SqlType::Float8),
        Just(SqlType::Numeric(Some((30, 4)))),
        Just(SqlType::Numeric(None)),
        Just(SqlType::Text),
        Just(SqlType::Bytea),
        Just(SqlType::Date),
        Just(SqlType::Time(None)),
        Just(SqlType::Timestamp(None)),
        Just(SqlType::TimestampTz(None)),
    ]
}

fn sql_type() -> impl Strategy<Value = SqlType> {
    prop_oneof![4 => scalar(), 1 => scalar().prop_map(|item| SqlType::Array(Box::new(item)))]
}

/// Values of a type, near each other often enough to meet, with the extremes.
fn value(ty: &SqlType) -> BoxedStrategy<Value> {
    let some = match ty {
        SqlType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        SqlType::Int2 => any::<i16>().prop_map(Value::Int2).boxed(),
        SqlType::Int4 => prop_oneof![-3..3i32, any::<i32>()].prop_map(Value::Int4).boxed(),
        SqlType::Int8 => prop_oneof![-3..3i64, any::<i64>()].prop_map(Value::Int8).boxed(),
        SqlType::Float4 => any::<f32>().prop_map(Value::Float4).boxed(),
        SqlType::Float8 => prop_oneof![Just(-0.0), Just(f64::NAN), Just(f64::NEG_INFINITY), any::<f64>()]
            .prop_map(Value::Float8)
            .boxed(),
        SqlType::Numeric(limits) => {
            let scale = limits.map_or(atoll_model::UNCONSTRAINED_SCALE, |(_, s)| s);
            let limit = 10i128.pow(30);
            prop_oneof![-2..2i128, -limit + 1..limit].prop_map(move |v| Value::Numeric(v, scale)).boxed()
        }
        SqlType::Text => "[a\u{0}é]{0,4}".prop_map(Value::Text).boxed(),
        SqlType::Bytea => {
            prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..5).prop_map(Value::Bytea).boxed()
        }
        SqlType::Date => any::<i32>().prop_map(Value::Date).boxed(),
        SqlType::Time(_) => (0..86_400_000_000i64).prop_map(Value::Time).boxed(),
        SqlType::Timestamp(_) => any::<i64>().prop_map(Value::Timestamp).boxed(),
        SqlType::TimestampTz(_) => any::<i64>().prop_map(Value::TimestampTz).boxed(),
        SqlType::Array(item) => prop::collection::vec(value(item), 0..4).prop_map(Value::Array).boxed(),
        other => panic!("no strategy for {other}"),
    };
    prop_oneof![6 => some, 1 => Just(Value::Null)].boxed()
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float4(a), Value::Float4(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        (Value::Float8(a), Value::Float8(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// What a scan returns in Arrow is what reading the row by its key returns in values.
    #[test]
    fn scans_agree_with_gets(ty in sql_type(), seed in prop::collection::vec(any::<prop::sample::Index>(), 1..8)) {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let strategy = value(&ty);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let (_dir, store, space) = store().expect("store");
        let codec = codec(table(vec![column(0, "k", SqlType::Int4, true), column(1, "v", ty.clone(), false)], &[0], vec![]));
        let txn = store.begin(TxnOptions::default());
        let values: Vec<Value> = seed.iter()
            .map(|_| strategy.new_tree(&mut runner).expect("value").current())
            .collect();
        let changes: Vec<_> = values.iter().enumerate()
            .map(|(k, v)| Change::Insert(vec![Value::Int4(k as i32), v.clone()]))
            .collect();
        runtime.block_on(codec.apply(at(&txn, &space), &changes)).expect("apply");
        let batches = scan(&codec, &txn, &space, &all(2)).expect("scan");
        let mut n = 0;
        for batch in &batches {
            prop_assert_eq!(batch.schema().field(1).clone(), ty.field("v", true));
            for row in 0..batch.num_rows() {
                let array = batch.column(1);
                prop_assert_eq!(array.is_null(row), values[n].is_null());
                let single = array.slice(row, 1);
                let row = codec.get(&txn, &space, FRAGMENT, &[Value::Int4(n as i32)]).expect("get").expect("row");
                prop_assert!(same(&row[1], &values[n]));
                prop_assert!(shows(&single, &values[n]), "{:?} {:?}", single, values[n]);
                n += 1;
            }
        }
        prop_assert_eq!(n, values.len());
    }
}

/// Whether a one-element array holds a value.
fn shows(array: &dyn Array, value: &Value) -> bool {
    use arrow_array::cast::AsArray;
    use arrow_array::types::*;
    match value {
        Value::Null => array.is_null(0),
        Value::Bool(v) => array.as_boolean().value(0) == *v,
        Value::Int2(v) => array.as_primitive::<Int16Type>().value(0) == *v,
        Value::Int4(v) => array.as_primitive::<Int32Type>().value(0) == *v,
        Value::Int8(v) => array.as_primitive::<Int64Type>().value(0) == *v,
        Value::Float4(v) => same(&Value::Float4(array.as_primitive::<Float32Type>().value(0)), &Value::Float4(*v)),
        Value::Float8(v) => same(&Value::Float8(array.as_primitive::<Float64Type>().value(0)), &Value::Float8(*v)),
        Value::Numeric(v, _) => array.as_primitive::<Decimal128Type>().value(0) == *v,
        Value::Text(v) => array.as_string::<i32>().value(0) == v,
        Value::Bytea(v) => array.as_binary::<i32>().value(0) == v,
        Value::Date(v) => array.as_primitive::<Date32Type>().value(0) == *v,
        Value::Time(v) => array.as_primitive::<Time64MicrosecondType>().value(0) == *v,
        Value::Timestamp(v) | Value::TimestampTz(v) => array.as_primitive::<TimestampMicrosecondType>().value(0) == *v,
        Value::Array(items) => {
            let list = array.as_list::<i32>().value(0);
            list.len() == items.len() && items.iter().enumerate().all(|(i, v)| shows(&list.slice(i, 1), v))
        }
    }
}

#[tokio::test]
async fn columns_come_and_go() -> TestResult {
    let (_dir, store, space) = store()?;
    let v1 = codec(table(
        vec![
            column(0, "k", SqlType::Int4, true),
            column(1, "gone", SqlType::Text, false),
            column(2, "n", SqlType::Int4, false),
        ],
        &[0],
        vec![],
    ));
    let txn = store.begin(TxnOptions::default());
    let old = vec![Value::Int4(1), Value::Text("dropped".into()), Value::Int4(5)];
    v1.apply(at(&txn, &space), &[Change::Insert(old)]).await?;
    // Then: DROP COLUMN gone, ADD COLUMN added text[] DEFAULT '{x,NULL}'.
    let missing = Value::Array(vec![Value::Text("x".into()), Value::Null]);
    let mut added = column(3, "added", SqlType::Array(Box::new(SqlType::Text)), false);
    added.missing = missing.clone();
    let v2 = codec(table(
        vec![column(0, "k", SqlType::Int4, true), column(2, "n", SqlType::Int4, false), added],
        &[0],
        vec![],
    ));
    let new = vec![Value::Int4(2), Value::Int4(6), Value::Null];
    v2.apply(at(&txn, &space), &[Change::Insert(new.clone())]).await?;
    let kept = vec![Value::Int4(1), Value::Int4(5), missing.clone()];
    assert_eq!(v2.get(&txn, &space, FRAGMENT, &[Value::Int4(1)])?, Some(kept));
    assert_eq!(v2.get(&txn, &space, FRAGMENT, &[Value::Int4(2)])?, Some(new));
    let batches = scan(&v2, &txn, &space, &all(3))?;
    assert_eq!(ints(&batches, 1), [Some(5), Some(6)]);
    assert!(shows(&batches[0].column(2).slice(0, 1), &missing));
    assert!(batches[0].column(2).is_null(1));
    Ok(())
}

#[tokio::test]
async fn keys_and_unique_values_stay_unique() -> TestResult {
    let (_dir, store, space) = store()?;
    let t = codec(table(
        vec![
            column(0, "k", SqlType::Int4, true),
            column(1, "u", SqlType::Text, false),
            column(2, "n", SqlType::Int4, false),
        ],
        &[0],
        vec![index(1, "t_u_key", &[1], true), index(2, "t_n", &[2], false)],
    ));
    let row = |k: i32, u: Option<&str>, n: i32| -> Row {
        vec![Value::Int4(k), u.map_or(Value::Null, |u| Value::Text(u.into())), Value::Int4(n)]
    };
    let txn = store.begin(TxnOptions::default());
    let rows = [row(1, Some("a"), 10), row(2, Some("b"), 10), row(3, None, 20), row(4, None, 20)];
    let inserts: Vec<_> = rows.iter().cloned().map(Change::Insert).collect();
    t.apply(at(&txn, &space), &inserts).await?;
    txn.commit().await?;
    assert_eq!(store.fragment_size(&space, FRAGMENT).rows, 4);

    let txn = store.begin(TxnOptions::default());
    let error = t.apply(at(&txn, &space), &[Change::Insert(row(1, Some("z"), 0))]).await.expect_err("key");
    assert_eq!((error.kind(), error.constraint_name()), (ErrorKind::UniqueViolation, Some("t_pkey")));
    assert_eq!(error.detail_text(), Some("Key (k)=(1) already exists."));
    let error = t.apply(at(&txn, &space), &[Change::Insert(row(9, Some("a"), 0))]).await.expect_err("value");
    assert_eq!((error.kind(), error.constraint_name()), (ErrorKind::UniqueViolation, Some("t_u_key")));
    txn.rollback();

    // Values may be exchanged within one statement; the old ones are free afterwards.
    let txn = store.begin(TxnOptions::default());
    let swap = [
        Change::Update { old: rows[0].clone(), new: row(1, Some("b"), 10) },
        Change::Update { old: rows[1].clone(), new: row(7, Some("a"), 11) },
        Change::Delete(rows[2].clone()),
    ];
    t.apply(at(&txn, &space), &swap).await?;
    let found = t.find_unique(at(&txn, &space), 1, &[Value::Text("a".into())], LockMode::Shared).await?;
    assert_eq!(found, Some(row(7, Some("a"), 11)));
    assert_eq!(t.find_unique(at(&txn, &space), 1, &[Value::Null], LockMode::Shared).await?, None);
    assert_eq!(t.find_unique(at(&txn, &space), 0, &[Value::Int4(2)], LockMode::Shared).await?, None);
    txn.commit().await?;
    assert_eq!(store.fragment_size(&space, FRAGMENT).rows, 3);

    // An insert of a value that another transaction is removing waits for it.
    let remover = store.begin(TxnOptions::default());
    t.apply(at(&remover, &space), &[Change::Delete(row(1, Some("b"), 10))]).await?;
    let inserter = store.begin(TxnOptions::default());
    let insert = [Change::Insert(row(8, Some("b"), 0))];
    let short = LockWait::Timeout(Duration::from_millis(20));
    let error = t.apply(At { wait: short, ..at(&inserter, &space) }, &insert).await.expect_err("held");
    assert_eq!(error.kind(), ErrorKind::LockTimeout);
    inserter.rollback();
    remover.commit().await?;
    let inserter = store.begin(TxnOptions::default());
    t.apply(at(&inserter, &space), &insert).await?;
    inserter.commit().await?;

    // By the index: NULLs last, both directions, bounds.
    let txn = store.begin(TxnOptions::default());
    let by_u = ScanPlan { index: 1, ..all(3) };
    assert_eq!(ints(&scan(&t, &txn, &space, &by_u)?, 0), [Some(7), Some(8), Some(4)]);
    let backwards = ScanPlan { reverse: true, limit: Some(2), ..by_u.clone() };
    assert_eq!(ints(&scan(&t, &txn, &space, &backwards)?, 0), [Some(4), Some(8)]);
    let some = ScanPlan {
        lower: Bound::Excluded(vec![Value::Text("a".into())]),
        upper: Bound::Excluded(vec![Value::Null]),
        ..by_u
    };
    assert_eq!(ints(&scan(&t, &txn, &space, &some)?, 0), [Some(8)]);
    let count = ScanPlan { columns: vec![], index: 2, ..all(0) };
    assert_eq!(scan(&t, &txn, &space, &count)?.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    Ok(())
}

/// The tree underneath panics at keys of 64 KiB, so none may reach it, from whatever side.
#[tokio::test]
async fn keys_that_are_too_long_are_refused_and_not_found() -> TestResult {
    let (_dir, store, space) = store()?;
    let t = codec(table(
        vec![column(0, "k", SqlType::Text, true), column(1, "u", SqlType::Text, false)],
        &[0],
        vec![index(1, "u", &[1], true)],
    ));
    let row = |k: &str, u: &str| -> Row { vec![Value::Text(k.into()), Value::Text(u.into())] };
    let long = "k".repeat(70_000);
    let txn = store.begin(TxnOptions::default());
    t.apply(at(&txn, &space), &[Change::Insert(row("a", "a")), Change::Insert(row("kk", "z"))]).await?;
    txn.commit().await?;
    let txn = store.begin(TxnOptions::default());
    for row in [row(&long, "x"), row("x", &long)] {
        let error = t.apply(at(&txn, &space), &[Change::Insert(row)]).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::ProgramLimit);
    }
    let key = [Value::Text(long)];
    assert_eq!(t.get(&txn, &space, FRAGMENT, &key)?, None);
    assert_eq!(t.find_unique(at(&txn, &space), 1, &key, LockMode::Exclusive).await?, None);
    assert_eq!(t.lock_rows(at(&txn, &space), &[key.to_vec()], LockMode::Exclusive).await?[0].row, None);
    txn.rollback();
    let txn = store.begin(TxnOptions::default());
    for (index, smaller, greater) in [(0, 2, 0), (1, 1, 1)] {
        for bound in [Bound::Included(key.to_vec()), Bound::Excluded(key.to_vec())] {
            let below = ScanPlan { index, upper: bound.clone(), ..all(1) };
            let above = ScanPlan { index, lower: bound, ..all(1) };
            for (plan, rows) in [(below, smaller), (above, greater)] {
                let found = scan(&t, &txn, &space, &plan)?;
                assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), rows);
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn indexes_are_built_from_the_newest_rows() -> TestResult {
    let (_dir, store, space) = store()?;
    let columns = || vec![column(0, "k", SqlType::Int4, true), column(1, "n", SqlType::Int4, false)];
    let (plain, unique) =
        (codec(table(columns(), &[0], vec![])), codec(table(columns(), &[0], vec![index(1, "u", &[1], true)])));
    let row = |k: i32, n: i32| vec![Value::Int4(k), Value::Int4(n)];
    let builder = store.begin(TxnOptions { isolation: Isolation::RepeatableRead, ..TxnOptions::default() });
    assert_eq!(scan(&plain, &builder, &space, &all(2))?.len(), 0);
    let writer = store.begin(TxnOptions::default());
    plain.apply(at(&writer, &space), &[Change::Insert(row(1, 5)), Change::Insert(row(2, 6))]).await?;
    writer.commit().await?;
    unique.build_index(at(&builder, &space), 1)?;
    builder.commit().await?;
    let txn = store.begin(TxnOptions::default());
    assert_eq!(
        ints(&scan(&unique, &txn, &space, &ScanPlan { index: 1, reverse: true, ..all(2) })?, 0),
        [Some(2), Some(1)]
    );
    let twice = store.begin(TxnOptions::default());
    plain.apply(at(&twice, &space), &[Change::Insert(row(3, 6))]).await?;
    let again = codec(table(columns(), &[0], vec![index(2, "again", &[1], true)]));
    let error = again.build_index(at(&twice, &space), 2).expect_err("6 is there twice");
    assert_eq!(error.detail_text(), Some("Key (n)=(6) is duplicated."));
    Ok(())
}

#[tokio::test]
async fn locking_tells_what_changed() -> TestResult {
    let (_dir, store, space) = store()?;
    let t = codec(table(vec![column(0, "k", SqlType::Int4, true), column(1, "n", SqlType::Int4, false)], &[0], vec![]));
    let row = |n: i32| vec![Value::Int4(1), Value::Int4(n)];
    let txn = store.begin(TxnOptions::default());
    t.apply(at(&txn, &space), &[Change::Insert(row(1))]).await?;
    txn.commit().await?;
    let keys = [vec![Value::Int4(1)]];
    let (waiting, strict) = (
        store.begin(TxnOptions::default()),
        store.begin(TxnOptions { isolation: Isolation::RepeatableRead, ..TxnOptions::default() }),
    );
    let first = store.begin(TxnOptions::default());
    let locked = t.lock_rows(at(&first, &space), &keys, LockMode::Exclusive).await?;
    assert!(locked[0].locked && !locked[0].changed && locked[0].row == Some(row(1)));
    let skipped = t.lock_rows(At { wait: LockWait::Never, ..at(&waiting, &space) }, &keys, LockMode::Exclusive).await?;
    assert!(!skipped[0].locked);
    t.apply(at(&first, &space), &[Change::Update { old: row(1), new: row(2) }]).await?;
    first.commit().await?;
    let locked = t.lock_rows(at(&waiting, &space), &keys, LockMode::Exclusive).await?;
    assert!(locked[0].changed && locked[0].row == Some(row(2)));
    waiting.rollback();
    let error = t.lock_rows(at(&strict, &space), &keys, LockMode::Exclusive).await.expect_err("first updater wins");
    assert_eq!(error.kind(), ErrorKind::SerializationFailure);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// A table with a composite key, a unique and a plain index against a sorted map, over many committed statements.
    #[test]
    fn tables_behave_as_maps(steps in prop::collection::vec((0..4u8, 0..3i32, 0..3i32, prop::option::of(0..5i32), 0..4i32), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let (_dir, store, space) = store().expect("store");
        let t = codec(table(
            vec![
                column(0, "a", SqlType::Int4, true),
                column(1, "u", SqlType::Int4, false),
                column(2, "b", SqlType::Int4, true),
                column(3, "n", SqlType::Int4, false),
            ],
            &[0, 2],
            vec![index(1, "u", &[1], true), index(2, "n", &[3, 1], false)],
        ));
        let mut model: BTreeMap<(i32, i32), (Option<i32>, i32)> = BTreeMap::new();
        let row = |k: (i32, i32), v: (Option<i32>, i32)| -> Row {
            vec![Value::Int4(k.0), v.0.map_or(Value::Null, Value::Int4), Value::Int4(k.1), Value::Int4(v.1)]
        };
        for (what, a, b, u, n) in steps {
            let (key, new) = ((a, b), (u, n));
            let taken = u.is_some() && model.iter().any(|(k, (other, _))| *other == u && *k != key);
            let (change, fails) = match (what, model.get(&key)) {
                (0, None) => (Change::Insert(row(key, new)), taken),
                (0, Some(_)) => (Change::Insert(row(key, new)), true),
                (1 | 2, Some(old)) => (Change::Update { old: row(key, *old), new: row(key, new) }, taken),
                (3, Some(old)) => (Change::Delete(row(key, *old)), false),
                _ => continue,
            };
            let txn = store.begin(TxnOptions::default());
            let outcome = runtime.block_on(t.apply(at(&txn, &space), std::slice::from_ref(&change)));
            prop_assert_eq!(outcome.is_err(), fails, "{:?}", change);
            if fails {
                txn.rollback();
                continue;
            }
            runtime.block_on(txn.commit()).expect("commit");
            match change {
                Change::Delete(_) => model.remove(&key),
                _ => model.insert(key, new),
            };
        }
        let txn = store.begin(TxnOptions::default());
        prop_assert_eq!(store.fragment_size(&space, FRAGMENT).rows, model.len() as u64);
        let found = scan(&t, &txn, &space, &all(4)).expect("scan");
        let columns: Vec<_> = (0..4).map(|at| ints(&found, at)).collect();
        let rows: Vec<_> = (0..columns[0].len()).map(|i| [0, 1, 2, 3].map(|c: usize| columns[c][i])).collect();
        let expected: Vec<_> = model.iter().map(|(k, v)| [Some(k.0), v.0, Some(k.1), Some(v.1)]).collect();
        prop_assert_eq!(rows, expected);
        for n in 0..4 {
            let plan = ScanPlan {
                index: 2,
                lower: Bound::Included(vec![Value::Int4(n)]),
                upper: Bound::Included(vec![Value::Int4(n)]),
                ..all(4)
            };
            let found = scan(&t, &txn, &space, &plan).expect("by index");
            let mut expected: Vec<_> = model.iter().filter(|(_, v)| v.1 == n).map(|(k, v)| (v.0.is_none(), v.0, *k)).collect();
            expected.sort();
            prop_assert_eq!(ints(&found, 1), expected.iter().map(|e| e.1).collect::<Vec<_>>());
            prop_assert_eq!(ints(&found, 2), expected.iter().map(|e| Some(e.2.1)).collect::<Vec<_>>());
        }
        // Bounds on the first column of a composite key.
        let plan = ScanPlan { lower: Bound::Excluded(vec![Value::Int4(0)]), upper: Bound::Included(vec![Value::Int4(1)]), ..all(4) };
        let found = scan(&t, &txn, &space, &plan).expect("by prefix");
        prop_assert_eq!(ints(&found, 2), model.keys().filter(|k| k.0 == 1).map(|k| Some(k.1)).collect::<Vec<_>>());
    }
}
