//! Atoll: configuration, wiring and subcommands.
fn main() {}
