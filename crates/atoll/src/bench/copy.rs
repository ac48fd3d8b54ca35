//! COPY of the demo's readings into both servers.

use std::time::{Duration, Instant};

use super::BenchError;
use super::report::{Table, median, ratio};
use super::servers::Server;
use crate::demo::news::{Scale, Table as News};
use crate::term;

const TABLE: &str = "CREATE TABLE reads (rid bigint PRIMARY KEY, uid text NOT NULL, aid text NOT NULL, \
    read_at timestamp NOT NULL, read_time_s int, agree boolean, comment boolean, share boolean)";

/// Time for a server to put away a dropped table.
const AFTER_DROP: Duration = Duration::from_secs(3);

/// Runs it. `fragments`: how the first server's table is laid out, as the end of its CREATE TABLE.
pub async fn run(servers: [&Server; 2], fragments: &str, scale: f64, rounds: u32) -> Result<Table, BenchError> {
    let scale = Scale::of(scale);
    let data: Vec<Vec<u8>> = News::Reads.batches(scale).map(|b| b.data).collect();
    let bytes: usize = data.iter().map(Vec::len).sum();
    let mut seconds = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for (i, server) in servers.iter().enumerate() {
            term::say(format_args!("copy: round {} of {rounds}, {}", round + 1, server.name));
            let mut client = server.target.connect().await?;
            client.query("DROP TABLE IF EXISTS reads").await?;
            client.query(&format!("{TABLE} {}", if i == 0 { fragments } else { "" })).await?;
            let began = Instant::now();
            client.copy_start(&News::Reads.copy_statement()).await?;
            for batch in &data {
                client.copy_data(batch).await?;
            }
            let loaded = client.copy_end().await?;
            seconds[i].push(began.elapsed().as_secs_f64());
            if loaded != scale.reads {
                return Err(BenchError::Wrong(format!("{} loaded {loaded} of {} rows", server.name, scale.reads)));
            }
            client.query("DROP TABLE reads").await?;
            client.close().await;
            // What a server does after the drop is not to be done at the other's cost.
            tokio::time::sleep(AFTER_DROP).await;
        }
    }
    let rate = |i: usize| scale.reads as f64 / median(&seconds[i]);
    let mut table = Table::new(
        format!("COPY of {} readings ({:.0} MB of CSV)", term::thousands(scale.reads), bytes as f64 / 1e6),
        &["run", "Atoll, rows/s", "PostgreSQL, rows/s", "ratio"],
    );
    table.row([
        "one connection, one transaction, a primary key".to_owned(),
        term::thousands(rate(0) as u64),
        term::thousands(rate(1) as u64),
        ratio(rate(0), rate(1)),
    ]);
    table.note(format!(
        "Median of {rounds} rounds, the servers in turn, into an empty table; more rows a second are better."
    ));
    Ok(table)
}
