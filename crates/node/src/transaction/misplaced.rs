//! Rows of a copy that do not belong to its fragment: found by the site, where it can tell, and otherwise row by row.
//!
//! Invariant: what belongs to a fragment is said by the table's definition alone, and for rows that lie with a parent's by where the
//! parent's row is, in the same view.

use super::Txn;
use super::ddl::columns_of;
use atoll_model::{Error, FragmentBounds, Result, Value};
use atoll_ports::digest::write_canonical;
use atoll_ports::site::{Belonging, Branch, Misplaced, Replica};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use std::collections::HashMap;
use std::sync::Arc;

/// Parents' rows asked for at once: a site that answers in turn is not waited for each time.
const AT_ONCE: usize = 32;

/// Values of parents that are kept in mind at most; beyond, all are forgotten and asked for anew.
const MAX_KNOWN: usize = 100_000;

/// A copy of the parent's fragment with which a fragment's rows lie.
pub(super) struct Parent {
    pub(super) at: Replica,
    pub(super) branch: Arc<dyn Branch>,
}

impl Txn {
    /// The rows of a copy that do not belong to it. `parent`: for fragments that follow from where a parent's row is.
    pub(super) async fn misplaced_at(
        &self,
        copy: &Replica,
        branch: &dyn Branch,
        parent: Option<Parent>,
    ) -> Result<Option<Misplaced>> {
        match branch.misplaced(copy).await? {
            Belonging::All => Ok(None),
            Belonging::AllBut(some) => Ok(Some(some)),
            Belonging::Unknown => by_row(copy, branch, parent).await,
        }
    }
}

async fn by_row(copy: &Replica, branch: &dyn Branch, parent: Option<Parent>) -> Result<Option<Misplaced>> {
    let table = &copy.table;
    let lost = || Error::internal(format!("table \"{}\" has lost fragment {}", table.name, copy.fragment));
    let at = table.fragment_position(copy.fragment).ok_or_else(lost)?;
    let mut with_parent = match (&table.fragments[at].bounds, parent) {
        (FragmentBounds::All, _) => return Ok(None),
        (FragmentBounds::Derived(_), Some(parent)) => Some(WithParent { parent, known: HashMap::new() }),
        (FragmentBounds::Derived(_), None) => return Err(Error::internal("rows that lie with a parent's, without it")),
        _ => None,
    };
    let (key, place) = (table.key_positions(), table.fragmentation_positions());
    let mut found: Option<Misplaced> = None;
    let mut rows = columns_of(branch, copy, None, &[key.clone(), place].concat())?;
    while let Some(chunk) = rows.try_next().await? {
        if let Some(with_parent) = &mut with_parent {
            with_parent.look_up(copy, chunk.iter().filter_map(|values| values.get(key.len()))).await?;
        }
        for values in chunk {
            let (key, place) = values.split_at(key.len());
            let belongs = match &with_parent {
                Some(with_parent) => place.first().is_some_and(|value| with_parent.has(copy, value)),
                None => table.place_key(&place.iter().collect::<Vec<_>>()) == Some(at),
            };
            if !belongs {
                let first = || Misplaced { rows: 0, key: key.to_vec(), place: place.to_vec() };
                found.get_or_insert_with(first).rows += 1;
            }
        }
    }
    Ok(found)
}

/// Which values have a parent's row in the fragment.
struct WithParent {
    parent: Parent,
    /// By the value's canonical text.
    known: HashMap<Vec<u8>, bool>,
}

impl WithParent {
    fn name(copy: &Replica, value: &Value) -> Vec<u8> {
        let mut name = vec![];
        let ty = copy.table.fragmentation_positions().first().map(|at| &copy.table.columns[*at].ty);
        write_canonical(ty.map(|ty| (ty, value)), &mut name);
        name
    }

    /// Asks for those that are not known.
    async fn look_up(&mut self, copy: &Replica, values: impl Iterator<Item = &Value>) -> Result<()> {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let mut wanted: HashMap<Vec<u8>, &Value> = values.map(|value| (Self::name(copy, value), value)).collect();
        wanted.retain(|name, value| !value.is_null() && !self.known.contains_key(name));
        let Parent { at, branch } = &self.parent;
        let ask = |(name, value): (Vec<u8>, &Value)| -> BoxFuture<'_, Result<(Vec<u8>, bool)>> {
            let (at, branch, value) = (at.clone(), branch.clone(), value.clone());
            async move { Ok((name, branch.get(&at, &[value]).await?.is_some())) }.boxed()
        };
        let asked: Vec<_> = wanted.into_iter().map(ask).collect();
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).try_collect().await?;
        self.known.extend(answers);
        Ok(())
    }

    fn has(&self, copy: &Replica, value: &Value) -> bool {
        self.known.get(&Self::name(copy, value)).copied().unwrap_or(false)
    }
}
