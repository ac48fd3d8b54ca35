//! Messages to clients, written into one buffer that is sent in as few pieces as possible.
//!
//! Invariant: every message's length field is the length of what follows; a message that would be longer than the protocol
//! allows is taken back and refused.

use super::frontend::Formats;
use crate::cells::Cell;
use crate::encode::{Format, write_field, write_oids};
use atoll_model::{Error, ErrorKind, Result, SqlType};
use atoll_ports::session::{Notice, ResultColumn, TransactionStatus};

/// Writes one message: its tag, the length of the body, the body.
fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let at = open(out, tag);
    body(out);
    // Only rows can be large, and those go through `close` with its check.
    let _ = close(out, at);
}

fn open(out: &mut Vec<u8>, tag: u8) -> usize {
    out.extend_from_slice(&[tag, 0, 0, 0, 0]);
    out.len() - 4
}

fn close(out: &mut Vec<u8>, at: usize) -> Result<()> {
    match i32::try_from(out.len() - at) {
        Ok(len) => {
            out[at..at + 4].copy_from_slice(&len.to_be_bytes());
            Ok(())
        }
        Err(_) => {
            out.truncate(at - 1);
            Err(Error::new(ErrorKind::ProgramLimit, "a row is too large for a message"))
        }
    }
}

fn text(out: &mut Vec<u8>, s: &str) {
    // A NUL would end the text early and shift everything behind it.
    out.extend(s.bytes().map(|b| if b == 0 { b' ' } else { b }));
    out.push(0);
}

pub(super) fn authentication(out: &mut Vec<u8>, code: i32, data: &[u8]) {
    message(out, b'R', |o| {
        o.extend_from_slice(&code.to_be_bytes());
        o.extend_from_slice(data);
    });
}

pub(super) fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, b'S', |o| {
        text(o, name);
        text(o, value);
    });
}

pub(super) fn backend_key(out: &mut Vec<u8>, process_id: i32, secret: i32) {
    message(out, b'K', |o| {
        o.extend_from_slice(&process_id.to_be_bytes());
        o.extend_from_slice(&secret.to_be_bytes());
    });
}

/// We speak 3.0: for clients that ask for a newer minor version or for options.
pub(super) fn negotiate_version(out: &mut Vec<u8>, unknown: &[&str]) {
    message(out, b'v', |o| {
        o.extend_from_slice(&0i32.to_be_bytes());
        o.extend_from_slice(&(unknown.len() as i32).to_be_bytes());
        for name in unknown {
            text(o, name);
        }
    });
}

pub(super) fn ready(out: &mut Vec<u8>, status: TransactionStatus) {
    let state = match status {
        TransactionStatus::Idle => b'I',
        TransactionStatus::InTransaction => b'T',
        TransactionStatus::Failed => b'E',
    };
    out.extend_from_slice(&[b'Z', 0, 0, 0, 5, state]);
}

/// The messages without a body.
pub(super) fn bare(out: &mut Vec<u8>, tag: u8) {
    out.extend_from_slice(&[tag, 0, 0, 0, 4]);
}

pub(super) const PARSE_COMPLETE: u8 = b'1';
pub(super) const BIND_COMPLETE: u8 = b'2';
pub(super) const CLOSE_COMPLETE: u8 = b'3';
pub(super) const NO_DATA: u8 = b'n';
pub(super) const EMPTY_QUERY: u8 = b'I';
pub(super) const PORTAL_SUSPENDED: u8 = b's';
pub(super) const COPY_DONE: u8 = b'c';

pub(super) fn command_complete(out: &mut Vec<u8>, tag: &str, rows: Option<u64>) {
    message(out, b'C', |o| {
        o.extend_from_slice(tag.as_bytes());
        if let Some(rows) = rows {
            o.push(b' ');
            atoll_model::text::write_int(rows, o);
        }
        o.push(0);
    });
}

/// `typlen` and `atttypmod` of a type, as `pg_type` and `pg_attribute` have them.
fn size_and_modifier(ty: &SqlType) -> (i16, i32) {
    match ty {
        SqlType::Bool => (1, -1),
        SqlType::Int2 => (2, -1),
        SqlType::Int4 | SqlType::Float4 | SqlType::Date => (4, -1),
        SqlType::Int8 | SqlType::Float8 => (8, -1),
        SqlType::Time(digits) | SqlType::Timestamp(digits) | SqlType::TimestampTz(digits) => {
            (8, digits.map_or(-1, i32::from))
        }
        SqlType::Interval | SqlType::Uuid => (16, -1),
        // Scale is kept in eleven bits, negative ones too.
        SqlType::Numeric(Some((p, s))) => (-1, ((i32::from(*p) << 16) | (i32::from(*s) & 0x7ff)) + 4),
        SqlType::Varchar(Some(n)) | SqlType::Char(n) => (-1, i32::try_from(*n).map_or(-1, |n| n.saturating_add(4))),
        // The modifier of an array is that of its items.
        SqlType::Array(item) => (-1, size_and_modifier(item).1),
        _ => (-1, -1),
    }
}

pub(super) fn row_description(out: &mut Vec<u8>, columns: &[ResultColumn], formats: &Formats) {
    message(out, b'T', |o| {
        // The engine bounds the number of columns far below 65,536.
        o.extend_from_slice(&(columns.len() as u16).to_be_bytes());
        for (i, column) in columns.iter().enumerate() {
            text(o, &column.name);
            // Neither table nor attribute number is known here.
            o.extend_from_slice(&[0; 6]);
            let oid = match &column.ty {
                SqlType::Array(_) if column.is_oid => OID_ARRAY,
                _ if column.is_oid => OID,
                ty => ty.pg_oid(),
            };
            o.extend_from_slice(&oid.to_be_bytes());
            let (size, modifier) = if oid == OID { (4, -1) } else { size_and_modifier(&column.ty) };
            o.extend_from_slice(&size.to_be_bytes());
            o.extend_from_slice(&modifier.to_be_bytes());
            o.extend_from_slice(&code(formats.of(i)).to_be_bytes());
        }
    });
}

fn code(format: Format) -> u16 {
    match format {
        Format::Text => 0,
        Format::Binary => 1,
    }
}

/// `oid`
const OID: u32 = 26;

/// `oid[]`
const OID_ARRAY: u32 = 1028;

/// Types of parameters; `oids`: those that are `oid[]`.
pub(super) fn parameter_description(out: &mut Vec<u8>, types: &[SqlType], oids: &[usize]) {
    message(out, b't', |o| {
        o.extend_from_slice(&(types.len() as u16).to_be_bytes());
        for (at, ty) in types.iter().enumerate() {
            let oid = if oids.contains(&at) { OID_ARRAY } else { ty.pg_oid() };
            o.extend_from_slice(&oid.to_be_bytes());
        }
    });
}

/// One row.
///
/// # Errors
/// What a value's encoding gives; nothing of the row is left then.
pub(super) fn data_row<'a>(
    out: &mut Vec<u8>,
    columns: &[ResultColumn],
    formats: &Formats,
    cells: impl Iterator<Item = Cell<'a>>,
) -> Result<()> {
    let at = open(out, b'D');
    out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
    for (i, (cell, column)) in cells.zip(columns).enumerate() {
        let written = if column.is_oid && formats.of(i) == Format::Binary {
            write_oids(cell, out)
        } else {
            write_field(&column.ty, cell, formats.of(i), out)
        };
        if let Err(error) = written {
            out.truncate(at - 1);
            return Err(error);
        }
    }
    close(out, at)
}

/// `CopyInResponse` (`G`) or `CopyOutResponse` (`H`): text for all columns.
pub(super) fn copy_response(out: &mut Vec<u8>, tag: u8, columns: usize) {
    message(out, tag, |o| {
        o.push(0);
        o.extend_from_slice(&(columns as u16).to_be_bytes());
        o.resize(o.len() + columns * 2, 0);
    });
}

/// `CopyData` with one line.
///
/// # Errors
/// 54000 for a line that is too large.
pub(super) fn copy_data(out: &mut Vec<u8>, line: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let at = open(out, b'd');
    line(out);
    close(out, at)
}

/// How bad an error is for the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Severity {
    /// The statement ends.
    Error,
    /// The connection ends.
    Fatal,
}

/// An error with the place where data was being read (`COPY t, line 3`).
pub(super) fn error(out: &mut Vec<u8>, severity: Severity, error: &Error, context: Option<&str>) {
    message(out, b'E', |o| {
        let severity = match severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        let mut field = |tag: u8, value: &str| {
            o.push(tag);
            text(o, value);
        };
        field(b'S', severity);
        field(b'V', severity);
        field(b'C', error.kind().sqlstate());
        field(b'M', error.message());
        if let Some(detail) = error.detail_text() {
            field(b'D', detail);
        }
        if let Some(hint) = error.hint_text() {
            field(b'H', hint);
        }
        if let Some(position) = error.position_in_statement() {
            field(b'P', &position.to_string());
        }
        if let Some(context) = context {
            field(b'W', context);
        }
        if let Some(table) = error.table_name() {
            field(b't', table);
        }
        if let Some(constraint) = error.constraint_name() {
            field(b'n', constraint);
        }
        o.push(0);
    });
}

pub(super) fn notice(out: &mut Vec<u8>, notice: &Notice) {
    message(out, b'N', |o| {
        for (tag, value) in
            [(b'S', notice.severity), (b'V', notice.severity), (b'C', notice.sqlstate), (b'M', notice.message.as_str())]
        {
            o.push(tag);
            text(o, value);
        }
        o.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_are_those_of_pg_attribute() {
        let of = |ty: SqlType| SqlType::Array(Box::new(ty));
        for (ty, want) in [
            (SqlType::Int8, (8, -1)),
            (SqlType::Varchar(Some(20)), (-1, 24)),
            (SqlType::Numeric(Some((10, 2))), (-1, (10 << 16 | 2) + 4)),
            (SqlType::Timestamp(None), (8, -1)),
            (SqlType::Timestamp(Some(0)), (8, 0)),
            (SqlType::TimestampTz(Some(3)), (8, 3)),
            (of(SqlType::Time(Some(2))), (-1, 2)),
            (of(SqlType::Text), (-1, -1)),
        ] {
            assert_eq!(size_and_modifier(&ty), want, "{ty}");
        }
    }
}
