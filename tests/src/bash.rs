//! A private bash: scripts and command strings, and a session at a terminal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use tempfile::TempDir;

use crate::capture::text_bytes;

/// Where Debian's `bash` puts the shell.
pub const SHELL: &str = "/bin/bash";

/// The user and group that shells of tests run as: nobody and nogroup.
const NOBODY: u32 = 65534;

/// Further shells to test, as paths with `:` between them: other versions, other builds.
pub const OTHERS: &str = "ECAPTURE_TEST_SHELLS";

/// A private copy of a shell, and a directory that it may write to.
pub struct Bash(TempDir);

impl Bash {
    /// Of the installed shell.
    #[must_use]
    pub fn installed() -> Self {
        Self::of(Path::new(SHELL))
    }

    /// Of this one.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn of(binary: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-bash-").tempdir().expect("temporary directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        std::fs::copy(binary, dir.path().join("bash")).unwrap_or_else(|e| panic!("{}: {e}", binary.display()));
        let shell = Self(dir);
        if let Some(library) = linked_readline(binary) {
            let found = Path::new("/usr/lib/x86_64-linux-gnu").join(&library);
            std::fs::copy(&found, shell.0.path().join(&library)).unwrap_or_else(|e| panic!("{}: {e}", found.display()));
        }
        std::fs::create_dir(shell.home()).expect("directory");
        chown(shell.home(), Some(NOBODY), Some(NOBODY)).expect("chown");
        shell
    }

    /// The copy.
    #[must_use]
    pub fn binary(&self) -> PathBuf {
        self.0.path().join("bash")
    }

    /// The same, as text.
    ///
    /// # Panics
    /// If the temporary directory has a strange name.
    #[must_use]
    pub fn text(&self) -> String {
        self.binary().to_str().expect("a path that is text").into()
    }

    /// What tells `ecapture bash` to capture from this copy, and from that of libreadline if the shell is linked to it.
    ///
    /// # Panics
    /// If the temporary directory has a strange name.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().expect("a path that is text").to_owned();
        let mut options = vec!["--bash".to_owned(), text(self.binary())];
        if let Some(library) = linked_readline(&self.binary()) {
            options.extend(["--readline".to_owned(), text(self.0.path().join(library))]);
        }
        options
    }

    /// Where it runs.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.0.path().join("home")
    }

    /// The shell as a command: as nobody, in its own directory, with next to no environment.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.binary());
        self.prepare(&mut command);
        command
    }

    /// Runs it to its end; what it says goes nowhere.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, args: &[&str]) -> ExitStatus {
        let mut command = self.command();
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("bash starts")
    }

    /// Puts a script into its directory and runs it.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn run_script(&self, script: &[u8]) -> ExitStatus {
        std::fs::write(self.home().join("script"), script).expect("script");
        self.run(&["script"])
    }

    fn prepare(&self, command: &mut Command) {
        command.current_dir(self.home()).uid(NOBODY).gid(NOBODY).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.home()).env("LC_ALL", "C");
        command.env("LD_LIBRARY_PATH", self.0.path());
    }
}

/// The libreadline that this shell is linked to, if it has none of its own.
fn linked_readline(binary: &Path) -> Option<String> {
    let bytes = std::fs::read(binary).ok()?;
    let elf = ecapture_plugin_api::sdk::elf::Elf::parse(&bytes).ok()?;
    elf.needed().find(|name| name.starts_with("libreadline.so.")).map(str::to_owned)
}

/// A shell at a terminal of its own.
pub struct Session {
    process: Child,
    terminal: File,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Session {
    /// Starts an interactive shell with these prompts for a command and for more of it.
    ///
    /// # Panics
    /// If there is no terminal to be had.
    #[must_use]
    pub fn start(shell: &Bash, prompts: [&str; 2]) -> Self {
        Self::of(&shell.binary(), &["--norc", "--noprofile", "-i"], |command| {
            shell.prepare(command);
            command.env("PS1", prompts[0]).env("PS2", prompts[1]).env("TERM", "dumb").env("INPUTRC", "/dev/null");
            command.env("HISTFILE", "/dev/null");
        })
    }

    /// Starts any shell at a terminal of its own; `prepare` is given the command for user and environment.
    ///
    /// # Panics
    /// If there is no terminal to be had.
    #[must_use]
    pub fn of(shell: &Path, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("terminal");
        grantpt(&terminal).expect("terminal");
        unlockpt(&terminal).expect("terminal");
        let name = ptsname(&terminal, Vec::new()).expect("terminal").into_string().expect("terminal");
        chown(&name, Some(NOBODY), None).expect("chown of the terminal");
        let end = || File::options().read(true).write(true).open(&name).expect("terminal");
        // Gives it the terminal as its own, which takes a system call between fork and exec.
        let mut command = Command::new("setsid");
        // What was ignored when a shell started stays ignored in what it runs, as SIGINT is in a job in the background.
        command.args(["--ctty", "--wait", "env", "--default-signal"]);
        command.arg(shell).args(args);
        prepare(&mut command);
        let process = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid (package util-linux)");
        let terminal = File::from(terminal);
        let mut reader = terminal.try_clone().expect("terminal");
        let (to, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if to.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { process, terminal, output, seen: String::new() }
    }

    /// Waits until this has been shown, and forgets all up to there.
    ///
    /// # Panics
    /// If it is not within 20 s.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?}; shown: {:?}", self.seen);
            match self.output.recv_timeout(Duration::from_millis(50)) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Timeout) => {}
                Err(e) => panic!("{e} before {text:?}; shown: {:?}", self.seen),
            }
        }
    }

    /// Types this.
    ///
    /// # Panics
    /// If the terminal is gone.
    pub fn press(&mut self, keys: &[u8]) {
        self.terminal.write_all(keys).expect("terminal");
    }

    /// Types a line and waits until it has been echoed, and the prompt shown again.
    pub fn line(&mut self, line: &str, prompt: &str) {
        self.press(line.as_bytes());
        self.press(b"\r");
        self.wait_for("\n");
        self.wait_for(prompt);
    }

    /// Waits until a program of this name has the terminal: only then do keys like Ctrl-C mean it.
    ///
    /// # Panics
    /// If none has within 20 s.
    pub fn wait_until_runs(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).ok()?;
            let foreground = stat.rsplit(')').next()?.split_whitespace().nth(5)?.to_owned();
            Some(std::fs::read_to_string(format!("/proc/{foreground}/comm")).ok()?.trim_end() == name)
        };
        while runs() != Some(true) {
            assert!(Instant::now() < deadline, "no {name} at the terminal");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the shell itself sleeps, so waits for a key. A key that makes a signal throws away what was typed
    /// and not yet read, and readline misses a signal that comes just before it sleeps.
    ///
    /// # Panics
    /// If it does not within 20 s.
    pub fn wait_until_idle(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let idle = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).ok()?;
            Some(stat.rsplit(')').next()?.trim_start().starts_with('S'))
        };
        while idle() != Some(true) {
            assert!(Instant::now() < deadline, "the shell does not wait for a key");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within 20 s.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.process.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "the shell does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A command that ran, or should have run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ran {
    /// Its status, or its outcome if it has none; then `&` if it was in the background, `|` if in a pipeline.
    pub status: String,
    /// Its text.
    pub text: Vec<u8>,
    /// Arguments of the program, if it was one.
    pub args: Option<Vec<Vec<u8>>>,
}

impl Ran {
    /// A command without a program.
    #[must_use]
    pub fn builtin(status: &str, text: &str) -> Self {
        Self { status: status.into(), text: text.into(), args: None }
    }

    /// A command with a program.
    #[must_use]
    pub fn program(status: &str, text: &str, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        Self { status: status.into(), text: text.into(), args: Some(args) }
    }
}

/// What was captured, by the shell process that ran it, in the order in which it began.
///
/// # Panics
/// On events that lack what each has.
#[must_use]
pub fn captured(events: &[Value]) -> BTreeMap<u64, Vec<Ran>> {
    let mut shells: BTreeMap<u64, Vec<(u64, Ran)>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["event.name"] == "bash.command") {
        let end: u64 = event["ecapture.monotonic_ns"].as_str().and_then(|ns| ns.parse().ok()).expect("time");
        // What ends later is also said later, so the time of what has no duration comes close.
        let began = end - event["ecapture.duration_ns"].as_u64().unwrap_or(0);
        let shell = event["ecapture.shell.pid"].as_u64().expect("ecapture.shell.pid");
        shells.entry(shell).or_default().push((began, ran(event)));
    }
    let sorted = |mut list: Vec<(u64, Ran)>| {
        list.sort_by_key(|(began, _)| *began);
        list.into_iter().map(|(_, ran)| ran).collect()
    };
    shells.into_iter().map(|(shell, list)| (shell, sorted(list))).collect()
}

fn ran(event: &Value) -> Ran {
    let status = event["process.exit.code"].as_u64().map(|code| code.to_string());
    let mut status = status.unwrap_or_else(|| event["ecapture.outcome"].as_str().expect("outcome").into());
    for (key, sign) in [("ecapture.command.background", '&'), ("ecapture.command.pipeline", '|')] {
        if event[key] == true {
            status.push(sign);
        }
    }
    let args = event.get("process.command_args").map(|_| {
        let args = text_bytes(event, "process.command_args");
        args.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    });
    Ran { status, text: text_bytes(event, "ecapture.command.text"), args }
}

/// Reads a list of what should run: a line a command, its fields separated by tabs: status, text, arguments if it is a
/// program. An empty line ends a shell's list; the shell that the test starts comes first. `\n`, `\t` and `\\` are escapes,
/// lines that begin with `#` comments.
///
/// # Panics
/// On a line without a text.
#[must_use]
pub fn expected(list: &str) -> Vec<Vec<Ran>> {
    let lines: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let shells = lines.split(|line| line.is_empty()).filter(|shell| !shell.is_empty());
    shells.map(|shell| shell.iter().map(|line| expected_line(line)).collect()).collect()
}

fn expected_line(line: &str) -> Ran {
    let mut fields = line.split('\t').map(unescape);
    let status = fields.next().and_then(|status| String::from_utf8(status).ok()).expect("status");
    let text = fields.next().unwrap_or_else(|| panic!("no text: {line:?}"));
    let args: Vec<_> = fields.collect();
    Ran { status, text, args: (!args.is_empty()).then_some(args) }
}

fn unescape(field: &str) -> Vec<u8> {
    let mut out = String::new();
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        out.push(match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('\\') => '\\',
                other => panic!("\\{other:?} in {field:?}"),
            },
            (c, false) => c,
        });
    }
    out.into_bytes()
}

/// Compares, and says where the difference is. `first` is the shell that the test started; the others have the same lists,
/// whatever their process ids and their order.
///
/// # Panics
/// If there is any difference.
pub fn compare(expected: &[Vec<Ran>], captured: &BTreeMap<u64, Vec<Ran>>, first: u64) {
    let own = captured.get(&first).unwrap_or_else(|| panic!("nothing of {first}: {captured:#?}"));
    let main = expected.first().expect("a list");
    for (n, (expected, captured)) in main.iter().zip(own).enumerate() {
        assert_eq!(captured, expected, "command {n} (left: captured)");
    }
    assert_eq!(own.get(main.len()..), main.get(own.len()..), "left: captured beyond the list, right: not captured");
    let mut expected: Vec<&Vec<Ran>> = expected.iter().skip(1).collect();
    let mut others: Vec<&Vec<Ran>> = captured.iter().filter(|(shell, _)| **shell != first).map(|(_, l)| l).collect();
    expected.sort();
    others.sort();
    for (captured, expected) in others.iter().zip(&expected) {
        assert_eq!(captured, expected, "a subshell (left: captured)");
    }
    assert_eq!(others.len(), expected.len(), "subshells: {others:#?}");
}
