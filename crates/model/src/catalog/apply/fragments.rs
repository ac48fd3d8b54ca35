//! Fragmentation and allocation: which fragments a table gets, and where their copies go.
//!
//! Invariants: bounds never overlap; position `i` of a derived table is the fragment of its parent's position `i`, with copies at the
//! same sites (derived horizontal fragmentation, Özsu & Valduriez section 2.1.1.2). A derived table whose fragment follows from the
//! value alone (`direct`) repeats its parent's bounds, so its rows are placed without looking at the parent.

use super::create::{check_indexable, is_of};
use super::{limits, names};
use crate::catalog::{Allocation, Catalog, Fragment, NamedObject, NewFragment, NewFragmentation, NewTable, Table};
use crate::{
    ColumnId, Error, ErrorKind, FragmentBounds, FragmentId, Fragmentation, RangeBound, RelationId, Result, SiteEngine,
    SiteId, Value,
};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Catalog {
    /// Sets a new table's fragmentation, and makes the fragments that are not declared later.
    pub(super) fn fragment_table(&mut self, table: &mut Table, new: &NewTable, allocation: &Allocation) -> Result<()> {
        let sites = self.sites_of(allocation)?;
        let partition_column = |name: &str| {
            Error::new(ErrorKind::UndefinedColumn, format!("column \"{name}\" named in partition key does not exist"))
        };
        if new.fragments.is_some()
            && !matches!(new.fragmentation, NewFragmentation::Default | NewFragmentation::Hash(_))
        {
            return Err(Error::new(
                ErrorKind::InvalidParameterValue,
                "\"fragments\" is for tables that are fragmented by hash",
            ));
        }
        if new.adopted.is_some() && new.fragmentation != NewFragmentation::Copies {
            return Err(definition("only a table in one piece is adopted as a whole")
                .hint("Adopt its fragments: CREATE TABLE … PARTITION OF … OPTIONS (table '…')."));
        }
        match &new.fragmentation {
            NewFragmentation::Default => {
                table.fragmentation = Fragmentation::Hash(table.key.clone());
                self.hash_fragments(table, new.fragments, &sites, new.replicas)
            }
            NewFragmentation::Hash(columns) => {
                table.fragmentation = Fragmentation::Hash(table.bind(columns, partition_column)?);
                check_partition_key(table)?;
                if new.fragments.is_some() {
                    self.hash_fragments(table, new.fragments, &sites, new.replicas)
                } else {
                    Ok(())
                }
            }
            NewFragmentation::Copies => {
                let adopted = self.adopted(table, new.adopted.as_deref(), &sites, !new.foreign_keys.is_empty())?;
                let fragment = Fragment {
                    id: FragmentId(self.fresh_id()?),
                    name: table.name.clone(),
                    bounds: FragmentBounds::All,
                    replicas: sites,
                    adopted,
                    joining: Default::default(),
                    behind: Default::default(),
                };
                table.fragments.push(fragment);
                Ok(())
            }
            NewFragmentation::List(column) => {
                let columns = table.bind(std::slice::from_ref(column), partition_column)?;
                table.fragmentation = Fragmentation::List(columns[0]);
                check_partition_key(table)
            }
            NewFragmentation::Range(columns) => {
                table.fragmentation = Fragmentation::Range(table.bind(columns, partition_column)?);
                check_partition_key(table)
            }
            NewFragmentation::Derived { parent, column } => self.derive(table, new, parent, column),
        }
    }

    /// The sites of an allocation; all embedded ones when it names none.
    fn sites_of(&self, allocation: &Allocation) -> Result<Vec<SiteId>> {
        let sites: Vec<SiteId> = if allocation.sites.is_empty() {
            self.sites.values().filter(|s| s.engine == SiteEngine::Embedded).map(|s| s.id).collect()
        } else {
            allocation.sites.clone()
        };
        if sites.iter().collect::<BTreeSet<_>>().len() < sites.len() {
            return Err(Error::new(ErrorKind::InvalidParameterValue, "a site is named twice"));
        }
        if sites.is_empty() {
            return Err(Error::new(ErrorKind::UndefinedObject, "there is no embedded site")
                .hint("Make one with CREATE SITE, or name sites with WITH (sites = '…')."));
        }
        if allocation.replicas == 0 || allocation.replicas as usize > sites.len() {
            return Err(Error::new(
                ErrorKind::InvalidParameterValue,
                format!("{} replicas need as many sites, there are {}", allocation.replicas, sites.len()),
            )
            .hint("\"replicas\" must be at least 1, and at most the number of sites."));
        }
        Ok(sites)
    }

    fn hash_fragments(&mut self, table: &mut Table, count: Option<u32>, sites: &[SiteId], replicas: u32) -> Result<()> {
        // There are at most `limits::SITES` sites.
        let modulus = count.unwrap_or(sites.len() as u32);
        if modulus == 0 || modulus as usize > limits::FRAGMENTS {
            return Err(Error::new(
                ErrorKind::InvalidParameterValue,
                format!("\"fragments\" must be between 1 and {}", limits::FRAGMENTS),
            ));
        }
        for remainder in 0..modulus {
            table.fragments.push(Fragment {
                id: FragmentId(self.fresh_id()?),
                name: format!("{}_{remainder}", table.name),
                bounds: FragmentBounds::Hash { modulus, remainder },
                replicas: in_turn(sites, remainder as usize, replicas),
                adopted: Default::default(),
                joining: Default::default(),
                behind: Default::default(),
            });
        }
        Ok(())
    }

    fn derive(&mut self, table: &mut Table, new: &NewTable, parent: &str, column: &str) -> Result<()> {
        if parent == table.name {
            return Err(Error::new(ErrorKind::InvalidTableDefinition, "a table cannot be derived from itself"));
        }
        if !new.sites.is_empty() || new.replicas != 1 {
            return Err(Error::new(ErrorKind::InvalidParameterValue, "a derived table lies where its parent does")
                .hint("Leave out \"sites\" and \"replicas\"."));
        }
        let parent = self.table_named(parent)?;
        let id = table.bind(&[column.to_string()], |name| {
            Error::new(ErrorKind::UndefinedColumn, format!("column \"{name}\" named in colocate_on does not exist"))
        })?[0];
        check_indexable(table, id)?;
        let (parent_column, direct) = meant_column(&parent, column).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidTableDefinition,
                format!(
                    "\"{}\" has neither a single fragmentation column nor a single-column primary key",
                    parent.name
                ),
            )
            .hint("colocate_on refers to the column that the parent is fragmented by, or to its primary key.")
        })?;
        let ty = |t: &Table, c: ColumnId| t.columns.iter().find(|x| x.id == c).map(|x| x.ty.clone());
        let (child_type, parent_type) = (ty(table, id), ty(&parent, parent_column));
        if child_type.as_ref().zip(parent_type.as_ref()).is_none_or(|(a, b)| a.arrow() != b.arrow()) {
            return Err(Error::new(
                ErrorKind::DatatypeMismatch,
                format!(
                    "column \"{column}\" is of another type than the column of \"{}\" that it refers to",
                    parent.name
                ),
            ));
        }
        if new.on_replica_down != Default::default() && new.on_replica_down != parent.on_replica_down {
            return Err(Error::new(
                ErrorKind::InvalidParameterValue,
                "a derived table's copies are kept as its parent's are",
            )
            .hint("Leave out \"on_replica_down\"."));
        }
        table.on_replica_down = parent.on_replica_down;
        table.fragmentation = Fragmentation::Derived { parent: parent.id, column: id, parent_column, direct };
        if parent.fragments.iter().any(|f| !f.joining.is_empty() || !f.behind.is_empty()) {
            return Err(Error::new(
                ErrorKind::NotInPrerequisiteState,
                format!("copies of table \"{}\" are being built, or set aside", parent.name),
            )
            .hint("Tables can be derived from it when all its copies serve: see atoll.moves."));
        }
        for fragment in &parent.fragments {
            let id = FragmentId(self.fresh_id()?);
            table.fragments.push(derived_fragment(
                &table.name,
                &parent.name,
                id,
                fragment,
                direct,
                table.fragments.len(),
            ));
        }
        Ok(())
    }

    /// CREATE TABLE … PARTITION OF
    pub(super) fn create_fragment(&mut self, table: &str, new: &NewFragment) -> Result<()> {
        names::check(&new.name)?;
        let mut table = (*self.table_named(table)?).clone();
        if matches!(table.fragmentation, Fragmentation::None | Fragmentation::Derived { .. }) {
            let error = Error::new(ErrorKind::WrongObjectType, format!("\"{}\" is not partitioned", table.name));
            return Err(match table.fragmentation {
                Fragmentation::Derived { .. } => {
                    error.hint("It is fragmented as its parent is: add the fragment there.")
                }
                _ => error,
            });
        }
        self.check_free(&new.name)?;
        limits::check("fragments of a table", table.fragments.len(), limits::FRAGMENTS)?;
        check_bounds(&table, &new.name, &new.bounds)?;
        let replicas = if new.sites.is_empty() {
            let allocation =
                self.allocations.get(&table.id).cloned().unwrap_or(Allocation { sites: vec![], replicas: 1 });
            in_turn(&self.sites_of(&allocation)?, table.fragments.len(), allocation.replicas)
        } else {
            let sites = new.sites.iter().map(|s| self.site_named(s)).collect::<Result<Vec<_>>>()?;
            self.sites_of(&Allocation { sites, replicas: 1 })?
        };
        let adopted = self.adopted(&table, new.adopted.as_deref(), &replicas, !table.foreign_keys.is_empty())?;
        let fragment = Fragment {
            id: FragmentId(self.fresh_id()?),
            name: new.name.clone(),
            bounds: new.bounds.clone(),
            replicas,
            adopted,
            joining: Default::default(),
            behind: Default::default(),
        };
        self.names.insert(new.name.clone(), NamedObject::Fragment(table.id));
        table.fragments.push(fragment.clone());
        let id = table.id;
        self.tables.insert(id, Arc::new(table));
        self.mirror(id, &fragment)?;
        self.recheck_foreign_keys()
    }

    /// Gives the tables derived from one the fragment that corresponds to its newest.
    fn mirror(&mut self, parent: RelationId, fragment: &Fragment) -> Result<()> {
        let parent_name = self.tables.get(&parent).map(|t| t.name.clone()).unwrap_or_default();
        for child in self.derived_from(parent) {
            let mut table = (*child).clone();
            let Fragmentation::Derived { direct, .. } = table.fragmentation else { continue };
            let id = FragmentId(self.fresh_id()?);
            let derived = derived_fragment(&table.name, &parent_name, id, fragment, direct, table.fragments.len());
            table.fragments.push(derived.clone());
            let id = table.id;
            self.tables.insert(id, Arc::new(table));
            self.mirror(id, &derived)?;
        }
        Ok(())
    }

    /// The tables derived from one.
    pub(super) fn derived_from(&self, parent: RelationId) -> Vec<Arc<Table>> {
        let derived =
            |t: &&Arc<Table>| matches!(t.fragmentation, Fragmentation::Derived { parent: p, .. } if p == parent);
        self.tables.values().filter(derived).cloned().collect()
    }

    /// DROP TABLE of a fragment
    pub(super) fn drop_fragment(&mut self, name: &str) -> Result<()> {
        let Some((table, at)) = self.fragment(name) else {
            return Err(Error::new(ErrorKind::UndefinedTable, format!("table \"{name}\" does not exist")));
        };
        let mut table = (**table).clone();
        let mut users: Vec<String> = self
            .derived_from(table.id)
            .iter()
            .map(|t| format!("table {} is derived from table {}", t.name, table.name))
            .collect();
        users.extend(self.references_to(table.id).filter(|(child, _)| child.id != table.id).map(|(child, key)| {
            format!("constraint {} on table {} depends on table {}", key.name, child.name, table.name)
        }));
        if !users.is_empty() {
            return Err(Error::new(
                ErrorKind::DependentObjects,
                format!("cannot drop table {name} because other objects depend on it"),
            )
            .detail(super::dependencies::listed(&users))
            .hint("DELETE the fragment's rows instead, or drop the dependent objects first."));
        }
        table.fragments.remove(at);
        self.names.remove(name);
        self.tables.insert(table.id, Arc::new(table));
        Ok(())
    }
}

/// The parent's column that a child's column stands for, and whether the fragment follows from the value alone.
fn meant_column(parent: &Table, column: &str) -> Option<(ColumnId, bool)> {
    let single = match &parent.fragmentation {
        Fragmentation::List(c) | Fragmentation::Derived { column: c, direct: true, .. } => Some(*c),
        Fragmentation::Range(cs) | Fragmentation::Hash(cs) if cs.len() == 1 => cs.first().copied(),
        _ => None,
    };
    let key = match parent.key.as_slice() {
        [key] if !parent.has_hidden_key() => Some(*key),
        _ => None,
    };
    let named = |c: ColumnId| parent.columns.iter().any(|x| x.id == c && !x.hidden && x.name == column);
    let whole = matches!(parent.fragmentation, Fragmentation::None);
    match (single, key) {
        // One fragment: every value leads there.
        (_, Some(key)) if whole => Some((key, true)),
        (Some(single), Some(key)) if single == key => Some((single, true)),
        (Some(single), _) if named(single) => Some((single, true)),
        (_, Some(key)) => Some((key, false)),
        _ => None,
    }
}

fn derived_fragment(child: &str, parent: &str, id: FragmentId, of: &Fragment, direct: bool, at: usize) -> Fragment {
    let name = match of.name.strip_prefix(parent).and_then(|rest| rest.strip_prefix('_')) {
        Some(rest) => format!("{child}_{rest}"),
        None => format!("{child}_{at}"),
    };
    let bounds = if direct { of.bounds.clone() } else { FragmentBounds::Derived(of.id) };
    Fragment {
        id,
        name,
        bounds,
        replicas: of.replicas.clone(),
        adopted: Default::default(),
        joining: Default::default(),
        behind: Default::default(),
    }
}

/// The sites of the copies of fragment `at`: round robin, copies at neighbours.
fn in_turn(sites: &[SiteId], at: usize, replicas: u32) -> Vec<SiteId> {
    sites.iter().cycle().skip(at % sites.len()).take(replicas as usize).copied().collect()
}

fn check_partition_key(table: &Table) -> Result<()> {
    for at in table.fragmentation_positions() {
        check_indexable(table, table.columns[at].id)?;
    }
    Ok(())
}

fn overlap(new: &str, old: &str) -> Error {
    Error::new(ErrorKind::InvalidObjectDefinition, format!("partition \"{new}\" would overlap partition \"{old}\""))
}

fn definition(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidTableDefinition, message.into())
}

/// Checks a new fragment's bounds in themselves and against those that are there.
fn check_bounds(table: &Table, name: &str, bounds: &FragmentBounds) -> Result<()> {
    let columns: Vec<_> = table.fragmentation_positions().into_iter().map(|p| &table.columns[p]).collect();
    let kind = match &table.fragmentation {
        Fragmentation::List(_) => "list",
        Fragmentation::Range(_) => "range",
        _ => "hash",
    };
    let mistyped = |at: usize| {
        let column = columns.get(at).or(columns.last());
        let (name, ty) = column.map_or_else(Default::default, |c| (c.name.clone(), c.ty.to_string()));
        Error::new(
            ErrorKind::DatatypeMismatch,
            format!("specified value cannot be cast to type {ty} for column \"{name}\""),
        )
    };
    match (kind, bounds) {
        ("hash", FragmentBounds::Default) => {
            return Err(definition("a hash-partitioned table may not have a default partition"));
        }
        (_, FragmentBounds::Default) => {
            if let Some(other) = table.fragments.iter().find(|f| f.bounds == FragmentBounds::Default) {
                return Err(Error::new(
                    ErrorKind::InvalidObjectDefinition,
                    format!("partition \"{name}\" conflicts with existing default partition \"{}\"", other.name),
                ));
            }
        }
        ("list", FragmentBounds::List(values)) => {
            if values.is_empty() {
                return Err(Error::new(ErrorKind::Syntax, "a list partition needs a value"));
            }
            limits::check("values in a list partition", values.len() - 1, limits::LIST_VALUES)?;
            if values.iter().any(|v| !columns.first().is_some_and(|c| is_of(&c.ty, v))) {
                return Err(mistyped(0));
            }
            for other in &table.fragments {
                if let FragmentBounds::List(theirs) = &other.bounds
                    && values.iter().any(|v| theirs.iter().any(|t| t.matches(v)))
                {
                    return Err(overlap(name, &other.name));
                }
            }
        }
        ("range", FragmentBounds::Range { from, to }) => {
            for (bound, word) in [(from, "FROM"), (to, "TO")] {
                if bound.len() != columns.len() {
                    return Err(definition(format!("{word} must specify exactly one value per partitioning column")));
                }
                check_range_bound(bound)?;
                for (at, value) in bound.iter().enumerate() {
                    if let RangeBound::Value(v) = value
                        && !is_of(&columns[at].ty, v)
                    {
                        return Err(mistyped(at));
                    }
                }
            }
            if compare_bounds(from, to) != Ordering::Less {
                return Err(Error::new(
                    ErrorKind::InvalidObjectDefinition,
                    format!("empty range bound specified for partition \"{name}\""),
                )
                .detail("Specified lower bound is greater than or equal to upper bound."));
            }
            for other in &table.fragments {
                if let FragmentBounds::Range { from: f, to: t } = &other.bounds
                    && compare_bounds(from, t) == Ordering::Less
                    && compare_bounds(f, to) == Ordering::Less
                {
                    return Err(overlap(name, &other.name));
                }
            }
        }
        ("hash", FragmentBounds::Hash { modulus, remainder }) => check_hash(table, name, *modulus, *remainder)?,
        _ => return Err(definition(format!("invalid bound specification for a {kind} partition"))),
    }
    Ok(())
}

fn check_hash(table: &Table, name: &str, modulus: u32, remainder: u32) -> Result<()> {
    if modulus == 0 {
        return Err(definition("modulus for hash partition must be an integer value greater than zero"));
    }
    if remainder >= modulus {
        return Err(definition("remainder for hash partition must be less than modulus"));
    }
    for other in &table.fragments {
        let FragmentBounds::Hash { modulus: m, remainder: r } = other.bounds else { continue };
        let (small, large) = (m.min(modulus), m.max(modulus));
        if large % small != 0 {
            return Err(Error::new(
                ErrorKind::InvalidObjectDefinition,
                "every hash partition modulus must be a factor of the next larger modulus",
            )
            .detail(format!(
                "The modulus {modulus} does not fit the modulus {m} of existing partition \"{}\".",
                other.name
            )));
        }
        if r % small == remainder % small {
            return Err(overlap(name, &other.name));
        }
    }
    Ok(())
}

/// NULL bounds nothing, and after MINVALUE or MAXVALUE only the same can follow.
fn check_range_bound(bound: &[RangeBound]) -> Result<()> {
    if bound.contains(&RangeBound::Value(Value::Null)) {
        return Err(definition("cannot specify NULL in range bound"));
    }
    for pair in bound.windows(2) {
        if !matches!(pair[0], RangeBound::Value(_)) && pair[0] != pair[1] {
            let word = if pair[0] == RangeBound::Min { "MINVALUE" } else { "MAXVALUE" };
            return Err(Error::new(
                ErrorKind::DatatypeMismatch,
                format!("every bound following {word} must also be {word}"),
            ));
        }
    }
    Ok(())
}

fn compare_bounds(a: &[RangeBound], b: &[RangeBound]) -> Ordering {
    for (a, b) in a.iter().zip(b) {
        let order = match (a, b) {
            (RangeBound::Min, RangeBound::Min) | (RangeBound::Max, RangeBound::Max) => Ordering::Equal,
            (RangeBound::Min, _) | (_, RangeBound::Max) => Ordering::Less,
            (RangeBound::Max, _) | (_, RangeBound::Min) => Ordering::Greater,
            (RangeBound::Value(a), RangeBound::Value(b)) => a.compare(b).unwrap_or(Ordering::Equal),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}
