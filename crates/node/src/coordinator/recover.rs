//! Recovery's driver: asks sites what is prepared there, and finishes what nobody else will.
//!
//! Invariant: which transactions are active is looked up after a site's list has come, so one that is on the list and not active is over.

use super::Coordinator;
use atoll_ports::site::{Finished, PreparedName, Site};
use atoll_protocol::recovery::{Effect, Input};
use atoll_protocol::{Gid, snapshot};
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

/// Calls the machine when it wants to be called, until the coordinator is gone.
pub(super) async fn run(coordinator: Weak<Coordinator>, wake: Arc<Notify>) {
    loop {
        let Some((began, at)) = coordinator.upgrade().map(|this| (this.began, this.recovery.lock().wake_at())) else {
            return;
        };
        let due = async {
            match at {
                Some(at) => tokio::time::sleep_until((began + std::time::Duration::from_millis(at.0)).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = wake.notified() => continue,
        }
        let Some(this) = coordinator.upgrade() else { return };
        this.recover(Input::Tick);
    }
}

impl Coordinator {
    /// Tells the machine, and does what it wants.
    pub(super) fn recover(self: &Arc<Self>, input: Input) {
        let effects = {
            let mut machine = self.recovery.lock();
            machine.step(self.now(), input)
        };
        self.recover_by(effects);
        self.wake.notify_one();
    }

    pub(super) fn recover_by(self: &Arc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::List { participant, round } => match self.site(participant) {
                    Some(site) => drop(tokio::spawn(list(Arc::downgrade(self), site, round))),
                    None => self.recover(Input::ListFailed { participant, round }),
                },
                Effect::Commit(gid) => self.finish(gid, true),
                Effect::Abort(gid) => self.finish(gid, false),
                // No participant records decisions but the node's own: the name is not one of this version's.
                Effect::Ask(gid) => self.recover(Input::Failed(gid)),
                Effect::Settled(participant) => {
                    self.read(snapshot::Input::Settled(participant));
                }
                Effect::Forget(decision) => {
                    self.note_recovered(&decision);
                    self.forgotten.add(decision);
                }
            }
        }
    }

    fn finish(self: &Arc<Self>, gid: Gid, commit: bool) {
        match self.site(gid.participant) {
            Some(site) => drop(tokio::spawn(finish(Arc::downgrade(self), site, gid, commit))),
            None => self.recover(Input::Failed(gid)),
        }
    }
}

async fn list(coordinator: Weak<Coordinator>, site: Arc<dyn Site>, round: u64) {
    let participant = site.participant();
    let listed = site.in_doubt().await;
    let Some(this) = coordinator.upgrade() else { return };
    let names = match listed {
        Ok(names) => names,
        Err(error) => {
            tracing::debug!(participant = %participant, %error, "prepared transactions could not be listed");
            return this.recover(Input::ListFailed { participant, round });
        }
    };
    let in_doubt: Vec<Gid> = names.iter().filter_map(|name| name.as_str().parse().ok()).collect();
    let active = {
        let active = this.active.lock();
        in_doubt.iter().map(|gid| gid.transaction).filter(|id| active.contains_key(id)).collect()
    };
    this.recover(Input::Listed { participant, round, in_doubt, recorded: vec![], active });
}

async fn finish(coordinator: Weak<Coordinator>, site: Arc<dyn Site>, gid: Gid, commit: bool) {
    let finished = match name(gid) {
        Ok(name) => site.finish(&name, commit).await,
        Err(error) => Err(error),
    };
    let Some(this) = coordinator.upgrade() else { return };
    match finished {
        Ok(found) => {
            tracing::info!(%gid, commit, ?found, "finished a prepared transaction");
            // A commit is told of when its record is deleted; of a branch of this run, its coordinator tells.
            if !commit && found == Finished::Now && gid.transaction.coordinator != this.me {
                let why = "no decision was recorded before a restart";
                this.note_branches(gid.transaction, vec![gid.participant], false, why);
            }
            this.recover(Input::Finished(gid));
        }
        Err(error) => {
            tracing::debug!(%gid, %error, "a prepared transaction could not be finished");
            this.recover(Input::Failed(gid));
        }
    }
}

/// A branch's name, as the port has it.
pub(super) fn name(gid: Gid) -> atoll_model::Result<PreparedName> {
    PreparedName::new(gid.to_string())
}
