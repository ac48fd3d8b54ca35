//! IMPORT FOREIGN SCHEMA: tables of a site become tables in one piece that live there.
//!
//! Invariant: all tables that were asked for are adopted, or none. What the site enforces by itself (CHECKs, foreign keys, partial indexes,
//! triggers) stays its business; what Atoll has to do itself, and cannot, is refused with the table's and the column's name.

use super::{Binder, Bound, sequence};
use crate::pg::parse::{self, Chosen};
use atoll_model::{
    CatalogCommand, Error, ErrorKind, NewColumn, NewFragmentation, NewIndex, NewTable, ReadBalance, Replication,
    Result, Site, Value,
};
use atoll_ports::site::{SiteColumn, SiteTable};

/// Most reasons that one error lists.
const MAX_REASONS: usize = 20;

impl Binder<'_> {
    /// Binds IMPORT FOREIGN SCHEMA to what the site has told of the schema's tables.
    ///
    /// # Errors
    /// `UndefinedTable` for one that is named and not there; `NotSupported` with a reason for each that cannot be carried.
    pub fn import_schema(&self, site: &Site, schema: &str, chosen: &Chosen, tables: &[SiteTable]) -> Result<Bound> {
        let named = match chosen {
            Chosen::All => &[][..],
            Chosen::Only(names) | Chosen::AllBut(names) => names,
        };
        if let Some(name) = named.iter().find(|name| !tables.iter().any(|t| t.name == **name)) {
            return Err(Error::new(
                ErrorKind::UndefinedTable,
                format!("table \"{schema}.{name}\" does not exist at site \"{}\"", site.name),
            ));
        }
        let wanted = |table: &&SiteTable| match chosen {
            Chosen::All => true,
            Chosen::Only(names) => names.contains(&table.name),
            Chosen::AllBut(names) => !names.contains(&table.name),
        };
        let mut bound = Bound::of("IMPORT FOREIGN SCHEMA");
        let (mut reasons, mut refused) = (vec![], vec![]);
        for table in tables.iter().filter(wanted) {
            match self.imported(site, schema, table) {
                Ok(new) => bound.apply(CatalogCommand::CreateTable(Box::new(new))),
                Err(reason) => {
                    reasons.push(format!("{}: {reason}", table.name));
                    refused.push(super::quoted(&table.name));
                }
            }
        }
        if reasons.is_empty() {
            return Ok(bound);
        }
        let more = reasons.len().saturating_sub(MAX_REASONS);
        reasons.truncate(MAX_REASONS);
        if more > 0 {
            reasons.push(format!("and {more} more"));
        }
        let tables = if refused.len() == 1 { "table" } else { "tables" };
        Err(Error::unsupported(format!(
            "{} {tables} of schema \"{schema}\" of site \"{}\" cannot be imported",
            refused.len(),
            site.name
        ))
        .detail(reasons.join("\n"))
        .hint(format!("EXCEPT ({}) leaves them out.", refused.join(", "))))
    }

    /// One table, or why it cannot be carried.
    fn imported(&self, site: &Site, schema: &str, table: &SiteTable) -> std::result::Result<NewTable, String> {
        if self.catalog.names.contains_key(&table.name) {
            return Err("there is a relation of that name already".into());
        }
        let columns = table.columns.iter().map(|column| {
            self.imported_column(table, column).map_err(|why| format!("column \"{}\" {why}", column.name))
        });
        let columns = columns.collect::<std::result::Result<Vec<NewColumn>, String>>()?;
        let given = |names: &Vec<String>| {
            names.iter().all(|name| table.columns.iter().any(|column| column.name == *name && column.not_null))
        };
        let mut unique = table.unique.clone();
        let key = match (&table.key, unique.iter().position(given)) {
            (Some(key), _) => key.clone(),
            // A unique index over columns without NULLs is as good.
            (None, Some(at)) => unique.remove(at),
            (None, None) => return Err("it has neither a primary key nor a unique index without NULLs".into()),
        };
        Ok(NewTable {
            name: table.name.clone(),
            columns,
            primary_key: Some((None, key)),
            uniques: unique
                .into_iter()
                .map(|columns| NewIndex { name: None, columns, unique: true, constraint: true })
                .collect(),
            checks: vec![],
            foreign_keys: vec![],
            fragmentation: NewFragmentation::Copies,
            sites: vec![site.name.clone()],
            fragments: None,
            replicas: 1,
            replication: Replication::All,
            read_balance: ReadBalance::RoundRobin,
            on_replica_down: Default::default(),
            adopted: Some(format!("{schema}.{}", table.name)),
        })
    }

    fn imported_column(&self, table: &SiteTable, column: &SiteColumn) -> std::result::Result<NewColumn, String> {
        let Some(ty) = column.ty.clone() else { return Err(format!("is of type {}", column.declared)) };
        if let Some(problem) = column.problem {
            return Err(format!("cannot be written: {problem}"));
        }
        let mut made = NewColumn {
            name: column.name.clone(),
            ty,
            not_null: column.not_null,
            default: None,
            missing: Value::Null,
            identity: None,
        };
        if let Some(sequence) = &column.sequence {
            let own =
                sequence::owned(self.catalog, &table.name, &made.name, &made.ty, &[]).map_err(|e| e.to_string())?;
            made.identity = Some((false, atoll_model::NewSequence { name: own.name, ..sequence.clone() }));
        } else if let Some(default) = &column.default {
            let carried = parse::parse_expression(default).and_then(|expr| self.default(&made.name, &made.ty, &expr));
            let carried = carried.map_err(|e| format!("has the default {default}: {}", e.message()))?;
            made.default = (!carried.eq_ignore_ascii_case("null")).then_some(carried);
        }
        Ok(made)
    }
}
