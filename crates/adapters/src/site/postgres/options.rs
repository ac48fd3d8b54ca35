//! What `CREATE SITE … ENGINE postgres OPTIONS (…)` says, checked.
//!
//! Invariant: a password is read out of the URL and never shown: not by `Debug`, not in an error. Errors name the option at fault and
//! say nothing of the URL's text.

use super::tls::Tls;
use crate::site::limits::{Limits, invalid};
use atoll_model::{Result, Site};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// The options of a site, in the order in which an error lists them.
fn names() -> Vec<&'static str> {
    ["url", "schema"].into_iter().chain(Limits::NAMES).collect()
}

/// Bytes of an identifier that PostgreSQL keeps.
const NAME_LENGTH: usize = 63;

/// How a PostgreSQL site is reached.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Server, user, password, database: as the URL has them, with time-outs of the network.
    pub(super) config: Config,
    /// Encryption, by the URL's `sslmode` and `sslrootcert`.
    pub(super) tls: Tls,
    /// Where tables are made that are not adopted.
    pub(super) schema: String,
    /// Limits of the connections.
    pub(super) limits: Limits,
}

impl PostgresOptions {
    /// Reads a site's options.
    ///
    /// # Errors
    /// `InvalidParameterValue`, naming the option.
    pub fn of(site: &Site) -> Result<Self> {
        Self::parse(&site.options)
    }

    fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        if let Some(unknown) = options.keys().find(|name| !names().contains(&name.as_str())) {
            return Err(invalid(format!("unrecognized site option \"{unknown}\""))
                .hint(format!("Options of the engine postgres: {}.", names().join(", "))));
        }
        let url = options.get("url").ok_or_else(|| {
            invalid("a site of the engine postgres needs the option \"url\"".into())
                .hint("OPTIONS (url 'postgres://user:password@host/database')")
        })?;
        let (tls, rest) = Tls::take(url).map_err(|why| invalid(format!("site option \"url\": {why}")))?;
        let config = config(&rest)?;
        let limits = Limits::of(options, config.get_connect_timeout().copied())?;
        Ok(PostgresOptions {
            tls,
            schema: schema(options.get("schema"))?,
            limits,
            config: defaults(config, limits.connect_timeout),
        })
    }

    /// Host, port and database, for messages: nothing in it is secret.
    pub fn address(&self) -> String {
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) if host.contains(':') => format!("[{host}]:{port}"),
            Some(Host::Tcp(host)) => format!("{host}:{port}"),
            Some(Host::Unix(path)) => format!("{}:{port}", path.display()),
            None => format!("localhost:{port}"),
        };
        format!("{host}/{}", self.config.get_dbname().or(self.config.get_user()).unwrap_or_default())
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("address", &self.address())
            .field("user", &self.config.get_user())
            .field("schema", &self.schema)
            .field("pool_size", &self.limits.pool_size)
            .finish_non_exhaustive()
    }
}

fn config(url: &str) -> Result<Config> {
    let config: Config = url.parse().map_err(|e: tokio_postgres::Error| {
        // The driver's parser names the option that it does not know, and repeats nothing else of the URL but malformed numbers.
        let why = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
        let why = if why.contains('`') || why.starts_with("unknown") { why } else { "it is malformed".to_owned() };
        invalid(format!("site option \"url\": {why}"))
            .hint("postgres://user:password@host:port/database?sslmode=require")
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(invalid("site option \"url\" names no host".into()));
    }
    if config.get_user().is_none() {
        return Err(invalid("site option \"url\" names no user".into()));
    }
    Ok(config)
}

/// A peer that is gone without a word is noticed within a minute, unless the URL says otherwise.
fn defaults(mut config: Config, connect_timeout: Duration) -> Config {
    config.connect_timeout(connect_timeout);
    if config.get_application_name().is_none() {
        config.application_name("atoll");
    }
    // Cursors are read to their end, so the plan for all rows is the one wanted.
    let given = config.get_options().unwrap_or_default().to_owned();
    config.options(format!("-c cursor_tuple_fraction=1 -c standard_conforming_strings=on -c TimeZone=UTC {given}"));
    if config.get_keepalives_interval().is_none() {
        config.keepalives_idle(Duration::from_secs(15));
        config.keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(Duration::from_secs(30));
    }
    config
}

fn schema(text: Option<&String>) -> Result<String> {
    let name = text.map_or("atoll", String::as_str);
    if name.is_empty() || name.len() > NAME_LENGTH || name.contains('\0') || name.starts_with("pg_") {
        return Err(invalid(format!("site option \"schema\": {name:?} is no name for a schema")));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_model::ErrorKind;

    fn parse(options: &[(&str, &str)]) -> Result<PostgresOptions> {
        PostgresOptions::parse(&options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn defaults_and_values() -> Result<()> {
        let options = parse(&[("url", "postgres://app:s3cret@10.0.0.7/ddbs2")])?;
        assert_eq!((options.limits.pool_size, options.schema.as_str()), (10, "atoll"));
        assert_eq!(options.address(), "10.0.0.7:5432/ddbs2");
        let options = parse(&[
            ("url", "postgres://app@[::1]:77/d?connect_timeout=2"),
            ("pool_size", "3"),
            ("pool_timeout", "250ms"),
            ("schema", "shard"),
        ])?;
        assert_eq!(options.limits.pool_timeout, Duration::from_millis(250));
        assert_eq!(options.limits.connect_timeout, Duration::from_secs(2));
        assert_eq!(options.address(), "[::1]:77/d");
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let url = ("url", "postgres://app:s3cret@h/d");
        for (options, named) in [
            (&[][..], "\"url\""),
            (&[url, ("colour", "red")], "\"colour\""),
            (&[url, ("pool_size", "0")], "\"pool_size\""),
            (&[url, ("pool_timeout", "soon")], "\"pool_timeout\""),
            (&[url, ("schema", "pg_catalog")], "\"schema\""),
            (&[("url", "postgres://app:s3cret@h:port/d")], "\"url\""),
            (&[("url", "postgres://app:s3cret@h/d?nonsense=1")], "nonsense"),
            (&[("url", "mysql://app:s3cret@h/d")], "\"url\""),
            (&[("url", "postgres://h/d")], "user"),
        ] {
            let error = parse(options).expect_err(named);
            assert_eq!(error.kind(), ErrorKind::InvalidParameterValue);
            assert!(error.message().contains(named), "{error}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn passwords_are_not_shown() -> Result<()> {
        let options = parse(&[("url", "postgres://app:s3cret@h/d")])?;
        assert!(!format!("{options:?}").contains("s3cret"));
        Ok(())
    }
}
