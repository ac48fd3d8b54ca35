//! Golden pairs of runs: `key=value` on each side, `…` where a run was cut, and what is to be done.

use super::*;
use crate::copies::course::{Course, MOST_ROWS, Pace, Pass, Progress};
use atoll_model::{CatalogVersion, Column, ColumnId, Fragmentation, ReadBalance, RelationId, Replication, SqlType};

fn table() -> Table {
    let column = |id: u16, name: &str, ty| Column {
        id: ColumnId(id),
        name: name.into(),
        ty,
        not_null: id == 1,
        default: None,
        missing: Value::Null,
        generated: None,
        hidden: false,
    };
    Table {
        id: RelationId(1),
        name: "t".into(),
        columns: vec![column(1, "k", SqlType::Int4), column(2, "v", SqlType::Float8)],
        next_column: 3,
        next_index: 1,
        key: vec![ColumnId(1)],
        primary_key: Some("t_pkey".into()),
        indexes: vec![],
        checks: vec![],
        foreign_keys: vec![],
        fragmentation: Fragmentation::None,
        fragments: vec![],
        replication: Replication::All,
        read_balance: ReadBalance::RoundRobin,
        on_replica_down: Default::default(),
    }
}

fn row(text: &str) -> Row {
    let (key, value) = text.split_once('=').unwrap_or_else(|| panic!("{text}"));
    let value =
        if value == "-" { Value::Null } else { Value::Float8(value.parse().unwrap_or_else(|_| panic!("{text}"))) };
    vec![Value::Int4(key.parse().unwrap_or_else(|_| panic!("{text}"))), value]
}

fn run(text: &str) -> Run {
    let rows = text.split_whitespace().filter(|word| *word != "…").map(row).collect();
    Run { rows, whole: !text.ends_with('…') }
}

/// `differing keys; end; rows`.
fn told(serving: &str, building: &str) -> String {
    match compare(&table(), &run(serving), &run(building)) {
        Ok(chunk) => {
            let key = |key: &Key| key[0].as_i64().map_or_else(String::new, |k| k.to_string());
            let differing: Vec<String> = chunk.differing.iter().map(key).collect();
            format!("{}; {}; {}", differing.join(" "), chunk.end.as_ref().map_or("all".into(), key), chunk.rows)
        }
        Err(error) => error.message().to_owned(),
    }
}

#[test]
fn runs_are_compared_as_far_as_both_are_known() {
    for (serving, building, expected) in [
        ("", "", "; all; 0"),
        ("1=1 2=2 3=3", "1=1 2=2 3=3", "; all; 3"),
        // Missing, different, too many.
        ("1=1 2=2 3=3", "", "1 2 3; all; 3"),
        ("1=1 2=2 3=3", "1=1 2=5 3=3", "2; all; 3"),
        ("2=2", "1=1 2=2 3=3", "1 3; all; 1"),
        ("1=1 3=3 5=-", "2=2 3=4 5=-", "1 2 3; all; 3"),
        // Values that are not equal to themselves, or equal and not the same, make no difference for ever.
        ("1=NaN 2=-0", "1=NaN 2=0", "; all; 2"),
        ("1=-", "1=0", "1; all; 1"),
        // A run that was cut says nothing of what follows.
        ("1=1 2=2 …", "1=1 2=2 3=3 4=4", "; 2; 2"),
        ("1=1 2=2 …", "1=1 2=2 3=3 …", "; 2; 2"),
        ("1=1 2=2 9=9 …", "1=1 2=2 3=3 …", "3; 3; 2"),
        ("5=5 6=6 …", "1=1 2=2 …", "1 2; 2; 0"),
        ("7=7 8=8 …", "", "7 8; 8; 2"),
        ("", "1=1 2=2 …", "1 2; 2; 0"),
        ("2=2 1=1", "", "a site gave rows of \"t\" out of order"),
        ("", "1=1 1=2", "a site gave rows of \"t\" out of order"),
    ] {
        assert_eq!(told(serving, building), expected, "[{serving}] and [{building}]");
    }
}

#[test]
fn a_row_becomes_what_it_should_be() {
    let (a, b) = (row("1=1"), row("1=2"));
    assert_eq!(change(None, None), None);
    assert_eq!(change(None, Some(a.clone())), Some(RowChange::Insert(a.clone())));
    assert_eq!(change(Some(a.clone()), None), Some(RowChange::Delete(a.clone())));
    assert_eq!(change(Some(a.clone()), Some(a.clone())), None);
    assert_eq!(change(Some(a.clone()), Some(b.clone())), Some(RowChange::Update { old: a, new: b }));
}

#[test]
fn changes_leave_one_image_for_each_key() {
    let update = |old: &str, new: &str| RowChange::Update { old: row(old), new: row(new) };
    let shown = |changes| -> Vec<String> {
        let show = |image: &Image| {
            let row = image.row.as_ref().map_or("gone".into(), |row| format!("{:?}", row[1]));
            format!("{}: {row}", image.key[0].as_i64().unwrap_or_default())
        };
        images(&table(), changes).iter().map(show).collect()
    };
    assert_eq!(
        shown(vec![RowChange::Insert(row("1=1")), RowChange::Delete(row("0=0"))]),
        ["0: gone", "1: Float8(1.0)"]
    );
    // Two rows change places, a third moves on.
    assert_eq!(
        shown(vec![update("1=1", "2=1"), update("2=2", "1=2"), update("3=3", "4=3")]),
        ["1: Float8(2.0)", "2: Float8(1.0)", "3: gone", "4: Float8(3.0)"]
    );
    assert_eq!(shown(vec![RowChange::Delete(row("1=1")), RowChange::Insert(row("1=5"))]), ["1: Float8(5.0)"]);
}

#[test]
fn a_course_copies_then_verifies() {
    let mut course = Course::new(CatalogVersion(7), 0);
    let chunk = |end: Option<i32>, rows, written| Progress { end: end.map(|k| vec![Value::Int4(k)]), rows, written };
    course.advance(chunk(Some(10), 10, 10));
    assert_eq!((course.pass, course.rows, course.written), (Pass::Copy, 10, 10));
    course.advance(chunk(None, 5, 4));
    assert_eq!((course.pass, course.rows, course.written, &course.after), (Pass::Verify, 0, 14, &None));
    course.advance(chunk(Some(15), 15, 0));
    assert_eq!((course.pass, course.rows), (Pass::Verify, 15));
    course.advance(chunk(None, 0, 0));
    assert_eq!(course.pass, Pass::Done);
}

#[test]
fn chunks_shrink_where_others_write_and_grow_again() {
    let mut pace = Pace::default();
    pace.slower();
    assert_eq!((pace.rows(), pace.waits()), (MOST_ROWS / 4, false));
    pace.single();
    assert!(pace.waits());
    pace.slower();
    assert!(pace.waits());
    for _ in 0..20 {
        pace.faster();
    }
    assert_eq!(pace, Pace::default());
}
