//! PostgreSQL's own `pgbench`, against both servers in turn.

use std::path::Path;
use std::process::Command;

use super::BenchError;
use super::report::{Table, median, ratio};
use super::servers::Server;
use crate::term;

/// The tables of `pgbench -i`; the columns that it declares `char(n)` are text of that length on both servers.
const SCHEMA: &str = "
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler text);
CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler text);
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler text);
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler text)";

const TELLERS: u32 = 10;
const ACCOUNTS: u32 = 100_000;

/// What is measured: a name, and pgbench's arguments for it.
const RUNS: [(&str, &[&str]); 3] = [
    ("select only, prepared, 8 clients", &["-S", "-M", "prepared", "-c", "8", "-j", "2"]),
    ("TPC-B, prepared, 8 clients", &["-M", "prepared", "-c", "8", "-j", "2"]),
    ("TPC-B, prepared, 1 client", &["-M", "prepared", "-c", "1", "-j", "1"]),
];

/// How much is measured.
pub struct Options<'a> {
    /// The directory of PostgreSQL's programs.
    pub bin: &'a Path,
    /// 100,000 accounts each.
    pub scale: u32,
    /// Seconds of each round.
    pub seconds: u32,
    /// Rounds of each run.
    pub rounds: u32,
}

/// Runs it.
pub async fn run(servers: [&Server; 2], options: &Options<'_>) -> Result<Table, BenchError> {
    for server in servers {
        fill(server, "", options.scale).await?;
    }
    measure(servers, options, format!("pgbench, scale {}", options.scale))
}

/// Runs it on tables that are there.
pub fn measure(servers: [&Server; 2], options: &Options<'_>, title: String) -> Result<Table, BenchError> {
    let Options { bin, seconds, rounds, .. } = *options;
    let mut table =
        Table::new(title, &["run", "Atoll, tps", "PostgreSQL, tps", "ratio", "Atoll, latency", "PostgreSQL, latency"]);
    for (name, arguments) in RUNS {
        let mut measured = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for (i, server) in servers.iter().enumerate() {
                term::say(format_args!("pgbench {name}: round {} of {rounds}, {}", round + 1, server.name));
                measured[i].push(once(server, bin, arguments, seconds)?);
            }
        }
        let middle = |i: usize, pick: fn(&Figures) -> f64| median(&measured[i].iter().map(pick).collect::<Vec<_>>());
        let [tps, latency] = [|f: &Figures| f.tps, |f: &Figures| f.latency_ms];
        table.row([
            name.to_owned(),
            format!("{:.0}", middle(0, tps)),
            format!("{:.0}", middle(1, tps)),
            ratio(middle(0, tps), middle(1, tps)),
            format!("{:.3} ms", middle(0, latency)),
            format!("{:.3} ms", middle(1, latency)),
        ]);
    }
    table.note(format!(
        "Median of {rounds} rounds of {seconds} s, the servers in turn; more transactions a second are better. \
         Commits are durable on both."
    ));
    Ok(table)
}

/// Makes the tables. `fragments`: how they are laid out, as the end of each CREATE TABLE.
pub async fn fill(server: &Server, fragments: &str, scale: u32) -> Result<(), BenchError> {
    term::say(format_args!("pgbench: filling {}", server.name));
    let mut client = server.target.connect().await?;
    for statement in SCHEMA.split(';') {
        client.query(&format!("{statement} {fragments}")).await?;
    }
    let filler = |n: usize| " ".repeat(n);
    let mut rows: Vec<(&str, Vec<u8>)> = Vec::new();
    let of = |count: u32, line: &dyn Fn(u32) -> String| (1..=count).flat_map(|i| line(i).into_bytes()).collect();
    rows.push(("pgbench_branches", of(scale, &|i| format!("{i},0,\"{}\"\n", filler(88)))));
    rows.push((
        "pgbench_tellers",
        of(scale * TELLERS, &|i| format!("{i},{},0,\"{}\"\n", (i - 1) / TELLERS + 1, filler(84))),
    ));
    rows.push((
        "pgbench_accounts",
        of(scale * ACCOUNTS, &|i| format!("{i},{},0,\"{}\"\n", (i - 1) / ACCOUNTS + 1, filler(84))),
    ));
    for (table, data) in rows {
        client.copy_start(&format!("COPY {table} FROM STDIN WITH (FORMAT csv)")).await?;
        client.copy_data(&data).await?;
        client.copy_end().await?;
    }
    settle(server).await?;
    client.close().await;
    Ok(())
}

/// Lets a server tidy up after a load. Atoll need not know VACUUM.
pub async fn settle(server: &Server) -> Result<(), BenchError> {
    let mut client = server.target.connect().await?;
    for statement in ["VACUUM ANALYZE", "ANALYZE", "CHECKPOINT"] {
        match client.query(statement).await {
            Ok(_) | Err(crate::client::ClientError::Server(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    client.close().await;
    Ok(())
}

/// What one run of pgbench found.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    tps: f64,
    latency_ms: f64,
}

fn once(server: &Server, bin: &Path, arguments: &[&str], seconds: u32) -> Result<Figures, BenchError> {
    let output = Command::new(bin.join("pgbench"))
        .args(["-n", "-T", &seconds.to_string(), "-h", "127.0.0.1", "-U", "atoll"])
        .args(["-p", &server.port.to_string()])
        .args(arguments)
        .arg(server.database())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).filter(|_| output.status.success()).ok_or_else(|| BenchError::Program {
        program: format!("pgbench against {}", server.name),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn parse(text: &str) -> Option<Figures> {
    let value =
        |prefix: &str| text.lines().find_map(|l| l.strip_prefix(prefix))?.split_ascii_whitespace().next()?.parse().ok();
    Some(Figures { tps: value("tps = ")?, latency_ms: value("latency average = ")? })
}

#[cfg(test)]
mod tests {
    use super::{Figures, parse};

    #[test]
    fn the_figures_are_found() {
        let text = "number of failed transactions: 0 (0.000%)\nlatency average = 0.101 ms\n\
                    initial connection time = 9 ms\ntps = 78946.1 (without initial connection time)\n";
        assert_eq!(parse(text), Some(Figures { tps: 78946.1, latency_ms: 0.101 }));
        assert_eq!(parse("nothing"), None);
    }
}
