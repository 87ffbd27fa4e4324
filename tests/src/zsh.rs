//! A private zsh, and what of it was captured.

use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::capture::text_bytes;
use crate::shell::Shell;
use crate::suites::Suite;
use crate::terminal::Session;

/// Where Debian's `zsh` puts the shell.
pub const SHELL: &str = "/bin/zsh";

/// A private zsh.
pub struct Zsh {
    shell: Shell,
    /// Its own modules, if they are not where those of the installed one are.
    _modules: Option<TempDir>,
}

impl Deref for Zsh {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.shell
    }
}

impl Zsh {
    /// Of the installed shell.
    #[must_use]
    pub fn installed() -> Self {
        Self::of(Path::new(SHELL))
    }

    /// Of this one.
    #[must_use]
    pub fn of(binary: &Path) -> Self {
        Self { shell: Shell::of("zsh", binary), _modules: None }
    }

    /// zsh 5.8, of Debian 11. It runs with the libraries of this machine. Where its own modules are, a path in it says: in the copy
    /// that is another path (with the version at its end all the same), so that it needs no setting that would show in what is
    /// captured.
    ///
    /// # Errors
    /// Why it can't be had here: a reason to skip a test.
    ///
    /// # Panics
    /// If there is no room for it, or the path is not in it.
    pub fn of_bullseye() -> Result<Self, String> {
        const PATH: &str = "/usr/lib/x86_64-linux-gnu/zsh/5.8";
        let root = Suite::Bullseye.root(&["zsh"])?;
        let modules = tempfile::Builder::new().prefix("z-").tempdir().expect("temporary directory");
        std::fs::set_permissions(modules.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        let own = modules.path().join("zsh/5.8");
        let own = own.to_str().filter(|own| own.len() <= PATH.len()).ok_or("needs a shorter TMPDIR")?;
        std::fs::create_dir(modules.path().join("zsh")).expect("directory");
        let copied = Command::new("cp").arg("-r").arg(root.path().join(&PATH[1..])).arg(own).status().expect("cp");
        assert!(copied.success());
        let zsh = Self { _modules: Some(modules), ..Self::of(&root.path().join("bin/zsh")) };
        let mut bytes = std::fs::read(zsh.binary()).expect("the shell");
        let whole = [PATH.as_bytes(), b"\0"].concat();
        let place = bytes.windows(whole.len()).position(|bytes| bytes == whole).expect("the path in the shell");
        let path = &mut bytes[place..place + PATH.len()];
        path.fill(0);
        path[..own.len()].copy_from_slice(own.as_bytes());
        std::fs::write(zsh.binary(), bytes).expect("the shell");
        Ok(zsh)
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

    /// Interactive, at a terminal of its own, with these prompts for a command and for more of it.
    #[must_use]
    pub fn session(&self, prompts: [&str; 2]) -> Session {
        Session::start(&self.binary(), &["-f", "-i", "-o", "nopromptsp", "-o", "nopromptcr"], |command| {
            self.prepare(command);
            command.env("PS1", prompts[0]).env("PS2", prompts[1]).env("TERM", "dumb");
        })
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
