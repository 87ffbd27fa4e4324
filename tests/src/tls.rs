//! Private copies of TLS libraries, and what programs said through them.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::capture::payload;
use crate::container;
use crate::suites::Suite;
use crate::target::Program;

/// Debian's place for libraries.
pub const SYSTEM: &str = "/usr/lib/x86_64-linux-gnu";
/// Who runs the targets.
pub const NOBODY: u32 = 65534;

/// A copy of libssl and libcrypto, with a certificate for `localhost`.
pub struct Library {
    dir: TempDir,
    file: String,
}

impl Library {
    /// A copy of the system's library.
    #[must_use]
    pub fn installed() -> Self {
        Self::of(Path::new(SYSTEM), "3")
    }

    /// A copy of the library of this version (`3`, `1.1`) in this directory.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn of(from: &Path, version: &str) -> Self {
        let [ssl, crypto] = ["ssl", "crypto"].map(|name| from.join(format!("lib{name}.so.{version}")));
        Self::copied(&[&ssl, &crypto])
    }

    /// A copy of these files, the first of which is the library to probe.
    ///
    /// # Panics
    /// If one is not there.
    #[must_use]
    pub fn copied(files: &[&Path]) -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-tls-").tempdir().expect("temporary directory");
        let name = |file: &Path| file.file_name().expect("a file").to_str().expect("a name that is text").to_owned();
        for file in files {
            let copy = dir.path().join(name(file));
            std::fs::copy(file, &copy).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        }
        let key = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];
        let subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
        let output = Command::new("openssl")
            .args(key)
            .args(subject)
            .arg("-keyout")
            .arg(dir.path().join("key.pem"))
            .arg("-out")
            .arg(dir.path().join("certificate.pem"))
            .output()
            .expect("openssl (package openssl)");
        assert!(output.status.success(), "{output:?}");
        for name in ["", "key.pem", "certificate.pem"] {
            let path = dir.path().join(name);
            let mode = if name.is_empty() { 0o755 } else { 0o644 };
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("chmod");
        }
        Self { dir, file: name(files[0]) }
    }

    /// Where everything is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The library to probe.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir().join(&self.file)
    }

    /// The same, as text.
    ///
    /// # Panics
    /// If the temporary directory has a strange name.
    #[must_use]
    pub fn text(&self) -> String {
        self.path().to_str().expect("a path that is text").into()
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir().join("certificate.pem")
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.dir().join("key.pem")
    }

    /// A program that uses this copy, as nobody.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.uid(NOBODY).gid(NOBODY).env_clear().current_dir(self.dir());
        command.env("PATH", "/usr/bin:/bin").env("LD_LIBRARY_PATH", self.dir());
        command
    }

    /// Runs a command that leaves the bytes that client and server exchanged in files, with certificate and key as its next
    /// arguments. Gives what was asked and what was answered.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn exchange(&self, program: &Path, script: &str, args: &[&str], rounds: u32) -> [Vec<u8>; 2] {
        self.exchange_with(program, script, args, rounds, &[])
    }

    /// The same with these variables in its environment.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn exchange_with(
        &self,
        program: &Path,
        script: &str,
        args: &[&str],
        rounds: u32,
        environment: &[(&str, &std::ffi::OsStr)],
    ) -> [Vec<u8>; 2] {
        let dir = tempfile::Builder::new().prefix("ecapture-echo-").tempdir().expect("temporary directory");
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/targets").join(script);
        let copy = dir.path().join(script);
        std::fs::copy(&source, &copy).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        let mut command = self.command(Path::new("/usr/bin/timeout"));
        command.current_dir(dir.path()).arg("100").arg(program).arg(&copy).args(args);
        command.arg(self.certificate()).arg(self.key()).arg(rounds.to_string());
        command.envs(environment.iter().copied());
        let output = command.output().expect("timeout");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        ["asked", "answered"].map(|name| std::fs::read(dir.path().join(name)).expect("what was said"))
    }

    /// Runs a scenario of `fixtures/targets/tls-calls.c` and gives what it says that it did.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn run(&self, calls: &Program, scenario: &str, number: u32) -> Vec<Call> {
        let mut command = self.command(Path::new("/usr/bin/timeout"));
        command.arg("100").arg(calls.path()).arg(self.path()).arg(self.certificate()).arg(self.key());
        let output = command.arg(scenario).arg(number.to_string()).output().expect("timeout");
        said(&output)
    }
}

/// The library of another suite in a container of its own, with that suite's libc.
pub struct Contained {
    root: TempDir,
    own: Library,
}

/// Where it is in a root.
const INSIDE: &str = "usr/lib/x86_64-linux-gnu/libssl.so.3";

impl Contained {
    /// One of this suite.
    ///
    /// # Errors
    /// Why the suite can't be had here: a reason to skip a test.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn of(suite: Suite) -> Result<Self, String> {
        let root = suite.root(&["libssl3t64"])?.copy(&[INSIDE]);
        let own = Library::installed();
        std::fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        for file in [own.certificate(), own.key(), calls().path()] {
            let name = file.file_name().expect("a file");
            std::fs::copy(&file, root.path().join(name)).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
        Ok(Self { root, own })
    }

    /// The library to probe, as seen from outside.
    ///
    /// # Panics
    /// If the temporary directory has a strange name.
    #[must_use]
    pub fn text(&self) -> String {
        self.root.path().join(INSIDE).to_str().expect("a path that is text").into()
    }

    /// The library, the certificate and its key, as they are called in there.
    #[must_use]
    pub fn files(&self) -> [PathBuf; 3] {
        [Path::new("/").join(INSIDE), inside(&self.own.certificate()), inside(&self.own.key())]
    }

    /// Copies a file in, and gives its name there.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn put(&self, file: &Path) -> PathBuf {
        let name = inside(file);
        let copy = self.root.path().join(name.file_name().expect("a file"));
        std::fs::copy(file, &copy).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        name
    }

    /// A program from outside that runs in there.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let name = self.put(program);
        container::command(self.root.path(), name.to_str().expect("a path that is text"))
    }

    /// Runs a scenario of `fixtures/targets/tls-calls.c` in there and gives what it says that it did.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn run(&self, scenario: &str, number: u32) -> Vec<Call> {
        let mut command = container::command(self.root.path(), "/tls-calls");
        command.args(self.files());
        said(&command.arg(scenario).arg(number.to_string()).output().expect("unshare"))
    }
}

/// Where a file that was copied in is.
fn inside(file: &Path) -> PathBuf {
    Path::new("/").join(file.file_name().expect("a file"))
}

/// `fixtures/targets/tls-calls.c`, compiled, to be run by anybody.
#[must_use]
pub fn calls() -> Program {
    let program = Program::compile("tls-calls.c", "tls-calls");
    let dir = program.path().parent().map(Path::to_path_buf).unwrap_or_default();
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    program
}

/// One call that moved bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Thread that made it.
    pub thread: u64,
    /// Function: `SSL_read`, `SSL_peek` or `SSL_write`, in whatever form.
    pub function: String,
    /// Bytes that it moved.
    pub length: u64,
    /// FNV-1a of them.
    pub hash: u64,
    /// `address port address port`, or `-`.
    pub socket: String,
}

/// Which of `SSL_read`, `SSL_peek`, `SSL_write` it is a form of: all forms of one end in the same function, which may be
/// what is probed.
fn form(function: &str) -> String {
    let name = function.trim_end_matches("_early_data").trim_end_matches('2').trim_end_matches("_ex");
    name.to_owned()
}

/// What the program says that it did.
///
/// # Panics
/// If it failed.
#[must_use]
pub fn said(output: &Output) -> Vec<Call> {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let text = std::str::from_utf8(&output.stdout).expect("text");
    let call = |line: &str| {
        let mut words = line.splitn(5, ' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("a line of its own: {line:?}"));
        Call {
            thread: word().parse().expect("thread"),
            function: form(word()),
            length: word().parse().expect("length"),
            hash: u64::from_str_radix(word(), 16).expect("hash"),
            socket: word().into(),
        }
    };
    text.lines().map(call).collect()
}

/// What was captured, as calls: a long call is several events.
///
/// # Panics
/// If an event lacks what every event has.
#[must_use]
pub fn captured(events: &[Value]) -> Vec<Call> {
    let mut calls: Vec<(String, Call)> = Vec::new();
    for event in events.iter().filter(|e| e["ecapture.module"] == "openssl") {
        let number = |key: &str| event[key].as_u64().unwrap_or_else(|| panic!("no {key} in {event}"));
        let text = |key: &str| event[key].as_str().unwrap_or_else(|| panic!("no {key} in {event}")).to_owned();
        let end = |side: &str| {
            Some(format!(
                "{} {}",
                event[format!("network.{side}.address")].as_str()?,
                event[format!("network.{side}.port")]
            ))
        };
        let socket = end("local").zip(end("peer")).map_or("-".into(), |(local, peer)| format!("{local} {peer}"));
        let (thread, at, bytes) = (number("thread.id"), text("ecapture.monotonic_ns"), payload(event));
        // One thread makes one call at a time.
        let goes_on = calls.iter().rposition(|(_, call)| call.thread == thread).filter(|i| calls[*i].0 == at);
        if let Some(index) = goes_on {
            calls[index].1.hash = fnv(calls[index].1.hash, &bytes);
        } else {
            let function = form(&text("ecapture.tls.call"));
            let length = number("ecapture.tls.length");
            calls.push((at, Call { thread, function, length, hash: fnv(FNV, &bytes), socket }));
        }
    }
    calls.into_iter().map(|(_, call)| call).collect()
}

const FNV: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Each thread's calls are the same, in the same order.
///
/// # Panics
/// If they are not.
pub fn compare(said: &[Call], captured: &[Call]) {
    let by_thread = |calls: &[Call]| {
        let mut threads: BTreeMap<u64, Vec<Call>> = BTreeMap::new();
        for call in calls {
            threads.entry(call.thread).or_default().push(call.clone());
        }
        threads
    };
    let (said, mut captured) = (by_thread(said), by_thread(captured));
    for (thread, said) in said {
        let captured = captured.remove(&thread).unwrap_or_default();
        for (index, call) in said.iter().enumerate() {
            assert_eq!(captured.get(index), Some(call), "call {index} of thread {thread}");
        }
        assert_eq!(captured.len(), said.len(), "more than was said: {:?}", captured.get(said.len()));
    }
    assert!(captured.is_empty(), "threads that said nothing: {captured:?}");
}

/// The bytes of each stream and direction (`transmit`, `receive`), put together by their offsets; nothing may be missing.
///
/// # Panics
/// If there is a gap.
#[must_use]
pub fn streams(events: &[Value]) -> BTreeMap<(String, String), Vec<u8>> {
    let mut streams: BTreeMap<(String, String), Vec<u8>> = BTreeMap::new();
    for event in events.iter().filter(|e| e["event.name"] == "openssl.data") {
        let id = event["ecapture.stream.id"].as_str().expect("stream").to_owned();
        let direction = event["network.io.direction"].as_str().expect("direction").to_owned();
        let stream = streams.entry((id, direction)).or_default();
        assert_eq!(event["ecapture.stream.offset"], stream.len(), "a gap: {event:.300}");
        stream.extend(payload(event));
    }
    streams
}
