//! The extended protocol: Parse, Bind, Describe, Execute, Close.
//!
//! Invariant: a portal is bound once and run at most once; what it has not sent yet stays with it until it is closed, bound
//! anew, or its transaction ends. Statements and portals are counted against limits.

use super::backend;
use super::connection::{Connection, too_many};
use super::frontend::{Bind, Formats, Message, Target, violation};
use super::results::{Cursor, Progress};
use super::stop::Stop;
use crate::metrics::Kind;
use crate::params;
use atoll_model::{Error, ErrorKind, Value};
use atoll_ports::session::{Execution, Prepared};
use std::sync::Arc;
use std::time::Instant;

/// A prepared statement.
#[derive(Clone)]
pub(super) enum Statement {
    /// No statement at all in the text.
    Empty,
    Bound(Arc<Prepared>),
}

impl Statement {
    fn param_types(&self) -> &[atoll_model::SqlType] {
        match self {
            Statement::Empty => &[],
            Statement::Bound(prepared) => &prepared.param_types,
        }
    }

    fn oid_params(&self) -> &[usize] {
        match self {
            Statement::Empty => &[],
            Statement::Bound(prepared) => &prepared.oid_params,
        }
    }
}

/// A statement with its parameters.
pub(super) struct Portal {
    statement: Statement,
    formats: Formats,
    state: State,
}

enum State {
    /// Not run yet.
    Bound(Vec<Value>),
    /// Run; what rows are left.
    Open(Cursor),
    /// Run, without rows.
    Done,
}

impl Connection {
    pub(super) async fn extended(&mut self, message: Message<'_>) -> Result<(), Stop> {
        match message {
            Message::Parse { name, sql, types } => self.parse(name, sql, &types).await,
            Message::Bind(bind) => self.bind(bind),
            Message::Describe(target, name) => self.describe(target, name),
            Message::Execute { portal, max_rows } => self.execute_portal(portal, max_rows).await,
            Message::Close(target, name) => {
                match target {
                    Target::Statement => drop(self.statements.remove(name)),
                    Target::Portal => drop(self.portals.remove(name)),
                }
                self.channel.complete_stands();
                backend::bare(&mut self.channel.out, backend::CLOSE_COMPLETE);
                Ok(())
            }
            // The caller has handled all others.
            _ => Err(violation("unexpected message").into()),
        }
    }

    async fn parse(&mut self, name: &str, sql: &str, types: &[u32]) -> Result<(), Stop> {
        self.channel.complete_stands();
        if name.is_empty() {
            self.statements.remove("");
        } else if self.statements.contains_key(name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(Error::new(ErrorKind::DuplicatePrepared, message).into());
        }
        if self.statements.len() >= self.limits.max_statements {
            return Err(too_many("prepared statements", self.limits.max_statements).into());
        }
        let mut parsed = self.session.parse(sql)?.into_iter();
        let statement = match (parsed.next(), parsed.next()) {
            (None, _) => Statement::Empty,
            (Some(parsed), None) => {
                let types: Vec<_> = types.iter().map(|oid| params::declared_type(*oid)).collect();
                self.dirty = true;
                self.canceller.reset();
                let prepared = self.channel.drive(&self.canceller, self.session.prepare(parsed, &types)).await??;
                Statement::Bound(prepared)
            }
            (Some(_), Some(_)) => {
                let message = "cannot insert multiple commands into a prepared statement";
                return Err(Error::new(ErrorKind::Syntax, message).into());
            }
        };
        self.statements.insert(name.into(), statement);
        backend::bare(&mut self.channel.out, backend::PARSE_COMPLETE);
        Ok(())
    }

    fn statement(&self, name: &str) -> Result<&Statement, Error> {
        self.statements.get(name).ok_or_else(|| {
            let message = if name.is_empty() {
                "unnamed prepared statement does not exist".to_string()
            } else {
                format!("prepared statement \"{name}\" does not exist")
            };
            Error::new(ErrorKind::InvalidStatementName, message)
        })
    }

    fn bind(&mut self, bind: Bind<'_>) -> Result<(), Stop> {
        self.channel.complete_stands();
        let statement = self.statement(bind.statement)?.clone();
        let types = statement.param_types();
        if bind.values.len() != types.len() {
            return Err(violation(format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires {}",
                bind.values.len(),
                bind.statement,
                types.len()
            ))
            .into());
        }
        if !bind.formats.fits(types.len()) {
            return Err(violation(format!(
                "bind message has {} parameter formats but {} parameters",
                bind.formats.len(),
                types.len()
            ))
            .into());
        }
        if let Statement::Bound(prepared) = &statement
            && !prepared.columns.is_empty()
            && !bind.result_formats.fits(prepared.columns.len())
        {
            return Err(violation(format!(
                "bind message has {} result formats but query has {} columns",
                bind.result_formats.len(),
                prepared.columns.len()
            ))
            .into());
        }
        let values: Result<Vec<Value>, Stop> = (bind.values.iter().zip(types).enumerate())
            .map(|(i, (bytes, ty))| {
                params::decode(ty, bind.formats.of(i), *bytes)
                    .map_err(|error| Stop::Failed { error, context: Some(context(bind.portal, i)) })
            })
            .collect();
        let state = State::Bound(values?);
        if !bind.portal.is_empty() && self.portals.contains_key(bind.portal) {
            let message = format!("cursor \"{}\" already exists", bind.portal);
            return Err(Error::new(ErrorKind::DuplicateCursor, message).into());
        }
        if self.portals.len() >= self.limits.max_portals && !self.portals.contains_key(bind.portal) {
            return Err(too_many("portals", self.limits.max_portals).into());
        }
        let portal = Portal { statement, formats: bind.result_formats, state };
        match self.portals.get_mut(bind.portal) {
            Some(old) => *old = portal,
            None => drop(self.portals.insert(bind.portal.into(), portal)),
        }
        backend::bare(&mut self.channel.out, backend::BIND_COMPLETE);
        Ok(())
    }

    fn describe(&mut self, target: Target, name: &str) -> Result<(), Stop> {
        self.channel.complete_stands();
        let text = Formats::All(crate::encode::Format::Text);
        let (statement, formats) = match target {
            Target::Statement => {
                let statement = self.statement(name)?.clone();
                backend::parameter_description(&mut self.channel.out, statement.param_types(), statement.oid_params());
                (statement, &text)
            }
            Target::Portal => {
                let Some(portal) = self.portals.get(name) else {
                    let columns = self.session.cursor_columns(name).ok_or_else(|| no_portal(name))?;
                    backend::row_description(&mut self.channel.out, &columns, &text);
                    return Ok(());
                };
                (portal.statement.clone(), &portal.formats)
            }
        };
        match &statement {
            Statement::Bound(prepared) if prepared.returns_rows => {
                backend::row_description(&mut self.channel.out, &prepared.columns, formats);
            }
            _ => backend::bare(&mut self.channel.out, backend::NO_DATA),
        }
        Ok(())
    }

    async fn execute_portal(&mut self, name: &str, max_rows: usize) -> Result<(), Stop> {
        self.channel.complete_stands();
        let started = Instant::now();
        // Taken out while it runs: an error must not leave a half-read portal behind.
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let state = std::mem::replace(&mut portal.state, State::Done);
        let (statement, formats) = (&portal.statement, &portal.formats);
        self.dirty = true;
        self.canceller.reset();
        let (kind, cursor) = match (state, statement) {
            (State::Done, _) => {
                let message = format!("portal \"{name}\" cannot be run");
                return Err(Error::new(ErrorKind::NotInPrerequisiteState, message).into());
            }
            (State::Open(cursor), _) => (Kind::of(cursor.tag), Some(cursor)),
            (State::Bound(_), Statement::Empty) => {
                backend::bare(&mut self.channel.out, backend::EMPTY_QUERY);
                (Kind::Other, None)
            }
            (State::Bound(values), Statement::Bound(prepared)) => match self.execute(prepared, values).await? {
                Execution::Empty => {
                    backend::bare(&mut self.channel.out, backend::EMPTY_QUERY);
                    (Kind::Other, None)
                }
                Execution::Done { tag, rows } => {
                    self.channel.complete(tag, rows);
                    (Kind::of(tag), None)
                }
                Execution::CopyIn(copy) => (self.copy_in(*copy).await?, None),
                Execution::CopyOut { options, columns, schema: _, stream } => {
                    (self.copy_out(&options, &columns, stream).await?, None)
                }
                Execution::Batches { columns, stream, tag, .. } => {
                    (Kind::of(tag), Some(Cursor::batches(columns, stream, tag)))
                }
                Execution::Rows { columns, rows, tag } => (Kind::of(tag), Some(Cursor::rows(columns, rows, tag))),
            },
        };
        if let Some(mut cursor) = cursor {
            let progress = self.fetch(&mut cursor, formats, max_rows).await?;
            // At its end it lets go of the engine, and gives no rows when it is run again.
            portal.state = State::Open(match progress {
                Progress::Suspended => cursor,
                Progress::Finished => Cursor::rows(cursor.columns, Vec::new(), cursor.tag),
            });
        }
        self.portals.insert(name.into(), portal);
        self.metrics.statement(kind, started.elapsed());
        Ok(())
    }
}

fn no_portal(name: &str) -> Error {
    Error::new(ErrorKind::InvalidCursorName, format!("portal \"{name}\" does not exist"))
}

fn context(portal: &str, index: usize) -> String {
    if portal.is_empty() {
        format!("unnamed portal parameter ${}", index + 1)
    } else {
        format!("portal \"{portal}\" parameter ${}", index + 1)
    }
}
