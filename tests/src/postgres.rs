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

/// A running server from a private copy of its programs. Stopped, and its files removed, when dropped.
pub struct Postgres {
    process: Child,
    options: Vec<String>,
    port: u16,
    dir: TempDir,
}

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
        let server = Self { process: spawn(dir.path(), port, &options), options, port, dir };
        server.until_answering();
        server
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
        self.process = spawn(self.dir.path(), self.port, &self.options);
        self.until_answering();
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
        self.dir.path().join("lib/postgresql/15/bin/postgres")
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

fn spawn(dir: &Path, port: u16, options: &[String]) -> Child {
    let data = dir.join("data");
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("log");
    let mut command = unprivileged(&dir.join("lib/postgresql/15/bin/postgres"), &data);
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

/// A statement as the server's log has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Logged {
    /// The backend.
    pub pid: u64,
    /// Its text.
    pub text: String,
    /// What was bound, between the quotes of the log: `None` is NULL.
    pub parameters: Vec<Option<String>>,
}

/// The statements in a log written with `log_line_prefix='%p|'` and `log_statement=all`, in the order of each backend. Texts
/// are to be of one line.
#[must_use]
pub fn logged(log: &str) -> Vec<Logged> {
    let mut found: Vec<Logged> = Vec::new();
    for line in log.lines() {
        let Some((pid, said)) = line.split_once('|') else { continue };
        let Ok(pid) = pid.parse() else { continue };
        if let Some(text) = said.strip_prefix("LOG:  statement: ") {
            found.push(Logged { pid, text: text.into(), parameters: Vec::new() });
        } else if let Some(executed) = said.strip_prefix("LOG:  execute ") {
            let text = executed.split_once(": ").map_or("", |(_, text)| text);
            found.push(Logged { pid, text: text.into(), parameters: Vec::new() });
        } else if let Some(detail) = said.strip_prefix("DETAIL:  parameters: ")
            && let Some(last) = found.iter_mut().rev().find(|statement| statement.pid == pid)
        {
            last.parameters = parameters(detail);
        }
    }
    found
}

/// `$1 = '5', $2 = NULL`, with `''` for a quote.
fn parameters(mut detail: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    while let Some((_, rest)) = detail.split_once(" = ") {
        let Some(quoted) = rest.strip_prefix('\'') else {
            values.push(None);
            detail = rest;
            continue;
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices().peekable();
        let mut end = quoted.len();
        while let Some((at, c)) = chars.next() {
            if c == '\'' && chars.next_if(|next| next.1 == '\'').is_none() {
                end = at + 1;
                break;
            }
            value.push(c);
        }
        values.push(Some(value));
        detail = quoted.get(end..).unwrap_or_default();
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_log_is_read() {
        let log = "7|LOG:  statement: select 1\n8|LOG:  execute s1: select $1, $2\n7|LOG:  statement: x\n\
                   8|DETAIL:  parameters: $1 = 'it''s', $2 = NULL, $3 = ''\n";
        let found = logged(log);
        assert_eq!(found.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), ["select 1", "select $1, $2", "x"]);
        assert_eq!(found[1].parameters, [Some("it's".into()), None, Some(String::new())]);
    }
}
