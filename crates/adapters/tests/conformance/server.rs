//! A private PostgreSQL server on a free port of the loopback, stopped when it is dropped.

use atoll_e2e::server::{free_port, postgres_programs, server_account};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// The password of every user of a test's server.
pub const PASSWORD: &str = "s3cret";

/// A server.
pub struct Server {
    process: Option<Child>,
    directory: TempDir,
    programs: PathBuf,
    account: Option<(u32, u32)>,
    pub address: SocketAddr,
    databases: AtomicU32,
    pub settings: Vec<String>,
}

fn failed(what: &str, why: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {why}"))
}

impl Server {
    /// Creates and starts one.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(&["max_prepared_transactions=50"]).await
    }

    /// As above, with other settings.
    pub async fn start_with(settings: &[&str]) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("atoll-pg-").tempdir()?;
        let account = server_account()?;
        if let Some((uid, gid)) = account {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid))?;
        }
        let mut server = Server {
            process: None,
            directory,
            programs: postgres_programs().ok_or_else(|| failed("no PostgreSQL", "scripts/test installs it"))?,
            account,
            address: (Ipv4Addr::LOCALHOST, free_port()?).into(),
            databases: AtomicU32::new(0),
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
        };
        let password = server.directory.path().join("password");
        std::fs::write(&password, PASSWORD)?;
        let init = server
            .command("initdb")
            .args(["--no-sync", "--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--pgdata"])
            .arg(server.data())
            // Not the order of bytes, so that whoever relies on the database's order is found out.
            .args(["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"])
            .arg(format!("--pwfile={}", password.display()))
            .output()?;
        if !init.status.success() {
            return Err(failed("initdb", String::from_utf8_lossy(&init.stderr)));
        }
        server.start_again().await?;
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

    /// Starts it (again) on its port and waits until it answers.
    pub async fn start_again(&mut self) -> io::Result<()> {
        let path = self.directory.path().join("log");
        let log = File::options().create(true).append(true).open(&path)?;
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"])
            .args(["-c", "deadlock_timeout=100ms", "-c", &format!("port={}", self.address.port())]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        self.process = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match tokio_postgres::connect(&self.url("postgres"), NoTls).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(failed("postgres", format!("{error}; {}", std::fs::read_to_string(&path)?)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The number of its first process, if it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Ends it at once, as a crash would: the next start recovers from its log.
    pub fn crash(&mut self) {
        self.end("-QUIT");
    }

    fn end(&mut self, signal: &str) {
        let Some(mut process) = self.process.take() else { return };
        // Should it not work, the wait below says so.
        let _ = Command::new("kill").args([signal, &process.id().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets it encrypt, with this certificate and key, from its next start on.
    pub fn encrypt(&mut self, certificate: &std::path::Path, key: &std::path::Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        for (from, to) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = self.data().join(to);
            std::fs::copy(from, &to)?;
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600))?;
            if let Some((uid, gid)) = self.account {
                std::os::unix::fs::chown(&to, Some(uid), Some(gid))?;
            }
        }
        self.settings.push("ssl=on".into());
        Ok(())
    }

    /// How its superuser reaches a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{PASSWORD}@{}/{database}", self.address)
    }

    /// A new database.
    pub async fn database(&self) -> Result<String, Box<dyn std::error::Error>> {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.run("postgres", &format!("CREATE DATABASE {name}")).await?;
        Ok(name)
    }

    /// Runs statements there, beside Atoll.
    pub async fn run(&self, database: &str, sql: &str) -> Result<(), Box<dyn std::error::Error>> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await?;
        let driver = tokio::spawn(connection);
        client.batch_execute(sql).await?;
        drop(client);
        driver.await??;
        Ok(())
    }

    /// One number out of a database.
    pub async fn number(&self, database: &str, sql: &str) -> Result<i64, Box<dyn std::error::Error>> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await?;
        tokio::spawn(connection);
        Ok(client.query_one(sql, &[]).await?.try_get(0)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end("-INT");
    }
}
