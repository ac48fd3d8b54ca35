//! Queries of MySQL sites: the statements, letter by letter, and tables that compare texts in their own way.

use crate::faults::adopted;
use crate::maria::Maria;
use crate::queries::{aggregate, answered, compare, count, equal, of, of_text, values, whole};
use crate::reads::large;
use crate::world::{TestResult, World, begin, column, failure, insert, key, mysql, table, text};
use atoll_model::{ErrorKind, FragmentId, Row, SiteId, SqlType, Table, Value};
use atoll_ports::query::{Aggregate, Arithmetic, Comparison, SiteExpr, SiteQuery, SortKey, Source, SourceJoin};
use atoll_ports::site::{Isolation, Replica, Site};
use futures::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;

/// A copy of `(id int primary key, s text, v varchar(20), n numeric(10,2), big numeric, b bool, c char(3))`, as fragment 7.
fn copy(adopted_as: Option<&str>) -> Replica {
    let columns = vec![
        column(1, "id", SqlType::Int4, true),
        column(2, "s", SqlType::Text, false),
        column(3, "v", SqlType::Varchar(Some(20)), false),
        column(4, "n", SqlType::Numeric(Some((10, 2))), false),
        column(5, "big", SqlType::Numeric(None), false),
        column(6, "b", SqlType::Bool, false),
        column(7, "c", SqlType::Char(3), false),
    ];
    let mut table: Table = table("things", columns, 1, vec![]);
    table.fragments[0].id = FragmentId(7);
    if let Some(name) = adopted_as {
        table.fragments[0].adopted.insert(SiteId(1), name.into());
    }
    Replica { site: SiteId(1), fragment: FragmentId(7), table: Arc::new(table) }
}

fn site() -> atoll_model::Result<Arc<dyn Site>> {
    // Nobody is asked.
    mysql(1, "mysql://app:secret@127.0.0.1:1/app", &[])
}

#[test]
fn statements() -> TestResult {
    let site = site()?;
    let (own, other) = (copy(None), copy(Some("shop.Things")));
    let exactly = |at: &Replica, filter: SiteExpr| SiteQuery { filter: vec![filter], ..values(at, vec![of(at, 0)]) };
    let sort = |expr: SiteExpr, descending: bool, nulls_first: bool| SortKey { expr, descending, nulls_first };
    let multiplied = |at: &Replica, position: usize| {
        let ty = SqlType::Numeric(Some((38, 4)));
        SiteExpr::Arithmetic(Arithmetic::Multiply, Box::new(of(at, position)), Box::new(of(at, position)), ty)
    };
    let like = |at: &Replica, pattern: &str| SiteExpr::Like(Box::new(of(at, 1)), Box::new(of_text(pattern)));
    let mut joined = values(&own, vec![of(&own, 0), SiteExpr::Column { source: 1, position: 2, ty: SqlType::Text }]);
    joined.sources.push(Source {
        replica: other.clone(),
        join: SourceJoin::Left(vec![equal(
            of(&own, 2),
            SiteExpr::Column { source: 1, position: 2, ty: SqlType::Text },
        )]),
    });
    let having = |at: &Replica| SiteQuery {
        group: Some(vec![of(at, 1)]),
        having: vec![compare(Comparison::Greater, of(at, 1), of_text("x"))],
        ..values(at, vec![of(at, 1), count()])
    };
    let sum = SiteExpr::Arithmetic(
        Arithmetic::Add,
        Box::new(of(&own, 0)),
        Box::new(SiteExpr::Value(SqlType::Int4, Value::Int4(-1))),
        SqlType::Int4,
    );
    for (query, want) in [
        (
            exactly(&own, equal(of(&own, 1), of_text("it's"))),
            "SELECT s0.`c1` FROM `app`.`f7` s0 WHERE (s0.`c2` = 'it''s')",
        ),
        (
            exactly(&own, equal(of(&own, 1), of_text("a\\"))),
            "SELECT s0.`c1` FROM `app`.`f7` s0 WHERE (s0.`c2` = X'615c')",
        ),
        (
            exactly(&other, equal(of(&other, 1), of_text("a"))),
            "SELECT s0.`id` FROM `shop`.`Things` s0 WHERE (CAST(s0.`s` AS BINARY) = 'a')",
        ),
        (exactly(&own, like(&own, "a%")), "SELECT s0.`c1` FROM `app`.`f7` s0 WHERE (s0.`c2` LIKE 'a%' ESCAPE X'5C')"),
        (
            exactly(&other, like(&other, "a\\_")),
            "SELECT s0.`id` FROM `shop`.`Things` s0 WHERE (CONVERT(CAST(s0.`s` AS BINARY) USING utf8mb4) COLLATE utf8mb4_bin \
             LIKE CONVERT(X'615c5f' USING utf8mb4) COLLATE utf8mb4_bin ESCAPE X'5C')",
        ),
        (
            exactly(&other, of(&other, 5)),
            "SELECT s0.`id` FROM `shop`.`Things` s0 WHERE (CASE WHEN s0.`b` IN (0, 1) OR s0.`b` IS NULL THEN s0.`b` \
             ELSE 9223372036854775807 + s0.`b` * s0.`b` END)",
        ),
        (
            SiteQuery {
                order: vec![sort(of(&own, 2), false, false), sort(of(&own, 0), true, true)],
                limit: Some(5),
                offset: 2,
                ..values(&own, vec![of(&own, 0)])
            },
            "SELECT s0.`c1` FROM `app`.`f7` s0 ORDER BY s0.`c3` IS NULL, s0.`c3`, s0.`c1` DESC LIMIT 5 OFFSET 2",
        ),
        (
            SiteQuery {
                order: vec![
                    sort(of(&own, 2), true, true),
                    sort(of(&own, 3), true, false),
                    sort(of(&own, 5), false, true),
                ],
                offset: 2,
                ..values(&own, vec![of(&own, 0)])
            },
            "SELECT s0.`c1` FROM `app`.`f7` s0 ORDER BY s0.`c3` IS NULL DESC, s0.`c3` DESC, s0.`c4` DESC, s0.`c6` \
             LIMIT 18446744073709551615 OFFSET 2",
        ),
        (
            joined,
            "SELECT s0.`c1`, s1.`v` FROM `app`.`f7` s0 LEFT JOIN `shop`.`Things` s1 ON ((s0.`c3` = CAST(s1.`v` AS BINARY)))",
        ),
        (
            having(&own),
            "SELECT s0.`c2`, count(*), s0.`c2` AS atoll_k0 FROM `app`.`f7` s0 GROUP BY sha2(s0.`c2`, 256) HAVING (atoll_k0 > 'x')",
        ),
        (
            SiteQuery { group: Some(vec![of(&other, 2)]), ..values(&other, vec![of(&other, 2), count()]) },
            "SELECT s0.`v`, count(*) FROM `shop`.`Things` s0 GROUP BY CAST(s0.`v` AS BINARY)",
        ),
        (
            SiteQuery { group: Some(vec![]), outputs: vec![], ..whole(&own) },
            "SELECT count(*) FROM (SELECT 1, count(*) FROM `app`.`f7` s0) t",
        ),
        (
            values(&own, vec![sum]),
            "SELECT ((s0.`c1` + -1) + 9223372034707292160 - 9223372034707292160 - 9223372034707292160 + 9223372034707292160) \
             FROM `app`.`f7` s0",
        ),
        (values(&own, vec![multiplied(&own, 3)]), "SELECT (s0.`c4` * s0.`c4`) FROM `app`.`f7` s0"),
    ] {
        assert_eq!(site.statement(&query)?, want);
    }
    // What is left to the engine, and why.
    for (query, why) in [
        (whole(&own), "all rows of a copy at a MySQL site in one answer"),
        (
            SiteQuery { order: vec![sort(of(&own, 1), false, false)], ..whole(&own) },
            "an order of text values without a length at a MySQL site",
        ),
        (values(&own, vec![multiplied(&own, 4), of(&own, 0)]), "a product of so many digits at a MySQL site"),
        (exactly(&own, like(&own, "a\\")), "a pattern that ends with a backslash at a MySQL site"),
        (exactly(&own, equal(of(&own, 6), of_text("a"))), "computing with values of type character(3) at a MySQL site"),
    ] {
        let error = site.statement(&query).err().ok_or("taken")?;
        assert_eq!(error.kind(), ErrorKind::NotSupported);
        assert!(error.message().contains(why), "{}", error.message());
    }
    Ok(())
}

/// Texts that the site takes for equal, and Atoll does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_collations() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[])?;
    let sql = "CREATE TABLE folded (id int PRIMARY KEY, x varchar(20) CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci); \
               INSERT INTO folded VALUES (1, 'ä'), (2, 'Ä'), (3, 'a'), (4, 'a '), (5, 'A'), (6, NULL)";
    server.run("app", sql).await?;
    let at = adopted(site.id(), "folded", SqlType::Varchar(Some(20)));
    let ask = async |query: SiteQuery| {
        site.statement(&query)?;
        answered(&*begin(&site, Isolation::ReadCommitted).await?, query).await
    };
    let ids = |ids: &[i32]| ids.iter().map(|id| vec![Value::Int4(*id)]).collect::<Vec<Row>>();
    let x = || of(&at, 1);
    let order = || vec![SortKey { expr: of(&at, 0), descending: false, nulls_first: false }];
    for (filter, want) in [
        (equal(x(), of_text("a")), &[3][..]),
        (equal(x(), of_text("ä")), &[1]),
        (compare(Comparison::Greater, x(), of_text("a")), &[1, 2, 4]),
        (SiteExpr::In(Box::new(x()), vec![of_text("A"), of_text("Ä")]), &[2, 5]),
        (SiteExpr::Like(Box::new(x()), Box::new(of_text("_"))), &[1, 2, 3, 5]),
        (SiteExpr::Like(Box::new(x()), Box::new(of_text("A%"))), &[5]),
        (equal(SiteExpr::Coalesce(vec![x(), of_text("A")], SqlType::Text), of_text("A")), &[5, 6]),
    ] {
        let query = SiteQuery { filter: vec![filter.clone()], order: order(), ..values(&at, vec![of(&at, 0)]) };
        assert_eq!(ask(query).await?, ids(want), "{filter:?}");
    }
    let by_text = vec![SortKey { expr: x(), descending: true, nulls_first: false }];
    let query = SiteQuery { order: by_text, limit: Some(4), ..values(&at, vec![of(&at, 0)]) };
    assert_eq!(ask(query).await?, ids(&[1, 2, 4, 3]));
    let grouped = SiteQuery { group: Some(vec![x()]), ..values(&at, vec![x(), count()]) };
    assert_eq!(ask(grouped.clone()).await?.len(), 6);
    let having = vec![compare(Comparison::Less, x(), of_text("a"))];
    assert_eq!(ask(SiteQuery { having, ..grouped }).await?, [[text("A"), Value::Int8(1)]]);
    let extremes = [Aggregate::Min, Aggregate::Max].map(|f| aggregate(f, Some(x()), SqlType::Text)).to_vec();
    let query = SiteQuery { group: Some(vec![]), ..values(&at, extremes) };
    assert_eq!(ask(query).await?, [[text("A"), text("ä")]]);
    Ok(())
}

/// Whatever the server is configured to, sessions say for themselves what they want.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_settings() -> TestResult {
    let server = Maria::start().await?;
    let sql = "CREATE TABLE some (id int AUTO_INCREMENT PRIMARY KEY, x varchar(20)); \
               INSERT INTO some VALUES (1, 'b'), (2, 'a\\\\'), (3, 'B'), (4, NULL); \
               SET GLOBAL sql_select_limit = 1, GLOBAL sql_auto_is_null = 1, GLOBAL max_sort_length = 64, GLOBAL sql_big_selects = 0, \
               GLOBAL max_join_size = 1, GLOBAL time_zone = '+05:00', GLOBAL sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,ORACLE'";
    server.run("app", sql).await?;
    let site = mysql(1, &server.url("app"), &[])?;
    let at = adopted(site.id(), "some", SqlType::Varchar(Some(20)));
    let ask = async |query: SiteQuery| answered(&*begin(&site, Isolation::ReadCommitted).await?, query).await;
    let order = vec![SortKey { expr: of(&at, 1), descending: false, nulls_first: false }];
    let query = SiteQuery { order, ..values(&at, vec![of(&at, 1)]) };
    assert_eq!(ask(query).await?, [[text("B")], [text("a\\")], [text("b")], [Value::Null]]);
    let is_null = |position: usize| SiteQuery {
        filter: vec![SiteExpr::IsNull(Box::new(of(&at, position)))],
        ..values(&at, vec![of(&at, 0)])
    };
    assert_eq!(ask(is_null(1)).await?, [[Value::Int4(4)]]);
    assert!(ask(is_null(0)).await?.is_empty());
    Ok(())
}

/// A query that is given up before its first row comes is stopped at the server, and the transaction goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_up_early() -> TestResult {
    let world = World::mysql().await?;
    let at = large(&world).await?;
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
        let branch = world.begin(isolation).await?;
        // Billions of pairs.
        let pairs = Source { replica: at.clone(), join: SourceJoin::Inner(vec![]) };
        let mut counted = SiteQuery { group: Some(vec![]), ..values(&at, vec![count()]) };
        counted.filter.push(compare(Comparison::NotEqual, of(&at, 1), of_text("")));
        counted.sources.extend([pairs.clone(), pairs]);
        let mut given_up = branch.query(counted)?;
        let early = tokio::time::timeout(Duration::from_millis(500), given_up.next()).await;
        assert!(early.is_err(), "it takes longer");
        drop(given_up);
        let next = tokio::time::timeout(Duration::from_secs(30), branch.get(&at, &key(7))).await??;
        assert!(next.is_some());
        branch.apply(&at, vec![insert(-1, &format!("{isolation:?}"), 0)]).await?;
        branch.rollback();
    }
    Ok(())
}

/// What is no boolean is an error, whether it is read or computed with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_for_booleans() -> TestResult {
    let server = Maria::start().await?;
    let site = mysql(1, &server.url("app"), &[])?;
    server
        .run(
            "app",
            "CREATE TABLE flags (id int PRIMARY KEY, x tinyint(1)); INSERT INTO flags VALUES (1, 0), (2, 1), (3, NULL)",
        )
        .await?;
    let at = adopted(site.id(), "flags", SqlType::Bool);
    let query = SiteQuery { filter: vec![of(&at, 1)], ..values(&at, vec![of(&at, 0)]) };
    let ask = async || answered(&*begin(&site, Isolation::ReadCommitted).await?, query.clone()).await;
    assert_eq!(ask().await?, [[Value::Int4(2)]]);
    for number in [2, -1] {
        server.run("app", &format!("REPLACE INTO flags VALUES (4, {number})")).await?;
        assert_eq!(failure(ask().await), Some(ErrorKind::NumericOutOfRange));
    }
    Ok(())
}
