//! Calls: functions that PostgreSQL and the planner name differently, and syntax that stands for a function.
//!
//! Invariant: a call that is renamed means the same; where the planner's function of a name means something else, `pg::functions`
//! registers one that means PostgreSQL's.

use super::{call, strip, strip_argument, unqualify};
use crate::pg::parse::faithful::{as_text, text};
use atoll_model::Result;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DataType, DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    ObjectName, ObjectNamePart, TimezoneInfo, Value, WindowFrameBound, WindowType,
};

/// Expressions that stand for calls.
///
/// # Errors
/// None today.
pub fn expression(expr: &mut Expr) -> Result<()> {
    match expr {
        Expr::Extract { field, expr: inner, .. } => {
            let field = field_name(field);
            let inner = std::mem::replace(inner.as_mut(), super::null());
            *expr = call(extract(&field), vec![Expr::value(text(field)), inner]);
        }
        Expr::AtTimeZone { timestamp, time_zone } => {
            let moment = std::mem::replace(timestamp.as_mut(), super::null());
            let zone = std::mem::replace(time_zone.as_mut(), super::null());
            *expr = call("timezone", vec![zone, moment]);
        }
        Expr::Ceil { expr: inner, .. } => {
            let inner = std::mem::replace(inner.as_mut(), super::null());
            *expr = call("ceil", vec![inner]);
        }
        Expr::SimilarTo { negated, expr: inner, pattern, escape_char } => {
            let escape = escape_char.take().and_then(|v| as_text(&v.value).cloned());
            let escape = escape.unwrap_or_else(|| "\\".to_owned());
            let pattern = std::mem::replace(pattern.as_mut(), super::null());
            let pattern = call("atoll_similar_pattern", vec![pattern, Expr::value(text(escape))]);
            let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
            let left = std::mem::replace(inner, Box::new(super::null()));
            *expr = Expr::Nested(Box::new(Expr::BinaryOp { left, op, right: Box::new(pattern) }));
        }
        Expr::Substring { expr: inner, substring_from: Some(from), substring_for, .. } => {
            let mut args = vec![std::mem::replace(inner.as_mut(), super::null())];
            args.push(std::mem::replace(from.as_mut(), super::null()));
            args.extend(substring_for.take().map(|e| *e));
            *expr = call("substring", args);
        }
        Expr::Function(function)
            if function.over.is_none() && matches!(last_name(function).as_str(), "json_agg" | "jsonb_agg") =>
        {
            let (outer, each) = if last_name(function) == "json_agg" {
                ("atoll_json_array", "to_json")
            } else {
                ("atoll_jsonb_array", "to_jsonb")
            };
            // Each value becomes json on its own: an array of them would forget that some were json already.
            if let FunctionArguments::List(list) = &mut function.args
                && let [FunctionArg::Unnamed(FunctionArgExpr::Expr(item))] = list.args.as_mut_slice()
            {
                let inner = std::mem::replace(item, super::null());
                *item = call(each, vec![inner]);
            }
            function.name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new("array_agg"))]);
            let inner = std::mem::replace(expr, super::null());
            *expr = call(outer, vec![inner]);
        }
        // mod(a, b) is a % b.
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("mod") => {
            if let Some([left, right]) = plain_arguments(function) {
                *expr = Expr::Nested(Box::new(Expr::BinaryOp {
                    left: Box::new(left),
                    op: BinaryOperator::Modulo,
                    right: Box::new(right),
                }));
            }
        }
        Expr::Floor { expr: inner, .. } => {
            let inner = std::mem::replace(inner.as_mut(), super::null());
            *expr = call("floor", vec![inner]);
        }
        _ => {}
    }
    Ok(())
}

/// `current_timestamp(p)` and the like are casts of what they are without digits; `localtime` is the time of `localtimestamp`.
pub fn clock(expr: &mut Expr) {
    let Expr::Function(function) = expr else { return };
    let digits = match &function.args {
        FunctionArguments::None => None,
        FunctionArguments::List(list) => match list.args.as_slice() {
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] => match &value.value {
                Value::Number(digits, _) => digits.parse().ok(),
                _ => return,
            },
            _ => return,
        },
        FunctionArguments::Subquery(_) => return,
    };
    let (moment, ty) = match (last_name(function).as_str(), digits) {
        ("current_timestamp", Some(_)) => {
            ("current_timestamp", DataType::Timestamp(digits, TimezoneInfo::WithTimeZone))
        }
        ("localtimestamp", Some(_)) => ("localtimestamp", DataType::Timestamp(digits, TimezoneInfo::None)),
        ("localtime", _) => ("localtimestamp", DataType::Time(digits, TimezoneInfo::None)),
        _ => return,
    };
    *expr = super::cast(call(moment, vec![]), ty);
}

fn plain_arguments<const N: usize>(function: &mut Function) -> Option<[Expr; N]> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let args: Option<Vec<Expr>> = list
        .args
        .iter()
        .map(|a| match a {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e.clone()),
            _ => None,
        })
        .collect();
    args?.try_into().ok()
}

fn last_name(function: &Function) -> String {
    function.name.0.last().map_or_else(String::new, |p| p.to_string().to_lowercase())
}

fn field_name(field: &DateTimeField) -> String {
    match field {
        DateTimeField::Custom(ident) => ident.value.to_lowercase(),
        other => other.to_string().trim_matches('\'').to_lowercase(),
    }
}

/// The function for a field: they differ in the scale of the numeric that they give.
fn extract(field: &str) -> &'static str {
    match field {
        "second" | "seconds" | "epoch" => "atoll_extract_6",
        "millisecond" | "milliseconds" => "atoll_extract_3",
        "julian" => "atoll_extract_20",
        _ => "atoll_extract",
    }
}

/// Renames a call, and keeps positions and counts literals.
pub fn function(function: &mut Function) {
    unqualify(&mut function.name);
    let name = function.name.to_string().to_lowercase();
    let renamed = match name.as_str() {
        "every" => Some("bool_and"),
        "variance" => Some("var_samp"),
        "char_length" | "character_length" => Some("length"),
        "transaction_timestamp" | "statement_timestamp" => Some("now"),
        "pow" => Some("power"),
        "ceiling" => Some("ceil"),
        "array_remove" => Some("array_remove_all"),
        "array_replace" => Some("array_replace_all"),
        _ => None,
    };
    if let Some(renamed) = renamed {
        function.name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new(renamed))]);
    }
    if let Some(WindowType::WindowSpec(spec)) = &mut function.over
        && let Some(frame) = &mut spec.window_frame
    {
        let bound = |b: &mut WindowFrameBound| {
            if let WindowFrameBound::Preceding(Some(e)) | WindowFrameBound::Following(Some(e)) = b {
                strip(e);
            }
        };
        bound(&mut frame.start_bound);
        if let Some(end) = &mut frame.end_bound {
            bound(end);
        }
    }
    // The second argument of these decides the type of the result.
    if matches!(name.as_str(), "round" | "trunc")
        && let FunctionArguments::List(list) = &mut function.args
        && let Some(places) = list.args.get_mut(1)
    {
        strip_argument(places);
    }
    // Offsets and bucket counts must stay literals until the physical plan.
    if (function.over.is_some()
        || matches!(name.as_str(), "nth_value" | "generate_series" | "percentile_cont" | "percentile_disc"))
        && let FunctionArguments::List(list) = &mut function.args
    {
        list.args.iter_mut().for_each(strip_argument);
    }
}
