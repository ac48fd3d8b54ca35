//! The server's configuration: defaults, then a TOML file, then `ATOLL_*` variables, then flags.
//!
//! Invariants: an unknown key is refused with its line, never ignored; `example.toml` beside this file names every
//! setting and parses to the defaults (both are tests below).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Span};

/// The commented example that `atoll config --example` prints.
pub const EXAMPLE: &str = include_str!("example.toml");

/// Everything that `atoll serve` can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// The directory that holds the catalog and the embedded sites.
    pub data: PathBuf,
    /// Where PostgreSQL clients connect.
    pub sql_addr: SocketAddr,
    /// Where HTTP clients connect.
    pub http_addr: SocketAddr,
    /// How long a statement waits for a row lock before it fails with 55P03.
    pub lock_timeout: Span,
    /// Whether a commit is on disk before it is acknowledged.
    pub synchronous_commit: bool,
    /// How long running statements may finish after SIGTERM.
    pub shutdown_grace: Span,
    /// What is logged, and how.
    pub log: LogConfig,
    /// The server's certificate; without one, connections are not encrypted.
    pub tls: TlsConfig,
    /// What one client may ask of the server.
    pub limits: LimitsConfig,
    /// Sizes of caches.
    pub cache: CacheConfig,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level of Atoll's own messages, or a filter of targets such as `warn,atoll=info,fjall=debug`.
    pub level: String,
    /// Lines for people or objects for machines.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// The server's certificate and its private key, both PEM files; given together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The certificate chain.
    pub cert: Option<PathBuf>,
    /// The private key.
    pub key: Option<PathBuf>,
}

/// What one client, or all of them together, may ask of the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Connections served at once; one more is refused with 53300.
    pub connections: usize,
    /// The largest message that a client may send.
    pub message_size: ByteSize,
    /// Memory for sorting, joining and grouping, over all statements; beyond it they spill.
    pub memory: ByteSize,
    /// Where they spill to; `DATA/spill` when unset.
    pub spill_dir: Option<PathBuf>,
    /// Disk space that spilling may take.
    pub spill_size: ByteSize,
}

/// Sizes of caches, each bounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Blocks of the embedded sites' tables, over all sites of this process.
    pub blocks: ByteSize,
    /// Columns of whole fragments, decoded, for queries that read all of them.
    pub columns: ByteSize,
    /// Rows waiting in memory to be written to tables, over all sites of this process.
    pub write_buffer: ByteSize,
    /// Plans of statements, over all sessions.
    pub plans: usize,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            data: PathBuf::from("atoll-data"),
            sql_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 5433)),
            http_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            lock_timeout: Span::seconds(30),
            synchronous_commit: true,
            shutdown_grace: Span::seconds(10),
            log: LogConfig::default(),
            tls: TlsConfig::default(),
            limits: LimitsConfig::default(),
            cache: CacheConfig::default(),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 200,
            message_size: ByteSize::mib(64),
            memory: ByteSize::mib(512),
            spill_dir: None,
            spill_size: ByteSize::mib(16 << 10),
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { blocks: ByteSize::mib(128), columns: ByteSize::mib(256), write_buffer: ByteSize::mib(64), plans: 1024 }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be; the message has the line.
    #[error("configuration {path} is not valid: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value that the server cannot use.
    #[error("{0}")]
    Invalid(String),
}

impl ServeConfig {
    /// Reads `path`, with defaults for what it leaves out.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    /// Refuses combinations that no single value shows to be wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |message: &str| Err(ConfigError::Invalid(message.to_owned()));
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return invalid("tls.cert and tls.key must be given together");
        }
        if self.limits.connections == 0 {
            return invalid("limits.connections must be at least 1");
        }
        if self.limits.message_size.0 < 64 << 10 || self.limits.message_size.0 > 1 << 30 {
            return invalid("limits.message_size must be between 64 KiB and 1 GiB");
        }
        if self.limits.memory.0 < 16 << 20 {
            return invalid("limits.memory must be at least 16 MiB");
        }
        if self.sql_addr == self.http_addr && self.sql_addr.port() != 0 {
            return invalid("sql_addr and http_addr must differ");
        }
        Ok(())
    }

    /// The directory for spilled data.
    pub fn spill_dir(&self) -> PathBuf {
        self.limits.spill_dir.clone().unwrap_or_else(|| self.data.join("spill"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_parses_to_the_defaults() {
        let example: ServeConfig = toml::from_str(EXAMPLE).expect("the example is valid");
        assert_eq!(example, ServeConfig::default());
        example.validate().expect("the defaults are valid");
    }

    #[test]
    fn the_example_names_every_setting() {
        // Optional settings have no default to serialise: give them values here.
        let tls = TlsConfig { cert: Some("c".into()), key: Some("k".into()) };
        let mut all = ServeConfig { tls, ..ServeConfig::default() };
        all.limits.spill_dir = Some("s".into());
        let all = toml::Table::try_from(&all).expect("a configuration is a table");
        let mut section = String::new();
        let mut named: Vec<String> = Vec::new();
        for line in EXAMPLE.lines().map(|l| l.trim_start_matches("# ")) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = format!("{name}.");
            } else if let Some((key, _)) = line.split_once(" = ") {
                named.push(format!("{section}{key}"));
            }
        }
        for (key, value) in &all {
            let keys = match value.as_table() {
                Some(table) => table.keys().map(|k| format!("{key}.{k}")).collect(),
                None => vec![key.clone()],
            };
            for key in keys {
                assert!(named.contains(&key), "example.toml does not mention {key}");
            }
        }
    }

    #[test]
    fn the_documentation_shows_the_example() {
        let page = include_str!("../../../docs/configuration.md");
        assert!(page.contains(EXAMPLE), "docs/configuration.md shows another example.toml");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = toml::from_str::<ServeConfig>("data = \"d\"\n\n[limits]\nconections = 3\n")
            .expect_err("a misspelt key")
            .to_string();
        assert!(error.contains("line 4") && error.contains("conections"), "{error}");
    }

    #[test]
    fn half_a_certificate_is_refused() {
        let config: ServeConfig = toml::from_str("[tls]\ncert = \"c.pem\"\n").expect("valid TOML");
        assert!(matches!(config.validate(), Err(ConfigError::Invalid(_))));
    }
}
