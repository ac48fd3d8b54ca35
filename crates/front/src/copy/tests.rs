//! Properties of COPY's data: it reads back, however it is cut; nothing in it panics.

use super::{Decoder, encode};
use crate::cells::{Cell, columns_of};
use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use atoll_model::{ErrorKind, SqlType, Value};
use atoll_ports::session::{CopyFormat, CopyOptions, ResultColumn};
use proptest::prelude::*;
use std::sync::Arc;

fn options(format: CopyFormat) -> CopyOptions {
    let csv = format == CopyFormat::Csv;
    CopyOptions {
        format,
        delimiter: if csv { b',' } else { b'\t' },
        null: if csv { String::new() } else { "\\N".to_string() },
        header: false,
        quote: b'"',
        escape: b'"',
    }
}

fn columns(types: &[SqlType]) -> (Vec<ResultColumn>, SchemaRef) {
    let columns: Vec<_> =
        types.iter().enumerate().map(|(i, ty)| ResultColumn::new(format!("c{i}"), ty.clone())).collect();
    let fields: Vec<_> = columns.iter().map(|c| c.ty.field(&c.name, true)).collect();
    (columns, Arc::new(Schema::new(fields)))
}

/// Decodes data that comes in chunks of these sizes, over and over.
fn decode(
    options: &CopyOptions,
    types: &[SqlType],
    data: &[u8],
    cuts: &[usize],
) -> Result<Vec<RecordBatch>, (ErrorKind, String)> {
    let (columns, schema) = columns(types);
    let mut decoder =
        Decoder::new(options.clone(), "t".into(), columns, schema).map_err(|e| (e.kind(), String::new()))?;
    let mut batches = Vec::new();
    let mut rest = data;
    let mut cuts = cuts.iter().copied().cycle();
    while !rest.is_empty() {
        let (mut chunk, tail) = rest.split_at(cuts.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
        rest = tail;
        while let Some(batch) = decoder.decode(&mut chunk).map_err(|e| (e.error.kind(), e.context))? {
            batches.push(batch);
        }
    }
    batches.extend(decoder.finish().map_err(|e| (e.error.kind(), e.context))?);
    Ok(batches)
}

/// The rows of batches, as text lines.
fn lines(options: &CopyOptions, types: &[SqlType], batches: &[RecordBatch]) -> Vec<u8> {
    let (columns, _) = columns(types);
    let mut out = Vec::new();
    for batch in batches {
        let cells = columns_of(batch, &columns).expect("plain types");
        for row in 0..batch.num_rows() {
            encode::row(options, &columns, cells.iter().map(|c| c.cell(row)), &mut out);
        }
    }
    out
}

fn formats() -> impl Strategy<Value = CopyOptions> {
    (any::<bool>(), prop::sample::select(vec![b',', b'|', b'\t', b';']), any::<bool>()).prop_map(
        |(csv, delimiter, escape)| {
            let format = if csv { CopyFormat::Csv } else { CopyFormat::Text };
            CopyOptions { delimiter, escape: if escape { b'\\' } else { b'"' }, ..options(format) }
        },
    )
}

proptest! {
    /// What is written reads back as it was, wherever it is cut.
    #[test]
    fn reads_back(
        options in formats(),
        rows in prop::collection::vec((any::<Option<i32>>(), prop::option::of("[a-c,|;\"\\\\\n\r\t.N ]{0,8}"), any::<bool>()), 0..12),
        cuts in prop::collection::vec(1usize..9, 1..6),
    ) {
        let types = [SqlType::Int4, SqlType::Text, SqlType::Bool];
        let (columns, _) = columns(&types);
        let mut data = Vec::new();
        for (n, text, flag) in &rows {
            let values = [
                n.map_or(Value::Null, Value::Int4),
                text.clone().map_or(Value::Null, Value::Text),
                Value::Bool(*flag),
            ];
            encode::row(&options, &columns, values.iter().map(Cell::from), &mut data);
        }
        let batches = decode(&options, &types, &data, &cuts);
        prop_assert!(batches.is_ok(), "{:?}: {:?}", batches, String::from_utf8_lossy(&data));
        let batches = batches.unwrap_or_default();
        prop_assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows.len());
        let again = lines(&options, &types, &batches);
        prop_assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&data));
    }

    /// Arbitrary data gives the same rows or the same error, in one piece or in many.
    #[test]
    fn does_not_depend_on_chunks(
        options in formats(),
        data in prop::collection::vec(prop_oneof![prop::sample::select(&b"12,|\"\\\n\r\t.Nx"[..]), any::<u8>()], 0..80),
        cuts in prop::collection::vec(1usize..5, 1..6),
    ) {
        let types = [SqlType::Int4, SqlType::Text];
        let whole = decode(&options, &types, &data, &[usize::MAX]);
        let cut = decode(&options, &types, &data, &cuts);
        prop_assert_eq!(
            whole.map(|b| lines(&options, &types, &b)),
            cut.map(|b| lines(&options, &types, &b))
        );
    }
}

#[test]
fn every_type_of_column() {
    for (ty, good, bad, kind) in [
        (SqlType::Bool, "t", "maybe", ErrorKind::InvalidText),
        (SqlType::Int2, "-5", "99999", ErrorKind::NumericOutOfRange),
        (SqlType::Float8, "1.5", "x", ErrorKind::InvalidText),
        (SqlType::Numeric(Some((5, 2))), "123.40", "1234", ErrorKind::NumericOutOfRange),
        (SqlType::Varchar(Some(3)), "abc", "abcd", ErrorKind::StringTooLong),
        (SqlType::Char(3), "ab ", "abcd", ErrorKind::StringTooLong),
        (SqlType::Date, "2013-02-03", "2013-02-30", ErrorKind::DatetimeOverflow),
        (SqlType::TimestampTz(None), "2013-02-03 04:05:06+00", "soon", ErrorKind::InvalidDatetime),
        (SqlType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0", ErrorKind::InvalidText),
        (SqlType::Jsonb, "{\"a\": 1}", "{", ErrorKind::InvalidText),
        (SqlType::Array(Box::new(SqlType::Int4)), "{1,NULL,3}", "{1", ErrorKind::InvalidText),
        (
            SqlType::Array(Box::new(SqlType::Array(Box::new(SqlType::Text)))),
            "{{a,b},{c}}",
            "{1}x",
            ErrorKind::InvalidText,
        ),
    ] {
        let text = options(CopyFormat::Text);
        let data = format!("1\t{good}\n2\t\\N\n");
        let types = [SqlType::Int8, ty];
        let batches = decode(&text, &types, data.as_bytes(), &[3]).expect("good data");
        assert_eq!(String::from_utf8_lossy(&lines(&text, &types, &batches)), data);
        let error = decode(&text, &types, format!("1\t{bad}\n").as_bytes(), &[100]).expect_err("bad data");
        assert_eq!(error, (kind, format!("COPY t, line 1, column c1: \"{bad}\"")));
    }
}

#[test]
fn times_are_rounded_to_the_digits_of_the_column() {
    let text = options(CopyFormat::Text);
    for (ty, given, kept) in [
        (SqlType::Time(Some(2)), "23:59:59.996", "24:00:00"),
        (SqlType::Timestamp(Some(0)), "1999-12-31 23:59:59.5", "1999-12-31 23:59:59"),
        (SqlType::Timestamp(None), "1999-12-31 23:59:59.5", "1999-12-31 23:59:59.5"),
        (SqlType::TimestampTz(Some(3)), "2024-01-01 00:00:00.0005+00", "2024-01-01 00:00:00.001+00"),
        (
            SqlType::Array(Box::new(SqlType::Timestamp(Some(0)))),
            "{2024-01-01 00:00:00.5,NULL}",
            "{\"2024-01-01 00:00:01\",NULL}",
        ),
    ] {
        let types = [ty];
        let batches = decode(&text, &types, format!("{given}\n").as_bytes(), &[100]).expect("good data");
        assert_eq!(String::from_utf8_lossy(&lines(&text, &types, &batches)), format!("{kept}\n"));
    }
}

#[test]
fn ends_headers_and_line_numbers() {
    let types = [SqlType::Int4, SqlType::Text];
    let csv = CopyOptions { header: true, ..options(CopyFormat::Csv) };
    let rows = |options: &CopyOptions, data: &str| {
        decode(options, &types, data.as_bytes(), &[7]).map(|b| b.iter().map(RecordBatch::num_rows).sum::<usize>())
    };
    assert_eq!(rows(&csv, "a,b\n1,x\n2,\"y\nz\"\n"), Ok(2));
    assert_eq!(rows(&csv, "a,b\n1,x\n\\.\nwhatever comes then"), Ok(1));
    assert_eq!(rows(&options(CopyFormat::Text), "1\tx\n\\.\njunk"), Ok(1));
    assert_eq!(rows(&options(CopyFormat::Text), ""), Ok(0));
    // A quoted line break counts as a line of the file.
    assert_eq!(
        rows(&csv, "a,b\n1,\"x\ny\"\nbad,z\n").map_err(|e| e.1),
        Err("COPY t, line 4, column c0: \"bad\"".to_string())
    );
    assert_eq!(rows(&csv, "a,b\n1,\"x\n").map_err(|e| e.0), Err(ErrorKind::BadCopyFormat));
    let one = |data: &[u8]| decode(&options(CopyFormat::Text), &[SqlType::Text], data, &[100]).map_err(|e| e.0);
    assert_eq!(one(b"\xff\n").err(), Some(ErrorKind::InvalidEncoding));
    assert_eq!(one(b"a\0b\n").err(), Some(ErrorKind::InvalidEncoding));
    assert_eq!(one(b"a\\000b\n").err(), Some(ErrorKind::InvalidEncoding));
    assert!(
        one(b"\\x41\\102\\q\\\\\n")
            .is_ok_and(|b| lines(&options(CopyFormat::Text), &[SqlType::Text], &b) == b"ABq\\\\\n")
    );
}

#[test]
fn a_null_where_none_may_be_is_refused() {
    let (columns, _) = columns(&[SqlType::Int4]);
    let schema = Arc::new(Schema::new(vec![SqlType::Int4.field("c0", false)]));
    let mut decoder = Decoder::new(options(CopyFormat::Text), "t".into(), columns, schema).expect("plain types");
    let error = decoder.decode(&mut &b"\\N\n"[..]).expect_err("a null");
    assert_eq!(error.error.kind(), ErrorKind::NotNullViolation);
}
