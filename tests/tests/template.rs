//! What somebody does who has never seen this repository: makes a module, builds it, has it checked, installs it, captures.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use ecapture_tests::capture::{Capture, Modules, bin_dir};
use ecapture_tests::{document, needs, skip_if};
use serde_json::Value;
use tempfile::TempDir;

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libsqlite3.so.0";
const PYTHON: &str = "/usr/bin/python3";
const SHELL: &str = "/usr/bin/sqlite3";

fn ecapture(args: &[&str]) -> Output {
    Command::new(bin_dir().join("ecapture")).args(args).output().unwrap()
}

/// cargo in the new workspace. Its target directory outlives the test, as an author's would.
fn cargo(workspace: &Path, args: &[&str]) -> Output {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace)
        .args(args)
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("template"))
        .env("ECAPTURE", bin_dir().join("ecapture"))
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap()
}

fn succeeded(output: &Output) -> String {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    said
}

/// A private copy of the library, and who uses it.
struct Sqlite {
    dir: TempDir,
}

impl Sqlite {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ecapture-sqlite-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::copy(LIBRARY, dir.path().join("libsqlite3.so.0")).unwrap();
        Self { dir }
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("libsqlite3.so.0")
    }

    /// Runs a program with that library, as nobody.
    fn run(&self, program: &str, args: &[&str], input: &str) -> String {
        let mut process = Command::new("/usr/bin/setpriv")
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", program])
            .args(args)
            .env("LD_LIBRARY_PATH", self.dir.path())
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }
}

/// 761 statements of Python, most with values; prints what is to be captured.
const SCRIPT: &str = r#"
import json, sqlite3
db = sqlite3.connect(":memory:", isolation_level=None)
said = []
def run(text, values=(), shown=None, outcome="done"):
    rows = 0
    try:
        rows = len(db.execute(text, values).fetchall())
    except sqlite3.Error:
        pass
    said.append([text, shown, outcome, rows])
run("create table t (a integer primary key, b, c) /* p */")
for n in range(500):
    text, blob = "it's n\u00fcmber %d " % n + "x" * (n * 20 % 3000), bytes([n % 256, 0, 255])
    run("insert into t values (?, ?, ?) /* p %d */" % n, (n - 250, text, blob),
        "%d, '%s', x'%s'" % (n - 250, text.replace("'", "''"), blob.hex()))
for n in range(100):
    run("select * from t where a between ? and ? /* p %d */" % n, (n, n + 5), "%d, %d" % (n, n + 5))
for n in range(90):
    run("select ?1, ?2, ?1 /* p %d */" % n, (None, -2**63 + n), "NULL, %d" % (-2**63 + n))
for n in range(9):
    run("insert into t values (?, 1, 2) /* p %d */" % n, (n,), str(n), "SQLITE_CONSTRAINT")
# Around the lengths from which a text takes more ring space.
for n in [*range(370, 400), *range(4466, 4496), 30000]:
    run("select 1 /* p%s */" % ("x" * (n - 16)))
print(json.dumps(said))
"#;

#[test]
fn a_stranger_makes_a_module_and_captures_with_it() {
    let name = "a_stranger_makes_a_module_and_captures_with_it";
    skip_if!(
        name,
        needs::capture(),
        needs::program(LIBRARY, "libsqlite3-0"),
        needs::program(PYTHON, "python3"),
        needs::program(SHELL, "sqlite3")
    );
    let dir = tempfile::tempdir().unwrap();
    let workspace = dir.path().join("mine");
    let said = succeeded(&ecapture(&["module", "new", "sqlite", "--dir", workspace.to_str().unwrap()]));
    assert!(said.contains("cargo build --release"), "{said}");
    let begin = Instant::now();
    succeeded(&cargo(&workspace, &["build", "--release", "--quiet"]));
    println!("built in {:.0} s", begin.elapsed().as_secs_f64());
    // Its own tests, with the conformance check and the recorded session.
    let said = succeeded(&cargo(&workspace, &["test", "--release", "--quiet"]));
    assert!(!said.contains("SKIPPED"), "{said}");
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("template/release/libecap_sqlite.so");
    let recording = workspace.join("tests/session.ecaprec");
    let recording = ["--recording", recording.to_str().unwrap()];
    let check = ["module", "check", built.to_str().unwrap(), "--level", "robust", "--time", "5s"];
    let said = succeeded(&ecapture(&[&check[..], &recording].concat()));
    assert!(said.contains("level robust: 0 errors, 0 warnings"), "{said}");

    let modules = Modules::empty();
    std::fs::copy(&built, modules.path().join("libecap_sqlite.so")).unwrap();
    let listed = String::from_utf8(modules.run(&["--list-modules"]).stdout).unwrap();
    assert!(listed.contains("sqlite  0.1.0    1.0  libsqlite3.so.*"), "{listed}");
    captures(&modules);
}

/// 1,061 statements of two programs, exactly.
fn captures(modules: &Modules) {
    let sqlite = Sqlite::new();
    let library = sqlite.library();
    let capture = Capture::start(modules, &["sqlite", "--library", library.to_str().unwrap(), "-o", "json"]);
    let said = sqlite.run(PYTHON, &["-"], SCRIPT);
    let mut expected: Vec<Value> = serde_json::from_str(&said).unwrap();
    let mut script = String::from("create table s (a, b) /* s */;\n");
    expected.push(serde_json::json!(["create table s (a, b) /* s */;", null, "done", 0]));
    for n in 0..299 {
        let (text, rows) = match n % 3 {
            0 => (format!("insert into s values ({n}, 'line\n{n}') /* s */;"), 0),
            1 => (format!("select count(*) from s /* s {n} */;"), 1),
            _ => (format!("update s set b = {n} where a < 0 /* s */;"), 0),
        };
        script += &(text.clone() + "\n");
        expected.push(serde_json::json!([text, null, "done", rows]));
    }
    sqlite.run(SHELL, &[":memory:"], &script);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let totals = &finished.end()["ecapture.session.modules"][0];
    for key in ["lost", "partial", "faults", "undecodable", "truncated_bytes", "unaccounted"] {
        assert_eq!(totals[key], 0, "{totals}");
    }
    let shown = |event: &Value| {
        let column = |name: &str| event.get(name).cloned().unwrap_or(Value::Null);
        let names = ["db.query.text", "db.query.parameters", "ecapture.outcome", "db.response.returned_rows"];
        Value::Array(names.map(column).to_vec())
    };
    // Both in order: each program has one connection.
    let marked = |event: &&Value| ["/* p", "/* s"].iter().any(|m| event["db.query.text"].to_string().contains(m));
    let captured: Vec<Value> = finished.named("sqlite.statement").filter(marked).map(shown).collect();
    assert_eq!(expected.len(), 1_061);
    for (number, (captured, expected)) in captured.iter().zip(&expected).enumerate() {
        assert_eq!(captured, expected, "statement {number}");
    }
    assert_eq!(captured.len(), expected.len());
}

#[test]
fn what_cannot_be_a_module_or_a_place_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("there");
    std::fs::create_dir(&there).unwrap();
    std::fs::write(there.join("mine"), "mine").unwrap();
    let there = there.to_str().unwrap();
    for (args, code, exit, words) in [
        (&["../up"][..], "E-USAGE", 2, "lower-case letters"),
        (&["a b"], "E-USAGE", 2, "lower-case letters"),
        (&["\u{1b}[31m"], "E-USAGE", 2, "lower-case letters"),
        (&["run"], "E-USAGE", 2, "reserved for the host"),
        (&["mine", "--dir", there], "E-OUTPUT", 1, "is not empty"),
        (&["mine", "--dir", "/proc/mine"], "E-OUTPUT", 1, "cannot write"),
        (&["mine", "--dir", "/dev/null"], "E-OUTPUT", 1, "cannot write"),
    ] {
        let output = ecapture(&[&["module", "new"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {said}");
        assert!(said.contains(code) && said.contains(words) && !said.contains('\u{1b}'), "{args:?}: {said}");
    }
    assert_eq!(std::fs::read_dir(there).unwrap().count(), 1);
}

#[test]
fn without_clang_the_build_names_the_packages() {
    let dir = tempfile::tempdir().unwrap();
    let workspace = dir.path().join("mine");
    succeeded(&ecapture(&["module", "new", "mine", "--dir", workspace.to_str().unwrap()]));
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&workspace)
        .args(["build", "--release"])
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("template"))
        .env("CLANG", "/nowhere/clang")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("apt install") && said.contains("clang"), "{said}");
}

#[test]
fn without_a_linker_the_build_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let workspace = dir.path().join("mine");
    succeeded(&ecapture(&["module", "new", "mine", "--dir", workspace.to_str().unwrap()]));
    // The compiler's own programs and nothing else.
    let rustc = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let programs = Path::new(String::from_utf8(rustc.stdout).unwrap().trim()).join("bin");
    let output = Command::new(programs.join("cargo"))
        .current_dir(&workspace)
        .args(["build", "--release"])
        .env("CARGO_TARGET_DIR", dir.path().join("target"))
        .env("PATH", &programs)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("linker `cc` not found"), "{said}");
}

#[test]
fn without_a_network_cargo_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let workspace = dir.path().join("mine");
    succeeded(&ecapture(&["module", "new", "mine", "--dir", workspace.to_str().unwrap()]));
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&workspace)
        .args(["build", "--release", "--offline"])
        .env("CARGO_HOME", dir.path().join("nothing-fetched"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--offline"), "{said}");
    let readme = std::fs::read_to_string(workspace.join("README.md")).unwrap();
    assert!(readme.contains("Without a network, `cargo vendor`"), "{readme}");
}

/// The commands of docs/writing-a-module.md, in their order, as an author types them.
#[test]
fn the_document_is_what_an_author_types() {
    let name = "the_document_is_what_an_author_types";
    skip_if!(name, needs::capture(), needs::program(LIBRARY, "libsqlite3-0"), needs::program(PYTHON, "python3"));
    let sqlite = Sqlite::new();
    let installed = Modules::empty();
    // What cargo has built outlives the test, as an author's does; everything else is new.
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("template-document");
    let (workspace, built) = (dir.join("mine"), dir.join("built"));
    std::fs::create_dir_all(&dir).unwrap();
    let _ = std::fs::rename(workspace.join("target"), &built);
    let _ = std::fs::remove_dir_all(&workspace);
    let commands = document::commands("docs/writing-a-module.md");
    assert_eq!(commands.len(), 10, "{commands:?}");
    let mut place = dir;
    for command in &commands {
        if let Some(to) = command.strip_prefix("cd ") {
            place.push(to);
            assert_eq!(place, workspace);
            let _ = std::fs::rename(&built, place.join("target"));
            continue;
        }
        let here = command
            .replace(LIBRARY, sqlite.library().to_str().unwrap())
            .replace("/usr/lib/ecapture/modules", installed.path().to_str().unwrap())
            .replace("10s", "3s");
        let listed = format!("ecapture --modules-dir {} --allow-untrusted --list-modules", installed.path().display());
        let here = here.replace("ecapture --list-modules", &listed);
        let path = format!("{}:{}", bin_dir().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", &here]).current_dir(&place).env("PATH", path).env("ECAPTURE", bin_dir().join("ecapture"));
        shell.env_remove("CARGO_TARGET_DIR");
        let process = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if command.contains("--duration") {
            std::thread::sleep(std::time::Duration::from_millis(1500));
            sqlite.run(PYTHON, &["-"], "import sqlite3; sqlite3.connect(':memory:').execute('select 42 as said')");
        }
        let said = succeeded(&process.wait_with_output().unwrap());
        match command.as_str() {
            c if c.contains("module check") => assert!(said.contains("0 errors, 0 warnings"), "{said}"),
            c if c.contains("module plan") => assert!(said.contains("sqlite3_step"), "{said}"),
            c if c.contains("--duration") || c.contains("replay") => {
                assert!(said.contains("select 42 as said"), "{said}")
            }
            c if c.contains("--list-modules") => assert!(said.contains("mine") && said.contains(" ok "), "{said}"),
            _ => {}
        }
    }
}
