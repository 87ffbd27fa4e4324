//! A private PostgreSQL server.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::capture::{Capture, Modules};
use crate::suites::Suite;
use crate::{container, needs, or_skip, skip_if};

pub mod log;
pub mod wire;

/// Where Debian's `postgresql-15` puts the programs of the server.
pub const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// The server.
pub const SERVER: &str = "/usr/lib/postgresql/15/bin/postgres";
/// The load, of `postgresql-15` or `postgresql-client-15`.
pub const PGBENCH: &str = "/usr/lib/postgresql/15/bin/pgbench";
/// The client.
pub const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";

/// The user and group that servers of tests run as: nobody and nogroup.
const NOBODY: u32 = 65534;
/// Its user in its database.
pub const USER: &str = "test";

/// A version of another suite.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    suite: Suite,
    series: &'static str,
}

/// PostgreSQL 13.
pub const POSTGRESQL_13: Version = Version { suite: Suite::Bullseye, series: "13" };
/// PostgreSQL 17.
pub const POSTGRESQL_17: Version = Version { suite: Suite::Trixie, series: "17" };
/// PostgreSQL 18.
pub const POSTGRESQL_18: Version = Version { suite: Suite::Sid, series: "18" };

/// What is done with a server, of whatever version.
pub type Scenario = fn(&mut Postgres);

/// Does it with the installed server.
///
/// # Panics
/// As the scenario does.
pub fn installed(test: &str, options: &[&str], scenario: Scenario) {
    skip_if!(
        test,
        needs::capture(),
        needs::program(SERVER, "postgresql-15"),
        needs::program(PGBENCH, "postgresql-15"),
        needs::program(PSQL, "postgresql-client-15")
    );
    scenario(&mut Postgres::start_with(options));
}

/// Does all of them with another version, each with a server of its own.
///
/// # Panics
/// As the scenarios do.
pub fn of_suite(test: &str, version: Version, options: &[&str], scenarios: &[Scenario]) {
    skip_if!(
        test,
        needs::capture(),
        needs::program(PGBENCH, "postgresql-15"),
        needs::program(PSQL, "postgresql-client-15")
    );
    for scenario in scenarios {
        scenario(&mut or_skip!(test, Postgres::of(version, options)));
    }
    println!("PostgreSQL {}: {} scenarios", version.series, scenarios.len());
}

/// A running server from a private copy of its programs. Stopped, and its files removed, when dropped.
pub struct Postgres {
    process: Child,
    options: Vec<String>,
    port: u16,
    /// Of another suite: its number, and the directory is its root.
    series: Option<&'static str>,
    dir: TempDir,
}

/// Becomes nobody, in a root that has no other program for it.
const DROP: &str = "$( = 65534; $) = '65534 65534'; $< = $> = 65534; exec @ARGV or die $!";

impl Postgres {
    /// Starts a server that lets everybody in, and writes every statement into its log.
    ///
    /// # Panics
    /// If the server does not answer within 30 s; its log is in the message.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&["log_statement=all"])
    }

    /// Starts a server with these settings.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    #[must_use]
    pub fn start_with(options: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-pg-").tempdir().expect("temporary directory");
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        // The server finds its files by the way from its own program.
        let programs = dir.path().join("lib/postgresql/15/bin");
        fs::create_dir_all(&programs).expect("directory");
        fs::create_dir(dir.path().join("share")).expect("directory");
        for program in ["postgres", "initdb"] {
            fs::copy(Path::new(PROGRAMS).join(program), programs.join(program)).expect("copy of the server");
        }
        symlink("/usr/share/postgresql", dir.path().join("share/postgresql")).expect("link");
        symlink("/usr/lib/postgresql/15/lib", dir.path().join("lib/postgresql/15/lib")).expect("link");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("data directory");
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("chown");
        let made = unprivileged(&programs.join("initdb"), &data)
            .arg(format!("--pgdata={}", data.display()))
            .args(["--username=test", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // Free now; another may take it before the server does, which then says so.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a port").port();
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let server = Self { process: spawn(dir.path(), None, port, &options), options, port, series: None, dir };
        server.until_answering();
        server
    }

    /// Starts the server of another suite, in a container with that suite's libraries.
    ///
    /// # Errors
    /// Why it can't be had here: a reason to skip a test.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    pub fn of(version: Version, options: &[&str]) -> Result<Self, String> {
        let Version { suite, series } = version;
        let root = suite.root(&[&format!("postgresql-{series}"), "dash", "perl-base", "coreutils"])?;
        let dir = root.copy(&[&format!("usr/lib/postgresql/{series}/bin/postgres")]);
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        let _ = fs::create_dir(dir.path().join("etc"));
        for (file, text) in [("passwd", "nobody:x:65534:65534::/:\n"), ("group", "nogroup:x:65534:\n")] {
            // A new file: one that a package brought is shared with all other copies of the root.
            let file = dir.path().join("etc").join(file);
            let _ = fs::remove_file(&file);
            fs::write(file, text).expect("users");
        }
        for place in ["run", "tmp", "dev"] {
            fs::create_dir_all(dir.path().join(place)).expect("directory");
            chown(dir.path().join(place), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        // Nothing is read from it, and what is written there is of no use.
        let null = dir.path().join("dev/null");
        fs::write(&null, "").expect("file");
        fs::set_permissions(&null, PermissionsExt::from_mode(0o666)).expect("permissions");
        let made = container::command(dir.path(), "/usr/bin/perl")
            .args(["-e", DROP, &format!("/usr/lib/postgresql/{series}/bin/initdb"), "--pgdata=/run/data"])
            .args(["--username=test", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .output()
            .expect("unshare starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a port").port();
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let process = spawn(dir.path(), Some(series), port, &options);
        let server = Self { process, options, port, series: Some(series), dir };
        server.until_answering();
        Ok(server)
    }

    /// Stops the server without a checkpoint, as `pg_ctl stop -m immediate`, and starts it again on the same data.
    ///
    /// # Panics
    /// If it does not end within 30 s, or does not answer again.
    pub fn restart_at_once(&mut self) {
        kill_process(crate::capture::pid(self.pid()), Signal::QUIT).expect("signal");
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.process.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < deadline, "postgres does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.process = spawn(self.dir.path(), self.series, self.port, &self.options);
        self.until_answering();
    }

    /// What an upgrade of the package does to a server that runs: another file takes the name of its program. It is the same
    /// but for this change.
    ///
    /// # Panics
    /// If the file cannot be copied.
    pub fn upgrade_binary(&self, change: impl FnOnce(&mut [u8])) {
        let (binary, new) = (self.binary(), self.binary().with_extension("dpkg-new"));
        let mut bytes = fs::read(&binary).expect("the server");
        change(&mut bytes);
        fs::copy(&binary, &new).expect("copy of the server");
        fs::write(&new, bytes).expect("copy of the server");
        fs::rename(&new, &binary).expect("rename");
    }

    fn until_answering(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.psql(&["-c", "select 'up'"]).status.success() {
            assert!(Instant::now() < deadline, "postgres does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Process id of the postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The private copy of the binary.
    #[must_use]
    pub fn binary(&self) -> PathBuf {
        let path =
            self.series.map_or_else(|| "lib/postgresql/15".into(), |series| format!("usr/lib/postgresql/{series}"));
        self.dir.path().join(path).join("bin/postgres")
    }

    /// Where its data is, seen from outside of its container.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join(if self.series.is_some() { "run/data" } else { "data" })
    }

    /// A capture from this server and no other.
    ///
    /// # Panics
    /// As [`Capture::start`].
    #[must_use]
    pub fn capture(&self, more: &[&str]) -> (Modules, Capture) {
        let modules = Modules::with(&["postgres"]);
        let binary = self.binary().display().to_string();
        let capture = Capture::start(&modules, &[&["postgres", "--postgres", &binary, "-o", "json"], more].concat());
        (modules, capture)
    }

    /// Its port on the loopback network.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A directory that lives as long as the server.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's log.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("log")).unwrap_or_default()).into_owned()
    }

    /// A client program, told where the server is.
    #[must_use]
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("PGHOST", "127.0.0.1").env("PGUSER", USER);
        command.env("PGPORT", self.port.to_string()).env("PGDATABASE", "postgres").env("PGCONNECT_TIMEOUT", "10");
        command.env("LC_ALL", "C.UTF-8").current_dir(self.dir.path());
        command
    }

    /// Runs psql to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn psql(&self, args: &[&str]) -> std::process::Output {
        self.client(PSQL).args(["-X", "-q", "-A", "-t"]).args(args).output().expect("psql starts")
    }
}

fn unprivileged(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").uid(NOBODY).gid(NOBODY);
    command
}

fn spawn(dir: &Path, series: Option<&str>, port: u16, options: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("log");
    let (mut command, data) = match series {
        None => {
            let data = dir.join("data");
            (unprivileged(&dir.join("lib/postgresql/15/bin/postgres"), &data), data)
        }
        Some(series) => {
            let mut command = container::command(dir, "/usr/bin/perl");
            command.args(["-e", DROP, &format!("/usr/lib/postgresql/{series}/bin/postgres")]);
            (command, "/run/data".into())
        }
    };
    command.arg("-D").arg(&data).arg("-k").arg(&data).arg("-p").arg(port.to_string());
    for option in ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=32MB", "timezone=UTC", "log_timezone=UTC"]
    {
        command.arg("-c").arg(option);
    }
    for option in options {
        command.arg("-c").arg(option);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("postgres starts")
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // By its own process id; its children end with it. The data is thrown away, so nothing needs to be written.
        let _ = kill_process(crate::capture::pid(self.pid()), Signal::QUIT);
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
