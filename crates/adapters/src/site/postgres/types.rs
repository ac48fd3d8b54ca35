//! Which type of PostgreSQL holds which of Atoll's: one function each way. `docs/types.md` shows both as a table.
//!
//! Invariant: a value that a column can hold comes back as it was, and text is ordered by its bytes, as everywhere in Atoll.

use atoll_model::{Column, Error, Result, SqlType};

/// Digits at most of a `numeric` in Atoll.
const MAX_PRECISION: i32 = 38;

/// Bytes that PostgreSQL adds to a length in a type modifier.
const MODIFIER_HEADER: i32 = 4;

/// The type with which a column is declared at the site, collation included.
pub(super) fn declared(column: &Column) -> Result<String> {
    let ty = &column.ty;
    let refused = |why: &str| {
        Err(Error::unsupported(format!("column \"{}\" of type {ty} at a PostgreSQL site", column.name)).detail(why))
    };
    match ty {
        SqlType::Interval => return refused("Intervals are not stored."),
        SqlType::Array(item) if matches!(**item, SqlType::Array(_)) => {
            return refused("PostgreSQL has no arrays of arrays, only arrays of several dimensions.");
        }
        _ => {}
    }
    Ok(if is_text(ty) { format!("{ty} COLLATE \"C\"") } else { ty.to_string() })
}

/// Whether values of the type are ordered by a collation.
pub(super) fn is_text(ty: &SqlType) -> bool {
    match ty {
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => true,
        SqlType::Array(item) => is_text(item),
        _ => false,
    }
}

/// What makes a value of a list that `unnest` has taken apart one of the type: arrays travel as texts.
pub(super) fn from_list(ty: &SqlType) -> String {
    // Values that are looked for may have more digits of a second than the column.
    if matches!(ty, SqlType::Array(_)) { format!("::{}", ty.without_second_digits()) } else { String::new() }
}

/// The type of a site's column, by its oid and modifier. `None`: one whose values Atoll cannot carry.
pub(super) fn of_site(oid: u32, modifier: i32) -> Option<SqlType> {
    let limited = (modifier >= MODIFIER_HEADER).then_some(modifier - MODIFIER_HEADER);
    let digits = u8::try_from(modifier).ok();
    let bare = SqlType::from_pg_oid(oid).filter(|ty| ty.pg_oid() == oid)?;
    Some(match bare {
        SqlType::Varchar(_) => SqlType::Varchar(limited.and_then(|n| u32::try_from(n).ok())),
        SqlType::Char(_) => SqlType::Char(u32::try_from(limited?).ok()?),
        SqlType::Numeric(_) => match limited {
            None => SqlType::Numeric(None),
            Some(packed) => {
                let (precision, scale) = (packed >> 16 & 0xffff, (packed & 0x7ff ^ 1024) - 1024);
                if precision > MAX_PRECISION || !(0..=precision).contains(&scale) {
                    return None;
                }
                SqlType::Numeric(Some((u8::try_from(precision).ok()?, i8::try_from(scale).ok()?)))
            }
        },
        SqlType::Time(_) => SqlType::Time(digits),
        SqlType::Timestamp(_) => SqlType::Timestamp(digits),
        SqlType::TimestampTz(_) => SqlType::TimestampTz(digits),
        // The modifier of an array is that of its items.
        SqlType::Array(item) => SqlType::Array(Box::new(of_site(item.pg_oid(), modifier)?)),
        SqlType::Interval => return None,
        other => other,
    })
}

/// Whether values of a site's column of one type are values of a table's column of another: the same type, or a text that may be longer.
pub(super) fn carries(site: &SqlType, table: &SqlType) -> bool {
    let loose = |ty: &SqlType| matches!(ty, SqlType::Text | SqlType::Varchar(None));
    site.has_values_of(table) || (loose(site) && loose(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_are_read() {
        for (oid, modifier, ty) in [
            (1043, -1, Some(SqlType::Varchar(None))),
            (1043, 24, Some(SqlType::Varchar(Some(20)))),
            (1042, 5, Some(SqlType::Char(1))),
            (1700, -1, Some(SqlType::Numeric(None))),
            (1700, ((10 << 16) | 2) + 4, Some(SqlType::Numeric(Some((10, 2))))),
            // numeric(40, 2), numeric(3, -2)
            (1700, ((40 << 16) | 2) + 4, None),
            (1700, ((3 << 16) | (-2 & 0x7ff)) + 4, None),
            (1186, -1, None),
            (600, -1, None),
            (19, -1, None),
            (1007, -1, Some(SqlType::Array(Box::new(SqlType::Int4)))),
            (1015, 9, Some(SqlType::Array(Box::new(SqlType::Varchar(Some(5)))))),
            (1187, -1, None),
            (1114, -1, Some(SqlType::Timestamp(None))),
            (1114, 0, Some(SqlType::Timestamp(Some(0)))),
            (1184, 3, Some(SqlType::TimestampTz(Some(3)))),
            (1183, 6, Some(SqlType::Array(Box::new(SqlType::Time(Some(6)))))),
        ] {
            assert_eq!(of_site(oid, modifier), ty, "{oid} {modifier}");
        }
    }

    #[test]
    fn columns_round_as_their_table_does_or_carry_nothing() {
        assert!(carries(&SqlType::Timestamp(Some(6)), &SqlType::Timestamp(None)));
        assert!(!carries(&SqlType::Timestamp(Some(3)), &SqlType::Timestamp(None)));
        assert!(!carries(&SqlType::Timestamp(None), &SqlType::Timestamp(Some(3))));
    }
}
