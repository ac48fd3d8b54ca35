//! `pg_sleep(seconds)`.
//!
//! Invariant: it waits without holding a thread, so cancel and `statement_timeout` end it.

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Float64Array, StringArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::cast::as_float64_array;
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn function() -> ScalarUDF {
    AsyncScalarUDF::new(Arc::new(Sleep { signature: Signature::exact(vec![DataType::Float64], Volatility::Volatile) }))
        .into_scalar_udf()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sleep {
    signature: Signature,
}

impl ScalarUDFImpl for Sleep {
    fn name(&self) -> &str {
        "pg_sleep"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// PostgreSQL's `void`: an empty text.
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        datafusion::common::not_impl_err!("pg_sleep() stands in a list of columns or in WHERE only")
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Sleep {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let seconds = args.args[0].to_array(args.number_rows)?;
        let seconds: &Float64Array = as_float64_array(&seconds)?;
        let mut shown: Vec<Option<&str>> = Vec::with_capacity(seconds.len());
        for seconds in seconds {
            // Negative, not a number, or more than a clock can hold: at once, or for ever.
            if let Some(seconds) = seconds.filter(|s| *s > 0.0) {
                tokio::time::sleep(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)).await;
            }
            shown.push(seconds.map(|_| ""));
        }
        let shown: ArrayRef = Arc::new(StringArray::from(shown));
        Ok(ColumnarValue::Array(shown))
    }
}
