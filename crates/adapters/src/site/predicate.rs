//! Ranges of an order, and bounds of fragments, as conditions of a statement.
//!
//! Invariant: the condition takes exactly the rows whose values lie in the range, NULLs being last. What both bounds begin with is compared
//! for equality, so the server's index narrows it down.

use atoll_model::{FragmentBounds, FragmentId, RangeBound, SqlType, Table, Value};
use atoll_ports::site::KeyRange;
use std::ops::Bound;

/// How an engine writes comparisons with the columns of a table.
pub(super) trait Dialect {
    /// The table.
    fn table(&self) -> &Table;

    /// The column at a position, as it is compared for equality.
    fn equated(&self, at: usize) -> String;

    /// The column at a position, as it is compared by its order.
    fn ordered(&self, at: usize) -> String;

    /// Whether the column at a position is compared there as it is in Atoll.
    fn is_comparable(&self, at: usize) -> bool;

    /// The parameter of this number, from 1, which is compared with the column at a position.
    fn parameter(&self, at: usize, number: usize) -> String;
}

/// A condition in the making, with the values that its parameters stand for.
pub(super) struct Condition<'a, D> {
    dialect: &'a D,
    values: Vec<(SqlType, Value)>,
}

impl<'a, D: Dialect> Condition<'a, D> {
    /// ` WHERE …` for a range of an order, or nothing, and the values of its parameters.
    pub(super) fn of_range(dialect: &'a D, order: &[usize], range: &KeyRange) -> (String, Vec<(SqlType, Value)>) {
        let mut condition = Condition { dialect, values: vec![] };
        let parts = condition.range(order, range);
        let text = if parts.is_empty() { String::new() } else { format!(" WHERE {}", parts.join(" AND ")) };
        (text, condition.values)
    }

    /// The rows that belong to a fragment of the table, as an expression that is true of them and false or NULL of all others, with the
    /// values of its parameters. `None`: the site cannot tell, as the fragment follows from a hash or from another table, or as
    /// values are compared otherwise there.
    pub(super) fn of_fragment(dialect: &'a D, fragment: FragmentId) -> Option<(String, Vec<(SqlType, Value)>)> {
        let table = dialect.table();
        let columns = table.fragmentation_positions();
        if !columns.iter().all(|at| dialect.is_comparable(*at)) {
            return None;
        }
        let mut condition = Condition { dialect, values: vec![] };
        let own = table.fragments.iter().find(|f| f.id == fragment)?;
        let text = match &own.bounds {
            FragmentBounds::Default => {
                let others = table.fragments.iter().filter(|f| f.bounds != FragmentBounds::Default);
                let others: Option<Vec<String>> = others.map(|f| condition.bounds(&columns, &f.bounds)).collect();
                format!("({}) IS NOT TRUE", or(&others?))
            }
            bounds => condition.bounds(&columns, bounds)?,
        };
        Some((text, condition.values))
    }

    fn bounds(&mut self, columns: &[usize], bounds: &FragmentBounds) -> Option<String> {
        match bounds {
            FragmentBounds::All => Some("true".into()),
            FragmentBounds::List(values) => {
                let at = *columns.first()?;
                Some(or(&values.iter().map(|value| self.equals(at, value)).collect::<Vec<_>>()))
            }
            FragmentBounds::Range { from, to } => {
                let given: String =
                    columns.iter().map(|at| format!("{} IS NOT NULL AND ", self.dialect.equated(*at))).collect();
                let (lower, upper) = (self.beside(columns, from, false), self.beside(columns, to, true));
                Some(format!("({given}{lower} AND {upper})"))
            }
            FragmentBounds::Hash { .. } | FragmentBounds::Derived(_) | FragmentBounds::Default => None,
        }
    }

    /// Which columns are, taken together, not below a bound, or below it.
    fn beside(&mut self, columns: &[usize], bound: &[RangeBound], below: bool) -> String {
        let (Some(at), Some(first)) = (columns.first(), bound.first()) else { return (!below).to_string() };
        match first {
            RangeBound::Min => (!below).to_string(),
            RangeBound::Max => below.to_string(),
            RangeBound::Value(value) => {
                let column = self.dialect.ordered(*at);
                let (beyond, equal) = (self.parameter(*at, value), self.parameter(*at, value));
                let rest = self.beside(&columns[1..], &bound[1..], below);
                let sign = if below { "<" } else { ">" };
                format!("({column} {sign} {beyond} OR ({column} = {equal} AND {rest}))")
            }
        }
    }

    fn range(&mut self, order: &[usize], range: &KeyRange) -> Vec<String> {
        let values = |bound: &'_ Bound<Vec<Value>>| match bound {
            Bound::Unbounded => vec![],
            Bound::Included(v) | Bound::Excluded(v) => v.clone(),
        };
        let (lower, upper) = (values(&range.lower), values(&range.upper));
        let equal = lower.iter().zip(&upper).take(order.len()).take_while(|(a, b)| a.matches(b)).count();
        let mut parts: Vec<String> = (0..equal).map(|at| self.equals(order[at], &lower[at])).collect();
        if let bound @ (Bound::Included(_) | Bound::Excluded(_)) = &range.lower {
            let strict = matches!(bound, Bound::Excluded(_));
            parts.extend(self.beyond(&order[equal..], &lower[equal..], Side { upper: false, strict }));
        }
        if let bound @ (Bound::Included(_) | Bound::Excluded(_)) = &range.upper {
            let strict = matches!(bound, Bound::Excluded(_));
            parts.extend(self.beyond(&order[equal..], &upper[equal..], Side { upper: true, strict }));
        }
        parts
    }

    /// The rest of a bound, after what both bounds begin with.
    fn beyond(&mut self, order: &[usize], values: &[Value], side: Side) -> Option<String> {
        let (Some(at), Some(value)) = (order.first(), values.first()) else {
            // The whole prefix is equal: a strict bound leaves nothing of it, the other one all.
            return side.strict.then(|| "false".to_owned());
        };
        if values.len() == 1 || order.len() == 1 {
            return self.compare(*at, value, side);
        }
        let further = self.compare(*at, value, Side { strict: true, ..side }).unwrap_or_else(|| "true".into());
        let equal = self.equals(*at, value);
        let rest = self.beyond(&order[1..], &values[1..], side);
        let rest = rest.map(|r| format!(" AND {r}")).unwrap_or_default();
        Some(format!("({further} OR ({equal}{rest}))"))
    }

    /// `None`: always true.
    fn compare(&mut self, at: usize, value: &Value, side: Side) -> Option<String> {
        let column = self.dialect.ordered(at);
        let nullable = !self.dialect.table().columns[at].not_null;
        Some(match (side.upper, side.strict, value.is_null()) {
            (false, true, true) => "false".into(),
            (false, false, true) => format!("{column} IS NULL"),
            (true, true, true) => format!("{column} IS NOT NULL"),
            (true, false, true) => return None,
            (false, strict, false) => {
                let parameter = self.parameter(at, value);
                let bound = format!("{column} {} {parameter}", if strict { ">" } else { ">=" });
                if nullable { format!("({bound} OR {column} IS NULL)") } else { bound }
            }
            (true, strict, false) => {
                let parameter = self.parameter(at, value);
                format!("{column} {} {parameter}", if strict { "<" } else { "<=" })
            }
        })
    }

    fn equals(&mut self, at: usize, value: &Value) -> String {
        let column = self.dialect.equated(at);
        if value.is_null() {
            return format!("{column} IS NULL");
        }
        let parameter = self.parameter(at, value);
        format!("{column} = {parameter}")
    }

    fn parameter(&mut self, at: usize, value: &Value) -> String {
        self.values.push((self.dialect.table().columns[at].ty.clone(), value.clone()));
        self.dialect.parameter(at, self.values.len())
    }
}

fn or(parts: &[String]) -> String {
    if parts.is_empty() { "false".into() } else { format!("({})", parts.join(" OR ")) }
}

/// Which bound, and whether equality is excluded.
#[derive(Clone, Copy)]
struct Side {
    upper: bool,
    strict: bool,
}
