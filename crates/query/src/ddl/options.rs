//! `WITH (…)` and `TABLESPACE` of tables and fragments.
//!
//! Invariant: an option is obeyed or refused: unknown ones are 22023, those of protocols to come 0A000. PostgreSQL's storage
//! parameters, which cannot change an answer, are taken and have no effect.

use atoll_model::{Error, ErrorKind, OnReplicaDown, ReadBalance, Replication, Result};

/// What a table's options say.
#[derive(Clone, Debug, Default)]
pub struct TableOptions {
    /// `fragments`
    pub fragments: Option<u32>,
    /// `replicas`
    pub replicas: Option<u32>,
    /// `sites`, or TABLESPACE.
    pub sites: Vec<String>,
    /// `replication`
    pub replication: Option<Replication>,
    /// `read_balance`
    pub read_balance: Option<ReadBalance>,
    /// `on_replica_down`
    pub on_replica_down: Option<OnReplicaDown>,
    /// `colocate_with`
    pub colocate_with: Option<String>,
    /// `colocate_on`
    pub colocate_on: Option<String>,
}

/// Most fragments of a table.
const MAX_FRAGMENTS: u32 = 1024;

/// Reads the options.
///
/// # Errors
/// `InvalidParameterValue`, `NotSupported`.
pub fn read(options: &[(String, String)], tablespace: Option<&String>) -> Result<TableOptions> {
    let mut made = TableOptions::default();
    let mut seen = std::collections::BTreeSet::new();
    for (name, value) in options {
        if !seen.insert(name) {
            return Err(invalid(format!("option \"{name}\" is given more than once")));
        }
        match name.as_str() {
            "fragments" => made.fragments = Some(number(name, value, MAX_FRAGMENTS)?),
            "replicas" => made.replicas = Some(number(name, value, 64)?),
            "sites" => made.sites = sites(value)?,
            "replication" => {
                made.replication = Some(match value.to_lowercase().as_str() {
                    "all" => Replication::All,
                    "quorum" | "leaderless" => {
                        return Err(Error::unsupported(format!("replication = '{value}' is not implemented yet"))
                            .hint("replication = 'all' (read one copy, write all) is."));
                    }
                    _ => {
                        return Err(invalid(format!("invalid value for option \"replication\": \"{value}\""))
                            .detail("Valid values: all, quorum, leaderless."));
                    }
                });
            }
            "read_balance" => {
                made.read_balance = Some(match value.to_lowercase().as_str() {
                    "round_robin" => ReadBalance::RoundRobin,
                    "least_loaded" => ReadBalance::LeastLoaded,
                    "nearest" => return Err(Error::unsupported("read_balance = 'nearest' is not implemented yet")),
                    _ => {
                        return Err(invalid(format!("invalid value for option \"read_balance\": \"{value}\""))
                            .detail("Valid values: round_robin, least_loaded, nearest."));
                    }
                });
            }
            "on_replica_down" => made.on_replica_down = Some(on_replica_down(value)?),
            "colocate_with" => made.colocate_with = Some(plain(value)),
            "colocate_on" => made.colocate_on = Some(plain(value)),
            "quorum" | "failures" | "election" | "write_quorum" | "read_quorum" | "sloppy_quorum" | "conflict"
            | "topology" => {
                return Err(Error::unsupported(format!(
                    "option \"{name}\" belongs to a replication protocol that is not implemented yet"
                ))
                .hint("replication = 'all' (read one copy, write all) is."));
            }
            "fillfactor" | "parallel_workers" | "user_catalog_table" => {}
            name if name.starts_with("autovacuum_") || name.starts_with("toast.") || name.starts_with("toast_") => {}
            _ => {
                return Err(invalid(format!("unrecognized parameter \"{name}\"")).hint(
                    "Options of tables: fragments, replicas, sites, replication, read_balance, on_replica_down, colocate_with, colocate_on.",
                ));
            }
        }
    }
    if let Some(site) = tablespace.filter(|s| !matches!(s.as_str(), "pg_default")) {
        if !made.sites.is_empty() {
            return Err(invalid("TABLESPACE and the option \"sites\" exclude each other"));
        }
        made.sites = vec![site.clone()];
    }
    if made.colocate_with.is_some() != made.colocate_on.is_some() {
        return Err(invalid("colocate_with and colocate_on are given together or not at all"));
    }
    Ok(made)
}

/// The value of `on_replica_down`.
pub(super) fn on_replica_down(value: &str) -> Result<OnReplicaDown> {
    match value.to_lowercase().as_str() {
        "refuse" => Ok(OnReplicaDown::Refuse),
        "catch_up" => Ok(OnReplicaDown::CatchUp),
        _ => Err(invalid(format!("invalid value for option \"on_replica_down\": \"{value}\""))
            .detail("Valid values: refuse, catch_up.")),
    }
}

/// A comma-separated list of names.
fn sites(value: &str) -> Result<Vec<String>> {
    let names: Vec<String> = value.split(',').map(plain).collect();
    for (at, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(invalid(format!("invalid value for option \"sites\": \"{value}\""))
                .detail("It is a list of names: 'a, b'."));
        }
        if names[..at].contains(name) {
            return Err(invalid(format!("site \"{name}\" is named more than once")));
        }
    }
    Ok(names)
}

fn plain(name: &str) -> String {
    let name = name.trim();
    match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_ascii_lowercase(),
    }
}

fn number(name: &str, value: &str, most: u32) -> Result<u32> {
    match value.trim().parse() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => Err(invalid(format!("invalid value for option \"{name}\": \"{value}\""))
            .detail(format!("It is a whole number from 1 to {most}."))),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidParameterValue, message.into())
}
