//! Progress of a load: a bar on a terminal, a line every few seconds elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::pipeline::Counters;
use crate::term;

/// How often a bar moves.
const TICK: Duration = Duration::from_millis(100);
/// How often a line is printed where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// What a bar follows.
pub enum Measure {
    /// Bytes of a file, read so far; its size where it is known.
    Bytes(Arc<AtomicU64>, Option<u64>),
    /// Rows loaded, of a number that is known.
    Rows(u64),
}

/// Shows the progress of one load until it is finished.
pub struct Progress {
    bar: ProgressBar,
    counters: Arc<Counters>,
    began: Instant,
    task: tokio::task::JoinHandle<()>,
}

impl Progress {
    /// Begins to show `counters` under `label`.
    pub fn start(label: &str, measure: Measure, counters: Arc<Counters>) -> Self {
        let total = match &measure {
            Measure::Bytes(_, size) => *size,
            Measure::Rows(rows) => Some(*rows),
        };
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = match (&measure, total) {
            (_, None) => "{prefix:16} {spinner} {msg}",
            (Measure::Bytes(..), _) => "{prefix:16} {wide_bar} {percent:>3}% {msg} {eta:>4} left",
            (Measure::Rows(_), _) => "{prefix:16} {wide_bar} {percent:>3}% {msg} {eta:>4} left",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(label.to_owned());
        let (began, shown, counted, label) = (Instant::now(), bar.clone(), counters.clone(), label.to_owned());
        let task = tokio::spawn(async move {
            let hidden = shown.is_hidden();
            let mut ticks = tokio::time::interval(if hidden { LINE } else { TICK });
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let rows = counted.loaded.load(Ordering::Relaxed);
                let message = format!("{} rows, {}/s", term::thousands(rows), rate(rows, began.elapsed()));
                if hidden {
                    term::say(format_args!("{label}: {message}"));
                    continue;
                }
                shown.set_position(match &measure {
                    Measure::Bytes(read, _) => read.load(Ordering::Relaxed),
                    Measure::Rows(_) => rows,
                });
                shown.set_message(message);
            }
        });
        Self { bar, counters, began, task }
    }

    /// Takes the bar away; what was done, for a last line.
    pub fn finish(self) -> String {
        self.task.abort();
        self.bar.finish_and_clear();
        let elapsed = self.began.elapsed();
        let rows = self.counters.loaded.load(Ordering::Acquire);
        format!("{} rows in {:.2} s ({} rows/s)", term::thousands(rows), elapsed.as_secs_f64(), rate(rows, elapsed))
    }
}

fn rate(rows: u64, elapsed: Duration) -> String {
    // A whole number is exact enough for people.
    term::thousands((rows as f64 / elapsed.as_secs_f64().max(1e-3)) as u64)
}
