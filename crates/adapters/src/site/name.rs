//! What to call a site in messages.

use atoll_model::{Error, ErrorKind};

/// The name of a site.
#[derive(Clone, Debug)]
pub(super) struct SiteName(pub(super) String);

impl SiteName {
    /// The site cannot be reached, or not any more.
    pub(super) fn unavailable(&self, why: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::SiteUnavailable, format!("site \"{}\" is unavailable: {why}", self.0))
    }
}
