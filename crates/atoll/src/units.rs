//! Sizes and durations as people write them (`64 MiB`, `30s`), typed.
//!
//! Invariant: what is printed parses back to the same value, so that the example configuration is the defaults.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes: `512 MiB`, `64kB`, `1073741824`.
///
/// `KiB`, `MiB`, `GiB`, `TiB` are powers of 1024, and so are the short forms `k`, `M`, `G`, `T` with or without
/// a `B`, as in PostgreSQL's own settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl ByteSize {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// The size in bytes, saturating at the platform's `usize`.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bytes) in SIZE_UNITS {
            if self.0 >= bytes && self.0.is_multiple_of(bytes) {
                return write!(f, "{} {unit}", self.0 / bytes);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (number, unit) = split_number(s);
        let number: u64 = number
            .parse()
            .map_err(|_| format!("`{s}` is not a size: write a whole number and a unit, such as `64 MiB`"))?;
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            "t" | "tb" | "tib" => 1 << 40,
            _ => {
                return Err(format!("unknown unit `{unit}` in size `{s}`: use KiB, MiB, GiB or TiB"));
            }
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("size `{s}` is too large"))
    }
}

/// A length of time: `250ms`, `30s`, `5min`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// `n` seconds.
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms.is_multiple_of(1000) { write!(f, "{}s", ms / 1000) } else { write!(f, "{ms}ms") }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (number, unit) = split_number(s);
        let number: u64 = number
            .parse()
            .map_err(|_| format!("`{s}` is not a duration: write a whole number and a unit, such as `30s`"))?;
        let ms: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "min" => 60_000,
            "h" => 3_600_000,
            "" if number == 0 => 1,
            "" => return Err(format!("duration `{s}` lacks a unit: use ms, s, min or h")),
            _ => {
                return Err(format!("unknown unit `{unit}` in duration `{s}`: use ms, s, min or h"));
            }
        };
        number
            .checked_mul(ms)
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(|| format!("duration `{s}` is too long"))
    }
}

fn split_number(s: &str) -> (&str, &str) {
    let s = s.trim();
    let end = s.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(s.len());
    (&s[..end], s[end..].trim())
}

macro_rules! as_text {
    ($type:ty, $expecting:literal, $from_int:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, s: &str) -> Result<$type, E> {
                        s.parse().map_err(E::custom)
                    }
                    fn visit_i64<E: de::Error>(self, n: i64) -> Result<$type, E> {
                        let n = u64::try_from(n).map_err(|_| E::custom("must not be negative"))?;
                        ($from_int)(n).map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
    };
}

as_text!(ByteSize, "a size such as \"64 MiB\"", |n| Ok::<_, String>(ByteSize(n)));
as_text!(Span, "a duration such as \"30s\"", |n: u64| n.to_string().parse::<Span>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_print() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("64 MiB", 64 << 20), ("64MB", 64 << 20), ("1G", 1 << 30), ("8kB", 8192)]
        {
            let size: ByteSize = text.parse().expect("a valid size");
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size));
        }
        for bad in ["", "MiB", "1.5 GiB", "-1", "5 apples", "99999999999 TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_parse_and_print() {
        for (text, ms) in [("0", 0), ("250ms", 250), ("30s", 30_000), ("5 min", 300_000), ("1h", 3_600_000)] {
            let span: Span = text.parse().expect("a valid duration");
            assert_eq!(span.0.as_millis(), ms, "{text}");
            assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }
        for bad in ["", "30", "s", "3 weeks", "-1s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
