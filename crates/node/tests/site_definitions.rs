//! DDL of tables with copies at servers of other engines: it is carried out there and in the catalog, or in neither.

mod rig;
mod world;

use atoll_model::ReferentialAction::NoAction;
use atoll_model::{CatalogCommand, ErrorKind, NewColumn, OptionChange, SqlType, TableChange};
use atoll_ports::cluster::Cluster;
use rig::*;
use std::time::Duration;
use world::{copies, derived, index, insert, int, list_fragment, references, short, table, text};

over_engines!(
    tables_follow_their_definitions,
    a_crash_at_any_step_leaves_both_or_neither,
    foreign_keys_hold_between_participants,
    rows_move_between_engines,
);

/// Tables that hold copies at a server.
fn tables(rig: &Rig, at: usize) -> TestResult<i64> {
    rig.control.block_on(rig.databases[at].tables())
}

fn add_column(name: &str) -> CatalogCommand {
    let column = NewColumn {
        name: name.into(),
        ty: SqlType::parse("int").expect("a type"),
        not_null: false,
        default: None,
        missing: int(7),
        identity: None,
    };
    CatalogCommand::AlterTable { table: "accounts".into(), change: TableChange::AddColumn(column) }
}

fn tables_follow_their_definitions(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    rig.accounts()?;
    assert_eq!((tables(&rig, 0)?, tables(&rig, 1)?), (1, 1));
    rig.ddl(CatalogCommand::CreateIndex { table: "accounts".into(), index: index(&["n", "region"], true) })?;
    rig.ddl(add_column("extra"))?;
    let node = rig.node();
    rig.run().block_on(async {
        let txn = node.begin(short());
        let row = |id: i32| [account(id, id), vec![int(8)]].concat();
        insert(&*txn, "accounts", vec![row(3), row(4), row(5)]).await?;
        txn.commit().await?;
        let rows = world::rows(&*node.begin(short()), "accounts").await?;
        assert_eq!(rows.len(), 6);
        assert!(rows.iter().any(|row| row == "accounts_pa: 1 pa 1000 7"), "{rows:?}");
        assert!(rows.iter().any(|row| row == "accounts_pb: 5 pb 5 8"), "{rows:?}");
        // DDL and rows at all participants, undone together.
        let txn = node.begin(short());
        txn.apply(add_column("more")).await?;
        insert(&*txn, "accounts", vec![[row(7), vec![int(1)]].concat()]).await?;
        txn.rollback();
        Ok::<_, atoll_model::Error>(())
    })?;
    assert_eq!(node.catalog().table("accounts").map(|t| t.columns.len()), Some(4));
    assert_eq!(rig.balances()?.len(), 6);

    rig.ddl(CatalogCommand::Truncate { tables: vec!["accounts".into()], restart_identity: false })?;
    assert_eq!(rig.balances()?.len(), 0);
    rig.ddl(CatalogCommand::DropTable { name: "accounts".into(), cascade: false })?;
    for _ in 0..100 {
        if tables(&rig, 0)? + tables(&rig, 1)? == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err("tables of dropped fragments are left".into())
}

fn a_crash_at_any_step_leaves_both_or_neither(engines: [Engine; 2]) -> TestResult {
    let mut rig = Rig::of(engines)?;
    let mut made = 0;
    for step in 0.. {
        let name = format!("t{step}");
        let run = rig.run();
        run.cut.arm(step);
        let (node, cut) = (run.node.clone(), run.cut.clone());
        let table = name.clone();
        let acknowledged = run.block_on(async move {
            let txn = node.begin(patient());
            let making = async {
                txn.apply(CatalogCommand::CreateTable(Box::new(accounts(&table)))).await?;
                for site in ["pa", "pb"] {
                    txn.apply(list_fragment(&table, &format!("{table}_{site}"), &[site], site)).await?;
                }
                insert(&*txn, &table, vec![account(1, 1), account(2, 2)]).await?;
                txn.commit().await
            };
            tokio::select! {
                outcome = making => outcome.map(|_| true),
                () = cut.reached() => Ok(false),
            }
        })?;
        let whole = acknowledged && run.cut.steps().len() <= step;
        rig.restart()?;
        rig.settle()?;
        let there = rig.node().catalog().table(&name).is_some();
        assert!(there || !acknowledged, "{name}");
        if there {
            made += 1;
            let node = rig.node();
            let rows = rig.run().block_on(async { world::rows(&*node.begin(short()), &name).await })?;
            assert_eq!(rows, [format!("{name}_pa: 1 pa 1"), format!("{name}_pb: 2 pb 2")]);
        }
        assert_eq!((tables(&rig, 0)?, tables(&rig, 1)?), (made, made), "after step {step}");
        if whole {
            assert!(step >= 8 && made >= 2);
            return Ok(());
        }
    }
    Ok(())
}

/// A foreign key between participants: neither side can slip through while the other commits.
fn foreign_keys_hold_between_participants(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    let mut parents = copies(table("parents", "id int key"));
    parents.sites = vec!["home".into(), "pa".into()];
    rig.ddl(CatalogCommand::CreateTable(Box::new(parents)))?;
    let children = table("children", "id int key, parent int");
    let mut children = copies(references(children, "parent", "parents", NoAction, NoAction));
    children.sites = vec!["pa".into()];
    rig.ddl(CatalogCommand::CreateTable(Box::new(children)))?;
    let node = rig.node();
    rig.run().block_on(async {
        for id in 0..30 {
            let txn = node.begin(patient());
            insert(&*txn, "parents", vec![vec![int(id)]]).await?;
            txn.commit().await?;
            let (adder, remover) = (node.begin(patient()), node.begin(patient()));
            let add = async {
                insert(&*adder, "children", vec![vec![int(id), int(id)]]).await?;
                adder.commit().await
            };
            let remove = async {
                world::delete(&*remover, "parents", vec![vec![int(id)]]).await?;
                remover.commit().await
            };
            let (added, removed) = tokio::join!(add, remove);
            assert!(added.is_ok() != removed.is_ok(), "{id}: {added:?} {removed:?}");
            let lost = added.err().or(removed.err()).map(|e| e.kind());
            assert_eq!(lost, Some(ErrorKind::ForeignKeyViolation));
        }
        Ok::<_, atoll_model::Error>(())
    })?;
    rig.settle()
}

/// A derived table lies where its parent lies, at whatever engine, and moves along.
fn rows_move_between_engines(engines: [Engine; 2]) -> TestResult {
    let rig = Rig::of(engines)?;
    let users = world::by_list(table("users", "uid text key, region text"), "region");
    let users = atoll_model::NewTable { sites: vec!["home".into()], ..users };
    rig.ddl(CatalogCommand::CreateTable(Box::new(users)))?;
    rig.ddl(list_fragment("users", "users_h", &["h"], "home"))?;
    rig.ddl(list_fragment("users", "users_a", &["a"], "pa"))?;
    rig.ddl(CatalogCommand::CreateTable(Box::new(derived(table("reads", "rid int key, uid text"), "users", "uid"))))?;
    let node = rig.node();
    rig.run().block_on(async {
        let txn = node.begin(short());
        insert(&*txn, "users", vec![vec![text("x"), text("h")], vec![text("y"), text("a")]]).await?;
        insert(&*txn, "reads", vec![vec![int(1), text("x")], vec![int(2), text("y")]]).await?;
        txn.commit().await?;
        let txn = node.begin(short());
        world::update(&*txn, "users", vec![text("x"), text("h")], vec![text("x"), text("a")]).await?;
        txn.commit().await?;
        let rows = world::rows(&*node.begin(short()), "reads").await?;
        assert_eq!(rows, ["reads_a: 1 x", "reads_a: 2 y"]);
        let again = async {
            let txn = node.begin(short());
            insert(&*txn, "users", vec![vec![text("y"), text("h")]]).await
        };
        assert_eq!(again.await.err().map(|e| e.kind()), Some(ErrorKind::UniqueViolation), "unique over engines");
        Ok::<_, atoll_model::Error>(())
    })?;
    rig.settle()
}

fn alter(site: &str, changes: Vec<OptionChange>) -> CatalogCommand {
    CatalogCommand::AlterSite { name: site.into(), changes }
}

fn set(option: &str, value: String) -> OptionChange {
    OptionChange::Set(option.into(), value)
}

/// New options are tried, and hold for connections from then on, also after a restart.
#[test]
fn sites_are_altered() -> TestResult {
    let mut rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    rig.accounts()?;
    let url = rig.databases[0].url();
    let elsewhere = rig.databases[1].url();
    let refused = |changes: Vec<OptionChange>| -> TestResult<atoll_model::Error> {
        let error = rig.ddl(alter("pa", changes)).err().ok_or("it was taken")?;
        Ok(*error.downcast::<atoll_model::Error>()?)
    };
    let add = |option: &str, value: &str| OptionChange::Add(option.into(), value.into());
    for (changes, kind, says) in [
        (vec![set("pool_size", "4".into())], ErrorKind::UndefinedObject, "option \"pool_size\" not found"),
        (vec![add("url", "x")], ErrorKind::DuplicateObject, "option \"url\" provided more than once"),
        (vec![OptionChange::Drop("url".into())], ErrorKind::InvalidParameterValue, "needs the option \"url\""),
        (vec![add("colour", "red")], ErrorKind::InvalidParameterValue, "\"colour\""),
        (vec![set("url", format!("{url}nowhere"))], ErrorKind::SiteUnavailable, "does not exist"),
        (vec![set("url", elsewhere)], ErrorKind::UndefinedTable, "site \"pa\" does not have fragment \"accounts_pa\""),
        (vec![add("schema", "other")], ErrorKind::UndefinedTable, "does not have fragment"),
    ] {
        let error = refused(changes)?;
        assert!(error.kind() == kind && error.message().contains(says), "{error:?}");
    }
    let named = format!("{url}?application_name=altered");
    rig.ddl(alter("pa", vec![set("url", named), add("pool_size", "3")]))?;
    assert_eq!(rig.balances()?, [EACH; 3]);
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'altered'";
    let altered = |rig: &Rig| rig.control.block_on(rig.databases[0].number(connections));
    assert!(altered(&rig)? > 0);
    rig.restart()?;
    assert_eq!(rig.balances()?, [EACH; 3]);
    assert!(altered(&rig)? > 0);
    let site = rig.node().catalog().site("pa").map(|site| format!("{site:?}")).unwrap_or_default();
    assert!(site.contains("url") && !site.contains("altered"), "{site}");
    Ok(())
}

/// What a site tells of its tables is enough to adopt them.
#[test]
fn tables_of_a_site_are_described() -> TestResult {
    let rig = Rig::of([Engine::Postgres, Engine::Postgres])?;
    let sql = "CREATE SCHEMA shop; \
        CREATE TABLE shop.customers (id serial PRIMARY KEY, email varchar(80) NOT NULL UNIQUE, \
            since date DEFAULT CURRENT_DATE, place point, code text UNIQUE); \
        CREATE UNIQUE INDEX ON shop.customers (code) WHERE since IS NULL; \
        INSERT INTO shop.customers (email) VALUES ('a'), ('b'); \
        CREATE TABLE shop.orders (at timestamptz, n bigint GENERATED ALWAYS AS IDENTITY) PARTITION BY RANGE (at); \
        CREATE TABLE shop.orders_1 PARTITION OF shop.orders DEFAULT; \
        CREATE VIEW shop.shown AS SELECT 1 AS one";
    rig.control.block_on(rig.databases[0].run(sql))?;
    let node = rig.node();
    let site = node.catalog().site("pa").map(|s| s.id).ok_or("no site")?;
    let (tables, missing, own) = rig.run().block_on(async {
        (
            node.site_tables(site, "shop").await,
            node.site_tables(site, "none").await,
            node.site_tables(site, "atoll").await,
        )
    });
    for refused in [missing, own] {
        assert_eq!(refused.err().map(|e| e.kind()), Some(ErrorKind::InvalidSchema));
    }
    let tables = tables?;
    assert_eq!(tables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["customers", "orders"]);
    let customers = &tables[0];
    assert_eq!(customers.key, Some(vec!["id".to_owned()]));
    assert_eq!(customers.unique, [["email"], ["code"]]);
    let column = |name: &str| customers.columns.iter().find(|c| c.name == name).ok_or("no such column");
    assert_eq!(column("id")?.sequence.as_ref().map(|s| s.start), Some(3));
    assert_eq!((column("id")?.default.as_ref(), column("since")?.default.as_deref()), (None, Some("CURRENT_DATE")));
    assert_eq!((column("email")?.ty.clone(), column("email")?.not_null), (Some(SqlType::Varchar(Some(80))), true));
    assert_eq!((column("place")?.ty.clone(), column("place")?.declared.as_str()), (None, "point"));
    assert!(tables[1].key.is_none() && tables[1].columns[1].problem.is_some_and(|why| why.contains("generates")));
    Ok(())
}

/// The same of a MariaDB server.
#[test]
fn tables_of_mariadb_are_described() -> TestResult {
    let rig = Rig::of([Engine::Maria, Engine::Postgres])?;
    let sql = "CREATE DATABASE shop CHARACTER SET utf8mb4; \
        CREATE TABLE shop.customers (id int AUTO_INCREMENT PRIMARY KEY, email varchar(80) NOT NULL UNIQUE, \
            here tinyint(1) NOT NULL DEFAULT 1, place point, code varchar(20) DEFAULT 'it''s', \
            twice int AS (id * 2), UNIQUE (code(3))); \
        INSERT INTO shop.customers (email, code) VALUES ('a', 'a'), ('b', 'b'); \
        CREATE TABLE shop.old (a int) ENGINE=MyISAM; \
        CREATE VIEW shop.shown AS SELECT 1 AS one";
    rig.control.block_on(rig.databases[0].run(sql))?;
    let node = rig.node();
    let site = node.catalog().site("pa").map(|s| s.id).ok_or("no site")?;
    let (tables, missing, own) = rig.run().block_on(async {
        (
            node.site_tables(site, "shop").await,
            node.site_tables(site, "none").await,
            node.site_tables(site, "mysql").await,
        )
    });
    for refused in [missing, own] {
        assert_eq!(refused.err().map(|e| e.kind()), Some(ErrorKind::InvalidSchema));
    }
    let tables = tables?;
    assert_eq!(tables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["customers"]);
    let customers = &tables[0];
    assert_eq!(customers.key, Some(vec!["id".to_owned()]));
    assert_eq!(customers.unique, [["email"]]);
    let column = |name: &str| customers.columns.iter().find(|c| c.name == name).ok_or(format!("no column {name}"));
    assert_eq!(column("id")?.sequence.as_ref().map(|s| (s.start, s.max)), Some((3, i64::from(i32::MAX))));
    assert_eq!((&column("email")?.ty, column("email")?.not_null), (&Some(SqlType::Varchar(Some(80))), true));
    assert_eq!((&column("here")?.ty, column("here")?.default.as_deref()), (&Some(SqlType::Bool), Some("true")));
    assert_eq!((column("code")?.default.as_deref(), column("email")?.default.as_deref()), (Some("'it''s'"), None));
    assert_eq!((&column("place")?.ty, column("place")?.problem), (&None, None));
    assert!(column("twice")?.problem.is_some());
    Ok(())
}
