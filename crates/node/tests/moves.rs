//! Fragments move between sites while they are written, and nothing is lost or doubled: between embedded sites and databases, over
//! crashes of the process and of a site, with unique values, co-located tables and changes of the definition in between.

mod rig;
mod world;

use atoll_model::{CatalogCommand, Error, ErrorKind, OnReplicaDown, Outcome, TableChange, Value};
use atoll_node::Node;
use atoll_ports::cluster::{Cluster, FragmentRef, MoveOrder};
use atoll_ports::site::{BranchOptions, Isolation, LockMode, LockWait, RowChange};
use rig::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use world::{World, by_list, copies, derived, index, int, list_fragment, short, table, text};

over_engines!(
    a_move_under_writers_loses_and_doubles_nothing,
    a_move_goes_on_after_a_crash,
    a_site_that_is_down_holds_a_move_up,
    a_copy_that_was_down_catches_up,
);

fn order(fragment: &str, to: &str) -> MoveOrder {
    MoveOrder { table: "t".into(), fragment: fragment.into(), from: None, to: to.into(), wait: true }
}

/// A row: the key, what places it, a number, a unique number.
fn row(id: i32, n: i32, u: i32) -> Vec<Value> {
    vec![int(id), text("a"), int(n), int(u)]
}

fn definition(sites: &[&str]) -> atoll_model::NewTable {
    let mut new = by_list(table("t", "id int key, region text, n int, u int"), "region");
    new.sites = sites.iter().map(|s| (*s).to_string()).collect();
    new
}

/// The rows of a table in one copy or another, as `id: (n, u)`.
async fn stored(node: &Arc<Node>, name: &str) -> Result<BTreeMap<i32, (i32, i32)>, Error> {
    let txn = node.begin(patient());
    txn.begin_statement().await?;
    let rows = world::rows(&*txn, name).await?;
    let parse = |row: &String| {
        let cells: Vec<i32> = row.split_whitespace().filter_map(|cell| cell.parse().ok()).collect();
        assert_eq!(cells.len(), 3, "{row}");
        (cells[0], (cells[1], cells[2]))
    };
    let parsed: BTreeMap<_, _> = rows.iter().map(parse).collect();
    assert_eq!(parsed.len(), rows.len(), "a row is there twice");
    Ok(parsed)
}

fn may_pass(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::SerializationFailure | ErrorKind::Deadlock | ErrorKind::LockTimeout | ErrorKind::SiteUnavailable
    )
}

/// Somebody who writes rows of his own, and knows what they have to be.
struct Writer {
    node: Arc<Node>,
    /// Keys are this one modulo 3.
    number: i32,
    isolation: Isolation,
    rows: BTreeMap<i32, (i32, i32)>,
    commits: usize,
}

impl Writer {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Result<Self, Error> {
        let mut seed = 12345_u64 + self.number as u64;
        while !stop.load(Ordering::Relaxed) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match self.once((seed >> 33) as i32).await {
                Ok(rows) => {
                    self.rows = rows;
                    self.commits += 1;
                }
                Err(e) if may_pass(&e) && e.outcome() == Outcome::Determinate => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(self)
    }

    /// Inserts, deletes or updates, and has two rows change places with their unique numbers.
    async fn once(&self, random: i32) -> Result<BTreeMap<i32, (i32, i32)>, Error> {
        let mut rows = self.rows.clone();
        let id = (random.rem_euclid(400)) * 3 + self.number;
        let mut changes = vec![];
        match (rows.get(&id).copied(), random.rem_euclid(4)) {
            (None, _) => {
                let u = rows.values().map(|(_, u)| *u).max().unwrap_or(0).max(self.number) / 3 * 3 + 3 + self.number;
                rows.insert(id, (random, u));
                changes.push(RowChange::Insert(row(id, random, u)));
            }
            (Some((n, u)), 0) => {
                rows.remove(&id);
                changes.push(RowChange::Delete(row(id, n, u)));
            }
            (Some((n, u)), 1) => {
                let Some((other, (m, v))) = rows.range(id + 1..).next().map(|(k, v)| (*k, *v)) else { return Ok(rows) };
                rows.insert(id, (n, v));
                rows.insert(other, (m, u));
                changes.push(RowChange::Update { old: row(id, n, u), new: row(id, n, v) });
                changes.push(RowChange::Update { old: row(other, m, v), new: row(other, m, u) });
            }
            (Some((n, u)), _) => {
                rows.insert(id, (random, u));
                changes.push(RowChange::Update { old: row(id, n, u), new: row(id, random, u) });
            }
        }
        let txn = self.node.begin(BranchOptions { isolation: self.isolation, ..patient() });
        let t = txn.catalog().table("t").expect("the table is there").clone();
        let keys: Vec<Vec<Value>> = changes
            .iter()
            .filter_map(|change| match change {
                RowChange::Update { old, .. } | RowChange::Delete(old) => Some(vec![old[0].clone()]),
                RowChange::Insert(_) => None,
            })
            .collect();
        if !keys.is_empty() {
            let fragment = FragmentRef { table: t.clone(), at: 0 };
            let locked = txn.lock(&fragment, &keys, LockMode::Exclusive, LockWait::Wait).await?;
            assert!(locked.iter().all(|l| l.row.is_some()), "a row is lost: {keys:?}");
        }
        txn.write(&t, changes).await?;
        txn.commit().await?;
        Ok(rows)
    }
}

fn writers(
    run: &Run,
    first: &BTreeMap<i32, (i32, i32)>,
    stop: &Arc<AtomicBool>,
) -> Vec<tokio::task::JoinHandle<Result<Writer, Error>>> {
    let writer = |number: i32| {
        let rows = first.iter().filter(|(id, _)| **id % 3 == number).map(|(id, v)| (*id, *v)).collect();
        let isolation = if number == 2 { Isolation::RepeatableRead } else { Isolation::ReadCommitted };
        let writer = Writer { node: run.node.clone(), number, isolation, rows, commits: 0 };
        run.spawn(writer.run(stop.clone()))
    };
    (0..3).map(writer).collect()
}

fn join(
    rig: &Rig,
    tasks: Vec<tokio::task::JoinHandle<Result<Writer, Error>>>,
) -> TestResult<BTreeMap<i32, (i32, i32)>> {
    let mut all = BTreeMap::new();
    for task in tasks {
        let writer = rig.run().block_on(task)??;
        assert!(writer.commits > 0, "writer {} has written nothing", writer.number);
        all.extend(writer.rows);
    }
    Ok(all)
}

/// A table in one piece at `pa`, with rows.
fn filled(rig: &Rig, rows: i32) -> TestResult<BTreeMap<i32, (i32, i32)>> {
    rig.ddl(CatalogCommand::CreateTable(Box::new(definition(&["home", "pa", "pb"]))))?;
    rig.ddl(list_fragment("t", "t_a", &["a"], "pa"))?;
    rig.ddl(CatalogCommand::CreateIndex { table: "t".into(), index: index(&["u"], true) })?;
    fill(rig, rows)
}

fn fill(rig: &Rig, rows: i32) -> TestResult<BTreeMap<i32, (i32, i32)>> {
    let node = rig.node().clone();
    rig.run().block_on(async {
        for from in (0..rows).step_by(200) {
            let txn = node.begin(patient());
            world::insert(&*txn, "t", (from..rows.min(from + 200)).map(|id| row(id, id, id)).collect()).await?;
            txn.commit().await?;
        }
        Ok((0..rows).map(|id| (id, (id, id))).collect())
    })
}

fn sites_of(node: &Node) -> Vec<String> {
    let catalog = node.catalog();
    let fragment = &catalog.table("t").expect("the table is there").fragments[0];
    fragment.replicas.iter().map(|s| catalog.sites[s].name.clone()).collect()
}

fn a_move_under_writers_loses_and_doubles_nothing(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    let first = filled(&rig, 1200)?;
    let stop = Arc::<AtomicBool>::default();
    let tasks = writers(rig.run(), &first, &stop);
    for to in ["pb", "home", "pa"] {
        let node = rig.node().clone();
        rig.run().block_on(async move { node.move_fragment(order("t_a", to)).await })?;
        assert_eq!(sites_of(rig.node()), [to]);
        std::thread::sleep(Duration::from_millis(100));
    }
    stop.store(true, Ordering::Relaxed);
    let expected = join(&rig, tasks)?;
    rig.settle()?;
    let node = rig.node().clone();
    let found = rig.run().block_on(async move { stored(&node, "t").await })?;
    assert_eq!(found, expected);
    let ended = rig.node().moves();
    assert_eq!(ended.iter().filter(|m| m.state == "done").count(), 3, "{ended:?}");
    // What the copies at the other sites held is gone.
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.control.block_on(rig.databases[1].tables())? > 0 {
        assert!(Instant::now() < deadline, "the old copy is still there");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> TestResult {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        if Instant::now() > deadline {
            return Err(format!("waited in vain until {what}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Begins a move, some of whose rows are copied when this returns.
fn begin_move(rig: &Rig) -> TestResult {
    let node = rig.node().clone();
    rig.run().block_on(async move { node.move_fragment(MoveOrder { wait: false, ..order("t_a", "pb") }).await })?;
    wait_until("some rows are copied", || rig.node().moves().iter().any(|m| m.rows_written > 0))
}

fn a_move_goes_on_after_a_crash(engines: [Engine; 2]) -> TestResult {
    let mut rig = Rig::of(engines)?;
    let first = filled(&rig, 3000)?;
    begin_move(&rig)?;
    rig.restart()?;
    wait_until("the copy serves", || sites_of(rig.node()) == ["pb"])?;
    let node = rig.node().clone();
    let found = rig.run().block_on(async move { stored(&node, "t").await })?;
    assert_eq!(found, first);
    let again = rig.node().moves();
    assert!(again.iter().all(|m| m.state == "done"), "{again:?}");
    Ok(())
}

fn a_site_that_is_down_holds_a_move_up(engines: [Engine; 2]) -> TestResult {
    let mut rig = Rig::of(engines)?;
    let first = filled(&rig, 3000)?;
    begin_move(&rig)?;
    rig.crash(1);
    // The new copy's site is down: it is left out, and rows can be written after all.
    let stop = Arc::<AtomicBool>::default();
    let tasks = writers(rig.run(), &first, &stop);
    wait_until("the copy is set aside", || rig.node().moves().iter().any(|m| m.state == "waiting for the site"))?;
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(sites_of(rig.node()), ["pa"]);
    rig.start_again(1)?;
    wait_until("the copy serves", || sites_of(rig.node()) == ["pb"])?;
    stop.store(true, Ordering::Relaxed);
    let expected = join(&rig, tasks)?;
    rig.settle()?;
    let node = rig.node().clone();
    let found = rig.run().block_on(async move { stored(&node, "t").await })?;
    assert_eq!(found, expected);
    Ok(())
}

fn a_copy_that_was_down_catches_up(engines: [Engine; 2]) -> TestResult {
    let mut rig = Rig::of(engines)?;
    let mut new = copies(definition(&["pa", "pb"]));
    new.on_replica_down = OnReplicaDown::CatchUp;
    new.uniques.push(index(&["u"], true));
    rig.ddl(CatalogCommand::CreateTable(Box::new(new)))?;
    let first = fill(&rig, 1200)?;
    rig.crash(0);
    let stop = Arc::<AtomicBool>::default();
    let tasks = writers(rig.run(), &first, &stop);
    wait_until("the copy is set aside", || sites_of(rig.node()) == ["pb"])?;
    std::thread::sleep(Duration::from_millis(500));
    // Its definition cannot be changed now, as one of its copies cannot follow.
    let refused = rig.ddl(CatalogCommand::CreateIndex { table: "t".into(), index: index(&["n"], false) });
    let refused = refused.err().and_then(|e| e.downcast::<Error>().ok()).map(|e| e.kind());
    assert_eq!(refused, Some(ErrorKind::NotInPrerequisiteState));
    rig.start_again(0)?;
    wait_until("both copies serve", || sites_of(rig.node()).len() == 2)?;
    stop.store(true, Ordering::Relaxed);
    let expected = join(&rig, tasks)?;
    rig.settle()?;
    // Each copy by itself.
    rig.crash(1);
    let node = rig.node().clone();
    let mut found = Err(Error::internal("never read"));
    for _ in 0..100 {
        let node = node.clone();
        found = rig.run().block_on(async move { stored(&node, "t").await });
        if found.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(found?, expected);
    Ok(())
}

#[test]
fn without_catch_up_a_write_is_refused_while_a_site_is_down() -> TestResult {
    let mut rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    rig.ddl(CatalogCommand::CreateTable(Box::new(copies(definition(&["pa", "pb"])))))?;
    let first = fill(&rig, 10)?;
    rig.crash(0);
    let node = rig.node().clone();
    for _ in 0..3 {
        let refused = rig.run().block_on(async {
            let txn = node.begin(patient());
            world::insert(&*txn, "t", vec![row(100, 1, 100)]).await?;
            txn.commit().await
        });
        assert_eq!(refused.map_err(|e| e.kind()), Err(ErrorKind::SiteUnavailable));
    }
    assert_eq!(sites_of(&node).len(), 2);
    rig.start_again(0)?;
    let node = rig.node().clone();
    let mut found = rig.run().block_on(stored(&node, "t"));
    for _ in 0..50 {
        if found.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        found = rig.run().block_on(stored(&node, "t"));
    }
    assert_eq!(found?, first);
    Ok(())
}

async fn embedded() -> atoll_model::Result<World> {
    let world = World::new().await?;
    world.create(definition(&["s1", "s2", "s3"])).await?;
    world.ddl(list_fragment("t", "t_a", &["a"], "s1")).await?;
    world.ddl(list_fragment("t", "t_b", &["b"], "s2")).await?;
    for from in (0..2000).step_by(500) {
        world.insert("t", (from..from + 500).map(|id| row(id, id, id)).collect()).await?;
    }
    Ok(world)
}

fn kind<T>(result: atoll_model::Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_sites_exchange_fragments() -> atoll_model::Result<()> {
    let world = embedded().await?;
    let before = world.rows("t").await?;
    world.node.move_fragment(order("t_a", "s3")).await?;
    assert_eq!(sites_of(&world.node), ["s3"]);
    assert_eq!(world.rows("t").await?, before);
    // It is written there, and nowhere else.
    world.insert("t", vec![row(5000, 1, 5000)]).await?;
    world.node.move_fragment(order("t_a", "s2")).await?;
    assert_eq!(world.rows("t").await?.len(), before.len() + 1);
    // Nonsense is refused.
    for (fragment, to, expected) in [
        ("t_a", "s2", ErrorKind::NotInPrerequisiteState),
        ("t_a", "nowhere", ErrorKind::UndefinedObject),
        ("t_z", "s1", ErrorKind::UndefinedTable),
    ] {
        assert_eq!(kind(world.node.move_fragment(order(fragment, to)).await), Some(expected), "{fragment} to {to}");
    }
    assert_eq!(kind(world.node.cancel_move("t", "t_a").await), Some(ErrorKind::NotInPrerequisiteState));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_cancelled_and_begun_again() -> atoll_model::Result<()> {
    let world = embedded().await?;
    // Who has written to the table holds up the switch.
    let writer = world.node.begin(patient());
    let t = world.table("t");
    let node = world.node.clone();
    let moving = tokio::spawn(async move { node.move_fragment(order("t_a", "s3")).await });
    while world.table("t").fragments[0].joining.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        kind(writer.write(&t, vec![RowChange::Insert(row(9000, 1, 9000))]).await),
        Some(ErrorKind::SerializationFailure)
    );
    writer.rollback();
    let writer = world.node.begin(patient());
    world::insert(&*writer, "t", vec![row(9000, 1, 9000)]).await?;
    let canceller = world.node.clone();
    let cancelling = tokio::spawn(async move { canceller.cancel_move("t", "t_a").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    writer.commit().await?;
    let (moved, cancelled) = (moving.await, cancelling.await);
    match (moved.map_err(|e| Error::internal(e.to_string()))?, cancelled.map_err(|e| Error::internal(e.to_string()))?) {
        // One of them was first.
        (Err(e), Ok(())) => assert_eq!(e.kind(), ErrorKind::NotInPrerequisiteState),
        (Ok(()), Err(e)) => assert_eq!(e.kind(), ErrorKind::NotInPrerequisiteState),
        other => panic!("{other:?}"),
    }
    assert!(world.table("t").fragments[0].joining.is_empty());
    let to = if sites_of(&world.node) == ["s3"] { "s1" } else { "s3" };
    world.node.move_fragment(order("t_a", to)).await?;
    assert_eq!(sites_of(&world.node), [to]);
    assert_eq!(world.rows("t").await?.len(), 2001);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn co_located_tables_move_together() -> atoll_model::Result<()> {
    let world = embedded().await?;
    world.create(derived(table("c", "cid int key, id int"), "t", "id")).await?;
    world.insert("c", (0..300).map(|id| vec![int(id), int(id)]).collect()).await?;
    let before = world.rows("c").await?;
    let child = MoveOrder { table: "c".into(), fragment: "c_a".into(), from: None, to: "s3".into(), wait: true };
    world.node.move_fragment(child).await?;
    let catalog = world.node.catalog();
    for name in ["t", "c"] {
        let fragment = &world.table(name).fragments[0];
        let sites: Vec<&str> = fragment.replicas.iter().map(|s| catalog.sites[s].name.as_str()).collect();
        assert_eq!((sites, fragment.joining.len()), (vec!["s3"], 0), "{name}");
    }
    assert_eq!(world.rows("c").await?, before);
    // A child's row finds its parent there.
    world.insert("c", vec![vec![int(999), int(7)]]).await?;
    assert_eq!(kind(world.insert("c", vec![vec![int(1000), int(77_777)]]).await), Some(ErrorKind::ForeignKeyViolation));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_change_while_a_fragment_moves() -> atoll_model::Result<()> {
    let world = embedded().await?;
    world.node.move_fragment(MoveOrder { wait: false, ..order("t_a", "s3") }).await?;
    let add = atoll_model::NewColumn {
        name: "extra".into(),
        ty: atoll_model::SqlType::Int4,
        not_null: false,
        default: None,
        missing: int(7),
        identity: None,
    };
    world
        .ddl(CatalogCommand::AlterTable { table: "t".into(), change: TableChange::AddColumn(add) })
        .await
        .or_else(|e| if e.kind() == ErrorKind::LockTimeout { Ok(()) } else { Err(e) })?;
    let mut served = false;
    for _ in 0..500 {
        served = sites_of(&world.node) == ["s3"];
        if served {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(served, "{:?}", world.node.moves());
    assert_eq!(world.rows("t").await?.len(), 2000);
    // Emptied in the middle, it is moved on as it is then.
    world.node.move_fragment(MoveOrder { wait: false, ..order("t_a", "s1") }).await?;
    let truncate = CatalogCommand::Truncate { tables: vec!["t".into()], restart_identity: false };
    let mut emptied = world.ddl(truncate.clone()).await;
    for _ in 0..20 {
        if kind(emptied.clone()) != Some(ErrorKind::LockTimeout) {
            break;
        }
        emptied = world.ddl(truncate.clone()).await;
    }
    emptied?;
    assert!(world.rows("t").await?.is_empty());
    world.insert("t", vec![]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_locks_a_row_holds_the_switch_up() -> atoll_model::Result<()> {
    let world = embedded().await?;
    let holder = world.node.begin(patient());
    let fragment = FragmentRef { table: world.table("t"), at: 0 };
    world.node.move_fragment(MoveOrder { wait: false, ..order("t_b", "s3") }).await?;
    // The catalog has changed since, but not this fragment.
    holder.lock(&fragment, &[vec![int(5)]], LockMode::Exclusive, LockWait::Wait).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let moved = |name: &str| {
        let catalog = world.node.catalog();
        let at = catalog.fragment(name).map(|(t, at)| t.fragments[at].replicas.clone());
        at.and_then(|sites| Some(catalog.sites.get(sites.first()?)?.name.clone()))
    };
    assert_eq!(moved("t_b").as_deref(), Some("s2"));
    holder.commit().await?;
    for _ in 0..500 {
        if moved("t_b").as_deref() == Some("s3") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", world.node.moves());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serving_copy_is_what_is_read() -> atoll_model::Result<()> {
    let world = embedded().await?;
    let reader = world.node.begin(short());
    let old = world.table("t");
    world.node.move_fragment(order("t_a", "s3")).await?;
    world.insert("t", vec![row(7000, 1, 7000)]).await?;
    // It has the catalog from before the move, and would take its snapshot after it.
    let fragment = FragmentRef { table: old, at: 0 };
    assert_eq!(kind(reader.get(&fragment, &[int(7000)]).await), Some(ErrorKind::SerializationFailure));
    reader.begin_statement().await?;
    let fragment = FragmentRef { table: world.table("t"), at: 0 };
    assert!(reader.get(&fragment, &[int(7000)]).await?.is_some());
    Ok(())
}
