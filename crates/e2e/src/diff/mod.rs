//! The differential test: random tables, random data, random statements, the same on PostgreSQL and on Atoll.
//!
//! Everything follows from a seed (*Massive Stochastic Testing of SQL*, Slutz, VLDB 1998). Statements are made so that their answer
//! is determined: rows are compared without order unless all columns are ordered by, values are such that sums are exact in any
//! order, and nothing depends on which of several matches an update takes.

mod query;
mod schema;
mod write;

use crate::compare::{Kind, same_rows, written_row};
use crate::rng::Rng;
use crate::server::Server;
use crate::wire::{Client, Error, Reply};
use schema::Schema;
use std::fmt;

/// A statement, and its parameters if it is to be sent with the extended protocol.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The text for PostgreSQL.
    pub sql: String,
    /// The statements for Atoll, where they are others: a table with its fragments.
    pub atoll: Option<Vec<String>>,
    /// The parameters' text.
    pub parameters: Option<Vec<Option<String>>>,
    /// Whether the order of the rows is determined.
    pub ordered: bool,
}

impl Statement {
    fn plain(sql: impl Into<String>) -> Self {
        Statement { sql: sql.into(), atoll: None, parameters: None, ordered: false }
    }

    fn run(&self, client: &mut Client, dialect: Dialect) -> Result<Reply, Error> {
        match (&self.parameters, &self.atoll, dialect) {
            (Some(parameters), ..) => {
                let parameters: Vec<Option<&str>> = parameters.iter().map(Option::as_deref).collect();
                client.execute(&self.sql, &parameters)
            }
            (None, Some(statements), Dialect::Atoll) => {
                statements.iter().try_fold(Reply::default(), |_, sql| client.query(sql))
            }
            _ => client.query(&self.sql),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.atoll {
            Some(statements) => write!(f, "{};", statements.join(";\n"))?,
            None => write!(f, "{};", self.sql)?,
        }
        match &self.parameters {
            Some(parameters) => write!(f, " -- with {parameters:?}"),
            None => Ok(()),
        }
    }
}

/// Whose statements a server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Without fragments.
    PostgreSql,
    /// With them.
    Atoll,
}

/// The tables of any program, children last.
const TABLES: [&str; 3] = ["t0", "t1", "t2"];

/// What is run for a seed.
#[derive(Clone, Debug)]
pub struct Program {
    /// All of it, tables and first rows included.
    pub statements: Vec<Statement>,
}

impl Program {
    /// The program of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let schema = Schema::random(&mut rng);
        let mut statements = schema.create(&mut rng);
        for table in 0..schema.tables.len() {
            // One row that is refused takes the others of its statement with it.
            let (times, rows) = if schema.tables[table].anchored { (20, 1) } else { (rng.between(1, 3), 12) };
            for _ in 0..times {
                statements.push(write::insert(&mut rng, &schema, table, rows));
            }
        }
        let mut open = false;
        for _ in 0..40 {
            match rng.below(100) {
                0..=59 => statements.push(query::query(&mut rng, &schema)),
                60..=89 => statements.push(write::write(&mut rng, &schema)),
                _ => statements.extend(write::control(&mut rng, &mut open)),
            }
        }
        if open {
            statements.push(Statement::plain("COMMIT"));
        }
        // What is left behind must be the same, too.
        statements.extend(schema.tables.iter().map(|t| Statement::plain(format!("SELECT * FROM {}", t.name))));
        Program { statements }
    }
}

/// Where the two servers differ.
#[derive(Debug)]
pub struct Difference {
    /// Which statement.
    pub at: usize,
    /// What each of them answered.
    pub text: String,
}

/// What a run without a difference did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Statements that both answered in the same way.
    pub same: usize,
    /// Of them, refused by both.
    pub failed: usize,
    /// Statements that Atoll refuses as not supported (0A000), which PostgreSQL was not asked then.
    pub unsupported: usize,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: Tally) {
        self.same += other.same;
        self.failed += other.failed;
        self.unsupported += other.unsupported;
    }
}

/// The two servers.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// The original.
    pub original: &'a dyn Server,
    /// The one under test.
    pub tested: &'a dyn Server,
    /// What the one under test takes.
    pub dialect: Dialect,
}

impl fmt::Debug for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.original.url(), self.tested.url())
    }
}

impl Pair<'_> {
    /// Runs a program on both; an earlier one's tables are removed before, its own ones stay.
    ///
    /// # Errors
    /// The first difference.
    pub fn run(&self, program: &Program) -> Result<Tally, Difference> {
        let connect = |server: &dyn Server, name: &str| {
            server.connect().map_err(|e| Difference { at: 0, text: format!("{name} does not answer: {e}") })
        };
        let mut original = connect(self.original, "PostgreSQL")?;
        let mut tested = connect(self.tested, "Atoll")?;
        for client in [&mut original, &mut tested] {
            // Children first: a co-located table depends on its parent.
            for table in TABLES.iter().rev() {
                client
                    .query(&format!("DROP TABLE IF EXISTS {table}"))
                    .map_err(|e| Difference { at: 0, text: format!("DROP TABLE {table}: {e}") })?;
            }
        }
        let trace = std::env::var_os("ATOLL_DIFF_TRACE").is_some();
        let mut tally = Tally::default();
        for (at, statement) in program.statements.iter().enumerate() {
            let found = statement.run(&mut tested, self.dialect);
            if let Err(Error::Sql { sqlstate, .. }) = &found
                && sqlstate == "0A000"
            {
                tally.unsupported += 1;
                if tested.transaction_status() == 'E' {
                    let _ = (tested.query("ROLLBACK"), original.query("ROLLBACK"));
                }
                continue;
            }
            let expected = statement.run(&mut original, Dialect::PostgreSql);
            if trace {
                println!("{statement}\n-- {}", expected.as_ref().map_or_else(ToString::to_string, |r| r.tag.clone()));
            }
            if let Some(text) = difference(&expected, &found, statement.ordered) {
                return Err(Difference { at, text });
            }
            tally.same += 1;
            tally.failed += usize::from(expected.is_err());
        }
        Ok(tally)
    }

    /// Removes statements for as long as a difference remains, in a bounded number of runs.
    pub fn shrink(&self, program: &Program, difference: Difference) -> (Program, Difference) {
        let (mut best, mut difference) = (program.clone(), difference);
        best.statements.truncate(difference.at + 1);
        let (mut runs, mut chunk) = (120, best.statements.len() / 2);
        while chunk > 0 {
            let mut from = 0;
            // The last statement shows the difference.
            while from + chunk < best.statements.len() && runs > 0 {
                runs -= 1;
                let mut candidate = best.clone();
                candidate.statements.drain(from..from + chunk);
                match self.run(&candidate) {
                    // Not another difference that was made by removing too much, such as a table.
                    Err(d) if d.at + 1 == candidate.statements.len() && !d.text.contains("42P01") => {
                        (best, difference) = (candidate, d);
                    }
                    _ => from += chunk,
                }
            }
            chunk /= 2;
        }
        (best, difference)
    }
}

fn difference(expected: &Result<Reply, Error>, found: &Result<Reply, Error>, ordered: bool) -> Option<String> {
    let text = |answer: &Result<Reply, Error>| match answer {
        Err(e) => format!("  {e}"),
        Ok(reply) => {
            let mut rows: Vec<String> = reply.rows.iter().map(written_row).collect();
            if !ordered {
                rows.sort();
            }
            let (n, more) = (rows.len(), if rows.len() > 40 { "\n  ..." } else { "" });
            rows.truncate(40);
            let kinds: String = reply.columns.iter().flatten().map(|c| Kind::of(c.type_oid).letter()).collect();
            format!("  {} ({n} rows of {kinds})\n  {}{more}", reply.tag, rows.join("\n  "))
        }
    };
    let same = match (expected, found) {
        // The class says what kind of a mistake it is; the servers may check in another order within it.
        (Err(Error::Sql { sqlstate: a, .. }), Err(Error::Sql { sqlstate: b, .. })) => a.get(..2) == b.get(..2),
        (Ok(a), Ok(b)) => {
            let columns = |r: &Reply| r.columns.as_ref().map(Vec::len);
            // Integers are compared as numbers like the others: whether a sum is a bigint or a numeric is the scripts' business.
            let kinds: Vec<Kind> = (a.columns.iter().flatten())
                .map(|c| if Kind::of(c.type_oid) == Kind::Text { Kind::Text } else { Kind::Real })
                .collect();
            let rows = |r: &Reply| r.rows.iter().map(written_row).collect::<Vec<_>>();
            a.tag == b.tag && columns(a) == columns(b) && same_rows(&kinds, &rows(a), &rows(b), ordered)
        }
        _ => false,
    };
    (!same).then(|| format!("PostgreSQL:\n{}\nAtoll:\n{}", text(expected), text(found)))
}
