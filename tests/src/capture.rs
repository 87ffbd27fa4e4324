//! The program under test, as a process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// What the program says on stderr when probes are in place.
pub const CAPTURING: &str = "capturing; Ctrl-C ends it";

/// The built programs: `ECAPTURE_BIN`, which `cargo xtask test` sets.
///
/// # Panics
/// If nothing has been built.
#[must_use]
pub fn bin_dir() -> PathBuf {
    let dir = std::env::var_os("ECAPTURE_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"), PathBuf::from);
    assert!(dir.join("ecapture").exists(), "{} has no ecapture: run `cargo xtask test`", dir.display());
    dir.canonicalize().expect("directory of the built programs")
}

/// A directory with modules in it, trusted as far as its own path goes, and the program that is to use them.
pub struct Modules(TempDir, PathBuf);

impl Modules {
    /// An empty one.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(&bin_dir().join("ecapture"))
    }

    /// An empty one for another program than the one that was built.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn of(program: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-modules-").tempdir().expect("temporary directory");
        Self(dir, program.into())
    }

    /// One with these modules of the build.
    #[must_use]
    pub fn with(names: &[&str]) -> Self {
        let modules = Self::empty();
        for name in names {
            modules.install(name);
        }
        modules
    }

    /// Copies a module of the build in; that is all that installing takes.
    ///
    /// # Panics
    /// If it was not built.
    pub fn install(&self, name: &str) {
        let file = format!("libecap_{name}.so");
        std::fs::copy(bin_dir().join(&file), self.0.path().join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The program with this directory as its place for modules.
    #[must_use]
    pub fn ecapture(&self) -> Command {
        let mut command = Command::new(&self.1);
        command.arg("--modules-dir").arg(self.path()).arg("--allow-untrusted");
        command
    }

    /// Runs the program to its end, which comes within two minutes or is made.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.arg("120").arg(&self.1);
        command.arg("--modules-dir").arg(self.path()).arg("--allow-untrusted").args(args);
        command.output().expect("ecapture starts")
    }
}

/// A capture that is running, with JSON on its stdout.
pub struct Capture {
    process: Child,
    lines: Receiver<String>,
    events: Vec<Value>,
    stderr: Receiver<String>,
    /// What it has said on stderr so far.
    pub said: String,
}

impl Capture {
    /// Starts a capture and waits until the probes are in place.
    ///
    /// # Panics
    /// If that takes more than 30 s.
    #[must_use]
    pub fn start(modules: &Modules, args: &[&str]) -> Self {
        Self::spawn(modules, args).until_ready()
    }

    /// Waits until the probes are in place.
    ///
    /// # Panics
    /// If that takes more than 30 s.
    #[must_use]
    pub fn until_ready(mut self) -> Self {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.said.contains(CAPTURING) {
            assert!(Instant::now() < deadline, "does not capture:\n{}", self.said);
            match self.stderr.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => self.said += &line,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(e) => panic!("{e}; it said:\n{}", self.said),
            }
        }
        self
    }

    /// Starts a capture and waits for nothing.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn(modules: &Modules, args: &[&str]) -> Self {
        let mut process = modules
            .ecapture()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ecapture starts");
        let lines = follow(process.stdout.take().expect("stdout"));
        let stderr = follow(process.stderr.take().expect("stderr"));
        Self { process, lines, events: Vec::new(), stderr, said: String::new() }
    }

    /// Process id of the broker.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its child of this role, once there is one.
    ///
    /// # Panics
    /// If there is none within 10 s.
    #[must_use]
    pub fn child(&self, role: &str) -> u32 {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(pid) = children(self.pid()).get(&format!("ecapture: {role}")) {
                return *pid;
            }
            assert!(Instant::now() < deadline, "no {role} of {}", self.pid());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The running worker of one module among several, once there is one.
    ///
    /// # Panics
    /// If there is none within 20 s.
    #[must_use]
    pub fn worker_of(&self, module: &str) -> u32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        // A worker has its module mapped from a memory file of the module's name.
        let mark = format!("/memfd:{module} ");
        loop {
            let maps = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            if let Some(pid) = child_pids(self.pid()).into_iter().find(|pid| maps(pid).contains(&mark)) {
                return pid;
            }
            assert!(Instant::now() < deadline, "no worker of {module}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until an event fits, and gives it. Events that came meanwhile are kept.
    ///
    /// # Panics
    /// If none comes within the time.
    pub fn wait_for(&mut self, what: &str, patience: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + patience;
        let mut looked = 0;
        loop {
            while looked < self.events.len() {
                if fits(&self.events[looked]) {
                    return self.events[looked].clone();
                }
                looked += 1;
            }
            assert!(Instant::now() < deadline, "no {what}; {} events; it said:\n{}", self.events.len(), self.said);
            if let Ok(line) = self.lines.recv_timeout(Duration::from_millis(50)) {
                self.events.push(parse(&line));
            }
        }
    }

    /// Waits until it has said these words so many times on stderr. Events that came meanwhile are kept.
    ///
    /// # Panics
    /// If it does not within the time.
    pub fn wait_for_word(&mut self, words: &str, times: usize, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.said.matches(words).count() < times {
            assert!(Instant::now() < deadline, "it does not say {words:?} {times} times:\n{}", self.said);
            while let Ok(line) = self.lines.try_recv() {
                self.events.push(parse(&line));
            }
            if let Ok(line) = self.stderr.recv_timeout(Duration::from_millis(50)) {
                self.said += &line;
            }
        }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(pid(self.pid()), signal).expect("signal");
    }

    /// Ends the capture as Ctrl-C does, and gives all there is.
    #[must_use]
    pub fn stop(self) -> Finished {
        self.signal(Signal::INT);
        self.wait()
    }

    /// Waits for its end and gives all there is.
    ///
    /// # Panics
    /// If it does not end within 60 s.
    #[must_use]
    pub fn wait(mut self) -> Finished {
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            while let Ok(line) = self.lines.try_recv() {
                self.events.push(parse(&line));
            }
            if let Some(status) = self.process.try_wait().expect("wait") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.process.kill();
                panic!(
                    "ecapture does not end; it said:\n{}",
                    self.said.clone() + &self.stderr.try_iter().collect::<String>()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        while let Ok(line) = self.lines.recv() {
            self.events.push(parse(&line));
        }
        while let Ok(line) = self.stderr.recv() {
            self.said += &line;
        }
        Finished { code: status.code(), events: std::mem::take(&mut self.events), said: std::mem::take(&mut self.said) }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A capture that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Every line of stdout.
    pub events: Vec<Value>,
    /// Everything from stderr.
    pub said: String,
}

impl Finished {
    /// Events of this name, in order.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |e| e["event.name"] == name)
    }

    /// The session's last line.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn end(&self) -> &Value {
        self.named("ecapture.session.end").last().unwrap_or_else(|| panic!("no session end; it said:\n{}", self.said))
    }

    /// Nothing lost, nothing cut, nothing unaccounted for.
    ///
    /// # Panics
    /// If anything was.
    pub fn assert_whole(&self) {
        assert_eq!(self.code, Some(0), "{}", self.said);
        assert_eq!(self.events[0]["event.name"], "ecapture.session.start");
        assert_eq!(self.events.last(), Some(self.end()));
        let end = self.end();
        let totals = &end["ecapture.session.modules"][0];
        for key in [
            "lost",
            "partial",
            "faults",
            "undecodable",
            "truncated_bytes",
            "state_full",
            "sink_lost",
            "restarts",
            "unaccounted",
        ] {
            assert_eq!(totals[key], 0, "{key} in {end}");
        }
        assert_eq!(totals["produced"], totals["seen"], "{end}");
    }
}

/// The events in a file of JSON lines.
///
/// # Panics
/// If it cannot be read, or has anything else in it.
#[must_use]
pub fn read_events(file: &Path) -> Vec<Value> {
    let reader = BufReader::with_capacity(1 << 20, std::fs::File::open(file).expect("file of events"));
    reader.lines().map(|line| parse(&line.expect("a line of text"))).collect()
}

/// Exact bytes of a text column.
///
/// # Panics
/// If the event has none, or nonsense.
#[must_use]
pub fn text_bytes(event: &Value, column: &str) -> Vec<u8> {
    match event[format!("ecapture.base64.{column}")].as_str() {
        Some(encoded) => base64(encoded),
        None => event[column].as_str().unwrap_or_else(|| panic!("no {column} in {event}")).as_bytes().to_vec(),
    }
}

/// Exact bytes of an event's payload; none if it has none.
///
/// # Panics
/// If it is nonsense.
#[must_use]
pub fn payload(event: &Value) -> Vec<u8> {
    match (event["ecapture.payload.text"].as_str(), event["ecapture.payload.base64"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(encoded)) => base64(encoded),
        (None, None) => Vec::new(),
    }
}

/// Children of a process by the name they give themselves (`ecapture: worker`).
#[must_use]
pub fn children(of: u32) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for child in child_pids(of) {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if let Some(name) = line.split(|b| *b == 0).next() {
            found.insert(String::from_utf8_lossy(name).into_owned(), child);
        }
    }
    found
}

fn child_pids(of: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

/// A process id as the system calls take it.
///
/// # Panics
/// On 0 and on what is no process id.
#[must_use]
pub fn pid(raw: u32) -> Pid {
    Pid::from_raw(i32::try_from(raw).expect("process id")).expect("process id")
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line:?}"))
}

fn follow(from: impl Read + Send + 'static) -> Receiver<String> {
    let (to, lines) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::with_capacity(1 << 20, from);
        let mut line = String::new();
        while matches!(reader.read_line(&mut line), Ok(n) if n > 0) {
            if to.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    lines
}

/// What this says in base64.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [None; 256];
    for (value, digit) in (0u32..).zip(ALPHABET) {
        values[usize::from(*digit)] = Some(value);
    }
    let (mut out, mut word, mut bits) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0);
    for digit in text.bytes().filter(|b| *b != b'=') {
        let value = values[usize::from(digit)].unwrap_or_else(|| panic!("not base64: {text:?}"));
        word = word << 6 | value;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(word >> bits & 0xff).unwrap_or_default());
        }
    }
    out
}
