//! How fast COPY data becomes batches, on one core. `cargo bench -p atoll-front`.

#![allow(clippy::print_stderr, reason = "a report for people")]

use arrow_schema::Schema;
use atoll_front::copy::Decoder;
use atoll_model::SqlType;
use atoll_ports::session::{CopyFormat, CopyOptions, ResultColumn};
use std::sync::Arc;
use std::time::Instant;

const ROWS: usize = 2_000_000;
/// What a client puts into one CopyData message: libpq sends a line, others send blocks.
const CHUNK: usize = 64 << 10;

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

fn measure(name: &str, format: CopyFormat, types: &[SqlType], line: impl Fn(usize) -> String) {
    let columns: Vec<_> =
        types.iter().enumerate().map(|(i, ty)| ResultColumn::new(format!("c{i}"), ty.clone())).collect();
    let fields: Vec<_> = columns.iter().map(|c| c.ty.field(&c.name, true)).collect();
    let text: String = (0..ROWS).map(line).collect();
    let Ok(mut decoder) = Decoder::new(options(format), "t".into(), columns, Arc::new(Schema::new(fields))) else {
        return;
    };
    let started = Instant::now();
    let mut rows = 0;
    for chunk in text.as_bytes().chunks(CHUNK) {
        let mut input = chunk;
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(batch)) => rows += batch.num_rows(),
                Ok(None) => break,
                Err(e) => return eprintln!("{name}: {} ({})", e.error, e.context),
            }
        }
    }
    if let Ok(Some(batch)) = decoder.finish() {
        rows += batch.num_rows();
    }
    let took = started.elapsed().as_secs_f64();
    let (rate, bytes) = (rows as f64 / took / 1e6, text.len() as f64 / took / 1e6);
    eprintln!("{name:32} {rate:6.2} M rows/s {bytes:7.1} MB/s");
}

fn main() {
    use SqlType::{Float8, Int4, Int8, Numeric, Text, Timestamp};
    for (format, d) in [(CopyFormat::Text, '\t'), (CopyFormat::Csv, ',')] {
        let name = |what: &str| format!("{format:?} {what}");
        measure(&name("int, int"), format, &[Int4, Int8], |i| format!("{i}{d}{}\n", i * 7));
        measure(&name("int, text, timestamp"), format, &[Int4, Text, Timestamp(None)], |i| {
            format!("{i}{d}user{i}{d}2013-01-{:02} {:02}:00:{:02}\n", i % 28 + 1, i % 24, i % 60)
        });
        measure(&name("int, numeric, float"), format, &[Int4, Numeric(Some((12, 2))), Float8], |i| {
            format!("{i}{d}{}.{:02}{d}{}.5\n", i % 10_000, i % 100, i)
        });
    }
    measure("Csv quoted text", CopyFormat::Csv, &[Int4, Text], |i| format!("{i},\"user, {i}\"\n"));
    measure("Text escaped text", CopyFormat::Text, &[Int4, Text], |i| format!("{i}\tuser\\t{i}\n"));
}
