//! Captures of keys, and the programs that say what they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{Permissions, set_permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::capture::{Capture, Finished, Modules};
use crate::target::Program;

/// Labels of TLS 1.3 that every version has, and how many lines a run of `tls-keys` has of each.
const LATEST: [(&str, usize); 7] = [
    ("CLIENT_EARLY_TRAFFIC_SECRET", 5),
    ("EARLY_EXPORTER_SECRET", 5),
    ("CLIENT_HANDSHAKE_TRAFFIC_SECRET", 15),
    ("SERVER_HANDSHAKE_TRAFFIC_SECRET", 15),
    ("CLIENT_TRAFFIC_SECRET_0", 15),
    ("SERVER_TRAFFIC_SECRET_0", 15),
    ("EXPORTER_SECRET", 15),
];

/// Lines that `tls-keys` says with `before`, at least: of two connections of TLS 1.2 and three of TLS 1.3, one of them with early data. Those
/// of other keys come on top, but not from OpenSSL 1.1.1.
pub const OF_BEFORE: usize = 2 + 5 + 5 + 7;

/// A directory that everybody may write to.
///
/// # Panics
/// If there is no room for it.
#[must_use]
pub fn open_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("ecapture-keys-").tempdir().expect("temporary directory");
    set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("chmod");
    dir
}

/// A capture of keys into a file, with the events on stdout.
pub struct Keys {
    _modules: Modules,
    capture: Capture,
    dir: TempDir,
}

impl Keys {
    /// Starts one from this target.
    ///
    /// # Panics
    /// If it does not capture within 30 s.
    #[must_use]
    pub fn start(option: &str, target: &str) -> Self {
        let (modules, dir) = (Modules::with(&["openssl"]), open_dir());
        let path = dir.path().join("keys");
        let args = ["tls", "-m", "keylog", option, target, "-o", "json", "-k", path.to_str().expect("text")];
        let capture = Capture::start(&modules, &args);
        Self { _modules: modules, capture, dir }
    }

    /// Where the lines are.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    /// The lines of connections whose handshakes were all seen.
    ///
    /// # Panics
    /// As [`Self::stop_with_unseen`], and if one was not.
    #[must_use]
    pub fn stop(self) -> (BTreeMap<String, usize>, Finished) {
        self.stop_with_unseen(0)
    }

    /// The lines, which are in the file and among the events: in the file once, and with how many events of each. So many
    /// connections are from before.
    ///
    /// # Panics
    /// If anything was lost, or the two do not agree.
    #[must_use]
    pub fn stop_with_unseen(self, connections: usize) -> (BTreeMap<String, usize>, Finished) {
        let path = self.path();
        let finished = self.capture.stop();
        finished.assert_whole();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for event in finished.named("openssl.secret") {
            let column = |key: &str| event[key].as_str().unwrap_or_else(|| panic!("no {key} in {event}"));
            let line = column("ecapture.payload.text");
            let columns = ["secret.label", "client_random", "secret"].map(|c| column(&format!("ecapture.tls.{c}")));
            assert_eq!(line, columns.join(" "));
            *seen.entry(line.to_owned()).or_default() += 1;
        }
        let of = |event: &Value| format!("{} {}", event["process.pid"], event["ecapture.connection.id"]);
        let different: BTreeSet<String> = finished.named("openssl.keys_not_seen").map(of).collect();
        assert_eq!((different.len(), unseen(&finished).len()), (connections, connections), "{}", finished.said);
        if connections > 0 {
            let told = format!("the keys of {connections} connections were not seen");
            assert!(finished.said.contains(&told), "{}", finished.said);
        }
        let written = std::fs::read_to_string(&path).expect("a key log");
        let comments = written.lines().filter(|line| line.starts_with("# keys not seen: process ")).count();
        assert_eq!(comments, connections, "{written}");
        let lines: Vec<&str> = written.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len() + comments, written.lines().count(), "nothing else is in it");
        assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len(), "each line once");
        assert!(lines.iter().copied().collect::<BTreeSet<_>>().into_iter().eq(seen.keys()), "{} lines", lines.len());
        assert_eq!(path.metadata().expect("a key log").permissions().mode() & 0o777, 0o600);
        (seen, finished)
    }
}

/// Lines of a key log. Those of a key exchange with RSA say the same as the connection's `CLIENT_RANDOM`, in another way.
#[must_use]
pub fn lines(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("RSA ")).map(str::to_owned).collect()
}

/// A certificate with its key, of RSA: many suites are for these only.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn rsa(dir: &Path) -> PathBuf {
    let (path, key) = (dir.join("rsa.pem"), dir.join("rsa.key"));
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"];
    let mut command = Command::new("openssl");
    let made = command.args(request).arg("-keyout").arg(&key).arg("-out").arg(&path).output().expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let read = |path: &Path| std::fs::read_to_string(path).expect("what was made");
    std::fs::write(&path, read(&path) + &read(&key)).expect("a file with both");
    set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
    path
}

/// `fixtures/targets/tls-keys.c`, to be run by anybody.
///
/// # Panics
/// If there is no gcc, or it fails.
#[must_use]
pub fn program() -> Program {
    let program = Program::compile("tls-keys.c", "tls-keys");
    set_permissions(program.path().parent().expect("a directory"), Permissions::from_mode(0o755)).expect("chmod");
    program
}

/// Our lines are those that the library says (`said`), and both ends were seen, though only one of them asked for a key log.
///
/// # Panics
/// If they are not.
pub fn of_both_ends(said: &str, seen: &BTreeMap<String, usize>) {
    let expected = lines(said);
    let missing: Vec<_> = expected.iter().filter(|line| !seen.contains_key(*line)).collect();
    assert!(missing.is_empty(), "{} of {} lines are missing: {missing:.3?}", missing.len(), expected.len());
    assert_eq!(seen.len(), expected.len(), "more than was said");
    let alone: Vec<_> = seen.iter().filter(|(_, count)| **count != 2).collect();
    assert!(alone.is_empty(), "both ends have each line: {alone:?}");
}

/// Lines of this label.
#[must_use]
pub fn count(seen: &BTreeMap<String, usize>, label: &str) -> usize {
    seen.keys().filter(|line| line.split(' ').next() == Some(label)).count()
}

/// Suites of TLS 1.2 that a program like `tls-keys` says it has made connections with.
#[must_use]
pub fn suites(said: &str) -> usize {
    said.lines().filter(|line| line.starts_with("# made 303 ")).count()
}

/// Every suite of a library, full and taken up again, early data, new keys, with `tls-keys`: our lines are those that the library
/// says. There are some 140 suites of TLS 1.2 in every version.
///
/// # Panics
/// If they are not.
pub fn every_suite(option: &str, target: &str, run: impl FnOnce(&Path) -> Output) {
    let dir = open_dir();
    let rsa = rsa(dir.path());
    let keys = Keys::start(option, target);
    let said = text(&run(&rsa));
    let (seen, _) = keys.stop();
    of_both_ends(&said, &seen);
    for (label, lines) in LATEST {
        assert_eq!(count(&seen, label), lines, "{label}");
    }
    let suites = suites(&said);
    println!("{} lines of {suites} older suites and 5 of TLS 1.3", seen.len());
    assert!(suites >= 130, "{suites} suites");
    // Each suite twice, of which some versions take nothing up again.
    assert_eq!(count(&seen, "CLIENT_RANDOM"), 2 * (suites + said.matches("# made 301 ").count()));
    let lengths: BTreeSet<usize> = seen.keys().map(|line| line.rsplit(' ').next().map_or(0, str::len) / 2).collect();
    assert_eq!(lengths, [32, 48].into(), "secrets are as long as their hash");
}

/// What a program that went well has said.
///
/// # Panics
/// If it did not go well.
#[must_use]
pub fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// A program that has made a connection, and goes on when it is told.
pub struct Waiting {
    process: Child,
    out: BufReader<Box<dyn Read>>,
}

impl Waiting {
    /// Runs it until it says so.
    ///
    /// # Panics
    /// If it ends instead.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut out: BufReader<Box<dyn Read>> = BufReader::new(Box::new(process.stdout.take().expect("stdout")));
        let mut line = String::new();
        out.read_line(&mut line).expect("text");
        assert_eq!(line, "# up\n", "{command:?}");
        Self { process, out }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Lets it go on, and gives what it says.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn go_on(mut self) -> String {
        let mut told = self.process.stdin.take().expect("stdin");
        told.write_all(b"go on\n").expect("it waits");
        drop(told);
        let mut said = String::new();
        self.out.read_to_string(&mut said).expect("text");
        assert!(self.process.wait().expect("its end").success(), "{said}");
        said
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Processes of connections whose keys were not seen, in order.
#[must_use]
pub fn unseen(finished: &Finished) -> Vec<u64> {
    let of = |event: &Value| event["process.pid"].as_u64();
    let mut processes: Vec<u64> = finished.named("openssl.keys_not_seen").filter_map(of).collect();
    processes.sort_unstable();
    processes
}
