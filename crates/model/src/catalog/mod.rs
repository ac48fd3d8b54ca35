//! The catalog as data: sites, tables, fragments, allocation, indexes, views, sequences, roles.
//!
//! Invariants: a catalog is immutable; a [`CatalogCommand`] applied to one gives the next, with a version one higher, or an
//! error and no change ([`Catalog::apply`], a deterministic function: the same commands give the same catalog on every node).
//! Names are unique over tables, fragments, views, sequences and indexes, as in one PostgreSQL schema.

mod access;
mod apply;
mod command;
mod table;

pub use access::*;
pub use command::*;
pub use table::*;

use crate::{CatalogVersion, FragmentId, RelationId, SiteId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The version of the catalog's serialised form; a reader refuses a newer one. 2: owners and privileges, which a reader that does not
/// know them would forget.
pub const CATALOG_FORMAT: u32 = 2;

/// Name of the site that a fresh data directory holds.
pub const DEFAULT_SITE: &str = "main";

/// One state of the catalog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// [`CATALOG_FORMAT`] of the writer.
    pub format: u32,
    /// Number of commands applied.
    pub version: CatalogVersion,
    /// The next relation, site or fragment id. One space, never reused. Starts at 16384 as PostgreSQL's user objects do.
    pub next_id: u32,
    /// Sites by id.
    pub sites: BTreeMap<SiteId, Arc<Site>>,
    /// Tables by id.
    pub tables: BTreeMap<RelationId, Arc<Table>>,
    /// Views by id.
    pub views: BTreeMap<RelationId, Arc<View>>,
    /// Sequences by id.
    pub sequences: BTreeMap<RelationId, Arc<Sequence>>,
    /// Roles by name.
    pub roles: BTreeMap<String, Arc<Role>>,
    /// Where each table's further fragments go.
    pub allocations: BTreeMap<RelationId, Allocation>,
    /// COMMENT ON: by relation and column (0: the relation itself).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub comments: BTreeMap<RelationId, BTreeMap<u32, String>>,
    /// Owners, privileges, memberships.
    #[serde(default, skip_serializing_if = "AccessControl::is_empty")]
    pub access: AccessControl,
    /// Name to relation, derived from the above and kept by `apply`.
    pub names: BTreeMap<String, NamedObject>,
}

/// What a name in the schema `public` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamedObject {
    /// A table.
    Table(RelationId),
    /// One declared fragment of a table (`PARTITION OF`): position in [`Table::fragments`] is found by name.
    Fragment(RelationId),
    /// An index of a table.
    Index(RelationId),
    /// A view.
    View(RelationId),
    /// A sequence.
    Sequence(RelationId),
}

/// Where fragments of a table go that do not say so themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// The sites, taken in turn; empty: all embedded sites.
    pub sites: Vec<SiteId>,
    /// Copies of each fragment.
    pub replicas: u32,
}

/// A place where rows live.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// Its name, as `TABLESPACE` and `sites = '…'` give it.
    pub name: String,
    /// Its engine.
    pub engine: SiteEngine,
    /// `OPTIONS (…)`; may hold credentials, so never shown whole.
    pub options: BTreeMap<String, String>,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("engine", &self.engine)
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// The engines of sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteEngine {
    /// Atoll's own store.
    Embedded,
    /// A PostgreSQL database.
    Postgres,
    /// A MySQL or MariaDB database.
    Mysql,
}

impl SiteEngine {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            SiteEngine::Embedded => "embedded",
            SiteEngine::Postgres => "postgres",
            SiteEngine::Mysql => "mysql",
        }
    }
}

/// A view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Its id.
    pub id: RelationId,
    /// Its name.
    pub name: String,
    /// Names given to its columns, or empty.
    pub columns: Vec<String>,
    /// Its query, as SQL.
    pub query: String,
    /// Relations that the query reads: they cannot be dropped while it stands.
    pub depends_on: Vec<RelationId>,
}

/// A sequence. Its position is not in the catalog but in the store: it changes with every row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    /// Its id.
    pub id: RelationId,
    /// Its name.
    pub name: String,
    /// First value.
    pub start: i64,
    /// Distance between values.
    pub increment: i64,
    /// Least value.
    pub min: i64,
    /// Greatest value.
    pub max: i64,
    /// Whether it starts anew at its end.
    pub cycle: bool,
    /// The table and column that own it (`serial`, identity): dropped with them.
    pub owned_by: Option<(RelationId, crate::ColumnId)>,
}

impl Catalog {
    /// The catalog of a fresh data directory: the embedded site `main` and the superuser `atoll`.
    pub fn initial() -> Self {
        let main =
            Site { id: SiteId(1), name: DEFAULT_SITE.into(), engine: SiteEngine::Embedded, options: BTreeMap::new() };
        let atoll =
            Role { login: true, superuser: true, create_role: true, create_db: true, ..Role::new(BOOTSTRAP_ROLE) };
        Catalog {
            format: CATALOG_FORMAT,
            version: CatalogVersion(0),
            next_id: 16384,
            sites: [(main.id, Arc::new(main))].into(),
            tables: BTreeMap::new(),
            views: BTreeMap::new(),
            sequences: BTreeMap::new(),
            roles: [(atoll.name.clone(), Arc::new(atoll))].into(),
            allocations: BTreeMap::new(),
            comments: BTreeMap::new(),
            access: AccessControl::default(),
            names: BTreeMap::new(),
        }
    }

    /// The table of that name, if it is one.
    pub fn table(&self, name: &str) -> Option<&Arc<Table>> {
        match self.names.get(name)? {
            NamedObject::Table(id) => self.tables.get(id),
            _ => None,
        }
    }

    /// The view of that name, if it is one.
    pub fn view(&self, name: &str) -> Option<&Arc<View>> {
        match self.names.get(name)? {
            NamedObject::View(id) => self.views.get(id),
            _ => None,
        }
    }

    /// The sequence of that name, if it is one.
    pub fn sequence(&self, name: &str) -> Option<&Arc<Sequence>> {
        match self.names.get(name)? {
            NamedObject::Sequence(id) => self.sequences.get(id),
            _ => None,
        }
    }

    /// The table and position of the declared fragment of that name, if it is one.
    pub fn fragment(&self, name: &str) -> Option<(&Arc<Table>, usize)> {
        match self.names.get(name)? {
            NamedObject::Fragment(id) => {
                let table = self.tables.get(id)?;
                let at = table.fragments.iter().position(|f| f.name == name)?;
                Some((table, at))
            }
            _ => None,
        }
    }

    /// The table and position of a fragment.
    pub fn fragment_by_id(&self, fragment: FragmentId) -> Option<(&Arc<Table>, usize)> {
        self.tables.values().find_map(|table| Some((table, table.fragment_position(fragment)?)))
    }

    /// The name of a site; its number, if there is no such site.
    pub fn site_name(&self, site: SiteId) -> String {
        self.sites.get(&site).map_or_else(|| site.to_string(), |s| s.name.clone())
    }

    /// The site of that name.
    pub fn site(&self, name: &str) -> Option<&Arc<Site>> {
        self.sites.values().find(|s| s.name == name)
    }
}
