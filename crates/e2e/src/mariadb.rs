//! A private MariaDB server: in a temporary directory, on a free port of the loopback interface, ended and removed when dropped, also
//! while a test panics.

use crate::server::{Process, free_port, server_account, tail};
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Who may do everything there.
pub const USER: &str = "app";

/// The user's password.
pub const PASSWORD: &str = "s3cret";

/// A server.
#[derive(Debug)]
pub struct MariaDb {
    process: Option<Process>,
    directory: TempDir,
    program: PathBuf,
    /// User and group to run as.
    account: Option<(u32, u32)>,
    address: SocketAddr,
    settings: Vec<String>,
    /// How many databases were asked for.
    databases: u32,
}

/// Where MariaDB's programs may be: its packages put the server where only root looks.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    directories.map(|directory| directory.join(name)).find(|file| file.exists())
}

impl MariaDb {
    /// Creates and starts one.
    ///
    /// # Errors
    /// When MariaDB is not installed or does not start.
    pub fn start(settings: &[&str]) -> io::Result<Self> {
        let missing = || io::Error::other("no MariaDB found; scripts/test installs it");
        let directory = tempfile::Builder::new().prefix("atoll-mariadb-").tempdir()?;
        let account = server_account()?;
        if let Some((uid, gid)) = account {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid))?;
        }
        let mut server = MariaDb {
            process: None,
            directory,
            program: program("mariadbd").ok_or_else(missing)?,
            account,
            address: (Ipv4Addr::LOCALHOST, free_port()?).into(),
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            databases: 0,
        };
        let install = server
            .command(&program("mariadb-install-db").ok_or_else(missing)?)
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"])
            .arg(format!("--datadir={}", server.data().display()))
            .output()?;
        if !install.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&install.stderr).into_owned()));
        }
        std::fs::write(
            server.directory.path().join("init.sql"),
            format!(
                "DROP USER IF EXISTS ''@'localhost';\n\
                 CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{PASSWORD}';\n\
                 GRANT ALL ON *.* TO {USER}@'%' WITH GRANT OPTION;\n\
                 CREATE DATABASE IF NOT EXISTS app;\n"
            ),
        )?;
        server.start_again()?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new(program);
        // A server that starts removes temporary tables of others that it finds.
        command.current_dir(self.directory.path()).env("TMPDIR", self.directory.path()).stdin(Stdio::null());
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How its user reaches a database.
    pub fn url(&self, database: &str) -> String {
        format!("mysql://{USER}:{PASSWORD}@{}/{database}", self.address)
    }

    /// Creates an empty database, and tells how its user reaches it.
    ///
    /// # Errors
    /// When MariaDB's client is not installed, or the server refuses.
    pub fn fresh_database(&mut self) -> io::Result<String> {
        let name = format!("test{}", self.databases);
        self.databases += 1;
        let client =
            program("mariadb").ok_or_else(|| io::Error::other("no MariaDB found; scripts/test installs it"))?;
        let made = Command::new(client)
            .args(["--no-defaults", "--host=127.0.0.1", "--user", USER, "--execute"])
            .arg(format!("CREATE DATABASE {name}"))
            .arg(format!("--port={}", self.address.port()))
            .arg(format!("--password={PASSWORD}"))
            .output()?;
        if made.status.success() {
            Ok(self.url(&name))
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()))
        }
    }

    /// The statements that it has received, with the settings `general-log` and `general-log-file=general`.
    pub fn general_log(&self) -> String {
        std::fs::read(self.data().join("general"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// A setting from the next start on.
    pub fn set(&mut self, setting: String) {
        self.settings.push(setting);
    }

    /// A copy of a file that the server can read.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn keep(&self, file: &std::path::Path, name: &str) -> io::Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        let to = self.directory.path().join(name);
        std::fs::copy(file, &to)?;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600))?;
        if let Some((uid, gid)) = self.account {
            std::os::unix::fs::chown(&to, Some(uid), Some(gid))?;
        }
        Ok(to)
    }

    /// Starts it (again) on its port and waits until it answers.
    ///
    /// # Errors
    /// When it does not start: the end of its log.
    pub fn start_again(&mut self) -> io::Result<()> {
        let log = self.directory.path().join("log");
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = self.command(&self.program);
        command
            .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--socket=socket"])
            .arg(format!("--datadir={}", self.data().display()))
            .arg(format!("--init-file={}", self.directory.path().join("init.sql").display()))
            .arg(format!("--port={}", self.address.port()))
            // What is committed outlives the process, if not the machine.
            .args(["--innodb-flush-log-at-trx-commit=2", "--innodb-log-file-size=64M", "--max-connections=300"])
            // Not what Atoll needs, so that whoever relies on the server's settings is found out.
            .args(["--character-set-server=latin1", "--sql-mode=ANSI_QUOTES", "--default-time-zone=+03:00"])
            .args(self.settings.iter().map(|setting| format!("--{setting}")));
        let mut process = Process::of(command.stdout(output.try_clone()?).stderr(output).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(60);
        // It greets whoever connects.
        while !self.greets() {
            if let Some(status) = process.ended()? {
                return Err(io::Error::other(format!("mariadbd ended: {status}\n{}", tail(&log))));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("mariadbd does not answer\n{}", tail(&log))));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = Some(process);
        Ok(())
    }

    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return false };
        let mut header = [0; 5];
        // The length of the packet, its number, and the version of the protocol.
        stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
            && stream.read_exact(&mut header).is_ok()
            && header[4] == 10
    }

    /// The number of its process, if it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// SIGKILL: the next start recovers from its log.
    pub fn crash(&mut self) {
        self.process = None;
    }
}
