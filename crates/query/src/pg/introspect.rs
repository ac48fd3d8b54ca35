//! A pass over the syntax tree for what clients write when they read the system catalogs: `ARRAY(SELECT …)`, casts by way of `regclass`,
//! functions that give several rows.
//!
//! Invariant: as in [`super::rewrite`], of which this is a part: a rewriting keeps the meaning.

use super::parse::faithful::{as_text, text};
use super::rewrite::call;
use crate::read::ARRAY_FUNCTION;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, ArrayElemTypeDef, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    ObjectNamePart, Query, SetExpr, Statement, TableAlias, TableFactor, Value,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// Rewrites one expression whose parts have been rewritten.
pub(super) fn expression(expr: &mut Expr) {
    let made = match expr {
        Expr::Function(function) => rows(function),
        // `(record).field`
        Expr::CompoundFieldAccess { root, access_chain } => match (root.as_mut(), access_chain.as_slice()) {
            (Expr::Nested(record), [AccessExpr::Dot(Expr::Identifier(field))]) => {
                let record = std::mem::replace(record.as_mut(), Expr::Value(Value::Null.into()));
                let field = Expr::Value(text(field.value.to_lowercase()).into());
                Some(call("get_field", vec![record, field]))
            }
            _ => None,
        },
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            // The engine knows the backslash alone.
            if let Some(escape) = escape_char.take_if(|e| as_text(&e.value).is_none_or(|text| text != "\\")) {
                let plain = std::mem::replace(pattern.as_mut(), Expr::Value(Value::Null.into()));
                **pattern = call("like_escape", vec![plain, Expr::Value(escape)]);
            }
            None
        }
        Expr::Cast { expr: inner, data_type, .. } => {
            unqualify_item(data_type);
            object_cast(inner, data_type)
        }
        _ => None,
    };
    if let Some(made) = made {
        *expr = made;
    }
}

/// The arguments of a call, if all of them are plain.
fn arguments(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &function.args else { return None };
    list.args.iter().map(|a| plain(a).cloned()).collect()
}

fn plain(arg: &FunctionArg) -> Option<&Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e),
        _ => None,
    }
}

/// Functions that give several rows, and the array of a subquery's rows.
fn rows(function: &mut Function) -> Option<Expr> {
    let name = function.name.0.last()?.as_ident()?.value.to_lowercase();
    match name.as_str() {
        "array" => {
            let FunctionArguments::Subquery(query) = &function.args else { return None };
            Some(call(ARRAY_FUNCTION, vec![Expr::Subquery(query.clone())]))
        }
        "_pg_expandarray" => Some(call("unnest", vec![call("atoll_expandarray", arguments(function)?)])),
        "generate_subscripts" => {
            let args = arguments(function)?;
            (args.len() == 2).then(|| call("unnest", vec![call("atoll_subscripts", args)]))
        }
        "pg_partition_ancestors" => Some(call("unnest", vec![call("atoll_partition_ancestors", arguments(function)?)])),
        _ => None,
    }
}

/// `pg_catalog.int2[]` is `int2[]`.
fn unqualify_item(ty: &mut DataType) {
    let DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)) = ty else { return };
    let DataType::Custom(name, _) = item.as_ref() else { return };
    let [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(name)] = name.0.as_slice() else { return };
    if !schema.value.eq_ignore_ascii_case("pg_catalog") {
        return;
    }
    **item = match name.value.to_lowercase().as_str() {
        "int2" => DataType::Int2(None),
        "int4" => DataType::Int4(None),
        "int8" | "oid" => DataType::Int8(None),
        "bool" => DataType::Boolean,
        "text" | "name" | "varchar" => DataType::Text,
        _ => return,
    };
}

/// `x::regclass::text` and `x::regclass::oid`: what `x` is decides what the cast to `regclass` gives, so the two casts are one.
fn object_cast(inner: &mut Expr, to: &DataType) -> Option<Expr> {
    let Expr::Function(function) = inner else { return None };
    let name = function.name.0.last()?.as_ident()?.value.as_str();
    let to = match to.to_string().to_lowercase().as_str() {
        "text" | "varchar" | "character varying" | "name" => "text",
        "oid" | "bigint" | "int8" => "oid",
        _ => return None,
    };
    let function = match (name, to) {
        ("atoll_regclass", "text") => "atoll_regclass_text",
        ("atoll_regclass", _) => "atoll_regclass_oid",
        ("atoll_regtype", "text") => "atoll_regtype_text",
        ("atoll_regtype", _) => "atoll_regtype_oid",
        ("atoll_regrole", "text") => "atoll_regrole_text",
        ("atoll_regrole", _) => "atoll_regrole_oid",
        ("atoll_regnamespace", "text") => "atoll_regnamespace_text",
        ("atoll_regnamespace", _) => "atoll_regnamespace_oid",
        _ => return None,
    };
    let Expr::Function(cast) = inner else { return None };
    Some(call(function, arguments(cast)?))
}

/// Rewrites a function in FROM.
pub(super) fn table_factor(factor: &mut TableFactor) {
    let (name, args, alias, ordinality) = match factor {
        TableFactor::Table { name, args: Some(args), alias, with_ordinality, .. } => {
            (name, &args.args, alias, *with_ordinality)
        }
        TableFactor::Function { name, args, alias, with_ordinality, .. } => (name, &*args, alias, *with_ordinality),
        _ => return,
    };
    let Some(ident) = name.0.last().and_then(ObjectNamePart::as_ident) else { return };
    let function = ident.value.to_lowercase();
    let given: Vec<String> = args.iter().map(ToString::to_string).collect();
    // The column of a function with one column goes by the alias.
    let column = alias.as_ref().map_or_else(|| Ident::new(function.clone()), |a| a.name.clone());
    let number = |array: &str| {
        if ordinality { format!(", unnest(atoll_subscripts({array}, 1)) AS ordinality") } else { String::new() }
    };
    let sql = match (function.as_str(), given.as_slice()) {
        ("pg_get_keywords", []) => "SELECT * FROM pg_catalog.atoll_keywords".to_owned(),
        ("pg_show_all_settings", []) => "SELECT * FROM pg_catalog.pg_settings".to_owned(),
        ("pg_partition_ancestors", [of]) => {
            let array = format!("atoll_partition_ancestors({of})");
            format!("SELECT unnest({array}) AS relid{}", number(&array))
        }
        // Without a schema the parser knows it.
        ("unnest", [array]) => format!("SELECT unnest({array}) AS {column}{}", number(array)),
        _ => return,
    };
    let Some(subquery) = query(&sql) else { return };
    let alias = alias.take().unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::new(function),
        columns: vec![],
        at: None,
    });
    *factor = TableFactor::Derived { lateral: true, subquery: Box::new(subquery), alias: Some(alias), sample: None };
}

/// Parses a query that this module wrote.
fn query(sql: &str) -> Option<Query> {
    match Parser::parse_sql(&PostgreSqlDialect {}, sql).ok()?.pop()? {
        Statement::Query(query) if matches!(query.body.as_ref(), SetExpr::Select(_)) => Some(*query),
        _ => None,
    }
}
