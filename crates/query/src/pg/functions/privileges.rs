//! `has_table_privilege` and its like, `pg_has_role`.
//!
//! Invariant: they answer as the statement would be answered; privileges on columns are those on their table.

use super::definitions as def;
use super::scalar::{Scalar, integer, text};
use super::system::{of, relation_oid};
use crate::privileges::{Identity, show};
use atoll_model::{Catalog, Error, ErrorKind, FragmentId, Privileges, RelationId, Result, Securable, SqlType, Value};
use std::sync::Arc;

/// What a question is about.
enum About {
    Object(Securable),
    /// A table of the system: everybody reads it.
    System,
}

pub(super) fn functions(catalog: &Arc<Catalog>, who: &Identity) -> Vec<Scalar> {
    let on_relation =
        |name: &'static str, arity: std::ops::RangeInclusive<usize>, possible: Privileges, column: bool| {
            let current = who.current_user.clone();
            of(catalog, name, arity, SqlType::Bool, move |catalog, args| {
                let (user, rest) = user(catalog, &current, args, if column { 3 } else { 2 })?;
                let Some(about) = relation(catalog, &rest[0])? else { return Ok(Value::Null) };
                answer(catalog, user.as_deref(), &about, possible, text(&rest[rest.len() - 1]))
            })
        };
    let columns = Privileges::SELECT.and(Privileges::INSERT).and(Privileges::UPDATE).and(Privileges::REFERENCES);
    let mut made = vec![
        on_relation("has_table_privilege", 2..=3, Privileges::TABLE, false),
        on_relation("has_any_column_privilege", 2..=3, columns, false),
        on_relation("has_column_privilege", 3..=4, columns, true),
        on_relation("has_sequence_privilege", 2..=3, Privileges::SEQUENCE, false),
    ];
    let current = who.current_user.clone();
    made.push(of(catalog, "has_schema_privilege", 2..=3, SqlType::Bool, move |catalog, args| {
        let (user, rest) = user(catalog, &current, args, 2)?;
        let public = match &rest[0] {
            Value::Text(name) => {
                let name = def::last_name(name);
                if !matches!(name.as_str(), "public" | "pg_catalog" | "information_schema" | "atoll") {
                    return Err(Error::new(ErrorKind::InvalidSchema, format!("schema \"{name}\" does not exist")));
                }
                name == "public"
            }
            oid => integer(oid) == def::PUBLIC,
        };
        if public {
            let about = About::Object(Securable::Schema);
            return answer(catalog, user.as_deref(), &about, Privileges::SCHEMA, text(&rest[1]));
        }
        let wanted = show::named(Privileges::SCHEMA, text(&rest[1]))?;
        let superuser = user.is_some_and(|u| catalog.is_superuser(&u));
        Ok(Value::Bool(superuser || wanted.contains(&(Privileges::USAGE, false))))
    }));
    let current = who.current_user.clone();
    made.push(of(catalog, "pg_has_role", 2..=3, SqlType::Bool, move |catalog, args| {
        let (user, rest) = user(catalog, &current, args, 2)?;
        let user = user.unwrap_or_default();
        let other = role(catalog, &rest[0])?;
        let mut any = false;
        for word in text(&rest[1]).split(',') {
            any |= match word.trim().to_ascii_uppercase().as_str() {
                "MEMBER" => catalog.is_member(&user, &other),
                "USAGE" => catalog.acts_for(&user, &other),
                "MEMBER WITH GRANT OPTION"
                | "MEMBER WITH ADMIN OPTION"
                | "USAGE WITH GRANT OPTION"
                | "USAGE WITH ADMIN OPTION" => catalog.may_give_membership(&user, &other),
                _ => {
                    return Err(Error::new(
                        ErrorKind::InvalidParameterValue,
                        format!("unrecognized privilege type: \"{}\"", word.trim()),
                    ));
                }
            };
        }
        Ok(Value::Bool(any))
    }));
    made
}

/// The role that is asked about, and the arguments behind it: without it there are `rest` of them.
fn user<'a>(catalog: &Catalog, current: &str, args: &'a [Value], rest: usize) -> Result<(Option<String>, &'a [Value])> {
    if args.len() <= rest {
        return Ok((Some(current.to_owned()), args));
    }
    let user = match &args[0] {
        Value::Text(name) if name == "public" => None,
        other => Some(role(catalog, other)?),
    };
    Ok((user, &args[1..]))
}

fn role(catalog: &Catalog, value: &Value) -> Result<String> {
    let oid = match value {
        Value::Text(name) => return catalog.role_named(name).map(|role| role.name.clone()),
        oid => integer(oid),
    };
    let found = catalog.roles.keys().find(|name| def::role_oid(catalog, name) == oid);
    found.cloned().ok_or_else(|| Error::new(ErrorKind::UndefinedObject, format!("role with OID {oid} does not exist")))
}

/// The relation of a name or an object id; `None`: there is none with that id.
fn relation(catalog: &Catalog, value: &Value) -> Result<Option<About>> {
    let oid = match value {
        Value::Text(name) => relation_oid(catalog, name)?,
        oid => integer(oid),
    };
    if crate::pg::catalogs::system_name(oid).is_some() {
        return Ok(Some(About::System));
    }
    let Ok(id) = u32::try_from(oid) else { return Ok(None) };
    let own = RelationId(id);
    if catalog.has_relation(own) {
        return Ok(Some(About::Object(Securable::Relation(own))));
    }
    // A fragment has its table's.
    Ok(catalog.fragment_by_id(FragmentId(id)).map(|(table, _)| About::Object(Securable::Relation(table.id))))
}

fn answer(catalog: &Catalog, user: Option<&str>, about: &About, possible: Privileges, text: &str) -> Result<Value> {
    let has = match about {
        About::Object(object) => show::has_any(catalog, user, *object, possible, text)?,
        About::System => {
            let wanted = show::named(possible, text)?;
            user.is_some_and(|u| catalog.is_superuser(u)) || wanted.contains(&(Privileges::SELECT, false))
        }
    };
    Ok(Value::Bool(has))
}
