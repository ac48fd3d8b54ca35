//! `COPY … TO STDOUT`: rows to lines.

use crate::cells::Cell;
use crate::encode::write_text;
use atoll_model::SqlType;
use atoll_ports::session::{CopyFormat, CopyOptions, ResultColumn};

/// Writes the header line.
pub(crate) fn header(options: &CopyOptions, columns: &[ResultColumn], out: &mut Vec<u8>) {
    let cells = columns.iter().map(|c| Cell::Text(&c.name));
    fields(options, cells.map(|cell| (&SqlType::Text, cell)), out);
}

/// Writes one row.
pub(crate) fn row<'a>(
    options: &CopyOptions,
    columns: &'a [ResultColumn],
    cells: impl Iterator<Item = Cell<'a>>,
    out: &mut Vec<u8>,
) {
    fields(options, columns.iter().map(|c| &c.ty).zip(cells), out);
}

fn fields<'a>(options: &CopyOptions, cells: impl Iterator<Item = (&'a SqlType, Cell<'a>)>, out: &mut Vec<u8>) {
    let line = out.len();
    for (i, (ty, cell)) in cells.enumerate() {
        if i > 0 {
            out.push(options.delimiter);
        }
        if let Cell::Null = cell {
            out.extend_from_slice(options.null.as_bytes());
            continue;
        }
        let at = out.len();
        write_text(ty, cell, out);
        match options.format {
            CopyFormat::Text => escape_text(options, at, out),
            CopyFormat::Csv => quote_csv(options, at, out),
        }
    }
    // Alone on its line it would end the data.
    if options.format == CopyFormat::Csv && out[line..] == *b"\\." {
        out.splice(line.., [options.quote, b'\\', b'.', options.quote]);
    }
    out.push(b'\n');
}

/// Escapes what was written from `at` on, in place where nothing needs it.
fn escape_text(options: &CopyOptions, at: usize, out: &mut Vec<u8>) {
    let special = |b: u8| b == b'\\' || b == options.delimiter || (8..=13).contains(&b);
    if !out[at..].iter().any(|b| special(*b)) {
        return;
    }
    let raw = out.split_off(at);
    for b in raw {
        let letter = match b {
            8 => b'b',
            9 => b't',
            10 => b'n',
            11 => b'v',
            12 => b'f',
            13 => b'r',
            b if special(b) => b,
            b => {
                out.push(b);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', letter]);
    }
}

fn quote_csv(options: &CopyOptions, at: usize, out: &mut Vec<u8>) {
    let field = &out[at..];
    let special = |b: u8| b == options.delimiter || b == options.quote || b == b'\n' || b == b'\r';
    if field != options.null.as_bytes() && !field.iter().any(|b| special(*b)) {
        return;
    }
    let raw = out.split_off(at);
    out.push(options.quote);
    for b in raw {
        if b == options.quote || b == options.escape {
            out.push(options.escape);
        }
        out.push(b);
    }
    out.push(options.quote);
}
