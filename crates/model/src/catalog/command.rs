//! Changes to the catalog, as data: what DDL binds to, what a single node logs and a cluster replicates.
//!
//! Invariant: a command names objects by name and carries no ids; [`super::Catalog::apply`] hands those out, deterministically.

use super::{OnReplicaDown, Privileges, ReadBalance, ReferentialAction, Replication, RoleChange, SiteEngine};
use crate::{SqlType, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CatalogCommand {
    /// CREATE SITE
    CreateSite {
        /// Its name.
        name: String,
        /// Its engine.
        engine: SiteEngine,
        /// Its options.
        options: BTreeMap<String, String>,
    },
    /// ALTER SITE. Whoever applies it has tried the options that come of it.
    AlterSite {
        /// Its name.
        name: String,
        /// What becomes of its options.
        changes: Vec<OptionChange>,
    },
    /// DROP SITE: refused while fragments live there.
    DropSite {
        /// Its name.
        name: String,
    },
    /// CREATE TABLE (with its fragments, unless they are declared later by `PARTITION OF`).
    CreateTable(Box<NewTable>),
    /// CREATE TABLE … PARTITION OF: adds a declared fragment (and the corresponding one to every table derived from it).
    CreateFragment {
        /// The partitioned table.
        table: String,
        /// The new fragment.
        fragment: NewFragment,
    },
    /// DROP TABLE of a declared fragment (DETACH and drop).
    DropFragment {
        /// The fragment's name.
        name: String,
    },
    /// DROP TABLE
    DropTable {
        /// Its name.
        name: String,
        /// Drops views and foreign keys that depend on it as well.
        cascade: bool,
    },
    /// TRUNCATE: every fragment of the tables gets a new id, and so is empty.
    Truncate {
        /// The tables.
        tables: Vec<String>,
        /// Starts the owned sequences anew (as new sequences, in the store's eyes).
        restart_identity: bool,
    },
    /// ALTER TABLE
    AlterTable {
        /// Its name.
        table: String,
        /// What changes.
        change: TableChange,
    },
    /// CREATE INDEX. The rows' entries are built by whoever applies it, before it becomes visible.
    CreateIndex {
        /// The table.
        table: String,
        /// The index.
        index: NewIndex,
    },
    /// MOVE FRAGMENT: begins a copy at another site, of the fragment and of those that correspond to it in co-located tables.
    BeginMove {
        /// The table.
        table: String,
        /// The fragment.
        fragment: String,
        /// The site of the copy that is moved; `None`: the only one.
        from: Option<String>,
        /// Where it goes.
        to: String,
    },
    /// CANCEL MOVE: drops the copies that were begun.
    CancelMove {
        /// The table.
        table: String,
        /// The fragment.
        fragment: String,
    },
    /// Copies that are being built serve from now on. Whoever issues it has made sure that they have all rows.
    PromoteCopy {
        /// The table.
        table: String,
        /// The fragment, with which those go that correspond to it.
        fragment: String,
        /// The site of the copies.
        site: String,
    },
    /// Sets copies at a site aside, as it is down: those that are being built, and those of tables that allow it and have another one.
    SetBehind {
        /// The site.
        site: String,
    },
    /// The copies at a site that were set aside are built again.
    Rejoin {
        /// The site.
        site: String,
    },
    /// DROP INDEX
    DropIndex {
        /// Its name.
        name: String,
    },
    /// CREATE VIEW
    CreateView {
        /// Its name.
        name: String,
        /// Names of its columns, or empty.
        columns: Vec<String>,
        /// Its query.
        query: String,
        /// Names of the relations that it reads.
        depends_on: Vec<String>,
        /// OR REPLACE
        replace: bool,
    },
    /// DROP VIEW
    DropView {
        /// Its name.
        name: String,
        /// Drops dependent views as well.
        cascade: bool,
    },
    /// CREATE SEQUENCE
    CreateSequence(NewSequence),
    /// DROP SEQUENCE
    DropSequence {
        /// Its name.
        name: String,
    },
    /// COMMENT ON a table, view or sequence, or a table's column.
    Comment {
        /// The relation.
        relation: String,
        /// The column.
        column: Option<String>,
        /// The comment; `None` removes it.
        text: Option<String>,
    },
    /// CREATE ROLE / CREATE USER
    CreateRole {
        /// Its name.
        name: String,
        /// Its attributes; what is not said is not so, but for INHERIT.
        attributes: RoleChange,
    },
    /// ALTER ROLE
    AlterRole {
        /// Its name.
        name: String,
        /// What changes.
        attributes: RoleChange,
    },
    /// DROP ROLE: refused while it owns relations or has privileges.
    DropRole {
        /// Its name.
        name: String,
    },
    /// GRANT role TO role
    GrantRole {
        /// The role.
        role: String,
        /// Who becomes its member.
        member: String,
        /// WITH ADMIN OPTION
        admin: bool,
        /// Who gives it.
        grantor: String,
    },
    /// REVOKE role FROM role
    RevokeRole {
        /// The role.
        role: String,
        /// Its member.
        member: String,
        /// ADMIN OPTION FOR: the member stays one.
        admin_only: bool,
    },
    /// GRANT privileges. Whoever issues it has made sure that the grantor may.
    Grant(Grant),
    /// REVOKE privileges that the grantor has given.
    Revoke {
        /// What is taken back; `grantable`: GRANT OPTION FOR, the right to give it on alone.
        from: Grant,
        /// CASCADE: what the grantees have given on goes as well.
        cascade: bool,
    },
    /// ALTER TABLE … OWNER TO, of any relation; also how a new one gets its owner.
    SetOwner {
        /// The relation.
        relation: String,
        /// The role.
        owner: String,
    },
    /// A relation gets the owner and the privileges of another, whose place it takes.
    TakeAccess {
        /// The relation.
        relation: String,
        /// Whose.
        from: String,
    },
    /// REASSIGN OWNED
    ReassignOwned {
        /// The owner so far.
        from: String,
        /// The owner from now on.
        to: String,
    },
    /// DROP OWNED of a role that owns nothing: takes all its privileges back, and what it has given on.
    RevokeAll {
        /// The role.
        role: String,
    },
}

/// Privileges on an object, given or taken back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// A relation's name; `None`: the schema `public`.
    pub relation: Option<String>,
    /// The privileges.
    pub privileges: Privileges,
    /// Who gets them; `None`: PUBLIC.
    pub grantees: Vec<Option<String>>,
    /// Who gives them.
    pub grantor: String,
    /// WITH GRANT OPTION
    pub grantable: bool,
}

/// What becomes of one option. Values may be passwords, so they are not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptionChange {
    /// A new option.
    Add(String, String),
    /// Another value of one that is there.
    Set(String, String),
    /// One that goes.
    Drop(String),
}

impl fmt::Debug for OptionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (change, option) = match self {
            OptionChange::Add(option, _) => ("Add", option),
            OptionChange::Set(option, _) => ("Set", option),
            OptionChange::Drop(option) => ("Drop", option),
        };
        f.debug_tuple(change).field(option).finish()
    }
}

/// A table to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewTable {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<NewColumn>,
    /// Primary key: constraint name (default `<table>_pkey`) and columns.
    pub primary_key: Option<(Option<String>, Vec<String>)>,
    /// UNIQUE constraints.
    pub uniques: Vec<NewIndex>,
    /// CHECK constraints: name (default `<table>_<column>_check`, chosen by the binder) and SQL.
    pub checks: Vec<(String, String)>,
    /// Foreign keys.
    pub foreign_keys: Vec<NewForeignKey>,
    /// How rows are split.
    pub fragmentation: NewFragmentation,
    /// Sites over which implicit fragments are spread, or at which every fragment has a copy; empty: all embedded sites.
    pub sites: Vec<String>,
    /// Number of implicit hash fragments; `None`: one for each site in `sites`.
    pub fragments: Option<u32>,
    /// Copies of each implicit fragment.
    pub replicas: u32,
    /// How copies agree.
    pub replication: Replication,
    /// Which copy is read.
    pub read_balance: ReadBalance,
    /// What becomes of a write while a copy's site is down.
    #[serde(default)]
    pub on_replica_down: OnReplicaDown,
    /// Its one fragment is this table, `schema.name`, which is there already at its one site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<String>,
}

/// How a new table's rows are split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NewFragmentation {
    /// No clause: hash on the primary key (or hidden key) over the sites.
    Default,
    /// One fragment, of which every site in `sites` holds a full copy (`WITH (sites = …, replication = 'all')`).
    Copies,
    /// PARTITION BY LIST (column): fragments are declared by PARTITION OF.
    List(String),
    /// PARTITION BY RANGE (columns): as above.
    Range(Vec<String>),
    /// PARTITION BY HASH (columns): `WITH (fragments = n)` implicit, without it declared by PARTITION OF.
    Hash(Vec<String>),
    /// `colocate_with = parent, colocate_on = column`; the parent's column is the one that its own fragmentation or key is on.
    Derived {
        /// The parent.
        parent: String,
        /// The child's column.
        column: String,
    },
}

/// A column to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: SqlType,
    /// NOT NULL.
    pub not_null: bool,
    /// DEFAULT, as SQL.
    pub default: Option<String>,
    /// Value for rows that are there already (ADD COLUMN): the default, evaluated.
    pub missing: Value,
    /// An owned sequence: (whether GENERATED ALWAYS, the sequence).
    pub identity: Option<(bool, NewSequence)>,
}

/// An index to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewIndex {
    /// Its name; `None`: `<table>_<columns>_idx` (or `_key`), made unique with a number.
    pub name: Option<String>,
    /// Its columns.
    pub columns: Vec<String>,
    /// UNIQUE.
    pub unique: bool,
    /// Made by a constraint.
    pub constraint: bool,
}

/// A foreign key to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewForeignKey {
    /// Its name; `None`: `<table>_<columns>_fkey`.
    pub name: Option<String>,
    /// The child's columns.
    pub columns: Vec<String>,
    /// The parent's name.
    pub parent: String,
    /// The parent's columns; empty: its primary key.
    pub parent_columns: Vec<String>,
    /// ON DELETE
    pub on_delete: ReferentialAction,
    /// ON UPDATE
    pub on_update: ReferentialAction,
}

/// A sequence to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewSequence {
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
    /// Whether it starts anew.
    pub cycle: bool,
}

/// A fragment to be declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewFragment {
    /// Its name.
    pub name: String,
    /// Which rows belong to it. List and range values are of the fragmentation column's type.
    pub bounds: crate::FragmentBounds,
    /// The sites of its copies; empty: the table's `sites` in turn.
    pub sites: Vec<String>,
    /// Its copy is this table, `schema.name`, which is there already at its one site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<String>,
}

/// What ALTER TABLE changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TableChange {
    /// ADD COLUMN
    AddColumn(NewColumn),
    /// DROP COLUMN: refused for keys and fragmentation columns.
    DropColumn {
        /// Its name.
        name: String,
        /// Drops views, indexes and constraints that use it as well.
        cascade: bool,
    },
    /// RENAME COLUMN
    RenameColumn {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// RENAME TO
    Rename(String),
    /// ALTER COLUMN SET/DROP DEFAULT
    SetDefault {
        /// The column.
        column: String,
        /// SQL, or none.
        default: Option<String>,
    },
    /// ALTER COLUMN SET/DROP NOT NULL; whoever issues SET has checked the rows.
    SetNotNull {
        /// The column.
        column: String,
        /// Set or drop.
        not_null: bool,
    },
    /// SET (on_replica_down = …)
    SetOnReplicaDown(OnReplicaDown),
    /// ADD CONSTRAINT … CHECK; whoever issues it has checked the rows.
    AddCheck {
        /// Its name.
        name: String,
        /// SQL.
        expression: String,
    },
    /// ADD CONSTRAINT … FOREIGN KEY; whoever issues it has checked the rows.
    AddForeignKey(NewForeignKey),
    /// DROP CONSTRAINT (check, unique, foreign key).
    DropConstraint {
        /// Its name.
        name: String,
    },
}
