//! Structured logs: one `tracing` subscriber for the process, text or JSON, on standard error.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{ConfigError, LogConfig, LogFormat};
use crate::term;

/// Installs the subscriber; refuses a filter that does not parse.
pub fn init(config: &LogConfig) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(directives(&config.level))
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

/// A bare level is Atoll's own; what it is built on is heard from warnings on. Anything else is a filter and means what it says.
fn directives(level: &str) -> String {
    match level.trim().parse::<LevelFilter>() {
        Ok(own) if own > LevelFilter::WARN => format!("warn,atoll={own}"),
        _ => level.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::directives;

    #[test]
    fn a_bare_level_is_atolls_own() {
        assert_eq!(directives("info"), "warn,atoll=info");
        assert_eq!(directives("TRACE"), "warn,atoll=trace");
        assert_eq!(directives("error"), "error");
        assert_eq!(directives("info,fjall=debug"), "info,fjall=debug");
    }
}
