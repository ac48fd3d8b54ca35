//! A test over many seeds: those that failed once, then fresh ones until time is up.
//!
//! `ATOLL_SIM_SEED=N` runs one seed alone and traces it; `ATOLL_SIM_SECONDS` says for how long each test explores, at least: one that
//! has to see a number of things goes on until it has seen them.

use crate::Rng;
use std::fmt::Debug;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A test that explores.
#[derive(Clone, Copy, Debug)]
pub struct Campaign<'a> {
    /// The package of the test.
    pub package: &'a str,
    /// The file of the test, without its ending, and the test's name: for the command that replays a seed.
    pub file: &'a str,
    /// The test's name, which also stands before its seeds in `regressions`.
    pub test: &'a str,
    /// Lines of a test's name and a seed that once failed; what follows `#` is a comment.
    pub regressions: &'a str,
    /// For how many seconds it explores, if `ATOLL_SIM_SECONDS` does not say.
    pub seconds: u64,
}

/// What exploring has come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored<C> {
    /// What the runs have counted, together.
    pub total: C,
    /// How many runs there were.
    pub runs: u64,
    /// One run was replayed, of which nothing can be expected that is true of many.
    pub is_replay: bool,
}

/// One seed's turn.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// What becomes of what happens.
    pub trace: Trace,
}

/// What becomes of the text of what happens in a run. To write it costs a third of the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trace {
    /// It is not written.
    Off,
    /// It is read by people.
    Printed,
    /// Two runs are compared by it.
    Hashed,
}

impl Campaign<'_> {
    fn regressions(&self) -> Result<Vec<u64>, String> {
        let mut seeds = vec![];
        for line in self.regressions.lines() {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [test, seed] => {
                    let seed: u64 = seed.parse().map_err(|e| format!("{line}: {e}"))?;
                    seeds.extend((*test == self.test).then_some(seed));
                }
                _ => return Err(format!("{line}: not a test and a seed")),
            }
        }
        Ok(seeds)
    }

    fn replay(&self, seed: u64) -> String {
        let Campaign { package, file, test, .. } = self;
        format!("ATOLL_SIM_SEED={seed} cargo test -p {package} --test {file} {test} -- --exact --nocapture")
    }
}

/// Runs seeds until time is up and there was enough of what is counted. `ATOLL_SIM_SEED=N` runs one seed alone and prints what happens in it,
/// `ATOLL_SIM_SECONDS` says for how long to explore, at least.
///
/// # Errors
/// A run fails or panics; the text has the command that replays it.
pub fn explore<C: Default + AddAssign + Debug>(
    campaign: Campaign<'_>,
    enough: impl Fn(&C) -> bool,
    run: impl Fn(Run) -> Result<C, String>,
) -> Result<Explored<C>, String> {
    let mut explored = Explored::<C>::default();
    let mut attempt = |seed: u64, trace: Trace| -> Result<bool, String> {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(Run { seed, trace })));
        match outcome.unwrap_or_else(|_| Err("it panicked, as said above".into())) {
            Ok(counts) => explored.total += counts,
            Err(wrong) => return Err(format!("seed {seed}: {wrong}\nto see it again: {}", campaign.replay(seed))),
        }
        explored.runs += 1;
        Ok(enough(&explored.total))
    };
    if let Some(seed) = number("ATOLL_SIM_SEED")? {
        attempt(seed, Trace::Printed)?;
        return Ok(Explored { is_replay: true, ..explored });
    }
    for seed in campaign.regressions()? {
        attempt(seed, Trace::Off)?;
    }
    let limit = Duration::from_secs(number("ATOLL_SIM_SECONDS")?.unwrap_or(campaign.seconds));
    let first = Rng::fresh_seed();
    let (began, mut seed) = (Instant::now(), first);
    while !attempt(seed, Trace::Off)? || began.elapsed() < limit {
        seed += 1;
    }
    println!("{}: {} runs from seed {first}: {:?}", campaign.test, explored.runs, explored.total);
    Ok(explored)
}

fn number(name: &str) -> Result<Option<u64>, String> {
    let Ok(value) = std::env::var(name) else { return Ok(None) };
    value.parse().map(Some).map_err(|e| format!("{name}={value}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMPAIGN: Campaign<'static> = Campaign {
        package: "atoll-sim",
        file: "world",
        test: "it_holds",
        regressions: "it_holds 7 # once\n\n# nothing\nother 8\nit_holds 9",
        seconds: 0,
    };

    #[test]
    fn seeds_that_failed_once_are_run() {
        assert_eq!(CAMPAIGN.regressions(), Ok(vec![7, 9]));
        let wrong = Campaign { regressions: "it_holds seven", ..CAMPAIGN };
        assert!(wrong.regressions().is_err_and(|e| e.contains("it_holds seven")));
    }

    #[test]
    fn a_seed_that_fails_is_told_with_the_command_that_replays_it() {
        let fails = |run: Run| if run.seed == 9 { Err("too much".to_string()) } else { Ok(1_u64) };
        let told = explore(CAMPAIGN, |_| true, fails).map(|explored| explored.total);
        let command = "ATOLL_SIM_SEED=9 cargo test -p atoll-sim --test world it_holds -- --exact --nocapture";
        assert_eq!(told, Err(format!("seed 9: too much\nto see it again: {command}")));
    }
}
