//! Random runs of coordinator, participants, recovery and reads, with loss, repetition and crashes at every step.
//!
//! In every run, at every step: no transaction is committed at one participant and rolled back at another; none is committed before its
//! decision is recorded; an answer to a client is true; foreign prepared transactions are untouched; no read sees part of a commit, or misses
//! what its client knew to be committed. At the end, when all is well again: nothing is in doubt, no record is left, what was
//! acknowledged is there, and a new transaction and a new read succeed.
//!
//! [`explore`] says how to repeat a run.

mod world;

use atoll_sim::{Campaign, Explored, Rng, Run, Trace, explore};
use world::{Counts, Faults, World};

/// Runs seeds, each with the faults that it draws, until time is up.
fn run(test: &str, faults: impl Fn(&mut Rng) -> Faults) -> Result<Explored<Counts>, String> {
    let campaign = Campaign { package: "atoll-protocol", file: "exploration", test, regressions: "", seconds: 3 };
    explore(
        campaign,
        |_| true,
        |Run { seed, trace }| {
            let mut world = World::new(seed, faults(&mut Rng::new(seed)), trace == Trace::Printed);
            world.run();
            Ok(world.counts)
        },
    )
}

#[test]
fn everything_goes_wrong() -> Result<(), String> {
    let explored = run("everything_goes_wrong", |rng| Faults {
        loss: rng.below(150),
        copies: rng.below(100),
        refusals: rng.below(150),
        crashes: rng.below(40),
        haste: rng.chance(500),
        ..Faults::default()
    })?;
    worth_it(&explored, true);
    Ok(())
}

#[test]
fn two_nodes_of_which_one_may_die_for_good() -> Result<(), String> {
    let explored = run("two_nodes_of_which_one_may_die_for_good", |rng| Faults {
        loss: rng.below(100),
        copies: rng.below(100),
        refusals: rng.below(100),
        crashes: rng.below(40),
        haste: rng.chance(500),
        two_nodes: true,
        mortal: rng.chance(500),
        ..Faults::default()
    })?;
    worth_it(&explored, false);
    Ok(())
}

/// All is well but for one crash, at each step in turn, of the coordinator or of each participant.
#[test]
fn one_crash_at_every_step() -> Result<(), String> {
    let explored = run("one_crash_at_every_step", |rng| {
        let whom = rng.below(5).checked_sub(1);
        Faults { crash_at: Some((rng.below(250), whom)), ..Faults::default() }
    })?;
    worth_it(&explored, true);
    Ok(())
}

/// Many reads beside many commits, nothing else.
#[test]
fn nothing_goes_wrong() -> Result<(), String> {
    let explored = run("nothing_goes_wrong", |_| Faults::default())?;
    worth_it(&explored, true);
    let total = explored.total;
    assert_eq!((total.aborted, total.crashes), (0, 0), "nothing went wrong, but {total:?}");
    Ok(())
}

/// Exploring says nothing if hardly anything happens.
fn worth_it(explored: &Explored<Counts>, reads: bool) {
    let runs = explored.runs as usize;
    let is_enough = |count: usize| explored.is_replay || count >= runs;
    assert!(is_enough(explored.total.committed), "{explored:?}");
    assert!(!reads || is_enough(explored.total.reads), "{explored:?}");
}
