//! Structured logs: one `tracing` subscriber for the process, text or JSON, on standard error.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogConfig, LogFormat};
use crate::term;

/// Installs the subscriber; refuses a filter that does not parse.
pub fn init(config: &LogConfig) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|e| ConfigError::Invalid(format!("log level `{}` is not valid: {e}", config.level)))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(term::colours(&io::stderr()));
    let installed = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(|e| ConfigError::Invalid(format!("logging cannot be set up: {e}")))
}
