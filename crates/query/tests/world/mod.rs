//! Sessions over a node, as tests of statements use them.

#![allow(dead_code, reason = "each test program uses its part")]

use atoll_adapters::site::embedded::EmbeddedEngine;
use atoll_model::{Error, Result, Site as Definition, Value, text};
use atoll_node::{Node, SiteFactory};
use atoll_ports::session::{Database, Execution, Session, Startup};
use atoll_ports::site::{ParticipantId, Site};
use atoll_query::{EngineOptions, ReadOptions, SqlEngine};
use atoll_storage::{Store, StoreOptions};
use futures::TryStreamExt;
use std::sync::Arc;
use std::time::Duration;

pub type TestResult<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Factory(Arc<EmbeddedEngine>);

impl SiteFactory for Factory {
    fn open(&self, site: &Definition) -> Result<Arc<dyn Site>> {
        atoll_adapters::site::open(&self.0, site)
    }
}

/// An engine over a node with embedded sites; others are opened as they are made.
pub struct World {
    _dir: tempfile::TempDir,
    pub engine: SqlEngine,
}

impl World {
    pub async fn new() -> TestResult<World> {
        let dir = tempfile::tempdir()?;
        let store = Arc::new(Store::open(dir.path(), StoreOptions { disk_reserve: 0, ..StoreOptions::default() })?);
        let embedded = EmbeddedEngine::new(store, ParticipantId(0), 16 << 20)?;
        let node = Node::open(Box::new(Factory(embedded))).await?;
        let options = EngineOptions {
            lock_timeout: Duration::from_secs(10),
            synchronous_commit: true,
            plans: 100,
            read: ReadOptions { parallelism: 2, ..ReadOptions::default() },
        };
        Ok(World { _dir: dir, engine: SqlEngine::new(node, options)? })
    }

    pub async fn session(&self, user: &str) -> Result<Client> {
        let startup = Startup { user: user.into(), database: "atoll".into(), settings: vec![], process_id: 1 };
        Ok(Client(self.engine.connect(startup).await?))
    }
}

/// A client.
pub struct Client(Box<dyn Session>);

impl Client {
    /// Runs statements as a client that sends each by itself; the last one's rows, a line each.
    pub async fn run(&mut self, sql: &str) -> Result<Vec<String>> {
        let mut lines = vec![];
        for statement in self.0.parse(sql)? {
            let outcome = self.one(statement).await;
            self.0.sync(outcome.is_err()).await?;
            lines = outcome?;
        }
        Ok(lines)
    }

    async fn one(&mut self, statement: atoll_ports::session::Parsed) -> Result<Vec<String>> {
        let prepared = self.0.prepare(statement, &[]).await?;
        let show = |row: Vec<(Value, &atoll_model::SqlType)>| {
            let cell = |(v, ty): &(Value, &_)| if v.is_null() { "-".into() } else { text::to_text(ty, v) };
            row.iter().map(cell).collect::<Vec<_>>().join(" ")
        };
        match self.0.execute(&prepared, vec![]).await? {
            Execution::Rows { columns, rows, .. } => Ok(rows
                .into_iter()
                .map(|row| show(row.into_iter().zip(columns.iter().map(|c| &c.ty)).collect()))
                .collect()),
            Execution::Batches { columns, mut stream, .. } => {
                let mut lines = vec![];
                while let Some(batch) = stream.try_next().await? {
                    for at in 0..batch.num_rows() {
                        let cells = batch.columns().iter().zip(&columns);
                        let row = cells.map(|(a, c)| Ok((atoll_ports::rows::value_at(a, at, &c.ty)?, &c.ty)));
                        lines.push(show(row.collect::<Result<Vec<_>>>()?));
                    }
                }
                Ok(lines)
            }
            Execution::Done { tag, rows } => Ok(vec![rows.map_or(tag.into(), |n| format!("{tag} {n}"))]),
            _ => Err(Error::internal("an answer that no test expects")),
        }
    }

    pub async fn refused(&mut self, sql: &str) -> &'static str {
        match self.run(sql).await {
            Ok(rows) => panic!("{sql}: {rows:?}"),
            Err(error) => error.kind().sqlstate(),
        }
    }
}
