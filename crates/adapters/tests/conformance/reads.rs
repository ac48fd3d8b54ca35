//! Reading: by key, by ranges of orders, values of every type, large results.

use crate::world::{
    TestResult, World, account, begin, column, count, everything, failure, index, insert, key, lock, rows, table, text,
};
use atoll_model::{IndexId, Result, Row, SqlType, Value};
use atoll_ports::session::BatchStream;
use atoll_ports::site::{Branch, Isolation, KeyRange, Replica, RowChange, ScanRequest};
use futures::future::FusedFuture as _;
use futures::future::try_join_all;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

/// Three rows of every type that a table can have: ordinary, extreme, NULL.
fn samples(special_floats: bool) -> Vec<(SqlType, [Value; 2])> {
    let list = |items: Vec<Value>| Value::Array(items);
    let of = |ty: SqlType| SqlType::Array(Box::new(ty));
    vec![
        (SqlType::Bool, [Value::Bool(true), Value::Bool(false)]),
        (SqlType::Int2, [Value::Int2(7), Value::Int2(i16::MIN)]),
        (SqlType::Int4, [Value::Int4(7), Value::Int4(i32::MAX)]),
        (SqlType::Int8, [Value::Int8(-7), Value::Int8(i64::MIN)]),
        (
            SqlType::Float4,
            [Value::Float4(0.1), Value::Float4(if special_floats { f32::NEG_INFINITY } else { f32::MIN })],
        ),
        (SqlType::Float8, [Value::Float8(0.1), Value::Float8(f64::MAX)]),
        (SqlType::Numeric(Some((10, 2))), [Value::Numeric(-12345, 2), Value::Numeric(9_999_999_999, 2)]),
        (SqlType::Numeric(None), [Value::Numeric(15 * 10i128.pow(9), 10), Value::Numeric(10i128.pow(38) - 1, 10)]),
        (SqlType::Text, [text("it's \"ä\\"), text("")]),
        (SqlType::Varchar(Some(5)), [text("äöüß "), text("x")]),
        (SqlType::Char(4), [text("ab"), text("äöüß")]),
        (SqlType::Bytea, [Value::Bytea(vec![0, 1, 255]), Value::Bytea(vec![])]),
        (SqlType::Date, [Value::Date(19_000), Value::Date(-100_000)]),
        (SqlType::Time(None), [Value::Time(1), Value::Time(86_399_999_999)]),
        (SqlType::Timestamp(None), [Value::Timestamp(1_700_000_000_123_456), Value::Timestamp(-1)]),
        (SqlType::TimestampTz(None), [Value::TimestampTz(1_700_000_000_123_456), Value::TimestampTz(-1)]),
        (SqlType::Uuid, [text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), text("00000000-0000-0000-0000-000000000000")]),
        (SqlType::Json, [text("{\"b\":1,  \"a\":[]}"), text("null")]),
        (SqlType::Jsonb, [text("{\"a\": [1, 2.50], \"bb\": null}"), text("\"x\"")]),
        (of(SqlType::Int4), [list(vec![Value::Int4(1), Value::Null, Value::Int4(-3)]), list(vec![])]),
        (of(SqlType::Text), [list(vec![text("a,b"), text("{\"}"), text("NULL"), Value::Null]), list(vec![text("")])]),
        (of(SqlType::Numeric(Some((6, 1)))), [list(vec![Value::Numeric(15, 1)]), list(vec![Value::Null])]),
    ]
}

pub async fn every_type(world: &World) -> TestResult {
    let samples = samples(world.traits.special_floats);
    let mut columns = vec![column(1, "id", SqlType::Int4, true)];
    for (n, (ty, _)) in samples.iter().enumerate() {
        columns.push(column(n as u16 + 2, &format!("a \"{n}\""), ty.clone(), false));
    }
    let at = world.create(&Arc::new(table("every type", columns, 1, vec![]))).await?;
    let mut all: Vec<Row> = (0..2)
        .map(|n| std::iter::once(Value::Int4(n)).chain(samples.iter().map(|(_, v)| v[n as usize].clone())).collect())
        .collect();
    all.push(std::iter::once(Value::Int4(2)).chain(samples.iter().map(|_| Value::Null)).collect());

    // As one row each, and as many rows of one call.
    world.write(&at, vec![RowChange::Insert(all[0].clone())]).await?;
    world.write(&at, all[1..].iter().cloned().map(RowChange::Insert).collect()).await?;
    assert_eq!(world.rows(&at).await?, all);
    let branch = world.begin(Isolation::ReadCommitted).await?;
    for (n, row) in all.iter().enumerate() {
        assert_eq!(branch.get(&at, &key(n as i32)).await?.as_ref(), Some(row));
        let locked = lock(&*branch, &at, n as i32).await?;
        assert_eq!(locked.row.as_ref(), Some(row));
    }
    // The other way round, by updates of one and of several rows.
    let turned: Vec<Row> = (0..3usize)
        .map(|n| std::iter::once(Value::Int4(n as i32)).chain(all[2 - n][1..].iter().cloned()).collect())
        .collect();
    let change = |n: usize| RowChange::Update { old: all[n].clone(), new: turned[n].clone() };
    branch.apply(&at, vec![change(0)]).await?;
    branch.apply(&at, vec![change(1), change(2)]).await?;
    branch.commit().await?;
    assert_eq!(world.rows(&at).await?, turned);

    // The columns of a batch are those asked for, and say their type.
    let request = ScanRequest { columns: vec![9, 0], limit: Some(1), ..everything(&at) };
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let batches: Vec<_> = branch.scan(&at, request)?.try_collect().await?;
    assert_eq!(batches[0].schema().field(0), &SqlType::Text.field("a \"8\"", true));
    assert_eq!(batches[0].schema().field(1), &SqlType::Int4.field("id", false));
    Ok(())
}

/// A column of seconds holds as many digits as it declares, and is compared with values of more.
pub async fn digits_of_seconds(world: &World) -> TestResult {
    let columns = vec![
        column(1, "moment", SqlType::Timestamp(Some(0)), true),
        column(2, "zoned", SqlType::TimestampTz(Some(3)), false),
        column(3, "clock", SqlType::Time(Some(1)), false),
    ];
    let indexes = vec![index(1, "seconds_zoned", &[2], false), index(2, "seconds_clock", &[3], false)];
    let at = world.create(&Arc::new(table("seconds", columns, 1, indexes))).await?;
    let units = [1_000_000, 1_000, 100_000];
    let value = |column: usize, micros: i64| match column {
        0 => Value::Timestamp(micros),
        1 => Value::TimestampTz(micros),
        _ => Value::Time(micros),
    };
    let all: Vec<Row> = (0..6).map(|n| (0..3).map(|column| value(column, n * units[column])).collect()).collect();
    world.write(&at, all.iter().cloned().map(RowChange::Insert).collect()).await?;
    assert_eq!(world.rows(&at).await?, all);

    let branch = world.begin(Isolation::RepeatableRead).await?;
    assert_eq!(branch.get(&at, &[value(0, 2_000_000)]).await?.as_ref(), Some(&all[2]));
    assert_eq!(branch.get(&at, &[value(0, 2_000_001)]).await?, None);
    assert_eq!(branch.get(&at, &[value(0, 1_999_999)]).await?, None);
    for (index, column) in [(None, 0), (Some(IndexId(1)), 1), (Some(IndexId(2)), 2)] {
        let unit = units[column];
        let points =
            [2 * unit, 2 * unit + 1, 2 * unit + unit / 2, 3 * unit - 1, 4 * unit].map(|t| vec![value(column, t)]);
        let both = points.into_iter().flat_map(|v| [Bound::Included(v.clone()), Bound::Excluded(v)]);
        let bounds: Vec<_> = std::iter::once(Bound::Unbounded).chain(both).collect();
        for (lower, upper) in bounds.iter().flat_map(|l| bounds.iter().map(move |u| (l, u))) {
            let range = KeyRange { lower: lower.clone(), upper: upper.clone() };
            let want: Vec<Row> = all.iter().filter(|row| within(&row[column..=column], &range)).cloned().collect();
            let got = rows(&*branch, &at, ScanRequest { index, range: range.clone(), ..everything(&at) }).await?;
            assert_eq!(got, want, "{range:?} of {index:?}");
        }
    }
    Ok(())
}

pub async fn by_key(world: &World) -> TestResult {
    let at = world.accounts(3).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    assert_eq!(branch.get(&at, &key(2)).await?, Some(account(2, "2@x", 100)));
    assert_eq!(branch.get(&at, &key(9)).await?, None);
    Ok(())
}

/// All columns of an account.
const WHOLE: [usize; 3] = [0, 1, 2];

/// Rows read outside of transactions, many at once.
pub async fn committed_rows(world: &World) -> TestResult {
    let (at, site) = (&world.accounts(40).await?, world.here());
    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch
        .apply(at, vec![RowChange::Insert(account(50, "50@x", 1)), RowChange::Delete(account(7, "7@x", 100))])
        .await?;
    let expected = |n: i32| (n <= 40).then(|| account(n, &format!("{n}@x"), 100));
    let keys: Vec<Vec<Value>> = (1..=60).chain(1..=20).map(key).collect();
    let read = try_join_all(keys.iter().map(|key| site.read(at, key, &WHOLE))).await?;
    assert_eq!(read, (1..=60).chain(1..=20).map(expected).collect::<Vec<_>>());
    branch.commit().await?;
    // What was committed is seen by whoever asks after that.
    let read = try_join_all([50, 7, 8, 50].map(|n| async move { site.read(at, &key(n), &WHOLE).await })).await?;
    assert_eq!(read, [Some(account(50, "50@x", 1)), None, expected(8), Some(account(50, "50@x", 1))]);
    // Of what is not wanted, nothing is promised; readers of several kinds, and more of them than a site tells apart, do not disturb each other.
    let sets: Vec<Vec<usize>> =
        (0..40).map(|n| [vec![2], vec![1], vec![1, 0, 1], vec![], vec![2; n + 1]][n % 5].clone()).collect();
    let read = try_join_all(sets.iter().map(|wanted| async move { site.read(at, &key(3), wanted).await })).await?;
    for (row, wanted) in read.into_iter().zip(&sets) {
        let (row, whole) = (row.expect("the row is there"), account(3, "3@x", 100));
        assert_eq!(row.len(), whole.len());
        assert!(wanted.iter().all(|at| row[*at] == whole[*at]), "{wanted:?}: {row:?}");
    }
    // Somebody who stops waiting takes nobody along.
    for gone in 0..12 {
        let mut asked: Vec<_> =
            (21..=26).map(|n| async move { site.read(at, &key(n), &WHOLE).await }.boxed().fuse()).collect();
        for one in &mut asked {
            futures::future::poll_immediate(one).await;
        }
        let left = asked.split_off(gone % 6);
        drop(asked);
        for mut one in left {
            // What was there at once has been answered already.
            if !one.is_terminated() {
                assert!((&mut one).await?.is_some());
            }
        }
    }
    Ok(())
}

/// Keys that a site might take for the same.
pub async fn committed_texts(world: &World) -> TestResult {
    let columns = vec![column(1, "word", SqlType::Text, true), column(2, "n", SqlType::Int4, false)];
    let at = world.create(&Arc::new(table("words", columns, 1, vec![]))).await?;
    let words = ["a", "A", "a ", "ä", "", "it's", "\\", "{a,b}", "NULL"];
    let row = |n: usize| vec![text(words[n]), Value::Int4(n as i32)];
    world.write(&at, (0..words.len()).map(|n| RowChange::Insert(row(n))).collect()).await?;
    let keys: Vec<Vec<Value>> = words.iter().chain(&["B", " a"]).map(|word| vec![text(word)]).collect();
    let read = try_join_all(keys.iter().map(|key| world.here().read(&at, key, &[0, 1]))).await?;
    let expected: Vec<Option<Row>> = (0..words.len()).map(|n| Some(row(n))).chain([None, None]).collect();
    assert_eq!(read, expected);
    Ok(())
}

/// Orders two values, NULL last.
fn order(a: &Value, b: &Value) -> Ordering {
    match (a.is_null(), b.is_null()) {
        (false, false) => a.compare(b).expect("values of one column can be compared"),
        (a, b) => a.cmp(&b),
    }
}

/// How an entry stands to a bound, which is a prefix of it.
fn against(entry: &[Value], bound: &[Value]) -> Ordering {
    entry.iter().zip(bound).map(|(a, b)| order(a, b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

fn within(entry: &[Value], range: &KeyRange) -> bool {
    let above = match &range.lower {
        Bound::Unbounded => true,
        Bound::Included(b) => against(entry, b).is_ge(),
        Bound::Excluded(b) => against(entry, b).is_gt(),
    };
    above
        && match &range.upper {
            Bound::Unbounded => true,
            Bound::Included(b) => against(entry, b).is_le(),
            Bound::Excluded(b) => against(entry, b).is_lt(),
        }
}

/// Every range of a small table's key and index, against what the port's words say.
pub async fn ranges(world: &World) -> TestResult {
    // Letters that a dictionary sorts otherwise than their bytes, and one that padding makes another.
    let letters = ["", "B", "_", "a", "a ", "ä"];
    let columns = vec![
        column(1, "n", SqlType::Int4, true),
        column(2, "letter", SqlType::Text, true),
        column(3, "x", SqlType::Text, false),
        column(4, "y", SqlType::Int8, false),
    ];
    let at = world.create(&Arc::new(table("ranges", columns, 2, vec![index(1, "ranges_x_y", &[3, 4], false)]))).await?;
    let mut all = vec![];
    for n in 0..4i32 {
        for (i, letter) in letters.iter().enumerate() {
            let x = if (n + i as i32) % 3 == 0 { Value::Null } else { text(letters[(n as usize + i) % letters.len()]) };
            let y = if (n * 2 + i as i32) % 4 == 0 { Value::Null } else { Value::Int8(i64::from(n)) };
            all.push(vec![Value::Int4(n), text(letter), x, y]);
        }
    }
    world.write(&at, all.iter().cloned().map(RowChange::Insert).collect()).await?;

    let branch = world.begin(Isolation::RepeatableRead).await?;
    let bounds = |first: &[Value], second: &[Value]| {
        let mut values: Vec<Vec<Value>> = first.iter().map(|v| vec![v.clone()]).collect();
        values.extend(first.iter().flat_map(|a| second.iter().map(|b| vec![a.clone(), b.clone()])));
        let both = values.into_iter().flat_map(|v| [Bound::Included(v.clone()), Bound::Excluded(v)]);
        std::iter::once(Bound::Unbounded).chain(both).collect::<Vec<_>>()
    };
    let by_key = bounds(&[Value::Int4(1), Value::Int4(2)], &[text("B"), text("_")]);
    let by_index = bounds(&[text("_"), text("a"), Value::Null], &[Value::Int8(2), Value::Null]);
    let mut asked = 0;
    for (index, positions, bounds) in [(None, [0, 1], by_key), (Some(IndexId(1)), [2, 3], by_index)] {
        let entry = |row: &Row| positions.map(|p| row[p].clone());
        for lower in &bounds {
            for upper in &bounds {
                let range = KeyRange { lower: lower.clone(), upper: upper.clone() };
                let mut want: Vec<Row> = all.iter().filter(|row| within(&entry(row), &range)).cloned().collect();
                want.sort_by(|a, b| against(&entry(a), &entry(b)).then_with(|| against(&a[..2], &b[..2])));
                let reverse = asked % 2 == 1;
                let request = ScanRequest { index, range: range.clone(), reverse, ..everything(&at) };
                let mut got = rows(&*branch, &at, request).await?;
                if reverse {
                    want.reverse();
                }
                // Entries that are equal may come in any order.
                let entries = |rows: &[Row]| rows.iter().map(entry).collect::<Vec<_>>();
                assert_eq!(entries(&got), entries(&want), "{range:?} of {index:?}, reverse: {reverse}");
                let by_key = |a: &Row, b: &Row| against(&a[..2], &b[..2]);
                got.sort_by(by_key);
                want.sort_by(by_key);
                assert_eq!(got, want);
                asked += 1;
            }
        }
    }
    assert!(asked > 200, "{asked} ranges");

    let limited = ScanRequest { limit: Some(3), reverse: true, batch_size: 2, ..everything(&at) };
    let batches: Vec<_> = branch.scan(&at, limited)?.try_collect().await?;
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 3);
    assert!(batches.iter().all(|b| b.num_rows() <= 2));
    Ok(())
}

pub async fn no_columns(world: &World) -> TestResult {
    let at = world.accounts(7).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let none = || ScanRequest { columns: vec![], batch_size: 2, ..everything(&at) };
    let some = KeyRange { lower: Bound::Excluded(key(1)), upper: Bound::Included(key(4)) };
    assert_eq!(count(&*branch, &at, none()).await?, 7);
    assert_eq!(count(&*branch, &at, ScanRequest { range: some, ..none() }).await?, 3);
    assert_eq!(count(&*branch, &at, ScanRequest { limit: Some(5), ..none() }).await?, 5);
    Ok(())
}

/// Enough rows for several portions of whatever size.
pub const MANY: i32 = 20_000;

pub async fn large(world: &World) -> Result<Replica, atoll_model::Error> {
    let at = world.create(&crate::world::accounts()).await?;
    let filler = "x".repeat(200);
    let all = (0..MANY).map(|i| insert(i, &format!("{i}{filler}"), i64::from(i))).collect();
    world.write(&at, all).await?;
    Ok(at)
}

pub async fn large_scans(world: &World) -> TestResult {
    let at = large(world).await?;
    let branch = world.begin(Isolation::ReadCommitted).await?;
    let got = rows(&*branch, &at, ScanRequest { columns: vec![0], ..everything(&at) }).await?;
    assert!(got.iter().map(|row| row[0].as_i64()).eq((0..i64::from(MANY)).map(Some)), "in the order of the key");
    let backwards = ScanRequest { columns: vec![2], reverse: true, limit: Some(15_000), ..everything(&at) };
    let got = rows(&*branch, &at, backwards).await?;
    assert_eq!((got.len(), got[14_999][0].as_i64()), (15_000, Some(i64::from(MANY) - 15_000)));
    Ok(())
}

/// Scans of one branch do not wait for each other's readers.
pub async fn scans_side_by_side(world: &World) -> TestResult {
    let at = large(world).await?;
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead] {
        let branch = world.begin(isolation).await?;
        let mut first = branch.scan(&at, everything(&at))?;
        let mut second = branch.scan(&at, ScanRequest { reverse: true, ..everything(&at) })?;
        let mut got = first.next().await.ok_or("rows")??.num_rows();
        // The first one has more on its way than it has given.
        assert_eq!(branch.get(&at, &key(5)).await?.map(|row| row[2].clone()), Some(Value::Int8(5)));
        let mut other = 0;
        while let Some(batch) = second.next().await {
            other += batch?.num_rows();
        }
        while let Some(batch) = first.next().await {
            got += batch?.num_rows();
        }
        assert_eq!((got, other), (MANY as usize, MANY as usize));
    }
    Ok(())
}

/// A scan that is given up leaves the branch as good as it was.
pub async fn abandoned_scans(world: &World) -> TestResult {
    let at = large(world).await?;
    for isolation in [Isolation::ReadCommitted, Isolation::Serializable] {
        let branch = world.begin(isolation).await?;
        for _ in 0..20 {
            let mut scan = branch.scan(&at, everything(&at))?;
            scan.next().await.ok_or("rows")??;
        }
        let mark = branch.savepoint();
        let mut open = branch.scan(&at, everything(&at))?;
        open.next().await.ok_or("rows")??;
        assert!(failure(branch.apply(&at, vec![insert(1, "taken", 0)]).await).is_some());
        branch.rollback_to(mark);
        drop(open);
        branch.apply(&at, vec![insert(-1, &format!("{isolation:?}"), 0)]).await?;
        branch.rollback();
    }
    // What another scan still reads outlives the next statement.
    let branch = begin(world.here(), Isolation::ReadCommitted).await?;
    let mut cursor = branch.scan(&at, everything(&at))?;
    let mut got = cursor.next().await.ok_or("rows")??.num_rows();
    branch.begin_statement();
    assert!(branch.get(&at, &key(1)).await?.is_some());
    lock(&*branch, &at, 2).await?;
    while let Some(batch) = cursor.next().await {
        got += batch?.num_rows();
    }
    assert_eq!(got, MANY as usize);
    Ok(())
}

/// What is written after a scan has begun is not in it.
pub async fn scans_and_later_writes(world: &World) -> TestResult {
    let at = large(world).await?;
    let first = ScanRequest { columns: vec![0], ..everything(&at) };
    let read = |branch: &dyn Branch| branch.scan(&at, first.clone());
    before_later_writes(world, &at, &[Isolation::ReadCommitted, Isolation::RepeatableRead], read).await
}

/// Reads all rows, and writes when the first of them have come.
pub async fn before_later_writes(
    world: &World,
    at: &Replica,
    levels: &[Isolation],
    read: impl Fn(&dyn Branch) -> Result<BatchStream>,
) -> TestResult {
    for isolation in levels.iter().copied() {
        for written in [false, true] {
            let branch = world.begin(isolation).await?;
            let id = 2 * MANY;
            if written {
                branch.apply(at, vec![insert(id, "before", 0)]).await?;
                branch.begin_statement();
            }
            let mut answer = read(&*branch)?;
            let mut got = answer.next().await.ok_or("rows")??.num_rows();
            branch.apply(at, vec![insert(id + 1, "after", 0)]).await?;
            while let Some(batch) = answer.next().await {
                got += batch?.num_rows();
            }
            assert_eq!(got, MANY as usize + usize::from(written), "{isolation:?}, written: {written}");
        }
    }
    Ok(())
}
