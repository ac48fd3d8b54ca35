//! Errors of DataFusion and Arrow as Atoll's, with PostgreSQL's SQLSTATEs.
//!
//! Invariant: an [`Error`] that went into DataFusion (from a site, a function, a rule) comes out unchanged. What DataFusion says
//! only in words is told apart by those words; the tests at the end fail when a new version words them differently.

use crate::pg::rewrite::names::shown;
use atoll_model::{Error, ErrorKind};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;

/// Carries one of Atoll's errors through DataFusion.
pub(crate) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The error as the user sees it.
pub(crate) fn map_error(error: DataFusionError) -> Error {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => map_error(*inner),
        DataFusionError::Shared(inner) => map_shared(&inner),
        DataFusionError::Collection(errors) => match errors.into_iter().next() {
            Some(first) => map_error(first),
            None => Error::internal("an empty collection of errors"),
        },
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(inner) => match inner.downcast::<DataFusionError>() {
                Ok(nested) => map_error(*nested),
                Err(inner) => match inner.downcast::<ArrowError>() {
                    Ok(arrow) => map_arrow(*arrow),
                    Err(other) => from_words(&other.to_string()),
                },
            },
        },
        DataFusionError::ArrowError(inner, _) => map_arrow(*inner),
        DataFusionError::SQL(inner, _) => match *inner {
            ParserError::RecursionLimitExceeded => {
                Error::new(ErrorKind::ProgramLimit, "the statement is nested too deeply")
            }
            ParserError::TokenizerError(m) | ParserError::ParserError(m) => Error::new(ErrorKind::Syntax, m),
        },
        DataFusionError::SchemaError(inner, _) => map_schema(&inner),
        DataFusionError::ResourcesExhausted(m) => Error::new(ErrorKind::OutOfMemory, first_line(&m).to_owned())
            .hint("Raise the memory limit of queries, or let the query read less."),
        DataFusionError::NotImplemented(m) => from_words_or(&m, ErrorKind::NotSupported),
        DataFusionError::IoError(e) => Error::new(ErrorKind::Io, e.to_string()),
        DataFusionError::Plan(m) if m.contains("field metadata differs") => Error::new(
            ErrorKind::DatatypeMismatch,
            "a column of a recursive query has one type in its non-recursive term and another overall",
        )
        .hint("Cast the output of the non-recursive term to the correct type."),
        DataFusionError::Plan(m) => from_words_or(&m, ErrorKind::Syntax),
        DataFusionError::Configuration(m) => Error::new(ErrorKind::InvalidParameterValue, m),
        DataFusionError::Execution(m) => from_words(&m),
        other => from_words(&other.strip_backtrace()),
    }
}

/// An error that several consumers of one stream were handed.
fn map_shared(error: &DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => from_words(&inner.to_string()),
        },
        DataFusionError::SchemaError(inner, _) => map_schema(inner),
        DataFusionError::ResourcesExhausted(m) => Error::new(ErrorKind::OutOfMemory, first_line(m).to_owned()),
        DataFusionError::NotImplemented(m) => from_words_or(m, ErrorKind::NotSupported),
        DataFusionError::ArrowError(inner, _) => from_arrow(inner),
        other => from_words(&other.strip_backtrace()),
    }
}

fn map_schema(error: &SchemaError) -> Error {
    match error {
        SchemaError::AmbiguousReference { field } => {
            Error::new(ErrorKind::AmbiguousColumn, format!("column reference \"{}\" is ambiguous", field.name))
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Error::new(ErrorKind::AmbiguousColumn, format!("column name \"{name}\" is given more than once"))
                .hint("Give each column a name of its own with AS.")
        }
        SchemaError::FieldNotFound { field, valid_fields } => {
            if field.relation.as_ref().is_some_and(|r| r.table() == "the values") {
                return Error::unsupported("this correlated subquery with IN, ANY or ALL")
                    .hint("Use EXISTS, or a join.");
            }
            // Another use of a name that several columns share.
            if valid_fields.iter().filter(|v| v.name != field.name && shown(&v.name) == field.name).count() > 1 {
                return Error::new(
                    ErrorKind::AmbiguousColumn,
                    format!("column reference \"{}\" is ambiguous", field.name),
                );
            }
            let shown = match &field.relation {
                Some(relation) => format!("column {}.{} does not exist", relation.table(), field.name),
                None => format!("column \"{}\" does not exist", field.name),
            };
            // PostgreSQL tells a missing FROM entry from a missing column.
            if let Some(relation) = &field.relation
                && !valid_fields.iter().any(|v| v.relation.as_ref().is_some_and(|r| r.table() == relation.table()))
            {
                return Error::new(
                    ErrorKind::UndefinedTable,
                    format!("missing FROM-clause entry for table \"{}\"", relation.table()),
                );
            }
            let wanted = field.name.to_lowercase();
            let near = valid_fields
                .iter()
                .map(|v| (distance(&wanted, &v.name.to_lowercase()), v))
                .filter(|(d, v)| *d <= v.name.len().max(wanted.len()) / 2)
                .min_by_key(|(d, _)| *d);
            let error = Error::new(ErrorKind::UndefinedColumn, shown);
            match near {
                Some((_, near)) => {
                    let table = near.relation.as_ref().map(|r| format!("{}.", r.table())).unwrap_or_default();
                    error.hint(format!("Perhaps you meant to reference the column \"{table}{}\".", near.name))
                }
                None => error,
            }
        }
    }
}

/// Edit distance, for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

fn map_arrow(error: ArrowError) -> Error {
    match error {
        ArrowError::ExternalError(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(inner) => match inner.downcast::<DataFusionError>() {
                Ok(nested) => map_error(*nested),
                Err(other) => from_words(&other.to_string()),
            },
        },
        other => from_arrow(&other),
    }
}

fn from_arrow(error: &ArrowError) -> Error {
    match error {
        ArrowError::DivideByZero => Error::new(ErrorKind::DivisionByZero, "division by zero"),
        ArrowError::ArithmeticOverflow(m) => {
            Error::new(ErrorKind::NumericOutOfRange, out_of_range(m)).detail(m.clone())
        }
        ArrowError::NotYetImplemented(m) => Error::unsupported(m.clone()),
        ArrowError::CastError(m)
        | ArrowError::ParseError(m)
        | ArrowError::InvalidArgumentError(m)
        | ArrowError::ComputeError(m) => from_words(m),
        other => from_words(&other.to_string()),
    }
}

/// PostgreSQL's sentence for an overflow, with the type where Arrow's message tells it.
fn out_of_range(message: &str) -> String {
    let name = [("Int16", "smallint"), ("Int32", "integer"), ("Int64", "bigint")];
    match name.iter().find(|(arrow, _)| message.contains(arrow)) {
        Some((_, sql)) => format!("{sql} out of range"),
        None => "value out of range".to_owned(),
    }
}

/// A string that is no number, or too large a one.
fn unreadable_number(message: &str) -> Option<Error> {
    let (value, arrow) = message.strip_prefix("Cannot cast string '")?.rsplit_once("' to value of ")?;
    let (sql, integer) = match arrow.strip_suffix(" type")? {
        "Int16" => ("smallint", true),
        "Int32" => ("integer", true),
        "Int64" => ("bigint", true),
        "Float32" => ("real", false),
        "Float64" => ("double precision", false),
        _ => return None,
    };
    let digits = value.trim().trim_start_matches(['+', '-']);
    if integer && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let text = format!("value \"{value}\" is out of range for type {sql}");
        return Some(Error::new(ErrorKind::NumericOutOfRange, text));
    }
    Some(Error::new(ErrorKind::InvalidText, format!("invalid input syntax for type {sql}: \"{value}\"")))
}

/// A string that is no date, or no boolean.
fn unreadable_other(message: &str) -> Option<Error> {
    if let Some(value) = between(message, "Cannot cast value '", "' to value of Boolean type") {
        let text = format!("invalid input syntax for type boolean: \"{value}\"");
        return Some(Error::new(ErrorKind::InvalidText, text));
    }
    let value = between(message, "Cannot cast string '", "' to value of Date32 type")?;
    let fields: Vec<&str> = value.trim().split('-').collect();
    let numbers = fields.len() == 3 && fields.iter().all(|f| !f.is_empty() && f.bytes().all(|b| b.is_ascii_digit()));
    Some(if numbers {
        Error::new(ErrorKind::DatetimeOverflow, format!("date/time field value out of range: \"{value}\""))
    } else {
        Error::new(ErrorKind::InvalidDatetime, format!("invalid input syntax for type date: \"{value}\""))
    })
}

fn from_words(message: &str) -> Error {
    from_words_or(message, ErrorKind::Internal)
}

/// Tells by its words what an error is about.
fn from_words_or(message: &str, otherwise: ErrorKind) -> Error {
    let unmarked = crate::pg::rewrite::names::without_marks(message);
    let text = first_line(&unmarked);
    let text = [
        "Error during planning: ",
        "Execution error: ",
        "Arrow error: ",
        "Cast error: ",
        "Parser error: ",
        "Compute error: ",
    ]
    .iter()
    .fold(text, |t, prefix| t.strip_prefix(prefix).unwrap_or(t));
    let lower = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| lower.contains(w));
    if let Some(error) = misplaced(text, &lower) {
        return error;
    }
    if has(&["does not support logical expression outerreferencecolumn"]) {
        return Error::unsupported("LATERAL that looks at the tables beside it, in this form")
            .hint("Write a join, or a subquery in the select list: unnest() can stand there as well.");
    }
    if has(&["cannot access field at argument"]) {
        return Error::unsupported("a column of a subquery that has the name of a table around it")
            .hint("Give the outer table an alias.");
    }
    if has(&["divide by zero", "division by zero"]) {
        return Error::new(ErrorKind::DivisionByZero, "division by zero");
    }
    if has(&["overflow"]) {
        return Error::new(ErrorKind::NumericOutOfRange, out_of_range(text)).detail(text.to_owned());
    }
    if has(&["scalar subquery", "more than one row"])
        && has(&["more than one row", "multiple rows", "at most one row", "one row"])
    {
        return Error::new(ErrorKind::Cardinality, "more than one row returned by a subquery used as an expression");
    }
    if let Some(name) = between(text, "table '", "' not found") {
        let name = name.rsplit('.').next().unwrap_or(name);
        return Error::new(ErrorKind::UndefinedTable, format!("relation \"{name}\" does not exist"));
    }
    if has(&[
        "invalid function",
        "no function matches",
        "failed to coerce arguments",
        "does not support zero arguments",
        "candidate functions",
    ]) {
        let (text, suggestion) = match text.split_once("Did you mean") {
            Some((text, rest)) => (text.trim_end_matches(['.', ' ']), Some(format!("Did you mean{rest}"))),
            None => (text, None),
        };
        let shown = match between(text, "Invalid function '", "'") {
            Some(name) => format!("function {name} does not exist"),
            None => text.to_owned(),
        };
        let error = Error::new(ErrorKind::UndefinedFunction, shown);
        return match suggestion {
            Some(s) => error.hint(s.replace('\'', "\"")),
            None => error.hint(
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            ),
        };
    }
    if has(&["must appear in the group by clause", "must be part of group by", "in the group by clause"]) {
        return Error::new(ErrorKind::Grouping, text.to_owned());
    }
    if let Some(error) = unreadable_number(text).or_else(|| unreadable_other(text)) {
        return error;
    }
    if has(&["cannot cast string", "error parsing", "invalid input syntax", "cannot parse", "unable to parse"]) {
        let kind =
            if has(&["timestamp", "date", "time"]) { ErrorKind::InvalidDatetime } else { ErrorKind::InvalidText };
        return Error::new(kind, text.to_owned());
    }
    if has(&["can't cast value", "is too large to store in a decimal", "out of range", "cannot be casted"]) {
        return Error::new(ErrorKind::NumericOutOfRange, out_of_range(text)).detail(text.to_owned());
    }
    if has(&["cannot infer common argument type", "cannot coerce", "cannot get result type", "there isn't result type"])
    {
        return Error::new(ErrorKind::UndefinedFunction, text.to_owned())
            .hint("No operator matches the given argument types. You might need to add explicit type casts.");
    }
    if has(&["unsupported cast", "cannot cast"]) {
        return Error::new(ErrorKind::CannotCoerce, text.to_owned());
    }
    if has(&["ambiguous"]) {
        return Error::new(ErrorKind::AmbiguousColumn, text.to_owned());
    }
    if has(&["was not provided a value"])
        && let Some(number) = between(text, "'$", "'")
    {
        return Error::new(ErrorKind::UndefinedParameter, format!("there is no parameter ${number}"));
    }
    if has(&["placeholder", "parameter"]) && has(&["no value found", "not found", "was not resolved", "must be"]) {
        return Error::new(ErrorKind::UndefinedParameter, text.to_owned());
    }
    if has(&["regex"]) {
        return Error::new(ErrorKind::InvalidRegex, text.to_owned());
    }
    if has(&["not implemented", "not supported", "unsupported", "not yet"]) {
        return Error::unsupported(text.to_owned());
    }
    if has(&["column"]) && has(&["same number of columns", "number of columns", "columns are not"]) {
        return Error::new(ErrorKind::Syntax, text.to_owned());
    }
    Error::new(otherwise, text.to_owned())
}

/// What stands where it must not: aggregates, windows, positions.
fn misplaced(text: &str, lower: &str) -> Option<Error> {
    let has = |word: &str| lower.contains(word);
    Some(if has("aggregate function calls cannot be nested") {
        Error::new(ErrorKind::Grouping, "aggregate function calls cannot be nested")
    } else if has("aggregate functions are not allowed in the where") {
        Error::new(ErrorKind::Grouping, "aggregate functions are not allowed in WHERE")
    } else if has("aggregate functions are not allowed") || has("aggregate functions cannot be used in") {
        Error::new(ErrorKind::Grouping, text.to_owned())
    } else if has("window functions are not allowed") || has("window function calls cannot be nested") {
        Error::new(ErrorKind::Windowing, text.to_owned())
    } else if has("order by column out of bounds") || has("cannot find column with position") {
        let position = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit);
        let position: String = position.collect();
        Error::new(ErrorKind::InvalidColumnReference, format!("ORDER BY position {position} is not in select list"))
    } else if has("limit must be >= 0") {
        Error::new(ErrorKind::InvalidLimit, "LIMIT must not be negative")
    } else if has("offset must be >=0") || has("offset must be >= 0") {
        Error::new(ErrorKind::InvalidOffset, "OFFSET must not be negative")
    } else if has("for select distinct, order by expressions") {
        Error::new(
            ErrorKind::InvalidColumnReference,
            "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
        )
    } else if has("select distinct on expressions must match") {
        Error::new(
            ErrorKind::InvalidColumnReference,
            "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
        )
    } else if has("cannot infer common string type for string concat") {
        Error::new(ErrorKind::UndefinedFunction, "operator does not exist: these types || each other")
            .hint("No operator matches the given argument types. You might need to add explicit type casts.")
    } else if has("non-boolean predicate") || has("requires a boolean expression") || has("logical boolean operation") {
        Error::new(ErrorKind::DatatypeMismatch, format!("an argument must be type boolean: {text}"))
    } else if has("step cannot be zero") {
        Error::new(ErrorKind::InvalidParameterValue, "step size cannot equal zero")
    } else if has("the values.") || has("\"the values\"") {
        Error::unsupported("this correlated subquery with IN, ANY or ALL").hint("Use EXISTS, or a join.")
    } else if has("square root of a negative number") {
        Error::new(ErrorKind::InvalidPower, "cannot take square root of a negative number")
    } else if has("invalid unicode scalar value") || has("field position must not be zero") || has("step can't be 0") {
        Error::new(ErrorKind::InvalidParameterValue, text.to_owned())
    } else if has("unable to represent") && has("months") {
        Error::new(ErrorKind::DatetimeOverflow, "interval out of range")
    } else if has("negative substring length") {
        Error::new(ErrorKind::Substring, "negative substring length not allowed")
    } else {
        return None;
    })
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let end = text[start..].find(after)?;
    Some(&text[start..start + end])
}

fn first_line(message: &str) -> &str {
    message.split("\n\nbacktrace").next().unwrap_or(message).trim()
}
