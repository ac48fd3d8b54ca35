//! Scripts in sqllogictest's form, and their runner.
//!
//! A record is a head line, the statement, and for queries `----` and the rows; a blank line ends it. Heads are
//! `statement ok`, `statement count N`, `statement error SQLSTATE`, `query KINDS [rowsort]`, and `run`, which [`Script::bless`] replaces by
//! what PostgreSQL answers. In front of a head, `skipif NAME` and `onlyif NAME` name [layouts](Layout), `connection NAME`
//! names the connection to use. `except NAME...` on a line of its own skips the whole script for these layouts.
//! Values of a row are separated by ` | `; NULL is `NULL`, an empty string `(empty)`.

use crate::compare::{Kind, same_rows, written_row};
use crate::layout::Layout;
use crate::server::Server;
use crate::wire::{Client, Error, Protocol, Reply};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A script.
#[derive(Debug)]
pub struct Script {
    path: PathBuf,
    except: Vec<String>,
    items: Vec<Item>,
}

#[derive(Debug)]
enum Item {
    /// Comments and blank lines, kept when a script is rewritten.
    Other(String),
    Record(Record),
}

#[derive(Debug)]
struct Record {
    line: usize,
    /// `skipif` (false) and `onlyif` (true) with the layout's name.
    conditions: Vec<(bool, String)>,
    connection: Option<String>,
    sql: String,
    expected: Expected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    Unknown,
    Ok,
    Count(u64),
    Error(String),
    Rows { kinds: Vec<Kind>, ordered: bool, rows: Vec<String> },
}

/// A record that was answered otherwise.
#[derive(Debug)]
pub struct Failure {
    /// `file:line`.
    pub place: String,
    /// The statement.
    pub sql: String,
    /// What was expected, and what came.
    pub difference: String,
}

impl Script {
    /// Reads a script.
    ///
    /// # Panics
    /// When it is not a script: the place is in the message.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut script = Script { path: path.to_path_buf(), except: Vec::new(), items: Vec::new() };
        let mut lines = text.lines().enumerate().peekable();
        let (mut conditions, mut connection) = (Vec::new(), None);
        while let Some((at, line)) = lines.next() {
            let place = || format!("{}:{}", path.display(), at + 1);
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["except", names @ ..] => {
                    script.except.extend(names.iter().map(ToString::to_string));
                    script.items.push(Item::Other(line.to_string()));
                    continue;
                }
                ["skipif", name] => {
                    conditions.push((false, (*name).to_string()));
                    continue;
                }
                ["onlyif", name] => {
                    conditions.push((true, (*name).to_string()));
                    continue;
                }
                ["connection", name] => {
                    connection = Some((*name).to_string());
                    continue;
                }
                _ if words.is_empty() || line.starts_with('#') => {
                    script.items.push(Item::Other(line.to_string()));
                    continue;
                }
                _ => {}
            }
            let mut sql = Vec::new();
            while let Some((_, l)) = lines.next_if(|(_, l)| !l.is_empty() && *l != "----") {
                sql.push(l);
            }
            let mut rows = Vec::new();
            if lines.next_if(|(_, l)| *l == "----").is_some() {
                while let Some((_, l)) = lines.next_if(|(_, l)| !l.is_empty()) {
                    rows.push(l.to_string());
                }
            }
            let expected = match words.as_slice() {
                ["run"] => Expected::Unknown,
                ["statement", "ok"] => Expected::Ok,
                ["statement", "count", n] => Expected::Count(n.parse().unwrap_or_else(|_| panic!("{}: {n}", place()))),
                ["statement", "error", sqlstate] => Expected::Error((*sqlstate).to_string()),
                ["query", kinds, sort @ ..] => Expected::Rows {
                    kinds: kinds.chars().filter_map(Kind::from_letter).collect(),
                    ordered: sort.is_empty(),
                    rows,
                },
                _ => panic!("{}: not the head of a record: {line}", place()),
            };
            script.items.push(Item::Record(Record {
                line: at + 1,
                conditions: std::mem::take(&mut conditions),
                connection: connection.take(),
                sql: sql.join("\n"),
                expected,
            }));
        }
        script
    }

    /// Whether the script is meant for a layout.
    pub fn is_for(&self, layout: Layout) -> bool {
        !self.except.iter().any(|name| layout.is_called(name))
    }

    /// Runs the script on an empty server, with sites at `urls`. Returns how many records were run, and the failures.
    pub fn run(
        &self,
        server: &dyn Server,
        layout: Layout,
        protocol: Protocol,
        urls: &[String],
    ) -> (usize, Vec<Failure>) {
        let mut session = Session::new(server, layout, protocol);
        let (mut count, mut failures) = (0, Vec::new());
        let mut fail = |line: usize, sql: &str, difference: String| {
            let file = self.path.file_name().unwrap_or_default().to_string_lossy();
            failures.push(Failure { place: format!("{file}:{line}"), sql: sql.to_string(), difference });
        };
        for sql in layout.preparation(urls) {
            if let Err(e) = session.connection("").and_then(|c| c.query(&sql)) {
                fail(0, &sql, format!("  got: {e}"));
                return (0, failures);
            }
        }
        for record in self.records(layout) {
            count += 1;
            let answer = session.run(record);
            let found = found(&answer, &record.sql);
            if !found.meets(&record.expected) {
                let text = |e: &Expected| format!("{}{}", head(e), body(e, "           "));
                let mut difference = format!("  expected {}\n  got      {}", text(&record.expected), text(&found));
                if let Err(e) = &answer {
                    let _ = write!(difference, "\n           {e}");
                }
                fail(record.line, &record.sql, difference);
            }
            if matches!(answer, Err(Error::Io(_))) {
                // The other records would fail with it, or hang: start anew.
                session.connections.clear();
            }
        }
        (count, failures)
    }

    /// Runs the script on PostgreSQL and rewrites its expectations to what that answers.
    ///
    /// # Panics
    /// When the file cannot be written, or the server is gone.
    pub fn bless(&mut self, server: &dyn Server) {
        let mut session = Session::new(server, Layout::PostgreSql, Protocol::Simple);
        let mut text = String::new();
        for item in &mut self.items {
            match item {
                Item::Other(line) => {
                    let _ = writeln!(text, "{line}");
                }
                Item::Record(record) => {
                    if record.is_for(Layout::PostgreSql) {
                        let answer = session.run(record);
                        assert!(!matches!(answer, Err(Error::Io(_))), "{}: {answer:?}", record.sql);
                        record.expected = found(&answer, &record.sql);
                    }
                    for (only, name) in &record.conditions {
                        let _ = writeln!(text, "{} {name}", if *only { "onlyif" } else { "skipif" });
                    }
                    if let Some(name) = &record.connection {
                        let _ = writeln!(text, "connection {name}");
                    }
                    let _ = writeln!(text, "{}\n{}{}", head(&record.expected), record.sql, body(&record.expected, ""));
                }
            }
        }
        std::fs::write(&self.path, text).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()));
    }

    fn records(&self, layout: Layout) -> impl Iterator<Item = &Record> {
        self.items.iter().filter_map(move |item| match item {
            Item::Record(record) if record.is_for(layout) => Some(record),
            _ => None,
        })
    }
}

impl Record {
    fn is_for(&self, layout: Layout) -> bool {
        self.conditions.iter().all(|(only, name)| layout.is_called(name) == *only)
    }
}

/// The connections of a running script.
struct Session<'a> {
    server: &'a dyn Server,
    layout: Layout,
    protocol: Protocol,
    connections: HashMap<String, Client>,
}

impl<'a> Session<'a> {
    fn new(server: &'a dyn Server, layout: Layout, protocol: Protocol) -> Self {
        Session { server, layout, protocol, connections: HashMap::new() }
    }

    fn connection(&mut self, name: &str) -> Result<&mut Client, Error> {
        if !self.connections.contains_key(name) {
            self.connections.insert(name.to_string(), self.server.connect()?);
        }
        self.connections.get_mut(name).ok_or_else(|| unreachable!("inserted above"))
    }

    fn run(&mut self, record: &Record) -> Result<Reply, Error> {
        let (layout, protocol) = (self.layout, self.protocol);
        let connection = self.connection(record.connection.as_deref().unwrap_or_default())?;
        let mut reply = Reply::default();
        for (n, sql) in layout.rewrite(&record.sql).iter().enumerate() {
            let answer = connection.run(sql, protocol)?;
            // What follows the first statement is the layout's own.
            if n == 0 {
                reply = answer;
            }
        }
        Ok(reply)
    }
}

fn found(answer: &Result<Reply, Error>, sql: &str) -> Expected {
    match answer {
        Err(Error::Io(_)) => Expected::Error("connection lost".to_string()),
        Err(Error::Sql { sqlstate, .. }) => Expected::Error(sqlstate.clone()),
        Ok(reply) => match &reply.columns {
            Some(columns) => Expected::Rows {
                kinds: columns.iter().map(|c| Kind::of(c.type_oid)).collect(),
                ordered: is_ordered(sql),
                rows: {
                    let mut rows: Vec<String> = reply.rows.iter().map(written_row).collect();
                    if !is_ordered(sql) {
                        rows.sort();
                    }
                    rows
                },
            },
            None => {
                let counted = ["INSERT", "UPDATE", "DELETE"].iter().any(|t| reply.tag.starts_with(t));
                match reply.tag.rsplit(' ').next().and_then(|n| n.parse().ok()) {
                    Some(n) if counted => Expected::Count(n),
                    _ => Expected::Ok,
                }
            }
        },
    }
}

/// Whether the statement itself orders its rows: an ORDER BY outside of all parentheses.
fn is_ordered(sql: &str) -> bool {
    let (mut depth, mut quoted, mut outside) = (0, false, String::new());
    for c in sql.chars() {
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ if depth == 0 && !quoted => outside.push(c.to_ascii_uppercase()),
            _ => {}
        }
    }
    let words: Vec<&str> = outside.split_whitespace().collect();
    words.windows(2).any(|w| w == ["ORDER", "BY"]) || words.first() == Some(&"SHOW")
}

impl Expected {
    fn meets(&self, expected: &Expected) -> bool {
        match (self, expected) {
            (
                Expected::Rows { kinds, rows, .. },
                Expected::Rows { kinds: expected_kinds, ordered, rows: expected_rows },
            ) => kinds == expected_kinds && same_rows(kinds, rows, expected_rows, *ordered),
            _ => self == expected,
        }
    }
}

fn head(expected: &Expected) -> String {
    match expected {
        Expected::Unknown => "run".to_string(),
        Expected::Ok => "statement ok".to_string(),
        Expected::Count(n) => format!("statement count {n}"),
        Expected::Error(sqlstate) => format!("statement error {sqlstate}"),
        Expected::Rows { kinds, ordered, .. } => {
            let kinds: String = kinds.iter().map(|k| k.letter()).collect();
            // A row may have no columns at all.
            let kinds = if kinds.is_empty() { "-".to_string() } else { kinds };
            format!("query {kinds}{}", if *ordered { "" } else { " rowsort" })
        }
    }
}

fn body(expected: &Expected, indent: &str) -> String {
    let Expected::Rows { rows, .. } = expected else {
        return String::new();
    };
    let mut text = format!("\n{indent}----");
    for row in rows {
        let _ = write!(text, "\n{indent}{row}");
    }
    text
}

/// All scripts, sorted; `ATOLL_SLT=part-of-a-name` chooses some.
///
/// # Panics
/// When the directory cannot be read.
pub fn scripts() -> Vec<PathBuf> {
    let directory = crate::repository().join("tests/slt");
    let chosen = std::env::var("ATOLL_SLT").unwrap_or_default();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| p.extension().is_some_and(|e| e == "slt") && p.to_string_lossy().contains(&chosen))
        .collect();
    paths.sort();
    paths
}
