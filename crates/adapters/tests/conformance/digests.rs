//! Digests: those of the same rows are equal whatever the engine, and others after the smallest change. And drift, of which an untouched copy has none.

use crate::maria::Maria;
use crate::world::{
    TestResult, World, account, begin, column, index, insert, key, mysql, replica, table, text, update,
};
use atoll_model::{Row, SqlType, Table, Value};
use atoll_ports::digest::{Digest, write_canonical};
use atoll_ports::site::{Isolation, KeyRange, Replica, RowChange};
use std::ops::Bound;
use std::sync::Arc;

/// What the rows of a table add up to, by the words of the port alone.
fn digest_of(table: &Table, rows: &[Row]) -> Digest {
    let mut digest = Digest::default();
    for row in rows {
        let mut canonical = vec![];
        write_canonical(table.columns.iter().map(|column| &column.ty).zip(row), &mut canonical);
        digest.add(&canonical);
    }
    digest
}

async fn digest_at(world: &World, at: &Replica, range: &KeyRange) -> Result<Digest, atoll_model::Error> {
    world.begin(Isolation::RepeatableRead).await?.digest(at, range).await
}

fn texts() -> Vec<Value> {
    let nasty = [
        "",
        " ",
        "a ",
        " a",
        "N",
        "1:a",
        "it's",
        "\"q\"",
        "back\\slash",
        "\\x00",
        "%_",
        "ä",
        "e\u{301}",
        "日本",
        "🦀",
        "\n\t\r",
    ];
    nasty.iter().map(|t| text(t)).chain([Value::Text("x".repeat(100_000))]).collect()
}

fn numbers(scale: i8, precision: u32) -> Vec<Value> {
    let most = 10i128.pow(precision) - 1;
    [0, 1, -1, 10, 150, -150, 100, most, -most].map(|n| Value::Numeric(n, scale)).to_vec()
}

/// Values of every type that can be stored, with those that engines like to write in ways of their own.
fn samples(special_floats: bool) -> Vec<(SqlType, Vec<Value>)> {
    let of = |ty: SqlType| SqlType::Array(Box::new(ty));
    let list = |items: Vec<Value>| Value::Array(items);
    let micros = [
        0,
        1,
        -1,
        1_500_000,
        -1_500_000,
        1_700_000_000_123_456,
        1_700_000_000_120_000,
        -62_135_596_800_000_000,
        253_402_300_799_999_999,
    ];
    let mut floats = vec![0.0, -0.0, 0.1, 1e-300, 1.0, 1e15, 1e16, -123_456.789, f64::MAX, f64::MIN_POSITIVE];
    let mut reals = vec![0.0, -0.0, 0.1, 1e-30, 1.0, 1e6, 16_777_216.0, f32::MAX, f32::MIN_POSITIVE];
    if special_floats {
        floats.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
        reals.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    }
    vec![
        (SqlType::Bool, vec![Value::Bool(true), Value::Bool(false)]),
        (SqlType::Int2, [0, -1, i16::MIN, i16::MAX].map(Value::Int2).to_vec()),
        (SqlType::Int4, [0, -1, i32::MIN, i32::MAX].map(Value::Int4).to_vec()),
        (SqlType::Int8, [0, -1, i64::MIN, i64::MAX].map(Value::Int8).to_vec()),
        (SqlType::Float4, reals.into_iter().map(Value::Float4).collect()),
        (SqlType::Float8, floats.into_iter().map(Value::Float8).collect()),
        (SqlType::Numeric(Some((10, 2))), numbers(2, 10)),
        (SqlType::Numeric(Some((4, 0))), numbers(0, 4)),
        (SqlType::Numeric(Some((3, 3))), numbers(3, 3)),
        (SqlType::Numeric(Some((38, 20))), numbers(20, 38)),
        (SqlType::Numeric(None), numbers(10, 38)),
        (SqlType::Text, texts()),
        (SqlType::Varchar(None), texts()),
        (SqlType::Varchar(Some(5)), ["", "a ", "äöüß ", "日本"].map(text).to_vec()),
        (SqlType::Char(4), ["", "ab", " a", "äöüß"].map(text).to_vec()),
        (
            SqlType::Bytea,
            [vec![], vec![0], vec![0, 1, 255], b"\\x00".to_vec(), vec![7; 70_000]].map(Value::Bytea).to_vec(),
        ),
        (SqlType::Date, [0, -1, 19_000, -100_000, -719_162, 2_932_896].map(Value::Date).to_vec()),
        (
            SqlType::Time(None),
            [0, 1, 1_000_000, 45_296_120_000, 86_399_999_999, 86_400_000_000].map(Value::Time).to_vec(),
        ),
        (SqlType::Timestamp(None), micros.map(Value::Timestamp).to_vec()),
        (SqlType::TimestampTz(None), micros.map(Value::TimestampTz).to_vec()),
        (
            SqlType::Uuid,
            ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"].map(text).to_vec(),
        ),
        (SqlType::Json, ["{\"b\":1,  \"a\":[]}", "null", "\"ä\\n\""].map(text).to_vec()),
        (SqlType::Jsonb, ["{\"a\": [1, 2.50], \"bb\": null}", "\"x\"", "1.500", "[]"].map(text).to_vec()),
        (of(SqlType::Bool), vec![list(vec![Value::Bool(true), Value::Null]), list(vec![])]),
        (
            of(SqlType::Text),
            vec![list(vec![text("a,b"), text("{\"}"), text("NULL"), text(" "), Value::Null]), list(vec![text("")])],
        ),
        (of(SqlType::Char(3)), vec![list(vec![text("a"), text("")])]),
        (of(SqlType::Numeric(None)), vec![list(numbers(10, 38))]),
        (of(SqlType::Float8), vec![list(vec![Value::Float8(0.1), Value::Float8(1e300)])]),
        (of(SqlType::Bytea), vec![list(vec![Value::Bytea(vec![0, 92])])]),
        (of(SqlType::TimestampTz(None)), vec![list(vec![Value::TimestampTz(-1), Value::Null])]),
    ]
}

/// A table for each type, so that none stands in the way of another's being computed at the site; and one of all types.
pub async fn of_every_type(world: &World) -> TestResult {
    let samples = samples(world.traits.special_floats);
    for (ty, values) in &samples {
        let columns = vec![column(1, "id", SqlType::Int4, true), column(2, "v", ty.clone(), false)];
        let at = world.create(&Arc::new(table("one type", columns, 1, vec![]))).await?;
        let all: Vec<Row> = std::iter::once(&Value::Null)
            .chain(values)
            .enumerate()
            .map(|(n, v)| vec![Value::Int4(n as i32), v.clone()])
            .collect();
        world.write(&at, all.iter().cloned().map(RowChange::Insert).collect()).await?;
        assert_eq!(digest_at(world, &at, &KeyRange::ALL).await?, digest_of(&at.table, &all), "{ty}");
        for row in &all {
            let one = KeyRange::prefix(vec![row[0].clone()]);
            assert_eq!(
                digest_at(world, &at, &one).await?,
                digest_of(&at.table, std::slice::from_ref(row)),
                "{ty}: {row:?}"
            );
        }
        assert_eq!(world.begin(Isolation::RepeatableRead).await?.drift(&at).await?, vec![], "{ty}");
    }
    let mut columns = vec![column(1, "id", SqlType::Int4, true)];
    columns.extend(
        samples
            .iter()
            .enumerate()
            .map(|(n, (ty, _))| column(n as u16 + 2, &format!("a \"{n}`"), ty.clone(), n % 2 == 0)),
    );
    let at = world.create(&Arc::new(table("all types", columns, 1, vec![]))).await?;
    let nth = |n: usize| {
        std::iter::once(Value::Int4(n as i32)).chain(samples.iter().map(|(_, v)| v[n % v.len()].clone())).collect()
    };
    let all: Vec<Row> = (0..10).map(nth).collect();
    world.write(&at, all.iter().cloned().map(RowChange::Insert).collect()).await?;
    assert_eq!(digest_at(world, &at, &KeyRange::ALL).await?, digest_of(&at.table, &all));
    assert_eq!(world.begin(Isolation::RepeatableRead).await?.drift(&at).await?, vec![]);
    Ok(())
}

/// One byte more, less or other; and what NULL, nothing and the borders of columns could hide.
pub async fn small_changes(world: &World) -> TestResult {
    let columns = vec![
        column(1, "id", SqlType::Int4, true),
        column(2, "a", SqlType::Text, false),
        column(3, "b", SqlType::Text, false),
    ];
    let at = world.create(&Arc::new(table("changes", columns, 1, vec![]))).await?;
    let row = |a: Value, b: Value| vec![Value::Int4(1), a, b];
    let all = [
        row(Value::Null, Value::Null),
        row(text(""), Value::Null),
        row(Value::Null, text("")),
        row(text(""), text("")),
        row(text("N"), text("")),
        row(text("a"), text("bc")),
        row(text("ab"), text("c")),
        row(text("ab "), text("c")),
        row(text("ab"), text("C")),
        row(text("ä"), text("c")),
        row(text("a\u{308}"), text("c")),
    ];
    let mut seen: Vec<Digest> = vec![];
    world.write(&at, vec![RowChange::Insert(all[0].clone())]).await?;
    for (n, row) in all.iter().enumerate() {
        if n > 0 {
            let branch = world.begin(Isolation::ReadCommitted).await?;
            crate::world::lock(&*branch, &at, 1).await?;
            branch.apply(&at, vec![update(all[n - 1].clone(), row.clone())]).await?;
            branch.commit().await?;
        }
        let digest = digest_at(world, &at, &KeyRange::ALL).await?;
        assert!(!seen.contains(&digest), "{row:?} has the digest of another row");
        seen.push(digest);
    }
    Ok(())
}

/// Digests of parts add up, and are those of the branch's view.
pub async fn of_parts(world: &World) -> TestResult {
    let at = world.accounts(50).await?;
    let part = |lower, upper| KeyRange { lower, upper };
    let parts = [
        part(Bound::Unbounded, Bound::Included(key(10))),
        part(Bound::Excluded(key(10)), Bound::Included(key(10))),
        part(Bound::Excluded(key(10)), Bound::Excluded(key(30))),
        part(Bound::Included(key(30)), Bound::Unbounded),
    ];
    let branch = world.begin(Isolation::RepeatableRead).await?;
    let whole = branch.digest(&at, &KeyRange::ALL).await?;
    let mut sum = Digest::default();
    for range in &parts {
        sum = sum.plus(branch.digest(&at, range).await?);
    }
    assert_eq!((sum, whole.rows), (whole, 50));
    world.write(&at, vec![insert(51, "51@x", 1)]).await?;
    assert_eq!(branch.digest(&at, &KeyRange::ALL).await?, whole);
    let mut all: Vec<Row> = (1..=50).map(|n| account(n, &format!("{n}@x"), 100)).collect();
    assert_eq!(whole, digest_of(&at.table, &all));
    all.push(account(51, "51@x", 1));
    assert_eq!(digest_at(world, &at, &KeyRange::ALL).await?, digest_of(&at.table, &all));
    // A transaction sees what it has written.
    let branch = world.begin(Isolation::ReadCommitted).await?;
    branch.apply(&at, vec![insert(52, "52@x", 2)]).await?;
    all.push(account(52, "52@x", 2));
    assert_eq!(branch.digest(&at, &KeyRange::ALL).await?, digest_of(&at.table, &all));
    Ok(())
}

/// Every kind of index and constraint that is carried to a site.
pub async fn no_drift(world: &World) -> TestResult {
    let columns = vec![
        column(1, "a", SqlType::Text, true),
        column(2, "b", SqlType::Int8, true),
        column(3, "c", SqlType::Varchar(Some(300)), false),
        column(4, "d", SqlType::Timestamp(None), true),
    ];
    let indexes = vec![index(1, "u", &[4, 3], true), index(2, "i", &[3, 2], false), index(3, "j", &[3], false)];
    let table = Arc::new(table("drifting", columns, 2, indexes));
    let at = world.create(&table).await?;
    let branch = world.begin(Isolation::RepeatableRead).await?;
    assert_eq!(branch.drift(&replica(&table, 0, at.site)).await?, vec![]);
    Ok(())
}

/// A text that the server does not make, as it is longer than a packet, is made here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_too_large_for_the_server() -> TestResult {
    let server = Maria::start_with(&["max_allowed_packet=1M"]).await?;
    let site = mysql(1, &server.url(&server.database().await?), &[])?;
    let columns = vec![column(1, "id", SqlType::Int4, true), column(2, "b", SqlType::Bytea, false)];
    let table = Arc::new(table("large", columns, 1, vec![]));
    let at = replica(&table, 0, site.id());
    let branch = begin(&site, Isolation::ReadCommitted).await?;
    branch.define(&at, None).await?;
    // Its hexadecimal digits are twice as many.
    let row = vec![Value::Int4(1), Value::Bytea(vec![7; 700_000])];
    branch.apply(&at, vec![RowChange::Insert(row.clone())]).await?;
    branch.commit().await?;
    let branch = begin(&site, Isolation::RepeatableRead).await?;
    assert_eq!(branch.digest(&at, &KeyRange::ALL).await?, digest_of(&table, &[row]));
    Ok(())
}
