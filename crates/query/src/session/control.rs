//! Statements that never reach a planner: transactions, settings, prepared statements.

use super::bound::Bound;
use super::settings::{self, Settings};
use super::{SqlSession, text_rows};
use crate::dml::params;
use crate::pg::parse::Statement;
use crate::syntax::fold;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};
use atoll_ports::cluster::TableLock;
use atoll_ports::session::{Execution, ResultColumn};
use atoll_ports::site::BranchOptions;
use datafusion::sql::sqlparser::ast::{
    CloseCursor, ContextModifier, DiscardObject, Expr, Ident, Lock, LockTableMode, Reset, Set, Statement as Ast,
    TransactionAccessMode, TransactionIsolationLevel, TransactionMode, Value as Literal,
};
use std::sync::Arc;

/// Prepared statements that one session may hold by PREPARE.
const MAX_NAMED: usize = 4096;

/// Whether a statement of sqlparser's is run here.
pub(crate) fn is_control(ast: &Ast) -> bool {
    matches!(
        ast,
        Ast::StartTransaction { .. }
            | Ast::Commit { .. }
            | Ast::Rollback { .. }
            | Ast::Savepoint { .. }
            | Ast::ReleaseSavepoint { .. }
            | Ast::Set(_)
            | Ast::Reset(_)
            | Ast::ShowVariable { .. }
            | Ast::Discard { .. }
            | Ast::Prepare { .. }
            | Ast::Execute { .. }
            | Ast::Deallocate { .. }
            | Ast::Declare { .. }
            | Ast::Fetch { .. }
            | Ast::Close { .. }
            | Ast::Lock(_)
            | Ast::LISTEN { .. }
            | Ast::UNLISTEN { .. }
            | Ast::NOTIFY { .. }
    )
}

/// Whether a control statement runs nothing else, and waits for nothing but a commit.
pub(super) fn is_brief(statement: &Statement) -> bool {
    let Statement::Sql(ast) = statement else { return false };
    matches!(
        ast.as_ref(),
        Ast::StartTransaction { .. }
            | Ast::Commit { .. }
            | Ast::Rollback { .. }
            | Ast::Savepoint { .. }
            | Ast::ReleaseSavepoint { .. }
            | Ast::Set(_)
            | Ast::Reset(_)
            | Ast::ShowVariable { .. }
            | Ast::Discard { .. }
            | Ast::Deallocate { .. }
            | Ast::UNLISTEN { .. }
    )
}

/// Whether a statement of Atoll's own grammar is run here.
pub(crate) fn is_own_control(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Vacuum { .. }
            | Statement::Analyze { .. }
            | Statement::Checkpoint
            | Statement::Verify { .. }
            | Statement::MoveFragment { .. }
            | Statement::CancelMove { .. }
    )
}

/// The result columns of such a statement.
pub(crate) fn own_columns(statement: &Statement) -> Vec<ResultColumn> {
    if matches!(statement, Statement::Verify { .. }) { super::verify::columns() } else { vec![] }
}

/// The result columns of SHOW.
pub(crate) fn show_columns(variable: &[Ident]) -> Vec<ResultColumn> {
    let text = |name: &str| ResultColumn::new(name, SqlType::Text);
    match setting_name(variable).as_str() {
        "all" => vec![text("name"), text("setting"), text("description")],
        name => vec![text(&Settings::shown_name(name))],
    }
}

/// `SHOW TRANSACTION ISOLATION LEVEL` and `SHOW TIME ZONE` have names of their own.
fn setting_name(variable: &[Ident]) -> String {
    let words: Vec<String> = variable.iter().map(|i| i.value.to_lowercase()).collect();
    match words.join(" ").as_str() {
        "transaction isolation level" => "transaction_isolation".into(),
        "time zone" => "TimeZone".into(),
        "session authorization" => "session_authorization".into(),
        _ => words.join("."),
    }
}

impl SqlSession {
    /// # Errors
    /// `UndefinedTable` for the first table that there is not.
    fn known_tables(&self, tables: &[String]) -> Result<()> {
        let catalog = self.catalog();
        match tables.iter().find(|name| !catalog.names.contains_key(*name)) {
            None => Ok(()),
            Some(name) => Err(Error::new(ErrorKind::UndefinedTable, format!("relation \"{name}\" does not exist"))),
        }
    }

    /// Runs a control statement.
    pub(super) async fn control(&mut self, bound: &Bound, values: &[Value]) -> Result<Execution> {
        let done = |tag| Ok(Execution::Done { tag, rows: None });
        let ast = match bound.statement.as_ref() {
            Statement::Sql(ast) => ast.as_ref(),
            Statement::Verify { tables } => {
                self.not_failed()?;
                let catalog = self.catalog();
                return self.verify(tables.as_deref(), &catalog);
            }
            other if is_own_control(other) => {
                self.not_failed()?;
                // Old versions are collected by the store as it goes, statistics are kept with every commit, and every commit
                // is durable: nothing is left to be done, and the answer says so.
                return match other {
                    Statement::Vacuum { tables, .. } => self.known_tables(tables).and_then(|()| done("VACUUM")),
                    Statement::MoveFragment { .. } | Statement::CancelMove { .. } => self.move_fragment(other).await,
                    Statement::Analyze { tables } => self.known_tables(tables).and_then(|()| done("ANALYZE")),
                    _ => done("CHECKPOINT"),
                };
            }
            _ => return Err(Error::internal("not a control statement")),
        };
        if !matches!(ast, Ast::Commit { .. } | Ast::Rollback { .. }) {
            self.not_failed()?;
        }
        match ast {
            Ast::StartTransaction { modes, begin, .. } => {
                self.begin_block(modes)?;
                done(if *begin { "BEGIN" } else { "START TRANSACTION" })
            }
            Ast::Commit { chain, .. } => {
                self.block_or_notice(*chain, "COMMIT")?;
                let options = self.block_options;
                // They must not see the end of the transaction that they outlive.
                if !self.current.is_failed() {
                    self.keep_cursors().await?;
                }
                self.take_over_settings();
                let committed = self.current.commit().await;
                self.ended(matches!(committed, Ok(true)));
                let committed = committed?;
                self.chain(*chain, options);
                done(if committed { "COMMIT" } else { "ROLLBACK" })
            }
            Ast::Rollback { chain, savepoint: None } => {
                self.block_or_notice(*chain, "ROLLBACK")?;
                let options = self.block_options;
                self.current.rollback();
                self.ended(false);
                self.chain(*chain, options);
                done("ROLLBACK")
            }
            Ast::Rollback { savepoint: Some(name), .. } => {
                if !self.current.is_failed() {
                    self.keep_cursors().await?;
                }
                let (at, settings) = self.current.rollback_to(&fold(name))?;
                self.pending_settings.lock().clear();
                Arc::make_mut(&mut self.settings).restore(&settings);
                self.end_cursors_since(at);
                done("ROLLBACK")
            }
            Ast::Savepoint { name } => {
                self.current.savepoint(fold(name), self.settings.clone())?;
                done("SAVEPOINT")
            }
            Ast::ReleaseSavepoint { name } => {
                self.current.release(&fold(name))?;
                done("RELEASE")
            }
            Ast::Set(set) => {
                self.settings_before.get_or_insert_with(|| self.settings.clone());
                self.set(set)?;
                done("SET")
            }
            Ast::Reset(reset) => {
                self.settings_before.get_or_insert_with(|| self.settings.clone());
                match &reset.reset {
                    Reset::ALL => Arc::make_mut(&mut self.settings).reset(),
                    Reset::ConfigurationParameter(name) if name.to_string().eq_ignore_ascii_case("role") => {
                        self.set_role(None, false)?;
                    }
                    Reset::ConfigurationParameter(name) => {
                        Arc::make_mut(&mut self.settings).set(&name.to_string(), None)?
                    }
                }
                done("RESET")
            }
            Ast::ShowVariable { variable } => self.show(variable),
            Ast::Discard { object_type } => {
                if self.current.is_explicit() && matches!(object_type, DiscardObject::ALL) {
                    return Err(Error::new(
                        ErrorKind::ActiveTransaction,
                        "DISCARD ALL cannot run inside a transaction block",
                    ));
                }
                match object_type {
                    DiscardObject::ALL => {
                        self.settings_before.get_or_insert_with(|| self.settings.clone());
                        self.set_role(None, false)?;
                        Arc::make_mut(&mut self.settings).reset();
                        self.named.clear();
                        self.cursors.clear();
                        *self.sequences.lock() = super::SequenceValues::default();
                        done("DISCARD ALL")
                    }
                    DiscardObject::SEQUENCES => {
                        *self.sequences.lock() = super::SequenceValues::default();
                        done("DISCARD SEQUENCES")
                    }
                    // Plans follow the catalog by themselves, and there are no temporary tables.
                    DiscardObject::PLANS => done("DISCARD PLANS"),
                    DiscardObject::TEMP => done("DISCARD TEMP"),
                }
            }
            Ast::Prepare { name, data_types, statement } => {
                let name = fold(name);
                if self.named.contains_key(&name) {
                    return Err(Error::new(
                        ErrorKind::DuplicatePrepared,
                        format!("prepared statement \"{name}\" already exists"),
                    ));
                }
                if self.named.len() >= MAX_NAMED {
                    return Err(Error::new(
                        ErrorKind::ProgramLimit,
                        format!("more than {MAX_NAMED} prepared statements"),
                    )
                    .hint("DEALLOCATE those that are no longer used."));
                }
                let declared =
                    data_types.iter().map(|t| crate::ddl::sql_type(t).map(Some)).collect::<Result<Vec<_>>>()?;
                let inner = Arc::new(Statement::Sql(statement.clone()));
                let prepared = self.bind(statement.to_string().into(), inner, &declared).await?;
                self.named.insert(name, prepared);
                done("PREPARE")
            }
            Ast::Execute { name: Some(name), parameters, .. } => {
                let name = name.0.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default();
                let Some(prepared) = self.named.get(&name).cloned() else {
                    return Err(Error::new(
                        ErrorKind::InvalidStatementName,
                        format!("prepared statement \"{name}\" does not exist"),
                    ));
                };
                let params = self.execute_params(&prepared.param_types, parameters, bound, values).await?;
                Box::pin(self.run(&prepared, params)).await
            }
            Ast::Deallocate { name, .. } => {
                if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all") {
                    self.named.clear();
                    return done("DEALLOCATE ALL");
                }
                let name = fold(name);
                if self.named.remove(&name).is_none() {
                    return Err(Error::new(
                        ErrorKind::InvalidStatementName,
                        format!("prepared statement \"{name}\" does not exist"),
                    ));
                }
                done("DEALLOCATE")
            }
            Ast::Declare { stmts } => self.declare(stmts, bound, values).await,
            Ast::Fetch { name, direction, into: None, .. } => self.fetch(name, direction).await,
            Ast::Close { cursor } => match cursor {
                CloseCursor::All => self.close(None),
                CloseCursor::Specific { name } => self.close(Some(name)),
            },
            Ast::Lock(lock) => self.lock_tables(lock, bound).await,
            // Nothing is listened to: pools send it when a connection comes back.
            Ast::UNLISTEN { .. } => done("UNLISTEN"),
            other => {
                Err(Error::unsupported(first_words(other).to_string())
                    .hint("There are no notifications between sessions."))
            }
        }
    }

    async fn execute_params(
        &mut self,
        types: &[SqlType],
        given: &[Expr],
        bound: &Bound,
        values: &[Value],
    ) -> Result<Vec<Value>> {
        if given.len() != types.len() {
            return Err(Error::new(
                ErrorKind::Syntax,
                format!("wrong number of parameters: {} are needed, {} were given", types.len(), given.len()),
            ));
        }
        let mut params = Vec::with_capacity(given.len());
        for (expr, ty) in given.iter().zip(types) {
            let (from, value) = match params::plain_literal(expr) {
                Some(typed) => typed,
                None => {
                    // Nobody has asked whether the session may read its tables.
                    crate::ddl::refuse_subqueries(expr, "EXECUTE parameter")?;
                    let txn = self.transaction()?;
                    let cx = self.context(&txn, bound, values.to_vec())?;
                    let (mut from, mut rows) = cx.evaluate_constant(&expr.to_string(), 1).await?;
                    (from.pop().unwrap_or(SqlType::Text), rows.pop().and_then(|mut r| r.pop()).unwrap_or(Value::Null))
                }
            };
            params.push(crate::dml::assign::convert(value, &from, ty)?);
        }
        Ok(params)
    }

    fn block_or_notice(&mut self, chain: bool, what: &str) -> Result<()> {
        if !self.current.is_explicit() {
            if chain {
                return Err(Error::new(
                    ErrorKind::NoActiveTransaction,
                    format!("{what} AND CHAIN can only be used in transaction blocks"),
                ));
            }
            self.notice("WARNING", "25P01", "there is no transaction in progress");
        }
        Ok(())
    }

    /// AND CHAIN: the next transaction block, with the options of the last.
    fn chain(&mut self, chain: bool, options: Option<BranchOptions>) {
        if chain {
            let options = options.unwrap_or_else(|| self.options());
            self.block_options = Some(options);
            self.settings_before = Some(self.settings.clone());
            let cluster = self.engine.cluster.clone();
            self.current.begin_block(|| cluster.begin(options));
        }
    }

    /// LOCK TABLE. Modes that exclude no writer have nothing to do here: reading needs no lock, and writing takes its own.
    async fn lock_tables(&mut self, lock: &Lock, bound: &Bound) -> Result<Execution> {
        if !self.current.is_explicit() {
            return Err(Error::new(
                ErrorKind::NoActiveTransaction,
                "LOCK TABLE can only be used in transaction blocks",
            ));
        }
        if lock.nowait {
            return Err(Error::unsupported("LOCK TABLE … NOWAIT").hint("SET LOCAL lock_timeout before LOCK TABLE."));
        }
        let wanted = match lock.lock_mode {
            Some(LockTableMode::AccessShare | LockTableMode::RowShare) => None,
            Some(LockTableMode::RowExclusive) => Some(TableLock::Write),
            _ => Some(TableLock::Exclusive),
        };
        self.keep_cursors().await?;
        let txn = self.transaction()?;
        txn.begin_statement().await?;
        self.authorize(bound, txn.catalog())?;
        for target in &lock.tables {
            let name = super::names::relation(&target.name)?;
            let catalog = txn.catalog();
            let table = match (catalog.table(&name), catalog.fragment(&name)) {
                (Some(table), _) | (_, Some((table, _))) => table,
                _ if catalog.names.contains_key(&name) => {
                    return Err(Error::new(ErrorKind::WrongObjectType, format!("\"{name}\" is not a table")));
                }
                _ => {
                    return Err(Error::new(ErrorKind::UndefinedTable, format!("relation \"{name}\" does not exist")));
                }
            };
            if let Some(wanted) = wanted {
                txn.lock_table(table, wanted).await?;
            }
        }
        Ok(Execution::Done { tag: "LOCK TABLE", rows: None })
    }

    fn begin_block(&mut self, modes: &[TransactionMode]) -> Result<()> {
        if self.current.is_explicit() {
            self.notice("WARNING", "25001", "there is already a transaction in progress");
            return Ok(());
        }
        let mut options = self.options();
        apply_modes(&mut options, modes)?;
        self.settings_before.get_or_insert_with(|| self.settings.clone());
        self.block_options = Some(options);
        let cluster = self.engine.cluster.clone();
        self.current.begin_block(|| cluster.begin(options));
        Ok(())
    }

    fn set(&mut self, set: &Set) -> Result<()> {
        match set {
            Set::SingleAssignment { variable, values, scope, .. } => {
                let name = variable.to_string().replace('"', "");
                let value = match values.as_slice() {
                    [one] if is_default(one) => None,
                    many => Some(many.iter().map(setting_value).collect::<Vec<_>>().join(", ")),
                };
                if name.eq_ignore_ascii_case("transaction_isolation") && self.current.is_explicit() {
                    let level = value.as_deref().and_then(|v| settings::isolation(&v.to_lowercase()));
                    let Some(level) = level else {
                        return Err(Error::new(ErrorKind::InvalidParameterValue, "unknown isolation level"));
                    };
                    return self.change_block(|o| o.isolation = level);
                }
                if name.eq_ignore_ascii_case("transaction_read_only") && self.current.is_explicit() {
                    let mut probe = self.settings.as_ref().clone();
                    probe.set("transaction_read_only", value.as_deref())?;
                    let on = probe.get("transaction_read_only")? == "on";
                    return self.change_block(|o| o.read_only = on);
                }
                if name.eq_ignore_ascii_case("atoll.read_consistency") && self.current.is_explicit() {
                    self.set_one(&name, value.as_deref(), *scope == Some(ContextModifier::Local))?;
                    let consistency = self.settings.read_consistency();
                    return self.change_block(|o| o.read_consistency = consistency);
                }
                self.set_one(&name, value.as_deref(), *scope == Some(ContextModifier::Local))
            }
            Set::SetTimeZone { value, local } => {
                let value =
                    (!is_default(value)).then(|| setting_value(value)).filter(|v| !v.eq_ignore_ascii_case("local"));
                self.set_one("TimeZone", value.as_deref(), *local)
            }
            Set::SetNames { charset_name, .. } => {
                Arc::make_mut(&mut self.settings).set("client_encoding", Some(&charset_name.value))
            }
            Set::SetNamesDefault {} => Arc::make_mut(&mut self.settings).set("client_encoding", None),
            Set::SetTransaction { modes, session: true, .. } => {
                for mode in modes {
                    match mode {
                        TransactionMode::IsolationLevel(level) => {
                            let level = level.to_string().to_lowercase();
                            Arc::make_mut(&mut self.settings).set("default_transaction_isolation", Some(&level))?;
                        }
                        TransactionMode::AccessMode(access) => {
                            let on = matches!(access, TransactionAccessMode::ReadOnly);
                            Arc::make_mut(&mut self.settings)
                                .set("default_transaction_read_only", Some(if on { "on" } else { "off" }))?;
                        }
                    }
                }
                Ok(())
            }
            Set::SetTransaction { modes, .. } => {
                if !self.current.is_explicit() {
                    self.notice("WARNING", "25P01", "SET TRANSACTION can only be used in transaction blocks");
                    return Ok(());
                }
                let modes = modes.clone();
                let mut options = self.block_options.unwrap_or_else(|| self.options());
                apply_modes(&mut options, &modes)?;
                self.change_block(|o| *o = options)
            }
            Set::SetRole { context_modifier, role_name } => {
                // NONE is parsed as no name.
                let role = role_name.as_ref().map(fold);
                self.set_role(role.as_deref(), *context_modifier == Some(ContextModifier::Local))
            }
            Set::SetSessionAuthorization(_) => {
                Err(Error::unsupported("SET SESSION AUTHORIZATION").hint("Use SET ROLE, or connect as that user."))
            }
            other => Err(Error::unsupported(format!("{other}"))),
        }
    }

    fn set_one(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<()> {
        if name.eq_ignore_ascii_case("role") {
            return self.set_role(value.filter(|role| !role.eq_ignore_ascii_case("none")), local);
        }
        if !local {
            return Arc::make_mut(&mut self.settings).set(name, value);
        }
        if self.current.is_explicit() {
            return Arc::make_mut(&mut self.settings).set_local(name, value);
        }
        self.notice("WARNING", "25P01", "SET LOCAL can only be used in transaction blocks");
        self.settings.as_ref().clone().set(name, value)
    }

    /// Changes the options of a transaction block that has not run a statement yet.
    fn change_block(&mut self, change: impl FnOnce(&mut BranchOptions)) -> Result<()> {
        let before = self.block_options.unwrap_or_else(|| self.options());
        let mut options = before;
        change(&mut options);
        let modes = |o: &BranchOptions| (o.isolation, o.read_only, o.read_consistency);
        if modes(&options) == modes(&before) {
            return Ok(());
        }
        let what = if options.read_consistency == before.read_consistency {
            "TRANSACTION ISOLATION LEVEL"
        } else {
            "atoll.read_consistency"
        };
        if self.current.is_used() {
            return Err(Error::new(
                ErrorKind::ActiveTransaction,
                format!("SET {what} must be called before any query"),
            ));
        }
        if self.current.savepoints() > 0 {
            return Err(Error::new(
                ErrorKind::ActiveTransaction,
                format!("SET {what} must not be called in a subtransaction"),
            ));
        }
        self.block_options = Some(options);
        self.current.rollback();
        let cluster = self.engine.cluster.clone();
        self.current.begin_block(|| cluster.begin(options));
        Ok(())
    }

    fn show(&self, variable: &[Ident]) -> Result<Execution> {
        let name = setting_name(variable);
        if name == "all" {
            let rows = self
                .settings
                .all()
                .map(|(k, v)| vec![Value::Text(k.into()), Value::Text(v.into()), Value::Text(String::new())])
                .collect();
            return Ok(Execution::Rows { columns: show_columns(variable), rows, tag: "SHOW" });
        }
        if name == "transaction_isolation" {
            let isolation = self.current.txn().map_or_else(|| self.options().isolation, |t| t.options().isolation);
            let text = match isolation {
                atoll_ports::site::Isolation::ReadCommitted => "read committed",
                atoll_ports::site::Isolation::RepeatableRead => "repeatable read",
                atoll_ports::site::Isolation::Serializable => "serializable",
            };
            return Ok(text_rows(&name, vec![text.into()], "SHOW"));
        }
        if name == "transaction_read_only" {
            let on = self.current.txn().map_or_else(|| self.options().read_only, |t| t.options().read_only);
            return Ok(text_rows(&name, vec![if on { "on" } else { "off" }.into()], "SHOW"));
        }
        Ok(text_rows(&Settings::shown_name(&name), vec![self.settings.get(&name)?.to_owned()], "SHOW"))
    }
}

fn apply_modes(options: &mut BranchOptions, modes: &[TransactionMode]) -> Result<()> {
    use atoll_ports::site::Isolation;
    for mode in modes {
        match mode {
            TransactionMode::AccessMode(access) => {
                options.read_only = matches!(access, TransactionAccessMode::ReadOnly);
            }
            TransactionMode::IsolationLevel(level) => {
                options.isolation = match level {
                    TransactionIsolationLevel::ReadUncommitted | TransactionIsolationLevel::ReadCommitted => {
                        Isolation::ReadCommitted
                    }
                    TransactionIsolationLevel::RepeatableRead => Isolation::RepeatableRead,
                    TransactionIsolationLevel::Serializable => Isolation::Serializable,
                    TransactionIsolationLevel::Snapshot => {
                        return Err(Error::new(ErrorKind::Syntax, "isolation level SNAPSHOT")
                            .hint("PostgreSQL's name for it is REPEATABLE READ."));
                    }
                }
            }
        }
    }
    Ok(())
}

fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(i) if i.value.eq_ignore_ascii_case("default"))
}

fn setting_value(expr: &Expr) -> String {
    match expr {
        Expr::Value(v) => match &v.value {
            Literal::SingleQuotedString(s) | Literal::EscapedStringLiteral(s) | Literal::DoubleQuotedString(s) => {
                s.clone()
            }
            other => other.to_string(),
        },
        Expr::Identifier(i) => i.value.clone(),
        other => other.to_string(),
    }
}

fn first_words(ast: &Ast) -> String {
    ast.to_string().split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}
