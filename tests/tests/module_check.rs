//! `ecapture module check` finds what is wrong with a module, by the right code, and nothing in a module that is right.
//! The defects are listed in tests/fixtures/defects/README.md.

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
    command.arg("900").arg(bin_dir().join("ecapture")).args(["module", "check", "--json"]);
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
    let listed = std::fs::read_to_string(fixtures().join("defects/README.md")).unwrap();
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
        ("role", "C-EVENT", "behaviour"),
        ("extreme", "C-CRASH", "behaviour"),
        ("short", "C-PANIC", "robust"),
        ("leak", "C-CRASH", "robust"),
    ] {
        assert!(listed.contains(&format!("| `{defect}` | `{code}` | {level} |")), "{defect} is not in the list");
        let set = format!("behaviour={defect}");
        let deep: &[&str] = if level == "robust" { &["--level", "robust", "--time", "20s"] } else { &[] };
        let args = [&["--recording", &recording, "--set", &set], deep].concat();
        let (exit, errors, report) = report(&built("evil"), &args);
        assert_eq!((exit, errors.as_slice()), (Some(3), &[code.to_owned()][..]), "{defect}: {report:#}");
        let finding = report["findings"].as_array().unwrap().iter().find(|f| f["code"] == code).unwrap();
        assert_eq!(finding["level"], level, "{defect}: {report:#}");
        assert!(!finding["what"].as_str().unwrap().is_empty() && !finding["fix"].as_str().unwrap().is_empty());
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Text replaced by text of the same length: everywhere, or once behind `behind`.
fn patched(mut bytes: Vec<u8>, behind: &str, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let find = |bytes: &[u8], text: &str| bytes.windows(text.len()).position(|w| w == text.as_bytes());
    let mut at = match behind {
        "" => 0,
        _ => find(&bytes, behind).unwrap_or_else(|| panic!("no {behind:?}")),
    };
    let mut changed = 0;
    while let Some(next) = find(&bytes[at..], from) {
        at += next;
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        changed += 1;
        if !behind.is_empty() {
            break;
        }
    }
    assert!(changed > 0, "no {from:?}");
    bytes
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
    let everywhere = |from, to| patched(good.clone(), "", from, to);
    let licence = everywhere("license = ", "licence = ");
    let identity = everywhere("ecapture.number", "process.user.id");
    let kind = everywhere("[\"uprobe\", \"tp_btf\"]", "[\"uprobe\"          ]");
    // Only the note: its code says what it said before.
    let forged = patched(good.clone(), "ecapture\0\0\0\0schema = 1", "misbehaves on", "is good, and ");
    let call = |text| [Change { file: "evil/bpf/evil.bpf.c", from: "\tif (!ecap_wanted())", to: text }];
    let helper = build(scratch, "helper", &call("\t((long (*)(void))42)();\n\tif (!ecap_wanted())"), &[]);
    let forbidden = build(scratch, "forbidden", &call("\t((long (*)(__u32))109)(9);\n\tif (!ecap_wanted())"), &[]);
    let abort = build(scratch, "abort", &[], &["-C", "panic=abort"]);
    let listed = std::fs::read_to_string(fixtures().join("defects/README.md")).unwrap();
    for (defect, name, bytes, code, level, word) in [
        ("cut", "libecap_evil.so", &good[..good.len() / 2], "E-ELF", "static", "cut short"),
        ("script", "libecap_evil.so", b"#!/bin/sh\n", "E-ELF", "static", "10 bytes"),
        ("name", "libecap_good.so", &good, "E-NAME", "static", "libecap_good.so"),
        ("licence", "libecap_evil.so", &licence, "E-MANIFEST", "static", "license"),
        ("identity", "libecap_evil.so", &identity, "E-MANIFEST", "static", "process.user.id"),
        ("kind", "libecap_evil.so", &kind, "E-BPF", "static", "tp_btf"),
        ("helper", "libecap_evil.so", &helper, "E-BPF", "static", "get_numa_node_id"),
        ("forbidden", "libecap_evil.so", &forbidden, "E-BPF", "static", "send_signal"),
        ("abort", "libecap_evil.so", &abort, "E-PANIC", "static", "abort"),
        ("forged", "libecap_evil.so", &forged, "E-FORGED", "load", "manifest"),
    ] {
        assert!(listed.contains(&format!("| `{defect}` | `{code}` | {level} |")), "{defect} is not in the list");
        let (exit, errors, report) = report(&place(name, bytes), &["--level", "robust"]);
        assert_eq!((exit, errors.as_slice()), (Some(3), &[code.to_owned()][..]), "{defect}: {report:#}");
        let finding = report["findings"].as_array().unwrap().iter().find(|f| f["code"] == code).unwrap();
        assert_eq!((&report["level"], &finding["level"]), (&level.into(), &level.into()), "{defect}");
        assert!(finding["what"].as_str().unwrap().contains(word), "{defect}: {finding}");
    }
    let missing = report(Path::new("/nowhere/libecap_evil.so"), &[]);
    assert_eq!((missing.0, missing.1.as_slice()), (Some(3), &["E-ELF".to_owned()][..]));
}

#[test]
fn the_modules_of_this_tree_pass() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    // `cargo xtask soak` gives it ten minutes each.
    let time = std::env::var("ECAPTURE_CHECK_TIME").unwrap_or_else(|_| "20s".into());
    let modules = std::fs::read_dir(top.join("../plugins")).unwrap();
    let mut checked = 0;
    for module in modules.map(|e| e.unwrap().file_name().into_string().unwrap()) {
        let mut args = vec!["--level".to_owned(), "robust".into(), "--time".into(), time.clone()];
        let golden = std::fs::read_dir(top.join("golden").join(&module)).into_iter().flatten();
        for recording in golden.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "ecaprec")) {
            args.extend(["--recording".into(), recording.to_str().unwrap().to_owned()]);
        }
        let recorded = args.len() > 4;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (exit, _, report) = report(&built(&module), &args);
        let findings = report["findings"].as_array().unwrap();
        // A call of 16 MiB is to be whole, so that much may have to be joined.
        let known = |f: &Value| !recorded && f["code"] == "C-UNTRIED" || module == "openssl" && f["code"] == "C-MEMORY";
        assert!(findings.iter().all(known), "{module}: {report:#}");
        assert_eq!((exit, &report["level"]), (Some(0), &"robust".into()), "{module}: {report:#}");
        println!("{module}: {}", report["done"]);
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
    assert_eq!(report["findings"].as_array().unwrap().iter().filter(|f| f["code"] == "C-SILENT").count(), 1);
    // While it speaks.
    let mut talking = Command::new(target.path()).args(["1000000", "1000"]).spawn().unwrap();
    let pid = talking.id().to_string();
    let (exit, errors, report) = self::report(&file, &["--level", "live", "--time", "1s", "--pid", &pid]);
    talking.kill().unwrap();
    talking.wait().unwrap();
    assert_eq!((exit, errors.len()), (Some(0), 0), "{report:#}");
    let done = report["done"].to_string();
    let events =
        done.split(" s: ").nth(1).and_then(|rest| rest.split(" events").next()).unwrap_or_else(|| panic!("{done}"));
    assert!(events.parse::<u32>().unwrap() > 100 && done.contains(" 0 lost"), "{done}");
    let set = ["--level", "live", "--time", "1s", "--target", &target.text(), "--set", "behaviour=middle"];
    let (exit, errors, report) = self::report(&file, &set);
    assert_eq!((exit, errors.first().map(String::as_str)), (Some(3), Some("E-PLAN")), "{report:#}");
}
