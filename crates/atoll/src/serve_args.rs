//! The flags and `ATOLL_*` variables of `atoll serve`, laid over the configuration file.
//!
//! Invariant: every setting of [`ServeConfig`] has a flag and a variable; clap lets the flag win over the variable,
//! and both win over the file. A variable that starts with `ATOLL_` and means nothing is warned about, not refused:
//! orchestrators make such variables themselves (Kubernetes sets `ATOLL_PORT` for a service called atoll).

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::{ConfigError, LogFormat, ServeConfig};
use crate::units::{ByteSize, Span};

/// The settings of a server, as flags.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Read settings from this TOML file (`atoll config --example` prints one)
    #[arg(long, env = "ATOLL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep the database in this directory [default: atoll-data]
    #[arg(long, env = "ATOLL_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Listen for PostgreSQL clients here [default: 127.0.0.1:5433]
    #[arg(long, env = "ATOLL_SQL_ADDR", value_name = "HOST:PORT")]
    pub sql_addr: Option<SocketAddr>,
    /// Listen for HTTP clients here [default: 127.0.0.1:8080]
    #[arg(long, env = "ATOLL_HTTP_ADDR", value_name = "HOST:PORT")]
    pub http_addr: Option<SocketAddr>,
    /// Wait this long for a row lock [default: 30s]
    #[arg(long, env = "ATOLL_LOCK_TIMEOUT", value_name = "TIME")]
    lock_timeout: Option<Span>,
    /// Whether a commit is on disk before it is acknowledged [default: true]
    #[arg(long, env = "ATOLL_SYNCHRONOUS_COMMIT", value_name = "BOOL")]
    synchronous_commit: Option<bool>,
    /// Let running statements finish for this long when stopping [default: 10s]
    #[arg(long, env = "ATOLL_SHUTDOWN_GRACE", value_name = "TIME")]
    shutdown_grace: Option<Span>,
    /// A level, or a filter such as warn,atoll=info,fjall=debug [default: info]
    #[arg(long, env = "ATOLL_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,
    /// The form of log lines [default: text]
    #[arg(long, env = "ATOLL_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// The server's certificate chain, a PEM file
    #[arg(long, env = "ATOLL_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file
    #[arg(long, env = "ATOLL_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Connections served at once [default: 200]
    #[arg(long, env = "ATOLL_LIMITS_CONNECTIONS", value_name = "N")]
    limits_connections: Option<usize>,
    /// The largest message that a client may send [default: 64 MiB]
    #[arg(long, env = "ATOLL_LIMITS_MESSAGE_SIZE", value_name = "SIZE")]
    limits_message_size: Option<ByteSize>,
    /// Memory for sorting, joining and grouping [default: 512 MiB]
    #[arg(long, env = "ATOLL_LIMITS_MEMORY", value_name = "SIZE")]
    limits_memory: Option<ByteSize>,
    /// Spill to this directory [default: DATA/spill]
    #[arg(long, env = "ATOLL_LIMITS_SPILL_DIR", value_name = "DIR")]
    limits_spill_dir: Option<PathBuf>,
    /// Disk space that spilling may take [default: 16 GiB]
    #[arg(long, env = "ATOLL_LIMITS_SPILL_SIZE", value_name = "SIZE")]
    limits_spill_size: Option<ByteSize>,
    /// Cache of the embedded sites' blocks [default: 128 MiB]
    #[arg(long, env = "ATOLL_CACHE_BLOCKS", value_name = "SIZE")]
    cache_blocks: Option<ByteSize>,
    /// Decoded columns of whole fragments kept for queries [default: 256 MiB]
    #[arg(long, env = "ATOLL_CACHE_COLUMNS", value_name = "SIZE")]
    cache_columns: Option<ByteSize>,
    /// Rows waiting in memory to be written to tables [default: 64 MiB]
    #[arg(long, env = "ATOLL_CACHE_WRITE_BUFFER", value_name = "SIZE")]
    cache_write_buffer: Option<ByteSize>,
    /// Cached plans of statements [default: 1024]
    #[arg(long, env = "ATOLL_CACHE_PLANS", value_name = "N")]
    cache_plans: Option<usize>,
}

/// Variables of other subcommands, which are no mistake in the environment of a server.
const OTHER_VARIABLES: [&str; 2] = ["ATOLL_URL", "ATOLL_HISTORY"];

impl ServeArgs {
    /// The configuration that file, variables and flags give together, checked.
    pub fn resolve(self) -> Result<ServeConfig, ConfigError> {
        let mut c = match &self.config {
            Some(path) => ServeConfig::read(path)?,
            None => ServeConfig::default(),
        };
        fn set<T>(slot: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *slot = value;
            }
        }
        set(&mut c.data, self.data);
        set(&mut c.sql_addr, self.sql_addr);
        set(&mut c.http_addr, self.http_addr);
        set(&mut c.lock_timeout, self.lock_timeout);
        set(&mut c.synchronous_commit, self.synchronous_commit);
        set(&mut c.shutdown_grace, self.shutdown_grace);
        set(&mut c.log.level, self.log_level);
        set(&mut c.log.format, self.log_format);
        set(&mut c.tls.cert, self.tls_cert.map(Some));
        set(&mut c.tls.key, self.tls_key.map(Some));
        set(&mut c.limits.connections, self.limits_connections);
        set(&mut c.limits.message_size, self.limits_message_size);
        set(&mut c.limits.memory, self.limits_memory);
        set(&mut c.limits.spill_dir, self.limits_spill_dir.map(Some));
        set(&mut c.limits.spill_size, self.limits_spill_size);
        set(&mut c.cache.blocks, self.cache_blocks);
        set(&mut c.cache.columns, self.cache_columns);
        set(&mut c.cache.write_buffer, self.cache_write_buffer);
        set(&mut c.cache.plans, self.cache_plans);
        c.validate()?;
        Ok(c)
    }
}

/// The variables of this process that start with `ATOLL_` and set nothing: most likely misspelt.
pub fn unknown_variables() -> Vec<String> {
    unknown_among(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
}

fn unknown_among(names: impl Iterator<Item = String>) -> Vec<String> {
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    let known: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_env).collect();
    names
        .filter(|name| name.starts_with("ATOLL_"))
        .filter(|name| !OTHER_VARIABLES.contains(&name.as_str()))
        .filter(|name| !known.iter().any(|k| *k == name.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("atoll.toml");
        std::fs::write(&file, "lock_timeout = \"5s\"\nsql_addr = \"127.0.0.1:1\"\n[cache]\nplans = 7\n")
            .expect("the file is written");
        let args = ServeArgs {
            config: Some(file),
            sql_addr: Some("127.0.0.1:2".parse().expect("an address")),
            ..ServeArgs::default()
        };
        let config = args.resolve().expect("a valid configuration");
        assert_eq!(config.sql_addr.port(), 2);
        assert_eq!(config.lock_timeout, Span::seconds(5));
        assert_eq!(config.cache.plans, 7);
        assert_eq!(config.http_addr, ServeConfig::default().http_addr);
    }

    #[test]
    fn every_setting_has_a_flag_and_a_variable() {
        let command = ServeArgs::augment_args(clap::Command::new("serve"));
        let mut config = ServeConfig::default();
        config.tls.cert = Some("c".into());
        config.tls.key = Some("k".into());
        config.limits.spill_dir = Some("s".into());
        let table = toml::Table::try_from(&config).expect("a configuration is a table");
        for (key, value) in &table {
            let names: Vec<String> = match value.as_table() {
                Some(inner) => inner.keys().map(|k| format!("{key}_{k}")).collect(),
                None => vec![key.clone()],
            };
            for name in names {
                let arg = command
                    .get_arguments()
                    .find(|a| a.get_long() == Some(name.replace('_', "-").as_str()))
                    .unwrap_or_else(|| panic!("no flag for {name}"));
                let variable = format!("ATOLL_{}", name.to_uppercase());
                assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(variable.as_str()));
            }
        }
    }

    #[test]
    fn a_misspelt_variable_is_found() {
        let names = ["PATH", "ATOLL_DATA", "ATOLL_URL", "ATOLL_DATTA"].map(str::to_owned);
        assert_eq!(unknown_among(names.into_iter()), ["ATOLL_DATTA"]);
    }
}
