//! Atoll over two PostgreSQL servers: beside one of them alone, and beside `postgres_fdw` over the tables of both.
//!
//! Invariant: all read the same tables, which Atoll has adopted; the servers have default settings, but for the prepared
//! transactions that a commit over both needs.

use std::time::Instant;

use super::BenchError;
use super::copy;
use super::pgbench::{self, Options, settle};
use super::report::{Table, median, ratio};
use super::servers::Server;
use super::tpch::difference;
use crate::client::{Client, QueryResult, Target};
use crate::demo::news::{Scale, Table as News};
use crate::term;

const TABLES: &str = include_str!("sites/tables.sql");
const ATOLL: &str = include_str!("sites/atoll.sql");
const POSTGRES_FDW: &str = include_str!("sites/postgres_fdw.sql");
const QUERIES: &str = include_str!("sites/queries.sql");

/// `postgres_fdw` as it comes, and with what its manual and PostgreSQL's have for such queries: options of the servers, settings.
const VARIANTS: [(&str, &str, &str); 2] = [
    ("fdw", "", ""),
    (
        "fdw_tuned",
        ", fetch_size '10000', async_capable 'true', use_remote_estimate 'true'",
        "ALTER DATABASE fdw_tuned SET enable_partitionwise_aggregate = on;
         ALTER DATABASE fdw_tuned SET enable_partitionwise_join = on;",
    ),
];

/// The layout of tables that are measured against one server's.
const FRAGMENTS: &str = "WITH (fragments = 2, sites = 'a, b')";

/// Runs it. `scale`: of the demo's data, 1 is a million readings.
pub async fn run(options: &Options<'_>, scale: f64) -> Result<Vec<Table>, BenchError> {
    let settings = ["max_prepared_transactions=100"];
    let a = Server::postgres(Some(options.bin), &settings).await?;
    let b = Server::postgres(Some(options.bin), &settings).await?;
    let atoll = Server::atoll().await?;
    for server in [&a, &b] {
        run_all(&mut server.target.connect().await?, "CREATE DATABASE site").await?;
        run_all(&mut connect(server, "site").await?, TABLES).await?;
    }
    let scaled = Scale::of(scale);
    let fill_in = |sql: &str| {
        [
            (":a'", format!("{}'", a.url("site"))),
            (":b'", format!("{}'", b.url("site"))),
            (":port_a", a.port.to_string()),
            (":port_b", b.port.to_string()),
            (":half", (scaled.reads / 2).to_string()),
        ]
        .iter()
        .fold(sql.to_owned(), |sql, (name, value)| sql.replace(name, value))
    };
    run_all(&mut atoll.target.connect().await?, &fill_in(ATOLL)).await?;
    let queries = compare(&a, &atoll, [&a, &b], scaled, &fill_in(POSTGRES_FDW), options.rounds).await?;

    let both = [&atoll, &a];
    pgbench::fill(&atoll, FRAGMENTS, options.scale).await?;
    pgbench::fill(&a, "", options.scale).await?;
    for server in [&a, &b] {
        run_all(&mut connect(server, "site").await?, "VACUUM ANALYZE").await?;
    }
    let title = format!("pgbench, scale {}, over two PostgreSQL servers beside one alone", options.scale);
    let transactions = pgbench::measure(both, options, title)?;
    run_all(&mut atoll.target.connect().await?, "DROP TABLE reads").await?;
    let copies = copy::run(both, FRAGMENTS, scale, options.rounds).await?;
    Ok(vec![queries, transactions, copies.called("COPY into two PostgreSQL servers beside one alone")])
}

/// The queries, by Atoll and by `postgres_fdw`, which is a database of server `a`.
async fn compare(
    a: &Server,
    atoll: &Server,
    sites: [&Server; 2],
    scale: Scale,
    postgres_fdw: &str,
    rounds: u32,
) -> Result<Table, BenchError> {
    let mut client = atoll.target.connect().await?;
    for table in News::ALL {
        term::say(format_args!("sites: loading {}", table.name()));
        client.copy_start(&table.copy_statement()).await?;
        for batch in table.batches(scale) {
            client.copy_data(&batch.data).await?;
        }
        client.copy_end().await?;
    }
    for server in sites {
        run_all(&mut connect(server, "site").await?, "VACUUM ANALYZE").await?;
    }
    settle(a).await?;
    let mut clients = vec![("Atoll", client)];
    for (database, options, settings) in VARIANTS {
        run_all(&mut a.target.connect().await?, &format!("CREATE DATABASE {database}")).await?;
        let mut fdw = connect(a, database).await?;
        run_all(&mut fdw, &postgres_fdw.replace(":options", options)).await?;
        run_all(&mut fdw, settings).await?;
        run_all(&mut fdw, "ANALYZE").await?;
        fdw.close().await;
        // With the settings of its database.
        clients.push((database, connect(a, database).await?));
    }
    let mut table = Table::new(
        format!("Queries over two PostgreSQL servers, {} readings", term::thousands(scale.reads)),
        &["query", "Atoll, ms", "postgres_fdw, ms", "times as fast", "tuned, ms", "times as fast", "answers"],
    );
    for (name, sql) in queries() {
        let mut answers: [Option<QueryResult>; 3] = [None, None, None];
        let mut ms = [Vec::new(), Vec::new(), Vec::new()];
        // One run more than is counted: the first finds cold caches on both.
        for round in 0..=rounds {
            for (i, (who, client)) in clients.iter_mut().enumerate() {
                term::say(format_args!("sites: {name}: {who}"));
                let began = Instant::now();
                answers[i] = Some(client.query(sql).await?);
                if round > 0 {
                    ms[i].push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        let [Some(ours), others @ ..] = &answers else {
            return Err(BenchError::Wrong("no round was run".into()));
        };
        let verdict =
            others.iter().flatten().find_map(|other| difference(ours, other)).unwrap_or_else(|| "same".into());
        let [atoll, plain, tuned] = [0, 1, 2].map(|i| median(&ms[i]));
        let shown = |ms: f64| format!("{ms:.1}");
        table.row([
            name.to_owned(),
            shown(atoll),
            shown(plain),
            ratio(plain, atoll),
            shown(tuned),
            ratio(tuned, atoll),
            verdict,
        ]);
    }
    table.note(format!(
        "Median of {rounds} rounds after one that is not counted, in turn; one connection. postgres_fdw has declarative partitions; tuned: \
         with fetch_size 10000, async_capable, use_remote_estimate, and partition-wise joins and aggregates."
    ));
    Ok(table)
}

async fn connect(server: &Server, database: &str) -> Result<Client, BenchError> {
    Ok(Target::parse(&server.url(database))?.connect().await?)
}

async fn run_all(client: &mut Client, sql: &str) -> Result<(), BenchError> {
    let lines: Vec<&str> = sql.lines().filter(|line| !line.starts_with("--")).collect();
    for statement in lines.join("\n").split(';').filter(|s| !s.trim().is_empty()) {
        client.query(statement).await?;
    }
    Ok(())
}

/// Each with its name, which is the comment before it.
fn queries() -> impl Iterator<Item = (&'static str, &'static str)> {
    QUERIES.split("-- ").filter_map(|part| part.split_once('\n')).map(|(name, sql)| (name.trim(), sql.trim()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_query_has_a_name() {
        let queries: Vec<_> = super::queries().collect();
        assert_eq!(queries.len(), 3);
        assert!(queries.iter().all(|(name, sql)| !name.is_empty() && sql.starts_with("SELECT")));
    }
}
