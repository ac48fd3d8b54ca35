//! Sequences: their own, and those of serial and identity columns.

use super::{Binder, Bound, types};
use atoll_model::{Catalog, CatalogCommand, Error, ErrorKind, NewSequence, Result, SqlType, Value};
use datafusion::sql::sqlparser::ast::{DataType, SequenceOptions};

impl Binder<'_> {
    pub(super) fn create_sequence(
        &self,
        name: &str,
        if_not_exists: bool,
        data_type: Option<&DataType>,
        options: &[SequenceOptions],
    ) -> Result<Bound> {
        if if_not_exists && self.catalog.names.contains_key(name) {
            return Ok(Bound::skipped(
                "CREATE SEQUENCE",
                "42P07",
                format!("relation \"{name}\" already exists, skipping"),
            ));
        }
        let ty = data_type.map(types::sql_type).transpose()?.unwrap_or(SqlType::Int8);
        Ok(Bound::one("CREATE SEQUENCE", CatalogCommand::CreateSequence(define(name.into(), &ty, options)?)))
    }

    pub(super) fn alter_sequence(&self, name: &str, if_exists: bool, restart: Option<Option<i64>>) -> Result<Bound> {
        let Some(sequence) = self.catalog.sequence(name) else {
            if if_exists {
                return Ok(Bound::skipped(
                    "ALTER SEQUENCE",
                    "00000",
                    format!("relation \"{name}\" does not exist, skipping"),
                ));
            }
            return Err(super::undefined_table(name));
        };
        let mut bound = Bound::of("ALTER SEQUENCE");
        if let Some(value) = restart {
            let value = value.unwrap_or(sequence.start);
            if value < sequence.min || value > sequence.max {
                return Err(invalid(format!(
                    "RESTART value ({value}) is outside of the sequence's bounds ({} … {})",
                    sequence.min, sequence.max
                )));
            }
            bound.steps.push(super::Step::Restart { sequence: name.into(), value });
        }
        Ok(bound)
    }
}

/// The sequence behind a serial or identity column, under the name that PostgreSQL gives it.
pub(super) fn owned(
    catalog: &Catalog,
    table: &str,
    column: &str,
    ty: &SqlType,
    options: &[SequenceOptions],
) -> Result<NewSequence> {
    let base = format!("{table}_{column}_seq");
    let name = if catalog.names.contains_key(&base) {
        (1..).map(|n| format!("{base}{n}")).find(|n| !catalog.names.contains_key(n)).unwrap_or(base)
    } else {
        base
    };
    define(name, ty, options)
}

fn define(name: String, ty: &SqlType, options: &[SequenceOptions]) -> Result<NewSequence> {
    let (least, greatest) = match ty {
        SqlType::Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        SqlType::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        SqlType::Int8 => (i64::MIN, i64::MAX),
        _ => return Err(invalid("sequence type must be smallint, integer, or bigint")),
    };
    let mut increment = 1;
    let (mut start, mut min, mut max, mut cycle) = (None, None, None, false);
    for option in options {
        match option {
            SequenceOptions::IncrementBy(n, _) => increment = number(n)?,
            SequenceOptions::MinValue(n) => min = n.as_ref().map(number).transpose()?,
            SequenceOptions::MaxValue(n) => max = n.as_ref().map(number).transpose()?,
            SequenceOptions::StartWith(n, _) => start = Some(number(n)?),
            SequenceOptions::Cache(n) => {
                if number(n)? < 1 {
                    return Err(invalid("CACHE must be greater than zero"));
                }
            }
            SequenceOptions::Cycle(no) => cycle = !*no,
        }
    }
    if increment == 0 {
        return Err(invalid("INCREMENT must not be zero"));
    }
    let min = min.unwrap_or(if increment > 0 { 1 } else { least });
    let max = max.unwrap_or(if increment > 0 { greatest } else { -1 });
    if min < least || max > greatest || min >= max {
        return Err(invalid(format!("MINVALUE ({min}) must be less than MAXVALUE ({max}), both within {ty}")));
    }
    let start = start.unwrap_or(if increment > 0 { min } else { max });
    if start < min {
        return Err(invalid(format!("START value ({start}) cannot be less than MINVALUE ({min})")));
    }
    if start > max {
        return Err(invalid(format!("START value ({start}) cannot be greater than MAXVALUE ({max})")));
    }
    Ok(NewSequence { name, start, increment, min, max, cycle })
}

fn number(expr: &datafusion::sql::sqlparser::ast::Expr) -> Result<i64> {
    let text = expr.to_string().replace(' ', "");
    match atoll_model::text::parse(&SqlType::Int8, &text)? {
        Value::Int8(n) => Ok(n),
        _ => Err(invalid(format!("a number is needed, not {text}"))),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidParameterValue, message.into())
}
