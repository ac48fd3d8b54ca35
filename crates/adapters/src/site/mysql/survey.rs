//! The tables of a database, as the site's own catalog describes them, for adopting many at once.
//!
//! Invariant: what is told of a table is enough to adopt it, or says why that cannot be. Views and tables of other engines than InnoDB are not told.

use super::connection::Flavor;
use super::layout::literal;
use super::link::Link;
use super::types::{self, Declared};
use super::values::{number, string};
use atoll_model::{NewSequence, Result, SqlType};
use atoll_ports::site::{SiteColumn, SiteTable};
use mysql_async::{Row, Value};
use std::collections::BTreeMap;

/// What is asked of each column, from the first place on that [`declared`] reads.
pub(super) const COLUMNS: &str = "COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_MAXIMUM_LENGTH, NUMERIC_PRECISION, \
     NUMERIC_SCALE, CHARACTER_SET_NAME, IS_NULLABLE, COLLATION_NAME, DATETIME_PRECISION, EXTRA";

/// How a column is declared.
pub(super) fn declared(row: &Row) -> Declared {
    Declared {
        base: string(row, 1).to_lowercase(),
        full: string(row, 2).to_lowercase(),
        length: number(row, 3),
        precision: number(row, 4),
        scale: number(row, 5),
        fraction: number(row, 9),
        characters: string(row, 6),
    }
}

/// Whether the server itself fills a column in, or changes it.
pub(super) fn is_made_there(extra: &str) -> bool {
    let extra = extra.to_lowercase();
    // MySQL says `DEFAULT_GENERATED` of a default that is an expression.
    extra.replace("default_generated", "").contains("generated") || extra.contains("on update")
}

/// The tables of a database; `None`: there is no such database.
pub(super) async fn tables(link: &Link, schema: &str) -> Result<Option<Vec<SiteTable>>> {
    let name = literal(schema);
    let known = format!("SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {name}");
    if link.text(&known).await?.is_empty() {
        return Ok(None);
    }
    let those = format!("TABLE_SCHEMA = {name} AND TABLE_TYPE = 'BASE TABLE' AND ENGINE = 'InnoDB'");
    let sql = format!(
        "SELECT {COLUMNS}, c.COLUMN_DEFAULT, t.AUTO_INCREMENT, t.TABLE_NAME \
         FROM (SELECT TABLE_NAME, TABLE_SCHEMA, AUTO_INCREMENT FROM information_schema.TABLES WHERE {those}) t \
         JOIN information_schema.COLUMNS c USING (TABLE_SCHEMA, TABLE_NAME) ORDER BY t.TABLE_NAME, c.ORDINAL_POSITION"
    );
    let mut tables: BTreeMap<String, SiteTable> = BTreeMap::new();
    for row in link.text(&sql).await? {
        let name = string(&row, 13);
        let fresh = || SiteTable { name: name.clone(), columns: vec![], key: None, unique: vec![] };
        tables.entry(name.clone()).or_insert_with(fresh).columns.push(column(&row, link.flavor));
    }
    let sql = format!(
        "SELECT TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART IS NULL AND COLUMN_NAME IS NOT NULL \
         FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = {name} AND NON_UNIQUE = 0 \
         ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
    );
    let mut indexes: BTreeMap<(String, String), Option<Vec<String>>> = BTreeMap::new();
    for row in link.text(&sql).await? {
        let columns = indexes.entry((string(&row, 0), string(&row, 1))).or_insert_with(|| Some(vec![]));
        match columns {
            // A prefix or an expression is no column.
            _ if number(&row, 3) == 0 => *columns = None,
            Some(columns) => columns.push(string(&row, 2)),
            None => {}
        }
    }
    for ((table, index), columns) in indexes {
        let (Some(table), Some(columns)) = (tables.get_mut(&table), columns) else { continue };
        if index == "PRIMARY" {
            table.key = Some(columns);
        } else {
            table.unique.push(columns);
        }
    }
    Ok(Some(tables.into_values().collect()))
}

fn column(row: &Row, flavor: Flavor) -> SiteColumn {
    let (declared, extra) = (declared(row), string(row, 10));
    let ty = types::of_site(&declared);
    let counts = extra.to_lowercase().contains("auto_increment");
    // The next number; a table that has none yet begins with one.
    let start = i64::try_from(number(row, 12)).unwrap_or(i64::MAX).max(1);
    let sequence = counts.then(|| NewSequence {
        name: String::new(),
        start,
        increment: 1,
        min: 1,
        max: match ty {
            Some(SqlType::Int2) => i64::from(i16::MAX),
            Some(SqlType::Int4) => i64::from(i32::MAX),
            _ => i64::MAX,
        },
        cycle: false,
    });
    let default = match row.as_ref(11) {
        Some(Value::Bytes(text)) => default_of(flavor, &ty, &String::from_utf8_lossy(text), &extra),
        _ => None,
    };
    SiteColumn {
        name: string(row, 0),
        ty,
        declared: declared.full,
        not_null: string(row, 7) == "NO",
        default: default.filter(|_| sequence.is_none()),
        sequence,
        problem: is_made_there(&extra).then_some("the site generates its values, or changes them"),
    }
}

/// A default as an expression.
fn default_of(flavor: Flavor, ty: &Option<SqlType>, text: &str, extra: &str) -> Option<String> {
    let is_expression = flavor == Flavor::MariaDb || extra.to_lowercase().contains("default_generated");
    Some(match (ty, text) {
        // MariaDB writes so that there is none.
        (_, "NULL") if is_expression => return None,
        (Some(SqlType::Bool), "0") => "false".into(),
        (Some(SqlType::Bool), "1") => "true".into(),
        // MySQL writes a constant as it is.
        _ if is_expression => text.to_owned(),
        _ => literal(text),
    })
}
