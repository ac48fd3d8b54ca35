//! Services that are broken on purpose: each must be found out, or the check is worth nothing.

use crate::run;
use atoll_model::{NodeId, Result, Timestamp};
use atoll_protocol::timestamp::{Reply, Request, ServerId, SessionId, WaiterId};
use atoll_protocol::{Incarnation, Time};
use atoll_sim::timestamp::{Ask, Message, Node, Report, Settings};
use atoll_sim::{Boot, Disk, Effect, EffectOf, Event, EventOf, Faults, Often, Process, Rng, Run, Trace};
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

/// Seeds until one must have failed.
const SEEDS: u64 = 300;

/// Runs seeds until one fails, and says how.
fn found<P>() -> Option<String>
where
    P: Process<Settings = Settings, Command = Ask, Report = Report>,
{
    (0..SEEDS)
        .find_map(|seed| run::drawn::<P>(Run { seed, trace: Trace::Off }).err().map(|e| format!("seed {seed}: {e}")))
}

/// Whether what was found is that an answer broke a promise.
fn breaks_a_promise(wrong: Option<String>) -> bool {
    println!("{wrong:?}");
    wrong.is_some_and(|wrong| wrong.contains("had been given"))
}

/// A process that is a [`Node`] but for what it does to events and effects.
macro_rules! node_but {
    ($(#[$doc:meta])* $name:ident, start: $start:expr, effects: $effects:expr) => {
        $(#[$doc])*
        struct $name(Node);

        impl Process for $name {
            type Settings = Settings;
            type Message = Message;
            type Command = Ask;
            type Report = Report;

            fn start(boot: Boot<'_, Settings>) -> (Self, Vec<EffectOf<Self>>) {
                let now = boot.now;
                let (mut node, effects): (Node, _) = $start(boot);
                let effects = $effects(&mut node, now, effects);
                ($name(node), effects)
            }

            fn step(&mut self, now: Time, event: EventOf<Self>) -> Vec<EffectOf<Self>> {
                let effects = self.0.step(now, event);
                $effects(&mut self.0, now, effects)
            }

            fn wake_at(&self) -> Option<Time> {
                self.0.wake_at()
            }
        }
    };
}

type Effects = Vec<EffectOf<Node>>;

/// All effects as they are.
fn untouched(_: &mut Node, _: Time, effects: Effects) -> Effects {
    effects
}

/// A sync is over before it has begun, and makes nothing durable.
fn unsynced(node: &mut Node, now: Time, effects: Effects) -> Effects {
    let mut out = vec![];
    for effect in effects {
        match effect {
            Effect::Sync(number) => {
                let effects = node.step(now, Event::Synced(number));
                out.extend(unsynced(node, now, effects));
            }
            effect => out.push(effect),
        }
    }
    out
}

/// Replies do not wait for the disk: the sync is asked for, and taken as done at once.
fn impatient(node: &mut Node, now: Time, effects: Effects) -> Effects {
    let mut out = vec![];
    for effect in effects {
        if let Effect::Sync(number) = effect {
            out.push(Effect::Sync(number));
            let effects = node.step(now, Event::Synced(number));
            out.extend(impatient(node, now, effects));
        } else {
            out.push(effect);
        }
    }
    out
}

/// The values of some requests are those of the one before.
fn repeating(_: &mut Node, _: Time, mut effects: Effects) -> Effects {
    for effect in &mut effects {
        if let Effect::Send(_, Message::Reply(reply)) = effect {
            reply.clock -= reply.clock % 3;
        }
    }
    effects
}

fn amnesiac(boot: Boot<'_, Settings>) -> (Node, Effects) {
    Node::start(Boot { disk: &Disk::default(), ..boot })
}

fn first_run(boot: Boot<'_, Settings>) -> (Node, Effects) {
    Node::start(Boot { run: Incarnation { epoch: 1, ..boot.run }, ..boot })
}

node_but!(
    /// The server forgets to sync its limit.
    Unsynced, start: Node::start, effects: unsynced
);
node_but!(
    /// The server syncs its limit, but does not wait.
    Impatient, start: Node::start, effects: impatient
);
node_but!(
    /// The server forgets its limit in a crash.
    Amnesiac, start: amnesiac, effects: untouched
);
node_but!(
    /// The client counts its sessions from the beginning after a crash, so that late replies count in new ones.
    Forgetful, start: first_run, effects: untouched
);
node_but!(
    /// The server gives out the same values to several sessions.
    Repeating, start: Node::start, effects: repeating
);
node_but!(
    /// Nothing is broken.
    Sound, start: Node::start, effects: untouched
);

/// A client that takes the largest of the first `NEEDS` replies, and looks no further.
struct Hasty<const NEEDS: usize> {
    /// For its server.
    node: Node,
    run: Incarnation,
    settings: Settings,
    begun: u64,
    waiting: BTreeMap<u64, (WaiterId, BTreeMap<ServerId, u64>)>,
}

impl<const NEEDS: usize> Process for Hasty<NEEDS> {
    type Settings = Settings;
    type Message = Message;
    type Command = Ask;
    type Report = Report;

    fn start(boot: Boot<'_, Settings>) -> (Self, Vec<EffectOf<Self>>) {
        let (run, settings) = (boot.run, *boot.settings);
        let (node, effects) = Node::start(boot);
        (Hasty { node, run, settings, begun: 0, waiting: BTreeMap::new() }, effects)
    }

    fn step(&mut self, now: Time, event: EventOf<Self>) -> Vec<EffectOf<Self>> {
        match event {
            Event::Command(Ask(waiter)) => self.ask(waiter),
            Event::Message(_, Message::Reply(reply)) => self.hear(reply).into_iter().collect(),
            event => self.node.step(now, event),
        }
    }

    fn wake_at(&self) -> Option<Time> {
        self.node.wake_at()
    }
}

impl<const NEEDS: usize> Hasty<NEEDS> {
    fn ask(&mut self, waiter: WaiterId) -> Vec<EffectOf<Self>> {
        self.begun += 1;
        self.waiting.insert(self.begun, (waiter, BTreeMap::new()));
        let session = SessionId { client: self.run, number: self.begun };
        let request = Message::Request(Request { session, above: 0, count: NonZeroU16::MIN });
        let sends = self.settings.servers.ids().map(|id| Effect::Send(NodeId(u16::from(id.0)), request));
        [Effect::Report(Report::Asked(waiter))].into_iter().chain(sends).collect()
    }

    fn hear(&mut self, reply: Reply) -> Option<EffectOf<Self>> {
        let number = reply.session.number;
        let (waiter, replies) = self.waiting.get_mut(&number).filter(|_| reply.session.client == self.run)?;
        replies.entry(reply.server).or_insert(reply.clock);
        if replies.len() < NEEDS {
            return None;
        }
        let (clock, server) = replies.iter().map(|(server, clock)| (*clock, *server)).max()?;
        let answer = Report::Answered(*waiter, Ok(self.settings.servers.timestamp(server, clock)));
        self.waiting.remove(&number);
        Some(Effect::Report(answer))
    }
}

/// Values that a session draws beyond those of its waiters.
const SPARE: u16 = 8;

/// Sessions draw spare values, all in order; `LATE`, they are given to waiters that come while the session is under way.
struct Sharing<const LATE: bool> {
    node: Node,
    servers: u64,
    first: Option<WaiterId>,
    joined: Vec<WaiterId>,
}

impl<const LATE: bool> Process for Sharing<LATE> {
    type Settings = Settings;
    type Message = Message;
    type Command = Ask;
    type Report = Report;

    fn start(boot: Boot<'_, Settings>) -> (Self, Vec<EffectOf<Self>>) {
        let servers = boot.settings.servers.ids().count() as u64;
        let (node, effects) = Node::start(boot);
        (Sharing { node, servers, first: None, joined: vec![] }, effects)
    }

    fn step(&mut self, now: Time, event: EventOf<Self>) -> Vec<EffectOf<Self>> {
        if let Event::Command(Ask(waiter)) = &event {
            if LATE && self.first.is_some() && self.joined.len() < usize::from(SPARE) {
                self.joined.push(*waiter);
                return vec![Effect::Report(Report::Asked(*waiter))];
            }
            self.first.get_or_insert(*waiter);
        }
        let mut out = vec![];
        for mut effect in self.node.step(now, event) {
            if let Effect::Send(_, Message::Request(request)) = &mut effect {
                request.count = request.count.saturating_add(SPARE);
            }
            let answer = match &effect {
                Effect::Report(Report::Answered(waiter, answer)) if self.first == Some(*waiter) => Some(answer.clone()),
                _ => None,
            };
            out.push(effect);
            out.extend(answer.into_iter().flat_map(|answer| self.share(&answer)));
        }
        out
    }

    fn wake_at(&self) -> Option<Time> {
        self.node.wake_at()
    }
}

impl<const LATE: bool> Sharing<LATE> {
    /// Those that have joined get the values below the first one's, which are the session's own as well.
    fn share(&mut self, answer: &Result<Timestamp>) -> Vec<EffectOf<Self>> {
        self.first = None;
        let below = |nth: u64| answer.clone().map(|timestamp| Timestamp(timestamp.0 - nth * self.servers));
        let joined = std::mem::take(&mut self.joined).into_iter().zip(1..);
        joined.map(|(waiter, nth)| Effect::Report(Report::Answered(waiter, below(nth)))).collect()
    }
}

#[test]
fn a_service_that_is_not_broken_is_not_found_out() {
    let wrong = (0..5).find_map(|seed| run::drawn::<Sound>(Run { seed, trace: Trace::Off }).err());
    assert_eq!(wrong, None);
    let wrong = (0..5).find_map(|seed| run::drawn::<Sharing<false>>(Run { seed, trace: Trace::Off }).err());
    assert_eq!(wrong, None, "spare values do no harm");
}

#[test]
fn a_client_that_lets_waiters_join_a_session_under_way_is_found_out() {
    assert!(breaks_a_promise(found::<Sharing<true>>()));
}

#[test]
fn a_server_that_forgets_to_sync_its_limit_is_found_out() {
    assert!(breaks_a_promise(found::<Unsynced>()));
}

#[test]
fn a_server_that_does_not_wait_for_its_limit_is_found_out() {
    // The limit that it should have waited for must be needed at once, and late.
    let often = Often { every: Duration::from_millis(20), least: Duration::ZERO, most: Duration::from_millis(20) };
    let sync_slowest = Duration::from_millis(40);
    let faults = Faults { crashes: Some(often), sync_fastest: sync_slowest, sync_slowest, ..Faults::none() };
    let wrong = (0..SEEDS).find_map(|seed| {
        let mut settings = run::settings(&mut Rng::new(seed ^ run::DRAWN));
        settings.iter_mut().for_each(|settings| settings.serving.lease = 2);
        run::trouble::<Impatient>(Run { seed, trace: Trace::Off }, faults, settings).err()
    });
    assert!(breaks_a_promise(wrong));
}

#[test]
fn a_server_without_memory_is_found_out() {
    assert!(breaks_a_promise(found::<Amnesiac>()));
}

#[test]
fn a_server_that_gives_out_values_twice_is_found_out() {
    assert!(breaks_a_promise(found::<Repeating>()));
}

#[test]
fn a_client_that_counts_sessions_anew_after_a_crash_is_found_out() {
    assert!(breaks_a_promise(found::<Forgetful>()));
}

#[test]
fn a_client_that_asks_one_server_is_found_out() {
    assert!(breaks_a_promise(found::<Hasty<1>>()));
}

#[test]
fn a_client_that_does_not_see_to_it_that_a_majority_has_got_so_far_is_found_out() {
    assert!(breaks_a_promise(found::<Hasty<2>>()));
}
