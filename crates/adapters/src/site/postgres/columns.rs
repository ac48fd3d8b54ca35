//! Arrow columns filled from PostgreSQL's binary values, without a [`Value`](atoll_model::Value) in between.
//!
//! Invariant: a column's Arrow type is [`SqlType::arrow`] of its type.

use super::{numeric, values};
use crate::site::columns::{Batch, ColumnBuilder};
use atoll_model::{Error, Result, text};

impl Batch {
    /// Adds a row of values.
    pub(super) fn push<'a>(&mut self, values: impl Iterator<Item = Result<Option<&'a [u8]>>>) -> Result<()> {
        for (column, value) in self.columns.iter_mut().zip(values) {
            push(column, value?)?;
        }
        self.rows += 1;
        Ok(())
    }
}

/// Adds a value in its binary form, `None` for NULL.
fn push(column: &mut ColumnBuilder, value: Option<&[u8]>) -> Result<()> {
    macro_rules! append {
        ($builder:expr, $decode:expr) => {
            match value {
                Some(bytes) => $builder.append_value($decode(bytes)?),
                None => $builder.append_null(),
            }
        };
    }
    match column {
        ColumnBuilder::Bool(b) => append!(b, values::boolean),
        ColumnBuilder::Int2(b) => append!(b, |v| values::fixed(v).map(i16::from_be_bytes)),
        ColumnBuilder::Int4(b) => append!(b, |v| values::fixed(v).map(i32::from_be_bytes)),
        ColumnBuilder::Int8(b) => append!(b, |v| values::fixed(v).map(i64::from_be_bytes)),
        ColumnBuilder::Float4(b) => append!(b, |v| values::fixed(v).map(f32::from_be_bytes)),
        ColumnBuilder::Float8(b) => append!(b, |v| values::fixed(v).map(f64::from_be_bytes)),
        ColumnBuilder::Numeric(b, scale) => append!(b, |v| numeric::decode(v, *scale)),
        ColumnBuilder::Text(b, ty) => append!(b, |v| values::characters(ty, v)),
        ColumnBuilder::Uuid(b) => append!(b, |v| values::fixed(v).map(text::uuid_text)),
        ColumnBuilder::Bytea(b) => append!(b, Ok::<&[u8], Error>),
        ColumnBuilder::Date(b) => append!(b, values::date),
        ColumnBuilder::Time(b) => append!(b, |v| values::fixed(v).map(i64::from_be_bytes)),
        ColumnBuilder::Instant(b) => append!(b, values::instant),
        ColumnBuilder::Array { item, lengths, nulls, .. } => {
            let elements = value.map(values::elements).transpose()?;
            nulls.append(elements.is_some());
            let elements = elements.unwrap_or_default();
            lengths.push(elements.len());
            for element in elements {
                push(item, element)?;
            }
        }
    }
    Ok(())
}
