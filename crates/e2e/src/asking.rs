//! Statements whose outcome a test is sure of: anything else ends it.

use crate::server::Server;
use crate::wire::{Client, Error};

/// A connection.
///
/// # Panics
/// When there is none to be had.
pub fn connect(server: &dyn Server) -> Client {
    server.connect().unwrap_or_else(|e| panic!("connecting: {e}"))
}

/// Runs a statement.
///
/// # Panics
/// When it fails.
pub fn run(client: &mut Client, sql: &str) {
    client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// The rows of a query, values separated by commas, NULL as `-`.
///
/// # Panics
/// When it fails.
pub fn rows(client: &mut Client, sql: &str) -> Vec<String> {
    let reply = client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let shown = |row: &Vec<Option<String>>| {
        row.iter().map(|value| value.as_deref().unwrap_or("-").to_owned()).collect::<Vec<_>>().join(",")
    };
    reply.rows.iter().map(shown).collect()
}

/// The SQLSTATE and message with which a statement is refused.
///
/// # Panics
/// When it is not.
pub fn refused(client: &mut Client, sql: &str) -> (String, String) {
    match client.query(sql) {
        Err(Error::Sql { sqlstate, message }) => (sqlstate, message),
        other => panic!("{sql}: {other:?}"),
    }
}
