//! Code of modules that misbehaves: it harms its own capture at most, and what it harms is said.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::target::Program;
use ecapture_tests::{needs, skip_if};
use serde_json::Value;

struct Setting {
    modules: Modules,
    target: Program,
}

impl Setting {
    fn new() -> Self {
        Self { modules: Modules::with(&["evil"]), target: Program::compile("evil-target.c", "evil-target") }
    }

    fn args<'a>(target: &'a str, behaviour: &'a str) -> Vec<&'a str> {
        vec!["evil", "--target", target, "--behaviour", behaviour, "-o", "json"]
    }

    /// Starts a capture that must fail before it captures anything.
    fn refused(&self, behaviour: &str) -> Output {
        self.modules.run(&Self::args(&self.target.text(), behaviour))
    }

    /// Captures the numbers from 0 up to `count`.
    fn capture(&self, behaviour: &str, count: &str, pause: &str) -> Finished {
        let target = self.target.text();
        let capture = Capture::start(&self.modules, &Self::args(&target, behaviour));
        self.target.run(&[count, pause]);
        capture.stop()
    }
}

fn numbers(finished: &Finished) -> Vec<u64> {
    finished.named("evil.said").filter_map(|e| e["ecapture.number"].as_u64()).collect()
}

fn totals(finished: &Finished) -> &Value {
    &finished.end()["ecapture.session.modules"][0]
}

#[test]
fn a_module_that_behaves_sees_every_number_and_its_constructor_got_nowhere() {
    skip_if!(
        "a_module_that_behaves_sees_every_number_and_its_constructor_got_nowhere",
        needs::capture(),
        needs::program("/usr/bin/gcc", "gcc")
    );
    let mark = Path::new("/tmp/ecapture-fixture-evil-was-here");
    // Left by somebody who loaded the fixture without walls.
    let _ = std::fs::remove_file(mark);
    let finished = Setting::new().capture("good", "100", "0");
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert_eq!(numbers(&finished), (0..100).collect::<Vec<_>>());
    assert!(!mark.exists());
}

#[test]
fn before_the_capture_every_failure_refuses_the_module() {
    skip_if!(
        "before_the_capture_every_failure_refuses_the_module",
        needs::capture(),
        needs::program("/usr/bin/gcc", "gcc")
    );
    let setting = Setting::new();
    for (behaviour, code, exit, words) in [
        ("configure:panic", "E-MODULE", 3, "as asked for"),
        ("refuse", "E-CONFIG", 2, "behaviour"),
        ("configure:segv", "E-MODULE", 3, "SIGSEGV"),
        ("configure:exit", "E-MODULE", 3, "ended with code 0"),
        ("configure:abort", "E-MODULE", 3, "SIGABRT"),
        ("configure:memory", "E-MODULE", 3, "SIGABRT"),
        ("detect:panic", "E-DETECT", 1, "as asked for"),
        ("detect:segv", "E-MODULE", 3, "SIGSEGV"),
        ("detect:exit", "E-MODULE", 3, "ended with code 0"),
        ("detect:abort", "E-MODULE", 3, "SIGABRT"),
        ("detect:memory", "E-MODULE", 3, "SIGABRT"),
        ("decoder:panic", "E-MODULE", 3, "as asked for"),
        ("decoder:segv", "E-MODULE", 3, "SIGSEGV"),
        ("decoder:exit", "E-MODULE", 3, "ended with code 0"),
        ("decoder:abort", "E-MODULE", 3, "SIGABRT"),
        ("decoder:memory", "E-MODULE", 3, "SIGABRT"),
        ("object", "E-PLAN", 3, "nothing"),
        ("program", "E-PLAN", 3, "nothing"),
        ("layout", "E-PLAN", 3, "layout row"),
        ("global", "E-PLAN", 3, "ecap_filter_flags"),
        ("middle", "E-PLAN", 3, "no proven place"),
    ] {
        let output = setting.refused(behaviour);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(exit), "{behaviour}: {said}");
        assert!(said.contains(code) && said.contains(words), "{behaviour}: {said}");
    }
}

#[test]
fn a_module_that_never_answers_is_stopped() {
    skip_if!("a_module_that_never_answers_is_stopped", needs::capture(), needs::program("/usr/bin/gcc", "gcc"));
    let setting = Setting::new();
    // Side by side: each is waited for as long as a slow machine may need.
    std::thread::scope(|scope| {
        for (behaviour, words) in [
            ("configure:loop", "did not answer within"),
            ("detect:loop", "did not answer within"),
            ("decoder:loop", "was not ready within"),
        ] {
            let setting = &setting;
            scope.spawn(move || {
                let output = setting.refused(behaviour);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(3), "{behaviour}: {said}");
                assert!(said.contains("E-MODULE") && said.contains(words), "{behaviour}: {said}");
            });
        }
    });
}

#[test]
fn a_record_that_kills_the_decoder_costs_that_record() {
    skip_if!(
        "a_record_that_kills_the_decoder_costs_that_record",
        needs::capture(),
        needs::program("/usr/bin/gcc", "gcc")
    );
    let setting = Setting::new();
    let all_but_13: Vec<u64> = (0..2000).filter(|n| *n != 13).collect();
    for (behaviour, restarts) in
        [("decode:segv", 2), ("decode:abort", 2), ("decode:exit", 2), ("decode:panic", 0), ("decode:error", 0)]
    {
        let finished = setting.capture(behaviour, "2000", "0");
        assert_eq!(finished.code, Some(0), "{behaviour}: {}", finished.said);
        assert_eq!(numbers(&finished), all_but_13, "{behaviour}: {}", finished.said);
        let totals = totals(&finished);
        assert_eq!(
            (&totals["seen"], &totals["undecodable"], &totals["lost"]),
            (&2000.into(), &1.into(), &0.into()),
            "{behaviour}: {totals}"
        );
        assert_eq!(totals["restarts"], restarts, "{behaviour}: {totals}");
    }
}

#[test]
fn a_decoder_that_hangs_is_killed_and_its_record_skipped() {
    skip_if!(
        "a_decoder_that_hangs_is_killed_and_its_record_skipped",
        needs::capture(),
        needs::program("/usr/bin/gcc", "gcc")
    );
    // What it writes to the log meanwhile is no sign of life.
    std::thread::scope(|scope| {
        for behaviour in ["decode:loop", "decode:talk"] {
            scope.spawn(move || {
                let setting = Setting::new();
                let target = setting.target.text();
                let mut capture = Capture::start(&setting.modules, &Setting::args(&target, behaviour));
                setting.target.run(&["40", "0"]);
                let patience = Duration::from_secs(50);
                capture.wait_for("the numbers behind the one that hangs", patience, |e| e["ecapture.number"] == 39);
                let finished = capture.stop();
                assert_eq!(finished.code, Some(0), "{behaviour}: {}", finished.said);
                assert!(finished.said.contains("hung"), "{behaviour}: {}", finished.said);
                assert_eq!(numbers(&finished), (0..40).filter(|n| *n != 13).collect::<Vec<_>>(), "{behaviour}");
                assert_eq!(totals(&finished)["undecodable"], 1, "{behaviour}");
            });
        }
    });
}

/// The decoder is at its end after the last record: another worker could only fail as this one did.
fn no_second_try(setting: &Setting, behaviour: &str, how: &str, patience: Duration) {
    let target = setting.target.text();
    let mut capture = Capture::start(&setting.modules, &Setting::args(&target, behaviour));
    setting.target.run(&["50", "0"]);
    capture.wait_for("the last number", Duration::from_secs(20), |e| e["ecapture.number"] == 49);
    let stopped = Instant::now();
    let finished = capture.stop();
    let took = stopped.elapsed();
    assert_eq!(finished.code, Some(1), "{behaviour}: {}", finished.said);
    for words in ["E-MODULE", "did not come to its end", how] {
        assert!(finished.said.contains(words), "{behaviour}: no {words:?} in: {}", finished.said);
    }
    assert_eq!(numbers(&finished), (0..50).collect::<Vec<_>>(), "{behaviour}: {}", finished.said);
    let totals = totals(&finished);
    assert_eq!((&totals["seen"], &totals["restarts"]), (&50.into(), &0.into()), "{behaviour}: {totals}");
    assert!(took < patience, "{behaviour}: the end took {took:?}");
}

#[test]
fn a_decoder_that_dies_at_its_end_is_not_started_again() {
    skip_if!(
        "a_decoder_that_dies_at_its_end_is_not_started_again",
        needs::capture(),
        needs::program("/usr/bin/gcc", "gcc")
    );
    let setting = Setting::new();
    for (behaviour, how) in [
        ("finish:segv", "SIGSEGV"),
        ("finish:abort", "SIGABRT"),
        ("finish:exit", "ended with code 0"),
        ("finish:memory", "SIGABRT"),
        ("drop:segv", "SIGSEGV"),
        ("drop:exit", "ended with code 0"),
    ] {
        no_second_try(&setting, behaviour, how, Duration::from_secs(10));
    }
}

#[test]
fn a_decoder_that_hangs_at_its_end_is_stopped_once() {
    skip_if!(
        "a_decoder_that_hangs_at_its_end_is_stopped_once",
        needs::capture(),
        needs::program("/usr/bin/gcc", "gcc")
    );
    // Each with a target of its own: side by side they would see each other's numbers.
    std::thread::scope(|scope| {
        for behaviour in ["finish:loop", "drop:loop"] {
            scope.spawn(move || no_second_try(&Setting::new(), behaviour, "hung", Duration::from_secs(30)));
        }
    });
}

#[test]
fn a_decoder_that_fails_outside_of_records_fails_only_there() {
    skip_if!(
        "a_decoder_that_fails_outside_of_records_fails_only_there",
        needs::capture(),
        needs::program("/usr/bin/gcc", "gcc")
    );
    let setting = Setting::new();
    for behaviour in ["tick:panic", "drop:panic", "finish:panic"] {
        let finished = setting.capture(behaviour, "50", "1000");
        assert_eq!(numbers(&finished), (0..50).collect::<Vec<_>>(), "{behaviour}: {}", finished.said);
    }
}

#[test]
fn events_that_were_not_declared_are_dropped_and_counted() {
    skip_if!(
        "events_that_were_not_declared_are_dropped_and_counted",
        needs::capture(),
        needs::program("/usr/bin/gcc", "gcc")
    );
    let setting = Setting::new();
    let finished = setting.capture("column", "10", "0");
    assert_eq!(finished.named("evil.said").count(), 10, "{}", finished.said);
    assert_eq!(totals(&finished)["columns_refused"], 10);
    let finished = setting.capture("event", "10", "0");
    assert_eq!(finished.named("evil.said").count(), 0, "{}", finished.said);
    assert_eq!(totals(&finished)["undecodable"], 10);
}
