//! The two servers that are compared: Atoll and PostgreSQL, each a process of its own on a temporary directory.
//!
//! Both run with the settings that they ship with, so commits are durable on both. They are stopped when dropped.

use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::{ClientError, Target};

/// How long a server may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A server under test.
pub struct Server {
    /// Its name in the tables.
    pub name: &'static str,
    /// Where it answers.
    pub target: Target,
    /// Its port on this machine, for programs that are started against it.
    pub port: u16,
    child: Option<Child>,
    _data: TempDir,
}

/// Why a server could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No directory with PostgreSQL's programs.
    #[error("PostgreSQL's programs were not found: install postgresql, or name their directory with --pg-bin")]
    NoPostgres,
    /// PostgreSQL refuses to run as root, and there is no user `postgres` to run it as.
    #[error("PostgreSQL does not run as root, and there is no user `postgres` here")]
    NoUser,
    /// A program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: String,
        /// What it said.
        output: String,
    },
    /// The server did not answer in time.
    #[error("{name} did not answer in {} s: {source}", START_TIMEOUT.as_secs())]
    Silent {
        /// Which.
        name: &'static str,
        /// The last attempt's error.
        source: ClientError,
    },
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An address of ours does not parse.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Server {
    /// Starts this very program as a server with default settings.
    pub async fn atoll() -> Result<Self, ServerError> {
        let data = tempfile::Builder::new().prefix("atoll-bench-").tempdir()?;
        let port = free_port()?;
        let child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .args(["--data".as_ref(), data.path().join("data").as_os_str()])
            .args(["--sql-addr", &format!("127.0.0.1:{port}"), "--http-addr", "127.0.0.1:0"])
            .args(["--log-level", "warn"])
            .stdin(Stdio::null())
            .spawn()?;
        Self::ready("Atoll", port, child, data, "atoll").await
    }

    /// Starts a fresh PostgreSQL with default settings but these.
    pub async fn postgres(bin: Option<&Path>, settings: &[&str]) -> Result<Self, ServerError> {
        let bin = postgres_bin(bin)?;
        let data = tempfile::Builder::new().prefix("atoll-bench-pg-").tempdir()?;
        let user = postgres_user(data.path())?;
        let as_user = |program: &str| {
            let mut command = Command::new(bin.join(program));
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command.current_dir(data.path());
            command
        };
        let cluster = data.path().join("data");
        let made = as_user("initdb")
            .args(["-D".as_ref(), cluster.as_os_str()])
            .args(["-U", "atoll", "-A", "trust", "--locale=C", "-E", "UTF8"])
            .output()?;
        if !made.status.success() {
            let output = String::from_utf8_lossy(&made.stderr).into_owned();
            return Err(ServerError::Program { program: "initdb".into(), output });
        }
        let port = free_port()?;
        let log = std::fs::File::create(data.path().join("log"))?;
        let child = as_user("postgres")
            .args(["-D".as_ref(), cluster.as_os_str(), "-k".as_ref(), data.path().as_os_str()])
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Self::ready("PostgreSQL", port, child, data, "postgres").await
    }

    async fn ready(
        name: &'static str,
        port: u16,
        child: Child,
        data: TempDir,
        database: &str,
    ) -> Result<Self, ServerError> {
        let target = Target::parse(&format!("postgres://atoll@127.0.0.1:{port}/{database}"))?;
        // From here on, dropping it stops the process.
        let server = Self { name, target, port, child: Some(child), _data: data };
        let began = Instant::now();
        loop {
            match server.target.connect().await {
                Ok(client) => {
                    client.close().await;
                    return Ok(server);
                }
                Err(source) if began.elapsed() > START_TIMEOUT => {
                    return Err(ServerError::Silent { name, source });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// How one of its databases is reached.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://atoll@127.0.0.1:{}/{database}", self.port)
    }

    /// The name of the database.
    pub fn database(&self) -> &str {
        self.target.database()
    }

    /// The memory that its processes hold, in bytes, as far as `/proc` tells.
    pub fn memory(&self) -> Option<u64> {
        let pid = self.child.as_ref()?.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // SIGINT is a fast shutdown to PostgreSQL and a graceful one to Atoll.
        let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        let began = Instant::now();
        while asked.is_ok() && began.elapsed() < STOP_TIMEOUT {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The directory of PostgreSQL's programs.
pub fn postgres_bin(given: Option<&Path>) -> Result<PathBuf, ServerError> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let mut found: Vec<PathBuf> = glob::glob("/usr/lib/postgresql/*/bin/postgres")
        .map(|paths| paths.flatten().filter_map(|p| p.parent().map(Path::to_owned)).collect())
        .unwrap_or_default();
    // 15 is the version that the figures are promised against.
    found.sort_by_key(|p| p.components().any(|c| c.as_os_str() == "15"));
    found.pop().ok_or(ServerError::NoPostgres)
}

/// For root: the user that PostgreSQL runs as, made the owner of `directory`.
fn postgres_user(directory: &Path) -> Result<Option<(u32, u32)>, ServerError> {
    use std::os::unix::fs::{MetadataExt, chown};
    if std::fs::metadata("/proc/self").map(|m| m.uid()).unwrap_or(1) != 0 {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let fields = passwd.lines().find_map(|l| l.strip_prefix("postgres:")).ok_or(ServerError::NoUser)?;
    let mut ids = fields.split(':').skip(1).map(str::parse::<u32>);
    match (ids.next(), ids.next()) {
        (Some(Ok(uid)), Some(Ok(gid))) => {
            chown(directory, Some(uid), Some(gid))?;
            Ok(Some((uid, gid)))
        }
        _ => Err(ServerError::NoUser),
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
