//! The sites that this node reaches, opened by whoever wires it.

use atoll_model::{Error, ErrorKind, Result, Site as Definition, SiteEngine, SiteId};
use atoll_ports::site::{ParticipantId, Site};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes sites out of their definitions. The only place that knows concrete engines is the one that implements it.
pub trait SiteFactory: Send + Sync {
    /// Opens a site: an embedded one is created at the first time.
    ///
    /// # Errors
    /// `SiteUnavailable`, `Io`, or whatever the engine reports.
    fn open(&self, site: &Definition) -> Result<Arc<dyn Site>>;
}

/// An open site, and how many scans of it are under way.
#[derive(Clone)]
pub(crate) struct OpenSite {
    pub(crate) site: Arc<dyn Site>,
    /// By which it was opened.
    definition: Arc<Definition>,
    pub(crate) scans: Arc<AtomicUsize>,
}

/// Open sites by id. A site stays open when it is dropped from the catalog: older transactions may still read it. Bounded by the
/// number of sites ever made.
pub(crate) struct Sites {
    factory: Box<dyn SiteFactory>,
    open: RwLock<HashMap<SiteId, OpenSite>>,
}

impl Sites {
    pub(crate) fn new(factory: Box<dyn SiteFactory>) -> Self {
        Sites { factory, open: RwLock::default() }
    }

    /// Opens a site unless it is open.
    pub(crate) fn ensure(&self, definition: &Definition) -> Result<Arc<dyn Site>> {
        if let Some(open) = self.open.read().get(&definition.id) {
            return Ok(open.site.clone());
        }
        self.replace(definition)
    }

    fn replace(&self, definition: &Definition) -> Result<Arc<dyn Site>> {
        let site = self.factory.open(definition)?;
        let definition = Arc::new(definition.clone());
        let open = OpenSite { site: site.clone(), definition, scans: Arc::default() };
        self.open.write().insert(open.definition.id, open);
        Ok(site)
    }

    /// Reaches a site by its new options from now on. Who holds the one that was open goes on with it.
    pub(crate) fn follow(&self, definition: &Definition) -> Result<()> {
        let altered = |open: &OpenSite| open.definition.options != definition.options;
        let altered = self.open.read().get(&definition.id).is_some_and(altered);
        if altered { self.replace(definition).map(|_| ()) } else { Ok(()) }
    }

    /// A site by a definition that is not in force yet; nobody else gets it.
    pub(crate) fn trial(&self, definition: &Definition) -> Result<Arc<dyn Site>> {
        self.factory.open(definition)
    }

    /// An embedded site of which only the id is known any more.
    pub(crate) fn ensure_dropped(&self, id: SiteId) -> Result<Arc<dyn Site>> {
        let definition =
            Definition { id, name: id.to_string(), engine: SiteEngine::Embedded, options: BTreeMap::new() };
        self.ensure(&definition)
    }

    pub(crate) fn get(&self, id: SiteId) -> Result<OpenSite> {
        self.open
            .read()
            .get(&id)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::SiteUnavailable, format!("site {id} is not open")))
    }

    /// A site of a participant.
    pub(crate) fn of_participant(&self, participant: ParticipantId) -> Option<Arc<dyn Site>> {
        self.open.read().values().find(|s| s.site.participant() == participant).map(|s| s.site.clone())
    }

    /// The name of the one site of a participant; of several, of one.
    pub(crate) fn name_of(&self, participant: ParticipantId) -> Option<String> {
        let open = self.open.read();
        open.values().find(|s| s.site.participant() == participant).map(|s| s.definition.name.clone())
    }

    /// The participants of all open sites.
    pub(crate) fn participants(&self) -> BTreeSet<ParticipantId> {
        self.open.read().values().map(|s| s.site.participant()).collect()
    }

    /// Of several sites, those that are not known to be down; all, if there is no other.
    pub(crate) fn reachable(&self, candidates: &[SiteId]) -> Vec<SiteId> {
        let open = self.open.read();
        let up = |id: &&SiteId| open.get(id).is_some_and(|s| !s.site.is_down());
        let reachable: Vec<SiteId> = candidates.iter().filter(up).copied().collect();
        if reachable.is_empty() { candidates.to_vec() } else { reachable }
    }

    /// Of several sites, the one with the fewest scans under way; of those, the first.
    pub(crate) fn least_loaded(&self, candidates: &[SiteId]) -> Option<SiteId> {
        let open = self.open.read();
        let load = |id: &&SiteId| open.get(id).map_or(usize::MAX, |s| s.scans.load(Ordering::Relaxed));
        candidates.iter().min_by_key(load).copied()
    }
}
