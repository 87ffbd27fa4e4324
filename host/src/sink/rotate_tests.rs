//! Files that come at once, late, and not at all.

use std::io::{Read, Seek};

use serde_json::Value as J;

use super::*;
use crate::event::{Schema, Summary};
use crate::sink::json::Json;
use crate::sink::samples;

/// The rotated output, and the files that it has got.
struct Stage {
    output: Rotating,
    files: Vec<std::fs::File>,
    schema: Schema,
    notices: Vec<String>,
    sent: u64,
}

impl Stage {
    fn new(size: Option<u64>, time: Option<Duration>) -> Self {
        Self::on(tempfile::tempfile().unwrap(), size, time)
    }

    fn on(first: std::fs::File, size: Option<u64>, time: Option<Duration>) -> Self {
        let rotate = Rotate { size, time };
        let limits = Limits { batch: 4 << 10, pending: 64 << 10 };
        let fd = first.try_clone().unwrap().into();
        let mut output = Rotating::new("out", rotate, limits, Box::new(|| Box::new(Json::default())), fd).unwrap();
        output.session_start(&SessionStart { host: "h".into(), ..SessionStart::default() });
        Self { output, files: vec![first], schema: samples::schema(), notices: Vec::new(), sent: 0 }
    }

    /// Gives files that are asked for.
    fn serve(&mut self) {
        self.output.flush();
        if self.output.wants_file() {
            let file = tempfile::tempfile().unwrap();
            self.files.push(file.try_clone().unwrap());
            self.output.give_file(Ok(file.into()));
        }
        self.tick();
    }

    fn tick(&mut self) {
        let mut notices = Vec::new();
        self.output.tick(Instant::now(), &mut notices);
        self.notices.extend(notices.into_iter().map(|n| n.text));
    }

    fn send(&mut self, count: u64) {
        for _ in 0..count {
            let text = format!("select {}", self.sent);
            let fields = samples::fields(&[("db.query.text", crate::event::Value::Text(text.as_bytes()))]);
            self.output.event(&samples::event(&self.schema, &fields));
            self.sent += 1;
        }
    }

    fn end(&mut self) -> Vec<Vec<J>> {
        let summary = Summary::default();
        self.output.session_end(&SessionEnd { wall_ns: 9, duration_ns: 1, summary: &summary, segment: None });
        self.serve();
        while self.output.waits_for_file() {
            self.serve();
        }
        self.output.finish(Instant::now());
        self.tick();
        self.files.iter().map(lines).collect()
    }

    /// Every file is whole, and together they have these events, in order.
    fn check(&self, files: &[Vec<J>], events: impl Iterator<Item = u64>) {
        let last = files.len();
        for (number, lines) in (1..).zip(files) {
            let (first, end) = (&lines[0], &lines[lines.len() - 1]);
            assert_eq!(first["event.name"], "ecapture.session.start", "file {number}");
            assert_eq!(first["host.name"], "h", "file {number}");
            let name = if number == last { "ecapture.session.end" } else { "ecapture.session.continued" };
            assert_eq!(end["event.name"], name, "file {number}");
            for line in [first, end] {
                assert_eq!(line["ecapture.session.segment"], number, "{line}");
            }
            if number < last {
                let events = lines.iter().filter(|l| l["event.name"] == "mysql.query").count();
                assert_eq!(end["ecapture.session.modules"][0]["events"], events, "{end}");
            }
        }
        let seen = files.iter().flatten().filter_map(|l| l["db.query.text"].as_str()).map(str::to_owned);
        let expected = events.map(|n| format!("select {n}"));
        assert!(seen.eq(expected), "events are missing, doubled or out of order");
    }
}

fn lines(file: &std::fs::File) -> Vec<J> {
    let (mut file, mut text) = (file, String::new());
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "half a line: {:?}", text.lines().last());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn no_file_grows_beyond_its_size_and_nothing_is_missing() {
    const SIZE: u64 = 64 << 10;
    let mut stage = Stage::new(Some(SIZE), None);
    for _ in 0..100 {
        stage.send(20);
        stage.serve();
    }
    let files = stage.end();
    assert!(files.len() > 5, "{} files", files.len());
    stage.check(&files, 0..2000);
    for file in &stage.files {
        let size = file.metadata().unwrap().len();
        assert!(size <= SIZE, "{size}");
    }
    // All but the last are about full.
    for file in &stage.files[..stage.files.len() - 1] {
        assert!(file.metadata().unwrap().len() > SIZE - RESERVE - 2000);
    }
    let report = stage.output.report();
    assert_eq!((report.written, report.lost, stage.notices.len()), (2000, 0, 0), "{:?}", stage.notices);
}

#[test]
fn an_event_that_is_larger_than_a_file_gets_one_of_its_own() {
    let mut stage = Stage::new(Some(32 << 10), None);
    let large = "x".repeat(40 << 10);
    for _ in 0..3 {
        let fields = samples::fields(&[("db.query.text", crate::event::Value::Text(large.as_bytes()))]);
        let event = samples::event(&stage.schema, &fields);
        stage.output.event(&event);
        stage.serve();
    }
    let files = stage.end();
    assert_eq!(files.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn a_file_that_comes_late_gets_everything() {
    let mut stage = Stage::new(Some(32 << 10), None);
    stage.send(100);
    // Asked for once, however often is looked.
    stage.output.flush();
    assert!(stage.output.wants_file() && stage.output.waits_for_file());
    stage.send(50);
    stage.output.flush();
    assert!(!stage.output.wants_file());
    let file = tempfile::tempfile().unwrap();
    stage.files.push(file.try_clone().unwrap());
    stage.output.give_file(Ok(file.into()));
    let files = stage.end();
    stage.check(&files, 0..150);
    assert!(stage.files.iter().all(|file| file.metadata().unwrap().len() <= 32 << 10), "none grew while it waited");
}

#[test]
fn one_that_cannot_be_opened_is_said_once_and_asked_for_again() {
    let mut stage = Stage::new(Some(32 << 10), None);
    stage.send(100);
    stage.output.flush();
    assert!(stage.output.wants_file());
    stage.output.give_file(Err(libc::ENOSPC));
    stage.tick();
    assert!(!stage.output.waits_for_file(), "there is an answer");
    // More than it keeps: the rest is lost, counted, and told in the file when there is one.
    stage.send(1000);
    stage.output.flush();
    stage.tick();
    let lost = stage.output.report().lost;
    assert!(lost > 0);
    let said = stage.notices.iter().filter(|n| n.contains("No space left")).count();
    assert_eq!(said, 1, "{:?}", stage.notices);
    // The next try is due after a second, and not before.
    assert!(!stage.output.wants_file());
    std::thread::sleep(Duration::from_millis(1050));
    stage.tick();
    assert!(stage.output.wants_file());
    let file = tempfile::tempfile().unwrap();
    stage.files.push(file.try_clone().unwrap());
    stage.output.give_file(Ok(file.into()));
    let files = stage.end();
    let said = stage.notices.iter().filter(|n| n.contains("No space left") && n.contains("trying again")).count();
    assert_eq!(said, 1, "{:?}", stage.notices);
    let report = stage.output.report();
    assert_eq!((report.written + report.lost, report.lost), (1100, lost));
    let gaps: Vec<&J> = files.iter().flatten().filter(|l| l["event.name"] == "ecapture.sink.gap").collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0]["ecapture.lost"], lost);
}

#[test]
fn on_a_full_disk_there_are_never_more_than_two_files_open() {
    let full = std::fs::File::options().read(true).write(true).open("/dev/full").unwrap();
    let mut stage = Stage::on(full, Some(32 << 10), None);
    for _ in 0..50 {
        stage.send(40);
        stage.output.flush();
        if stage.output.wants_file() {
            let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
            stage.files.push(full.try_clone().unwrap());
            stage.output.give_file(Ok(full.into()));
        }
        stage.tick();
    }
    assert!(stage.files.len() <= 2, "{} files", stage.files.len());
    stage.output.finish(Instant::now());
    stage.tick();
    let report = stage.output.report();
    assert_eq!((report.written, report.lost), (0, 2000));
    assert_eq!(report.lost_by_module, [("mysql".to_owned(), 2000)]);
    let told = stage.notices.iter().filter(|n| n.contains("trying again")).count();
    assert!(told <= 2, "{:?}", stage.notices);
}

#[test]
fn by_time_only_a_file_with_events_is_ended() {
    let mut stage = Stage::new(None, Some(Duration::from_millis(50)));
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(30));
        stage.serve();
    }
    assert_eq!(stage.files.len(), 1, "nothing has happened");
    stage.send(3);
    std::thread::sleep(Duration::from_millis(60));
    stage.serve();
    // It is whole although nothing follows, and the next one is begun by the next event.
    let whole = lines(&stage.files[0]);
    assert_eq!(whole.last().unwrap()["event.name"], "ecapture.session.continued");
    std::thread::sleep(Duration::from_millis(60));
    stage.serve();
    assert_eq!(stage.files.len(), 1);
    stage.send(2);
    stage.serve();
    assert_eq!(stage.files.len(), 2);
    let files = stage.end();
    stage.check(&files, 0..5);
}

#[test]
fn at_the_end_there_is_a_last_file_even_without_events() {
    let mut stage = Stage::new(None, Some(Duration::from_millis(10)));
    stage.send(1);
    std::thread::sleep(Duration::from_millis(20));
    stage.serve();
    let files = stage.end();
    assert_eq!(files.len(), 2);
    stage.check(&files, 0..1);
}
