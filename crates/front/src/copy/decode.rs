//! `COPY … FROM STDIN`: bytes to records to fields to columns.
//!
//! Invariant: a record is decoded only once it is complete, so it does not matter where the client's messages end; what is
//! held back is at most one incomplete record, bounded by [`MAX_RECORD`].

use super::builder::Builder;
use crate::params::utf8;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use atoll_model::{Error, ErrorKind, Result};
use atoll_ports::session::{CopyFormat, CopyOptions, ResultColumn};
use std::borrow::Cow;

/// Rows in a batch: many enough for what a batch costs, few enough that the lists of them on the way into the store stay small for the
/// allocator, which would fetch larger ones from the system and give them back each time.
const BATCH_ROWS: usize = 2048;
/// Bytes of input after which a batch is closed early: wide rows must not pile up.
const BATCH_BYTES: usize = 16 << 20;
/// Longest record.
const MAX_RECORD: usize = 256 << 20;
/// Longest excerpt of a line in an error's context.
const EXCERPT: usize = 100;

/// An error and where in the data it arose (`COPY users, line 7, column age: "x"`).
#[derive(Debug)]
pub struct CopyError {
    /// The error.
    pub error: Error,
    /// The place, as PostgreSQL's CONTEXT shows it.
    pub context: String,
}

/// Decodes the data of one COPY into batches.
pub struct Decoder {
    options: CopyOptions,
    table: String,
    columns: Vec<ResultColumn>,
    schema: SchemaRef,
    builders: Vec<Builder>,
    /// The beginning of a record whose end has not come yet.
    carry: Vec<u8>,
    /// csv: the carried part ends within quotes; the character before was an escape.
    scan: CsvScan,
    /// The line on which the current record starts, from 1; lines that the last record took.
    line: u64,
    rows: usize,
    bytes: usize,
    /// Whether lines end with CR LF, as the first one tells.
    crlf: Option<bool>,
    skip_header: bool,
    /// `\.` was read: what follows is ignored.
    ended: bool,
}

#[derive(Clone, Copy, Default)]
struct CsvScan {
    quoted: bool,
    escaped: bool,
}

impl Decoder {
    /// A decoder for the columns, in the order in which the data has them; `schema` is that of the batches it gives.
    ///
    /// # Errors
    /// 0A000 for a column type that tables do not hold.
    pub fn new(options: CopyOptions, table: String, columns: Vec<ResultColumn>, schema: SchemaRef) -> Result<Self> {
        let builders = columns.iter().map(|c| Builder::new(&c.ty)).collect::<Result<_>>()?;
        Ok(Decoder {
            skip_header: options.header,
            options,
            table,
            columns,
            schema,
            builders,
            carry: Vec::new(),
            scan: CsvScan::default(),
            line: 1,
            rows: 0,
            bytes: 0,
            crlf: None,
            ended: false,
        })
    }

    /// Takes input until a batch is full or the input is used up; what is left of it stays in `input`.
    ///
    /// # Errors
    /// 22P04 for malformed data, and what the values' types give.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<RecordBatch>, CopyError> {
        while !input.is_empty() && !self.ended {
            let Some(end) = self.record_end(input) else {
                if self.carry.len() + input.len() > MAX_RECORD {
                    let error =
                        Error::new(ErrorKind::ProgramLimit, format!("a record is longer than {MAX_RECORD} bytes"));
                    return Err(self.locate(error, None, None));
                }
                self.carry.extend_from_slice(input);
                *input = &[];
                return Ok(None);
            };
            let (head, tail) = input.split_at(end + 1);
            *input = tail;
            if self.carry.is_empty() {
                self.record(&head[..end])?;
            } else {
                let mut whole = std::mem::take(&mut self.carry);
                whole.extend_from_slice(&head[..end]);
                let done = self.record(&whole);
                whole.clear();
                self.carry = whole;
                done?;
            }
            if self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES {
                return self.batch().map(Some);
            }
        }
        if self.ended {
            *input = &[];
        }
        Ok(None)
    }

    /// The input has ended: the last record needs no newline. Gives the rest as a batch, if there is any.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, CopyError> {
        if !self.ended && !self.carry.is_empty() {
            if self.scan.quoted {
                let error = Error::new(ErrorKind::BadCopyFormat, "unterminated CSV quoted field");
                return Err(self.locate(error, None, None));
            }
            let last = std::mem::take(&mut self.carry);
            self.record(&last)?;
        }
        self.ended = true;
        if self.rows == 0 { Ok(None) } else { self.batch().map(Some) }
    }

    /// Where the record that is carried (or starts with `input`) ends: the place of its newline in `input`.
    fn record_end(&mut self, input: &[u8]) -> Option<usize> {
        match self.options.format {
            CopyFormat::Text => {
                for at in memchr::memchr_iter(b'\n', input) {
                    let mut slashes = input[..at].iter().rev().take_while(|b| **b == b'\\').count();
                    if slashes == at {
                        slashes += self.carry.iter().rev().take_while(|b| **b == b'\\').count();
                    }
                    // An odd number escapes the newline.
                    if slashes % 2 == 0 {
                        return Some(at);
                    }
                }
                None
            }
            CopyFormat::Csv => {
                let (quote, escape) = (self.options.quote, self.options.escape);
                let mut state = self.scan;
                let mut from = 0;
                while let Some(at) = memchr::memchr3(b'\n', quote, escape, &input[from..]).map(|i| i + from) {
                    if state.escaped && at > from {
                        state.escaped = false;
                    }
                    let byte = input[at];
                    from = at + 1;
                    if state.escaped {
                        state.escaped = false;
                    } else if state.quoted && byte == escape && escape != quote {
                        state.escaped = true;
                    } else if byte == quote {
                        state.quoted = !state.quoted;
                    } else if byte == b'\n' && !state.quoted {
                        self.scan = CsvScan::default();
                        return Some(at);
                    }
                }
                if from < input.len() {
                    state.escaped = false;
                }
                self.scan = state;
                None
            }
        }
    }

    /// One complete record, without its newline.
    fn record(&mut self, record: &[u8]) -> Result<(), CopyError> {
        let crlf = *self.crlf.get_or_insert(record.last() == Some(&b'\r'));
        let body = match record {
            [rest @ .., b'\r'] if crlf => rest,
            all => all,
        };
        let newlines = 1 + memchr::memchr_iter(b'\n', body).count() as u64;
        if std::mem::take(&mut self.skip_header) {
            self.line += newlines;
            return Ok(());
        }
        if body == b"\\." {
            self.ended = true;
            return Ok(());
        }
        let text = utf8(body).map_err(|e| self.locate(e, None, None))?;
        if body.contains(&0) {
            let error = Error::new(ErrorKind::InvalidEncoding, "invalid byte sequence for encoding \"UTF8\": 0x00");
            return Err(self.locate(error, None, None));
        }
        match self.options.format {
            CopyFormat::Text => self.text_fields(text)?,
            CopyFormat::Csv => self.csv_fields(text)?,
        }
        self.line += newlines;
        self.rows += 1;
        self.bytes += body.len();
        Ok(())
    }

    fn text_fields(&mut self, line: &str) -> Result<(), CopyError> {
        let delimiter = self.options.delimiter;
        let mut rest = Some(line);
        let mut column = 0;
        while let Some(from) = rest {
            let bytes = from.as_bytes();
            let mut escaped = false;
            let mut end = 0;
            let end = loop {
                match memchr::memchr2(delimiter, b'\\', &bytes[end..]).map(|i| i + end) {
                    None => break None,
                    Some(at) if bytes[at] == delimiter => break Some(at),
                    Some(at) => {
                        escaped = true;
                        // The character after a backslash is data; it may be the delimiter.
                        end = at + 2;
                        if end >= bytes.len() {
                            break None;
                        }
                    }
                }
            };
            let (field, next) = match end {
                Some(at) => (&from[..at], Some(&from[at + 1..])),
                None => (from, None),
            };
            rest = next;
            let value = if field == self.options.null {
                None
            } else if escaped {
                Some(unescape(field).map_err(|e| self.locate(e, None, Some(line)))?)
            } else {
                Some(Cow::Borrowed(field))
            };
            self.push(column, value.as_deref(), line)?;
            column += 1;
        }
        self.row_is_complete(column, line)
    }

    fn csv_fields(&mut self, line: &str) -> Result<(), CopyError> {
        let (delimiter, quote, escape) = (self.options.delimiter, self.options.quote, self.options.escape);
        let bytes = line.as_bytes();
        let has_quotes = memchr::memchr(quote, bytes).is_some();
        let mut column = 0;
        let mut from = 0;
        loop {
            let next;
            if !has_quotes {
                let end = memchr::memchr(delimiter, &bytes[from..]).map(|i| i + from);
                let field = &line[from..end.unwrap_or(bytes.len())];
                let value = (field != self.options.null).then_some(field);
                self.push(column, value, line)?;
                next = end;
            } else {
                let mut field = Vec::new();
                let (mut quoted, mut any_quotes) = (false, false);
                let mut at = from;
                let end = loop {
                    let Some(&b) = bytes.get(at) else { break None };
                    at += 1;
                    if quoted && b == escape && bytes.get(at).is_some_and(|n| *n == quote || *n == escape) {
                        field.push(bytes[at]);
                        at += 1;
                    } else if b == quote {
                        quoted = !quoted;
                        any_quotes = true;
                    } else if b == delimiter && !quoted {
                        break Some(at - 1);
                    } else {
                        field.push(b);
                    }
                };
                if quoted {
                    let error = Error::new(ErrorKind::BadCopyFormat, "unterminated CSV quoted field");
                    return Err(self.locate(error, None, Some(line)));
                }
                // Only whole ASCII bytes were taken out of UTF-8.
                let field = utf8(&field).map_err(|e| self.locate(e, None, Some(line)))?;
                let value = (any_quotes || field != self.options.null).then_some(field);
                self.push(column, value, line)?;
                next = end;
            }
            column += 1;
            match next {
                Some(at) => from = at + 1,
                None => return self.row_is_complete(column, line),
            }
        }
    }

    #[inline]
    fn push(&mut self, column: usize, value: Option<&str>, line: &str) -> Result<(), CopyError> {
        let Some(builder) = self.builders.get_mut(column) else {
            let error = Error::new(ErrorKind::BadCopyFormat, "extra data after last expected column");
            return Err(self.locate(error, None, Some(line)));
        };
        match value {
            None if !self.schema.field(column).is_nullable() => {
                let name = &self.columns[column].name;
                let message = format!(
                    "null value in column \"{name}\" of relation \"{}\" violates not-null constraint",
                    self.table
                );
                let error = Error::new(ErrorKind::NotNullViolation, message).table(self.table.clone());
                Err(self.locate(error, None, Some(line)))
            }
            None => {
                builder.push_null();
                Ok(())
            }
            Some(text) => builder.push_text(text).map_err(|e| self.locate(e, Some(column), Some(text))),
        }
    }

    fn row_is_complete(&self, columns: usize, line: &str) -> Result<(), CopyError> {
        match self.columns.get(columns) {
            None => Ok(()),
            Some(missing) => {
                let message = format!("missing data for column \"{}\"", missing.name);
                Err(self.locate(Error::new(ErrorKind::BadCopyFormat, message), None, Some(line)))
            }
        }
    }

    /// Where the decoder stands, for errors that arise behind it.
    pub fn context(&self) -> String {
        format!("COPY {}, line {}", self.table, self.line)
    }

    fn locate(&self, error: Error, column: Option<usize>, text: Option<&str>) -> CopyError {
        let mut context = self.context();
        if let Some(column) = column.and_then(|i| self.columns.get(i)) {
            context.push_str(&format!(", column {}", column.name));
        }
        if let Some(text) = text {
            let cut = text.char_indices().nth(EXCERPT).map(|(end, _)| end);
            context.push_str(&format!(
                ": \"{}{}\"",
                &text[..cut.unwrap_or(text.len())],
                if cut.is_some() { "..." } else { "" }
            ));
        }
        CopyError { error, context }
    }

    /// Closes the current batch.
    fn batch(&mut self) -> Result<RecordBatch, CopyError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let arrays: Vec<ArrayRef> = self.builders.iter_mut().map(Builder::finish).collect();
        let fitted = arrays.into_iter().zip(self.schema.fields()).map(|(array, field)| {
            if array.data_type() == field.data_type() { Ok(array) } else { arrow_cast::cast(&array, field.data_type()) }
        });
        fitted
            .collect::<Result<Vec<_>, _>>()
            .and_then(|arrays| {
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            })
            .map_err(|e| self.locate(Error::internal(format!("COPY built no batch: {e}")), None, None))
    }
}

/// The value of a text field with backslashes in it.
fn unescape(field: &str) -> Result<Cow<'static, str>> {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        at += 1;
        if b != b'\\' {
            out.push(b);
            continue;
        }
        let Some(&c) = bytes.get(at) else {
            out.push(b'\\');
            break;
        };
        at += 1;
        let digits = |radix: u32, from: usize, most: usize| {
            bytes[from..].iter().take(most).take_while(|d| (**d as char).is_digit(radix)).count()
        };
        out.push(match c {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'0'..=b'7' => {
                let count = digits(8, at, 2);
                let code = bytes[at..at + count].iter().fold(u32::from(c - b'0'), |n, d| n * 8 + u32::from(d - b'0'));
                at += count;
                // Three octal digits can exceed a byte: PostgreSQL takes the low eight bits.
                (code & 0xff) as u8
            }
            b'x' => match digits(16, at, 2) {
                0 => b'x',
                count => {
                    let code = bytes[at..at + count]
                        .iter()
                        .filter_map(|d| (*d as char).to_digit(16))
                        .fold(0, |n, d| n * 16 + d);
                    at += count;
                    code as u8
                }
            },
            // A backslash before any other character stands for that character; multi-byte ones follow untouched.
            other => other,
        });
    }
    let text = utf8(&out)?;
    atoll_model::text::check_text(text)?;
    Ok(Cow::Owned(text.to_string()))
}
