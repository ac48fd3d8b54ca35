//! Commit in two phases.

use crate::world::{LOCK_TIMEOUT, TestResult, World, account, begin, failure, insert, key, lock, set};
use atoll_model::ErrorKind;
use atoll_ports::site::{Finished, Isolation, PreparedName};

pub async fn prepared_and_finished(world: &World) -> TestResult {
    let at = world.accounts(2).await?;
    let site = world.here();
    let (keep, undo) = (PreparedName::new("atoll_test:1")?, PreparedName::new("atoll_test:2")?);
    if !world.traits.prepares {
        let branch = world.begin(Isolation::ReadCommitted).await?;
        branch.apply(&at, vec![insert(3, "3@x", 1)]).await?;
        assert_eq!(failure(branch.prepare(&keep).await), Some(ErrorKind::NotSupported));
        branch.rollback();
        assert!(site.in_doubt().await?.is_empty());
        return Ok(());
    }
    for (gid, id) in [(&keep, 3), (&undo, 4)] {
        let branch = world.begin(Isolation::ReadCommitted).await?;
        branch.apply(&at, vec![insert(id, &format!("{id}@x"), 1)]).await?;
        branch.prepare(gid).await?;
        assert!(failure(branch.apply(&at, vec![insert(9, "9@x", 1)]).await).is_some(), "its part is over");
        branch.rollback();
    }
    assert_eq!(world.rows(&at).await?.len(), 2);
    assert_eq!(site.in_doubt().await?, [keep.clone(), undo.clone()]);
    assert_eq!(site.finish(&keep, true).await?, Finished::Now);
    assert_eq!(site.finish(&undo, false).await?, Finished::Now);
    assert!(site.in_doubt().await?.is_empty());
    // Asking again does no harm.
    assert_eq!(site.finish(&keep, true).await?, Finished::Missing);
    assert_eq!(site.finish(&undo, false).await?, Finished::Missing);
    assert_eq!(world.rows(&at).await?[2], account(3, "3@x", 1));

    // A branch that has failed is not prepared.
    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch.apply(&at, vec![insert(5, "5@x", 1)]).await?;
    assert!(branch.apply(&at, vec![insert(6, "1@x", 1)]).await.is_err());
    assert!(branch.prepare(&keep).await.is_err());
    assert!(site.in_doubt().await?.is_empty());
    // Two do not share a name.
    let (a, b) = (world.begin(Isolation::ReadCommitted).await?, world.begin(Isolation::ReadCommitted).await?);
    a.apply(&at, vec![insert(7, "7@x", 1)]).await?;
    b.apply(&at, vec![insert(8, "8@x", 1)]).await?;
    a.prepare(&keep).await?;
    assert_eq!(failure(b.prepare(&keep).await), Some(ErrorKind::DuplicateObject));
    site.finish(&keep, true).await?;
    assert_eq!(world.rows(&at).await?.len(), 4);
    Ok(())
}

/// What a prepared branch has locked stays locked until it is finished, also if it has written nothing.
pub async fn locks_stay(world: &World) -> TestResult {
    if !world.traits.prepares {
        return Ok(());
    }
    let at = world.accounts(2).await?;
    let gid = PreparedName::new("atoll_test:locks")?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    lock(&*branch, &at, 1).await?;
    branch.prepare(&gid).await?;
    drop(branch);
    let other = world.begin(Isolation::ReadCommitted).await?;
    assert_eq!(failure(lock(&*other, &at, 1).await), Some(ErrorKind::LockTimeout));
    other.rollback();
    world.here().finish(&gid, true).await?;
    let other = world.begin(Isolation::ReadCommitted).await?;
    set(&*other, &at, 1, 3).await?;
    other.commit().await?;

    // One that has neither read nor written has nothing to keep.
    let idle = begin(world.here(), Isolation::ReadCommitted).await?;
    assert!(idle.get(&at, &key(1)).await?.is_some());
    idle.prepare(&gid).await?;
    world.here().finish(&gid, true).await?;
    tokio::time::sleep(LOCK_TIMEOUT / 10).await;
    assert!(world.here().in_doubt().await?.is_empty());
    Ok(())
}

pub async fn unknown_names(world: &World) -> TestResult {
    let unknown = PreparedName::new("atoll_test:unknown")?;
    assert_eq!(world.here().finish(&unknown, true).await?, Finished::Missing);
    for bad in ["x", "atoll_a'b", "atoll_a b", ""] {
        assert!(PreparedName::new(bad).is_err(), "{bad}");
    }
    assert!(PreparedName::new(format!("atoll_{}", "x".repeat(199))).is_err());
    Ok(())
}
