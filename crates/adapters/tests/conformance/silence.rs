//! Servers that stand still: their connections stay open, and no answer comes.

use crate::faults::{back, made_of};
use crate::maria::Maria;
use crate::server::Server;
use crate::world::{TestResult, begin, everything, failure, insert, key, lock, mysql, postgres};
use atoll_model::{ErrorKind, Outcome};
use atoll_ports::site::{BranchOptions, Isolation, Site};
use futures::StreamExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After how long a site is asked whether it is there, and how long it may take to say so.
const OPTIONS: [(&str, &str); 2] = [("busy_check", "300ms"), ("connect_timeout", "300ms")];

/// Far more than that.
const SOON: Duration = Duration::from_secs(10);

/// A server that stands still until this is dropped.
struct Still(u32);

impl Still {
    fn new(process: Option<u32>) -> Result<Self, Box<dyn std::error::Error>> {
        let still = Still(process.ok_or("the server runs")?);
        still.signal("-STOP");
        Ok(still)
    }

    /// Sends a signal to the process and its children. Should it not arrive, the test says so.
    fn signal(&self, signal: &str) {
        let id = self.0.to_string();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let _ = Command::new("kill").arg(signal).arg(&id).args(children.split_whitespace()).status();
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

/// In the middle of a result, of a statement and of a commit: each ends with an error, in time, and the site is used again when it is back.
async fn found_out(site: &Arc<dyn Site>, process: Option<u32>) -> TestResult {
    // More than the two portions that a scan keeps.
    let at = made_of(site, 50_000, &"x".repeat(400)).await?;
    let reader = begin(site, Isolation::ReadCommitted).await?;
    let mut scan = reader.scan(&at, everything(&at))?;
    scan.next().await.ok_or("rows")??;
    let asking = begin(site, Isolation::ReadCommitted).await?;
    lock(&*asking, &at, 1).await?;
    let committing = begin(site, Isolation::ReadCommitted).await?;
    committing.apply(&at, vec![insert(-1, "who knows", 1)]).await?;

    let still = Still::new(process)?;
    let second = key(2);
    let began = Instant::now();
    let scanned = async {
        while let Some(batch) = scan.next().await {
            batch?;
        }
        Ok(())
    };
    let (scanned, asked, committed) = tokio::join!(scanned, asking.get(&at, &second), committing.commit());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(failure::<()>(scanned), Some(ErrorKind::SiteUnavailable), "a result that is cut off is no result");
    assert_eq!(failure(asked), Some(ErrorKind::SiteUnavailable));
    let committed = committed.expect_err("nobody has answered");
    assert_eq!(committed.outcome(), Outcome::Indeterminate, "{committed:?}");
    // Now it is known, or found out once more, by another pool of the site's.
    let began = Instant::now();
    assert_eq!(
        failure(begin(site, Isolation::ReadCommitted).await?.get(&at, &second).await),
        Some(ErrorKind::SiteUnavailable)
    );
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    drop(still);
    back(site, &at).await?;
    // Locks of what was given up go as well.
    drop(asking);
    let deadline = Instant::now() + SOON;
    loop {
        let next = begin(site, Isolation::ReadCommitted).await?;
        match lock(&*next, &at, 1).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A statement may take longer than that, if the site answers others.
async fn waited_for(site: &Arc<dyn Site>) -> TestResult {
    let at = made_of(site, 3, "x").await?;
    let holder = begin(site, Isolation::ReadCommitted).await?;
    lock(&*holder, &at, 1).await?;
    let patient = BranchOptions { lock_timeout: Duration::from_secs(60), ..BranchOptions::default() };
    let waiting = site.begin(patient).await?;
    let release = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        holder.rollback();
    };
    let (waited, ()) = tokio::join!(lock(&*waiting, &at, 1), release);
    waited?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_postgres() -> TestResult {
    let server = Server::start().await?;
    waited_for(&postgres(1, &server.url("postgres"), &OPTIONS)?).await?;
    found_out(&postgres(2, &server.url("postgres"), &OPTIONS)?, server.process_id()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_mysql() -> TestResult {
    let server = Maria::start().await?;
    waited_for(&mysql(1, &server.url("app"), &OPTIONS)?).await?;
    found_out(&mysql(2, &server.url("app"), &OPTIONS)?, server.server.process_id()).await
}
