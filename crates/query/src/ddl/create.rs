//! CREATE TABLE and CREATE VIEW.
//!
//! Invariant: every column, constraint and sequence of the new table has its final definition here; [`atoll_model::Catalog::apply`]
//! adds ids and fragments.

use super::{Binder, Bound, fragment, options, relation_name, sequence, types, undefined_table};
use crate::pg::parse::{CreateTable, Like};
use crate::pg::rewrite::names::shown;
use crate::syntax::fold;
use atoll_model::{
    CatalogCommand, Error, ErrorKind, Generated, NewColumn, NewFragmentation, NewIndex, NewTable, ReadBalance,
    Replication, Result, SqlType, Table, Value,
};
use datafusion::arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast::{self, ColumnDef, ColumnOption, GeneratedAs, ObjectNamePart, TableConstraint};

/// Most columns of a table, as in PostgreSQL.
const MAX_COLUMNS: usize = 1600;

/// The columns of `CREATE TABLE … AS`: those of the query's result.
///
/// # Errors
/// `NotSupported` for types that tables cannot hold; `DuplicateColumn`; 42601 when there are fewer columns than names.
pub fn columns_from_schema(schema: &Schema, names: &[String]) -> Result<Vec<NewColumn>> {
    if names.len() > schema.fields().len() {
        return Err(Error::new(ErrorKind::Syntax, "too many column names were specified"));
    }
    let mut columns: Vec<NewColumn> = Vec::with_capacity(schema.fields().len());
    for (at, field) in schema.fields().iter().enumerate() {
        let name = names.get(at).map_or_else(|| shown(field.name()).to_owned(), Clone::clone);
        let ty = SqlType::of_field(field).filter(|t| *t != SqlType::Interval).ok_or_else(|| {
            Error::unsupported(format!("a table cannot hold column \"{name}\" of type {}", field.data_type()))
        })?;
        // The scale of a computed numeric is an accident of its computation; PostgreSQL stores such columns without one.
        let ty = match ty {
            SqlType::Numeric(_) if !field.metadata().contains_key(atoll_model::TYPE_METADATA_KEY) => {
                SqlType::Numeric(None)
            }
            ty => ty,
        };
        add_column(&mut columns, plain_column(name, ty))?;
    }
    Ok(columns)
}

fn plain_column(name: String, ty: SqlType) -> NewColumn {
    NewColumn { name, ty, not_null: false, default: None, missing: Value::Null, identity: None }
}

fn add_column(columns: &mut Vec<NewColumn>, column: NewColumn) -> Result<()> {
    if columns.iter().any(|c| c.name == column.name) {
        return Err(Error::new(
            ErrorKind::DuplicateColumn,
            format!("column \"{}\" specified more than once", column.name),
        ));
    }
    if columns.len() == MAX_COLUMNS {
        return Err(Error::new(ErrorKind::ProgramLimit, format!("tables can have at most {MAX_COLUMNS} columns")));
    }
    columns.push(column);
    Ok(())
}

impl Binder<'_> {
    /// Binds CREATE TABLE. `columns`: those of its query, for `CREATE TABLE … AS`.
    ///
    /// # Errors
    /// Whatever is wrong with the definition.
    pub fn create_table(&self, create: &CreateTable, columns: Option<Vec<NewColumn>>) -> Result<Bound> {
        if create.temporary {
            return Err(Error::unsupported("temporary tables are not supported")
                .hint("Use a plain table with a name of its own and drop it at the end, or a CTE (WITH …)."));
        }
        if create.if_not_exists && self.catalog.names.contains_key(&create.name) {
            return Ok(Bound::skipped(
                "CREATE TABLE",
                "42P07",
                format!("relation \"{}\" already exists, skipping", create.name),
            ));
        }
        let mut table = NewTable {
            name: create.name.clone(),
            columns: columns.unwrap_or_default(),
            primary_key: None,
            uniques: vec![],
            checks: vec![],
            foreign_keys: vec![],
            fragmentation: NewFragmentation::Default,
            sites: vec![],
            fragments: None,
            replicas: 1,
            replication: Replication::All,
            read_balance: ReadBalance::RoundRobin,
            on_replica_down: Default::default(),
            adopted: None,
        };
        for (at, column) in create.columns.iter().enumerate() {
            for like in create.like.iter().filter(|l| l.at == at) {
                self.like(&mut table, like)?;
            }
            let column = self.column(&table.name, column)?;
            add_column(&mut table.columns, column)?;
        }
        for like in create.like.iter().filter(|l| l.at >= create.columns.len()) {
            self.like(&mut table, like)?;
        }
        // Constraints come after all columns, which they may name.
        for column in &create.columns {
            for option in &column.options {
                self.column_constraint(&mut table, &fold(&column.name), option)?;
            }
        }
        for constraint in &create.constraints {
            self.table_constraint(&mut table, constraint)?;
        }
        if let Some((_, key)) = &table.primary_key {
            for name in key.clone() {
                let column = named(&mut table.columns, &name)?;
                column.not_null = true;
            }
        }
        let options = options::read(&create.options, create.tablespace.as_ref())?;
        fragment::allocate(&mut table, create.partition_by.as_ref(), options, self.catalog)?;
        if let Some(adopted) = &create.adopted {
            return adopt(table, adopted.clone(), create.query.is_some());
        }
        Ok(Bound::one("CREATE TABLE", CatalogCommand::CreateTable(Box::new(table))))
    }

    /// A column without the constraints that look at the table.
    pub(super) fn column(&self, table: &str, def: &ColumnDef) -> Result<NewColumn> {
        let name = fold(&def.name);
        if name == atoll_model::ROW_ID_COLUMN {
            return Err(Error::new(
                ErrorKind::InvalidTableDefinition,
                format!("column name \"{name}\" is the system's"),
            ));
        }
        let serial = types::serial(&def.data_type);
        let ty = match &serial {
            Some(ty) => ty.clone(),
            None => types::column_type(&def.data_type)?,
        };
        let mut column = plain_column(name, ty);
        if serial.is_some() {
            column.not_null = true;
            column.identity = Some((false, sequence::owned(self.catalog, table, &column.name, &column.ty, &[])?));
        }
        let mut nullable = false;
        for option in &def.options {
            match &option.option {
                ColumnOption::Null => nullable = true,
                ColumnOption::NotNull => column.not_null = true,
                ColumnOption::Default(expr) => {
                    if column.identity.is_some() || column.default.is_some() {
                        return Err(Error::new(
                            ErrorKind::Syntax,
                            format!(
                                "multiple default values specified for column \"{}\" of table \"{table}\"",
                                column.name
                            ),
                        ));
                    }
                    column.default = match expr {
                        ast::Expr::Value(v) if v.value == ast::Value::Null => None,
                        expr => Some(self.default(&column.name, &column.ty, expr)?),
                    };
                }
                ColumnOption::Generated { generated_as, sequence_options, generation_expr: None, .. } => {
                    if !matches!(column.ty, SqlType::Int2 | SqlType::Int4 | SqlType::Int8) {
                        return Err(Error::new(
                            ErrorKind::InvalidParameterValue,
                            "identity column type must be smallint, integer, or bigint",
                        ));
                    }
                    if column.identity.is_some() || column.default.is_some() {
                        return Err(Error::new(
                            ErrorKind::Syntax,
                            format!(
                                "both default and identity specified for column \"{}\" of table \"{table}\"",
                                column.name
                            ),
                        ));
                    }
                    let always = *generated_as == GeneratedAs::Always;
                    let options = sequence_options.as_deref().unwrap_or_default();
                    column.not_null = true;
                    column.identity =
                        Some((always, sequence::owned(self.catalog, table, &column.name, &column.ty, options)?));
                }
                ColumnOption::Generated { .. } => {
                    return Err(Error::unsupported(
                        "generated columns are not supported: a view can compute the value",
                    ));
                }
                ColumnOption::Collation(name) => collation(&name.to_string())?,
                ColumnOption::PrimaryKey(_)
                | ColumnOption::Unique(_)
                | ColumnOption::ForeignKey(_)
                | ColumnOption::Check(_) => {}
                other => return Err(Error::unsupported(format!("column option {other} is not supported"))),
            }
        }
        if nullable && column.not_null {
            return Err(Error::new(
                ErrorKind::Syntax,
                format!("conflicting NULL/NOT NULL declarations for column \"{}\" of table \"{table}\"", column.name),
            ));
        }
        Ok(column)
    }

    fn like(&self, table: &mut NewTable, like: &Like) -> Result<()> {
        let source = self.catalog.table(&like.table).ok_or_else(|| undefined_table(&like.table))?;
        for column in source.columns.iter().filter(|c| !c.hidden) {
            let mut made = plain_column(column.name.clone(), column.ty.clone());
            made.not_null = column.not_null;
            if like.defaults {
                made.default = column.default.clone();
            }
            add_column(&mut table.columns, made)?;
        }
        if like.constraints {
            table.checks.extend(source.checks.iter().map(|c| (c.name.clone(), c.expression.clone())));
        }
        if like.indexes {
            if source.primary_key.is_some() {
                table.primary_key = Some((None, column_names(source, &source.key)));
            }
            table.uniques.extend(source.indexes.iter().filter(|i| i.unique).map(|i| NewIndex {
                name: None,
                columns: column_names(source, &i.columns),
                unique: true,
                constraint: i.constraint,
            }));
        }
        Ok(())
    }

    /// Binds CREATE VIEW.
    pub(super) fn create_view(&self, create: &ast::CreateView) -> Result<Bound> {
        let name = relation_name(&create.name)?;
        if create.materialized {
            return Err(Error::unsupported(
                "materialized views are not implemented yet: CREATE TABLE … AS keeps a result",
            ));
        }
        if create.temporary {
            return Err(Error::unsupported("temporary views are not supported"));
        }
        if create.if_not_exists && self.catalog.names.contains_key(&name) {
            return Ok(Bound::skipped("CREATE VIEW", "42P07", format!("relation \"{name}\" already exists, skipping")));
        }
        let mut ctes: Vec<String> = vec![];
        collect_ctes(&create.query, &mut ctes);
        let mut depends_on: Vec<String> = vec![];
        crate::syntax::relations(&*create.query, |relation| {
            let schema = match relation.0.as_slice() {
                [ObjectNamePart::Identifier(schema), _] => fold(schema),
                _ => "public".into(),
            };
            if let Some(ObjectNamePart::Identifier(last)) = relation.0.last() {
                let last = fold(last);
                let cte = relation.0.len() == 1 && ctes.contains(&last);
                if schema == "public" && !cte && self.catalog.names.contains_key(&last) && !depends_on.contains(&last) {
                    depends_on.push(last);
                }
            }
        });
        Ok(Bound::one(
            "CREATE VIEW",
            CatalogCommand::CreateView {
                name,
                columns: create.columns.iter().map(|c| fold(&c.name)).collect(),
                query: create.query.to_string(),
                depends_on,
                replace: create.or_replace,
            },
        ))
    }
}

/// A table in one piece, which is there at its site.
fn adopt(mut table: NewTable, adopted: String, filled: bool) -> Result<Bound> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidTableDefinition, why.to_owned()));
    if filled {
        return refuse("a table that is there already cannot be made from a query");
    }
    if table.fragments.is_some() || table.replicas != 1 {
        return refuse("an adopted table is one fragment with one copy");
    }
    if table.fragmentation == NewFragmentation::Default {
        table.fragmentation = NewFragmentation::Copies;
    }
    let mut bound = Bound::of("CREATE TABLE");
    let checks = fragment::checks(&table.name, table.checks.iter().map(|(name, sql)| (name.as_str(), sql.as_str())));
    table.adopted = Some(adopted);
    bound.apply(CatalogCommand::CreateTable(Box::new(table)));
    bound.steps.extend(checks);
    Ok(bound)
}

fn collect_ctes(query: &ast::Query, names: &mut Vec<String>) {
    if let Some(with) = &query.with {
        for cte in &with.cte_tables {
            names.push(fold(&cte.alias.name));
            collect_ctes(&cte.query, names);
        }
    }
}

/// Only the byte order is there: names of it, and names that mean "whatever is there".
fn collation(name: &str) -> Result<()> {
    match name.replace('"', "").to_lowercase().trim_start_matches("pg_catalog.") {
        "c" | "posix" | "default" | "c.utf-8" | "c.utf8" | "ucs_basic" => Ok(()),
        other => Err(Error::unsupported(format!(
            "collation \"{other}\" is not supported: text is compared by its bytes (\"C\")"
        ))),
    }
}

pub(super) fn column_names(table: &Table, ids: &[atoll_model::ColumnId]) -> Vec<String> {
    ids.iter().filter_map(|id| table.position(*id)).map(|p| table.columns[p].name.clone()).collect()
}

pub(super) fn named<'c>(columns: &'c mut [NewColumn], name: &str) -> Result<&'c mut NewColumn> {
    columns
        .iter_mut()
        .find(|c| c.name == name)
        .ok_or_else(|| Error::new(ErrorKind::UndefinedColumn, format!("column \"{name}\" named in key does not exist")))
}

/// Whether a generated column takes values of its own by a sequence that always counts.
pub(super) fn is_always(generated: &Generated) -> bool {
    matches!(generated, Generated::Always(_))
}

/// The constraints of a table under construction, as ADD CONSTRAINT needs them too.
pub(super) fn constraint_name(constraint: &TableConstraint) -> Option<String> {
    match constraint {
        TableConstraint::Unique(c) => c.name.as_ref(),
        TableConstraint::PrimaryKey(c) => c.name.as_ref(),
        TableConstraint::ForeignKey(c) => c.name.as_ref(),
        TableConstraint::Check(c) => c.name.as_ref(),
        _ => None,
    }
    .map(fold)
}
