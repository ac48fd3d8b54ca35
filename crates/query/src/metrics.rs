//! What the engine counts: statements by the number of fragments that they read or wrote.

use ::metrics::{Counter, counter, describe_counter};
use std::sync::OnceLock;

const NAME: &str = "atoll_statement_fragments_total";

/// Upper ends of the classes, and their names.
const CLASSES: [(usize, &str); 5] = [(0, "0"), (1, "1"), (4, "2-4"), (16, "5-16"), (usize::MAX, "17+")];

/// Counts a statement that concerned so many fragments.
pub(crate) fn statement_over(fragments: usize) {
    static COUNTERS: OnceLock<[Counter; CLASSES.len()]> = OnceLock::new();
    // At the first statement: the recorder is in place by then.
    let counters = COUNTERS.get_or_init(|| {
        describe_counter!(NAME, "Planned and keyed statements, by the number of fragments that reduction left");
        CLASSES.map(|(_, name)| counter!(NAME, "fragments" => name))
    });
    if let Some(class) = CLASSES.iter().position(|(end, _)| fragments <= *end) {
        counters[class].increment(1);
    }
}
