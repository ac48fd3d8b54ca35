//! Locks of rows and of values.

use crate::world::{
    LOCK_TIMEOUT, TestResult, World, account, begin, everything, failure, fragmented, insert, key, lock, replica, rows,
    set, text, update,
};
use atoll_model::{ErrorKind, IndexId};
use atoll_ports::site::{Branch, BranchOptions, Isolation, LockMode, LockWait, Replica, RowChange};
use std::time::Duration;

const EMAIL: Option<IndexId> = Some(IndexId(1));

pub async fn exclusive_and_shared(world: &World) -> TestResult {
    let at = world.accounts(2).await?;
    let holder = world.begin(Isolation::ReadCommitted).await?;
    let one = [key(1)];
    for (held, wanted, passes) in [
        (LockMode::Shared, LockMode::Shared, true),
        (LockMode::Shared, LockMode::Exclusive, false),
        (LockMode::Exclusive, LockMode::Shared, false),
        (LockMode::Exclusive, LockMode::Exclusive, false),
    ] {
        let locked = holder.lock(&at, &one, held, LockWait::Wait).await?;
        assert!(locked[0].locked && !locked[0].changed && locked[0].row == Some(account(1, "1@x", 100)));
        for wait in [LockWait::Wait, LockWait::NoWait] {
            let other = world.begin(Isolation::ReadCommitted).await?;
            let outcome = other.lock(&at, &one, wanted, wait).await;
            let want = if passes { None } else { Some(ErrorKind::LockTimeout) };
            assert_eq!(failure(outcome), want, "{held:?} {wanted:?} {wait:?}");
            other.rollback();
        }
        // Readers do not wait.
        assert!(world.begin(Isolation::ReadCommitted).await?.get(&at, &key(1)).await?.is_some());
    }
    let other = world.begin(Isolation::ReadCommitted).await?;
    let refused = other.lock(&at, &one, LockMode::Shared, LockWait::NoWait).await.map_err(|e| e.message().to_owned());
    assert_eq!(refused.err().as_deref(), Some("could not obtain lock on row in relation \"accounts\""));

    // Copies at sites of one participant share their locks.
    let [here, there] = &world.sites;
    if here.participant() == there.participant() {
        let copy = replica(&at.table, 0, there.id());
        let other = begin(there, Isolation::ReadCommitted).await?;
        assert_eq!(
            failure(other.lock(&copy, &one, LockMode::Shared, LockWait::NoWait).await),
            Some(ErrorKind::LockTimeout)
        );
    }
    Ok(())
}

/// In `ReadCommitted`, a row that has changed since the statement read it is told apart.
pub async fn changed_rows(world: &World) -> TestResult {
    let at = world.accounts(4).await?;
    // As the first thing that a transaction does with the site, and after it has written there.
    for written in [false, true] {
        let balance = 50 + i64::from(written);
        let branch = world.begin(Isolation::ReadCommitted).await?;
        if written {
            branch.apply(&at, vec![insert(100, "100@x", 1)]).await?;
            branch.begin_statement();
        }
        let seen = rows(&*branch, &at, everything(&at)).await?;
        let other = world.begin(Isolation::ReadCommitted).await?;
        set(&*other, &at, 1, balance).await?;
        lock(&*other, &at, 2).await?;
        other.commit().await?;
        let locked = branch.lock(&at, &[key(1), key(2)], LockMode::Exclusive, LockWait::Wait).await?;
        assert_eq!(locked[0].row, Some(account(1, "1@x", balance)));
        assert_eq!(locked.iter().map(|l| l.changed).collect::<Vec<_>>(), [true, false], "seen: {seen:?}");

        // What it has changed itself has not changed under it.
        branch.begin_statement();
        set(&*branch, &at, 2, 1).await?;
        let mark = branch.savepoint();
        set(&*branch, &at, 3, 1).await?;
        rows(&*branch, &at, everything(&at)).await?;
        set(&*branch, &at, 4, 1).await?;
        let keys = [key(2), key(3), key(4)];
        let locked = branch.lock(&at, &keys, LockMode::Exclusive, LockWait::Wait).await?;
        assert!(locked.iter().all(|l| l.locked && !l.changed), "{locked:?}");
        branch.rollback_to(mark);
        branch.rollback();
    }

    // Gone meanwhile.
    let branch = world.begin(Isolation::ReadCommitted).await?;
    rows(&*branch, &at, everything(&at)).await?;
    let other = world.begin(Isolation::ReadCommitted).await?;
    let row = lock(&*other, &at, 4).await?.row.ok_or("a row")?;
    other.apply(&at, vec![RowChange::Delete(row)]).await?;
    other.commit().await?;
    let gone = lock(&*branch, &at, 4).await?;
    assert!(gone.locked && gone.changed && gone.row.is_none(), "{gone:?}");
    // In the next statement that is nothing new.
    branch.begin_statement();
    assert!(!lock(&*branch, &at, 4).await?.changed);
    Ok(())
}

pub async fn skipped_rows(world: &World) -> TestResult {
    let at = world.accounts(3).await?;
    let holder = world.begin(Isolation::ReadCommitted).await?;
    lock(&*holder, &at, 2).await?;
    let other = world.begin(Isolation::ReadCommitted).await?;
    let keys = [key(1), key(2), key(3), key(9)];
    let found = other.lock(&at, &keys, LockMode::Exclusive, LockWait::SkipLocked).await?;
    assert_eq!(found.iter().map(|l| l.locked).collect::<Vec<_>>(), [true, false, true, true]);
    assert_eq!(found.iter().map(|l| l.row.is_some()).collect::<Vec<_>>(), [true, false, true, false]);
    let found = other.lock(&at, &[key(2)], LockMode::Exclusive, LockWait::SkipLocked).await?;
    assert!(!found[0].locked);
    Ok(())
}

pub async fn missing_rows(world: &World) -> TestResult {
    let at = world.accounts(1).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let found = branch.lock(&at, &[key(9), key(1)], LockMode::Exclusive, LockWait::Wait).await?;
    assert!(found[0].locked && found[0].row.is_none() && !found[0].changed);
    assert!(found[1].row.is_some());
    Ok(())
}

/// Answers come in the order of the keys, whatever that is.
pub async fn many_keys(world: &World) -> TestResult {
    let at = world.accounts(3000).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let ids: Vec<i32> = (1..=3000).map(|i| (i * 7919) % 3001).collect();
    let keys: Vec<_> = ids.iter().map(|id| key(*id)).collect();
    let found = branch.lock(&at, &keys, LockMode::Exclusive, LockWait::Wait).await?;
    for (id, locked) in ids.iter().zip(found) {
        assert_eq!(locked.row, Some(account(*id, &format!("{id}@x"), 100)));
    }
    assert!(branch.lock(&at, &[], LockMode::Exclusive, LockWait::Wait).await?.is_empty());
    Ok(())
}

pub async fn unique_values(world: &World) -> TestResult {
    let at = world.accounts(3).await?;
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
        let branch = world.begin(isolation).await?;
        let found = branch.find_unique(&at, EMAIL, &[text("3@x")], LockMode::Shared).await?;
        assert_eq!(found, Some(account(3, "3@x", 100)));
        assert_eq!(branch.find_unique(&at, None, &key(2), LockMode::Exclusive).await?, Some(account(2, "2@x", 100)));
        assert_eq!(branch.find_unique(&at, EMAIL, &[text("none")], LockMode::Exclusive).await?, None);
        assert_eq!(branch.find_unique(&at, EMAIL, &[atoll_model::Value::Null], LockMode::Exclusive).await?, None);
        // Its own.
        branch.apply(&at, vec![insert(4, "4@x", 1)]).await?;
        assert_eq!(branch.find_unique(&at, EMAIL, &[text("4@x")], LockMode::Shared).await?, Some(account(4, "4@x", 1)));
    }
    Ok(())
}

async fn bring(branch: &dyn Branch, at: &Replica, id: i32, email: &str) -> atoll_model::Result<()> {
    branch.apply(at, vec![insert(id, email, 1)]).await
}

/// "There is none" stays true until the branch ends.
pub async fn values_without_rows(world: &World) -> TestResult {
    let at = world.accounts(1).await?;
    let holder = world.begin(Isolation::ReadCommitted).await?;
    assert_eq!(holder.find_unique(&at, EMAIL, &[text("new")], LockMode::Exclusive).await?, None);
    assert_eq!(holder.find_unique(&at, None, &key(7), LockMode::Exclusive).await?, None);
    for attempt in 0..3 {
        let other = world.begin(Isolation::ReadCommitted).await?;
        let outcome = match attempt {
            0 => bring(&*other, &at, 8, "new").await,
            1 => bring(&*other, &at, 7, "other").await,
            _ => other.find_unique(&at, EMAIL, &[text("new")], LockMode::Shared).await.map(|_| ()),
        };
        assert_eq!(failure(outcome), Some(ErrorKind::LockTimeout), "{attempt}");
    }
    let other = world.begin(Isolation::ReadCommitted).await?;
    bring(&*other, &at, 9, "another").await?;
    other.commit().await?;
    // Who waits sees what the other has brought.
    bring(&*holder, &at, 7, "new").await?;
    let patient =
        world.here().begin(BranchOptions { lock_timeout: Duration::from_secs(10), ..BranchOptions::default() }).await?;
    let value = [text("new")];
    let waiting = patient.find_unique(&at, EMAIL, &value, LockMode::Exclusive);
    let releasing = async {
        tokio::time::sleep(LOCK_TIMEOUT).await;
        holder.commit().await
    };
    let (found, committed) = tokio::join!(waiting, releasing);
    committed?;
    assert_eq!(found?, Some(account(7, "new", 1)));
    Ok(())
}

/// A value that is unique over fragments is locked for all of them.
pub async fn values_over_fragments(world: &World) -> TestResult {
    let table = fragmented();
    let first = world.create(&table).await?;
    let second = replica(&table, 1, world.here().id());
    let value = [text("both")];
    let holder = world.begin(Isolation::ReadCommitted).await?;
    bring(&*holder, &first, 1, "both").await?;
    let other = world.begin(Isolation::ReadCommitted).await?;
    assert_eq!(failure(bring(&*other, &second, 2, "both").await), Some(ErrorKind::LockTimeout));
    other.rollback();
    holder.commit().await?;
    let other = world.begin(Isolation::ReadCommitted).await?;
    bring(&*other, &second, 2, "both").await?;
    assert_eq!(other.find_unique(&first, EMAIL, &value, LockMode::Exclusive).await?, Some(account(1, "both", 1)));
    other.rollback();

    // Also when there are very many of them, and when a row is given the value.
    let holder = world.begin(Isolation::ReadCommitted).await?;
    holder.apply(&first, (10..1000).map(|i| insert(i, &format!("{i}"), 1)).collect()).await?;
    let other = world.begin(Isolation::ReadCommitted).await?;
    assert_eq!(failure(bring(&*other, &second, 2000, "500").await), Some(ErrorKind::LockTimeout));
    other.rollback();
    holder.commit().await?;
    let holder = world.begin(Isolation::ReadCommitted).await?;
    lock(&*holder, &first, 1).await?;
    holder.apply(&first, vec![update(account(1, "both", 1), account(1, "else", 1))]).await?;
    let other = world.begin(Isolation::ReadCommitted).await?;
    assert_eq!(failure(bring(&*other, &second, 2, "else").await), Some(ErrorKind::LockTimeout));
    Ok(())
}

/// A unique value that was committed after the snapshot is not overlooked.
pub async fn stricter_levels_see_new_values(world: &World) -> TestResult {
    let table = fragmented();
    let first = world.create(&table).await?;
    for &isolation in &world.snapshot_levels()[1..] {
        let branch = world.begin(isolation).await?;
        let email = format!("{isolation:?}");
        rows(&*branch, &first, everything(&first)).await?;
        let id = if isolation == Isolation::Serializable { 1 } else { 2 };
        world.write(&first, vec![insert(id, &email, 1)]).await?;
        let found = branch.find_unique(&first, EMAIL, &[text(&email)], LockMode::Exclusive).await;
        match found {
            Ok(row) => assert_eq!(row, Some(account(id, &email, 1))),
            Err(error) => assert_eq!(error.kind(), ErrorKind::SerializationFailure),
        }
    }
    Ok(())
}
