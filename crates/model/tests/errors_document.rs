//! `docs/errors.md` lists every kind of error, and nothing else. `ATOLL_BLESS=1` writes its table anew.

use atoll_model::ErrorKind;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::{env, fs};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const BEGIN: &str = "<!-- table: made by crates/model/tests/errors_document.rs -->\n";
const END: &str = "<!-- end of table -->\n";

/// Sorted by SQLSTATE, as PostgreSQL's appendix is.
fn table() -> Result<String, Box<dyn std::error::Error>> {
    let mut kinds = ErrorKind::ALL.to_vec();
    kinds.sort_by_key(|kind| (kind.sqlstate(), kind.code()));
    let mut out = String::from("| SQLSTATE | code | meaning |\n|---|---|---|\n");
    for kind in kinds {
        writeln!(out, "| {} | `{}` | {} |", kind.sqlstate(), kind.code(), kind.meaning())?;
    }
    Ok(out)
}

#[test]
fn the_document_has_every_kind() -> TestResult {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
    let text = fs::read_to_string(path)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("the table's beginning is missing")?;
    let (found, after) = rest.split_once(END).ok_or("the table's end is missing")?;
    let wanted = table()?;
    if env::var_os("ATOLL_BLESS").is_some() {
        fs::write(path, format!("{before}{BEGIN}{wanted}{END}{after}"))?;
        return Ok(());
    }
    for (found, wanted) in found.lines().zip(wanted.lines()) {
        assert_eq!(found, wanted, "ATOLL_BLESS=1 cargo test -p atoll-model errors_document writes the table anew");
    }
    assert_eq!(found.lines().count(), wanted.lines().count());
    Ok(())
}

#[test]
fn codes_and_sqlstates_are_well_formed_and_unique() {
    let (mut codes, mut states) = (BTreeMap::new(), BTreeMap::new());
    for kind in ErrorKind::ALL {
        let (code, state) = (kind.code(), kind.sqlstate());
        assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
        assert!(state.len() == 5 && state.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()), "{state}");
        assert!(!kind.meaning().is_empty(), "{code} has no meaning");
        assert_eq!(codes.insert(code, kind), None, "{code} stands for two kinds");
        assert_eq!(states.insert(state, kind), None, "{state} stands for two kinds");
    }
}
