//! A module's file is replaced while it runs: a package is upgraded, a build is copied over. The run goes on with the bytes
//! that were judged when it began, also after its worker was started again.

use std::path::Path;
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Modules, bin_dir, children, pid};
use ecapture_tests::target::Program;
use ecapture_tests::{needs, skip_if};
use rustix::process::{Signal, kill_process};

/// Captures, has the file replaced, kills the worker, captures on.
fn replaced_by(replace: fn(&Path)) {
    let modules = Modules::with(&["evil"]);
    let target = Program::compile("evil-target.c", "evil-target");
    let capture = Capture::start(&modules, &["evil", "--target", &target.text(), "-o", "json"]);
    target.run(&["50", "0"]);
    replace(&modules.path().join("libecap_evil.so"));
    target.run(&["50", "0"]);
    let worker = capture.child("worker");
    kill_process(pid(worker), Signal::KILL).unwrap();
    target.run(&["50", "0"]);
    // The next one has begun before it ends: otherwise the test would be of something else.
    let began = Instant::now();
    while children(capture.pid()).get("ecapture: worker").is_none_or(|now| *now == worker) {
        assert!(began.elapsed() < Duration::from_secs(20), "no new worker");
        std::thread::sleep(Duration::from_millis(10));
    }
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let mut numbers: Vec<u64> = finished.named("evil.said").map(|e| e["ecapture.number"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..150).map(|n| n / 3).collect::<Vec<_>>(), "{}", finished.said);
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!((&totals["lost"], &totals["restarts"], &totals["unaccounted"]), (&0.into(), &1.into(), &0.into()));
    // What is there now is what the next run gets, and is judged anew.
    let listed = modules.run(&["--list-modules"]);
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("evil 0.1.0"));
}

#[test]
fn in_place_with_what_is_no_module() {
    skip_if!("in_place_with_what_is_no_module", needs::capture(), needs::program("/usr/bin/gcc", "gcc"));
    // The same inode: what had mapped the file would die of it.
    replaced_by(|file| std::fs::write(file, b"cut short").unwrap());
}

#[test]
fn by_renaming_another_module_over_it() {
    skip_if!("by_renaming_another_module_over_it", needs::capture(), needs::program("/usr/bin/gcc", "gcc"));
    replaced_by(|file| {
        let next = file.with_extension("next");
        std::fs::copy(bin_dir().join("libecap_mysql.so"), &next).unwrap();
        std::fs::rename(&next, file).unwrap();
    });
}

#[test]
fn in_place_while_the_worker_reads_nothing() {
    skip_if!("in_place_while_the_worker_reads_nothing", needs::capture(), needs::program("/usr/bin/gcc", "gcc"));
    // Cut to nothing: every page of a mapping would be a SIGBUS.
    replaced_by(|file| std::fs::File::options().write(true).open(file).unwrap().set_len(0).unwrap());
}
