//! A system table: its columns, and a function that makes its rows.

use crate::pg::functions::SessionHooks;
use crate::pg::{OID, VECTOR};
use crate::rows;
use async_trait::async_trait;
use atoll_model::{Catalog, RelationId, Row, SqlType, Value};
use atoll_ports::cluster::{Cluster, InDoubt};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{SchemaProvider, Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What rows are made from.
pub struct Source<'a> {
    /// The catalog.
    pub catalog: &'a Catalog,
    /// The cluster, for statistics.
    pub cluster: &'a Arc<dyn Cluster>,
    /// Columns of the views, for tables that ask for them ([`Definition::with_views`]).
    pub views: BTreeMap<RelationId, Vec<(String, SqlType)>>,
    /// The session's settings.
    pub settings: Vec<(&'static str, String)>,
    /// What is prepared at the sites, for tables that ask them ([`Definition::with_sites`]).
    pub in_doubt: Vec<InDoubt>,
}

type Rows = fn(&Source<'_>) -> Vec<Row>;

/// A system table.
#[derive(Clone)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    columns: Vec<(&'static str, SqlType)>,
    /// Columns that are `int2vector` or `oidvector`.
    vectors: Vec<usize>,
    /// Columns that are `oid`.
    oids: Vec<usize>,
    rows: Rows,
    views: bool,
    sites: bool,
}

impl Definition {
    /// Its rows need the views' columns.
    pub fn with_views(mut self) -> Self {
        self.views = true;
        self
    }

    /// Its rows need the sites to be asked what is prepared there.
    pub fn with_sites(mut self) -> Self {
        self.sites = true;
        self
    }
}

/// A table with columns written as `name:type`, the type being one letter: o object id, t text, i int4, s int2, l int8, b boolean,
/// f real, d double, z timestamptz; in upper case an array of it;
/// v int2vector, w oidvector.
pub fn table(name: &'static str, columns: &'static str, rows: Rows) -> Definition {
    let (mut vectors, mut oids) = (vec![], vec![]);
    let columns = columns
        .split_whitespace()
        .enumerate()
        .map(|(at, column)| {
            let (name, letter) = column.split_once(':').unwrap_or((column, "t"));
            let scalar = match letter.to_ascii_lowercase().as_str() {
                "o" | "l" | "w" => SqlType::Int8,
                "i" => SqlType::Int4,
                "s" | "v" => SqlType::Int2,
                "b" => SqlType::Bool,
                "f" => SqlType::Float4,
                "d" => SqlType::Float8,
                "z" => SqlType::TimestampTz(None),
                _ => SqlType::Text,
            };
            let vector = matches!(letter, "v" | "w");
            if vector {
                vectors.push(at);
            }
            if letter == "o" {
                oids.push(at);
            }
            let array = vector || letter.chars().all(|c| c.is_ascii_uppercase());
            (name, if array { SqlType::Array(Box::new(scalar)) } else { scalar })
        })
        .collect();
    Definition { name, columns, vectors, oids, rows, views: false, sites: false }
}

/// A table that is empty, truthfully: there are no such objects.
pub fn empty(name: &'static str, columns: &'static str) -> Definition {
    table(name, columns, |_| vec![])
}

/// Text.
pub fn t(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

/// An object id.
pub fn o(oid: impl Into<i64>) -> Value {
    Value::Int8(oid.into())
}

/// A boolean.
pub fn b(value: bool) -> Value {
    Value::Bool(value)
}

/// Text or NULL.
pub fn maybe(text: Option<String>) -> Value {
    text.map_or(Value::Null, Value::Text)
}

/// A time in microseconds since 1970, or NULL.
pub fn time(micros: Option<i64>) -> Value {
    micros.map_or(Value::Null, Value::TimestampTz)
}

/// A list of texts.
pub fn texts(texts: impl IntoIterator<Item = String>) -> Value {
    Value::Array(texts.into_iter().map(Value::Text).collect())
}

/// The schema of system tables.
pub struct SystemSchema {
    tables: BTreeMap<&'static str, Arc<SystemTable>>,
}

impl SystemSchema {
    pub(super) fn new(definitions: Vec<Definition>, catalog: Arc<Catalog>, cluster: Arc<dyn Cluster>) -> Self {
        let tables = definitions
            .into_iter()
            .map(|definition| {
                let mut fields: Vec<Field> = definition.columns.iter().map(|(n, t)| t.field(n, true)).collect();
                for at in &definition.vectors {
                    fields[*at].metadata_mut().insert(VECTOR.into(), "yes".into());
                }
                for at in &definition.oids {
                    fields[*at].metadata_mut().insert(OID.into(), "yes".into());
                }
                let schema = Arc::new(Schema::new(fields));
                let name = definition.name;
                (name, Arc::new(SystemTable { definition, schema, catalog: catalog.clone(), cluster: cluster.clone() }))
            })
            .collect();
        SystemSchema { tables }
    }
}

impl fmt::Debug for SystemSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tables.keys()).finish()
    }
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        self.tables.keys().map(ToString::to_string).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        Ok(self.tables.get(name).map(|t| t.clone() as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }
}

struct SystemTable {
    definition: Definition,
    schema: SchemaRef,
    catalog: Arc<Catalog>,
    cluster: Arc<dyn Cluster>,
}

impl fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SystemTable").field(&self.definition.name).finish()
    }
}

impl SystemTable {
    /// The views' columns: those of their plans.
    async fn views(
        &self,
        session: &dyn Session,
    ) -> Result<BTreeMap<RelationId, Vec<(String, SqlType)>>, DataFusionError> {
        let public = session
            .as_any()
            .downcast_ref::<SessionState>()
            .and_then(|state| state.catalog_list().catalog(&state.config_options().catalog.default_catalog))
            .and_then(|database| database.schema(&session.config_options().catalog.default_schema));
        let mut columns = BTreeMap::new();
        for view in self.catalog.views.values() {
            let Some(table) = (match &public {
                // A view that cannot be planned any more is shown without columns.
                Some(public) => public.table(&view.name).await.ok().flatten(),
                None => None,
            }) else {
                continue;
            };
            let schema = table.schema();
            let known = schema.fields().iter().filter_map(|f| Some((f.name().clone(), SqlType::of_field(f)?)));
            columns.insert(view.id, known.collect());
        }
        Ok(columns)
    }
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let views = if self.definition.views { self.views(session).await? } else { BTreeMap::new() };
        let hooks = session.config_options().extensions.get::<SessionHooks>().and_then(|h| h.0.as_ref());
        let settings = hooks.map(|h| h.settings()).unwrap_or_default();
        let in_doubt = if self.definition.sites { self.cluster.in_doubt().await } else { vec![] };
        let source = Source { catalog: &self.catalog, cluster: &self.cluster, views, settings, in_doubt };
        let rows = (self.definition.rows)(&source);
        let types: Vec<SqlType> = self.definition.columns.iter().map(|(_, t)| t.clone()).collect();
        let batch = rows::to_batch(&self.schema, &types, &rows).map_err(|e| DataFusionError::External(Box::new(e)))?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema.clone(), projection.cloned())?)
    }
}
