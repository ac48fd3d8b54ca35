//! Answers to queries: large ones, several at once, given up, beside writes, and what they show of rows that change.

use crate::queries::{answered, answers, compare, int, of, values, whole};
use crate::reads::{MANY, before_later_writes, large};
use crate::world::{TestResult, World, begin, everything, failure, insert, key, lock, rows as scanned, set};
use atoll_model::{Error, ErrorKind, Result, Value};
use atoll_ports::query::{Comparison, SiteQuery, Source, SourceJoin};
use atoll_ports::site::{Isolation, Replica};
use futures::{StreamExt as _, TryStreamExt as _};
use std::time::Duration;

pub async fn no_columns(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = world.accounts(7).await?;
    let some = SiteQuery {
        filter: vec![compare(Comparison::Greater, of(&at, 0), int(2))],
        outputs: vec![],
        batch_size: 2,
        ..whole(&at)
    };
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable] {
        let branch = world.begin(isolation).await?;
        for (query, want) in [(some.clone(), 5), (SiteQuery { limit: Some(3), ..some.clone() }, 3)] {
            let batches: Vec<_> = branch.query(query)?.try_collect().await?;
            assert!(batches.iter().all(|b| b.num_rows() <= 2 && b.num_columns() == 0));
            assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), want);
        }
    }
    Ok(())
}

fn many(at: &Replica) -> SiteQuery {
    let filter = vec![compare(Comparison::GreaterOrEqual, of(at, 0), int(0))];
    SiteQuery { filter, batch_size: 1000, ..whole(at) }
}

/// Large answers that are used at the same time, and with scans.
pub async fn side_by_side(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = large(world).await?;
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable] {
        let branch = world.begin(isolation).await?;
        let mut first = branch.query(many(&at))?;
        let mut got = first.next().await.ok_or("rows")??.num_rows();
        let second = answered(&*branch, many(&at)).await?;
        let third = scanned(&*branch, &at, everything(&at)).await?;
        assert_eq!((second.len(), third.len()), (MANY as usize, MANY as usize));
        // One that is given up hinders nobody.
        for _ in 0..5 {
            let mut given_up = branch.query(many(&at))?;
            given_up.next().await.ok_or("rows")??;
        }
        assert_eq!(branch.get(&at, &key(7)).await?.map(|row| row[0].clone()), Some(Value::Int4(7)));
        while let Some(batch) = first.next().await {
            got += batch?.num_rows();
        }
        assert_eq!(got, MANY as usize);
    }
    Ok(())
}

/// An answer that nobody would live to see the end of is stopped when it is given up.
pub async fn given_up(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = large(world).await?;
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
        let branch = world.begin(isolation).await?;
        let mut pairs = many(&at);
        pairs.sources.push(Source { replica: at.clone(), join: SourceJoin::Inner(vec![]) });
        let mut given_up = branch.query(pairs)?;
        given_up.next().await.ok_or("rows")??;
        drop(given_up);
        let next = tokio::time::timeout(Duration::from_secs(30), branch.get(&at, &key(7))).await??;
        assert_eq!(next.map(|row| row[0].clone()), Some(Value::Int4(7)));
        assert_eq!(answered(&*branch, many(&at)).await?.len(), MANY as usize);
        branch.apply(&at, vec![insert(3 * MANY, &format!("{isolation:?}"), 0)]).await?;
        branch.rollback();
    }
    Ok(())
}

/// What is written after a query has begun is not in its answer; what was written before is.
pub async fn later_writes(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = large(world).await?;
    let levels = [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable];
    before_later_writes(world, &at, &levels, |branch| branch.query(many(&at))).await
}

/// A row that a query has shown and another has changed since is not taken for unchanged when it is locked.
pub async fn rows_that_change(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    for written in [false, true] {
        let at = world.accounts(5).await?;
        let branch = world.begin(Isolation::ReadCommitted).await?;
        if written {
            branch.apply(&at, vec![insert(50, "own", 1)]).await?;
            branch.begin_statement();
        }
        let filter = vec![compare(Comparison::Less, of(&at, 0), int(4))];
        let query = SiteQuery { filter, ..values(&at, vec![of(&at, 0)]) };
        assert_eq!(answered(&*branch, query).await?.len(), 3);
        let other = begin(world.here(), Isolation::ReadCommitted).await?;
        set(&*other, &at, 2, 7).await?;
        other.commit().await?;
        let locked = lock(&*branch, &at, 2).await?;
        assert!(locked.changed, "written: {written}");
        assert_eq!(locked.row.map(|row| row[2].clone()), Some(Value::Int8(7)));
        assert!(!lock(&*branch, &at, 1).await?.changed, "written: {written}");
    }
    // A transaction of one moment cannot lock it.
    let at = world.accounts(5).await?;
    let branch = world.begin(Isolation::RepeatableRead).await?;
    assert_eq!(answered(&*branch, whole(&at)).await?.len(), 5);
    let other = begin(world.here(), Isolation::ReadCommitted).await?;
    set(&*other, &at, 2, 7).await?;
    other.commit().await?;
    assert_eq!(answered(&*branch, whole(&at)).await?[1][2], Value::Int8(100));
    let refused: Result<_, Error> = lock(&*branch, &at, 2).await;
    assert_eq!(failure(refused), Some(ErrorKind::SerializationFailure));
    Ok(())
}
