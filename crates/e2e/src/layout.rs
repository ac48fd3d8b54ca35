//! The same tables, laid out differently: a script's plain `CREATE TABLE` statements are rewritten so that its rows lie at one
//! site, at several, or at all of them. The script's answers must not depend on it.
//!
//! A script steers this with a comment in front of a `CREATE TABLE`:
//! `-- layout: list(region: 'a', 'b' | 'c')` names the column and the values of all fragments but the default one,
//! `-- layout: colocate(parent, column)` derives the table's fragmentation, `-- layout: plain` leaves the statement alone.

/// Where the rows of a script's tables lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// PostgreSQL itself.
    PostgreSql,
    /// The one site of a fresh Atoll.
    OneSite,
    /// Six fragments by a hash of the primary key, at three sites.
    Hash,
    /// By lists of values and a default fragment, at three sites.
    List,
    /// By ranges, at three sites.
    Range,
    /// As `Hash`; tables that name a parent are fragmented as it is.
    Colocated,
    /// Copies of every table at three sites.
    Replicated,
    /// As `Colocated`, at databases of two PostgreSQL servers.
    PostgreSqlSites,
    /// As `Colocated`, at databases of two MariaDB servers.
    MariaDbSites,
    /// As `Colocated`, at a PostgreSQL server, a MariaDB server and an embedded site.
    Engines,
}

impl Layout {
    /// All of them.
    pub const ALL: [Layout; 10] = [
        Layout::PostgreSql,
        Layout::OneSite,
        Layout::Hash,
        Layout::List,
        Layout::Range,
        Layout::Colocated,
        Layout::Replicated,
        Layout::PostgreSqlSites,
        Layout::MariaDbSites,
        Layout::Engines,
    ];

    /// Its name in scripts and reports.
    pub fn name(self) -> &'static str {
        match self {
            Layout::PostgreSql => "postgres",
            Layout::OneSite => "one",
            Layout::Hash => "hash",
            Layout::List => "list",
            Layout::Range => "range",
            Layout::Colocated => "colocated",
            Layout::Replicated => "replicated",
            Layout::PostgreSqlSites => "postgres-sites",
            Layout::MariaDbSites => "mariadb-sites",
            Layout::Engines => "engines",
        }
    }

    /// Whether its sites are databases of their own.
    pub fn has_servers(self) -> bool {
        matches!(self, Layout::PostgreSqlSites | Layout::MariaDbSites | Layout::Engines)
    }

    /// Whether a name in a script's condition means this layout: its own, `servers` for those with servers as sites, `mysql` for those
    /// with MariaDB among them, or `atoll` for all but PostgreSQL.
    pub fn is_called(self, name: &str) -> bool {
        name == self.name()
            || (name == "servers" && self.has_servers())
            || (name == "mysql" && matches!(self, Layout::MariaDbSites | Layout::Engines))
            || (name == "atoll" && self != Layout::PostgreSql)
    }

    /// What has to be run first. `urls`: of databases that are the first of the sites; the others are embedded.
    pub fn preparation(self, urls: &[String]) -> Vec<String> {
        if matches!(self, Layout::PostgreSql | Layout::OneSite) {
            return vec![];
        }
        let site = |n: usize| match urls.get(n - 1) {
            Some(url) => {
                let (engine, _) = url.split_once("://").unwrap_or_default();
                format!("CREATE SITE s{n} ENGINE {engine} OPTIONS (url '{url}')")
            }
            None => format!("CREATE SITE s{n} ENGINE embedded"),
        };
        (1..=3).map(site).collect()
    }

    /// The statements to run for one of a script.
    pub fn rewrite(self, sql: &str) -> Vec<String> {
        let plain = || vec![sql.to_string()];
        if matches!(self, Layout::PostgreSql | Layout::OneSite) {
            return plain();
        }
        let directive = Directive::find(sql);
        let Some(table) = CreateTable::parse(sql) else {
            return plain();
        };
        if directive == Some(Directive::Plain) {
            return plain();
        }
        let appended = |clause: &str| vec![format!("{} {clause}", sql.trim_end().trim_end_matches(';'))];
        let hash = || match table.key.as_slice() {
            [] => appended("WITH (fragments = 6, sites = 's1, s2, s3')"),
            key => {
                appended(&format!("PARTITION BY HASH ({}) WITH (fragments = 6, sites = 's1, s2, s3')", key.join(", ")))
            }
        };
        match (self, directive) {
            (Layout::Replicated, _) => appended("WITH (sites = 's1, s2, s3', replication = 'all')"),
            (layout, Some(Directive::Colocate { parent, column })) if layout != Layout::Hash => {
                appended(&format!("WITH (colocate_with = '{parent}', colocate_on = '{column}')"))
            }
            (Layout::List, directive) => {
                let split = match directive {
                    Some(Directive::List { column, values }) => Some((column, values)),
                    _ => table.list(),
                };
                let Some((column, values)) = split else {
                    return hash();
                };
                let mut statements = appended(&format!("PARTITION BY LIST ({column})"));
                for (n, values) in (1..).zip(&values) {
                    statements.push(format!(
                        "CREATE TABLE {0}_p{n} PARTITION OF {0} FOR VALUES IN ({values}) TABLESPACE s{n}",
                        table.name
                    ));
                }
                let last = values.len() + 1;
                statements
                    .push(format!("CREATE TABLE {0}_p{last} PARTITION OF {0} DEFAULT TABLESPACE s{last}", table.name));
                statements
            }
            (Layout::Range, _) => {
                let Some((column, low, high)) = table.range() else {
                    return hash();
                };
                let name = &table.name;
                let part = |n: usize, from: &str, to: &str| {
                    format!(
                        "CREATE TABLE {name}_p{n} PARTITION OF {name} FOR VALUES FROM ({from}) TO ({to}) TABLESPACE s{n}"
                    )
                };
                let mut statements = appended(&format!("PARTITION BY RANGE ({column})"));
                statements.push(part(1, "MINVALUE", low));
                statements.push(part(2, low, high));
                statements.push(format!("CREATE TABLE {name}_p3 PARTITION OF {name} DEFAULT TABLESPACE s3"));
                statements
            }
            _ => hash(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Directive {
    Plain,
    List { column: String, values: Vec<String> },
    Colocate { parent: String, column: String },
}

impl Directive {
    fn find(sql: &str) -> Option<Self> {
        let text = sql.lines().find_map(|l| l.trim().strip_prefix("-- layout:"))?.trim();
        if text == "plain" {
            return Some(Directive::Plain);
        }
        let inside = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        if let Some((column, values)) = inside("list").and_then(|t| t.split_once(':')) {
            let values = values.split('|').map(|v| v.trim().to_string()).collect();
            return Some(Directive::List { column: column.trim().to_string(), values });
        }
        if let Some((parent, column)) = inside("colocate").and_then(|t| t.split_once(',')) {
            return Some(Directive::Colocate { parent: parent.trim().into(), column: column.trim().into() });
        }
        panic!("not a layout that this suite knows: {text}")
    }
}

/// What has to be known of a `CREATE TABLE` to lay it out.
#[derive(Debug, PartialEq, Eq)]
struct CreateTable {
    name: String,
    /// Name and type of each column.
    columns: Vec<(String, String)>,
    key: Vec<String>,
}

impl CreateTable {
    fn parse(sql: &str) -> Option<Self> {
        let text: String = sql.lines().filter(|l| !l.trim_start().starts_with("--")).collect::<Vec<_>>().join(" ");
        let text = text.trim().trim_end_matches(';').trim_end();
        let (head, body) = text.strip_suffix(')')?.split_once('(')?;
        let words: Vec<&str> = head.split_whitespace().collect();
        let name = match words.as_slice() {
            [create, table, name] if is(create, "CREATE") && is(table, "TABLE") => *name,
            [create, table, _if, _not, _exists, name] if is(create, "CREATE") && is(table, "TABLE") => *name,
            _ => return None,
        };
        let (mut columns, mut key) = (Vec::new(), Vec::new());
        for item in top_level_items(body) {
            let upper = item.to_ascii_uppercase();
            let mut words = item.split_whitespace();
            let (first, second) = (words.next()?, words.next().unwrap_or_default());
            if let Some(at) = upper.find("PRIMARY KEY")
                && (is(first, "PRIMARY") || is(first, "CONSTRAINT"))
            {
                let columns = item[at..].split_once('(')?.1.split_once(')')?.0;
                key = columns.split(',').map(|c| c.trim().to_string()).collect();
            } else if ["PRIMARY", "CONSTRAINT", "UNIQUE", "CHECK", "FOREIGN", "LIKE", "EXCLUDE"]
                .iter()
                .any(|w| is(first, w))
            {
            } else {
                if upper.contains("PRIMARY KEY") {
                    key = vec![first.to_string()];
                }
                columns.push((first.to_string(), second.to_ascii_lowercase()));
            }
        }
        Some(CreateTable { name: name.to_string(), columns, key })
    }

    /// The column to split by: the first one of the key, else the first one.
    fn split_column(&self) -> Option<&(String, String)> {
        match self.key.first() {
            Some(name) => self.columns.iter().find(|(n, _)| n == name),
            None => self.columns.first(),
        }
    }

    fn list(&self) -> Option<(String, Vec<String>)> {
        let (name, ty) = self.split_column()?;
        let values: &[&str] = match ty.as_str() {
            "int" | "integer" | "bigint" | "smallint" | "serial" | "bigserial" => &["1, 4, 7, 10", "2, 5, 8, 11"],
            "text" | "varchar" => &["'a', 'b', 'x'", "'c', 'y'"],
            "boolean" | "bool" => &["true", "false"],
            _ => return None,
        };
        Some((name.clone(), values.iter().map(|v| (*v).to_string()).collect()))
    }

    fn range(&self) -> Option<(String, &'static str, &'static str)> {
        let (name, ty) = self.split_column()?;
        let (low, high) = match ty.as_str() {
            "int" | "integer" | "bigint" | "smallint" | "serial" | "bigserial" => ("3", "6"),
            "text" | "varchar" => ("'b'", "'k'"),
            "date" => ("'2024-01-15'", "'2024-03-01'"),
            _ => return None,
        };
        Some((name.clone(), low, high))
    }
}

fn is(word: &str, keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

/// Splits at commas that are in no parentheses and no string.
fn top_level_items(body: &str) -> Vec<String> {
    let (mut items, mut item, mut depth, mut quoted) = (Vec::new(), String::new(), 0, false);
    for c in body.chars() {
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                items.push(std::mem::take(&mut item).trim().to_string());
                continue;
            }
            _ => {}
        }
        item.push(c);
    }
    items.push(item.trim().to_string());
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_in_columns_and_constraints() {
        let t = CreateTable::parse("CREATE TABLE t (a int, b numeric(5,2) DEFAULT 1, PRIMARY KEY (a, b))")
            .expect("a table");
        assert_eq!((t.key, t.columns.len()), (vec!["a".to_string(), "b".to_string()], 2));
        let t = CreateTable::parse("CREATE TABLE t (a text, b int PRIMARY KEY);").expect("a table");
        assert_eq!(t.key, ["b"]);
    }

    #[test]
    fn only_plain_tables_are_rewritten() {
        for sql in ["SELECT 1", "CREATE TABLE t AS SELECT 1 AS a", "CREATE INDEX i ON t (a)"] {
            assert_eq!(Layout::Hash.rewrite(sql), [sql]);
        }
        let sql = "CREATE TABLE t (a int PRIMARY KEY)";
        assert_eq!(Layout::OneSite.rewrite(sql), [sql]);
        assert_eq!(Layout::List.rewrite(sql).len(), 4);
    }
}
