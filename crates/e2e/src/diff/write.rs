//! Random values, writes and transactions.

use super::Statement;
use super::query::predicate;
use super::schema::{Column, Schema, Ty};
use crate::rng::Rng;

/// A literal of a type, from so few that they meet.
pub fn literal(rng: &mut Rng, ty: Ty) -> String {
    match ty {
        Ty::Int => rng.between(-2, 20).to_string(),
        Ty::Big => rng.pick(&["-7", "0", "3", "12", "5000000000", "9"]).to_string(),
        Ty::Text => {
            rng.pick(&["''", "'a'", "'b'", "'bb'", "'c'", "'A'", "'d e'", "'ä'", "'it''s'", "'f%'"]).to_string()
        }
        Ty::Numeric => format!("{}.{:02}", rng.between(-3, 30), rng.between(0, 99)),
        // Sums of quarters are exact in any order.
        Ty::Float => format!("{}", rng.between(-20, 80) as f64 / 4.0),
        Ty::Bool => rng.pick(&["true", "false"]).to_string(),
        Ty::Date => format!("'2024-01-{:02}'", rng.between(1, 20)),
        Ty::Timestamp => {
            format!("'2024-01-{:02} {:02}:00:00'", rng.between(1, 9), rng.between(0, 23))
        }
    }
}

fn value(rng: &mut Rng, column: &Column) -> String {
    // A NOT NULL column gets NULL now and then, to be refused.
    let null = if column.not_null { 1 } else { 15 };
    if rng.chance(null) { "NULL".to_string() } else { literal(rng, column.ty) }
}

pub fn insert(rng: &mut Rng, schema: &Schema, table: usize, rows: i64) -> Statement {
    let table = &schema.tables[table];
    let mut tuples = Vec::new();
    // Ascending keys now and then collide with what is there, seldom with each other.
    let mut id = rng.between(0, 30);
    for _ in 0..rows {
        let values: Vec<String> = (table.columns.iter().enumerate())
            .map(|(n, column)| if n == 0 { id.to_string() } else { value(rng, column) })
            .collect();
        tuples.push(format!("({})", values.join(", ")));
        let least = i64::from(!rng.chance(3));
        id += rng.between(least, 4);
    }
    let conflict = match rng.below(4) {
        0 if table.key == 0 => "",
        0 | 1 => " ON CONFLICT DO NOTHING",
        2 if table.key == 1 => " ON CONFLICT (id) DO UPDATE SET ref = excluded.ref",
        _ => "",
    };
    // A single row fails alone, many would mostly fail together.
    let conflict = if rows > 3 && conflict.is_empty() && table.key > 0 { " ON CONFLICT DO NOTHING" } else { conflict };
    let returning = if rng.chance(25) { " RETURNING *" } else { "" };
    Statement::plain(format!("INSERT INTO {} VALUES {}{conflict}{returning}", table.name, tuples.join(", ")))
}

pub fn write(rng: &mut Rng, schema: &Schema) -> Statement {
    let at = rng.below(schema.tables.len());
    let table = &schema.tables[at];
    let name = &table.name;
    let returning = if rng.chance(30) { " RETURNING *" } else { "" };
    let by_key = |rng: &mut Rng| format!("id = {}", rng.between(0, 45));
    let condition = |rng: &mut Rng| {
        if rng.chance(50) { by_key(rng) } else { predicate(rng, schema, &[(name.clone(), at)], 2) }
    };
    let choice = rng.below(12);
    // PostgreSQL looks for duplicates after each row of an UPDATE, Atoll (as the standard has it) after the last: of columns with a
    // unique index, programs change one row at a time.
    match choice {
        0..=2 => {
            let rows = rng.between(1, 3);
            insert(rng, schema, at, rows)
        }
        3..=6 => {
            let column = &table.columns[rng.below(table.columns.len() - 1) + 1];
            // Of a key, only one row's: which of two rows meets the other first is not determined.
            let keyed = table.key == 2 && column.name == "ref";
            let column_value = match column.ty {
                Ty::Int if rng.chance(50) => format!("{} + 1", column.name),
                Ty::Text if rng.chance(30) => format!("substr({} || 'b', 1, 3)", column.name),
                _ => value(rng, column),
            };
            let one = keyed || rng.chance(10);
            let condition = match table.is_unique(&column.name) {
                true if table.key == 1 => by_key(rng),
                true => "id < 0".to_string(),
                false if one => format!("{} AND ref = 1", by_key(rng)),
                false => condition(rng),
            };
            Statement::plain(format!("UPDATE {name} SET {} = {column_value} WHERE {condition}{returning}", column.name))
        }
        7 if table.key == 1 => {
            let (from, to) = (rng.between(0, 45), rng.between(0, 60));
            Statement::plain(format!("UPDATE {name} SET id = {to} WHERE id = {from}{returning}"))
        }
        8 => {
            // Keys of the other table are unique: at most one match.
            let other = &schema.tables[0].name;
            if at == 0 {
                let condition = match table.is_unique("ref") {
                    true if table.key == 1 => by_key(rng),
                    true => "id < 0".to_string(),
                    false => condition(rng),
                };
                Statement::plain(format!("UPDATE {name} SET ref = ref + 1 WHERE {condition}{returning}"))
            } else {
                Statement::plain(format!(
                    "UPDATE {name} SET ref = {other}.ref FROM {other} WHERE {other}.id = {name}.ref AND {other}.id < {} AND {name}.id < {}",
                    rng.between(0, 20),
                    if table.key == 2 || table.is_unique("ref") { 0 } else { rng.between(0, 45) }
                ))
            }
        }
        9 => {
            // With the extended protocol.
            let sql = match rng.below(3) {
                0 => format!("UPDATE {name} SET {} = $2 WHERE id = $1", last(table)),
                1 => format!("DELETE FROM {name} WHERE id = $1 AND {} = $2", last(table)),
                _ => format!("SELECT * FROM {name} WHERE id = $1 OR {} = $2", last(table)),
            };
            let ty = table.columns[table.columns.len() - 1].ty;
            let text = literal(rng, ty).trim_matches('\'').replace("''", "'");
            let parameters = vec![Some(rng.between(0, 45).to_string()), Some(text)];
            Statement { parameters: Some(parameters), ..Statement::plain(sql) }
        }
        10 => Statement::plain(format!("DELETE FROM {name} WHERE {}{returning}", by_key(rng))),
        _ => {
            let condition = format!("{} AND id > {}", condition(rng), rng.between(10, 40));
            Statement::plain(format!("DELETE FROM {name} WHERE {condition}{returning}"))
        }
    }
}

fn last(table: &super::schema::Table) -> &str {
    table.columns.last().map_or("id", |c| c.name.as_str())
}

/// Begins, ends, and savepoints.
pub fn control(rng: &mut Rng, open: &mut bool) -> Vec<Statement> {
    let one = |sql: &str| vec![Statement::plain(sql)];
    if !*open {
        *open = true;
        return one(if rng.chance(30) { "BEGIN ISOLATION LEVEL REPEATABLE READ" } else { "BEGIN" });
    }
    match rng.below(6) {
        0 => one("SAVEPOINT s"),
        1 => one("ROLLBACK TO SAVEPOINT s"),
        2 => one("RELEASE SAVEPOINT s"),
        3 => {
            *open = false;
            one("ROLLBACK")
        }
        _ => {
            *open = false;
            one("COMMIT")
        }
    }
}
