//! The form in which a [`SqlType`] is stored.
//!
//! Invariant: a time or timestamp without declared digits is stored by its bare name, as it was before there were any; so data
//! directories of that time can be read, and they read what does not use them.

use super::SqlType;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Times and timestamps without declared digits.
#[derive(Serialize, Deserialize)]
enum Bare {
    Time,
    Timestamp,
    TimestampTz,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Bare(Bare),
    Other(#[serde(with = "SqlType")] SqlType),
}

impl Serialize for SqlType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            SqlType::Time(None) => Bare::Time.serialize(serializer),
            SqlType::Timestamp(None) => Bare::Timestamp.serialize(serializer),
            SqlType::TimestampTz(None) => Bare::TimestampTz.serialize(serializer),
            other => SqlType::serialize(other, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for SqlType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Stored::deserialize(deserializer)? {
            Stored::Bare(Bare::Time) => SqlType::Time(None),
            Stored::Bare(Bare::Timestamp) => SqlType::Timestamp(None),
            Stored::Bare(Bare::TimestampTz) => SqlType::TimestampTz(None),
            Stored::Other(other) => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_as_they_were_written_before_they_had_digits() {
        for (stored, ty) in [
            ("\"Int8\"", SqlType::Int8),
            ("\"Time\"", SqlType::Time(None)),
            ("\"Timestamp\"", SqlType::Timestamp(None)),
            ("\"TimestampTz\"", SqlType::TimestampTz(None)),
            ("{\"Varchar\":20}", SqlType::Varchar(Some(20))),
            ("{\"Numeric\":[10,2]}", SqlType::Numeric(Some((10, 2)))),
            ("{\"Array\":\"Timestamp\"}", SqlType::Array(Box::new(SqlType::Timestamp(None)))),
        ] {
            assert_eq!(serde_json::from_str::<SqlType>(stored).ok(), Some(ty.clone()));
            assert_eq!(serde_json::to_string(&ty).ok().as_deref(), Some(stored));
        }
    }

    #[test]
    fn declared_digits_are_stored() {
        for (stored, ty) in [
            ("{\"Timestamp\":3}", SqlType::Timestamp(Some(3))),
            ("{\"Array\":{\"TimestampTz\":0}}", SqlType::Array(Box::new(SqlType::TimestampTz(Some(0))))),
            ("{\"Time\":6}", SqlType::Time(Some(6))),
        ] {
            assert_eq!(serde_json::from_str::<SqlType>(stored).ok(), Some(ty.clone()));
            assert_eq!(serde_json::to_string(&ty).ok().as_deref(), Some(stored));
        }
        assert!(serde_json::from_str::<SqlType>("\"Year\"").is_err());
    }
}
