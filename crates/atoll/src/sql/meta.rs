//! Backslash commands. Their questions are plain catalog queries, so they work on any PostgreSQL-compatible server.

use std::io::{self, Write};

use super::print::{Format, Printer, Style};
use super::run::Shell;
use super::{ShellError, script};
use crate::client::{ClientError, quote_literal};

const HELP: &str = "\
\\?              this list
\\q              leave
\\d              tables, views and indexes
\\d NAME         columns, indexes and constraints of a table
\\dt \\dv \\di     tables; views; indexes
\\l              databases
\\i FILE         run a script
\\copy ...       COPY between the server and a file here: \\copy t from 'f.csv' csv header
\\timing         print how long statements take, or stop it
\\x              print each field on a line of its own, or stop it
Statements end with a semicolon and may span lines. Ctrl-C cancels, Tab completes.";

const USER_SCHEMAS: &str =
    "n.nspname NOT IN ('pg_catalog', 'information_schema', 'atoll') AND n.nspname NOT LIKE 'pg_toast%'";

impl Shell {
    /// Runs a backslash command; false if it failed.
    pub async fn meta(&mut self, command: &str) -> Result<bool, ShellError> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let argument = rest.trim().trim_end_matches(';').trim();
        match name {
            "\\q" | "\\quit" => self.quit = true,
            "\\?" | "\\h" => writeln!(self.out, "{HELP}")?,
            "\\timing" => {
                self.timing = !self.timing;
                writeln!(self.out, "Timing is {}.", if self.timing { "on" } else { "off" })?;
            }
            "\\x" => {
                self.style.expanded = !self.style.expanded;
                writeln!(self.out, "Expanded display is {}.", if self.style.expanded { "on" } else { "off" })?;
            }
            "\\copy" => return self.copy(rest).await,
            "\\i" => return self.include(argument.trim_matches('\'')).await,
            "\\l" => {
                return self
                    .show("Databases", "SELECT datname AS \"Name\" FROM pg_catalog.pg_database ORDER BY 1")
                    .await;
            }
            "\\d" if !argument.is_empty() => return self.describe(argument).await,
            "\\d" => return self.relations("'r','p','v','m','i','S'", argument).await,
            "\\dt" => return self.relations("'r','p'", argument).await,
            "\\dv" => return self.relations("'v','m'", argument).await,
            "\\di" => return self.indexes(argument).await,
            _ => {
                self.complain(&format!("invalid command {name}. Try \\? for help."));
                return Ok(false);
            }
        }
        self.out.flush()?;
        Ok(true)
    }

    async fn include(&mut self, path: &str) -> Result<bool, ShellError> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) => {
                self.complain(&format!("{path}: {error}"));
                return Ok(false);
            }
        };
        let (outer, place) = (self.script.replace(path.to_owned()), (self.line, self.copy_lines));
        self.copy_lines = 0;
        let ok = Box::pin(script(self, &mut io::BufReader::new(file))).await;
        (self.script, (self.line, self.copy_lines)) = (outer, place);
        ok
    }

    async fn relations(&mut self, kinds: &str, pattern: &str) -> Result<bool, ShellError> {
        let sql = format!(
            "SELECT n.nspname AS \"Schema\", c.relname AS \"Name\", \
             CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view' \
             WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' WHEN 'S' THEN 'sequence' ELSE 'other' END AS \"Type\" \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ({kinds}) AND {USER_SCHEMAS}{} ORDER BY 1, 2",
            matching(pattern)
        );
        self.show("List of relations", &sql).await
    }

    async fn indexes(&mut self, pattern: &str) -> Result<bool, ShellError> {
        let sql = format!(
            "SELECT n.nspname AS \"Schema\", c.relname AS \"Name\", t.relname AS \"Table\", \
             CASE WHEN i.indisprimary THEN 'primary key' WHEN i.indisunique THEN 'unique' ELSE '' END AS \"Kind\" \
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_class t ON t.oid = i.indrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {USER_SCHEMAS}{} ORDER BY 1, 2",
            matching(pattern)
        );
        self.show("List of indexes", &sql).await
    }

    async fn describe(&mut self, name: &str) -> Result<bool, ShellError> {
        let (schema, table) = match name.split_once('.') {
            Some((schema, table)) => (Some(unquote(schema)), unquote(table)),
            None => (None, unquote(name)),
        };
        let in_schema = schema.map(|s| format!(" AND table_schema = {}", quote_literal(&s))).unwrap_or_default();
        let table = quote_literal(&table);
        let columns = format!(
            "SELECT column_name AS \"Column\", data_type AS \"Type\", \
             CASE is_nullable WHEN 'NO' THEN 'not null' ELSE '' END AS \"Nullable\", column_default AS \"Default\" \
             FROM information_schema.columns WHERE table_name = {table}{in_schema} ORDER BY table_schema, ordinal_position"
        );
        let result = match self.client.query(&columns).await {
            Ok(result) => result,
            Err(ClientError::Server(error)) => {
                self.complain(error.render(&columns).trim_end());
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        if result.rows.is_empty() {
            self.complain(&format!("Did not find any relation named \"{name}\"."));
            return Ok(false);
        }
        self.print_table(&format!("Table \"{name}\""), &result)?;
        let indexes = format!(
            "SELECT c.relname, i.indisprimary, i.indisunique, pg_catalog.pg_get_indexdef(i.indexrelid) \
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_class t ON t.oid = i.indrelid WHERE t.relname = {table} ORDER BY 2 DESC, 1"
        );
        self.list("Indexes:", &indexes, |row| {
            let text = |i| row.get(i).unwrap_or_default().into_owned();
            let definition = text(3);
            let columns = definition.split_once(" USING ").map_or(definition.as_str(), |(_, rest)| rest);
            let kind = match (text(1) == "t", text(2) == "t") {
                (true, _) => "PRIMARY KEY, ",
                (_, true) => "UNIQUE, ",
                _ => "",
            };
            format!("\"{}\" {kind}{columns}", text(0))
        })
        .await?;
        let constraints = format!(
            "SELECT k.conname, pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k \
             JOIN pg_catalog.pg_class t ON t.oid = k.conrelid WHERE t.relname = {table} AND k.contype IN ('c', 'f') ORDER BY 1"
        );
        self.list("Constraints:", &constraints, |row| {
            format!("\"{}\" {}", row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default())
        })
        .await?;
        writeln!(self.out)?;
        self.out.flush()?;
        Ok(true)
    }

    /// Prints a section of `\d NAME`; a server that cannot answer its question leaves the section out.
    async fn list(
        &mut self,
        title: &str,
        sql: &str,
        line: impl Fn(&crate::client::Row) -> String,
    ) -> Result<(), ShellError> {
        match self.client.query(sql).await {
            Ok(result) if !result.rows.is_empty() => {
                writeln!(self.out, "{title}")?;
                for row in &result.rows {
                    writeln!(self.out, "    {}", line(row))?;
                }
                Ok(())
            }
            Ok(_) | Err(ClientError::Server(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn show(&mut self, title: &str, sql: &str) -> Result<bool, ShellError> {
        match self.client.query(sql).await {
            Ok(result) => {
                self.print_table(title, &result)?;
                if self.style.format == Format::Aligned {
                    let n = result.rows.len();
                    writeln!(self.out, "({n} row{})\n", if n == 1 { "" } else { "s" })?;
                }
                self.out.flush()?;
                Ok(true)
            }
            Err(ClientError::Server(error)) => {
                self.complain(error.render(sql).trim_end());
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Prints a catalog result in the shell's form, under a centred title where that is a table.
    fn print_table(&mut self, title: &str, result: &crate::client::QueryResult) -> io::Result<()> {
        let aligned = self.style.format == Format::Aligned;
        let style = Style { expanded: false, tuples_only: false, ..self.style.clone() };
        let mut text = Vec::new();
        let mut printer = Printer::begin(&style, result.columns.clone(), &mut text)?;
        for row in &result.rows {
            printer.row(row, &mut text)?;
        }
        printer.end(&mut text)?;
        if !aligned {
            return self.out.write_all(&text);
        }
        let text = String::from_utf8_lossy(&text);
        let table = text.trim_end().rsplit_once('\n').map_or("", |(table, _count)| table);
        let width = table.lines().map(|l| l.chars().count()).max().unwrap_or(0);
        let indent = width.saturating_sub(title.chars().count()) / 2;
        writeln!(self.out, "{}{title}\n{table}", " ".repeat(indent))
    }
}

/// An identifier as the server keeps it.
fn unquote(name: &str) -> String {
    match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => name.to_lowercase(),
    }
}

/// A condition for psql's patterns: `*` is anything, `?` is one character.
fn matching(pattern: &str) -> String {
    if pattern.is_empty() {
        return String::new();
    }
    let like = pattern.to_lowercase().replace('_', "\\_").replace('%', "\\%").replace('*', "%").replace('?', "_");
    format!(" AND c.relname LIKE {}", quote_literal(&like))
}
