//! The node's own durable values: the catalog, the fragments to be purged, positions of sequences, the count of starts, the
//! cluster's id, decisions to commit.
//!
//! Form of a value: a magic number, the format's version, a CRC-32 of what follows, JSON. A newer version is refused, never guessed at.

use atoll_model::{Error, ErrorKind, FragmentId, RelationId, Result, SiteId};
use atoll_ports::site::{Branch, Meta};
use atoll_protocol::TransactionId;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) const CATALOG: &[u8] = b"catalog";
pub(crate) const PURGES: &[u8] = b"purges";
pub(crate) const STARTS: &[u8] = b"starts";
pub(crate) const CLUSTER: &[u8] = b"cluster";
/// What the keys of decisions begin with.
pub(crate) const DECISIONS: &[u8] = b"decision/";

/// What the keys of copies that are being built begin with.
pub(crate) const COURSES: &[u8] = b"copy/";

/// What the keys of ended transactions begin with.
pub(crate) const HISTORY: &[u8] = b"history/";

const MAGIC: &[u8; 4] = b"ATOL";
const HEADER: usize = 12;

/// A copy of a fragment that no catalog names any more.
pub(crate) type Purge = (SiteId, FragmentId);

/// The key of a sequence's position.
pub(crate) fn sequence(id: RelationId) -> Vec<u8> {
    format!("sequence/{id}").into_bytes()
}

/// The key of how far a copy is that is being built.
pub(crate) fn course(site: SiteId, fragment: FragmentId) -> Vec<u8> {
    [COURSES, format!("{fragment}/{site}").as_bytes()].concat()
}

/// The key of a decision to commit.
pub(crate) fn decision(transaction: &TransactionId) -> Vec<u8> {
    [DECISIONS, transaction.to_string().as_bytes()].concat()
}

pub(crate) fn encode(format: u32, value: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(value)
        .map_err(|e| Error::internal(format!("a value of the node cannot be written: {e}")))?;
    let mut out = Vec::with_capacity(HEADER + json.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&format.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&json).to_le_bytes());
    out.extend_from_slice(&json);
    Ok(out)
}

pub(crate) fn decode<T: DeserializeOwned>(what: &str, format: u32, bytes: &[u8]) -> Result<T> {
    let damaged = |why: &str| Error::new(ErrorKind::DataCorrupted, format!("the stored {what} is damaged: {why}"));
    let (Some(header), Some(json)) = (bytes.get(..HEADER), bytes.get(HEADER..)) else {
        return Err(damaged("it is too short"));
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if &header[..4] != MAGIC {
        return Err(damaged("it does not begin as it should"));
    }
    let written = word(4);
    if written > format {
        return Err(Error::new(
            ErrorKind::NotSupported,
            format!("the stored {what} has format {written}, this version of Atoll reads formats up to {format}"),
        )
        .hint("Start the version of Atoll that wrote this data directory, or a newer one."));
    }
    if word(8) != crc32fast::hash(json) {
        return Err(damaged("its checksum does not match"));
    }
    serde_json::from_slice(json).map_err(|e| damaged(&e.to_string()))
}

/// Reads one of the node's values.
pub(crate) fn read<T: DeserializeOwned>(branch: &dyn Branch, what: &str, key: &[u8], format: u32) -> Result<Option<T>> {
    meta(branch)?.get(key)?.map(|bytes| decode(what, format, &bytes)).transpose()
}

/// Reads all values whose keys begin so.
pub(crate) fn list<T: DeserializeOwned>(branch: &dyn Branch, what: &str, prefix: &[u8], format: u32) -> Result<Vec<T>> {
    meta(branch)?.list(prefix)?.iter().map(|(_, bytes)| decode(what, format, bytes)).collect()
}

/// The keys of all values that begin so.
pub(crate) fn keys(branch: &dyn Branch, prefix: &[u8]) -> Result<Vec<Vec<u8>>> {
    Ok(meta(branch)?.list(prefix)?.into_iter().map(|(key, _)| key).collect())
}

/// Has the branch's commit wait for the disk.
pub(crate) fn require_durable(branch: &dyn Branch) -> Result<()> {
    meta(branch)?.require_durable();
    Ok(())
}

/// Writes one of the node's values.
pub(crate) fn write(branch: &dyn Branch, key: &[u8], format: u32, value: &impl Serialize) -> Result<()> {
    meta(branch)?.put(key, Some(encode(format, value)?));
    Ok(())
}

/// Removes one of the node's values.
pub(crate) fn remove(branch: &dyn Branch, key: &[u8]) -> Result<()> {
    meta(branch)?.put(key, None);
    Ok(())
}

fn meta(branch: &dyn Branch) -> Result<&dyn Meta> {
    branch.meta().ok_or_else(|| Error::internal("the node's values are kept at its home, which this branch is not at"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_model::{CATALOG_FORMAT, Column, SqlType};

    /// A data directory from before times had digits of a second opens, and one that uses none of them is written as it was.
    #[test]
    fn columns_from_before_times_had_digits() -> Result<()> {
        let stored = |ty: serde_json::Value| {
            serde_json::json!({
                "id": 2, "name": "at", "ty": ty, "not_null": true, "default": null, "missing": "Null", "generated": null,
                "hidden": false,
            })
        };
        for (ty, read) in [
            (serde_json::json!("Timestamp"), SqlType::Timestamp(None)),
            (serde_json::json!("TimestampTz"), SqlType::TimestampTz(None)),
            (serde_json::json!({ "Array": "Time" }), SqlType::Array(Box::new(SqlType::Time(None)))),
        ] {
            let old = encode(CATALOG_FORMAT, &stored(ty))?;
            let column: Column = decode("catalog", CATALOG_FORMAT, &old)?;
            assert_eq!(column.ty, read);
            let again: serde_json::Value = decode("catalog", CATALOG_FORMAT, &encode(CATALOG_FORMAT, &column)?)?;
            assert_eq!(again, decode::<serde_json::Value>("catalog", CATALOG_FORMAT, &old)?);
        }
        Ok(())
    }

    #[test]
    fn values_are_checked_when_read() -> Result<()> {
        let bytes = encode(1, &vec![1, 2, 3])?;
        assert_eq!(decode::<Vec<i32>>("list", 1, &bytes)?, vec![1, 2, 3]);
        let newer = encode(2, &vec![1])?;
        assert_eq!(decode::<Vec<i32>>("list", 1, &newer).map_err(|e| e.kind()), Err(ErrorKind::NotSupported));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(decode::<Vec<i32>>("list", 1, &damaged).is_err(), "byte {at}");
        }
        assert!(decode::<Vec<i32>>("list", 1, &bytes[..5]).is_err());
        Ok(())
    }
}
