//! What the stores and the node hold, as gauges for `/metrics`, looked at every few seconds.

use atoll_node::Node;
use atoll_ports::cluster::Cluster;
use atoll_storage::Store;
use metrics::{Unit, describe_gauge, gauge};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often they are looked at.
const PERIOD: Duration = Duration::from_secs(5);

/// Tables that have series of their own; the sums include all.
const MAX_TABLES: usize = 200;

/// Keeps the gauges up to date until the node is gone.
pub async fn keep(node: Weak<Node>, store: Weak<Store>) {
    describe_gauge!("atoll_storage_disk_bytes", Unit::Bytes, "Bytes on disk of the embedded sites");
    describe_gauge!("atoll_storage_locked_keys", "Keys that transactions have locked");
    describe_gauge!("atoll_storage_refuses_writes", "1 when the store takes no more writes");
    describe_gauge!("atoll_transactions_open", "Transactions that are open");
    describe_gauge!("atoll_table_rows", "Rows of a table, about, each copy counted once");
    describe_gauge!("atoll_table_bytes", Unit::Bytes, "Bytes of a table's rows, about, each copy counted once");
    describe_gauge!("atoll_table_fragments", "Fragments of a table");
    loop {
        let (Some(node), Some(store)) = (node.upgrade(), store.upgrade()) else { return };
        // Reads directories.
        if let Ok(known) = tokio::task::spawn_blocking(move || look(&node, &store)).await {
            known.set();
        }
        tokio::time::sleep(PERIOD).await;
    }
}

struct Known {
    disk: Option<u64>,
    locked: usize,
    refuses: bool,
    transactions: usize,
    tables: Vec<(String, u64, u64, usize)>,
}

fn look(node: &Arc<Node>, store: &Arc<Store>) -> Known {
    let catalog = node.catalog();
    let tables = catalog.tables.values().take(MAX_TABLES).map(|table| {
        let sizes = table.fragments.iter().map(|f| node.statistics(table, f.id));
        let (rows, bytes) = sizes.fold((0, 0), |(rows, bytes), s| (rows + s.rows, bytes + s.bytes));
        (table.name.clone(), rows, bytes, table.fragments.len())
    });
    Known {
        disk: store.disk_bytes().ok(),
        locked: store.locked_keys(),
        refuses: store.write_refusal().is_some(),
        transactions: node.transactions().len(),
        tables: tables.collect(),
    }
}

impl Known {
    fn set(self) {
        if let Some(bytes) = self.disk {
            gauge!("atoll_storage_disk_bytes").set(bytes as f64);
        }
        gauge!("atoll_storage_locked_keys").set(self.locked as f64);
        gauge!("atoll_storage_refuses_writes").set(f64::from(u8::from(self.refuses)));
        gauge!("atoll_transactions_open").set(self.transactions as f64);
        for (name, rows, bytes, fragments) in self.tables {
            gauge!("atoll_table_rows", "table" => name.clone()).set(rows as f64);
            gauge!("atoll_table_bytes", "table" => name.clone()).set(bytes as f64);
            gauge!("atoll_table_fragments", "table" => name).set(fragments as f64);
        }
    }
}
