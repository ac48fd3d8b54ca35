//! A node over embedded sites and private servers of other engines, which can die and start again, and accounts to move money between.

#![allow(dead_code, unused_macros, unused_imports, reason = "each test file uses its part of it")]

pub mod cut;
pub mod database;
#[path = "../../../adapters/tests/conformance/maria.rs"]
pub mod maria;
#[path = "../../../adapters/tests/conformance/server.rs"]
pub mod server;

use crate::world::{by_list, int, list_fragment, short, table, text};
use atoll_adapters::site::embedded::EmbeddedEngine;
use atoll_adapters::site::mysql::MysqlSite;
use atoll_adapters::site::postgres::PostgresSite;
use atoll_model::{CatalogCommand, ErrorKind, NewTable, Site as Definition, SiteEngine, Value};
use atoll_node::{Node, SiteFactory, TransactionOptions};
use atoll_ports::cluster::{Cluster, FragmentRef, Transaction};
use atoll_ports::site::{BranchOptions, KeyRange, LockMode, LockWait, ParticipantId, RowChange, ScanRequest, Site};
use atoll_protocol::Backoff;
use atoll_storage::{Store, StoreOptions};
use cut::{Cut, CutSite};
use database::Database;
pub use database::Engine;
use futures::TryStreamExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Runs tests over servers of these engines: each is a function that takes two.
macro_rules! over_engines {
    ($($test:ident),* $(,)?) => {
        over_engines!(postgres: [Postgres, Postgres]; $($test),*);
        over_engines!(mysql: [Maria, Maria]; $($test),*);
        over_engines!(mixed: [Maria, Postgres]; $($test),*);
    };
    ($engines:ident: [$a:ident, $b:ident]; $($test:ident),*) => {
        mod $engines {
            use crate::rig::{Engine, TestResult};
            $(
                #[test]
                fn $test() -> TestResult {
                    super::$test([Engine::$a, Engine::$b])
                }
            )*
        }
    };
}
pub(crate) use over_engines;

pub type TestResult<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Money in each account at first.
pub const EACH: i32 = 1000;

struct Factory {
    engine: Arc<EmbeddedEngine>,
    cut: Arc<Cut>,
}

impl SiteFactory for Factory {
    fn open(&self, site: &Definition) -> atoll_model::Result<Arc<dyn Site>> {
        let open = atoll_adapters::site::open(&self.engine, site)?;
        Ok(Arc::new(CutSite { site: open, cut: self.cut.clone() }))
    }
}

/// One run of a node, on a runtime of its own, so that it can die with all that it does.
pub struct Run {
    pub node: Arc<Node>,
    pub cut: Arc<Cut>,
    store: Arc<Store>,
    runtime: Runtime,
}

impl Run {
    fn start(dir: &TempDir, timeout: Duration) -> TestResult<Self> {
        let runtime = runtime()?;
        let cut = Arc::<Cut>::default();
        let (store, node) = runtime.block_on(async {
            let store = Arc::new(Store::open(dir.path(), StoreOptions { disk_reserve: 0, ..StoreOptions::default() })?);
            let engine = EmbeddedEngine::new(store.clone(), ParticipantId(0), 16 << 20)?;
            let options = TransactionOptions {
                timeout,
                retry: Backoff { first: Duration::from_millis(20), most: Duration::from_millis(500) },
                ..TransactionOptions::default()
            };
            let node = Node::open_with(Box::new(Factory { engine, cut: cut.clone() }), options).await?;
            Ok::<_, atoll_model::Error>((store, node))
        })?;
        Ok(Run { node, cut, store, runtime })
    }

    pub fn block_on<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    pub fn spawn<T: Send + 'static>(
        &self,
        what: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(what)
    }

    /// Dies: whatever it was doing does not go on.
    pub fn die(self) {
        let Run { node, store, runtime, .. } = self;
        drop((node, store));
        runtime.shutdown_timeout(Duration::from_secs(10));
    }
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// The database, with what it lies on.
pub struct Rig {
    pub databases: Vec<Database>,
    pub control: Runtime,
    dir: TempDir,
    run: Option<Run>,
    pub timeout: Duration,
}

impl Rig {
    /// Two servers, and sites `home` (embedded), `pa` and `pb`.
    pub fn of(engines: [Engine; 2]) -> TestResult<Self> {
        let control = runtime()?;
        let databases = control.block_on(async {
            TestResult::Ok(vec![Database::start(engines[0]).await?, Database::start(engines[1]).await?])
        })?;
        Self::over(control, databases)
    }

    /// With PostgreSQL servers of these settings.
    pub fn with(a: &[&str], b: &[&str]) -> TestResult<Self> {
        let control = runtime()?;
        let databases = control
            .block_on(async { TestResult::Ok(vec![Database::postgres(a).await?, Database::postgres(b).await?]) })?;
        Self::over(control, databases)
    }

    fn over(control: Runtime, databases: Vec<Database>) -> TestResult<Self> {
        let (dir, timeout) = (tempfile::tempdir()?, Duration::from_secs(10));
        let run = Run::start(&dir, timeout)?;
        let rig = Rig { databases, control, dir, run: Some(run), timeout };
        rig.ddl(create_site("home", None))?;
        for (at, name) in ["pa", "pb"].into_iter().enumerate() {
            rig.ddl(create_site(name, Some(rig.databases[at].url())))?;
        }
        Ok(rig)
    }

    /// A server dies.
    pub fn crash(&mut self, at: usize) {
        self.databases[at].crash();
    }

    /// It is started again.
    pub fn start_again(&mut self, at: usize) -> TestResult {
        let Rig { databases, control, .. } = self;
        Ok(control.block_on(databases[at].start_again())?)
    }

    pub fn run(&self) -> &Run {
        self.run.as_ref().expect("a rig's node runs unless it is being started again")
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.run().node
    }

    /// The process dies and is started again.
    pub fn restart(&mut self) -> TestResult {
        if let Some(run) = self.run.take() {
            run.die();
        }
        self.run = Some(Run::start(&self.dir, self.timeout)?);
        Ok(())
    }

    pub fn ddl(&self, command: CatalogCommand) -> TestResult {
        let node = self.node();
        self.run().block_on(async {
            let txn = node.begin(short());
            txn.apply(command).await?;
            txn.commit().await?;
            Ok(())
        })
    }

    /// `accounts`, with a fragment at each site, and an account in each: 0 at home, 1 at pa, 2 at pb.
    pub fn accounts(&self) -> TestResult {
        self.ddl(CatalogCommand::CreateTable(Box::new(accounts("accounts"))))?;
        for site in ["home", "pa", "pb"] {
            self.ddl(list_fragment("accounts", &format!("accounts_{site}"), &[site], site))?;
        }
        let node = self.node();
        self.run().block_on(async {
            let txn = node.begin(short());
            let rows = (0..3).map(|id| account(id, EACH)).collect();
            crate::world::insert(&*txn, "accounts", rows).await?;
            txn.commit().await?;
            Ok(())
        })
    }

    /// What is in each account, once the sites are there again.
    pub fn balances(&self) -> TestResult<Vec<i32>> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.balances_now() {
                Err(error) if Instant::now() < deadline => {
                    let down = error.downcast::<atoll_model::Error>()?;
                    if down.kind() != ErrorKind::SiteUnavailable {
                        return Err(down);
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                balances => return balances,
            }
        }
    }

    /// What is in each account now.
    pub fn balances_now(&self) -> TestResult<Vec<i32>> {
        let node = self.node().clone();
        Ok(self.run().block_on(async move { balances(&*node.begin(patient())).await })?)
    }

    /// Prepared transactions at the servers.
    pub fn prepared(&self) -> TestResult<i64> {
        self.control.block_on(async {
            let mut all = 0;
            for database in &self.databases {
                all += database.prepared().await?;
            }
            Ok(all)
        })
    }

    /// Waits until no prepared transaction is left.
    pub fn settle(&self) -> TestResult {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.prepared()? > 0 {
            if Instant::now() > deadline {
                return Err(format!("left in doubt: {:?}", self.node().transactions()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            run.die();
        }
    }
}

pub fn create_site(name: &str, url: Option<String>) -> CatalogCommand {
    let engine = match &url {
        None => SiteEngine::Embedded,
        Some(url) if Database::is_maria(url) => SiteEngine::Mysql,
        Some(_) => SiteEngine::Postgres,
    };
    let options = url.map(|url| ("url".to_owned(), url)).into_iter().collect();
    CatalogCommand::CreateSite { name: name.into(), engine, options }
}

pub fn accounts(name: &str) -> NewTable {
    let mut new = by_list(table(name, "id int key, region text, n int"), "region");
    new.sites = vec!["home".into(), "pa".into(), "pb".into()];
    new
}

fn region(id: i32) -> &'static str {
    ["home", "pa", "pb"][id as usize % 3]
}

pub fn account(id: i32, n: i32) -> Vec<Value> {
    vec![int(id), text(region(id)), int(n)]
}

pub fn patient() -> BranchOptions {
    BranchOptions { lock_timeout: Duration::from_secs(10), ..BranchOptions::default() }
}

/// Moves money between accounts, in the order of their numbers lest it deadlocks: `(account, difference)`.
pub async fn transfer(txn: &dyn Transaction, moves: &[(i32, i32)]) -> atoll_model::Result<()> {
    let table = txn.catalog().table("accounts").expect("the table was created").clone();
    let mut moves = moves.to_vec();
    moves.sort_unstable();
    for (id, difference) in moves {
        let at = txn.place(&table, &account(id, 0)).await?;
        let fragment = FragmentRef { table: table.clone(), at };
        let locked = txn.lock(&fragment, &[vec![int(id)]], LockMode::Exclusive, LockWait::Wait).await?;
        let old = locked.into_iter().find_map(|l| l.row).expect("nobody deletes accounts");
        let Value::Int4(n) = old[2] else { unreachable!("n is an int") };
        let new = account(id, n + difference);
        txn.write(&table, vec![RowChange::Update { old, new }]).await?;
    }
    Ok(())
}

/// Reads all accounts as one statement.
pub async fn balances(txn: &dyn Transaction) -> atoll_model::Result<Vec<i32>> {
    txn.begin_statement().await?;
    let table = txn.catalog().table("accounts").expect("the table was created").clone();
    let fragments: Vec<FragmentRef> =
        (0..table.fragments.len()).map(|at| FragmentRef { table: table.clone(), at }).collect();
    for fragment in &fragments {
        txn.site_for_read(fragment);
    }
    let mut all = vec![];
    for fragment in &fragments {
        let request = ScanRequest {
            columns: vec![0, 2],
            index: None,
            range: KeyRange::ALL,
            reverse: false,
            limit: None,
            batch_size: 100,
        };
        let mut batches = txn.scan(fragment, request)?.1;
        while let Some(batch) = batches.try_next().await? {
            for row in 0..batch.num_rows() {
                let cell = |at: usize, ty| atoll_ports::rows::value_at(batch.column(at), row, ty);
                let ty = &table.columns[0].ty;
                let (Value::Int4(id), Value::Int4(n)) = (cell(0, ty)?, cell(1, ty)?) else {
                    unreachable!("both are ints")
                };
                all.push((id, n));
            }
        }
    }
    all.sort_unstable();
    Ok(all.into_iter().map(|(_, n)| n).collect())
}
