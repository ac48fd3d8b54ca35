//! The sorted map against the standard library's.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Model = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
type Pairs = Vec<(Vec<u8>, Option<Vec<u8>>)>;

#[derive(Clone, Debug)]
enum Step {
    /// Keys from a number on, in order, with payloads of a length.
    Run(u16, u8, usize),
    Set(Vec<u8>, Option<usize>),
    Remove(Vec<u8>),
}

/// Keys of several lengths, many of which begin alike, some of which begin others.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => any::<u16>().prop_map(numbered),
        2 => prop::collection::vec(prop::sample::select(vec![0u8, 1, 255]), 1..7),
        1 => prop::collection::vec(any::<u8>(), 1..40),
    ]
}

fn numbered(n: u16) -> Vec<u8> {
    [&b"table"[..], &n.to_be_bytes()].concat()
}

fn step() -> impl Strategy<Value = Step> {
    // Now and then a record that fills a page or several.
    let length = || prop_oneof![8 => 0..200usize, 1 => 5_000..50_000usize];
    prop_oneof![
        3 => (any::<u16>(), any::<u8>(), 0..200usize).prop_map(|(from, count, length)| Step::Run(from, count, length)),
        8 => (key(), prop::option::weighted(0.8, length())).prop_map(|(key, length)| Step::Set(key, length)),
        3 => key().prop_map(Step::Remove),
    ]
}

/// A payload that differs from the one before it.
fn payload(turn: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| (turn.wrapping_mul(31) + i) as u8).collect()
}

fn pairs<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Pairs {
    entries.map(|(key, payload)| (key.to_vec(), payload.map(<[u8]>::to_vec))).collect()
}

fn within(map: &SortedMap, lower: Bound<&[u8]>, upper: Bound<&[u8]>, reverse: bool) -> Pairs {
    let cursor = Cursor::new(Arc::new(map.clone()), lower, upper);
    let own = |(key, payload): (Slice, Option<Slice>)| (key.to_vec(), payload.map(|payload| payload.to_vec()));
    if reverse { cursor.rev().map(own).collect() } else { cursor.map(own).collect() }
}

fn expected(model: &Model, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Pairs {
    let above = |key: &[u8]| match lower {
        Bound::Included(bound) => key >= bound,
        Bound::Excluded(bound) => key > bound,
        Bound::Unbounded => true,
    };
    let below = |key: &[u8]| match upper {
        Bound::Included(bound) => key <= bound,
        Bound::Excluded(bound) => key < bound,
        Bound::Unbounded => true,
    };
    model.iter().filter(|(key, _)| above(key) && below(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn set(map: &mut SortedMap, model: &mut Model, key: Vec<u8>, payload: Option<Vec<u8>>) {
    map.set(&key, payload.as_deref());
    model.insert(key, payload);
}

/// What the type promises of its inside.
fn check(map: &SortedMap) {
    let mut bytes = 0;
    for (at, Listed { from, page }) in map.pages.iter().enumerate() {
        assert!(!page.slots.is_empty(), "page {at} is empty");
        assert!(at == 0 || from.as_ref() <= page.first_key(), "page {at} begins before its fence");
        assert!(at == 0 || map.pages[at - 1].page.last_key() < from.as_ref(), "page {at} has its fence too low");
        assert!(page.records.len() <= PAGE || page.slots.len() == 1, "page {at} is too large");
        let live: usize = page.entries().map(|(key, payload)| key.len() + payload.map_or(0, <[u8]>::len)).sum();
        assert_eq!(live + page.garbage, page.records.len(), "garbage of page {at}");
        bytes += page.bytes();
    }
    assert_eq!(map.bytes(), bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Runs, single writes and removals; look-ups, ranges from both ends, parts; a clone keeps what it was.
    #[test]
    fn behaves_as_a_map(
        steps in prop::collection::vec(step(), 1..150),
        frozen in 0..150usize,
        ranges in prop::collection::vec((key(), key()), 8),
        count in 1..9usize,
    ) {
        let (mut map, mut model) = (SortedMap::default(), Model::new());
        let mut copy = None;
        for (turn, step) in steps.into_iter().enumerate() {
            if turn == frozen {
                copy = Some((map.clone(), model.clone()));
            }
            match step {
                Step::Run(from, count, length) => {
                    for n in from..from.saturating_add(count.into()) {
                        set(&mut map, &mut model, numbered(n), Some(payload(turn, length)));
                    }
                }
                Step::Set(key, length) => {
                    set(&mut map, &mut model, key, length.map(|length| payload(turn, length)));
                }
                Step::Remove(key) => {
                    map.remove(&key);
                    model.remove(&key);
                }
            }
            check(&map);
        }
        let (copy, then) = copy.unwrap_or_else(|| (map.clone(), model.clone()));
        for (map, model) in [(&map, &model), (&copy, &then)] {
            let all: Pairs = model.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            prop_assert_eq!(map.len(), all.len());
            prop_assert_eq!(map.is_empty(), all.is_empty());
            prop_assert_eq!(map.first_key(), all.first().map(|(key, _)| key.as_slice()));
            prop_assert_eq!(map.last_key(), all.last().map(|(key, _)| key.as_slice()));
            prop_assert_eq!(&pairs(map.iter()), &all);
            let parts: Vec<Pairs> = map.parts(count).map(pairs).collect();
            prop_assert!(parts.len() <= count);
            prop_assert_eq!(parts.concat(), all);
            for (key, _) in &ranges {
                prop_assert_eq!(map.get(key), model.get(key).map(Option::as_deref));
            }
            for (key, payload) in model {
                prop_assert_eq!(map.get(key), Some(payload.as_deref()));
            }
            // Bounds that are keys, that lie between, and that are inverted.
            for (a, b) in &ranges {
                for lower in [Bound::Included(a.as_slice()), Bound::Excluded(a), Bound::Unbounded] {
                    for upper in [Bound::Included(b.as_slice()), Bound::Excluded(b), Bound::Unbounded] {
                        let mut wanted = expected(model, lower, upper);
                        prop_assert_eq!(&within(map, lower, upper, false), &wanted);
                        wanted.reverse();
                        prop_assert_eq!(&within(map, lower, upper, true), &wanted);
                    }
                }
            }
        }
    }
}
