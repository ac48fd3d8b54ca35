//! What a PostgreSQL server says, as Atoll's errors.
//!
//! Invariant: an error of the server keeps its SQLSTATE where Atoll has a kind for it, and its message; a connection that breaks is
//! `SiteUnavailable`, and what that means for a commit under way is for the caller to say, who knows what it had sent.

use crate::site::name::SiteName;
use atoll_model::{Error, ErrorKind, Table};
use tokio_postgres::error::{DbError, Severity, SqlState};

impl SiteName {
    /// Any error of the driver.
    pub(super) fn error(&self, error: &tokio_postgres::Error) -> Error {
        match error.as_db_error() {
            Some(server) => self.server(server),
            None if is_lost(error) => self.unavailable(innermost(error)),
            None if let Some(own) = own(error) => own,
            None => Error::internal(format!("site \"{}\": {}", self.0, innermost(error))),
        }
    }

    /// An error of a connection that was being made.
    pub(super) fn refused(&self, error: &tokio_postgres::Error) -> Error {
        match error.as_db_error() {
            Some(server) if *server.code() == SqlState::TOO_MANY_CONNECTIONS => self.server(server),
            Some(server) => self
                .unavailable(server.message())
                .detail(format!("The site answered with SQLSTATE {}.", server.code().code())),
            None => self.unavailable(innermost(error)),
        }
    }

    fn server(&self, server: &DbError) -> Error {
        let state = server.code().code();
        if is_goodbye(server) {
            return self.unavailable(server.message());
        }
        let kind = ErrorKind::ALL.iter().copied().find(|kind| kind.sqlstate() == state);
        let mut error = match kind.or_else(|| similar(state)) {
            Some(kind) => Error::new(kind, server.message().to_owned()),
            None => Error::internal(format!("site \"{}\" refused with SQLSTATE {state}: {}", self.0, server.message())),
        };
        error = match server.detail() {
            Some(detail) => error.detail(detail),
            None => error.detail(format!("At site \"{}\".", self.0)),
        };
        if let Some(hint) = server.hint() {
            error = error.hint(hint);
        }
        if let Some(constraint) = server.constraint() {
            error = error.constraint(constraint);
        }
        error
    }
}

/// Kinds for states that Atoll has no kind of its own for.
fn similar(state: &str) -> Option<ErrorKind> {
    Some(match &state[..2] {
        "08" => ErrorKind::SiteUnavailable,
        "22" => ErrorKind::InvalidParameterValue,
        "23" => ErrorKind::CheckViolation,
        "40" => ErrorKind::SerializationFailure,
        "53" => ErrorKind::OutOfMemory,
        "54" => ErrorKind::ProgramLimit,
        "55" => ErrorKind::NotInPrerequisiteState,
        "58" => ErrorKind::Io,
        _ => return None,
    })
}

/// The server ends the connection with this, or does not take it.
fn is_goodbye(server: &DbError) -> bool {
    matches!(server.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
        || [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW].contains(server.code())
}

/// An error of Atoll's own that has gone through the driver: a value that could not be encoded.
fn own(error: &tokio_postgres::Error) -> Option<Error> {
    std::error::Error::source(error)?.downcast_ref::<Error>().cloned()
}

/// Whether the connection is gone.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(server) => is_goodbye(server),
        None => {
            error.is_closed()
                || std::error::Error::source(error).is_some_and(|e| e.is::<std::io::Error>())
                || error.to_string().contains("communicating with the server")
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Tells a violation of the site's own constraint as one of the table's.
pub(super) fn of_table(error: Error, table: &Table, names: impl Fn(&str) -> Option<String>) -> Error {
    if error.kind() != ErrorKind::UniqueViolation {
        return error;
    }
    let site_name = error.constraint_name().unwrap_or_default();
    let name = names(site_name).unwrap_or_else(|| site_name.to_owned());
    let message = if error.message().starts_with("could not create unique index") {
        format!("could not create unique index \"{name}\"")
    } else {
        format!("duplicate key value violates unique constraint \"{name}\"")
    };
    let renamed = Error::new(error.kind(), message).constraint(name).table(&table.name);
    match error.detail_text() {
        Some(detail) => renamed.detail(detail),
        None => renamed,
    }
}
