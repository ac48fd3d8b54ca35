//! The SQL engine that entrances connect to.

use super::plans::Plans;
use super::settings::Settings;
use super::transaction::Current;
use super::{SequenceValues, SqlSession};
use crate::privileges::{Authority, Identity};
use crate::read::{self, Engine};
use async_trait::async_trait;
use atoll_model::{Catalog, Error, ErrorKind, Result};
use atoll_ports::cluster::Cluster;
use atoll_ports::session::{Canceller, Credentials, Database, Session, Startup};
use datafusion::execution::SessionState;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Planner states kept: one for each catalog in use and kind of session.
const MAX_STATES: u64 = 64;

/// How the engine behaves.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Default of `lock_timeout`.
    pub lock_timeout: Duration,
    /// Default of `synchronous_commit`.
    pub synchronous_commit: bool,
    /// Bound statements that sessions share, at most.
    pub plans: usize,
    /// Limits of query execution.
    pub read: read::EngineOptions,
}

/// Catalog's address, visibility of hidden columns, who looks.
type StateKey = (usize, bool, Identity);

/// What sessions share.
pub(crate) struct Shared {
    pub(super) cluster: Arc<dyn Cluster>,
    pub(super) read: Arc<Engine>,
    pub(super) plans: Plans,
    options: EngineOptions,
    /// Planner states by catalog (its address, kept alive in the value), visibility of hidden columns, and who looks.
    states: moka::sync::Cache<StateKey, (Arc<Catalog>, Arc<SessionState>)>,
}

impl Shared {
    pub(super) fn state(
        &self,
        catalog: &Arc<Catalog>,
        show_hidden: bool,
        session: &SqlSession,
    ) -> Result<Arc<SessionState>> {
        let key = (Arc::as_ptr(catalog) as usize, show_hidden, session.identity().clone());
        if let Some((_, state)) = self.states.get(&key) {
            return Ok(state);
        }
        let state = Arc::new(self.read.session_state(catalog, show_hidden, session.identity())?);
        self.states.insert(key, (catalog.clone(), state.clone()));
        Ok(state)
    }
}

/// The SQL engine.
pub struct SqlEngine(Arc<Shared>);

impl SqlEngine {
    /// An engine over a node.
    ///
    /// # Errors
    /// `Io` when the spill directory cannot be used.
    pub fn new(cluster: Arc<dyn Cluster>, options: EngineOptions) -> Result<Self> {
        let read = Arc::new(Engine::new(cluster.clone(), options.read.clone())?);
        let states = moka::sync::Cache::new(MAX_STATES);
        Ok(SqlEngine(Arc::new(Shared { cluster, read, plans: Plans::new(options.plans), options, states })))
    }
}

#[async_trait]
impl Database for SqlEngine {
    async fn connect(&self, startup: Startup) -> Result<Box<dyn Session>> {
        if !matches!(startup.database.as_str(), "atoll" | "") {
            return Err(Error::new(
                ErrorKind::InvalidCatalog,
                format!("database \"{}\" does not exist", startup.database),
            )
            .hint("Atoll's database is called \"atoll\"."));
        }
        let catalog = self.0.cluster.catalog();
        let Some(role) = catalog.roles.get(&startup.user).filter(|r| r.login) else {
            return Err(Error::new(
                ErrorKind::InvalidAuthorization,
                format!("role \"{}\" is not permitted to log in", startup.user),
            ));
        };
        let mut settings = Settings::new(self.0.options.lock_timeout, self.0.options.synchronous_commit);
        settings.connected(&startup.user, role.superuser);
        for (name, value) in &startup.settings {
            match settings.set(name, Some(value)) {
                // Drivers send the zone of their machine unasked. They are told the zone in force, and every time carries it.
                Err(_) if name.eq_ignore_ascii_case("timezone") => {}
                done => done?,
            }
        }
        settings.take_changed();
        Ok(Box::new(SqlSession {
            engine: self.0.clone(),
            authority: Authority::default(),
            process_id: startup.process_id,
            settings: Arc::new(settings),
            pending_settings: Arc::default(),
            settings_before: None,
            current: Current::default(),
            block_options: None,
            named: HashMap::new(),
            cursors: HashMap::new(),
            sequences: Arc::new(Mutex::new(SequenceValues::default())),
            canceller: Arc::new(Canceller::default()),
            notices: vec![],
        }))
    }

    fn credentials(&self, user: &str) -> Option<Credentials> {
        let catalog = self.0.cluster.catalog();
        let role = catalog.roles.get(user).filter(|r| r.login)?;
        // As an unknown user: nobody learns that the password was right.
        if role.password.is_some() && role.valid_until.is_some_and(|until| until <= crate::clock::now()) {
            return None;
        }
        Some(role.password.clone().map_or(Credentials::NoPassword, Credentials::Scram))
    }
}
