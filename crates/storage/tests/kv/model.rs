//! One client against a sorted map.

use super::{all, open};
use atoll_storage::TxnOptions;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Bound;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    /// New keys, enough of them for tables of their own.
    Load,
    Savepoint,
    RollbackTo(u8),
    Commit,
    Rollback,
    Scan(u8, u8, bool),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..20u8, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        3 => (0..20u8).prop_map(Step::Delete),
        1 => Just(Step::Load),
        2 => Just(Step::Savepoint),
        2 => any::<u8>().prop_map(Step::RollbackTo),
        2 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        3 => (0..20u8, 0..20u8, any::<bool>()).prop_map(|(a, b, r)| Step::Scan(a, b, r)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// One client against a sorted map: writes, savepoints, scans in both directions, commits, restarts.
    #[test]
    fn behaves_as_a_map(steps in prop::collection::vec(step(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let dir = tempfile::tempdir().expect("directory");
        let (mut store, mut space) = open(dir.path()).expect("open");
        let mut txn = store.begin(TxnOptions::default());
        let mut committed = Map::new();
        let mut model = committed.clone();
        let mut marks: Vec<(u64, Map)> = Vec::new();
        let mut loads = 0;
        for step in steps {
            match step {
                Step::Put(k, v) => {
                    txn.put(&space, &[k], &[v]).expect("put");
                    model.insert(vec![k], vec![v]);
                }
                Step::Delete(k) => {
                    txn.delete(&space, &[k]).expect("delete");
                    model.remove(&vec![k]);
                }
                Step::Load => {
                    loads += 1;
                    for n in 0..1_500u16 {
                        let key = [&[19, loads][..], &n.to_be_bytes()].concat();
                        txn.put_new(&space, &key, &[loads; 50]).expect("put");
                        model.insert(key, vec![loads; 50]);
                    }
                }
                Step::Savepoint => marks.push((txn.savepoint(), model.clone())),
                Step::RollbackTo(n) if !marks.is_empty() => {
                    marks.truncate(usize::from(n) % marks.len() + 1);
                    let (mark, then) = marks.last().expect("not empty");
                    txn.rollback_to(*mark);
                    model = then.clone();
                }
                Step::RollbackTo(_) => {}
                Step::Commit => {
                    runtime.block_on(txn.commit()).expect("commit");
                    committed = model.clone();
                    txn = store.begin(TxnOptions::default());
                    marks.clear();
                }
                Step::Rollback => {
                    txn.rollback();
                    model = committed.clone();
                    txn = store.begin(TxnOptions::default());
                    marks.clear();
                }
                Step::Scan(a, b, reverse) => {
                    let found: Vec<_> = txn
                        .scan(&space, Bound::Included(&[a]), Bound::Excluded(&[b]), reverse)
                        .map(|e| e.map(|(k, v)| (k.to_vec(), v.payload().to_vec())).expect("scan"))
                        .collect();
                    let mut expected: Vec<_> = model
                        .iter()
                        .filter(|(k, _)| k[0] >= a && k[0] < b)
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect();
                    if reverse {
                        expected.reverse();
                    }
                    prop_assert_eq!(found, expected);
                }
                Step::Reopen => {
                    drop(txn);
                    drop(space);
                    drop(store);
                    (store, space) = open(dir.path()).expect("reopen");
                    txn = store.begin(TxnOptions::default());
                    model = committed.clone();
                    marks.clear();
                }
            }
            for k in 0..20u8 {
                let found = txn.get(&space, &[k]).expect("get").map(|v| v.payload().to_vec());
                prop_assert_eq!(found.as_ref(), model.get(&vec![k]));
            }
        }
        let forward: Vec<_> = model.into_iter().collect();
        prop_assert_eq!(all(&txn, &space, false), forward.clone());
        prop_assert_eq!(all(&txn, &space, true), forward.into_iter().rev().collect::<Vec<_>>());
    }
}
