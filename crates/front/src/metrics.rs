//! What the entrances count, for Prometheus.
//!
//! Invariant: labels come from closed sets (statement kinds, SQLSTATEs), so the number of series is bounded; handles are
//! made once, because a statement may take no longer than a few microseconds.

use atoll_model::Error;
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use std::time::Duration;

/// The kinds of statements that are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Select,
    Insert,
    Update,
    Delete,
    Copy,
    Transaction,
    Other,
}

impl Kind {
    const ALL: [(Kind, &'static str); 7] = [
        (Kind::Select, "select"),
        (Kind::Insert, "insert"),
        (Kind::Update, "update"),
        (Kind::Delete, "delete"),
        (Kind::Copy, "copy"),
        (Kind::Transaction, "transaction"),
        (Kind::Other, "other"),
    ];

    /// The kind that a command tag names.
    pub(crate) fn of(tag: &str) -> Kind {
        match tag.split(' ').next().unwrap_or_default() {
            "SELECT" | "FETCH" => Kind::Select,
            "INSERT" => Kind::Insert,
            "UPDATE" => Kind::Update,
            "DELETE" => Kind::Delete,
            "COPY" => Kind::Copy,
            "BEGIN" | "START" | "COMMIT" | "ROLLBACK" | "SAVEPOINT" | "RELEASE" => Kind::Transaction,
            _ => Kind::Other,
        }
    }
}

/// Handles for the series of statements.
pub(crate) struct StatementMetrics {
    statements: [Counter; Kind::ALL.len()],
    seconds: [Histogram; Kind::ALL.len()],
    rows: Counter,
}

impl StatementMetrics {
    pub(crate) fn new(entrance: &'static str) -> Self {
        StatementMetrics {
            statements: Kind::ALL
                .map(|(_, name)| counter!("atoll_statements_total", "kind" => name, "entrance" => entrance)),
            seconds: Kind::ALL
                .map(|(_, name)| histogram!("atoll_statement_seconds", "kind" => name, "entrance" => entrance)),
            rows: counter!("atoll_rows_sent_total", "entrance" => entrance),
        }
    }

    /// A statement has ended well.
    pub(crate) fn statement(&self, kind: Kind, took: Duration) {
        self.statements[kind as usize].increment(1);
        self.seconds[kind as usize].record(took);
    }

    /// Rows were sent.
    pub(crate) fn rows(&self, rows: u64) {
        self.rows.increment(rows);
    }

    /// A statement, or a connection, has failed.
    pub(crate) fn error(&self, error: &Error) {
        counter!("atoll_errors_total", "sqlstate" => error.kind().sqlstate()).increment(1);
    }
}

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 16] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Installs the recorder of this process, once. `None`: another one had been installed before.
pub(crate) fn install() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let handle = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)
                .and_then(PrometheusBuilder::install_recorder)
                .inspect_err(|error| tracing::warn!(%error, "metrics are not collected"))
                .ok()?;
            describe();
            Some(handle)
        })
        .clone()
}

fn describe() {
    describe_counter!("atoll_statements_total", "Statements that ended well, by kind");
    describe_histogram!("atoll_statement_seconds", Unit::Seconds, "Time from a statement's arrival to its last row");
    describe_counter!("atoll_rows_sent_total", "Result rows sent to clients");
    describe_counter!("atoll_errors_total", "Errors reported to clients, by SQLSTATE");
    describe_gauge!("atoll_connections", "Open connections, by entrance");
    describe_counter!("atoll_connections_refused_total", "Connections refused, by reason");
    describe_counter!("atoll_sql_bytes_received_total", Unit::Bytes, "Bytes received over the wire protocol");
    describe_counter!("atoll_sql_bytes_sent_total", Unit::Bytes, "Bytes sent over the wire protocol");
}
