//! Functions that look at the session: who, where, which settings, sequences.

use super::scalar::{Call, Scalar, integer, text};
use crate::clock;
use crate::privileges::Identity;
use atoll_model::{Catalog, Error, ErrorKind, FragmentId, Result, Sequence, SqlType, Table, Value};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use std::fmt;
use std::sync::Arc;

/// What functions may ask of the session that runs them.
pub trait SessionAccess: Send + Sync + fmt::Debug {
    /// `pg_backend_pid()`
    fn process_id(&self) -> i32;
    /// `txid_current()`
    fn transaction_id(&self) -> u64;
    /// `now()`: microseconds since 1970 at which the transaction began.
    fn transaction_start(&self) -> i64;
    /// `current_setting(…)`; `None`: there is no such setting.
    fn setting(&self, name: &str) -> Option<String>;
    /// `set_config(…)`: gives the value as it now is.
    ///
    /// # Errors
    /// `UndefinedObject`, `InvalidParameterValue`.
    fn set_setting(&self, name: &str, value: &str, local: bool) -> Result<String>;
    /// All settings with their values.
    fn settings(&self) -> Vec<(&'static str, String)>;
    /// Bytes that a fragment's rows take at one site.
    fn fragment_bytes(&self, table: &Table, fragment: FragmentId) -> u64;
    /// `nextval(…)`; may block.
    ///
    /// # Errors
    /// `SequenceExhausted`.
    fn next_value(&self, sequence: &Sequence) -> Result<i64>;
    /// `currval(…)`
    ///
    /// # Errors
    /// `NotInPrerequisiteState`.
    fn current_value(&self, sequence: &Sequence) -> Result<i64>;
    /// `lastval()`
    ///
    /// # Errors
    /// `NotInPrerequisiteState`.
    fn last_value(&self) -> Result<i64>;
    /// `setval(…)`; may block.
    ///
    /// # Errors
    /// `InvalidParameterValue`.
    fn set_value(&self, sequence: &Sequence, value: i64, called: bool) -> Result<()>;
    /// `atoll.resolve_transaction(…)`; may block.
    ///
    /// # Errors
    /// `InsufficientPrivilege`; those of [`Cluster::resolve`](atoll_ports::cluster::Cluster::resolve).
    fn resolve_transaction(&self, name: &str, commit: bool) -> Result<u64>;
}

/// Carries the session into functions, as an extension of DataFusion's options.
#[derive(Clone, Debug, Default)]
pub struct SessionHooks(pub Option<Arc<dyn SessionAccess>>);

crate::carried::carried!(SessionHooks, "atoll_session");

pub(super) fn hooks<'c>(call: &'c Call<'_>) -> Result<&'c Arc<dyn SessionAccess>> {
    call.options
        .extensions
        .get::<SessionHooks>()
        .and_then(|h| h.0.as_ref())
        .ok_or_else(|| Error::unsupported("functions that look at the session cannot be used here"))
}

/// The functions here that ask the session's hooks.
const ASKING: [&str; 26] = [
    "atoll.resolve_transaction",
    "pg_table_size",
    "pg_relation_size",
    "pg_total_relation_size",
    "pg_indexes_size",
    "pg_database_size",
    "pg_tablespace_size",
    // A subquery, which may call any of them.
    crate::read::APPLY_FUNCTION,
    "pg_backend_pid",
    "txid_current",
    "pg_current_xact_id",
    "current_setting",
    "set_config",
    "nextval",
    "currval",
    "lastval",
    "setval",
    "now",
    "current_timestamp",
    "transaction_timestamp",
    "statement_timestamp",
    "localtimestamp",
    "current_date",
    "today",
    "timeofday",
    "clock_timestamp",
];

/// Whether an expression calls a function that asks the session, outside of its subqueries.
pub fn expression_asks_session(expr: &Expr) -> bool {
    expr.exists(|e| Ok(matches!(e, Expr::ScalarFunction(f) if ASKING.contains(&f.name())))).unwrap_or(true)
}

/// Whether a plan calls a function that asks the session.
pub fn plan_asks_session(plan: &LogicalPlan) -> bool {
    let mut asks = false;
    let walked = plan.apply_with_subqueries(|node| {
        asks |= matches!(node, LogicalPlan::TableScan(s) if s.table_name.table() == "pg_settings");
        node.apply_expressions(|expr| {
            asks |= expression_asks_session(expr);
            Ok(TreeNodeRecursion::Continue)
        })
    });
    asks || walked.is_err()
}

/// The version that clients compare with what they know.
pub const VERSION: &str = "PostgreSQL 15.0 (Atoll)";

pub(super) fn functions(catalog: &Arc<Catalog>, who: &Identity) -> Vec<Scalar> {
    let constant = |name, value: String| {
        Scalar::new(name, 0..=0, SqlType::Text, move |_, _| Ok(Value::Text(value.clone()))).stable()
    };
    let began = |name| {
        Scalar::new(name, 0..=0, SqlType::TimestampTz(None), |call, _| {
            Ok(Value::TimestampTz(hooks(call)?.transaction_start()))
        })
        .stable()
    };
    let date = |name| {
        Scalar::new(name, 0..=0, SqlType::Date, |call, _| {
            let days = hooks(call)?.transaction_start().div_euclid(86_400_000_000);
            Ok(Value::Date(i32::try_from(days).unwrap_or(i32::MAX)))
        })
        .stable()
    };
    let schemas = SqlType::Array(Box::new(SqlType::Text));
    let mut made = vec![
        constant("version", VERSION.into()),
        constant("current_user", who.current_user.to_string()),
        constant("session_user", who.session_user.to_string()),
        constant("current_database", "atoll".into()),
        constant("current_schema", "public".into()),
        Scalar::new("current_schemas", 1..=1, schemas, |_, args| {
            let mut names = vec![Value::Text("public".into())];
            if args[0] == Value::Bool(true) {
                names.insert(0, Value::Text("pg_catalog".into()));
            }
            Ok(Value::Array(names))
        }),
        Scalar::new("pg_backend_pid", 0..=0, SqlType::Int4, |call, _| Ok(Value::Int4(hooks(call)?.process_id())))
            .stable(),
        Scalar::new("txid_current", 0..=0, SqlType::Int8, |call, _| {
            Ok(Value::Int8(hooks(call)?.transaction_id() as i64))
        })
        .stable(),
        Scalar::new("pg_current_xact_id", 0..=0, SqlType::Int8, |call, _| {
            Ok(Value::Int8(hooks(call)?.transaction_id() as i64))
        })
        .stable(),
        Scalar::new("pg_is_in_recovery", 0..=0, SqlType::Bool, |_, _| Ok(Value::Bool(false))).stable(),
        Scalar::new("clock_timestamp", 0..=0, SqlType::TimestampTz(None), |_, _| Ok(Value::TimestampTz(clock::now())))
            .volatile(),
        began("now"),
        began("current_timestamp"),
        began("transaction_timestamp"),
        began("statement_timestamp"),
        Scalar::new("localtimestamp", 0..=0, SqlType::Timestamp(None), |call, _| {
            Ok(Value::Timestamp(hooks(call)?.transaction_start()))
        })
        .stable(),
        date("current_date"),
        date("today"),
        Scalar::new("gen_random_uuid", 0..=0, SqlType::Uuid, |_, _| Ok(Value::Text(uuid::Uuid::new_v4().to_string())))
            .volatile(),
        Scalar::new("inet_server_addr", 0..=0, SqlType::Text, |_, _| Ok(Value::Null)).stable(),
        Scalar::new("inet_server_port", 0..=0, SqlType::Int4, |_, _| Ok(Value::Null)).stable(),
        Scalar::new("inet_client_addr", 0..=0, SqlType::Text, |_, _| Ok(Value::Null)).stable(),
        Scalar::new("current_setting", 1..=2, SqlType::Text, |call, args| {
            let name = text(&args[0]).to_lowercase();
            match hooks(call)?.setting(&name) {
                Some(value) => Ok(Value::Text(value)),
                None if args.get(1) == Some(&Value::Bool(true)) => Ok(Value::Null),
                None => Err(Error::new(
                    ErrorKind::UndefinedObject,
                    format!("unrecognized configuration parameter \"{name}\""),
                )),
            }
        })
        .stable(),
        Scalar::new("set_config", 3..=3, SqlType::Text, |call, args| {
            let local = args[2] == Value::Bool(true);
            Ok(Value::Text(hooks(call)?.set_setting(&text(&args[0]).to_lowercase(), text(&args[1]), local)?))
        })
        .volatile(),
        Scalar::new("lastval", 0..=0, SqlType::Int8, |call, _| Ok(Value::Int8(hooks(call)?.last_value()?))).volatile(),
    ];
    made.push(
        Scalar::new("atoll.resolve_transaction", 2..=2, SqlType::Int8, |call, args| {
            let commit = match text(&args[1]) {
                "commit" => true,
                "rollback" => false,
                other => {
                    return Err(Error::new(
                        ErrorKind::InvalidParameterValue,
                        format!("a transaction is resolved with 'commit' or 'rollback', not '{other}'"),
                    ));
                }
            };
            let ended = hooks(call)?.resolve_transaction(text(&args[0]), commit)?;
            Ok(Value::Int8(i64::try_from(ended).unwrap_or(i64::MAX)))
        })
        .volatile(),
    );
    let sequences = |catalog: &Arc<Catalog>| {
        let catalog = catalog.clone();
        move |args: &[Value]| sequence(&catalog, &args[0])
    };
    let find = sequences(catalog);
    made.push(
        Scalar::new("nextval", 1..=1, SqlType::Int8, move |call, args| {
            Ok(Value::Int8(hooks(call)?.next_value(find(args)?.as_ref())?))
        })
        .volatile(),
    );
    let find = sequences(catalog);
    made.push(
        Scalar::new("currval", 1..=1, SqlType::Int8, move |call, args| {
            Ok(Value::Int8(hooks(call)?.current_value(find(args)?.as_ref())?))
        })
        .volatile(),
    );
    let find = sequences(catalog);
    made.push(
        Scalar::new("setval", 2..=3, SqlType::Int8, move |call, args| {
            let value = integer(&args[1]);
            hooks(call)?.set_value(find(args)?.as_ref(), value, args.get(2) != Some(&Value::Bool(false)))?;
            Ok(Value::Int8(value))
        })
        .volatile(),
    );
    made
}

/// The sequence that a name or an oid stands for.
fn sequence(catalog: &Catalog, value: &Value) -> Result<Arc<Sequence>> {
    let found = match value {
        Value::Text(name) => catalog.sequence(&super::definitions::last_name(name)),
        other => other
            .as_i64()
            .and_then(|id| u32::try_from(id).ok())
            .and_then(|id| catalog.sequences.get(&atoll_model::RelationId(id))),
    };
    let shown = match value {
        Value::Text(name) => name.clone(),
        other => integer(other).to_string(),
    };
    found.cloned().ok_or_else(|| {
        let known = catalog.names.contains_key(&super::definitions::last_name(&shown));
        if known {
            Error::new(ErrorKind::WrongObjectType, format!("\"{shown}\" is not a sequence"))
        } else {
            Error::new(ErrorKind::UndefinedTable, format!("relation \"{shown}\" does not exist"))
        }
    })
}
