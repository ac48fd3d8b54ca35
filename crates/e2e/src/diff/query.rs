//! Random queries.

use super::Statement;
use super::schema::{Column, Schema, Ty};
use super::write::literal;
use crate::rng::Rng;

/// Tables in scope: the name that each goes by, and which one it is.
type Scope = [(String, usize)];

fn any_column<'a>(rng: &mut Rng, schema: &'a Schema, scope: &Scope) -> (String, &'a Column) {
    let (alias, table) = rng.pick(scope);
    let column = rng.pick(&schema.tables[*table].columns);
    (format!("{alias}.{}", column.name), column)
}

fn column_of(rng: &mut Rng, schema: &Schema, scope: &Scope, fits: impl Fn(Ty) -> bool) -> String {
    for _ in 0..20 {
        let (name, column) = any_column(rng, schema, scope);
        if fits(column.ty) {
            return name;
        }
    }
    // Every table has this one.
    format!("{}.id", scope[0].0)
}

/// A condition on the tables in scope.
pub fn predicate(rng: &mut Rng, schema: &Schema, scope: &Scope, depth: usize) -> String {
    if depth > 0 && rng.chance(45) {
        let a = predicate(rng, schema, scope, depth - 1);
        let b = predicate(rng, schema, scope, depth - 1);
        return match rng.below(5) {
            0 | 1 => format!("({a} AND {b})"),
            2 | 3 => format!("({a} OR {b})"),
            _ => format!("NOT ({a})"),
        };
    }
    // Keys and references are what fragments are chosen by.
    let (name, column) = if rng.chance(40) {
        let (alias, table) = rng.pick(scope);
        let column = &schema.tables[*table].columns[rng.below(2)];
        (format!("{alias}.{}", column.name), column)
    } else {
        any_column(rng, schema, scope)
    };
    let ty = column.ty;
    let op = *rng.pick(&["=", "<>", "<", "<=", ">", ">="]);
    match rng.below(12) {
        0..=3 => format!("{name} {op} {}", literal(rng, ty)),
        4 => {
            let (a, b) = (literal(rng, ty), literal(rng, ty));
            format!("{name} {}BETWEEN {a} AND {b}", if rng.chance(20) { "NOT " } else { "" })
        }
        5 | 6 => {
            let mut items: Vec<String> = (0..rng.between(1, 4)).map(|_| literal(rng, ty)).collect();
            if rng.chance(10) {
                items.push("NULL".to_string());
            }
            format!("{name} {}IN ({})", if rng.chance(25) { "NOT " } else { "" }, items.join(", "))
        }
        7 => format!("{name} IS {}NULL", if rng.chance(50) { "NOT " } else { "" }),
        8 if ty == Ty::Text => {
            format!(
                "{name} {} '{}'",
                rng.pick(&["LIKE", "NOT LIKE", "ILIKE"]),
                rng.pick(&["%b%", "a%", "_", "%", "b_", "%s"])
            )
        }
        8 if ty == Ty::Bool => name,
        9 => {
            let other = column_of(rng, schema, scope, |t| t == ty);
            let other = if ty == Ty::Int || !other.ends_with(".id") { other } else { name.clone() };
            format!("{name} {op} {other}")
        }
        10 if depth > 0 => {
            let table = rng.below(schema.tables.len());
            let inner = format!("q{depth}");
            let inside = predicate(rng, schema, &[(inner.clone(), table)], 0);
            let key = column_of(rng, schema, scope, |t| t == Ty::Int);
            let table = &schema.tables[table].name;
            match rng.below(4) {
                0 => format!("{key} IN (SELECT {inner}.id FROM {table} {inner} WHERE {inside})"),
                1 => {
                    format!("{key} NOT IN (SELECT {inner}.id FROM {table} {inner} WHERE {inside})")
                }
                2 => format!("EXISTS (SELECT 1 FROM {table} {inner} WHERE {inner}.id = {key} AND {inside})"),
                _ => format!("NOT EXISTS (SELECT 1 FROM {table} {inner} WHERE {inner}.ref = {key} AND {inside})"),
            }
        }
        _ => {
            let key = column_of(rng, schema, scope, |t| t == Ty::Int);
            format!("{key} + {} {op} {}", rng.between(0, 5), rng.between(0, 25))
        }
    }
}

fn expression(rng: &mut Rng, schema: &Schema, scope: &Scope) -> String {
    let (name, column) = any_column(rng, schema, scope);
    match (rng.below(8), column.ty) {
        (0, Ty::Int) => format!("{name} * 2 - 1"),
        (0, Ty::Text) => format!("upper({name})"),
        (1, Ty::Text) => format!("length({name})"),
        (1, Ty::Int) => format!("abs({name})"),
        (0, Ty::Date) => format!("extract(day FROM {name})"),
        (1, Ty::Date) => format!("{name} + 1"),
        (0, Ty::Timestamp) => format!("date_trunc('day', {name})"),
        (0, Ty::Numeric) => format!("{name} + 1.5"),
        (2, _) => {
            let condition = predicate(rng, schema, scope, 0);
            format!("CASE WHEN {condition} THEN {name} END")
        }
        (3, ty) => format!("coalesce({name}, {})", typed(&literal(rng, ty), ty)),
        (4, ty) => format!("nullif({name}, {})", typed(&literal(rng, ty), ty)),
        _ => name,
    }
}

/// A literal whose type does not depend on where it stands.
fn typed(literal: &str, ty: Ty) -> String {
    match ty {
        Ty::Date => format!("date {literal}"),
        Ty::Timestamp => format!("timestamp {literal}"),
        _ => literal.to_string(),
    }
}

fn aggregate(rng: &mut Rng, schema: &Schema, scope: &Scope) -> String {
    let number = column_of(rng, schema, scope, Ty::is_number);
    let any = column_of(rng, schema, scope, |t| t != Ty::Bool);
    match rng.below(9) {
        0 => "count(*)".to_string(),
        1 => format!("count({any})"),
        2 => format!("count(DISTINCT {any})"),
        3 => format!("sum({number})"),
        4 => format!("avg({number})"),
        5 => format!("min({any})"),
        6 => format!("max({any})"),
        7 => format!("sum({number}) FILTER (WHERE {})", predicate(rng, schema, scope, 0)),
        _ => format!("sum(DISTINCT {number})"),
    }
}

/// FROM, and what is in scope then.
fn from(rng: &mut Rng, schema: &Schema) -> (String, Vec<(String, usize)>) {
    let first = rng.below(schema.tables.len());
    let mut scope = vec![("a".to_string(), first)];
    let mut text = format!("{} a", schema.tables[first].name);
    for alias in ["b", "c"] {
        if !rng.chance(40) {
            break;
        }
        let table = rng.below(schema.tables.len());
        let join = rng.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let (left, _) = rng.pick(&scope).clone();
        let (own, other) = (*rng.pick(&["id", "ref"]), *rng.pick(&["id", "ref"]));
        let mut condition = format!("{alias}.{own} = {left}.{other}");
        // FULL JOIN takes equalities alone in PostgreSQL.
        if *join != "FULL JOIN" && rng.chance(25) {
            let both = [(alias.to_string(), table), (left, scope[0].1)];
            let both = if both[1].0 == scope[0].0 { &both[..] } else { &both[..1] };
            condition = format!("{condition} AND {}", predicate(rng, schema, both, 0));
        }
        text = format!("{text} {join} {} {alias} ON {condition}", schema.tables[table].name);
        scope.push((alias.to_string(), table));
    }
    (text, scope)
}

/// ORDER BY all columns, so that the order is determined, and a LIMIT.
fn order(rng: &mut Rng, columns: usize) -> String {
    let mut positions: Vec<usize> = (1..=columns).collect();
    for i in (1..positions.len()).rev() {
        positions.swap(i, rng.below(i + 1));
    }
    let keys: Vec<String> = positions
        .into_iter()
        .map(|p| format!("{p}{}", rng.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"])))
        .collect();
    let mut text = format!(" ORDER BY {}", keys.join(", "));
    if rng.chance(60) {
        text += &format!(" LIMIT {}", rng.between(0, 8));
    }
    if rng.chance(25) {
        text += &format!(" OFFSET {}", rng.between(0, 4));
    }
    text
}

/// A query.
pub fn query(rng: &mut Rng, schema: &Schema) -> Statement {
    let (from, scope) = from(rng, schema);
    let filter = if rng.chance(75) { format!(" WHERE {}", predicate(rng, schema, &scope, 2)) } else { String::new() };
    let (mut sql, columns) = match rng.below(10) {
        0..=2 => {
            let list: Vec<String> = (0..rng.between(1, 4)).map(|_| expression(rng, schema, &scope)).collect();
            let distinct = if rng.chance(20) { "DISTINCT " } else { "" };
            (format!("SELECT {distinct}{} FROM {from}{filter}", list.join(", ")), list.len())
        }
        3..=5 => {
            let groups: Vec<String> = (0..rng.below(3)).map(|_| any_column(rng, schema, &scope).0).collect();
            let mut list = groups.clone();
            list.extend((0..rng.between(1, 3)).map(|_| aggregate(rng, schema, &scope)));
            let mut sql = format!("SELECT {} FROM {from}{filter}", list.join(", "));
            if !groups.is_empty() {
                sql += &format!(" GROUP BY {}", groups.join(", "));
            }
            if rng.chance(20) {
                sql += &format!(" HAVING count(*) > {}", rng.between(0, 2));
            }
            (sql, list.len())
        }
        6 => {
            let (alias, table) = &scope[0];
            let keys: Vec<String> =
                schema.tables[*table].columns.iter().map(|c| format!("{alias}.{}", c.name)).collect();
            let partition = any_column(rng, schema, &scope[..1]).0;
            let number = column_of(rng, schema, &scope[..1], Ty::is_number);
            let function = match rng.below(5) {
                0 => "row_number()".to_string(),
                1 => "rank()".to_string(),
                2 => format!("sum({number})"),
                3 => format!("lag({number})"),
                _ => "count(*)".to_string(),
            };
            // Rows that are equal in all columns get the same numbers, whichever comes first.
            let name = &schema.tables[*table].name;
            let filter = if rng.chance(50) {
                format!(" WHERE {}", predicate(rng, schema, &scope[..1], 1))
            } else {
                String::new()
            };
            let window = format!("{function} OVER (PARTITION BY {partition} ORDER BY {})", keys.join(", "));
            (format!("SELECT {alias}.id, {alias}.ref, {window} FROM {name} {alias}{filter}"), 3)
        }
        7 => {
            let side = |rng: &mut Rng| {
                let table = rng.below(schema.tables.len());
                let filter = predicate(rng, schema, &[("u".to_string(), table)], 1);
                format!("SELECT u.id, u.ref FROM {} u WHERE {filter}", schema.tables[table].name)
            };
            let (a, b) = (side(rng), side(rng));
            let op = rng.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
            (format!("{a} {op} {b}"), 2)
        }
        8 => {
            let inner = rng.below(schema.tables.len());
            let inside = predicate(rng, schema, &[("s".to_string(), inner)], 1);
            let (table, key) = (&schema.tables[inner].name, column_of(rng, schema, &scope, |t| t == Ty::Int));
            let function = rng.pick(&["count(*)", "max(s.ref)", "sum(s.id)"]);
            let scalar = format!("(SELECT {function} FROM {table} s WHERE s.ref = {key} AND {inside})");
            (format!("SELECT {key}, {scalar} FROM {from}{filter}"), 2)
        }
        _ => {
            let list: Vec<String> = (0..rng.between(1, 2)).map(|_| any_column(rng, schema, &scope).0).collect();
            let named: Vec<String> = list.iter().enumerate().map(|(n, c)| format!("{c} AS x{n}")).collect();
            let sql = format!(
                "WITH w AS (SELECT {} FROM {from}{filter}) SELECT x0, count(*) FROM w GROUP BY x0",
                named.join(", ")
            );
            (sql, 2)
        }
    };
    let ordered = rng.chance(40);
    if ordered {
        sql += &order(rng, columns);
    }
    Statement { ordered, ..Statement::plain(sql) }
}
