//! A node over embedded sites in a temporary directory, and DDL written shortly.

#![allow(dead_code, reason = "each test file uses its part of it")]

use atoll_adapters::site::embedded::EmbeddedEngine;
use atoll_model::{
    CatalogCommand, FragmentBounds, NewColumn, NewForeignKey, NewFragment, NewFragmentation, NewIndex, NewSequence,
    NewTable, ReadBalance, ReferentialAction, Replication, Result, Row, Site as Definition, SiteEngine, SqlType, Table,
    Value,
};
use atoll_node::{Node, SiteFactory};
use atoll_ports::cluster::{Cluster, FragmentRef, Transaction};
use atoll_ports::site::{
    BranchOptions, Isolation, KeyRange, LockMode, LockWait, ParticipantId, RowChange, ScanRequest, Site,
};
use atoll_storage::{Store, StoreOptions};
use futures::TryStreamExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

struct Factory(Arc<EmbeddedEngine>);

impl SiteFactory for Factory {
    fn open(&self, site: &Definition) -> Result<Arc<dyn Site>> {
        atoll_adapters::site::open(&self.0, site)
    }
}

/// Opens the database in a directory.
pub async fn open(dir: &Path) -> Result<(Arc<Store>, Arc<Node>)> {
    let options = StoreOptions { disk_reserve: 0, ..StoreOptions::default() };
    let store = Arc::new(Store::open(dir, options)?);
    let engine = EmbeddedEngine::new(store.clone(), ParticipantId(0), 16 << 20)?;
    let node = Node::open(Box::new(Factory(engine))).await?;
    Ok((store, node))
}

/// A fresh database that is removed in the end.
pub struct World {
    pub dir: tempfile::TempDir,
    pub store: Arc<Store>,
    pub node: Arc<Node>,
}

pub fn short() -> BranchOptions {
    BranchOptions { lock_timeout: Duration::from_millis(200), synchronous_commit: false, ..BranchOptions::default() }
}

pub fn repeatable() -> BranchOptions {
    BranchOptions { isolation: Isolation::RepeatableRead, ..short() }
}

impl World {
    pub async fn new() -> Result<World> {
        let dir = tempfile::tempdir().map_err(|e| atoll_model::Error::internal(e.to_string()))?;
        let (store, node) = open(dir.path()).await?;
        let world = World { dir, store, node };
        for site in ["s1", "s2", "s3"] {
            world
                .ddl(CatalogCommand::CreateSite { name: site.into(), engine: SiteEngine::Embedded, options: [].into() })
                .await?;
        }
        Ok(world)
    }

    pub async fn ddl(&self, command: CatalogCommand) -> Result<()> {
        let txn = self.node.begin(short());
        txn.apply(command).await?;
        txn.commit().await.map(|_| ())
    }

    pub async fn create(&self, table: NewTable) -> Result<()> {
        self.ddl(CatalogCommand::CreateTable(Box::new(table))).await
    }

    pub fn table(&self, name: &str) -> Arc<Table> {
        self.node.catalog().table(name).unwrap_or_else(|| panic!("table {name}")).clone()
    }

    pub async fn insert(&self, table: &str, rows: Vec<Row>) -> Result<()> {
        let txn = self.node.begin(short());
        insert(&*txn, table, rows).await?;
        txn.commit().await.map(|_| ())
    }

    pub async fn delete(&self, table: &str, rows: Vec<Row>) -> Result<()> {
        let txn = self.node.begin(short());
        delete(&*txn, table, rows).await?;
        txn.commit().await.map(|_| ())
    }

    pub async fn update(&self, table: &str, old: Row, new: Row) -> Result<()> {
        let txn = self.node.begin(short());
        update(&*txn, table, old, new).await?;
        txn.commit().await.map(|_| ())
    }

    /// All rows, as `fragment: values`, in order.
    pub async fn rows(&self, table: &str) -> Result<Vec<String>> {
        let txn = self.node.begin(short());
        rows(&*txn, table).await
    }
}

pub async fn insert(txn: &dyn Transaction, table: &str, rows: Vec<Row>) -> Result<()> {
    let table = txn.catalog().table(table).unwrap_or_else(|| panic!("table {table}")).clone();
    txn.write(&table, rows.into_iter().map(RowChange::Insert).collect()).await
}

async fn lock(txn: &dyn Transaction, table: &Arc<Table>, row: &Row) -> Result<()> {
    let at = txn.place(table, row).await?;
    let fragment = FragmentRef { table: table.clone(), at };
    txn.lock(&fragment, &[table.key_of(row)], LockMode::Exclusive, LockWait::Wait).await?;
    Ok(())
}

pub async fn delete(txn: &dyn Transaction, table: &str, rows: Vec<Row>) -> Result<()> {
    let table = txn.catalog().table(table).unwrap_or_else(|| panic!("table {table}")).clone();
    for row in &rows {
        lock(txn, &table, row).await?;
    }
    txn.write(&table, rows.into_iter().map(RowChange::Delete).collect()).await
}

pub async fn update(txn: &dyn Transaction, table: &str, old: Row, new: Row) -> Result<()> {
    let table = txn.catalog().table(table).unwrap_or_else(|| panic!("table {table}")).clone();
    lock(txn, &table, &old).await?;
    txn.write(&table, vec![RowChange::Update { old, new }]).await
}

pub async fn rows(txn: &dyn Transaction, name: &str) -> Result<Vec<String>> {
    let table = txn.catalog().table(name).unwrap_or_else(|| panic!("table {name}")).clone();
    let mut all = vec![];
    for at in 0..table.fragments.len() {
        let fragment = FragmentRef { table: table.clone(), at };
        let request = ScanRequest {
            columns: (0..table.columns.len()).collect(),
            index: None,
            range: KeyRange::ALL,
            reverse: false,
            limit: None,
            batch_size: 100,
        };
        let mut batches = txn.scan(&fragment, request)?.1;
        while let Some(batch) = batches.try_next().await? {
            for row in 0..batch.num_rows() {
                let cells: Vec<String> = batch
                    .columns()
                    .iter()
                    .zip(&table.columns)
                    .map(|(array, column)| show(&atoll_ports::rows::value_at(array, row, &column.ty)))
                    .collect();
                all.push(format!("{}: {}", table.fragments[at].name, cells.join(" ")));
            }
        }
    }
    Ok(all)
}

fn show(value: &Result<Value>) -> String {
    match value {
        Ok(Value::Null) => "-".into(),
        Ok(Value::Int4(v)) => v.to_string(),
        Ok(Value::Int8(v)) => v.to_string(),
        Ok(Value::Text(v)) => v.clone(),
        other => format!("{other:?}"),
    }
}

pub fn int(v: i32) -> Value {
    Value::Int4(v)
}

pub fn text(v: &str) -> Value {
    Value::Text(v.into())
}

/// Columns written as `id int key, name text unique, n int`.
pub fn table(name: &str, columns: &str) -> NewTable {
    let mut new = NewTable {
        name: name.into(),
        columns: vec![],
        primary_key: None,
        uniques: vec![],
        checks: vec![],
        foreign_keys: vec![],
        fragmentation: NewFragmentation::Default,
        sites: vec!["s1".into(), "s2".into(), "s3".into()],
        fragments: None,
        replicas: 1,
        replication: Replication::All,
        read_balance: ReadBalance::RoundRobin,
        on_replica_down: Default::default(),
        adopted: None,
    };
    let mut key = vec![];
    for column in columns.split(',') {
        let mut words = column.split_whitespace();
        let (name, ty) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let ty = SqlType::parse(ty).unwrap_or_else(|| panic!("type {ty}"));
        let mut identity = None;
        for word in words {
            match word {
                "key" => key.push(name.to_string()),
                "unique" => new.uniques.push(index(&[name], true)),
                "serial" => identity = Some((false, sequence(&format!("{}_{name}_seq", new.name)))),
                other => panic!("{other}"),
            }
        }
        new.columns.push(NewColumn {
            name: name.into(),
            ty,
            not_null: false,
            default: None,
            missing: Value::Null,
            identity,
        });
    }
    new.primary_key = (!key.is_empty()).then_some((None, key));
    new
}

pub fn sequence(name: &str) -> NewSequence {
    NewSequence { name: name.into(), start: 1, increment: 1, min: 1, max: i64::MAX, cycle: false }
}

pub fn index(columns: &[&str], unique: bool) -> NewIndex {
    NewIndex { name: None, columns: columns.iter().map(|c| c.to_string()).collect(), unique, constraint: unique }
}

pub fn by_list(mut table: NewTable, column: &str) -> NewTable {
    table.fragmentation = NewFragmentation::List(column.into());
    table
}

pub fn derived(mut table: NewTable, parent: &str, column: &str) -> NewTable {
    table.fragmentation = NewFragmentation::Derived { parent: parent.into(), column: column.into() };
    table.sites.clear();
    table
}

pub fn copies(mut table: NewTable) -> NewTable {
    table.fragmentation = NewFragmentation::Copies;
    table
}

pub fn references(
    mut table: NewTable,
    column: &str,
    parent: &str,
    delete: ReferentialAction,
    update: ReferentialAction,
) -> NewTable {
    table.foreign_keys.push(NewForeignKey {
        name: None,
        columns: vec![column.into()],
        parent: parent.into(),
        parent_columns: vec![],
        on_delete: delete,
        on_update: update,
    });
    table
}

pub fn list_fragment(table: &str, name: &str, values: &[&str], site: &str) -> CatalogCommand {
    CatalogCommand::CreateFragment {
        table: table.into(),
        fragment: NewFragment {
            name: name.into(),
            bounds: FragmentBounds::List(values.iter().map(|v| text(v)).collect()),
            sites: vec![site.into()],
            adopted: None,
        },
    }
}
