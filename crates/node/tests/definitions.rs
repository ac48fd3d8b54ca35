//! DDL against rows, other transactions, and restarts.

mod world;

use atoll_model::{CatalogCommand, ErrorKind, FragmentBounds, NewFragment, Result, SiteEngine, TableChange, Value};
use atoll_ports::cluster::{Cluster, TableLock};
use world::*;

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

#[tokio::test]
async fn definitions_and_rows_commit_together_and_survive() -> Result<()> {
    let w = World::new().await?;
    let txn = w.node.begin(short());
    txn.apply(CatalogCommand::CreateTable(Box::new(table("t", "id int key, n int serial")))).await?;
    let sequence = txn.catalog().sequence("t_n_seq").map(|s| s.id).unwrap_or(atoll_model::RelationId(0));
    assert_eq!(w.node.next_values(sequence, 2).await?, 1);
    insert(&*txn, "t", vec![vec![int(1), int(1)]]).await?;
    assert!(w.node.catalog().table("t").is_none(), "not visible before it is committed");
    txn.commit().await?;
    assert_eq!(w.node.next_values(sequence, 1).await?, 3);
    let before = w.rows("t").await?;
    let hidden = w.node.row_ids(1);
    drop(txn);

    let World { dir, store, node } = w;
    drop((store, node));
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    let (store, node) = open(dir.path()).await?;
    let w = World { dir, store, node };
    assert_eq!(w.rows("t").await?, before);
    assert!(w.node.catalog().site("s3").is_some());
    assert!(w.node.next_values(sequence, 1).await? > 3, "a value is never given twice");
    assert!(w.node.row_ids(1) > hidden);
    Ok(())
}

#[tokio::test]
async fn an_orderly_stop_leaves_no_gap_in_sequences() -> Result<()> {
    let w = World::new().await?;
    w.ddl(CatalogCommand::CreateSequence(sequence("s"))).await?;
    let id = w.node.catalog().sequence("s").map(|s| s.id).unwrap_or(atoll_model::RelationId(0));
    assert_eq!(w.node.sequence_position(id).await?, (1, false));
    assert_eq!(w.node.next_values(id, 1).await?, 1);
    w.node.set_sequence(id, 41, true).await?;
    assert_eq!(w.node.next_values(id, 1).await?, 42);
    w.node.close().await?;
    let World { dir, store, node } = w;
    drop((store, node));
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    let (_store, node) = open(dir.path()).await?;
    assert_eq!(node.sequence_position(id).await?, (42, true));
    assert_eq!(node.next_values(id, 1).await?, 43);
    Ok(())
}

#[tokio::test]
async fn truncated_rows_are_gone_and_purged() -> Result<()> {
    let w = World::new().await?;
    w.create(table("t", "id int key")).await?;
    w.insert("t", (0..50).map(|i| vec![int(i)]).collect()).await?;
    let old = w.table("t");
    let reader = w.node.begin(repeatable());
    assert_eq!(rows(&*reader, "t").await?.len(), 50);
    w.ddl(CatalogCommand::Truncate { tables: vec!["t".into()], restart_identity: false }).await?;
    assert_eq!(w.rows("t").await?.len(), 0);
    // An older snapshot still has them.
    assert_eq!(rows(&*reader, "t").await?.len(), 50);
    drop(reader);
    w.insert("t", vec![vec![int(1)]]).await?;
    let left = || old.fragments.iter().map(|f| w.node.statistics(&old, f.id).rows).sum::<u64>();
    for _ in 0..50 {
        if left() == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(left(), 0, "purged in the background");
    assert_eq!(w.rows("t").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_writer_with_an_outdated_definition_is_sent_back() -> Result<()> {
    let w = World::new().await?;
    w.create(table("t", "id int key")).await?;
    let old = w.table("t");
    let change = TableChange::SetDefault { column: "id".into(), default: Some("1".into()) };
    w.ddl(CatalogCommand::AlterTable { table: "t".into(), change }).await?;
    let txn = w.node.begin(short());
    assert_eq!(kind(txn.lock_table(&old, TableLock::Write).await), Some(ErrorKind::SerializationFailure));
    txn.lock_table(&w.table("t"), TableLock::Write).await
}

#[tokio::test]
async fn ddl_waits_for_writers_and_writers_for_ddl() -> Result<()> {
    let w = World::new().await?;
    w.create(table("t", "id int key, n int")).await?;
    let writer = w.node.begin(short());
    writer.lock_table(&w.table("t"), TableLock::Write).await?;
    insert(&*writer, "t", vec![vec![int(1), int(1)]]).await?;
    let create = || CatalogCommand::CreateIndex { table: "t".into(), index: index(&["n"], true) };
    assert_eq!(kind(w.ddl(create()).await), Some(ErrorKind::LockTimeout));
    writer.commit().await?;
    let ddl = w.node.begin(short());
    ddl.apply(create()).await?;
    assert_eq!(kind(w.insert("t", vec![vec![int(2), int(2)]]).await), Some(ErrorKind::LockTimeout));
    let other = w.node.begin(short());
    let site = CatalogCommand::CreateSite { name: "x".into(), engine: SiteEngine::Embedded, options: [].into() };
    assert_eq!(kind(other.apply(site).await), Some(ErrorKind::LockTimeout), "one change of the catalog at a time");
    ddl.commit().await?;
    assert_eq!(kind(w.insert("t", vec![vec![int(2), int(1)]]).await), Some(ErrorKind::UniqueViolation));
    Ok(())
}

#[tokio::test]
async fn a_unique_index_is_refused_over_duplicates_in_different_fragments() -> Result<()> {
    let w = World::new().await?;
    w.create(table("t", "id int key, n int")).await?;
    // Three fragments by id: some of the equal values of n lie apart.
    w.insert("t", (0..12).map(|i| vec![int(i), int(i / 2)]).collect()).await?;
    w.insert("t", vec![vec![int(100), Value::Null], vec![int(101), Value::Null]]).await?;
    let unique = || CatalogCommand::CreateIndex { table: "t".into(), index: index(&["n"], true) };
    assert_eq!(kind(w.ddl(unique()).await), Some(ErrorKind::UniqueViolation));
    for i in 0..12 {
        if i % 2 == 1 {
            w.delete("t", vec![vec![int(i), int(i / 2)]]).await?;
        }
    }
    w.ddl(unique()).await?;
    assert_eq!(kind(w.insert("t", vec![vec![int(7), int(3)]]).await), Some(ErrorKind::UniqueViolation));
    Ok(())
}

#[tokio::test]
async fn a_new_fragment_may_not_claim_rows_of_the_default_one() -> Result<()> {
    let w = World::new().await?;
    w.create(by_list(table("t", "id int key, region text"), "region")).await?;
    let rest = NewFragment { name: "t_rest".into(), bounds: FragmentBounds::Default, sites: vec![], adopted: None };
    w.ddl(CatalogCommand::CreateFragment { table: "t".into(), fragment: rest }).await?;
    w.insert("t", vec![vec![int(1), text("x")]]).await?;
    assert_eq!(kind(w.ddl(list_fragment("t", "t_x", &["x"], "s1")).await), Some(ErrorKind::CheckViolation));
    w.ddl(list_fragment("t", "t_y", &["y"], "s1")).await?;
    w.insert("t", vec![vec![int(2), text("y")]]).await?;
    assert_eq!(w.rows("t").await?, ["t_rest: 1 x", "t_y: 2 y"]);
    Ok(())
}
