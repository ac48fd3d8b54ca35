//! ALTER TABLE.
//!
//! Invariant: a constraint is added only after a query has shown that every row keeps it, in the same transaction and under the
//! table's exclusive lock.

use super::constraint::{check_name, foreign_key, index_columns, nulls};
use super::create::constraint_name;
use super::{Binder, Bound, Step, expression, quoted, relation_name};
use crate::syntax::fold;
use atoll_model::{
    CatalogCommand, Error, ErrorKind, NamedObject, NewForeignKey, NewIndex, Result, SqlType, Table, TableChange, Value,
};
use datafusion::sql::sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, ColumnDef, ColumnOption, DropBehavior, Expr,
    RenameTableNameKind, SqlOption, TableConstraint,
};

impl Binder<'_> {
    pub(super) fn alter_table(&self, alter: &AlterTable) -> Result<Bound> {
        let name = relation_name(&alter.name)?;
        let table = match self.catalog.names.get(&name) {
            Some(NamedObject::Table(id)) => {
                self.catalog.tables.get(id).ok_or_else(|| Error::internal("a name without its table"))?
            }
            Some(NamedObject::Fragment(_)) => {
                return Err(Error::unsupported(
                    "a fragment has the definition of its table: ALTER TABLE takes the table",
                ));
            }
            Some(_) => return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not a table"))),
            None if alter.if_exists => {
                return Ok(Bound::skipped(
                    "ALTER TABLE",
                    "00000",
                    format!("relation \"{name}\" does not exist, skipping"),
                ));
            }
            None => return Err(super::undefined_table(&name)),
        };
        let mut bound = Bound::of("ALTER TABLE");
        for operation in &alter.operations {
            self.operation(table, operation, &mut bound)?;
        }
        Ok(bound)
    }

    fn operation(&self, table: &Table, operation: &AlterTableOperation, bound: &mut Bound) -> Result<()> {
        let change = |change: TableChange| CatalogCommand::AlterTable { table: table.name.clone(), change };
        match operation {
            AlterTableOperation::AddColumn { if_not_exists, column_def, column_position: None, .. } => {
                let name = fold(&column_def.name);
                if *if_not_exists && table.position_of(&name).is_some() {
                    bound.notice(
                        "42701",
                        format!("column \"{name}\" of relation \"{}\" already exists, skipping", table.name),
                    );
                    return Ok(());
                }
                self.add_column(table, column_def, bound)
            }
            AlterTableOperation::DropColumn { column_names, if_exists, drop_behavior, .. } => {
                for name in column_names.iter().map(fold) {
                    if *if_exists && table.position_of(&name).is_none() {
                        bound.notice(
                            "00000",
                            format!("column \"{name}\" of relation \"{}\" does not exist, skipping", table.name),
                        );
                        continue;
                    }
                    bound.apply(change(TableChange::DropColumn {
                        name,
                        cascade: matches!(drop_behavior, Some(DropBehavior::Cascade)),
                    }));
                }
                Ok(())
            }
            AlterTableOperation::RenameColumn { old_column_name, new_column_name } => {
                bound.apply(change(TableChange::RenameColumn {
                    from: fold(old_column_name),
                    to: fold(new_column_name),
                }));
                Ok(())
            }
            AlterTableOperation::RenameTable { table_name } => {
                let (RenameTableNameKind::As(to) | RenameTableNameKind::To(to)) = table_name;
                bound.apply(change(TableChange::Rename(relation_name(to)?)));
                Ok(())
            }
            AlterTableOperation::AlterColumn { column_name, op } => {
                self.alter_column(table, &fold(column_name), op, bound)
            }
            AlterTableOperation::AddConstraint { constraint, not_valid } => {
                if *not_valid {
                    return Err(Error::unsupported(
                        "NOT VALID is not supported: a constraint holds for every row or is not added",
                    ));
                }
                self.add_constraint(table, constraint, bound)
            }
            AlterTableOperation::DropConstraint { if_exists, name, .. } => {
                let name = fold(name);
                let known = table.checks.iter().any(|c| c.name == name)
                    || table.foreign_keys.iter().any(|k| k.name == name)
                    || table.indexes.iter().any(|i| i.constraint && i.name == name)
                    || table.primary_key.as_deref() == Some(&name);
                if !known && *if_exists {
                    bound.notice(
                        "00000",
                        format!("constraint \"{name}\" of relation \"{}\" does not exist, skipping", table.name),
                    );
                    return Ok(());
                }
                bound.apply(change(TableChange::DropConstraint { name }));
                Ok(())
            }
            AlterTableOperation::SetOptionsParens { options } => {
                for option in options {
                    bound.apply(change(set_option(option)?));
                }
                Ok(())
            }
            // Alone it is bound where the user is known.
            AlterTableOperation::OwnerTo { .. } => {
                Err(Error::unsupported("OWNER TO together with other changes of a table")
                    .hint("Use an ALTER TABLE of its own."))
            }
            other => {
                Err(Error::unsupported(format!("ALTER TABLE … {} is not supported", first_words(&other.to_string()))))
            }
        }
    }

    fn add_column(&self, table: &Table, def: &ColumnDef, bound: &mut Bound) -> Result<()> {
        let mut column = self.column(&table.name, def)?;
        let name = column.name.clone();
        if table.position_of(&name).is_some() {
            return Err(Error::new(
                ErrorKind::DuplicateColumn,
                format!("column \"{name}\" of relation \"{}\" already exists", table.name),
            ));
        }
        let default = def.options.iter().find_map(|o| match &o.option {
            ColumnOption::Default(expr) => Some(expr),
            _ => None,
        });
        if let Some(expr) = default {
            if expression::volatile(self.state, expr) || expression::asks_session(self.state, expr) {
                bound.steps.push(
                    self.is_empty(
                        table,
                        Error::unsupported(
                            "a column whose default differs from row to row cannot be added to a table that has rows",
                        )
                        .hint("Add the column without a default, UPDATE the rows, then SET DEFAULT."),
                    ),
                );
            } else {
                column.missing = expression::constant(self.state, expr, &column.ty)?;
            }
        }
        if column.identity.is_some() {
            bound.steps.push(self.is_empty(
                table,
                Error::unsupported("a serial or identity column cannot be added to a table that has rows"),
            ));
        } else if column.not_null && column.missing == Value::Null {
            bound.steps.push(self.is_empty(
                table,
                Error::new(
                    ErrorKind::NotNullViolation,
                    format!("column \"{name}\" of relation \"{}\" contains null values", table.name),
                ),
            ));
        }
        bound.apply(CatalogCommand::AlterTable {
            table: table.name.clone(),
            change: TableChange::AddColumn(column.clone()),
        });
        let mut columns = visible(table);
        columns.push((name.clone(), column.ty));
        for option in &def.options {
            let constraint = option.name.as_ref().map(fold);
            match &option.option {
                ColumnOption::PrimaryKey(_) => {
                    return Err(Error::unsupported(
                        "ADD COLUMN … PRIMARY KEY is not supported: add the column, then the key",
                    ));
                }
                ColumnOption::Unique(unique) => {
                    nulls(unique.nulls_distinct)?;
                    bound.apply(self.unique(table, constraint, vec![name.clone()]));
                }
                ColumnOption::Check(check) => self.add_table_check(table, &columns, constraint, &check.expr, bound)?,
                ColumnOption::ForeignKey(key) => {
                    let mut key = foreign_key(key)?;
                    key.name = constraint.or(key.name);
                    key.columns = vec![name.clone()];
                    self.add_foreign_key(table, key, bound)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn alter_column(&self, table: &Table, name: &str, op: &AlterColumnOperation, bound: &mut Bound) -> Result<()> {
        let at = table.position_of(name).filter(|at| !table.columns[*at].hidden).ok_or_else(|| {
            Error::new(
                ErrorKind::UndefinedColumn,
                format!("column \"{name}\" of relation \"{}\" does not exist", table.name),
            )
        })?;
        let column = &table.columns[at];
        let change = match op {
            AlterColumnOperation::SetNotNull => {
                bound.steps.push(Step::Check {
                    sql: format!("SELECT 1 FROM {} WHERE {} IS NULL LIMIT 1", quoted(&table.name), quoted(name)),
                    error: Error::new(
                        ErrorKind::NotNullViolation,
                        format!("column \"{name}\" of relation \"{}\" contains null values", table.name),
                    )
                    .table(table.name.clone()),
                });
                TableChange::SetNotNull { column: name.into(), not_null: true }
            }
            AlterColumnOperation::DropNotNull => TableChange::SetNotNull { column: name.into(), not_null: false },
            AlterColumnOperation::SetDefault { value } => {
                if column.generated.as_ref().is_some_and(super::create::is_always) {
                    return Err(Error::new(
                        ErrorKind::Syntax,
                        format!("column \"{name}\" of relation \"{}\" is an identity column", table.name),
                    ));
                }
                TableChange::SetDefault { column: name.into(), default: Some(self.default(name, &column.ty, value)?) }
            }
            AlterColumnOperation::DropDefault => TableChange::SetDefault { column: name.into(), default: None },
            AlterColumnOperation::SetDataType { .. } => {
                return Err(Error::unsupported("changing a column's type is not supported")
                    .hint("Add a column of the new type, UPDATE it from the old one, drop the old one and rename."));
            }
            AlterColumnOperation::AddGenerated { .. } => {
                return Err(Error::unsupported(
                    "ADD GENERATED is not supported: declare the column as identity when it is made",
                ));
            }
        };
        bound.apply(CatalogCommand::AlterTable { table: table.name.clone(), change });
        Ok(())
    }

    fn add_constraint(&self, table: &Table, constraint: &TableConstraint, bound: &mut Bound) -> Result<()> {
        let name = constraint_name(constraint);
        match constraint {
            TableConstraint::Check(check) => self.add_table_check(table, &visible(table), name, &check.expr, bound),
            TableConstraint::ForeignKey(key) => self.add_foreign_key(table, foreign_key(key)?, bound),
            TableConstraint::Unique(unique) => {
                nulls(unique.nulls_distinct)?;
                bound.apply(self.unique(table, name, index_columns(&unique.columns)?));
                Ok(())
            }
            TableConstraint::PrimaryKey(key) => self.add_primary_key(table, name, index_columns(&key.columns)?, bound),
            other => Err(Error::unsupported(format!("constraint {other} is not supported"))),
        }
    }

    fn unique(&self, table: &Table, name: Option<String>, columns: Vec<String>) -> CatalogCommand {
        CatalogCommand::CreateIndex {
            table: table.name.clone(),
            index: NewIndex { name, columns, unique: true, constraint: true },
        }
    }

    fn add_table_check(
        &self,
        table: &Table,
        columns: &[(String, SqlType)],
        name: Option<String>,
        expr: &Expr,
        bound: &mut Bound,
    ) -> Result<()> {
        self.check(expr, columns)?;
        let taken = |n: &str| {
            table.checks.iter().any(|c| c.name == n)
                || table.foreign_keys.iter().any(|k| k.name == n)
                || table.indexes.iter().any(|i| i.constraint && i.name == n)
        };
        let name = match name {
            Some(name) if taken(&name) => {
                return Err(Error::new(
                    ErrorKind::DuplicateObject,
                    format!("constraint \"{name}\" for relation \"{}\" already exists", table.name),
                ));
            }
            Some(name) => name,
            None => check_name(&table.name, expr, taken),
        };
        bound.steps.push(rows_fulfil(&table.name, &name, &expr.to_string()));
        let change = TableChange::AddCheck { name, expression: expr.to_string() };
        bound.apply(CatalogCommand::AlterTable { table: table.name.clone(), change });
        Ok(())
    }

    fn add_foreign_key(&self, table: &Table, mut key: NewForeignKey, bound: &mut Bound) -> Result<()> {
        let parent = self.catalog.table(&key.parent).ok_or_else(|| super::undefined_table(&key.parent))?;
        if key.parent_columns.is_empty() {
            if parent.has_hidden_key() {
                return Err(Error::new(
                    ErrorKind::UndefinedObject,
                    format!("there is no primary key for referenced table \"{}\"", parent.name),
                ));
            }
            key.parent_columns = super::create::column_names(parent, &parent.key);
        }
        if key.parent_columns.len() != key.columns.len() {
            return Err(Error::new(
                ErrorKind::InvalidForeignKey,
                "number of referencing and referenced columns for foreign key disagree",
            ));
        }
        let name = key.name.clone().unwrap_or_else(|| format!("{}_{}_fkey", table.name, key.columns.join("_")));
        let given: Vec<String> = key.columns.iter().map(|c| format!("c.{} IS NOT NULL", quoted(c))).collect();
        let same: Vec<String> = key
            .columns
            .iter()
            .zip(&key.parent_columns)
            .map(|(c, p)| format!("p.{} = c.{}", quoted(p), quoted(c)))
            .collect();
        bound.steps.push(Step::Check {
            sql: format!(
                "SELECT 1 FROM {} AS c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {}) LIMIT 1",
                quoted(&table.name),
                given.join(" AND "),
                quoted(&parent.name),
                same.join(" AND ")
            ),
            error: Error::new(
                ErrorKind::ForeignKeyViolation,
                format!("insert or update on table \"{}\" violates foreign key constraint \"{name}\"", table.name),
            )
            .table(table.name.clone())
            .constraint(name),
        });
        bound.apply(CatalogCommand::AlterTable { table: table.name.clone(), change: TableChange::AddForeignKey(key) });
        Ok(())
    }

    fn is_empty(&self, table: &Table, error: Error) -> Step {
        Step::Check {
            sql: format!("SELECT 1 FROM {} LIMIT 1", quoted(&table.name)),
            error: error.table(table.name.clone()),
        }
    }
}

/// Makes sure that all rows of a table fulfil a CHECK.
pub(super) fn rows_fulfil(table: &str, name: &str, expression: &str) -> Step {
    Step::Check {
        sql: format!("SELECT 1 FROM {} WHERE NOT ({expression}) LIMIT 1", quoted(table)),
        error: Error::new(
            ErrorKind::CheckViolation,
            format!("check constraint \"{name}\" of relation \"{table}\" is violated by some row"),
        )
        .table(table)
        .constraint(name),
    }
}

fn visible(table: &Table) -> Vec<(String, SqlType)> {
    table.columns.iter().filter(|c| !c.hidden).map(|c| (c.name.clone(), c.ty.clone())).collect()
}

fn first_words(text: &str) -> String {
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// What `SET (option = value)` changes.
fn set_option(option: &SqlOption) -> Result<TableChange> {
    let refused = |name: &str| {
        Err(Error::unsupported(format!("ALTER TABLE … SET ({name} = …)"))
            .hint("ALTER TABLE … SET takes the option on_replica_down."))
    };
    let SqlOption::KeyValue { key, value } = option else { return refused(&option.to_string()) };
    let name = fold(key);
    if name != "on_replica_down" {
        return refused(&name);
    }
    let value = match value {
        Expr::Value(value) => value.clone().into_string(),
        Expr::Identifier(word) => Some(fold(word)),
        _ => None,
    };
    super::options::on_replica_down(&value.unwrap_or_default()).map(TableChange::SetOnReplicaDown)
}
