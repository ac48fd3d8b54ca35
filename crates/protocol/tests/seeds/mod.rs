//! Random runs, each from a seed, until time is up.
//!
//! `ATOLL_PROTOCOL_SEED=N` repeats one run and prints what happened in it; `ATOLL_PROTOCOL_SECONDS` bounds the time (3 for each test).

mod rng;

pub(crate) use rng::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// One run of a world.
pub(crate) trait Run {
    /// Panics if something is wrong.
    fn run(&mut self);

    /// What happened, if it was to be told.
    fn trace(&self) -> Option<&str>;

    /// What was drawn from the seed, for people.
    fn drawn(&self) -> String;
}

/// Runs worlds until time is up, and returns how many there were. `after` sees each at its end.
pub(crate) fn explore<W: Run>(
    file: &str,
    test: &str,
    make: impl Fn(u64, bool) -> W,
    mut after: impl FnMut(&W),
) -> Result<usize, String> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let given = number("ATOLL_PROTOCOL_SEED");
    let limit = Duration::from_secs(number("ATOLL_PROTOCOL_SECONDS").unwrap_or(3));
    let (began, first) = (Instant::now(), given.unwrap_or_else(Rng::fresh_seed));
    let mut runs = 0;
    while runs == 0 || given.is_none() && began.elapsed() < limit {
        let seed = first + runs as u64;
        let mut world = make(seed, given.is_some());
        let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
        if let Some(trace) = world.trace() {
            println!("{trace}");
        }
        if outcome.is_err() {
            return Err(format!(
                "seed {seed} ({}) fails as said above; to repeat it:\n\
                 ATOLL_PROTOCOL_SEED={seed} cargo test -p atoll-protocol --test {file} {test} -- --nocapture",
                world.drawn()
            ));
        }
        after(&world);
        runs += 1;
    }
    println!("{test}: {runs} runs from seed {first}");
    Ok(runs)
}
