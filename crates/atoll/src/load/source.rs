//! Reads files into batches: CSV records as they stand, JSON lines turned into CSV.
//!
//! Invariant: a record of a CSV file reaches the server byte for byte (but for its line end), so nothing is
//! reinterpreted on the way, and a rejected row can be given back as it was.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use memchr::memchr_iter;

use super::pipeline::Batch;

/// The longest record; a quote that is never closed would otherwise swallow the file.
const MAX_RECORD: usize = 64 << 20;

/// Counts the bytes that are read through it.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Opens a file, or standard input for `-`; gzip is known by its first bytes. `count` follows the bytes of the file.
pub fn open(path: &Path, count: Arc<AtomicU64>) -> io::Result<Box<dyn BufRead + Send>> {
    let file: Box<dyn Read + Send> =
        if path.as_os_str() == "-" { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut input = BufReader::with_capacity(256 << 10, Counted { inner: file, count });
    let gzip = input.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if gzip { Box::new(BufReader::with_capacity(256 << 10, MultiGzDecoder::new(input))) } else { Box::new(input) })
}

/// Lines, or CSV records, which may span lines.
pub struct Records<R> {
    input: R,
    quote: Option<u8>,
    /// The line that the next record begins on.
    pub line: u64,
}

impl<R: BufRead> Records<R> {
    /// Reads records whose fields may be quoted with `quote`; without it, plain lines.
    pub fn new(input: R, quote: Option<u8>) -> Self {
        Self { input, quote, line: 1 }
    }

    /// Sets what quotes fields, from the next record on.
    pub fn set_quote(&mut self, quote: Option<u8>) {
        self.quote = quote;
    }

    /// Appends the next record to `out`, ended by one newline; the line that it begins on, or `None` at the end.
    pub fn next(&mut self, out: &mut Vec<u8>) -> io::Result<Option<u64>> {
        let (start, line) = (out.len(), self.line);
        let mut quotes = 0;
        loop {
            let from = out.len();
            // `take` bounds what a file without newlines can make us hold.
            let limit = (MAX_RECORD - (from - start)) as u64;
            let n = self.input.by_ref().take(limit).read_until(b'\n', out)?;
            let ended = out.ends_with(b"\n");
            if let Some(quote) = self.quote {
                quotes += memchr_iter(quote, &out[from..]).count();
            }
            self.line += u64::from(n > 0);
            if n == 0 && out.len() - start >= MAX_RECORD {
                let reason = format!(
                    "the record that begins on line {line} is longer than {} MiB; is a quote not closed?",
                    MAX_RECORD >> 20
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            if n == 0 && out.len() == start {
                return Ok(None);
            }
            if n == 0 || (ended && quotes.is_multiple_of(2)) {
                if start == 0 && line == 1 && out.starts_with("\u{feff}".as_bytes()) {
                    out.drain(..3);
                }
                while out[start..].ends_with(b"\n") || out[start..].ends_with(b"\r") {
                    out.pop();
                }
                out.push(b'\n');
                return Ok(Some(line));
            }
        }
    }
}

/// A column of the table, as far as JSON values depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// Its type as `information_schema` names it.
    pub data_type: String,
}

/// Why a line of JSON is no row.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine(pub String);

/// Turns a JSON object into a CSV row with all columns of the table, in order; a missing key is NULL.
pub fn json_row(line: &[u8], columns: &[TableColumn], out: &mut Vec<u8>) -> Result<(), BadLine> {
    use serde_json::value::RawValue;
    type Object<'a> = std::collections::BTreeMap<String, &'a RawValue>;
    let text = std::str::from_utf8(line).map_err(|e| BadLine(format!("not UTF-8: {e}")))?;
    let mut object: Object<'_> = serde_json::from_str(text).map_err(|e| BadLine(format!("not a JSON object: {e}")))?;
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let Some(raw) = object.remove(&column.name).map(RawValue::get) else {
            continue;
        };
        let value = match column.data_type.as_str() {
            _ if raw == "null" => continue,
            "json" | "jsonb" => raw.to_owned(),
            "ARRAY" if raw.starts_with('[') => array_literal(raw)?,
            _ if raw.starts_with('"') => unquoted(raw)?,
            _ => raw.to_owned(),
        };
        out.push(b'"');
        out.extend_from_slice(value.replace('"', "\"\"").as_bytes());
        out.push(b'"');
    }
    out.push(b'\n');
    match object.keys().next() {
        Some(unknown) => Err(BadLine(format!("the table has no column \"{unknown}\""))),
        None => Ok(()),
    }
}

fn unquoted(raw: &str) -> Result<String, BadLine> {
    serde_json::from_str(raw).map_err(|e| BadLine(e.to_string()))
}

/// A JSON array as PostgreSQL's array literal.
fn array_literal(raw: &str) -> Result<String, BadLine> {
    let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(raw).map_err(|e| BadLine(e.to_string()))?;
    let mut out = String::from("{");
    for (i, item) in items.iter().map(|i| i.get()).enumerate() {
        if i > 0 {
            out.push(',');
        }
        match item.as_bytes().first() {
            _ if item == "null" => out.push_str("NULL"),
            Some(b'[') => out.push_str(&array_literal(item)?),
            Some(b'"') => {
                let text = unquoted(item)?;
                out.push_str(&format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")));
            }
            _ => out.push_str(item),
        }
    }
    out.push('}');
    Ok(out)
}

/// Whether a batch has grown enough to be sent.
pub fn is_full(batch: &Batch, rows: usize, bytes: usize) -> bool {
    batch.len() >= rows || batch.data.len() >= bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str, quote: Option<u8>) -> Vec<(u64, String)> {
        let (mut reader, mut found) = (Records::new(text.as_bytes(), quote), Vec::new());
        loop {
            let mut record = Vec::new();
            match reader.next(&mut record).expect("text can be read") {
                Some(line) => found.push((line, String::from_utf8(record).expect("UTF-8"))),
                None => return found,
            }
        }
    }

    #[test]
    fn records_may_span_lines_and_keep_their_numbers() {
        let of = |text| records(text, Some(b'"'));
        assert_eq!(of("a,b\r\n1,2"), [(1, "a,b\n".into()), (2, "1,2\n".into())]);
        assert_eq!(of("1,\"x\ny\"\n2,z\n"), [(1, "1,\"x\ny\"\n".into()), (3, "2,z\n".into())]);
        assert_eq!(of("\"a\"\"\nb\"\nc\n"), [(1, "\"a\"\"\nb\"\n".into()), (3, "c\n".into())]);
        assert_eq!(of("\u{feff}a\n"), [(1, "a\n".into())]);
        assert_eq!(of(""), []);
        assert_eq!(records("it's\n\"\n", None), [(1, "it's\n".into()), (2, "\"\n".into())]);
    }

    #[test]
    fn json_becomes_csv_without_losing_anything() {
        let column = |name: &str, data_type: &str| TableColumn { name: name.into(), data_type: data_type.into() };
        let columns = [column("a", "numeric"), column("b", "text"), column("c", "jsonb"), column("d", "ARRAY")];
        let row = |line: &str| {
            let mut out = Vec::new();
            json_row(line.as_bytes(), &columns, &mut out).map(|()| String::from_utf8(out).expect("UTF-8"))
        };
        assert_eq!(
            row(r#"{"b":"x\"y\n","a":12345678901234567890.123,"c":{"k":[1]},"d":["p,q",null,"\"",[1]]}"#),
            Ok("\"12345678901234567890.123\",\"x\"\"y\n\",\"{\"\"k\"\":[1]}\",\
                \"{\"\"p,q\"\",NULL,\"\"\\\"\"\"\",{1}}\"\n"
                .into())
        );
        assert_eq!(row(r#"{"b":null}"#), Ok(",,,\n".into()));
        assert_eq!(row(r#"{"b":""}"#), Ok(",\"\",,\n".into()));
        assert_eq!(row(r#"{"e":1}"#), Err(BadLine("the table has no column \"e\"".into())));
        assert!(row("[1]").is_err() && row("{").is_err());
    }
}
