//! Queries as SELECT statements of PostgreSQL.
//!
//! Invariant: the statement means what the query says: text is compared and ordered by its bytes, whatever the collations of the site,
//! places of NULLs are written out, and every computed column has the type that the engine expects. What cannot be said so is refused.

use super::layout::{Layout, literal, quote};
use super::types::is_text;
use crate::site::select::{Spelling, comparison, operation};
use atoll_model::{Error, Result, SqlType, Value, text};
use atoll_ports::query::{Aggregate, Arithmetic, Comparison, Output, SiteExpr, SiteQuery, SortKey};
use atoll_ports::site::Replica;
use std::sync::Arc;

/// A query as a statement.
pub(super) struct Statement {
    /// The layout of the first source, for messages.
    pub(super) first: Arc<Layout>,
    /// The text, without parameters.
    pub(super) sql: String,
}

impl Statement {
    /// Writes a query, whose copies have the layouts that `layout` gives.
    pub(super) fn new(query: &SiteQuery, layout: impl Fn(&Replica) -> Result<Arc<Layout>>) -> Result<Self> {
        let layouts = query.sources.iter().map(|source| layout(&source.replica)).collect::<Result<Vec<_>>>()?;
        let first = layouts.first().cloned().ok_or_else(|| Error::internal("a query of no table"))?;
        let sql = Writer { layouts: &layouts }.select(query, &[], "")?;
        Ok(Statement { first, sql })
    }
}

struct Writer<'a> {
    layouts: &'a [Arc<Layout>],
}

impl Writer<'_> {
    fn layout(&self, source: usize) -> Result<&Layout> {
        let layout = self.layouts.get(source).ok_or_else(|| Error::internal("a column of no source of the query"))?;
        Ok(layout)
    }

    /// An expression whose order matters.
    fn by_bytes(&self, expr: &SiteExpr) -> Result<String> {
        let written = self.expr(expr)?;
        Ok(if is_text(&expr.ty()) { format!("{written} COLLATE \"C\"") } else { written })
    }
}

impl Spelling for Writer<'_> {
    const UNLIMITED: &'static str = "";

    fn relation(&self, source: usize) -> Result<&str> {
        Ok(&self.layout(source)?.relation)
    }

    fn column(&self, source: usize, position: usize) -> Result<String> {
        Ok(format!("s{source}.{}", quote(&self.layout(source)?.table.columns[position].name)))
    }

    fn constant(&self, ty: &SqlType, value: &Value) -> Result<String> {
        Ok(match value {
            Value::Null => format!("NULL::{ty}"),
            Value::Bool(b) => b.to_string(),
            Value::Int4(n) if *n >= 0 => n.to_string(),
            value if matches!(ty, SqlType::Numeric(_)) => format!("{}::numeric", literal(&text::to_text(ty, value))),
            // As it is: the type's digits of a second would round it.
            value => format!("{}::{}", literal(&text::to_text(ty, value)), ty.without_second_digits()),
        })
    }

    fn compare(&self, how: Comparison, left: &SiteExpr, right: &SiteExpr) -> Result<String> {
        let (left, right) = match how {
            Comparison::Equal | Comparison::NotEqual => (self.expr(left)?, self.expr(right)?),
            _ => (self.by_bytes(left)?, self.by_bytes(right)?),
        };
        Ok(format!("({left} {} {right})", comparison(how)))
    }

    fn like(&self, value: &SiteExpr, pattern: &SiteExpr) -> Result<String> {
        Ok(format!("({} LIKE {})", self.expr(value)?, self.expr(pattern)?))
    }

    fn arithmetic(&self, how: Arithmetic, left: &SiteExpr, right: &SiteExpr, _: &SqlType) -> Result<String> {
        Ok(format!("({} {} {})", self.expr(left)?, operation(how), self.expr(right)?))
    }

    fn widen(&self, value: &SiteExpr, ty: &SqlType) -> Result<String> {
        Ok(match ty {
            SqlType::Numeric(_) => format!("({})::numeric", self.expr(value)?),
            ty => format!("({})::{ty}", self.expr(value)?),
        })
    }

    fn aggregate(&self, function: Aggregate, argument: Option<&SiteExpr>, distinct: bool) -> Result<String> {
        let argument = match argument {
            None => "*".to_owned(),
            Some(argument) if matches!(function, Aggregate::Min | Aggregate::Max) => self.by_bytes(argument)?,
            Some(argument) => self.expr(argument)?,
        };
        let name = match function {
            Aggregate::Count => "count",
            Aggregate::Sum => "sum",
            Aggregate::Min => "min",
            Aggregate::Max => "max",
            Aggregate::Every => "bool_and",
            Aggregate::Any => "bool_or",
        };
        let distinct = if distinct { "DISTINCT " } else { "" };
        Ok(format!("{name}({distinct}{argument})"))
    }

    /// A column as it is; anything else with its type, which may be another to PostgreSQL.
    fn output(&self, output: &Output) -> Result<String> {
        let written = self.expr(&output.expr)?;
        Ok(match &output.expr {
            SiteExpr::Column { .. } => written,
            // The digits that the engine wants are counted when the value comes.
            _ if matches!(output.ty, SqlType::Numeric(_)) => format!("({written})::numeric"),
            _ => format!("({written})::{}", output.ty.without_second_digits()),
        })
    }

    fn sort_key(&self, key: &SortKey) -> Result<String> {
        let direction = if key.descending { " DESC" } else { "" };
        let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
        Ok(format!("{}{direction} NULLS {nulls}", self.by_bytes(&key.expr)?))
    }

    fn one_group(&self, query: &SiteQuery) -> &'static str {
        let aggregates = query.outputs.iter().any(|output| matches!(output.expr, SiteExpr::Aggregate { .. }));
        if aggregates && query.having.is_empty() { "" } else { " GROUP BY ()" }
    }
}
