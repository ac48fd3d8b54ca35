//! Adoption: copies of fragments that are tables of a site's own, there before Atoll.
//!
//! Invariant: a table of a site is at most one copy of one fragment, so what Atoll knows of its rows stays true while only Atoll writes it.

use super::names;
use crate::catalog::{Catalog, Table};
use crate::{Error, ErrorKind, Result, SiteEngine, SiteId};
use std::collections::BTreeMap;

/// Bytes of `schema.name` at most: two names of PostgreSQL's length and a point.
const MAX_NAME: usize = 127;

impl Catalog {
    /// [`Fragment::adopted`](crate::Fragment::adopted) of a new fragment whose copies are at these sites; the definition of `table` is
    /// complete but for the fragment.
    pub(super) fn adopted(
        &self,
        table: &Table,
        name: Option<&str>,
        sites: &[SiteId],
        foreign_keys: bool,
    ) -> Result<BTreeMap<SiteId, String>> {
        let Some(name) = name else { return Ok(BTreeMap::new()) };
        let [site] = sites else {
            return Err(Error::new(ErrorKind::InvalidParameterValue, "a table is adopted at one site")
                .hint("Name the site: TABLESPACE site OPTIONS (table 'schema.name')."));
        };
        let Some(at) = self.sites.get(site) else { return Err(Error::internal(format!("there is no site {site}"))) };
        if at.engine == SiteEngine::Embedded {
            return Err(Error::new(
                ErrorKind::InvalidParameterValue,
                format!("site \"{}\" has no tables that could be adopted: it is Atoll's own", at.name),
            ));
        }
        if table.has_hidden_key() {
            return Err(Error::new(
                ErrorKind::InvalidTableDefinition,
                format!("table \"{}\" needs a primary key, to adopt a table of a site", table.name),
            )
            .hint("Declare the columns of a unique index of the site's table as PRIMARY KEY."));
        }
        if foreign_keys {
            return Err(Error::unsupported(format!(
                "adopting rows into table \"{}\", which has foreign keys",
                table.name
            ))
            .hint("Adopt first, then ALTER TABLE … ADD FOREIGN KEY, which checks the rows."));
        }
        let full = full_name(at.engine, name)?;
        if let Some(other) = self.adopter(*site, &full) {
            return Err(Error::new(
                ErrorKind::DuplicateTable,
                format!("table {full} of site \"{}\" is adopted already, by \"{other}\"", at.name),
            ));
        }
        Ok([(*site, full)].into())
    }

    /// The fragment that has adopted a site's table.
    fn adopter(&self, site: SiteId, full: &str) -> Option<&str> {
        let mut fragments = self.tables.values().flat_map(|t| &t.fragments);
        fragments.find(|f| f.adopted.get(&site).is_some_and(|name| name == full)).map(|f| f.name.as_str())
    }
}

/// A table's name with its schema, spelled as the site spells it.
fn full_name(engine: SiteEngine, name: &str) -> Result<String> {
    let (schema, table) = name.split_once('.').unwrap_or(("-", name));
    if schema.is_empty() || table.is_empty() || name.contains('\0') || name.len() > MAX_NAME {
        return Err(Error::new(ErrorKind::InvalidParameterValue, format!("{name:?} is no name of a table of a site"))
            .hint("OPTIONS (table 'schema.name'), spelled as the site spells them."));
    }
    names::check(table)?;
    // Elsewhere a table without a schema is one of the database that the site is.
    let bare = engine == SiteEngine::Postgres && !name.contains('.');
    Ok(if bare { format!("public.{name}") } else { name.to_owned() })
}
