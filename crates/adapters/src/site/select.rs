//! Queries as SELECT statements: the walk over the algebra that dialects share, each spelling the parts in its own way.
//!
//! Invariant: every part of the query is in the statement, or the whole is refused.

use atoll_model::{Result, SqlType, Value};
use atoll_ports::query::{
    Aggregate, Arithmetic, Comparison, Output, SiteExpr, SiteQuery, SortKey, SourceJoin, WindowFunction,
};

/// How an engine spells the parts of a query.
pub(super) trait Spelling {
    /// What stands for "no limit" in front of an OFFSET.
    const UNLIMITED: &'static str;

    /// The relation of a source.
    fn relation(&self, source: usize) -> Result<&str>;

    /// A column of a source, as expressions have it.
    fn column(&self, source: usize, position: usize) -> Result<String>;

    /// A constant.
    fn constant(&self, ty: &SqlType, value: &Value) -> Result<String>;

    /// A comparison.
    fn compare(&self, how: Comparison, left: &SiteExpr, right: &SiteExpr) -> Result<String>;

    /// `LIKE`, regarding case, with backslash as escape.
    fn like(&self, value: &SiteExpr, pattern: &SiteExpr) -> Result<String>;

    /// Exact arithmetic with a result of this type.
    fn arithmetic(&self, how: Arithmetic, left: &SiteExpr, right: &SiteExpr, ty: &SqlType) -> Result<String>;

    /// A number as a wider one.
    fn widen(&self, value: &SiteExpr, ty: &SqlType) -> Result<String>;

    /// An aggregate.
    fn aggregate(&self, function: Aggregate, argument: Option<&SiteExpr>, distinct: bool) -> Result<String>;

    /// A column of the answer.
    fn output(&self, output: &Output) -> Result<String>;

    /// A key of the order.
    fn sort_key(&self, key: &SortKey) -> Result<String>;

    /// What makes one group of all rows; aggregates by themselves do.
    fn one_group(&self, query: &SiteQuery) -> &'static str;

    /// What rows are grouped by, or partitions have in common.
    fn group_key(&self, key: &SiteExpr) -> Result<String> {
        self.expr(key)
    }

    /// A condition on groups.
    fn having(&self, condition: &SiteExpr) -> Result<String> {
        self.expr(condition)
    }

    /// Something of which only matters whether it is NULL.
    fn presence(&self, value: &SiteExpr) -> Result<String> {
        self.expr(value)
    }

    /// The name that an expression has where it cannot be written out.
    fn named(&self, _: &SiteExpr) -> Option<&str> {
        None
    }

    /// The statement; `more`: columns behind those of the answer; `clause`: what the SELECT ends with.
    fn select(&self, query: &SiteQuery, more: &[String], clause: &str) -> Result<String> {
        if query.outputs.is_empty() {
            // Only the number of rows counts.
            let counted = SiteQuery { outputs: vec![one()], order: vec![], ..query.clone() };
            return Ok(format!("SELECT count(*) FROM ({}) t", self.select(&counted, more, clause)?));
        }
        let mut outputs = query.outputs.iter().map(|output| self.output(output)).collect::<Result<Vec<_>>>()?;
        outputs.extend_from_slice(more);
        let mut sql = format!("SELECT {}", outputs.join(", "));
        sql += &self.from(query)?;
        sql += &clause_of(" WHERE ", " AND ", &self.all(&query.filter)?);
        sql += &match query.group.as_deref() {
            None => String::new(),
            Some([]) => self.one_group(query).to_owned(),
            Some(keys) => self.keys(" GROUP BY ", keys)?,
        };
        let having = query.having.iter().map(|condition| self.having(condition)).collect::<Result<Vec<_>>>()?;
        sql += &clause_of(" HAVING ", " AND ", &having);
        sql += &self.order_by(&query.order)?;
        match (query.limit, query.offset) {
            (None, 0) => {}
            (Some(limit), 0) => sql += &format!(" LIMIT {limit}"),
            (Some(limit), offset) => sql += &format!(" LIMIT {limit} OFFSET {offset}"),
            (None, offset) => sql += &format!("{} OFFSET {offset}", Self::UNLIMITED),
        }
        Ok(sql + clause)
    }

    /// FROM with its joins.
    fn from(&self, query: &SiteQuery) -> Result<String> {
        let mut sql = String::from(" FROM ");
        for (at, source) in query.sources.iter().enumerate() {
            let relation = format!("{} s{at}", self.relation(at)?);
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

    /// ORDER BY, if there is an order.
    fn order_by(&self, order: &[SortKey]) -> Result<String> {
        let keys = order.iter().map(|key| self.sort_key(key)).collect::<Result<Vec<_>>>()?;
        Ok(clause_of(" ORDER BY ", ", ", &keys))
    }

    /// What rows are put together by.
    fn keys(&self, word: &str, keys: &[SiteExpr]) -> Result<String> {
        let keys = keys.iter().map(|key| self.group_key(key)).collect::<Result<Vec<_>>>()?;
        Ok(clause_of(word, ", ", &keys))
    }

    /// A function of a row among those of its partition. The frame is the one that SQL has by default.
    fn window(&self, function: &WindowFunction, partition: &[SiteExpr], order: &[SortKey]) -> Result<String> {
        let call = match function {
            WindowFunction::RowNumber => "row_number()".to_owned(),
            WindowFunction::Rank => "rank()".to_owned(),
            WindowFunction::DenseRank => "dense_rank()".to_owned(),
            WindowFunction::Aggregate(function, argument) => self.aggregate(*function, argument.as_deref(), false)?,
        };
        Ok(format!("{call} OVER ({}{})", self.keys("PARTITION BY ", partition)?, self.order_by(order)?))
    }

    /// Several expressions.
    fn all(&self, exprs: &[SiteExpr]) -> Result<Vec<String>> {
        exprs.iter().map(|e| self.expr(e)).collect()
    }

    /// An expression, which may stand anywhere.
    fn expr(&self, expr: &SiteExpr) -> Result<String> {
        if let Some(name) = self.named(expr) {
            return Ok(name.to_owned());
        }
        Ok(match expr {
            SiteExpr::Column { source, position, .. } => self.column(*source, *position)?,
            SiteExpr::Value(ty, value) => self.constant(ty, value)?,
            SiteExpr::Compare(how, left, right) => self.compare(*how, left, right)?,
            SiteExpr::And(parts) => chain(&self.all(parts)?, " AND ", "true"),
            SiteExpr::Or(parts) => chain(&self.all(parts)?, " OR ", "false"),
            SiteExpr::Not(inner) => format!("(NOT {})", self.expr(inner)?),
            SiteExpr::IsNull(inner) => format!("({} IS NULL)", self.presence(inner)?),
            SiteExpr::In(_, list) if list.is_empty() => "false".into(),
            SiteExpr::In(left, list) => format!("({} IN ({}))", self.expr(left)?, self.all(list)?.join(", ")),
            SiteExpr::Like(value, pattern) => self.like(value, pattern)?,
            SiteExpr::Arithmetic(how, left, right, ty) => self.arithmetic(*how, left, right, ty)?,
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
            SiteExpr::Coalesce(parts, _) => format!("coalesce({})", self.all(parts)?.join(", ")),
            SiteExpr::Widen(inner, ty) => self.widen(inner, ty)?,
            SiteExpr::Aggregate { function, argument, distinct, .. } => {
                self.aggregate(*function, argument.as_deref(), *distinct)?
            }
            SiteExpr::Window { function, partition, order, .. } => self.window(function, partition, order)?,
        })
    }
}

fn clause_of(word: &str, between: &str, parts: &[String]) -> String {
    if parts.is_empty() { String::new() } else { format!("{word}{}", parts.join(between)) }
}

fn chain(parts: &[String], between: &str, empty: &str) -> String {
    if parts.is_empty() { empty.to_owned() } else { format!("({})", parts.join(between)) }
}

fn one() -> Output {
    let expr = SiteExpr::Value(SqlType::Int4, Value::Int4(1));
    Output { expr, name: "one".into(), ty: SqlType::Int4, nullable: false }
}

/// The sign of a comparison.
pub(super) fn comparison(how: Comparison) -> &'static str {
    match how {
        Comparison::Equal => "=",
        Comparison::NotEqual => "<>",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
    }
}

/// The sign of an operation.
pub(super) fn operation(how: Arithmetic) -> &'static str {
    match how {
        Arithmetic::Add => "+",
        Arithmetic::Subtract => "-",
        Arithmetic::Multiply => "*",
    }
}
