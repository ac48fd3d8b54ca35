//! TPC-H: its 22 queries with the validation parameters, on both servers, times and answers compared.
//!
//! Not an audited TPC result: the refresh functions and the throughput test are left out.

use std::fmt::Display;
use std::time::Instant;

use tpchgen::csv::{CustomerCsv, LineItemCsv, NationCsv, OrderCsv, PartCsv, PartSuppCsv, RegionCsv, SupplierCsv};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};

use super::BenchError;
use super::pgbench::settle;
use super::report::{Table, median, ratio};
use super::servers::Server;
use crate::client::{Client, QueryResult};
use crate::term;

const SCHEMA: &str = include_str!("tpch/schema.sql");
const QUERIES: &str = include_str!("tpch/queries.sql");
/// How far two numbers may lie apart, relatively: averages are rounded to different digits.
const TOLERANCE: f64 = 1e-4;
/// Bytes of rows gathered before they are sent.
const CHUNK: usize = 1 << 20;

/// Runs it.
pub async fn run(servers: [&Server; 2], scale: f64, rounds: u32) -> Result<Table, BenchError> {
    for server in servers {
        load(server, scale).await?;
    }
    let mut table =
        Table::new(format!("TPC-H, scale {scale}"), &["query", "Atoll, ms", "PostgreSQL, ms", "time ratio", "answers"]);
    let (mut totals, mut firsts, mut differing) = ([0.0, 0.0], [0.0, 0.0], 0);
    let mut clients = [servers[0].target.connect().await?, servers[1].target.connect().await?];
    for (name, sql) in queries(scale) {
        let mut answers: [Option<QueryResult>; 2] = [None, None];
        let mut ms = [Vec::new(), Vec::new()];
        let mut error = None;
        // One run more than is counted: the first finds cold caches on both.
        'rounds: for round in 0..=rounds {
            for i in 0..2 {
                term::say(format_args!("TPC-H {name}: {}", servers[i].name));
                let began = Instant::now();
                match clients[i].query(&sql).await {
                    Ok(answer) => answers[i] = Some(answer),
                    Err(crate::client::ClientError::Server(e)) => {
                        error = Some(format!("{}: {e}", servers[i].name));
                        break 'rounds;
                    }
                    Err(e) => return Err(e.into()),
                }
                let took = began.elapsed().as_secs_f64() * 1e3;
                if round == 0 {
                    firsts[i] += took;
                } else {
                    ms[i].push(took);
                }
            }
        }
        let verdict = match (&error, &answers) {
            (Some(error), _) => error.clone(),
            (None, [Some(a), Some(b)]) => difference(a, b).unwrap_or_else(|| "same".into()),
            _ => "no round was run".into(),
        };
        differing += u32::from(verdict != "same");
        let times = [median(&ms[0]), median(&ms[1])];
        totals[0] += times[0];
        totals[1] += times[1];
        table.row([name, format!("{:.1}", times[0]), format!("{:.1}", times[1]), ratio(times[0], times[1]), verdict]);
    }
    table.row([
        "all".to_owned(),
        format!("{:.1}", totals[0]),
        format!("{:.1}", totals[1]),
        ratio(totals[0], totals[1]),
        format!("{} of 22 same", 22 - differing),
    ]);
    table.note(format!(
        "Median of {rounds} rounds after one that is not counted, the servers in turn; less time is better. One connection. The \
         rounds that are not counted took {:.1} ms and {:.1} ms.",
        firsts[0], firsts[1]
    ));
    Ok(table)
}

fn queries(scale: f64) -> Vec<(String, String)> {
    QUERIES
        .split("-- Q")
        .skip(1)
        .filter_map(|part| part.split_once('\n'))
        .map(|(number, sql)| {
            let sql = sql.trim().trim_end_matches(';').replace(":scale", &scale.to_string());
            (format!("Q{}", number.trim()), sql)
        })
        .collect()
}

async fn load(server: &Server, scale: f64) -> Result<(), BenchError> {
    let mut client = server.target.connect().await?;
    for statement in SCHEMA.split(';').filter(|s| s.contains("CREATE")) {
        client.query(statement).await?;
    }
    term::say(format_args!("TPC-H: loading {}", server.name));
    let c = &mut client;
    copy(c, "region", RegionGenerator::new(scale, 1, 1).iter().map(RegionCsv::new)).await?;
    copy(c, "nation", NationGenerator::new(scale, 1, 1).iter().map(NationCsv::new)).await?;
    copy(c, "supplier", SupplierGenerator::new(scale, 1, 1).iter().map(SupplierCsv::new)).await?;
    copy(c, "part", PartGenerator::new(scale, 1, 1).iter().map(PartCsv::new)).await?;
    copy(c, "partsupp", PartSuppGenerator::new(scale, 1, 1).iter().map(PartSuppCsv::new)).await?;
    copy(c, "customer", CustomerGenerator::new(scale, 1, 1).iter().map(CustomerCsv::new)).await?;
    copy(c, "orders", OrderGenerator::new(scale, 1, 1).iter().map(OrderCsv::new)).await?;
    copy(c, "lineitem", LineItemGenerator::new(scale, 1, 1).iter().map(LineItemCsv::new)).await?;
    client.close().await;
    settle(server).await
}

async fn copy(client: &mut Client, table: &str, rows: impl Iterator<Item = impl Display>) -> Result<(), BenchError> {
    use std::io::Write;
    client.copy_start(&format!("COPY {table} FROM STDIN WITH (FORMAT csv)")).await?;
    let (mut chunk, mut sent) = (Vec::with_capacity(CHUNK + 4096), 0u64);
    for row in rows {
        writeln!(chunk, "{row}")?;
        sent += 1;
        if chunk.len() >= CHUNK {
            client.copy_data(&chunk).await?;
            chunk.clear();
        }
    }
    client.copy_data(&chunk).await?;
    let loaded = client.copy_end().await?;
    if loaded != sent {
        return Err(BenchError::Wrong(format!("{table}: {loaded} of {sent} rows were loaded")));
    }
    Ok(())
}

/// The first difference between two answers, if there is one.
/// How two answers differ.
pub fn difference(a: &QueryResult, b: &QueryResult) -> Option<String> {
    if a.rows.len() != b.rows.len() {
        return Some(format!("{} rows, not {}", a.rows.len(), b.rows.len()));
    }
    for (n, (x, y)) in a.rows.iter().zip(&b.rows).enumerate() {
        if x.len() != y.len() {
            return Some(format!("{} columns, not {}", x.len(), y.len()));
        }
        for column in 0..x.len() {
            let (x, y) = (x.get(column), y.get(column));
            if !same(x.as_deref(), y.as_deref()) {
                let show = |v: Option<&str>| v.unwrap_or("NULL").to_owned();
                return Some(format!("row {}: {}, not {}", n + 1, show(x.as_deref()), show(y.as_deref())));
            }
        }
    }
    None
}

fn same(x: Option<&str>, y: Option<&str>) -> bool {
    match (x, y) {
        (Some(x), Some(y)) if x != y => match (x.parse::<f64>(), y.parse::<f64>()) {
            (Ok(x), Ok(y)) => (x - y).abs() <= TOLERANCE * x.abs().max(y.abs()),
            _ => false,
        },
        _ => x == y,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_22_queries() {
        let queries = queries(0.1);
        assert_eq!(queries.len(), 22);
        assert!(queries.iter().enumerate().all(|(i, (name, _))| *name == format!("Q{}", i + 1)));
        assert!(queries[10].1.contains("0.0001 / 0.1"));
        assert!(queries.iter().all(|(_, sql)| sql.starts_with("SELECT") || sql.starts_with("WITH")));
    }

    #[test]
    fn numbers_may_differ_in_their_last_digits_only() {
        assert!(same(Some("25.5193"), Some("25.51930000000001")));
        assert!(same(None, None) && same(Some("a"), Some("a")));
        assert!(!same(Some("1"), None) && !same(Some("100"), Some("101")) && !same(Some("a"), Some("b")));
    }
}
