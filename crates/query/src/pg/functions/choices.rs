//! `coalesce`, `greatest`, `least` over literals without a type, and a function that hides what a column is.
//!
//! Invariant: beside values of another type a text becomes that type (it is a literal, or `unknown` has refused it before), never the
//! other way round. The functions themselves are DataFusion's.

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::expr_rewriter::unalias;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::{Arc, LazyLock};

/// One of DataFusion's functions with another coercion.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Choice {
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

pub(super) fn functions() -> Vec<ScalarUDF> {
    use datafusion::functions::core::{coalesce, greatest, least};
    [coalesce(), greatest(), least()]
        .into_iter()
        .map(|inner| ScalarUDF::from(Choice { inner, signature: Signature::user_defined(Volatility::Immutable) }))
        .collect()
}

fn is_text(ty: &DataType) -> bool {
    matches!(ty, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

impl ScalarUDFImpl for Choice {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let others: Vec<DataType> = types.iter().filter(|t| !is_text(t) && !t.is_null()).cloned().collect();
        if others.is_empty() {
            return self.inner.coerce_types(types);
        }
        // Lists, dates and the like: DataFusion asks for a struct when there are several types.
        if others.iter().all(|t| *t == others[0]) {
            return Ok(vec![others[0].clone(); types.len()]);
        }
        let common = self.inner.coerce_types(&others)?;
        Ok(vec![common.first().cloned().unwrap_or(DataType::Null); types.len()])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.inner.invoke_with_args(args)
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.conditional_arguments(args)
    }
}

/// A function that gives its argument: an expression over it has no key and no order that the planner could rely on.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Plain {
    signature: Signature,
}

impl ScalarUDFImpl for Plain {
    fn name(&self) -> &str {
        "atoll_plain"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Null))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(args.arg_fields[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(args.args[0].clone())
    }
}

/// A column's value as an expression of its own.
pub(crate) fn plain(expr: Expr) -> Expr {
    static PLAIN: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::from(Plain { signature: Signature::any(1, Volatility::Immutable) })));
    PLAIN.call(vec![unalias(expr)])
}
