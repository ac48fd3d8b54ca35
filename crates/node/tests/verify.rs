//! VERIFY: what was changed at a site behind Atoll's back is found and named, and nothing else is.

mod rig;
mod world;

use atoll_model::{CatalogCommand, Error, ErrorKind, NewTable, SqlType, TableChange, Value};
use atoll_ports::cluster::Cluster;
use atoll_ports::verify::{Finding, FindingKind, Summary, Verified};
use futures::TryStreamExt as _;
use rig::database::Database;
use rig::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use world::{copies, derived, insert, int, table, text};

over_engines!(
    nothing_is_found_while_others_write,
    changed_rows_are_named,
    few_among_many_are_found,
    most_of_many_are_found,
    misplaced_rows_are_named,
    rows_misplaced_beside_their_parents,
    a_dropped_index,
    changed_columns,
    a_dropped_table,
    a_site_that_is_down,
    prepared_transactions_of_nobody,
);

/// What is found, and the tables that were looked at.
fn verify(rig: &Rig, tables: Option<&[&str]>) -> TestResult<(Vec<Finding>, Vec<Summary>)> {
    let tables = tables.map(|tables| tables.iter().map(|t| (*t).to_owned()).collect());
    let all: Vec<Verified> = rig.run().block_on(rig.node().verify(tables).try_collect())?;
    let (mut findings, mut summaries) = (vec![], vec![]);
    for verified in all {
        match verified {
            Verified::Finding(finding) => findings.push(finding),
            Verified::Table(summary) => summaries.push(summary),
        }
    }
    Ok((findings, summaries))
}

/// Findings as `site kind object rows`.
fn shown(findings: &[Finding]) -> Vec<String> {
    let mut shown: Vec<String> = findings
        .iter()
        .map(|f| {
            let rows = f.rows.map_or("-".into(), |rows| rows.to_string());
            format!("{} {} {} {rows}", f.site, f.kind.name(), f.object.as_deref().unwrap_or("-"))
        })
        .collect();
    shown.sort();
    shown
}

/// A table of which each site has a copy.
fn replicated(columns: &str) -> NewTable {
    let mut table = copies(table("c", columns));
    table.sites = vec!["home".into(), "pa".into(), "pb".into()];
    table
}

fn row(id: i32) -> Vec<Value> {
    vec![int(id), int(id * 10), text(&format!("t{id}"))]
}

/// `c`, with so many rows from 1 on.
fn filled(rig: &Rig, rows: i32) -> TestResult {
    rig.ddl(CatalogCommand::CreateTable(Box::new(replicated("id int key, n int, t text"))))?;
    add(rig, "c", (1..=rows).map(row).collect())
}

fn add(rig: &Rig, table: &str, rows: Vec<Vec<Value>>) -> TestResult {
    let node = rig.node();
    rig.run().block_on(async {
        let txn = node.begin(patient());
        insert(&*txn, table, rows).await?;
        txn.commit().await?;
        Ok(())
    })
}

fn is_maria(rig: &Rig, at: usize) -> bool {
    Database::is_maria(&rig.databases[at].url())
}

/// Runs a statement beside Atoll at a server, in which `@f` stands for the table of a fragment and `@name` for a column.
fn behind(rig: &Rig, at: usize, table: &str, fragment: usize, sql: &str) -> TestResult {
    let catalog = rig.node().catalog();
    let table = catalog.table(table).ok_or("no such table")?;
    let maria = is_maria(rig, at);
    let id = table.fragments[fragment].id;
    let mut sql = sql.replace("@f", &if maria { format!("f{id}") } else { format!("atoll.f{id}") });
    for column in &table.columns {
        let name = if maria { format!("c{}", column.id) } else { column.name.clone() };
        sql = sql.replace(&format!("@{}", column.name), &name);
    }
    rig.control.block_on(rig.databases[at].run(&sql))
}

fn nothing_is_found_while_others_write(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    filled(&rig, 200)?;
    rig.accounts()?;
    let (stop, commits) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
    let mut writers = vec![];
    for first in [1, 101] {
        let (node, stop, commits) = (rig.node().clone(), stop.clone(), commits.clone());
        writers.push(rig.run().spawn(async move {
            let mut rows: Vec<Vec<Value>> = (first..first + 100).map(row).collect();
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let at = n % rows.len();
                let mut new = rows[at].clone();
                new[1] = int(n as i32);
                let txn = node.begin(patient());
                let changed = async {
                    world::update(&*txn, "c", rows[at].clone(), new.clone()).await?;
                    insert(&*txn, "c", vec![row(1000 * first + n as i32)]).await?;
                    transfer(&*txn, &[(1, 1), (2, -1)]).await?;
                    txn.commit().await
                };
                if changed.await.is_ok() {
                    rows[at] = new;
                    commits.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    let mut compared = 0;
    while commits.load(Ordering::Relaxed) < 20 || compared < 5 * 600 {
        let (findings, summaries) = verify(&rig, None)?;
        assert_eq!(findings, vec![]);
        let of = |name: &str| summaries.iter().find(|s| s.table == name).cloned().unwrap_or_default();
        assert_eq!((of("accounts").fragments, of("accounts").copies, of("accounts").compared), (3, 3, 0));
        assert_eq!((of("c").fragments, of("c").copies, of("c").findings), (1, 3, 0));
        compared += of("c").compared;
    }
    stop.store(true, Ordering::Relaxed);
    rig.run().block_on(async {
        for writer in writers {
            writer.await?;
        }
        TestResult::Ok(())
    })
}

fn changed_rows_are_named(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    filled(&rig, 50)?;
    behind(&rig, 0, "c", 0, "UPDATE @f SET @t = CONCAT(@t, ' ') WHERE @id = 7")?;
    behind(&rig, 0, "c", 0, "UPDATE @f SET @n = NULL WHERE @id IN (8, 9)")?;
    behind(&rig, 0, "c", 0, "DELETE FROM @f WHERE @id = 20")?;
    behind(&rig, 1, "c", 0, "INSERT INTO @f (@id, @n, @t) VALUES (-1, 0, NULL)")?;
    let (findings, summaries) = verify(&rig, Some(&["c"]))?;
    assert_eq!(
        shown(&findings),
        ["pa different (id)=(7) (id)=(8) (id)=(9) 3", "pa missing (id)=(20) 1", "pb extra (id)=(-1) 1"]
    );
    let different = findings.iter().find(|f| f.kind == FindingKind::Different).ok_or("none differs")?;
    assert_eq!(different.detail, "n, t otherwise in the copy at site \"home\", which 1 of 3 copies are like");
    assert_eq!((different.table.as_deref(), different.fragment.is_some()), (Some("c"), true));
    assert_eq!((summaries[0].copies, summaries[0].compared, summaries[0].findings), (3, 50 + 49 + 51, 3));

    // The one that is not like the other two is the one that is wrong, wherever it is.
    for sql in [
        "UPDATE @f SET @t = 't7' WHERE @id = 7",
        "UPDATE @f SET @n = @id * 10 WHERE @id IN (8, 9)",
        "INSERT INTO @f (@id, @n, @t) VALUES (20, 200, 't20')",
    ] {
        behind(&rig, 0, "c", 0, sql)?;
    }
    assert_eq!(shown(&verify(&rig, None)?.0), ["pb extra (id)=(-1) 1"]);
    behind(&rig, 1, "c", 0, "DELETE FROM @f WHERE @id = -1")?;
    assert_eq!(verify(&rig, None)?.0, vec![]);
    let unknown = rig.run().block_on(rig.node().verify(Some(vec!["x".into()])).try_collect::<Vec<_>>());
    assert_eq!(unknown.err().map(|e| e.kind()), Some(ErrorKind::UndefinedTable));
    Ok(())
}

fn few_among_many_are_found(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    filled(&rig, 20_000)?;
    behind(&rig, 0, "c", 0, "UPDATE @f SET @n = -@n WHERE @id = 1")?;
    behind(&rig, 0, "c", 0, "DELETE FROM @f WHERE @id IN (10000, 20000)")?;
    behind(&rig, 1, "c", 0, "UPDATE @f SET @id = 20001 WHERE @id = 12345")?;
    let (findings, _) = verify(&rig, None)?;
    assert_eq!(
        shown(&findings),
        [
            "pa different (id)=(1) 1",
            "pa missing (id)=(10000) (id)=(20000) 2",
            "pb extra (id)=(20001) 1",
            "pb missing (id)=(12345) 1",
        ]
    );
    Ok(())
}

fn most_of_many_are_found(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    filled(&rig, 10_000)?;
    behind(&rig, 0, "c", 0, "DELETE FROM @f WHERE @id > 3000")?;
    behind(&rig, 1, "c", 0, "UPDATE @f SET @n = 0 WHERE @id <= 9000")?;
    let (findings, _) = verify(&rig, None)?;
    let keys = |from: i32| (from..from + 5).map(|n| format!("(id)=({n})")).collect::<Vec<_>>().join(" ");
    assert_eq!(
        shown(&findings),
        [format!("pa missing {} … 7000", keys(3001)), format!("pb different {} … 9000", keys(1))]
    );
    Ok(())
}

fn misplaced_rows_are_named(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    rig.accounts()?;
    // Fragments of `accounts`: home, pa, pb.
    behind(&rig, 0, "accounts", 1, "INSERT INTO @f (@id, @region, @n) VALUES (11, 'pb', 1)")?;
    behind(&rig, 1, "accounts", 2, "UPDATE @f SET @region = 'nowhere'")?;
    let (findings, summaries) = verify(&rig, Some(&["accounts"]))?;
    assert_eq!(shown(&findings), ["pa misplaced (id)=(11) 1", "pb misplaced (id)=(2) 1"]);
    let details: Vec<&str> = findings.iter().map(|f| f.detail.as_str()).collect();
    assert!(details.contains(&"does not belong to the fragment: (region)=(nowhere)"), "{details:?}");
    assert_eq!((summaries[0].fragments, summaries[0].copies, summaries[0].compared), (3, 3, 0));
    Ok(())
}

fn rows_misplaced_beside_their_parents(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    rig.accounts()?;
    rig.ddl(CatalogCommand::CreateTable(Box::new(derived(table("d", "k int key, id int"), "accounts", "id"))))?;
    add(&rig, "d", (0..30).map(|k| vec![int(k), int(k % 3)]).collect())?;
    assert_eq!(verify(&rig, Some(&["d"]))?.0, vec![]);
    behind(&rig, 0, "d", 1, "INSERT INTO @f (@k, @id) VALUES (100, 2)")?;
    behind(&rig, 1, "d", 2, "INSERT INTO @f (@k, @id) VALUES (101, 7), (102, NULL)")?;
    assert_eq!(shown(&verify(&rig, Some(&["d"]))?.0), ["pa misplaced (k)=(100) 1", "pb misplaced (k)=(101) … 2"]);
    Ok(())
}

/// Drops an index besides the key: the n-th that was made.
fn drop_index(rig: &Rig, at: usize, n: u32) -> TestResult {
    if !is_maria(rig, at) {
        let id = rig.node().catalog().table("c").ok_or("no table")?.fragments[0].id;
        return behind(rig, at, "c", 0, &format!("DROP INDEX atoll.f{id}_i{n}"));
    }
    let name = format!(
        "SELECT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() \
         AND TABLE_NAME = '@f' AND INDEX_NAME LIKE 'i{n}|_%' ESCAPE '|' LIMIT 1"
    );
    let make = format!("SET @made = CONCAT('DROP INDEX `', ({name}), '` ON @f')");
    behind(rig, at, "c", 0, &format!("{make}; PREPARE p FROM @made; EXECUTE p"))
}

fn a_dropped_index(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    rig.ddl(CatalogCommand::CreateTable(Box::new(replicated("id int key, n int unique, t text"))))?;
    let index = world::index(&["t", "n"], false);
    rig.ddl(CatalogCommand::CreateIndex { table: "c".into(), index })?;
    add(&rig, "c", (1..=5).map(row).collect())?;
    assert_eq!(verify(&rig, None)?.0, vec![]);
    drop_index(&rig, 0, 1)?;
    let (findings, summaries) = verify(&rig, None)?;
    assert_eq!(shown(&findings), ["pa drift (n) -"]);
    assert_eq!(findings[0].detail, "It has no unique index on (n).");
    // The rows are looked at all the same.
    assert_eq!((summaries[0].copies, summaries[0].compared), (3, 15));
    behind(&rig, 0, "c", 0, "INSERT INTO @f (@id, @n, @t) VALUES (9, 10, 'second')")?;
    drop_index(&rig, 1, 2)?;
    assert_eq!(shown(&verify(&rig, None)?.0), ["pa drift (n) -", "pa extra (id)=(9) 1", "pb drift (t, n) -"]);
    Ok(())
}

fn changed_columns(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    filled(&rig, 5)?;
    for (at, site) in ["pa", "pb"].into_iter().enumerate() {
        let (wider, not_null) = if is_maria(&rig, at) {
            ("ALTER TABLE @f MODIFY @n BIGINT", "ALTER TABLE @f MODIFY @t LONGTEXT NOT NULL")
        } else {
            ("ALTER TABLE @f ALTER @n TYPE bigint", "ALTER TABLE @f ALTER @t SET NOT NULL")
        };
        behind(&rig, at, "c", 0, not_null)?;
        let found = verify(&rig, None)?.0;
        assert!(shown(&found).contains(&format!("{site} drift t -")), "{found:?}");
        behind(&rig, at, "c", 0, wider)?;
        let found = verify(&rig, None)?.0;
        assert!(shown(&found).contains(&format!("{site} drift n -")), "{found:?}");
        behind(&rig, at, "c", 0, "ALTER TABLE @f DROP COLUMN @n")?;
    }
    // What has no common columns is not compared.
    let (findings, summaries) = verify(&rig, None)?;
    assert_eq!(shown(&findings), ["pa drift n -", "pa drift t -", "pb drift n -", "pb drift t -"]);
    assert!(findings.iter().any(|f| f.detail == "It has no column \"n\"."), "{findings:?}");
    assert_eq!((summaries[0].copies, summaries[0].compared), (1, 0));
    Ok(())
}

fn a_dropped_table(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    filled(&rig, 5)?;
    behind(&rig, 1, "c", 0, "DROP TABLE @f")?;
    behind(&rig, 0, "c", 0, "DELETE FROM @f WHERE @id = 5")?;
    let (findings, summaries) = verify(&rig, None)?;
    let kinds: Vec<_> = findings.iter().map(|f| (f.site.as_str(), f.kind)).collect();
    assert_eq!(kinds, [("pb", FindingKind::Drift), ("pa", FindingKind::Missing)]);
    assert_eq!(findings[0].detail, "There is no such table.");
    assert_eq!((summaries[0].copies, summaries[0].compared), (2, 9));
    Ok(())
}

fn a_site_that_is_down(engines: [Engine; 2]) -> TestResult {
    let mut rig = Rig::of(engines)?;
    filled(&rig, 5)?;
    rig.accounts()?;
    behind(&rig, 0, "c", 0, "DELETE FROM @f WHERE @id = 5")?;
    rig.crash(1);
    let (findings, summaries) = verify(&rig, None)?;
    assert_eq!(
        shown(&findings),
        ["pa missing (id)=(5) 1", "pb unavailable - -", "pb unavailable - -", "pb unavailable - -"]
    );
    let at: Vec<_> = findings.iter().filter(|f| f.site == "pb").map(|f| f.table.as_deref()).collect();
    assert_eq!(at, [Some("accounts"), Some("c"), None]);
    assert!(findings.iter().all(|f| !f.detail.is_empty()), "{findings:?}");
    assert_eq!(summaries.iter().map(|s| s.copies).collect::<Vec<_>>(), [2, 2]);
    rig.start_again(1)?;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(shown(&verify(&rig, None)?.0), ["pa missing (id)=(5) 1"]);
    Ok(())
}

fn prepared_transactions_of_nobody(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    filled(&rig, 5)?;
    let lost = "atoll_00c0ffee00c0ffee_1-17_42_7";
    for name in [lost, "atoll_mine"] {
        rig.control.block_on(rig.databases[0].prepare_foreign(name))?;
    }
    let (findings, _) = verify(&rig, Some(&["c"]))?;
    assert_eq!(shown(&findings), [format!("pa orphaned {lost} -"), "pa orphaned atoll_mine -".to_owned()]);
    assert!(findings.iter().any(|f| f.detail.contains("another cluster")), "{findings:?}");
    Ok(())
}

/// What only PostgreSQL can hold keeps Atoll from reading that copy, and no other.
#[test]
fn a_copy_that_cannot_be_read() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    rig.ddl(CatalogCommand::CreateTable(Box::new(replicated("id int key, d date"))))?;
    add(&rig, "c", (1..=5).map(|n| vec![int(n), Value::Date(n)]).collect())?;
    behind(&rig, 0, "c", 0, "UPDATE @f SET @d = 'infinity' WHERE @id = 1")?;
    behind(&rig, 1, "c", 0, "UPDATE @f SET @d = NULL WHERE @id = 2")?;
    let (findings, summaries) = verify(&rig, None)?;
    assert_eq!(shown(&findings), ["pa unreadable - -", "pb different (id)=(2) 1"]);
    assert!(findings[0].detail.contains("infinite"), "{findings:?}");
    assert_eq!((summaries[0].copies, summaries[0].compared), (2, 10));
    Ok(())
}

#[test]
fn a_value_that_is_none() -> TestResult {
    let rig = Rig::of([Engine::Maria, Engine::Maria])?;
    rig.ddl(CatalogCommand::CreateTable(Box::new(replicated("id int key, b boolean"))))?;
    add(&rig, "c", (1..=5).map(|n| vec![int(n), Value::Bool(n == 1)]).collect())?;
    behind(&rig, 0, "c", 0, "UPDATE @f SET @b = 2 WHERE @id = 1")?;
    behind(&rig, 1, "c", 0, "UPDATE @f SET @b = 1 WHERE @id = 2")?;
    assert_eq!(shown(&verify(&rig, None)?.0), ["pa unreadable - -", "pb different (id)=(2) 1"]);
    Ok(())
}

/// Adopted tables keep their own names, and may have more indexes and stricter columns.
#[test]
fn adopted_tables() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Maria])?;
    let control = |at: usize, sql: &str| rig.control.block_on(rig.databases[at].run(sql));
    control(
        0,
        "CREATE TABLE old (id int PRIMARY KEY, n numeric(5,2) NOT NULL, t text); CREATE INDEX ON old (t); \
                INSERT INTO old VALUES (1, 1.5, 'a'), (2, -0.25, NULL)",
    )?;
    control(
        1,
        "CREATE TABLE old (id int PRIMARY KEY, n decimal(5,2) NOT NULL, t text CHARACTER SET utf8mb3); \
                INSERT INTO old VALUES (1, 1.5, 'a'), (2, -0.25, NULL)",
    )?;
    for (name, site, full) in [("x", "pa", "public.old"), ("y", "pb", "old")] {
        let mut table = copies(table(name, "id int key, n numeric, t text"));
        table.columns[1].ty = SqlType::Numeric(Some((5, 2)));
        table.sites = vec![site.into()];
        table.adopted = Some(full.into());
        rig.ddl(CatalogCommand::CreateTable(Box::new(table)))?;
    }
    let (findings, summaries) = verify(&rig, None)?;
    assert_eq!((findings, summaries.iter().map(|s| s.copies).collect::<Vec<_>>()), (vec![], vec![1, 1]));
    control(0, "ALTER TABLE old ADD more int; ALTER TABLE old DROP CONSTRAINT old_pkey")?;
    control(1, "ALTER TABLE old DROP PRIMARY KEY")?;
    assert_eq!(shown(&verify(&rig, None)?.0), ["pa drift (id) -", "pa drift more -", "pb drift (id) -"]);
    Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
}

/// Nobody changes a definition while it is compared with what is at the sites.
#[test]
fn definitions_stay_meanwhile() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Maria])?;
    filled(&rig, 3000)?;
    let node = rig.node().clone();
    let looking = rig.run().spawn(async move {
        for _ in 0..20 {
            let all: Vec<Verified> = node.verify(None).try_collect().await?;
            if all.iter().any(|v| matches!(v, Verified::Finding(_))) {
                return Ok(Some(all));
            }
        }
        Ok::<_, Error>(None)
    });
    for n in 0..5 {
        let name = format!("more{n}");
        let change = TableChange::AddColumn(table("c", &format!("id int key, {name} text")).columns.remove(1));
        let node = rig.node();
        rig.run().block_on(async {
            let txn = node.begin(patient());
            txn.apply(CatalogCommand::AlterTable { table: "c".into(), change }).await?;
            txn.commit().await.map(|_| ())
        })?;
    }
    let found = rig.run().block_on(looking)??;
    assert_eq!(found, None);
    Ok(())
}
