//! The conformance suite of the port [`Site`](atoll_ports::site::Site): what its contract promises, asked of every engine; and the faults
//! that only a site across a network has.

mod answers;
mod definitions;
mod digests;
mod faults;
mod faults_mysql;
mod locks;
mod maria;
mod queries;
mod queries_mysql;
mod reads;
mod server;
mod silence;
mod transactions;
mod two_phase;
mod windows;
mod world;
mod writes;

use world::{TestResult, World};

/// Runs each check on each engine. One world serves all checks of a group: they use tables of their own.
macro_rules! suite {
    ($($group:ident: $($check:ident),*;)*) => {$(
        mod $group {
            use super::{TestResult, World};

            async fn all(world: World) -> TestResult {
                $(crate::$group::$check(&world).await.map_err(|e| format!("{}: {e:?}", stringify!($check)))?;)*
                Ok(())
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() -> TestResult {
                all(World::embedded().await?).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() -> TestResult {
                all(World::postgres().await?).await
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mysql() -> TestResult {
                all(World::mysql().await?).await
            }
        }
    )*};
}

mod conforms {
    use super::{TestResult, World};

    suite! {
        reads: every_type, digits_of_seconds, by_key, committed_rows, committed_texts, ranges, no_columns, large_scans,
            scans_side_by_side, abandoned_scans,
            scans_and_later_writes;
        transactions: nothing_is_seen_before_commit, one_snapshot_for_a_statement, one_snapshot_for_a_transaction,
            own_writes, dropping_rolls_back, read_only, lost_updates, write_skew, what_is_read_is_locked, deadlocks, savepoints, failed_calls,
            statistics;
        writes: uniqueness, changed_in_place, exchanged_values, many_rows, what_goes_before_what_comes, rows_that_are_gone;
        locks: exclusive_and_shared, changed_rows, skipped_rows, missing_rows, many_keys, unique_values,
            values_without_rows, values_over_fragments, stricter_levels_see_new_values;
        queries: what_cannot_be_asked, texts, patterns, groups, orders, numbers, values_of_every_kind, joins, no_rows,
            long_texts;
        windows: numbers_and_ranks, aggregates, first_of_an_order;
        answers: no_columns, side_by_side, given_up, later_writes, rows_that_change;
        definitions: again_and_undone, columns, indexes, purging, what_cannot_be_held;
        digests: of_every_type, small_changes, of_parts, no_drift;
        two_phase: prepared_and_finished, locks_stay, unknown_names;
    }
}
