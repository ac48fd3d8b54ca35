//! What the node keeps in the store beside the rows: the catalog, fragments to be purged, sequences, row ids.
//!
//! Format of a value: a CRC-32 of the rest (4 bytes, little-endian), then JSON. The catalog carries its own format number.

use atoll_model::{CATALOG_FORMAT, Catalog, Error, ErrorKind, FragmentId, Result, SiteId};
use atoll_ports::site::Branch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Key of the catalog.
pub(crate) const CATALOG: &[u8] = b"catalog";
/// Key of the fragments to be purged.
pub(crate) const PURGE: &[u8] = b"purge";
/// Key of the number of times that the store was opened.
pub(crate) const EPOCH: &[u8] = b"epoch";

/// A fragment that no catalog names any more, and where its copies are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dropped {
    pub(crate) fragment: FragmentId,
    pub(crate) sites: Vec<SiteId>,
    /// Version of the first catalog without it.
    pub(crate) version: u64,
}

/// Stores a value as part of a branch.
///
/// # Errors
/// `Internal` when it cannot be written as JSON.
pub(crate) fn put<T: Serialize>(branch: &dyn Branch, key: &[u8], value: &T) -> Result<()> {
    let json = serde_json::to_vec(value).map_err(|e| Error::internal(format!("encoding {}: {e}", name(key))))?;
    let mut bytes = crc32fast::hash(&json).to_le_bytes().to_vec();
    bytes.extend(json);
    branch.put_meta(key, Some(bytes));
    Ok(())
}

/// Reads a value.
///
/// # Errors
/// `DataCorrupted` when it is not what was written.
pub(crate) fn get<T: DeserializeOwned>(branch: &dyn Branch, key: &[u8]) -> Result<Option<T>> {
    let Some(bytes) = branch.get_meta(key)? else { return Ok(None) };
    let corrupted =
        |why: String| Error::new(ErrorKind::DataCorrupted, format!("the stored {} cannot be read: {why}", name(key)));
    let (crc, json) = bytes.split_at_checked(4).ok_or_else(|| corrupted("too short".into()))?;
    if crc != crc32fast::hash(json).to_le_bytes() {
        return Err(corrupted("wrong checksum".into()));
    }
    serde_json::from_slice(json).map(Some).map_err(|e| corrupted(e.to_string()))
}

/// Reads the catalog.
///
/// # Errors
/// `DataCorrupted`; `NotSupported` when a newer Atoll wrote it.
pub(crate) fn catalog(branch: &dyn Branch) -> Result<Option<Catalog>> {
    let catalog: Option<Catalog> = get(branch, CATALOG)?;
    if let Some(format) = catalog.as_ref().map(|c| c.format).filter(|f| *f > CATALOG_FORMAT) {
        return Err(Error::unsupported(format!(
            "the catalog has format {format}; this Atoll reads up to {CATALOG_FORMAT}"
        ))
        .hint("Start the newer Atoll that wrote it."));
    }
    Ok(catalog)
}

fn name(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
