//! `atoll serve`: a server in the foreground, from start to graceful stop.
//!
//! Invariant: SIGTERM or Ctrl-C lets running statements end for `shutdown_grace`; a second one stops at once.
//! Either way no acknowledged commit is lost: durability never depends on a clean stop.

use std::future::Future;
use std::io;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::ServeConfig;
use crate::serve_args::{ServeArgs, unknown_variables};
use crate::wiring::{self, RunningServer};
use crate::{logging, term};

/// The signals that end a server.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Listens from now on; a signal that comes before [`Self::next`] is kept.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next of them, and says which it was.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Runs the server until a signal.
pub async fn run(args: ServeArgs) -> ExitCode {
    let config = match args.resolve().and_then(|c| logging::init(&c.log).map(|()| c)) {
        Ok(config) => config,
        Err(error) => {
            term::fail(error);
            return ExitCode::from(2);
        }
    };
    for variable in unknown_variables() {
        tracing::warn!(variable, "this variable sets nothing; is it misspelt?");
    }
    let mut signals = match StopSignals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            term::fail(format_args!("cannot listen for signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let server = tokio::select! {
        started = wiring::start(&config) => match started {
            Ok(server) => server,
            Err(error) => {
                term::fail(format_args!("cannot start: {error}"));
                return ExitCode::FAILURE;
            }
        },
        name = signals.next() => {
            tracing::info!(signal = name, "stopped while starting");
            return ExitCode::SUCCESS;
        }
    };
    tracing::info!(
        sql = %server.sql_addr(),
        http = %server.http_addr(),
        data = %config.data.display(),
        version = env!("CARGO_PKG_VERSION"),
        "ready"
    );
    let name = signals.next().await;
    tracing::info!(signal = name, grace = %config.shutdown_grace, "stopping");
    if stop(server, &config, signals.next()).await {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped without waiting for every statement to end");
    }
    ExitCode::SUCCESS
}

/// Shuts `server` down; false when the time of grace ran out, or `impatient` came, before it had ended.
pub async fn stop<T>(server: RunningServer, config: &ServeConfig, impatient: impl Future<Output = T>) -> bool {
    tokio::select! {
        () = server.shutdown() => true,
        // The server itself cancels what still runs after the grace; the extra second is for it to do so.
        () = tokio::time::sleep(config.shutdown_grace.0 + std::time::Duration::from_secs(1)) => false,
        _ = impatient => false,
    }
}
