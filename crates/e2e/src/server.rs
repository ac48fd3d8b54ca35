//! Private servers: each in a temporary directory, on a free port of the loopback interface, ended and removed when dropped,
//! also while a test panics.

use crate::wire::{Client, Error};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server that speaks the wire protocol.
pub trait Server: Sync {
    /// Where it listens.
    fn address(&self) -> SocketAddr;
    /// The superuser, who needs no password.
    fn user(&self) -> &str;
    /// The database to connect to.
    fn database(&self) -> &str;

    /// Its process, if it runs.
    fn process_id(&self) -> Option<u32>;
    /// The signal that ends the process without a chance to tidy up.
    fn crash_signal(&self) -> &str;

    /// A new connection.
    fn connect(&self) -> Result<Client, Error> {
        Client::connect(self.address(), self.user(), self.database())
    }

    /// A connection URL for other clients.
    fn url(&self) -> String {
        format!("postgresql://{}@{}/{}", self.user(), self.address(), self.database())
    }
}

/// A server whose process can be killed and started again on the same data.
pub trait Crash: Server {
    /// Ends the process without a chance to tidy up.
    fn crash(&mut self);

    /// Starts it again.
    ///
    /// # Errors
    /// When it does not start: the reason, and the end of its log.
    fn start_again(&mut self) -> io::Result<()>;
}

/// A process that is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn of(child: Child) -> Self {
        Process(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<std::process::ExitStatus>> {
        self.0.try_wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port of the loopback interface that was free a moment ago. Below the range from which the system gives ports to clients, which
/// would take it in between; never twice in one process, and other test processes begin elsewhere.
pub fn free_port() -> io::Result<u16> {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(127);
    for _ in 0..COUNT {
        let at = begin.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + at).map_err(io::Error::other)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no port is free"))
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Connects again and again until the server answers a query, its process ends, or a minute has passed.
fn await_answer(process: &mut Process, log: &Path, connect: impl Fn() -> Result<Client, Error>) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let problem = match connect().and_then(|mut c| c.query("SELECT 1")) {
            Ok(_) => return Ok(()),
            Err(problem) => problem,
        };
        if let Some(status) = process.0.try_wait()? {
            return Err(io::Error::other(format!("the server ended: {status}\n{}", tail(log))));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("the server does not answer: {problem}\n{}", tail(log))));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A private PostgreSQL cluster: UTF8, C collation, Unicode's letters, no fsync.
#[derive(Debug)]
pub struct PostgreSql {
    process: Option<Process>,
    directory: TempDir,
    programs: PathBuf,
    /// User and group to run as.
    account: Option<(u32, u32)>,
    address: SocketAddr,
    database: String,
    databases: AtomicU32,
    settings: Vec<String>,
}

impl PostgreSql {
    /// Creates and starts one.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start: no test can go on without it.
    pub fn start() -> Self {
        Self::try_start().unwrap_or_else(|e| panic!("a private PostgreSQL: {e}"))
    }

    fn try_start() -> io::Result<Self> {
        let programs = postgres_programs().ok_or_else(|| {
            io::Error::other("no PostgreSQL found; scripts/test installs it, or set ATOLL_TEST_PG_BIN")
        })?;
        let directory = tempfile::Builder::new().prefix("atoll-pg-").tempdir()?;
        let account = server_account()?;
        if let Some((uid, gid)) = account {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid))?;
        }
        let mut server = PostgreSql {
            process: None,
            directory,
            programs,
            account,
            address: loopback(0),
            database: "postgres".to_string(),
            databases: AtomicU32::new(0),
            settings: vec![],
        };
        let init = server
            .command("initdb")
            .args(["--no-sync", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--pgdata"])
            .arg(server.data())
            // Text is ordered by its bytes; which letters are a capital's small ones, Unicode says.
            .args(["--locale=C", "--lc-ctype=C.UTF-8"])
            .output()?;
        if !init.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&init.stderr).into_owned()));
        }
        server.start_again()?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.directory.path()).env_remove("PGDATA").stdin(Stdio::null());
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Sends the signal and waits for the end.
    fn end(&mut self, signal: &str) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        let _ = Command::new("kill").args([signal, &process.0.id().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(process.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A setting from the next start on.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// How a site of Atoll reaches the database.
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/{}", self.address, self.database)
    }

    /// Creates an empty database; later connections go there.
    ///
    /// # Panics
    /// When PostgreSQL refuses.
    pub fn fresh_database(&mut self) {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        Client::connect(self.address, "postgres", "postgres")
            .and_then(|mut c| c.query(&format!("CREATE DATABASE {name} TEMPLATE template0")))
            .unwrap_or_else(|e| panic!("CREATE DATABASE {name}: {e}"));
        self.database = name;
    }
}

impl Drop for PostgreSql {
    fn drop(&mut self) {
        // Its fast shutdown, which also ends its children; SIGKILL would leave shared memory behind.
        self.end("-INT");
    }
}

impl Crash for PostgreSql {
    fn crash(&mut self) {
        // Its immediate shutdown: nothing is written, and the next start recovers from the log.
        self.end("-QUIT");
    }

    fn start_again(&mut self) -> io::Result<()> {
        self.address = loopback(free_port()?);
        let log = self.directory.path().join("log");
        let output = File::options().create(true).append(true).open(&log)?;
        let mut process = Process(
            self.command("postgres")
                .arg("-D")
                .arg(self.data())
                .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"])
                .args(["-c", "full_page_writes=off", "-c", "timezone=UTC", "-c", "deadlock_timeout=100ms"])
                .args(["-c", "max_prepared_transactions=64"])
                .args(["-c", &format!("port={}", self.address.port())])
                .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
                .stdout(output.try_clone()?)
                .stderr(output)
                .spawn()?,
        );
        await_answer(&mut process, &log, || Client::connect(self.address, "postgres", "postgres"))?;
        self.process = Some(process);
        Ok(())
    }
}

impl Server for PostgreSql {
    fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(|p| p.0.id())
    }

    fn crash_signal(&self) -> &str {
        // Its immediate shutdown; SIGKILL would leave its children running on the data.
        "-QUIT"
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn user(&self) -> &str {
        "postgres"
    }

    fn database(&self) -> &str {
        &self.database
    }
}

/// The directory of PostgreSQL's programs: of version 15, else of the newest one.
pub fn postgres_programs() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("ATOLL_TEST_PG_BIN") {
        return Some(directory.into());
    }
    let preferred = PathBuf::from("/usr/lib/postgresql/15/bin");
    if preferred.join("initdb").exists() {
        return Some(preferred);
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()))
        .filter(|directory| directory.join("initdb").exists())
        .collect();
    found.sort();
    found.pop()
}

/// The user and group to run PostgreSQL as, where it has to be another: it refuses root, and then is `postgres`, or `nobody`.
///
/// # Errors
/// When the accounts cannot be read.
pub fn server_account() -> io::Result<Option<(u32, u32)>> {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd")?;
    let find = |name: &str| {
        accounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.len() > 3 && fields[0] == name).then(|| Some((fields[2].parse().ok()?, fields[3].parse().ok()?)))?
        })
    };
    Ok(Some(find("postgres").or_else(|| find("nobody")).unwrap_or((65534, 65534))))
}

/// A private Atoll: its data lies in a temporary directory and survives [`Atoll::kill`] and [`Atoll::restart`].
#[derive(Debug)]
pub struct Atoll {
    process: Option<Process>,
    directory: TempDir,
    sql: SocketAddr,
    http: SocketAddr,
    /// The data directory is a file system of its own.
    mounted: bool,
}

impl Atoll {
    /// Starts one with an empty data directory.
    ///
    /// # Panics
    /// When the program is not built or does not start: no test can go on without it.
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("atoll-").tempdir();
        let mut atoll = Atoll {
            process: None,
            directory: directory.unwrap_or_else(|e| panic!("a temporary directory: {e}")),
            sql: loopback(0),
            http: loopback(0),
            mounted: false,
        };
        atoll.restart().unwrap_or_else(|e| panic!("a private Atoll: {e}"));
        atoll
    }

    /// Starts it again after [`Atoll::kill`] or [`Atoll::terminate`], on new ports.
    ///
    /// # Errors
    /// When it does not start: the reason, and the end of its log.
    pub fn restart(&mut self) -> io::Result<()> {
        self.process = None;
        self.sql = loopback(free_port()?);
        self.http = loopback(free_port()?);
        let log = self.log();
        let output = File::options().create(true).append(true).open(&log)?;
        let mut process = Process(
            atoll_command()?
                .args(["serve", "--data"])
                .arg(self.data())
                .args(["--sql-addr", &self.sql.to_string(), "--http-addr", &self.http.to_string()])
                .current_dir(self.directory.path())
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output)
                .spawn()?,
        );
        await_answer(&mut process, &log, || Client::connect(self.sql, "atoll", "atoll"))?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts one whose data directory is a file system of its own with so many megabytes. `None`: mounting one is not allowed.
    ///
    /// # Panics
    /// As [`Atoll::start`].
    pub fn start_on_small_disk(megabytes: u32) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("atoll-small-").tempdir();
        let mut atoll = Atoll {
            process: None,
            directory: directory.unwrap_or_else(|e| panic!("a temporary directory: {e}")),
            sql: loopback(0),
            http: loopback(0),
            mounted: false,
        };
        std::fs::create_dir(atoll.data()).unwrap_or_else(|e| panic!("a directory: {e}"));
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(atoll.data())
            .stderr(Stdio::null())
            .status();
        atoll.mounted = mounted.is_ok_and(|s| s.success());
        if !atoll.mounted {
            return None;
        }
        atoll.restart().unwrap_or_else(|e| panic!("a private Atoll: {e}"));
        Some(atoll)
    }

    /// Gives the file system of [`Atoll::start_on_small_disk`] another size.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn resize_disk(&self, megabytes: u32) -> io::Result<()> {
        let status =
            Command::new("mount").args(["-o", &format!("remount,size={megabytes}m")]).arg(self.data()).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("remounting: {status}"))) }
    }

    /// SIGKILL: no chance to tidy up.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM: asks for a graceful shutdown and waits for it.
    ///
    /// # Errors
    /// When it has not ended after half a minute, or not with status 0.
    pub fn terminate(&mut self) -> io::Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        Command::new("kill").args(["-TERM", &process.0.id().to_string()]).status()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if let Some(status) = process.0.try_wait()? {
                let problem = || io::Error::other(format!("SIGTERM ended it with {status}\n{}", tail(&self.log())));
                return if status.success() { Ok(()) } else { Err(problem()) };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::other(format!("SIGTERM did not end it\n{}", tail(&self.log()))))
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| matches!(p.0.try_wait(), Ok(None)))
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// Where it serves HTTP.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }
}

impl Drop for Atoll {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the end of Atoll's log:\n{}", self.log_tail());
        }
        if self.mounted {
            self.process = None;
            let _ = Command::new("umount").arg(self.data()).status();
        }
    }
}

impl Crash for Atoll {
    fn crash(&mut self) {
        self.kill();
    }

    fn start_again(&mut self) -> io::Result<()> {
        self.restart()
    }
}

impl Server for Atoll {
    fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(|p| p.0.id())
    }

    fn crash_signal(&self) -> &str {
        "-KILL"
    }

    fn address(&self) -> SocketAddr {
        self.sql
    }

    fn user(&self) -> &str {
        "atoll"
    }

    fn database(&self) -> &str {
        "atoll"
    }
}

/// The `atoll` program: `ATOLL_TEST_BIN`, or the one that was built in the same profile as this test.
///
/// # Errors
/// When it is not there.
pub fn atoll_command() -> io::Result<Command> {
    let program = match std::env::var_os("ATOLL_TEST_BIN") {
        Some(program) => PathBuf::from(program),
        // target/PROFILE/deps/TEST
        None => std::env::current_exe()?.ancestors().nth(2).map(|d| d.join("atoll")).unwrap_or_default(),
    };
    if !program.exists() {
        let message = format!("{} is not built: run `cargo build --release`", program.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let mut command = Command::new(program);
    // Settings of the person who runs the tests are not the tests' settings.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ATOLL_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}
