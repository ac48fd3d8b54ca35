//! Membership under random loss, repetition, delay, sleep, crashes, restarts, goodbyes, and cuts in one direction or both.
//!
//! In every run, at every step: what a node believes of another only moves to greater claims, a run that has left stays left, and
//! messages are bounded. At the end, when all is well again, every living node believes of each what is true, within the time
//! that [`Options::agreement`] gives.
//!
//! [`explore`] says how to repeat a run.

mod cluster;

use atoll_model::NodeId;
use atoll_protocol::membership::{Options, State};
use atoll_sim::{Campaign, Explored, Rng, Run, Trace, explore};
use cluster::{Cluster, Counts, Faults, Size};
use std::time::Duration;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn quick() -> Result<Options, Box<dyn std::error::Error>> {
    Ok(Options::new(Duration::from_secs(1), Duration::from_secs(3))?)
}

fn run(test: &str, make: impl Fn(&mut Rng) -> (Size, Faults)) -> Result<Explored<Counts>, String> {
    let campaign = Campaign { package: "atoll-protocol", file: "membership", test, regressions: "", seconds: 3 };
    explore(
        campaign,
        |_| true,
        |Run { seed, trace }| {
            let (size, faults) = make(&mut Rng::new(seed ^ 0x5eed));
            let mut cluster = Cluster::new(seed, size, faults, trace == Trace::Printed);
            cluster.run();
            Ok(cluster.counts)
        },
    )
}

#[test]
fn everything_goes_wrong() -> TestResult {
    let options = quick()?;
    let Explored { total, runs, .. } = run("everything_goes_wrong", |rng| {
        let size = Size { nodes: 3 + rng.below(5), options, seconds: 60 + rng.below(120) as u64 };
        let faults = Faults {
            loss: rng.below(300),
            copies: rng.below(100),
            slow: rng.below(50),
            sleeps: rng.below(20),
            crashes: rng.below(20),
            leaves: rng.below(10),
            cuts: rng.below(100),
            skew: rng.below(10_000),
            refusing: rng.chance(300),
            ..Faults::default()
        };
        (size, faults)
    })?;
    let happened = [total.refuted, total.rightly_down, total.left, total.restarts, total.pauses, total.wrongly_down];
    let enough = runs / 2;
    // A few runs may all have drawn good weather.
    assert!(runs < 10 || happened.iter().all(|count| *count >= enough), "hardly anything in {runs} runs: {total:?}");
    Ok(())
}

/// At the usual settings, in a network that loses a tenth of what is sent. A suspicion there costs a few messages, and is rare (61 runs, 305 hours of a node:
/// six, all refuted); nobody is taken for down.
#[test]
fn a_tenth_of_the_messages_is_lost() -> TestResult {
    let size = Size { nodes: 5, options: Options::default(), seconds: 3600 };
    let faults = Faults { loss: 100, copies: 20, skew: 100, ..Faults::default() };
    let Explored { total, runs, .. } = run("a_tenth_of_the_messages_is_lost", |_| (size, faults))?;
    let hours = runs as f64 * size.nodes as f64;
    println!(
        "wrongly suspected: {:.2} per node and hour, down: {}",
        total.wrongly_suspected as f64 / hours,
        total.wrongly_down
    );
    assert_eq!(total.wrongly_down, 0, "{total:?}");
    assert!((total.wrongly_suspected as f64) < hours, "{total:?}");
    Ok(())
}

/// Who wakes up draws no conclusions about others from not having heard them.
#[test]
fn one_node_sleeps_again_and_again() -> TestResult {
    let options = quick()?;
    let Explored { total, .. } = run("one_node_sleeps_again_and_again", |rng| {
        let size = Size { nodes: 2 + rng.below(4), options, seconds: 600 };
        (size, Faults { sleeps: 50, sleeper: Some(rng.below(size.nodes)), ..Faults::default() })
    })?;
    assert!(total.pauses > 0 && total.wrongly_down > 0, "{total:?}");
    assert_eq!(total.of_the_wakeful, 0, "{total:?}");
    Ok(())
}

/// One does not hear one other, and each of the two is heard by a third.
#[test]
fn one_path_is_cut_in_one_direction() -> TestResult {
    let options = quick()?;
    let Explored { total, .. } = run("one_path_is_cut_in_one_direction", |rng| {
        let size = Size { nodes: 3 + rng.below(4), options, seconds: 300 };
        let from = rng.below(size.nodes);
        let to = (from + 1 + rng.below(size.nodes - 1)) % size.nodes;
        (size, Faults { cut: Some((from, to)), skew: 100, ..Faults::default() })
    })?;
    assert_eq!((total.wrongly_suspected, total.wrongly_down), (0, 0), "{total:?}");
    Ok(())
}

/// At the usual settings, a killed process is known to be gone much sooner than by its silence.
#[test]
fn a_killed_process_is_down_everywhere_within_two_seconds() {
    for seed in 0..50 {
        let size = Size { nodes: 5, options: Options::default(), seconds: 0 };
        let mut cluster = Cluster::new(seed, size, Faults { refusing: true, ..Faults::default() }, false);
        cluster.pass(20_000 + seed * 137);
        let node = (seed % 5) as usize;
        let whom = NodeId(node as u16 + 1);
        assert_eq!(cluster.beliefs(whom), [Some((1, State::Alive))].into());
        cluster.crash(node);
        cluster.pass(2000);
        assert_eq!(cluster.beliefs(whom), [Some((1, State::Down))].into(), "seed {seed}");
    }
}

/// More nodes than a message has room for.
#[test]
fn twenty_nodes_agree_in_time() -> TestResult {
    let size = Size { nodes: 20, options: quick()?, seconds: 2 };
    let mut cluster = Cluster::new(1, size, Faults { loss: 200, leaves: 50, ..Faults::default() }, false);
    cluster.run();
    println!("{:?}", cluster.counts);
    assert!(cluster.counts.left > 0, "{:?}", cluster.counts);
    Ok(())
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.messages += other.messages;
        self.wrongly_suspected += other.wrongly_suspected;
        self.wrongly_down += other.wrongly_down;
        self.of_the_wakeful += other.of_the_wakeful;
        self.refuted += other.refuted;
        self.rightly_down += other.rightly_down;
        self.left += other.left;
        self.restarts += other.restarts;
        self.pauses += other.pauses;
    }
}
