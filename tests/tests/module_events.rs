//! What a decoder does beside decoding: events that nobody declared, too large, too many; errors that belong to no
//! record; more words than anybody wants to read.

use ecapture_tests::capture::{Capture, Finished, Modules};
use ecapture_tests::target::Program;
use ecapture_tests::{needs, skip_if};
use serde_json::Value;

const COMPILER: &str = "/usr/bin/gcc";

/// Captures the numbers from 0 up to `count`, with a pause (us) behind each.
fn capture(behaviour: &str, count: &str, pause: &str) -> Finished {
    let (modules, target) = (Modules::with(&["evil"]), Program::compile("evil-target.c", "evil-target"));
    let path = target.text();
    let capture = Capture::start(&modules, &["evil", "--target", &path, "--behaviour", behaviour, "-o", "json"]);
    target.run(&[count, pause]);
    capture.stop()
}

fn numbers(finished: &Finished) -> Vec<u64> {
    finished.named("evil.said").filter_map(|e| e["ecapture.number"].as_u64()).collect()
}

fn totals(finished: &Finished) -> &Value {
    &finished.end()["ecapture.session.modules"][0]
}

#[test]
fn one_spoilt_event_among_good_ones() {
    skip_if!("one_spoilt_event_among_good_ones", needs::capture(), needs::program(COMPILER, "gcc"));
    let all_but_13: Vec<u64> = (0..20).filter(|n| *n != 13).collect();
    // (behaviour, events that come, events that are not taken, columns that are not taken)
    for (behaviour, events, undecodable, columns) in [("role", 19, 1, 0), ("huge", 19, 1, 0), ("column-kind", 20, 0, 1)]
    {
        let finished = capture(behaviour, "20", "0");
        assert_eq!(finished.code, Some(0), "{behaviour}: {}", finished.said);
        assert_eq!(numbers(&finished), all_but_13, "{behaviour}");
        assert_eq!(finished.named("evil.said").count(), events, "{behaviour}");
        let totals = totals(&finished);
        assert_eq!(totals["undecodable"], undecodable, "{behaviour}: {totals}");
        assert_eq!(totals["columns_refused"], columns, "{behaviour}: {totals}");
        assert_eq!(totals["restarts"], 0, "{behaviour}: {totals}");
        let word = if columns > 0 { "1 column dropped" } else { "1 message could not be decoded" };
        assert!(finished.said.contains(word), "{behaviour}: {}", finished.said);
    }
}

#[test]
fn a_hundred_thousand_events_of_one_record() {
    skip_if!("a_hundred_thousand_events_of_one_record", needs::capture(), needs::program(COMPILER, "gcc"));
    let finished = capture("many", "20", "0");
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert_eq!(numbers(&finished).len(), 100_019);
}

#[test]
fn events_without_end_of_one_record() {
    skip_if!("events_without_end_of_one_record", needs::capture(), needs::program(COMPILER, "gcc"));
    let (modules, target) = (Modules::with(&["evil"]), Program::compile("evil-target.c", "evil-target"));
    let (path, file) = (target.text(), modules.path().join("events"));
    // As text: a line of JSON for each of a million would only be slow.
    let args = ["evil", "--target", &path, "--behaviour", "decode:emit", "-w", file.to_str().unwrap()];
    let capture = Capture::start(&modules, &args);
    target.run(&["20", "0"]);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    for words in ["does not come to an end", "1 message could not be decoded", "2 restarts of the worker"] {
        assert!(finished.said.contains(words), "no {words:?} in: {}", finished.said);
    }
    let events = std::fs::read_to_string(&file).unwrap();
    let number = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
    let (spoilt, others): (Vec<_>, Vec<_>) = events.lines().filter_map(number).partition(|n| *n == 13);
    assert_eq!(others, (0..20).filter(|n| *n != 13).collect::<Vec<_>>());
    assert!(spoilt.len() <= 1 << 20, "{} events of the record that was skipped", spoilt.len());
}

#[test]
fn a_crash_for_lack_of_memory_costs_one_record() {
    skip_if!("a_crash_for_lack_of_memory_costs_one_record", needs::capture(), needs::program(COMPILER, "gcc"));
    let finished = capture("decode:memory", "20", "0");
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert_eq!(numbers(&finished).len(), 19);
    assert_eq!((&totals(&finished)["undecodable"], &totals(&finished)["restarts"]), (&1.into(), &2.into()));
}

#[test]
fn a_decoder_that_only_crashes_is_given_up() {
    skip_if!("a_decoder_that_only_crashes_is_given_up", needs::capture(), needs::program(COMPILER, "gcc"));
    let (modules, target) = (Modules::with(&["evil"]), Program::compile("evil-target.c", "evil-target"));
    let path = target.text();
    let args = ["evil", "--target", &path, "--behaviour", "tick:segv", "-o", "json"];
    let finished = Capture::start(&modules, &args).wait();
    assert_eq!(finished.code, Some(1), "{}", finished.said);
    assert!(finished.said.contains("disabled"), "{}", finished.said);
    assert_eq!(totals(&finished)["restarts"], 5);
}

#[test]
fn errors_that_belong_to_no_record_lose_none() {
    skip_if!("errors_that_belong_to_no_record_lose_none", needs::capture(), needs::program(COMPILER, "gcc"));
    for behaviour in ["tick:panic", "tick:error", "finish:panic", "finish:error", "drop:panic"] {
        // Long enough for hundreds of ticks.
        let finished = capture(behaviour, "50", "20000");
        assert_eq!(finished.code, Some(0), "{behaviour}: {}", finished.said);
        assert_eq!(numbers(&finished), (0..50).collect::<Vec<_>>(), "{behaviour}: {}", finished.said);
        let totals = totals(&finished);
        assert_eq!((&totals["restarts"], &totals["undecodable"]), (&0.into(), &0.into()), "{behaviour}: {totals}");
        assert!(finished.said.contains("as asked for"), "{behaviour} is not said: {}", finished.said);
        let lines = finished.said.lines().count();
        assert!(lines < 60, "{behaviour}: {lines} lines of log:\n{}", finished.said);
    }
}
