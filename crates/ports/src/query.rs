//! What a site can be asked in one statement: a block of the relational algebra over copies that lie there together.
//!
//! The engine hands down what a site can do, the site puts it into its dialect. A block is one SELECT: sources joined, filtered, grouped or
//! looked at through windows, sorted, cut off.
//!
//! Invariant: a site that takes a query answers as the engine would, or fails. What it would answer otherwise (an order of text, a
//! division, a comparison regardless of case) it refuses, or writes so that it means the same.

use crate::site::Replica;
use atoll_model::{SqlType, Value};

/// A query over copies at one site.
#[derive(Clone, Debug)]
pub struct SiteQuery {
    /// What is read, joined from left to right; never empty.
    pub sources: Vec<Source>,
    /// Conditions on rows, all of which hold.
    pub filter: Vec<SiteExpr>,
    /// What rows are grouped by; `Some` of nothing: they make one group, which is there without rows as well. `None`: not at all.
    pub group: Option<Vec<SiteExpr>>,
    /// Conditions on groups, all of which hold.
    pub having: Vec<SiteExpr>,
    /// The columns of the answer; may be empty (only the number of rows counts).
    pub outputs: Vec<Output>,
    /// The order of the answer.
    pub order: Vec<SortKey>,
    /// Rows to leave out at the beginning.
    pub offset: u64,
    /// Rows at most.
    pub limit: Option<u64>,
    /// Rows per batch.
    pub batch_size: usize,
}

/// One copy in FROM.
#[derive(Clone, Debug)]
pub struct Source {
    /// The copy.
    pub replica: Replica,
    /// How it is joined with those before it.
    pub join: SourceJoin,
}

/// How a source is joined with those before it.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceJoin {
    /// It is the first.
    First,
    /// The pairs for which all conditions hold.
    Inner(Vec<SiteExpr>),
    /// As `Inner`, and what is before it with NULLs where no pair is.
    Left(Vec<SiteExpr>),
}

/// A column of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its value.
    pub expr: SiteExpr,
    /// Its name and type, as the engine knows it.
    pub name: String,
    /// Its type.
    pub ty: SqlType,
    /// May be NULL.
    pub nullable: bool,
}

/// One key of an order.
#[derive(Clone, Debug, PartialEq)]
pub struct SortKey {
    /// What is compared; text by its bytes.
    pub expr: SiteExpr,
    /// Backwards.
    pub descending: bool,
    /// Where NULLs go.
    pub nulls_first: bool,
}

/// An expression over the sources' columns.
#[derive(Clone, Debug, PartialEq)]
pub enum SiteExpr {
    /// A column of a source, by its position in `Table::columns`.
    Column {
        /// Position in [`SiteQuery::sources`].
        source: usize,
        /// Position in the table.
        position: usize,
        /// Its type.
        ty: SqlType,
    },
    /// A constant.
    Value(SqlType, Value),
    /// A comparison of two values of types that compare; text by its bytes.
    Compare(Comparison, Box<SiteExpr>, Box<SiteExpr>),
    /// All hold, with SQL's three values.
    And(Vec<SiteExpr>),
    /// One holds.
    Or(Vec<SiteExpr>),
    /// Does not hold.
    Not(Box<SiteExpr>),
    /// `IS NULL`.
    IsNull(Box<SiteExpr>),
    /// `expr IN (list)`.
    In(Box<SiteExpr>, Vec<SiteExpr>),
    /// `expr LIKE pattern`, with backslash as escape and attention to case.
    Like(Box<SiteExpr>, Box<SiteExpr>),
    /// Arithmetic whose operands are of the type of the result. Overflow is an error.
    Arithmetic(Arithmetic, Box<SiteExpr>, Box<SiteExpr>, SqlType),
    /// `CASE WHEN condition THEN value … ELSE value END`.
    Case {
        /// Conditions with their values.
        branches: Vec<(SiteExpr, SiteExpr)>,
        /// The value where none holds; `None`: NULL.
        otherwise: Option<Box<SiteExpr>>,
        /// The values' type.
        ty: SqlType,
    },
    /// The first that is not NULL.
    Coalesce(Vec<SiteExpr>, SqlType),
    /// A number as a wider one.
    Widen(Box<SiteExpr>, SqlType),
    /// An aggregate over the rows of a group; `None`: `count(*)`.
    Aggregate {
        /// What is computed.
        function: Aggregate,
        /// Of which values; NULLs are left out.
        argument: Option<Box<SiteExpr>>,
        /// Of different values only.
        distinct: bool,
        /// The result's type.
        ty: SqlType,
    },
    /// A function of a row among the rows of its partition; of a query that does not group.
    Window {
        /// What is computed.
        function: WindowFunction,
        /// Rows that have these in common are a partition; NULLs are alike.
        partition: Vec<SiteExpr>,
        /// The order of a partition's rows.
        order: Vec<SortKey>,
        /// The result's type.
        ty: SqlType,
    },
}

/// Functions of a row among others.
#[derive(Clone, Debug, PartialEq)]
pub enum WindowFunction {
    /// `row_number`
    RowNumber,
    /// `rank`
    Rank,
    /// `dense_rank`
    DenseRank,
    /// An aggregate of a value, or `count(*)`: over the partition, or, if that has an order, over its rows up to the last peer of this one.
    Aggregate(Aggregate, Option<Box<SiteExpr>>),
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Arithmetic that is the same everywhere. Division is not: engines differ in its scale and in what zero does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
}

/// Aggregates that sites compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// `count`
    Count,
    /// `sum`
    Sum,
    /// `min`; of text, by its bytes.
    Min,
    /// `max`; of text, by its bytes.
    Max,
    /// `bool_and`
    Every,
    /// `bool_or`
    Any,
}

impl SiteExpr {
    /// The type of its values.
    pub fn ty(&self) -> SqlType {
        match self {
            SiteExpr::Column { ty, .. }
            | SiteExpr::Value(ty, _)
            | SiteExpr::Arithmetic(_, _, _, ty)
            | SiteExpr::Case { ty, .. }
            | SiteExpr::Coalesce(_, ty)
            | SiteExpr::Widen(_, ty)
            | SiteExpr::Aggregate { ty, .. }
            | SiteExpr::Window { ty, .. } => ty.clone(),
            SiteExpr::Compare(..)
            | SiteExpr::And(_)
            | SiteExpr::Or(_)
            | SiteExpr::Not(_)
            | SiteExpr::IsNull(_)
            | SiteExpr::In(..)
            | SiteExpr::Like(..) => SqlType::Bool,
        }
    }

    /// Whether a row's value depends on other rows of a window.
    pub fn has_window(&self) -> bool {
        matches!(self, SiteExpr::Window { .. }) || self.parts().into_iter().any(SiteExpr::has_window)
    }

    /// What it is made of.
    pub fn parts(&self) -> Vec<&SiteExpr> {
        match self {
            SiteExpr::Column { .. } | SiteExpr::Value(..) => vec![],
            SiteExpr::Compare(_, a, b) | SiteExpr::Like(a, b) | SiteExpr::Arithmetic(_, a, b, _) => vec![a, b],
            SiteExpr::And(list) | SiteExpr::Or(list) | SiteExpr::Coalesce(list, _) => list.iter().collect(),
            SiteExpr::Not(inner) | SiteExpr::IsNull(inner) | SiteExpr::Widen(inner, _) => vec![inner],
            SiteExpr::In(left, list) => std::iter::once(left.as_ref()).chain(list).collect(),
            SiteExpr::Case { branches, otherwise, .. } => {
                branches.iter().flat_map(|(condition, value)| [condition, value]).chain(otherwise.as_deref()).collect()
            }
            SiteExpr::Aggregate { argument, .. } => argument.as_deref().into_iter().collect(),
            SiteExpr::Window { function, partition, order, .. } => {
                let argument = match function {
                    WindowFunction::Aggregate(_, argument) => argument.as_deref(),
                    WindowFunction::RowNumber | WindowFunction::Rank | WindowFunction::DenseRank => None,
                };
                argument.into_iter().chain(partition).chain(order.iter().map(|key| &key.expr)).collect()
            }
        }
    }
}
