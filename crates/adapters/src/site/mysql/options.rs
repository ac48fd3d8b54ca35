//! What `CREATE SITE … ENGINE mysql OPTIONS (…)` says, checked.
//!
//! Invariant: a password is read out of the URL and never shown: not by `Debug`, not in an error. Errors name the option at fault and
//! say nothing of the URL's text.

use crate::site::limits::{Limits, invalid};
use crate::tls;
use atoll_model::{Result, Site};
use mysql_async::{Opts, OptsBuilder, SslOpts};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of an identifier that the server takes.
const NAME_LENGTH: usize = 64;

/// Prepared statements kept per connection.
const STATEMENTS: usize = 256;

/// A peer that is gone without a word is noticed after a while.
const KEEPALIVE: Duration = Duration::from_secs(15);

fn names() -> Vec<&'static str> {
    ["url", "schema"].into_iter().chain(Limits::NAMES).collect()
}

/// Whether connections are encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encryption {
    Never,
    IfPossible,
    Always,
}

/// How a MySQL or MariaDB site is reached.
#[derive(Clone)]
pub struct MysqlOptions {
    opts: Opts,
    ssl: SslOpts,
    pub(super) encryption: Encryption,
    /// The database where tables are made that are not adopted.
    pub(super) schema: String,
    /// Limits of the connections.
    pub(super) limits: Limits,
}

impl MysqlOptions {
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
                .hint(format!("Options of the engine mysql: {}.", names().join(", "))));
        }
        let url = options.get("url").ok_or_else(|| {
            invalid("a site of the engine mysql needs the option \"url\"".into())
                .hint("OPTIONS (url 'mysql://user:password@host/database')")
        })?;
        let wrong = |why: String| {
            invalid(format!("site option \"url\": {why}"))
                .hint("mysql://user:password@host:port/database?sslmode=require")
        };
        let (tls, rest) = tls::Options::take(url).map_err(wrong)?;
        let Url { url, encryption, connect_timeout } = Url::take(&rest).map_err(wrong)?;
        // The driver's errors name a parameter, and repeat nothing else of the URL.
        let opts = Opts::from_url(&url).map_err(|e| wrong(e.to_string()))?;
        if opts.user().is_none_or(str::is_empty) {
            return Err(wrong("it names no user".into()));
        }
        let schema = match options.get("schema").map(String::as_str).or(opts.db_name()) {
            Some(name) => schema(name)?,
            None => return Err(wrong("it names no database".into())),
        };
        let limits = Limits::of(options, connect_timeout)?;
        Ok(MysqlOptions { opts: defaults(opts), ssl: ssl(&tls)?, encryption, schema, limits })
    }

    /// What the driver is told for a connection.
    pub(super) fn driver(&self, encrypted: bool) -> Opts {
        OptsBuilder::from_opts(self.opts.clone()).ssl_opts(encrypted.then(|| self.ssl.clone())).into()
    }

    /// Host, port and database, for messages: nothing in it is secret.
    pub fn address(&self) -> String {
        let database = self.opts.db_name().unwrap_or(&self.schema);
        format!("{}:{}/{database}", self.opts.ip_or_hostname(), self.opts.tcp_port())
    }
}

impl fmt::Debug for MysqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlOptions")
            .field("address", &self.address())
            .field("user", &self.opts.user())
            .field("schema", &self.schema)
            .field("pool_size", &self.limits.pool_size)
            .finish_non_exhaustive()
    }
}

/// A URL without the parameters that the driver does not know.
struct Url {
    url: String,
    encryption: Encryption,
    connect_timeout: Option<Duration>,
}

impl Url {
    fn take(url: &str) -> Result<Self, String> {
        let (head, query) = url.split_once('?').unwrap_or((url, ""));
        let head = match head.split_once("://") {
            Some(("mysql" | "mariadb", rest)) => format!("mysql://{rest}"),
            _ => return Err("it does not begin with mysql://".into()),
        };
        let mut taken = Url { url: head, encryption: Encryption::IfPossible, connect_timeout: None };
        let mut separator = '?';
        for parameter in query.split('&').filter(|p| !p.is_empty()) {
            match parameter.split_once('=') {
                Some(("sslmode", "disable")) => taken.encryption = Encryption::Never,
                Some(("sslmode", "prefer")) => taken.encryption = Encryption::IfPossible,
                Some(("sslmode", "require")) => taken.encryption = Encryption::Always,
                Some(("sslmode", _)) => return Err("sslmode is disable, prefer, require or verify-full".into()),
                Some(("connect_timeout", seconds)) => {
                    let seconds = seconds.parse().map_err(|_| "connect_timeout is a number of seconds".to_owned())?;
                    taken.connect_timeout = Some(Duration::from_secs(seconds));
                }
                _ => {
                    taken.url.push(separator);
                    taken.url.push_str(parameter);
                    separator = '&';
                }
            }
        }
        Ok(taken)
    }
}

/// `prefer` and `require` trust any certificate, `verify-full` only one of the authority that is named.
fn ssl(tls: &tls::Options) -> Result<SslOpts> {
    let own = SslOpts::default().with_disable_built_in_roots(true);
    let root = tls.root.as_ref().filter(|_| tls.verify);
    let Some(root) = root else {
        // The driver makes no verifier without an authority, also if it asks it nothing.
        return Ok(SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true));
    };
    // What is wrong with the file is better said now than at the first connection.
    tls.client_config().map_err(|why| invalid(format!("site option \"url\": {why}")))?;
    Ok(own.with_root_certs(vec![PathBuf::from(root).into()]))
}

fn defaults(opts: Opts) -> Opts {
    OptsBuilder::from_opts(opts)
        .prefer_socket(false)
        // Rows that are found count, also if they are what they shall become.
        .client_found_rows(true)
        .stmt_cache_size(STATEMENTS)
        .tcp_keepalive(Some(KEEPALIVE))
        .into()
}

fn schema(name: &str) -> Result<String> {
    if name.is_empty() || name.len() > NAME_LENGTH || name.contains('\0') || name.ends_with(' ') {
        return Err(invalid(format!("site option \"schema\": {name:?} is no name for a database")));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_model::ErrorKind;

    fn parse(options: &[(&str, &str)]) -> Result<MysqlOptions> {
        MysqlOptions::parse(&options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn defaults_and_values() -> Result<()> {
        let options = parse(&[("url", "mysql://app:s3cret@10.0.0.7/ddbs2")])?;
        assert_eq!((options.limits.pool_size, options.schema.as_str()), (10, "ddbs2"));
        assert_eq!(options.address(), "10.0.0.7:3306/ddbs2");
        assert_eq!(options.encryption, Encryption::IfPossible);
        assert!(!format!("{options:?}").contains("s3cret"));
        let options = parse(&[
            ("url", "mariadb://app@[::1]:77/d?connect_timeout=2&sslmode=require"),
            ("pool_timeout", "250ms"),
            ("schema", "shard"),
        ])?;
        assert_eq!(options.limits.pool_timeout, Duration::from_millis(250));
        assert_eq!(options.limits.connect_timeout, Duration::from_secs(2));
        assert_eq!((options.encryption, options.schema.as_str()), (Encryption::Always, "shard"));
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let url = ("url", "mysql://app:s3cret@h/d");
        for (options, named) in [
            (&[][..], "\"url\""),
            (&[url, ("colour", "red")], "\"colour\""),
            (&[url, ("pool_size", "0")], "\"pool_size\""),
            (&[url, ("schema", "")], "\"schema\""),
            (&[("url", "mysql://app:s3cret@h:port/d")], "\"url\""),
            (&[("url", "mysql://app:s3cret@h/d?nonsense=1")], "nonsense"),
            (&[("url", "mysql://app:s3cret@h/d?sslmode=maybe")], "sslmode"),
            (&[("url", "mysql://app:s3cret@h/d?sslmode=verify-full")], "sslrootcert"),
            (&[("url", "postgres://app:s3cret@h/d")], "\"url\""),
            (&[("url", "mysql://h/d")], "user"),
            (&[("url", "mysql://app:s3cret@h")], "database"),
        ] {
            let error = parse(options).expect_err(named);
            assert_eq!(error.kind(), ErrorKind::InvalidParameterValue);
            assert!(error.message().contains(named), "{error}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }
}
