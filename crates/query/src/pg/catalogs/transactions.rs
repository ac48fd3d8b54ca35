//! Transactions by SELECT: those that are open or under way, what is prepared at the sites, and how the last ones have ended.

use super::table::{Definition, b, maybe, t, table, texts, time};
use atoll_model::Value;

pub(super) fn tables() -> Vec<Definition> {
    vec![
        table(
            "transactions",
            "transaction_id:l transaction_name:t state:t participants:T pending:T began:z age_ms:l isolation:t has_writes:b",
            |s| {
                let row = |x: atoll_ports::cluster::TransactionInfo| {
                    vec![
                        x.id.and_then(|id| i64::try_from(id).ok()).map_or(Value::Null, Value::Int8),
                        maybe(x.name),
                        t(x.state.name()),
                        texts(x.participants),
                        texts(x.pending),
                        time(x.began),
                        age(x.began),
                        maybe(x.isolation.map(|isolation| format!("{isolation:?}"))),
                        b(x.has_writes),
                    ]
                };
                s.cluster.transactions().into_iter().map(row).collect()
            },
        ),
        table("in_doubt", "site:t gid:t transaction_name:t prepared:z age_ms:l owner:t decision:t problem:t", |s| {
            let row = |x: &atoll_ports::cluster::InDoubt| {
                let since = x.branch.as_ref().and_then(|branch| branch.since);
                vec![
                    t(&x.site),
                    maybe(x.branch.as_ref().map(|branch| branch.name.to_string())),
                    maybe(x.transaction.clone()),
                    time(since),
                    age(since),
                    maybe(x.owner.map(str::to_owned)),
                    maybe(x.decision.map(str::to_owned)),
                    maybe(x.problem.clone()),
                ]
            };
            s.in_doubt.iter().map(row).collect()
        })
        .with_sites(),
        table(
            "transactions_log",
            "transaction_name:t outcome:t participants:T created_at:z ended_at:z reason:t",
            |s| {
                let row = |x: atoll_ports::cluster::EndedTransaction| {
                    vec![
                        t(x.name),
                        t(if x.committed { "committed" } else { "rolled back" }),
                        texts(x.participants),
                        time(Some(x.began.unwrap_or(x.ended))),
                        time(Some(x.ended)),
                        maybe(x.reason),
                    ]
                };
                s.cluster.transactions_log().into_iter().map(row).collect()
            },
        ),
    ]
}

/// Milliseconds since a time. Clocks of sites may differ: never less than none.
fn age(since: Option<i64>) -> Value {
    let now = crate::clock::now();
    since.map_or(Value::Null, |since| Value::Int8(now.saturating_sub(since).max(0) / 1000))
}
