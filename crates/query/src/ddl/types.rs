//! Type names of SQL to [`SqlType`].
//!
//! Invariant: a name means what it means in PostgreSQL, or is refused; nothing is taken for a near relative.

use crate::pg::parse::Statement;
use crate::syntax;
use atoll_model::{Error, ErrorKind, MAX_SECOND_DIGITS, Result, SqlType};
use datafusion::sql::sqlparser::ast::{
    AlterTableOperation, ArrayElemTypeDef, DataType, ExactNumberInfo, Expr, Statement as Ast, TimezoneInfo, TypedString,
};
use std::ops::ControlFlow;

/// Most digits that a `numeric` carries.
const MAX_PRECISION: u8 = 38;

/// The type that a name stands for, anywhere (columns are stricter: [`column_type`]).
///
/// # Errors
/// `UndefinedObject`; `InvalidParameterValue` for bad modifiers; `NotSupported`.
pub fn sql_type(name: &DataType) -> Result<SqlType> {
    let unknown = || {
        Error::new(ErrorKind::UndefinedObject, format!("type \"{}\" does not exist", name.to_string().to_lowercase()))
    };
    let ty = match name {
        DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)) => match sql_type(item)? {
            // PostgreSQL does not tell `int[]` from `int[][]` either; one dimension is what is carried.
            SqlType::Array(_) => return Err(Error::unsupported("arrays of more than one dimension are not supported")),
            item => SqlType::Array(Box::new(item)),
        },
        DataType::Float(ExactNumberInfo::Precision(p)) => match p {
            1..=24 => SqlType::Float4,
            25..=53 => SqlType::Float8,
            _ => return Err(invalid("precision for type float must be between 1 and 53 bits")),
        },
        DataType::Numeric(ExactNumberInfo::PrecisionAndScale(p, s))
        | DataType::Decimal(ExactNumberInfo::PrecisionAndScale(p, s))
        | DataType::Dec(ExactNumberInfo::PrecisionAndScale(p, s)) => numeric(*p, *s)?,
        DataType::Numeric(ExactNumberInfo::Precision(p))
        | DataType::Decimal(ExactNumberInfo::Precision(p))
        | DataType::Dec(ExactNumberInfo::Precision(p)) => numeric(*p, 0)?,
        DataType::Dec(ExactNumberInfo::None) => SqlType::Numeric(None),
        DataType::Custom(path, modifiers) => {
            let last = path.0.last().map(ToString::to_string).unwrap_or_default().replace('"', "").to_lowercase();
            let text = if modifiers.is_empty() { last.clone() } else { format!("{last}({})", modifiers.join(",")) };
            if last == "oid" {
                return Ok(SqlType::Int8);
            }
            SqlType::parse(&text).ok_or_else(unknown)?
        }
        DataType::Int(Some(_))
        | DataType::Integer(Some(_))
        | DataType::BigInt(Some(_))
        | DataType::SmallInt(Some(_)) => {
            return Err(Error::new(ErrorKind::Syntax, format!("type modifier is not allowed for type \"{name}\"")));
        }
        other => SqlType::parse(&other.to_string()).ok_or_else(unknown)?,
    };
    match ty {
        SqlType::Varchar(Some(0)) | SqlType::Char(0) => Err(invalid("length for type varchar must be at least 1")),
        SqlType::Varchar(Some(n)) | SqlType::Char(n) if n > 10_485_760 => {
            Err(invalid("length for type varchar cannot exceed 10485760"))
        }
        ty => Ok(ty),
    }
}

/// The type of a table's column.
///
/// # Errors
/// As [`sql_type`]; `NotSupported` for types that tables cannot hold.
pub fn column_type(name: &DataType) -> Result<SqlType> {
    let ty = sql_type(name)?;
    let item = match &ty {
        SqlType::Array(item) => item.as_ref(),
        ty => ty,
    };
    if *item == SqlType::Interval {
        return Err(Error::unsupported("columns of type interval are not supported")
            .hint("Keep seconds in a numeric or bigint column, and multiply by interval '1 second' in queries."));
    }
    Ok(ty)
}

fn numeric(precision: u64, scale: i64) -> Result<SqlType> {
    if !(1..=1000).contains(&precision) {
        return Err(invalid(format!("NUMERIC precision {precision} must be between 1 and 1000")));
    }
    let (Ok(p), Ok(s)) = (u8::try_from(precision), i8::try_from(scale)) else {
        return Err(Error::unsupported(format!("numeric of more than {MAX_PRECISION} digits is not supported")));
    };
    if p > MAX_PRECISION {
        return Err(Error::unsupported(format!("numeric of more than {MAX_PRECISION} digits is not supported")));
    }
    if s < 0 || s.unsigned_abs() > p {
        return Err(invalid(format!("NUMERIC scale {scale} must be between 0 and precision {precision}")));
    }
    Ok(SqlType::Numeric(Some((p, s))))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidParameterValue, message.into())
}

/// Types named in a statement that want more digits of a second than there are, as the warnings about them name them.
pub fn reduced_digits(statement: &Statement) -> Vec<String> {
    let mut found = vec![];
    let mut look = |name: &DataType| found.extend(reduced(name));
    match statement {
        Statement::CreateTable(create) => create.columns.iter().for_each(|c| look(&c.data_type)),
        Statement::Sql(ast) => {
            if let Ast::AlterTable(alter) = ast.as_ref() {
                for operation in &alter.operations {
                    if let AlterTableOperation::AddColumn { column_def, .. } = operation {
                        look(&column_def.data_type);
                    }
                }
            }
            let _ = syntax::expressions(ast.as_ref(), |e| {
                if let Expr::Cast { data_type, .. } | Expr::TypedString(TypedString { data_type, .. }) = e {
                    look(data_type);
                }
                ControlFlow::Continue(())
            });
        }
        _ => {}
    }
    found
}

fn reduced(name: &DataType) -> Option<String> {
    match name {
        DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)) => reduced(item),
        DataType::Time(Some(p), _) if *p > MAX_SECOND_DIGITS.into() => Some(format!("TIME({p})")),
        DataType::Timestamp(Some(p), tz) if *p > MAX_SECOND_DIGITS.into() => Some(match tz {
            TimezoneInfo::Tz | TimezoneInfo::WithTimeZone => format!("TIMESTAMP({p}) WITH TIME ZONE"),
            TimezoneInfo::None | TimezoneInfo::WithoutTimeZone => format!("TIMESTAMP({p})"),
        }),
        _ => None,
    }
}

/// The integer type behind `smallserial`, `serial` and `bigserial`.
pub fn serial(name: &DataType) -> Option<SqlType> {
    let DataType::Custom(path, modifiers) = name else { return None };
    if path.0.len() != 1 || !modifiers.is_empty() {
        return None;
    }
    Some(match path.to_string().to_lowercase().as_str() {
        "smallserial" | "serial2" => SqlType::Int2,
        "serial" | "serial4" => SqlType::Int4,
        "bigserial" | "serial8" => SqlType::Int8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::parse;

    fn reduced(sql: &str) -> Result<Vec<String>> {
        Ok(parse::parse(sql)?.iter().flat_map(|item| reduced_digits(&item.statement)).collect())
    }

    #[test]
    fn digits_that_there_are_not_are_told() -> Result<()> {
        assert_eq!(reduced("SELECT 1::timestamp(6), time(0) '1:00' FROM t")?, Vec::<String>::new());
        assert_eq!(
            reduced("CREATE TABLE t (a timestamp(7), b time(9)[], c timestamptz(6))")?,
            ["TIMESTAMP(7)", "TIME(9)"]
        );
        assert_eq!(reduced("ALTER TABLE t ADD COLUMN a timestamptz(8)")?, ["TIMESTAMP(8) WITH TIME ZONE"]);
        assert_eq!(
            reduced("SELECT a::timestamp(7) FROM t WHERE b > timestamp(8) with time zone '2024-01-01'")?,
            ["TIMESTAMP(7)", "TIMESTAMP(8) WITH TIME ZONE"]
        );
        Ok(())
    }

    #[test]
    fn times_have_at_most_six_digits() -> Result<()> {
        for (name, ty) in [
            ("timestamp(0)", SqlType::Timestamp(Some(0))),
            ("timestamp(3) with time zone", SqlType::TimestampTz(Some(3))),
            ("timestamptz(9)", SqlType::TimestampTz(Some(6))),
            ("time(2) without time zone", SqlType::Time(Some(2))),
            ("time", SqlType::Time(None)),
        ] {
            let Expr::Cast { data_type, .. } = parse::parse_expression(&format!("x::{name}"))? else {
                return Err(Error::internal("not a cast"));
            };
            assert_eq!(sql_type(&data_type)?, ty, "{name}");
        }
        Ok(())
    }
}
