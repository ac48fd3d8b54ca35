//! Copies that come and go while tables are in use: moves of fragments, and copies that are set aside while their sites are down.
//!
//! Invariants: a fragment always has a serving copy, and a site is in at most one of `replicas`, `joining` and `behind`; corresponding
//! fragments of co-located tables have their serving copies at the same sites at any time, so they are moved, set aside and brought back
//! together; what a definition promises of its rows is never built on a copy that may be out of date.

use crate::catalog::{Building, Catalog, Fragment, OnReplicaDown, Table};
use crate::{CatalogVersion, Error, ErrorKind, Fragmentation, RelationId, Result, SiteId};
use std::sync::Arc;

impl Catalog {
    /// The tables that lie together with one, itself included; the one that the others are derived from comes first.
    pub fn co_located(&self, table: RelationId) -> Vec<RelationId> {
        let mut root = table;
        while let Some(Fragmentation::Derived { parent, .. }) = self.tables.get(&root).map(|t| &t.fragmentation) {
            root = *parent;
        }
        let (mut group, mut next) = (vec![root], 0);
        while let Some(parent) = group.get(next).copied() {
            group.extend(self.derived_from(parent).iter().map(|t| t.id));
            next += 1;
        }
        group
    }

    /// The table and position of a fragment, declared or not.
    ///
    /// # Errors
    /// `UndefinedTable`; `InvalidParameterValue` for a name that fragments of several tables have.
    pub fn fragment_named(&self, table: Option<&str>, fragment: &str) -> Result<(&Arc<Table>, usize)> {
        if table.is_none()
            && let Some(found) = self.fragment(fragment)
        {
            return Ok(found);
        }
        let within = |t: &Arc<Table>| table.is_none_or(|name| t.name == name);
        let at = |t: &Table| t.fragments.iter().position(|f| f.name == fragment);
        let mut found = self.tables.values().filter(|t| within(t)).filter_map(|t| Some((t, at(t)?)));
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (Some((one, _)), Some((other, _))) => Err(Error::new(
                ErrorKind::InvalidParameterValue,
                format!("tables \"{}\" and \"{}\" both have a fragment \"{fragment}\"", one.name, other.name),
            )
            .hint("Name the table as well: FRAGMENT f OF t.")),
            (None, _) => Err(Error::new(ErrorKind::UndefinedTable, format!("fragment \"{fragment}\" does not exist"))
                .hint("SELECT table_name, name FROM atoll.fragments lists them.")),
        }
    }

    /// Changes the corresponding fragments of all tables that lie together.
    fn change_together(
        &mut self,
        table: RelationId,
        at: usize,
        mut change: impl FnMut(&mut Fragment) -> Result<()>,
    ) -> Result<()> {
        for id in self.co_located(table) {
            if let Some(table) = self.tables.get_mut(&id)
                && let Some(fragment) = Arc::make_mut(table).fragments.get_mut(at)
            {
                change(fragment)?;
            }
        }
        Ok(())
    }

    pub(super) fn begin_move(&mut self, table: &str, fragment: &str, from: Option<&str>, to: &str) -> Result<()> {
        let (table, at) = self.fragment_named(Some(table), fragment)?;
        let (id, moved) = (table.id, &table.fragments[at]);
        let target = self.site_named(to)?;
        let source = match (from, moved.replicas.as_slice()) {
            (Some(name), _) => self.site_named(name)?,
            (None, [only]) => *only,
            (None, _) => {
                return Err(Error::new(
                    ErrorKind::InvalidParameterValue,
                    format!("fragment \"{fragment}\" has {} copies: say which one moves", moved.replicas.len()),
                )
                .hint("MOVE FRAGMENT f FROM site TO site."));
            }
        };
        if !moved.replicas.contains(&source) {
            return Err(state(format!(
                "fragment \"{fragment}\" has no serving copy at site \"{}\"",
                self.name_of(source)
            )));
        }
        if moved.copies().any(|site| site == target) {
            return Err(state(format!("fragment \"{fragment}\" has a copy at site \"{to}\" already")));
        }
        if !moved.joining.is_empty() || !moved.behind.is_empty() {
            return Err(state(format!("a copy of fragment \"{fragment}\" is being built, or set aside"))
                .hint("SELECT * FROM atoll.moves shows it; wait for it, or CANCEL MOVE."));
        }
        let building = Building { replaces: Some(source), stale: false, since: self.next_version() };
        // What the move will lead to has to be allowed, before anything is copied.
        let mut moved = self.clone();
        moved.change_together(id, at, |fragment| {
            fragment.joining.insert(target, building);
            promote(fragment, target)
        })?;
        moved.recheck_foreign_keys().map_err(|error| {
            Error::unsupported(format!("moving fragment \"{fragment}\" to site \"{to}\": {}", error.message()))
                .hint("A table that others refer to from every site stays at all of their sites.")
        })?;
        self.change_together(id, at, |fragment| {
            fragment.joining.insert(target, building);
            Ok(())
        })
    }

    pub(super) fn cancel_move(&mut self, table: &str, fragment: &str) -> Result<()> {
        let (table, at) = self.fragment_named(Some(table), fragment)?;
        let (id, moved) = (table.id, &table.fragments[at]);
        let moving = |copy: &Building| copy.replaces.is_some();
        if !moved.joining.values().chain(moved.behind.values()).any(moving) {
            return Err(state(format!("fragment \"{fragment}\" is not being moved")));
        }
        self.change_together(id, at, |fragment| {
            fragment.joining.retain(|_, copy| !moving(copy));
            fragment.behind.retain(|_, copy| !moving(copy));
            Ok(())
        })
    }

    pub(super) fn promote_copy(&mut self, table: &str, fragment: &str, site: &str) -> Result<()> {
        let (table, at) = self.fragment_named(Some(table), fragment)?;
        let (id, site) = (table.id, self.site_named(site)?);
        self.change_together(id, at, |fragment| promote(fragment, site))?;
        self.recheck_foreign_keys()
    }

    pub(super) fn set_behind(&mut self, site: &str) -> Result<()> {
        let (site, since) = (self.site_named(site)?, self.next_version());
        let mut changed = false;
        for table in self.tables.values_mut() {
            if !table.fragments.iter().any(|f| may_go(table, f, site)) {
                continue;
            }
            changed = true;
            let table = Arc::make_mut(table);
            let going: Vec<bool> = table.fragments.iter().map(|f| may_go(table, f, site)).collect();
            for (fragment, _) in table.fragments.iter_mut().zip(going).filter(|(_, goes)| *goes) {
                let replaces = fragment.joining.remove(&site).and_then(|copy| copy.replaces);
                fragment.replicas.retain(|s| *s != site);
                fragment.behind.insert(site, Building { replaces, stale: true, since });
            }
        }
        let nothing = || state(format!("no copy at site \"{}\" can be set aside", self.name_of(site)));
        if changed { Ok(()) } else { Err(nothing()) }
    }

    pub(super) fn rejoin(&mut self, site: &str) -> Result<()> {
        let (site, since) = (self.site_named(site)?, self.next_version());
        let mut changed = false;
        for table in self.tables.values_mut() {
            if !table.fragments.iter().any(|f| f.behind.contains_key(&site)) {
                continue;
            }
            changed = true;
            for fragment in &mut Arc::make_mut(table).fragments {
                if let Some(copy) = fragment.behind.remove(&site) {
                    fragment.joining.insert(site, Building { since, ..copy });
                }
            }
        }
        let nothing = || state(format!("no copy at site \"{}\" is set aside", self.name_of(site)));
        if changed { Ok(()) } else { Err(nothing()) }
    }

    pub(super) fn set_on_replica_down(&mut self, table: &Table, choice: OnReplicaDown) -> Result<()> {
        if let Fragmentation::Derived { parent, .. } = &table.fragmentation {
            let parent = self.tables.get(parent).map_or("", |t| t.name.as_str());
            return Err(Error::unsupported(format!(
                "on_replica_down of table \"{}\", whose copies lie with those of \"{parent}\"",
                table.name
            ))
            .hint(format!("ALTER TABLE {parent} SET (on_replica_down = …) is for all tables of the group.")));
        }
        for id in self.co_located(table.id) {
            if let Some(table) = self.tables.get_mut(&id) {
                Arc::make_mut(table).on_replica_down = choice;
            }
        }
        Ok(())
    }

    /// Refuses changes of definitions that copies which have missed some rows could not follow.
    pub(super) fn check_copies_complete(&self, before: &Catalog) -> Result<()> {
        for (id, table) in &self.tables {
            let Some(old) = before.tables.get(id).filter(|old| !Arc::ptr_eq(old, table)) else { continue };
            let emptied = |f: &Fragment| !f.adopted.is_empty() && !f.joining.is_empty();
            if old.fragments.iter().any(Fragment::has_stale_copies) && !old.same_but_for_copies(table) {
                return Err(state(format!("a copy of table \"{}\" is not up to date", table.name))
                    .hint("Its definition can be changed when all copies serve again: see atoll.moves."));
            }
            if table.fragments.iter().any(emptied) && !old.same_but_for_copies(table) {
                return Err(state(format!("a fragment of table \"{}\" is being moved", table.name))
                    .hint("Wait for the move, or CANCEL MOVE."));
            }
        }
        Ok(())
    }

    /// The version that the command which is being applied gives.
    fn next_version(&self) -> CatalogVersion {
        CatalogVersion(self.version.0 + 1)
    }

    /// Whether [`CatalogCommand::SetBehind`](crate::CatalogCommand::SetBehind) would set a copy at a site aside.
    pub fn can_set_behind(&self, site: SiteId) -> bool {
        self.tables.values().any(|t| t.fragments.iter().any(|f| may_go(t, f, site)))
    }

    fn name_of(&self, site: SiteId) -> &str {
        self.sites.get(&site).map_or("?", |s| s.name.as_str())
    }
}

/// Whether a fragment can do without its copy at a site for a while.
fn may_go(table: &Table, fragment: &Fragment, site: SiteId) -> bool {
    let spare = table.on_replica_down == OnReplicaDown::CatchUp && fragment.replicas.len() > 1;
    fragment.joining.contains_key(&site) || (spare && fragment.replicas.contains(&site))
}

/// A copy that is being built serves from now on.
fn promote(fragment: &mut Fragment, site: SiteId) -> Result<()> {
    let Some(copy) = fragment.joining.remove(&site) else {
        return Err(state(format!("no copy of fragment \"{}\" is being built there", fragment.name)));
    };
    let Some(source) = copy.replaces else {
        fragment.replicas.push(site);
        return Ok(());
    };
    fragment.adopted.remove(&source);
    match fragment.replicas.iter().position(|s| *s == source) {
        Some(at) => fragment.replicas[at] = site,
        // It was set aside meanwhile.
        None => {
            fragment.behind.remove(&source);
            fragment.joining.remove(&source);
            fragment.replicas.push(site);
        }
    }
    Ok(())
}

fn state(message: String) -> Error {
    Error::new(ErrorKind::NotInPrerequisiteState, message)
}
