//! Holders under clocks that differ as much as they may, sleep, crashes, restarts, hand-overs, a register that proposals reach late, twice
//! or never, and nodes that apply it late.
//!
//! In every run, at every step: in true time no two leases overlap, each epoch has one holder, and nothing is changed in an
//! epoch's name after something was in a newer one's. At the end, when all is well again, there is one holder.
//!
//! [`explore`] says how to repeat a run.

mod holders;

use atoll_protocol::election::holder::{Options, Skew};
use atoll_protocol::election::nomination::Policy;
use atoll_sim::{Campaign, Explored, Rng, Run, Trace, explore};
use holders::{Broken, Counts, Faults, Holders};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn faults(rng: &mut Rng, skew: u64) -> Faults {
    Faults {
        nodes: 2 + rng.below(4),
        policy: [Policy::Raft, Policy::Bully, Policy::Seer][rng.below(3)],
        loss: rng.below(300),
        copies: rng.below(200),
        slow: rng.below(200),
        sleeps: rng.below(30),
        crashes: rng.below(15),
        handovers: rng.below(30),
        stops: rng.below(15),
        skew,
        broken: Broken::Nothing,
    }
}

#[test]
fn everything_goes_wrong() -> Result<(), String> {
    let test = "everything_goes_wrong";
    let campaign = Campaign { package: "atoll-protocol", file: "election", test, regressions: "", seconds: 3 };
    let run = |Run { seed, trace }: Run| {
        let mut rng = Rng::new(seed ^ 0x5eed);
        // Where clocks may be very wrong, so that the wait is long, a wait that is too short shows.
        let skew =
            if rng.chance(500) { Skew::new(200_000).expect("a fifth is taken") } else { Options::default().skew };
        let options = Options { skew, ..Options::default() };
        let mut world =
            Holders::new(seed, faults(&mut rng, skew.millionths().into()), options, trace == Trace::Printed);
        world.run();
        Ok(world.counts)
    };
    let Explored { total, runs, .. } = explore(campaign, |_: &Counts| true, run)?;
    let happened = [total.epochs, total.renewals, total.begun, total.handed_over, total.done, total.fenced];
    let enough = runs / 2;
    // A few runs may all have drawn good weather.
    assert!(runs < 10 || happened.iter().all(|count| *count >= enough), "hardly anything in {runs} runs: {total:?}");
    Ok(())
}

/// Whether some run of these finds something wrong: the checks are worth nothing if they cannot fail.
fn is_found_out(options: Options, change: impl Fn(Faults) -> Faults) -> bool {
    (0..400).any(|seed| {
        let faults = change(faults(&mut Rng::new(seed ^ 0x5eed), u64::from(Options::default().skew.millionths())));
        let mut world = Holders::new(seed, faults, options, false);
        catch_unwind(AssertUnwindSafe(|| world.run())).is_err()
    })
}

#[test]
fn clocks_beyond_the_bound_are_found_out() {
    assert!(is_found_out(Options::default(), |faults| Faults { skew: 100_000, ..faults }));
}

#[test]
fn a_register_that_does_not_compare_is_found_out() {
    assert!(is_found_out(Options::default(), |faults| Faults { broken: Broken::Register, ..faults }));
}

#[test]
fn missing_fences_are_found_out() {
    assert!(is_found_out(Options::default(), |faults| Faults { broken: Broken::Fences, ..faults }));
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.epochs += other.epochs;
        self.renewals += other.renewals;
        self.begun += other.begun;
        self.handed_over += other.handed_over;
        self.done += other.done;
        self.fenced += other.fenced;
    }
}
