//! Random runs of coordinator, participants, recovery and reads, with loss, repetition and crashes at every step.
//!
//! In every run, at every step: no transaction is committed at one participant and rolled back at another; none is committed before its
//! decision is recorded; an answer to a client is true; foreign prepared transactions are untouched; no read sees part of a commit, or misses
//! what its client knew to be committed. At the end, when all is well again: nothing is in doubt, no record is left, what was
//! acknowledged is there, and a new transaction and a new read succeed.
//!
//! `ATOLL_PROTOCOL_SEED=N` repeats one run and prints what happened in it; `ATOLL_PROTOCOL_SECONDS` bounds the time (3 for each test).

mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use world::{Counts, Faults, Rng, World};

/// Runs seeds, each with the faults that it draws, until time is up.
fn explore(test: &str, faults: impl Fn(&mut Rng) -> Faults) -> Result<(Counts, usize), String> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let given = number("ATOLL_PROTOCOL_SEED");
    let limit = Duration::from_secs(number("ATOLL_PROTOCOL_SECONDS").unwrap_or(3));
    let (began, first) = (Instant::now(), given.unwrap_or_else(Rng::fresh_seed));
    let (mut total, mut runs) = (Counts::default(), 0);
    while runs == 0 || given.is_none() && began.elapsed() < limit {
        let seed = first + runs as u64;
        let drawn = faults(&mut Rng(seed));
        let mut world = World::new(seed, drawn, given.is_some());
        let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
        if let Some(trace) = &world.trace {
            println!("{trace}");
        }
        if outcome.is_err() {
            return Err(format!(
                "seed {seed} ({drawn:?}) fails as said above; to repeat it:\n\
                 ATOLL_PROTOCOL_SEED={seed} cargo test -p atoll-protocol --test exploration {test} -- --nocapture"
            ));
        }
        total.add(world.counts);
        runs += 1;
    }
    println!("{test}: {runs} runs from seed {first}: {total:?}");
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
