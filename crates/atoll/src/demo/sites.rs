//! `--site NAME=URL`: a site of the demo at a database server instead of in this process.
//!
//! Invariant: a URL, which may hold a password, is in no message and in no `Debug`. That is why the command line's parser, whose errors
//! repeat what they refuse, takes any text here, and [`Placement::of`] looks at it.

use std::fmt;

/// What `--site` was given, as it was typed.
#[derive(Clone)]
pub struct SiteArg(String);

impl From<String> for SiteArg {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SiteArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SiteArg(…)")
    }
}

/// Why `--site` makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// It does not begin with a name and an equals sign.
    #[error("--site takes NAME=URL, such as --site {example}=postgres://user:password@host/database")]
    NoName {
        /// A site that there is.
        example: String,
    },
    /// The schema has no such site.
    #[error("--site {name}: the demo has no such site; its sites are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Two servers for one site.
    #[error("--site {0} is given twice")]
    Twice(String),
    /// Of no engine.
    #[error("--site {0}: its URL has to begin with postgres://, postgresql://, mysql:// or mariadb://")]
    Engine(String),
}

/// A site that is at a server.
struct Placed {
    name: String,
    engine: &'static str,
    url: String,
}

/// Where the sites of a schema are: in this process, unless a server is named.
pub struct Placement(Vec<Placed>);

impl Placement {
    /// Looks at what the command line says, for a schema that makes the `known` sites.
    ///
    /// # Errors
    /// When a part of it makes no sense.
    pub fn of(args: &[SiteArg], known: &[String]) -> Result<Self, SiteError> {
        let mut placed: Vec<Placed> = Vec::with_capacity(args.len());
        for SiteArg(text) in args {
            let (name, url) = text.split_once('=').filter(|(name, _)| is_name(name)).ok_or_else(|| {
                SiteError::NoName { example: known.first().cloned().unwrap_or_else(|| "NAME".to_owned()) }
            })?;
            let name = name.to_ascii_lowercase();
            if !known.contains(&name) {
                return Err(SiteError::Unknown { name, known: known.join(", ") });
            }
            if placed.iter().any(|other| other.name == name) {
                return Err(SiteError::Twice(name));
            }
            let engine = engine(url).ok_or_else(|| SiteError::Engine(name.clone()))?;
            placed.push(Placed { name, engine, url: url.to_owned() });
        }
        Ok(Self(placed))
    }

    /// Whether all sites are in this process.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the sites that are at servers, with their engines.
    pub fn engines(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.0.iter().map(|site| (site.name.as_str(), site.engine))
    }

    /// A statement of the schema, or what makes the same site at its server.
    pub fn apply(&self, sql: String) -> String {
        let Some(site) = made_by(&sql).and_then(|name| self.0.iter().find(|site| site.name == name)) else {
            return sql;
        };
        format!("CREATE SITE {} ENGINE {} OPTIONS (url {})", site.name, site.engine, literal(&site.url))
    }

    /// What leads sites that were made earlier to these servers: their names, and the statements.
    pub fn moves(&self) -> impl Iterator<Item = (&str, String)> {
        let sql = |site: &Placed| format!("ALTER SITE {} OPTIONS (SET url {})", site.name, literal(&site.url));
        self.0.iter().map(move |site| (site.name.as_str(), sql(site)))
    }
}

/// The site that a statement makes.
pub fn made_by(sql: &str) -> Option<&str> {
    sql.strip_prefix("CREATE SITE ")?.split_whitespace().next()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn engine(url: &str) -> Option<&'static str> {
    match url.split_once("://")?.0 {
        "postgres" | "postgresql" => Some("postgres"),
        "mysql" | "mariadb" => Some("mysql"),
        _ => None,
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(args: &[&str]) -> Result<Placement, SiteError> {
        let args: Vec<SiteArg> = args.iter().map(|text| SiteArg::from((*text).to_owned())).collect();
        Placement::of(&args, &["beijing".to_owned(), "hongkong".to_owned()])
    }

    #[test]
    fn named_sites_are_made_at_their_servers() {
        let placement = place(&["hongkong=postgres://app:it's@h/news?sslmode=require", "Beijing=mariadb://app@b/news"])
            .expect("two sites");
        let made = |sql: &str| placement.apply(sql.to_owned());
        assert_eq!(
            made("CREATE SITE hongkong ENGINE embedded"),
            "CREATE SITE hongkong ENGINE postgres OPTIONS (url 'postgres://app:it''s@h/news?sslmode=require')"
        );
        assert_eq!(
            made("CREATE SITE beijing ENGINE embedded"),
            "CREATE SITE beijing ENGINE mysql OPTIONS (url 'mariadb://app@b/news')"
        );
        assert_eq!(made("CREATE SITE macau ENGINE embedded"), "CREATE SITE macau ENGINE embedded");
        assert_eq!(made("CREATE TABLE beijing (id int)"), "CREATE TABLE beijing (id int)");
        assert_eq!(placement.engines().collect::<Vec<_>>(), [("hongkong", "postgres"), ("beijing", "mysql")]);
        let moves: Vec<_> = placement.moves().collect();
        assert_eq!(moves[1], ("beijing", "ALTER SITE beijing OPTIONS (SET url 'mariadb://app@b/news')".to_owned()));
        assert!(place(&[]).expect("no sites").is_empty());
    }

    #[test]
    fn nonsense_is_refused_and_no_url_is_repeated() {
        const SECRET: &str = "s3cret";
        let engine = || SiteError::Engine("beijing".into());
        let no_name = || SiteError::NoName { example: "beijing".into() };
        let unknown = || SiteError::Unknown { name: "macau".into(), known: "beijing, hongkong".into() };
        let cases: [(&[&str], SiteError); 7] = [
            (&["macau=postgres://app:s3cret@h/d"], unknown()),
            (&["beijing=postgres://app:s3cret@h/d", "beijing=postgres://h/d"], SiteError::Twice("beijing".into())),
            (&["beijing=oracle://app:s3cret@h/d"], engine()),
            (&["beijing=s3cret"], engine()),
            (&["beijing"], no_name()),
            (&["postgres://app:s3cret@h/d?sslmode=require"], no_name()),
            (&["=postgres://app:s3cret@h/d"], no_name()),
        ];
        for (args, expected) in cases {
            let Err(error) = place(args) else { panic!("{expected}: it was taken") };
            assert_eq!(error, expected);
            assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
        }
        assert!(unknown().to_string().contains("beijing, hongkong"));
        let arg = SiteArg::from(format!("beijing=postgres://app:{SECRET}@h/d"));
        assert!(!format!("{arg:?}").contains(SECRET));
    }
}
