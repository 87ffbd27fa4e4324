//! Plans of a module that neither its manifest nor its objects cover, and code that must not run where none may.

use std::path::Path;

use ecapture_tests::capture::Modules;
use ecapture_tests::target::Program;
use ecapture_tests::{needs, skip_if};

const COMPILER: &str = "/usr/bin/gcc";
/// What the fixture's constructor tries to write.
const MARK: &str = "/tmp/ecapture-fixture-evil-was-here";

#[test]
fn plans_that_nothing_covers() {
    skip_if!("plans_that_nothing_covers", needs::capture(), needs::program(COMPILER, "gcc"));
    let (modules, target) = (Modules::with(&["evil"]), Program::compile("evil-target.c", "evil-target"));
    let cases: [(&str, i32, &[&str]); 11] = [
        ("object-program", 3, &["E-PLAN", "\"nothing\""]),
        ("unknown-global", 3, &["E-PLAN", "\"nothing\""]),
        ("service", 3, &["E-PLAN", "mind-reading"]),
        ("beyond", 3, &["E-PLAN", "sched_process_exit", "permissions do not list"]),
        ("kind", 3, &["E-PLAN", "tp_btf"]),
        ("outside-function", 3, &["E-PLAN", "no proven place for evil_said"]),
        ("outside-file", 3, &["E-PLAN", "no proven place for evil_said"]),
        ("no-symbol", 3, &["E-PLAN", "nobody_has_this"]),
        ("return", 3, &["E-PLAN", "evil_said"]),
        ("many-probes", 1, &["E-DETECT", "more than the 1048576 that are allowed"]),
        ("unsupported", 1, &["E-DETECT", "to my liking"]),
    ];
    for (behaviour, code, words) in cases {
        let output = modules.run(&["evil", "--behaviour", behaviour, "--target", &target.text(), "--duration", "1s"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{behaviour}: {said}");
        for word in words {
            assert!(said.contains(word), "{behaviour}: no {word:?} in: {said}");
        }
        assert!(!said.contains('\x1b'), "{behaviour}: raw control characters: {said:?}");
        // Whatever was refused, the target is as it was.
        target.run(&["3", "0"]);
    }
}

#[test]
fn looking_at_a_module_runs_none_of_its_code() {
    // Without the walls of a worker, the constructor would leave its mark.
    let _ = std::fs::remove_file(MARK);
    let modules = Modules::with(&["evil"]);
    for args in [&["--list-modules"][..], &["module", "info", "evil"], &["--help"], &["evil", "--help"]] {
        assert_eq!(modules.run(args).status.code(), Some(0), "{args:?}");
        assert!(!Path::new(MARK).exists(), "code of the module ran for {args:?}");
    }
}
