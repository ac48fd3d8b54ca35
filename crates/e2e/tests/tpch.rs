//! TPC-H at a small scale: all 22 queries, with the specification's validation parameters, answered as PostgreSQL answers them.
//!
//! The rows travel by COPY. Without LIMIT, ties decide nothing; rows are compared as a set, numbers as numbers.

use atoll_e2e::compare::{Kind, same_rows, written_row};
use atoll_e2e::server::{Atoll, PostgreSql, Server};
use atoll_e2e::wire::{Client, Reply};
use std::fmt::Write as _;
use tpchgen::q_and_a::queries::query;
use tpchgen::{csv, generators};

const SCALE: f64 = 0.01;

/// The parameters of each query: `:1`, `:2`, ...
const PARAMETERS: [&[&str]; 22] = [
    &["90"],
    &["15", "BRASS", "EUROPE"],
    &["BUILDING", "1995-03-15"],
    &["1993-07-01"],
    &["ASIA", "1994-01-01"],
    &["1994-01-01", "0.06", "24"],
    &["FRANCE", "GERMANY"],
    &["BRAZIL", "AMERICA", "ECONOMY ANODIZED STEEL"],
    &["green"],
    &["1993-10-01"],
    &["GERMANY", "0.0001"],
    &["MAIL", "SHIP", "1994-01-01"],
    &["special", "requests"],
    &["1995-09-01"],
    &["1996-01-01"],
    &["Brand#45", "MEDIUM POLISHED", "49", "14", "23", "45", "19", "3", "36", "9"],
    &["Brand#23", "MED BOX"],
    // 300 keeps nothing at this scale.
    &["250"],
    &["Brand#12", "Brand#23", "Brand#34", "1", "10", "20"],
    &["forest", "1994-01-01", "CANADA"],
    &["SAUDI ARABIA"],
    &["13", "31", "23", "29", "30", "18", "17"],
];

/// Tables, their columns, and how they are laid out over three sites.
const TABLES: [(&str, &str, &str); 8] = [
    ("region", "r_regionkey bigint PRIMARY KEY, r_name varchar(25), r_comment varchar(152)", REPLICATED),
    (
        "nation",
        "n_nationkey bigint PRIMARY KEY, n_name varchar(25), n_regionkey bigint, n_comment varchar(152)",
        REPLICATED,
    ),
    (
        "part",
        "p_partkey bigint PRIMARY KEY, p_name varchar(55), p_mfgr varchar(25), p_brand varchar(10), p_type varchar(25), p_size int, p_container varchar(10), p_retailprice numeric(15,2), p_comment varchar(23)",
        "PARTITION BY HASH (p_partkey) WITH (fragments = 3, sites = 's1, s2, s3')",
    ),
    (
        "supplier",
        "s_suppkey bigint PRIMARY KEY, s_name varchar(25), s_address varchar(40), s_nationkey bigint, s_phone varchar(15), s_acctbal numeric(15,2), s_comment varchar(101)",
        REPLICATED,
    ),
    (
        "partsupp",
        "ps_partkey bigint, ps_suppkey bigint, ps_availqty int, ps_supplycost numeric(15,2), ps_comment varchar(199), PRIMARY KEY (ps_partkey, ps_suppkey)",
        "WITH (colocate_with = 'part', colocate_on = 'ps_partkey')",
    ),
    (
        "customer",
        "c_custkey bigint PRIMARY KEY, c_name varchar(25), c_address varchar(40), c_nationkey bigint, c_phone varchar(15), c_acctbal numeric(15,2), c_mktsegment varchar(10), c_comment varchar(117)",
        "PARTITION BY HASH (c_custkey) WITH (fragments = 3, sites = 's1, s2, s3')",
    ),
    (
        "orders",
        "o_orderkey bigint PRIMARY KEY, o_custkey bigint, o_orderstatus varchar(1), o_totalprice numeric(15,2), o_orderdate date, o_orderpriority varchar(15), o_clerk varchar(15), o_shippriority int, o_comment varchar(79)",
        "PARTITION BY HASH (o_orderkey) WITH (fragments = 6, sites = 's1, s2, s3')",
    ),
    (
        "lineitem",
        "l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber int, l_quantity numeric(15,2), l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag varchar(1), l_linestatus varchar(1), l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct varchar(25), l_shipmode varchar(10), l_comment varchar(44), PRIMARY KEY (l_orderkey, l_linenumber)",
        "WITH (colocate_with = 'orders', colocate_on = 'l_orderkey')",
    ),
];

const REPLICATED: &str = "WITH (sites = 's1, s2, s3', replication = 'all')";

/// The rows of a table as CSV.
fn rows(table: &str) -> String {
    fn lines(rows: impl Iterator<Item = impl std::fmt::Display>) -> String {
        rows.fold(String::new(), |mut text, row| {
            let _ = writeln!(text, "{row}");
            text
        })
    }
    macro_rules! generate {
        ($generator:ident, $csv:ident) => {
            lines(generators::$generator::new(SCALE, 1, 1).iter().map(csv::$csv::new))
        };
    }
    match table {
        "region" => generate!(RegionGenerator, RegionCsv),
        "nation" => generate!(NationGenerator, NationCsv),
        "part" => generate!(PartGenerator, PartCsv),
        "supplier" => generate!(SupplierGenerator, SupplierCsv),
        "partsupp" => generate!(PartSuppGenerator, PartSuppCsv),
        "customer" => generate!(CustomerGenerator, CustomerCsv),
        "orders" => generate!(OrderGenerator, OrderCsv),
        "lineitem" => generate!(LineItemGenerator, LineItemCsv),
        other => unreachable!("{other} is no table of TPC-H"),
    }
}

fn load(server: &dyn Server, spread: bool) -> Client {
    let mut client = server.connect().expect("a new server answers");
    if spread {
        for n in 1..=3 {
            client.query(&format!("CREATE SITE s{n} ENGINE embedded")).expect("a site");
        }
    }
    for (table, columns, layout) in TABLES {
        let create = format!("CREATE TABLE {table} ({columns}) {}", if spread { layout } else { "" });
        client.query(&create).unwrap_or_else(|e| panic!("{create}: {e}"));
        let data = rows(table);
        let reply = client.copy_in(&format!("COPY {table} FROM STDIN WITH (FORMAT csv)"), data.as_bytes());
        let reply = reply.unwrap_or_else(|e| panic!("COPY {table}: {e}"));
        assert_eq!(reply.tag, format!("COPY {}", data.lines().count()), "{table}");
    }
    client
}

/// The statements of a query; the one that answers is marked.
fn statements(number: usize) -> Vec<(String, bool)> {
    let mut text =
        query(number as i32).expect("one of 22").replace(" day (3)", " day").replace("revenue:s", "revenue0");
    for (n, value) in PARAMETERS[number - 1].iter().enumerate().rev() {
        text = text.replace(&format!(":{}", n + 1), value);
    }
    text.split(';')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(|s| (s.to_string(), s.starts_with("select") || s.starts_with("with")))
        .collect()
}

fn answer(client: &mut Client, number: usize) -> Result<Reply, String> {
    let mut answer = Err("no statement answers".to_string());
    for (sql, answers) in statements(number) {
        let reply = client.query(&sql).map_err(|e| e.to_string());
        match reply {
            Ok(reply) if answers => answer = Ok(reply),
            Ok(_) => {}
            Err(e) => return Err(e),
        }
    }
    answer
}

fn compare(spread: bool) {
    let (postgres, atoll) = (PostgreSql::start(), Atoll::start());
    let (mut original, mut tested) = (load(&postgres, false), load(&atoll, spread));
    original.query("ANALYZE").expect("statistics");
    let mut wrong = Vec::new();
    for number in 1..=22 {
        let expected = answer(&mut original, number).unwrap_or_else(|e| panic!("query {number} on PostgreSQL: {e}"));
        let found = match answer(&mut tested, number) {
            Ok(found) => found,
            Err(e) => {
                wrong.push(format!("query {number}: {e}"));
                continue;
            }
        };
        let kinds: Vec<Kind> = (expected.columns.iter().flatten())
            .map(|c| if Kind::of(c.type_oid) == Kind::Text { Kind::Text } else { Kind::Real })
            .collect();
        let written = |reply: &Reply| reply.rows.iter().map(written_row).collect::<Vec<_>>();
        let (a, b) = (written(&expected), written(&found));
        if !same_rows(&kinds, &a, &b, false) {
            let first = |rows: &[String]| rows.iter().take(3).cloned().collect::<Vec<_>>().join("\n  ");
            wrong.push(format!(
                "query {number}: PostgreSQL has {} rows, Atoll {}; the first ones\n  {}\nand\n  {}",
                a.len(),
                b.len(),
                first(&a),
                first(&b)
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of 22 differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn postgres_answers_with_rows() {
    let server = PostgreSql::start();
    let mut client = load(&server, false);
    client.query("ANALYZE").expect("statistics");
    let empty: Vec<usize> = (1..=22)
        .filter(|n| answer(&mut client, *n).unwrap_or_else(|e| panic!("query {n}: {e}")).rows.is_empty())
        .collect();
    assert!(empty.is_empty(), "a query without rows shows nothing: {empty:?}");
}

#[test]
fn one_site() {
    compare(false);
}

#[test]
fn three_sites() {
    compare(true);
}
