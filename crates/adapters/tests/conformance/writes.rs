//! Writing rows.

use crate::world::{TestResult, World, account, column, failure, insert, key, lock, table, text, update};
use atoll_model::{ErrorKind, SqlType, Value};
use atoll_ports::query::{Arithmetic, SiteExpr};
use atoll_ports::site::{Isolation, LockMode, LockWait, RowChange};
use std::sync::Arc;

pub async fn uniqueness(world: &World) -> TestResult {
    let at = world.accounts(3).await?;
    for (change, constraint, detail) in [
        (insert(9, "2@x", 0), "accounts_email_key", "Key (email)=(2@x) already exists."),
        (insert(2, "9@x", 0), "accounts_pkey", "Key (id)=(2) already exists."),
        (
            update(account(1, "1@x", 100), account(1, "3@x", 100)),
            "accounts_email_key",
            "Key (email)=(3@x) already exists.",
        ),
        (update(account(1, "1@x", 100), account(2, "1@x", 100)), "accounts_pkey", "Key (id)=(2) already exists."),
    ] {
        let branch = world.begin(Isolation::ReadCommitted).await?;
        branch.lock(&at, &[key(1)], LockMode::Exclusive, LockWait::Wait).await?;
        let clash = branch.apply(&at, vec![change]).await.expect_err("the value exists");
        assert_eq!((clash.kind(), clash.constraint_name()), (ErrorKind::UniqueViolation, Some(constraint)));
        assert_eq!(clash.detail_text(), Some(detail));
        assert_eq!(clash.table_name(), Some("accounts"));
        let message = format!("duplicate key value violates unique constraint \"{constraint}\"");
        assert_eq!(clash.message(), message);
    }
    // As one of very many rows.
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let many = (10..3000).map(|i| insert(i, &format!("{}@x", if i == 1500 { 2 } else { i }), 0)).collect();
    let clash = branch.apply(&at, many).await.expect_err("the value exists");
    assert_eq!((clash.kind(), clash.constraint_name()), (ErrorKind::UniqueViolation, Some("accounts_email_key")));
    assert_eq!(clash.detail_text(), Some("Key (email)=(2@x) already exists."));
    branch.rollback();
    // NULLs are not the same.
    let none = |id| RowChange::Insert(vec![Value::Int4(id), Value::Null, Value::Null]);
    world.write(&at, vec![none(10), none(11)]).await?;
    // Twice in one call.
    let twice = world.write(&at, vec![insert(12, "new", 0), insert(13, "new", 0)]).await;
    assert_eq!(failure(twice), Some(ErrorKind::UniqueViolation));
    Ok(())
}

/// A row that the site itself computes anew.
pub async fn changed_in_place(world: &World) -> TestResult {
    let at = world.accounts(3).await?;
    let balance = || Box::new(SiteExpr::Column { source: 0, position: 2, ty: SqlType::Int8 });
    let number = |n: i64| Box::new(SiteExpr::Value(SqlType::Int8, Value::Int8(n)));
    let by = |how, n| vec![(2, SiteExpr::Arithmetic(how, balance(), number(n), SqlType::Int8))];
    let branch = world.begin(Isolation::ReadCommitted).await?;
    if !world.here().updates_rows() {
        let refused = branch.update_row(&at, &key(1), &by(Arithmetic::Add, 5)).await;
        assert_eq!(failure(refused), Some(ErrorKind::NotSupported));
        return Ok(());
    }
    assert!(branch.update_row(&at, &key(1), &by(Arithmetic::Add, 5)).await?);
    assert!(branch.update_row(&at, &key(1), &by(Arithmetic::Multiply, -2)).await?);
    assert!(branch.update_row(&at, &key(2), &by(Arithmetic::Subtract, 1)).await?);
    assert!(!branch.update_row(&at, &key(9), &by(Arithmetic::Add, 5)).await?);
    assert!(branch.has_writes() && branch.has_locks());
    assert_eq!(branch.get(&at, &key(1)).await?, Some(account(1, "1@x", -210)));

    // Whoever comes later waits for the row.
    let other = world.begin(Isolation::ReadCommitted).await?;
    let waited = other.update_row(&at, &key(1), &by(Arithmetic::Add, 5)).await;
    assert_eq!(failure(waited), Some(ErrorKind::LockTimeout));
    other.rollback();
    let mark = branch.savepoint();
    let overflow = branch.update_row(&at, &key(2), &by(Arithmetic::Add, i64::MAX)).await;
    assert_eq!(failure(overflow), Some(ErrorKind::NumericOutOfRange));
    branch.rollback_to(mark);
    branch.commit().await?;
    let rows = [account(1, "1@x", -210), account(2, "2@x", 99), account(3, "3@x", 100)];
    assert_eq!(world.rows(&at).await?, rows);

    // What was committed in the meantime is not undone; in the stricter levels the later one fails.
    let late = world.begin(Isolation::RepeatableRead).await?;
    assert!(late.get(&at, &key(3)).await?.is_some());
    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch.update_row(&at, &key(3), &by(Arithmetic::Add, 1)).await?;
    branch.commit().await?;
    let overtaken = late.update_row(&at, &key(3), &by(Arithmetic::Add, 1)).await;
    assert_eq!(failure(overtaken), Some(ErrorKind::SerializationFailure));
    Ok(())
}

/// Uniqueness holds after a call, not within it.
pub async fn exchanged_values(world: &World) -> TestResult {
    let at = world.accounts(4).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let keys: Vec<_> = (1..=4).map(key).collect();
    branch.lock(&at, &keys, LockMode::Exclusive, LockWait::Wait).await?;
    let row = |id, email| account(id, email, 100);
    branch
        .apply(
            &at,
            vec![
                // Two exchange their addresses, two their keys, and a third change has nothing to do with it.
                update(row(1, "1@x"), row(1, "2@x")),
                update(row(2, "2@x"), row(2, "1@x")),
                update(row(3, "3@x"), row(4, "3@x")),
                update(row(4, "4@x"), account(3, "4@x", 7)),
            ],
        )
        .await?;
    branch.commit().await?;
    assert_eq!(world.rows(&at).await?, [row(1, "2@x"), row(2, "1@x"), account(3, "4@x", 7), row(4, "3@x")]);
    Ok(())
}

pub async fn many_rows(world: &World) -> TestResult {
    let tags = SqlType::Array(Box::new(SqlType::Text));
    let columns = vec![
        column(1, "a", SqlType::Int4, true),
        column(2, "b", SqlType::Text, true),
        column(3, "tags", tags, false),
        column(4, "n", SqlType::Int8, false),
    ];
    let at = world.create(&Arc::new(table("many", columns, 2, vec![]))).await?;
    let row = |i: i32, n: i64| {
        let tags = Value::Array(vec![text("{x}"), Value::Null, text(&format!("{i}"))]);
        vec![Value::Int4(i / 2), text(&format!("{i:06}")), tags, Value::Int8(n)]
    };
    let all: Vec<_> = (0..5000).map(|i| row(i, 0)).collect();
    world.write(&at, all.iter().cloned().map(RowChange::Insert).collect()).await?;
    assert_eq!(world.rows(&at).await?, all);

    let branch = world.begin(Isolation::ReadCommitted).await?;
    let keys: Vec<_> = all.iter().map(|row| row[..2].to_vec()).collect();
    let locked = branch.lock(&at, &keys, LockMode::Exclusive, LockWait::Wait).await?;
    assert!(locked.iter().zip(&all).all(|(l, row)| l.locked && l.row.as_ref() == Some(row)));
    let changes = (0..5000).map(|i| match i % 5 {
        0 => RowChange::Delete(row(i, 0)),
        _ => update(row(i, 0), row(i, i64::from(i))),
    });
    branch.apply(&at, changes.collect()).await?;
    branch.commit().await?;
    let want: Vec<_> = (0..5000).filter(|i| i % 5 != 0).map(|i| row(i, i64::from(i))).collect();
    assert_eq!(world.rows(&at).await?, want);
    Ok(())
}

pub async fn what_goes_before_what_comes(world: &World) -> TestResult {
    let at = world.accounts(3).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch.lock(&at, &[key(1), key(2)], LockMode::Exclusive, LockWait::Wait).await?;
    let changes = vec![
        insert(1, "2@x", 1),
        RowChange::Delete(account(1, "1@x", 100)),
        update(account(2, "2@x", 100), account(2, "1@x", 100)),
    ];
    branch.apply(&at, changes).await?;
    branch.apply(&at, vec![]).await?;
    branch.commit().await?;
    assert_eq!(world.rows(&at).await?, [account(1, "2@x", 1), account(2, "1@x", 100), account(3, "3@x", 100)]);
    Ok(())
}

/// A row deleted and brought again by one transaction.
pub async fn rows_that_are_gone(world: &World) -> TestResult {
    let at = world.accounts(1).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    lock(&*branch, &at, 1).await?;
    branch.apply(&at, vec![RowChange::Delete(account(1, "1@x", 100))]).await?;
    assert_eq!(branch.get(&at, &key(1)).await?, None);
    assert_eq!(lock(&*branch, &at, 1).await?.row, None);
    branch.apply(&at, vec![insert(1, "1@x", 1)]).await?;
    branch.commit().await?;
    assert_eq!(world.rows(&at).await?, [account(1, "1@x", 1)]);
    Ok(())
}
