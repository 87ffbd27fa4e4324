//! TLS libraries inside programs, without names: what is found by the reports of errors in their code is what the program calls,
//! counted call by call and byte by byte; and such programs are found whatever they are called. The keys of their connections.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::keys;
use ecapture_tests::suites::Suite;
use ecapture_tests::tls::{self, Library, NOBODY};
use ecapture_tests::{needs, or_skip, skip_if};
use serde_json::Value;
use tempfile::TempDir;

const COMPILER: &str = "/usr/bin/gcc";
const SYSTEM: &str = "/usr";
const LIBRARIES: &str = "lib/x86_64-linux-gnu";

/// A program of `fixtures/targets` with a TLS library inside, and without a name in it.
struct BuiltIn {
    dir: TempDir,
    program: PathBuf,
}

impl BuiltIn {
    /// `tls-talk.c` with the library below this root (`/usr`); `how` it is linked.
    fn of(root: &Path, how: &[&str]) -> Result<Self, String> {
        Self::compile("tls-talk.c", root, how)
    }

    fn compile(source: &str, root: &Path, how: &[&str]) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("ecapture-built-in-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = dir.path().join("any-name");
        let sources = [source, "newer-libc.c"];
        let sources = sources.map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/targets").join(name));
        let archives = ["libssl.a", "libcrypto.a"].map(|name| root.join(LIBRARIES).join(name));
        let include = ["include", "include/x86_64-linux-gnu"].map(|dir| root.join(dir));
        let output = Command::new(COMPILER)
            .args(["-O2", "-w"])
            .args(how)
            .arg("-I")
            .arg(&include[0])
            .arg("-I")
            .arg(&include[1])
            .arg("-o")
            .arg(&program)
            .args(sources)
            .args(&archives)
            // Compression is not used, so what it takes need not be there.
            .args(["-lpthread", "-ldl", "-Wl,--unresolved-symbols=ignore-all"])
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        assert!(Command::new("strip").arg(&program).status().unwrap().success());
        Ok(Self { dir, program })
    }

    fn text(&self) -> &str {
        self.program.to_str().unwrap()
    }

    fn talk(&self, rounds: u32) -> BTreeMap<String, (u64, u64)> {
        said(&Command::new(&self.program).arg(rounds.to_string()).uid(NOBODY).gid(NOBODY).output().unwrap())
    }
}

/// Calls and bytes of each operation, as the program counted them.
fn said(output: &Output) -> BTreeMap<String, (u64, u64)> {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let counts = words.filter_map(|words| match words[..] {
        [name @ ("read" | "peek" | "write"), calls, bytes] => {
            Some((name.to_owned(), (calls.parse().unwrap(), bytes.parse().unwrap())))
        }
        _ => None,
    });
    counts.collect()
}

/// The same, as it was captured.
fn seen<'e>(events: impl Iterator<Item = &'e Value>) -> BTreeMap<String, (u64, u64)> {
    let mut seen: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for event in events {
        let name = match (event["event.name"].as_str(), event["network.io.direction"].as_str()) {
            (Some("openssl.peek"), _) => "peek",
            (Some("openssl.data"), Some("receive")) => "read",
            (Some("openssl.data"), Some("transmit")) => "write",
            _ => continue,
        };
        let (calls, bytes) = seen.entry(name.to_owned()).or_default();
        *calls += 1;
        *bytes += event["ecapture.payload.size"].as_u64().unwrap();
    }
    seen
}

/// What was moved is told, one direction as the other.
fn streams_agree(finished: &Finished) {
    let streams = tls::streams(&finished.events);
    let mut all: Vec<&Vec<u8>> = streams.values().collect();
    all.sort();
    let [a, b, c, d] = all.as_slice() else { panic!("{} streams", all.len()) };
    assert!(a == b && c == d, "what one end wrote is what the other one read");
}

/// All of it, in a program that is named on the command line.
fn every_call(built: &BuiltIn, wanted: &[&str]) {
    let modules = Modules::with(&["openssl"]);
    let plan = modules.run(&["module", "plan", "tls", "--target", built.text()]);
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.contains("its functions have no names; found by"), "{plan}");
    for name in wanted {
        assert!(plan.contains(&format!("{name} at 0x")), "{name}: {plan}");
    }
    let capture = Capture::start(
        &modules,
        &["tls", "--program", built.text(), "--no-new-targets", "-o", "json", "--view", "raw"],
    );
    let said = built.talk(200);
    let finished = capture.stop();
    finished.assert_whole();
    assert_eq!(finished.end()["ecapture.session.modules"][0]["orphans"], 0, "{}", finished.end());
    assert_eq!(seen(finished.events.iter()), said);
    streams_agree(&finished);
}

macro_rules! skip_unless_possible {
    ($test:expr) => {
        skip_if!(
            $test,
            needs::capture(),
            needs::program(COMPILER, "gcc"),
            needs::program("/usr/lib/x86_64-linux-gnu/libssl.a", "libssl-dev")
        )
    };
}

const INTERNALS: [&str; 3] = ["ssl_read_internal", "ssl_peek_internal", "ssl_write_internal"];

#[test]
fn in_a_program_without_names() {
    skip_unless_possible!("in_a_program_without_names");
    every_call(&BuiltIn::of(Path::new(SYSTEM), &[]).unwrap(), &INTERNALS);
}

#[test]
fn in_a_static_program_of_a_fixed_address() {
    skip_unless_possible!("in_a_static_program_of_a_fixed_address");
    // No index of the unwind information, and addresses in the code as they are.
    let built = BuiltIn::of(Path::new(SYSTEM), &["-static", "-no-pie"]).unwrap();
    every_call(&built, &INTERNALS);
}

fn of_suite(test: &str, suite: Suite, how: &[&str], wanted: &[&str]) {
    skip_unless_possible!(test);
    let root = match suite.root(&["libssl-dev"]) {
        Ok(root) => root,
        Err(why) => return println!("SKIPPED {test}: {why}"),
    };
    match BuiltIn::of(&root.path().join("usr"), how) {
        Ok(built) => every_call(&built, wanted),
        Err(why) => panic!("{why}"),
    }
}

#[test]
fn openssl_1_1_in_a_program_without_names() {
    of_suite("openssl_1_1_in_a_program_without_names", Suite::Bullseye, &[], &INTERNALS);
}

#[test]
fn openssl_3_5_in_a_program_without_names() {
    of_suite("openssl_3_5_in_a_program_without_names", Suite::Trixie, &["-static"], &INTERNALS);
}

#[test]
fn the_newest_openssl_in_a_program_without_names() {
    of_suite("the_newest_openssl_in_a_program_without_names", Suite::Sid, &["-static"], &INTERNALS);
}

/// The keys of all that such a program can do, line by line.
fn every_key(root: &Path, how: &[&str]) {
    let built = BuiltIn::compile("tls-keys.c", root, &[how, &["-DBUILT_IN"]].concat()).unwrap();
    let of = Library::installed();
    keys::every_suite("--program", built.text(), |rsa| {
        let mut command = Command::new(&built.program);
        command.arg("-").arg(of.certificate()).arg(of.key()).arg(rsa).uid(NOBODY).gid(NOBODY).output().unwrap()
    });
}

#[test]
fn keys_of_a_program_without_names() {
    skip_unless_possible!("keys_of_a_program_without_names");
    every_key(Path::new(SYSTEM), &[]);
}

#[test]
fn keys_of_a_static_program_of_a_fixed_address() {
    skip_unless_possible!("keys_of_a_static_program_of_a_fixed_address");
    every_key(Path::new(SYSTEM), &["-static", "-no-pie"]);
}

#[test]
fn keys_of_a_static_program_of_any_address() {
    skip_unless_possible!("keys_of_a_static_program_of_any_address");
    every_key(Path::new(SYSTEM), &["-static-pie"]);
}

fn every_key_of_suite(test: &str, suite: Suite) {
    skip_unless_possible!(test);
    let root = or_skip!(test, suite.root(&["libssl-dev"]));
    for how in [&["-static", "-no-pie"][..], &["-static-pie"]] {
        every_key(&root.path().join("usr"), how);
    }
}

#[test]
fn keys_of_static_programs_with_openssl_1_1() {
    every_key_of_suite("keys_of_static_programs_with_openssl_1_1", Suite::Bullseye);
}

#[test]
fn keys_of_static_programs_with_openssl_3_5() {
    every_key_of_suite("keys_of_static_programs_with_openssl_3_5", Suite::Trixie);
}

#[test]
fn keys_of_static_programs_with_the_newest_openssl() {
    every_key_of_suite("keys_of_static_programs_with_the_newest_openssl", Suite::Sid);
}

#[test]
fn a_program_of_any_name_is_found_by_what_is_in_it() {
    skip_unless_possible!("a_program_of_any_name_is_found_by_what_is_in_it");
    let built = BuiltIn::of(Path::new(SYSTEM), &[]).unwrap();
    let modules = Modules::with(&["openssl"]);
    // It becomes the program when it is told to.
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("read go; {} 5; read go; exec {} 200", built.text(), built.text()));
    let mut shell = shell.uid(NOBODY).gid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let pid = shell.id().to_string();
    let mut capture = Capture::start(&modules, &["tls", "--pid", &pid, "-o", "json", "--view", "raw"]);
    let mut told = shell.stdin.take().unwrap();
    told.write_all(b"\n").unwrap();
    capture.wait_for_word(built.text(), 1, Duration::from_secs(10));
    told.write_all(b"\n").unwrap();
    let said = said(&shell.wait_with_output().unwrap());
    let finished = capture.stop();
    // Of the first five rounds nothing or all may be there, they were over soon; what runs the file later is there from its first
    // call on.
    let of_it = |e: &&Value| e["process.pid"].as_u64() == pid.parse().ok();
    let later: Vec<&Value> = finished.events.iter().filter(of_it).collect();
    assert_eq!(seen(later.iter().copied()), said, "{}", finished.said);
    let path = built.dir.path().join("any-name");
    assert!(later.iter().all(|e| e["process.executable.path"] == path.to_str().unwrap()));
}

#[test]
fn a_process_of_any_name_is_explained_and_captured() {
    skip_unless_possible!("a_process_of_any_name_is_explained_and_captured");
    let built = BuiltIn::of(Path::new(SYSTEM), &[]).unwrap();
    let modules = Modules::with(&["openssl"]);
    let mut running =
        Command::new(&built.program).arg("20000").uid(NOBODY).gid(NOBODY).stdout(Stdio::null()).spawn().unwrap();
    let pid = running.id().to_string();
    let explained = modules.run(&["tls", "--explain", &pid]);
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.status.success() && text.contains(built.text()), "{text}");
    let capture = Capture::start(
        &modules,
        &["tls", "--pid", &pid, "--no-new-targets", "-o", "json", "--view", "raw", "--count", "50"],
    );
    let finished = capture.wait();
    assert_eq!(finished.events.iter().filter(|e| e["ecapture.module"] == "openssl").count(), 50);
    running.kill().unwrap();
    running.wait().unwrap();
}
