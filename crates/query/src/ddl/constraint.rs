//! Constraints: CHECK, UNIQUE, PRIMARY KEY, FOREIGN KEY, as column options, in tables and in ADD CONSTRAINT.
//!
//! Invariant: a constraint that is taken is enforced; modifiers that would weaken it (DEFERRABLE, NOT ENFORCED, MATCH FULL) are refused.

use super::create::{constraint_name, named};
use super::{Binder, expression, relation_name};
use crate::syntax::fold;
use atoll_model::{Error, ErrorKind, NewForeignKey, NewIndex, NewTable, ReferentialAction, Result, SqlType};
use datafusion::sql::sqlparser::ast::{
    self, ColumnOption, ColumnOptionDef, ConstraintCharacteristics, ConstraintReferenceMatchKind, ForeignKeyConstraint,
    IndexColumn, NullsDistinctOption, TableConstraint,
};

impl Binder<'_> {
    /// A constraint that stands beside a column.
    pub(super) fn column_constraint(&self, table: &mut NewTable, column: &str, def: &ColumnOptionDef) -> Result<()> {
        let name = def.name.as_ref().map(fold);
        match &def.option {
            ColumnOption::PrimaryKey(key) => {
                characteristics(key.characteristics.as_ref())?;
                set_primary_key(table, name, vec![column.to_string()])
            }
            ColumnOption::Unique(unique) => {
                characteristics(unique.characteristics.as_ref())?;
                nulls(unique.nulls_distinct)?;
                table.uniques.push(NewIndex {
                    name,
                    columns: vec![column.to_string()],
                    unique: true,
                    constraint: true,
                });
                Ok(())
            }
            ColumnOption::Check(check) => self.add_check(table, name, &check.expr, check.enforced),
            ColumnOption::ForeignKey(key) => {
                let mut made = foreign_key(key)?;
                made.name = name.or(made.name);
                made.columns = vec![column.to_string()];
                table.foreign_keys.push(made);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A constraint of its own in a CREATE TABLE.
    pub(super) fn table_constraint(&self, table: &mut NewTable, constraint: &TableConstraint) -> Result<()> {
        let name = constraint_name(constraint);
        match constraint {
            TableConstraint::PrimaryKey(key) => {
                characteristics(key.characteristics.as_ref())?;
                set_primary_key(table, name, index_columns(&key.columns)?)
            }
            TableConstraint::Unique(unique) => {
                characteristics(unique.characteristics.as_ref())?;
                nulls(unique.nulls_distinct)?;
                let columns = index_columns(&unique.columns)?;
                for column in &columns {
                    named(&mut table.columns, column)?;
                }
                table.uniques.push(NewIndex { name, columns, unique: true, constraint: true });
                Ok(())
            }
            TableConstraint::ForeignKey(key) => {
                let made = foreign_key(key)?;
                for column in &made.columns {
                    if !table.columns.iter().any(|c| c.name == *column) {
                        return Err(Error::new(
                            ErrorKind::UndefinedColumn,
                            format!("column \"{column}\" referenced in foreign key constraint does not exist"),
                        ));
                    }
                }
                table.foreign_keys.push(made);
                Ok(())
            }
            TableConstraint::Check(check) => self.add_check(table, name, &check.expr, check.enforced),
            other => Err(Error::unsupported(format!("constraint {other} is not supported"))),
        }
    }

    fn add_check(
        &self,
        table: &mut NewTable,
        name: Option<String>,
        expr: &ast::Expr,
        enforced: Option<bool>,
    ) -> Result<()> {
        if enforced == Some(false) {
            return Err(Error::unsupported("constraints that are not enforced are not supported"));
        }
        let columns: Vec<(String, SqlType)> = table.columns.iter().map(|c| (c.name.clone(), c.ty.clone())).collect();
        self.check(expr, &columns)?;
        let taken: Vec<&str> = table.checks.iter().map(|(n, _)| n.as_str()).collect();
        let name = match name {
            Some(name) if taken.contains(&name.as_str()) => {
                return Err(Error::new(
                    ErrorKind::DuplicateObject,
                    format!("check constraint \"{name}\" already exists"),
                ));
            }
            Some(name) => name,
            None => check_name(&table.name, expr, |n| taken.contains(&n)),
        };
        table.checks.push((name, expr.to_string()));
        Ok(())
    }
}

/// The name that PostgreSQL chooses for a CHECK: of the one column that it names, or of the table.
pub(super) fn check_name(table: &str, expr: &ast::Expr, taken: impl Fn(&str) -> bool) -> String {
    let base = match expression::columns_of(expr).as_slice() {
        [column] => format!("{table}_{column}_check"),
        _ => format!("{table}_check"),
    };
    if !taken(&base) {
        return base;
    }
    (1..).map(|n| format!("{base}{n}")).find(|n| !taken(n)).unwrap_or(base)
}

fn set_primary_key(table: &mut NewTable, name: Option<String>, columns: Vec<String>) -> Result<()> {
    if table.primary_key.is_some() {
        return Err(Error::new(
            ErrorKind::InvalidTableDefinition,
            format!("multiple primary keys for table \"{}\" are not allowed", table.name),
        ));
    }
    for (at, column) in columns.iter().enumerate() {
        if columns[..at].contains(column) {
            return Err(Error::new(
                ErrorKind::DuplicateColumn,
                format!("column \"{column}\" appears twice in primary key constraint"),
            ));
        }
        named(&mut table.columns, column)?;
    }
    table.primary_key = Some((name, columns));
    Ok(())
}

/// The plain columns of an index or key.
///
/// # Errors
/// `NotSupported` for expressions, orders and operator classes.
pub(super) fn index_columns(columns: &[IndexColumn]) -> Result<Vec<String>> {
    columns
        .iter()
        .map(|column| {
            if column.column.options.asc == Some(false) || column.column.options.nulls_first.is_some() {
                return Err(Error::unsupported(
                    "indexes are kept in ascending order with NULLs last; a scan can read them backwards",
                ));
            }
            // Operator classes choose between orders; there is one here.
            match &column.column.expr {
                ast::Expr::Identifier(name) => Ok(fold(name)),
                ast::Expr::Nested(_) | ast::Expr::Function(_) => Err(Error::unsupported(
                    "indexes on expressions are not supported: keep the value in a column of its own",
                )),
                other => Err(Error::unsupported(format!("an index on {other} is not supported"))),
            }
        })
        .collect()
}

/// A foreign key, its columns as given (none for a column's REFERENCES).
pub(super) fn foreign_key(key: &ForeignKeyConstraint) -> Result<NewForeignKey> {
    characteristics(key.characteristics.as_ref())?;
    if matches!(key.match_kind, Some(ConstraintReferenceMatchKind::Full | ConstraintReferenceMatchKind::Partial)) {
        return Err(Error::unsupported("MATCH FULL and MATCH PARTIAL are not supported"));
    }
    let action = |a: &Option<ast::ReferentialAction>| {
        Ok(match a {
            None | Some(ast::ReferentialAction::NoAction | ast::ReferentialAction::Restrict) => {
                ReferentialAction::NoAction
            }
            Some(ast::ReferentialAction::Cascade) => ReferentialAction::Cascade,
            Some(ast::ReferentialAction::SetNull) => ReferentialAction::SetNull,
            Some(ast::ReferentialAction::SetDefault) => {
                return Err(Error::unsupported("SET DEFAULT is not supported as a foreign key's action"));
            }
        })
    };
    Ok(NewForeignKey {
        name: key.name.as_ref().map(fold),
        columns: key.columns.iter().map(fold).collect(),
        parent: relation_name(&key.foreign_table)?,
        parent_columns: key.referred_columns.iter().map(fold).collect(),
        on_delete: action(&key.on_delete)?,
        on_update: action(&key.on_update)?,
    })
}

fn characteristics(given: Option<&ConstraintCharacteristics>) -> Result<()> {
    match given {
        Some(c) if c.deferrable == Some(true) || matches!(c.initially, Some(ast::DeferrableInitial::Deferred)) => Err(
            Error::unsupported("deferrable constraints are not supported: constraints are checked by each statement"),
        ),
        Some(c) if c.enforced == Some(false) => {
            Err(Error::unsupported("constraints that are not enforced are not supported"))
        }
        _ => Ok(()),
    }
}

pub(super) fn nulls(option: NullsDistinctOption) -> Result<()> {
    match option {
        NullsDistinctOption::NotDistinct => Err(Error::unsupported("NULLS NOT DISTINCT is not supported")),
        _ => Ok(()),
    }
}
