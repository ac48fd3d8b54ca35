//! ALTER SITE: the options are tried before they are taken.
//!
//! Invariant: a site's new options lead to a server that answers and that has the copies which the catalog places there.

use super::Txn;
use crate::definitions::Definitions;
use atoll_model::{Catalog, Error, Result, Site as Definition};
use atoll_ports::site::{BranchOptions, KeyRange, ScanRequest};
use futures::TryStreamExt as _;

impl Txn {
    /// Connects to sites whose options a command changes.
    pub(super) async fn try_altered_sites(&self, before: &Definitions, next: &Catalog) -> Result<()> {
        for (id, site) in &next.sites {
            if before.sites.get(id).is_some_and(|old| old.options != site.options) {
                self.try_site(site, next).await?;
            }
        }
        Ok(())
    }

    async fn try_site(&self, definition: &Definition, catalog: &Catalog) -> Result<()> {
        let site = self.node.sites.trial(definition)?;
        // Connects also where there are no copies yet.
        site.in_doubt().await?;
        let branch = site.begin(BranchOptions { read_only: true, ..self.options }).await?;
        let any = ScanRequest {
            columns: vec![],
            index: None,
            range: KeyRange::ALL,
            reverse: false,
            limit: Some(1),
            batch_size: 1,
        };
        for table in catalog.tables.values() {
            for (at, fragment) in
                table.fragments.iter().enumerate().filter(|(_, f)| f.replicas.contains(&definition.id))
            {
                let replica = Self::replica(table, at, definition.id)?;
                let looked: Result<Vec<_>> = async { branch.scan(&replica, any.clone())?.try_collect().await }.await;
                looked.map_err(|error| {
                    let what = format!(
                        "with these options, site \"{}\" does not have fragment \"{}\"",
                        definition.name, fragment.name
                    );
                    Error::new(error.kind(), what).detail(error.message())
                })?;
            }
        }
        branch.rollback();
        Ok(())
    }
}
