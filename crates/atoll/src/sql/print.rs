//! Prints results: aligned as psql does, or as CSV, JSON or unaligned text.
//!
//! Invariant: memory is bounded. Aligned tables measure their columns on the first [`MEASURED`] rows and stream the
//! rest with those widths; the other forms stream from the first row.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use crate::client::{Column, Row};

/// Rows that an aligned table measures before it prints the first.
const MEASURED: usize = 20_000;

/// The form of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Tables for people
    Aligned,
    /// Comma-separated values with a header
    Csv,
    /// An array of objects for each result
    Json,
    /// Fields separated by `|`
    Unaligned,
}

/// How results are printed.
#[derive(Clone, Debug)]
pub struct Style {
    /// The form.
    pub format: Format,
    /// One line for each field, in aligned and unaligned form.
    pub expanded: bool,
    /// Rows alone: no header, no count.
    pub tuples_only: bool,
    /// What stands for NULL in aligned and unaligned form.
    pub null: String,
}

/// Prints one result.
pub struct Printer<'a> {
    style: &'a Style,
    columns: Vec<Column>,
    waiting: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
    rows: u64,
}

impl<'a> Printer<'a> {
    /// Begins a result.
    pub fn begin(style: &'a Style, columns: Vec<Column>, out: &mut dyn Write) -> io::Result<Self> {
        match style.format {
            Format::Csv if !style.tuples_only => csv_line(out, columns.iter().map(|c| c.name.as_str()))?,
            Format::Unaligned if !style.tuples_only && !style.expanded => {
                let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
                writeln!(out, "{}", names.join("|"))?;
            }
            Format::Json => out.write_all(b"[")?,
            _ => {}
        }
        Ok(Self { style, columns, waiting: Vec::new(), widths: None, rows: 0 })
    }

    /// Takes one row.
    pub fn row(&mut self, row: &Row, out: &mut dyn Write) -> io::Result<()> {
        self.rows += 1;
        if self.style.format == Format::Json {
            return self.json_row(row, out);
        }
        let null = if self.style.format == Format::Csv { "" } else { self.style.null.as_str() };
        let cells: Vec<String> =
            (0..row.len()).map(|i| row.get(i).map_or_else(|| null.to_owned(), |v| v.into_owned())).collect();
        match self.style.format {
            Format::Csv => csv_line(out, cells.iter().map(String::as_str)),
            Format::Unaligned if self.style.expanded => {
                if self.rows > 1 {
                    writeln!(out)?;
                }
                self.columns.iter().zip(&cells).try_for_each(|(c, v)| writeln!(out, "{}|{v}", c.name))
            }
            Format::Unaligned => writeln!(out, "{}", cells.join("|")),
            _ if self.style.expanded => self.expanded_row(&cells, out),
            _ if self.widths.is_some() => self.aligned_row(&cells, out),
            _ => {
                self.waiting.push(cells);
                if self.waiting.len() >= MEASURED { self.release(out) } else { Ok(()) }
            }
        }
    }

    /// Ends the result.
    pub fn end(mut self, out: &mut dyn Write) -> io::Result<()> {
        match self.style.format {
            Format::Json => return writeln!(out, "{}]", if self.rows > 0 { "\n" } else { "" }),
            Format::Aligned if !self.style.expanded && self.widths.is_none() => self.release(out)?,
            _ => {}
        }
        if self.style.tuples_only || self.style.format == Format::Csv {
            return Ok(());
        }
        if !self.style.expanded {
            writeln!(out, "({} row{})", self.rows, if self.rows == 1 { "" } else { "s" })?;
        } else if self.rows == 0 {
            writeln!(out, "(0 rows)")?;
        }
        if self.style.format == Format::Aligned { writeln!(out) } else { Ok(()) }
    }

    /// Fixes the widths, and prints the header and the rows that have waited for it.
    fn release(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut widths: Vec<usize> = self.columns.iter().map(|c| c.name.width()).collect();
        for cells in &self.waiting {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = cell.split('\n').map(|l| shown(l).width()).max().unwrap_or(0).max(*width);
            }
        }
        if !self.style.tuples_only {
            let mut line = String::new();
            for (i, (column, width)) in self.columns.iter().zip(&widths).enumerate() {
                line.push_str(if i > 0 { "|" } else { "" });
                let room = width - column.name.width();
                line.push_str(&format!(" {}{}{} ", " ".repeat(room / 2), column.name, " ".repeat(room - room / 2)));
            }
            writeln!(out, "{line}")?;
            let rules: Vec<String> = widths.iter().map(|w| "-".repeat(w + 2)).collect();
            writeln!(out, "{}", rules.join("+"))?;
        }
        self.widths = Some(widths);
        for cells in std::mem::take(&mut self.waiting) {
            self.aligned_row(&cells, out)?;
        }
        Ok(())
    }

    fn aligned_row(&self, cells: &[String], out: &mut dyn Write) -> io::Result<()> {
        let widths = self.widths.as_deref().unwrap_or_default();
        let lines: Vec<Vec<&str>> = cells.iter().map(|c| c.split('\n').collect()).collect();
        let height = lines.iter().map(Vec::len).max().unwrap_or(1);
        for y in 0..height {
            let mut text = String::new();
            for (i, cell) in lines.iter().enumerate() {
                let piece = shown(cell.get(y).copied().unwrap_or(""));
                let more = y + 1 < cell.len();
                let pad = " ".repeat(widths.get(i).copied().unwrap_or(0).saturating_sub(piece.width()));
                text.push_str(if i > 0 { "| " } else { " " });
                if self.columns.get(i).is_some_and(Column::is_numeric) {
                    text.push_str(&pad);
                    text.push_str(&piece);
                } else {
                    text.push_str(&piece);
                    text.push_str(&pad);
                }
                text.push(if more { '+' } else { ' ' });
            }
            writeln!(out, "{}", text.trim_end_matches(' '))?;
        }
        Ok(())
    }

    fn expanded_row(&self, cells: &[String], out: &mut dyn Write) -> io::Result<()> {
        let name = self.columns.iter().map(|c| c.name.width()).max().unwrap_or(0);
        let value = cells.iter().flat_map(|c| c.split('\n')).map(|l| shown(l).width()).max().unwrap_or(0).min(100);
        if !self.style.tuples_only {
            let title = format!("-[ RECORD {} ]", self.rows);
            let rule = (name + 3 + value).saturating_sub(title.width());
            writeln!(out, "{title}{}", "-".repeat(rule))?;
        } else if self.rows > 1 {
            writeln!(out)?;
        }
        for (column, cell) in self.columns.iter().zip(cells) {
            for (y, piece) in cell.split('\n').enumerate() {
                let head = if y == 0 { column.name.as_str() } else { "" };
                let line = format!("{head}{} | {}", " ".repeat(name - head.width()), shown(piece));
                writeln!(out, "{}", line.trim_end())?;
            }
        }
        Ok(())
    }

    fn json_row(&self, row: &Row, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(if self.rows > 1 { b",\n " } else { b"\n " })?;
        let mut first = true;
        out.write_all(b"{")?;
        for (i, column) in self.columns.iter().enumerate() {
            if !std::mem::take(&mut first) {
                out.write_all(b", ")?;
            }
            write!(out, "{}: ", serde_json::Value::from(column.name.as_str()))?;
            match row.get(i) {
                None => out.write_all(b"null")?,
                Some(v) => write!(out, "{}", json_value(column, &v))?,
            }
        }
        out.write_all(b"}")
    }
}

/// A value as JSON: numbers, booleans and JSON as themselves, all else as text.
fn json_value(column: &Column, text: &str) -> String {
    let as_is = match column.type_oid {
        16 => {
            return if text == "t" || text == "true" { "true".into() } else { "false".into() };
        }
        114 | 3802 => serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(),
        // NaN and Infinity are numbers to PostgreSQL, but not to JSON.
        _ => column.is_numeric() && serde_json::from_str::<serde_json::Number>(text).is_ok(),
    };
    if as_is { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

fn csv_line<'b>(out: &mut dyn Write, cells: impl Iterator<Item = &'b str>) -> io::Result<()> {
    for (i, cell) in cells.enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        if cell.contains(['"', ',', '\n', '\r']) || cell == "\\." {
            write!(out, "\"{}\"", cell.replace('"', "\"\""))?;
        } else {
            out.write_all(cell.as_bytes())?;
        }
    }
    writeln!(out)
}

/// `line` with the characters that would move a terminal's cursor made visible.
fn shown(line: &str) -> std::borrow::Cow<'_, str> {
    if !line.contains(|c: char| c.is_control()) {
        return line.into();
    }
    let mut out = String::with_capacity(line.len() + 8);
    for c in line.chars() {
        match c {
            '\t' => out.push_str("    "),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\x{:02X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.into()
}
