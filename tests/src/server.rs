//! Database servers of several versions, each from its suite's own packages and in a container of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::container;
use crate::mysql::Client;
use crate::suites::{Root, Suite};

/// The user and group that servers run as: nobody and nogroup.
const NOBODY: u32 = 65534;
/// What servers of both products are started with.
const OPTIONS: &[&str] = &[
    "--no-defaults",
    "--user=nobody",
    "--datadir=/run/data",
    "--socket=/run/socket",
    "--pid-file=/run/pid",
    "--bind-address=127.0.0.1",
    "--innodb-buffer-pool-size=16M",
    "--innodb-flush-log-at-trx-commit=0",
    "--max-connections=200",
    "--max-allowed-packet=64M",
    "--max-prepared-stmt-count=1000000",
    "--secure-file-priv=/run",
];

/// One version of a server.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    /// As in `db.system.name`: `mariadb` or `mysql`.
    pub product: &'static str,
    /// The first two numbers of its version.
    pub series: &'static str,
    /// The suite that has it.
    pub suite: Suite,
    /// The package in it.
    pub package: &'static str,
    /// The server's program in that package.
    pub program: &'static str,
}

/// MariaDB 10.5.
pub const MARIADB_10_5: Version = mariadb("10.5", Suite::Bullseye, "mariadb-server-core-10.5");
/// MariaDB 10.11.
pub const MARIADB_10_11: Version = mariadb("10.11", Suite::Bookworm, "mariadb-server-core");
/// MariaDB 11.8.
pub const MARIADB_11_8: Version = mariadb("11.8", Suite::Trixie, "mariadb-server-core");
/// MySQL 9.7.
pub const MYSQL_9_7: Version = Version {
    product: "mysql",
    series: "9.7",
    suite: Suite::Sid,
    package: "mysql-server-core",
    program: "/usr/sbin/mysqld",
};

const fn mariadb(series: &'static str, suite: Suite, package: &'static str) -> Version {
    Version { product: "mariadb", series, suite, package, program: "/usr/sbin/mariadbd" }
}

/// A running server. Stopped, and its files removed, when dropped; its mounts go with it.
pub struct Server {
    process: Child,
    root: TempDir,
    version: Version,
    port: u16,
}

impl Server {
    /// Starts a server that lets `test` and `other` in without a password. (MariaDB lets in everybody.)
    ///
    /// # Errors
    /// Why the version can't be had here: a reason to skip a test.
    ///
    /// # Panics
    /// If the server does not answer within 30 s; its log is in the message.
    pub fn start(version: Version) -> Result<Self, String> {
        Self::start_with(version, &[])
    }

    /// The same with more options.
    ///
    /// # Errors
    /// As [`Server::start`].
    ///
    /// # Panics
    /// As [`Server::start`].
    pub fn start_with(version: Version, more: &[&str]) -> Result<Self, String> {
        let packages = version.suite.root(&[version.package])?;
        let root = packages.copy(&[version.program]);
        fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        furnish(root.path());
        let data = root.path().join("run/data");
        let mut options: Vec<String> = OPTIONS.iter().map(|option| (*option).to_owned()).collect();
        if version.product == "mysql" {
            let made = packages.keep("tables", |made| initialize(version, &packages, made));
            let status = Command::new("cp").arg("-a").arg(&made).arg(&data).status().expect("cp");
            assert!(status.success());
            options.extend(["--mysqlx=OFF", "--disable-log-bin"].map(str::to_owned));
        } else {
            own_dir(&data);
            options.push("--skip-grant-tables".into());
            options.push("--innodb-log-file-size=4M".into());
        }
        // Free now; another may take it before the server does, which then says so.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a port").port();
        options.push(format!("--port={port}"));
        options.extend(more.iter().map(|option| (*option).to_owned()));
        let log = File::create(root.path().join("log")).expect("log");
        let process = container::command(root.path(), version.program)
            .args(options)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare starts");
        let mut server = Self { process, root, version, port };
        server.until_ready();
        Ok(server)
    }

    fn until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let socket = self.socket();
            let refused = match Client::connect(&socket) {
                Ok(client) => {
                    let _ = client.quit();
                    return;
                }
                Err(refused) => refused,
            };
            let ended = self.process.try_wait().expect("wait");
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.root.path().join("log")).unwrap_or_default();
                panic!("{} does not answer ({refused}, {ended:?}):\n{log}", self.version.program);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Which version it is of.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Process id of the server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The server's program, from outside of its container.
    #[must_use]
    pub fn binary(&self) -> PathBuf {
        self.root.path().join(self.version.program.trim_start_matches('/'))
    }

    /// The server's unix socket, by the way through its process: a path of any other form may be too long for one.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        container::through(self.pid(), "/run/socket")
    }

    /// Where it listens on the loopback network.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its root, from outside: a directory that lives as long as the server.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.root.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By its own process id; the data is thrown away, so nothing needs to be written.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a root needs that no package brings: its users, and places to write.
fn furnish(root: &Path) {
    fs::create_dir_all(root.join("etc")).expect("directory");
    for (file, text) in
        [("etc/passwd", "root:x:0:0::/:\nnobody:x:65534:65534::/:\n"), ("etc/group", "root:x:0:\nnogroup:x:65534:\n")]
    {
        // A new file: one that a package brought is shared with all other copies of the root.
        let _ = fs::remove_file(root.join(file));
        fs::write(root.join(file), text).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    for dir in ["run", "tmp"] {
        own_dir(&root.join(dir));
    }
}

fn own_dir(dir: &Path) {
    fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    chown(dir, Some(NOBODY), Some(NOBODY)).expect("chown");
}

/// Lets MySQL make its tables, and the users of the tests.
fn initialize(version: Version, packages: &Root, into: &Path) {
    let root = packages.copy(&[]);
    furnish(root.path());
    own_dir(&root.path().join("run/data"));
    let users = "create user test;\ngrant all on *.* to test;\ncreate user other;\ngrant all on *.* to other;\n";
    fs::write(root.path().join("run/users"), users).expect("users");
    let output = container::command(root.path(), version.program)
        .args(OPTIONS)
        .args(["--initialize-insecure", "--init-file=/run/users", "--innodb-redo-log-capacity=16M"])
        .output()
        .expect("unshare starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_dir(into).and_then(|()| fs::rename(root.path().join("run/data"), into)).expect("data");
}
