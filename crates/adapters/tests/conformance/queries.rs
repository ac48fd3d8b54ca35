//! Queries: every operation of the algebra, over values that engines compare, order and compute otherwise than Atoll if they are let.

use crate::world::{TestResult, World, column, failure, table, text};
use atoll_model::text::parse;
use atoll_model::{ErrorKind, Result, Row, SiteEngine, SqlType, Value};
use atoll_ports::query::{Aggregate, Arithmetic, Comparison, Output, SiteExpr, SiteQuery, SortKey, Source, SourceJoin};
use atoll_ports::rows::value_at;
use atoll_ports::site::{Branch, Isolation, Replica, RowChange};
use futures::TryStreamExt as _;
use std::sync::Arc;

/// All rows and columns of a copy.
pub fn whole(at: &Replica) -> SiteQuery {
    let column = |(position, c): (usize, &atoll_model::Column)| Output {
        expr: SiteExpr::Column { source: 0, position, ty: c.ty.clone() },
        name: c.name.clone(),
        ty: c.ty.clone(),
        nullable: true,
    };
    SiteQuery {
        sources: vec![Source { replica: at.clone(), join: SourceJoin::First }],
        filter: vec![],
        group: None,
        having: vec![],
        outputs: at.table.columns.iter().enumerate().map(column).collect(),
        order: vec![],
        offset: 0,
        limit: None,
        batch_size: 3,
    }
}

/// Some values of all rows.
pub fn values(at: &Replica, exprs: Vec<SiteExpr>) -> SiteQuery {
    let output = |(n, expr): (usize, SiteExpr)| Output { ty: expr.ty(), name: format!("c{n}"), expr, nullable: true };
    SiteQuery { outputs: exprs.into_iter().enumerate().map(output).collect(), ..whole(at) }
}

/// Groups, by what they are grouped by, and some values of each.
fn grouped(at: &Replica, keys: Vec<SiteExpr>, exprs: Vec<SiteExpr>) -> SiteQuery {
    SiteQuery { group: Some(keys.clone()), ..values(at, keys.into_iter().chain(exprs).collect()) }
}

/// The rows of the answer, whose columns have to be of the types that were asked for.
pub async fn answered(branch: &dyn Branch, query: SiteQuery) -> Result<Vec<Row>> {
    let types: Vec<SqlType> = query.outputs.iter().map(|output| output.ty.clone()).collect();
    let size = query.batch_size;
    let batches: Vec<_> = branch.query(query)?.try_collect().await?;
    let mut rows = vec![];
    for batch in batches {
        assert!(batch.num_rows() <= size);
        for (ty, field) in types.iter().zip(batch.schema().fields()) {
            assert_eq!(field.data_type(), &ty.arrow());
        }
        for n in 0..batch.num_rows() {
            let cells = types.iter().zip(batch.columns());
            rows.push(cells.map(|(ty, array)| value_at(array, n, ty)).collect::<Result<_>>()?);
        }
    }
    Ok(rows)
}

pub async fn ask(world: &World, query: SiteQuery) -> Result<Vec<Row>> {
    // What is said to be possible is.
    world.here().statement(&query)?;
    answered(&*world.begin(Isolation::ReadCommitted).await?, query).await
}

/// The answer in some order of rows.
pub async fn ask_sorted(world: &World, query: SiteQuery) -> Result<Vec<Row>> {
    let mut rows = ask(world, query).await?;
    rows.sort_by_cached_key(|row| format!("{row:?}"));
    Ok(rows)
}

pub fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_cached_key(|row| format!("{row:?}"));
    rows
}

/// Embedded sites answer none.
pub fn answers(world: &World) -> bool {
    world.here().engine() != SiteEngine::Embedded
}

pub fn compare(how: Comparison, left: SiteExpr, right: SiteExpr) -> SiteExpr {
    SiteExpr::Compare(how, Box::new(left), Box::new(right))
}

pub fn equal(left: SiteExpr, right: SiteExpr) -> SiteExpr {
    compare(Comparison::Equal, left, right)
}

pub fn of_text(value: &str) -> SiteExpr {
    SiteExpr::Value(SqlType::Text, text(value))
}

pub fn int(value: i32) -> SiteExpr {
    SiteExpr::Value(SqlType::Int4, Value::Int4(value))
}

fn constant(ty: SqlType, written: &str) -> Result<SiteExpr> {
    let value = parse(&ty, written)?;
    Ok(SiteExpr::Value(ty, value))
}

pub fn aggregate(function: Aggregate, argument: Option<SiteExpr>, ty: SqlType) -> SiteExpr {
    SiteExpr::Aggregate { function, argument: argument.map(Box::new), distinct: false, ty }
}

pub fn count() -> SiteExpr {
    aggregate(Aggregate::Count, None, SqlType::Int8)
}

fn different(argument: SiteExpr) -> SiteExpr {
    SiteExpr::Aggregate {
        function: Aggregate::Count,
        argument: Some(Box::new(argument)),
        distinct: true,
        ty: SqlType::Int8,
    }
}

fn computed(how: Arithmetic, left: SiteExpr, right: SiteExpr, ty: SqlType) -> SiteExpr {
    SiteExpr::Arithmetic(how, Box::new(left), Box::new(right), ty)
}

pub fn up(expr: SiteExpr) -> SortKey {
    SortKey { expr, descending: false, nulls_first: false }
}

/// A column of the first source.
pub fn of(at: &Replica, position: usize) -> SiteExpr {
    SiteExpr::Column { source: 0, position, ty: at.table.columns[position].ty.clone() }
}

/// Texts that collations, padding, escapes and drivers take for something else.
pub const NASTY: [&str; 12] =
    ["", " ", "a", "a ", "A", "ä", "Ä", "it's \"q\"", "back\\slash", "\\", "a:b ? -- /* # `", "100%_"];

/// `(id int primary key, s text, v varchar(40))`: each nasty text twice, and NULLs.
pub async fn texts_table(world: &World) -> Result<Replica> {
    let columns = vec![
        column(1, "id", SqlType::Int4, true),
        column(2, "s", SqlType::Text, false),
        column(3, "v `\"'", SqlType::Varchar(Some(40)), false),
    ];
    let at = world.create(&Arc::new(table("texts", columns, 1, vec![]))).await?;
    let row = |(n, s): (usize, &&str)| RowChange::Insert(vec![Value::Int4(n as i32), text(s), text(s)]);
    let mut all: Vec<RowChange> = NASTY.iter().chain(&NASTY).enumerate().map(row).collect();
    all.push(RowChange::Insert(vec![Value::Int4(100), Value::Null, Value::Null]));
    world.write(&at, all).await?;
    Ok(at)
}

pub async fn what_cannot_be_asked(world: &World) -> TestResult {
    let at = world.accounts(3).await?;
    let counted = values(&at, vec![count()]);
    let counted = SiteQuery { group: Some(vec![]), ..counted };
    if answers(world) {
        assert_eq!(ask(world, counted).await?, [[Value::Int8(3)]]);
        return Ok(());
    }
    assert_eq!(failure(world.here().statement(&counted)), Some(ErrorKind::NotSupported));
    let branch = world.begin(Isolation::ReadCommitted).await?;
    assert_eq!(failure(branch.query(counted)), Some(ErrorKind::NotSupported));
    Ok(())
}

pub async fn texts(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = texts_table(world).await?;
    type Holds = fn(&str, &str) -> bool;
    let signs: [(Comparison, Holds); 6] = [
        (Comparison::Equal, |a, b| a == b),
        (Comparison::NotEqual, |a, b| a != b),
        (Comparison::Less, |a, b| a < b),
        (Comparison::LessOrEqual, |a, b| a <= b),
        (Comparison::Greater, |a, b| a > b),
        (Comparison::GreaterOrEqual, |a, b| a >= b),
    ];
    for position in [1, 2] {
        for nasty in NASTY {
            for (how, holds) in signs {
                let filter = vec![compare(how, of(&at, position), of_text(nasty))];
                let got = ask(world, SiteQuery { filter, ..values(&at, vec![count()]) }).await?;
                let want = 2 * NASTY.iter().filter(|s| holds(s, nasty)).count() as i64;
                assert_eq!(got, [[Value::Int8(want)]], "{how:?} {nasty:?}");
            }
        }
        let list = vec![of_text("a"), of_text("\\"), of_text("x"), of_text("it's \"q\"")];
        let within = SiteExpr::In(Box::new(of(&at, position)), list);
        let got = ask(world, SiteQuery { filter: vec![within.clone()], ..values(&at, vec![count()]) }).await?;
        assert_eq!(got, [[Value::Int8(6)]]);
        // Neither in the list nor out of it: NULL.
        let filter = vec![SiteExpr::Not(Box::new(within))];
        let got = ask(world, SiteQuery { filter, ..values(&at, vec![count()]) }).await?;
        assert_eq!(got, [[Value::Int8(2 * NASTY.len() as i64 - 6)]]);
        // One that is long.
        let list = (0..3000).map(|n| of_text(&format!("x{n}"))).chain(["a", "\\", "Ä"].map(of_text)).collect();
        let filter = vec![SiteExpr::In(Box::new(of(&at, position)), list)];
        let got = ask(world, SiteQuery { filter, ..values(&at, vec![count()]) }).await?;
        assert_eq!(got, [[Value::Int8(6)]]);
        let extremes = [Aggregate::Min, Aggregate::Max].map(|f| aggregate(f, Some(of(&at, position)), SqlType::Text));
        let got = ask(world, SiteQuery { group: Some(vec![]), ..values(&at, extremes.to_vec()) }).await?;
        assert_eq!(got, [[text(""), text("ä")]]);
    }
    // What is computed is compared alike.
    let case = SiteExpr::Case {
        branches: vec![(SiteExpr::IsNull(Box::new(of(&at, 1))), of_text("NULL\\"))],
        otherwise: Some(Box::new(of(&at, 1))),
        ty: SqlType::Text,
    };
    let fallback = SiteExpr::Coalesce(vec![of(&at, 1), of_text("NULL\\")], SqlType::Text);
    let filter = vec![equal(case.clone(), fallback.clone())];
    let got = ask_sorted(world, SiteQuery { filter, ..values(&at, vec![case, fallback]) }).await?;
    let all = NASTY.iter().chain(&NASTY).chain(&["NULL\\"]).map(|s| vec![text(s), text(s)]);
    assert_eq!(got, sorted(all.collect()));
    Ok(())
}

pub async fn patterns(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = texts_table(world).await?;
    for (pattern, want) in [
        ("a", &["a"][..]),
        ("a_", &["a "]),
        ("_", &[" ", "a", "A", "ä", "Ä", "\\"]),
        ("ä", &["ä"]),
        ("%\\\\%", &["back\\slash", "\\"]),
        ("%\\%\\_", &["100%_"]),
        ("%'s%", &["it's \"q\""]),
        ("a:%", &["a:b ? -- /* # `"]),
        ("", &[""]),
    ] {
        let like = SiteExpr::Like(Box::new(of(&at, 1)), Box::new(of_text(pattern)));
        let got = ask_sorted(world, SiteQuery { filter: vec![like], ..values(&at, vec![of(&at, 2)]) }).await?;
        let want = want.iter().flat_map(|s| [vec![text(s)], vec![text(s)]]).collect();
        assert_eq!(got, sorted(want), "{pattern:?}");
    }
    Ok(())
}

pub async fn groups(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = texts_table(world).await?;
    let each = |n: i64, null: i64| -> Vec<Row> {
        let texts = NASTY.iter().map(|s| vec![text(s), Value::Int8(n)]);
        sorted(texts.chain([vec![Value::Null, Value::Int8(null)]]).collect())
    };
    for position in [1, 2] {
        let got = ask_sorted(world, grouped(&at, vec![of(&at, position)], vec![count()])).await?;
        assert_eq!(got, each(2, 1));
        let got =
            ask(world, SiteQuery { group: Some(vec![]), ..values(&at, vec![different(of(&at, position))]) }).await?;
        assert_eq!(got, [[Value::Int8(NASTY.len() as i64)]]);
        // Conditions on what is grouped by, and on aggregates.
        let key = SiteExpr::Coalesce(vec![of(&at, position), of_text("none")], SqlType::Text);
        let having = vec![SiteExpr::Or(vec![
            equal(key.clone(), of_text("a ")),
            equal(count(), SiteExpr::Value(SqlType::Int8, Value::Int8(1))),
        ])];
        let got = ask_sorted(world, SiteQuery { having, ..grouped(&at, vec![key], vec![count()]) }).await?;
        assert_eq!(got, [[text("a "), Value::Int8(2)], [text("none"), Value::Int8(1)]]);
    }
    // DISTINCT.
    let distinct = grouped(&at, vec![of(&at, 2), SiteExpr::IsNull(Box::new(of(&at, 1)))], vec![]);
    assert_eq!(ask(world, distinct).await?.len(), NASTY.len() + 1);
    // The number of groups.
    let counted = SiteQuery { outputs: vec![], ..grouped(&at, vec![of(&at, 1)], vec![]) };
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let batches: Vec<_> = branch.query(counted)?.try_collect().await?;
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), NASTY.len() + 1);
    Ok(())
}

pub async fn orders(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = texts_table(world).await?;
    let mut texts: Vec<&str> = NASTY.to_vec();
    texts.sort_unstable();
    let ascending: Vec<Value> = texts.iter().flat_map(|s| [text(s), text(s)]).collect();
    for descending in [false, true] {
        for nulls_first in [false, true] {
            let mut want = ascending.clone();
            if descending {
                want.reverse();
            }
            want.insert(if nulls_first { 0 } else { want.len() }, Value::Null);
            let order = vec![SortKey { expr: of(&at, 2), descending, nulls_first }];
            let ordered = SiteQuery { order, ..values(&at, vec![of(&at, 2)]) };
            let all = |rows: Vec<Row>| rows.into_iter().flatten().collect::<Vec<_>>();
            assert_eq!(all(ask(world, ordered.clone()).await?), want);
            let first = SiteQuery { limit: Some(5), ..ordered.clone() };
            assert_eq!(all(ask(world, first).await?), want[..5]);
            let later = SiteQuery { limit: Some(4), offset: 20, ..ordered.clone() };
            assert_eq!(all(ask(world, later).await?), want[20..24]);
            assert_eq!(all(ask(world, SiteQuery { offset: 22, ..ordered }).await?), want[22..]);
        }
    }
    // Groups, by what is computed of them.
    let largest = aggregate(Aggregate::Max, Some(of(&at, 0)), SqlType::Int4);
    let order = vec![SortKey { expr: largest.clone(), descending: true, nulls_first: false }];
    let got = ask(world, SiteQuery { order, limit: Some(2), ..grouped(&at, vec![of(&at, 2)], vec![largest]) }).await?;
    assert_eq!(got, [[Value::Null, Value::Int4(100)], [text("100%_"), Value::Int4(23)]]);
    Ok(())
}

/// `(id int primary key, i2, i4, i8, n numeric(12,3), m numeric, f4, f8)`
async fn numbers_table(world: &World) -> Result<Replica> {
    let types = [
        SqlType::Int2,
        SqlType::Int4,
        SqlType::Int8,
        SqlType::Numeric(Some((12, 3))),
        SqlType::Numeric(None),
        SqlType::Float4,
        SqlType::Float8,
    ];
    let mut columns = vec![column(1, "id", SqlType::Int4, true)];
    columns.extend(types.iter().enumerate().map(|(n, ty)| column(n as u16 + 2, &format!("x{n}"), ty.clone(), false)));
    let at = world.create(&Arc::new(table("numbers", columns, 1, vec![]))).await?;
    let mut all = vec![];
    for (id, written) in [
        ["-7", "-7", "-7", "-7.125", "-7.5", "-0.1", "-0.1"],
        ["32767", "2147483647", "9223372036854775807", "999999999.999", "1234567890123456789.0123456789", "0.1", "0.1"],
        ["-32768", "-2147483648", "-9223372036854775808", "-999999999.999", "-0.0000000001", "1e30", "1e300"],
        ["0", "0", "0", "0", "0", "0", "0"],
    ]
    .iter()
    .enumerate()
    {
        let values = types.iter().zip(written).map(|(ty, text)| parse(ty, text));
        let row: Row = std::iter::once(Ok(Value::Int4(id as i32))).chain(values).collect::<Result<_>>()?;
        all.push(RowChange::Insert(row));
    }
    all.push(RowChange::Insert(std::iter::once(Value::Int4(4)).chain(types.iter().map(|_| Value::Null)).collect()));
    world.write(&at, all).await?;
    Ok(at)
}

pub async fn numbers(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = numbers_table(world).await?;
    let smallest = |n: i64| equal(of(&at, 0), int(n as i32));
    // What fits is computed, and what does not is an error, in the answer as in a condition.
    let one = |ty: &SqlType| constant(ty.clone(), "1");
    for (position, largest) in [(1, 32766i64), (2, 2_147_483_646), (3, 9_223_372_036_854_775_806)] {
        let ty = at.table.columns[position].ty.clone();
        let less = computed(Arithmetic::Subtract, of(&at, position), one(&ty)?, ty.clone());
        let query = SiteQuery { filter: vec![smallest(1)], ..values(&at, vec![less.clone()]) };
        assert_eq!(ask(world, query.clone()).await?, [[parse(&ty, &largest.to_string())?]]);
        let beyond = computed(Arithmetic::Add, of(&at, position), one(&ty)?, ty.clone());
        for outside in [
            SiteQuery { filter: vec![smallest(2)], ..values(&at, vec![less.clone()]) },
            SiteQuery { filter: vec![smallest(1)], ..values(&at, vec![beyond.clone()]) },
            SiteQuery { filter: vec![equal(beyond, one(&ty)?)], ..values(&at, vec![count()]) },
            SiteQuery {
                filter: vec![smallest(2)],
                ..values(&at, vec![computed(Arithmetic::Multiply, of(&at, position), of(&at, position), ty.clone())])
            },
        ] {
            assert_eq!(failure(ask(world, outside).await), Some(ErrorKind::NumericOutOfRange), "{ty}");
        }
    }
    // Sums, which are wider than what is summed up.
    let wide = |p, s| SqlType::Numeric(Some((p, s)));
    let sum = |position: usize, ty: SqlType| aggregate(Aggregate::Sum, Some(of(&at, position)), ty);
    let sums = vec![
        sum(1, SqlType::Int8),
        sum(2, SqlType::Int8),
        sum(3, wide(38, 0)),
        sum(4, wide(22, 3)),
        sum(5, SqlType::Numeric(None)),
    ];
    let got = ask(world, SiteQuery { group: Some(vec![]), ..values(&at, sums.clone()) }).await?;
    let want: Result<Row> = sums
        .iter()
        .zip(["-8", "-8", "-8", "-7.125", "1234567890123456781.5123456788"])
        .map(|(sum, text)| parse(&sum.ty(), text))
        .collect();
    assert_eq!(got, [want?]);
    // Exact digits: nothing is rounded, cut off, or lost at the end.
    let n = || of(&at, 4);
    let product = computed(Arithmetic::Multiply, n(), n(), wide(25, 6));
    let total =
        computed(Arithmetic::Add, product.clone(), SiteExpr::Widen(Box::new(of(&at, 3)), wide(38, 6)), wide(38, 6));
    let got = ask(world, SiteQuery { order: vec![up(of(&at, 0))], ..values(&at, vec![product, total]) }).await?;
    let exact = |text: &str, p| parse(&wide(p, 6), text);
    assert_eq!(got[0], [exact("50.765625", 25)?, exact("43.765625", 38)?]);
    assert_eq!(got[1], [exact("999999999998000000.000001", 25)?, exact("10223372036852775807.000001", 38)?]);
    assert_eq!(got[4], [Value::Null, Value::Null]);
    // Comparisons of numbers, also of several types.
    for (filter, want) in [
        (compare(Comparison::Less, of(&at, 5), constant(SqlType::Numeric(None), "0")?), 2),
        (equal(of(&at, 5), constant(SqlType::Numeric(None), "1234567890123456789.0123456789")?), 1),
        (equal(of(&at, 3), constant(SqlType::Int8, "-9223372036854775808")?), 1),
        (compare(Comparison::Greater, of(&at, 3), constant(wide(38, 1), "9223372036854775806.9")?), 1),
        (compare(Comparison::Greater, of(&at, 4), of(&at, 3)), 1),
        (equal(of(&at, 6), constant(SqlType::Float4, "0.1")?), 1),
        (equal(of(&at, 7), constant(SqlType::Float8, "0.1")?), 1),
        (equal(SiteExpr::Widen(Box::new(of(&at, 6)), SqlType::Float8), of(&at, 7)), 1),
        (compare(Comparison::Greater, of(&at, 7), constant(SqlType::Float8, "1e299")?), 1),
    ] {
        let got = ask(world, SiteQuery { filter: vec![filter.clone()], ..values(&at, vec![count()]) }).await?;
        assert_eq!(got, [[Value::Int8(want)]], "{filter:?}");
    }
    // Floating point.
    let extremes = vec![
        aggregate(Aggregate::Max, Some(of(&at, 6)), SqlType::Float4),
        aggregate(Aggregate::Min, Some(of(&at, 7)), SqlType::Float8),
        aggregate(Aggregate::Sum, Some(of(&at, 7)), SqlType::Float8),
    ];
    let got = ask(world, SiteQuery { group: Some(vec![]), ..values(&at, extremes) }).await?;
    assert_eq!(got, [[Value::Float4(1e30), Value::Float8(-0.1), Value::Float8(1e300)]]);
    Ok(())
}

/// Values of every type that compares, as constants, in conditions, groups, orders, extremes, and computed.
pub async fn values_of_every_kind(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    // In their order.
    let kinds = [
        (SqlType::Bool, ["false", "true"]),
        (SqlType::Int2, ["-1", "1"]),
        (SqlType::Int8, ["-9223372036854775808", "9223372036854775807"]),
        (SqlType::Numeric(Some((10, 2))), ["-1.50", "2.00"]),
        (SqlType::Text, ["Z ", "a'\\"]),
        (SqlType::Bytea, ["\\x", "\\x00275cff"]),
        (SqlType::Date, ["0001-01-01", "9999-12-31"]),
        (SqlType::Time(None), ["00:00:00", "23:59:59.999999"]),
        (SqlType::Timestamp(None), ["1969-12-31 23:59:59.999999", "2040-02-29 12:00:00.5"]),
        (SqlType::TimestampTz(None), ["1969-12-31 23:59:59.999999+00", "2040-02-29 12:00:00.5+02"]),
        (SqlType::Uuid, ["00000000-0000-0000-0000-00000000000a", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]),
    ];
    let mut columns = vec![column(1, "id", SqlType::Int4, true)];
    columns
        .extend(kinds.iter().enumerate().map(|(n, (ty, _))| column(n as u16 + 2, &format!("x{n}"), ty.clone(), false)));
    let at = world.create(&Arc::new(table("kinds", columns, 1, vec![]))).await?;
    let row = |id: i32, which: usize| -> Result<RowChange> {
        let values = kinds.iter().map(|(ty, values)| values.get(which).map_or(Ok(Value::Null), |v| parse(ty, v)));
        Ok(RowChange::Insert(std::iter::once(Ok(Value::Int4(id))).chain(values).collect::<Result<_>>()?))
    };
    world.write(&at, vec![row(1, 0)?, row(2, 1)?, row(3, 1)?, row(4, 2)?]).await?;
    for (n, (ty, written)) in kinds.iter().enumerate() {
        let here = || of(&at, n + 1);
        let [low, high] = [parse(ty, written[0])?, parse(ty, written[1])?];
        let [least, most] = [SiteExpr::Value(ty.clone(), low.clone()), constant(ty.clone(), written[1])?];
        let counted =
            async |filter: SiteExpr| ask(world, SiteQuery { filter: vec![filter], ..values(&at, vec![count()]) }).await;
        assert_eq!(counted(equal(here(), most.clone())).await?, [[Value::Int8(2)]], "{ty}");
        assert_eq!(counted(compare(Comparison::Less, least.clone(), here())).await?, [[Value::Int8(2)]], "{ty}");
        let within = SiteExpr::In(Box::new(here()), vec![least.clone(), SiteExpr::Value(ty.clone(), Value::Null)]);
        assert_eq!(counted(within).await?, [[Value::Int8(1)]], "{ty}");
        let got = ask_sorted(world, grouped(&at, vec![here()], vec![count()])).await?;
        let want = [(low.clone(), 1), (high.clone(), 2), (Value::Null, 1)];
        assert_eq!(got, sorted(want.map(|(v, n)| vec![v, Value::Int8(n)]).to_vec()), "{ty}");
        // Computed values are of the type that was asked for.
        let fallback = SiteExpr::Coalesce(vec![here(), least.clone()], ty.clone());
        let is_least = equal(here(), least.clone());
        let case = SiteExpr::Case { branches: vec![(is_least, most)], otherwise: None, ty: ty.clone() };
        let query = SiteQuery { order: vec![up(of(&at, 0))], ..values(&at, vec![fallback, case]) };
        let got = ask(world, query).await?;
        let want = [
            [low.clone(), high.clone()],
            [high.clone(), Value::Null],
            [high.clone(), Value::Null],
            [low.clone(), Value::Null],
        ];
        assert_eq!(got, want, "{ty}");
        let functions = match ty {
            SqlType::Bool => [Aggregate::Every, Aggregate::Any],
            SqlType::Uuid | SqlType::Bytea => continue,
            _ => [Aggregate::Min, Aggregate::Max],
        };
        let extremes = functions.map(|f| aggregate(f, Some(here()), ty.clone())).to_vec();
        let got = ask(world, SiteQuery { group: Some(vec![]), ..values(&at, extremes) }).await?;
        assert_eq!(got, [[low, high]], "{ty}");
    }
    // Three values of a condition, as values.
    let truth = of(&at, 1);
    let unlike = SiteExpr::Not(Box::new(truth.clone()));
    let both = SiteExpr::And(vec![truth.clone(), unlike.clone()]);
    let either = SiteExpr::Or(vec![truth, unlike.clone()]);
    let query = SiteQuery { order: vec![up(of(&at, 0))], ..values(&at, vec![unlike, both, either]) };
    let got = ask(world, query).await?;
    let [yes, no] = [Value::Bool(true), Value::Bool(false)];
    assert_eq!(got[0], [yes.clone(), no.clone(), yes.clone()]);
    assert_eq!(got[1], [no.clone(), no, yes]);
    assert_eq!(got[3], [Value::Null, Value::Null, Value::Null]);
    Ok(())
}

pub async fn joins(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let (one, other) = (texts_table(world).await?, texts_table(world).await?);
    let right =
        |position: usize| SiteExpr::Column { source: 1, position, ty: other.table.columns[position].ty.clone() };
    let joined = |join: SourceJoin| {
        let outputs = vec![count(), aggregate(Aggregate::Count, Some(right(0)), SqlType::Int8)];
        let mut query = SiteQuery { group: Some(vec![]), ..values(&one, outputs) };
        query.sources.push(Source { replica: other.clone(), join });
        query
    };
    let on = vec![equal(of(&one, 1), right(2))];
    let pairs = 4 * NASTY.len() as i64;
    let got = ask(world, joined(SourceJoin::Inner(on.clone()))).await?;
    assert_eq!(got, [[Value::Int8(pairs), Value::Int8(pairs)]]);
    let got = ask(world, joined(SourceJoin::Left(on.clone()))).await?;
    assert_eq!(got, [[Value::Int8(pairs + 1), Value::Int8(pairs)]]);
    let none = on.into_iter().chain([equal(right(1), of_text("A"))]).collect();
    let got = ask(world, joined(SourceJoin::Left(none))).await?;
    assert_eq!(got, [[Value::Int8(23 + 4), Value::Int8(4)]]);
    // What an outer join has not found comes last, though no column there may be NULL.
    let mut query = values(&one, vec![of(&one, 0), right(0)]);
    let on = vec![equal(of(&one, 0), right(0)), compare(Comparison::Less, right(0), int(2))];
    query.sources.push(Source { replica: other.clone(), join: SourceJoin::Left(on) });
    let query = SiteQuery { order: vec![up(right(0)), up(of(&one, 0))], limit: Some(3), ..query };
    let got = ask(world, query).await?;
    let row = |a: i32, b: Value| vec![Value::Int4(a), b];
    assert_eq!(got, [row(0, Value::Int4(0)), row(1, Value::Int4(1)), row(2, Value::Null)]);
    // All pairs.
    let got = ask(world, joined(SourceJoin::Inner(vec![]))).await?;
    assert_eq!(got, [[Value::Int8(625), Value::Int8(625)]]);
    Ok(())
}

/// Aggregates of nothing.
pub async fn no_rows(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = world.accounts(3).await?;
    let nothing = vec![compare(Comparison::Less, of(&at, 0), int(0))];
    let aggregates = vec![
        count(),
        aggregate(Aggregate::Sum, Some(of(&at, 2)), SqlType::Numeric(Some((38, 0)))),
        aggregate(Aggregate::Max, Some(of(&at, 1)), SqlType::Text),
        different(of(&at, 1)),
    ];
    let all = SiteQuery { filter: nothing.clone(), group: Some(vec![]), ..values(&at, aggregates.clone()) };
    assert_eq!(ask(world, all.clone()).await?, [[Value::Int8(0), Value::Null, Value::Null, Value::Int8(0)]]);
    let having = vec![compare(Comparison::Greater, count(), SiteExpr::Value(SqlType::Int8, Value::Int8(0)))];
    assert!(ask(world, SiteQuery { having, ..all.clone() }).await?.is_empty());
    let by_key = SiteQuery { filter: nothing.clone(), ..grouped(&at, vec![of(&at, 1)], aggregates) };
    assert!(ask(world, by_key).await?.is_empty());
    // One row, whatever is in it.
    let constant = SiteQuery { filter: nothing, group: Some(vec![]), ..values(&at, vec![int(5)]) };
    assert_eq!(ask(world, constant.clone()).await?, [[Value::Int4(5)]]);
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let batches: Vec<_> = branch.query(SiteQuery { outputs: vec![], ..constant })?.try_collect().await?;
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 1);
    Ok(())
}

/// Texts that differ behind what a server may look at.
pub async fn long_texts(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let columns = vec![column(1, "id", SqlType::Int4, true), column(2, "s", SqlType::Text, false)];
    let at = world.create(&Arc::new(table("long", columns, 1, vec![]))).await?;
    let long = |end: &str| format!("{}{end}", "x".repeat(10_000));
    let row = |(n, end): (usize, &&str)| RowChange::Insert(vec![Value::Int4(n as i32), text(&long(end))]);
    world.write(&at, ["b", "a", "b", "a "].iter().enumerate().map(row).collect()).await?;
    let got = ask_sorted(world, grouped(&at, vec![of(&at, 1)], vec![count()])).await?;
    let group = |end: &str, n: i64| vec![text(&long(end)), Value::Int8(n)];
    assert_eq!(got, sorted(vec![group("a", 1), group("a ", 1), group("b", 2)]));
    let outputs = vec![different(of(&at, 1)), aggregate(Aggregate::Max, Some(of(&at, 1)), SqlType::Text)];
    let got = ask(world, SiteQuery { group: Some(vec![]), ..values(&at, outputs) }).await?;
    assert_eq!(got, [[Value::Int8(3), text(&long("b"))]]);
    // In their order, or not at all.
    let ordered =
        SiteQuery { order: vec![up(of(&at, 1)), up(of(&at, 0))], limit: Some(3), ..values(&at, vec![of(&at, 0)]) };
    match ask(world, ordered).await {
        Ok(rows) => assert_eq!(rows, [1, 3, 0].map(|id| vec![Value::Int4(id)])),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotSupported),
    }
    Ok(())
}
