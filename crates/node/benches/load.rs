//! What a row costs on its way through the node into the embedded store: plain, and with its place looked up at a parent.
//!
//! `cargo bench -p atoll-node` prints microseconds per row; the difference between the lines is the node's price for
//! placement, uniqueness over fragments and foreign keys.

#[path = "../tests/world/mod.rs"]
mod world;

use atoll_model::{NewFragmentation, Result, Row};
use atoll_ports::cluster::Cluster;
use atoll_ports::site::RowChange;
use std::time::Instant;
use world::*;

const USERS: i32 = 10_000;
const ROWS: i32 = 400_000;
const CHUNK: i32 = 8192;

async fn load(w: &World, name: &str, row: impl Fn(i32) -> Row) -> Result<()> {
    let table = w.table(name);
    let began = Instant::now();
    let txn = w.node.begin(short());
    for from in (0..ROWS).step_by(CHUNK as usize) {
        let rows = (from..(from + CHUNK).min(ROWS)).map(|i| RowChange::Insert(row(i))).collect();
        txn.write(&table, rows).await?;
    }
    let written = began.elapsed();
    txn.commit().await?;
    let micros = |d: std::time::Duration| d.as_secs_f64() * 1e6 / f64::from(ROWS);
    println!("{name:>12}  written {:.2} us/row, committed {:.2} us/row", micros(written), micros(began.elapsed()));
    Ok(())
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
        load(&w, name, row).await?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().map_err(|e| atoll_model::Error::internal(e.to_string()))?;
    runtime.block_on(run())
}
