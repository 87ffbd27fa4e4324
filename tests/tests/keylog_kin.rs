//! BoringSSL and AWS-LC, built from source, inside of a program: the keys of both ends in every way that they have, line by line
//! against their own log, with names and without, and what is read and written.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::keys::{Keys, Waiting, count, of_both_ends, open_dir, rsa, suites, text, unseen};
use ecapture_tests::sources::{self, Kin};
use ecapture_tests::tls::Library;
use ecapture_tests::{needs, or_skip, skip_if};
use tempfile::TempDir;

/// Labels of TLS 1.3, and how many lines a run of `tls-kin` has of each: three times three connections.
const LATEST: [(&str, usize); 6] = [
    ("CLIENT_EARLY_TRAFFIC_SECRET", 3),
    ("CLIENT_HANDSHAKE_TRAFFIC_SECRET", 9),
    ("SERVER_HANDSHAKE_TRAFFIC_SECRET", 9),
    ("CLIENT_TRAFFIC_SECRET_0", 9),
    ("SERVER_TRAFFIC_SECRET_0", 9),
    ("EXPORTER_SECRET", 9),
];

macro_rules! skip_unless_possible {
    ($test:expr) => {
        skip_if!(
            $test,
            needs::capture(),
            needs::program("/usr/bin/openssl", "openssl"),
            needs::program("/usr/bin/g++", "g++"),
            needs::program("/usr/bin/cmake", "cmake")
        )
    };
}

/// `fixtures/targets/tls-kin.c` with a library inside.
struct BuiltIn {
    dir: TempDir,
    of: Library,
}

impl BuiltIn {
    fn of(library: &Path, how: &[&str]) -> Self {
        let dir = open_dir();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/targets/tls-kin.c");
        let mut compiler = Command::new("g++");
        compiler.args(["-O2", "-w"]).args(how).arg("-I").arg(library.join("include"));
        compiler.arg("-o").arg(dir.path().join("any-name")).args(["-x", "c", source, "-x", "none"]);
        compiler.args([library.join("libssl.a"), library.join("libcrypto.a")]).args(["-lpthread", "-ldl"]);
        let _ = text(&compiler.output().unwrap());
        set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let _ = rsa(dir.path());
        Self { dir, of: Library::installed() }
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("any-name")
    }

    fn target(&self) -> String {
        self.program().to_str().unwrap().to_owned()
    }

    fn command(&self) -> Command {
        let mut command = self.of.command(&self.program());
        command.arg(self.of.certificate()).arg(self.of.key()).arg(self.dir.path().join("rsa.pem"));
        command
    }

    fn strip(&self) {
        assert!(Command::new("strip").arg(self.program()).status().unwrap().success());
    }

    /// Every line of both ends.
    fn keys(&self, at_least: usize) {
        let keys = Keys::start("--program", &self.target());
        let said = text(&self.command().output().unwrap());
        let (seen, _) = keys.stop();
        of_both_ends(&said, &seen);
        for (label, lines) in LATEST {
            assert_eq!(count(&seen, label), lines, "{label}");
        }
        let suites = suites(&said);
        assert!(suites >= at_least, "{suites} suites");
        // Each suite, and the older versions of TLS, full and taken up again.
        assert_eq!(count(&seen, "CLIENT_RANDOM"), 2 * (suites + 2));
        println!("{} lines of {suites} older suites, TLS 1.0, 1.1 and 1.3", seen.len());
    }

    /// What is read and written, in sum.
    fn bytes(&self) {
        let modules = Modules::with(&["openssl"]);
        let args = ["tls", "--program", &self.target(), "--no-new-targets", "-o", "json", "--view", "raw"];
        let capture = Capture::start(&modules, &args);
        let said = text(&self.command().output().unwrap());
        let finished = capture.stop();
        finished.assert_whole();
        for (direction, name) in [("receive", "read"), ("transmit", "write")] {
            let of = finished.named("openssl.data").filter(|e| e["network.io.direction"] == direction);
            let sizes: Vec<u64> = of.map(|e| e["ecapture.payload.size"].as_u64().unwrap()).collect();
            let expected = format!("# {name} {} {}", sizes.len(), sizes.iter().sum::<u64>());
            assert!(sizes.len() > 100 && said.lines().any(|line| line == expected), "{expected}: {said:.300}");
        }
    }

    /// A connection that was up before.
    fn unseen(&self) {
        let before = Waiting::start(self.command().arg("before"));
        let (pid, keys) = (u64::from(before.pid()), Keys::start("--program", &self.target()));
        let said = before.go_on();
        let (seen, finished) = keys.stop_with_unseen(2);
        assert_eq!(unseen(&finished), [pid, pid]);
        of_both_ends(&said, &seen);
        assert_eq!(seen.len(), 2 + 3 * 5 + 1);
    }
}

fn all_of(library: &Kin, test: &str, at_least: usize) {
    skip_unless_possible!(test);
    let library = or_skip!(test, sources::kin(library));
    for how in [&["-pie"][..], &["-static", "-no-pie"]] {
        let built = BuiltIn::of(&library, how);
        built.keys(at_least);
        built.bytes();
        built.unseen();
        built.strip();
        built.keys(at_least);
    }
}

#[test]
#[ignore = "builds a library, some minutes: `cargo xtask soak`"]
fn aws_lc() {
    all_of(&sources::AWS_LC, "aws_lc", 20);
}

#[test]
#[ignore = "builds a library, some minutes: `cargo xtask soak`"]
fn boringssl() {
    all_of(&sources::BORINGSSL, "boringssl", 15);
}
