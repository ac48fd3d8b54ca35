//! The one place that names concrete backends: it builds a server from its configuration.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use atoll_adapters::site::embedded::EmbeddedEngine;
use atoll_front::{FrontConfig, FrontHandle, Limits, StatusSource, Tls};
use atoll_model::Site as SiteDefinition;
use atoll_node::{Node, SiteFactory};
use atoll_ports::cluster::Cluster;
use atoll_ports::site::{ParticipantId, Site};
use atoll_query::{EngineOptions, ReadOptions, SqlEngine};
use atoll_storage::{Store, StoreOptions};

use crate::config::ServeConfig;

/// All embedded sites of this process commit as one.
const LOCAL: ParticipantId = ParticipantId(0);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Storage, catalog or addresses.
    #[error("{}{}", .0.message(), .0.hint_text().map(|h| format!("\nHINT: {h}")).unwrap_or_default())]
    Engine(#[from] atoll_model::Error),
    /// A certificate or key.
    #[error("{path}: {source}")]
    Certificate {
        /// The file.
        path: String,
        /// Why it was refused.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A server that accepts connections until it is shut down.
pub struct RunningServer {
    front: FrontHandle,
    node: Arc<Node>,
    store: Arc<Store>,
}

impl RunningServer {
    /// The address that PostgreSQL clients connect to, with the port that was really taken.
    pub fn sql_addr(&self) -> SocketAddr {
        self.front.sql_addr()
    }

    /// The address that HTTP clients connect to, with the port that was really taken.
    pub fn http_addr(&self) -> SocketAddr {
        self.front.http_addr()
    }

    /// Stops accepting connections, lets running statements end, and closes the storage.
    pub async fn shutdown(self) {
        self.front.shutdown().await;
        if let Err(error) = self.node.close().await {
            tracing::warn!(%error, "settling the node's state failed; nothing that was acknowledged is lost");
        }
        if let Err(error) = self.store.close() {
            tracing::warn!(%error, "closing the storage failed; nothing that was acknowledged is lost");
        }
    }
}

/// Opens sites: over this process's store, or over a network.
struct Sites(Arc<EmbeddedEngine>);

impl SiteFactory for Sites {
    fn open(&self, site: &SiteDefinition) -> atoll_model::Result<Arc<dyn Site>> {
        atoll_adapters::site::open(&self.0, site)
    }
}

struct Status(Arc<Node>);

#[async_trait]
impl StatusSource for Status {
    async fn status(&self) -> serde_json::Value {
        let catalog = self.0.catalog();
        let sites: Vec<_> = catalog
            .sites
            .values()
            .map(|s| {
                let here = |t: &&Arc<atoll_model::Table>| t.fragments.iter().any(|f| f.replicas.contains(&s.id));
                serde_json::json!({
                    "name": s.name,
                    "engine": s.engine.name(),
                    "tables": catalog.tables.values().filter(here).count(),
                })
            })
            .collect();
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "catalog_version": catalog.version,
            "sites": sites,
            "tables": catalog.tables.len(),
            "transactions": self.0.transactions().len(),
        })
    }
}

/// Starts a server.
pub async fn start(config: &ServeConfig) -> Result<RunningServer, StartError> {
    let options = StoreOptions {
        cache_bytes: config.cache.blocks.0,
        memtable_bytes: (config.cache.write_buffer.0 / 2).max(1 << 20),
        ..StoreOptions::default()
    };
    let data = config.data.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(data, options))
        .await
        .map_err(|e| atoll_model::Error::internal(format!("opening the store: {e}")))??;
    let store = Arc::new(store);
    let embedded = EmbeddedEngine::new(store.clone(), LOCAL, config.cache.columns.0)?;
    let node = Node::open(Box::new(Sites(embedded))).await?;
    let engine = SqlEngine::new(
        node.clone(),
        EngineOptions {
            lock_timeout: config.lock_timeout.0,
            synchronous_commit: config.synchronous_commit,
            plans: config.cache.plans,
            read: ReadOptions {
                memory_limit: config.limits.memory.as_usize(),
                spill_dir: Some(config.spill_dir()),
                spill_size: config.limits.spill_size.0,
                ..ReadOptions::default()
            },
        },
    )?;
    let front = FrontConfig {
        sql_addr: config.sql_addr,
        http_addr: config.http_addr,
        tls: tls(config)?,
        limits: Limits {
            max_connections: config.limits.connections,
            max_message_bytes: config.limits.message_size.as_usize(),
            shutdown_grace: config.shutdown_grace.0,
            ..Limits::default()
        },
        ..FrontConfig::default()
    };
    let front = atoll_front::serve(front, Arc::new(engine), Arc::new(Status(node.clone()))).await?;
    // Ends by itself when the server is gone.
    tokio::spawn(crate::gauges::keep(Arc::downgrade(&node), Arc::downgrade(&store)));
    Ok(RunningServer { front, node, store })
}

fn tls(config: &ServeConfig) -> Result<Option<Tls>, StartError> {
    let (Some(cert), Some(key)) = (&config.tls.cert, &config.tls.key) else { return Ok(None) };
    let read = |path: &std::path::Path| {
        std::fs::read(path)
            .map_err(|e| StartError::Certificate { path: path.display().to_string(), source: Box::new(e) })
    };
    let tls = Tls::from_pem(&read(cert)?, &read(key)?)
        .map_err(|e| StartError::Certificate { path: cert.display().to_string(), source: Box::new(e) })?;
    Ok(Some(tls))
}
