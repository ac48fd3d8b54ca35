//! Conditions of statements for PostgreSQL, and their parameters.

use super::layout::Layout;
use super::values::{Param, Parameter};
use crate::site::predicate::Dialect;
use atoll_model::{SqlType, Table, Value};

impl Dialect for Layout {
    fn table(&self) -> &Table {
        &self.table
    }

    fn equated(&self, at: usize) -> String {
        self.column(at)
    }

    fn ordered(&self, at: usize) -> String {
        Layout::ordered(self, at)
    }

    fn parameter(&self, _: usize, number: usize) -> String {
        format!("${number}")
    }
}

/// `"a" = $1 AND "b" = $2`, from a parameter on.
pub(super) fn key_equals(layout: &Layout, positions: &[usize], first: usize) -> String {
    let equal = positions.iter().enumerate().map(|(n, at)| format!("{} = ${}", layout.column(*at), first + n));
    equal.collect::<Vec<_>>().join(" AND ")
}

/// Values on their way to the site, for the driver.
pub(super) fn parameters<'a>(values: &'a [(SqlType, Value)]) -> Vec<Param<'a>> {
    values.iter().map(|(ty, value)| Param(ty, value)).collect()
}

/// As the driver takes them.
pub(super) fn typed<'a>(parameters: &'a [Param<'_>]) -> Vec<Parameter<'a>> {
    parameters.iter().map(|p| (p as _, super::values::param_type(p.0))).collect()
}
