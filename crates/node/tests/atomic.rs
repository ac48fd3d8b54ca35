//! Transactions over an embedded site and two servers of other engines: all or nothing, whatever dies.

mod rig;
mod world;

use atoll_model::{CatalogCommand, ErrorKind, Outcome};
use atoll_ports::cluster::Cluster;
use rig::*;
use std::time::Duration;
use world::{list_fragment, short};

over_engines!(
    a_commit_reaches_all_participants_or_none,
    a_crash_at_any_step_with_the_embedded_site,
    a_crash_at_any_step_between_servers,
    a_crash_at_any_step_with_three_participants,
    a_server_dies_at_any_step,
    a_decided_commit_is_answered_while_a_site_is_down,
    names_of_others_are_left_alone,
    a_site_that_is_new_is_committed_first,
);

const TOTAL: i32 = 3 * EACH;

fn a_commit_reaches_all_participants_or_none(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    rig.accounts()?;
    let node = rig.node();
    rig.run().block_on(async {
        for moves in [&[(0, -10), (1, 10)][..], &[(1, -20), (2, 20)], &[(0, -1), (1, -1), (2, 2)]] {
            let txn = node.begin(short());
            transfer(&*txn, moves).await?;
            txn.commit().await?;
        }
        let txn = node.begin(short());
        transfer(&*txn, &[(0, -500), (2, 500)]).await?;
        txn.rollback();
        // A savepoint takes back what came after it, everywhere.
        let txn = node.begin(short());
        transfer(&*txn, &[(0, -5), (2, 5)]).await?;
        let mark = txn.savepoint();
        transfer(&*txn, &[(0, -100), (1, 100)]).await?;
        txn.rollback_to(mark);
        txn.commit().await?;
        Ok::<_, atoll_model::Error>(())
    })?;
    assert_eq!(rig.balances()?, [EACH - 16, EACH - 11, EACH + 27]);
    assert_eq!(rig.prepared()?, 0);
    Ok(())
}

/// The steps of a transfer without a crash, and then a crash at each of them.
fn crash_at_every_step(engines: [Engine; 2], moves: &'static [(i32, i32)]) -> TestResult {
    let mut rig = Rig::of(engines)?;
    rig.accounts()?;
    let mut before = rig.balances()?;
    for step in 0.. {
        let run = rig.run();
        run.cut.arm(step);
        let (node, cut) = (run.node.clone(), run.cut.clone());
        let acknowledged = run.block_on(async move {
            let txn = node.begin(patient());
            let moving = async {
                transfer(&*txn, moves).await?;
                txn.commit().await
            };
            tokio::select! {
                outcome = moving => outcome.map(|_| true),
                () = cut.reached() => Ok(false),
            }
        })?;
        let steps = run.cut.steps();
        // Now and then the process lives on for a while.
        let whole = acknowledged && steps.len() <= step;
        rig.restart()?;
        rig.settle()?;
        let after = rig.balances()?;
        let moved: Vec<i32> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        let mut all = vec![0; 3];
        moves.iter().for_each(|(id, n)| all[*id as usize] += n);
        let nothing = vec![0; 3];
        assert!(moved == all || (!acknowledged && moved == nothing), "{moved:?} after {steps:?}");
        before = after;
        if whole {
            // So many steps there are: prepare, decide, finish.
            assert!(step >= 6, "{steps:?}");
            return Ok(());
        }
    }
    Ok(())
}

fn a_crash_at_any_step_with_the_embedded_site(engines: [Engine; 2]) -> TestResult {
    crash_at_every_step(engines, &[(0, -10), (1, 10)])
}

fn a_crash_at_any_step_between_servers(engines: [Engine; 2]) -> TestResult {
    crash_at_every_step(engines, &[(1, -10), (2, 10)])
}

fn a_crash_at_any_step_with_three_participants(engines: [Engine; 2]) -> TestResult {
    crash_at_every_step(engines, &[(0, -10), (1, 3), (2, 7)])
}

/// A server dies at each step of a commit, and comes back.
fn a_server_dies_at_any_step(engines: [Engine; 2]) -> TestResult {
    let mut rig = Rig::of(engines)?;
    rig.accounts()?;
    for moves in [&[(0, -10), (1, 10)][..], &[(1, -10), (2, 10)]] {
        for step in 0..8 {
            let before = rig.balances()?;
            let run = rig.run();
            run.cut.pause_at(step);
            let (node, cut) = (run.node.clone(), run.cut.clone());
            let moving = run.spawn(async move {
                let txn = node.begin(patient());
                transfer(&*txn, moves).await?;
                txn.commit().await
            });
            let paused =
                run.block_on(async { tokio::time::timeout(Duration::from_secs(2), cut.reached()).await.is_ok() });
            if paused {
                rig.crash(0);
                rig.run().cut.go_on();
                std::thread::sleep(Duration::from_millis(100));
                rig.start_again(0)?;
            }
            let outcome = rig.run().block_on(moving)?;
            let steps = rig.run().cut.steps();
            rig.settle()?;
            let after = rig.balances()?;
            assert_eq!(after.iter().sum::<i32>(), TOTAL, "{steps:?}");
            match outcome {
                Ok(_) => assert_ne!(after, before, "{steps:?}"),
                Err(error) if error.outcome() == Outcome::Determinate => assert_eq!(after, before, "{steps:?} {error}"),
                Err(_) => {}
            }
        }
    }
    Ok(())
}

/// What is decided is answered as committed after the time-out, though a site is down, and nobody reads around it.
fn a_decided_commit_is_answered_while_a_site_is_down(engines: [Engine; 2]) -> TestResult {
    let mut rig = Rig::of(engines)?;
    rig.accounts()?;
    rig.timeout = Duration::from_secs(2);
    rig.restart()?;
    rig.settle()?;
    let run = rig.run();
    run.cut.pause_before("before finish");
    let (node, cut) = (run.node.clone(), run.cut.clone());
    let moving = run.spawn(async move {
        let txn = node.begin(patient());
        transfer(&*txn, &[(0, -10), (1, 10)]).await?;
        txn.commit().await
    });
    run.block_on(cut.reached());
    rig.crash(0);
    rig.run().cut.go_on();
    rig.run().block_on(moving)??;
    let read = rig.balances_now().map_err(|e| e.downcast::<atoll_model::Error>().map(|e| e.kind()).ok());
    assert_eq!(read.err(), Some(Some(ErrorKind::SiteUnavailable)));
    rig.start_again(0)?;
    rig.settle()?;
    assert_eq!(rig.balances()?, [EACH - 10, EACH + 10, EACH]);
    Ok(())
}

/// Recovery leaves alone what is not its own.
fn names_of_others_are_left_alone(engines: [Engine; 2]) -> TestResult {
    let mut rig = Rig::of(engines)?;
    rig.accounts()?;
    let foreign = ["atoll_00000000deadbeef_1-1_7_3", "atoll_by_hand", "mine"];
    for gid in foreign {
        rig.control.block_on(rig.databases[0].prepare_foreign(gid))?;
    }
    rig.restart()?;
    assert_eq!(rig.balances()?, [EACH; 3], "the site was looked at by now");
    assert_eq!(rig.control.block_on(rig.databases[0].all_prepared())?, 3);
    Ok(())
}

#[test]
fn a_server_without_prepared_transactions_says_what_to_set() -> TestResult {
    let rig = Rig::with(&["max_prepared_transactions=50"], &["max_prepared_transactions=0"])?;
    let refused = rig.accounts().err().and_then(|e| e.downcast::<atoll_model::Error>().ok());
    let refused = refused.ok_or("no table can be made there together with its definition")?;
    assert_eq!(refused.kind(), ErrorKind::NotInPrerequisiteState);
    assert!(refused.message().contains("\"pb\""), "{refused}");
    assert!(refused.hint_text().is_some_and(|hint| hint.contains("max_prepared_transactions")), "{refused:?}");
    assert!(rig.node().catalog().table("accounts").is_some_and(|t| t.fragments.len() == 2), "the others were made");
    // A transaction at the other sites, as ever.
    let node = rig.node();
    rig.run().block_on(async {
        let txn = node.begin(short());
        world::insert(&*txn, "accounts", vec![account(0, 1), account(1, 1)]).await?;
        txn.commit().await
    })?;
    assert_eq!(rig.balances()?, [1, 1]);
    Ok(())
}

fn a_site_that_is_new_is_committed_first(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    let url = rig.databases[0].url();
    let node = rig.node();
    let outcome = rig.run().block_on(async {
        let txn = node.begin(short());
        txn.apply(create_site("pc", Some(url))).await?;
        txn.apply(CatalogCommand::CreateTable(Box::new(accounts("t")))).await?;
        txn.apply(list_fragment("t", "t_c", &["c"], "pc")).await?;
        txn.commit().await
    });
    assert_eq!(outcome.err().map(|e| e.kind()), Some(ErrorKind::NotSupported));
    assert!(node.catalog().site("pc").is_none() && node.catalog().table("t").is_none());
    Ok(())
}
