//! The world itself: what its faults do to a process, and that they do no more.

use atoll_model::NodeId;
use atoll_protocol::Time;
use atoll_sim::{Boot, Effect, EffectOf, Event, EventOf, Faults, Moment, News, Often, Process, Trace, Weather, World};
use std::time::Duration;

/// Sends numbers to a neighbour, writes down what comes in, and says what it hears. Its name for the record is `heard`.
struct Parrot {
    due: Option<Time>,
}

impl Process for Parrot {
    type Settings = ();
    type Message = u64;
    type Command = u64;
    type Report = String;

    fn start(boot: Boot<'_, ()>) -> (Self, Vec<EffectOf<Self>>) {
        let heard = boot.disk.read("heard").map(|bytes| bytes[0]);
        (Parrot { due: None }, vec![Effect::Report(format!("heard {heard:?} before"))])
    }

    fn step(&mut self, now: Time, event: EventOf<Self>) -> Vec<EffectOf<Self>> {
        match event {
            // Tens are for the alarm, in as many milliseconds; the rest is for the neighbour.
            Event::Command(number) if number.is_multiple_of(10) => {
                self.due = Some(Time(now.0 + number));
                vec![]
            }
            Event::Command(number) => vec![Effect::Send(NodeId(1), number)],
            Event::Message(from, number) => vec![
                Effect::Write("heard".into(), vec![number as u8]),
                Effect::Sync(number),
                Effect::Report(format!("{number} from {from}")),
            ],
            Event::Refused(to, number) => vec![Effect::Report(format!("{number} not to {to}"))],
            Event::Synced(number) => vec![Effect::Report(format!("{number} is safe"))],
            Event::SyncFailed(number) => vec![Effect::Report(format!("{number} is doubtful"))],
            Event::Alarm => {
                assert!(self.due.take().is_some_and(|due| due <= now), "an alarm that is not due");
                vec![Effect::Report("alarm".into())]
            }
        }
    }

    fn wake_at(&self) -> Option<Time> {
        self.due
    }
}

fn world(seed: u64, faults: Faults) -> World<Parrot> {
    let mut world = World::new(seed, faults, vec![(); 3], Trace::Off);
    while world.news().is_some() {}
    world
}

/// What is said in this time, with when.
fn live(world: &mut World<Parrot>, time: Duration) -> Vec<(Moment, NodeId, String)> {
    let (end, mut said) = (world.now() + time, vec![]);
    while world.step(end) {
        while let Some(news) = world.news() {
            if let News::Report(node, text) = news {
                said.push((world.now(), node, text));
            }
        }
    }
    said
}

fn texts(said: &[(Moment, NodeId, String)]) -> Vec<&str> {
    said.iter().map(|(_, _, text)| text.as_str()).collect()
}

/// What has come from node 0.
fn numbers(said: &[(Moment, NodeId, String)]) -> Vec<u64> {
    said.iter().filter_map(|(_, _, text)| text.strip_suffix(" from 0")?.parse().ok()).collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn without_faults_messages_arrive_once_and_syncs_end() {
    let mut world = world(1, Faults::none());
    world.command(NodeId(0), 7);
    let said = live(&mut world, SECOND);
    assert_eq!(texts(&said), ["7 from 0", "7 is safe"]);
    let weather = Weather::fair();
    let took = said[0].0 - Moment(0);
    assert!(took >= weather.fastest && took <= weather.slowest, "{took:?}");
}

#[test]
fn messages_are_lost_copied_and_overtaken() {
    let weather = Weather { loss: 200, copies: 200, strays: 200, astray: SECOND, ..Weather::fair() };
    let mut world = world(2, Faults { weather, ..Faults::none() });
    (0..1000).for_each(|number| world.command(NodeId(0), number * 10 + 1));
    let said = live(&mut world, 3 * SECOND);
    let came = numbers(&said);
    let mut different = came.clone();
    different.sort_unstable();
    different.dedup();
    assert!((700..900).contains(&different.len()), "{} of 1000 arrived", different.len());
    assert!((100..250).contains(&(came.len() - different.len())), "{} copies", came.len() - different.len());
    assert!(!came.is_sorted(), "none was overtaken");
}

#[test]
fn a_crash_ends_a_run_and_a_start_finds_the_disk() {
    let mut world = world(3, Faults::none());
    world.command(NodeId(0), 7);
    live(&mut world, SECOND);
    world.command(NodeId(1), 50);
    live(&mut world, Duration::from_millis(1));
    world.crash(NodeId(1));
    assert!(!world.is_up(NodeId(1)));
    for number in 1..10 {
        world.command(NodeId(0), number);
    }
    let said = live(&mut world, SECOND);
    assert!(said.iter().all(|(_, node, text)| *node == NodeId(0) && text.ends_with("not to 1")), "{said:?}");
    assert!((1..9).contains(&said.len()), "some refusals are noticed, and some are not: {said:?}");
    world.start(NodeId(1));
    world.command(NodeId(0), 9);
    let said = live(&mut world, SECOND);
    assert_eq!(texts(&said), ["heard Some(7) before", "9 from 0", "9 is safe"], "the old run's alarm is gone");
}

#[test]
fn what_was_synced_is_there_after_a_crash_and_the_rest_by_chance() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..50 {
        let sync = Duration::from_millis(20);
        let mut world = world(seed, Faults { sync_fastest: sync, sync_slowest: sync, ..Faults::none() });
        world.command(NodeId(0), 7);
        live(&mut world, SECOND);
        world.command(NodeId(0), 9);
        assert_eq!(texts(&live(&mut world, Duration::from_millis(5))), ["9 from 0"]);
        world.crash(NodeId(1));
        world.start(NodeId(1));
        let mut said = vec![];
        while let Some(news) = world.news() {
            said.extend(matches!(news, News::Report(..)).then_some(news));
        }
        match &said[..] {
            [News::Report(_, text)] if text == "heard Some(9) before" => kept += 1,
            [News::Report(_, text)] if text == "heard Some(7) before" => lost += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(kept > 10 && lost > 10, "{kept} kept, {lost} lost");
}

#[test]
fn clocks_run_apart_and_alarms_go_off_by_them() {
    let mut world = world(4, Faults { drift: 300_000, ..Faults::none() });
    (0..3).for_each(|node| world.command(NodeId(node), 1000));
    let said = live(&mut world, 2 * SECOND);
    assert_eq!(texts(&said), ["alarm"; 3]);
    let (first, last) = (said[0].0, said[2].0);
    assert!(
        first >= Moment(750_000) && last <= Moment(1_450_000) && last - first > Duration::from_millis(20),
        "{said:?}"
    );
}

#[test]
fn a_pause_defers_everything_and_loses_nothing() {
    let often = Often {
        every: Duration::from_millis(300),
        least: Duration::from_millis(100),
        most: Duration::from_millis(200),
    };
    let mut world = world(5, Faults { pauses: Some(often), ..Faults::none() });
    let mut said = vec![];
    for number in 0..200 {
        world.command(NodeId(0), number * 10 + 1);
        said.extend(live(&mut world, Duration::from_millis(10)));
    }
    world.heal();
    said.extend(live(&mut world, SECOND));
    let mut came = numbers(&said);
    came.sort_unstable();
    assert_eq!(came, (0..200).map(|number| number * 10 + 1).collect::<Vec<_>>());
    assert!(world.counts().pauses > 3, "{:?}", world.counts());
    let moments: Vec<Moment> = said.iter().map(|(at, _, _)| *at).collect();
    let longest = moments.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(longest >= Some(Duration::from_millis(80)), "{longest:?}");
}

#[test]
fn an_alarm_that_is_put_off_does_not_go_off_before() {
    let mut world = world(7, Faults::none());
    world.command(NodeId(0), 100);
    live(&mut world, Duration::from_millis(50));
    world.command(NodeId(0), 300);
    let said = live(&mut world, SECOND);
    assert_eq!(texts(&said), ["alarm"]);
    assert!(said[0].0 >= Moment(345_000), "{said:?}");
}

/// A link may be cut in one direction alone, and is mended in the end.
#[test]
fn cuts_come_and_go() {
    let often =
        Often { every: Duration::from_millis(100), least: Duration::from_millis(50), most: Duration::from_millis(150) };
    let mut world = world(6, Faults { cuts: Some(often), ..Faults::none() });
    let mut said = vec![];
    for number in 0..500 {
        world.command(NodeId(0), number * 10 + 1);
        world.command(NodeId(2), number * 10 + 2);
        said.extend(live(&mut world, Duration::from_millis(10)));
    }
    let from = |node: u16| said.iter().filter(|(_, _, text)| text.ends_with(&format!(" from {node}"))).count();
    assert!(from(0) > 100 && from(0) < 500 && from(2) > 100 && from(2) < 500, "{} and {}", from(0), from(2));
    assert_ne!(from(0), from(2), "one link can be cut while the other is not");
    world.heal();
    live(&mut world, SECOND);
    world.command(NodeId(0), 3);
    world.command(NodeId(2), 3);
    assert_eq!(live(&mut world, SECOND).len(), 4, "both arrive and are synced");
}

/// How long nodes were down, one by one.
fn outages(world: &mut World<Parrot>, time: Duration) -> Vec<Duration> {
    let (end, mut down, mut outages) = (world.now() + time, [None; 3], vec![]);
    while world.step(end) {
        while let Some(news) = world.news() {
            match news {
                News::Crashed(node) => down[usize::from(node.0)] = Some(world.now()),
                News::Started(node) => {
                    outages.extend(down[usize::from(node.0)].take().map(|since| world.now() - since));
                }
                News::Report(..) => {}
            }
        }
    }
    outages
}

fn all_the_time(length: Duration) -> Option<Often> {
    Some(Often { every: Duration::from_millis(10), least: length, most: length })
}

#[test]
fn a_crash_lasts_as_long_as_it_lasts_whatever_else_strikes_the_node() {
    let length = Duration::from_millis(500);
    let mut world = world(8, Faults { crashes: all_the_time(length), ..Faults::none() });
    let outages = outages(&mut world, 20 * SECOND);
    assert!(outages.len() > 50, "{} outages", outages.len());
    assert_eq!(outages.into_iter().find(|outage| *outage != length), None);
}

#[test]
fn a_start_that_was_to_end_a_crash_does_not_end_a_later_one() {
    let mut world = world(9, Faults { crashes: all_the_time(SECOND), ..Faults::none() });
    live(&mut world, Duration::from_millis(500));
    let down = world.ids().find(|node| !world.is_up(*node)).expect("fifty crashes were due");
    world.heal();
    assert!(world.is_up(down));
    world.crash(down);
    live(&mut world, 5 * SECOND);
    assert!(!world.is_up(down), "nobody has started it");
}

#[test]
fn a_pause_is_one_only_where_a_process_runs() {
    let mut world = world(10, Faults { pauses: all_the_time(SECOND), ..Faults::none() });
    world.ids().for_each(|node| world.crash(node));
    live(&mut world, SECOND);
    assert_eq!(world.counts().pauses, 0);
    world.heal();
    world.command(NodeId(0), 7);
    assert!(texts(&live(&mut world, SECOND)).contains(&"7 from 0"), "a process starts with no pause of an earlier one");
}

#[test]
fn a_node_is_never_cut_from_itself() {
    let faults = Faults { cuts: all_the_time(SECOND), ..Faults::none() };
    let mut world = World::<Parrot>::new(11, faults, vec![(); 2], Trace::Off);
    live(&mut world, SECOND);
    for number in 0..100 {
        world.command(NodeId(1), number * 10 + 1);
    }
    let arrived = texts(&live(&mut world, SECOND)).iter().filter(|text| text.ends_with(" from 1")).count();
    assert_eq!(arrived, 100);
    assert!(world.counts().cuts > 100, "{:?}", world.counts());
    let mut alone = World::<Parrot>::new(11, faults, vec![()], Trace::Off);
    live(&mut alone, SECOND);
    assert_eq!(alone.counts().cuts, 0, "there is nothing to cut");
}

/// An alarm that an earlier one has taken the place of goes off for nothing, and has nothing else to follow it.
#[test]
fn alarms_do_not_multiply() {
    let mut world = world(12, Faults { drift: 0, ..Faults::none() });
    // Each is due before the one before.
    [500, 400, 300, 200, 100].iter().for_each(|number| world.command(NodeId(0), *number));
    assert_eq!(texts(&live(&mut world, Duration::from_millis(150))), ["alarm"]);
    world.command(NodeId(0), 1000);
    let end = world.now() + 2 * SECOND;
    let events = std::iter::from_fn(|| world.step(end).then_some(())).count();
    assert_eq!(events, 1 + 4 + 1, "the command, four that went off for nothing, and the alarm");
}

#[test]
fn a_run_does_not_hear_what_became_of_messages_of_the_one_before() {
    let mut world = world(13, Faults::none());
    world.crash(NodeId(1));
    (0..20).for_each(|number| world.command(NodeId(0), number * 10 + 1));
    live(&mut world, Duration::from_micros(100));
    world.crash(NodeId(0));
    world.start(NodeId(0));
    assert_eq!(texts(&live(&mut world, SECOND)), ["heard None before"]);
    assert_eq!(world.counts().lost, 20);
}
