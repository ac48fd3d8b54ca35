//! The system catalogs as tables: `pg_catalog`, `information_schema`, `atoll`.
//!
//! Invariant: rows are made from the catalog (and the cluster's statistics) when a query reads them, never before, so that a planner
//! state costs nothing for tables that are not read.

mod atoll;
mod information;
mod moves;
mod relations;
mod roles;
mod statics;
mod table;
mod transactions;
mod views;

use self::table::{Definition, SystemSchema};
use atoll_model::Catalog;
use atoll_ports::cluster::Cluster;
use datafusion::catalog::SchemaProvider;
use std::sync::Arc;

/// The system schemas over a catalog.
pub fn schemas(catalog: &Arc<Catalog>, cluster: &Arc<dyn Cluster>) -> Vec<(&'static str, Arc<dyn SchemaProvider>)> {
    let make = |definitions: Vec<Definition>| -> Arc<dyn SchemaProvider> {
        Arc::new(SystemSchema::new(definitions, catalog.clone(), cluster.clone()))
    };
    let mut postgres = relations::tables();
    postgres.extend(statics::tables());
    postgres.extend(roles::tables());
    postgres.extend(views::tables());
    let mut standard = information::tables();
    standard.extend(roles::information());
    vec![("pg_catalog", make(postgres)), ("information_schema", make(standard)), ("atoll", make(atoll::tables()))]
}

/// System tables whose object ids clients know.
const SYSTEM: [(&str, i64); 20] = [
    ("pg_class", 1259),
    ("pg_type", 1247),
    ("pg_attribute", 1249),
    ("pg_proc", 1255),
    ("pg_namespace", 2615),
    ("pg_constraint", 2606),
    ("pg_index", 2610),
    ("pg_database", 1262),
    ("pg_attrdef", 2604),
    ("pg_description", 2609),
    ("pg_am", 2601),
    ("pg_authid", 1260),
    ("pg_roles", 12_050),
    ("pg_tablespace", 1213),
    ("pg_collation", 3456),
    ("pg_trigger", 2620),
    ("pg_rewrite", 2618),
    ("pg_extension", 3079),
    ("pg_language", 2612),
    ("pg_cast", 2605),
];

/// The object id of a system table, as PostgreSQL has it.
pub fn system_oid(name: &str) -> Option<i64> {
    SYSTEM.iter().find(|(n, _)| *n == name).map(|(_, oid)| *oid)
}

/// The system table with that object id.
pub fn system_name(oid: i64) -> Option<&'static str> {
    SYSTEM.iter().find(|(_, o)| *o == oid).map(|(name, _)| *name)
}
