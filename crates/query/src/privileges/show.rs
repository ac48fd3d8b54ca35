//! Privileges as catalogs and functions show them: access control lists as PostgreSQL writes them, and answers of `has_…_privilege`.

use atoll_model::{AccessEntry, Catalog, Error, ErrorKind, Privileges, Result, Securable};

/// An access control list as in `pg_class.relacl`; `None`: the default one.
pub(crate) fn list(catalog: &Catalog, object: Securable) -> Option<Vec<String>> {
    catalog.stored_list(object).map(|list| list.iter().map(entry).collect())
}

/// `grantee=privileges/grantor`, a star behind what may be given on.
fn entry(entry: &AccessEntry) -> String {
    let letters: String = entry
        .privileges
        .each()
        .flat_map(|(one, letter, _)| std::iter::once(letter).chain(entry.grantable.contain(one).then_some('*')))
        .collect();
    format!("{}={letters}/{}", entry.grantee.as_deref().map(quoted).unwrap_or_default(), quoted(&entry.grantor))
}

fn quoted(name: &str) -> String {
    if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        name.into()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Whether a role (`None`: everybody) has any of the privileges that a text names, as `SELECT, INSERT WITH GRANT OPTION`.
///
/// # Errors
/// `InvalidParameterValue` for what is no privilege of such objects.
pub(crate) fn has_any(
    catalog: &Catalog,
    role: Option<&str>,
    object: Securable,
    possible: Privileges,
    text: &str,
) -> Result<bool> {
    let mut any = false;
    for (privilege, option) in named(possible, text)? {
        let role = role.unwrap_or_default();
        any |= if option {
            catalog.grantor_for(role, object, privilege).1.contain(privilege)
        } else {
            catalog.privileges_of(role, object).contain(privilege)
        };
    }
    Ok(any)
}

/// The privileges that a text names, each with whether the option to give it is asked for.
///
/// # Errors
/// `InvalidParameterValue`.
pub(crate) fn named(possible: Privileges, text: &str) -> Result<Vec<(Privileges, bool)>> {
    text.split(',')
        .map(|word| {
            let word = word.trim().to_ascii_uppercase();
            let (name, option) = match word.strip_suffix(" WITH GRANT OPTION") {
                Some(name) => (name.trim(), true),
                None => (word.as_str(), false),
            };
            let found = Privileges::named(name).filter(|p| possible.contain(*p));
            found.map(|p| (p, option)).ok_or_else(|| {
                let shown = text.split(',').find(|w| w.trim().to_ascii_uppercase() == word).unwrap_or(text).trim();
                Error::new(ErrorKind::InvalidParameterValue, format!("unrecognized privilege type: \"{shown}\""))
            })
        })
        .collect()
}
