//! CREATE INDEX.

use super::constraint::index_columns;
use super::{Binder, Bound, relation_name, undefined_table};
use atoll_model::{CatalogCommand, Error, ErrorKind, NamedObject, NewIndex, Result};
use datafusion::sql::sqlparser::ast::{CreateIndex, IndexType};

impl Binder<'_> {
    pub(super) fn create_index(&self, create: &CreateIndex) -> Result<Bound> {
        let table = relation_name(&create.table_name)?;
        let name = create.name.as_ref().map(relation_name).transpose()?;
        if create.if_not_exists
            && let Some(name) = &name
            && self.catalog.names.contains_key(name)
        {
            return Ok(Bound::skipped(
                "CREATE INDEX",
                "42P07",
                format!("relation \"{name}\" already exists, skipping"),
            ));
        }
        match self.catalog.names.get(&table) {
            Some(NamedObject::Table(_)) => {}
            Some(NamedObject::Fragment(_)) => {
                return Err(Error::unsupported("an index belongs to the whole table, not to one fragment"));
            }
            Some(_) => {
                return Err(Error::new(
                    ErrorKind::WrongObjectType,
                    format!("cannot create index on relation \"{table}\""),
                ));
            }
            None => return Err(undefined_table(&table)),
        }
        if create.predicate.is_some() {
            return Err(Error::unsupported("partial indexes are not supported"));
        }
        if create.nulls_distinct == Some(false) {
            return Err(Error::unsupported("NULLS NOT DISTINCT is not supported"));
        }
        match &create.using {
            None | Some(IndexType::BTree) => {}
            Some(other) => {
                return Err(Error::unsupported(format!(
                    "index method {} is not supported: all indexes are btree",
                    other.to_string().to_lowercase()
                )));
            }
        }
        let mut bound = Bound::of("CREATE INDEX");
        if !create.include.is_empty() {
            return Err(Error::unsupported("INCLUDE is not supported: name the columns as key columns"));
        }
        bound.apply(CatalogCommand::CreateIndex {
            table,
            index: NewIndex {
                name,
                columns: index_columns(&create.columns)?,
                unique: create.unique,
                constraint: false,
            },
        });
        Ok(bound)
    }
}
