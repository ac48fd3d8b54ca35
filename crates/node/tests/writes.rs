//! Placement, uniqueness, foreign keys and moves, over three embedded sites.

mod world;

use atoll_model::ReferentialAction::{Cascade, NoAction, SetNull};
use atoll_model::{CatalogCommand, ErrorKind, Result, Value};
use atoll_ports::cluster::Cluster;
use world::*;

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

/// users by region, reads derived from users.
async fn news() -> Result<World> {
    let w = World::new().await?;
    w.create(by_list(table("users", "uid text key, region text"), "region")).await?;
    w.ddl(list_fragment("users", "users_bj", &["bj"], "s1")).await?;
    w.ddl(list_fragment("users", "users_hk", &["hk"], "s2")).await?;
    w.create(derived(table("reads", "rid int key, uid text"), "users", "uid")).await?;
    w.insert("users", vec![vec![text("a"), text("bj")], vec![text("b"), text("hk")]]).await?;
    w.insert("reads", vec![vec![int(1), text("a")], vec![int(2), text("b")], vec![int(3), text("a")]]).await?;
    Ok(w)
}

#[tokio::test]
async fn derived_rows_lie_with_their_parents() -> Result<()> {
    let w = news().await?;
    assert_eq!(w.rows("reads").await?, ["reads_bj: 1 a", "reads_bj: 3 a", "reads_hk: 2 b"]);
    assert_eq!(kind(w.insert("reads", vec![vec![int(4), text("x")]]).await), Some(ErrorKind::ForeignKeyViolation));
    assert_eq!(kind(w.insert("reads", vec![vec![int(4), Value::Null]]).await), Some(ErrorKind::CheckViolation));
    assert_eq!(kind(w.insert("users", vec![vec![text("c"), text("??")]]).await), Some(ErrorKind::CheckViolation));
    Ok(())
}

#[tokio::test]
async fn keys_are_unique_over_fragments() -> Result<()> {
    let w = news().await?;
    let again = w.insert("users", vec![vec![text("a"), text("hk")]]).await;
    assert_eq!(again.as_ref().map_err(|e| e.detail_text()), Err(Some("Key (uid)=(a) already exists.")));
    assert_eq!(kind(again), Some(ErrorKind::UniqueViolation));
    assert_eq!(kind(w.insert("reads", vec![vec![int(1), text("b")]]).await), Some(ErrorKind::UniqueViolation));
    // Within one call, too.
    let both = vec![vec![text("z"), text("bj")], vec![text("z"), text("hk")]];
    assert_eq!(kind(w.insert("users", both).await), Some(ErrorKind::UniqueViolation));
    Ok(())
}

#[tokio::test]
async fn children_follow_a_parent_that_moves() -> Result<()> {
    let w = news().await?;
    w.update("users", vec![text("a"), text("bj")], vec![text("a"), text("hk")]).await?;
    assert_eq!(w.rows("users").await?, ["users_hk: a hk", "users_hk: b hk"]);
    assert_eq!(w.rows("reads").await?, ["reads_hk: 1 a", "reads_hk: 2 b", "reads_hk: 3 a"]);
    assert_eq!(kind(w.delete("users", vec![vec![text("a"), text("hk")]]).await), Some(ErrorKind::ForeignKeyViolation));
    w.delete("reads", vec![vec![int(1), text("a")], vec![int(3), text("a")]]).await?;
    w.delete("users", vec![vec![text("a"), text("hk")]]).await?;
    assert_eq!(w.rows("users").await?, ["users_hk: b hk"]);
    Ok(())
}

#[tokio::test]
async fn deletes_and_key_changes_cascade() -> Result<()> {
    let w = World::new().await?;
    w.create(copies(table("p", "id int key"))).await?;
    w.create(references(table("c", "id int key, p int"), "p", "p", Cascade, Cascade)).await?;
    w.create(references(table("n", "id int key, p int"), "p", "p", SetNull, SetNull)).await?;
    w.create(references(table("r", "id int key, p int"), "p", "p", NoAction, NoAction)).await?;
    w.insert("p", (1..=4).map(|i| vec![int(i)]).collect()).await?;
    w.insert("c", (1..=6).map(|i| vec![int(i), int(i % 2 + 1)]).collect()).await?;
    w.insert("n", vec![vec![int(1), int(1)], vec![int(2), int(2)]]).await?;
    w.insert("r", vec![vec![int(1), int(3)]]).await?;
    w.delete("p", vec![vec![int(1)]]).await?;
    let mut c: Vec<String> =
        w.rows("c").await?.iter().map(|r| r.split_once(": ").unwrap_or_default().1.to_string()).collect();
    c.sort();
    assert_eq!(c, ["1 2", "3 2", "5 2"]);
    w.update("p", vec![int(2)], vec![int(20)]).await?;
    let mut c: Vec<String> =
        w.rows("c").await?.iter().map(|r| r.split_once(": ").unwrap_or_default().1.to_string()).collect();
    c.sort();
    assert_eq!(c, ["1 20", "3 20", "5 20"]);
    let mut n: Vec<String> =
        w.rows("n").await?.iter().map(|r| r.split_once(": ").unwrap_or_default().1.to_string()).collect();
    n.sort();
    assert_eq!(n, ["1 -", "2 -"]);
    assert_eq!(kind(w.delete("p", vec![vec![int(3)]]).await), Some(ErrorKind::ForeignKeyViolation));
    assert_eq!(kind(w.update("p", vec![int(3)], vec![int(30)]).await), Some(ErrorKind::ForeignKeyViolation));
    assert_eq!(kind(w.insert("r", vec![vec![int(2), int(99)]]).await), Some(ErrorKind::ForeignKeyViolation));
    Ok(())
}

#[tokio::test]
async fn every_copy_is_written() -> Result<()> {
    let w = World::new().await?;
    w.create(copies(table("t", "id int key, n int"))).await?;
    w.insert("t", vec![vec![int(1), int(1)]]).await?;
    w.update("t", vec![int(1), int(1)], vec![int(1), int(2)]).await?;
    // Round robin: each of the three copies is read in turn.
    for _ in 0..6 {
        assert_eq!(w.rows("t").await?, ["t: 1 2"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_racing_inserts_of_a_value_wins() -> Result<()> {
    let w = std::sync::Arc::new(news().await?);
    for round in 0..30 {
        let tasks: Vec<_> = (0..4)
            .map(|i| {
                let w = w.clone();
                tokio::spawn(async move {
                    let region = if i % 2 == 0 { "bj" } else { "hk" };
                    w.insert("users", vec![vec![text(&format!("new{round}")), text(region)]]).await
                })
            })
            .collect();
        let mut won = 0;
        for task in tasks {
            match task.await.map_err(|e| atoll_model::Error::internal(e.to_string()))? {
                Ok(()) => won += 1,
                Err(e) => assert_eq!(e.kind(), ErrorKind::UniqueViolation, "{e}"),
            }
        }
        assert_eq!(won, 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_child_outlives_its_parent_in_a_race() -> Result<()> {
    let w = std::sync::Arc::new(news().await?);
    for round in 0..30 {
        let uid = format!("u{round}");
        w.insert("users", vec![vec![text(&uid), text("bj")]]).await?;
        let (w1, w2, u1, u2) = (w.clone(), w.clone(), uid.clone(), uid.clone());
        let child = tokio::spawn(async move { w1.insert("reads", vec![vec![int(100 + round), text(&u1)]]).await });
        let parent = tokio::spawn(async move { w2.delete("users", vec![vec![text(&u2), text("bj")]]).await });
        let join = |e: tokio::task::JoinError| atoll_model::Error::internal(e.to_string());
        let (child, parent) = (child.await.map_err(join)?, parent.await.map_err(join)?);
        let parents = w.rows("users").await?.iter().filter(|r| r.contains(&format!(" {uid} "))).count();
        let children = w.rows("reads").await?.iter().filter(|r| r.ends_with(&format!(" {uid}"))).count();
        assert!(children <= parents, "round {round}: {child:?} {parent:?}");
        assert_eq!((children == 1, parents == 0), (child.is_ok(), parent.is_ok()), "round {round}");
    }
    Ok(())
}

#[tokio::test]
async fn savepoints_undo_rows_and_definitions() -> Result<()> {
    let w = news().await?;
    let txn = w.node.begin(short());
    let first = txn.savepoint();
    insert(&*txn, "reads", vec![vec![int(10), text("a")]]).await?;
    txn.apply(CatalogCommand::CreateTable(Box::new(table("x", "id int key")))).await?;
    insert(&*txn, "x", vec![vec![int(1)]]).await?;
    let second = txn.savepoint();
    txn.apply(CatalogCommand::DropTable { name: "x".into(), cascade: false }).await?;
    assert!(txn.catalog().table("x").is_none());
    txn.rollback_to(second);
    assert_eq!(rows(&*txn, "x").await?.len(), 1);
    txn.rollback_to(first);
    assert!(txn.catalog().table("x").is_none());
    assert_eq!(rows(&*txn, "reads").await?.len(), 3);
    assert!(!txn.has_writes());
    txn.commit().await?;
    assert!(w.node.catalog().table("x").is_none());
    Ok(())
}
