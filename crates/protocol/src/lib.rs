//! The distributed protocols, as state machines without I/O: inputs go in, effects come out, and time is an input.
//!
//! * [`commit`]: the coordinator of one transaction over several participants. Two-phase commit (Gray, *Notes on Data Base Operating
//!   Systems*, 1978) in the form *presumed abort*, with read-only participants left out (Mohan, Lindsay, Obermarck, *Transaction Management
//!   in the R\* Distributed Database Management System*, TODS 11(4), 1986), one-phase commit and the *last agent* (Samaras, Britton,
//!   Citron, Mohan, *Two-Phase Commit Optimizations and Tradeoffs in the Commercial Environment*, ICDE 1993).
//! * [`recovery`]: what is in doubt after a crash of the coordinator, a participant, or the network between, is found and finished.
//! * [`snapshot`]: reads over several sites that see, of each commit, everything or nothing.
//! * [`timestamp`]: unique timestamps in real-time order, from servers without a leader.
//! * [`membership`]: which nodes there are and which of them live: heartbeats, a phi-accrual failure detector, gossip.
//! * [`election`]: who should do what only one may do (three policies), and who does: an epoch, a lease, a fence.
//!
//! Nothing here reads a clock, spawns, logs or draws random numbers, so every run can be repeated. `tests/scripts` shows what the
//! machines do, as conversations; `tests/{exploration,membership,election}.rs` have them live through loss, repetition, delay, sleep and crashes.
//!
//! # A driver
//!
//! It owns the machines, hands them what happens, and carries out the effects in order, those of one step without waiting for each other's
//! answers. It calls each machine with `Tick` when [`commit::Commit::wake_at`] and its like say so. The machines are
//! connected: `Enter`, `Applied` and `Withdraw` of a commit go to the snapshots, whose `Admit` goes back; an answer with pending participants
//! is `Overdue` there; `Sweep` goes to recovery, whose `Settled` goes to the snapshots.
//!
//! # What is relied on
//!
//! 1. `Prepared`, `Committed` and `Logged` are said when they are *durable* (at MySQL that takes `innodb_flush_log_at_trx_commit = 1`).
//!    PostgreSQL flushes `PREPARE TRANSACTION` and `COMMIT PREPARED` whatever `synchronous_commit` says.
//! 2. `Committed` is said when every snapshot opened from then on shows the transaction.
//! 3. `Refused` means rolled back for certain. Whoever does not know says `Lost`; that is the only safe answer to a broken connection.
//! 4. `Missing` means that there is no prepared branch of that name, not that it cannot be had now. PostgreSQL says 42704 for the one and 55000
//!    ("is busy") for the other. MySQL and MariaDB say `XAER_NOTA` for both while the session that prepared is still connected: the
//!    adapter looks into `XA RECOVER`, and says `Lost` if the name is there.
//! 5. A list of prepared branches is complete, or `ListFailed`. (A user without `XA_RECOVER_ADMIN` gets an error from MySQL.)
//! 6. One run of a node at a time has its data directory, and the number of the run is durable before the first name is made from it.
//! 7. A transaction is in the set of active ones from before its first effect until `Done` was carried out, panics included.
//! 8. "Not recorded", said by a log or a ledger that was asked, is final.
//! 9. The clock behind [`Time`] goes on while the process or its machine sleeps (`CLOCK_BOOTTIME`), at a rate within
//!    [`election::holder::Options::skew`] of true.
//! 10. What replicates the holder's register applies proposals by [`election::holder::Register::change`], in one order, at every node; and whatever
//!     a holder changes asks a [`election::Fence`] that is stored with it. A holder that begins first has its epoch admitted by the fences of
//!     all places that it will read or change.
//!
//! | | PostgreSQL | MySQL, MariaDB |
//! |---|---|---|
//! | `Prepare` | `PREPARE TRANSACTION 'gid'` | `XA END`, `XA PREPARE 'gtrid','bqual'` |
//! | `Commit` | `COMMIT PREPARED 'gid'` | `XA COMMIT 'gtrid','bqual'` |
//! | `Abort` | `ROLLBACK`, or `ROLLBACK PREPARED 'gid'` | `XA ROLLBACK 'gtrid','bqual'` |
//! | `List` | `pg_prepared_xacts` of this database | `XA RECOVER` |
//! | a record in a ledger | a row with the transaction's name as its key, inserted first in the branch that commits with it | the same |
//! | asking a ledger | insert "aborted" under that key: this waits for a branch that is still committing, and keeps a late one from it | the same |
//!
//! # What it does not give
//!
//! Participants commit one after the other, and each gives its locks back when it does. A check that spans participants (a foreign key, a
//! unique key over fragments) must therefore hold locks at each participant that it looks at, and wait for windows that are open there
//! ([`snapshot`]); a snapshot read alone may look between two commits. And two-phase commit blocks: while a coordinator that voted
//! branches wait for is down, and its log with it, they stay in doubt. Putting the log into a replicated state machine ends that
//! (Gray, Lamport, *Consensus on Transaction Commit*, TODS 31(1), 2006), and needs nothing else here: [`recovery::Input::Died`] hands it over.

mod attempt;
pub mod commit;
mod decision;
pub mod election;
mod gid;
pub mod membership;
mod names;
pub mod recovery;
pub mod snapshot;
mod time;
pub mod timestamp;

pub use decision::Decision;
pub use gid::{Foreign, Gid, Incarnation, TransactionId};
pub use names::Names;
pub use time::{Backoff, Time};
