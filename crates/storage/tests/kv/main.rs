//! The key-value layer against its promises.

mod durability;
mod isolation;
mod locking;
mod model;

use atoll_storage::{Isolation, LockWait, Space, Store, StoreOptions, Txn, TxnOptions};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

type TestResult = Result<(), Box<dyn std::error::Error>>;

const WAIT: LockWait = LockWait::Timeout(Duration::from_secs(20));

fn options() -> StoreOptions {
    // A small memtable, so that flushes and compactions happen while tests run; a volume of any size will do.
    StoreOptions { memtable_bytes: 256 << 10, bulk_keys: 1000, disk_reserve: 0, ..StoreOptions::default() }
}

fn open(dir: &std::path::Path) -> Result<(Store, Arc<Space>), atoll_model::Error> {
    let store = Store::open(dir, options())?;
    let space = store.space("main")?;
    Ok((store, space))
}

fn at(isolation: Isolation) -> TxnOptions {
    TxnOptions { isolation, ..TxnOptions::default() }
}

fn number(txn: &Txn, space: &Space, key: &[u8]) -> Result<i64, atoll_model::Error> {
    Ok(txn.get(space, key)?.map_or(0, |v| parse(v.payload())))
}

fn parse(payload: &[u8]) -> i64 {
    payload.try_into().map_or(i64::MIN, i64::from_le_bytes)
}

async fn put(store: &Store, space: &Arc<Space>, key: &[u8], value: i64) -> Result<u64, atoll_model::Error> {
    let txn = store.begin(TxnOptions::default());
    txn.put(space, key, &value.to_le_bytes())?;
    txn.commit().await
}

fn all(txn: &Txn, space: &Arc<Space>, reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    txn.scan(space, Bound::Unbounded, Bound::Unbounded, reverse)
        .map(|e| e.map(|(k, v)| (k.to_vec(), v.payload().to_vec())).expect("scan"))
        .collect()
}
