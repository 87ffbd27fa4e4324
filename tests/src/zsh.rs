//! A private zsh, and what of it was captured.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::bash::Session;
use crate::capture::text_bytes;

/// Where Debian's `zsh` puts the shell.
pub const SHELL: &str = "/bin/zsh";

/// The user and group that shells of tests run as: nobody and nogroup.
const NOBODY: u32 = 65534;

/// A private copy of a shell, and a directory that it may write to.
pub struct Zsh(TempDir);

impl Zsh {
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
        let dir = tempfile::Builder::new().prefix("ecapture-zsh-").tempdir().expect("temporary directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        std::fs::copy(binary, dir.path().join("zsh")).unwrap_or_else(|e| panic!("{}: {e}", binary.display()));
        let shell = Self(dir);
        std::fs::create_dir(shell.home()).expect("directory");
        chown(shell.home(), Some(NOBODY), Some(NOBODY)).expect("chown");
        shell
    }

    /// The copy.
    #[must_use]
    pub fn binary(&self) -> PathBuf {
        self.0.path().join("zsh")
    }

    /// The same, as text.
    ///
    /// # Panics
    /// If the temporary directory has a strange name.
    #[must_use]
    pub fn text(&self) -> String {
        self.binary().to_str().expect("a path that is text").into()
    }

    /// Where it runs.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.0.path().join("home")
    }

    /// The shell as a command: as nobody, in its own directory, with next to no environment, and without start-up files but
    /// the system's first.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.binary());
        self.prepare(&mut command);
        command.arg("-f").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// At a terminal of its own, with these prompts for a command and for more of it.
    #[must_use]
    pub fn session(&self, prompts: [&str; 2]) -> Session {
        Session::of(&self.binary(), &["-f", "-i", "-o", "nopromptsp", "-o", "nopromptcr"], |command| {
            self.prepare(command);
            command.env("PS1", prompts[0]).env("PS2", prompts[1]).env("TERM", "dumb");
        })
    }

    fn prepare(&self, command: &mut Command) {
        command.current_dir(self.home()).uid(NOBODY).gid(NOBODY).env_clear();
        command.env("PATH", "/usr/bin:/bin:/").env("HOME", self.home()).env("LC_ALL", "C.UTF-8");
    }
}

/// An input that ran, or should have run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ran {
    /// Its status, or its outcome if it has none.
    pub status: String,
    /// Where it comes from.
    pub context: String,
    /// Its text.
    pub text: Vec<u8>,
}

impl Ran {
    /// One.
    #[must_use]
    pub fn new(status: &str, context: &str, text: &str) -> Self {
        Self { status: status.into(), context: context.into(), text: text.into() }
    }
}

/// What one shell process ran, in the order in which it began. Without what Debian's own start-up file, read by every shell,
/// has in it.
///
/// # Panics
/// On events that lack what each has.
#[must_use]
pub fn captured(events: &[Value], shell: u64) -> Vec<Ran> {
    let mut list: Vec<(u64, Ran)> = Vec::new();
    let own = |event: &&Value| event["event.name"] == "zsh.command" && event["ecapture.shell.pid"] == shell;
    for event in events.iter().filter(own) {
        let end: u64 = event["ecapture.monotonic_ns"].as_str().and_then(|ns| ns.parse().ok()).expect("time");
        let began = end - event["ecapture.duration_ns"].as_u64().unwrap_or(0);
        let status = event["process.exit.code"].as_u64().map(|code| code.to_string());
        let status = status.unwrap_or_else(|| event["ecapture.outcome"].as_str().expect("outcome").into());
        let context = event["ecapture.shell.context"].as_str().expect("context").to_owned();
        list.push((began, Ran { status, context, text: text_bytes(event, "ecapture.command.text") }));
    }
    list.sort_by_key(|(began, _)| *began);
    let mut list: Vec<Ran> = list.into_iter().map(|(_, ran)| ran).collect();
    let start_up = |ran: &Ran| ran.context == "file" && ran.text.starts_with(b"if [[ -z \"$PATH\" ||");
    if list.first().is_some_and(start_up) {
        list.remove(0);
    }
    list
}

/// Reads a list of what should run: a line an input, its fields separated by tabs: status, context, text. `\n`, `\t` and `\\`
/// are escapes, lines that begin with `#` comments.
///
/// # Panics
/// On a line with fewer fields.
#[must_use]
pub fn expected(list: &str) -> Vec<Ran> {
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let one = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        let mut field = || fields.next().unwrap_or_else(|| panic!("fields: {line:?}"));
        let (status, context) = (field(), field());
        let text = field().replace("\\\\", "\0").replace("\\n", "\n").replace("\\t", "\t").replace('\0', "\\");
        Ran::new(status, context, &text)
    };
    lines.map(one).collect()
}

/// Compares, and says where the difference is.
///
/// # Panics
/// If there is any.
pub fn compare(expected: &[Ran], captured: &[Ran]) {
    let show = |ran: &Ran| format!("{} {} {:?}", ran.status, ran.context, String::from_utf8_lossy(&ran.text));
    for (number, (expected, captured)) in expected.iter().zip(captured).enumerate() {
        assert!(expected == captured, "input {number}:\n captured {}\n expected {}", show(captured), show(expected));
    }
    let all: Vec<String> = captured.iter().map(show).collect();
    assert_eq!(captured.len(), expected.len(), "{all:#?}");
}
