//! The options that sites of all servers have in common: how many connections, and how long to wait for what.

use atoll_model::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// Limits of a site's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Connections at most.
    pub(super) pool_size: usize,
    /// How long to wait for a connection while all are taken.
    pub(super) pool_timeout: Duration,
    /// How long a new connection may take.
    pub(super) connect_timeout: Duration,
    /// A connection that was idle for so long is tried before it is used.
    pub(super) idle_check: Duration,
    /// After a statement has not been answered for so long, the site is asked whether it is there.
    pub(super) busy_check: Duration,
    /// A connection older than this is not used again.
    pub(super) max_lifetime: Duration,
}

impl Limits {
    /// The options that are read here.
    pub(super) const NAMES: [&str; 6] =
        ["pool_size", "pool_timeout", "connect_timeout", "idle_check", "busy_check", "max_lifetime"];

    /// Reads them; `connect_timeout`: what the URL says of it.
    ///
    /// # Errors
    /// `InvalidParameterValue`, naming the option.
    pub(super) fn of(options: &BTreeMap<String, String>, connect_timeout: Option<Duration>) -> Result<Self> {
        let time = |name: &str, default: Duration| options.get(name).map_or(Ok(default), |text| duration(name, text));
        Ok(Limits {
            pool_size: pool_size(options.get("pool_size"))?,
            pool_timeout: time("pool_timeout", Duration::from_secs(30))?,
            connect_timeout: time("connect_timeout", connect_timeout.unwrap_or(Duration::from_secs(5)))?,
            idle_check: time("idle_check", Duration::from_secs(30))?,
            busy_check: time("busy_check", Duration::from_secs(10))?,
            max_lifetime: time("max_lifetime", Duration::from_secs(30 * 60))?,
        })
    }
}

/// An option is wrong.
pub(super) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidParameterValue, message)
}

fn pool_size(text: Option<&String>) -> Result<usize> {
    let Some(text) = text else { return Ok(10) };
    match text.parse() {
        Ok(size @ 1..=1000) => Ok(size),
        _ => Err(invalid("site option \"pool_size\" must be between 1 and 1000".into())),
    }
}

/// A number with `ms`, `s` or `min`; without, seconds.
fn duration(name: &str, text: &str) -> Result<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[split..].trim() {
        "ms" => 1,
        "" | "s" => 1000,
        "min" => 60_000,
        _ => 0,
    };
    match text[..split].parse::<u32>() {
        Ok(n) if n > 0 && unit > 0 => Ok(Duration::from_millis(u64::from(n) * unit)),
        _ => Err(invalid(format!("site option \"{name}\" must be a time such as 500ms, 5s or 10min"))),
    }
}
