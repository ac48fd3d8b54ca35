//! CREATE TABLE, CREATE INDEX, and the columns that ALTER TABLE adds.

use super::{limits, names};
use crate::catalog::{
    Allocation, Catalog, Check, Column, Generated, Index, NamedObject, NewColumn, NewIndex, NewTable, ROW_ID_COLUMN,
    Table,
};
use crate::{ColumnId, Error, ErrorKind, Fragmentation, IndexId, RelationId, Result, SqlType, Value};
use std::sync::Arc;

impl Catalog {
    pub(super) fn create_table(&mut self, new: &NewTable) -> Result<()> {
        names::check(&new.name)?;
        self.check_free(&new.name)?;
        limits::check("tables", self.tables.len(), limits::RELATIONS)?;
        let mut table = Table {
            id: RelationId(self.fresh_id()?),
            name: new.name.clone(),
            columns: vec![],
            next_column: 1,
            next_index: 1,
            key: vec![],
            primary_key: None,
            indexes: vec![],
            checks: vec![],
            foreign_keys: vec![],
            fragmentation: Fragmentation::None,
            fragments: vec![],
            replication: new.replication,
            read_balance: new.read_balance,
            on_replica_down: new.on_replica_down,
        };
        self.names.insert(new.name.clone(), NamedObject::Table(table.id));
        for column in &new.columns {
            if table.position_of(&column.name).is_some() {
                return Err(Error::new(
                    ErrorKind::DuplicateColumn,
                    format!("column \"{}\" specified more than once", column.name),
                ));
            }
            self.add_column(&mut table, column)?;
        }
        self.add_key(&mut table, new)?;
        for unique in &new.uniques {
            self.add_index(&mut table, unique)?;
        }
        let sites = new.sites.iter().map(|s| self.site_named(s)).collect::<Result<Vec<_>>>()?;
        let allocation = Allocation { sites, replicas: new.replicas };
        self.fragment_table(&mut table, new, &allocation)?;
        self.allocations.insert(table.id, allocation);
        for (name, expression) in &new.checks {
            add_check(&mut table, name, expression)?;
        }
        for key in &new.foreign_keys {
            let key = self.bind_foreign_key(&table, key)?;
            table.foreign_keys.push(key);
        }
        self.complete_derived(&mut table)?;
        self.tables.insert(table.id, Arc::new(table));
        Ok(())
    }

    /// Adds a column at the end, with the sequence that it owns.
    pub(super) fn add_column(&mut self, table: &mut Table, new: &NewColumn) -> Result<()> {
        names::check(&new.name)?;
        if new.name == ROW_ID_COLUMN {
            return Err(Error::new(ErrorKind::DuplicateColumn, format!("column name \"{}\" is reserved", new.name)));
        }
        limits::check("columns in a table", table.columns.len(), limits::COLUMNS)?;
        check_type(&new.name, &new.ty)?;
        if !is_of(&new.ty, &new.missing) {
            return Err(Error::new(
                ErrorKind::DatatypeMismatch,
                format!("column \"{}\" is of type {} but its default is not", new.name, new.ty),
            ));
        }
        let id = ColumnId(table.next_column);
        table.next_column = table
            .next_column
            .checked_add(1)
            .ok_or_else(|| Error::new(ErrorKind::ProgramLimit, "all column numbers of this table have been used"))?;
        let generated = match &new.identity {
            None => None,
            Some((always, sequence)) => {
                if !matches!(new.ty, SqlType::Int2 | SqlType::Int4 | SqlType::Int8) {
                    return Err(Error::new(
                        ErrorKind::InvalidParameterValue,
                        "identity column type must be smallint, integer, or bigint",
                    ));
                }
                let mut sequence = sequence.clone();
                if self.names.contains_key(&sequence.name) {
                    sequence.name = self.choose_name(&table.name, &new.name, "seq");
                }
                let sequence = self.create_sequence(&sequence, Some((table.id, id)))?;
                Some(if *always { Generated::Always(sequence) } else { Generated::ByDefault(sequence) })
            }
        };
        table.columns.push(Column {
            id,
            name: new.name.clone(),
            ty: new.ty.clone(),
            not_null: new.not_null || generated.is_some(),
            default: new.default.clone(),
            missing: new.missing.clone(),
            generated,
            hidden: false,
        });
        Ok(())
    }

    /// The primary key, or the hidden column in its place.
    fn add_key(&mut self, table: &mut Table, new: &NewTable) -> Result<()> {
        let Some((name, columns)) = &new.primary_key else {
            let id = ColumnId(table.next_column);
            table.next_column += 1;
            table.columns.push(Column {
                id,
                name: ROW_ID_COLUMN.into(),
                ty: SqlType::Int8,
                not_null: true,
                default: None,
                missing: Value::Null,
                generated: None,
                hidden: true,
            });
            table.key = vec![id];
            return Ok(());
        };
        if columns.is_empty() {
            return Err(Error::new(ErrorKind::Syntax, "a primary key needs a column"));
        }
        table.key = table.bind(columns, no_key_column)?;
        for id in &table.key {
            check_indexable(table, *id)?;
        }
        for column in &mut table.columns {
            column.not_null |= table.key.contains(&column.id);
        }
        let name = match name {
            Some(name) => name.clone(),
            None => self.choose_name(&table.name, "", "pkey"),
        };
        self.name_index(table, &name)?;
        table.primary_key = Some(name);
        Ok(())
    }

    /// Registers an index's name, which is free over all relations.
    fn name_index(&mut self, table: &Table, name: &str) -> Result<()> {
        names::check(name)?;
        self.check_free(name)?;
        self.names.insert(name.into(), NamedObject::Index(table.id));
        Ok(())
    }

    /// CREATE INDEX
    pub(super) fn create_index(&mut self, table: &str, index: &NewIndex) -> Result<()> {
        let mut table = (*self.table_named(table)?).clone();
        self.add_index(&mut table, index)?;
        self.tables.insert(table.id, Arc::new(table));
        Ok(())
    }

    /// Adds a secondary index or unique constraint.
    pub(super) fn add_index(&mut self, table: &mut Table, new: &NewIndex) -> Result<()> {
        limits::check("indexes on a table", table.indexes.len(), limits::INDEXES)?;
        if new.columns.is_empty() {
            return Err(Error::new(ErrorKind::Syntax, "an index needs a column"));
        }
        let columns = table.bind(&new.columns, |name| {
            if new.constraint {
                no_key_column(name)
            } else {
                Error::new(ErrorKind::UndefinedColumn, format!("column \"{name}\" does not exist"))
            }
        })?;
        for id in &columns {
            check_indexable(table, *id)?;
        }
        let name = match &new.name {
            Some(name) => name.clone(),
            None => {
                let columns = names::joined(new.columns.iter().map(String::as_str));
                self.choose_name(&table.name, &columns, if new.constraint { "key" } else { "idx" })
            }
        };
        if new.constraint && table.has_constraint(&name) {
            return Err(exists_constraint(table, &name));
        }
        self.name_index(table, &name)?;
        let id = IndexId(table.next_index);
        table.next_index = table
            .next_index
            .checked_add(1)
            .ok_or_else(|| Error::new(ErrorKind::ProgramLimit, "all index numbers of this table have been used"))?;
        table.indexes.push(Index { id, name, columns, unique: new.unique, constraint: new.constraint });
        Ok(())
    }
}

/// Adds a CHECK constraint.
pub(super) fn add_check(table: &mut Table, name: &str, expression: &str) -> Result<()> {
    names::check(name)?;
    limits::check("constraints on a table", table.checks.len() + table.foreign_keys.len(), limits::CONSTRAINTS)?;
    if table.has_constraint(name) {
        return Err(exists_constraint(table, name));
    }
    table.checks.push(Check { name: name.into(), expression: expression.into() });
    Ok(())
}

pub(super) fn exists_constraint(table: &Table, name: &str) -> Error {
    Error::new(
        ErrorKind::DuplicateObject,
        format!("constraint \"{name}\" for relation \"{}\" already exists", table.name),
    )
}

fn no_key_column(name: &str) -> Error {
    Error::new(ErrorKind::UndefinedColumn, format!("column \"{name}\" named in key does not exist"))
}

/// Refuses types that a stored column cannot have.
fn check_type(column: &str, ty: &SqlType) -> Result<()> {
    match ty {
        SqlType::Interval => {
            Err(Error::unsupported(format!("column \"{column}\" of type interval: intervals are not stored in tables"))
                .hint("Store seconds as a number, or the text."))
        }
        SqlType::Numeric(Some((precision, scale))) => {
            if !(1..=38).contains(precision) {
                return Err(Error::new(
                    if *precision == 0 { ErrorKind::InvalidParameterValue } else { ErrorKind::NotSupported },
                    format!("NUMERIC precision {precision} must be between 1 and 38"),
                ));
            }
            if *scale < 0 || *scale as u8 > *precision {
                return Err(Error::new(
                    ErrorKind::InvalidParameterValue,
                    format!("NUMERIC scale {scale} must be between 0 and precision {precision}"),
                ));
            }
            Ok(())
        }
        SqlType::Varchar(Some(0)) | SqlType::Char(0) => {
            Err(Error::new(ErrorKind::InvalidParameterValue, "length for type character must be at least 1"))
        }
        SqlType::Array(item) => match item.as_ref() {
            SqlType::Array(_) => Err(Error::unsupported(format!("column \"{column}\": arrays of arrays"))),
            item => check_type(column, item),
        },
        _ => Ok(()),
    }
}

/// Refuses types without an order in keys, indexes and fragmentation.
pub(super) fn check_indexable(table: &Table, id: ColumnId) -> Result<()> {
    let Some(column) = table.columns.iter().find(|c| c.id == id) else { return Ok(()) };
    let mut ty = &column.ty;
    if let SqlType::Array(item) = ty {
        ty = item;
    }
    if matches!(ty, SqlType::Json | SqlType::Interval) {
        return Err(Error::new(
            ErrorKind::UndefinedObject,
            format!("data type {ty} has no default operator class for access method \"btree\""),
        ));
    }
    Ok(())
}

/// Whether a value is NULL or of a type.
pub(super) fn is_of(ty: &SqlType, value: &Value) -> bool {
    matches!(
        (ty, value),
        (_, Value::Null)
            | (SqlType::Bool, Value::Bool(_))
            | (SqlType::Int2, Value::Int2(_))
            | (SqlType::Int4, Value::Int4(_))
            | (SqlType::Int8, Value::Int8(_))
            | (SqlType::Float4, Value::Float4(_))
            | (SqlType::Float8, Value::Float8(_))
            | (SqlType::Numeric(_), Value::Numeric(..))
            | (
                SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb,
                Value::Text(_)
            )
            | (SqlType::Bytea, Value::Bytea(_))
            | (SqlType::Date, Value::Date(_))
            | (SqlType::Time(_), Value::Time(_))
            | (SqlType::Timestamp(_), Value::Timestamp(_))
            | (SqlType::TimestampTz(_), Value::TimestampTz(_))
    ) || matches!((ty, value), (SqlType::Array(item), Value::Array(items)) if items.iter().all(|v| is_of(item, v)))
}
