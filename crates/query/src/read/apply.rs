//! Subqueries that no join can stand for are run once for each distinct row of the outer values that they see.
//!
//! DataFusion turns a correlated subquery into a join where its shape allows; elsewhere (a scalar subquery without an aggregate, EXISTS or IN in
//! a select list, `ARRAY(SELECT …)`, correlation by other than equality below an aggregate) it refuses. Here the analyzer puts a
//! function in the subquery's place: the dependent join of Neumann and Kemper, *Unnesting Arbitrary Queries* (BTW 2015), evaluated
//! with one run for each distinct binding of a batch.
//!
//! Invariant: the subquery's plan inside the function has no reference to the outside: outer columns and the statement's
//! parameters are the function's arguments, and placeholders `$outer0`, `$outer1`, … stand for them inside.

use super::engine::Engine;
use super::error::external;
use async_trait::async_trait;
use atoll_model::{Error, ErrorKind};
use atoll_ports::cluster::Transaction;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StructArray, new_null_array};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion, TreeNodeRewriter};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Column, DFSchema, ParamValues, Result, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::expr::{Exists, InSubquery, Placeholder, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Distinct, Expr, JoinType, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Subquery, TypeSignature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;
use futures::TryStreamExt;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

/// The function's name, also in EXPLAIN.
pub(crate) const NAME: &str = "atoll_apply";

/// Stands around a scalar subquery that is to give all its rows as an array: `ARRAY(SELECT …)`.
pub(crate) const ARRAY: &str = "atoll_array";

/// What becomes of the subquery's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// The one value, or NULL.
    Scalar,
    /// All values.
    Array,
    /// Whether there is a row.
    Exists { negated: bool },
    /// Whether the first argument is among the values.
    In { negated: bool },
    /// All rows, as structs of fields [`field_name`]; `or_null`: one NULL where there is none.
    Rows { or_null: bool },
}

/// What a subquery's column is called in the struct of a row.
pub(super) fn field_name(at: usize) -> String {
    format!("c{at}")
}

/// A subquery as a function of the outer values that it sees.
struct Apply {
    kind: Kind,
    plan: Arc<LogicalPlan>,
    /// Placeholders' names, in the order of the arguments (behind the left operand of IN).
    names: Vec<String>,
    result: FieldRef,
    signature: Signature,
    optimized: OnceLock<Arc<LogicalPlan>>,
}

impl fmt::Debug for Apply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apply").field("kind", &self.kind).field("names", &self.names).finish_non_exhaustive()
    }
}

impl PartialEq for Apply {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.names == other.names && self.plan == other.plan
    }
}

impl Eq for Apply {}

impl Hash for Apply {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
        self.plan.hash(state);
    }
}

impl ScalarUDFImpl for Apply {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.result.data_type().clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(self.result.clone())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(external(Error::internal("a subquery was to be run outside of a query")))
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Apply {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let running = args
            .config_options
            .extensions
            .get::<RunningQuery>()
            .and_then(|r| r.0.clone())
            .ok_or_else(|| external(Error::unsupported("subqueries cannot be used here")))?;
        let count = args.number_rows;
        let arrays: Vec<ArrayRef> = args
            .args
            .iter()
            .map(|a| match a {
                ColumnarValue::Array(a) => Ok(a.clone()),
                ColumnarValue::Scalar(s) => s.to_array_of_size(count),
            })
            .collect::<Result<_>>()?;
        let (left, outer) = match self.kind {
            Kind::In { .. } => (arrays.first(), arrays.get(1..).unwrap_or_default()),
            _ => (None, arrays.as_slice()),
        };
        let mut known: HashMap<Vec<ScalarValue>, ArrayRef> = HashMap::new();
        let mut results = Vec::with_capacity(count);
        for row in 0..count {
            let binding = outer.iter().map(|a| ScalarValue::try_from_array(a, row)).collect::<Result<Vec<_>>>()?;
            let values = match known.get(&binding) {
                Some(values) => values.clone(),
                None => {
                    let values = self.run(&running, &binding).await?;
                    known.insert(binding, values.clone());
                    values
                }
            };
            let left = left.map(|l| ScalarValue::try_from_array(l, row)).transpose()?;
            results.push(self.result_of(&values, left.as_ref())?);
        }
        if results.is_empty() {
            return Ok(ColumnarValue::Array(datafusion::arrow::array::new_empty_array(self.result.data_type())));
        }
        Ok(ColumnarValue::Array(ScalarValue::iter_to_array(results)?))
    }
}

impl Apply {
    /// The subquery's one column for one binding.
    async fn run(&self, running: &Running, binding: &[ScalarValue]) -> Result<ArrayRef> {
        let plan = match self.optimized.get() {
            Some(plan) => plan.clone(),
            None => {
                let plan = Arc::new(running.state.optimize(&self.plan)?);
                self.optimized.get_or_init(|| plan).clone()
            }
        };
        let values: HashMap<String, ScalarAndMetadata> = self
            .names
            .iter()
            .zip(binding)
            .map(|(name, value)| (name.trim_start_matches('$').to_owned(), ScalarAndMetadata::new(value.clone(), None)))
            .collect();
        let plan = plan.as_ref().clone().with_param_values(ParamValues::Map(values))?;
        let (schema, mut stream) = running
            .engine
            .execute(&running.state, &plan, running.txn.clone(), running.interrupt.clone())
            .await
            .map_err(external)?;
        let enough = match self.kind {
            Kind::Scalar => 2,
            Kind::Exists { .. } => 1,
            Kind::Array | Kind::In { .. } | Kind::Rows { .. } => usize::MAX,
        };
        let mut columns: Vec<ArrayRef> = vec![];
        let mut rows = 0;
        while let Some(batch) = stream.try_next().await.map_err(external)? {
            rows += batch.num_rows();
            columns.push(match (self.kind, batch.columns().first()) {
                (Kind::Rows { .. }, _) => self.structs(batch)?,
                (_, Some(column)) => column.clone(),
                // SELECT without columns: EXISTS alone may have it.
                (_, None) => Arc::new(datafusion::arrow::array::NullArray::new(batch.num_rows())),
            });
            if rows >= enough {
                break;
            }
        }
        if rows > 1 && self.kind == Kind::Scalar {
            let message = "more than one row returned by a subquery used as an expression";
            return Err(external(Error::new(ErrorKind::Cardinality, message)));
        }
        let parts: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
        match parts.as_slice() {
            [] => {
                let first = schema.fields().first().map_or(DataType::Null, |f| f.data_type().clone());
                let ty = self.row_type().unwrap_or(first);
                Ok(datafusion::arrow::array::new_empty_array(&ty))
            }
            parts => Ok(concat(parts)?),
        }
    }

    /// The type of one row, where rows are asked for.
    fn row_type(&self) -> Option<DataType> {
        match (self.kind, self.result.data_type()) {
            (Kind::Rows { .. }, DataType::List(item)) => Some(item.data_type().clone()),
            _ => None,
        }
    }

    fn structs(&self, batch: RecordBatch) -> Result<ArrayRef> {
        let Some(DataType::Struct(fields)) = self.row_type() else {
            return Err(external(Error::internal("rows of a subquery are no structs")));
        };
        let rows = batch.num_rows();
        let (_, columns, _) = batch.into_parts();
        Ok(Arc::new(StructArray::try_new_with_length(fields, columns, None, rows)?))
    }

    fn result_of(&self, values: &ArrayRef, left: Option<&ScalarValue>) -> Result<ScalarValue> {
        let ty = self.result.data_type();
        Ok(match self.kind {
            Kind::Scalar if values.is_empty() => ScalarValue::try_new_null(ty)?,
            Kind::Scalar => ScalarValue::try_from_array(values, 0)?.cast_to(ty)?,
            Kind::Array => SingleRowListArrayBuilder::new(values.clone()).build_list_scalar().cast_to(ty)?,
            Kind::Rows { or_null } => {
                let none = or_null && values.is_empty();
                let rows = if none { new_null_array(values.data_type(), 1) } else { values.clone() };
                let item = Field::new_list_field(rows.data_type().clone(), true);
                SingleRowListArrayBuilder::new(rows).with_field(&item).build_list_scalar()
            }
            Kind::Exists { negated } => ScalarValue::Boolean(Some(values.is_empty() == negated)),
            Kind::In { negated } => ScalarValue::Boolean(member(values, left)?.map(|found| found != negated)),
        })
    }
}

/// `left IN (values)` with SQL's NULLs.
fn member(values: &ArrayRef, left: Option<&ScalarValue>) -> Result<Option<bool>> {
    if values.is_empty() {
        return Ok(Some(false));
    }
    let Some(left) = left.filter(|l| !l.is_null()) else { return Ok(None) };
    for at in 0..values.len() {
        if !values.is_null(at) && ScalarValue::try_from_array(values, at)?.cast_to(&left.data_type())? == *left {
            return Ok(Some(true));
        }
    }
    Ok(if values.null_count() > 0 { None } else { Some(false) })
}

/// `ARRAY(SELECT …)` until the analyzer puts [`Apply`] there.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ArrayOf {
    signature: Signature,
}

/// The function that [`ARRAY`] names.
pub(crate) fn array_function() -> ScalarUDF {
    ScalarUDF::from(ArrayOf { signature: Signature::any(1, Volatility::Volatile) })
}

impl ScalarUDFImpl for ArrayOf {
    fn name(&self) -> &str {
        ARRAY
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(DataType::new_list(args.first().cloned().unwrap_or(DataType::Null), true))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(args
            .arg_fields
            .first()
            .map_or_else(|| array_field(&Field::new("", DataType::Null, true)), |f| array_field(f)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(external(Error::unsupported("ARRAY(SELECT ...) cannot be used here")))
    }
}

/// What a running query gives to the subqueries in it.
pub(crate) struct Running {
    pub(crate) engine: Engine,
    pub(crate) state: SessionState,
    pub(crate) txn: Arc<dyn Transaction>,
    pub(crate) interrupt: Option<Arc<super::Interrupt>>,
}

/// Carries [`Running`] into the function, as an extension of DataFusion's options.
#[derive(Clone, Default)]
pub(crate) struct RunningQuery(pub(crate) Option<Arc<Running>>);

impl fmt::Debug for RunningQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunningQuery").field(&self.0.is_some()).finish()
    }
}

crate::carried::carried!(RunningQuery, "atoll_query");

/// Whether a plan runs subqueries this way.
pub(crate) fn occurs(plan: &LogicalPlan) -> bool {
    let mut found = false;
    // The walk fails only if the closure does.
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            found |= is_apply(e);
            Ok(TreeNodeRecursion::Continue)
        })
    });
    found
}

fn is_apply(expr: &Expr) -> bool {
    expr.exists(|e| Ok(matches!(e, Expr::ScalarFunction(f) if f.name() == NAME))).unwrap_or(false)
}

/// The rule.
#[derive(Debug)]
pub(crate) struct ApplySubqueries;

impl AnalyzerRule for ApplySubqueries {
    fn name(&self) -> &str {
        "apply_subqueries"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            let node = super::lateral::first(node)?.data;
            if let LogicalPlan::Join(join) = node {
                return super::lateral::replace(join);
            }
            if !node.expressions().iter().any(has_subquery) {
                return Ok(Transformed::no(node));
            }
            let mut schema = DFSchema::empty();
            for input in node.inputs() {
                schema.merge(input.schema());
            }
            let place = match &node {
                LogicalPlan::Filter(_) => Place::Filter,
                LogicalPlan::Projection(_) => Place::Projection,
                LogicalPlan::Aggregate(_) => Place::Aggregate,
                // A function that waits cannot be evaluated elsewhere.
                _ => return Ok(Transformed::no(node)),
            };
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let mut rewriter = Rewriter { schema: &schema, place };
                let rewritten = expr.rewrite(&mut rewriter)?;
                Ok(if rewritten.transformed { rewritten.update_data(|e| name.restore(e)) } else { rewritten })
            })?
            .map_data(LogicalPlan::recompute_schema)
        })
        .data()
    }
}

pub(super) fn has_subquery(expr: &Expr) -> bool {
    expr.exists(|e| Ok(matches!(e, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_)))).unwrap_or(false)
}

/// The kind of node in which a subquery stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Filter,
    Projection,
    Aggregate,
}

pub(super) struct Rewriter<'a> {
    schema: &'a DFSchema,
    place: Place,
}

impl TreeNodeRewriter for Rewriter<'_> {
    type Node = Expr;

    fn f_down(&mut self, expr: Expr) -> Result<Transformed<Expr>> {
        let made = match &expr {
            Expr::ScalarFunction(f) if f.name() == ARRAY => match f.args.as_slice() {
                [Expr::ScalarSubquery(subquery)] => Some(self.function(Kind::Array, subquery, None)?),
                _ => None,
            },
            Expr::ScalarSubquery(subquery) if self.must_apply_scalar(subquery)? => {
                Some(self.function(Kind::Scalar, subquery, None)?)
            }
            Expr::Exists(Exists { subquery, negated }) if self.must_apply_predicate(subquery)? => {
                Some(self.function(Kind::Exists { negated: *negated }, subquery, None)?)
            }
            Expr::InSubquery(InSubquery { expr, subquery, negated }) if self.must_apply_predicate(subquery)? => {
                Some(self.function(Kind::In { negated: *negated }, subquery, Some(expr.as_ref().clone()))?)
            }
            _ => None,
        };
        Ok(match made {
            Some(made) => Transformed::new(made, true, TreeNodeRecursion::Jump),
            None => Transformed::no(expr),
        })
    }
}

impl<'a> Rewriter<'a> {
    /// For subqueries that see these columns.
    pub(super) fn within(schema: &'a DFSchema) -> Self {
        Rewriter { schema, place: Place::Projection }
    }

    /// EXISTS and IN become joins in a filter, if their correlation can be pulled up.
    fn must_apply_predicate(&self, subquery: &Subquery) -> Result<bool> {
        if self.place != Place::Filter {
            return Ok(true);
        }
        if subquery.outer_ref_columns.is_empty() {
            return Ok(false);
        }
        Ok(!self.is_local(subquery)? || !pulls_up(subquery, true)?)
    }

    /// A scalar subquery without correlation runs once. With it, DataFusion joins what has an aggregate.
    fn must_apply_scalar(&self, subquery: &Subquery) -> Result<bool> {
        if subquery.outer_ref_columns.is_empty() {
            return Ok(false);
        }
        if self.place == Place::Aggregate || !aggregates(&subquery.subquery) || !self.is_local(subquery)? {
            return Ok(true);
        }
        Ok(!pulls_up(subquery, false)?)
    }

    /// Whether all that the subquery sees of the outside is this node's input, and no function of this module is in it.
    pub(super) fn is_local(&self, subquery: &Subquery) -> Result<bool> {
        let mut local = !occurs(&subquery.subquery);
        subquery.subquery.apply_with_subqueries(|node| {
            node.apply_expressions(|e| {
                e.apply(|e| {
                    if let Expr::OuterReferenceColumn(_, column) = e {
                        local &= self.schema.has_column(column);
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(local)
    }

    pub(super) fn function(&self, kind: Kind, subquery: &Subquery, left: Option<Expr>) -> Result<Expr> {
        let mut names: Vec<String> = vec![];
        let mut args: Vec<Expr> = left.into_iter().collect();
        let mut outer: Vec<(Column, String)> = vec![];
        let plan = subquery.subquery.as_ref().clone().transform_up_with_subqueries(|node| {
            let mut schema = DFSchema::empty();
            for input in node.inputs() {
                schema.merge(input.schema());
            }
            node.map_expressions(|expr| {
                expr.transform_up(|e| match e {
                    Expr::OuterReferenceColumn(field, column) => {
                        if inner_scope(&subquery.subquery, &column) {
                            return Ok(Transformed::no(Expr::OuterReferenceColumn(field, column)));
                        }
                        let name = match outer.iter().find(|(c, _)| *c == column) {
                            Some((_, name)) => name.clone(),
                            None => {
                                let name = format!("$outer{}", outer.len());
                                names.push(name.clone());
                                args.push(if self.schema.has_column(&column) {
                                    Expr::Column(column.clone())
                                } else {
                                    // Of a query further out.
                                    Expr::OuterReferenceColumn(field.clone(), column.clone())
                                });
                                outer.push((column, name.clone()));
                                name
                            }
                        };
                        Ok(Transformed::yes(Expr::Placeholder(Placeholder::new_with_field(name, Some(field)))))
                    }
                    Expr::Placeholder(p) => {
                        if !p.id.starts_with("$outer") && !names.contains(&p.id) {
                            names.push(p.id.clone());
                            args.push(Expr::Placeholder(p.clone()));
                        }
                        Ok(Transformed::no(Expr::Placeholder(p)))
                    }
                    e => Ok(Transformed::no(e)),
                })
            })
        })?;
        let first = subquery.subquery.schema().fields().first().cloned();
        let result = match (kind, first) {
            (Kind::Scalar, Some(field)) => Arc::new(field.as_ref().clone().with_nullable(true)),
            (Kind::Array, Some(field)) => array_field(&field),
            (Kind::Rows { .. }, _) => rows_field(subquery.subquery.schema()),
            _ => Arc::new(Field::new(NAME, DataType::Boolean, true)),
        };
        let apply = Apply {
            kind,
            plan: Arc::new(plan.data),
            names,
            result,
            signature: Signature::one_of(
                vec![TypeSignature::Nullary, TypeSignature::VariadicAny],
                Volatility::Volatile,
            ),
            optimized: OnceLock::new(),
        };
        let function: ScalarUDF = AsyncScalarUDF::new(Arc::new(apply)).into_scalar_udf();
        Ok(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), args)))
    }
}

/// The field of an array of a field's values.
fn array_field(item: &Field) -> FieldRef {
    match atoll_model::SqlType::of_field(item) {
        Some(ty) => Arc::new(atoll_model::SqlType::Array(Box::new(ty)).field("array", true)),
        None => Arc::new(Field::new_list("array", Field::new_list_field(item.data_type().clone(), true), true)),
    }
}

/// The field of an array of a subquery's rows.
fn rows_field(schema: &DFSchema) -> FieldRef {
    let field = |(at, field): (usize, &FieldRef)| field.as_ref().clone().with_name(field_name(at)).with_nullable(true);
    let row = DataType::Struct(schema.fields().iter().enumerate().map(field).collect());
    Arc::new(Field::new_list("rows", Field::new_list_field(row, true), true))
}

/// Whether a column that a query nested in `plan` sees as outer belongs to a query within `plan`.
fn inner_scope(plan: &LogicalPlan, column: &Column) -> bool {
    let mut found = false;
    // The walk fails only if the closure does.
    let _ = plan.apply(|node| {
        let nested = node.expressions().iter().any(has_subquery);
        found |= nested && node.inputs().iter().any(|i| i.schema().has_column(column));
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// Whether DataFusion knows of a correlated plan that it gives at most one row for each outer row.
fn aggregates(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(p) => aggregates(&p.input),
        LogicalPlan::SubqueryAlias(a) => aggregates(&a.input),
        LogicalPlan::Filter(f) => matches!(f.input.as_ref(), LogicalPlan::Aggregate(a) if a.group_expr.is_empty()),
        LogicalPlan::Aggregate(a) => a.group_expr.is_empty() && !a.aggr_expr.is_empty(),
        _ => false,
    }
}

/// Whether DataFusion can join a correlated plan, by pulling its conditions up.
pub(super) fn pulls_up(subquery: &Subquery, exists: bool) -> Result<bool> {
    if !conditions_rise(&subquery.subquery, exists)? {
        return Ok(false);
    }
    let mut pull = PullUpCorrelatedExpr::new().with_need_handle_count_bug(!exists).with_exists_sub_query(exists);
    subquery.subquery.as_ref().clone().rewrite(&mut pull)?;
    Ok(pull.can_pull_up && (exists || pull.pull_up_having_expr.is_none()))
}

/// Whether a condition on outer columns may be asked above instead of below: not through what computes over several rows, which
/// DataFusion does not look at; and where rows of an aggregate over nothing would be missed.
fn conditions_rise(plan: &LogicalPlan, predicate: bool) -> Result<bool> {
    let mut rise = true;
    let mut aggregates = 0;
    plan.apply(|node| {
        let passes = match node {
            LogicalPlan::Filter(_)
            | LogicalPlan::Projection(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Distinct(Distinct::All(_)) => true,
            LogicalPlan::Limit(limit) => limit.skip.is_none(),
            LogicalPlan::Aggregate(aggregate) => {
                aggregates += 1;
                aggregates == 1 && !(predicate && aggregate.group_expr.is_empty())
            }
            LogicalPlan::Join(join) => join.join_type == JoinType::Inner,
            _ => false,
        };
        rise &= passes || node.all_out_ref_exprs().is_empty();
        Ok(if rise { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(rise)
}
