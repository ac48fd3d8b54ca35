//! DDL: a statement and a catalog give the changes to make, and what must be checked or copied between them.
//!
//! Invariants: nothing here changes anything; names and types are checked as far as the statement alone tells, the rest is
//! refused by [`Catalog::apply`]. What Atoll cannot keep true later (a CHECK that is not a predicate over the row, an option of a
//! protocol that does not exist yet) is refused here, with the reason.

mod alter;
mod constraint;
mod create;
mod drop;
mod expression;
mod fragment;
mod import;
mod index;
mod options;
mod primary_key;
mod roles;
mod sequence;
mod types;

pub use create::columns_from_schema;
pub use expression::columns_of;
pub(crate) use expression::refuse_subqueries;
pub(crate) use roles::{alter_role, create_role};
pub use types::{reduced_digits, sql_type};

use crate::pg::parse::Statement;
use crate::syntax::fold;
use atoll_model::{Catalog, CatalogCommand, Error, ErrorKind, NamedObject, Result, SiteEngine};
use atoll_ports::session::Notice;
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{self, ObjectName, ObjectNamePart};

/// What a DDL statement does, in order.
#[derive(Clone, Debug)]
pub enum Step {
    /// Changes the catalog.
    Apply(CatalogCommand),
    /// Runs a query over the catalog as the steps before have left it; a row in the answer is the error.
    Check {
        /// The query.
        sql: String,
        /// What a row means.
        error: Error,
    },
    /// Runs a statement (rows copied from an old table to a new one).
    Run(String),
    /// `setval`: the sequence's next value is this one.
    Restart {
        /// The sequence.
        sequence: String,
        /// Its next value.
        value: i64,
    },
}

/// A bound DDL statement.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What to do, in order, within one transaction.
    pub steps: Vec<Step>,
    /// What to tell the user.
    pub notices: Vec<Notice>,
    /// The command tag.
    pub tag: &'static str,
}

impl Bound {
    /// Nothing to do yet.
    pub(crate) fn of(tag: &'static str) -> Self {
        Bound { steps: vec![], notices: vec![], tag }
    }

    /// One command.
    pub(crate) fn one(tag: &'static str, command: CatalogCommand) -> Self {
        Bound { steps: vec![Step::Apply(command)], notices: vec![], tag }
    }

    /// Nothing to do, and why.
    pub(crate) fn skipped(tag: &'static str, sqlstate: &'static str, message: String) -> Self {
        let mut bound = Bound::of(tag);
        bound.notice(sqlstate, message);
        bound
    }

    /// A NOTICE.
    pub(crate) fn notice(&mut self, sqlstate: &'static str, message: String) {
        self.notices.push(Notice { severity: "NOTICE", sqlstate, message });
    }

    /// A WARNING.
    pub(crate) fn warning(&mut self, sqlstate: &'static str, message: String) {
        self.notices.push(Notice { severity: "WARNING", sqlstate, message });
    }

    /// One command more.
    pub(crate) fn apply(&mut self, command: CatalogCommand) {
        self.steps.push(Step::Apply(command));
    }
}

/// What the binder looks at.
pub struct Binder<'a> {
    /// The catalog, as the transaction sees it.
    pub catalog: &'a Catalog,
    /// Functions and options by which expressions are planned.
    pub state: &'a SessionState,
}

/// Binds a statement. `None`: it is not DDL. `CREATE TABLE … AS` is not, either: its columns come from planning the query
/// ([`columns_from_schema`]), but [`Binder::create_table`] takes them.
///
/// # Errors
/// Whatever is wrong with the statement itself.
pub fn bind(statement: &Statement, catalog: &Catalog, state: &SessionState) -> Result<Option<Bound>> {
    let binder = Binder { catalog, state };
    Ok(Some(match statement {
        Statement::CreateSite { name, engine, options, if_not_exists } => {
            if *if_not_exists && catalog.site(name).is_some() {
                return Ok(Some(Bound::skipped(
                    "CREATE SITE",
                    "42710",
                    format!("site \"{name}\" already exists, skipping"),
                )));
            }
            let engine = match engine.as_str() {
                "embedded" => SiteEngine::Embedded,
                "postgres" | "postgresql" => SiteEngine::Postgres,
                "mysql" | "mariadb" => SiteEngine::Mysql,
                _ => {
                    return Err(Error::new(
                        ErrorKind::InvalidParameterValue,
                        format!("unrecognized site engine \"{engine}\""),
                    )
                    .hint("Valid engines: embedded, postgres, mysql."));
                }
            };
            // The options of other engines are checked by whoever opens the site.
            if engine == SiteEngine::Embedded
                && let Some(option) = options.keys().next()
            {
                return Err(Error::new(
                    ErrorKind::InvalidParameterValue,
                    format!("unrecognized site option \"{option}\""),
                )
                .detail("Sites of the engine embedded take no options."));
            }
            Bound::one(
                "CREATE SITE",
                CatalogCommand::CreateSite { name: name.clone(), engine, options: options.clone() },
            )
        }
        Statement::AlterSite { name, changes } => {
            let changes = changes.clone();
            Bound::one("ALTER SITE", CatalogCommand::AlterSite { name: name.clone(), changes })
        }
        Statement::DropSite { names, if_exists } => {
            let mut bound = Bound::of("DROP SITE");
            for name in names {
                if *if_exists && catalog.site(name).is_none() {
                    bound.notice("00000", format!("site \"{name}\" does not exist, skipping"));
                } else {
                    bound.apply(CatalogCommand::DropSite { name: name.clone() });
                }
            }
            bound
        }
        Statement::CreateTable(table) if table.query.is_none() => binder.create_table(table, None)?,
        Statement::CreateFragment(fragment) => binder.create_fragment(fragment)?,
        Statement::CreateRole { name, attributes, if_not_exists } => {
            create_role(name, attributes, *if_not_exists, catalog)?
        }
        Statement::DropRole { names, if_exists } => roles::drop_role(names, *if_exists, catalog),
        Statement::AlterSequence { name, if_exists, restart } => binder.alter_sequence(name, *if_exists, *restart)?,
        Statement::Sql(statement) => return binder.sql(statement),
        // What it does is known once the site has been asked for its tables ([`Binder::import_schema`]).
        Statement::ImportSchema { .. } => return Ok(None),
        // Not part of a transaction.
        Statement::MoveFragment { .. } | Statement::CancelMove { .. } => return Ok(None),
        // What they do depends on who asks: `privileges` binds them.
        Statement::Grant(_)
        | Statement::GrantRoles { .. }
        | Statement::AlterRole { .. }
        | Statement::SetOwner { .. }
        | Statement::ReassignOwned { .. }
        | Statement::DropOwned { .. } => return Ok(None),
        Statement::CreateTable(_)
        | Statement::Vacuum { .. }
        | Statement::Analyze { .. }
        | Statement::Verify { .. }
        | Statement::Checkpoint => {
            return Ok(None);
        }
    }))
}

impl Binder<'_> {
    fn sql(&self, statement: &ast::Statement) -> Result<Option<Bound>> {
        Ok(Some(match statement {
            ast::Statement::AlterTable(alter) => self.alter_table(alter)?,
            ast::Statement::CreateIndex(create) => self.create_index(create)?,
            ast::Statement::CreateView(create) => self.create_view(create)?,
            ast::Statement::CreateSequence {
                temporary,
                if_not_exists,
                name,
                data_type,
                sequence_options,
                owned_by,
            } => {
                if *temporary {
                    return Err(Error::unsupported("temporary sequences are not supported"));
                }
                if owned_by.is_some() {
                    return Err(Error::unsupported(
                        "OWNED BY is not supported: declare the column serial or GENERATED … AS IDENTITY",
                    ));
                }
                self.create_sequence(&relation_name(name)?, *if_not_exists, data_type.as_ref(), sequence_options)?
            }
            ast::Statement::Drop { object_type, if_exists, names, cascade, temporary: false, .. } => {
                self.drop(*object_type, *if_exists, names, *cascade)?
            }
            ast::Statement::Truncate(truncate) => self.truncate(truncate)?,
            ast::Statement::Comment { object_type, object_name, comment, .. } => {
                self.comment(*object_type, object_name, comment.clone())?
            }
            ast::Statement::CreateSchema { schema_name, if_not_exists, .. } => {
                self.create_schema(schema_name, *if_not_exists)?
            }
            ast::Statement::AlterIndex { .. } => {
                return Err(Error::unsupported("ALTER INDEX is not supported: drop it and create another"));
            }
            ast::Statement::AlterView { .. } => {
                return Err(Error::unsupported("ALTER VIEW is not supported: CREATE OR REPLACE VIEW is"));
            }
            _ => return Ok(None),
        }))
    }
}

impl Binder<'_> {
    fn comment(&self, kind: ast::CommentObject, name: &ObjectName, text: Option<String>) -> Result<Bound> {
        let mut name = name.clone();
        let column = match kind {
            ast::CommentObject::Table | ast::CommentObject::View | ast::CommentObject::Sequence => None,
            ast::CommentObject::Column => match name.0.pop() {
                Some(ObjectNamePart::Identifier(column)) if !name.0.is_empty() => Some(fold(&column)),
                _ => return Err(Error::new(ErrorKind::Syntax, "column name must be qualified")),
            },
            other => {
                return Err(Error::unsupported(format!("comments on a {other} are not stored"))
                    .hint("Tables, their columns, views and sequences have comments."));
            }
        };
        let relation = relation_name(&name)?;
        let object = self.catalog.names.get(&relation).ok_or_else(|| undefined_table(&relation))?;
        let (fits, what) = match kind {
            ast::CommentObject::Table => (matches!(object, NamedObject::Table(_)), "table"),
            ast::CommentObject::View => (matches!(object, NamedObject::View(_)), "view"),
            ast::CommentObject::Sequence => (matches!(object, NamedObject::Sequence(_)), "sequence"),
            _ => (true, "relation"),
        };
        if !fits {
            return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{relation}\" is not a {what}")));
        }
        Ok(Bound::one("COMMENT", CatalogCommand::Comment { relation, column, text }))
    }

    /// There are the schemas that there are.
    fn create_schema(&self, name: &ast::SchemaName, if_not_exists: bool) -> Result<Bound> {
        let name = match name {
            ast::SchemaName::Simple(name) => drop::last_part(name),
            _ => return Err(Error::unsupported("AUTHORIZATION of a schema: all tables are in the schema public")),
        };
        if !matches!(name.as_str(), "public" | "pg_catalog" | "information_schema" | "atoll") {
            return Err(Error::unsupported("CREATE SCHEMA is not supported: all tables are in the schema public"));
        }
        if if_not_exists {
            return Ok(Bound::skipped("CREATE SCHEMA", "42P06", format!("schema \"{name}\" already exists, skipping")));
        }
        Err(Error::new(ErrorKind::DuplicateSchema, format!("schema \"{name}\" already exists")))
    }
}

/// The name of a relation of the schema `public`, as the catalog has it.
///
/// # Errors
/// `InvalidSchema`; 42501 for the system's schemas.
pub fn relation_name(name: &ObjectName) -> Result<String> {
    let mut parts = Vec::new();
    for part in &name.0 {
        match part {
            ObjectNamePart::Identifier(ident) => parts.push(fold(ident)),
            other => return Err(Error::new(ErrorKind::Syntax, format!("improper relation name: {other}"))),
        }
    }
    match parts.as_slice() {
        [name] => Ok(name.clone()),
        [schema, name] | [_, schema, name] if schema == "public" => Ok(name.clone()),
        [schema, _] | [_, schema, _] if matches!(schema.as_str(), "pg_catalog" | "information_schema" | "atoll") => {
            Err(Error::new(ErrorKind::InsufficientPrivilege, format!("permission denied for schema {schema}")))
        }
        [schema, _] | [_, schema, _] => {
            Err(Error::new(ErrorKind::InvalidSchema, format!("schema \"{schema}\" does not exist")))
        }
        _ => Err(Error::new(ErrorKind::Syntax, format!("improper relation name (too many dotted names): {name}"))),
    }
}

/// A name as it stands in SQL: always quoted, so that it means itself.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(crate) fn undefined_table(name: &str) -> Error {
    Error::new(ErrorKind::UndefinedTable, format!("relation \"{name}\" does not exist"))
}

#[cfg(test)]
mod tests;
