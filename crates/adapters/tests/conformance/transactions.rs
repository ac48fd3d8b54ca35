//! Isolation, commit and rollback.

use crate::world::{
    LOCK_TIMEOUT, TestResult, World, account, accounts, begin, count, everything, failure, insert, key, lock, replica,
    set,
};
use atoll_model::{ErrorKind, Row, Value};
use atoll_ports::site::{BranchOptions, Isolation, LockMode, LockWait, RowChange, ScanRequest};
use std::time::{Duration, Instant};

const LEVELS: [Isolation; 3] = [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable];

pub async fn nothing_is_seen_before_commit(world: &World) -> TestResult {
    let at = world.accounts(0).await?;
    let writer = world.begin(Isolation::ReadCommitted).await?;
    writer.apply(&at, vec![insert(1, "1@x", 1)]).await?;
    let [here, there] = &world.sites;
    let shared = here.participant() == there.participant();
    let other = replica(&at.table, 0, there.id());
    if shared {
        // A branch serves every site of the participant, and its commit is one.
        writer.apply(&other, vec![insert(1, "1@x", 1)]).await?;
    }
    let reader = world.begin(Isolation::RepeatableRead).await?;
    assert_eq!(reader.get(&at, &key(1)).await?, None);
    let committed = writer.commit().await?;
    assert_eq!(reader.get(&at, &key(1)).await?, None, "one snapshot");
    let reader = world.begin(Isolation::RepeatableRead).await?;
    assert!(reader.snapshot() >= committed);
    assert_eq!(reader.get(&at, &key(1)).await?, Some(account(1, "1@x", 1)));
    if shared {
        assert_eq!(reader.get(&other, &key(1)).await?, Some(account(1, "1@x", 1)));
    }
    // Nothing comes after the end.
    assert!(failure(writer.apply(&at, vec![insert(2, "2@x", 1)]).await).is_some());
    Ok(())
}

/// In `ReadCommitted`, all reads of a statement are of one moment, and those of the next one of a later.
pub async fn one_snapshot_for_a_statement(world: &World) -> TestResult {
    let (at, other) = (world.accounts(2).await?, world.accounts(2).await?);
    let branch = world.begin(Isolation::ReadCommitted).await?;
    assert_eq!(count(&*branch, &at, everything(&at)).await?, 2);
    world.write(&at, vec![insert(3, "3@x", 1)]).await?;
    world.write(&other, vec![insert(3, "3@x", 1)]).await?;
    assert_eq!(count(&*branch, &other, everything(&other)).await?, 2);
    assert_eq!(branch.get(&at, &key(3)).await?, None);
    branch.begin_statement();
    assert_eq!(count(&*branch, &at, everything(&at)).await?, 3);
    assert_eq!(count(&*branch, &other, everything(&other)).await?, 3);

    // It can be taken ahead of the first read.
    for &isolation in world.snapshot_levels() {
        let branch = world.begin(isolation).await?;
        branch.take_snapshot().await?;
        let before = world.rows(&at).await?.len();
        let id = 10 + before as i32;
        world.write(&at, vec![insert(id, &format!("{id}"), 1)]).await?;
        assert_eq!(count(&*branch, &at, everything(&at)).await?, before, "{isolation:?}");
    }
    Ok(())
}

pub async fn one_snapshot_for_a_transaction(world: &World) -> TestResult {
    let at = world.accounts(2).await?;
    for &isolation in &world.snapshot_levels()[1..] {
        let branch = world.begin(isolation).await?;
        let before = count(&*branch, &at, everything(&at)).await?;
        let id = 10 + before as i32;
        world.write(&at, vec![insert(id, &format!("{id}"), 1)]).await?;
        branch.begin_statement();
        assert_eq!(count(&*branch, &at, everything(&at)).await?, before);
        assert_eq!(branch.get(&at, &key(id)).await?, None);
    }
    Ok(())
}

pub async fn own_writes(world: &World) -> TestResult {
    let at = world.accounts(2).await?;
    for isolation in LEVELS {
        let branch = world.begin(isolation).await?;
        assert!(!branch.has_writes());
        branch.apply(&at, vec![insert(3, "3@x", 1)]).await?;
        assert!(branch.has_writes());
        set(&*branch, &at, 1, 7).await?;
        assert_eq!(branch.get(&at, &key(3)).await?, Some(account(3, "3@x", 1)));
        assert_eq!(branch.get(&at, &key(1)).await?, Some(account(1, "1@x", 7)));
        assert_eq!(count(&*branch, &at, everything(&at)).await?, 3);
        branch.begin_statement();
        let locked = lock(&*branch, &at, 3).await?;
        assert!(locked.row == Some(account(3, "3@x", 1)) && !locked.changed, "{locked:?}");
        branch.rollback();
    }
    assert_eq!(world.rows(&at).await?.len(), 2);
    Ok(())
}

pub async fn dropping_rolls_back(world: &World) -> TestResult {
    let at = world.accounts(1).await?;
    let dropped = world.begin(Isolation::ReadCommitted).await?;
    dropped.apply(&at, vec![insert(8, "8@x", 1)]).await?;
    set(&*dropped, &at, 1, 0).await?;
    let began = Instant::now();
    drop(dropped);
    assert!(began.elapsed() < Duration::from_millis(50), "without blocking");
    // Its locks are free, in a moment.
    let patient = world.here().begin(BranchOptions::default()).await?;
    patient.apply(&at, vec![insert(8, "8@x", 2)]).await?;
    set(&*patient, &at, 1, 5).await?;
    patient.commit().await?;
    assert_eq!(world.rows(&at).await?, [account(1, "1@x", 5), account(8, "8@x", 2)]);

    // Also while it waits for a lock.
    let holder = world.begin(Isolation::ReadCommitted).await?;
    lock(&*holder, &at, 1).await?;
    let waiting = world.here().begin(BranchOptions::default()).await?;
    waiting.apply(&at, vec![insert(9, "9@x", 1)]).await?;
    let given_up = tokio::time::timeout(LOCK_TIMEOUT, lock(&*waiting, &at, 1)).await;
    assert!(given_up.is_err());
    drop(waiting);
    let next = world.here().begin(BranchOptions::default()).await?;
    let taken = tokio::time::timeout(Duration::from_secs(5), next.apply(&at, vec![insert(9, "9@x", 2)])).await;
    taken.map_err(|_| "the given up branch still holds its locks")??;
    Ok(())
}

pub async fn read_only(world: &World) -> TestResult {
    let at = world.accounts(1).await?;
    for isolation in LEVELS {
        let options = BranchOptions { isolation, read_only: true, ..BranchOptions::default() };
        let branch = world.here().begin(options).await?;
        assert!(branch.get(&at, &key(1)).await?.is_some());
        let refused = branch.apply(&at, vec![RowChange::Delete(account(1, "1@x", 100))]).await;
        assert_eq!(failure(refused), Some(ErrorKind::ReadOnlyTransaction));
        assert!(!branch.has_writes());
    }
    Ok(())
}

pub async fn lost_updates(world: &World) -> TestResult {
    let at = world.accounts(1).await?;
    for &isolation in &world.snapshot_levels()[1..] {
        let late = world.begin(isolation).await?;
        assert!(late.get(&at, &key(1)).await?.is_some());
        let early = world.begin(Isolation::ReadCommitted).await?;
        set(&*early, &at, 1, 5).await?;
        early.commit().await?;
        assert_eq!(failure(lock(&*late, &at, 1).await), Some(ErrorKind::SerializationFailure));
        late.rollback();
    }
    Ok(())
}

/// Write skew is refused by `Serializable` alone: when it is committed, or because what was read is locked.
pub async fn write_skew(world: &World) -> TestResult {
    for (isolation, passes) in [(Isolation::RepeatableRead, true), (Isolation::Serializable, false)] {
        let at = world.accounts(2).await?;
        let (a, b) = (world.begin(isolation).await?, world.begin(isolation).await?);
        for branch in [&a, &b] {
            for id in [1, 2] {
                branch.get(&at, &key(id)).await?;
            }
        }
        let both = tokio::join!(
            async {
                set(&*a, &at, 1, -1).await?;
                a.commit().await
            },
            async {
                set(&*b, &at, 2, -1).await?;
                b.commit().await
            }
        );
        let failed: Vec<_> = [both.0, both.1].into_iter().filter_map(failure).collect();
        assert_eq!(failed.is_empty(), passes, "{isolation:?}: {failed:?}");
        let locking = [ErrorKind::SerializationFailure, ErrorKind::LockTimeout, ErrorKind::Deadlock];
        let known = if world.traits.optimistic { &locking[..1] } else { &locking[..] };
        assert!(failed.iter().all(|kind| known.contains(kind)), "{failed:?}");
    }
    Ok(())
}

/// Where `Serializable` locks what it reads, nobody changes it, nor brings what would have been read.
pub async fn what_is_read_is_locked(world: &World) -> TestResult {
    if world.traits.optimistic {
        return Ok(());
    }
    let at = world.accounts(3).await?;
    let reader = world.begin(Isolation::Serializable).await?;
    assert_eq!(count(&*reader, &at, everything(&at)).await?, 3);
    let writer = world.begin(Isolation::ReadCommitted).await?;
    assert_eq!(failure(set(&*writer, &at, 1, 5).await), Some(ErrorKind::LockTimeout));
    writer.rollback();
    assert_eq!(failure(world.write(&at, vec![insert(4, "4@x", 1)]).await), Some(ErrorKind::LockTimeout));
    assert_eq!(count(&*reader, &at, everything(&at)).await?, 3);
    reader.commit().await?;
    world.write(&at, vec![insert(4, "4@x", 1)]).await?;
    // What has changed since the snapshot was taken is not read, in whatever way.
    for way in 0..4 {
        let reader = world.begin(Isolation::Serializable).await?;
        reader.take_snapshot().await?;
        let id = 10 + way;
        world.write(&at, vec![insert(id, &format!("{id}@x"), 1)]).await?;
        let all = everything(&at);
        let failed = match way {
            0 => failure(reader.get(&at, &key(id)).await),
            1 => failure(lock(&*reader, &at, id).await),
            2 => failure(count(&*reader, &at, ScanRequest { columns: vec![], ..all }).await),
            _ => failure(count(&*reader, &at, all).await),
        };
        assert_eq!(failed, Some(ErrorKind::SerializationFailure), "{way}");
    }
    Ok(())
}

pub async fn deadlocks(world: &World) -> TestResult {
    let at = world.accounts(2).await?;
    let patient = BranchOptions { lock_timeout: Duration::from_secs(20), ..BranchOptions::default() };
    let (a, b) = (world.here().begin(patient).await?, world.here().begin(patient).await?);
    lock(&*a, &at, 1).await?;
    lock(&*b, &at, 2).await?;
    let cross = |branch: std::sync::Arc<dyn atoll_ports::site::Branch>, at, id| async move {
        let outcome = lock(&*branch, &at, id).await;
        if outcome.is_err() {
            branch.rollback();
        }
        outcome.map(|_| branch)
    };
    let (first, second) = tokio::join!(cross(a, at.clone(), 2), cross(b, at.clone(), 1));
    let ends = [first.map(|_| ()), second.map(|_| ())].map(failure);
    assert!(ends.contains(&Some(ErrorKind::Deadlock)) && ends.contains(&None), "{ends:?}");
    Ok(())
}

fn ids(rows: &[Row]) -> Vec<Value> {
    rows.iter().map(|row| row[0].clone()).collect()
}

pub async fn savepoints(world: &World) -> TestResult {
    for isolation in LEVELS {
        let at = world.accounts(1).await?;
        let branch = world.begin(isolation).await?;
        let outer = branch.savepoint();
        branch.rollback_to(outer);
        branch.apply(&at, vec![insert(2, "2@x", 1)]).await?;
        let inner = branch.savepoint();
        let unused = branch.savepoint();
        branch.apply(&at, vec![insert(3, "3@x", 1)]).await?;
        set(&*branch, &at, 2, 9).await?;
        branch.rollback_to(unused);
        branch.apply(&at, vec![insert(4, "4@x", 1)]).await?;
        branch.rollback_to(inner);
        branch.rollback_to(inner);
        assert_eq!(branch.get(&at, &key(2)).await?, Some(account(2, "2@x", 1)));
        branch.apply(&at, vec![insert(5, "5@x", 1)]).await?;
        branch.commit().await?;
        assert_eq!(ids(&world.rows(&at).await?), [1, 2, 5].map(Value::Int4));

        let branch = world.begin(isolation).await?;
        let start = branch.savepoint();
        branch.apply(&at, vec![insert(6, "6@x", 1)]).await?;
        branch.rollback_to(start);
        assert!(!branch.has_writes(), "nothing is left to be committed");
        branch.commit().await?;
        assert_eq!(world.rows(&at).await?.len(), 3);
    }
    Ok(())
}

/// After a failed call only a rollback helps; never is a part of it committed.
pub async fn failed_calls(world: &World) -> TestResult {
    let at = world.accounts(2).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch.apply(&at, vec![insert(3, "3@x", 1)]).await?;
    let mark = branch.savepoint();
    let clash = branch.apply(&at, vec![insert(4, "4@x", 1), insert(5, "1@x", 1)]).await;
    assert_eq!(failure(clash), Some(ErrorKind::UniqueViolation));
    branch.rollback_to(mark);
    branch.apply(&at, vec![insert(6, "6@x", 1)]).await?;
    branch.commit().await?;
    assert_eq!(ids(&world.rows(&at).await?), [1, 2, 3, 6].map(Value::Int4));

    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch.apply(&at, vec![insert(7, "7@x", 1)]).await?;
    let clash = branch.apply(&at, vec![insert(8, "8@x", 1), insert(9, "1@x", 1)]).await;
    assert_eq!(failure(clash), Some(ErrorKind::UniqueViolation));
    // What the engine makes of the rest is its own business, if only it tells.
    let committed = branch.commit().await.is_ok();
    let left = world.rows(&at).await?;
    assert!(!ids(&left).contains(&Value::Int4(8)), "a part of a call");
    assert_eq!(ids(&left).contains(&Value::Int4(7)), committed);

    let holder = world.begin(Isolation::ReadCommitted).await?;
    lock(&*holder, &at, 1).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let mark = branch.savepoint();
    for wait in [LockWait::Wait, LockWait::NoWait] {
        let refused = branch.lock(&at, &[key(1)], LockMode::Shared, wait).await;
        assert_eq!(failure(refused), Some(ErrorKind::LockTimeout));
        branch.rollback_to(mark);
    }
    holder.rollback();
    assert!(lock(&*branch, &at, 1).await?.locked);
    Ok(())
}

pub async fn statistics(world: &World) -> TestResult {
    let at = world.create(&accounts()).await?;
    world.write(&at, (0..500).map(|i| insert(i, &format!("{i}"), 0)).collect()).await?;
    world.analyze(&at).await?;
    let deadline = Instant::now() + Duration::from_secs(10);
    // Approximate, and asked for in the background.
    loop {
        let found = world.here().statistics(at.fragment);
        if found.rows == 500 && found.bytes > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = world.here().statistics(at.fragment).modifications;
    world.write(&at, vec![insert(-1, "-1", 0)]).await?;
    assert!(world.here().statistics(at.fragment).modifications > before);
    // A copy that nobody has made.
    let unknown = begin(world.here(), Isolation::ReadCommitted).await?;
    drop(unknown);
    assert_eq!(world.here().statistics(accounts().fragments[0].id).rows, 0);
    Ok(())
}
