//! A private bash: scripts and command strings, a session at a terminal, and what of it was captured.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::capture::text_bytes;
use crate::shell::Shell;
use crate::terminal::Session;

/// Where Debian's `bash` puts the shell.
pub const SHELL: &str = "/bin/bash";

/// Further shells to test, as paths with `:` between them: other versions, other builds.
pub const OTHERS: &str = "ECAPTURE_TEST_SHELLS";

/// A private bash.
pub struct Bash(Shell);

impl Deref for Bash {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.0
    }
}

impl Bash {
    /// Of the installed shell.
    #[must_use]
    pub fn installed() -> Self {
        Self::of(Path::new(SHELL))
    }

    /// Of this one, with its libreadline if it is linked to one.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn of(binary: &Path) -> Self {
        let shell = Shell::of("bash", binary);
        if let Some(library) = linked_readline(binary) {
            let found = Path::new("/usr/lib/x86_64-linux-gnu").join(&library);
            std::fs::copy(&found, shell.dir().join(&library)).unwrap_or_else(|e| panic!("{}: {e}", found.display()));
        }
        Self(shell)
    }

    /// What tells `ecapture bash` to capture from this copy, and from that of libreadline if the shell is linked to it.
    ///
    /// # Panics
    /// If the temporary directory has a strange name.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let mut options = vec!["--bash".to_owned(), self.text()];
        if let Some(library) = linked_readline(&self.binary()) {
            let path = self.dir().join(library).to_str().expect("a path that is text").to_owned();
            options.extend(["--readline".to_owned(), path]);
        }
        options
    }

    /// The shell as a command: as nobody, in its own directory, with next to no environment.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.binary());
        self.prepare(&mut command);
        command
    }

    /// Interactive, at a terminal of its own, with these prompts for a command and for more of it.
    #[must_use]
    pub fn session(&self, prompts: [&str; 2]) -> Session {
        Session::start(&self.binary(), &["--norc", "--noprofile", "-i"], |command| {
            self.prepare(command);
            command.env("PS1", prompts[0]).env("PS2", prompts[1]).env("TERM", "dumb").env("INPUTRC", "/dev/null");
            command.env("HISTFILE", "/dev/null");
        })
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
        self.0.prepare(command);
        command.env("LC_ALL", "C").env("LD_LIBRARY_PATH", self.dir());
    }
}

/// The libreadline that this shell is linked to, if it has none of its own.
fn linked_readline(binary: &Path) -> Option<String> {
    let bytes = std::fs::read(binary).ok()?;
    let elf = ecapture_plugin_api::sdk::elf::Elf::parse(&bytes).ok()?;
    elf.needed().find(|name| name.starts_with("libreadline.so.")).map(str::to_owned)
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
