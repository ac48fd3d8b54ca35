//! What the documents say the server does, the server does: their SQL is run, their answers compared, their refusals provoked.
//!
//! ```` ```sql ```` blocks run in order on a new server and must succeed; a ```` ```text ```` block right behind one holds the rows
//! of its last statement, values separated by ` | `. A table's line `` | `statement` | SQLSTATE | `` must fail with that code.

use atoll_e2e::server::{Atoll, Server as _};
use atoll_e2e::wire::Client;
use std::fs;

enum Part {
    Sql(String),
    Answer(Vec<String>),
    Refusal { statement: String, sqlstate: String },
}

/// The parts of a document that can be checked, each with its line.
fn parts(text: &str) -> Vec<(usize, Part)> {
    let mut parts = vec![];
    let mut lines = text.lines().enumerate();
    let mut answers = false;
    while let Some((at, line)) = lines.next() {
        let mut block = || lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect::<Vec<_>>();
        match line {
            "```sql" => parts.push((at + 1, Part::Sql(block().join("\n")))),
            "```text" if answers => {
                parts.push((at + 1, Part::Answer(block().iter().map(|line| line.trim_end().to_string()).collect())));
            }
            _ if line.starts_with("```") => drop(block()),
            _ => {
                if let [statement, sqlstate] =
                    line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>()[..]
                    && let Some(statement) = statement.strip_prefix('`').and_then(|s| s.strip_suffix('`'))
                    && sqlstate.len() == 5
                    && sqlstate.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
                {
                    let refusal = Part::Refusal { statement: statement.into(), sqlstate: sqlstate.into() };
                    parts.push((at + 1, refusal));
                }
            }
        }
        answers = line == "```sql";
    }
    parts
}

/// Runs each statement of a block; the rows of the last.
fn run(client: &mut Client, sql: &str) -> Result<Vec<String>, String> {
    let mut rows = vec![];
    let text: String = sql.lines().filter(|line| !line.starts_with("--")).flat_map(|line| [line, "\n"]).collect();
    for statement in text.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        let reply = client.query(statement).map_err(|error| format!("{statement}: {error}"))?;
        let shown = |value: &Option<String>| value.clone().unwrap_or_default();
        rows = reply.rows.iter().map(|row| row.iter().map(shown).collect::<Vec<_>>().join(" | ")).collect();
    }
    Ok(rows)
}

/// Everything in a document that is not as it says.
fn check(name: &str) -> usize {
    let path = format!("{}/../../{name}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let atoll = Atoll::start();
    let mut client = atoll.connect().expect("a new server answers");
    let (mut wrong, mut rows) = (vec![], vec![]);
    let parts = parts(&text);
    for (line, part) in &parts {
        match part {
            Part::Sql(sql) => match run(&mut client, sql) {
                Ok(found) => rows = found,
                Err(error) => wrong.push(format!("{name}:{line}: {error}")),
            },
            Part::Answer(expected) if *expected != rows => {
                wrong.push(format!("{name}:{line}: the answer is\n{}", rows.join("\n")));
            }
            Part::Answer(_) => {}
            Part::Refusal { statement, sqlstate } => match client.query(statement) {
                Err(error) if error.sqlstate() == Some(sqlstate) => {}
                Err(error) => wrong.push(format!("{name}:{line}: {statement}: not {sqlstate} but {error}")),
                Ok(_) => wrong.push(format!("{name}:{line}: {statement}: not refused")),
            },
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    parts.len()
}

#[test]
fn sql() {
    assert!(check("docs/sql.md") > 40, "the page's examples were not found");
}

#[test]
fn readme() {
    assert!(check("README.md") > 0, "the page's example was not found");
}
