//! VERIFY: what the node finds, as rows.
//!
//! Invariant: a result is a row for each finding, and after those of a table one of the kind `summary`; a script that counts the others knows
//! whether all is well.

use super::SqlSession;
use crate::privileges;
use crate::rows::{self, number};
use atoll_model::{Catalog, Error, ErrorKind, Result, Row, SqlType, Value};
use atoll_ports::session::{Execution, ResultColumn};
use atoll_ports::verify::{Finding, Summary, Verified};
use futures::StreamExt as _;

/// Rows of a batch at most: a table's are sent together.
const BATCH: usize = 1024;

/// The kind of the row that sums a table up.
const SUMMARY: &str = "summary";

/// The columns of the result.
pub(crate) fn columns() -> Vec<ResultColumn> {
    let text = |name: &str| ResultColumn::new(name, SqlType::Text);
    vec![
        text("table_name"),
        text("fragment"),
        text("site"),
        text("kind"),
        text("object"),
        ResultColumn::new("rows", SqlType::Int8),
        text("detail"),
    ]
}

impl SqlSession {
    /// Begins to look at tables, in transactions of its own.
    pub(super) fn verify(&mut self, tables: Option<&[String]>, catalog: &Catalog) -> Result<Execution> {
        // Also what came before it in the same message would not be committed yet.
        if self.current.is_explicit() || self.current.txn().is_some() {
            return Err(Error::new(ErrorKind::ActiveTransaction, "VERIFY cannot run inside a transaction block")
                .detail("It looks at what is committed, in transactions of its own."));
        }
        // It shows keys of rows, and keeps others from changing definitions.
        privileges::administrator(catalog, &self.identity().current_user, "verify tables")?;
        for name in tables.unwrap_or_default() {
            if catalog.table(name).is_none() {
                let known = catalog.names.contains_key(name);
                let (kind, what) = match known {
                    true => (ErrorKind::WrongObjectType, "is not a table"),
                    false => (ErrorKind::UndefinedTable, "does not exist"),
                };
                return Err(Error::new(kind, format!("relation \"{name}\" {what}"))
                    .hint("VERIFY takes tables; all fragments of each are looked at."));
            }
        }
        let columns = columns();
        let types: Vec<SqlType> = columns.iter().map(|column| column.ty.clone()).collect();
        let schema = rows::schema_of(columns.iter().map(|column| (column.name.as_str(), &column.ty)));
        let found = self.engine.cluster.verify(tables.map(<[String]>::to_vec)).ready_chunks(BATCH);
        let of = schema.clone();
        let stream = found.map(move |found| {
            let rows: Vec<Row> = found.into_iter().map(|found| found.map(row)).collect::<Result<_>>()?;
            rows::to_batch(&of, &types, &rows)
        });
        Ok(Execution::Batches { columns, schema, stream: self.guard(stream.boxed()), tag: "VERIFY" })
    }
}

fn row(verified: Verified) -> Row {
    let text = |text: Option<String>| text.map_or(Value::Null, Value::Text);
    match verified {
        Verified::Finding(Finding { table, fragment, site, kind, object, rows, detail }) => vec![
            text(table),
            text(fragment),
            Value::Text(site),
            Value::Text(kind.name().into()),
            text(object),
            rows.map_or(Value::Null, number),
            Value::Text(detail),
        ],
        Verified::Table(summary) => vec![
            Value::Text(summary.table.clone()),
            Value::Null,
            Value::Null,
            Value::Text(SUMMARY.into()),
            Value::Null,
            number(summary.compared),
            Value::Text(described(&summary)),
        ],
    }
}

fn described(summary: &Summary) -> String {
    let counted = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    format!(
        "{}, {} looked at, {} compared, {}",
        counted(summary.fragments, "fragment", "fragments"),
        counted(summary.copies, "copy", "copies"),
        counted(summary.compared, "row", "rows"),
        counted(summary.findings, "finding", "findings")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_ports::verify::FindingKind;

    #[test]
    fn rows_have_all_columns() {
        let finding = Finding {
            table: Some("t".into()),
            fragment: Some("t_0".into()),
            site: "a".into(),
            kind: FindingKind::Missing,
            object: Some("(id)=(1)".into()),
            rows: Some(1),
            detail: "in the copy at site \"b\"".into(),
        };
        let summary = Summary { table: "t".into(), fragments: 1, copies: 2, compared: 7, findings: 1 };
        let types: Vec<SqlType> = columns().into_iter().map(|column| column.ty).collect();
        let schema = rows::schema_of(columns().iter().map(|column| (column.name.as_str(), &column.ty)));
        let both = [row(Verified::Finding(finding)), row(Verified::Table(summary))];
        assert_eq!(both[1][6], Value::Text("1 fragment, 2 copies looked at, 7 rows compared, 1 finding".into()));
        assert_eq!(rows::to_batch(&schema, &types, &both).map(|batch| batch.num_rows()).ok(), Some(2));
    }
}
