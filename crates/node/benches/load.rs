//! What a row costs on its way through the node into the embedded store: plain, and with its place looked up at a parent; and
//! the demo's readings, as COPY brings them, with keys in order and in no order.
//!
//! `cargo bench -p atoll-node [-- NAME]` prints microseconds per row; the difference between the lines is the node's price for
//! placement, uniqueness over fragments and foreign keys.

#[path = "../tests/world/mod.rs"]
mod world;

use atoll_model::{NewFragmentation, Result, Row, Value};
use atoll_ports::cluster::Cluster;
use atoll_ports::site::RowChange;
use std::time::{Duration, Instant};
use world::*;

/// The program's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USERS: i32 = 10_000;
const ROWS: i32 = 400_000;
const READINGS: i32 = 1_000_000;
/// Rows in a batch, as COPY has them.
const CHUNK: i32 = 2048;

async fn load(w: &World, name: &str, count: i32, row: impl Fn(i32) -> Row) -> Result<()> {
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    if only.is_some_and(|only| only != name) {
        return Ok(());
    }
    let table = w.table(name);
    let txn = w.node.begin(short());
    let mut written = Duration::ZERO;
    for from in (0..count).step_by(CHUNK as usize) {
        let rows = (from..(from + CHUNK).min(count)).map(|i| RowChange::Insert(row(i))).collect();
        let began = Instant::now();
        txn.write(&table, rows).await?;
        written += began.elapsed();
    }
    let began = Instant::now();
    txn.commit().await?;
    let committed = began.elapsed();
    let micros = |d: Duration| d.as_secs_f64() * 1e6 / f64::from(count);
    println!("{name:>12}  written {:.3} us/row, committed {:.3} us/row", micros(written), micros(committed));
    Ok(())
}

/// A reading of the demo's news.
fn reading(i: i32) -> Row {
    let draw = i.wrapping_mul(7919);
    vec![
        Value::Int8(i.into()),
        text(&format!("u{}", draw.rem_euclid(USERS))),
        text(&format!("a{}", draw.wrapping_mul(31).rem_euclid(USERS))),
        Value::Timestamp(1_500_000_000_000_000 + i64::from(i) * 10_000_000),
        int(draw.rem_euclid(100)),
        Value::Bool(draw % 3 == 0),
        Value::Bool(draw % 5 == 0),
        Value::Bool(draw % 7 == 0),
    ]
}

async fn run() -> Result<()> {
    let w = World::new().await?;
    let mut one = table("one_piece", "id int key, uid text, n int");
    one.sites = vec!["s1".into()];
    w.create(one).await?;
    w.create(table("hash", "id int key, uid text, n int")).await?;
    w.create(by_list(table("users", "uid text key, region text"), "region")).await?;
    w.ddl(list_fragment("users", "users_bj", &["bj"], "s1")).await?;
    w.ddl(list_fragment("users", "users_hk", &["hk"], "s2")).await?;
    w.create(derived(table("reads", "id int key, uid text, n int"), "users", "uid")).await?;
    let mut spanning = table("spanning", "id int key, uid text, n int");
    spanning.fragmentation = NewFragmentation::Hash(vec!["n".into()]);
    spanning.fragments = Some(2);
    w.create(spanning).await?;
    let user = |i: i32| vec![text(&format!("u{i}")), text(if i % 3 == 0 { "bj" } else { "hk" })];
    w.insert("users", (0..USERS).map(user).collect()).await?;
    let row = |i: i32| vec![int(i), text(&format!("u{}", (i.wrapping_mul(7919)).rem_euclid(USERS))), int(i % 100)];
    for name in ["one_piece", "hash", "spanning", "reads"] {
        load(&w, name, ROWS, row).await?;
    }
    for name in ["readings", "shuffled"] {
        let columns = "rid int8 key, uid text, aid text, read_at timestamp, read_time_s int, \
            agree bool, comment bool, share bool";
        let mut readings = table(name, columns);
        readings.sites = vec!["s1".into()];
        w.create(readings).await?;
    }
    load(&w, "readings", READINGS, reading).await?;
    // A factor that has no divisor in common with the count reaches every key once.
    load(&w, "shuffled", READINGS, |i| reading((i64::from(i) * 611_953 % i64::from(READINGS)) as i32)).await?;
    Ok(())
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().map_err(|e| atoll_model::Error::internal(e.to_string()))?;
    runtime.block_on(run())
}
