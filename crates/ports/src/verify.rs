//! What VERIFY finds: how the copies at the sites are otherwise than the catalog, and one another, say.
//!
//! Invariant: a copy that was looked at is in [`Summary::copies`]; one that was not is the subject of a finding that says why.

/// What verifying tells, as it goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Verified {
    /// Something is wrong.
    Finding(Finding),
    /// A table is done.
    Table(Summary),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The table; none where it is about a site as a whole.
    pub table: Option<String>,
    /// The fragment; none as above.
    pub fragment: Option<String>,
    /// The site.
    pub site: String,
    /// What it is.
    pub kind: FindingKind,
    /// The key of a row (the first few, where there are many), a column, an index, a table, a prepared transaction.
    pub object: Option<String>,
    /// How many rows, where it is about rows.
    pub rows: Option<u64>,
    /// What there is, and what should be.
    pub detail: String,
}

/// Kinds of findings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FindingKind {
    /// The site's table is not what the definition says.
    Drift,
    /// Rows that belong to another fragment, or to none.
    Misplaced,
    /// Rows that another copy has, and this one has not.
    Missing,
    /// Rows that another copy has not.
    Extra,
    /// Rows whose values are others than in another copy.
    Different,
    /// The copy cannot be read.
    Unreadable,
    /// The site cannot be reached.
    Unavailable,
    /// A prepared transaction that nobody is going to end.
    Orphaned,
}

impl FindingKind {
    /// As results show it.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Drift => "drift",
            FindingKind::Misplaced => "misplaced",
            FindingKind::Missing => "missing",
            FindingKind::Extra => "extra",
            FindingKind::Different => "different",
            FindingKind::Unreadable => "unreadable",
            FindingKind::Unavailable => "unavailable",
            FindingKind::Orphaned => "orphaned",
        }
    }
}

/// What was looked at of a table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Summary {
    /// The table.
    pub table: String,
    /// Its fragments.
    pub fragments: u64,
    /// Copies that were looked at.
    pub copies: u64,
    /// Rows of those copies that were compared with another copy's.
    pub compared: u64,
    /// What was found.
    pub findings: u64,
}
