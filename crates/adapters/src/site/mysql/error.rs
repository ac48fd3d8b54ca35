//! What a MySQL or MariaDB server says, as Atoll's errors.
//!
//! Invariant: an error of the server becomes the kind that Atoll has for it, by its number, and keeps its message; a connection that breaks
//! is `SiteUnavailable`, and what that means for a commit under way is for the caller to say, who knows what it had sent.

use crate::site::name::SiteName;
use atoll_model::{Error, ErrorKind};
use mysql_async::{DriverError, ServerError};

/// Numbers of errors that are looked at elsewhere.
pub(super) mod number {
    pub(in crate::site::mysql) const ACCESS_DENIED: u16 = 1045;
    pub(in crate::site::mysql) const NO_SUCH_DATABASE: u16 = 1049;
    pub(in crate::site::mysql) const DUPLICATE_KEY: u16 = 1062;
    pub(in crate::site::mysql) const INTERRUPTED: u16 = 1317;
    pub(in crate::site::mysql) const XA_UNKNOWN: u16 = 1397;
}

impl SiteName {
    /// Any error of the driver.
    pub(super) fn mysql(&self, error: mysql_async::Error) -> Error {
        match error {
            mysql_async::Error::Server(server) => self.mysql_server(&server),
            other => self.unavailable(innermost(&other)),
        }
    }

    /// An error of a connection that was being made.
    pub(super) fn mysql_refused(&self, error: mysql_async::Error) -> Error {
        match error {
            mysql_async::Error::Server(server) if kind(server.code) == Some(ErrorKind::TooManyConnections) => {
                self.mysql_server(&server)
            }
            mysql_async::Error::Server(server) => self
                .unavailable(&server.message)
                .detail(format!("The site answered with error {} (SQLSTATE {}).", server.code, server.state)),
            mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => {
                self.unavailable("the server does not support TLS")
            }
            other => self.unavailable(innermost(&other)),
        }
    }

    fn mysql_server(&self, server: &ServerError) -> Error {
        let kind = match kind(server.code) {
            Some(ErrorKind::SiteUnavailable) => return self.unavailable(&server.message),
            Some(kind) => kind,
            None => {
                return Error::internal(format!(
                    "site \"{}\" refused with error {} (SQLSTATE {}): {}",
                    self.0, server.code, server.state, server.message
                ));
            }
        };
        let error = Error::new(kind, server.message.clone()).detail(format!("At site \"{}\".", self.0));
        match (kind, key_of(&server.message)) {
            (ErrorKind::UniqueViolation, Some(key)) => error.constraint(key),
            _ => error,
        }
    }
}

/// The index that an error about a duplicate names: `… for key 'table.index'`, or without the table.
fn key_of(message: &str) -> Option<&str> {
    let key = message.strip_suffix('\'')?.rsplit('\'').next()?;
    Some(key.rsplit('.').next().unwrap_or(key))
}

/// Atoll's kind for the number of an error.
fn kind(code: u16) -> Option<ErrorKind> {
    Some(match code {
        number::DUPLICATE_KEY | 1586 => ErrorKind::UniqueViolation,
        1205 | 3572 => ErrorKind::LockTimeout,
        1213 | 1614 => ErrorKind::Deadlock,
        // A row has changed since the snapshot; a transaction that was rolled back; a table that has changed.
        1020 | 1402 | 1412 | 1613 | 1615 => ErrorKind::SerializationFailure,
        1399 => ErrorKind::InFailedTransaction,
        number::XA_UNKNOWN => ErrorKind::UndefinedObject,
        1440 => ErrorKind::DuplicateObject,
        1048 | 1364 => ErrorKind::NotNullViolation,
        1216 | 1217 | 1451 | 1452 => ErrorKind::ForeignKeyViolation,
        3819 | 4025 => ErrorKind::CheckViolation,
        1406 => ErrorKind::StringTooLong,
        1264 | 1690 => ErrorKind::NumericOutOfRange,
        1292 | 1441 => ErrorKind::DatetimeOverflow,
        1366 => ErrorKind::InvalidText,
        1300 => ErrorKind::InvalidEncoding,
        1146 => ErrorKind::UndefinedTable,
        1054 => ErrorKind::UndefinedColumn,
        1050 => ErrorKind::DuplicateTable,
        number::NO_SUCH_DATABASE => ErrorKind::InvalidCatalog,
        1044 | number::ACCESS_DENIED | 1142 | 1143 | 1227 => ErrorKind::InsufficientPrivilege,
        1290 | 1792 | 1836 => ErrorKind::ReadOnlyTransaction,
        1040 | 1203 | 1226 => ErrorKind::TooManyConnections,
        1021 | 1114 => ErrorKind::DiskFull,
        1037 | 1038 | 1041 | 1206 => ErrorKind::OutOfMemory,
        1071 | 1118 | 1153 | 1390 => ErrorKind::ProgramLimit,
        number::INTERRUPTED | 1969 | 3024 => ErrorKind::QueryCanceled,
        // The server ends the connection, or itself.
        1053 | 1080 | 1152 | 1158..=1161 | 1184 | 1927 | 4031 => ErrorKind::SiteUnavailable,
        _ => return None,
    })
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: u16, message: &str) -> Error {
        let server = ServerError { code, message: message.into(), state: "HY000".into() };
        SiteName("s".into()).mysql(mysql_async::Error::Server(server))
    }

    #[test]
    fn numbers_become_kinds() {
        assert_eq!(told(1213, "Deadlock found").kind(), ErrorKind::Deadlock);
        assert_eq!(told(1927, "Connection was killed").kind(), ErrorKind::SiteUnavailable);
        assert_eq!(told(9999, "?").kind(), ErrorKind::Internal);
    }

    #[test]
    fn duplicates_name_their_index() {
        for message in ["Duplicate entry 'it's-f7.i2' for key 'i2'", "Duplicate entry '1' for key 'f7.i2'"] {
            assert_eq!(told(1062, message).constraint_name(), Some("i2"), "{message}");
        }
    }
}
