//! A timestamp service in a world, with clients that ask and a check of every answer.

use crate::Total;
use atoll_model::{NodeId, Timestamp};
use atoll_protocol::Backoff;
use atoll_protocol::timestamp::{ServerId, Servers, WaiterId, client, server};
use atoll_sim::history::timestamps::Timestamps;
use atoll_sim::timestamp::{Ask, Report, Settings};
use atoll_sim::{Faults, Moment, News, Process, Rng, Run, Trace, World};
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

/// Servers, if nothing else is said.
const SERVERS: u8 = 3;
pub(crate) const NODES: u8 = 5;
/// The virtual time in which things go wrong.
const TROUBLED: Moment = Moment(5_000_000);
/// What a run draws for itself does not come from the numbers that its world draws.
pub(crate) const DRAWN: u64 = 0x5eed;
/// Longer than any pause, delay or time-out.
const REST: Duration = Duration::from_secs(20);

/// Nodes that draw timestamps.
pub(crate) struct Service<P: Process> {
    pub(crate) world: World<P>,
    history: Timestamps,
    open: BTreeMap<u64, (NodeId, Moment)>,
    asked: u64,
    given: BTreeMap<NodeId, usize>,
    waits: Vec<Duration>,
    sessions: usize,
    failed: usize,
}

impl<P: Process<Settings = Settings, Command = Ask, Report = Report>> Service<P> {
    /// The servers are the first of the nodes.
    pub(crate) fn new(seed: u64, faults: Faults, settings: Vec<Settings>, trace: Trace) -> Service<P> {
        let settings = settings.into_iter().zip(0..).map(|(settings, node)| Settings {
            server: settings.servers.ids().find(|id| *id == ServerId(node)),
            ..settings
        });
        Service {
            world: World::new(seed, faults, settings.collect(), trace),
            history: Timestamps::default(),
            open: BTreeMap::new(),
            asked: 0,
            given: BTreeMap::new(),
            waits: vec![],
            sessions: 0,
            failed: 0,
        }
    }

    /// Asks at all nodes until then, one by one or some together.
    pub(crate) fn ask_until(&mut self, end: Moment) -> Result<(), String> {
        while self.world.now() < end {
            let pause = Duration::from_micros(self.world.rng().between(0, 5000));
            self.live_until((self.world.now() + pause).min(end))?;
            let node = NodeId(self.world.rng().below(NODES.into()) as u16);
            let together = if self.world.rng().chance(100) { self.world.rng().between(2, 11) } else { 1 };
            (0..together).for_each(|_| self.ask(node));
        }
        Ok(())
    }

    pub(crate) fn ask(&mut self, node: NodeId) {
        self.asked += 1;
        self.world.command(node, Ask(WaiterId(self.asked)));
    }

    /// Lets time pass, and looks at every answer.
    pub(crate) fn live_until(&mut self, end: Moment) -> Result<(), String> {
        while self.world.step(end) {
            let before = self.history.given();
            while let Some(news) = self.world.news() {
                self.hear(news).map_err(|e| format!("at {}: {e}", self.world.now()))?;
            }
            // Whatever is answered in one step, one session at least has ended in it.
            self.sessions += usize::from(self.history.given() > before);
        }
        Ok(())
    }

    fn hear(&mut self, news: News<Report>) -> Result<(), String> {
        match news {
            News::Report(node, Report::Asked(WaiterId(request))) => {
                self.history.asked(request);
                self.open.insert(request, (node, self.world.now()));
            }
            News::Report(node, Report::Answered(WaiterId(request), answer)) => match answer {
                Ok(timestamp) => self.given(node, request, timestamp)?,
                Err(_) => {
                    self.open.remove(&request);
                    self.failed += 1;
                    self.history.failed(request).map_err(|e| e.to_string())?;
                }
            },
            News::Crashed(node) => {
                let lost: Vec<u64> =
                    self.open.iter().filter(|(_, (at, _))| *at == node).map(|(request, _)| *request).collect();
                for request in lost {
                    self.open.remove(&request);
                    self.history.failed(request).map_err(|e| e.to_string())?;
                }
            }
            News::Started(_) => {}
        }
        Ok(())
    }

    fn given(&mut self, node: NodeId, request: u64, timestamp: Timestamp) -> Result<(), String> {
        self.history.answered(request, timestamp).map_err(|e| e.to_string())?;
        *self.given.entry(node).or_default() += 1;
        if let Some((_, asked)) = self.open.remove(&request) {
            self.waits.push(self.world.now() - asked);
        }
        Ok(())
    }

    /// How many requests have no answer yet.
    pub(crate) fn open(&self) -> usize {
        self.history.open().count()
    }

    /// How many timestamps somebody at this node got so far.
    pub(crate) fn given_at(&self, node: NodeId) -> usize {
        self.given.get(&node).copied().unwrap_or_default()
    }

    /// How long those that got one have waited.
    pub(crate) fn waits(&self) -> &[Duration] {
        &self.waits
    }

    pub(crate) fn total(&self) -> Total {
        Total {
            sessions: self.sessions,
            timestamps: self.history.given(),
            failed: self.failed,
            counts: self.world.counts(),
            fingerprint: self.world.fingerprint(),
        }
    }
}

/// A run with what its seed draws.
pub(crate) fn drawn<P>(run: Run) -> Result<Total, String>
where
    P: Process<Settings = Settings, Command = Ask, Report = Report>,
{
    let mut rng = Rng::new(run.seed ^ DRAWN);
    let faults = Faults::drawn(&mut rng);
    trouble::<P>(run, faults, settings(&mut rng))
}

/// A run in trouble, and then in health.
pub(crate) fn trouble<P>(Run { seed, trace }: Run, faults: Faults, settings: Vec<Settings>) -> Result<Total, String>
where
    P: Process<Settings = Settings, Command = Ask, Report = Report>,
{
    let mut service = Service::<P>::new(seed, faults, settings, trace);
    service.ask_until(TROUBLED)?;

    service.world.heal();
    let rested = service.world.now() + REST;
    service.live_until(rested)?;
    let open: Vec<u64> = service.history.open().collect();
    if !open.is_empty() {
        return Err(format!("{open:?} have no answer, {REST:?} after all was well"));
    }
    // One at a time, as a lease may be one value, a server's queue one reply, and a time-out shorter than a few syncs.
    for node in (0..u16::from(NODES)).map(NodeId) {
        let given = service.given_at(node);
        service.ask(node);
        service.live_until(service.world.now() + Duration::from_secs(1))?;
        if service.given_at(node) != given + 1 {
            return Err(format!("no timestamp at {node}, though all was well"));
        }
    }
    Ok(service.total())
}

/// Settings as they come.
pub(crate) fn default_settings() -> Settings {
    Settings {
        // The number is odd.
        servers: Servers::new(SERVERS).expect("an odd number"),
        server: None,
        client: client::Options::default(),
        serving: server::Options::default(),
    }
}

/// Settings that bring out what hardly ever happens with those that are usual: leases run out, many wait for one session.
pub(crate) fn settings(rng: &mut Rng) -> Vec<Settings> {
    let retry = Backoff { first: Duration::from_millis(20), most: Duration::from_millis(500) };
    let settings = Settings {
        client: client::Options {
            timeout: Duration::from_millis(rng.between(50, 5000)),
            sessions: 1 + rng.below(4),
            shared: NonZeroU16::MIN.saturating_add(rng.below(19) as u16),
            retry,
            ..client::Options::default()
        },
        serving: server::Options { lease: 1 << rng.below(9), waiting: 1 + rng.below(49), retry },
        ..default_settings()
    };
    vec![settings; usize::from(NODES)]
}
