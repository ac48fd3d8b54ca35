//! Dates and times as PostgreSQL 15 reads and writes them.

use super::super::utf8;
use super::*;
use proptest::prelude::*;

fn written(write: impl Fn(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    utf8(out)
}

#[test]
fn dates() {
    for (text, want) in [
        ("1970-01-01", "1970-01-01"),
        ("2013-2-3", "2013-02-03"),
        ("20130203", "2013-02-03"),
        ("2013/02/03", "2013-02-03"),
        ("2/3/2013", "2013-02-03"),
        ("Feb 3, 2013", "2013-02-03"),
        ("3 February 2013", "2013-02-03"),
        ("2013-Feb-03", "2013-02-03"),
        ("2000-02-29", "2000-02-29"),
        ("0044-03-15 BC", "0044-03-15 BC"),
        ("12013-01-01", "12013-01-01"),
        ("2013-01-01 23:59:59", "2013-01-01"),
        ("epoch", "1970-01-01"),
    ] {
        assert_eq!(parse_date(text).map(|d| written(|o| write_date(d, o))).ok().as_deref(), Some(want), "{text}");
    }
    for (text, kind) in [
        ("2013-02-29", ErrorKind::DatetimeOverflow),
        ("2013-13-01", ErrorKind::DatetimeOverflow),
        ("0000-01-01", ErrorKind::DatetimeOverflow),
        ("99999999-01-01", ErrorKind::DatetimeOverflow),
        ("", ErrorKind::InvalidDatetime),
        ("soon", ErrorKind::InvalidDatetime),
        ("2013-01", ErrorKind::InvalidDatetime),
        ("2013-01-01x", ErrorKind::InvalidDatetime),
        ("infinity", ErrorKind::NotSupported),
        ("today", ErrorKind::NotSupported),
    ] {
        assert_eq!(parse_date(text).map_err(|e| e.kind()), Err(kind), "{text}");
    }
}

#[test]
fn timestamps() {
    for (text, want) in [
        ("2013-01-02 03:04:05", "2013-01-02 03:04:05+00"),
        ("2013-01-02T03:04:05.678900Z", "2013-01-02 03:04:05.6789+00"),
        ("2013-01-02 03:04:05+02", "2013-01-02 01:04:05+00"),
        ("2013-01-02 03:04:05 -0530", "2013-01-02 08:34:05+00"),
        ("2013-01-02 03:04:05.1234567 UTC", "2013-01-02 03:04:05.123457+00"),
        ("2013-01-02 11:04 PM", "2013-01-02 23:04:00+00"),
        ("2013-01-02 24:00:00", "2013-01-03 00:00:00+00"),
        ("2013-01-02 23:59:60", "2013-01-03 00:00:00+00"),
        ("Jan 2 2013 03:04:05", "2013-01-02 03:04:05+00"),
        ("0001-01-01 00:00:00 BC", "0001-01-01 00:00:00+00 BC"),
        ("2013-01-02", "2013-01-02 00:00:00+00"),
    ] {
        let got = parse_timestamptz(text).map(|t| written(|o| write_timestamptz(t, o)));
        assert_eq!(got.as_deref().ok(), Some(want), "{text}");
    }
    assert_eq!(parse_timestamp("2013-01-02 03:04:05+02").ok(), parse_timestamp("2013-01-02 03:04:05").ok());
    for (text, kind) in [
        ("2013-01-02 25:00:00", ErrorKind::DatetimeOverflow),
        ("2013-01-02 03:60", ErrorKind::DatetimeOverflow),
        ("2013-01-02 03", ErrorKind::InvalidDatetime),
        ("03:04:05", ErrorKind::InvalidDatetime),
        ("2013-01-02 03:04:05 Europe/Berlin", ErrorKind::InvalidParameterValue),
        ("300000-01-01 00:00", ErrorKind::DatetimeOverflow),
    ] {
        assert_eq!(parse_timestamptz(text).map_err(|e| e.kind()), Err(kind), "{text}");
    }
}

#[test]
fn times() {
    assert_eq!(parse_time("24:00:00").ok(), Some(MICROS_PER_DAY));
    assert_eq!(parse_time("04:05:06.7").map(|t| written(|o| write_time(t, o))).ok().as_deref(), Some("04:05:06.7"));
    assert!(parse_time("24:00:01").is_err());
    assert!(parse_time("2013-01-01").is_err());
}

proptest! {
    #[test]
    fn dates_read_back(days in *DATES.start() as i32..=2_145_000_000) {
        let text = written(|o| write_date(days, o));
        prop_assert_eq!(parse_date(&text).ok(), Some(days), "{}", text);
        let (y, m, d) = civil_from_days(i64::from(days));
        prop_assert_eq!(days_from_civil(y, m, d), i64::from(days));
    }

    #[test]
    fn timestamps_read_back(micros in TIMESTAMPS) {
        let text = written(|o| write_timestamptz(micros, o));
        prop_assert_eq!(parse_timestamptz(&text).ok(), Some(micros), "{}", text);
    }

    #[test]
    fn no_text_panics(text in ".{0,40}", close in "[-+0-9:./ TZabcjpmn,]{0,30}", days: i32, micros: i64) {
        for t in [&text, &close] {
            let _ = (parse_date(t), parse_time(t), parse_timestamp(t), parse_timestamptz(t));
        }
        written(|o| write_date(days, o));
        written(|o| { write_time(micros, o); write_timestamp(micros, o); });
    }
}
