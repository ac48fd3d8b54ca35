//! From what the LSM tree, the file system and panics of either report to Atoll's errors.
//!
//! Invariant: an error about files names the file or, where the tree below does not say which, its directory; a full disk is always
//! [`ErrorKind::DiskFull`], a checksum or decoding failure always [`ErrorKind::DataCorrupted`].

use atoll_model::{Error, ErrorKind};
use std::io;
use std::path::Path;

/// Bytes below which a volume counts as full when the tree reports a failure without its cause.
const ALMOST_NOTHING: u64 = 8 * 1024 * 1024;

/// An I/O error while doing something (a gerund) to `path`.
pub(crate) fn io_error(doing: &str, path: &Path, error: &io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded {
        ErrorKind::DiskFull
    } else {
        ErrorKind::Io
    };
    Error::new(kind, format!("{doing} {}: {error}", path.display()))
}

/// An error of the LSM tree while doing something (a gerund) to what lies in `path`.
pub(crate) fn tree_error(doing: &str, path: &Path, error: &fjall::Error) -> Error {
    match error {
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) => io_error(doing, path, e),
        fjall::Error::Locked => Error::new(
            ErrorKind::CannotConnectNow,
            format!("data directory {} is in use by another process", path.display()),
        ),
        // A worker thread of the tree died; its reason went to the log. The likeliest one can be seen from here.
        fjall::Error::Poisoned => match fs4::available_space(path) {
            Ok(free) if free < ALMOST_NOTHING => {
                Error::new(ErrorKind::DiskFull, format!("{doing} {}: no space left on the device", path.display()))
            }
            _ => Error::new(
                ErrorKind::Io,
                format!("{doing} {}: an earlier flush or write failed (see the log)", path.display()),
            ),
        },
        other => Error::new(ErrorKind::DataCorrupted, format!("{doing} {}: {other}", path.display())).hint(
            "A file there is damaged. Restore it from a backup, or the whole directory; what is intact stays readable.",
        ),
    }
}

/// The text of a panic's payload.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("unknown cause")
}
