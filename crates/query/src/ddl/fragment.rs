//! Fragmentation and allocation of a new table, and declared fragments.
//!
//! Invariant: the bounds of a declared fragment are values of the fragmentation columns' types; that they are disjoint is
//! checked by [`atoll_model::Catalog::apply`], which sees them all.

use super::options::{self, TableOptions};
use super::{Binder, Bound, Step, expression, undefined_table};
use crate::pg::parse::{self, CreateFragment, PartitionKind};
use atoll_model::{
    Catalog, CatalogCommand, Error, ErrorKind, FragmentBounds, Fragmentation, NewFragment, NewFragmentation, NewTable,
    RangeBound, Result, SqlType, Value,
};

/// Puts PARTITION BY and the options into the table.
///
/// # Errors
/// `InvalidParameterValue`, `InvalidTableDefinition` where they contradict each other; `UndefinedObject` for a site that is not there.
pub(super) fn allocate(
    table: &mut NewTable,
    partition_by: Option<&(PartitionKind, Vec<String>)>,
    options: TableOptions,
    catalog: &Catalog,
) -> Result<()> {
    let invalid = |m: &str| Error::new(ErrorKind::InvalidParameterValue, m.to_string());
    known_sites(&options.sites, catalog)?;
    table.fragmentation = match (&options.colocate_with, partition_by) {
        (Some(_), Some(_)) => return Err(invalid("colocate_with and PARTITION BY exclude each other")),
        (Some(parent), None) => {
            if !options.sites.is_empty() || options.fragments.is_some() || options.replicas.is_some() {
                return Err(invalid(
                    "a co-located table lives where its parent does: sites, fragments and replicas are the parent's",
                ));
            }
            let column = options.colocate_on.clone().unwrap_or_default();
            column_exists(table, &column)?;
            NewFragmentation::Derived { parent: parent.clone(), column }
        }
        (None, Some((kind, columns))) => {
            for column in columns {
                column_exists(table, column)?;
            }
            match (kind, columns.as_slice()) {
                (PartitionKind::List, [column]) => NewFragmentation::List(column.clone()),
                (PartitionKind::List, _) => {
                    return Err(Error::new(
                        ErrorKind::InvalidObjectDefinition,
                        "cannot use \"list\" partition strategy with more than one column",
                    ));
                }
                (PartitionKind::Range, columns) => NewFragmentation::Range(columns.to_vec()),
                (PartitionKind::Hash, columns) => NewFragmentation::Hash(columns.to_vec()),
            }
        }
        (None, None) if options.replication.is_some() && options.fragments.is_none() && options.replicas.is_none() => {
            NewFragmentation::Copies
        }
        (None, None) => NewFragmentation::Default,
    };
    if options.fragments.is_some()
        && matches!(table.fragmentation, NewFragmentation::List(_) | NewFragmentation::Range(_))
    {
        return Err(invalid("fragments of a table split by list or range are declared: CREATE TABLE … PARTITION OF"));
    }
    if matches!(table.fragmentation, NewFragmentation::Default)
        && options.fragments.is_some_and(|n| n > 1)
        && options.sites.is_empty()
        && catalog.sites.is_empty()
    {
        return Err(invalid("there is no site"));
    }
    let sites = if options.sites.is_empty() { catalog.sites.len() } else { options.sites.len() };
    if let Some(replicas) = options.replicas
        && replicas as usize > sites
    {
        return Err(invalid("more replicas than sites"));
    }
    table.sites = options.sites;
    table.fragments = options.fragments;
    table.replicas = options.replicas.unwrap_or(1);
    if let Some(replication) = options.replication {
        table.replication = replication;
    }
    if let Some(balance) = options.read_balance {
        table.read_balance = balance;
    }
    if let Some(choice) = options.on_replica_down {
        table.on_replica_down = choice;
    }
    Ok(())
}

fn column_exists(table: &NewTable, column: &str) -> Result<()> {
    if table.columns.iter().any(|c| c.name == column) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::UndefinedColumn, format!("column \"{column}\" named in partition key does not exist")))
}

fn known_sites(sites: &[String], catalog: &Catalog) -> Result<()> {
    match sites.iter().find(|s| catalog.site(s).is_none()) {
        Some(site) => Err(Error::new(ErrorKind::UndefinedObject, format!("site \"{site}\" does not exist"))),
        None => Ok(()),
    }
}

/// Has the rows of a table looked at that were adopted: the site has not checked Atoll's constraints.
pub(super) fn checks<'c>(table: &str, checks: impl Iterator<Item = (&'c str, &'c str)>) -> Vec<Step> {
    checks.map(|(name, expression)| super::alter::rows_fulfil(table, name, expression)).collect()
}

impl Binder<'_> {
    pub(super) fn create_fragment(&self, create: &CreateFragment) -> Result<Bound> {
        if create.if_not_exists && self.catalog.names.contains_key(&create.name) {
            return Ok(Bound::skipped(
                "CREATE TABLE",
                "42P07",
                format!("relation \"{}\" already exists, skipping", create.name),
            ));
        }
        let table = self.catalog.table(&create.parent).ok_or_else(|| undefined_table(&create.parent))?;
        let options = options::read(&create.options, create.tablespace.as_ref())?;
        if options.fragments.is_some()
            || options.colocate_with.is_some()
            || options.read_balance.is_some()
            || options.on_replica_down.is_some()
            || options.replicas.is_some()
        {
            return Err(Error::new(
                ErrorKind::InvalidParameterValue,
                "a fragment takes the options sites and replication only",
            ));
        }
        known_sites(&options.sites, self.catalog)?;
        let keys: Vec<(String, SqlType)> = table
            .fragmentation_positions()
            .into_iter()
            .map(|p| (table.columns[p].name.clone(), table.columns[p].ty.clone()))
            .collect();
        let wrong = |kind: &str| {
            Error::new(ErrorKind::InvalidTableDefinition, format!("invalid bound specification for a {kind} partition"))
        };
        let bounds = match (&table.fragmentation, &create.bounds) {
            (Fragmentation::None | Fragmentation::Derived { .. }, _) => {
                return Err(Error::new(
                    ErrorKind::InvalidObjectDefinition,
                    format!("\"{}\" is not partitioned", table.name),
                ));
            }
            (Fragmentation::Hash(_), parse::Bounds::Default) => {
                return Err(Error::new(
                    ErrorKind::InvalidTableDefinition,
                    "a hash-partitioned table may not have a default partition",
                ));
            }
            (_, parse::Bounds::Default) => FragmentBounds::Default,
            (Fragmentation::List(_), parse::Bounds::In(values)) => {
                FragmentBounds::List(values.iter().map(|v| self.bound_value(v, &keys[0])).collect::<Result<_>>()?)
            }
            (Fragmentation::Range(_), parse::Bounds::FromTo(from, to)) => {
                FragmentBounds::Range { from: self.range_bound(from, &keys)?, to: self.range_bound(to, &keys)? }
            }
            (Fragmentation::Hash(_), parse::Bounds::Hash { modulus, remainder }) => {
                if *modulus == 0 {
                    return Err(Error::new(
                        ErrorKind::InvalidTableDefinition,
                        "modulus for hash partition must be an integer value greater than zero",
                    ));
                }
                if remainder >= modulus {
                    return Err(Error::new(
                        ErrorKind::InvalidTableDefinition,
                        "remainder for hash partition must be less than modulus",
                    ));
                }
                FragmentBounds::Hash { modulus: *modulus, remainder: *remainder }
            }
            (Fragmentation::List(_), _) => return Err(wrong("list")),
            (Fragmentation::Range(_), _) => return Err(wrong("range")),
            (Fragmentation::Hash(_), _) => return Err(wrong("hash")),
        };
        let adopted = create.adopted.clone();
        let checks = match adopted {
            Some(_) => checks(&table.name, table.checks.iter().map(|c| (c.name.as_str(), c.expression.as_str()))),
            None => vec![],
        };
        let fragment = NewFragment { name: create.name.clone(), bounds, sites: options.sites, adopted };
        let mut bound = Bound::of("CREATE TABLE");
        bound.apply(CatalogCommand::CreateFragment { table: create.parent.clone(), fragment });
        bound.steps.extend(checks);
        Ok(bound)
    }

    fn bound_value(
        &self,
        expr: &datafusion::sql::sqlparser::ast::Expr,
        (name, ty): &(String, SqlType),
    ) -> Result<Value> {
        expression::constant(self.state, expr, ty).map_err(|e| match e.kind() {
            ErrorKind::InvalidTableDefinition => e,
            _ => Error::new(e.kind(), format!("partition bound for column \"{name}\": {}", e.message())),
        })
    }

    fn range_bound(&self, given: &[parse::Bound], keys: &[(String, SqlType)]) -> Result<Vec<RangeBound>> {
        if given.len() != keys.len() {
            return Err(Error::new(
                ErrorKind::InvalidTableDefinition,
                "FROM and TO must specify exactly one value per partitioning column",
            ));
        }
        given
            .iter()
            .zip(keys)
            .map(|(bound, key)| {
                Ok(match bound {
                    parse::Bound::Min => RangeBound::Min,
                    parse::Bound::Max => RangeBound::Max,
                    parse::Bound::Value(expr) => match self.bound_value(expr, key)? {
                        Value::Null => {
                            return Err(Error::new(
                                ErrorKind::InvalidTableDefinition,
                                "cannot specify NULL in range bound",
                            ));
                        }
                        value => RangeBound::Value(value),
                    },
                })
            })
            .collect()
    }
}
