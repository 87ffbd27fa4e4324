//! A private MariaDB server.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

/// Where Debian's `mariadb-server-core` puts the server.
pub const SERVER: &str = "/usr/sbin/mariadbd";

/// The user and group that servers of tests run as: nobody and nogroup.
const NOBODY: u32 = 65534;

/// A running server from a private copy of the binary. Stopped, and its files removed, when dropped.
pub struct Mariadb {
    process: Child,
    options: Vec<String>,
    dir: TempDir,
}

impl Mariadb {
    /// Starts a server with an empty data directory and no access control.
    ///
    /// # Panics
    /// If the server does not answer within 30 s; its log is in the message.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more options.
    ///
    /// # Panics
    /// As [`Mariadb::start`].
    #[must_use]
    pub fn start_with(options: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-mariadb-").tempdir().expect("temporary directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("data directory");
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("chown");
        std::fs::copy(SERVER, dir.path().join("mariadbd")).expect("copy of the server");
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let server = Self { process: spawn(dir.path(), &options), options, dir };
        server.until_answering();
        server
    }

    /// Stops the server as a service manager does, and starts it again from the same path, on the same data.
    ///
    /// # Panics
    /// If it does not end within 30 s, or does not answer again.
    pub fn restart(&mut self) {
        kill_process(crate::capture::pid(self.pid()), Signal::TERM).expect("signal");
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.process.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < deadline, "mariadbd does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.process = spawn(self.dir.path(), &self.options);
        self.until_answering();
    }

    /// Kills the server, as a crash does it, and starts it again on the same data.
    ///
    /// # Panics
    /// If it does not answer again.
    pub fn crash(&mut self) {
        self.process.kill().expect("signal");
        self.process.wait().expect("wait");
        // What listens there does not any more.
        let _ = std::fs::remove_file(self.socket());
        self.process = spawn(self.dir.path(), &self.options);
        self.until_answering();
    }

    fn until_answering(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(self.socket()).is_err() {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "mariadbd does not answer:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Process id of the server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The private copy of the binary.
    #[must_use]
    pub fn binary(&self) -> PathBuf {
        self.dir.path().join("mariadbd")
    }

    /// The server's unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("data/socket")
    }

    /// A directory that lives as long as the server.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn spawn(dir: &Path, options: &[String]) -> Child {
    let (data, log) = (dir.join("data"), std::fs::File::create(dir.join("log")).expect("log"));
    Command::new(dir.join("mariadbd"))
        .arg("--no-defaults")
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", data.join("socket").display()))
        .args(["--skip-networking", "--skip-grant-tables", "--user=nobody", "--lc-messages-dir=/usr/share/mysql"])
        .args(["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=0"])
        .args(["--max-connections=200", "--max-allowed-packet=64M", "--max-prepared-stmt-count=1000000"])
        .args(options)
        .current_dir(&data)
        .env_clear()
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("mariadbd starts")
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        // By its own process id; the data is thrown away, so nothing needs to be written.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
