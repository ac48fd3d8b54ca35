//! Names of relations: `t`, `public.t`, `atoll.public.t`.

use crate::syntax::fold;
use atoll_model::{Error, ErrorKind, Result};
use datafusion::sql::sqlparser::ast::ObjectName;

/// The name, within the schema `public`, of a relation that a statement changes.
///
/// # Errors
/// `InvalidSchema` for any other schema.
pub(crate) fn relation(name: &ObjectName) -> Result<String> {
    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
    match parts.as_slice() {
        [table] => Ok(table.clone()),
        [schema, table] if schema == "public" => Ok(table.clone()),
        [database, schema, table] if database == "atoll" && schema == "public" => Ok(table.clone()),
        [schema, _] | [_, schema, _] => {
            Err(Error::new(ErrorKind::InvalidSchema, format!("schema \"{schema}\" does not exist or takes no tables"))
                .hint("Tables live in the schema \"public\"."))
        }
        _ => Err(Error::new(ErrorKind::Syntax, format!("\"{name}\" is not the name of a relation"))),
    }
}
