//! The same questions over several ways to split the same rows: the answers must not differ; and what EXPLAIN says of them.

use super::testing::{Define, Memory, column, hash};
use super::{Engine, EngineOptions, ExplainOptions, map_error};
use crate::rows;
use atoll_model::{ErrorKind, FragmentBounds, Fragmentation, RangeBound, Result, Row, SqlType, Value};
use atoll_ports::cluster::Cluster;
use atoll_ports::site::BranchOptions;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use futures::TryStreamExt;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    One,
    Hash,
    List,
    Range,
}

fn text(s: &str) -> Value {
    Value::Text(s.into())
}

const REGIONS: [&str; 4] = ["Beijing", "Hong Kong", "Lima", "Oslo"];

fn memory(layout: Layout) -> Memory {
    let users: Vec<Row> = (0..40)
        .map(|i| {
            let region = if i % 10 == 9 { Value::Null } else { text(REGIONS[i % 4]) };
            vec![Value::Int8(i as i64), text(&format!("user{i:02}")), region, Value::Int4((i * 7 % 30) as i32)]
        })
        .collect();
    let reads: Vec<Row> = (0..200)
        .map(|i| {
            let aid = if i % 17 == 0 { Value::Null } else { Value::Int8((i * 13 % 25) as i64) };
            vec![Value::Int8(i as i64), Value::Int8((i * 3 % 40) as i64), aid, Value::Int4(i % 9)]
        })
        .collect();
    let articles: Vec<Row> =
        (0..25).map(|i| vec![Value::Int8(i as i64), text(if i % 3 == 0 { "science" } else { "technology" })]).collect();
    let mut m = Memory::default();
    let u = Define::new(
        "users",
        &[("uid", SqlType::Int8), ("name", SqlType::Text), ("region", SqlType::Text), ("age", SqlType::Int4)],
    )
    .index(&[3]);
    let r = Define::new(
        "reads",
        &[("rid", SqlType::Int8), ("uid", SqlType::Int8), ("aid", SqlType::Int8), ("secs", SqlType::Int4)],
    )
    .index(&[1]);
    let list = |m: &str| FragmentBounds::List(vec![text(m)]);
    let u = match layout {
        Layout::One => u,
        Layout::Hash => u.fragments(Fragmentation::Hash(vec![column(0)]), hash(3)),
        Layout::List => u.fragments(
            Fragmentation::List(column(2)),
            vec![
                list("Beijing"),
                list("Hong Kong"),
                FragmentBounds::List(vec![text("Lima"), text("Oslo")]),
                FragmentBounds::Default,
            ],
        ),
        Layout::Range => u.fragments(
            Fragmentation::Range(vec![column(0)]),
            vec![
                FragmentBounds::Range { from: vec![RangeBound::Min], to: vec![RangeBound::Value(Value::Int8(10))] },
                FragmentBounds::Range { from: vec![RangeBound::Value(Value::Int8(10))], to: vec![RangeBound::Max] },
            ],
        ),
    };
    let parent = m.add(u, users);
    let r = match layout {
        Layout::One => r,
        Layout::Hash => r.fragments(Fragmentation::Hash(vec![column(1)]), hash(3)),
        Layout::List | Layout::Range => {
            let count = if layout == Layout::List { 4 } else { 2 };
            let bounds = (0..count).map(|n| FragmentBounds::Derived(m.id("users", n))).collect();
            let by = Fragmentation::Derived { parent, column: column(1), parent_column: column(0), direct: false };
            r.fragments(by, bounds).refers(1, parent)
        }
    };
    m.add(r, reads);
    m.add(Define::new("articles", &[("aid", SqlType::Int8), ("category", SqlType::Text)]), articles);
    m
}

struct World {
    engine: Engine,
    cluster: Arc<dyn Cluster>,
    state: SessionState,
}

fn world(layout: Layout) -> World {
    let cluster: Arc<dyn Cluster> = Arc::new(memory(layout));
    let engine = Engine::new(cluster.clone(), EngineOptions { parallelism: 2, ..EngineOptions::default() }).unwrap();
    let state = engine.session_state(&cluster.catalog(), false, &crate::privileges::Identity::of("atoll")).unwrap();
    World { engine, cluster, state }
}

impl World {
    async fn plan(&self, sql: &str) -> Result<LogicalPlan> {
        let ast = crate::pg::rewrite(crate::pg::parse_one(sql)?, &self.cluster.catalog())?;
        self.state.statement_to_plan(Statement::Statement(Box::new(ast))).await.map_err(map_error)
    }

    async fn query(&self, sql: &str) -> Result<Vec<Row>> {
        let plan = self.engine.optimize(&self.state, &self.plan(sql).await?)?;
        let txn = self.cluster.begin(BranchOptions::default());
        let (schema, stream) = self.engine.execute(&self.state, &plan, txn, None).await?;
        let types: Vec<SqlType> = schema.fields().iter().map(|f| SqlType::of_field(f).unwrap()).collect();
        let batches: Vec<_> = stream.try_collect().await?;
        let mut out = vec![];
        for batch in batches {
            out.extend(rows::from_batch(&batch, &types)?);
        }
        Ok(out)
    }

    async fn explain(&self, sql: &str, analyze: bool) -> Vec<String> {
        let options = ExplainOptions::parse(analyze, false, None, None).unwrap();
        let plan = self.plan(sql).await.unwrap();
        self.engine.explain(&self.state, &plan, self.cluster.begin(BranchOptions::default()), &options).await.unwrap()
    }
}

const QUERIES: &[&str] = &[
    "SELECT * FROM users",
    "SELECT * FROM users WHERE uid = 7",
    "SELECT name FROM users WHERE uid IN (3, 4, 39, 400) OR region = 'Lima'",
    "SELECT uid FROM users WHERE region IN ('Beijing', 'Oslo') AND age > 10",
    "SELECT uid FROM users WHERE region NOT IN ('Beijing', 'Oslo')",
    "SELECT uid FROM users WHERE region <> 'Hong Kong'",
    "SELECT uid FROM users WHERE region IS NULL",
    "SELECT uid FROM users WHERE region IS NOT NULL AND uid BETWEEN 5 AND 12",
    "SELECT uid FROM users WHERE uid < 12 AND uid >= 9",
    "SELECT uid FROM users WHERE (uid < 3 OR uid > 37) AND region > 'C'",
    "SELECT uid FROM users WHERE region = NULL",
    "SELECT uid FROM users WHERE NOT (uid >= 4)",
    "SELECT uid FROM users WHERE age = 7 OR age = 14",
    "SELECT uid FROM users WHERE age BETWEEN 7 AND 9",
    "SELECT count(*), count(region), sum(age), avg(age), min(name), max(name) FROM users",
    "SELECT region, count(*), sum(age) FROM users GROUP BY region",
    "SELECT region, count(DISTINCT age) FROM users GROUP BY region HAVING count(*) > 9",
    "SELECT u.uid, count(*) FROM users u JOIN reads r ON u.uid = r.uid GROUP BY u.uid",
    "SELECT u.name, r.rid FROM users u JOIN reads r ON u.uid = r.uid WHERE u.region = 'Beijing'",
    "SELECT u.name, r.rid FROM users u LEFT JOIN reads r ON u.uid = r.uid AND r.secs = 3",
    "SELECT u.name, r.rid FROM users u LEFT JOIN reads r ON u.uid = r.uid WHERE u.region = 'Oslo'",
    "SELECT u.name, r.rid FROM reads r RIGHT JOIN users u ON u.uid = r.uid AND u.region = 'Lima'",
    "SELECT u.name, r.rid FROM users u FULL JOIN reads r ON u.uid = r.uid AND u.region = 'Lima'",
    "SELECT name FROM users u WHERE EXISTS (SELECT 1 FROM reads r WHERE r.uid = u.uid AND r.secs = 8)",
    "SELECT name FROM users u WHERE NOT EXISTS (SELECT 1 FROM reads r WHERE r.uid = u.uid AND r.secs > 2)",
    "SELECT name FROM users WHERE uid IN (SELECT uid FROM reads WHERE aid = 5)",
    "SELECT name FROM users WHERE uid NOT IN (SELECT uid FROM reads WHERE aid = 5)",
    "SELECT u.region, a.category, count(*), sum(r.secs) FROM users u JOIN reads r ON u.uid = r.uid JOIN articles a ON r.aid = a.aid GROUP BY u.region, a.category",
    "SELECT a.aid, count(*) FROM reads r JOIN articles a ON r.aid = a.aid JOIN users u ON u.uid = r.uid WHERE u.region = 'Beijing' AND a.category = 'science' GROUP BY a.aid",
    "SELECT x.uid, y.uid FROM users x JOIN users y ON x.uid = y.uid WHERE x.region = 'Oslo'",
    "SELECT x.uid, y.uid FROM users x JOIN users y ON x.age = y.age AND x.uid < y.uid",
    "SELECT uid, (SELECT max(secs) FROM reads r WHERE r.uid = u.uid) FROM users u WHERE region = 'Lima'",
    "SELECT uid FROM users WHERE age > (SELECT avg(age) FROM users)",
    "SELECT uid FROM users WHERE region = 'Beijing' UNION SELECT uid FROM reads WHERE secs = 1",
    "SELECT uid FROM users INTERSECT SELECT aid FROM reads",
    "SELECT uid FROM users EXCEPT SELECT aid FROM reads WHERE aid IS NOT NULL",
    "WITH top AS (SELECT aid, count(*) AS n FROM reads GROUP BY aid) SELECT a.category, sum(n) FROM top t JOIN articles a ON a.aid = t.aid GROUP BY a.category",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT n, u.name FROM t JOIN users u ON u.uid = n",
    "SELECT uid, row_number() OVER (PARTITION BY region ORDER BY uid) FROM users",
    "SELECT DISTINCT region FROM users",
    "SELECT count(*) FROM users WHERE uid = 1 AND uid = 2",
    "SELECT u.uid, r.rid FROM users u, reads r WHERE u.uid = r.uid AND u.uid IN (1, 2, 3)",
    "SELECT u.uid FROM users u JOIN reads r ON u.uid = r.uid JOIN reads s ON s.uid = u.uid WHERE r.secs = 1 AND s.secs = 2",
];

const ORDERED: &[&str] = &[
    "SELECT * FROM users ORDER BY uid LIMIT 5",
    "SELECT * FROM users ORDER BY uid DESC LIMIT 5",
    "SELECT uid FROM users WHERE region = 'Lima' ORDER BY uid LIMIT 3 OFFSET 2",
    "SELECT name, age FROM users ORDER BY age DESC, uid LIMIT 7",
    "SELECT uid, region FROM users ORDER BY region, uid",
    "SELECT aid, count(*) AS n FROM reads GROUP BY aid ORDER BY n DESC, aid LIMIT 5",
    "SELECT u.uid, r.rid FROM users u JOIN reads r ON r.uid = u.uid ORDER BY r.rid DESC LIMIT 9",
    "SELECT uid FROM users WHERE uid IN (30, 2, 17, 9) ORDER BY uid",
    "SELECT age, uid FROM users WHERE age BETWEEN 5 AND 9 ORDER BY age, uid",
];

fn sorted(mut rows: Vec<Row>) -> Vec<String> {
    let mut out: Vec<String> = rows.drain(..).map(|r| format!("{r:?}")).collect();
    out.sort();
    out
}

#[tokio::test]
async fn answers_do_not_depend_on_fragmentation() {
    let one = world(Layout::One);
    for layout in [Layout::Hash, Layout::List, Layout::Range] {
        let other = world(layout);
        for sql in QUERIES {
            let expected = sorted(one.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")));
            let got = sorted(other.query(sql).await.unwrap_or_else(|e| panic!("{layout:?} {sql}: {e}")));
            assert_eq!(expected, got, "{layout:?}: {sql}\n{}", other.explain(sql, false).await.join("\n"));
        }
        for sql in ORDERED {
            let expected = one.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            let got = other.query(sql).await.unwrap_or_else(|e| panic!("{layout:?} {sql}: {e}"));
            assert_eq!(expected, got, "{layout:?}: {sql}\n{}", other.explain(sql, false).await.join("\n"));
        }
    }
}

#[tokio::test]
async fn known_answers() {
    let one = world(Layout::List);
    assert_eq!(one.query("SELECT name FROM users WHERE uid = 7").await.unwrap(), vec![vec![text("user07")]]);
    assert_eq!(
        one.query("SELECT count(*) FROM users WHERE region = 'Lima'").await.unwrap(),
        vec![vec![Value::Int8(10)]]
    );
    assert_eq!(one.query("SELECT count(*) FROM users_0").await.unwrap(), vec![vec![Value::Int8(10)]]);
}

async fn header(world: &World, sql: &str) -> Vec<String> {
    world.explain(sql, false).await.into_iter().filter(|l| l.starts_with("Fragments")).collect()
}

#[tokio::test]
async fn reduction() {
    let list = world(Layout::List);
    let cases = [
        ("SELECT * FROM users WHERE region = 'Beijing'", "1 of 4 (users_0)"),
        ("SELECT * FROM users WHERE region IN ('Beijing', 'Oslo')", "2 of 4 (users_0, users_2)"),
        ("SELECT * FROM users WHERE region = 'Beijing' OR (region = 'Lima' AND age = 3)", "2 of 4 (users_0, users_2)"),
        ("SELECT * FROM users WHERE region NOT IN ('Beijing', 'Hong Kong')", "2 of 4 (users_2, users_3)"),
        ("SELECT * FROM users WHERE age = 3", "4 of 4 (users_0, users_1, users_2, users_3)"),
    ];
    for (sql, expected) in cases {
        let got = header(&list, sql).await;
        assert!(got[0].contains(expected), "{sql}: {got:?}");
    }
    let joined =
        header(&list, "SELECT * FROM users u JOIN reads r ON u.uid = r.uid WHERE u.region = 'Hong Kong'").await;
    assert!(joined.iter().any(|l| l.contains("reads r: 1 of 4 (reads_1)") && l.contains("join with u")), "{joined:?}");
    let outer =
        header(&list, "SELECT * FROM reads r LEFT JOIN users u ON u.uid = r.uid AND u.region = 'Hong Kong'").await;
    assert!(outer.iter().any(|l| l.contains("reads r: 4 of 4")), "{outer:?}");
    let hashed = world(Layout::Hash);
    assert!(header(&hashed, "SELECT * FROM users WHERE uid = 7").await[0].contains("1 of 3"));
    let both = header(&hashed, "SELECT * FROM users u JOIN reads r ON u.uid = r.uid WHERE u.uid = 7").await;
    assert!(both.iter().all(|l| l.contains("1 of 3")), "{both:?}");
    let range = world(Layout::Range);
    assert!(header(&range, "SELECT * FROM users WHERE uid < 10").await[0].contains("1 of 2"));
}

/// How many joins are made, and what the first of them holds in its hash table.
async fn joins(world: &World, sql: &str) -> (usize, String) {
    let lines = world.explain(sql, false).await;
    let joins: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains("HashJoinExec")).collect();
    let built = joins.first().and_then(|at| {
        lines[at + 1..]
            .iter()
            .find(|l| l.contains("FragmentScan") || l.contains("UnionExec") || l.contains("HashJoinExec"))
    });
    (joins.len(), built.map_or_else(String::new, |line| line.trim_start_matches([' ', '-', '>']).to_owned()))
}

#[tokio::test]
async fn co_located_joins_run_fragment_by_fragment() {
    let list = world(Layout::List);
    let cases = [
        ("SELECT * FROM users u JOIN reads r ON u.uid = r.uid", 4),
        ("SELECT * FROM users u LEFT JOIN reads r ON u.uid = r.uid", 4),
        ("SELECT * FROM users u FULL JOIN reads r ON u.uid = r.uid AND r.secs < u.age", 4),
        ("SELECT * FROM users WHERE uid IN (SELECT uid FROM reads WHERE secs > 3)", 4),
        ("SELECT * FROM (SELECT uid AS k FROM users WHERE age > 3) u JOIN (SELECT uid AS k FROM reads) r USING (k)", 4),
        // Rows of other fragments match as well.
        ("SELECT * FROM users u JOIN reads r ON u.uid = r.rid", 1),
        ("SELECT * FROM users u LEFT JOIN reads r ON u.uid IS NOT DISTINCT FROM r.uid", 1),
        ("SELECT * FROM users u JOIN reads r ON u.uid = r.uid AND u.region = 'Lima'", 1),
        // A NULL anywhere decides.
        ("SELECT * FROM users WHERE uid NOT IN (SELECT aid FROM reads)", 1),
    ];
    for (sql, expected) in cases {
        assert_eq!(joins(&list, sql).await.0, expected, "{sql}\n{}", list.explain(sql, false).await.join("\n"));
    }
    assert_eq!(joins(&world(Layout::Hash), "SELECT * FROM users u JOIN reads r ON u.uid = r.uid").await.0, 3);
}

/// The foreign key tells that the join with users keeps all reads; so the few articles make the hash table.
#[tokio::test]
async fn the_smaller_side_is_held() {
    let sql = "SELECT * FROM reads r JOIN users u ON u.uid = r.uid JOIN articles a ON a.aid = r.aid";
    let (_, built) = joins(&world(Layout::List), sql).await;
    assert!(built.contains("articles"), "{built}");
}

#[tokio::test]
async fn errors_have_their_states() {
    let one = world(Layout::One);
    let cases = [
        ("SELECT nix FROM users", ErrorKind::UndefinedColumn),
        ("SELECT nam FROM users", ErrorKind::UndefinedColumn),
        ("SELECT * FROM nix", ErrorKind::UndefinedTable),
        ("SELECT x.uid FROM users u", ErrorKind::UndefinedTable),
        ("SELECT uid FROM users u JOIN reads r ON u.uid = r.uid", ErrorKind::AmbiguousColumn),
        ("SELECT nix(uid) FROM users", ErrorKind::UndefinedFunction),
        ("SELECT name, count(*) FROM users GROUP BY region", ErrorKind::Grouping),
        ("SELECT region, count(*) FROM users", ErrorKind::Grouping),
        ("SELECT 1 / (uid - uid) FROM users", ErrorKind::DivisionByZero),
        ("SELECT 1 / 0", ErrorKind::DivisionByZero),
        ("SELECT CAST(name AS int) FROM users", ErrorKind::InvalidText),
        ("SELECT CAST('x' AS int)", ErrorKind::InvalidText),
        ("SELECT age + CAST(2147483647 AS int) FROM users WHERE age > 1", ErrorKind::NumericOutOfRange),
        ("SELECT 9223372036854775807 + uid FROM users WHERE uid = 1", ErrorKind::NumericOutOfRange),
        ("SELECT 9223372036854775807 + 1", ErrorKind::NumericOutOfRange),
        ("SELECT 9223372036854775807 * uid FROM users WHERE uid = 3", ErrorKind::NumericOutOfRange),
        ("SELECT (SELECT uid FROM users)", ErrorKind::Cardinality),
        (
            "WITH RECURSIVE r AS (SELECT CAST('2024-01-01' AS timestamp(0)) AS t \
             UNION ALL SELECT t + interval '1 hour' FROM r WHERE t < timestamp '2024-01-02') SELECT t FROM r",
            ErrorKind::DatatypeMismatch,
        ),
    ];
    let mut wrong = vec![];
    for (sql, kind) in cases {
        match one.query(sql).await {
            Ok(rows) => wrong.push(format!("{sql}: gave {} rows, wanted {kind}", rows.len())),
            Err(e) if e.kind() == kind => {}
            Err(e) => wrong.push(format!("{sql}: {} {e}, wanted {kind}", e.kind())),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let near = one.query("SELECT nam FROM users").await.unwrap_err();
    assert!(near.hint_text().unwrap_or_default().contains("users.name"), "{near:?}");
}
