//! Names of the schema `public`: tables, declared fragments, views, sequences.
//!
//! Invariant: a provider stands for one catalog, so what it resolves never changes; another catalog has another provider.

use super::error::map_error;
use super::table::AtollTable;
use crate::read::error::external;
use async_trait::async_trait;
use atoll_model::{Catalog, Error, ErrorKind, View};
use datafusion::catalog::memory::MemoryCatalogProvider;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::{Column, DataFusionError, Result};
use datafusion::datasource::{TableType, ViewTable};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::parser::Statement as PlannedStatement;
use std::fmt;
use std::sync::Arc;

/// Name of the one database.
pub(crate) const DATABASE: &str = "atoll";
/// Name of the schema of user tables.
pub(crate) const PUBLIC: &str = "public";
/// Views within views, at most.
const MAX_VIEW_DEPTH: usize = 32;

/// The schema `public` of one catalog.
pub(crate) struct AtollSchemaProvider {
    catalog: Arc<Catalog>,
    show_hidden: bool,
    /// Functions and rules with which views are planned: a state without any catalog.
    template: Arc<SessionState>,
    /// The other schemas, for views that read them.
    others: Arc<[(String, Arc<dyn SchemaProvider>)]>,
    depth: usize,
}

impl fmt::Debug for AtollSchemaProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtollSchemaProvider").field("version", &self.catalog.version).finish_non_exhaustive()
    }
}

impl AtollSchemaProvider {
    /// The provider of a catalog.
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        show_hidden: bool,
        template: Arc<SessionState>,
        others: Arc<[(String, Arc<dyn SchemaProvider>)]>,
    ) -> Self {
        AtollSchemaProvider { catalog, show_hidden, template, others, depth: 0 }
    }

    /// `pg_catalog`, which an unqualified name means before `public`, as in PostgreSQL.
    fn system(&self) -> Option<&Arc<dyn SchemaProvider>> {
        self.others.iter().find(|(name, _)| name == "pg_catalog").map(|(_, schema)| schema)
    }

    async fn plan_view(&self, view: &View) -> Result<LogicalPlan> {
        if self.depth >= MAX_VIEW_DEPTH {
            return Err(external(Error::new(ErrorKind::ProgramLimit, "views are nested too deeply")));
        }
        let inner = AtollSchemaProvider {
            catalog: self.catalog.clone(),
            show_hidden: false,
            template: self.template.clone(),
            others: self.others.clone(),
            depth: self.depth + 1,
        };
        let state = with_public(&self.template, Arc::new(inner), &self.others)?;
        let ast = crate::pg::parse_one(&view.query)
            .and_then(|ast| crate::pg::rewrite(ast, &self.catalog))
            .map_err(external)?;
        let plan = state.statement_to_plan(PlannedStatement::Statement(Box::new(ast))).await?;
        super::dependencies::check(&plan)?;
        if view.columns.is_empty() {
            return Ok(plan);
        }
        let renamed: Vec<Expr> = plan
            .schema()
            .iter()
            .enumerate()
            .map(|(at, (qualifier, field))| {
                let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
                match view.columns.get(at) {
                    Some(name) => column.alias(name),
                    None => column,
                }
            })
            .collect();
        LogicalPlanBuilder::from(plan).project(renamed)?.build()
    }
}

/// The catalog over which a state plans.
///
/// # Errors
/// `Internal` for a state that was not made by [`with_public`].
pub(crate) fn of_state(state: &SessionState) -> atoll_model::Result<Arc<Catalog>> {
    let public = state.catalog_list().catalog(DATABASE).and_then(|database| database.schema(PUBLIC));
    public
        .as_ref()
        .and_then(|schema| schema.downcast_ref::<AtollSchemaProvider>())
        .map(|schema| schema.catalog.clone())
        .ok_or_else(|| Error::internal("a planner state without a catalog"))
}

/// A state whose schema `public` is this one.
pub(crate) fn with_public(
    template: &SessionState,
    public: Arc<dyn SchemaProvider>,
    others: &[(String, Arc<dyn SchemaProvider>)],
) -> Result<SessionState> {
    let database = MemoryCatalogProvider::new();
    database.register_schema(PUBLIC, public)?;
    for (name, schema) in others {
        database.register_schema(name, schema.clone())?;
    }
    let list = MemoryCatalogProviderList::new();
    datafusion::catalog::CatalogProviderList::register_catalog(&list, DATABASE.to_owned(), Arc::new(database));
    let mut state = template.clone();
    state.register_catalog_list(Arc::new(list));
    Ok(state)
}

#[async_trait]
impl SchemaProvider for AtollSchemaProvider {
    fn table_names(&self) -> Vec<String> {
        self.catalog
            .tables
            .values()
            .map(|t| t.name.clone())
            .chain(self.catalog.views.values().map(|v| v.name.clone()))
            .collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        if let Some(system) = self.system()
            && let Some(table) = system.table(name).await?
        {
            return Ok(Some(table));
        }
        if let Some(table) = self.catalog.table(name) {
            return Ok(Some(Arc::new(AtollTable::new(table.clone(), None, self.show_hidden))));
        }
        if let Some((table, at)) = self.catalog.fragment(name) {
            return Ok(Some(Arc::new(AtollTable::new(table.clone(), Some(at), self.show_hidden))));
        }
        if let Some(view) = self.catalog.view(name) {
            let plan = self.plan_view(view).await.map_err(|e| external(map_error(e)))?;
            return Ok(Some(Arc::new(ViewTable::new(plan, Some(view.query.clone())))));
        }
        Ok(None)
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(match (self.catalog.table(name), self.catalog.view(name)) {
            (Some(_), _) => Some(TableType::Base),
            (_, Some(_)) => Some(TableType::View),
            _ => self.catalog.fragment(name).map(|_| TableType::Base),
        })
    }

    fn table_exist(&self, name: &str) -> bool {
        self.system().is_some_and(|s| s.table_exist(name))
            || self.catalog.table(name).is_some()
            || self.catalog.view(name).is_some()
            || self.catalog.fragment(name).is_some()
    }
}
