//! Random runs of coordinator, participants, recovery and reads, with loss, repetition and crashes at every step.
//!
//! In every run, at every step: no transaction is committed at one participant and rolled back at another; none is committed before its
//! decision is recorded; an answer to a client is true; foreign prepared transactions are untouched; no read sees part of a commit, or misses
//! what its client knew to be committed. At the end, when all is well again: nothing is in doubt, no record is left, what was
//! acknowledged is there, and a new transaction and a new read succeed.
//!
//! `ATOLL_PROTOCOL_SEED=N` repeats one run and prints what happened in it; `ATOLL_PROTOCOL_SECONDS` bounds the time (3 for each test).

mod seeds;
mod world;

use seeds::Rng;
use world::{Counts, Faults, World};

/// Runs seeds, each with the faults that it draws, until time is up.
fn explore(test: &str, faults: impl Fn(&mut Rng) -> Faults) -> Result<(Counts, usize), String> {
    let mut total = Counts::default();
    let make = |seed, traced| World::new(seed, faults(&mut Rng(seed)), traced);
    let runs = seeds::explore("exploration", test, make, |world| total.add(world.counts))?;
    println!("{test}: {total:?}");
    Ok((total, runs))
}

#[test]
fn everything_goes_wrong() -> Result<(), String> {
    let (total, runs) = explore("everything_goes_wrong", |rng| Faults {
        loss: rng.below(150),
        copies: rng.below(100),
        refusals: rng.below(150),
        crashes: rng.below(40),
        haste: rng.chance(500),
        ..Faults::default()
    })?;
    worth_it(total, runs, true);
    Ok(())
}

#[test]
fn two_nodes_of_which_one_may_die_for_good() -> Result<(), String> {
    let (total, runs) = explore("two_nodes_of_which_one_may_die_for_good", |rng| Faults {
        loss: rng.below(100),
        copies: rng.below(100),
        refusals: rng.below(100),
        crashes: rng.below(40),
        haste: rng.chance(500),
        two_nodes: true,
        mortal: rng.chance(500),
        ..Faults::default()
    })?;
    worth_it(total, runs, false);
    Ok(())
}

/// All is well but for one crash, at each step in turn, of the coordinator or of each participant.
#[test]
fn one_crash_at_every_step() -> Result<(), String> {
    let (total, runs) = explore("one_crash_at_every_step", |rng| {
        let whom = rng.below(5).checked_sub(1);
        Faults { crash_at: Some((rng.below(250), whom)), ..Faults::default() }
    })?;
    worth_it(total, runs, true);
    Ok(())
}

/// Many reads beside many commits, nothing else.
#[test]
fn nothing_goes_wrong() -> Result<(), String> {
    let (total, runs) = explore("nothing_goes_wrong", |_| Faults::default())?;
    worth_it(total, runs, true);
    assert_eq!((total.aborted, total.crashes), (0, 0), "nothing went wrong, but {total:?}");
    Ok(())
}

/// Exploring says nothing if hardly anything happens.
fn worth_it(total: Counts, runs: usize, reads: bool) {
    assert!(total.committed >= runs, "{runs} runs, but {total:?}");
    assert!(!reads || total.reads >= runs, "{runs} runs, but {total:?}");
}
