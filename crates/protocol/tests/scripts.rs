//! Golden scripts: `tests/scripts/*.txt` are conversations with the state machines, to be read by people.
//!
//! A line that begins at the margin is an input, and the indented lines below it are what the machine wants done, then
//! when it wants to be woken if that has changed. `+5s` lets time pass. `== title` begins a new case with a new machine, `#` a comment.
//! The first word of a file's name says which machine it is about.
//!
//! `UPDATE=1 cargo test -p atoll-protocol --test scripts` writes what the machines do into the files: read the difference before
//! you commit it.

mod script;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

type TestResult = Result<(), Box<dyn std::error::Error>>;

#[test]
fn machines_do_what_the_scripts_say() -> TestResult {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.sort();
    assert!(!files.is_empty(), "no scripts in {}", folder.display());
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = String::new();
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let written = fs::read_to_string(&path)?;
        let played = play(&name, &written).map_err(|e| format!("{}: {e}", path.display()))?;
        if update {
            fs::write(&path, played)?;
        } else if played != written {
            difference(&path, &written, &played, &mut wrong)?;
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong}\nUPDATE=1 rewrites the scripts").into()) }
}

/// Plays a script, and returns it with what the machines did.
fn play(name: &str, text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut subject = script::subject(name)?;
    let mut last_wake = None;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with(' ') {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if line.starts_with("==") {
            subject = script::subject(name)?;
            last_wake = None;
        } else if !line.is_empty() && !line.starts_with('#') {
            let effects = subject.input(line).map_err(|e| format!("line {}: {line}: {e}", at + 1))?;
            let wake = subject.wake_at();
            let changed = (wake != last_wake).then(|| wake.map_or("(no alarm)".into(), |t| format!("(alarm at {t})")));
            for line in effects.into_iter().chain(changed) {
                writeln!(out, "    {line}").map_err(|e| e.to_string())?;
            }
            last_wake = wake;
        }
    }
    Ok(out)
}

/// The first place where they part, with what surrounds it.
fn difference(path: &Path, written: &str, played: &str, out: &mut String) -> std::fmt::Result {
    let (written, played): (Vec<&str>, Vec<&str>) = (written.lines().collect(), played.lines().collect());
    let same = written.iter().zip(&played).take_while(|(w, p)| w == p).count();
    writeln!(out, "{}:{}", path.display(), same + 1)?;
    for line in &written[same.saturating_sub(4)..same] {
        writeln!(out, "      {line}")?;
    }
    for (what, lines) in [("script ", &written), ("machine", &played)] {
        for line in lines.iter().skip(same).take(4) {
            writeln!(out, "{what} {line}")?;
        }
    }
    Ok(())
}
