//! What must hold of the stored forms for any bytes, whoever makes them up: proptest (below) or a coverage-guided fuzzer (`fuzz/`).
//!
//! Each property takes a string of bytes, out of which it draws types, values and damage, so that one harness serves both, and what
//! a fuzzer finds can be pasted into a test as it is. A property fails by panicking.

use super::batch::BatchBuilder;
use super::codec::TableCodec;
use super::key::{byte_range, encode_value, key_prefix};
use super::row::{RowReader, encode_row};
use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef};
use atoll_model::{
    Column, ColumnId, ErrorKind, Fragmentation, Index, IndexId, ReadBalance, RelationId, Replication, Row, SqlType,
    Table, UNCONSTRAINED_SCALE, Value, text,
};
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

/// Draws decisions from bytes; when they run out, the simplest ones.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.byte()).collect()
    }

    /// Integers: small ones, the ends of the range, or any.
    fn integer(&mut self, bits: u32) -> i128 {
        let (low, high) = (i128::MIN >> (128 - bits), i128::MAX >> (128 - bits));
        match self.below(8) {
            0..4 => i128::from(self.byte() as i8) % 4,
            4 => low + i128::from(self.byte() % 2),
            5 => high - i128::from(self.byte() % 2),
            _ => (i128::from_be_bytes(self.array()) >> (128 - bits)).clamp(low, high),
        }
    }

    fn scalar(&mut self) -> SqlType {
        match self.below(18) {
            0 => SqlType::Bool,
            1 => SqlType::Int2,
            2 => SqlType::Int4,
            3 => SqlType::Int8,
            4 => SqlType::Float4,
            5 => SqlType::Float8,
            6 => SqlType::Numeric(None),
            7 => SqlType::Numeric(Some((38, (self.below(49) as i8) - 10))),
            8 => SqlType::Text,
            9 => SqlType::Varchar(Some(1 + self.below(20) as u32)),
            10 => SqlType::Char(1 + self.below(20) as u32),
            11 => SqlType::Bytea,
            12 => SqlType::Date,
            13 => SqlType::Time(None),
            14 => SqlType::Timestamp(None),
            15 => SqlType::TimestampTz(None),
            16 => SqlType::Uuid,
            _ => SqlType::Jsonb,
        }
    }

    fn sql_type(&mut self) -> SqlType {
        let scalar = self.scalar();
        match self.below(8) {
            0 => SqlType::Array(Box::new(scalar)),
            1 => SqlType::Array(Box::new(SqlType::Array(Box::new(scalar)))),
            _ => scalar,
        }
    }

    /// A value, with bytes that keys must escape, numbers at their limits, NaN and both zeros.
    fn value(&mut self, ty: &SqlType, nullable: bool) -> Value {
        if nullable && self.below(6) == 0 {
            return Value::Null;
        }
        match ty {
            SqlType::Bool => Value::Bool(self.byte() & 1 == 1),
            SqlType::Int2 => Value::Int2(self.integer(16) as i16),
            SqlType::Int4 => Value::Int4(self.integer(32) as i32),
            SqlType::Int8 => Value::Int8(self.integer(64) as i64),
            SqlType::Float4 => Value::Float4(match self.below(8) {
                0 => -0.0,
                1 => f32::NAN,
                2 => f32::NEG_INFINITY,
                3 => f32::from_bits(self.byte().into()),
                _ => f32::from_bits(u32::from_be_bytes(self.array())),
            }),
            SqlType::Float8 => Value::Float8(match self.below(8) {
                0 => -0.0,
                1 => -f64::NAN,
                2 => f64::INFINITY,
                3 => f64::from_bits(self.byte().into()),
                _ => f64::from_bits(u64::from_be_bytes(self.array())),
            }),
            SqlType::Numeric(limits) => {
                let limit = 10i128.pow(38) - 1;
                let scale = limits.map_or(UNCONSTRAINED_SCALE, |(_, scale)| scale);
                let bits = if self.below(2) == 0 { 64 } else { 128 };
                Value::Numeric(self.integer(bits).clamp(-limit, limit), scale)
            }
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => {
                let alphabet = ['\0', '\u{1}', 'a', 'b', 'é', '\u{ff}', '\u{10ffff}'];
                let length = if self.below(16) == 0 { 300 } else { self.below(5) };
                Value::Text((0..length).map(|_| alphabet[self.below(alphabet.len())]).collect())
            }
            SqlType::Bytea => Value::Bytea(match self.below(3) {
                0 => self.bytes(6),
                _ => (0..self.below(5)).map(|_| [0, 1, 0xfe, 0xff][self.below(4)]).collect(),
            }),
            SqlType::Date => Value::Date(self.integer(32) as i32),
            SqlType::Time(_) => Value::Time(self.integer(64).rem_euclid(86_400_000_000) as i64),
            SqlType::Timestamp(_) => Value::Timestamp(self.integer(64) as i64),
            SqlType::TimestampTz(_) => Value::TimestampTz(self.integer(64) as i64),
            SqlType::Interval => unreachable!("no column is an interval, so none is drawn"),
            SqlType::Array(item) => {
                let length = self.below(4);
                Value::Array((0..length).map(|_| self.value(item, true)).collect())
            }
        }
    }

    /// Damages bytes in one of the ways in which files are damaged.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = usize::from(u16::from_be_bytes(self.array())) % (bytes.len() + 1);
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.byte(),
                2 => bytes.truncate(at),
                3 => {
                    let new = self.bytes(9);
                    bytes.splice(at..at, new);
                }
                _ => {
                    let end = (at + self.below(9)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
    }
}

/// The same value, to the bit (but for the payloads of NaNs).
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float4(a), Value::Float4(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        (Value::Float8(a), Value::Float8(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b,
    }
}

/// The order in an index: as PostgreSQL orders values, NULL last, within arrays too.
fn order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            let differing = a.iter().zip(b).map(|(x, y)| order(x, y)).find(|o| o.is_ne());
            differing.unwrap_or(a.len().cmp(&b.len()))
        }
        _ => a.is_null().cmp(&b.is_null()).then_with(|| a.compare(b).unwrap_or(Ordering::Equal)),
    }
}

/// The value at a place of an Arrow array of a type.
fn of_array(ty: &SqlType, array: &ArrayRef, at: usize) -> Value {
    if array.is_null(at) {
        return Value::Null;
    }
    match ty {
        SqlType::Bool => Value::Bool(array.as_boolean().value(at)),
        SqlType::Int2 => Value::Int2(array.as_primitive::<Int16Type>().value(at)),
        SqlType::Int4 => Value::Int4(array.as_primitive::<Int32Type>().value(at)),
        SqlType::Int8 => Value::Int8(array.as_primitive::<Int64Type>().value(at)),
        SqlType::Float4 => Value::Float4(array.as_primitive::<Float32Type>().value(at)),
        SqlType::Float8 => Value::Float8(array.as_primitive::<Float64Type>().value(at)),
        SqlType::Numeric(limits) => Value::Numeric(
            array.as_primitive::<Decimal128Type>().value(at),
            limits.map_or(UNCONSTRAINED_SCALE, |(_, scale)| scale),
        ),
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => {
            Value::Text(array.as_string::<i32>().value(at).into())
        }
        SqlType::Bytea => Value::Bytea(array.as_binary::<i32>().value(at).into()),
        SqlType::Date => Value::Date(array.as_primitive::<Date32Type>().value(at)),
        SqlType::Time(_) => Value::Time(array.as_primitive::<Time64MicrosecondType>().value(at)),
        SqlType::Timestamp(_) => Value::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(at)),
        SqlType::TimestampTz(_) => Value::TimestampTz(array.as_primitive::<TimestampMicrosecondType>().value(at)),
        SqlType::Interval => unreachable!("no column is an interval"),
        SqlType::Array(item) => {
            let items = array.as_list::<i32>().value(at);
            Value::Array((0..items.len()).map(|at| of_array(item, &items, at)).collect())
        }
    }
}

fn codec(columns: &[(u16, SqlType)], indexes: Vec<Index>) -> TableCodec {
    let column = |(id, ty): &(u16, SqlType)| Column {
        id: ColumnId(*id),
        name: format!("c{id}"),
        ty: ty.clone(),
        not_null: false,
        default: None,
        missing: Value::Null,
        generated: None,
        hidden: false,
    };
    let table = Table {
        id: RelationId(1),
        name: "t".into(),
        columns: columns.iter().map(column).collect(),
        next_column: columns.last().map_or(0, |(id, _)| id + 1),
        key: columns.first().map(|(id, _)| ColumnId(*id)).into_iter().collect(),
        primary_key: None,
        next_index: indexes.len() as u16 + 1,
        indexes,
        checks: vec![],
        foreign_keys: vec![],
        fragmentation: Fragmentation::None,
        fragments: vec![],
        replication: Replication::All,
        read_balance: ReadBalance::RoundRobin,
        on_replica_down: Default::default(),
    };
    TableCodec::new(Arc::new(table)).expect("the key and the indexes name columns of the table")
}

/// Rows: what is written comes back; damage gives values of the right type or `DataCorrupted`, never a panic, and never bytes from
/// behind the row; the Arrow form and the values of a stored row agree, also on whether it is damaged.
pub fn rows(data: &[u8]) {
    let mut draw = Draw(data);
    let mut columns: Vec<(u16, SqlType)> = vec![];
    for _ in 0..=draw.below(9) {
        let slot = columns.last().map_or(0, |(slot, _)| slot + 1) + draw.below(3) as u16;
        columns.push((slot, draw.sql_type()));
    }
    let row: Row = columns.iter().map(|(_, ty)| draw.value(ty, true)).collect();
    let mut stored = vec![];
    encode_row(&columns, &row, &mut stored).expect("values of the columns' types");

    let missing = Value::Text("added later".into());
    let reader = RowReader::new(&stored).expect("a row just written");
    for ((slot, ty), value) in columns.iter().zip(&row) {
        let back = reader.value(*slot, ty, &missing).expect("a row just written");
        assert!(same(&back, value), "{ty}: {value:?} came back as {back:?}");
    }
    let last = columns.last().map_or(0, |(slot, _)| *slot);
    for slot in (0..last).filter(|slot| columns.iter().all(|(taken, _)| taken != slot)) {
        assert_eq!(reader.value(slot, &SqlType::Text, &missing).ok(), Some(Value::Null), "a slot between columns");
    }
    assert_eq!(reader.value(last + 1, &SqlType::Text, &missing).ok(), Some(missing.clone()));

    // Nothing behind the row is read, and nothing in place of what is cut off.
    let longer = [&stored[..], &[0xa5; 9]].concat();
    let cut = &stored[..usize::from(u16::from_be_bytes(draw.array())) % (stored.len() + 1)];
    for (bytes, whole) in [(&longer[..], true), (cut, false)] {
        let Ok(reader) = RowReader::new(bytes) else {
            assert!(!whole);
            continue;
        };
        for ((slot, ty), value) in columns.iter().zip(&row) {
            match reader.value(*slot, ty, &missing) {
                Ok(back) => assert!(same(&back, value), "{ty}: {value:?} became {back:?}"),
                Err(error) => assert!(!whole && error.kind() == ErrorKind::DataCorrupted),
            }
        }
    }

    draw.damage(&mut stored);
    damaged_row(&columns, &stored);
    damaged_row(&columns, draw.0);
}

/// Reads bytes that need not be a row in every way in which rows are read.
fn damaged_row(columns: &[(u16, SqlType)], stored: &[u8]) {
    let codec = codec(columns, vec![]);
    let values = codec.decode(stored);
    if let Err(error) = &values {
        assert_eq!(error.kind(), ErrorKind::DataCorrupted);
    }
    for (at, (slot, ty)) in columns.iter().enumerate() {
        let value = RowReader::new(stored).and_then(|reader| reader.value(*slot, ty, &Value::Null));
        let mut batch = BatchBuilder::new(&codec, &[at], 1).expect("a column of the table");
        let arrow = batch.push(stored).and_then(|()| batch.finish());
        match (value, arrow) {
            (Ok(value), Ok(arrow)) => {
                let carried = of_array(ty, arrow.column(0), 0);
                assert!(same(&value, &carried), "{ty}: {value:?} is {carried:?} in Arrow");
                // Whoever gets it can show it, and look for it.
                text::to_text(ty, &value);
                encode_value(ty, &value, true, &mut vec![]).expect("a value of the type");
            }
            (Err(value), Err(arrow)) => {
                assert_eq!((value.kind(), arrow.kind()), (ErrorKind::DataCorrupted, ErrorKind::DataCorrupted))
            }
            (value, arrow) => panic!("{ty}: as a value {value:?}, in Arrow {arrow:?}"),
        }
    }
}

/// Keys: the order of the bytes is the order of the values, column by column; no key begins another; a range of keys holds exactly
/// the keys within its bounds; an index entry leads to its row, and a damaged one to `DataCorrupted` or to some key.
pub fn keys(data: &[u8]) {
    let mut draw = Draw(data);
    let nullable = draw.below(2) == 1;
    let types: Vec<(usize, SqlType)> = (0..=draw.below(3)).map(|at| (at, draw.sql_type())).collect();
    let tuple = |draw: &mut Draw<'_>| -> Row { types.iter().map(|(_, ty)| draw.value(ty, nullable)).collect() };
    let prefix = key_prefix(u32::from_be_bytes(draw.array()), u16::from_be_bytes(draw.array()));
    let encode = |values: &[Value]| {
        let mut out = prefix.clone();
        for ((_, ty), value) in types.iter().zip(values) {
            encode_value(ty, value, nullable, &mut out).expect("a value of the type");
        }
        out
    };
    let compare = |a: &[Value], b: &[Value]| {
        a.iter().zip(b).map(|(a, b)| order(a, b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
    };

    let mut tuples: Vec<Row> = (0..4).map(|_| tuple(&mut draw)).collect();
    // Neighbours: equal but for one column.
    let mut near = tuples[0].clone();
    let at = draw.below(types.len());
    near[at] = draw.value(&types[at].1, nullable);
    tuples.push(near);
    let encoded: Vec<Vec<u8>> = tuples.iter().map(|t| encode(t)).collect();
    for (a, key_a) in tuples.iter().zip(&encoded) {
        for (b, key_b) in tuples.iter().zip(&encoded) {
            let expected = compare(a, b);
            assert_eq!(key_a.cmp(key_b), expected, "{types:?}: {a:?} and {b:?}");
            assert!(expected.is_eq() || !key_a.starts_with(key_b), "{types:?}: {b:?} begins {a:?}");
        }
    }

    let mut bound = |values: &Row| {
        let values = values[..=draw.below(types.len())].to_vec();
        match draw.below(5) {
            0 => Bound::Unbounded,
            1 | 2 => Bound::Included(values),
            _ => Bound::Excluded(values),
        }
    };
    let (lower, upper) = (bound(&tuples[1]), bound(&tuples[2]));
    let (from, to) = byte_range(&prefix, &types, nullable, &lower, &upper).expect("values of the types");
    for (values, key) in tuples.iter().zip(&encoded) {
        // `zip` compares with as many columns as the bound has.
        let above = match &lower {
            Bound::Unbounded => true,
            Bound::Included(bound) => compare(values, bound).is_ge(),
            Bound::Excluded(bound) => compare(values, bound).is_gt(),
        };
        let below = match &upper {
            Bound::Unbounded => true,
            Bound::Included(bound) => compare(values, bound).is_le(),
            Bound::Excluded(bound) => compare(values, bound).is_lt(),
        };
        let inside = *key >= from && to.as_ref().is_none_or(|to| key < to);
        assert_eq!(inside, above && below, "{types:?}: {values:?} in {lower:?}..{upper:?}");
    }
    entries(&mut draw);
}

/// Entries of an index over all columns of a table whose key is its first one.
fn entries(draw: &mut Draw<'_>) {
    let columns: Vec<(u16, SqlType)> = (0..=draw.below(3) as u16).map(|slot| (slot, draw.sql_type())).collect();
    let index = Index {
        id: IndexId(1),
        name: "i".into(),
        columns: columns.iter().map(|(slot, _)| ColumnId(*slot)).collect(),
        unique: draw.below(2) == 1,
        constraint: false,
    };
    let codec = codec(&columns, vec![index]);
    let mut row: Row = columns.iter().map(|(_, ty)| draw.value(ty, true)).collect();
    row[0] = draw.value(&columns[0].1, false);
    let row_key = codec.key_of(7, &row).expect("a row of the table");
    let index = codec.index(1).expect("the index of the table");
    let Ok(entry) = codec.entry(index, 7, &row, &row_key) else {
        // Values that are too long for an index.
        return;
    };
    assert_eq!(codec.row_of_entry(7, &entry.key, &entry.payload).ok().as_ref(), Some(&row_key));
    assert_eq!(entry.exclusive, index.unique && !row.iter().any(Value::is_null));
    let (mut key, mut payload) = (entry.key, entry.payload);
    draw.damage(&mut key);
    draw.damage(&mut payload);
    if let Err(error) = codec.row_of_entry(7, &key, &payload) {
        assert_eq!(error.kind(), ErrorKind::DataCorrupted);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// `PROPTEST_CASES` asks for more; a failure prints the smallest input found and how to repeat it.
    fn cases(default: u32) -> ProptestConfig {
        let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
        ProptestConfig::with_cases(asked.unwrap_or(default))
    }

    proptest! {
        #![proptest_config(cases(4_000))]

        #[test]
        fn rows(data in prop::collection::vec(any::<u8>(), 0..400)) {
            super::rows(&data);
        }

        #[test]
        fn keys(data in prop::collection::vec(any::<u8>(), 0..400)) {
            super::keys(&data);
        }
    }
}
