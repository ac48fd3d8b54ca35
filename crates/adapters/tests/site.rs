//! The conformance suite of the port [`Site`]: what its contract promises, asked of every implementation.

use atoll_adapters::site::embedded::EmbeddedEngine;
use atoll_model::{
    Column, ColumnId, ErrorKind, Fragment, FragmentBounds, FragmentId, Fragmentation, Index, IndexId, ReadBalance,
    RelationId, Replication, Row, SiteId, SqlType, Table, Value,
};
use atoll_ports::site::{
    Branch, BranchOptions, Isolation, KeyRange, LockMode, LockWait, ParticipantId, Replica, RowChange, ScanRequest,
    Site,
};
use atoll_storage::{Store, StoreOptions};
use futures::TryStreamExt as _;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

type TestResult = Result<(), Box<dyn std::error::Error>>;

const FRAGMENT: FragmentId = FragmentId(21);

/// Two sites of one participant, empty.
struct Subject {
    sites: [Arc<dyn Site>; 2],
    // Removed when the suite is done.
    _dir: tempfile::TempDir,
}

fn embedded() -> Result<Subject, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), StoreOptions { disk_reserve: 0, ..StoreOptions::default() })?;
    let engine = EmbeddedEngine::new(Arc::new(store), ParticipantId(1), 16 << 20)?;
    Ok(Subject { sites: [engine.site(SiteId(1))?, engine.site(SiteId(2))?], _dir: dir })
}

fn table() -> Arc<Table> {
    let column = |id: u16, name: &str, ty: SqlType, not_null: bool| Column {
        id: ColumnId(id),
        name: name.into(),
        ty,
        not_null,
        default: None,
        missing: Value::Null,
        generated: None,
        hidden: false,
    };
    Arc::new(Table {
        id: RelationId(20),
        name: "accounts".into(),
        columns: vec![
            column(1, "id", SqlType::Int4, true),
            column(2, "email", SqlType::Text, false),
            column(3, "balance", SqlType::Int8, false),
        ],
        next_column: 4,
        next_index: 2,
        key: vec![ColumnId(1)],
        primary_key: Some("accounts_pkey".into()),
        indexes: vec![Index {
            id: IndexId(1),
            name: "accounts_email_key".into(),
            columns: vec![ColumnId(2)],
            unique: true,
            constraint: true,
        }],
        checks: vec![],
        foreign_keys: vec![],
        fragmentation: Fragmentation::None,
        fragments: vec![Fragment {
            id: FRAGMENT,
            name: "accounts".into(),
            bounds: FragmentBounds::All,
            replicas: vec![SiteId(1), SiteId(2)],
        }],
        replication: Replication::All,
        read_balance: ReadBalance::RoundRobin,
    })
}

fn row(id: i32, email: &str, balance: i64) -> Row {
    vec![Value::Int4(id), Value::Text(email.into()), Value::Int8(balance)]
}

fn key(id: i32) -> Vec<Value> {
    vec![Value::Int4(id)]
}

fn everything() -> ScanRequest {
    ScanRequest {
        columns: vec![0, 1, 2],
        index: None,
        range: KeyRange::ALL,
        reverse: false,
        limit: None,
        batch_size: 2,
    }
}

async fn count(branch: &dyn Branch, at: &Replica, request: ScanRequest) -> Result<usize, atoll_model::Error> {
    let batches: Vec<_> = branch.scan(at, request)?.try_collect().await?;
    Ok(batches.iter().map(|batch| batch.num_rows()).sum())
}

async fn begin(site: &Arc<dyn Site>, isolation: Isolation) -> Result<Arc<dyn Branch>, atoll_model::Error> {
    site.begin(BranchOptions { isolation, lock_timeout: Duration::from_millis(50), ..BranchOptions::default() }).await
}

async fn suite(subject: Subject) -> TestResult {
    let [here, there] = &subject.sites;
    let table = table();
    let at = |site: &Arc<dyn Site>| Replica { site: site.id(), fragment: FRAGMENT, table: table.clone() };
    assert_eq!(here.participant(), there.participant());

    // A commit over both sites; nothing of it is seen before.
    let writer = begin(here, Isolation::ReadCommitted).await?;
    let inserts: Vec<_> = (1..=5).map(|i| RowChange::Insert(row(i, &format!("{i}@x"), 100))).collect();
    writer.apply(&at(here), inserts.clone()).await?;
    writer.apply(&at(there), inserts).await?;
    writer.put_meta(b"k", Some(b"v".to_vec()));
    assert!(writer.has_writes());
    let reader = begin(there, Isolation::RepeatableRead).await?;
    assert_eq!(reader.get(&at(here), &key(1)).await?, None);
    assert_eq!(writer.get(&at(there), &key(1)).await?, Some(row(1, "1@x", 100)), "its own writes");
    let committed = writer.commit().await?;
    assert_eq!(count(&*reader, &at(there), everything()).await?, 0, "one snapshot");
    assert_eq!(reader.get_meta(b"k")?, None);
    let reader = begin(here, Isolation::RepeatableRead).await?;
    assert!(reader.snapshot() >= committed);
    for site in [here, there] {
        assert_eq!(count(&*reader, &at(site), everything()).await?, 5);
        assert_eq!(site.statistics(FRAGMENT).rows, 5);
    }
    assert_eq!(reader.get_meta(b"k")?, Some(b"v".to_vec()));

    // Ranges, orders, limits, no columns.
    let some = KeyRange { lower: Bound::Excluded(key(1)), upper: Bound::Included(key(4)) };
    assert_eq!(count(&*reader, &at(here), ScanRequest { range: some, columns: vec![], ..everything() }).await?, 3);
    let by_email = ScanRequest { index: Some(IndexId(1)), reverse: true, limit: Some(1), ..everything() };
    let last: Vec<_> = reader.scan(&at(here), by_email)?.try_collect().await?;
    assert_eq!(last.len(), 1);
    assert_eq!(last[0].schema().field(1), &SqlType::Text.field("email", true));

    // Locks: held by another, changed meanwhile, skipped.
    let (a, b) = (begin(here, Isolation::ReadCommitted).await?, begin(there, Isolation::ReadCommitted).await?);
    let strict = begin(here, Isolation::RepeatableRead).await?;
    let locked = a.lock(&at(here), &[key(1)], LockMode::Exclusive, LockWait::Wait).await?;
    assert!(locked[0].locked && !locked[0].changed && locked[0].row == Some(row(1, "1@x", 100)));
    // The lock is on the key, whichever the copy.
    let skipped = b.lock(&at(there), &[key(1), key(2)], LockMode::Exclusive, LockWait::SkipLocked).await?;
    assert_eq!(skipped.iter().map(|l| l.locked).collect::<Vec<_>>(), [false, true]);
    let refused = b.lock(&at(there), &[key(1)], LockMode::Shared, LockWait::NoWait).await;
    assert_eq!(refused.map_err(|e| e.kind()).err(), Some(ErrorKind::LockTimeout));
    let late = b.lock(&at(there), &[key(1)], LockMode::Shared, LockWait::Wait).await;
    assert_eq!(late.map_err(|e| e.kind()).err(), Some(ErrorKind::LockTimeout));
    a.apply(&at(here), vec![RowChange::Update { old: row(1, "1@x", 100), new: row(1, "1@x", 90) }]).await?;
    a.commit().await?;
    let locked = b.lock(&at(here), &[key(1)], LockMode::Exclusive, LockWait::Wait).await?;
    assert!(locked[0].changed && locked[0].row == Some(row(1, "1@x", 90)));
    b.rollback();
    let lost = strict.lock(&at(here), &[key(1)], LockMode::Exclusive, LockWait::Wait).await;
    assert_eq!(lost.map_err(|e| e.kind()).err(), Some(ErrorKind::SerializationFailure));
    drop(strict);

    // Uniqueness, and finding by a unique value.
    let branch = begin(here, Isolation::ReadCommitted).await?;
    let mark = branch.savepoint();
    let clash = branch.apply(&at(here), vec![RowChange::Insert(row(9, "2@x", 0))]).await.expect_err("the value exists");
    assert_eq!((clash.kind(), clash.constraint_name()), (ErrorKind::UniqueViolation, Some("accounts_email_key")));
    branch.rollback_to(mark);
    assert!(!branch.has_writes(), "a failed statement leaves nothing after its savepoint");
    let value = [Value::Text("3@x".into())];
    let found = branch.find_unique(&at(here), Some(IndexId(1)), &value, LockMode::Shared).await?;
    assert_eq!(found, Some(row(3, "3@x", 100)));
    branch.apply(&at(here), vec![RowChange::Delete(row(5, "5@x", 100)), RowChange::Insert(row(6, "5@x", 1))]).await?;
    let inner = branch.savepoint();
    branch.apply(&at(here), vec![RowChange::Insert(row(7, "7@x", 1))]).await?;
    branch.rollback_to(inner);
    branch.commit().await?;
    let reader = begin(here, Isolation::ReadCommitted).await?;
    assert_eq!(reader.get(&at(here), &key(7)).await?, None);
    assert_eq!(reader.get(&at(here), &key(6)).await?, Some(row(6, "5@x", 1)));
    assert_eq!(reader.get(&at(here), &key(5)).await?, None);

    // Dropping a branch rolls it back and gives its locks back.
    let dropped = begin(here, Isolation::ReadCommitted).await?;
    dropped.apply(&at(here), vec![RowChange::Insert(row(8, "8@x", 1))]).await?;
    drop(dropped);
    let again = begin(here, Isolation::ReadCommitted).await?;
    again.apply(&at(here), vec![RowChange::Insert(row(8, "8@x", 2))]).await?;
    again.commit().await?;

    // Read-only branches refuse writes.
    let options = BranchOptions { read_only: true, ..BranchOptions::default() };
    let refused = here.begin(options).await?.apply(&at(here), vec![RowChange::Delete(row(8, "8@x", 2))]).await;
    assert_eq!(refused.map_err(|e| e.kind()).err(), Some(ErrorKind::ReadOnlyTransaction));

    // Write skew is refused by Serializable alone.
    for (isolation, passes) in [(Isolation::RepeatableRead, true), (Isolation::Serializable, false)] {
        let (a, b) = (begin(here, isolation).await?, begin(there, isolation).await?);
        for (branch, mine) in [(&a, 1), (&b, 2)] {
            for id in [1, 2] {
                branch.get(&at(there), &key(id)).await?;
            }
            let locked = branch.lock(&at(there), &[key(mine)], LockMode::Exclusive, LockWait::Wait).await?;
            let old = locked[0].row.clone().ok_or("there is a row")?;
            let mut new = old.clone();
            new[2] = Value::Int8(-1);
            branch.apply(&at(there), vec![RowChange::Update { old, new }]).await?;
        }
        a.commit().await?;
        let second = b.commit().await.map_err(|e| e.kind());
        assert_eq!(second.is_ok(), passes, "{isolation:?}: {second:?}");
    }

    // Purging one copy leaves the other.
    here.purge(FRAGMENT).await?;
    here.purge(FRAGMENT).await?;
    let reader = begin(here, Isolation::ReadCommitted).await?;
    assert_eq!(count(&*reader, &at(here), everything()).await?, 0);
    assert_eq!(here.statistics(FRAGMENT).rows, 0);
    assert_eq!(count(&*reader, &at(there), everything()).await?, 5);
    Ok(())
}

#[tokio::test]
async fn embedded_sites_conform() -> TestResult {
    suite(embedded()?).await
}
