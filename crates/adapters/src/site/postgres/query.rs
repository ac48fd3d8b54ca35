//! Queries as SELECT statements of PostgreSQL.
//!
//! Invariant: the statement means what the query says: text is compared and ordered by its bytes, whatever the collations of the site,
//! places of NULLs are written out, and every computed column has the type that the engine expects. What cannot be said so is refused.

use super::layout::{Layout, literal, quote};
use super::types::is_text;
use atoll_model::{Error, Result, SqlType, Value, text};
use atoll_ports::query::{Aggregate, Arithmetic, Comparison, Output, SiteExpr, SiteQuery, SortKey, SourceJoin};
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
        let sql = Writer { layouts: &layouts }.select(query)?;
        Ok(Statement { first, sql })
    }
}

struct Writer<'a> {
    layouts: &'a [Arc<Layout>],
}

impl Writer<'_> {
    fn select(&self, query: &SiteQuery) -> Result<String> {
        let mut sql = String::from("SELECT ");
        if query.outputs.is_empty() {
            // Only the number of rows counts.
            let counted = SiteQuery { outputs: vec![one()], order: vec![], ..query.clone() };
            return Ok(format!("SELECT count(*) FROM ({}) t", self.select(&counted)?));
        }
        let outputs = query.outputs.iter().map(|output| self.output(output)).collect::<Result<Vec<_>>>()?;
        sql += &outputs.join(", ");
        sql += &self.from(query)?;
        self.clause(&mut sql, " WHERE ", " AND ", &query.filter)?;
        match query.group.as_deref() {
            None => {}
            Some([]) if query.having.is_empty() => {}
            Some([]) => sql += " GROUP BY ()",
            Some(keys) => self.clause(&mut sql, " GROUP BY ", ", ", keys)?,
        }
        self.clause(&mut sql, " HAVING ", " AND ", &query.having)?;
        let order = query.order.iter().map(|key| self.sort_key(key)).collect::<Result<Vec<_>>>()?;
        if !order.is_empty() {
            sql += &format!(" ORDER BY {}", order.join(", "));
        }
        if let Some(limit) = query.limit {
            sql += &format!(" LIMIT {limit}");
        }
        if query.offset > 0 {
            sql += &format!(" OFFSET {}", query.offset);
        }
        Ok(sql)
    }

    fn clause(&self, sql: &mut String, word: &str, between: &str, exprs: &[SiteExpr]) -> Result<()> {
        if !exprs.is_empty() {
            let parts = exprs.iter().map(|e| self.expr(e)).collect::<Result<Vec<_>>>()?;
            *sql += word;
            *sql += &parts.join(between);
        }
        Ok(())
    }

    fn from(&self, query: &SiteQuery) -> Result<String> {
        let mut sql = String::from(" FROM ");
        for (at, source) in query.sources.iter().enumerate() {
            let relation = format!("{} s{at}", self.layouts[at].relation);
            let (word, on) = match &source.join {
                SourceJoin::First => {
                    sql += &relation;
                    continue;
                }
                SourceJoin::Inner(on) => ("JOIN", on),
                SourceJoin::Left(on) => ("LEFT JOIN", on),
            };
            let on = self.expr(&SiteExpr::And(on.clone()))?;
            sql += &format!(" {word} {relation} ON {on}");
        }
        Ok(sql)
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

    /// An expression whose order matters.
    fn by_bytes(&self, expr: &SiteExpr) -> Result<String> {
        let written = self.expr(expr)?;
        Ok(if is_text(&expr.ty()) { format!("{written} COLLATE \"C\"") } else { written })
    }

    fn expr(&self, expr: &SiteExpr) -> Result<String> {
        Ok(match expr {
            SiteExpr::Column { source, position, .. } => {
                let layout =
                    self.layouts.get(*source).ok_or_else(|| Error::internal("a column of no source of the query"))?;
                format!("s{source}.{}", quote(&layout.table.columns[*position].name))
            }
            SiteExpr::Value(ty, value) => constant(ty, value),
            SiteExpr::Compare(how, left, right) => {
                let (left, right) = match how {
                    Comparison::Equal | Comparison::NotEqual => (self.expr(left)?, self.expr(right)?),
                    _ => (self.by_bytes(left)?, self.by_bytes(right)?),
                };
                format!("({left} {} {right})", comparison(*how))
            }
            SiteExpr::And(parts) => self.chain(parts, " AND ", "true")?,
            SiteExpr::Or(parts) => self.chain(parts, " OR ", "false")?,
            SiteExpr::Not(inner) => format!("(NOT {})", self.expr(inner)?),
            SiteExpr::IsNull(inner) => format!("({} IS NULL)", self.expr(inner)?),
            SiteExpr::In(left, list) => {
                let list = list.iter().map(|e| self.expr(e)).collect::<Result<Vec<_>>>()?;
                format!("({} IN ({}))", self.expr(left)?, list.join(", "))
            }
            SiteExpr::Like(left, pattern) => format!("({} LIKE {})", self.expr(left)?, self.expr(pattern)?),
            SiteExpr::Arithmetic(how, left, right, _) => {
                let sign = match how {
                    Arithmetic::Add => "+",
                    Arithmetic::Subtract => "-",
                    Arithmetic::Multiply => "*",
                };
                format!("({} {sign} {})", self.expr(left)?, self.expr(right)?)
            }
            SiteExpr::Case { branches, otherwise, .. } => {
                let mut sql = String::from("CASE");
                for (condition, value) in branches {
                    sql += &format!(" WHEN {} THEN {}", self.expr(condition)?, self.expr(value)?);
                }
                if let Some(otherwise) = otherwise {
                    sql += &format!(" ELSE {}", self.expr(otherwise)?);
                }
                sql + " END"
            }
            SiteExpr::Coalesce(parts, _) => {
                let parts = parts.iter().map(|e| self.expr(e)).collect::<Result<Vec<_>>>()?;
                format!("coalesce({})", parts.join(", "))
            }
            SiteExpr::Widen(inner, SqlType::Numeric(_)) => format!("({})::numeric", self.expr(inner)?),
            SiteExpr::Widen(inner, ty) => format!("({})::{ty}", self.expr(inner)?),
            SiteExpr::Aggregate { function, argument, distinct, .. } => {
                let ordered = matches!(function, Aggregate::Min | Aggregate::Max);
                let argument = match argument {
                    None => "*".to_owned(),
                    Some(argument) if ordered => self.by_bytes(argument)?,
                    Some(argument) => self.expr(argument)?,
                };
                let distinct = if *distinct { "DISTINCT " } else { "" };
                format!("{}({distinct}{argument})", aggregate(*function))
            }
        })
    }

    fn chain(&self, parts: &[SiteExpr], between: &str, empty: &str) -> Result<String> {
        if parts.is_empty() {
            return Ok(empty.to_owned());
        }
        let parts = parts.iter().map(|e| self.expr(e)).collect::<Result<Vec<_>>>()?;
        Ok(format!("({})", parts.join(between)))
    }
}

fn one() -> Output {
    let expr = SiteExpr::Value(SqlType::Int4, Value::Int4(1));
    Output { expr, name: "one".into(), ty: SqlType::Int4, nullable: false }
}

fn constant(ty: &SqlType, value: &Value) -> String {
    match value {
        Value::Null => format!("NULL::{ty}"),
        Value::Bool(b) => b.to_string(),
        Value::Int4(n) if *n >= 0 => n.to_string(),
        value if matches!(ty, SqlType::Numeric(_)) => format!("{}::numeric", literal(&text::to_text(ty, value))),
        // As it is: the type's digits of a second would round it.
        value => format!("{}::{}", literal(&text::to_text(ty, value)), ty.without_second_digits()),
    }
}

fn comparison(how: Comparison) -> &'static str {
    match how {
        Comparison::Equal => "=",
        Comparison::NotEqual => "<>",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
    }
}

fn aggregate(function: Aggregate) -> &'static str {
    match function {
        Aggregate::Count => "count",
        Aggregate::Sum => "sum",
        Aggregate::Min => "min",
        Aggregate::Max => "max",
        Aggregate::Every => "bool_and",
        Aggregate::Any => "bool_or",
    }
}
