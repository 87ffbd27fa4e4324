//! Functions that are known by their wrappers only: found in OpenSSL 1.1.1 to 3.6, and by traffic shown to see every call that
//! got as far as the data, those that go past the wrappers too, with the moved length where the host says that it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::suites::Suite;
use ecapture_tests::{needs, skip_if};
use serde_json::Value;
use tempfile::TempDir;

const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";
const COMPILER: &str = "/usr/bin/gcc";
const HEADER: &str = "/usr/include/openssl/ssl.h";
const NOBODY: u32 = 65534;
/// Number of the operation, what the target calls it, its wrapper.
const OPERATIONS: [(u64, &str, &str); 3] =
    [(0, "read", "SSL_read"), (1, "peek", "SSL_peek"), (2, "write", "SSL_write")];

/// A program that talks TLS, with libraries of its own that nobody else has mapped.
struct Talk {
    dir: TempDir,
    libssl: PathBuf,
    /// The loader that fits the libraries, if they are not this system's.
    loader: Option<PathBuf>,
}

impl Talk {
    /// With copies of these libraries; of all of a suite, with its own libc, if `whole`.
    fn with(libraries: &Path, soname: &str, whole: bool) -> Talk {
        let dir = tempfile::Builder::new().prefix("ecapture-talk-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for entry in fs::read_dir(libraries).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let wanted = name == soname || (libraries != Path::new(LIBRARIES) && name.starts_with("libcrypto.so"));
            let file = fs::metadata(entry.path()).is_ok_and(|found| found.is_file());
            if file && (wanted || (whole && name.contains(".so"))) {
                fs::copy(entry.path(), dir.path().join(&name)).unwrap();
            }
        }
        let libssl = dir.path().join(soname);
        let talk = Talk { libssl, loader: whole.then(|| dir.path().join(LOADER)), dir };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/targets/tls-talk.c");
        let mut compiler = Command::new(COMPILER);
        compiler.args(["-O1", "-Wall", "-o"]).arg(talk.program()).arg(source);
        if soname == "libssl.so.1.1" {
            compiler.arg(&talk.libssl).arg(talk.dir.path().join("libcrypto.so.1.1"));
        } else {
            compiler.args(["-lssl", "-lcrypto"]);
        }
        assert!(compiler.status().unwrap().success());
        talk
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("tls-talk")
    }

    /// Talks, and gives the calls and bytes of each operation, and the library's own word on its version.
    fn talk(&self, rounds: u32) -> (BTreeMap<String, (u64, u64)>, String) {
        let mut command = match &self.loader {
            Some(loader) => {
                let mut command = Command::new(loader);
                command.arg("--library-path").arg(self.dir.path()).arg(self.program());
                command
            }
            None => {
                let mut command = Command::new(self.program());
                command.env("LD_LIBRARY_PATH", self.dir.path());
                command
            }
        };
        let output = command.arg(rounds.to_string()).uid(NOBODY).gid(NOBODY).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let words = said.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let counts = words.filter_map(|words| match words[..] {
            [name, calls, bytes] if name != "OpenSSL" => {
                Some((name.to_owned(), (calls.parse().unwrap(), bytes.parse().unwrap())))
            }
            _ => None,
        });
        (counts.collect(), said.lines().last().unwrap_or_default().to_owned())
    }
}

fn number(event: &Value, column: &str) -> u64 {
    event[column].as_u64().unwrap_or_else(|| panic!("no {column} in {event}"))
}

/// `write`: position of the length among the arguments of what is behind `SSL_write`.
fn every_call_is_seen(talk: &Talk, write: u64) {
    let modules = Modules::with(&["wrapped"]);
    let libssl = talk.libssl.to_str().unwrap();
    let position = |operation: u64| if operation == 2 { write } else { 3 };

    let plan = modules.run(&["module", "plan", "wrapped", "--target", libssl]);
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
    for (operation, _, wrapper) in OPERATIONS {
        let line = text.lines().filter(|line| line.contains(&format!("behind {wrapper} and {wrapper}_ex")));
        let wanted = format!("; argument 3 of {wrapper}_ex is its argument {}", position(operation));
        assert!(line.clone().all(|line| line.ends_with(&wanted)), "{text}");
        assert_eq!(line.count(), 2, "entry and return: {text}");
    }

    let capture = Capture::start(&modules, &["wrapped", "--libssl", libssl, "--no-new-targets", "-o", "json"]);
    let (counts, version) = talk.talk(200);
    let finished = capture.stop();
    finished.assert_whole();
    assert_eq!(finished.end()["ecapture.session.modules"][0]["orphans"], 0, "{}", finished.end());
    for (operation, name, _) in OPERATIONS {
        let events = || finished.named("wrapped.moved").filter(|e| number(e, "ecapture.operation") == operation);
        assert!(events().all(|e| number(e, "ecapture.position") == position(operation)), "{name} of {version}");
        assert!(events().all(|e| number(e, "ecapture.result") == 1), "{name} of {version}");
        assert!(events().all(|e| number(e, "ecapture.done") <= number(e, "ecapture.asked")), "{name} of {version}");
        let seen = (events().count() as u64, events().map(|e| number(e, "ecapture.done")).sum::<u64>());
        assert_eq!(Some(&seen), counts.get(name), "calls and bytes of {name} of {version}");
        println!("{version}: {name}: {} calls, {} bytes, position {}", seen.0, seen.1, position(operation));
    }
}

#[test]
fn what_is_behind_the_wrappers_of_this_system() {
    skip_if!(
        "what_is_behind_the_wrappers_of_this_system",
        needs::capture(),
        needs::program(COMPILER, "gcc"),
        needs::program(HEADER, "libssl-dev"),
        needs::program(&format!("{LIBRARIES}/libssl.so.3"), "libssl3")
    );
    let bytes = fs::read(Path::new(LIBRARIES).join("libssl.so.3")).unwrap();
    let flags = bytes.windows(14).any(|name| name == b"\0SSL_write_ex2");
    let talk = Talk::with(Path::new(LIBRARIES), "libssl.so.3", false);
    every_call_is_seen(&talk, if flags { 4 } else { 3 });
}

/// With the library's own word on where it comes from, in a suite that has another version than this system.
fn of_suite(test: &str, suite: Suite, package: &str, soname: &str, whole: bool, write: u64) {
    skip_if!(test, needs::capture(), needs::program(COMPILER, "gcc"), needs::program(HEADER, "libssl-dev"));
    match suite.root(&[package]) {
        Ok(root) => every_call_is_seen(&Talk::with(&root.path().join(&LIBRARIES[1..]), soname, whole), write),
        Err(why) => println!("SKIPPED {test}: {why}"),
    }
}

#[test]
fn what_is_behind_the_wrappers_of_openssl_1_1() {
    let test = "what_is_behind_the_wrappers_of_openssl_1_1";
    of_suite(test, Suite::Bullseye, "libssl1.1", "libssl.so.1.1", false, 3);
}

#[test]
fn what_is_behind_the_wrappers_of_openssl_3_5() {
    let test = "what_is_behind_the_wrappers_of_openssl_3_5";
    of_suite(test, Suite::Trixie, "libssl3t64", "libssl.so.3", true, 4);
}

#[test]
fn what_is_behind_the_wrappers_of_the_newest_openssl() {
    let test = "what_is_behind_the_wrappers_of_the_newest_openssl";
    of_suite(test, Suite::Sid, "libssl3t64", "libssl.so.3", true, 4);
}
