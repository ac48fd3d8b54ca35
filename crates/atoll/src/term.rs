//! What the program says to a person: messages on standard error, coloured only on a terminal.
//!
//! Invariant: standard output carries results alone, so that it can be piped; a closed pipe is never a panic.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Whether a stream takes colour: it is a terminal, and `NO_COLOR` is not set (<https://no-color.org>).
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|v| v != "dumb")
}

/// Writes one line to standard error.
pub fn say(line: impl Display) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes `atoll: message` to standard error, with the name in red on a terminal.
pub fn fail(message: impl Display) {
    let stderr = io::stderr();
    if colours(&stderr) {
        say(format_args!("\x1b[1;31matoll:\x1b[0m {message}"));
    } else {
        say(format_args!("atoll: {message}"));
    }
}

/// `text` in bold where `on` is true.
pub fn bold(text: impl Display, on: bool) -> String {
    if on { format!("\x1b[1m{text}\x1b[0m") } else { text.to_string() }
}

/// `text` dimmed where `on` is true.
pub fn dim(text: impl Display, on: bool) -> String {
    if on { format!("\x1b[2m{text}\x1b[0m") } else { text.to_string() }
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn thousands_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (336_776, "336,776"), (1_000_000, "1,000,000")] {
            assert_eq!(thousands(n), text);
        }
    }
}
