//! What sites are asked for: the statements that servers have received, by their own logs, for each kind of work that a site can do.

use atoll_e2e::asking::{rows, run};
use atoll_e2e::mariadb::MariaDb;
use atoll_e2e::server::{Atoll, Crash as _, PostgreSql, Server};
use regex::Regex;

/// A query, its answer, and what the statement at each of the two sites has; `None`: that site is asked for nothing.
struct Case {
    kind: &'static str,
    sql: &'static str,
    answer: &'static [&'static str],
    /// Words in the order in which the statement has them.
    sites: [Option<&'static [&'static str]>; 2],
    /// What no statement has.
    never: &'static str,
}

const CASES: [Case; 10] = [
    Case {
        kind: "filters and projections",
        sql: "SELECT name FROM users WHERE region = 'bj' AND score > 15 ORDER BY name",
        answer: &["Cy", "Ed"],
        sites: [Some(&["name", "FROM", "WHERE", "region", "bj", "score", "> 15"]), None],
        never: "email",
    },
    Case {
        kind: "co-located joins",
        sql: "SELECT u.name, r.secs FROM users u JOIN reads r ON r.uid = u.uid WHERE r.secs > 25 ORDER BY 1, 2",
        answer: &["Bo,30", "Cy,40", "Di,50"],
        sites: [
            Some(&["secs", "FROM", "JOIN", "ON", "uid", "> 25"]),
            Some(&["secs", "FROM", "JOIN", "ON", "uid", "> 25"]),
        ],
        never: "email",
    },
    Case {
        kind: "whole aggregates",
        sql: "SELECT count(*), max(score) FROM users WHERE region = 'hk'",
        answer: &["2,30"],
        sites: [None, Some(&["count(*)", "max(", "score", "WHERE", "region"])],
        never: "name",
    },
    Case {
        kind: "parts of aggregates",
        sql: "SELECT grade, count(*), sum(score) FROM users GROUP BY grade ORDER BY grade",
        answer: &["1,2,30", "2,3,100"],
        sites: [Some(&["grade", "count(", "sum(", "GROUP BY"]), Some(&["grade", "count(", "sum(", "GROUP BY"])],
        never: "name",
    },
    Case {
        kind: "groups that are left out",
        sql: "SELECT grade FROM users WHERE region = 'bj' GROUP BY grade HAVING count(*) > 1",
        answer: &["2"],
        sites: [Some(&["grade", "WHERE", "GROUP BY", "HAVING", "count(*)", ">", "1"]), None],
        never: "name",
    },
    Case {
        kind: "the first rows of an order",
        sql: "SELECT uid FROM users ORDER BY score DESC, uid LIMIT 2",
        answer: &["u5", "u4"],
        sites: [
            Some(&["uid", "ORDER BY", "score", "DESC", "LIMIT 2"]),
            Some(&["uid", "ORDER BY", "score", "DESC", "LIMIT 2"]),
        ],
        never: "name",
    },
    Case {
        kind: "different values",
        sql: "SELECT DISTINCT grade FROM users WHERE region = 'hk' ORDER BY grade",
        answer: &["1", "2"],
        sites: [None, Some(&["grade", "GROUP BY"])],
        never: "name",
    },
    Case {
        kind: "windows",
        sql: "SELECT uid, rank() OVER (PARTITION BY grade ORDER BY score DESC), sum(score) OVER (PARTITION BY grade) FROM users \
              WHERE region = 'bj' ORDER BY uid",
        answer: &["u1,1,10", "u3,2,70", "u5,1,70"],
        sites: [
            Some(&[
                "uid",
                "rank() OVER (PARTITION BY",
                "grade",
                "ORDER BY",
                "score",
                "DESC",
                "sum(",
                "OVER (",
                "WHERE",
            ]),
            None,
        ],
        never: "name",
    },
    Case {
        kind: "computed columns",
        sql: "SELECT sum(score * 2 + 1) FROM users WHERE region = 'bj'",
        answer: &["163"],
        sites: [Some(&["sum(", "score", "* 2", "+ 1"]), None],
        never: "name",
    },
    Case {
        kind: "what sites do otherwise",
        sql: "SELECT score / 20 FROM users WHERE region = 'hk' ORDER BY 1",
        answer: &["1", "1"],
        sites: [None, Some(&["score", "WHERE", "region"])],
        never: "/ 20",
    },
];

const DATA: [&str; 2] = [
    "INSERT INTO users VALUES ('u1', 'Al', 'bj', 1, 10, 'a@x'), ('u2', 'Bo', 'hk', 1, 20, 'b@x'), ('u3', 'Cy', 'bj', 2, 20, 'c@x'), \
     ('u4', 'Di', 'hk', 2, 30, 'd@x'), ('u5', 'Ed', 'bj', 2, 50, 'e@x')",
    "INSERT INTO reads VALUES (1, 'u1', 10), (2, 'u1', 20), (3, 'u2', 30), (4, 'u3', 40), (5, 'u4', 50)",
];

/// Words of the cases that are names of columns: the tables that Atoll makes at MySQL sites call them otherwise.
const COLUMNS: [&str; 7] = ["uid", "name", "region", "grade", "score", "email", "secs"];

/// Runs the cases over two sites, at which columns are called as in Atoll or not; `received` gives the statements about Atoll's tables that each server was sent since it was last asked.
fn check(sites: [String; 2], named: bool, mut received: impl FnMut() -> [Vec<String>; 2]) {
    let atoll = Atoll::start();
    let mut client = atoll.connect().unwrap_or_else(|e| panic!("connecting: {e}"));
    for (name, site) in ["bj", "hk"].iter().zip(sites) {
        run(&mut client, &format!("CREATE SITE {name} {site}"));
    }
    run(
        &mut client,
        "CREATE TABLE users (uid text PRIMARY KEY, name text, region varchar(10), grade int, score int, email text) PARTITION BY LIST (region)",
    );
    for name in ["bj", "hk"] {
        run(
            &mut client,
            &format!("CREATE TABLE users_{name} PARTITION OF users FOR VALUES IN ('{name}') TABLESPACE {name}"),
        );
    }
    run(
        &mut client,
        "CREATE TABLE reads (rid int PRIMARY KEY, uid text, secs int) WITH (colocate_with = 'users', colocate_on = 'uid')",
    );
    for sql in DATA {
        run(&mut client, sql);
    }
    for case in CASES {
        received();
        let answer = rows(&mut client, case.sql);
        assert_eq!(answer, case.answer, "{}", case.kind);
        for (at, (got, expected)) in received().iter().zip(case.sites).enumerate() {
            let shown = format!("{}: site {at} received {got:#?}", case.kind);
            let Some(words) = expected else {
                assert!(got.is_empty(), "{shown}");
                continue;
            };
            assert_eq!(got.len(), 1, "{shown}");
            let mut rest = got[0].as_str();
            for word in words.iter().filter(|word| named || !COLUMNS.contains(word)) {
                let found =
                    rest.find(word).unwrap_or_else(|| panic!("{shown}, without {word:?} after what comes before it"));
                rest = &rest[found + word.len()..];
            }
            assert!(!got[0].contains(case.never), "{shown}");
        }
    }
}

/// Statements over Atoll's tables in the part of a log that is new: what the expression finds of each line.
fn new_in(log: &str, seen: &mut usize, statement: &Regex) -> Vec<String> {
    let new = log.get(*seen..).unwrap_or_default();
    *seen = log.len();
    new.lines().filter_map(|line| Some(statement.captures(line)?[1].to_owned())).collect()
}

#[test]
fn postgresql_sites() {
    let servers = [(); 2].map(|()| {
        let mut server = PostgreSql::start();
        server.set("log_statement=all");
        server.crash();
        server.start_again().unwrap_or_else(|e| panic!("{e}"));
        server
    });
    let statement = Regex::new(r#"LOG: .*?(SELECT .*FROM "atoll"\."f\d+".*)"#).unwrap_or_else(|e| panic!("{e}"));
    let mut seen = [0, 0];
    let sites = [0, 1].map(|n: usize| format!("ENGINE postgres OPTIONS (url '{}')", servers[n].url()));
    check(sites, true, || [0, 1].map(|n: usize| new_in(&servers[n].log(), &mut seen[n], &statement)));
}

#[test]
fn mariadb_sites() {
    let mut servers = [(); 2].map(|()| {
        MariaDb::start(&["general-log=1", "general-log-file=general"])
            .unwrap_or_else(|e| panic!("a private MariaDB: {e}"))
    });
    let statement =
        Regex::new(r"(?:Query|Execute)\t.*?(SELECT .*FROM `test\d+`\.`f\d+`.*)").unwrap_or_else(|e| panic!("{e}"));
    let mut seen = [0, 0];
    let sites = [0, 1].map(|n: usize| {
        let url = servers[n].fresh_database().unwrap_or_else(|e| panic!("a database: {e}"));
        format!("ENGINE mysql OPTIONS (url '{url}')")
    });
    check(sites, false, || [0, 1].map(|n: usize| new_in(&servers[n].general_log(), &mut seen[n], &statement)));
}
