//! Values for columns that a statement leaves out: serials, identities, hidden keys, DEFAULT expressions, NULL.

use super::assign::assign;
use crate::session::context::StatementContext;
use atoll_model::{Generated, Result, Row, Table, Value};

/// Fills the columns at `missing` (ascending positions) of whole rows.
///
/// # Errors
/// `SequenceExhausted`, and whatever a DEFAULT expression meets.
pub(crate) async fn fill(cx: &StatementContext, table: &Table, rows: &mut [Row], missing: &[usize]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    for &at in missing {
        let column = &table.columns[at];
        if column.hidden {
            let first = cx.cluster.row_ids(rows.len() as u32);
            for (row, id) in rows.iter_mut().zip(first..) {
                row[at] = Value::Int8(id);
            }
        } else if let Some(Generated::ByDefault(sequence) | Generated::Always(sequence)) = column.generated {
            let increment = cx.txn.catalog().sequences.get(&sequence).map_or(1, |s| s.increment);
            let mut next = cx.cluster.next_values(sequence, rows.len() as u32).await?;
            for row in rows.iter_mut() {
                row[at] = assign(Value::Int8(next), &atoll_model::SqlType::Int8, column)?;
                cx.note_sequence(sequence, next);
                next += increment;
            }
        } else if let Some(default) = &column.default {
            let (types, values) = cx.evaluate_constant(default, rows.len()).await?;
            for (row, mut value) in rows.iter_mut().zip(values) {
                row[at] = assign(value.pop().unwrap_or(Value::Null), &types[0], column)?;
            }
        }
    }
    Ok(())
}
