//! `ecapture module check` finds what is wrong with a module, by the right code, and nothing in a module that is right.
//! The defects are those of the fixture `evil` (tests/fixtures/evil), each asked for by an option, and files that are spoilt.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ecapture_tests::capture::{Capture, Modules, bin_dir};
use ecapture_tests::target::Program;
use ecapture_tests::variants::{Change, build};
use ecapture_tests::{needs, skip_if};
use serde_json::Value;
use tempfile::TempDir;

fn check(file: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("200").arg(bin_dir().join("ecapture")).args(["module", "check", "--json"]);
    command.arg(file).args(args).output().unwrap()
}

/// Exit code, codes of errors, and the whole report.
fn report(file: &Path, args: &[&str]) -> (Option<i32>, Vec<String>, Value) {
    let output = check(file, args);
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text:?} {}", String::from_utf8_lossy(&output.stderr)));
    let findings = report["findings"].as_array().unwrap().iter();
    let errors = findings.filter(|f| f["severity"] == "error").map(|f| f["code"].as_str().unwrap().to_owned());
    (output.status.code(), errors.collect(), report.clone())
}

fn built(name: &str) -> PathBuf {
    bin_dir().join(format!("libecap_{name}.so"))
}

/// A recording of the fixture that has the number 13 in it.
fn recording(dir: &TempDir) -> String {
    let file = dir.path().join("evil.ecaprec");
    let modules = Modules::with(&["evil"]);
    let target = Program::compile("evil-target.c", "evil-target");
    let args = ["evil", "--target", &target.text(), "-o", "none", "--record", file.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    target.run(&["50", "0"]);
    assert_eq!(capture.stop().code, Some(0));
    file.to_str().unwrap().to_owned()
}

#[test]
fn each_seeded_defect_is_found_by_its_code() {
    skip_if!("each_seeded_defect_is_found_by_its_code", needs::capture(), needs::program("/usr/bin/gcc", "gcc"));
    let dir = tempfile::tempdir().unwrap();
    let recording = recording(&dir);
    for (defect, code, level) in [
        ("configure:panic", "C-PANIC", "load"),
        ("configure:segv", "C-CRASH", "load"),
        ("configure:loop", "C-HANG", "load"),
        ("global", "E-PLAN", "behaviour"),
        ("beyond", "E-PLAN", "behaviour"),
        ("detect:panic", "C-PANIC", "behaviour"),
        ("detect:segv", "C-CRASH", "behaviour"),
        ("decode:panic", "C-PANIC", "behaviour"),
        ("decode:segv", "C-CRASH", "behaviour"),
        ("decode:loop", "C-HANG", "behaviour"),
        ("decode:memory", "C-CRASH", "behaviour"),
        ("decode:emit", "C-RUNAWAY", "behaviour"),
        ("column", "C-COLUMN", "behaviour"),
        ("column-kind", "C-COLUMN", "behaviour"),
        ("event", "C-EVENT", "behaviour"),
        ("random", "C-DETERMINISM", "behaviour"),
        ("finish:panic", "C-PANIC", "behaviour"),
    ] {
        let set = format!("behaviour={defect}");
        let (exit, errors, report) = report(&built("evil"), &["--recording", &recording, "--set", &set]);
        assert_eq!((exit, errors.as_slice()), (Some(3), &[code.to_owned()][..]), "{defect}: {report:#}");
        let finding = report["findings"].as_array().unwrap().iter().find(|f| f["code"] == code).unwrap();
        assert_eq!(finding["level"], level, "{defect}: {report:#}");
        assert!(!finding["what"].as_str().unwrap().is_empty() && !finding["fix"].as_str().unwrap().is_empty());
    }
}

#[test]
fn what_is_wrong_with_a_file_is_found_without_running_it() {
    skip_if!("what_is_wrong_with_a_file_is_found_without_running_it", needs::program("/usr/bin/gcc", "gcc"));
    let dir = tempfile::tempdir().unwrap();
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let place = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let good = std::fs::read(built("evil")).unwrap();
    let change = |from, to| [Change { file: "evil/module.toml", from, to }];
    let key = build(scratch, "key", &change("license =", "licence ="), &[]);
    let beyond = build(scratch, "beyond", &change("[\"uprobe\", \"tp_btf\"]", "[\"uprobe\"]"), &[]);
    let abort = build(scratch, "abort", &[], &["-C", "panic=abort"]);
    for (name, bytes, code) in [
        ("libecap_evil.so", &good[..good.len() / 2], "E-ELF"),
        ("libecap_evil.so", b"#!/bin/sh\n", "E-ELF"),
        ("libecap_good.so", &good, "E-NAME"),
        ("libecap_evil.so", &key, "E-MANIFEST"),
        ("libecap_evil.so", &beyond, "E-BPF"),
        ("libecap_evil.so", &abort, "E-PANIC"),
    ] {
        let (exit, errors, report) = report(&place(name, bytes), &["--level", "robust"]);
        assert_eq!((exit, errors.as_slice()), (Some(3), &[code.to_owned()][..]), "{report:#}");
        assert_eq!((&report["level"], &report["findings"][0]["level"]), (&"static".into(), &"static".into()));
    }
    let missing = report(Path::new("/nowhere/libecap_evil.so"), &[]);
    assert_eq!((missing.0, missing.1.as_slice()), (Some(3), &["E-ELF".to_owned()][..]));
}

#[test]
fn the_modules_of_this_tree_pass() {
    let golden = |module: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(module);
    // `cargo xtask soak` gives it ten minutes each.
    let time = std::env::var("ECAPTURE_CHECK_TIME").unwrap_or_else(|_| "20s".into());
    let modules = std::fs::read_dir(golden("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut checked = 0;
    for module in modules {
        let recordings = std::fs::read_dir(golden(&module)).unwrap().map(|e| e.unwrap().path());
        let mut args = vec!["--level".to_owned(), "robust".into(), "--time".into(), time.clone()];
        for recording in recordings.filter(|p| p.extension().is_some_and(|e| e == "ecaprec")) {
            args.extend(["--recording".into(), recording.to_str().unwrap().to_owned()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (exit, _, report) = report(&built(&module), &args);
        assert_eq!((exit, report["findings"].as_array().map(Vec::len)), (Some(0), Some(0)), "{report:#}");
        println!("{}", report["done"]);
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn without_root_and_live() {
    skip_if!("without_root_and_live", needs::capture(), needs::program("/usr/bin/gcc", "gcc"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (own, file) = (dir.path().join("ecapture"), dir.path().join("libecap_evil.so"));
    std::fs::copy(bin_dir().join("ecapture"), &own).unwrap();
    std::fs::copy(built("evil"), &file).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
        .arg(&own)
        .args(["module", "check", "--level", "robust", "--time", "2s"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("robust: ") && said.contains("level robust: 0 errors"), "{said}");

    let target = Program::compile("evil-target.c", "evil-target");
    let (exit, errors, report) = report(
        &file,
        &["--level", "live", "--time", "1s", "--target", &target.text(), "--set", &format!("target={}", target.text())],
    );
    assert_eq!((exit, errors.len()), (Some(0), 0), "{report:#}");
    assert_eq!(report["level"], "live");
    let set = ["--level", "live", "--time", "1s", "--target", &target.text(), "--set", "behaviour=middle"];
    let (exit, errors, report) = self::report(&file, &set);
    assert_eq!((exit, errors.first().map(String::as_str)), (Some(3), Some("E-PLAN")), "{report:#}");
}
