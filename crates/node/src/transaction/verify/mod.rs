//! VERIFY: whether what lies at the sites is what the catalog says, and whether copies agree.
//!
//! Each table is looked at in a read-only transaction of its own, whose snapshots of all participants fit each other, so what others commit
//! meanwhile is seen at all copies or at none. Until it ends, the definition of the table (and of the one whose rows decide where its rows
//! lie) cannot change, so neither can what Atoll has declared at the sites.
//!
//! Invariants: what cannot be looked at is a finding and keeps nothing else from being looked at; memory is bounded by the number
//! of fragments, not of rows.

mod copy;
mod differences;
mod orphans;

use super::Txn;
use super::misplaced::Parent;
use super::placement::Describe as _;
use crate::node::Node;
use atoll_model::{Error, ErrorKind, FragmentBounds, Fragmentation, ParticipantId, Result, SiteId, Table, Value};
use atoll_ports::cluster::{TableLock, Transaction as _};
use atoll_ports::digest::Digest;
use atoll_ports::site::{BranchOptions, Isolation, KeyRange};
use atoll_ports::verify::{Finding, FindingKind, Summary, Verified};
use copy::{Copy, Open};
use differences::{Differences, Tally, differences};
use futures::future::join_all;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use orphans::Suspects;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How often a table is begun anew because its definition has changed, or a site went down while snapshots were opened.
const ATTEMPTS: u32 = 5;

/// Characters of a key that are shown.
const MAX_SHOWN: usize = 200;

/// Looks at these tables, or at all.
pub(crate) fn verify(node: Arc<Node>, tables: Option<Vec<String>>) -> BoxStream<'static, Result<Verified>> {
    stream::once(begin(node, tables)).try_flatten().boxed()
}

async fn begin(node: Arc<Node>, tables: Option<Vec<String>>) -> Result<BoxStream<'static, Result<Verified>>> {
    let definitions = node.definitions.load_full();
    let is_named = tables.is_some();
    let names: BTreeSet<String> = match tables {
        Some(names) => names.into_iter().collect(),
        None => definitions.tables.values().map(|table| table.name.clone()).collect(),
    };
    let mut participants = BTreeSet::new();
    for name in &names {
        let table = definitions.table(name).ok_or_else(|| undefined(name))?;
        for site in table.fragments.iter().flat_map(|f| &f.replicas) {
            participants.insert(node.participant(*site)?);
        }
    }
    let scope = is_named.then(|| participants.into_iter().map(|p| node.coordinator.name_of(p)).collect());
    let suspects = Suspects::look(node.clone(), scope).await;
    let tables = stream::iter(names).then(move |name| verify_table(node.clone(), name, is_named).boxed());
    let found = tables.chain(stream::once(async move { Ok(suspects.left().await) }));
    Ok(found.map_ok(|found| stream::iter(found.into_iter().map(Ok))).try_flatten().boxed())
}

fn undefined(name: &str) -> Error {
    Error::new(ErrorKind::UndefinedTable, format!("table \"{name}\" does not exist"))
}

async fn verify_table(node: Arc<Node>, name: String, is_named: bool) -> Result<Vec<Verified>> {
    let options = BranchOptions { isolation: Isolation::RepeatableRead, read_only: true, ..BranchOptions::default() };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let txn = node.begin_own(options);
        let Some(table) = txn.definitions().table(&name).cloned() else {
            return if is_named { Err(undefined(&name)) } else { Ok(vec![]) };
        };
        match Verifier::begin(&txn, table).await {
            Ok(verifier) => return Ok(verifier.run().await),
            Err(e)
                if attempt < ATTEMPTS
                    && matches!(e.kind(), ErrorKind::SerializationFailure | ErrorKind::SiteUnavailable) => {}
            Err(e) => return Err(e),
        }
    }
}

/// A table that is being looked at.
struct Verifier<'t> {
    txn: &'t Txn,
    table: Arc<Table>,
    /// The table whose rows decide where this one's lie.
    parent: Option<Arc<Table>>,
    open: BTreeMap<ParticipantId, Open>,
    /// Participants that cannot be reached.
    down: BTreeMap<ParticipantId, Error>,
    findings: Vec<Finding>,
    summary: Summary,
}

impl<'t> Verifier<'t> {
    /// Keeps the definitions from changing, and opens snapshots that fit each other at all sites that can be reached.
    async fn begin(txn: &'t Txn, table: Arc<Table>) -> Result<Self> {
        let parent = match &table.fragmentation {
            Fragmentation::Derived { parent, direct: false, .. } => txn.definitions().tables.get(parent).cloned(),
            _ => None,
        };
        for held in [Some(&table), parent.as_ref()].into_iter().flatten() {
            txn.lock_table(held, TableLock::Write).await?;
        }
        let mut sites: BTreeMap<ParticipantId, SiteId> = BTreeMap::new();
        for fragment in table.fragments.iter().chain(parent.iter().flat_map(|parent| &parent.fragments)) {
            for site in &fragment.replicas {
                sites.entry(txn.node.participant(*site)?).or_insert(*site);
            }
        }
        let asked: Vec<_> = sites.iter().map(|(p, site)| txn.reach(*p, *site).boxed()).collect();
        let (mut down, mut up) = (BTreeMap::new(), vec![]);
        for (participant, answer) in sites.keys().copied().zip(join_all(asked).await) {
            match answer {
                Ok(()) => up.push(participant),
                Err(error) => {
                    down.insert(participant, error);
                }
            }
        }
        let up: Vec<(ParticipantId, SiteId)> = up.into_iter().map(|p| (p, sites[&p])).collect();
        up.iter().for_each(|(_, site)| txn.announce(*site));
        let mut open = BTreeMap::new();
        for (participant, site) in up {
            open.insert(participant, Open::of(txn.branch_for_read(site).await?));
        }
        let summary =
            Summary { table: table.name.clone(), fragments: table.fragments.len() as u64, ..Summary::default() };
        Ok(Verifier { txn, table, parent, open, down, findings: vec![], summary })
    }

    async fn run(mut self) -> Vec<Verified> {
        for at in 0..self.table.fragments.len() {
            let mut copies = vec![];
            for copy in self.copies(at) {
                if self.look_at(&copy, at).await {
                    copies.push(copy);
                }
            }
            self.summary.copies += copies.len() as u64;
            if copies.len() > 1 {
                self.compare(copies).await;
            }
        }
        self.summary.findings = self.findings.len() as u64;
        self.findings.into_iter().map(Verified::Finding).chain([Verified::Table(self.summary)]).collect()
    }

    /// The copies of a fragment that can be reached.
    fn copies(&mut self, at: usize) -> Vec<Copy> {
        let fragment = self.table.fragments[at].clone();
        let mut copies = vec![];
        for site in &fragment.replicas {
            let name = self.txn.definitions().site_name(*site);
            let participant = self.txn.node.participant(*site).ok();
            match (participant.and_then(|p| self.open.get(&p)), Txn::replica(&self.table, at, *site)) {
                (Some(open), Ok(replica)) => copies.push(Copy::new(replica, name, fragment.name.clone(), open.clone())),
                _ => {
                    let why = participant.and_then(|p| self.down.get(&p)).map_or_else(String::new, copy::told);
                    self.findings.push(Finding {
                        table: Some(self.table.name.clone()),
                        fragment: Some(fragment.name.clone()),
                        site: name,
                        kind: FindingKind::Unavailable,
                        object: None,
                        rows: None,
                        detail: why,
                    });
                }
            }
        }
        copies
    }

    /// Looks at a copy by itself; false: its rows cannot be read.
    async fn look_at(&mut self, copy: &Copy, at: usize) -> bool {
        let drift = match copy.tried(copy.branch.drift(&copy.replica)).await {
            Ok(drift) => drift,
            Err(error) => return self.failed(copy, &error),
        };
        let readable = drift.iter().all(|drift| drift.readable);
        for drift in drift {
            self.found(copy, FindingKind::Drift, Some(drift.object), None, drift.detail);
        }
        if !readable {
            return false;
        }
        let parent = match self.parent_of(copy, at) {
            Ok(parent) => parent,
            Err(error) => {
                self.failed(copy, &error);
                return true;
            }
        };
        match copy.tried(self.txn.misplaced_at(&copy.replica, &*copy.branch, parent)).await {
            Ok(None) => true,
            Ok(Some(some)) => {
                let columns: Vec<_> =
                    self.table.fragmentation_positions().iter().map(|at| self.table.columns[*at].id).collect();
                let place = shortened(self.table.describe(&columns, &some.place));
                let key = Tally { rows: some.rows, keys: vec![some.key] };
                let detail = match some.rows {
                    1 => format!("does not belong to the fragment: {place}"),
                    _ => format!("do not belong to the fragment: {place}, for one"),
                };
                self.found_rows(copy, FindingKind::Misplaced, &key, detail);
                true
            }
            Err(error) => self.failed(copy, &error),
        }
    }

    /// The copy of the parent's fragment that decides which rows belong to a copy: one at the same site, as both lie together.
    fn parent_of(&self, copy: &Copy, at: usize) -> Result<Option<Parent>> {
        let (Some(parent), FragmentBounds::Derived(id)) = (&self.parent, &self.table.fragments[at].bounds) else {
            return Ok(None);
        };
        let missing = || Error::internal(format!("fragment {id} of table \"{}\" cannot be read", parent.name));
        let place = parent.fragment_position(*id).ok_or_else(missing)?;
        let mut sites = parent.fragments[place].replicas.clone();
        sites.sort_by_key(|site| *site != copy.replica.site);
        for site in sites {
            if let Some(open) = self.open.get(&self.txn.node.participant(site)?) {
                let at = Txn::replica(parent, place, site)?;
                return Ok(Some(Parent { at, branch: open.branch.clone() }));
            }
        }
        Err(missing())
    }

    /// Compares the copies of a fragment with the one that most of them are like.
    async fn compare(&mut self, copies: Vec<Copy>) {
        let all = KeyRange::ALL;
        let asked: Vec<_> =
            copies.iter().map(|copy| copy.tried(copy.branch.digest(&copy.replica, &all)).boxed()).collect();
        let mut known: Vec<(&Copy, Digest)> = vec![];
        for (copy, digest) in copies.iter().zip(join_all(asked).await) {
            match digest {
                Ok(digest) => known.push((copy, digest)),
                Err(error) => self.unread(copy, &error),
            }
        }
        let mut done: Vec<SiteId> = vec![];
        while let Some((reference, digest, alike)) = commonest(&known) {
            let next = known.iter().find(|(copy, d)| *d != digest && !done.contains(&copy.replica.site));
            let Some((copy, other)) = next.map(|(copy, d)| (*copy, *d)) else { break };
            match differences(reference, copy, [digest, other]).await {
                Ok(found) => {
                    done.push(copy.replica.site);
                    let votes = match known.len() {
                        ..=2 => String::new(),
                        count => format!(", which {alike} of {count} copies are like"),
                    };
                    self.tell(copy, &found, &format!("the copy at site \"{}\"{votes}", reference.site));
                }
                Err(failed) => {
                    self.unread(failed.at, &failed.error);
                    let gone = failed.at.replica.site;
                    known.retain(|(copy, _)| copy.replica.site != gone);
                }
            }
        }
        if known.len() > 1 {
            self.summary.compared += known.iter().map(|(_, digest)| digest.rows).sum::<u64>();
        }
    }

    /// Reports how a copy differs from another.
    fn tell(&mut self, copy: &Copy, found: &Differences, other: &str) {
        let Differences { missing, extra, different, columns, is_unordered } = found;
        if *is_unordered {
            let detail = format!(
                "its checksum is not that of {other}; which rows differ was not looked for, as their keys have no order that is the same everywhere"
            );
            self.found(copy, FindingKind::Different, None, None, detail);
            return;
        }
        if missing.rows + extra.rows + different.rows == 0 {
            let detail = format!("its checksum is not that of {other}, though all rows read the same");
            self.found(copy, FindingKind::Different, None, Some(0), detail);
        }
        if missing.rows > 0 {
            self.found_rows(copy, FindingKind::Missing, missing, format!("in {other}"));
        }
        if extra.rows > 0 {
            self.found_rows(copy, FindingKind::Extra, extra, format!("not in {other}"));
        }
        if different.rows > 0 {
            let columns: Vec<&str> = columns.iter().map(|at| self.table.columns[*at].name.as_str()).collect();
            let detail = format!("{} otherwise in {other}", columns.join(", "));
            self.found_rows(copy, FindingKind::Different, different, detail);
        }
    }

    /// Reports rows by their keys.
    fn found_rows(&mut self, copy: &Copy, kind: FindingKind, tally: &Tally, detail: String) {
        let shown = |key: &Vec<Value>| shortened(self.table.describe(&self.table.key, key));
        let mut keys: Vec<String> = tally.keys.iter().map(shown).collect();
        if tally.rows > keys.len() as u64 {
            keys.push("…".into());
        }
        self.found(copy, kind, Some(keys.join(" ")), Some(tally.rows), detail);
    }

    /// Reports a copy that could not be read; its rows are not to be compared.
    fn failed(&mut self, copy: &Copy, error: &Error) -> bool {
        let kind = match error.kind() {
            ErrorKind::SiteUnavailable => FindingKind::Unavailable,
            _ => FindingKind::Unreadable,
        };
        self.found(copy, kind, None, None, copy::told(error));
        false
    }

    /// The same for one that had been counted as looked at.
    fn unread(&mut self, copy: &Copy, error: &Error) {
        self.failed(copy, error);
        self.summary.copies -= 1;
    }

    fn found(&mut self, copy: &Copy, kind: FindingKind, object: Option<String>, rows: Option<u64>, detail: String) {
        self.findings.push(Finding {
            table: Some(self.table.name.clone()),
            fragment: Some(copy.fragment.clone()),
            site: copy.site.clone(),
            kind,
            object,
            rows,
            detail,
        });
    }
}

/// The first of the copies whose digest most others have, and how many there are of these.
fn commonest<'c>(known: &[(&'c Copy, Digest)]) -> Option<(&'c Copy, Digest, usize)> {
    let count = |digest: &Digest| known.iter().filter(|(_, d)| d == digest).count();
    let mut best: Option<(&Copy, Digest, usize)> = None;
    for (copy, digest) in known {
        let alike = count(digest);
        if best.is_none_or(|(_, _, most)| alike > most) {
            best = Some((copy, *digest, alike));
        }
    }
    best
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl Txn {
    /// Whether a participant answers.
    async fn reach(&self, participant: ParticipantId, site: SiteId) -> Result<()> {
        if self.node.coordinator.is_home(participant) {
            return Ok(());
        }
        self.node.sites.get(site)?.site.in_doubt().await.map(|_| ())
    }
}
