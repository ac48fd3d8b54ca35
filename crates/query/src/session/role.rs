//! Who a session is to the privileges of the catalog.
//!
//! Invariant: the role of a session is one that its user is a member of when it is set.

use super::SqlSession;
use super::bound::Bound;
use crate::privileges::Footing;
use atoll_model::{Catalog, Error, ErrorKind, Result};
use std::sync::Arc;

impl SqlSession {
    /// Whether the session's role may run a statement in a transaction that sees this catalog: asked before each, whatever way it then
    /// takes, and after the transaction has begun the statement, which may bring it another catalog.
    pub(super) fn authorize(&mut self, bound: &Bound, catalog: Arc<Catalog>) -> Result<()> {
        let footing = self.footing(catalog);
        let role = &self.settings.identity().current_user;
        if self.authority.suffices(&footing, role) {
            return Ok(());
        }
        bound.checked.check(&bound.statement, &footing, role)
    }

    /// What the statements of a transaction that sees this catalog are judged by.
    pub(super) fn footing(&self, catalog: Arc<Catalog>) -> Footing {
        Footing::of(catalog, self.engine.cluster.catalog())
    }

    /// SET ROLE: whoever has connected may become a role that they are a member of.
    pub(super) fn set_role(&mut self, role: Option<&str>, local: bool) -> Result<()> {
        let footing = self.footing(self.catalog());
        let catalog = footing.in_force();
        if let Some(role) = role {
            if !catalog.roles.contains_key(role) {
                return Err(Error::new(ErrorKind::InvalidParameterValue, format!("role \"{role}\" does not exist")));
            }
            if !catalog.is_member(&self.identity().session_user, role) {
                return Err(Error::new(
                    ErrorKind::InsufficientPrivilege,
                    format!("permission denied to set role \"{role}\""),
                ));
            }
        }
        if local && !self.current.is_explicit() {
            self.notice("WARNING", "25P01", "SET LOCAL can only be used in transaction blocks");
            return Ok(());
        }
        let superuser = catalog.is_superuser(role.unwrap_or(&self.identity().session_user));
        Arc::make_mut(&mut self.settings).set_role(role, superuser, local);
        Ok(())
    }
}
