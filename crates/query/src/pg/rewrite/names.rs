//! The names of result columns: PostgreSQL's rules (`FigureColname` in its parser), as aliases.
//!
//! Invariant: after this pass every computed item of a SELECT list has the name that PostgreSQL gives it, and no two items have the
//! same. Where PostgreSQL lets two columns share a name, all of them get a suffix behind [`MARK`], which no identifier of a user
//! holds: such a column cannot be referred to by name (in PostgreSQL it is ambiguous), and [`shown`] cuts the suffix off before a
//! client sees it.

use crate::syntax::fold;
use atoll_model::{Error, ErrorKind, Result};
use datafusion::sql::sqlparser::ast::{
    AccessExpr, DataType, Expr, Function, Ident, OrderByKind, Query, Select, SelectItem, SetExpr, TrimWhereField,
    UnaryOperator, Value,
};
use std::ops::ControlFlow;

/// Separates a name from the suffix that makes it unique.
const MARK: char = '\u{1}';

/// A column's name as a client sees it.
pub fn shown(name: &str) -> &str {
    name.split(MARK).next().unwrap_or(name)
}

/// Text from which the suffixes are cut: for messages.
pub fn without_marks(text: &str) -> String {
    let mut parts = text.split(MARK);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

fn marked(name: &str, at: usize) -> Ident {
    Ident::with_quote('"', format!("{name}{MARK}{at}"))
}

/// Names inside the expressions of ORDER BY: they mean columns of the tables, where a name alone means a column of the result.
pub fn inputs_in_order_by(query: &Query) -> Vec<String> {
    let mut found = vec![];
    if let Some(order) = &query.order_by
        && let OrderByKind::Expressions(items) = &order.kind
    {
        for item in items.iter().filter(|i| !matches!(i.expr, Expr::Identifier(_))) {
            let _ = crate::syntax::expressions(&item.expr, |e| {
                if let Expr::Identifier(ident) = e {
                    found.push(fold(ident));
                }
                ControlFlow::Continue(())
            });
        }
    }
    found
}

/// Whether each name alone in ORDER BY means one column of the result, if it means any.
///
/// # Errors
/// 42702.
pub fn unambiguous(query: &Query) -> Result<()> {
    let (Some(order), SetExpr::Select(select)) = (&query.order_by, query.body.as_ref()) else { return Ok(()) };
    let OrderByKind::Expressions(items) = &order.kind else { return Ok(()) };
    for item in items {
        let Expr::Identifier(ident) = &item.expr else { continue };
        let name = fold(ident);
        let mut meant = select.projection.iter().filter_map(|item| match item {
            SelectItem::UnnamedExpr(e) if figure(e) == name => Some(e),
            SelectItem::ExprWithAlias { expr, alias } if fold(alias) == name => Some(expr),
            _ => None,
        });
        let Some(first) = meant.next() else { continue };
        // `id` and `t.id` may be the same column; that is the planner's to tell.
        if meant.any(|e| e != first && !(is_column(e) && is_column(first))) {
            return Err(Error::new(ErrorKind::AmbiguousColumn, format!("ORDER BY \"{name}\" is ambiguous")));
        }
    }
    Ok(())
}

/// Names the columns of one SELECT. `top`: its rows go to a client as they are. `inputs`: names by which ORDER BY means columns of
/// tables; a computed column of such a name gets a suffix, so that it is out of their way.
pub fn select(select: &mut Select, top: bool, inputs: &[String]) {
    let wild = top
        && select.projection.iter().any(|i| matches!(i, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
    let names: Vec<Option<String>> = select
        .projection
        .iter()
        .map(|item| match item {
            SelectItem::UnnamedExpr(e) => Some(figure(e)),
            SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
            _ => None,
        })
        .collect();
    let texts: Vec<Option<String>> = select
        .projection
        .iter()
        .enumerate()
        .map(|(at, item)| {
            // Only needed to compare items of the same name.
            names[at].as_ref().filter(|n| names.iter().filter(|m| m.as_ref() == Some(n)).count() > 1)?;
            match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr.to_string()),
                _ => None,
            }
        })
        .collect();
    for at in 0..names.len() {
        let Some(name) = &names[at] else { continue };
        let twins: Vec<usize> = (0..names.len()).filter(|i| names[*i].as_ref() == Some(name)).collect();
        let unique = twins.len() == 1 || (twins[0] == at && twins.iter().all(|i| texts[*i] == texts[at]));
        let item = &mut select.projection[at];
        let hidden = top
            && inputs.contains(name)
            && match &*item {
                SelectItem::UnnamedExpr(e) => !is_column(e),
                SelectItem::ExprWithAlias { expr, .. } => !(is_column(expr) && figure(expr) == *name),
                _ => false,
            };
        let unique = unique && !hidden;
        let ident = if unique && !wild { Ident::with_quote('"', name) } else { marked(name, at + 1) };
        match item {
            SelectItem::UnnamedExpr(expr) => {
                let plain = is_column(expr);
                // `SELECT a.id, b.id`: told apart by the tables.
                if plain && !wild && (unique || (top && distinct(&texts, &twins))) {
                    continue;
                }
                *item = SelectItem::ExprWithAlias { expr: take(expr), alias: ident };
            }
            SelectItem::ExprWithAlias { alias, .. } if !unique || wild => *alias = ident,
            _ => {}
        }
    }
}

fn distinct(texts: &[Option<String>], twins: &[usize]) -> bool {
    twins.iter().enumerate().all(|(n, a)| twins[..n].iter().all(|b| texts[*a] != texts[*b]))
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Value(Value::Null.into()))
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(ident) => ident.quote_style.is_some() || session_value(&ident.value).is_none(),
        Expr::CompoundIdentifier(_) => true,
        _ => false,
    }
}

/// `ORDER BY name` where several columns of that name got suffixes, or a wildcard stands beside: the one that is meant.
pub fn order_by(query: &mut Query) {
    let Some(order) = &mut query.order_by else { return };
    let OrderByKind::Expressions(items) = &mut order.kind else { return };
    let Some(select) = leftmost(&query.body) else { return };
    let aliases: Vec<&Ident> = select
        .projection
        .iter()
        .filter_map(|i| match i {
            SelectItem::ExprWithAlias { alias, .. } if alias.value.contains(MARK) => Some(alias),
            _ => None,
        })
        .collect();
    for item in items {
        if let Expr::Identifier(ident) = &mut item.expr {
            let name = fold(ident);
            let mut meant = aliases.iter().filter(|a| shown(&a.value) == name);
            if let (Some(one), None) = (meant.next(), meant.next()) {
                *ident = (*one).clone();
            }
        }
    }
}

fn leftmost(body: &SetExpr) -> Option<&Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::SetOperation { left, .. } => leftmost(left),
        SetExpr::Query(query) => leftmost(&query.body),
        _ => None,
    }
}

/// The name that PostgreSQL gives an unnamed item.
pub fn figure(expr: &Expr) -> String {
    strength(expr).map_or_else(|| "?column?".to_owned(), |(name, _)| name)
}

/// A name and whether it is a strong one: a weak one yields to what stands around it.
fn strength(expr: &Expr) -> Option<(String, bool)> {
    let strong = |name: &str| Some((name.to_owned(), true));
    match expr {
        Expr::Identifier(ident) => Some((fold(ident), true)),
        Expr::CompoundIdentifier(parts) => parts.last().map(|i| (fold(i), true)),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|a| match a {
                AccessExpr::Dot(Expr::Identifier(ident)) => Some(fold(ident)),
                _ => None,
            });
            field.map_or_else(|| strength(root), |f| Some((f, true)))
        }
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => strength(inner),
        Expr::Function(function) => strong(&function_name(function)),
        Expr::Cast { expr, data_type, .. } => match strength(expr) {
            Some((name, true)) => Some((name, true)),
            _ => Some((type_name(data_type), false)),
        },
        Expr::TypedString(typed) => Some((type_name(&typed.data_type), false)),
        Expr::Interval(_) => Some(("interval".into(), false)),
        Expr::Case { else_result, .. } => match else_result.as_deref().and_then(strength) {
            Some((name, true)) => Some((name, true)),
            _ => Some(("case".into(), false)),
        },
        Expr::Exists { negated: false, .. } => strong("exists"),
        Expr::Subquery(query) => match leftmost(&query.body)?.projection.first()? {
            SelectItem::ExprWithAlias { alias, .. } => Some((fold(alias), true)),
            SelectItem::UnnamedExpr(e) => strength(e),
            _ => None,
        },
        Expr::Array(_) => strong("array"),
        Expr::Tuple(_) => strong("row"),
        Expr::Extract { .. } => strong("extract"),
        Expr::Substring { shorthand, .. } => strong(if *shorthand { "substr" } else { "substring" }),
        Expr::Overlay { .. } => strong("overlay"),
        Expr::Position { .. } => strong("position"),
        Expr::Ceil { .. } => strong("ceil"),
        Expr::Floor { .. } => strong("floor"),
        Expr::AtTimeZone { .. } => strong("timezone"),
        Expr::Trim { trim_where, .. } => strong(match trim_where {
            Some(TrimWhereField::Leading) => "ltrim",
            Some(TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }),
        Expr::UnaryOp { op: UnaryOperator::Plus | UnaryOperator::Minus, .. } => None,
        _ => None,
    }
}

fn function_name(function: &Function) -> String {
    match function.name.0.last().and_then(|p| p.as_ident()) {
        Some(ident) => fold(ident),
        None => function.name.to_string().to_lowercase(),
    }
}

/// A name without parentheses that is a function of the session: what to call.
pub fn session_value(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "current_user" | "user" | "current_role" => "current_user",
        "session_user" => "session_user",
        "current_catalog" => "current_database",
        "current_schema" => "current_schema",
        _ => return None,
    })
}

/// A type's name in PostgreSQL's catalog, without arguments and brackets.
fn type_name(ty: &DataType) -> String {
    use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, TimezoneInfo};
    match ty {
        DataType::Array(ArrayElemTypeDef::SquareBracket(item, _) | ArrayElemTypeDef::AngleBracket(item)) => {
            type_name(item)
        }
        DataType::Timestamp(_, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => "timestamptz".into(),
        DataType::Time(_, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => "timetz".into(),
        _ => {
            let text = ty.to_string().to_lowercase().replace('"', "");
            let text = text.strip_prefix("pg_catalog.").unwrap_or(&text);
            let base = text.split('(').next().unwrap_or(text).trim();
            match base {
                "int" | "integer" => "int4",
                "bigint" => "int8",
                "smallint" => "int2",
                "real" => "float4",
                "double precision" | "double" | "float" => "float8",
                "boolean" => "bool",
                "character varying" | "char varying" | "nvarchar" => "varchar",
                "character" | "char" => "bpchar",
                "decimal" | "dec" => "numeric",
                "timestamp without time zone" => "timestamp",
                "time without time zone" => "time",
                other => other,
            }
            .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(sql: &str) -> String {
        figure(&crate::pg::parse::parse_expression(sql).expect("the expressions below are well formed"))
    }

    #[test]
    fn names_are_those_of_postgresql() {
        for (sql, name) in [
            ("1", "?column?"),
            ("a + 1", "?column?"),
            ("t.\"B\"", "B"),
            ("Count(*)", "count"),
            ("pg_catalog.lower(a)", "lower"),
            ("'1'::int", "int4"),
            ("a::bigint", "a"),
            ("lower(a)::text", "lower"),
            ("CAST(1 AS double precision)", "float8"),
            ("CASE WHEN a THEN 1 END", "case"),
            ("CASE WHEN a THEN 1 ELSE b END", "b"),
            ("coalesce(a, b)", "coalesce"),
            ("EXISTS (SELECT 1)", "exists"),
            ("(SELECT max(a) FROM t)", "max"),
            ("ARRAY[1, 2]", "array"),
            ("date '2024-01-01'", "date"),
            ("interval '1 day'", "interval"),
            ("timestamp with time zone '2024-01-01'", "timestamptz"),
            ("extract(year FROM a)", "extract"),
            ("trim(a)", "btrim"),
            ("'{1}'::int[]", "int4"),
            ("a[1]", "a"),
            ("true", "?column?"),
        ] {
            assert_eq!(name_of(sql), name, "{sql}");
        }
    }

    #[test]
    fn marks_are_cut_off() {
        assert_eq!(shown("count\u{1}12"), "count");
        assert_eq!(without_marks("column \"a\u{1}2\" of \"b\u{1}10\""), "column \"a\" of \"b\"");
    }
}
