//! CREATE, ALTER and DROP ROLE.

use super::Bound;
use crate::pg::parse::RoleAttributes;
use atoll_model::{Catalog, CatalogCommand, Error, ErrorKind, Result, RoleChange, SqlType, Value, text};

/// Binds `CREATE ROLE`. What it is made a member of is not part of it.
///
/// # Errors
/// A verifier that cannot be made, a time that is none.
pub(crate) fn create_role(
    name: &str,
    attributes: &RoleAttributes,
    if_not_exists: bool,
    catalog: &Catalog,
) -> Result<Bound> {
    if if_not_exists && catalog.roles.contains_key(name) {
        let message = format!("role \"{name}\" already exists, skipping");
        return Ok(Bound::skipped("CREATE ROLE", "42710", message));
    }
    let attributes = change(attributes)?;
    Ok(Bound::one("CREATE ROLE", CatalogCommand::CreateRole { name: name.into(), attributes }))
}

/// Binds `ALTER ROLE`.
///
/// # Errors
/// As [`create_role`].
pub(crate) fn alter_role(name: String, attributes: &RoleAttributes) -> Result<Bound> {
    if !attributes.in_roles.is_empty() {
        return Err(Error::new(ErrorKind::Syntax, "IN ROLE belongs to CREATE ROLE").hint("GRANT the role."));
    }
    let attributes = change(attributes)?;
    Ok(Bound::one("ALTER ROLE", CatalogCommand::AlterRole { name, attributes }))
}

pub(super) fn drop_role(names: &[String], if_exists: bool, catalog: &Catalog) -> Bound {
    let mut bound = Bound::of("DROP ROLE");
    for name in names {
        if if_exists && !catalog.roles.contains_key(name) {
            bound.notice("00000", format!("role \"{name}\" does not exist, skipping"));
        } else {
            bound.apply(CatalogCommand::DropRole { name: name.clone() });
        }
    }
    bound
}

fn change(attributes: &RoleAttributes) -> Result<RoleChange> {
    let valid_until = attributes.valid_until.as_deref().map(|text| match text {
        "infinity" => Ok(None),
        text => match text::parse(&SqlType::TimestampTz(None), text)? {
            Value::TimestampTz(micros) => Ok(Some(micros)),
            _ => Err(Error::internal("a time was read as something else")),
        },
    });
    Ok(RoleChange {
        login: attributes.login,
        superuser: attributes.superuser,
        inherit: attributes.inherit,
        create_role: attributes.create_role,
        create_db: attributes.create_db,
        password: password(attributes)?,
        valid_until: valid_until.transpose()?,
    })
}

fn password(attributes: &RoleAttributes) -> Result<Option<Option<String>>> {
    let Some(Some(text)) = &attributes.password else { return Ok(attributes.password.clone()) };
    if atoll_ports::scram::Verifier::parse(text).is_some() {
        return Ok(Some(Some(text.clone())));
    }
    let verifier = atoll_ports::scram::verifier(text)
        .map_err(|_| Error::internal("the operating system gives no random numbers"))?;
    Ok(Some(Some(verifier)))
}
