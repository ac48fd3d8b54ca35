//! Arrays as the system catalogs have them: `int2vector` and `oidvector`, and functions that number an array's items.
//!
//! Invariant: a vector is an array whose field says so ([`VECTOR`]); its subscripts begin at 0 and its text is its items with spaces
//! between them, as in PostgreSQL. Every other array begins at 1.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int32Array, ListArray, StructArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{cast, concat};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use std::sync::{Arc, LazyLock};

/// The metadata key of a vector's field.
pub const VECTOR: &str = "atoll.vector";

/// The metadata key of a field whose `bigint` is an object id.
pub const OID: &str = "atoll.oid";

/// Whether a field is a vector. A cast's result keeps the metadata of what was cast.
pub(crate) fn is_vector(field: &Field) -> bool {
    field.data_type().is_list() && field.metadata().contains_key(VECTOR)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// `generate_subscripts(array, 1)`, as an array
    Subscripts,
    /// `_pg_expandarray(array)`, as an array of records
    Expand,
    /// A vector's item.
    Element,
    /// A vector's text.
    Text,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Vectors {
    kind: Kind,
    signature: Signature,
}

fn function(kind: Kind, arguments: usize) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(Vectors { kind, signature: Signature::any(arguments, Volatility::Immutable) }))
}

static ELEMENT: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function(Kind::Element, 2));
static TEXT: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| function(Kind::Text, 1));

/// The functions that statements call by name.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![function(Kind::Subscripts, 2), function(Kind::Expand, 1), ELEMENT.clone(), TEXT.clone()]
}

fn item(ty: &DataType) -> Result<FieldRef> {
    match ty {
        DataType::List(item) => Ok(item.clone()),
        DataType::Null => Ok(Arc::new(Field::new_list_field(DataType::Int32, true))),
        other => exec_err!("{other} is not an array"),
    }
}

fn record(ty: &DataType) -> Result<Fields> {
    Ok(vec![Field::new("x", item(ty)?.data_type().clone(), true), Field::new("n", DataType::Int32, true)].into())
}

impl ScalarUDFImpl for Vectors {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Subscripts => "atoll_subscripts",
            Kind::Expand => "atoll_expandarray",
            Kind::Element => "atoll_vector_element",
            Kind::Text => "atoll_vector_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        let array = args.first().unwrap_or(&DataType::Null);
        Ok(match self.kind {
            Kind::Subscripts => DataType::new_list(DataType::Int32, true),
            Kind::Expand => DataType::new_list(DataType::Struct(record(array)?), true),
            Kind::Element => item(array)?.data_type().clone(),
            Kind::Text => DataType::Utf8,
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let first: i32 = if args.arg_fields.first().is_some_and(|f| is_vector(f)) { 0 } else { 1 };
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(column) = arrays.first() else { return exec_err!("{} without an array", self.name()) };
        let Some(lists) = column.as_list_opt::<i32>() else {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_new_null(args.return_field.data_type())?));
        };
        let result: ArrayRef = match self.kind {
            Kind::Subscripts => {
                let numbers = lists.iter().map(|l| l.map_or(0, |l| l.len())).flat_map(|n| (first..).take(n));
                Arc::new(ListArray::try_new(
                    Arc::new(Field::new_list_field(DataType::Int32, true)),
                    OffsetBuffer::from_lengths(lists.iter().map(|l| l.map_or(0, |l| l.len()))),
                    Arc::new(Int32Array::from_iter_values(numbers)),
                    None,
                )?)
            }
            Kind::Expand => {
                let fields = record(column.data_type())?;
                let lengths: Vec<usize> = lists.iter().map(|l| l.map_or(0, |l| l.len())).collect();
                let items: Vec<ArrayRef> = lists.iter().flatten().collect();
                let parts: Vec<&dyn Array> = items.iter().map(AsRef::as_ref).collect();
                let values = match parts.as_slice() {
                    [] => datafusion::arrow::array::new_empty_array(fields[0].data_type()),
                    parts => concat(parts)?,
                };
                let numbers: Int32Array = lengths.iter().flat_map(|n| (1..).take(*n)).collect();
                let records = StructArray::try_new(fields.clone(), vec![values, Arc::new(numbers)], None)?;
                Arc::new(ListArray::try_new(
                    Arc::new(Field::new_list_field(DataType::Struct(fields), true)),
                    OffsetBuffer::from_lengths(lengths),
                    Arc::new(records),
                    None,
                )?)
            }
            Kind::Element => {
                let indexes = cast(&arrays[1], &DataType::Int32)?;
                let indexes = indexes.as_primitive::<datafusion::arrow::datatypes::Int32Type>();
                let mut values = vec![];
                for (list, index) in lists.iter().zip(indexes) {
                    let at = index.and_then(|i| usize::try_from(i - first).ok());
                    values.push(match (list, at) {
                        (Some(list), Some(at)) if at < list.len() => ScalarValue::try_from_array(&list, at)?,
                        _ => ScalarValue::try_new_null(args.return_field.data_type())?,
                    });
                }
                if values.is_empty() {
                    datafusion::arrow::array::new_empty_array(args.return_field.data_type())
                } else {
                    ScalarValue::iter_to_array(values)?
                }
            }
            Kind::Text => {
                let mut texts = datafusion::arrow::array::StringBuilder::new();
                for list in lists.iter() {
                    match list {
                        None => texts.append_null(),
                        Some(list) => {
                            let words = cast(&list, &DataType::Utf8)?;
                            let words: Vec<&str> = words.as_string::<i32>().iter().flatten().collect();
                            texts.append_value(words.join(" "));
                        }
                    }
                }
                Arc::new(texts.finish())
            }
        };
        Ok(ColumnarValue::Array(result))
    }
}

/// The rule: subscripts and casts of vectors.
#[derive(Debug)]
pub(crate) struct VectorArrays;

impl AnalyzerRule for VectorArrays {
    fn name(&self) -> &str {
        "vector_arrays"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            let mut schema = DFSchema::empty();
            for input in node.inputs() {
                schema.merge(input.schema());
            }
            if !schema.fields().iter().any(|f| is_vector(f)) {
                return Ok(Transformed::no(node));
            }
            let names = NamePreserver::new(&node);
            let vector = |e: &Expr| e.to_field(&schema).is_ok_and(|(_, f)| is_vector(&f));
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let rewritten = expr.transform_up(|e| match e {
                    Expr::ScalarFunction(f) if f.name() == "array_element" && f.args.first().is_some_and(&vector) => {
                        Ok(Transformed::yes(call(&ELEMENT, f.args)))
                    }
                    Expr::Cast(Cast { expr, field })
                        if matches!(field.data_type(), DataType::Utf8 | DataType::Utf8View) && vector(&expr) =>
                    {
                        Ok(Transformed::yes(call(&TEXT, vec![*expr])))
                    }
                    other => Ok(Transformed::no(other)),
                })?;
                Ok(if rewritten.transformed { rewritten.update_data(|e| name.restore(e)) } else { rewritten })
            })?
            .map_data(LogicalPlan::recompute_schema)
        })
        .data()
    }
}

/// A query's plan with its vectors as the text that clients expect of them.
///
/// # Errors
/// Those of building a projection.
pub(crate) fn vectors_as_text(plan: LogicalPlan) -> Result<LogicalPlan> {
    if !plan.schema().fields().iter().any(|f| is_vector(f)) {
        return Ok(plan);
    }
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
            if is_vector(field) { call(&TEXT, vec![column]).alias(field.name()) } else { column }
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

fn call(function: &Arc<ScalarUDF>, args: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(function.clone(), args))
}
