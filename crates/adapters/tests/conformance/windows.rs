//! Queries with window functions: partitions and orders of texts that collations, padding and drivers take for something else.

use crate::queries::{NASTY, answers, ask, ask_sorted, int, of, sorted, texts_table, up, values};
use crate::world::{TestResult, World};
use atoll_model::{Row, SqlType, Value};
use atoll_ports::query::{Aggregate, Arithmetic, SiteExpr, SiteQuery, SortKey, WindowFunction};

fn window(function: WindowFunction, partition: Vec<SiteExpr>, order: Vec<SortKey>) -> SiteExpr {
    SiteExpr::Window { function, partition, order, ty: SqlType::Int8 }
}

fn of_window(
    function: Aggregate,
    argument: Option<SiteExpr>,
    partition: Vec<SiteExpr>,
    order: Vec<SortKey>,
) -> SiteExpr {
    window(WindowFunction::Aggregate(function, argument.map(Box::new)), partition, order)
}

/// What the answer has for each row of the table of texts: of which the id, the text, and how many texts are smaller are told.
fn expected(row: impl Fn(i32, Option<(&str, i64)>) -> Row) -> Vec<Row> {
    let mut texts = NASTY.to_vec();
    texts.sort_unstable();
    let smaller = |text: &str| texts.iter().filter(|other| **other < text).count() as i64;
    let twice = NASTY.iter().chain(&NASTY).zip(0..);
    let mut rows: Vec<Row> = twice.map(|(text, id)| row(id, Some((text, smaller(text))))).collect();
    rows.push(row(100, None));
    sorted(rows)
}

fn ints<const N: usize>(id: i32, values: [i64; N]) -> Row {
    std::iter::once(Value::Int4(id)).chain(values.map(Value::Int8)).collect()
}

pub async fn numbers_and_ranks(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = texts_table(world).await?;
    let last_first = || vec![SortKey { expr: of(&at, 0), descending: true, nulls_first: false }];
    let by_text = |nulls_first| vec![SortKey { expr: of(&at, 2), descending: false, nulls_first }];
    let exprs = vec![
        of(&at, 0),
        window(WindowFunction::RowNumber, vec![of(&at, 1)], last_first()),
        window(WindowFunction::RowNumber, vec![of(&at, 2)], last_first()),
        window(WindowFunction::Rank, vec![], by_text(true)),
        window(WindowFunction::DenseRank, vec![], by_text(false)),
    ];
    let got = ask_sorted(world, values(&at, exprs)).await?;
    let want = expected(|id, text| match text {
        Some((_, smaller)) => {
            let number = if id < NASTY.len() as i32 { 2 } else { 1 };
            ints(id, [number, number, 2 + 2 * smaller, 1 + smaller])
        }
        None => ints(id, [1, 1, 1, 1 + NASTY.len() as i64]),
    });
    assert_eq!(got, want);
    Ok(())
}

pub async fn aggregates(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = texts_table(world).await?;
    let by_text = || vec![SortKey { expr: of(&at, 2), descending: true, nulls_first: true }];
    let counted = of_window(Aggregate::Count, None, vec![], by_text());
    let more = SiteExpr::Widen(Box::new(int(1)), SqlType::Int8);
    let exprs = vec![
        of(&at, 0),
        of_window(Aggregate::Count, Some(of(&at, 1)), vec![of(&at, 1)], vec![]),
        of_window(Aggregate::Sum, Some(of(&at, 0)), vec![of(&at, 1)], vec![]),
        of_window(Aggregate::Max, Some(of(&at, 0)), vec![], vec![]),
        // Up to the last peer.
        SiteExpr::Arithmetic(Arithmetic::Add, Box::new(counted), Box::new(more), SqlType::Int8),
    ];
    let got = ask_sorted(world, values(&at, exprs)).await?;
    let texts = NASTY.len() as i64;
    let want = expected(|id, text| match text {
        Some((_, smaller)) => {
            let first = i64::from(id) % texts;
            ints(id, [2, 2 * first + texts, 100, 1 + 2 * (texts - smaller) + 1])
        }
        None => ints(id, [0, 100, 100, 2]),
    });
    assert_eq!(got, want);
    Ok(())
}

pub async fn first_of_an_order(world: &World) -> TestResult {
    if !answers(world) {
        return Ok(());
    }
    let at = texts_table(world).await?;
    let number = window(WindowFunction::RowNumber, vec![], vec![up(of(&at, 0))]);
    let order = vec![SortKey { expr: number.clone(), descending: true, nulls_first: false }];
    let query = SiteQuery { order, limit: Some(2), offset: 1, ..values(&at, vec![of(&at, 0), number]) };
    assert_eq!(ask(world, query).await?, [ints(23, [24]), ints(22, [23])]);
    Ok(())
}
