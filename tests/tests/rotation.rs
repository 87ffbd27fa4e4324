//! Outputs that are cut into files: each whole, none missing, in directories of all kinds.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ecapture_tests::capture::{Capture, Finished, Modules, read_events};
use ecapture_tests::disk::Tiny;
use ecapture_tests::document;
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::workload;
use ecapture_tests::{needs, skip_if};
use serde_json::Value;

struct Stage {
    server: Mariadb,
    modules: Modules,
    pid: String,
}

impl Stage {
    fn new() -> Self {
        let server = Mariadb::start();
        let pid = server.pid().to_string();
        Self { server, modules: Modules::with(&["mysql"]), pid }
    }

    fn capture(&self, more: &[&str]) -> Capture {
        Capture::start(&self.modules, &[&["mysql", "--pid", &self.pid][..], more].concat())
    }

    /// Statements with these numbers.
    fn say(&self, numbers: std::ops::Range<u32>) {
        let mut client = Client::connect(&self.server.socket()).unwrap();
        for number in numbers {
            client.query(format!("select {number}").as_bytes()).unwrap();
        }
    }
}

/// Files of a directory, by name.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

/// Each file is whole and says its number, and together they go on from one to the next up to the session's end.
fn whole(files: &[PathBuf], first: u64) -> Vec<Value> {
    let mut all = Vec::new();
    for (number, file) in (first..).zip(files) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with(&format!(".{number:06}.jsonl")), "{name}");
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.ends_with('\n'), "{name}: half a line: {:?}", text.lines().last());
        let events = read_events(file);
        let (start, end) = (&events[0], &events[events.len() - 1]);
        assert_eq!(start["event.name"], "ecapture.session.start", "{name}");
        let last = file == files.last().unwrap();
        let expected = if last { "ecapture.session.end" } else { "ecapture.session.continued" };
        assert_eq!(end["event.name"], expected, "{name}");
        for line in [start, end] {
            assert_eq!(line["ecapture.session.segment"], number, "{name}");
        }
        if !last {
            let queries = events.iter().filter(|e| e["ecapture.module"] == "mysql").count();
            assert_eq!(end["ecapture.session.modules"][0]["events"], queries, "{name}");
        }
        all.extend(events);
    }
    all
}

fn statements(events: &[Value]) -> Vec<String> {
    let text = |e: &Value| e["db.query.text"].as_str().filter(|t| t.starts_with("select ")).map(str::to_owned);
    events.iter().filter_map(text).collect()
}

fn expected(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("select {number}")).collect()
}

/// The number in "E-OUTPUT: N events could not be written".
fn lost(finished: &Finished) -> usize {
    let said = &finished.said;
    let line = said.lines().find(|l| l.contains("events could not be written")).unwrap_or_else(|| panic!("{said}"));
    let before = line.split(" events could").next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

/// Whether the running broker may write anywhere.
fn keeps_override(capture: &Capture) -> bool {
    const DAC_OVERRIDE: u64 = 1 << 1;
    let status = std::fs::read_to_string(format!("/proc/{}/status", capture.pid())).unwrap();
    let held = status.lines().find_map(|l| l.strip_prefix("CapPrm:")).unwrap();
    u64::from_str_radix(held.trim(), 16).unwrap() & DAC_OVERRIDE != 0
}

#[test]
fn by_size_every_file_is_whole_and_nothing_is_missing() {
    let name = "by_size_every_file_is_whole_and_nothing_is_missing";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.jsonl");
    let capture = stage.capture(&["-o", "json", "-w", path.to_str().unwrap(), "--rotate-size", "1MiB", "-w", "-"]);
    stage.say(0..12_000);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert!(finished.said.contains("none lost"), "{}", finished.said);
    let files = files(dir.path());
    assert!(files.len() >= 4, "{files:?}");
    for file in &files {
        assert!(file.metadata().unwrap().len() <= 1 << 20, "{}", file.display());
        assert!(file.file_name().unwrap().to_str().unwrap().starts_with("out.20"), "{files:?}");
    }
    let events = whole(&files, 1);
    assert_eq!(statements(&events), expected(0..12_000));
    // The output that is not rotated has the same, in one piece.
    assert_eq!(statements(&finished.events), expected(0..12_000));
    assert!(finished.events[0].get("ecapture.session.segment").is_none());
}

/// Statements of up to 128 KiB from 16 connections at once, as fast as they go: dozens of files, each asked for while the next
/// events come already.
#[test]
fn under_load_no_statement_is_missing_and_none_is_out_of_place() {
    let name = "under_load_no_statement_is_missing_and_none_is_out_of_place";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.jsonl");
    let args = ["-o", "json", "-w", path.to_str().unwrap(), "--rotate-size", "1MiB", "--ring-size", "256MiB"];
    let capture = stage.capture(&args);
    let script = workload::run(&stage.server.socket(), 16, 150, 128 << 10);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let files = files(dir.path());
    assert!(files.len() > 10, "{} files", files.len());
    let grown = files.iter().filter(|file| file.metadata().unwrap().len() > 1 << 20).count();
    assert_eq!(grown, 0, "files that grew beyond their size");
    let events = whole(&files, 1);
    let totals = &events[events.len() - 1]["ecapture.session.modules"][0];
    assert_eq!((&totals["lost"], &totals["sink_lost"]), (&Value::from(0), &Value::from(0)), "{totals}");
    workload::compare(&script, &events);
    println!("{} statements in {} files", script.values().map(Vec::len).sum::<usize>(), files.len());
}

#[test]
fn by_time_and_only_the_last_are_kept() {
    let name = "by_time_and_only_the_last_are_kept";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.jsonl");
    let other = dir.path().join("out.20200101T000000Z.000001.jsonl");
    std::fs::write(&other, "of an earlier run\n").unwrap();
    let args = ["-o", "json", "-w", path.to_str().unwrap(), "--rotate-time", "1s", "--rotate-keep", "2"];
    let capture = stage.capture(&args);
    assert!(!keeps_override(&capture), "the directory is root's own");
    for round in 0..4 {
        stage.say(round * 10..round * 10 + 10);
        std::thread::sleep(Duration::from_millis(1300));
    }
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "of an earlier run\n");
    std::fs::remove_file(&other).unwrap();
    let files = files(dir.path());
    // Four with events, and the one in which the session ends.
    assert_eq!(files.len(), 2, "{files:?}");
    let events = whole(&files, 4);
    assert_eq!(statements(&events), expected(30..40), "{files:?}");
}

#[test]
fn text_is_cut_between_lines() {
    let name = "text_is_cut_between_lines";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let capture = stage.capture(&["-w", path.to_str().unwrap(), "--rotate-size", "1MiB"]);
    stage.say(0..25_000);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let files = files(dir.path());
    assert!(files.len() >= 2, "{files:?}");
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let seen: Vec<&str> =
        text.lines().filter_map(|line| line.split("  ").last()).filter(|l| l.starts_with("select ")).collect();
    assert_eq!(seen, expected(0..25_000));
}

#[test]
fn in_a_directory_of_somebody_else_and_of_a_name_that_changes() {
    let name = "in_a_directory_of_somebody_else_and_of_a_name_that_changes";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let (theirs, moved) = (dir.path().join("theirs"), dir.path().join("moved"));
    std::fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(65534), Some(65534)).unwrap();
    std::fs::set_permissions(&theirs, PermissionsExt::from_mode(0o755)).unwrap();
    let path = theirs.join("out.jsonl");
    let capture = stage.capture(&["-o", "json", "-w", path.to_str().unwrap(), "--rotate-time", "1s"]);
    assert!(keeps_override(&capture), "without it no file could be made there");
    stage.say(0..5);
    // What its owner does with its name is his business.
    std::fs::rename(&theirs, &moved).unwrap();
    std::os::unix::fs::symlink("/", &theirs).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    stage.say(5..10);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let files = files(&moved);
    assert_eq!(files.len(), 2, "{files:?} {}", finished.said);
    assert_eq!(statements(&whole(&files, 1)), expected(0..10));
}

#[test]
fn a_directory_that_goes_away_is_said_and_counted() {
    let name = "a_directory_that_goes_away_is_said_and_counted";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let stage = Stage::new();
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let path = gone.join("out.jsonl");
    let capture = stage.capture(&["-o", "json", "-w", path.to_str().unwrap(), "--rotate-time", "1s", "-w", "-"]);
    stage.say(0..5);
    std::thread::sleep(Duration::from_millis(1500));
    std::fs::remove_dir_all(&gone).unwrap();
    stage.say(5..15);
    std::thread::sleep(Duration::from_millis(2500));
    let finished = capture.stop();
    assert_eq!(finished.code, Some(1), "{}", finished.said);
    assert!(finished.said.contains("E-OUTPUT") && finished.said.contains("No such file"), "{}", finished.said);
    assert_eq!(finished.said.matches("trying again each second").count(), 1, "{}", finished.said);
    assert_eq!(lost(&finished), 10, "{}", finished.said);
    assert_eq!(statements(&finished.events), expected(0..15), "the other output");
}

#[test]
fn onto_a_full_disk_it_is_said_once_and_every_event_is_written_or_counted() {
    let name = "onto_a_full_disk_it_is_said_once_and_every_event_is_written_or_counted";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let tiny = Tiny::mount("2560k");
    skip_if!(name, tiny.as_ref().err().cloned());
    let tiny = tiny.unwrap();
    let stage = Stage::new();
    let path = tiny.path().join("out.jsonl");
    let capture = stage.capture(&["-o", "json", "-w", path.to_str().unwrap(), "--rotate-size", "1MiB", "-w", "-"]);
    stage.say(0..40_000);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(1), "{}", finished.said);
    assert!(finished.said.contains("No space left") && finished.said.contains("E-OUTPUT"), "{}", finished.said);
    assert!(finished.said.matches("trying again each second").count() <= 2, "{}", finished.said);
    let files = files(tiny.path());
    assert!(files.len() >= 2, "{files:?}");
    let mut written = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "half a line: {:?}", text.lines().last());
        written.extend(read_events(file));
    }
    let written = statements(&written);
    assert_eq!(written.len() + lost(&finished), 40_000, "{}", finished.said);
    // What is there is the beginning, in order.
    assert_eq!(written, expected(0..u32::try_from(written.len()).unwrap()));
    assert_eq!(statements(&finished.events).len(), 40_000, "the other output");
}

#[test]
fn onto_a_full_disk_keeping_few_makes_room() {
    let name = "onto_a_full_disk_keeping_few_makes_room";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let tiny = Tiny::mount("3584k");
    skip_if!(name, tiny.as_ref().err().cloned());
    let tiny = tiny.unwrap();
    let stage = Stage::new();
    let path = tiny.path().join("out.jsonl");
    let args = ["-o", "json", "-w", path.to_str().unwrap(), "--rotate-size", "1MiB", "--rotate-keep", "2"];
    let capture = stage.capture(&args);
    stage.say(0..40_000);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    let files = files(tiny.path());
    assert_eq!(files.len(), 2, "{files:?}");
    let first = files[0].file_name().unwrap().to_str().unwrap().split('.').rev().nth(1).unwrap().parse().unwrap();
    let kept = statements(&whole(&files, first));
    assert_eq!(kept, expected(40_000 - u32::try_from(kept.len()).unwrap()..40_000));
}

#[test]
fn what_cannot_be_rotated_is_refused() {
    let modules = Modules::with(&["mysql"]);
    for (args, word) in [
        (&["--rotate-size", "2MiB"][..], "need -w FILE"),
        (&["--rotate-size", "2MiB", "-w", "-"], "need -w FILE"),
        (&["--rotate-keep", "2", "-w", "x"], "add --rotate-size or --rotate-time"),
        (&["--rotate-size", "1KiB", "-w", "x"], "1MiB or more"),
        (&["--rotate-time", "10ms", "-w", "x"], "1s or more"),
        (&["--rotate-keep", "0", "-w", "x"], "--rotate-keep"),
    ] {
        let output = modules.run(&[&["mysql"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    }
    skip_if!("what_cannot_be_rotated_is_refused (places)", needs::capture());
    for (path, word) in [("/nowhere/at/all", "does not exist"), ("/", "E-OUTPUT"), ("/dev/full/x", "E-OUTPUT")] {
        let output = modules.run(&["mysql", "--rotate-size", "1MiB", "-w", path]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{path}: {said}");
        assert!(said.contains(word), "{path}: {said}");
    }
}

#[test]
fn every_command_of_the_document_runs() {
    let name = "every_command_of_the_document_runs";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let stage = Stage::new();
    let commands = document::commands("docs/output-files.md");
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in commands {
        let dir = tempfile::tempdir().unwrap();
        let words: Vec<String> = command
            .split(' ')
            .skip(1)
            .map(|word| match word {
                "4711" => stage.pid.clone(),
                file if file.starts_with("out.") => dir.path().join(file).to_str().unwrap().to_owned(),
                word => word.to_owned(),
            })
            .collect();
        // Where a command has text on stdout, the rig's reader would take it for JSON.
        let json = command.contains("-o json");
        let more: &[&str] = if json { &[] } else { &["-o", "json"] };
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let capture = Capture::start(&stage.modules, &words);
        stage.say(0..10);
        let finished = capture.stop();
        assert_eq!(finished.code, Some(0), "{command}: {}", finished.said);
        let files = files(dir.path());
        assert_eq!(files.len(), 1, "{command}: {files:?}");
        assert_eq!(statements(&read_events(&files[0])), expected(0..10), "{command}");
    }
}
