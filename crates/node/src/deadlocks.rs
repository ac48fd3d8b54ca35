//! Deadlocks between transactions, over all that they can wait for: tables, the catalog, rows.
//!
//! The store finds cycles of row locks alone, when a wait begins (`storage/kv/locks.rs`). A cycle that leads through a table's lock has
//! a transaction that waits there, and that one looks, now and then, whether it waits for itself. Edges are derived from who holds and who
//! waits at that moment; looks are made one at a time, so of a cycle's members one ends it and the others see that it is gone.
//! (Özsu & Valduriez, section 5.2.3: a centralized detector over the wait-for graph.)

use crate::node::Node;
use std::collections::{HashMap, HashSet};

impl Node {
    /// Whether a transaction that waits at a table or for the catalog waits for itself; then it has given up.
    pub(crate) fn waits_for_itself(&self, start: u64) -> bool {
        let _one = self.gates.looks.lock();
        let open = self.active.all();
        let mut owners = HashMap::new();
        let mut rows = HashMap::new();
        for txn in &open {
            for (participant, branch) in txn.branches() {
                owners.insert((participant, branch.lock_owner()), txn.number());
                let blockers: Vec<_> = branch.blocked_by().into_iter().map(|owner| (participant, owner)).collect();
                rows.entry(txn.number()).or_insert_with(Vec::new).extend(blockers);
            }
        }
        let mut seen = HashSet::new();
        let mut todo = vec![start];
        while let Some(txn) = todo.pop() {
            let by_rows = rows.get(&txn).into_iter().flatten().filter_map(|owner| owners.get(owner).copied());
            for blocker in self.gates.blockers(txn).into_iter().chain(by_rows) {
                if blocker == start {
                    self.gates.give_up(start);
                    return true;
                }
                if seen.insert(blocker) {
                    todo.push(blocker);
                }
            }
        }
        false
    }
}
