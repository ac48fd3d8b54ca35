//! Timestamps ([`atoll_protocol::timestamp`]) in the world: three servers, which are clients as well, and two more clients.
//!
//! `ATOLL_SIM_SEED=N` replays a run and tells what happens in it; `ATOLL_SIM_SECONDS` says for how long each test
//! explores, at least (10).

mod broken;
mod run;

use atoll_model::NodeId;
use atoll_protocol::timestamp::{Servers, server};
use atoll_sim::timestamp::Node;
use atoll_sim::{Campaign, Counts, Faults, Moment, Rng, Run, Trace, Weather, explore};
use run::{Service, settings};
use std::time::Duration;

/// What a run of a service has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Total {
    /// Sessions that ended, at least.
    sessions: usize,
    timestamps: usize,
    failed: usize,
    counts: Counts,
    /// See [`World::fingerprint`](atoll_sim::World::fingerprint).
    fingerprint: Option<u64>,
}

impl std::ops::AddAssign for Total {
    fn add_assign(&mut self, other: Total) {
        self.sessions += other.sessions;
        self.timestamps += other.timestamps;
        self.failed += other.failed;
        self.counts += other.counts;
        // Many runs together have none.
        self.fingerprint = None;
    }
}

fn campaign(test: &'static str) -> Campaign<'static> {
    let regressions = include_str!("../regressions.txt");
    Campaign { package: "atoll-sim", file: "timestamp", test, regressions, seconds: 10 }
}

/// Trouble of all kinds while timestamps are drawn; then health, in which all requests that are open end, and new ones succeed.
#[test]
fn timestamps_are_unique_and_in_real_time_order_through_all_faults() -> Result<(), String> {
    let name = "timestamps_are_unique_and_in_real_time_order_through_all_faults";
    let explored = explore(campaign(name), |total: &Total| total.sessions >= 100_000, run::drawn::<Node>)?;
    let total = explored.total;
    let Counts { lost, crashes, pauses, cuts, failed_syncs, .. } = total.counts;
    let all = [lost, crashes, pauses, cuts, failed_syncs];
    // Exploring says nothing if hardly anything happens.
    assert!(explored.is_replay || all.iter().all(|count| *count >= 100), "{total:?}");
    Ok(())
}

/// One server, which needs no other node, and five, of which two may be away.
#[test]
fn any_odd_number_of_servers() -> Result<(), String> {
    for (number, seed) in [1, 5].into_iter().flat_map(|number| (0..20).map(move |seed| (number, seed))) {
        let mut rng = Rng::new(seed ^ run::DRAWN);
        let (faults, mut settings) = (Faults::drawn(&mut rng), settings(&mut rng));
        let servers = Servers::new(number).map_err(|e| e.to_string())?;
        settings.iter_mut().for_each(|settings| settings.servers = servers);
        run::trouble::<Node>(Run { seed, trace: Trace::Off }, faults, settings)
            .map_err(|e| format!("{number} servers, seed {seed}: {e}"))?;
    }
    Ok(())
}

/// Each server in turn is down for some seconds, and no client is without timestamps for a second.
#[test]
fn one_server_of_three_may_be_down() -> Result<(), String> {
    let run = |Run { seed, trace }: Run| {
        let mut rng = Rng::new(seed ^ run::DRAWN);
        let mut settings = settings(&mut rng);
        // A server with room for one reply drops what others ask meanwhile, and who gives 50 ms does not ask a second time.
        settings.iter_mut().for_each(|settings| settings.serving.waiting = server::Options::default().waiting);
        let mut service = Service::<Node>::new(seed, Faults::none(), settings, trace);
        let (clients, mut down) = ([NodeId(3), NodeId(4)], NodeId(rng.below(3) as u16));
        for second in 0..20 {
            if second % 4 == 1 {
                service.world.crash(down);
            }
            if second % 4 == 0 {
                service.world.start(down);
                down = NodeId((down.0 + 1) % 3);
            }
            let before = clients.map(|client| service.given_at(client));
            service.ask_until(Moment(1_000_000 * (second + 1)))?;
            let after = clients.map(|client| service.given_at(client));
            for ((client, before), after) in clients.iter().zip(before).zip(after) {
                if after < before + 10 {
                    return Err(format!("{} timestamps at {client} in second {second}", after - before));
                }
            }
        }
        Ok(service.total())
    };
    let explored = explore(campaign("one_server_of_three_may_be_down"), |_| true, run)?;
    let total = explored.total;
    // Who waits for a server when it crashes, and gives 50 ms only, may run out of time.
    assert!(explored.is_replay || total.failed * 1000 < total.timestamps, "{total:?}");
    assert!(total.counts.crashes > 0, "{total:?}");
    Ok(())
}

/// Messages that are lost cost time, and no request fails: not even if one server is down, so that each of the others has to be heard.
#[test]
fn lost_messages_are_made_good() -> Result<(), String> {
    let weather = Weather { loss: 200, copies: 100, ..Weather::fair() };
    for seed in 0..10 {
        let settings = vec![run::default_settings(); usize::from(run::NODES)];
        let mut service = Service::<Node>::new(seed, Faults { weather, ..Faults::none() }, settings, Trace::Off);
        service.world.crash(NodeId(0));
        service.ask_until(Moment(5_000_000))?;
        service.live_until(Moment(10_000_000))?;
        let total = service.total();
        assert!(total.failed == 0 && total.timestamps > 500 && service.open() == 0, "seed {seed}: {total:?}");
    }
    Ok(())
}

/// In a network without faults half of all requests are answered within 1.2 round trips.
#[test]
fn a_timestamp_takes_one_round_trip() -> Result<(), String> {
    let weather = Weather::fair();
    let round_trip = weather.fastest + weather.slowest;
    let mut service =
        Service::<Node>::new(1, Faults::none(), vec![run::default_settings(); usize::from(run::NODES)], Trace::Off);
    service.ask_until(Moment(10_000_000))?;
    let mut waits = service.waits().to_vec();
    waits.sort_unstable();
    let (half, most) = (waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    println!("{} timestamps, a round trip being {round_trip:?}: p50 {half:?}, p99 {most:?}", waits.len());
    assert!(waits.len() > 1000);
    assert!(half <= round_trip.mul_f64(1.2), "p50 is {half:?}");
    assert!(half > Duration::from_micros(450), "no answer from another node can have come within {half:?}");
    Ok(())
}

/// A seed is a run: in the same world twice the same happens, to the last message.
#[test]
fn a_seed_is_a_run() -> Result<(), String> {
    for seed in 0..5 {
        let once = run::drawn::<Node>(Run { seed, trace: Trace::Hashed })?;
        let again = run::drawn::<Node>(Run { seed, trace: Trace::Hashed })?;
        assert!(once.fingerprint.is_some());
        assert_eq!(format!("{once:?}"), format!("{again:?}"), "seed {seed}");
        let other = run::drawn::<Node>(Run { seed: seed + 1, trace: Trace::Hashed })?;
        assert_ne!(once.fingerprint, other.fingerprint, "seed {seed} and the next");
    }
    Ok(())
}
