//! Where events go, and what happens when they cannot.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::time::Duration;

use ecapture_tests::capture::{Capture, Modules};
use ecapture_tests::disk::Tiny;
use ecapture_tests::mariadb::{Mariadb, SERVER};
use ecapture_tests::mysql::Client;
use ecapture_tests::{needs, skip_if};

struct Setting {
    server: Mariadb,
    modules: Modules,
    pid: String,
}

impl Setting {
    fn new() -> Self {
        let server = Mariadb::start();
        let pid = server.pid().to_string();
        Self { server, modules: Modules::with(&["mysql"]), pid }
    }

    fn capture(&self, more: &[&str]) -> Capture {
        let args = [&["mysql", "--pid", &self.pid][..], more].concat();
        Capture::start(&self.modules, &args)
    }

    fn say(&self, statements: u32) {
        let mut client = Client::connect(&self.server.socket()).unwrap();
        for number in 0..statements {
            client.query(format!("select {number}").as_bytes()).unwrap();
        }
    }
}

#[test]
fn a_file_is_private_and_whole_and_links_are_refused() {
    skip_if!(
        "a_file_is_private_and_whole_and_links_are_refused",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let setting = Setting::new();
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("out"), dir.path().join("link"));
    let path = file.to_str().unwrap();
    let capture = setting.capture(&["-o", "json", "-w", path, "-w", "-"]);
    setting.say(3);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert_eq!(finished.named("mysql.query").count(), 3);
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines, finished.events, "the file and stdout");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    symlink(&file, &link).unwrap();
    let refused = setting.modules.run(&["mysql", "--pid", &setting.pid, "-w", link.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("E-OUTPUT") && said.contains("symbolic link"), "{said}");
}

#[test]
fn every_format_shows_the_statement() {
    skip_if!("every_format_shows_the_statement", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let setting = Setting::new();
    for (format, shown) in [
        ("text", "query ok 1 rows"),
        ("hex", "73 65 6c 65 63 74"),
        ("json", "\"db.query.text\":\"select 0\""),
        ("none", ""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("out");
        let capture = setting.capture(&["-o", format, "-w", file.to_str().unwrap()]);
        setting.say(1);
        // A server answers before it is done with a statement, and what is not done is shown as running.
        std::thread::sleep(Duration::from_millis(500));
        let finished = capture.stop();
        assert_eq!(finished.code, Some(0), "{format}: {}", finished.said);
        assert!(finished.said.contains("1 event from"), "{format}: {}", finished.said);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(shown), "{format}: {text}");
        assert_eq!(text.is_empty(), format == "none", "{format}: {text}");
    }
}

#[test]
fn a_reader_that_goes_ends_the_run_without_an_error() {
    skip_if!(
        "a_reader_that_goes_ends_the_run_without_an_error",
        needs::capture(),
        needs::program(SERVER, "mariadb-server-core")
    );
    let setting = Setting::new();
    let mut process = setting
        .modules
        .ecapture()
        .args(["mysql", "--pid", &setting.pid, "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(process.stdout.take().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    assert!(first.contains("ecapture.session.start"), "{first}");
    drop(reader);
    // It notices when it writes.
    let status = loop {
        setting.say(1);
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_full_disk_is_said_and_counted() {
    skip_if!("a_full_disk_is_said_and_counted", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let setting = Setting::new();
    let capture = setting.capture(&["-o", "json", "-w", "/dev/full", "-w", "-"]);
    setting.say(100);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(1), "{}", finished.said);
    assert!(finished.said.contains("/dev/full") && finished.said.contains("No space left"), "{}", finished.said);
    assert!(finished.said.contains("E-OUTPUT"), "{}", finished.said);
    // The other output has everything.
    assert_eq!(finished.named("mysql.query").count(), 100);
    assert_eq!(finished.named("ecapture.session.end").count(), 1);
}

#[test]
fn a_file_system_that_fills_up_keeps_whole_lines_and_the_rest_is_counted() {
    let name = "a_file_system_that_fills_up_keeps_whole_lines_and_the_rest_is_counted";
    skip_if!(name, needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let tiny = Tiny::mount("256k");
    skip_if!(name, tiny.as_ref().err().cloned());
    let tiny = tiny.unwrap();
    let setting = Setting::new();
    let file = tiny.path().join("out");
    let capture = setting.capture(&["-o", "json", "-w", file.to_str().unwrap(), "-w", "-"]);
    setting.say(12_000);
    let finished = capture.stop();
    assert_eq!(finished.code, Some(1), "{}", finished.said);
    assert!(finished.said.contains("No space left") && finished.said.contains("E-OUTPUT"), "{}", finished.said);
    // The other output has everything, and says how much the full one has not.
    assert_eq!(finished.named("mysql.query").count(), 12_000);
    let totals = &finished.end()["ecapture.session.modules"][0];
    assert_eq!(totals["events"], 12_000, "{totals}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.ends_with('\n'), "half a line at the end: {:?}", text.lines().last());
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["event.name"], "ecapture.session.start");
    let written = lines.iter().filter(|e| e["event.name"] == "mysql.query").count() as u64;
    assert!(written > 0);
    // What is said to stderr after the outputs are closed is all there is to say.
    assert_eq!(lost_at_the_end(&finished.said) + written, 12_000, "{}", finished.said);
}

/// The number in "E-OUTPUT: N events could not be written".
fn lost_at_the_end(said: &str) -> u64 {
    let line = said.lines().find(|l| l.contains("events could not be written")).unwrap_or_else(|| panic!("{said}"));
    let before = line.split(" events could").next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn a_run_ends_by_count_and_by_time() {
    skip_if!("a_run_ends_by_count_and_by_time", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let setting = Setting::new();
    let capture = setting.capture(&["-o", "json", "--count", "5"]);
    setting.say(20);
    let finished = capture.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert_eq!(finished.named("mysql.query").count(), 5);

    let capture = setting.capture(&["-o", "json", "--duration", "300ms"]);
    let finished = capture.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.said);
    assert_eq!(finished.events.len(), 2, "first and last line");
}

#[test]
fn quiet_is_quiet() {
    skip_if!("quiet_is_quiet", needs::capture(), needs::program(SERVER, "mariadb-server-core"));
    let setting = Setting::new();
    let output = setting.modules.run(&["mysql", "--pid", &setting.pid, "-q", "--duration", "300ms"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
