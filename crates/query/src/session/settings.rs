//! A session's settings: what SET takes and SHOW gives.
//!
//! Invariant: a setting that would change answers is honoured or refused; those that tools send by habit and that change nothing
//! here (`extra_float_digits`, `client_min_messages` …) are kept and shown. Names with a dot are the user's own, as in PostgreSQL.

use crate::privileges::Identity;
use atoll_model::{Error, ErrorKind, Result};
use atoll_ports::site::{Isolation, ReadConsistency};
use std::collections::BTreeMap;
use std::time::Duration;

/// PostgreSQL's version that clients are told: the dialect that Atoll follows.
pub(crate) const SERVER_VERSION: &str = "15.0 (Atoll 0.1.0)";

/// Settings that clients are told of when they change.
const REPORTED: [&str; 13] = [
    "server_version",
    "server_encoding",
    "client_encoding",
    "application_name",
    "default_transaction_read_only",
    "in_hot_standby",
    "is_superuser",
    "session_authorization",
    "DateStyle",
    "IntervalStyle",
    // Without it pgJDBC takes binary timestamps for floating-point numbers.
    "integer_datetimes",
    "TimeZone",
    "standard_conforming_strings",
];

/// (name, default): what may be set and changes nothing, or is looked at by this module.
const KNOWN: [(&str, &str); 59] = [
    ("application_name", ""),
    ("atoll.read_consistency", "cluster"),
    ("bytea_output", "hex"),
    ("check_function_bodies", "on"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("constraint_exclusion", "partition"),
    ("DateStyle", "ISO, MDY"),
    ("deadlock_timeout", "1s"),
    ("default_statistics_target", "100"),
    ("default_table_access_method", "heap"),
    ("default_tablespace", ""),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_with_oids", "off"),
    ("enable_bitmapscan", "on"),
    ("enable_hashjoin", "on"),
    ("enable_indexscan", "on"),
    ("enable_mergejoin", "on"),
    ("enable_nestloop", "on"),
    ("enable_seqscan", "on"),
    ("escape_string_warning", "on"),
    ("extra_float_digits", "1"),
    ("geqo", "on"),
    ("idle_in_transaction_session_timeout", "0"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "on"),
    ("jit", "off"),
    ("lc_collate", "C"),
    ("lc_ctype", "C"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lock_timeout", "30s"),
    ("maintenance_work_mem", "64MB"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("password_encryption", "scram-sha-256"),
    ("plan_cache_mode", "auto"),
    ("quote_all_identifiers", "off"),
    ("role", "none"),
    ("row_security", "on"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "150000"),
    ("session_authorization", "atoll"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("synchronize_seqscans", "on"),
    ("synchronous_commit", "on"),
    ("TimeZone", "UTC"),
    ("transaction_deferrable", "off"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
    ("work_mem", "64MB"),
    ("xmloption", "content"),
];

/// What tells something about the server or the session, and is neither set nor reset.
const FIXED: [&str; 10] = [
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "lc_collate",
    "lc_ctype",
    "max_identifier_length",
    "max_index_keys",
    "server_encoding",
    "server_version",
    "server_version_num",
];

/// What SET ROLE sets, and RESET ALL leaves.
const OF_ROLE: [&str; 2] = ["role", "is_superuser"];

/// Settings with names of the user's own that a session may have.
const MAX_CUSTOM: usize = 1024;

/// The settings of one session.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, String>,
    defaults: BTreeMap<&'static str, String>,
    /// `prefix.name`: kept for whoever asks for it.
    custom: BTreeMap<String, String>,
    changed: Vec<&'static str>,
    /// What SET LOCAL has covered: the values after the transaction.
    beneath: BTreeMap<String, Option<String>>,
    effective: Effective,
    identity: Identity,
}

/// How a name is known.
enum Name {
    Known(&'static str),
    Custom(String),
}

/// The settings that every statement looks at, read once when they change.
#[derive(Clone, Copy, Debug, Default)]
struct Effective {
    lock_timeout: Duration,
    statement_timeout: Duration,
    isolation: Isolation,
    read_only: bool,
    synchronous_commit: bool,
    read_consistency: ReadConsistency,
}

impl Effective {
    fn of(values: &BTreeMap<&'static str, String>) -> Self {
        let time = |name: &str| duration(&values[name].to_ascii_lowercase()).unwrap_or_default();
        Effective {
            lock_timeout: time("lock_timeout"),
            statement_timeout: time("statement_timeout"),
            isolation: isolation(&values["default_transaction_isolation"]).unwrap_or_default(),
            read_only: values["default_transaction_read_only"] == "on",
            synchronous_commit: values["synchronous_commit"] != "off",
            read_consistency: match values["atoll.read_consistency"].as_str() {
                "site" => ReadConsistency::Site,
                _ => ReadConsistency::Cluster,
            },
        }
    }
}

impl Settings {
    /// Every setting at its default.
    pub(crate) fn new(lock_timeout: Duration, synchronous_commit: bool) -> Self {
        let mut values: BTreeMap<&'static str, String> = KNOWN.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        values.insert("lock_timeout", shown(lock_timeout));
        values.insert("synchronous_commit", if synchronous_commit { "on" } else { "off" }.into());
        Settings {
            defaults: values.clone(),
            effective: Effective::of(&values),
            identity: Identity::of(&values["session_authorization"]),
            values,
            custom: BTreeMap::new(),
            changed: vec![],
            beneath: BTreeMap::new(),
        }
    }

    fn canonical(name: &str) -> Result<Name> {
        if let Some((known, _)) = KNOWN.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)) {
            return Ok(Name::Known(known));
        }
        // What begins with `atoll.` is ours: a typing error in it should be seen.
        match name.split_once('.') {
            Some((prefix, rest)) if !prefix.is_empty() && !rest.is_empty() && !prefix.eq_ignore_ascii_case("atoll") => {
                Ok(Name::Custom(name.to_lowercase()))
            }
            _ => Err(unrecognized(name)),
        }
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// `UndefinedObject`.
    pub(crate) fn get(&self, name: &str) -> Result<&str> {
        match Self::canonical(name)? {
            Name::Known(name) => Ok(&self.values[name]),
            Name::Custom(custom) => self.custom.get(&custom).map(String::as_str).ok_or_else(|| unrecognized(name)),
        }
    }

    /// The name of a setting as SHOW writes it.
    pub(crate) fn shown_name(name: &str) -> String {
        match Self::canonical(name) {
            Ok(Name::Known(known)) => known.to_owned(),
            Ok(Name::Custom(custom)) => custom,
            Err(_) => name.to_owned(),
        }
    }

    /// All settings by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(k, v)| (*k, v.as_str()))
    }

    /// Sets a setting; `None` sets it back to its default.
    ///
    /// # Errors
    /// `UndefinedObject`; `InvalidParameterValue` for a value that Atoll cannot honour.
    pub(crate) fn set(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        match Self::canonical(name)? {
            Name::Known(name) => {
                let value = match value {
                    None if FIXED.contains(&name) => return Err(fixed(name)),
                    None => self.defaults[name].clone(),
                    Some(v) => Self::checked(name, v)?,
                };
                self.put(name, value);
                self.beneath.remove(name);
            }
            Name::Custom(name) => {
                self.beneath.remove(&name);
                self.put_custom(name, value.map(str::to_owned).or(Some(String::new())))?;
            }
        }
        Ok(())
    }

    /// Sets a setting until the transaction ends.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub(crate) fn set_local(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let (name, before) = match Self::canonical(name)? {
            Name::Known(name) => (name.to_owned(), Some(self.values[name].clone())),
            Name::Custom(name) => {
                let before = self.custom.get(&name).cloned();
                (name, before)
            }
        };
        let before = self.beneath.get(&name).cloned().unwrap_or(before);
        self.set(&name, value)?;
        self.beneath.insert(name, before);
        Ok(())
    }

    /// The transaction has ended: what SET LOCAL covered is in force again.
    pub(crate) fn end_local(&mut self) {
        for (name, value) in std::mem::take(&mut self.beneath) {
            match (Self::canonical(&name), value) {
                (Ok(Name::Known(name)), Some(value)) => self.put(name, value),
                (Ok(Name::Custom(name)), value) => {
                    // It takes no more room than before.
                    let _ = self.put_custom(name, value);
                }
                _ => {}
            }
        }
    }

    /// Whether SET LOCAL has changed anything.
    pub(crate) fn has_local(&self) -> bool {
        !self.beneath.is_empty()
    }

    /// Goes back to the settings of an earlier time.
    pub(crate) fn restore(&mut self, before: &Settings) {
        for (name, value) in &before.values {
            self.put(name, value.clone());
        }
        self.custom.clone_from(&before.custom);
        self.beneath.clone_from(&before.beneath);
    }

    fn put(&mut self, name: &'static str, value: String) {
        if self.values.get(name) != Some(&value) {
            if name == "role" {
                self.identity.current_user = match value.as_str() {
                    "none" => self.identity.session_user.clone(),
                    role => role.into(),
                };
            }
            self.values.insert(name, value);
            self.changed.push(name);
            self.effective = Effective::of(&self.values);
        }
    }

    fn put_custom(&mut self, name: String, value: Option<String>) -> Result<()> {
        match value {
            None => {
                self.custom.remove(&name);
            }
            Some(_) if self.custom.len() >= MAX_CUSTOM && !self.custom.contains_key(&name) => {
                return Err(Error::new(ErrorKind::ProgramLimit, format!("more than {MAX_CUSTOM} settings")));
            }
            Some(value) => {
                self.custom.insert(name, value);
            }
        }
        Ok(())
    }

    /// RESET ALL, which leaves the role, as in PostgreSQL.
    pub(crate) fn reset(&mut self) {
        for (name, value) in self.defaults.clone() {
            if !OF_ROLE.contains(&name) {
                self.put(name, value);
            }
        }
        self.custom.clear();
        self.beneath.retain(|name, _| OF_ROLE.contains(&name.as_str()));
    }

    fn checked(name: &'static str, value: &str) -> Result<String> {
        let invalid = || {
            Error::new(ErrorKind::InvalidParameterValue, format!("invalid value for parameter \"{name}\": \"{value}\""))
        };
        let lower = value.to_ascii_lowercase();
        let only = |allowed: &[&str]| allowed.contains(&lower.as_str()).then(|| value.to_owned()).ok_or_else(invalid);
        match name {
            // Only letters and digits of an encoding's name count, as in PostgreSQL.
            "client_encoding" => match lower.replace(|c: char| !c.is_ascii_alphanumeric(), "").as_str() {
                "utf8" | "unicode" => Ok("UTF8".into()),
                _ => Err(invalid().hint("Atoll speaks UTF8 with its clients.")),
            },
            "TimeZone" => match lower.as_str() {
                "utc" | "gmt" | "etc/utc" | "zulu" | "0" | "+00:00" | "uct" => Ok("UTC".into()),
                _ => Err(invalid().hint("Atoll shows times in UTC only; let the client convert them.")),
            },
            "DateStyle" if lower.starts_with("iso") => Ok("ISO, MDY".into()),
            "DateStyle" => Err(invalid().hint("Atoll writes dates in the ISO style only.")),
            "IntervalStyle" => only(&["postgres"]),
            "bytea_output" => only(&["hex"]),
            "standard_conforming_strings" => only(&["on", "true", "1", "yes"]).map(|_| "on".into()),
            "atoll.read_consistency" => only(&["site", "cluster"]).map(|_| lower.clone()),
            "default_transaction_isolation" | "transaction_isolation" => {
                isolation(&lower).map(|_| lower.clone()).ok_or_else(invalid)
            }
            "lock_timeout" | "statement_timeout" | "idle_in_transaction_session_timeout" | "deadlock_timeout" => {
                duration(&lower).map(shown).ok_or_else(invalid)
            }
            "synchronous_commit" => match lower.as_str() {
                "on" | "off" | "local" | "remote_write" | "remote_apply" => Ok(lower),
                "true" | "yes" | "1" => Ok("on".into()),
                "false" | "no" | "0" => Ok("off".into()),
                _ => Err(invalid()),
            },
            // It can be set back: nothing but the user who has connected is ever in it.
            "session_authorization" => Err(fixed(name)),
            _ if FIXED.contains(&name) => Err(fixed(name)),
            // Who may have it, the catalog knows: [`Settings::set_role`].
            "role" => Err(Error::unsupported("the setting \"role\" in this way").hint("SET ROLE sets it.")),
            // Whatever is on or off by default is so afterwards.
            _ if KNOWN.iter().any(|(k, v)| *k == name && matches!(*v, "on" | "off")) => match lower.as_str() {
                "on" | "true" | "yes" | "1" | "t" | "y" => Ok("on".into()),
                "off" | "false" | "no" | "0" | "f" | "n" => Ok("off".into()),
                _ => Err(invalid().hint("It is a Boolean value.")),
            },
            _ => Ok(value.to_owned()),
        }
    }

    /// Who the session is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// SET ROLE, `None`: to who has connected. Whoever calls it has checked that the user may.
    pub(crate) fn set_role(&mut self, role: Option<&str>, superuser: bool, local: bool) {
        let superuser = if superuser { "on" } else { "off" };
        for (name, value) in OF_ROLE.into_iter().zip([role.unwrap_or("none"), superuser]) {
            if local {
                let before = Some(self.values[name].clone());
                self.beneath.entry(name.into()).or_insert(before);
            } else {
                self.beneath.remove(name);
            }
            self.put(name, value.into());
        }
    }

    /// Sets without a check: who has connected, and whether as a superuser.
    pub(crate) fn connected(&mut self, user: &str, superuser: bool) {
        self.state("session_authorization", user);
        self.state("is_superuser", if superuser { "on" } else { "off" });
        self.identity = Identity::of(user);
    }

    fn state(&mut self, name: &'static str, value: &str) {
        self.values.insert(name, value.to_owned());
        self.defaults.insert(name, value.to_owned());
    }

    /// What clients must be told after connecting.
    pub(crate) fn reported(&self) -> Vec<(String, String)> {
        REPORTED.iter().map(|k| ((*k).to_owned(), self.values[k].clone())).collect()
    }

    /// What clients must be told since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<(String, String)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter(|k| REPORTED.contains(k)).map(|k| (k.to_owned(), self.values[k].clone())).collect()
    }

    /// `lock_timeout`.
    pub(crate) fn lock_timeout(&self) -> Duration {
        self.effective.lock_timeout
    }

    /// `statement_timeout`; zero: none.
    pub(crate) fn statement_timeout(&self) -> Duration {
        self.effective.statement_timeout
    }

    /// Isolation of new transactions.
    pub(crate) fn isolation(&self) -> Isolation {
        self.effective.isolation
    }

    /// Whether new transactions are read-only.
    pub(crate) fn read_only(&self) -> bool {
        self.effective.read_only
    }

    /// What reads over several sites promise in new transactions.
    pub(crate) fn read_consistency(&self) -> ReadConsistency {
        self.effective.read_consistency
    }

    /// Whether commits wait for the disk.
    pub(crate) fn synchronous_commit(&self) -> bool {
        self.effective.synchronous_commit
    }
}

/// Reads an isolation level's name.
pub(crate) fn isolation(name: &str) -> Option<Isolation> {
    Some(match name {
        "read committed" | "read uncommitted" => Isolation::ReadCommitted,
        "repeatable read" => Isolation::RepeatableRead,
        "serializable" => Isolation::Serializable,
        _ => return None,
    })
}

fn fixed(name: &str) -> Error {
    Error::new(ErrorKind::CantChangeParameter, format!("parameter \"{name}\" cannot be changed"))
}

fn unrecognized(name: &str) -> Error {
    Error::new(ErrorKind::UndefinedObject, format!("unrecognized configuration parameter \"{name}\""))
}

/// A duration in the largest unit that gives a whole number, as SHOW writes it.
fn shown(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0".into(),
        _ if ms.is_multiple_of(86_400_000) => format!("{}d", ms / 86_400_000),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}min", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit.trim() {
        "" | "ms" => number / 1000.0,
        "us" => number / 1e6,
        "s" => number,
        "min" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_postgresqls_units() {
        assert_eq!(duration("1500"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("2min"), Some(Duration::from_secs(120)));
        assert_eq!(duration("soon"), None);
    }

    #[test]
    fn what_would_change_answers_is_refused() {
        let mut settings = Settings::new(Duration::from_secs(1), true);
        assert!(settings.set("timezone", Some("Asia/Hong_Kong")).is_err());
        assert!(settings.set("datestyle", Some("German")).is_err());
        assert!(settings.set("no_such_thing", Some("1")).is_err());
        assert!(settings.set("TIMEZONE", Some("utc")).is_ok());
    }

    #[test]
    fn local_settings_end_with_the_transaction() -> Result<()> {
        let mut settings = Settings::new(Duration::from_secs(90), true);
        settings.set("application_name", Some("a"))?;
        settings.set_local("application_name", Some("b"))?;
        settings.set_local("application_name", Some("c"))?;
        settings.set_local("my.own", Some("1"))?;
        assert_eq!((settings.get("application_name")?, settings.get("MY.OWN")?), ("c", "1"));
        settings.end_local();
        assert_eq!(settings.get("application_name")?, "a");
        assert!(settings.get("my.own").is_err());
        settings.set_local("application_name", Some("d"))?;
        settings.set("application_name", Some("e"))?;
        settings.end_local();
        assert_eq!((settings.get("application_name")?, settings.get("lock_timeout")?), ("e", "90s"));
        Ok(())
    }

    #[test]
    fn roles_are_set_apart() -> Result<()> {
        let mut settings = Settings::new(Duration::from_secs(1), true);
        settings.connected("ann", true);
        assert!(
            settings.set("role", Some("bob")).is_err() && settings.set("session_authorization", Some("x")).is_err()
        );
        settings.set_role(Some("bob"), false, true);
        settings.reset();
        assert!(settings.set("is_superuser", None).is_err() && settings.set("session_authorization", None).is_ok());
        assert_eq!((&*settings.identity().current_user, settings.get("is_superuser")?), ("bob", "off"));
        settings.end_local();
        assert_eq!((&*settings.identity().current_user, settings.get("is_superuser")?), ("ann", "on"));
        let before = settings.clone();
        settings.set_role(Some("bob"), false, false);
        assert_eq!((&*settings.identity().current_user, &*settings.identity().session_user), ("bob", "ann"));
        settings.restore(&before);
        assert_eq!((&*settings.identity().current_user, settings.get("role")?), ("ann", "none"));
        Ok(())
    }
}
