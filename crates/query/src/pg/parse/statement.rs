//! The syntax trees of Atoll's own grammar, beside sqlparser's.
//!
//! Invariant: names here are already folded (lower case unless quoted), as the catalog has them.

use datafusion::sql::sqlparser::ast::{self, ColumnDef, Expr, Query, TableConstraint};
use std::collections::BTreeMap;

pub use atoll_model::OptionChange;

/// A statement.
#[derive(Clone, Debug)]
pub enum Statement {
    /// One that sqlparser reads.
    Sql(Box<ast::Statement>),
    /// CREATE SITE
    CreateSite {
        /// Its name.
        name: String,
        /// Its engine's name.
        engine: String,
        /// Its options.
        options: BTreeMap<String, String>,
        /// IF NOT EXISTS
        if_not_exists: bool,
    },
    /// ALTER SITE
    AlterSite {
        /// Its name.
        name: String,
        /// What becomes of its options.
        changes: Vec<OptionChange>,
    },
    /// IMPORT FOREIGN SCHEMA: adopts tables of a site.
    ImportSchema {
        /// The site's schema.
        schema: String,
        /// Which of its tables.
        tables: Chosen,
        /// The site.
        site: String,
    },
    /// MOVE FRAGMENT
    MoveFragment {
        /// The fragment.
        fragment: String,
        /// Its table, where the name alone does not tell.
        table: Option<String>,
        /// The site of the copy that moves.
        from: Option<String>,
        /// Where it goes.
        to: String,
        /// Whether the statement ends when the fragment is there, rather than when the move has begun.
        wait: bool,
    },
    /// CANCEL MOVE OF FRAGMENT
    CancelMove {
        /// The fragment.
        fragment: String,
        /// Its table, where the name alone does not tell.
        table: Option<String>,
    },
    /// DROP SITE
    DropSite {
        /// Their names.
        names: Vec<String>,
        /// IF EXISTS
        if_exists: bool,
    },
    /// CREATE TABLE
    CreateTable(Box<CreateTable>),
    /// CREATE TABLE … PARTITION OF
    CreateFragment(Box<CreateFragment>),
    /// CREATE ROLE / USER
    CreateRole {
        /// Its name.
        name: String,
        /// Its attributes.
        attributes: RoleAttributes,
        /// IF NOT EXISTS (not in PostgreSQL; scripts like it).
        if_not_exists: bool,
    },
    /// ALTER ROLE / USER
    AlterRole {
        /// The role.
        role: RoleName,
        /// What changes.
        attributes: RoleAttributes,
    },
    /// DROP ROLE / USER
    DropRole {
        /// Their names.
        names: Vec<String>,
        /// IF EXISTS
        if_exists: bool,
    },
    /// GRANT and REVOKE of privileges
    Grant(Box<GrantPrivileges>),
    /// GRANT and REVOKE of membership in roles
    GrantRoles {
        /// The roles.
        roles: Vec<String>,
        /// Who becomes, or ceases to be, their member.
        members: Vec<RoleName>,
        /// WITH ADMIN OPTION, or ADMIN OPTION FOR.
        option: bool,
        /// REVOKE
        revoke: bool,
    },
    /// ALTER VIEW / SEQUENCE … OWNER TO
    SetOwner {
        /// The relation.
        name: String,
        /// ALTER SEQUENCE
        sequence: bool,
        /// IF EXISTS
        if_exists: bool,
        /// Its owner from now on.
        owner: RoleName,
    },
    /// REASSIGN OWNED
    ReassignOwned {
        /// The owners so far.
        from: Vec<RoleName>,
        /// The owner from now on.
        to: RoleName,
    },
    /// DROP OWNED
    DropOwned {
        /// The roles.
        roles: Vec<RoleName>,
    },
    /// VACUUM
    Vacuum {
        /// The tables; empty: all.
        tables: Vec<String>,
    },
    /// ANALYZE
    Analyze {
        /// The tables; empty: all.
        tables: Vec<String>,
    },
    /// CHECKPOINT
    Checkpoint,
    /// VERIFY
    Verify {
        /// The tables; `None`: all.
        tables: Option<Vec<String>>,
    },
    /// ALTER SEQUENCE
    AlterSequence {
        /// Its name.
        name: String,
        /// IF EXISTS
        if_exists: bool,
        /// RESTART, with a value or from the start.
        restart: Option<Option<i64>>,
    },
}

/// Tables of a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// All.
    All,
    /// LIMIT TO
    Only(Vec<String>),
    /// EXCEPT
    AllBut(Vec<String>),
}

/// CREATE TABLE
#[derive(Clone, Debug)]
pub struct CreateTable {
    /// Its name.
    pub name: String,
    /// IF NOT EXISTS
    pub if_not_exists: bool,
    /// TEMPORARY (refused by the binder).
    pub temporary: bool,
    /// Columns, constraints and LIKE clauses in order of writing.
    pub columns: Vec<ColumnDef>,
    /// Table constraints.
    pub constraints: Vec<TableConstraint>,
    /// `LIKE t [INCLUDING …]`: the position among the columns, the table, whether defaults, constraints, indexes come along.
    pub like: Vec<Like>,
    /// PARTITION BY
    pub partition_by: Option<(PartitionKind, Vec<String>)>,
    /// TABLESPACE
    pub tablespace: Option<String>,
    /// WITH
    pub options: Vec<(String, String)>,
    /// `OPTIONS (table 'schema.name')`: the site's table that it is.
    pub adopted: Option<String>,
    /// AS
    pub query: Option<Box<Query>>,
    /// Column names of CREATE TABLE … (a, b) AS.
    pub column_names: Vec<String>,
    /// WITH NO DATA
    pub no_data: bool,
}

/// LIKE in a CREATE TABLE.
#[derive(Clone, Debug)]
pub struct Like {
    /// Number of columns before it.
    pub at: usize,
    /// The table.
    pub table: String,
    /// INCLUDING DEFAULTS
    pub defaults: bool,
    /// INCLUDING CONSTRAINTS
    pub constraints: bool,
    /// INCLUDING INDEXES
    pub indexes: bool,
}

/// The ways of PARTITION BY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartitionKind {
    /// LIST
    List,
    /// RANGE
    Range,
    /// HASH
    Hash,
}

/// CREATE TABLE … PARTITION OF
#[derive(Clone, Debug)]
pub struct CreateFragment {
    /// Its name.
    pub name: String,
    /// IF NOT EXISTS
    pub if_not_exists: bool,
    /// The partitioned table.
    pub parent: String,
    /// FOR VALUES
    pub bounds: Bounds,
    /// TABLESPACE
    pub tablespace: Option<String>,
    /// WITH
    pub options: Vec<(String, String)>,
    /// `OPTIONS (table 'schema.name')`: the site's table that it is.
    pub adopted: Option<String>,
}

/// FOR VALUES
#[derive(Clone, Debug)]
pub enum Bounds {
    /// IN
    In(Vec<Expr>),
    /// FROM … TO
    FromTo(Vec<Bound>, Vec<Bound>),
    /// WITH (MODULUS, REMAINDER)
    Hash {
        /// The divisor.
        modulus: u32,
        /// The remainder.
        remainder: u32,
    },
    /// DEFAULT
    Default,
}

/// One column's part of FROM or TO.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few of them per statement")]
pub enum Bound {
    /// MINVALUE
    Min,
    /// MAXVALUE
    Max,
    /// A constant.
    Value(Expr),
}

/// What CREATE and ALTER ROLE say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleAttributes {
    /// LOGIN / NOLOGIN
    pub login: Option<bool>,
    /// SUPERUSER / NOSUPERUSER
    pub superuser: Option<bool>,
    /// INHERIT / NOINHERIT
    pub inherit: Option<bool>,
    /// CREATEROLE / NOCREATEROLE
    pub create_role: Option<bool>,
    /// CREATEDB / NOCREATEDB
    pub create_db: Option<bool>,
    /// PASSWORD '…' | NULL
    pub password: Option<Option<String>>,
    /// VALID UNTIL '…'
    pub valid_until: Option<String>,
    /// IN ROLE: what a new role is made a member of.
    pub in_roles: Vec<String>,
}

/// How a statement names a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// By its name.
    Named(String),
    /// CURRENT_USER, CURRENT_ROLE
    CurrentUser,
    /// SESSION_USER
    SessionUser,
    /// PUBLIC: everybody.
    Public,
}

/// GRANT or REVOKE of privileges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantPrivileges {
    /// Their names in upper case; `ALL` alone: all.
    pub privileges: Vec<String>,
    /// What they are on.
    pub on: GrantObjects,
    /// To, or from, whom.
    pub roles: Vec<RoleName>,
    /// WITH GRANT OPTION, or GRANT OPTION FOR.
    pub option: bool,
    /// REVOKE, and whether CASCADE; `None`: GRANT.
    pub revoke: Option<bool>,
}

/// What privileges are granted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantObjects {
    /// `[TABLE] …`: tables and views; sequences as well, as in PostgreSQL.
    Relations(Vec<String>),
    /// `SEQUENCE …`
    Sequences(Vec<String>),
    /// `ALL TABLES IN SCHEMA public`
    AllTables,
    /// `ALL SEQUENCES IN SCHEMA public`
    AllSequences,
    /// `SCHEMA public`
    Schema,
    /// `DATABASE atoll`
    Database,
}
