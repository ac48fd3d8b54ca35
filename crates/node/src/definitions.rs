//! A catalog together with what writing needs to know of it at every row, worked out once.

use atoll_model::{Catalog, Fragmentation, RelationId, Table};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

/// A catalog, indexed.
pub(crate) struct Definitions {
    pub(crate) catalog: Arc<Catalog>,
    /// For each table that is a parent: who has to be looked at when its rows go or change.
    children: HashMap<RelationId, Children>,
}

/// The dependents of a parent's rows.
#[derive(Default)]
pub(crate) struct Children {
    /// Children by foreign key: the table, and the position in its `foreign_keys`.
    pub(crate) references: Vec<(RelationId, usize)>,
    /// Tables whose rows lie where this one's rows lie, and so move with them.
    pub(crate) followers: Vec<RelationId>,
}

impl Definitions {
    pub(crate) fn new(catalog: Arc<Catalog>) -> Arc<Self> {
        let mut children: HashMap<RelationId, Children> = HashMap::new();
        for table in catalog.tables.values() {
            for (at, key) in table.foreign_keys.iter().enumerate() {
                children.entry(key.parent).or_default().references.push((table.id, at));
            }
            if let Fragmentation::Derived { parent, direct: false, .. } = &table.fragmentation {
                children.entry(*parent).or_default().followers.push(table.id);
            }
        }
        Arc::new(Definitions { catalog, children })
    }

    pub(crate) fn children(&self, parent: &Table) -> Option<&Children> {
        self.children.get(&parent.id)
    }
}

impl Deref for Definitions {
    type Target = Catalog;

    fn deref(&self) -> &Catalog {
        &self.catalog
    }
}
