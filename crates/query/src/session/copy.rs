//! COPY: options and columns; the bytes are the entrance's.

use super::bound::{Bound, columns_of};
use super::{SqlSession, names};
use crate::dml;
use crate::dml::copy::CopySink;
use crate::pg::parse::Statement;
use crate::rows;
use crate::syntax::fold;
use atoll_model::{Error, ErrorKind, Result, Value};
use atoll_ports::cluster::{TableLock, Transaction};
use atoll_ports::session::{CopyFormat, CopyIn, CopyOptions, Execution, ResultColumn};
use datafusion::sql::sqlparser::ast::{
    CopyLegacyCsvOption, CopyLegacyOption, CopyOption, CopySource, CopyTarget, Statement as Ast,
};
use std::sync::Arc;

impl SqlSession {
    pub(super) async fn copy(
        &mut self,
        txn: &Arc<dyn Transaction>,
        bound: &Arc<Bound>,
        values: Vec<Value>,
    ) -> Result<Execution> {
        let Statement::Sql(ast) = bound.statement.as_ref() else { return Err(Error::internal("not a COPY")) };
        let Ast::Copy { source, to, target, options, legacy_options, .. } = ast.as_ref() else {
            return Err(Error::internal("not a COPY"));
        };
        if !matches!(target, CopyTarget::Stdin | CopyTarget::Stdout) {
            return Err(Error::unsupported("COPY with a file or program of the server")
                .hint("Use COPY … FROM STDIN / TO STDOUT (psql's \\copy), or `atoll load`."));
        }
        let options = copy_options(options, legacy_options)?;
        let cx = self.context(txn, bound, values)?;
        if *to {
            let sql = match source {
                CopySource::Query(query) => query.to_string(),
                CopySource::Table { table_name, columns } if columns.is_empty() => {
                    format!("SELECT * FROM {table_name}")
                }
                CopySource::Table { table_name, columns } => {
                    let names: Vec<String> = columns.iter().map(ToString::to_string).collect();
                    format!("SELECT {} FROM {table_name}", names.join(", "))
                }
            };
            let plan = super::context::plan(&cx.state, crate::session::sql::parse_one(&sql)?).await?;
            let plan = cx.engine.optimize(&cx.state, &plan)?;
            let (schema, stream) = cx.execute(&plan).await?;
            return Ok(Execution::CopyOut {
                options,
                columns: columns_of(&schema)?,
                schema,
                stream: self.guard(stream),
            });
        }
        let CopySource::Table { table_name, columns } = source else {
            return Err(Error::new(ErrorKind::Syntax, "COPY of a query goes TO STDOUT only"));
        };
        let table = dml::target(&txn.catalog(), table_name)?;
        txn.lock_table(&table, TableLock::Write).await?;
        let positions: Vec<usize> = if columns.is_empty() {
            (0..table.columns.len()).filter(|p| !table.columns[*p].hidden).collect()
        } else {
            columns.iter().map(|c| dml::column_position(&table, c)).collect::<Result<_>>()?
        };
        for (i, at) in positions.iter().enumerate() {
            if positions[..i].contains(at) {
                return Err(Error::new(
                    ErrorKind::DuplicateColumn,
                    format!("column \"{}\" specified more than once", table.columns[*at].name),
                ));
            }
        }
        let chosen: Vec<_> = positions.iter().map(|p| &table.columns[*p]).collect();
        let schema = rows::schema_of(chosen.iter().map(|c| (c.name.as_str(), &c.ty)));
        let result = chosen.iter().map(|c| ResultColumn::new(c.name.clone(), c.ty.clone())).collect();
        Ok(Execution::CopyIn(Box::new(CopyIn {
            options,
            table: names::relation(table_name)?,
            columns: result,
            schema,
            sink: Box::new(CopySink::new(cx, table, positions)),
        })))
    }
}

fn copy_options(options: &[CopyOption], legacy: &[CopyLegacyOption]) -> Result<CopyOptions> {
    let csv = options.iter().any(|o| matches!(o, CopyOption::Format(f) if fold(f) == "csv"))
        || legacy.iter().any(|o| matches!(o, CopyLegacyOption::Csv(_)));
    let mut out = CopyOptions {
        format: if csv { CopyFormat::Csv } else { CopyFormat::Text },
        delimiter: if csv { b',' } else { b'\t' },
        null: if csv { String::new() } else { "\\N".into() },
        header: false,
        quote: b'"',
        escape: b'"',
    };
    let mut escape = None;
    let byte = |c: char, what: &str| {
        u8::try_from(c).ok().filter(u8::is_ascii).ok_or_else(|| {
            Error::new(ErrorKind::NotSupported, format!("COPY {what} must be a single one-byte character"))
        })
    };
    for option in options {
        match option {
            CopyOption::Format(f) => match fold(f).as_str() {
                "csv" | "text" => {}
                "binary" => {
                    return Err(Error::unsupported("COPY in binary format").hint("Use the text or csv format."));
                }
                other => {
                    return Err(Error::new(
                        ErrorKind::InvalidParameterValue,
                        format!("COPY format \"{other}\" not recognized"),
                    ));
                }
            },
            CopyOption::Freeze(_) => {}
            CopyOption::Delimiter(c) => out.delimiter = byte(*c, "delimiter")?,
            CopyOption::Null(n) => out.null = n.clone(),
            CopyOption::Header(h) => out.header = *h,
            CopyOption::Quote(c) => out.quote = byte(*c, "quote")?,
            CopyOption::Escape(c) => escape = Some(byte(*c, "escape")?),
            CopyOption::Encoding(e) if e.to_lowercase().replace(['-', '_'], "") == "utf8" => {}
            other => return Err(Error::unsupported(format!("COPY option {other}"))),
        }
    }
    for option in legacy {
        match option {
            CopyLegacyOption::Delimiter(c) => out.delimiter = byte(*c, "delimiter")?,
            CopyLegacyOption::Null(n) => out.null = n.clone(),
            CopyLegacyOption::Header => out.header = true,
            CopyLegacyOption::Csv(csv) => {
                for option in csv {
                    match option {
                        CopyLegacyCsvOption::Header => out.header = true,
                        CopyLegacyCsvOption::Quote(c) => out.quote = byte(*c, "quote")?,
                        CopyLegacyCsvOption::Escape(c) => escape = Some(byte(*c, "escape")?),
                        other => return Err(Error::unsupported(format!("COPY option {other}"))),
                    }
                }
            }
            other => return Err(Error::unsupported(format!("COPY option {other}"))),
        }
    }
    out.escape = escape.unwrap_or(out.quote);
    Ok(out)
}
