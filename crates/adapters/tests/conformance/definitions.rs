//! Copies' storage: made, changed, purged.

use crate::world::{
    TestResult, World, account, accounts, begin, column, count, everything, failure, index, insert, key, replica, rows,
    table, text,
};
use atoll_model::{ColumnId, ErrorKind, IndexId, Row, SqlType, Table, Value};
use atoll_ports::site::{Isolation, Replica, ScanRequest};
use std::sync::Arc;

fn with(at: &Replica, table: Table) -> Replica {
    Replica { table: Arc::new(table), ..at.clone() }
}

pub async fn again_and_undone(world: &World) -> TestResult {
    let at = world.accounts(0).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch.define(&at, None).await?;
    branch.commit().await?;
    world.write(&at, vec![insert(1, "1@x", 1)]).await?;

    // Undone, and made after all.
    let table = accounts();
    let other = replica(&table, 0, world.here().id());
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let mark = branch.savepoint();
    branch.define(&other, None).await?;
    branch.apply(&other, vec![insert(1, "1@x", 1)]).await?;
    branch.rollback_to(mark);
    branch.define(&other, None).await?;
    assert_eq!(count(&*branch, &other, everything(&other)).await?, 0);
    branch.apply(&other, vec![insert(2, "2@x", 1)]).await?;
    branch.commit().await?;
    assert_eq!(world.rows(&other).await?, [account(2, "2@x", 1)]);
    Ok(())
}

pub async fn columns(world: &World) -> TestResult {
    let at = world.accounts(2).await?;
    // RENAME, ADD with a value for the rows that are there, DROP NOT NULL, DROP COLUMN, one after the other.
    let mut changed = (*at.table).clone();
    changed.columns[1].name = "mail \"address\"".into();
    let renamed = with(&at, changed.clone());
    let mut added = column(4, "note", SqlType::Varchar(Some(20)), true);
    added.missing = text("it's \\ new");
    changed.columns.push(added);
    changed.columns.push(column(5, "since", SqlType::Date, false));
    let extended = with(&at, changed.clone());
    changed.columns[3].not_null = false;
    changed.columns.retain(|c| c.id != ColumnId(3));
    changed.name = "customers".into();
    let last = with(&at, changed);

    let mut before = at.table.clone();
    for step in [&renamed, &extended, &last] {
        let branch = world.begin(Isolation::ReadCommitted).await?;
        branch.define(step, Some(&before)).await?;
        branch.rollback();
        let branch = world.begin(Isolation::ReadCommitted).await?;
        branch.define(step, Some(&before)).await?;
        assert_eq!(count(&*branch, step, everything(step)).await?, 2);
        branch.commit().await?;
        before = step.table.clone();
    }
    let row = |id: i32| -> Row { vec![Value::Int4(id), text(&format!("{id}@x")), text("it's \\ new"), Value::Null] };
    assert_eq!(world.rows(&last).await?, [row(1), row(2)]);
    let new = vec![Value::Int4(3), text("3@x"), Value::Null, Value::Date(1)];
    world.write(&last, vec![atoll_ports::site::RowChange::Insert(new.clone())]).await?;
    assert_eq!(world.rows(&last).await?[2], new);
    Ok(())
}

pub async fn indexes(world: &World) -> TestResult {
    let at = world.accounts(5).await?;
    world.write(&at, vec![insert(6, "6@x", 7)]).await?;
    let mut changed = (*at.table).clone();
    changed.indexes.push(index(2, "accounts_balance", &[3, 1], false));
    let indexed = with(&at, changed.clone());
    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch.define(&indexed, Some(&at.table)).await?;
    branch.build_index(&indexed, IndexId(2)).await?;
    let by_balance = ScanRequest { columns: vec![0], index: Some(IndexId(2)), ..everything(&at) };
    let ids = |rows: Vec<Row>| rows.iter().map(|row| row[0].as_i64()).collect::<Vec<_>>();
    let order = [6, 1, 2, 3, 4, 5].map(Some);
    assert_eq!(ids(rows(&*branch, &indexed, by_balance.clone()).await?), order);
    branch.commit().await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    assert_eq!(ids(rows(&*branch, &indexed, by_balance).await?), order);
    // The engine's own DDL may wait for readers.
    branch.rollback();

    // Rows that break a new unique index.
    changed.indexes.push(index(3, "accounts_balance_key", &[3], true));
    let unique = with(&at, changed.clone());
    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch.define(&unique, Some(&indexed.table)).await?;
    let clash = branch.build_index(&unique, IndexId(3)).await.expect_err("five rows have the same balance");
    assert_eq!((clash.kind(), clash.constraint_name()), (ErrorKind::UniqueViolation, Some("accounts_balance_key")));
    assert_eq!(clash.message(), "could not create unique index \"accounts_balance_key\"");
    assert_eq!(clash.detail_text(), Some("Key (balance)=(100) is duplicated."));
    branch.rollback();

    // An index that goes takes its constraint along.
    changed.indexes.retain(|i| i.id == IndexId(2));
    let dropped = with(&at, changed);
    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch.define(&dropped, Some(&indexed.table)).await?;
    let branch = if world.traits.drops_at_once {
        branch
    } else {
        branch.commit().await?;
        world.begin(Isolation::ReadCommitted).await?
    };
    branch.apply(&dropped, vec![insert(7, "1@x", 1)]).await?;
    branch.commit().await?;
    Ok(())
}

/// Purging one copy leaves the other, and can be done again.
pub async fn purging(world: &World) -> TestResult {
    let at = world.accounts(2).await?;
    let [here, there] = &world.sites;
    let copy = replica(&at.table, 0, there.id());
    let branch = begin(there, Isolation::ReadCommitted).await?;
    branch.define(&copy, None).await?;
    branch.apply(&copy, vec![insert(1, "1@x", 1)]).await?;
    branch.commit().await?;
    for _ in 0..2 {
        here.purge(at.fragment).await?;
    }
    // A new copy under the same id begins empty.
    assert_eq!(world.rows(&world.create(&at.table).await?).await?.len(), 0);
    let branch = begin(there, Isolation::ReadCommitted).await?;
    assert!(branch.get(&copy, &key(1)).await?.is_some());
    Ok(())
}

/// A table that the engine cannot hold is refused with the reason, and holding it is no failure.
pub async fn what_cannot_be_held(world: &World) -> TestResult {
    let nested = SqlType::Array(Box::new(SqlType::Array(Box::new(SqlType::Int4))));
    for ty in [SqlType::Interval, nested] {
        let columns = vec![column(1, "id", SqlType::Int4, true), column(2, "x", ty.clone(), false)];
        let at = replica(&Arc::new(table("odd", columns, 1, vec![])), 0, world.here().id());
        let branch = world.begin(Isolation::ReadCommitted).await?;
        if let Err(error) = branch.define(&at, None).await {
            assert_eq!(error.kind(), ErrorKind::NotSupported, "{ty}");
            assert!(error.message().contains("column \"x\"") && error.detail_text().is_some(), "{error:?}");
            assert!(failure(branch.commit().await).is_none_or(|k| k == ErrorKind::InFailedTransaction));
        }
    }
    Ok(())
}
