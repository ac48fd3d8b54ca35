//! Parts of a localized plan as one query of one site.
//!
//! Invariant: the query's answer has one column for each column of the plan, in its order, and the rows of the plan.

use super::expr::{Reason, Scope, compare, is_key};
use crate::read::localize::table_of;
use atoll_model::{SiteId, SqlType};
use atoll_ports::query::{Comparison, Output, SiteExpr, SiteQuery, SortKey, Source, SourceJoin, WindowFunction};
use atoll_ports::site::Replica;
use datafusion::common::{DFSchema, NullEquality};
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, Filter, Join, JoinType, LogicalPlan, TableScan, Window};

/// A query in the making.
#[derive(Clone)]
pub(super) struct Block {
    /// Where it runs.
    pub(super) site: SiteId,
    query: SiteQuery,
    /// For each column of the plan, what it is.
    columns: Vec<SiteExpr>,
}

impl Block {
    /// The query that stands for a plan.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn of(plan: &LogicalPlan) -> Result<Block, Reason> {
        match plan {
            LogicalPlan::TableScan(scan) => Self::scan(scan),
            LogicalPlan::SubqueryAlias(alias) => Self::of(&alias.input),
            LogicalPlan::Filter(filter) => Self::of(&filter.input)?.filter(filter),
            LogicalPlan::Projection(projection) => {
                let below = Self::of(&projection.input)?;
                let scope = Scope { schema: projection.input.schema(), columns: &below.columns };
                let columns = projection.expr.iter().map(|e| scope.expr(e)).collect::<Result<Vec<_>, _>>()?;
                Ok(Block { columns, ..below })
            }
            LogicalPlan::Aggregate(aggregate) => Self::of(&aggregate.input)?.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let below = Self::of(input)?;
                let groups = below.columns.clone();
                below.group(groups)
            }
            LogicalPlan::Window(window) => Self::of(&window.input)?.window(window),
            LogicalPlan::Join(join) => Self::of(&join.left)?.join(Self::of(&join.right)?, join),
            other => {
                Err(format!("{} is done here", other.display().to_string().split([':', ' ']).next().unwrap_or("it")))
            }
        }
    }

    fn scan(scan: &TableScan) -> Result<Block, Reason> {
        let table = table_of(scan).ok_or("a table of the system")?;
        let (at, site) = table.only_copy().ok_or("fragments of several sites, or embedded ones")?;
        let columns = match &scan.projection {
            Some(projection) => projection.iter().map(|i| table.visible[*i]).collect(),
            None => table.visible.to_vec(),
        };
        let replica = Replica { site, fragment: table.table.fragments[at].id, table: table.table.clone() };
        let column =
            |position: usize| SiteExpr::Column { source: 0, position, ty: table.table.columns[position].ty.clone() };
        Ok(Block {
            site,
            columns: columns.into_iter().map(column).collect(),
            query: SiteQuery {
                sources: vec![Source { replica, join: SourceJoin::First }],
                filter: vec![],
                group: None,
                having: vec![],
                outputs: vec![],
                order: vec![],
                offset: 0,
                limit: None,
                batch_size: 0,
            },
        })
    }

    fn grouped(&self) -> bool {
        self.query.group.is_some()
    }

    /// Whether a column's value depends on other rows: fewer rows would change it.
    fn windowed(&self) -> bool {
        self.columns.iter().any(SiteExpr::has_window)
    }

    fn filter(mut self, filter: &Filter) -> Result<Block, Reason> {
        for condition in split_conjunction(&filter.predicate) {
            self.require(filter.input.schema(), condition)?;
        }
        Ok(self)
    }

    /// Adds a condition on the rows.
    ///
    /// # Errors
    /// Why it cannot be asked at the site; the block is as it was.
    pub(super) fn require(&mut self, schema: &DFSchema, condition: &Expr) -> Result<(), Reason> {
        if self.windowed() {
            return Err("a condition on what windows gave".into());
        }
        let condition = Scope { schema, columns: &self.columns }.expr(condition)?;
        let grouped = self.grouped();
        if grouped { &mut self.query.having } else { &mut self.query.filter }.push(condition);
        Ok(())
    }

    fn aggregate(self, aggregate: &Aggregate) -> Result<Block, Reason> {
        let scope = Scope { schema: aggregate.input.schema(), columns: &self.columns };
        let groups = aggregate.group_expr.iter().map(|e| scope.expr(e)).collect::<Result<Vec<_>, _>>()?;
        let values = aggregate.aggr_expr.iter().map(|e| scope.aggregate(e)).collect::<Result<Vec<_>, _>>()?;
        let mut block = self.group(groups)?;
        block.columns.extend(values);
        Ok(block)
    }

    fn group(mut self, groups: Vec<SiteExpr>) -> Result<Block, Reason> {
        if self.grouped() || self.windowed() {
            return Err("groups of groups, or of what windows gave".into());
        }
        for key in &groups {
            if !is_key(key) {
                return Err(format!("groups by {}", key.ty()));
            }
        }
        self.columns.clone_from(&groups);
        self.query.group = Some(groups);
        Ok(self)
    }

    fn window(mut self, window: &Window) -> Result<Block, Reason> {
        if self.grouped() {
            return Err("windows over groups".into());
        }
        let scope = Scope { schema: window.input.schema(), columns: &self.columns };
        let values = window.window_expr.iter().map(|e| scope.window(e)).collect::<Result<Vec<_>, _>>()?;
        for value in &values {
            if value.parts().into_iter().any(SiteExpr::has_window) {
                return Err("windows over what windows gave".into());
            }
        }
        self.columns.extend(values);
        Ok(self)
    }

    fn join(mut self, right: Block, join: &Join) -> Result<Block, Reason> {
        if self.site != right.site {
            return Err("a join of several sites".into());
        }
        if self.grouped() || right.grouped() {
            return Err("a join of groups".into());
        }
        if self.windowed() || right.windowed() {
            return Err("a join of what windows gave".into());
        }
        if join.null_equality != NullEquality::NullEqualsNothing {
            return Err("a join that finds NULLs equal".into());
        }
        let shift = self.query.sources.len();
        let shifted = |e: &SiteExpr| moved(e, shift);
        let right_columns: Vec<SiteExpr> = right.columns.iter().map(shifted).collect();
        let mut on = vec![];
        for (l, r) in &join.on {
            let l = Scope { schema: join.left.schema(), columns: &self.columns }.expr(l)?;
            let r = Scope { schema: join.right.schema(), columns: &right_columns }.expr(r)?;
            on.push(compare(Comparison::Equal, l, r)?);
        }
        let columns: Vec<SiteExpr> = self.columns.iter().cloned().chain(right_columns).collect();
        if let Some(filter) = &join.filter {
            let schema = join.left.schema().join(join.right.schema()).map_err(|e| e.to_string())?;
            on.push(Scope { schema: &schema, columns: &columns }.expr(filter)?);
        }
        let first = match join.join_type {
            JoinType::Inner => {
                self.query.filter.extend(right.query.filter.iter().map(shifted));
                SourceJoin::Inner(on)
            }
            JoinType::Left => {
                let plain = columns[self.columns.len()..].iter().all(|c| matches!(c, SiteExpr::Column { .. }));
                if right.query.sources.len() > 1 || !plain {
                    return Err("an outer join of more than a table".into());
                }
                on.extend(right.query.filter.iter().map(shifted));
                SourceJoin::Left(on)
            }
            other => return Err(format!("a {other} join")),
        };
        let mut first = Some(first);
        for source in right.query.sources {
            let join = match source.join {
                SourceJoin::First => first.take().unwrap_or(SourceJoin::First),
                SourceJoin::Inner(on) => SourceJoin::Inner(on.iter().map(shifted).collect()),
                SourceJoin::Left(on) => SourceJoin::Left(on.iter().map(shifted).collect()),
            };
            self.query.sources.push(Source { replica: source.replica, join });
        }
        self.columns = columns;
        Ok(self)
    }

    /// Puts the answer into an order, and cuts it off.
    ///
    /// # Errors
    /// Why it cannot be done at the site; then the block is as it was.
    pub(super) fn sort(&mut self, schema: &DFSchema, keys: &[SortExpr], fetch: Option<usize>) -> Result<(), Reason> {
        self.query.order = Scope { schema, columns: &self.columns }.order(keys)?;
        self.query.limit = fetch.map(|n| n as u64);
        Ok(())
    }

    /// Cuts the answer off.
    pub(super) fn limit(&mut self, rows: usize) {
        let rows = rows as u64;
        self.query.limit = Some(self.query.limit.map_or(rows, |limit| limit.min(rows)));
    }

    /// Rows of the sources, as estimates tell, and conditions on them.
    pub(super) fn shape(&self) -> (&[Source], bool, Option<u64>, &Option<Vec<SiteExpr>>) {
        (&self.query.sources, !self.query.filter.is_empty(), self.query.limit, &self.query.group)
    }

    /// For each key of the order, the column that it is; `None`: it is none.
    pub(super) fn order_columns(&self) -> Option<Vec<(usize, bool, bool)>> {
        let column = |key: &SortKey| {
            let at = self.columns.iter().position(|c| *c == key.expr)?;
            Some((at, key.descending, key.nulls_first))
        };
        self.query.order.iter().map(column).collect()
    }

    /// The whole query.
    ///
    /// # Errors
    /// `Reason`: a column's type cannot be told.
    pub(super) fn finish(mut self, schema: &DFSchema) -> Result<SiteQuery, Reason> {
        for (at, (expr, field)) in self.columns.into_iter().zip(schema.fields()).enumerate() {
            let ty = match &expr {
                SiteExpr::Column { ty, .. } => ty.clone(),
                _ => SqlType::of_field(field).ok_or_else(|| format!("values of {}", field.data_type()))?,
            };
            self.query.outputs.push(Output { expr, name: format!("c{at}"), ty, nullable: true });
        }
        Ok(self.query)
    }
}

/// An expression over sources that have moved behind others.
fn moved(expr: &SiteExpr, shift: usize) -> SiteExpr {
    let one = |e: &SiteExpr| Box::new(moved(e, shift));
    let all = |list: &[SiteExpr]| list.iter().map(|e| moved(e, shift)).collect::<Vec<_>>();
    match expr {
        SiteExpr::Column { source, position, ty } => {
            SiteExpr::Column { source: source + shift, position: *position, ty: ty.clone() }
        }
        SiteExpr::Value(..) => expr.clone(),
        SiteExpr::Compare(how, a, b) => SiteExpr::Compare(*how, one(a), one(b)),
        SiteExpr::And(list) => SiteExpr::And(all(list)),
        SiteExpr::Or(list) => SiteExpr::Or(all(list)),
        SiteExpr::Not(e) => SiteExpr::Not(one(e)),
        SiteExpr::IsNull(e) => SiteExpr::IsNull(one(e)),
        SiteExpr::In(e, list) => SiteExpr::In(one(e), all(list)),
        SiteExpr::Like(a, b) => SiteExpr::Like(one(a), one(b)),
        SiteExpr::Arithmetic(how, a, b, ty) => SiteExpr::Arithmetic(*how, one(a), one(b), ty.clone()),
        SiteExpr::Case { branches, otherwise, ty } => SiteExpr::Case {
            branches: branches.iter().map(|(a, b)| (moved(a, shift), moved(b, shift))).collect(),
            otherwise: otherwise.as_deref().map(one),
            ty: ty.clone(),
        },
        SiteExpr::Coalesce(list, ty) => SiteExpr::Coalesce(all(list), ty.clone()),
        SiteExpr::Widen(e, ty) => SiteExpr::Widen(one(e), ty.clone()),
        SiteExpr::Aggregate { function, argument, distinct, ty } => SiteExpr::Aggregate {
            function: *function,
            argument: argument.as_deref().map(one),
            distinct: *distinct,
            ty: ty.clone(),
        },
        SiteExpr::Window { function, partition, order, ty } => SiteExpr::Window {
            function: match function {
                WindowFunction::Aggregate(function, argument) => {
                    WindowFunction::Aggregate(*function, argument.as_deref().map(one))
                }
                WindowFunction::RowNumber | WindowFunction::Rank | WindowFunction::DenseRank => function.clone(),
            },
            partition: all(partition),
            order: order.iter().map(|key| SortKey { expr: moved(&key.expr, shift), ..*key }).collect(),
            ty: ty.clone(),
        },
    }
}
