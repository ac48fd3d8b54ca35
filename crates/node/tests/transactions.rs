//! What can be seen of transactions over several sites, and done about them by hand.

mod rig;
mod world;

use atoll_model::{CatalogCommand, Error, ErrorKind, FragmentBounds, NewFragment};
use atoll_ports::cluster::{Cluster, TransactionState};
use atoll_ports::site::{BranchOptions, ReadConsistency};
use rig::*;
use std::time::Duration;
use world::{int, list_fragment, short, text};

fn at_site(rig: &Rig, at: usize, sql: &str) -> TestResult {
    rig.control.block_on(rig.databases[at].run(sql))
}

fn move_one(rig: &Rig, from: i32, to: i32) -> atoll_model::Result<()> {
    let node = rig.node().clone();
    rig.run().block_on(async {
        let txn = node.begin(patient());
        transfer(&*txn, &[(from, -1), (to, 1)]).await?;
        txn.commit().await.map(|_| ())
    })
}

/// Waits for the background work that follows a commit.
fn eventually(what: impl Fn() -> bool) -> TestResult {
    for _ in 0..200 {
        if what() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("it did not come to that".into())
}

#[test]
fn the_log_tells_how_transactions_have_ended() -> TestResult {
    let mut rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    rig.accounts()?;
    let known = rig.node().transactions_log().len();
    move_one(&rig, 0, 1)?;
    move_one(&rig, 1, 2)?;
    // At one site only: nothing is decided by a coordinator.
    move_one(&rig, 1, 1)?;
    eventually(|| rig.node().transactions_log().len() == known + 2)?;
    let log = rig.node().transactions_log();
    assert_eq!(log[0].participants, ["pa", "pb"]);
    assert_eq!(log[1].participants, ["embedded", "pa"]);
    assert!(log.iter().all(|t| t.committed && t.reason.is_none() && t.began.is_some_and(|began| began <= t.ended)));

    rig.crash(1);
    let lost = move_one(&rig, 0, 2);
    assert_eq!(lost.err().map(|e| e.kind()), Some(ErrorKind::SiteUnavailable));
    rig.start_again(1)?;
    rig.balances()?;
    // The crash came before anything was prepared, so there was nothing to end.
    std::thread::sleep(Duration::from_millis(500));
    let names = |rig: &Rig| rig.node().transactions_log().into_iter().map(|t| t.name).collect::<Vec<_>>();
    let before = names(&rig);
    rig.restart()?;
    assert_eq!(names(&rig), before);
    rig.settle()
}

#[test]
fn a_commit_is_seen_while_it_is_under_way() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    rig.accounts()?;
    let run = rig.run();
    run.cut.pause_before("before finish");
    let node = rig.node().clone();
    let committing = run.spawn(async move {
        let txn = node.begin(patient());
        transfer(&*txn, &[(1, -1), (2, 1)]).await?;
        txn.commit().await
    });
    run.block_on(run.cut.reached());
    let node = rig.node();
    let shown: Vec<_> = node.transactions().into_iter().filter(|t| t.name.is_some()).collect();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(
        (shown[0].state, shown[0].participants.clone()),
        (TransactionState::Committed, vec!["pa".into(), "pb".into()])
    );
    assert!(shown[0].id.is_some() && shown[0].began.is_some());
    let in_doubt = run.block_on(node.in_doubt());
    assert_eq!(
        in_doubt.iter().map(|b| (b.site.as_str(), b.owner, b.decision)).collect::<Vec<_>>(),
        [("pa", Some("this run"), Some("open")), ("pb", Some("this run"), Some("open")),]
    );
    assert!(in_doubt.iter().all(|b| b.branch.as_ref().is_some_and(|b| b.since.is_some())));
    let name = shown[0].name.clone().unwrap_or_default();
    let refused = run.block_on(node.resolve(&name, true)).err().map(|e| e.kind());
    assert_eq!(refused, Some(ErrorKind::NotInPrerequisiteState));
    run.cut.go_on();
    run.block_on(committing)??;
    eventually(|| node.transactions().is_empty())?;
    assert!(run.block_on(node.in_doubt()).is_empty());
    assert_eq!(rig.balances()?, [EACH, EACH - 1, EACH + 1]);
    Ok(())
}

#[test]
fn what_nobody_decides_is_resolved_by_hand() -> TestResult {
    let mut rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    rig.accounts()?;
    let node = rig.node().clone();
    eventually(|| !node.transactions_log().is_empty())?;
    // `atoll_<cluster>_…`
    let name = node.transactions_log()[0].name.clone();
    let cluster = name.split('_').nth(1).ok_or("no cluster")?.to_owned();
    let site = node.catalog().site("pa").map(|s| s.id.0).ok_or("no site")?;
    at_site(&rig, 0, "CREATE TABLE marks (name text)")?;
    let prepare = |whose: &str, mark: &str| {
        let sql = format!("BEGIN; INSERT INTO marks VALUES ('{mark}'); PREPARE TRANSACTION 'atoll_{whose}_{site}'");
        at_site(&rig, 0, &sql)
    };
    let other_node = format!("{cluster}_7-1_5");
    let earlier = format!("{cluster}_1-0_5");
    prepare(&other_node, "other node")?;
    prepare(&earlier, "earlier")?;
    prepare("00000000000000ff_1-1_5", "other cluster")?;
    at_site(&rig, 0, "BEGIN; INSERT INTO marks VALUES ('no name'); PREPARE TRANSACTION 'atoll_what'")?;
    let run = rig.run();
    let shown = run.block_on(node.in_doubt());
    let mut shown: Vec<_> = shown.iter().map(|b| (b.site.as_str(), b.owner, b.decision)).collect();
    shown.sort_unstable();
    assert_eq!(
        shown,
        [
            ("pa", Some("an earlier run"), Some("rollback")),
            ("pa", Some("another cluster"), None),
            ("pa", Some("another node"), None),
            ("pa", Some("unknown"), None),
        ]
    );
    let resolve = |name: &str, commit| run.block_on(node.resolve(name, commit)).map_err(|e: Error| e.kind());
    assert_eq!(resolve("atoll_what", true), Err(ErrorKind::InvalidParameterValue));
    assert_eq!(resolve(&format!("atoll_{cluster}_7-1_6"), true), Err(ErrorKind::UndefinedObject));
    assert_eq!(resolve(&format!("atoll_{earlier}"), true), Err(ErrorKind::NotInPrerequisiteState));
    assert_eq!(resolve(&format!("atoll_{earlier}"), false), Ok(1));
    // By the name of a branch, too.
    assert_eq!(resolve(&format!("atoll_{other_node}_{site}"), true), Ok(1));
    assert_eq!(resolve("atoll_00000000000000ff_1-1_5", false), Ok(1));
    let marks = "SELECT count(*) FROM marks WHERE name = 'other node'";
    assert_eq!(rig.control.block_on(rig.databases[0].number(marks))?, 1);
    assert_eq!(node.transactions_log()[0].reason.as_deref(), Some("resolved by hand"));
    at_site(&rig, 0, "ROLLBACK PREPARED 'atoll_what'")?;

    // A site that cannot be asked is told, and nothing is resolved without it.
    drop(node);
    rig.crash(1);
    let node = rig.node();
    let shown = rig.run().block_on(node.in_doubt());
    assert!(
        shown.len() == 1 && shown[0].site == "pb" && shown[0].problem.is_some() && shown[0].branch.is_none(),
        "{shown:?}"
    );
    let refused = rig.run().block_on(node.resolve(&format!("atoll_{earlier}"), false));
    assert_eq!(refused.err().map(|e| e.kind()), Some(ErrorKind::SiteUnavailable));
    Ok(())
}

/// One site suffices for itself; what needs two is refused with the site's name and what to do, also in the log.
#[test]
fn a_server_without_prepared_transactions() -> TestResult {
    let rig = Rig::with(&["max_prepared_transactions=0"], &["max_prepared_transactions=50"])?;
    at_site(
        &rig,
        0,
        "CREATE TABLE kept (region text, id int, PRIMARY KEY (region, id)); INSERT INTO kept VALUES ('pa', 1)",
    )?;
    // Fragments do not share keys, so none has to be locked elsewhere.
    let mut kept = world::by_list(world::table("kept", "region text key, id int key"), "region");
    kept.sites = vec!["home".into()];
    rig.ddl(CatalogCommand::CreateTable(Box::new(kept)))?;
    let fragment = NewFragment {
        name: "kept_pa".into(),
        bounds: FragmentBounds::List(vec![text("pa")]),
        sites: vec!["pa".into()],
        adopted: Some("kept".into()),
    };
    rig.ddl(CatalogCommand::CreateFragment { table: "kept".into(), fragment })?;
    for site in ["home", "pb"] {
        rig.ddl(list_fragment("kept", &format!("kept_{site}"), &[site], site))?;
    }
    let node = rig.node().clone();
    let insert = |rows: &[(&str, i32)]| {
        let rows = rows.iter().map(|(region, id)| vec![text(region), int(*id)]).collect();
        rig.run().block_on(async {
            let txn = node.begin(short());
            world::insert(&*txn, "kept", rows).await?;
            txn.commit().await.map(|_| ())
        })
    };
    insert(&[("pa", 2), ("pa", 3)])?;
    insert(&[("home", 1), ("pb", 1)])?;
    let error = insert(&[("home", 2), ("pa", 4)]).expect_err("it takes no prepared transactions");
    assert_eq!(error.kind(), ErrorKind::NotInPrerequisiteState);
    assert_eq!(error.message(), "site \"pa\" takes no prepared transactions");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("max_prepared_transactions")));
    let rows = rig.run().block_on(async { world::rows(&*node.begin(short()), "kept").await })?;
    assert_eq!(rows.len(), 5, "{rows:?}");
    eventually(|| {
        let log = node.transactions_log();
        log[0].participants == ["embedded", "pa"]
            && !log[0].committed
            && log[0].reason.as_deref() == Some("55000: site \"pa\" takes no prepared transactions")
    })?;
    // A table there is DDL at the site and in the catalog.
    let mut there = world::copies(world::table("there", "id int key"));
    there.sites = vec!["pa".into()];
    let refused = rig.ddl(CatalogCommand::CreateTable(Box::new(there))).err().ok_or("it was made")?;
    assert!(refused.to_string().contains("site \"pa\" takes no prepared transactions"), "{refused}");
    rig.settle()
}

/// With `Site`, each site answers at once and for itself; with `Cluster`, a read waits for a commit that is half done.
#[test]
fn what_reads_promise_is_chosen() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    rig.accounts()?;
    let run = rig.run();
    run.cut.pause_before("before finish");
    let node = rig.node().clone();
    let committing = run.spawn(async move {
        let txn = node.begin(patient());
        transfer(&*txn, &[(1, -1), (2, 1)]).await?;
        txn.commit().await
    });
    run.block_on(run.cut.reached());
    let read = |read_consistency, wait: u64| {
        let txn = rig.node().begin(BranchOptions { read_consistency, ..patient() });
        run.block_on(async { tokio::time::timeout(Duration::from_millis(wait), balances(&*txn)).await })
    };
    assert!(read(ReadConsistency::Cluster, 1000).is_err(), "it was not waited for");
    assert_eq!(read(ReadConsistency::Site, 8000)??, [EACH; 3]);
    run.cut.go_on();
    run.block_on(committing)??;
    assert_eq!(read(ReadConsistency::Cluster, 8000)??, [EACH, EACH - 1, EACH + 1]);
    rig.settle()
}
