//! What depends on what, and how it is told.

use crate::catalog::{Catalog, NamedObject, View};
use crate::{Error, ErrorKind, RelationId, Result};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Lines of a DETAIL before the rest is only counted.
const MAX_LISTED: usize = 20;

/// The dependents, one a line.
pub(super) fn listed(dependents: &[String]) -> String {
    let mut lines: Vec<String> = dependents.iter().take(MAX_LISTED).cloned().collect();
    if dependents.len() > MAX_LISTED {
        lines.push(format!("and {} more", dependents.len() - MAX_LISTED));
    }
    lines.join("\n")
}

/// 2BP01, in PostgreSQL's words.
pub(super) fn needed(object: &str, dependents: &[String]) -> Error {
    Error::new(ErrorKind::DependentObjects, format!("cannot drop {object} because other objects depend on it"))
        .detail(listed(dependents))
        .hint("Use DROP ... CASCADE to drop the dependent objects too.")
}

impl Catalog {
    /// Views that read a relation, directly or through other views.
    pub(super) fn views_on(&self, relation: RelationId) -> Vec<Arc<View>> {
        let mut found = vec![];
        let mut seen = BTreeSet::from([relation]);
        let mut from = vec![relation];
        while let Some(relation) = from.pop() {
            for view in self.views.values().filter(|v| v.depends_on.contains(&relation)) {
                if seen.insert(view.id) {
                    from.push(view.id);
                    found.push(view.clone());
                }
            }
        }
        found
    }

    /// Drops the views on a relation, or refuses because of them.
    pub(super) fn release_views(&mut self, object: &str, relation: RelationId, cascade: bool) -> Result<()> {
        let views = self.views_on(relation);
        if !cascade && !views.is_empty() {
            let lines: Vec<String> = views.iter().map(|v| format!("view {} depends on {object}", v.name)).collect();
            return Err(needed(object, &lines));
        }
        for view in views {
            self.remove_view(&view);
        }
        Ok(())
    }

    fn remove_view(&mut self, view: &View) {
        self.views.remove(&view.id);
        self.names.remove(&view.name);
    }

    /// DROP VIEW
    pub(super) fn drop_view(&mut self, name: &str, cascade: bool) -> Result<()> {
        let view = match self.names.get(name) {
            Some(NamedObject::View(id)) => self.views.get(id).cloned(),
            Some(_) => return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not a view"))),
            None => None,
        }
        .ok_or_else(|| Error::new(ErrorKind::UndefinedTable, format!("view \"{name}\" does not exist")))?;
        self.release_views(&format!("view {name}"), view.id, cascade)?;
        self.remove_view(&view);
        Ok(())
    }
}
